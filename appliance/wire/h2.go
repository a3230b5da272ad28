package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// h2server serves HTTP/2 connections by net/http. It gets them, after the handshake,
// through a listener that is a channel.
type h2server struct {
	srv   *http.Server
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newH2Server(s *Server) *h2server {
	l := &s.state.limits
	h := &h2server{conns: make(chan net.Conn), done: make(chan struct{})}
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	h.srv = &http.Server{
		Handler:           &stdHandler{s},
		ReadHeaderTimeout: l.HeaderTime,
		IdleTimeout:       l.IdleTime,
		MaxHeaderBytes:    max(l.HeaderBytes-4096, 1), // net/http adds 4096
		Protocols:         &protocols,
		TLSConfig:         s.state.tlsConf,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          l.Streams,
			MaxReceiveBufferPerConnection: 256 << 10,
			MaxReceiveBufferPerStream:     64 << 10,
			WriteByteTimeout:              l.WriteStall,
		},
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     stdLog(s.log()),
	}
	go func() { _ = h.srv.Serve(h) }()
	return h
}

// stdLog passes net/http's complaints on.
func stdLog(l *slog.Logger) *log.Logger { return slog.NewLogLogger(l.Handler(), slog.LevelDebug) }

// give hands a connection over. It reports false when the server stops.
func (h *h2server) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.done:
		return false
	}
}

func (h *h2server) shutdown(ctx context.Context) error {
	err := h.srv.Shutdown(ctx)
	if err != nil {
		h.srv.Close()
	}
	return err
}

// Accept, Close and Addr make h a net.Listener.
func (h *h2server) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *h2server) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *h2server) Addr() net.Addr { return &net.TCPAddr{} }

// A stdHandler gives net/http's requests to a Server's Handler.
type stdHandler struct{ s *Server }

func (h *stdHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	st := &h.s.state
	x := &stdCall{s: h.s, w: w, r: r, ctl: http.NewResponseController(w), limit: st.limits.BodyBytes}
	if p, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		x.peer = netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	x.trusted = h.s.Trusted != nil && h.s.Trusted(x.peer.Addr())
	why := x.readHead()
	if why == nil && h.s.Admit != nil && !h.s.Admit() {
		why = errShed
	}
	switch {
	case why == nil:
		st.served.Add(1)
		h.s.Handler.Serve(x)
	default:
		st.refused.Add(1)
		x.refused = true
		w.Header().Set("Connection", "close") // of HTTP/2: GOAWAY after this stream
		if h.s.Refuser != nil {
			h.s.Refuser.Refuse(x, why.status, why.reason)
		} else {
			_ = x.Start(why.status, nil, 0)
		}
	}
	x.finish()
}

// A stdCall is one exchange of net/http.
type stdCall struct {
	s       *Server
	w       http.ResponseWriter
	r       *http.Request
	ctl     *http.ResponseController
	head    Head
	hostLen int
	peer    netip.AddrPort
	trusted bool
	refused bool
	id      string
	idBuf   [32]byte

	whole   []byte
	replay  int
	isWhole bool
	limit   int64
	in, out atomic.Int64
	bodyErr error
	mu      sync.Mutex // guards cut, and the read deadline with it
	cut     bool

	started, aborted, silent bool
	toCome                   int64 // announced bytes; -1: not announced
	trailer                  Header
	werr                     error
}

