package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"tidegate/policy"
	"time"
)

func TestRoundRobinBeginsWithTheFirstAndKeepsWeights(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		for _, h := range []string{"a:80", "b:80", "c:80"} {
			w.add(h, nil)
		}
		p := w.pool(policy.Endpoints{}, "a", "b", "c")
		var order []string
		for range 6 {
			order = append(order, get(p).target)
		}
		if want := []string{"a", "b", "c", "a", "b", "c"}; !slices.Equal(order, want) {
			t.Errorf("got %v, want %v", order, want)
		}
		p = w.pool(policy.Endpoints{}, "a*5", "b*1", "c*1")
		counts, longest, last, row := map[string]int{}, 0, "", 0
		for range 700 {
			got := get(p).target
			counts[got]++
			if got != last {
				last, row = got, 0
			}
			row++
			longest = max(longest, row)
		}
		if counts["a"] != 500 || counts["b"] != 100 || counts["c"] != 100 {
			t.Errorf("got %v, want 5:1:1", counts)
		}
		if longest > 5 {
			t.Errorf("%d calls in a row to one target: not spread", longest)
		}
	})
}

func TestTargetThatRefusesIsSkippedForEveryMethod(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		w.add("a:80", nil).refuse(true)
		w.add("b:80", nil)
		p := w.pool(policy.Endpoints{}, "a", "b")
		for _, method := range []string{"GET", "POST"} {
			for range 2 {
				o := do(context.Background(), p, method, strings.NewReader("body"), 4)
				if o.status != 200 || o.target != "b" {
					t.Errorf("%s: got %+v", method, o)
				}
			}
		}
	})
}

func TestOnlyWhatIsSafeOrNeverSentIsRepeated(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		a, b := w.add("a:80", breaks), w.add("b:80", nil)
		p := w.pool(policy.Endpoints{Retry: policy.Retry{Count: 3}}, "a", "b")
		if o := get(p); o.status != 200 || o.retries != 1 {
			t.Errorf("GET: got %+v", o)
		}
		a.seen()
		b.seen()
		get(p) // b's turn
		b.seen()
		o := do(context.Background(), p, "POST", strings.NewReader("body"), 4)
		if !errors.Is(o.err, ErrBroken) || o.retries != 0 || a.seen() != 1 || b.seen() != 0 {
			t.Errorf("POST that was sent: got %+v", o)
		}
	})
}

func TestLeastPendingTakesTheIdleOne(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		release := make(chan struct{})
		slow := func(rw http.ResponseWriter, _ *http.Request) { <-release }
		a, b := w.add("a:80", slow), w.add("b:80", slow)
		p := w.pool(policy.Endpoints{Kind: policy.LeastPending}, "a*3", "b*1")
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { get(p) })
			synctest.Wait()
		}
		if x, y := a.seen(), b.seen(); x != 6 || y != 2 {
			t.Errorf("in flight: %d and %d, want 6 and 2", x, y)
		}
		close(release)
		wg.Wait()
		var turns []string
		for range 4 {
			turns = append(turns, get(p).target)
		}
		if slices.Equal(turns, []string{"a", "a", "a", "a"}) || slices.Equal(turns, []string{"b", "b", "b", "b"}) {
			t.Errorf("all idle: got %v, want turns", turns)
		}
	})
}

func TestFailover(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		a, b := w.add("a:80", nil), w.add("b:80", nil)
		p := w.pool(policy.Endpoints{Kind: policy.Failover}, "a*1", "b*9")
		for range 3 {
			if o := get(p); o.target != "a" {
				t.Errorf("first works: got %+v", o)
			}
		}
		for _, status := range []int{501, 502, 503, 504} {
			a.set(says(status))
			if o := get(p); o.target != "b" || o.status != 200 || o.retries != 1 {
				t.Errorf("%d: got %+v", status, o)
			}
			if o := do(context.Background(), p, "POST", nil, 0); o.status != status || o.target != "a" {
				t.Errorf("%d to POST: got %+v: what was sent is not repeated", status, o)
			}
		}
		a.set(says(500))
		if o := get(p); o.target != "a" || o.status != 500 {
			t.Errorf("500 is an answer: got %+v", o)
		}
		a.refuse(true)
		a.server.Close()
		if o := get(p); o.target != "b" || o.status != 200 {
			t.Errorf("refused: got %+v", o)
		}
		a.refuse(false)
		b.set(says(503))
		b.refuse(true)
		b.server.Close()
	})
}

func TestLastAnswerOfAFailoverGoesToTheClient(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		w.add("a:80", says(503))
		w.add("b:80", says(502))
		p := w.pool(policy.Endpoints{Kind: policy.Failover}, "a", "b")
		if o := get(p); o.status != 502 || o.target != "b" || o.retries != 1 {
			t.Errorf("got %+v, want the 502 of b", o)
		}
	})
}

func TestRetriesGrowTheirWaitAndReturnTheLastAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		a := w.add("a:80", says(503))
		p := w.pool(policy.Endpoints{Retry: policy.Retry{Count: 4, Interval: time.Second, Factor: 2, MaxWait: 3 * time.Second, Statuses: []uint16{503}}}, "a")
		o := get(p)
		if o.status != 503 || o.retries != 4 || a.seen() != 5 {
			t.Errorf("got %+v", o)
		}
		if want := (1 + 2 + 3 + 3) * time.Second; o.took != want {
			t.Errorf("took %s, want %s", o.took, want)
		}
		a.set(says(500))
		if o := get(p); o.status != 500 || o.retries != 0 {
			t.Errorf("a status that is not listed: got %+v", o)
		}
		a.set(says(503))
		if o := do(context.Background(), p, "POST", nil, 0); o.status != 503 || o.retries != 0 {
			t.Errorf("POST: got %+v", o)
		}
		n := 0
		a.set(func(rw http.ResponseWriter, _ *http.Request) {
			if n++; n == 1 {
				rw.WriteHeader(503)
			}
		})
		if o := get(p); o.status != 200 || o.retries != 1 {
			t.Errorf("well the second time: got %+v", o)
		}
	})
}

