package mqttsync

import (
	"context"
	"errors"
	"math/bits"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/trust"
	"time"
)

const (
	block      = message.MinPiece // pieces are 1, 2, 4, 8 or 16 blocks
	mostWindow = 4                // pieces in flight
	firstWait  = 20 * time.Second // for a piece, before anything is known of the link
	leastWait  = 2 * time.Second
	mostWait   = 3 * time.Minute
	stalled    = 15 * time.Minute
)

// errStalled says that no piece has come for a long time.
var errStalled = errors.New("no piece has come for 15 minutes")

// A getter asks for pieces. It begins carefully, asks for more at a time while they come, and
// for fewer and smaller ones when they do not (additive increase, multiplicative decrease).
// Only pieces that were asked for and are new count; all others are dropped.
type getter struct {
	s      *session
	digest trust.Digest
	token  message.Token

	parts  []*part // wanted, in order
	flying map[place]asked
	piece  int // bytes
	window int
	clean  int // pieces in a row that came in time
	srtt   time.Duration
	rate   float64 // bytes/s, smoothed
	last   time.Time
}

// A part is wanted in blocks: set bits are here or asked for.
type part struct {
	number, size int
	asked, have  []uint64
	left         int // blocks not here
}

type place struct{ part, off int }

type asked struct {
	n    int
	at   time.Time
	part *part
}

func newGetter(pieceBytes int, d trust.Digest) *getter {
	return &getter{
		digest: d, token: message.NewToken(), flying: map[place]asked{}, window: 1,
		piece: 1 << (bits.Len(uint(max(pieceBytes, block))) - 1), //nolint:gosec // positive
	}
}

// resume goes on over a new connection: what was in flight is asked for again.
func (g *getter) resume(s *session) {
	g.s = s
	for at, a := range g.flying {
		a.part.clear(at.off, a.n)
	}
	clear(g.flying)
	g.window, g.clean = 1, 0
}

// want adds a part of size bytes.
func (g *getter) want(number, size int) {
	blocks := (size + block - 1) / block
	words := (blocks + 63) / 64
	g.parts = append(g.parts, &part{number: number, size: size, left: blocks, asked: make([]uint64, words), have: make([]uint64, words)})
}

// run asks for all that is wanted and hands it to put, in any order.
func (g *getter) run(ctx context.Context, put func(part, off int, data []byte) error) error {
	g.last = time.Now()
	for {
		if err := g.ask(ctx); err != nil {
			return err
		}
		if len(g.flying) == 0 {
			return nil // nothing is wanted any more
		}
		timer := time.NewTimer(time.Until(g.due()))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case p := <-g.s.pieces:
			timer.Stop()
			if err := g.take(p, put); err != nil {
				return err
			}
		case <-timer.C:
			if err := g.late(time.Now()); err != nil {
				return err
			}
		}
	}
}

// ask fills the window, several pieces of one part in one message.
func (g *getter) ask(ctx context.Context) error {
	for len(g.flying) < g.window {
		for len(g.parts) > 0 && g.parts[0].left == 0 {
			g.parts = g.parts[1:]
		}
		var of *part
		var numbers []uint64
		now := time.Now()
		for _, p := range g.parts {
			for len(g.flying) < g.window && len(numbers) < message.MaxPieces {
				off, ok := p.next(g.piece)
				if !ok {
					break
				}
				n := min(g.piece, p.size-off)
				p.mark(p.asked, off, n)
				g.flying[place{p.number, off}] = asked{n: n, at: now, part: p}
				numbers = append(numbers, uint64(off/g.piece)) //nolint:gosec // not negative
			}
			if len(numbers) > 0 {
				of = p
				break
			}
		}
		if of == nil {
			return nil
		}
		err := g.s.sendUnsigned(ctx, &message.Get{Digest: g.digest, Token: g.token, Part: uint64(of.number), Size: uint64(g.piece), Pieces: numbers}) //nolint:gosec // not negative
		if err != nil {
			return err
		}
	}
	return nil
}

// due is when the oldest piece is late.
func (g *getter) due() time.Time {
	var oldest time.Time
	for _, a := range g.flying {
		if oldest.IsZero() || a.at.Before(oldest) {
			oldest = a.at
		}
	}
	return oldest.Add(g.patience())
}

// patience is how long a piece may take.
func (g *getter) patience() time.Duration {
	if g.srtt == 0 {
		return firstWait
	}
	return min(max(4*g.srtt+time.Duration(float64(g.piece)/g.rate*float64(time.Second)), leastWait), mostWait)
}

// take puts a piece that was asked for.
func (g *getter) take(p *message.Piece, put func(part, off int, data []byte) error) error {
	if p.Token != g.token || p.Digest != g.digest || p.Part > 1<<20 || p.Offset > message.MaxObject {
		g.s.c.drop("piece-unasked")
		return nil
	}
	at := place{int(p.Part), int(p.Offset)} //nolint:gosec // bounded above
	a, ok := g.flying[at]
	if !ok || len(p.Data) != a.n {
		g.s.c.drop("piece-unasked")
		return nil
	}
	delete(g.flying, at)
	g.measure(time.Since(a.at), a.n)
	g.last = time.Now()
	a.part.left -= a.part.mark(a.part.have, at.off, a.n)
	return put(at.part, at.off, p.Data)
}

// measure smooths round trip and bandwidth as TCP does (RFC 6298), and opens the window after
// two of it came whole.
func (g *getter) measure(took time.Duration, n int) {
	took = max(took, time.Millisecond)
	rate := float64(n) / took.Seconds()
	if g.srtt == 0 {
		g.srtt, g.rate = took, rate
	}
	g.srtt += (took - g.srtt) / 8
	g.rate += (rate - g.rate) / 8
	if g.clean++; g.clean >= 2*g.window {
		g.clean = 0
		g.window = min(g.window+1, mostWindow)
	}
}

// late gives up the pieces that took too long; they will be asked for again.
func (g *getter) late(now time.Time) error {
	if now.Sub(g.last) >= stalled {
		return errStalled
	}
	patience := g.patience()
	any := false
	for at, a := range g.flying {
		if now.Sub(a.at) >= patience {
			delete(g.flying, at)
			a.part.clear(at.off, a.n)
			any = true
		}
	}
	if !any {
		return nil
	}
	g.clean = 0
	g.srtt = min(max(2*g.srtt, leastWait), mostWait/4)
	if g.rate == 0 {
		g.rate = 1000
	}
	g.rate = max(g.rate/2, 100)
	if g.window > 1 {
		g.window /= 2
	} else if g.piece > block {
		g.piece /= 2
	}
	return nil
}

// next returns the offset of a run of n bytes, aligned to n, in which nothing was asked for.
func (p *part) next(n int) (off int, ok bool) {
	for off = 0; off < p.size; off += n {
		free := true
		for b := off / block; b < (min(off+n, p.size)+block-1)/block; b++ {
			if p.asked[b/64]&(1<<(b%64)) != 0 {
				free = false
				break
			}
		}
		if free {
			return off, true
		}
	}
	return 0, false
}

// mark sets the bits of a run and returns how many were not set.
func (p *part) mark(set []uint64, off, n int) (news int) {
	for b := off / block; b < (off+n+block-1)/block; b++ {
		if set[b/64]&(1<<(b%64)) == 0 {
			set[b/64] |= 1 << (b % 64)
			news++
		}
	}
	return news
}

func (p *part) clear(off, n int) {
	for b := off / block; b < (off+n+block-1)/block; b++ {
		p.asked[b/64] &^= 1 << (b % 64)
	}
}
