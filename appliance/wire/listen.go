package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// serverState is what a Server keeps for itself.
type serverState struct {
	once    sync.Once
	limits  Limits // with defaults
	buffers buffers
	tubes   tubes
	calls   sync.Pool
	tlsConf *tls.Config
	h2      *h2server

	// The watch's clock, and limits in its ticks.
	period     time.Duration
	tick       atomic.Int64
	headTicks  int64
	idleTicks  int64
	stallTicks int64
	writeTicks int64
	goneTicks  int64
	date       atomic.Pointer[string]
	dateAt     atomic.Int64

	draining atomic.Bool
	stopped  chan struct{} // closed when Shutdown ends
	slots    chan struct{} // one for each connection
	left     chan struct{} // a connection was forgotten; capacity 1

	mu        sync.Mutex
	conns     conn // head of the list
	listeners []net.Listener
	ended     bool

	open, accepted, served, refused, dropped, evicted atomic.Int64
}

func (st *serverState) stats() Stats {
	return Stats{
		Open: st.open.Load(), Accepted: st.accepted.Load(), Calls: st.served.Load(),
		Refused: st.refused.Load(), DroppedFields: st.dropped.Load(), Evicted: st.evicted.Load(),
	}
}

// prepare fills in defaults and starts the watch, once.
func (s *Server) prepare() {
	s.state.once.Do(func() {
		st := &s.state
		l := s.Limits
		orDefault(&l.HeaderBytes, 16<<10)
		orDefault(&l.URIBytes, 8<<10)
		orDefault(&l.HeaderFields, 100)
		orDefault(&l.HeaderTime, 5*time.Second)
		orDefault(&l.IdleTime, 60*time.Second)
		orDefault(&l.BodyStall, 30*time.Second)
		orDefault(&l.WriteStall, 30*time.Second)
		orDefault(&l.Connections, 10_000)
		orDefault(&l.Streams, 32)
		st.limits = l
		st.setPeriod()
		st.setDate(time.Now())
		st.conns.next, st.conns.prev = &st.conns, &st.conns
		st.stopped = make(chan struct{})
		st.slots = make(chan struct{}, l.Connections)
		st.left = make(chan struct{}, 1)
		if s.TLSConfig != nil {
			st.tlsConf = s.TLSConfig.Clone()
			if st.tlsConf.NextProtos == nil {
				st.tlsConf.NextProtos = []string{"h2", "http/1.1"}
			}
			if slices.Contains(st.tlsConf.NextProtos, "h2") {
				st.h2 = newH2Server(s)
			}
		}
		go s.watch()
	})
}

func orDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

func (s *Server) serve(ln net.Listener) error {
	s.prepare()
	st := &s.state
	st.mu.Lock()
	if st.draining.Load() {
		st.mu.Unlock()
		return ln.Close()
	}
	st.listeners = append(st.listeners, ln)
	st.mu.Unlock()
	for wait := time.Duration(0); ; {
		nc, err := ln.Accept()
		if err != nil {
			if st.draining.Load() || errors.Is(err, net.ErrClosed) {
				return nil
			}
			var ne net.Error
			if !errors.As(err, &ne) || !ne.Temporary() { //nolint:staticcheck // the only sign of EMFILE that net gives
				return err
			}
			// Out of descriptors or memory: make room, wait, try again.
			s.evict()
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			s.log().Warn("accept", "err", err, "wait", wait)
			select {
			case <-time.After(wait):
			case <-st.stopped:
				return nil
			}
			continue
		}
		wait = 0
		if !s.admit() {
			nc.Close()
			return nil
		}
		s.take(nc)
	}
}

// admit waits for one of the slots for connections, closing an idle connection if there
// is none. It reports false when the server stops.
func (s *Server) admit() bool {
	select {
	case s.state.slots <- struct{}{}:
		return true
	default:
	}
	// None may be idle now and some a moment later.
	again := time.NewTicker(evictEvery)
	defer again.Stop()
	for {
		s.evict()
		select {
		case s.state.slots <- struct{}{}:
			return true
		case <-s.state.stopped:
			return false
		case <-again.C:
		}
	}
}

// evictEvery is how often a connection that waits for a slot looks for one to close.
const evictEvery = 10 * time.Millisecond

// evict closes the connection that has been idle longest; if none is idle, the oldest one
// that has not sent a request.
func (s *Server) evict() {
	st := &s.state
	var oldest *conn
	at := uint64(phaseHead) << phaseShift // idle ones sort before new ones, each by their deadline
	st.mu.Lock()
	for c := st.conns.next; c != &st.conns; c = c.next {
		if p := c.phase.Load(); p < at {
			oldest, at = c, p
		}
	}
	st.mu.Unlock()
	if oldest != nil && oldest.phase.CompareAndSwap(at, phaseDead<<phaseShift) {
		st.evicted.Add(1)
		oldest.nc.Close()
	}
}