func TestRetriesAreATenthOfTheCalls(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		a := w.add("a:80", says(503))
		p := w.pool(policy.Endpoints{Retry: policy.Retry{Count: 5, Statuses: []uint16{503}}}, "a")
		const calls = 1000
		for range calls {
			get(p)
		}
		if tries := a.seen() - calls; tries < calls/10 || tries > calls/10+12 {
			t.Errorf("%d more tries for %d calls, want a tenth and the first ten", tries, calls)
		}
	})
}

func TestBodyIsReplayedWhole(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		var got []int
		var last []byte
		fail := func(rw http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			got = append(got, len(b))
			last = b
			rw.WriteHeader(503)
		}
		w.add("a:80", fail)
		p := w.pool(policy.Endpoints{Retry: policy.Retry{Count: 2, Statuses: []uint16{503}}}, "a")
		body := bytes.Repeat([]byte("0123456789abcdef"), 4<<10) // 64 KiB
		for _, tc := range []struct {
			name   string
			body   []byte
			length int64
			tries  int
		}{
			{"short", body[:10], 10, 3},
			{"as long as is kept", body, int64(len(body)), 3},
			{"of unknown length", body[:5000], -1, 3},
			{"longer", append(slices.Clone(body), 'x'), int64(len(body)) + 1, 1},
			{"longer, of unknown length", append(slices.Clone(body), 'x'), -1, 1},
		} {
			got = nil
			o := do(context.Background(), p, "PUT", struct{ io.Reader }{bytes.NewReader(tc.body)}, tc.length)
			if o.status != 503 || len(got) != tc.tries {
				t.Errorf("%s: got %+v in tries of %v bytes, want %d tries", tc.name, o, got, tc.tries)
				continue
			}
			for _, n := range got {
				if n != len(tc.body) {
					t.Errorf("%s: a try had %d bytes, want %d", tc.name, n, len(tc.body))
				}
			}
			if !bytes.Equal(last, tc.body) {
				t.Errorf("%s: the last try had another body", tc.name)
			}
		}
	})
}

func TestTimes(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		a := w.add("a:80", hangs)
		o := get(w.pool(policy.Endpoints{Timeout: 3 * time.Second}, "a"))
		if !errors.Is(o.err, ErrTimeout) || o.took != 3*time.Second {
			t.Errorf("one try: got %+v", o)
		}
		o = get(w.pool(policy.Endpoints{}, "a"))
		if !errors.Is(o.err, ErrTimeout) || o.took != DefaultTimeout {
			t.Errorf("no time given: got %+v", o)
		}
		o = get(w.pool(policy.Endpoints{Timeout: 3 * time.Second, Overall: 7 * time.Second, Retry: policy.Retry{Count: 9}}, "a"))
		if !errors.Is(o.err, ErrTimeout) || o.took != 7*time.Second || o.retries != 2 {
			t.Errorf("all tries: got %+v", o)
		}
		o = get(w.pool(policy.Endpoints{Timeout: time.Second, Overall: 10 * time.Second, Retry: policy.Retry{Count: 9, Interval: time.Minute}}, "a"))
		if !errors.Is(o.err, ErrTimeout) || o.took != 10*time.Second {
			t.Errorf("within a wait: got %+v", o)
		}
		a.set(func(rw http.ResponseWriter, r *http.Request) {
			rw.WriteHeader(200)
			for range 5 {
				time.Sleep(time.Second)
				_, _ = io.WriteString(rw, "x")
				_ = http.NewResponseController(rw).Flush()
			}
		})
		o = get(w.pool(policy.Endpoints{Timeout: 2 * time.Second, Overall: 2 * time.Second}, "a"))
		if o.err != nil || o.body != "xxxxx" {
			t.Errorf("body after the time: got %+v: a stream is not cut", o)
		}
		ctx, cancel := context.WithCancel(context.Background())
		a.set(hangs)
		time.AfterFunc(time.Second, cancel)
		o = do(ctx, w.pool(policy.Endpoints{Retry: policy.Retry{Count: 3}}, "a"), "GET", nil, 0)
		if !errors.Is(o.err, context.Canceled) || o.took != time.Second || o.retries != 0 {
			t.Errorf("client gone: got %+v", o)
		}
	})
}

func TestKeptConnectionThatEndedIsNoFailure(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		n := 0
		a := w.add("a:80", func(rw http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			if n++; n%2 == 0 {
				panic(http.ErrAbortHandler) // on the connection that was kept
			}
			_, _ = rw.Write(b)
		})
		p := w.pool(policy.Endpoints{Breaker: &policy.Breaker{Window: time.Minute, Volume: 1, Share: 0, Reset: time.Hour}}, "a")
		get(p)
		if o := do(context.Background(), p, "PUT", strings.NewReader("body"), 4); o.status != 200 || o.body != "body" || o.retries != 0 {
			t.Errorf("got %+v", o)
		}
		if a.seen() != 3 {
			t.Error("it was not tried on another connection")
		}
	})
}
