package auth_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/policytest"
	"tidegate/policy/route"
)

// crowded is the set of the tests with 100,000 revocations, API keys and applications.
func crowded(tb testing.TB) *policy.Set {
	const n = 100_000
	set := base(tb)
	set.Users = users(tb)
	set.Revoked = make([]policy.Revocation, n)
	set.APIKeys.Keys = make([]policy.HashedKey, n, n+1)
	for i := range n {
		h := sha256.Sum256(binary.AppendUvarint(nil, uint64(i)))
		set.Revoked[i] = policy.Revocation{Kind: policy.RevocationKind(i%6 + 1), Hash: [16]byte(h[:16])}
		set.APIKeys.Keys[i] = policy.HashedKey{Hash: h}
		id := fmt.Sprintf("bulk-%06d", i)
		set.Applications = append(set.Applications, policy.Application{ID: id, Name: id, Keys: []policy.ConsumerKey{{Key: "ck-" + id}}})
		set.Subscriptions = append(set.Subscriptions, subscribe(id, "*", policy.Unblocked))
	}
	set.Revoked = revoked(set.Revoked...)
	set.APIKeys.Keys = append(set.APIKeys.Keys, hashedKeys(policy.HashedKey{Name: "one", Application: "bulk-050000"}, freeKey)...)
	slices.SortFunc(set.APIKeys.Keys, func(a, b policy.HashedKey) int { return bytes.Compare(a.Hash[:], b.Hash[:]) })
	return set
}

type step struct {
	name string
	call *policytest.Call
}

func steps(tb testing.TB) []step {
	jwt := func(alg string, key any, c m) *policytest.Call {
		return newCall("/jwt").Add("Authorization", "Bearer "+mint(tb, alg, key, nil, c))
	}
	return []step{
		{"open", newCall("/open")},
		{"RS256", jwt("RS256", rsaKey(), claims(nil))},
		{"RS256 by consumer key", jwt("RS256", rsaKey(), claims(m{"subscribedAPIs": nil, "consumerKey": "ck-bulk-050000"}))},
		{"ES256", jwt("ES256", p256(), jwks(nil))},
		{"EdDSA", jwt("EdDSA", edKey(), jwks(nil))},
		{"API key", newCall("/key").Add("X-Api-Key", freeKey)},
		{"login SHA-256", newCall("/basic").Add("Authorization", basicHeader("sha256", "two"))},
	}
}

func run(b *testing.B, g *gate, c *policytest.Call) {
	b.Helper()
	match, err := g.table.Match(c.Host(), c.Method(), c.Path(), false)
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	if _, err := g.Authenticate(ctx, c, &match, g.now, g.cache); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.Authenticate(ctx, c, &match, g.now, g.cache); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFirst is the cost of a credential that nobody remembers, with 100,000 revocations,
// API keys and applications.
func BenchmarkFirst(b *testing.B) {
	g := open(b, crowded(b), auth.Options{})
	for _, s := range steps(b) {
		b.Run(s.name, func(b *testing.B) { run(b, g, s.call) })
	}
}

// BenchmarkAgain is the cost of a credential out of the cache, beside 100,000 revocations and a
// list of later ones.
func BenchmarkAgain(b *testing.B) {
	g := open(b, crowded(b), auth.Options{Revoked: new(late)})
	g.cache = auth.NewCache(1024)
	for _, s := range steps(b) {
		b.Run(s.name, func(b *testing.B) { run(b, g, s.call) })
	}
}

// BenchmarkRefused is the cost of a forged token.
func BenchmarkRefused(b *testing.B) {
	g := open(b, base(b), auth.Options{})
	c := newCall("/jwt").Add("Authorization", "Bearer "+mint(b, "RS256", otherRSA(), nil, claims(nil)))
	match, err := g.table.Match(c.Host(), c.Method(), c.Path(), false)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.Authenticate(context.Background(), c, &match, g.now, nil); err == nil {
			b.Fatal("accepted")
		}
	}
}

func BenchmarkNew100000Consumers(b *testing.B) {
	set := crowded(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := auth.New(set, auth.Options{Memory: unbounded{}}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestAHitAllocatesNothing(t *testing.T) {
	g := open(t, keySetWithUsers(t), auth.Options{Revoked: new(late)})
	g.cache = auth.NewCache(1024)
	for _, s := range steps(t) {
		var match route.Match
		match, err := g.table.Match(s.call.Host(), s.call.Method(), s.call.Path(), false)
		if err != nil {
			t.Fatal(err)
		}
		n := testing.AllocsPerRun(200, func() {
			if _, err := g.Authenticate(context.Background(), s.call, &match, g.now, g.cache); err != nil {
				t.Fatal(s.name, err)
			}
		})
		if n > 0 {
			t.Errorf("%s: %v allocations", s.name, n)
		}
	}
}

func keySetWithUsers(t testing.TB) *policy.Set {
	set := keySet(t)
	set.Users = users(t)
	return set
}

func BenchmarkCertificate(b *testing.B) {
	root := issue(b, "CA", nil, nil)
	good := issue(b, "press-7", root, nil)
	g := open(b, mutualSet(b, policy.MutualMandatory, true, policy.ClientCA{Name: "ca", Authorities: [][]byte{root.Raw}}), auth.Options{})
	call := present(newCall("/jwt"), good)
	b.Run("first", func(b *testing.B) { run(b, g, call) })
	g.cache = auth.NewCache(64)
	b.Run("again", func(b *testing.B) { run(b, g, call) })
}
