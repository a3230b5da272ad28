package auth_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/fault"
	"time"
)

// late is a list of revocations that grows.
type late struct {
	mu         sync.Mutex
	generation uint64
	list       map[policy.RevocationKind]map[[16]byte]uint64
	asked      int
}

func (l *late) add(k policy.RevocationKind, name []byte, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.list == nil {
		l.list = map[policy.RevocationKind]map[[16]byte]uint64{}
	}
	if l.list[k] == nil {
		l.list[k] = map[[16]byte]uint64{}
	}
	h := sha256.Sum256(name)
	var u uint64
	if !until.IsZero() {
		u = uint64(until.Unix())
	}
	l.list[k][[16]byte(h[:16])] = u
	l.generation++
}

func (l *late) Generation() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.generation
}

func (l *late) Until(k policy.RevocationKind, hash [16]byte) (uint64, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	u, ok := l.list[k][hash]
	return u, ok
}

// names are what a token of claims(nil) can be revoked by.
func names(t testing.TB, token string) map[string]policy.Revocation {
	t.Helper()
	sig, err := base64.RawURLEncoding.DecodeString(token[strings.LastIndexByte(token, '.')+1:])
	if err != nil {
		t.Fatal(err)
	}
	return map[string]policy.Revocation{
		"id":          revoke(policy.RevokedID, []byte("id-1")),
		"signature":   revoke(policy.RevokedSignature, sig),
		"consumer":    revoke(policy.RevokedConsumer, []byte("ck-1")),
		"application": revoke(policy.RevokedApplication, []byte("2")),
		"user":        revoke(policy.RevokedUser, []byte("fitter1")),
		"user@tenant": revoke(policy.RevokedUser, []byte("fitter1@carbon.super")),
	}
}

func TestEveryKindOfRevocationInTheBundle(t *testing.T) {
	token := mint(t, "RS256", rsaKey(), nil, claims(nil))
	for name, r := range names(t, token) {
		set := base(t)
		// among others that sort before and behind it
		set.Revoked = revoked(r, policy.Revocation{Kind: r.Kind}, policy.Revocation{Kind: r.Kind, Hash: [16]byte{0: 255, 1: 255}}, revoke(policy.RevokedKey, []byte("x")))
		g := open(t, set, auth.Options{})
		g.cache = auth.NewCache(16)
		for range 2 {
			p, err := g.ask(t, "/jwt", "Authorization", "Bearer "+token)
			check(t, name, p, err, fault.InvalidCredentials)
		}
	}
	set := base(t)
	set.Revoked = revoked(revoke(policy.RevokedID, []byte("id-2")), revoke(policy.RevokedConsumer, []byte("id-1")), revoke(policy.RevokedUser, []byte("ck-1")))
	p, err := open(t, set, auth.Options{}).ask(t, "/jwt", "Authorization", "Bearer "+token)
	check(t, "names of other kinds", p, err, nil)
}

func TestALateRevocationEndsWhatIsCached(t *testing.T) {
	token := mint(t, "RS256", rsaKey(), nil, claims(nil))
	for name, r := range names(t, token) {
		list := new(late)
		g := open(t, base(t), auth.Options{Revoked: list})
		g.cache = auth.NewCache(16)
		for i := range 3 {
			p, err := g.ask(t, "/jwt", "Authorization", "Bearer "+token)
			check(t, name+", before", p, err, nil)
			if err == nil && p.Cached != (i > 0) {
				t.Errorf("%s: call %d: cached is %v", name, i, p.Cached)
			}
		}
		list.mu.Lock()
		list.list = map[policy.RevocationKind]map[[16]byte]uint64{r.Kind: {r.Hash: 0}}
		list.generation++
		list.mu.Unlock()
		for range 2 {
			p, err := g.ask(t, "/jwt", "Authorization", "Bearer "+token)
			check(t, name+", after", p, err, fault.InvalidCredentials)
		}
	}
}

func TestLateRevocationsOfLoginsKeysAndCertificates(t *testing.T) {
	set := keySet(t)
	set.Users = users(t)
	list := new(late)
	g := open(t, set, auth.Options{Revoked: list})
	g.cache = auth.NewCache(16)
	for _, tc := range []struct {
		name, path, header, value string
		kind                      policy.RevocationKind
		revoke                    string
	}{
		{"login", "/basic", "Authorization", basicHeader("sha256", "two"), policy.RevokedUser, "sha256"},
		{"key", "/key", "X-Api-Key", freeKey, policy.RevokedKey, freeKey},
		{"key's application", "/key", "X-Api-Key", appKey, policy.RevokedApplication, "app-a"},
	} {
		for range 2 {
			p, err := g.ask(t, tc.path, tc.header, tc.value)
			check(t, tc.name+", before", p, err, nil)
		}
		list.add(tc.kind, []byte(tc.revoke), time.Time{})
		p, err := g.ask(t, tc.path, tc.header, tc.value)
		check(t, tc.name+", after", p, err, fault.InvalidCredentials)
	}
	root := issue(t, "CA", nil, nil)
	good := issue(t, "good", root, nil)
	g = open(t, mutualSet(t, policy.MutualMandatory, true, policy.ClientCA{Name: "ca", Authorities: [][]byte{root.Raw}}), auth.Options{Revoked: list})
	g.cache = auth.NewCache(16)
	for range 2 {
		p, err := g.call(t, present(newCall("/jwt"), good))
		check(t, "certificate, before", p, err, nil)
	}
	list.add(policy.RevokedKey, good.Raw, time.Time{})
	p, err := g.call(t, present(newCall("/jwt"), good))
	check(t, "certificate, after", p, err, fault.InvalidCredentials)
}

