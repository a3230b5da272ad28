package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// A clientConn is one HTTP/1.1 connection to a backend. It belongs to one call from get
// to the Close of the response's body, and holds buffers only that long.
type clientConn struct {
	client *Client
	nc     net.Conn
	sock   socket
	plain  bool      // what is readable is HTTP, not TLS
	reused bool      // has served a call
	born   time.Time // dialed
	since  time.Time // in the pool since

	in            *block
	n             int // bytes in it
	looked        int // of them, by readHead
	seen, interim int // where readHead goes on; interim responses skipped
	out           *block
	outN          int
	vec           [2][]byte
	bufs          net.Buffers
	head          responseHead
	body          body
	resp          []Response // to be handed out, each once
	ready         bool       // head is the final one, body has begun
	keep          bool       // fit for another call when the body has ended
	sent          bool
	until         bool // a read deadline is set
	stall         time.Duration
	turn          func(fd uintptr) bool // visit's, made once
	turned        error                 // what it met
	one           [1]byte

	ctx         context.Context
	life        *lifeline
	stop        func() bool
	interrupted atomic.Bool
}

func newClientConn(c *Client, nc net.Conn) *clientConn {
	cc := &clientConn{client: c, nc: nc, born: time.Now()}
	raw := nc
	cc.plain = true
	for { // TLS, perhaps within TLS to a proxy
		t, ok := raw.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		raw, cc.plain = t.NetConn(), false
	}
	cc.sock.open(raw)
	return cc
}

// fresh reports whether a kept connection may be used: it is young, still open, and
// nobody has sent anything unasked.
func (cc *clientConn) fresh(age time.Duration) bool {
	return !cc.reused || time.Since(cc.since) <= age && !cc.sock.readable()
}

// interrupt ends what the connection waits for.
func (cc *clientConn) interrupt() {
	cc.interrupted.Store(true)
	_ = cc.nc.SetDeadline(past)
}

func (c *Client) do(ctx context.Context, r *Request) (*Response, error) {
	if c.h2 != nil {
		return c.h2.do(ctx, r)
	}
	if err := r.check(); err != nil {
		return nil, &TryError{Stage: StageWrite, Err: err}
	}
	var cc *clientConn
	fresh := false
	for err := error(nil); !fresh; {
		if cc, err = c.get(ctx, r.Body == nil); err != nil {
			return nil, err
		}
		if err = cc.begin(ctx, r); err != nil {
			return nil, err
		}
		if r.Body == nil && cc.quick() {
			fresh, err = cc.visit(r)
		} else {
			fresh, err = true, cc.send(r)
		}
		if !fresh {
			cc.drop()
		} else if err != nil && !cc.answered(r, err) {
			cc.drop()
			return nil, err
		} else if err != nil {
			return cc.respond(r)
		}
	}
	if cc.ready {
		return cc.respond(r)
	}
	c.pool.buffers.give(cc.out) // not held while the backend thinks
	cc.out = nil
	if cc.n == 0 {
		cc.limit(r)
	}
	if err := cc.receive(r); err != nil {
		err = cc.fault(StageResponse, err)
		cc.drop()
		return nil, err
	}
	return cc.respond(r)
}

// begin makes cc work for one call. After an error cc is gone.
func (cc *clientConn) begin(ctx context.Context, r *Request) error {
	if !cc.attach(ctx) {
		cc.drop()
		return &TryError{Stage: StageWait, Err: context.Cause(ctx)}
	}
	cc.sent, cc.ready, cc.keep, cc.stall = false, false, true, r.Stall
	return nil
}

// limit bounds the time until the response's head.
func (cc *clientConn) limit(r *Request) {
	if r.Timeout > 0 {
		_ = cc.nc.SetReadDeadline(time.Now().Add(r.Timeout))
		cc.until = true
	} else if cc.until {
		_ = cc.nc.SetReadDeadline(time.Time{})
		cc.until = false
	}
	cc.keepInterrupt()
}

// keepInterrupt is called after a deadline was set: that of an interruption is the one that counts.
func (cc *clientConn) keepInterrupt() {
	if cc.interrupted.Load() {
		_ = cc.nc.SetReadDeadline(past)
	}
}

