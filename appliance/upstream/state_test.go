package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"time"
)

func breaker() *policy.Breaker {
	return &policy.Breaker{Window: time.Minute, Bucket: 10 * time.Second, Volume: 4, Share: 0.5, Reset: 30 * time.Second, Statuses: []uint16{500}}
}

func TestBreakerOpensTriesAndCloses(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		a := w.add("a:80", says(500))
		p := w.pool(policy.Endpoints{Breaker: breaker()}, "a")
		for i := range 4 {
			if o := get(p); o.status != 500 {
				t.Fatalf("call %d: got %+v: the answer that opens the circuit is the client's", i, o)
			}
		}
		if none := wantNone(t, get(p)); none.After != 30*time.Second {
			t.Errorf("asked to come again after %s", none.After)
		}
		if n := a.seen(); n != 4 {
			t.Errorf("%d calls reached the backend, want 4", n)
		}
		time.Sleep(31 * time.Second)
		if o := get(p); o.status != 500 {
			t.Errorf("trial call: got %+v", o)
		}
		wantNone(t, get(p))
		time.Sleep(31 * time.Second)
		release := make(chan struct{})
		a.set(func(http.ResponseWriter, *http.Request) { <-release })
		var wg sync.WaitGroup
		wg.Go(func() {
			if o := get(p); o.status != 200 {
				t.Errorf("trial call: got %+v", o)
			}
		})
		synctest.Wait()
		wantNone(t, get(p)) // one trial at a time
		close(release)
		wg.Wait()
		for range 3 {
			if o := get(p); o.status != 200 {
				t.Errorf("closed again: got %+v", o)
			}
		}
	})
}

func TestBreakerNeedsVolumeAndShareWithinItsWindow(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		a := w.add("a:80", nil)
		p := w.pool(policy.Endpoints{Breaker: breaker()}, "a")
		call := func(status int, n int) {
			a.set(says(status))
			for range n {
				if o := get(p); o.status != status {
					t.Fatalf("got %+v, want %d", o, status)
				}
			}
		}
		call(500, 3)
		call(200, 5) // 3 of 8
		call(404, 5) // an answer like others
		time.Sleep(2 * time.Minute)
		call(500, 3) // the others have left the window
		call(200, 3) // 3 of 6 is not above one half
		call(500, 1) // 4 of 7 is
		wantNone(t, get(p))
	})
}

func TestWhatIsNotTheBackendsFaultMovesNoBreaker(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		a := w.add("a:80", says(500))
		p := w.pool(policy.Endpoints{Breaker: breaker(), Pool: policy.Pool{MaxActive: 1, Wait: time.Second}}, "a")
		for range 3 {
			get(p)
		}
		a.set(hangs)
		gone := func() {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(time.Second, cancel)
			if o := do(ctx, p, "GET", nil, 0); !errors.Is(o.err, context.Canceled) {
				t.Errorf("got %+v", o)
			}
		}
		for range 5 {
			gone()
			o := do(context.Background(), p, "POST", broken{}, 10)
			if _, client := wire.BodyFault(o.err); !client {
				t.Errorf("body that cannot be read: got %+v", o)
			}
		}
		release := make(chan struct{})
		a.set(func(http.ResponseWriter, *http.Request) { <-release })
		var wg sync.WaitGroup
		wg.Go(func() { get(p) })
		synctest.Wait()
		for range 5 {
			wantNone(t, get(p)) // the pool is full
		}
		close(release)
		wg.Wait()
		if o := get(p); o.status != 200 {
			t.Errorf("the circuit opened: got %+v", o)
		}
		// And in the trial: a client that leaves neither closes nor opens the circuit.
		a.set(says(500))
		for range 6 {
			get(p)
		}
		wantNone(t, get(p))
		time.Sleep(31 * time.Second)
		a.set(hangs)
		gone()
		a.set(says(500))
		if o := get(p); o.status != 500 {
			t.Errorf("next trial: got %+v", o)
		}
		wantNone(t, get(p))
	})
}

// broken is a client's body that breaks off.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, &wire.BodyError{Status: 400, Reason: "left"} }

func TestAnswerThatOpensACircuitIsNotLostToARetry(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		a := w.add("a:80", says(500))
		b := breaker()
		b.Volume = 1
		p := w.pool(policy.Endpoints{Breaker: b, Retry: policy.Retry{Count: 3, Interval: time.Second, Statuses: []uint16{500}}}, "a")
		if o := get(p); o.status != 500 || a.seen() != 1 || o.took != 0 {
			t.Errorf("got %+v, want the answer at once", o)
		}
		// The circuit opens while a call waits for its next try.
		b = breaker()
		b.Volume = 2
		p = w.pool(policy.Endpoints{Breaker: b, Retry: policy.Retry{Count: 3, Interval: 10 * time.Second, Statuses: []uint16{500}}}, "a")
		var wg sync.WaitGroup
		wg.Go(func() {
			if o := get(p); o.status != 500 || o.took != 10*time.Second {
				t.Errorf("got %+v, want the answer that it has", o)
			}
		})
		synctest.Wait()
		do(context.Background(), p, "POST", nil, 0)
		wantNone(t, get(p))
		wg.Wait()
	})
}

