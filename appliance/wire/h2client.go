package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// An h2client speaks HTTP/2 by net/http: over TLS, or with prior knowledge (h2c).
type h2client struct {
	c      *Client
	scheme string

	lanes *lanes // nil: as many calls on a connection as the backend allows

	mu   sync.Mutex
	t    *http.Transport
	born time.Time // of t
}

func newH2Client(c *Client) *h2client {
	h := &h2client{c: c, scheme: "http", born: time.Now(), lanes: newLanes(&c.target)}
	if c.target.TLS != nil {
		h.scheme = "https"
	}
	h.t = h.newTransport()
	return h
}

func (h *h2client) newTransport() *http.Transport {
	t := h.c.target
	var protocols http.Protocols
	if t.TLS != nil {
		protocols.SetHTTP2(true)
		protocols.SetHTTP1(true)
	} else {
		protocols.SetUnencryptedHTTP2(true)
	}
	return &http.Transport{
		Proxy:                  nil, // the environment is never read
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return h.c.dialPlain(ctx) },
		TLSClientConfig:        t.TLS,
		TLSHandshakeTimeout:    t.DialTimeout,
		DisableCompression:     true, // no Accept-Encoding of our own, nothing unpacked
		Protocols:              &protocols,
		MaxIdleConns:           t.MaxIdle,
		MaxIdleConnsPerHost:    t.MaxIdle,
		MaxConnsPerHost:        t.MaxActive,
		IdleConnTimeout:        t.IdleTime,
		MaxResponseHeaderBytes: int64(t.HeaderBytes),
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerConnection: 1 << 20,
			MaxReceiveBufferPerStream:     64 << 10,
			WriteByteTimeout:              t.WriteStall,
		},
	}
}

// transport returns what new calls go through. After MaxAge it is another one, so that
// they go over a new connection; calls on the old ones finish there.
func (h *h2client) transport() *http.Transport {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.old(h.born) {
		h.t.CloseIdleConnections()
		h.t, h.born = h.newTransport(), time.Now()
	}
	return h.t
}

// closeIdle closes the connections that no call uses.
func (h *h2client) closeIdle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.t.CloseIdleConnections()
	if h.lanes != nil {
		for _, l := range h.lanes.open {
			l.t.CloseIdleConnections()
		}
	}
}

