package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"time"
)

// A web is a network in memory: hosts by address. It runs inside a synctest bubble.
type web struct {
	t     *testing.T
	mu    sync.Mutex
	hosts map[string]*host
}

// A host is one backend.
type host struct {
	mu      sync.Mutex
	calls   int
	dials   int
	refuses bool // connections
	handle  http.HandlerFunc
	server  *http.Server
	conns   chan net.Conn
}

// bubble runs fn with a web, in a bubble whose time moves when all wait.
func bubble(t *testing.T, fn func(t *testing.T, w *web)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &web{t: t, hosts: map[string]*host{}}
		defer func() {
			for _, h := range w.hosts {
				_ = h.server.Close()
			}
		}()
		fn(t, w)
	})
}

// add makes a host. Without a handler it answers its address.
func (w *web) add(addr string, handle http.HandlerFunc) *host {
	h := &host{handle: handle, conns: make(chan net.Conn)}
	if handle == nil {
		h.handle = func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, addr) }
	}
	h.server = &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.calls++
		fn := h.handle
		h.mu.Unlock()
		fn(rw, r)
	})}
	go func() { _ = h.server.Serve(&pipes{h.conns, make(chan struct{}), sync.Once{}}) }()
	w.mu.Lock()
	w.hosts[addr] = h
	w.mu.Unlock()
	return h
}

func (h *host) set(handle http.HandlerFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handle = handle
}

func (h *host) refuse(yes bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refuses = yes
}

// seen returns how many requests came since the last look.
func (h *host) seen() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.calls
	h.calls = 0
	return n
}

func (w *web) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	w.mu.Lock()
	h := w.hosts[addr]
	w.mu.Unlock()
	if h == nil {
		return nil, fmt.Errorf("dial %s: no such host", addr)
	}
	h.mu.Lock()
	refuses := h.refuses
	h.dials++
	h.mu.Unlock()
	if refuses {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	a, b := net.Pipe()
	select {
	case h.conns <- b:
		return a, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// pipes is a listener whose connections come from a channel.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// says answers with a status.
func says(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
	}
}

// hangs answers when the client is gone.
func hangs(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// breaks ends the connection without an answer, after the request has come.
func breaks(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// pool makes a pool of one group; the URLs are http://HOST with port 80.
func (w *web) pool(spec policy.Endpoints, hosts ...string) *Pool {
	w.t.Helper()
	p, err := w.try(spec, Options{}, nil, hosts...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.closing(p)
	return p
}

func (w *web) closing(p *Pool) { w.t.Cleanup(p.Close) }

func (w *web) try(spec policy.Endpoints, o Options, old *Pool, hosts ...string) (*Pool, error) {
	spec.Name = "g"
	for _, h := range hosts {
		url, weight, _ := strings.Cut(h, "*")
		if !strings.Contains(url, "://") {
			url = "http://" + url
		}
		var n uint32
		_, _ = fmt.Sscan(weight, &n)
		spec.Targets = append(spec.Targets, policy.Target{URL: url, Weight: n})
	}
	o.Dial = w.dial
	return New(&policy.Set{Endpoints: []policy.Endpoints{spec}}, o, old)
}

// An outcome is what became of one call.
type outcome struct {
	status  int
	body    string
	err     error
	target  string
	retries int
	took    time.Duration
}

// do sends one call to the pool's group. A body makes it a request with that body.
func do(ctx context.Context, p *Pool, method string, body io.Reader, length int64) outcome {
	g := p.Group(1)
	r := &wire.Request{Method: method}
	if body != nil {
		r.Body, r.Length = body, length
	}
	start := time.Now()
	resp, res, err := g.Do(ctx, r, Call{Suffix: "/x", Safe: method != "POST"})
	o := outcome{err: err, target: strings.TrimPrefix(res.Target, "http://"), retries: res.Retries, took: time.Since(start)}
	if err != nil {
		return o
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	o.status, o.body, o.err = resp.Status, string(b), err
	return o
}

func get(p *Pool) outcome { return do(context.Background(), p, "GET", nil, 0) }

// wantNone fails unless err is a *NoneError.
func wantNone(t *testing.T, o outcome) *NoneError {
	t.Helper()
	var none *NoneError
	if !errors.As(o.err, &none) {
		t.Fatalf("got %+v, want no backend", o)
	}
	return none
}

// run lets the pool's checks run until the returned function is called.
func run(p *Pool) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Run(ctx)
	}()
	synctest.Wait()
	return func() {
		cancel()
		<-done
	}
}