// readHead judges the request by the rules of the HTTP/1.1 engine and fills in the head.
func (x *stdCall) readHead() *refusal {
	r, q := x.r, &x.head
	q.Method, q.Authority, q.Proto, q.Length = r.Method, r.Host, r.Proto, r.ContentLength
	if v := r.Header.Get("Content-Type"); len(v) >= 16 { // first: a refusal has gRPC's form as well
		q.GRPC = fold(bytesOf(v)[:16], "application/grpc")
	}
	if r.Method == "CONNECT" {
		return errConnect
	}
	if !all(bytesOf(r.Method), isMethod) || len(r.Method) > 32 {
		return errMethod
	}
	if len(r.RequestURI) > x.s.state.limits.URIBytes {
		return errLongTarget
	}
	authority, path, query, err := splitTarget([]byte(r.RequestURI))
	if err != nil {
		return err
	}
	q.Path, q.Query = string(path), string(query)
	if authority != nil && !strings.EqualFold(string(authority), r.Host) {
		return errOtherHost
	}
	if x.hostLen, err = checkHost(bytesOf(r.Host)); err != nil {
		return err
	}
	// net/http takes the first of several lengths, and one that is no number for none.
	if v := r.Header["Content-Length"]; len(v) > 0 {
		if n, ok := number(bytesOf(v[0])); len(v) > 1 || !ok || n != r.ContentLength {
			return errLength
		}
	}
	for name := range r.Trailer {
		if q.Announced != "" {
			q.Announced += ", "
		}
		q.Announced += name
	}
	names := make([]string, 0, len(r.Header))
	for name := range r.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	fields := 0
	for _, name := range names {
		for _, v := range r.Header[name] {
			if fields++; fields > x.s.state.limits.HeaderFields {
				return errTooMany
			}
			if !all(bytesOf(v), isValue) {
				return errFieldValue
			}
			switch {
			case !all(bytesOf(name), isName):
				x.s.state.dropped.Add(1)
			case name == "Te":
				q.Trailers = q.Trailers || strings.EqualFold(v, "trailers")
			case name == "Expect":
				if !strings.EqualFold(v, "100-continue") {
					return errExpect
				}
			case name == "Host":
				if !strings.EqualFold(v, r.Host) { // RFC 9113 §8.3.1
					return errOtherHost
				}
			case hopByHop(bytesOf(name)):
			default:
				q.Header = append(q.Header, Field{name, v})
			}
		}
	}
	return nil
}

// The view of the rules: policy.Call.

func (x *stdCall) Method() string            { return x.head.Method }
func (x *stdCall) Host() string              { return lowerHost(x.head.Authority[:x.hostLen], nil) }
func (x *stdCall) Path() string              { return x.head.Path }
func (x *stdCall) Query() string             { return x.head.Query }
func (x *stdCall) Header(name string) string { return x.head.Header.Value(name) }
func (x *stdCall) HeaderValues(name string, yield func(string) bool) {
	x.head.Header.Values(name, yield)
}
func (x *stdCall) TrustedPeer() bool         { return x.trusted }
func (x *stdCall) TLS() *tls.ConnectionState { return x.r.TLS }
func (x *stdCall) Client() netip.Addr {
	return x.s.clientOf(x.peer.Addr(), x.trusted, x.head.Header)
}

func (x *stdCall) Body(limit int64) ([]byte, error) {
	if !x.isWhole {
		whole, err := readWhole(x.whole, x.readBody, x.head.Length, limit)
		x.whole = whole
		if err != nil {
			return nil, err
		}
		x.isWhole = true
	}
	if int64(len(x.whole)) > limit {
		return nil, errBodyLimit
	}
	return x.whole, nil
}

// The rest of Exchange.

func (x *stdCall) Context() context.Context { return x.r.Context() }
func (x *stdCall) Head() *Head              { return &x.head }
func (x *stdCall) Peer() netip.AddrPort     { return x.peer }

func (x *stdCall) ID() string {
	if x.id == "" {
		if x.trusted {
			x.id = x.head.Header.Value("X-Request-Id")
		}
		if !goodID(x.id) {
			x.id = newID(&x.idBuf)
		}
	}
	return x.id
}

func (x *stdCall) RequestBody() io.Reader  { return (*stdBody)(x) }
func (x *stdCall) LimitBody(n int64)       { x.limit = n }
func (x *stdCall) Counts() (in, out int64) { return x.in.Load(), x.out.Load() }
func (x *stdCall) Started() bool           { return x.started }
func (x *stdCall) Trailer(h Header)        { x.trailer = h.kept() }
func (x *stdCall) Abort()                  { x.aborted = true }

func (x *stdCall) RequestTrailer() Header {
	var h Header
	for name, values := range x.r.Trailer {
		if b := bytesOf(name); !all(b, isName) || noTrailer(b) {
			continue
		}
		for _, v := range values {
			h = append(h, Field{name, v})
		}
	}
	return h
}

// A stdBody may be read by another goroutine than the one that writes the answer: HTTP/2
// has both ways open at once, and gRPC needs that.
type stdBody stdCall

// interrupt makes a read of the body that waits fail, and later ones.
func (x *stdCall) interrupt() {
	x.mu.Lock()
	x.cut = true
	_ = x.ctl.SetReadDeadline(past)
	x.mu.Unlock()
}