func (h *h2client) do(ctx context.Context, r *Request) (*Response, error) {
	if err := r.check(); err != nil {
		return nil, &TryError{Stage: StageWrite, Err: err}
	}
	h.c.pool.mu.Lock()
	closed := h.c.pool.closed
	h.c.pool.mu.Unlock()
	if closed {
		return nil, &TryError{Stage: StageWait, Err: ErrClosed}
	}
	through, leave, err := h.enter(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	up := &upload{body: r.Body, interrupt: r.Interrupt, after: r.Trailer}
	stop := func() bool { return true }
	if r.Timeout > 0 {
		stop = time.AfterFunc(r.Timeout, func() { cancel(os.ErrDeadlineExceeded) }).Stop
	}
	var resp *http.Response
	if r.Interrupt != nil || r.Body == nil || r.Length == 0 {
		resp, err = through.RoundTrip(h.request(ctx, r, up))
	} else {
		resp, err = h.push(ctx, through, r, up)
	}
	stop()
	if err != nil {
		cause := context.Cause(ctx)
		cancel(nil)
		up.end()
		leave()
		return nil, up.fault(err, cause)
	}
	out := &Response{
		Status: resp.StatusCode, Length: resp.ContentLength,
		Body: &h2body{resp.Body, cancel, r.Stall, ctx, up, sync.OnceFunc(leave)},
		pool: &h.c.pool.buffers,
	}
	for name, values := range resp.Header {
		if hopByHop(bytesOf(name)) {
			continue
		}
		for _, v := range values {
			out.Header = append(out.Header, Field{name, v})
		}
	}
	if resp.StatusCode == 204 || resp.StatusCode == 304 {
		out.Length = max(out.Length, 0)
	}
	out.trailer = func() Header {
		var t Header
		for name, values := range resp.Trailer {
			for _, v := range values {
				t = append(t, Field{name, v})
			}
		}
		return t
	}
	return out, nil
}

// push sends r while the caller's goroutine reads the body, which only that may do. The
// body is read to its end unless the backend fails or answers with other than 1xx and 2xx.
func (h *h2client) push(ctx context.Context, through *http.Transport, r *Request, up *upload) (resp *http.Response, err error) {
	f := newFeed()
	up.body, up.interrupt = f, f.interrupt
	done := make(chan struct{})
	go func() {
		defer close(done)
		resp, err = through.RoundTrip(h.request(ctx, r, up))
		if err != nil || resp.StatusCode >= 300 {
			close(f.stop)
		}
	}()
	f.push(r.Body)
	<-done
	return resp, err
}

func (h *h2client) request(ctx context.Context, r *Request, up *upload) *http.Request {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { up.conn.Store(true); up.reused.Store(i.Reused) },
	})
	u := &url.URL{Scheme: h.scheme, Host: h.c.target.Addr, RawQuery: r.Query}
	// Opaque is sent as it is; a path with "//" in front would be taken for an authority.
	if raw := r.Base + r.Path; strings.HasPrefix(raw, "//") {
		u.RawPath = raw
		u.Path, _ = url.PathUnescape(raw)
	} else if raw != "" {
		u.Opaque = raw
	} else {
		u.Path = "/"
	}
	q := (&http.Request{Method: r.Method, URL: u, Host: r.Host, Header: make(http.Header, len(r.Header)+1)}).WithContext(ctx)
	for _, f := range r.Header {
		if f.Name != "" && !hopByHop(bytesOf(f.Name)) && !sameName(f.Name, "Host") {
			name := http.CanonicalHeaderKey(oneLine(f.Name))
			q.Header[name] = append(q.Header[name], oneLine(f.Value))
		}
	}
	if q.Header["User-Agent"] == nil {
		q.Header["User-Agent"] = nil // none of net/http's
	}
	if r.Trailers {
		q.Header["Te"] = []string{"trailers"}
	}
	if r.Body != nil && r.Length != 0 {
		q.Body, q.ContentLength = up, r.Length
		if r.Trailer != nil {
			q.Trailer = http.Header{}
			tokens(bytesOf(r.Announced), func(t []byte) bool {
				if all(t, isName) && !noTrailer(t) {
					q.Trailer[http.CanonicalHeaderKey(string(t))] = nil
				}
				return true
			})
			up.trailer = q.Trailer
		}
	}
	return q
}

// fault says what an error of RoundTrip means.
func (u *upload) fault(err, cause error) error {
	t := &TryError{Stage: StageResponse, Sent: u.conn.Load(), Reused: u.reused.Load(), Err: err}
	if cause != nil {
		t.Err = cause
	}
	if e := u.err.Load(); e != nil {
		t.Stage, t.Err = StageBody, *e
	}
	if !t.Sent {
		t.Stage = StageDial
	}
	return t
}

// An h2body ends its request's context with itself.
type h2body struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
	stall  time.Duration
	ctx    context.Context
	up     *upload
	leave  func()
}

func (b *h2body) Read(p []byte) (int, error) {
	if b.stall > 0 {
		t := time.AfterFunc(b.stall, func() { b.cancel(os.ErrDeadlineExceeded) })
		defer t.Stop()
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		if c := context.Cause(b.ctx); c != nil && !errors.Is(err, c) {
			err = c
		}
	}
	return n, err
}

func (b *h2body) Close() error {
	b.up.end() // first: net/http's Close waits for a read of the request body
	err := b.ReadCloser.Close()
	b.cancel(nil)
	b.leave()
	return err
}
