package intake

import (
	"context"
	"io"
	"tidegate/policy/refusal"
	"time"
)

// A source that brings less than pieceBytes in patience is given up.
const (
	pieceBytes = 64 << 10
	patience   = 30 * time.Second
)

// A patient reads a source that may never answer. The reads happen in a goroutine of their
// own, so that one that hangs in the kernel can be left behind: it holds no lock, no
// transaction and 64 KiB, and ends when the source does.
type patient struct {
	ctx   context.Context
	src   io.ReadCloser
	read  chan piece    // from the reading goroutine
	again chan struct{} // asks for the next piece
	end   chan struct{} // closed: no more

	closed chan struct{} // the source is closed
	rest   []byte
	err    error         // that came with rest
	dead   error         // given up
	got    int           // bytes and time of waiting since the last 64 KiB
	waits  time.Duration //
}

type piece struct {
	b   []byte
	err error
}

// newPatient starts to read src.
func newPatient(ctx context.Context, src io.ReadCloser) *patient {
	p := &patient{
		ctx: ctx, src: src,
		read: make(chan piece), again: make(chan struct{}), end: make(chan struct{}), closed: make(chan struct{}),
	}
	go p.pump()
	return p
}

func (p *patient) pump() {
	defer close(p.closed)
	defer p.src.Close() //nolint:errcheck // only read
	buf := make([]byte, pieceBytes)
	for {
		n, err := p.src.Read(buf)
		select {
		case p.read <- piece{buf[:n], err}:
		case <-p.end:
			return
		}
		select {
		case <-p.again:
		case <-p.end:
			return
		}
	}
}

func (p *patient) Read(b []byte) (int, error) {
	for len(p.rest) == 0 && p.err == nil {
		if p.dead == nil {
			p.dead = p.next()
		}
		if p.dead != nil {
			return 0, p.dead
		}
	}
	if len(p.rest) > 0 {
		n := copy(b, p.rest)
		p.rest = p.rest[n:]
		if len(p.rest) == 0 && p.err == nil {
			p.want()
		}
		return n, nil
	}
	err := p.err
	if err != io.EOF {
		p.err = nil // a source may go on after an interruption
		p.want()
	}
	return 0, err
}

// want lets the reading goroutine go on: its buffer is free.
func (p *patient) want() {
	select {
	case p.again <- struct{}{}:
	case <-p.end:
	}
}

// next waits for the next piece. Only waiting counts as slowness of the source, not the
// time that its reader takes.
func (p *patient) next() error {
	began := time.Now()
	timer := time.NewTimer(patience - p.waits)
	defer timer.Stop()
	select {
	case got := <-p.read:
		p.rest, p.err = got.b, got.err
		if len(p.rest) == 0 && p.err == nil {
			p.want()
		}
		p.waits += time.Since(began)
		if p.got += len(got.b); p.got >= pieceBytes {
			p.got, p.waits = 0, 0
		}
		return nil
	case <-timer.C:
		return refusal.New(refusal.MediaSlow, "less than %d KiB in %s", pieceBytes>>10, patience).
			WithHint("try another stick or another port")
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// Close ends the reading and waits until the source is closed, so that its medium can be
// unmounted. A read that hangs for longer than a second is left behind.
func (p *patient) Close() {
	close(p.end)
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-p.closed:
	case <-timer.C:
	}
}
