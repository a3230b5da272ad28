package introspect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/fault"
	"tidegate/store"
	"time"
)

// A manager is a key manager in memory, inside a synctest bubble.
type manager struct {
	mu     sync.Mutex
	asked  int
	down   bool
	handle http.HandlerFunc
	conns  chan net.Conn
	server *http.Server
}

func newManager(handle http.HandlerFunc) *manager {
	m := &manager{handle: handle, conns: make(chan net.Conn)}
	m.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm() // to its end, so that the server sees the client leave
		m.mu.Lock()
		m.asked++
		fn := m.handle
		m.mu.Unlock()
		fn(w, r)
	})}
	go func() { _ = m.server.Serve(listener{m.conns, make(chan struct{})}) }()
	return m
}

func (m *manager) set(down bool, handle http.HandlerFunc) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down, m.handle = down, handle
}

// times returns how often it was asked since the last look.
func (m *manager) times() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.asked
	m.asked = 0
	return n
}

func (m *manager) dial(context.Context, string, string) (net.Conn, error) {
	m.mu.Lock()
	down := m.down
	m.mu.Unlock()
	if down {
		return nil, syscall.EHOSTUNREACH
	}
	a, b := net.Pipe()
	m.conns <- b
	return a, nil
}

type listener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l listener) Close() error   { close(l.done); return nil }
func (l listener) Addr() net.Addr { return &net.TCPAddr{} }

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

// start is when the tests' lower bound of time begins; it moves with the bubble's time.
var start = time.Unix(1_800_000_000, 0)

type world struct {
	*testing.T
	m     *manager
	db    *store.DB
	began time.Time
	back  time.Duration // how far the lower bound is set back
}

func bubble(t *testing.T, handle http.HandlerFunc, fn func(w *world)) {
	t.Helper()
	db, err := store.Open(filepath.Join(t.TempDir(), "state.db"), store.Options{MaxBytes: 16 << 20, Schema: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, m: newManager(handle), db: db, began: time.Now()}
		fn(w)
		_ = w.m.server.Close()
	})
}

func (w *world) now() policy.Now {
	return policy.Now{Lower: start.Add(time.Since(w.began) - w.back)}
}

func (w *world) cache() *Cache {
	w.Helper()
	c, err := Open(w.db, slog.New(slog.DiscardHandler))
	if err != nil {
		w.Fatal(err)
	}
	return c
}

func (w *world) asker(c *Cache, change func(*policy.Introspection)) *Asker {
	w.Helper()
	i := &policy.Introspection{URL: "http://km/introspect", CacheSeconds: 900}
	if change != nil {
		change(i)
	}
	a, err := New(Options{Config: i, Now: w.now, Cache: c, Log: slog.New(slog.DiscardHandler), Dial: w.m.dial})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(a.Close)
	return a
}

func question(token string) auth.Question {
	return auth.Question{Token: token, API: &policy.API{BasePath: "/meters/1.0", Version: "1.0"}, Op: &policy.Operation{}, Resource: "/r/{id}", Method: "GET"}
}

// ask returns the subject of a token, "refused", or "away".
func ask(t *testing.T, a *Asker, token string) string {
	t.Helper()
	said, err := a.Introspect(context.Background(), question(token))
	var f *fault.Error
	switch {
	case errors.As(err, &f):
		if f.Fault != fault.KeyManagerAway || f.RetryAfter <= 0 || f.RetryAfter > maxPause {
			t.Errorf("got %+v", f)
		}
		return "away"
	case err != nil:
		return err.Error()
	case !said.Active:
		return "refused"
	}
	return said.Subject
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

const yes = `{"active":true,"sub":"ann","scope":"a b"}`

func TestOneQuestionAtATimeForAToken(t *testing.T) {
	bubble(t, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Second)
		fmt.Fprintf(w, `{"active":true,"sub":%q}`, "of "+r.PostFormValue("token"))
	}, func(w *world) {
		a := w.asker(w.cache(), nil)
		var wg sync.WaitGroup
		for i := range 20 {
			token := fmt.Sprint("t", i%2)
			wg.Go(func() { want(w.T, token, ask(w.T, a, token), "of "+token) })
		}
		// One of those that wait leaves, and one that asks: neither spoils it for the others.
		ctx, cancel := context.WithCancel(context.Background())
		wg.Go(func() {
			if _, err := a.Introspect(ctx, question("t0")); err != nil && !errors.Is(err, context.Canceled) {
				w.Errorf("got %v", err)
			}
		})
		synctest.Wait()
		cancel()
		wg.Wait()
		if n := w.m.times(); n != 2 {
			w.Errorf("asked %d times for two tokens", n)
		}
		ctx, cancel = context.WithCancel(context.Background())
		wg.Go(func() { _, _ = a.Introspect(ctx, question("t9")) }) // it asks for all
		synctest.Wait()
		wg.Go(func() { want(w.T, "beside one that left", ask(w.T, a, "t9"), "of t9") })
		synctest.Wait()
		cancel()
		wg.Wait()
	})
}