func TestBreakerOutlivesAnEdition(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		a := w.add("a:80", says(500))
		spec := policy.Endpoints{Breaker: breaker()}
		old := w.pool(spec, "a")
		for range 4 {
			get(old)
		}
		next, err := w.try(spec, Options{}, old, "a")
		if err != nil {
			t.Fatal(err)
		}
		w.closing(next)
		old.Retire(next)
		old.Close()
		wantNone(t, get(next))
		time.Sleep(31 * time.Second)
		a.set(says(200))
		for range 2 {
			if o := get(next); o.status != 200 {
				t.Errorf("after the old pool was closed: got %+v", o)
			}
		}
		spec.Breaker = breaker()
		spec.Breaker.Volume = 100
		a.set(says(500))
		for range 4 {
			get(next)
		}
		other, err := w.try(spec, Options{}, next, "a")
		if err != nil {
			t.Fatal(err)
		}
		w.closing(other)
		if o := get(other); o.status != 500 {
			t.Errorf("other settings begin anew: got %+v", o)
		}
	})
}

func TestActiveHealth(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		var healthy atomic.Bool
		healthy.Store(true)
		handle := func(name string, well *atomic.Bool) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/base/health" && well != nil && !well.Load() {
					rw.WriteHeader(503)
				}
				_, _ = io.WriteString(rw, name)
			}
		}
		w.add("a:80", handle("a", &healthy))
		w.add("b:80", handle("b", nil))
		spec := policy.Endpoints{Kind: policy.Failover, Health: &policy.Health{Path: "/health", Interval: 10 * time.Second, Healthy: 2, Unhealthy: 3}}
		p := w.pool(spec, "a/base", "b/base")
		stop := run(p)
		time.Sleep(5 * time.Second)
		target := func() string { return get(p).body }
		if got := target(); got != "a" {
			t.Errorf("all well: got %s", got)
		}
		healthy.Store(false)
		time.Sleep(20 * time.Second) // two checks
		if got := target(); got != "a" {
			t.Errorf("after two bad checks: got %s", got)
		}
		time.Sleep(10 * time.Second)
		if got := target(); got != "b" {
			t.Errorf("after three bad checks: got %s", got)
		}
		healthy.Store(true)
		time.Sleep(10 * time.Second)
		if got := target(); got != "b" {
			t.Errorf("after one good check: got %s", got)
		}
		time.Sleep(10 * time.Second)
		if got := target(); got != "a" {
			t.Errorf("after two good checks: got %s", got)
		}
		healthy.Store(false)
		time.Sleep(time.Minute)
		stop()
		// A bundle that asks for no checks must not leave the target out for ever.
		spec.Health = nil
		next, err := w.try(spec, Options{}, p, "a/base", "b/base")
		if err != nil {
			t.Fatal(err)
		}
		w.closing(next)
		if got := get(next).body; got != "a" {
			t.Errorf("without checks: got %s", got)
		}
	})
}

func TestHealthCheckWithoutAConnectionJudgesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		release := make(chan struct{})
		w.add("a:80", func(http.ResponseWriter, *http.Request) { <-release })
		p := w.pool(policy.Endpoints{Pool: policy.Pool{MaxActive: 1, Wait: 100 * time.Millisecond}, Health: &policy.Health{Path: "/h", Interval: time.Second}}, "a")
		var wg sync.WaitGroup
		wg.Go(func() { get(p) })
		synctest.Wait()
		stop := run(p)
		time.Sleep(20 * time.Second)
		if s := p.View()[0].State; s != "up" {
			t.Errorf("a pool that is full made the target %s", s)
		}
		close(release)
		wg.Wait()
		stop()
	})
}

func TestHealthStatusesAndTimes(t *testing.T) {
	for name, tc := range map[string]struct {
		handle http.HandlerFunc
		want   string
	}{
		"listed":     {says(418), "up"},
		"not listed": {says(200), "down"},
		"breaks off": {breaks, "down"},
		"too slow":   {hangs, "down"},
		"body without end": {func(rw http.ResponseWriter, r *http.Request) {
			rw.WriteHeader(418)
			_, _ = io.WriteString(rw, "x")
			_ = http.NewResponseController(rw).Flush()
			hangs(rw, r)
		}, "down"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *web) {
				w.add("a:80", tc.handle)
				p := w.pool(policy.Endpoints{Health: &policy.Health{Path: "/h", Interval: 10 * time.Second, Timeout: time.Second, Statuses: []uint16{418}}}, "a")
				stop := run(p)
				time.Sleep(15 * time.Second)
				if s := p.View()[0].State; s != tc.want {
					t.Errorf("got %s, want %s", s, tc.want)
				}
				stop()
			})
		})
	}
}