// take starts serving an accepted connection.
func (s *Server) take(nc net.Conn) {
	st := &s.state
	c := &conn{srv: s, nc: nc, peer: addrPort(nc.RemoteAddr())}
	c.trusted = s.Trusted != nil && s.Trusted(c.peer.Addr())
	c.sock.open(nc)
	c.plain = c.sock.raw != nil && st.tlsConf == nil
	c.enter(phaseNew, st.headTicks)
	if st.tlsConf != nil {
		c.enter(phaseHead, st.headTicks)
		c.nc = tls.Server(&hookedConn{nc, func() {
			if c.phase.Load()>>phaseShift != phaseTunnel {
				s.forget(c)
			}
		}}, st.tlsConf)
	}
	st.accepted.Add(1)
	st.open.Add(1)
	st.mu.Lock()
	c.prev, c.next = st.conns.prev, &st.conns
	c.prev.next, c.next.prev = c, c
	st.mu.Unlock()
	if st.draining.Load() {
		c.close()
		return
	}
	if st.tlsConf != nil {
		go c.serveTLS()
	} else {
		go c.serve()
	}
}

// serveTLS shakes hands and goes on with the protocol agreed on.
func (c *conn) serveTLS() {
	t := c.nc.(*tls.Conn)
	if err := t.Handshake(); err != nil {
		c.srv.log().Debug("tls handshake", "peer", c.peer, "err", err)
		c.close()
		return
	}
	state := t.ConnectionState()
	c.tls = &state
	if state.NegotiatedProtocol == "h2" {
		c.enter(phaseH2, 0)
		if !c.srv.state.h2.give(t) {
			c.close()
		}
		return
	}
	c.enter(phaseNew, c.srv.state.headTicks)
	c.serve()
}

// forget takes c off the list and frees its slot, once.
func (s *Server) forget(c *conn) {
	st := &s.state
	st.mu.Lock()
	if c.next == nil {
		st.mu.Unlock()
		return
	}
	c.prev.next, c.next.prev = c.next, c.prev
	c.prev, c.next = nil, nil
	st.mu.Unlock()
	st.open.Add(-1)
	<-st.slots
	select {
	case st.left <- struct{}{}:
	default:
	}
}

func (s *Server) shutdown(ctx context.Context) error {
	s.prepare()
	st := &s.state
	st.mu.Lock()
	st.draining.Store(true)
	for _, ln := range st.listeners {
		ln.Close()
	}
	st.listeners = nil
	st.mu.Unlock()
	s.sweep(false)
	var err error
	if st.h2 != nil {
		err = st.h2.shutdown(ctx)
	}
	for err == nil {
		st.mu.Lock()
		empty := st.conns.next == &st.conns
		st.mu.Unlock()
		if empty {
			break
		}
		select {
		case <-st.left:
		case <-ctx.Done():
			err = ctx.Err()
			s.sweep(true)
		}
	}
	st.mu.Lock()
	if !st.ended {
		st.ended = true
		close(st.stopped)
	}
	st.mu.Unlock()
	return err
}

// sweep closes idle connections and tunnels, or all connections.
func (s *Server) sweep(all bool) {
	st := &s.state
	var victims []*conn
	st.mu.Lock()
	for c := st.conns.next; c != &st.conns; c = c.next {
		p := c.phase.Load()
		switch {
		case p>>phaseShift <= phaseNew && c.phase.CompareAndSwap(p, phaseDead<<phaseShift),
			p>>phaseShift == phaseTunnel, all:
			victims = append(victims, c)
		}
	}
	st.mu.Unlock()
	for _, c := range victims {
		c.life.end()
		c.nc.Close()
	}
}

// A hookedConn tells when it is closed, whoever closes it.
type hookedConn struct {
	net.Conn
	closed func()
}

func (h *hookedConn) Close() error {
	err := h.Conn.Close()
	h.closed()
	return err
}

func (s *Server) log() *slog.Logger {
	if s.ErrorLog == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.ErrorLog
}

func (s *Server) logPanic(r any, stack []byte) {
	if r != http.ErrAbortHandler {
		s.log().Error("panic in a call", "panic", r, "stack", string(stack))
	}
}

// addrPort returns a TCP address without the IPv4-in-IPv6 form; zero for other networks.
func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	p := t.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