func TestYesIsKeptAsLongAsThePolicyAndTheTokenSay(t *testing.T) {
	bubble(t, says(yes), func(w *world) {
		c := w.cache()
		a := w.asker(c, func(i *policy.Introspection) { i.CacheSeconds = 60 })
		ask(w.T, a, "t")
		time.Sleep(59 * time.Second)
		want(w.T, "within a minute", ask(w.T, a, "t"), "ann")
		if n := w.m.times(); n != 1 {
			w.Errorf("asked %d times", n)
		}
		time.Sleep(time.Second)
		ask(w.T, a, "t")
		if n := w.m.times(); n != 1 {
			w.Errorf("after a minute: asked %d times more, want 1", n)
		}
		w.m.set(false, says(fmt.Sprintf(`{"active":true,"sub":"bob","exp":%d}`, w.now().Lower.Add(10*time.Second).Unix())))
		ask(w.T, a, "short")
		w.m.times()
		time.Sleep(11 * time.Second)
		ask(w.T, a, "short")
		if n := w.m.times(); n != 1 {
			w.Errorf("after the token's end: asked %d times, want 1", n)
		}
		none := w.asker(c, func(i *policy.Introspection) { i.CacheSeconds = 0 })
		ask(w.T, none, "x")
		ask(w.T, none, "x")
		if n := w.m.times(); n != 2 {
			w.Errorf("nothing may be kept: asked %d times, want 2", n)
		}
	})
}

func TestNoIsKeptForHalfAMinute(t *testing.T) {
	bubble(t, says(`{"active":false}`), func(w *world) {
		a := w.asker(w.cache(), nil)
		for range 5 {
			want(w.T, "refused", ask(w.T, a, "t"), "refused")
		}
		time.Sleep(31 * time.Second)
		ask(w.T, a, "t")
		if n := w.m.times(); n != 2 {
			w.Errorf("asked %d times, want 2", n)
		}
	})
}

func TestAnswersSurviveAPowerCutAndRefusalsDoNotComeBack(t *testing.T) {
	bubble(t, says(yes), func(w *world) {
		c := w.cache()
		a := w.asker(c, nil)
		ask(w.T, a, "token-of-ann")
		if err := c.Flush(w.now().Lower); err != nil {
			w.Fatal(err)
		}
		ask(w.T, a, "young") // never written
		w.m.set(true, nil)
		a = w.asker(w.cache(), nil) // the power was cut
		want(w.T, "kept", ask(w.T, a, "token-of-ann"), "ann")
		want(w.T, "not written yet", ask(w.T, a, "young"), "away")
		said, err := a.Introspect(context.Background(), question("token-of-ann"))
		if err != nil || strings.Join(said.Scopes, " ") != "a b" || said.Claims.Text("scope") != "a b" {
			w.Errorf("got %+v, %v", said, err)
		}
		if err := w.db.View(func(tx *store.Tx) error {
			return tx.Bucket(bucket).Each(func(k, v []byte) error {
				if strings.Contains(string(k)+string(v), "token-of-ann") {
					w.Error("the token is on disk")
				}
				return nil
			})
		}); err != nil {
			w.Fatal(err)
		}
		// The clock was set back a little by the start: still no longer than allowed in all.
		w.back = 10 * time.Minute
		want(w.T, "set back ten minutes", ask(w.T, w.asker(w.cache(), nil), "token-of-ann"), "ann")
		w.back = 20 * time.Minute
		want(w.T, "set back beyond its life", ask(w.T, w.asker(w.cache(), nil), "token-of-ann"), "away")
		w.back = 0
		time.Sleep(16 * time.Minute)
		want(w.T, "after its life", ask(w.T, w.asker(w.cache(), nil), "token-of-ann"), "away")
		// A no takes the yes off the disk before anybody hears of it.
		c = w.cache()
		a = w.asker(c, nil)
		w.m.set(false, says(yes))
		time.Sleep(time.Minute)
		ask(w.T, a, "token-two-of-ann")
		if err := c.Flush(w.now().Lower); err != nil {
			w.Fatal(err)
		}
		time.Sleep(16 * time.Minute)
		w.m.set(false, says(`{"active":false}`))
		want(w.T, "refused", ask(w.T, a, "token-two-of-ann"), "refused")
		w.m.set(true, nil)
		w.back = 16 * time.Minute // so that the old yes would count
		want(w.T, "after a power cut", ask(w.T, w.asker(w.cache(), nil), "token-two-of-ann"), "away")
	})
}

