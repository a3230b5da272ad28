package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"
)

// Phases of a connection. The watch judges a connection by its phase; see watch.go.
const (
	phaseIdle   = iota // waits for another request; holds no buffer
	phaseNew           // waits for the first request
	phaseHead          // reads a head
	phaseBody          // reads a request body
	phaseWork          // the handler works
	phaseWrite         // writes to the client
	phaseTunnel        // upgraded
	phaseH2            // net/http's
	phaseDead          // taken by the watch or by Shutdown
)

// A conn is one HTTP/1.1 connection of a client. While it is idle it is all that is held
// for the client, beside a goroutine.
type conn struct {
	srv     *Server
	nc      net.Conn
	peer    netip.AddrPort
	trusted bool
	tls     *tls.ConnectionState
	life    lifeline
	sock    socket
	phase   atomic.Uint64 // phase<<phaseShift | tick of its deadline

	// plain: bytes are read from the socket itself, first into a call that is taken
	// when they are there.
	plain bool
	first func(fd uintptr) bool
	call  *call
	got   int
	err   error
	one   [1]byte // where TLS waits for the first byte

	parts      atomic.Int32 // of a tunnel's end that have happened
	prev, next *conn        // in the server's list
}

// serve answers the connection's requests until one side ends it.
func (c *conn) serve() {
	served := false
	for {
		k := c.await()
		if k == nil {
			c.close()
			return
		}
		for {
			fate := c.exchange(k, served)
			served = true
			if fate == fateKeep && k.pipelined() {
				continue
			}
			c.srv.giveCall(k)
			switch fate {
			case fateTunnel:
				c.part()
				return
			case fateClose:
				c.close()
				return
			}
			break
		}
		if !c.rest() {
			c.close()
			return
		}
	}
}

// close closes the connection and takes it off the server's list.
func (c *conn) close() {
	c.nc.Close()
	c.life.end()
	c.srv.forget(c)
}

// part is called when the handler of a tunnel returns and when the tunnel is closed: the
// connection counts until both have happened.
func (c *conn) part() {
	if c.parts.Add(1) == 2 {
		c.srv.forget(c)
	}
}

// rest makes the connection idle. It reports false when the server is going down.
func (c *conn) rest() bool {
	c.enter(phaseIdle, c.srv.state.idleTicks)
	// Shutdown sets draining first and then takes the idle ones: one of us sees the other.
	return !c.srv.state.draining.Load()
}

// wake ends idleness. It reports false when the connection was taken meanwhile.
func (c *conn) wake() bool {
	for {
		p := c.phase.Load()
		if p>>phaseShift > phaseNew {
			return false
		}
		if c.phase.CompareAndSwap(p, c.srv.mark(phaseWork, 1)) {
			return true
		}
	}
}

// await waits for the first bytes of a request and returns a call that holds them; nil at
// the connection's end.
func (c *conn) await() *call {
	if c.plain {
		if c.first == nil {
			c.first = c.readFirst
		}
		if err := c.sock.raw.Read(c.first); err != nil {
			return nil
		}
		k := c.call
		c.call = nil
		if c.got <= 0 || c.err != nil || !c.wake() {
			c.srv.giveCall(k)
			return nil
		}
		k.n = c.got
		return k
	}
	if n, err := c.nc.Read(c.one[:]); n == 0 || err != nil && n == 0 || !c.wake() {
		return nil
	}
	k := c.srv.takeCall(c)
	k.n = copy(k.in.b, c.one[:])
	return k
}

// readFirst reads without waiting. The call, with its buffer, is taken for the attempt
// and kept only if there was something.
func (c *conn) readFirst(fd uintptr) bool {
	k := c.srv.takeCall(c)
	c.got, c.err = readNow(fd, k.in.b)
	if c.err == syscall.EAGAIN {
		k.c = nil
		c.srv.state.calls.Put(k)
		return false
	}
	c.call = k
	return true
}

// What becomes of a connection after an exchange.
type fate int

const (
	fateKeep fate = iota
	fateClose
	fateTunnel
)

// exchange reads one request, whose beginning k holds, and has it answered.
func (c *conn) exchange(k *call, served bool) fate {
	if served && k.n >= 2 && k.in.b[0] == '\r' && k.in.b[1] == '\n' {
		// One empty line between requests is forgiven (RFC 9112 §2.2).
		k.n = copy(k.in.b, k.in.b[2:k.n])
	}
	end, why := k.readHead()
	if end == 0 && why == nil {
		return fateClose // the client left
	}
	if why == nil {
		if why = parseRequest(k.in.b[:end], &c.srv.state.limits, &k.req); k.req.dropped > 0 {
			c.srv.state.dropped.Add(int64(k.req.dropped))
		}
	}
	if why == nil && c.srv.Admit != nil && !c.srv.Admit() {
		why = errShed
	}
	if why != nil {
		return c.refuse(k, why)
	}
	how := endLength
	if k.req.chunked {
		how = endChunked
	}
	k.body.begin(k, &c.srv.state.buffers, k.in.b, end, k.n, how, k.req.Length)
	k.bodyLimit = c.srv.state.limits.BodyBytes
	c.srv.state.served.Add(1)
	c.run(k)
	return k.finish()
}

var (
	errShed     = &refusal{503, "shedding load"}
	errSlowHead = &refusal{408, "head did not come in time"}
)

// run calls the handler; a panic is logged and ends the connection.
func (c *conn) run(k *call) {
	defer func() {
		if r := recover(); r != nil {
			k.aborted = true
			c.srv.logPanic(r, debug.Stack())
		}
	}()
	c.srv.Handler.Serve(k)
}

