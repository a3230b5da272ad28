package jwks

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"tidegate/appliance/upstream"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"tidegate/store"
	"time"
)

// A source is a URL in memory.
type source struct {
	mu     sync.Mutex
	asked  []time.Time
	status int
	body   string
	header wire.Header
	err    error
}

func (s *source) fetch(context.Context, *upstream.Site) (*upstream.Answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, time.Now())
	if s.err != nil {
		return nil, s.err
	}
	return &upstream.Answer{Status: s.status, Header: s.header, Body: []byte(s.body)}, nil
}

func (s *source) set(err error, status int, body string, header ...wire.Field) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.status, s.body, s.header = err, status, body, header
}

// times returns when it was asked since the last look.
func (s *source) times() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.asked
	s.asked = nil
	return t
}

// key returns a new key as policy has it, and as a member of a set.
func key(t *testing.T, kid string) (policy.Key, string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	enc := base64.RawURLEncoding.EncodeToString
	return policy.Key{ID: kid, PKIX: der}, fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":%q,"x":%q,"y":%q}`, kid, enc(b[1:33]), enc(b[33:]))
}

func setOf(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

const url = "https://issuer.example/keys"

func issuers(url string, keys ...policy.Key) *policy.Set {
	return &policy.Set{Issuers: []policy.Issuer{{Name: "i", Issuer: "i", Algorithms: []string{"ES256"}, Keys: keys, JWKSURL: url}}}
}

func database(t *testing.T) *store.DB {
	t.Helper()
	db, err := store.Open(filepath.Join(t.TempDir(), "state.db"), store.Options{MaxBytes: 16 << 20, Schema: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// world is a follower of one source, whose URL is asked in memory.
type world struct {
	*testing.T
	f       *Follower
	s       *source
	db      *store.DB
	changed int
}

func bubble(t *testing.T, fn func(w *world)) {
	t.Helper()
	db := database(t)
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, s: &source{status: 200}, db: db}
		w.f = w.open()
		fn(w)
	})
}

func (w *world) open() *Follower {
	w.Helper()
	f, err := Open(Options{DB: w.db, Log: slog.New(slog.DiscardHandler), Changed: func() { w.changed++ }})
	if err != nil {
		w.Fatal(err)
	}
	f.ask = w.s.fetch
	return f
}

// follow follows set, with the source in the place of its URL.
func (w *world) follow(set *policy.Set) {
	w.Helper()
	if err := w.f.Follow(set, nil); err != nil {
		w.Fatal(err)
	}
}

// run runs the follower until the returned function is called.
func (w *world) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.f.Run(ctx) }()
	synctest.Wait()
	return func() { cancel(); <-done }
}

// ids returns the kids that count for the first issuer.
func ids(f *Follower, set *policy.Set) string {
	var out []string
	for _, k := range f.Apply(set).Issuers[0].Keys {
		out = append(out, k.ID)
	}
	return strings.Join(out, " ")
}