func TestOnlyTheLowerBoundEndsARevocation(t *testing.T) {
	token := "Bearer " + mint(t, "RS256", rsaKey(), nil, claims(nil))
	set := base(t)
	r := revoke(policy.RevokedID, []byte("id-1"))
	r.Until = uint64(noon.Unix())
	set.Revoked = revoked(r)
	g := open(t, set, auth.Options{})
	g.now = policy.Now{Lower: noon.Add(-time.Second), Upper: noon.Add(time.Hour)}
	p, err := g.ask(t, "/jwt", "Authorization", token)
	check(t, "the time may be before its end", p, err, fault.InvalidCredentials)
	g.now.Lower = noon
	p, err = g.ask(t, "/jwt", "Authorization", token)
	check(t, "over", p, err, nil)
}

func TestTheLateListIsAskedAgainOnlyWhenItGrew(t *testing.T) {
	list := new(late)
	g := open(t, base(t), auth.Options{Revoked: list})
	g.cache = auth.NewCache(16)
	token := "Bearer " + mint(t, "RS256", rsaKey(), nil, claims(nil))
	ask := func() int {
		before := list.asked
		p, err := g.ask(t, "/jwt", "Authorization", token)
		check(t, "token", p, err, nil)
		return list.asked - before
	}
	ask()
	if ask() == 0 {
		t.Error("the first hit did not ask")
	}
	if n := ask(); n != 0 {
		t.Errorf("the second hit asked %d times", n)
	}
	list.add(policy.RevokedID, []byte("somebody else"), time.Time{})
	if ask() == 0 {
		t.Error("a list that grew was not asked")
	}
}

func TestAnExpiredTokenIsNotServedOutOfTheCache(t *testing.T) {
	g := open(t, base(t), auth.Options{})
	g.cache = auth.NewCache(16)
	token := "Bearer " + mint(t, "RS256", rsaKey(), nil, claims(nil))
	p, err := g.ask(t, "/jwt", "Authorization", token)
	check(t, "before", p, err, nil)
	g.now = policy.Now{Lower: noon.Add(time.Hour), Upper: noon.Add(time.Hour)}
	p, err = g.ask(t, "/jwt", "Authorization", token)
	check(t, "after", p, err, fault.InvalidCredentials)
}

func TestACacheDoesNotOutliveItsGuard(t *testing.T) {
	cache := auth.NewCache(16)
	root := issue(t, "CA", nil, nil)
	good := issue(t, "good", root, nil)
	first := mutualSet(t, policy.MutualOptional, false, policy.ClientCA{Name: "ca", Authorities: [][]byte{root.Raw}})
	first.Users, first.APIKeys = users(t), keySet(t).APIKeys
	g := open(t, first, auth.Options{})
	token := "Bearer " + mint(t, "RS256", rsaKey(), nil, claims(nil))
	// The next edition has other keys, users, authorities.
	second := mutualSet(t, policy.MutualOptional, false, policy.ClientCA{Name: "ca", Authorities: [][]byte{issue(t, "CA", nil, nil).Raw}})
	second.Issuers[0].Keys[0].PKIX = public(t, otherRSA())
	h := open(t, second, auth.Options{})
	// Replay hands each entry of the first Guard to the second, whatever key it asks for.
	replay := &replay{Cache: cache}
	g.cache, h.cache = replay, replay
	for _, tc := range []struct {
		name, path, header, value string
		want                      *fault.Fault
	}{
		{"token", "/jwt", "Authorization", token, fault.InvalidCredentials},
		{"login", "/basic", "Authorization", basicHeader("sha256", "two"), fault.InvalidLogin},
		{"key", "/key", "X-Api-Key", freeKey, fault.InvalidCredentials},
		{"certificate", "/cert", "", "", fault.InvalidCredentials},
	} {
		c := newCall(tc.path)
		if tc.header != "" {
			c.Add(tc.header, tc.value)
		} else {
			present(c, good)
		}
		replay.hand = false
		p, err := g.call(t, c)
		check(t, tc.name+", first edition", p, err, nil)
		replay.hand = true
		p, err = h.call(t, c)
		check(t, tc.name+", second edition", p, err, tc.want)
	}
}

// replay is a hostile cache: when hand is set, it answers every question with the entry that
// was put last.
type replay struct {
	auth.Cache
	last *auth.Verified
	hand bool
}

