package auth_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/fault"
	"tidegate/policy/policytest"
	"tidegate/policy/route"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// The keys of the tests, made once: an RSA key takes a while.
var (
	rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return k
	})
	otherRSA = sync.OnceValue(func() *rsa.PrivateKey {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return k
	})
	p256  = sync.OnceValue(func() *ecdsa.PrivateKey { return ecKey(elliptic.P256()) })
	p384  = sync.OnceValue(func() *ecdsa.PrivateKey { return ecKey(elliptic.P384()) })
	p521  = sync.OnceValue(func() *ecdsa.PrivateKey { return ecKey(elliptic.P521()) })
	edKey = sync.OnceValue(func() ed25519.PrivateKey {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			panic(err)
		}
		return k
	})
)

func ecKey(c elliptic.Curve) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

func public(t testing.TB, k crypto.Signer) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The time of the tests.
var (
	noon   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	proven = policy.Now{Lower: noon, Upper: noon.Add(time.Second), Boot: time.Hour}
)

type m = map[string]any

// claims of an ordinary token, as API Manager 2.6 issues it; more replaces, nil removes.
func claims(more m) m {
	c := m{
		"iss": "https://apim.example/token", "aud": "http://org.wso2.apimgt/gateway", "sub": "fitter1",
		"exp": noon.Add(time.Hour).Unix(), "iat": noon.Add(-time.Hour).UnixMilli(), "jti": "id-1",
		"keytype": "PRODUCTION", "consumerKey": "ck-1", "scope": "read default",
		"application":    m{"id": 2, "name": "TabletApp", "tier": "50PerMin", "owner": "fitter1"},
		"subscribedAPIs": []m{{"name": "Meters", "context": "/meters/1.2.0", "version": "1.2.0", "subscriptionTier": "Gold", "subscriberTenantDomain": "carbon.super"}},
	}
	for k, v := range more {
		if v == nil {
			delete(c, k)
		} else {
			c[k] = v
		}
	}
	return c
}

// mint signs a token. Header adds to or replaces the ordinary one.
func mint(t testing.TB, alg string, key any, header, claims m) string {
	t.Helper()
	return mintRaw(t, alg, key, header, mustJSON(t, claims))
}

