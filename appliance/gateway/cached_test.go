package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"tidegate/appliance/gateway"
	"tidegate/policy"
	"time"
)

// together serves n calls at a time. It lets the backend go on when all but one of them wait for
// the answer to that one.
func together(t *testing.T, g *gateway.Gateway, n int, goOn func(), call func(i int) *exchange) []*exchange {
	t.Helper()
	before := g.Responses().Collapsed
	out := make([]*exchange, n)
	var wg sync.WaitGroup
	for i := range n {
		out[i] = call(i)
		wg.Go(func() { ask(g, out[i]) })
	}
	for deadline := time.Now().Add(20 * time.Second); g.Responses().Collapsed < before+uint64(n)-1; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d calls wait", g.Responses().Collapsed-before, n-1)
		}
		time.Sleep(time.Millisecond)
	}
	goOn()
	wg.Wait()
	return out
}

func TestCallsForTheSameAnswerAreOneCall(t *testing.T) {
	var calls atomic.Int64
	pass := make(chan struct{})
	url := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		n := calls.Add(1)
		if n == 1 || r.Header.Get("If-None-Match") != "" {
			<-pass
		}
		switch {
		case strings.HasSuffix(r.URL.Path, "fails") && n == 1:
			panic(http.ErrAbortHandler)
		case strings.HasSuffix(r.URL.Path, "private"):
			w.Header().Set("Cache-Control", "private")
		case strings.HasSuffix(r.URL.Path, "varies"):
			w.Header().Set("Vary", "Accept-Language")
		case strings.HasSuffix(r.URL.Path, "stale"):
			if r.Header.Get("If-None-Match") != "" {
				w.WriteHeader(304)
				return
			}
			w.Header().Set("Cache-Control", "max-age=1")
			w.Header().Set("Etag", `"a"`)
		case strings.HasSuffix(r.URL.Path, "large"):
			w.Header().Set("Cache-Control", "max-age=60")
			_, _ = w.Write(make([]byte, 1<<20))
			return
		}
		fmt.Fprintf(w, "answer %d", n)
	})
	const crowd = 20
	for _, tt := range []struct {
		name, path string
		calls      int64
		again      int64 // calls to the backend of another crowd
	}{
		{"stored", "stored", 1, 0},
		{"the first fails: the others ask by themselves", "fails", crowd, 0},
		{"not stored: nobody waits the second time", "private", crowd, crowd},
		{"too large to be stored", "large", crowd, crowd},
		{"varies by a field in which they agree", "varies", 1, 0},
	} {
		g, _, _ := serve(t, apiSet(url, func(a *policy.API, _ *policy.Operation) { a.Cache = &policy.Cache{Seconds: 60} }), nil)
		calls.Store(0)
		all := together(t, g, crowd, func() { pass <- struct{}{} }, func(int) *exchange { return newExchange("GET", "/a/x/"+tt.path, "Accept-Language", "en") })
		failed := 0
		for i, x := range all {
			switch {
			case x.status == 502:
				failed++
			case x.status != 200 || x.abort || tt.path != "large" && !strings.HasPrefix(string(x.got), "answer "):
				t.Errorf("%s: call %d: got %d %.40s", tt.name, i, x.status, x.got)
			}
		}
		if want := map[bool]int{true: 1}[tt.path == "fails"]; failed != want {
			t.Errorf("%s: %d calls failed, want %d", tt.name, failed, want)
		}
		made := calls.Load()
		// After a failure each asks by itself, unless the answer to another is stored by then.
		if few := tt.path == "fails" && made >= 2 && made < tt.calls; made != tt.calls && !few {
			t.Errorf("%s: the backend got %d calls, want %d", tt.name, made, tt.calls)
		}
		collapsed := g.Responses().Collapsed
		for range crowd {
			ask(g, newExchange("GET", "/a/x/"+tt.path, "Accept-Language", "en"))
		}
		if n := calls.Load() - made; n != tt.again || g.Responses().Collapsed != collapsed {
			t.Errorf("%s: afterwards %d calls, %d waited; want %d, 0", tt.name, n, g.Responses().Collapsed-collapsed, tt.again)
		}
	}
	// They differ in what the answer varies by: each gets its own.
	g, clock, _ := serve(t, apiSet(url, func(a *policy.API, _ *policy.Operation) { a.Cache = &policy.Cache{Seconds: 60} }), nil)
	calls.Store(0)
	seen := map[string]bool{}
	for _, x := range together(t, g, 3, func() { pass <- struct{}{} }, func(i int) *exchange {
		return newExchange("GET", "/a/x/varies", "Accept-Language", fmt.Sprint("l", i))
	}) {
		seen[string(x.got)] = true
	}
	if len(seen) != 3 || calls.Load() != 3 {
		t.Errorf("answers that vary: %v of %d calls", seen, calls.Load())
	}
	// One of them confirms a stale answer for all.
	ask(g, newExchange("GET", "/a/x/stale"))
	clock.boot += 2 * time.Second
	calls.Store(10)
	for i, x := range together(t, g, crowd, func() { pass <- struct{}{} }, func(int) *exchange { return newExchange("GET", "/a/x/stale") }) {
		if x.status != 200 || !strings.HasPrefix(string(x.got), "answer ") {
			t.Errorf("stale: call %d: got %d %s", i, x.status, x.got)
		}
	}
	if n := calls.Load() - 10; n != 1 {
		t.Errorf("stale: %d calls", n)
	}
}