func (w *world) want(what, got, want string) {
	w.Helper()
	if got != want {
		w.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestCopyCountsAndOutlivesTheLink(t *testing.T) {
	bubble(t, func(w *world) {
		old, _ := key(w.T, "bundled")
		_, a := key(w.T, "a")
		_, b := key(w.T, "b")
		set := issuers(url, old)
		w.s.set(nil, 200, setOf(a))
		w.follow(set)
		w.want("before a fetch", ids(w.f, set), "bundled")
		stop := w.run()
		w.want("after it", ids(w.f, set), "a")
		if w.changed != 1 || set.Issuers[0].Keys[0].ID != "bundled" {
			w.Errorf("told %d times; the set of the bundle must not change", w.changed)
		}
		w.s.set(nil, 200, setOf(a, b))
		time.Sleep(usual)
		synctest.Wait()
		w.want("after an hour", ids(w.f, set), "a b")
		for name, bad := range map[string]func(){
			"no link":     func() { w.s.set(errors.New("no route"), 0, "") },
			"status 500":  func() { w.s.set(nil, 500, setOf(a)) },
			"status 302":  func() { w.s.set(nil, 302, "") },
			"HTML":        func() { w.s.set(nil, 200, "<html>") },
			"no key":      func() { w.s.set(nil, 200, setOf()) },
			"private key": func() { w.s.set(nil, 200, setOf(a, `{"kty":"oct","k":"AA"}`)) },
		} {
			bad()
			w.s.times()
			time.Sleep(2 * usual)
			synctest.Wait()
			if len(w.s.times()) == 0 {
				w.Errorf("%s: not asked", name)
			}
			w.want(name, ids(w.f, set), "a b")
		}
		stop()
		w.want("after a restart", ids(w.open(), set), "a b")
		if w.changed != 2 {
			w.Errorf("told %d times, want 2", w.changed)
		}
	})
}

func TestBundleWithOtherKeysCountsUntilTheNextFetch(t *testing.T) {
	bubble(t, func(w *world) {
		first, _ := key(w.T, "first")
		second, _ := key(w.T, "second")
		_, a := key(w.T, "a")
		w.s.set(nil, 200, setOf(a))
		w.follow(issuers(url, first))
		stop := w.run()
		w.want("fetched", ids(w.f, issuers(url, first)), "a")
		w.want("a newer bundle", ids(w.f, issuers(url, second)), "second")
		w.s.set(errors.New("no link"), 0, "")
		w.follow(issuers(url, second))
		time.Sleep(time.Hour)
		synctest.Wait()
		w.want("a newer bundle without a link", ids(w.f, issuers(url, second)), "second")
		w.s.set(nil, 200, setOf(a))
		time.Sleep(time.Hour)
		synctest.Wait()
		w.want("and with one", ids(w.f, issuers(url, second)), "a")
		stop()
	})
}

func TestTimesOfFetches(t *testing.T) {
	bubble(t, func(w *world) {
		_, a := key(w.T, "a")
		w.s.set(nil, 200, setOf(a), wire.Field{Name: "Cache-Control", Value: "public, max-age=7200"})
		w.follow(issuers(url))
		stop := w.run()
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		if n := len(w.s.times()); n != 6 {
			w.Errorf("%d fetches in ten hours of max-age two hours, want 6", n)
		}
		w.s.set(errors.New("no link"), 0, "")
		time.Sleep(2 * time.Hour)
		w.s.times()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n := len(w.s.times()); n < 96 || n > 192 {
			w.Errorf("%d fetches in a day without a link, want one in %s to %s", n, longest/2, longest)
		}
		stop()
	})
	for v, want := range map[string]time.Duration{"": usual, "no-store": usual, "max-age=1": soonest, "max-age=99999999": latest, `MAX-AGE="600"`: 10 * time.Minute, "max-age=-1": usual, "max-age=x": usual} {
		if got := freshness(wire.Header{{Name: "cache-control", Value: v}}); got != want {
			t.Errorf("%q: got %s, want %s", v, got, want)
		}
	}
}

func TestFailuresWaitLongerAndLonger(t *testing.T) {
	bubble(t, func(w *world) {
		w.s.set(errors.New("no link"), 0, "")
		w.follow(issuers(url))
		stop := w.run()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		at := w.s.times()
		for i := 1; i < len(at); i++ {
			wait := min(firstWait<<(i-1), longest)
			if d := at[i].Sub(at[i-1]); d < wait/2 || d > wait {
				w.Errorf("wait %d: %s, want %s to %s", i, d, wait/2, wait)
			}
		}
		if len(at) < 5 {
			w.Errorf("%d tries in ten minutes", len(at))
		}
		stop()
	})
}

func TestUnknownKeyIsLookedForButNotByEveryToken(t *testing.T) {
	bubble(t, func(w *world) {
		_, a := key(w.T, "a")
		_, b := key(w.T, "b")
		set := issuers(url)
		w.s.set(nil, 200, setOf(a))
		w.follow(set)
		stop := w.run()
		w.s.times()
		w.s.set(nil, 200, setOf(b))
		for range 1000 {
			w.f.Missing(url)
			w.f.Missing("https://of-nobody.example")
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		if n := len(w.s.times()); n < 3 || n > 4 {
			w.Errorf("%d fetches in 100 s of unknown keys, want one in %s", n, onDemand)
		}
		w.want("found", ids(w.f, set), "b")
		stop()
	})
}

func TestKeysThatFitNoAlgorithmAreLeftOut(t *testing.T) {
	bubble(t, func(w *world) {
		_, a := key(w.T, "a")
		ed := `{"kty":"OKP","crv":"Ed25519","kid":"ed","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`
		old, _ := key(w.T, "bundled")
		set := issuers(url, old)
		w.s.set(nil, 200, setOf(ed, a))
		w.follow(set)
		stop := w.run()
		w.want("one of two fits", ids(w.f, set), "a")
		w.s.set(nil, 200, setOf(ed))
		time.Sleep(usual)
		synctest.Wait()
		w.want("none fits", ids(w.f, set), "bundled")
		stop()
	})
}

func TestNothingIsFollowedWithoutABundle(t *testing.T) {
	bubble(t, func(w *world) {
		w.s.set(errors.New("no link"), 0, "")
		w.follow(issuers(url))
		stop := w.run()
		if err := w.f.Follow(nil, nil); err != nil {
			w.Fatal(err)
		}
		synctest.Wait()
		w.s.times()
		time.Sleep(48 * time.Hour)
		synctest.Wait()
		if n := len(w.s.times()); n != 0 {
			w.Errorf("%d fetches for nobody", n)
		}
		stop()
	})
}

func TestCopiesAreBounded(t *testing.T) {
	bubble(t, func(w *world) {
		_, a := key(w.T, "a")
		w.s.set(nil, 200, setOf(a))
		for i := range maxCopies + 10 {
			w.follow(issuers(fmt.Sprintf("https://issuer%d.example/keys", i)))
			stop := w.run()
			stop()
		}
		last := issuers(fmt.Sprintf("https://issuer%d.example/keys", maxCopies+9))
		f := w.open()
		if len(f.copies) != maxCopies {
			w.Errorf("%d copies on disk, want %d", len(f.copies), maxCopies)
		}
		w.want("the newest", ids(f, last), "a")
	})
}

func TestDamagedCopyIsToldAndTheBundleCounts(t *testing.T) {
	db := database(t)
	if err := db.Update(func(tx *store.Tx) error { return tx.Bucket(bucket).Put(name(url), []byte{0xff}) }); err != nil {
		t.Fatal(err)
	}
	f, err := Open(Options{DB: db})
	if err == nil {
		t.Error("damage was not told")
	}
	old, _ := key(t, "bundled")
	if got := ids(f, issuers(url, old)); got != "bundled" {
		t.Errorf("got %q", got)
	}
}

func TestURLThatCannotBeFetchedIsTold(t *testing.T) {
	f, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Follow(issuers("ftp://x"), nil); err == nil || !strings.Contains(err.Error(), `issuer "i": jwks_url`) {
		t.Errorf("got %v", err)
	}
}