func TestAnswerThatHoldsTheTokenStaysInMemory(t *testing.T) {
	bubble(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"active":true,"sub":"ann","access_token":%q}`, r.PostFormValue("token"))
	}, func(w *world) {
		c := w.cache()
		a := w.asker(c, nil)
		for range 2 {
			want(w.T, "in memory", ask(w.T, a, "secret-token"), "ann")
		}
		if err := c.Flush(w.now().Lower); err != nil {
			w.Fatal(err)
		}
		if n := w.cache().Len(); n != 0 || w.m.times() != 1 {
			w.Errorf("%d entries on disk", n)
		}
	})
}

func TestKeyManagerThatIsAwayIsNotAskedByEveryCall(t *testing.T) {
	bubble(t, nil, func(w *world) {
		w.m.set(true, nil)
		a := w.asker(w.cache(), nil)
		for i := range patience {
			want(w.T, "unreachable", ask(w.T, a, fmt.Sprint("t", i)), "away")
		}
		w.m.set(false, says(yes))
		want(w.T, "within the pause", ask(w.T, a, "t"), "away")
		if w.m.times() != 0 {
			w.Error("asked within the pause")
		}
		time.Sleep(firstPause)
		want(w.T, "after it", ask(w.T, a, "t"), "ann")
		w.m.set(false, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body); <-r.Context().Done() })
		for range patience {
			begin := time.Now()
			want(w.T, "silent", ask(w.T, a, "x"), "away")
			if took := time.Since(begin); took != askTime {
				w.Errorf("waited %s", took)
			}
		}
		time.Sleep(firstPause)
		done := make(chan string, 1)
		go func() { done <- ask(w.T, a, "probe") }()
		synctest.Wait()
		want(w.T, "beside the one that tries", ask(w.T, a, "y"), "away")
		want(w.T, "the one that tries", <-done, "away")
	})
}

// A stranger's token that the key manager chokes on must not keep others out.
func TestOneBadTokenStopsNobodyElse(t *testing.T) {
	bubble(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.PostFormValue("token"), "bad") {
			w.WriteHeader(500)
			return
		}
		_, _ = io.WriteString(w, yes)
	}, func(w *world) {
		a := w.asker(w.cache(), nil)
		for i := range 20 {
			want(w.T, "bad", ask(w.T, a, fmt.Sprint("bad", i)), "away")
			want(w.T, "good", ask(w.T, a, fmt.Sprint("good", i)), "ann")
		}
	})
}

func TestAnswersAreKeptApart(t *testing.T) {
	bubble(t, says(yes), func(w *world) {
		c := w.cache()
		ask(w.T, w.asker(c, nil), "t")
		ask(w.T, w.asker(c, func(i *policy.Introspection) { i.URL = "http://km/other" }), "t")
		if n := w.m.times(); n != 2 {
			w.Errorf("two servers: asked %d times", n)
		}
		w.m.set(false, says(envelope(`<ax:authorized>true</ax:authorized><ax:endUserName>ann</ax:endUserName>`)))
		s := w.asker(c, func(i *policy.Introspection) { i.SOAP = true })
		q := question("t")
		for _, change := range []func(){func() {}, func() {}, func() { q.Method = "POST" }, func() { q.Resource = "/x" }, func() { q.API = &policy.API{BasePath: "/b", Version: "1.0"} }} {
			change()
			if _, err := s.Introspect(context.Background(), q); err != nil {
				w.Fatal(err)
			}
		}
		if n := w.m.times(); n != 4 {
			w.Errorf("SOAP: asked %d times for four operations", n)
		}
	})
}

func TestPasswordIsNeeded(t *testing.T) {
	_, err := New(Options{Config: &policy.Introspection{URL: "http://km", Username: "gate", Password: "introspection/password"}})
	if err == nil || !strings.Contains(err.Error(), `"introspection/password"`) {
		t.Errorf("got %v", err)
	}
}