// TestWhoeverLeadsMayLeave shows that a client that leaves takes nobody's answer with it.
func TestWhoeverLeadsMayLeave(t *testing.T) {
	var calls atomic.Int64
	arrived := make(chan struct{}, 10)
	url := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			arrived <- struct{}{}
			<-r.Context().Done()
			return
		}
		fmt.Fprint(w, "answer")
	})
	g, _, _ := serve(t, apiSet(url, func(a *policy.API, _ *policy.Operation) { a.Cache = &policy.Cache{Seconds: 60} }), nil)
	ctx, leave := context.WithCancel(t.Context())
	first := newExchange("GET", "/a/x/1")
	first.ctx = ctx
	done := make(chan struct{})
	go func() {
		defer close(done)
		ask(g, first)
	}()
	<-arrived
	for i, x := range together(t, g, 6, leave, func(int) *exchange { return newExchange("GET", "/a/x/1") }) {
		if x.status != 200 || string(x.got) != "answer" {
			t.Errorf("call %d: got %d %s", i, x.status, x.got)
		}
	}
	<-done
	if first.status != 499 {
		t.Errorf("the one that left: %d", first.status)
	}
}

// TestABodyOfAGetIsNeitherStoredNorWaitedFor: an answer is kept under its URI, in which what a
// body asks is not.
func TestABodyOfAGetIsNeitherStoredNorWaitedFor(t *testing.T) {
	url := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "answer to %q", b)
	})
	g, _, _ := serve(t, apiSet(url, func(a *policy.API, _ *policy.Operation) { a.Cache = &policy.Cache{Seconds: 60} }), nil)
	for range 2 {
		if x := ask(g, newExchange("GET", "/a/x/1").withBody("text/plain", "evil")); string(x.got) != `answer to "evil"` {
			t.Errorf("with a body: got %s", x.got)
		}
		if x := ask(g, newExchange("GET", "/a/x/1")); string(x.got) != `answer to ""` {
			t.Errorf("without a body: got %s", x.got)
		}
	}
	// One that sends its body slowly holds nobody up: the pipe has no other end yet.
	r, w := io.Pipe()
	slow := newExchange("GET", "/a/x/2")
	slow.head.Length, slow.from = -1, r
	done := make(chan struct{})
	go func() {
		defer close(done)
		ask(g, slow)
	}()
	if _, err := w.Write([]byte("x")); err != nil { // it is on its way
		t.Fatal(err)
	}
	if x := ask(g, newExchange("GET", "/a/x/2")); string(x.got) != `answer to ""` {
		t.Errorf("beside a slow one: got %s", x.got)
	}
	_ = w.Close()
	<-done
}

// halting is an exchange whose client does not read before it is let.
type halting struct {
	*exchange
	at, goOn chan struct{}
}

func (h *halting) Write(p []byte) (int, error) {
	close(h.at)
	<-h.goOn
	return h.exchange.Write(p)
}

func TestAStaleAnswerIsForAllWhateverItsClientDoes(t *testing.T) {
	var away atomic.Bool
	url := backendOf(t, func(w http.ResponseWriter, _ *http.Request) {
		if away.Load() {
			w.WriteHeader(503)
			return
		}
		w.Header().Set("Cache-Control", "max-age=1")
		w.Header().Set("Etag", `"a"`)
		fmt.Fprint(w, "answer")
	})
	g, clock, _ := serve(t, apiSet(url, func(a *policy.API, _ *policy.Operation) {
		a.Cache = &policy.Cache{Seconds: 60, StaleOffline: 3600}
	}), nil)
	ask(g, newExchange("GET", "/a/x/1"))
	clock.boot += 2 * time.Second
	away.Store(true)
	slow := &halting{newExchange("GET", "/a/x/1"), make(chan struct{}), make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.Serve(slow)
	}()
	<-slow.at
	if x := ask(g, newExchange("GET", "/a/x/1")); x.status != 200 || string(x.got) != "answer" {
		t.Errorf("beside it: got %d %s", x.status, x.got)
	}
	if n := g.Responses().Collapsed; n != 0 {
		t.Errorf("%d calls waited for a client that does not read", n)
	}
	close(slow.goOn)
	<-done
}
