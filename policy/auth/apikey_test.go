package auth_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/fault"
	"tidegate/policy/policytest"
	"time"
)

func newCall(target string) *policytest.Call { return policytest.New("GET", "/meters/1.2.0"+target) }

// hashedKeys returns k once for each text, in order.
func hashedKeys(k policy.HashedKey, texts ...string) []policy.HashedKey {
	var out []policy.HashedKey
	for _, s := range texts {
		k.Hash = sha256.Sum256([]byte(s))
		out = append(out, k)
	}
	return out
}

const (
	freeKey    = "tg_free_0123456789abcdef"
	appKey     = "tg_app_0123456789abcdef"
	boundKey   = "tg_bound_0123456789abcdef"
	pumpsKey   = "tg_pumps_0123456789abcdef"
	oldKey     = "tg_old_0123456789abcdef"
	revokedKey = "tg_revoked_0123456789abcdef"
	heldKey    = "tg_held_0123456789abcdef"
	sandKey    = "tg_sand_0123456789abcdef"
)

func keySet(t testing.TB) *policy.Set {
	set := base(t)
	k := slices.Concat(
		hashedKeys(policy.HashedKey{Name: "free"}, freeKey),
		hashedKeys(policy.HashedKey{Name: "app", Application: "app-a"}, appKey),
		hashedKeys(policy.HashedKey{Name: "bound", APIs: []policy.APIID{{Name: "Meters", Version: "*"}}}, boundKey),
		hashedKeys(policy.HashedKey{Name: "pumps", APIs: []policy.APIID{{Name: "Pumps", Version: "2.0"}}}, pumpsKey),
		hashedKeys(policy.HashedKey{Name: "old", Expires: uint64(noon.Unix())}, oldKey),
		hashedKeys(policy.HashedKey{Name: "revoked"}, revokedKey),
		hashedKeys(policy.HashedKey{Name: "held", Application: "app-hold"}, heldKey),
		hashedKeys(policy.HashedKey{Name: "sand", KeyType: policy.Sandbox, Application: "app-prod"}, sandKey),
	)
	slices.SortFunc(k, func(a, b policy.HashedKey) int { return bytes.Compare(a.Hash[:], b.Hash[:]) })
	set.APIKeys = policy.APIKeys{Keys: k, Issuers: []policy.Issuer{{
		Name: "keys", Issuer: "https://localhost:9095/apikey", Algorithms: []string{"RS256"},
		Keys: []policy.Key{{ID: "ballerina", PKIX: public(t, otherRSA())}},
	}}}
	set.Revoked = revoked(revoke(policy.RevokedKey, []byte(revokedKey)))
	return set
}

