package auth_test

import (
	"errors"
	"slices"
	"testing"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/fault"
	"time"
)

// While no key of an issuer is known nothing can be said of its tokens: 503. As soon as one is, a
// token that it did not sign is refused as ever.
func TestIssuerWhoseKeysAreFetched(t *testing.T) {
	const url = "https://idp.example/keys"
	set := base(t)
	jwks := &set.Issuers[1]
	keys := jwks.Keys
	jwks.JWKSURL, jwks.Keys = url, nil
	set.APIKeys.Issuers = []policy.Issuer{{Name: "portal", Issuer: "https://portal.example", Algorithms: []string{"RS256"}, JWKSURL: url + "2"}}
	var missing []string
	g := open(t, set, auth.Options{MissingKey: func(u string) { missing = append(missing, u) }})
	ofFetched := func(kid string) string {
		return "Bearer " + mint(t, "RS256", rsaKey(), m{"kid": kid}, claims(m{"iss": "https://idp.example", "azp": "x", "subscribedAPIs": nil}))
	}
	p, err := g.ask(t, "/jwt", "Authorization", ofFetched("rsa"))
	check(t, "no key yet", p, err, fault.KeyManagerAway)
	if e := (*fault.Error)(nil); !errors.As(err, &e) || e.RetryAfter < time.Second {
		t.Errorf("no Retry-After: %+v", e)
	}
	p, err = g.ask(t, "/key", "X-Api-Key", mint(t, "RS256", rsaKey(), nil, m{"iss": "https://portal.example", "sub": "s"}))
	check(t, "signed API key, no key yet", p, err, fault.KeyManagerAway)
	p, err = g.ask(t, "/jwt", "Authorization", "Bearer "+mint(t, "RS256", rsaKey(), nil, claims(nil)))
	check(t, "another issuer", p, err, nil)
	p, err = g.ask(t, "/jwt", "Authorization", "Bearer "+mint(t, "RS256", rsaKey(), nil, claims(m{"iss": "https://nobody.example"})))
	check(t, "unknown issuer", p, err, fault.InvalidCredentials)
	p, err = g.ask(t, "/jwt", "Authorization", "Bearer "+mint(t, "RS256", rsaKey(), m{"crit": []string{"x"}}, claims(m{"iss": "https://idp.example"})))
	check(t, "wrong by itself", p, err, fault.InvalidCredentials)
	if want := []string{url, url + "2"}; !slices.Equal(missing, want) {
		t.Errorf("told of %v, want %v", missing, want)
	}

	missing = nil
	jwks.Keys = keys
	g = open(t, set, auth.Options{MissingKey: func(u string) { missing = append(missing, u) }})
	p, err = g.ask(t, "/jwt", "Authorization", ofFetched("rsa"))
	check(t, "key known", p, err, nil)
	if len(missing) != 0 {
		t.Errorf("told of %v for a key that is there", missing)
	}
	p, err = g.ask(t, "/jwt", "Authorization", ofFetched("rotated"))
	check(t, "unknown kid", p, err, fault.InvalidCredentials)
	if !slices.Equal(missing, []string{url}) {
		t.Errorf("told of %v, want the URL", missing)
	}
}

// A cache may live longer than a Guard: what another Guard verified does not count.
func TestCacheDoesNotOutliveAChangeOfKeys(t *testing.T) {
	set := base(t)
	old := open(t, set, auth.Options{})
	old.cache = auth.NewCache(64)
	token := "Bearer " + mint(t, "RS256", rsaKey(), nil, claims(nil))
	for range 2 {
		p, err := old.ask(t, "/jwt", "Authorization", token)
		check(t, "old keys", p, err, nil)
	}
	next := *set
	next.Issuers = slices.Clone(set.Issuers)
	next.Issuers[0].Keys = []policy.Key{{PKIX: public(t, otherRSA())}}
	g := open(t, &next, auth.Options{})
	g.cache = old.cache
	p, err := g.ask(t, "/jwt", "Authorization", token)
	check(t, "after the change", p, err, fault.InvalidCredentials)
}