// attach makes the end of ctx interrupt the connection. It reports false when the end
// has come.
func (cc *clientConn) attach(ctx context.Context) bool {
	cc.ctx = ctx
	if l, ok := ctx.(*lifeline); ok {
		if l.hold(cc) {
			cc.life = l
			return true
		}
	}
	if ctx.Done() == nil {
		return true
	}
	if ctx.Err() != nil {
		return false
	}
	cc.stop = context.AfterFunc(ctx, cc.interrupt)
	return true
}

// detach undoes attach; after it ctx does not touch the connection.
func (cc *clientConn) detach() {
	if cc.life != nil {
		cc.life.let(cc)
		cc.life = nil
	}
	if cc.stop != nil {
		if !cc.stop() {
			cc.interrupted.Store(true) // runs now, perhaps: the connection is not kept
		}
		cc.stop = nil
	}
	cc.ctx = nil
}

// fault says what err, met at a stage, means.
func (cc *clientConn) fault(stage Stage, err error) error {
	if cc.interrupted.Load() {
		if e := context.Cause(cc.ctx); e != nil {
			err = e
		}
	}
	return &TryError{Stage: stage, Sent: cc.sent, Reused: cc.reused, Got: cc.n > 0, Err: err}
}

// release gives back everything that belongs to the call.
func (cc *clientConn) release() {
	b := &cc.client.pool.buffers
	cc.body.release()
	b.give(cc.in)
	b.give(cc.out)
	cc.in, cc.out, cc.n, cc.outN = nil, nil, 0, 0
	cc.looked, cc.seen, cc.interim = 0, 0, 0
	clear(cc.head.header)
}

// drop ends the call and the connection.
func (cc *clientConn) drop() {
	cc.detach()
	cc.release()
	cc.nc.Close()
	cc.client.free()
}

// receive reads response heads until the final one.
func (cc *clientConn) receive(r *Request) error {
	for !cc.ready {
		if cc.n == cc.looked {
			if err := cc.readMore(); err != nil {
				return err
			}
		}
		if err := cc.readHead(r); err != nil {
			return err
		}
		cc.looked = cc.n
	}
	return nil
}

// readHead looks at what has come: it skips interim responses and begins the body when the
// final head is whole.
func (cc *clientConn) readHead(r *Request) error {
	for {
		end, next, why := headEnd(cc.in.b[:cc.n], cc.seen)
		if why != nil {
			return badResponse(why.reason)
		}
		if end == 0 {
			cc.seen = next
			return nil
		}
		cc.seen = 0
		if err := parseResponse(cc.in.b[:end], &cc.head); err != nil {
			return err
		}
		h := &cc.head
		if h.status >= 200 || h.status == 101 {
			if h.status == 101 && (r.Upgrade == "" || !h.upgrade) {
				return badResponse("101 that was not asked for")
			}
			how, length := h.end(r.Method)
			cc.body.begin(cc, &cc.client.pool.buffers, cc.in.b, end, cc.n, how, length)
			cc.ready = true
			return nil
		}
		if cc.interim++; cc.interim > 8 {
			return badResponse("too many interim responses")
		}
		cc.n = copy(cc.in.b, cc.in.b[end:cc.n])
	}
}