func mintRaw(t testing.TB, alg string, key any, header m, payload []byte) string {
	t.Helper()
	h := m{"alg": alg, "typ": "JWT"}
	for k, v := range header {
		if v == nil {
			delete(h, k)
		} else {
			h[k] = v
		}
	}
	text := b64(mustJSON(t, h)) + "." + b64(payload)
	sig, err := jwt.GetSigningMethod(alg).Sign(text, key)
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64(sig)
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// base is a set with one API that has an operation for each way in, and a second API.
func base(t testing.TB) *policy.Set {
	const oauth2, basic, header, query, cookie = 0, 1, 2, 3, 4
	one := func(u ...uint32) policy.Alternative {
		var a policy.Alternative
		for _, s := range u {
			a = append(a, policy.Use{Scheme: s})
		}
		return a
	}
	api := policy.API{
		Name: "Meters", Version: "1.2.0", BasePath: "/meters/1.2.0",
		Schemes: []policy.Scheme{
			{Kind: policy.OAuth2},
			{Kind: policy.Basic},
			{Kind: policy.APIKey, In: policy.InHeader, Name: "x-api-key"},
			{Kind: policy.APIKey, In: policy.InQuery, Name: "apikey"},
			{Kind: policy.APIKey, In: policy.InCookie, Name: "key"},
		},
		Operations: []policy.Operation{
			{Method: "GET", Template: "/open"},
			{Method: "GET", Template: "/jwt", Security: []policy.Alternative{one(oauth2)}},
			{Method: "GET", Template: "/basic", Security: []policy.Alternative{one(basic)}},
			{Method: "GET", Template: "/key", Security: []policy.Alternative{one(header), one(query), one(cookie)}},
			{Method: "GET", Template: "/any", Security: []policy.Alternative{one(header), one(basic), one(oauth2)}},
			{Method: "GET", Template: "/both", Security: []policy.Alternative{one(header, oauth2)}},
			{Method: "GET", Template: "/scoped", Security: []policy.Alternative{one(oauth2), one(basic), one(header)}, Scopes: []string{"write", "admin"}},
			{Method: "GET", Template: "/orscoped", Security: []policy.Alternative{{{Scheme: oauth2, Scopes: []string{"nobody"}}}}},
		},
	}
	other := policy.API{
		Name: "Pumps", Version: "2.0", BasePath: "/pumps/2.0", Schemes: api.Schemes,
		Operations: []policy.Operation{
			{Method: "GET", Template: "/jwt", Security: []policy.Alternative{one(oauth2)}},
			{Method: "GET", Template: "/key", Security: []policy.Alternative{one(header)}},
		},
	}
	return &policy.Set{
		APIs:  []policy.API{api, other},
		Plans: []policy.Plan{{Kind: policy.SubscriptionPlan, Name: "Gold"}, {Kind: policy.SubscriptionPlan, Name: policy.DefaultPlan}},
		Issuers: []policy.Issuer{
			{
				Name: "apim", Issuer: "https://apim.example/token", Audience: []string{"http://org.wso2.apimgt/gateway"},
				Algorithms: []string{"RS256"}, SingleKey: true, Keys: []policy.Key{{ID: "alias", PKIX: public(t, rsaKey())}},
			},
			{
				Name: "jwks", Issuer: "https://idp.example", Algorithms: []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"},
				Leeway: 30, ConsumerKey: "azp", Claims: []policy.ClaimRename{{From: "scp", To: "scope"}, {From: "upn", To: "sub", Prefix: "corp-"}},
				Keys: []policy.Key{
					{ID: "rsa", PKIX: public(t, rsaKey())},
					{ID: "p256", PKIX: public(t, p256())},
					{ID: "p384", PKIX: public(t, p384())},
					{ID: "p521", PKIX: public(t, p521())},
					{ID: "ed", PKIX: public(t, edKey())},
					{ID: "pinned", Algorithm: "PS256", Thumbprint: "TP", PKIX: public(t, otherRSA())},
				},
			},
		},
		Applications: []policy.Application{
			{ID: "app-a", Name: "Reader", Owner: "owner-a", Plan: "50PerMin", Keys: []policy.ConsumerKey{{Key: "known"}, {Key: "known-sandbox", Type: policy.Sandbox}}},
			{ID: "app-b", Name: "NotSubscribed", Keys: []policy.ConsumerKey{{Key: "lonely"}}},
			{ID: "app-blocked", Keys: []policy.ConsumerKey{{Key: "blocked"}}},
			{ID: "app-prod", Keys: []policy.ConsumerKey{{Key: "prod"}, {Key: "prod-sandbox", Type: policy.Sandbox}}},
			{ID: "app-hold", Keys: []policy.ConsumerKey{{Key: "hold"}}},
			{ID: "app-inactive", Keys: []policy.ConsumerKey{{Key: "inactive"}}},
			{ID: "app-rejected", Keys: []policy.ConsumerKey{{Key: "rejected"}}},
			{ID: "app-pending", Keys: []policy.ConsumerKey{{Key: "pending"}}},
		},
		Subscriptions: []policy.Subscription{
			subscribe("app-a", "*", policy.Unblocked), subscribe("app-blocked", "1.2.0", policy.Blocked), subscribe("app-prod", "1.2.0", policy.ProdOnlyBlocked),
			subscribe("app-hold", "1.2.0", policy.OnHold), subscribe("app-inactive", "1.2.0", policy.Inactive), subscribe("app-rejected", "1.2.0", policy.Rejected),
			subscribe("app-pending", "1.2.0", policy.TierUpdatePending),
		},
	}
}

func subscribe(app, version string, s policy.SubscriptionState) policy.Subscription {
	return policy.Subscription{Application: app, API: policy.APIID{Name: "Meters", Version: version}, Plan: "Gold", State: s}
}

// revoked are revocations in order.
func revoked(list ...policy.Revocation) []policy.Revocation {
	slices.SortFunc(list, func(a, b policy.Revocation) int {
		if a.Kind != b.Kind {
			return int(a.Kind) - int(b.Kind)
		}
		return bytes.Compare(a.Hash[:], b.Hash[:])
	})
	return list
}

func revoke(k policy.RevocationKind, name []byte) policy.Revocation {
	h := sha256.Sum256(name)
	return policy.Revocation{Kind: k, Hash: [16]byte(h[:16])}
}

// unbounded lends memory without end.
type unbounded struct{}

func (unbounded) Acquire(context.Context, int64) error { return nil }
func (unbounded) Release(int64)                        {}

// gate is a Guard with the table that leads to it.
type gate struct {
	*auth.Guard
	table *route.Table
	cache auth.Cache
	now   policy.Now
}

func open(t testing.TB, set *policy.Set, o auth.Options) *gate {
	t.Helper()
	if o.Memory == nil {
		o.Memory = unbounded{}
	}
	g, err := auth.New(set, o)
	if err != nil {
		t.Fatal(err)
	}
	table, err := route.New(set)
	if err != nil {
		t.Fatal(err)
	}
	return &gate{Guard: g, table: table, now: proven}
}

// ask sends a call to a path below the first API, or to a whole path.
func (g *gate) ask(t testing.TB, target string, fields ...string) (*policy.Principal, error) {
	t.Helper()
	if !strings.HasPrefix(target, "/pumps") {
		target = "/meters/1.2.0" + target
	}
	return g.call(t, policytest.New("GET", target, fields...))
}

func (g *gate) call(t testing.TB, c *policytest.Call) (*policy.Principal, error) {
	t.Helper()
	match, err := g.table.Match(c.Host(), c.Method(), c.Path(), c.TLS() != nil)
	if err != nil {
		t.Fatal(err)
	}
	return g.Authenticate(context.Background(), c, &match, g.now, g.cache)
}

// check fails unless err is the fault wanted, with its status and a challenge with each 401; nil
// wants success.
func check(t testing.TB, name string, p *policy.Principal, err error, want *fault.Fault) {
	t.Helper()
	if want == nil {
		if err != nil {
			t.Errorf("%s: refused: %v", name, err)
		}
		return
	}
	var e *fault.Error
	if !errors.As(err, &e) {
		t.Errorf("%s: got %+v, %v; want %d/%d", name, p, err, want.Code, want.Status)
		return
	}
	if e.Fault.Code != want.Code || e.Fault.Status != want.Status {
		t.Errorf("%s: got %d/%d (%v); want %d/%d", name, e.Fault.Code, e.Fault.Status, e.Err, want.Code, want.Status)
	}
	if p != nil {
		t.Errorf("%s: refused, and a principal %+v", name, p)
	}
	if (e.Fault.Status == 401) != (e.Challenge != "") && e.Fault.Status != 403 {
		t.Errorf("%s: %d with the challenge %q", name, e.Fault.Status, e.Challenge)
	}
}

func rs256(t testing.TB, text string) []byte {
	t.Helper()
	sig, err := jwt.SigningMethodRS256.Sign(text, rsaKey())
	if err != nil {
		t.Fatal(err)
	}
	return sig
}