// keyClaims are those of a signed key, as the key generator of WSO2 writes it.
func keyClaims(more m) m {
	c := m{
		"iss": "https://localhost:9095/apikey", "sub": "admin", "jti": "k-1", "iat": noon.Unix(), "keytype": "PRODUCTION",
		"allowedAPIs": []m{{"name": "Meters", "versions": "1.1.0, 1.2.0"}},
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

func TestAPIKeys(t *testing.T) {
	set := keySet(t)
	strict := keySet(t)
	strict.APIKeys.RequireAllowed = true
	lax := open(t, set, auth.Options{})
	lax.cache = auth.NewCache(256)
	req := open(t, strict, auth.Options{})
	signed := func(c m) string { return mint(t, "RS256", otherRSA(), m{"kid": "ballerina"}, keyClaims(c)) }
	header := func(v string) *policytest.Call { return newCall("/key").Add("x-api-key", v) }
	for _, tc := range []struct {
		name string
		g    *gate
		call *policytest.Call
		want *fault.Fault
		who  string
		plan string
	}{
		{"header", lax, header(freeKey), nil, "free", policy.Unauthenticated},
		{"query", lax, newCall("/key?a=b&apikey=" + freeKey), nil, "free", policy.Unauthenticated},
		{"query, escaped", lax, newCall("/key?%61pikey=" + strings.Replace(url.QueryEscape(freeKey), "free", "%66ree", 1)), nil, "free", policy.Unauthenticated},
		{"cookie", lax, newCall("/key").Add("Cookie", "a=b; key="+freeKey+"; c=d"), nil, "free", policy.Unauthenticated},
		{"cookie in a second line", lax, newCall("/key").Add("Cookie", "a=b").Add("Cookie", `key="`+freeKey+`"`), nil, "free", policy.Unauthenticated},
		{"subscribed application", lax, header(appKey), nil, "app", "Gold"},
		{"for this API", lax, header(boundKey), nil, "bound", policy.Unauthenticated},
		{"sandbox key of a production block", lax, header(sandKey), nil, "sand", "Gold"},
		{"signed", lax, header(signed(nil)), nil, "admin", policy.Unauthenticated},
		{"signed, allowed required", req, header(signed(nil)), nil, "admin", policy.Unauthenticated},
		{"signed, any version", req, header(signed(m{"allowedAPIs": []m{{"name": "Meters", "version": "*"}}})), nil, "admin", policy.Unauthenticated},
		{"signed, none allowed, not asked", lax, header(signed(m{"allowedAPIs": nil})), nil, "admin", policy.Unauthenticated},
		{"for another API", lax, header(pumpsKey), fault.ResourceForbidden, "", ""},
		{"application on hold", lax, header(heldKey), fault.SubscriptionHold, "", ""},
		{"expired", lax, header(oldKey), fault.InvalidCredentials, "", ""},
		{"revoked", lax, header(revokedKey), fault.InvalidCredentials, "", ""},
		{"unknown", lax, header("tg_unknown_0123456789abcdef"), fault.InvalidCredentials, "", ""},
		{"its hash", lax, header(sha256Hash(freeKey)[8:]), fault.InvalidCredentials, "", ""},
		{"one byte more", lax, header(freeKey + "0"), fault.InvalidCredentials, "", ""},
		{"capitals", lax, header(strings.ToUpper(freeKey)), fault.InvalidCredentials, "", ""},
		{"too long", lax, header(strings.Repeat("k", 8<<10+1)), fault.InvalidCredentials, "", ""},
		{"two headers", lax, header(freeKey).Add("x-api-key", freeKey), fault.InvalidCredentials, "", ""},
		{"twice in the query", lax, newCall("/key?apikey=x&apikey=" + freeKey), fault.InvalidCredentials, "", ""},
		{"twice in the query, once escaped", lax, newCall("/key?%61pikey=x&apikey=" + freeKey), fault.InvalidCredentials, "", ""},
		{"twice in cookies", lax, newCall("/key").Add("Cookie", "key=x").Add("Cookie", "key="+freeKey), fault.InvalidCredentials, "", ""},
		{"bad escape", lax, newCall("/key?apikey=%zz"), fault.InvalidCredentials, "", ""},
		{"empty", lax, newCall("/key?apikey=").Add("x-api-key", ""), fault.MissingCredentials, "", ""},
		{"in a place not declared", lax, newCall("/key").Add("apikey", freeKey), fault.MissingCredentials, "", ""},
		{"as a bearer token", lax, newCall("/key").Add("Authorization", "Bearer "+freeKey), fault.InvalidScheme, "", ""},
		{"signed by somebody else", lax, header(mint(t, "RS256", rsaKey(), m{"kid": "ballerina"}, keyClaims(nil))), fault.InvalidCredentials, "", ""},
		{"signed, unknown alias", lax, header(mint(t, "RS256", otherRSA(), m{"kid": "x"}, keyClaims(nil))), fault.InvalidCredentials, "", ""},
		{"signed, expired", lax, header(signed(m{"exp": noon.Unix()})), fault.InvalidCredentials, "", ""},
		{"signed, none allowed", req, header(signed(m{"allowedAPIs": nil})), fault.InvalidCredentials, "", ""},
		{"signed, empty list", req, header(signed(m{"allowedAPIs": []m{}})), fault.InvalidCredentials, "", ""},
		{"signed, another API", req, header(signed(m{"allowedAPIs": []m{{"name": "Pumps", "version": "*"}}})), fault.ResourceForbidden, "", ""},
		{"a token as key", lax, header(mint(t, "RS256", rsaKey(), nil, claims(nil))), fault.InvalidCredentials, "", ""},
	} {
		for range 2 {
			p, err := tc.g.call(t, tc.call)
			check(t, tc.name, p, err, tc.want)
			if err == nil && tc.want == nil && (p.Kind != policy.APIKey || p.Subject != tc.who || p.SubscriptionPlan != tc.plan) {
				t.Errorf("%s: got %+v", tc.name, p)
			}
		}
	}
}

func TestAKeyIsNoTokenAlsoOutOfTheCache(t *testing.T) {
	set := keySet(t)
	g := open(t, set, auth.Options{})
	g.cache = auth.NewCache(64)
	key := mint(t, "RS256", otherRSA(), m{"kid": "ballerina"}, keyClaims(m{"exp": noon.Add(time.Hour).Unix()}))
	p, err := g.call(t, newCall("/key").Add("x-api-key", key))
	check(t, "as a key", p, err, nil)
	p, err = g.call(t, newCall("/jwt").Add("Authorization", "Bearer "+key))
	check(t, "as a token", p, err, fault.InvalidCredentials)
}

func TestAKeyIsJudgedPerAPI(t *testing.T) {
	g := open(t, keySet(t), auth.Options{})
	g.cache = auth.NewCache(64)
	for range 2 {
		p, err := g.call(t, policytest.New("GET", "/pumps/2.0/key", "x-api-key", pumpsKey))
		check(t, "its API", p, err, nil)
		p, err = g.call(t, newCall("/key").Add("x-api-key", pumpsKey))
		check(t, "another API", p, err, fault.ResourceForbidden)
	}
}

func TestASignedKeyRevokedByItsTextIsRevokedInEverySpelling(t *testing.T) {
	key := mint(t, "ES256", p256(), nil, keyClaims(nil))
	head, sig := key[:strings.LastIndexByte(key, '.')+1], key[strings.LastIndexByte(key, '.')+1:]
	b, err := base64.RawURLEncoding.DecodeString(sig)
	if err != nil {
		t.Fatal(err)
	}
	s := new(big.Int).SetBytes(b[32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(b[32:])
	spellings := []string{key, key + "==", head + b64(b), head + b64(b) + "=="}
	for i := -1; i < len(spellings); i++ {
		set := base(t)
		set.APIKeys.Issuers = []policy.Issuer{{
			Name: "keys", Issuer: "https://localhost:9095/apikey", Algorithms: []string{"ES256"},
			Keys: []policy.Key{{PKIX: public(t, p256())}},
		}}
		var want *fault.Fault
		if i >= 0 {
			set.Revoked, want = revoked(revoke(policy.RevokedKey, []byte(spellings[i]))), fault.InvalidCredentials
		}
		g := open(t, set, auth.Options{})
		for _, k := range spellings {
			p, err := g.call(t, newCall("/key").Add("x-api-key", k))
			check(t, k[len(head):], p, err, want)
		}
	}
}

func TestCarriersAreTheDeclaredPlaces(t *testing.T) {
	set := base(t)
	set.APIs[0].AuthHeader = "x-auth"
	g := open(t, set, auth.Options{})
	header, query, cookie := auth.Carrier{In: policy.InHeader, Name: "X-Api-Key"}, auth.Carrier{In: policy.InQuery, Name: "apikey"}, auth.Carrier{In: policy.InCookie, Name: "key"}
	credential := auth.Carrier{In: policy.InHeader, Name: "X-Auth"}
	for path, want := range map[string][]auth.Carrier{
		"/open": nil, "/jwt": {credential}, "/key": {header, query, cookie}, "/any": {credential, header},
	} {
		m, err := g.table.Match("h", "GET", "/meters/1.2.0"+path, false)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.Carriers(&m); !slices.Equal(got, want) {
			t.Errorf("%s: got %v; want %v", path, got, want)
		}
	}
}