// readMore reads once, behind what has come of the head.
func (cc *clientConn) readMore() error {
	if cc.in == nil {
		cc.in = cc.client.pool.buffers.take(smallBlock)
	}
	if cc.n >= cc.client.target.HeaderBytes {
		return badResponse("head is too long")
	}
	if cc.n == len(cc.in.b) {
		bigger := cc.client.pool.buffers.take(min(4*len(cc.in.b), cc.client.target.HeaderBytes))
		copy(bigger.b, cc.in.b[:cc.n])
		cc.client.pool.buffers.give(cc.in)
		cc.in = bigger
	}
	n, err := cc.nc.Read(cc.in.b[cc.n:])
	cc.n += n
	if n > 0 {
		return nil
	}
	if err == io.EOF && cc.n > 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// respond makes the Response of what receive has read.
func (cc *clientConn) respond(r *Request) (*Response, error) {
	h := &cc.head
	cc.keep = cc.keep && !h.close && cc.body.end != endClose
	if len(cc.resp) == 0 {
		cc.resp = make([]Response, responses)
	}
	resp := &cc.resp[0]
	cc.resp = cc.resp[1:]
	*resp = Response{Status: h.status, Header: h.header, own: responseBody{cc}}
	resp.Body = &resp.own
	switch {
	case h.status == 101:
		cc.keep = false
		if cc.until {
			_ = cc.nc.SetReadDeadline(time.Time{})
			cc.until = false
		}
		early := append([]byte(nil), cc.body.area[cc.body.r:cc.body.w]...)
		resp.Upgraded = &upgraded{cc.nc, early}
	case cc.body.end == endNone:
		// HEAD tells the length of what it does not send; 304 may.
		if r.Method == "HEAD" && h.status != 204 || h.status == 304 {
			resp.Length = h.length
		}
		if h.status == 304 && h.length < 0 {
			resp.Length = 0
		}
		if cc.body.w > cc.body.r {
			cc.keep = false // more than the answer: whose would it be?
		}
	default:
		resp.Length = h.length
		if cc.stall == 0 && cc.until && (cc.body.end != endLength || cc.body.left > int64(cc.body.buffered())) {
			_ = cc.nc.SetReadDeadline(time.Time{})
			cc.until = false
		}
	}
	return resp, nil
}

// fill reads body bytes for the body reader.
func (cc *clientConn) fill(p []byte) (int, error) {
	cc.stalls()
	n, err := cc.nc.Read(p)
	if n > 0 {
		return n, nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return 0, cc.cause(err)
}

// fillTube is fill for a tube.
func (cc *clientConn) fillTube(from syscall.RawConn, t *tube) error {
	cc.stalls()
	err := from.Read(t.in)
	if err == nil {
		err = t.err
	}
	if err != nil {
		return cc.cause(err)
	}
	return nil
}

// stalls begins the time in which the backend must send something.
func (cc *clientConn) stalls() {
	if cc.stall > 0 {
		_ = cc.nc.SetReadDeadline(time.Now().Add(cc.stall))
		cc.until = true
		cc.keepInterrupt()
	}
}

// cause returns why a read ended: the caller may have ended it.
func (cc *clientConn) cause(err error) error {
	if cc.interrupted.Load() {
		if e := context.Cause(cc.ctx); e != nil {
			return e
		}
	}
	return err
}

// responses is how many Responses are made at once. Each is handed out once: a caller that
// closes one twice, or looks at it late, cannot reach the next call on the connection.
const responses = 8

// A responseBody is the body of a response; cc is nil after Close.
type responseBody struct{ cc *clientConn }

var errBodyClosed = errors.New("response body is closed")

func (b *responseBody) Read(p []byte) (int, error) {
	if b.cc == nil {
		return 0, errBodyClosed
	}
	return b.cc.body.Read(p)
}

// Close ends the call: the connection is kept if the body was read to its end or what is left of
// it has already come.
func (b *responseBody) Close() error {
	cc := b.cc
	if cc == nil {
		return nil
	}
	b.cc = nil
	for !cc.body.done() && cc.keep && cc.body.buffered() > 0 {
		if _, err := cc.body.piece(largeBlock); err != nil {
			break
		}
	}
	keep := cc.keep && cc.body.done() && cc.body.buffered() == 0
	cc.detach()
	if !keep || cc.interrupted.Load() {
		cc.drop()
		return nil
	}
	cc.release()
	cc.client.put(cc)
	return nil
}

// upgraded is a connection after a 101.
type upgraded struct {
	nc    net.Conn
	early []byte
}

func (u *upgraded) Read(p []byte) (int, error) {
	if len(u.early) > 0 {
		n := copy(p, u.early)
		u.early = u.early[n:]
		return n, nil
	}
	return u.nc.Read(p)
}

func (u *upgraded) Write(p []byte) (int, error) { return u.nc.Write(p) }

// Close closes the connection; the response's body must be closed as well.
func (u *upgraded) Close() error { return u.nc.Close() }