// Interrupter returns what Request.Interrupt should be when the body is x's: not nil if x
// came by HTTP/2, where another goroutine may read it. x must be the engine's own.
func Interrupter(x Exchange) func() {
	if s, ok := x.(*stdCall); ok {
		return s.interrupt
	}
	return nil
}

func (b *stdBody) Read(p []byte) (int, error) {
	x := (*stdCall)(b)
	if x.replay < len(x.whole) {
		n := copy(p, x.whole[x.replay:])
		x.replay += n
		return n, nil
	}
	return x.readBody(p)
}

func (x *stdCall) readBody(p []byte) (int, error) {
	if x.bodyErr != nil {
		return 0, x.bodyErr
	}
	if x.limit > 0 && x.head.Length > x.limit || x.refused {
		x.bodyErr = errBodyLimit
		return 0, x.bodyErr
	}
	x.readBy(time.Now().Add(x.s.state.limits.BodyStall))
	n, err := x.r.Body.Read(p)
	x.readBy(time.Time{})
	in := x.in.Add(int64(n))
	switch {
	case x.limit > 0 && in > x.limit:
		x.bodyErr = errBodyLimit
		return 0, x.bodyErr
	case err == nil || err == io.EOF:
		return n, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		x.bodyErr = bodyError(errSlowBody)
	default:
		x.bodyErr = bodyError(err)
	}
	return n, x.bodyErr
}

// readBy sets the deadline of a read, or takes it away: net/http's deadlines strike also while
// nobody reads or writes, and a stream may be quiet for as long as it likes.
func (x *stdCall) readBy(t time.Time) {
	x.mu.Lock()
	if !x.cut {
		_ = x.ctl.SetReadDeadline(t)
	}
	x.mu.Unlock()
}

// writes runs one write under the limit for clients that do not read.
func (x *stdCall) writes(f func() error) error {
	_ = x.ctl.SetWriteDeadline(time.Now().Add(x.s.state.limits.WriteStall))
	x.werr = f()
	_ = x.ctl.SetWriteDeadline(time.Time{})
	return x.werr
}

func (x *stdCall) Start(status int, h Header, length int64) error {
	switch {
	case x.aborted:
		return errAborted
	case x.started:
		return errStarted
	case status < 200 || status > 999:
		return errStatus
	}
	x.started = true
	x.silent = status == 204 || status == 304 || x.r.Method == "HEAD"
	out := x.w.Header()
	h = h.kept() // net/http writes it when there is a body, or after the handler has returned
	for i := range h {
		if name := h[i].Name; name != "" && !hopByHop(bytesOf(name)) {
			name = http.CanonicalHeaderKey(oneLine(name))
			out[name] = append(out[name], oneLine(h[i].Value))
		}
	}
	if out["Content-Type"] == nil {
		out["Content-Type"] = nil // nothing is guessed
	}
	x.toCome = -1
	if length >= 0 && !x.silent {
		x.toCome = length
	}
	if length >= 0 && status != 204 && (status != 304 || length > 0) {
		out.Set("Content-Length", strconv.FormatInt(length, 10))
	}
	x.w.WriteHeader(status)
	return nil
}

func (x *stdCall) Write(p []byte) (int, error) {
	switch {
	case x.aborted:
		return 0, errAborted
	case !x.started:
		return 0, errNotStarted
	case x.werr != nil:
		return 0, x.werr
	case x.silent:
		return len(p), nil
	}
	n := 0
	err := x.writes(func() (err error) {
		n, err = x.w.Write(p)
		return err
	})
	x.out.Add(int64(n))
	return n, err
}

func (x *stdCall) Flush() error {
	if x.aborted {
		return errAborted
	}
	if !x.started || x.werr != nil {
		return x.werr
	}
	return x.writes(x.ctl.Flush)
}

// finish sends the trailers, or resets the stream.
func (x *stdCall) finish() {
	if x.aborted || !x.started || x.toCome >= 0 && x.out.Load() < x.toCome {
		panic(http.ErrAbortHandler)
	}
	out := x.w.Header()
	for i := range x.trailer {
		name := x.trailer[i].Name
		if b := bytesOf(name); len(b) > 0 && !hopByHop(b) {
			out.Add(http.TrailerPrefix+http.CanonicalHeaderKey(oneLine(name)), oneLine(x.trailer[i].Value))
		}
	}
}

func (x *stdCall) Tunnel(Header) (io.ReadWriteCloser, error) { return nil, errNoUpgrade }
