package pipe

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// ErrPacket says that the broker sent a packet that no broker needs to send.
var ErrPacket = errors.New("packet larger than any that is expected")

// errGone says that the connection was closed on this side, by whomever.
var errGone = errors.New("connection is gone")

const writeStall = 60 * time.Second

// A paced connection keeps to the caps in bytes a second, pays from the meter, and has a deadline
// on each read and write. Several may share one allowance.
type paced struct {
	net.Conn
	*allowance
	idle time.Duration // longest wait for a byte
}

// An allowance is what the connections of one link may use together.
type allowance struct {
	rates    [2]bucket // bytes up and down
	meter    Meter
	up, down atomic.Int64
	why      atomic.Pointer[error] // why we ended a connection
}

func newAllowance(o Options) *allowance {
	a := &allowance{meter: o.Meter}
	a.rates[0].set(o.Up, max(o.Up/4, 2048))
	a.rates[1].set(o.Down, max(o.Down/4, 2048))
	return a
}

// Read reads what the other end sent.
func (p *paced) Read(b []byte) (int, error) {
	if p.rates[1].rate > 0 && int64(len(b)) > p.rates[1].depth {
		b = b[:p.rates[1].depth]
	}
	if err := p.SetReadDeadline(time.Now().Add(p.idle)); err != nil {
		return 0, err
	}
	n, err := p.Conn.Read(b)
	if n == 0 {
		return 0, err
	}
	p.down.Add(int64(n))
	if e := p.spend(n); e != nil {
		return 0, p.fail(e)
	}
	p.rates[1].take(int64(n))
	return n, err
}

// Write sends b within a minute for each piece of it, so that a stalled link is found.
func (p *paced) Write(b []byte) (int, error) {
	sent := 0
	for sent < len(b) {
		part := b[sent:]
		if limit := p.rates[0].depth; p.rates[0].rate > 0 && int64(len(part)) > limit {
			part = part[:limit]
		}
		if err := p.spend(len(part)); err != nil {
			return sent, p.fail(err)
		}
		p.rates[0].take(int64(len(part)))
		if err := p.SetWriteDeadline(time.Now().Add(writeStall)); err != nil {
			return sent, err
		}
		n, err := p.Conn.Write(part)
		p.up.Add(int64(n))
		sent += n
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

func (p *paced) spend(n int) error {
	if p.meter == nil {
		return nil
	}
	return p.meter.Spend(n)
}

func (p *paced) fail(err error) error {
	p.why.CompareAndSwap(nil, &err)
	_ = p.Conn.Close()
	return err
}

// A guard is a connection to a broker that may be hostile. It follows the packets in the
// stream by their fixed headers (MQTT 3.1.1 section 2.2) and ends the connection at one that
// is too large, before anything of its body is read or allocated.
type guard struct {
	net.Conn
	line *paced // below TLS
	pace bucket // packets

	// The rest belongs to the goroutine that reads.
	body   int // bytes left of the packet
	head   int // bytes of the fixed header read so far
	length int
	shift  uint
}

func newGuard(c net.Conn, line *paced, o Options) *guard {
	pace := o.Pace
	if pace == 0 {
		pace = 2000
	}
	g := &guard{Conn: c, line: line}
	g.pace.set(int64(pace), int64(pace))
	return g
}

// Read reads what the broker sent.
func (g *guard) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if e := g.follow(b[:n]); e != nil {
		return 0, g.line.fail(e)
	}
	if errors.Is(err, net.ErrClosed) {
		err = errGone // the client takes the other for an end in order, by its text, and says nothing
	}
	return n, err
}

// follow walks the packets in b.
func (g *guard) follow(b []byte) error {
	for len(b) > 0 {
		if g.body > 0 {
			n := min(g.body, len(b))
			g.body -= n
			b = b[n:]
			continue
		}
		c := b[0]
		b = b[1:]
		if g.head == 0 { // type and flags
			g.pace.take(1)
			g.head, g.length, g.shift = 1, 0, 0
			continue
		}
		g.length |= int(c&0x7f) << g.shift
		g.shift += 7
		g.head++
		switch {
		case g.length > MaxPacket || g.head == 5 && c&0x80 != 0:
			return fmt.Errorf("%w: %d bytes or more, at most %d are expected", ErrPacket, g.length, MaxPacket)
		case c&0x80 == 0:
			g.body, g.head = g.length, 0
		}
	}
	return nil
}

// A bucket lets rate units a second pass, depth at once. Rate 0 lets all pass.
type bucket struct {
	mu          sync.Mutex
	rate, depth int64
	left        float64
	last        time.Time
}

func (b *bucket) set(rate, depth int64) {
	b.rate, b.depth, b.left = rate, depth, float64(depth)
}

// take takes n units and waits for them where it must.
func (b *bucket) take(n int64) {
	if b.rate <= 0 {
		return
	}
	b.mu.Lock()
	now := time.Now()
	if !b.last.IsZero() {
		b.left = min(b.left+now.Sub(b.last).Seconds()*float64(b.rate), float64(b.depth))
	}
	b.last = now
	b.left -= float64(n)
	wait := time.Duration(-b.left / float64(b.rate) * float64(time.Second))
	b.mu.Unlock()
	if wait > 0 {
		time.Sleep(wait)
	}
}