func TestEjection(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		a, b := w.add("a:80", says(500)), w.add("b:80", nil)
		p := w.pool(policy.Endpoints{Eject: &policy.Ejection{Failures: 3, For: time.Minute, MaxShare: 0.5}}, "a", "b")
		for range 6 {
			get(p)
		}
		a.seen()
		b.seen()
		for range 10 {
			get(p)
		}
		if x, y := a.seen(), b.seen(); x != 0 || y != 10 {
			t.Errorf("after three failures in a row: %d and %d calls", x, y)
		}
		b.set(says(500))
		for range 10 {
			if o := get(p); o.target != "b" || o.status != 500 {
				t.Fatalf("got %+v: half of the group may be out, not all", o)
			}
		}
		b.set(says(200))
		time.Sleep(61 * time.Second)
		a.seen()
		for range 4 {
			get(p)
		}
		if a.seen() != 2 {
			t.Error("the time is over, and it gets no calls")
		}
	})
}

func TestBodiesThatBreakOffEject(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		a := w.add("a:80", func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(rw, "half")
			_ = http.NewResponseController(rw).Flush()
			panic(http.ErrAbortHandler)
		})
		w.add("b:80", nil)
		p := w.pool(policy.Endpoints{Kind: policy.Failover, Eject: &policy.Ejection{Failures: 2, For: time.Minute}}, "a", "b")
		for range 2 {
			if o := get(p); o.err == nil {
				t.Errorf("got %+v", o)
			}
		}
		a.seen()
		if o := get(p); o.target != "b" || a.seen() != 0 {
			t.Errorf("got %+v", o)
		}
	})
}

func TestPoolBoundsConnectionsAndTheWait(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		release := make(chan struct{})
		a := w.add("a:80", func(http.ResponseWriter, *http.Request) { <-release })
		p, err := w.try(policy.Endpoints{Pool: policy.Pool{MaxActive: 2, Wait: 3 * time.Second}}, Options{MaxWait: 3}, nil, "a")
		if err != nil {
			t.Fatal(err)
		}
		w.closing(p)
		var wg sync.WaitGroup
		outcomes := make(chan outcome, 10)
		for range 6 { // 2 served, 3 wait, 1 turned away
			wg.Go(func() { outcomes <- get(p) })
			synctest.Wait()
		}
		if o := <-outcomes; o.took != 0 {
			t.Errorf("beyond those that may wait: got %+v", o)
		} else {
			wantNone(t, o)
		}
		for range 3 {
			if o := <-outcomes; o.took != 3*time.Second {
				t.Errorf("waited: got %+v", o)
			} else {
				wantNone(t, o)
			}
		}
		if a.dials != 2 {
			t.Errorf("%d connections, want 2", a.dials)
		}
		close(release)
		wg.Wait()
	})
}

func TestConnectionsAreDialedAnewAfterAWhile(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		a := w.add("a:80", nil)
		p := w.pool(policy.Endpoints{}, "a")
		for range 12 * 60 { // always in use: never idle long enough to go
			get(p)
			time.Sleep(time.Second)
		}
		if a.dials < 2 || a.dials > 4 {
			t.Errorf("%d connections in 12 minutes of use, want one per %s", a.dials, maxAge)
		}
	})
}

func TestOverrides(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		seen := ""
		echo := func(rw http.ResponseWriter, r *http.Request) {
			seen = r.Host + " " + r.RequestURI + " " + r.Header.Get("Authorization")
		}
		for _, h := range []string{"bundle:80", "site:80", "site2:80"} {
			w.add(h, echo)
		}
		o := Options{Overrides: map[string]Override{"g": {URLs: []string{"http://site/v2?k=1", "http://site2"}, Username: "u", Password: "p"}}}
		p, err := w.try(policy.Endpoints{Retry: policy.Retry{Count: 1}}, o, nil, "bundle")
		if err != nil {
			t.Fatal(err)
		}
		w.closing(p)
		if get(p); seen != "site /v2/x?k=1 Basic dTpw" {
			t.Errorf("got %q", seen)
		}
		if get(p); seen != "site2 /x Basic dTpw" {
			t.Errorf("got %q", seen)
		}
		if _, err := w.try(policy.Endpoints{}, Options{Overrides: map[string]Override{"g": {URLs: []string{"ftp://x"}}}}, nil, "bundle"); err == nil || !strings.Contains(err.Error(), `endpoint "g"`) {
			t.Errorf("wrong override: got %v", err)
		}
	})
}