// refuse has the Refuser answer a request that is not let through, and ends the
// connection in a way that lets the client read the answer.
func (c *conn) refuse(k *call, why *refusal) fate {
	c.srv.state.refused.Add(1)
	k.lastCall = true
	k.req.Length, k.req.Upgrade, k.req.expect = 0, "", false
	k.body.begin(k, &c.srv.state.buffers, k.in.b, k.n, k.n, endNone, 0)
	c.phase.Store(c.srv.mark(phaseWork, 1))
	func() {
		defer func() {
			if r := recover(); r != nil {
				k.aborted = true
				c.srv.logPanic(r, debug.Stack())
			}
		}()
		if c.srv.Refuser != nil {
			c.srv.Refuser.Refuse(k, why.status, why.reason)
		} else {
			_ = k.Start(why.status, nil, 0)
		}
	}()
	if k.finish() == fateClose && !k.aborted {
		c.linger(k)
	}
	return fateClose
}

// linger reads for a moment what the client still sends: a close with unread bytes would
// reset the connection and could destroy the answer on its way.
func (c *conn) linger(k *call) {
	if w, ok := c.nc.(interface{ CloseWrite() error }); !ok || w.CloseWrite() != nil {
		return
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(lingerTime))
	for left := lingerBytes; left > 0; {
		n, err := c.nc.Read(k.in.b)
		if err != nil {
			return
		}
		left -= n
	}
}

// Bounds of what is read in vain at the end of a connection.
const (
	lingerTime  = time.Second
	lingerBytes = 256 << 10
	drainBytes  = 64 << 10
)

// readHead reads until the head is whole and returns its length. 0 without a reason means
// that the client left.
func (k *call) readHead() (int, *refusal) {
	c, lim := k.c, &k.c.srv.state.limits
	for from, waiting := 0, false; ; {
		end, next, why := headEnd(k.in.b[:k.n], from)
		if why != nil {
			return 0, why
		}
		if end > lim.HeaderBytes || end == 0 && k.n >= lim.HeaderBytes {
			return 0, k.tooLong()
		}
		if end > 0 {
			if waiting {
				c.enter(phaseWork, 1)
			}
			return end, nil
		}
		from = next
		if k.n == len(k.in.b) {
			// Strings are made only when the head is whole: moving it is safe.
			bigger := c.srv.state.buffers.take(max(4*len(k.in.b), lim.HeaderBytes))
			copy(bigger.b, k.in.b[:k.n])
			c.srv.state.buffers.give(k.in)
			k.in = bigger
		}
		if !waiting {
			waiting = true
			c.enter(phaseHead, c.srv.state.headTicks)
		}
		n, err := c.nc.Read(k.in.b[k.n:])
		k.n += n
		switch {
		case n > 0:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return 0, errSlowHead
		default:
			return 0, nil
		}
	}
}

// tooLong tells a long target from long fields.
func (k *call) tooLong() *refusal {
	line := k.in.b[:k.n]
	for i, b := range line {
		if b == '\n' {
			line = line[:i]
			break
		}
	}
	if len(line) > k.c.srv.state.limits.URIBytes {
		return errLongTarget
	}
	return errLongHead
}

// pipelined moves what the client sent behind the finished request to the front and
// reports whether there is any.
func (k *call) pipelined() bool {
	u := k.body.area[k.body.r:k.body.w]
	if len(u) == 0 {
		return false
	}
	in := k.in
	if len(u) > len(in.b) {
		in = k.c.srv.state.buffers.take(len(u))
	}
	n := copy(in.b, u)
	if in != k.in {
		k.c.srv.state.buffers.give(k.in)
	}
	k.body.release()
	k.reset()
	k.in, k.n = in, n
	return true
}

// fill reads body bytes for the body reader, under the limits for slow clients.
func (k *call) fill(p []byte) (int, error) {
	c := k.c
	if k.req.expect {
		k.req.expect = false
		if !k.started {
			if err := c.write([]byte("HTTP/1.1 100 Continue\r\n\r\n")); err != nil {
				return 0, err
			}
		}
	}
	lim := &c.srv.state.limits
	if lim.BodyRate > 0 && k.slow(lim) {
		return 0, errSlowBody
	}
	c.enter(phaseBody, c.srv.state.stallTicks)
	n, err := c.nc.Read(p)
	c.enter(phaseWork, 1)
	k.wireIn += int64(n)
	if n > 0 {
		return n, nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, errSlowBody
	}
	if err == io.EOF || err == nil {
		return 0, io.EOF
	}
	return 0, err
}

// slow reports whether the body has come below the least rate since its first wait.
func (k *call) slow(lim *Limits) bool {
	now := k.c.srv.state.tick.Load()
	if k.bodyFrom == 0 {
		k.bodyFrom = now
		return false
	}
	took := time.Duration(now-k.bodyFrom) * k.c.srv.state.period
	return took > lim.BodyStall && k.wireIn < int64(took.Seconds()*float64(lim.BodyRate))
}

var errSlowBody = &refusal{408, "body came too slowly"}

// write sends p at once, under the limit for clients that do not read.
func (c *conn) write(p []byte) error {
	c.enter(phaseWrite, c.srv.state.writeTicks)
	_, err := c.nc.Write(p)
	c.enter(phaseWork, 1)
	if err != nil {
		c.life.end()
	}
	return err
}

var _ context.Context = (*lifeline)(nil)