func (r *replay) Put(key [32]byte, v *auth.Verified) { r.last = v; r.Cache.Put(key, v) }

func (r *replay) Get(key [32]byte) (*auth.Verified, bool) {
	if r.hand {
		return r.last, r.last != nil
	}
	return r.Cache.Get(key)
}

func TestACollisionInTheCacheLetsNobodyIn(t *testing.T) {
	set := keySet(t)
	set.Users = users(t)
	root := issue(t, "CA", nil, nil)
	good, bad := issue(t, "good", root, nil), issue(t, "bad", issue(t, "CA", nil, nil), nil)
	set.ClientCAs = []policy.ClientCA{{Name: "ca", Authorities: [][]byte{root.Raw}}}
	set.APIs[0].MutualTLS = policy.MutualOptional
	g := open(t, set, auth.Options{})
	r := &replay{Cache: auth.NewCache(16)}
	g.cache = r
	for _, c := range []*struct{ path, header, value string }{
		{"/jwt", "Authorization", "Bearer " + mint(t, "RS256", rsaKey(), nil, claims(nil))},
		{"/key", "X-Api-Key", freeKey},
	} {
		r.hand = false
		p, err := g.ask(t, c.path, c.header, c.value)
		check(t, c.path, p, err, nil)
		r.hand = true
		p, err = g.ask(t, "/jwt", "Authorization", "Bearer "+mint(t, "RS256", otherRSA(), nil, claims(nil)))
		check(t, "another token", p, err, fault.InvalidCredentials)
		p, err = g.ask(t, "/key", "X-Api-Key", "x")
		check(t, "another key", p, err, fault.InvalidCredentials)
	}
	r.hand = false
	p, err := g.call(t, present(newCall("/jwt").Add("Authorization", "Bearer x"), good))
	check(t, "certificate and no token", p, err, fault.InvalidCredentials)
	r.hand = true
	p, err = g.call(t, present(newCall("/open"), bad))
	if err != nil || p.Certificate != nil {
		t.Errorf("an open operation: %+v %v", p, err)
	}
	p, err = g.call(t, present(newCall("/jwt").Add("Authorization", "Bearer "+mint(t, "RS256", rsaKey(), nil, claims(nil))), bad))
	check(t, "another certificate", p, err, fault.InvalidCredentials)
}

// Once a revocation has been added, no call that starts later may pass, whatever other calls
// are under way with the same entry of the cache.
func TestNoCallThatStartsAfterARevocationPasses(t *testing.T) {
	token := "Bearer " + mint(t, "EdDSA", edKey(), nil, jwks(m{"jti": "shared"}))
	for range 50 {
		list := new(late)
		g := open(t, base(t), auth.Options{Revoked: list})
		g.cache = auth.NewCache(16)
		match, err := g.table.Match("h", "GET", "/meters/1.2.0/jwt", false)
		if err != nil {
			t.Fatal(err)
		}
		ask := func() error {
			_, err := g.Authenticate(context.Background(), newCall("/jwt").Add("Authorization", token), &match, g.now, g.cache)
			return err
		}
		if err := ask(); err != nil {
			t.Fatal(err)
		}
		var added atomic.Bool
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					over := added.Load()
					err := ask()
					if over && err == nil {
						t.Error("a call passed after the revocation")
					}
					if over {
						return
					}
				}
			})
		}
		for i := range 10 { // others first, so that the list is asked while it grows
			list.add(policy.RevokedID, []byte{byte(i)}, time.Time{})
		}
		list.add(policy.RevokedID, []byte("shared"), time.Time{})
		added.Store(true)
		wg.Wait()
	}
}

// meanwhile is a list to which an entry is added while it is being asked: one that was asked for
// a moment ago.
type meanwhile struct {
	late
	entry policy.Revocation
	armed bool
}

func (l *meanwhile) Until(k policy.RevocationKind, hash [16]byte) (uint64, bool) {
	u, ok := l.late.Until(k, hash)
	if l.armed && k == l.entry.Kind && hash == l.entry.Hash {
		l.armed = false
		l.mu.Lock()
		l.list = map[policy.RevocationKind]map[[16]byte]uint64{k: {hash: 0}}
		l.generation++
		l.mu.Unlock()
	}
	return u, ok
}

func TestARevocationThatArrivesDuringTheLookIsSeenByTheNextCall(t *testing.T) {
	list := &meanwhile{entry: revoke(policy.RevokedID, []byte("id-1"))}
	g := open(t, base(t), auth.Options{Revoked: list})
	g.cache = auth.NewCache(16)
	token := "Bearer " + mint(t, "RS256", rsaKey(), nil, claims(nil))
	p, err := g.ask(t, "/jwt", "Authorization", token)
	check(t, "first", p, err, nil)
	list.armed = true
	p, err = g.ask(t, "/jwt", "Authorization", token)
	check(t, "during", p, err, nil)
	if list.armed {
		t.Fatal("the list was not asked")
	}
	p, err = g.ask(t, "/jwt", "Authorization", token)
	check(t, "after", p, err, fault.InvalidCredentials)
}
