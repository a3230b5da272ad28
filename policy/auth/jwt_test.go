package auth_test

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/fault"
	"time"
)

// jwks are the claims of an ordinary token of the second issuer.
func jwks(more m) m {
	c := m{"iss": "https://idp.example", "sub": "anna", "exp": noon.Add(time.Hour).Unix()}
	for k, v := range more {
		if v == nil {
			delete(c, k)
		} else {
			c[k] = v
		}
	}
	return c
}

func TestTokensThatCount(t *testing.T) {
	g := open(t, base(t), auth.Options{})
	pad := func(s string) string {
		p := strings.Split(s, ".")
		for i := range p {
			p[i] += strings.Repeat("=", (4-len(p[i])%4)%4)
		}
		return strings.Join(p, ".")
	}
	// A padded token is signed over its padded text.
	padded := func() string {
		h := mustJSON(t, m{"alg": "RS256", "typ": "JWT"})
		text := base64.URLEncoding.EncodeToString(h) + "." + base64.URLEncoding.EncodeToString(mustJSON(t, claims(nil)))
		return text + "." + pad(strings.Split(sign(t, text), ".")[2])
	}
	for name, token := range map[string]string{
		"as APIM 2.6 issues it":    mint(t, "RS256", rsaKey(), m{"x5t": "whatever"}, claims(nil)),
		"padded":                   padded(),
		"unknown kid, certificate": mint(t, "RS256", rsaKey(), m{"kid": "other"}, claims(nil)),
		"at+jwt":                   mint(t, "RS256", rsaKey(), m{"typ": "at+jwt"}, claims(nil)),
		"application/at+JWT":       mint(t, "RS256", rsaKey(), m{"typ": "application/at+JWT"}, claims(nil)),
		"no typ":                   mint(t, "RS256", rsaKey(), m{"typ": nil}, claims(nil)),
		"jku is not followed":      mint(t, "RS256", rsaKey(), m{"jku": "https://evil.example/keys", "x5u": "x", "jwk": m{"kty": "oct"}}, claims(nil)),
		"exp in milliseconds":      mint(t, "RS256", rsaKey(), nil, claims(m{"exp": noon.Add(time.Hour).UnixMilli()})),
		"exp with a fraction":      mint(t, "RS256", rsaKey(), nil, claims(m{"exp": float64(noon.Unix()) + 60.5})),
		"iat in the future":        mint(t, "RS256", rsaKey(), nil, claims(m{"iat": noon.Add(time.Hour).Unix()})),
		"audience list":            mint(t, "RS256", rsaKey(), nil, claims(m{"aud": []string{"x", "http://org.wso2.apimgt/gateway"}})),
		"no jti":                   mint(t, "RS256", rsaKey(), nil, claims(m{"jti": nil})),
		"RS384 kid":                mint(t, "RS384", rsaKey(), m{"kid": "rsa"}, jwks(nil)),
		"RS512 no kid":             mint(t, "RS512", rsaKey(), nil, jwks(nil)),
		"PS256 by x5t":             mint(t, "PS256", otherRSA(), m{"x5t": "TP"}, jwks(nil)),
		"PS256 each key":           mint(t, "PS256", otherRSA(), nil, jwks(nil)),
		"PS384":                    mint(t, "PS384", rsaKey(), m{"kid": "rsa"}, jwks(nil)),
		"PS512":                    mint(t, "PS512", rsaKey(), m{"kid": "rsa"}, jwks(nil)),
		"ES256":                    mint(t, "ES256", p256(), m{"kid": "p256"}, jwks(nil)),
		"ES384":                    mint(t, "ES384", p384(), nil, jwks(nil)),
		"ES512":                    mint(t, "ES512", p521(), nil, jwks(nil)),
		"EdDSA":                    mint(t, "EdDSA", edKey(), nil, jwks(nil)),
		"expired within leeway":    mint(t, "EdDSA", edKey(), nil, jwks(m{"exp": noon.Unix() - 29})),
		"nbf within leeway":        mint(t, "EdDSA", edKey(), nil, jwks(m{"nbf": noon.Unix() + 31})),
	} {
		p, err := g.ask(t, "/jwt", "Authorization", "Bearer "+token)
		check(t, name, p, err, nil)
		if err == nil && (p.Kind != policy.OAuth2 || p.Subject == "") {
			t.Errorf("%s: got %+v", name, p)
		}
	}
}

// sign returns text with its RS256 signature.
func sign(t testing.TB, text string) string {
	t.Helper()
	return text + "." + b64(rs256(t, text))
}

func TestHostileTokens(t *testing.T) {
	g := open(t, base(t), auth.Options{})
	good := mint(t, "RS256", rsaKey(), nil, claims(nil))
	part := strings.Split(good, ".")
	ed := mint(t, "EdDSA", edKey(), nil, jwks(nil))
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	// flip the unused bits of the last character of a 256-byte signature (2 bytes in the last group)
	trailing := func(s string) string {
		const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		i := strings.IndexByte(digits, s[len(s)-1])
		return s[:len(s)-1] + string(digits[i^1])
	}
	raw := func(payload string) string { return mintRaw(t, "RS256", rsaKey(), nil, []byte(payload)) }
	for _, tc := range []struct{ name, token, reason string }{
		{"alg none", b64([]byte(`{"alg":"none"}`)) + "." + part[1] + ".", "is not well-formed"},
		{"alg None", b64([]byte(`{"alg":"None"}`)) + "." + part[1] + "." + part[2], "is not well-formed"},
		{"alg none with a signature", b64([]byte(`{"alg":"none"}`)) + "." + part[1] + "." + part[2], "signature does not fit"},
		{"HMAC with the public key", mint(t, "HS256", public(t, rsaKey()), nil, claims(nil)), "signature does not fit"},
		{"alg is a number", b64([]byte(`{"alg":256}`)) + "." + part[1] + "." + part[2], "is not well-formed"},
		{"alg not allowed by the issuer", mint(t, "RS512", rsaKey(), nil, claims(nil)), "no key of the issuer may check"},
		{"other type of key", mint(t, "ES256", p256(), nil, claims(nil)), "no key of the issuer may check"},
		{"curve of another algorithm", mint(t, "ES384", p384(), m{"kid": "p256"}, jwks(nil)), "names a key the issuer does not have"},
		{"key pinned to another algorithm", mint(t, "RS256", otherRSA(), m{"kid": "pinned"}, jwks(nil)), "names a key the issuer does not have"},
		{"unknown kid, key set", mint(t, "RS256", rsaKey(), m{"kid": "other"}, jwks(nil)), "names a key the issuer does not have"},
		{"kid is a list", mint(t, "RS256", rsaKey(), m{"kid": []string{"rsa"}}, jwks(nil)), "header asks for something that is not understood"},
		{"foreign key", mint(t, "RS256", weak, nil, claims(nil)), "signature does not fit"},
		{"foreign key in jwk", mint(t, "RS256", weak, m{"jwk": m{"kty": "RSA", "n": b64(weak.N.Bytes()), "e": "AQAB"}}, claims(nil)), "signature does not fit"},
		{"crit", mint(t, "RS256", rsaKey(), m{"crit": []string{"zz"}}, claims(nil)), "header asks for something that is not understood"},
		{"empty crit", mint(t, "RS256", rsaKey(), m{"crit": []string{}}, claims(nil)), "header asks for something that is not understood"},
		{"b64", mint(t, "RS256", rsaKey(), m{"b64": false}, claims(nil)), "header asks for something that is not understood"},
		{"zip", mint(t, "RS256", rsaKey(), m{"zip": "DEF"}, claims(nil)), "header asks for something that is not understood"},
		{"token for another use", mint(t, "RS256", rsaKey(), m{"typ": "logout+jwt"}, claims(nil)), "header asks for something that is not understood"},
		{"unknown issuer", mint(t, "RS256", rsaKey(), nil, claims(m{"iss": "https://evil.example"})), "issuer is not known"},
		{"issuer with a slash more", mint(t, "RS256", rsaKey(), nil, claims(m{"iss": "https://apim.example/token/"})), "issuer is not known"},
		{"no issuer", mint(t, "RS256", rsaKey(), nil, claims(m{"iss": nil})), "issuer is not known"},
		{"issuer is a list", mint(t, "RS256", rsaKey(), nil, claims(m{"iss": []string{"https://apim.example/token"}})), "issuer is not known"},
		{"other audience", mint(t, "RS256", rsaKey(), nil, claims(m{"aud": "x"})), "is not for this gateway"},
		{"no audience", mint(t, "RS256", rsaKey(), nil, claims(m{"aud": nil})), "is not for this gateway"},
		{"expired", mint(t, "RS256", rsaKey(), nil, claims(m{"exp": noon.Unix() - 1})), "is expired"},
		{"expires now", mint(t, "RS256", rsaKey(), nil, claims(m{"exp": noon.Unix()})), "is expired"},
		{"expired beyond leeway", mint(t, "EdDSA", edKey(), nil, jwks(m{"exp": noon.Unix() - 30})), "is expired"},
		{"expired in milliseconds", mint(t, "RS256", rsaKey(), nil, claims(m{"exp": noon.Add(-time.Hour).UnixMilli()})), "is expired"},
		{"no exp", mint(t, "RS256", rsaKey(), nil, claims(m{"exp": nil})), "has no exp"},
		{"exp is null", raw(`{"iss":"https://apim.example/token","aud":"http://org.wso2.apimgt/gateway","exp":null}`), "has no exp"},
		{"exp is text", mint(t, "RS256", rsaKey(), nil, claims(m{"exp": "9999999999"})), "a time in the token is not a number"},
		{"exp beyond floats", raw(`{"iss":"https://apim.example/token","aud":"http://org.wso2.apimgt/gateway","exp":1e999}`), "a time in the token is not a number"},
		{"EXP is not exp", mint(t, "RS256", rsaKey(), nil, claims(m{"exp": noon.Unix() - 1, "EXP": noon.Unix() + 999})), "is expired"},
		{"exp twice", raw(`{"iss":"https://apim.example/token","aud":"http://org.wso2.apimgt/gateway","exp":1,"exp":9999999999}`), "a member appears twice"},
		{"nbf in the future", mint(t, "RS256", rsaKey(), nil, claims(m{"nbf": noon.Unix() + 60})), "is not valid yet"},
		{"payload is null", raw(`null`), "not a JSON object"},
		{"payload is a list", raw(`[]`), "not a JSON object"},
		{"payload is no JSON", raw(`{"iss"`), "is not well-formed"},
		{"payload with something behind", raw(string(mustJSON(t, claims(nil))) + "{}"), "is not well-formed"},
		{"payload is not UTF-8", raw("{\"iss\":\"https://apim.example/token\",\"x\":\"\xff\"}"), "not UTF-8"},
		{"subscribedAPIs is text", mint(t, "RS256", rsaKey(), nil, claims(m{"subscribedAPIs": "Meters"})), "is not well-formed"},
		{"application is text", mint(t, "RS256", rsaKey(), nil, claims(m{"application": "2"})), "is not well-formed"},
		{"changed payload", part[0] + "." + b64(mustJSON(t, claims(m{"sub": "admin"}))) + "." + part[2], "signature does not fit"},
		{"no signature", part[0] + "." + part[1] + ".", "is not well-formed"},
		{"cut signature", good[:len(good)-2], "signature does not fit"},
		{"unused bits of the signature", trailing(ed), "is not well-formed"},
		{"line break in the signature", part[0] + "." + part[1] + "." + part[2][:40] + "\n" + part[2][40:], "is not well-formed"},
		{"half a padding", part[0] + "." + part[1] + "." + part[2] + "=", "is not well-formed"},
		{"padding over", part[0] + "====" + "." + part[1] + "." + part[2], "is not a JWT, and no key manager is configured to ask"},
		{"standard base64", part[0] + "." + part[1] + "." + base64.StdEncoding.EncodeToString(make([]byte, 256)), "signature does not fit"},
		{"blank behind", good + " x", "is not well-formed"},
		{"five parts", good + "." + part[0] + "." + part[1], "is not a JWT, and no key manager is configured to ask"},
		{"two parts", part[0] + "." + part[1], "is not a JWT, and no key manager is configured to ask"},
		{"opaque", "0123456789abcdef", "is not a JWT, and no key manager is configured to ask"},
		{"too long", mint(t, "RS256", rsaKey(), nil, claims(m{"x": strings.Repeat("x", 8<<10)})), "is longer than 8 KiB"},
	} {
		p, err := g.ask(t, "/jwt", "Authorization", "Bearer "+tc.token)
		check(t, tc.name, p, err, fault.InvalidCredentials)
		if err != nil && !strings.Contains(err.Error(), tc.reason) {
			t.Errorf("%s: the log says %q; want %q", tc.name, err, tc.reason)
		}
	}
}

func TestTheOtherSignatureOfECDSAIsRevokedToo(t *testing.T) {
	token := mint(t, "ES256", p256(), nil, jwks(nil))
	i := strings.LastIndexByte(token, '.')
	sig, err := base64.RawURLEncoding.DecodeString(token[i+1:])
	if err != nil {
		t.Fatal(err)
	}
	s := new(big.Int).SetBytes(sig[32:])
	s.Sub(elliptic.P256().Params().N, s)
	twin := append([]byte(nil), sig...)
	s.FillBytes(twin[32:])
	set := base(t)
	g := open(t, set, auth.Options{})
	p, err := g.ask(t, "/jwt", "Authorization", "Bearer "+token[:i+1]+b64(twin))
	check(t, "(r, n-s) before", p, err, nil)
	set.Revoked = revoked(revoke(policy.RevokedSignature, sig[:32]))
	g = open(t, set, auth.Options{})
	for name, tok := range map[string]string{"(r, s)": token, "(r, n-s)": token[:i+1] + b64(twin)} {
		p, err := g.ask(t, "/jwt", "Authorization", "Bearer "+tok)
		check(t, name, p, err, fault.InvalidCredentials)
	}
}

func TestRenamedAndRequiredClaims(t *testing.T) {
	set := base(t)
	set.Issuers[1].Required = []policy.ClaimRule{{Name: "site", Values: []string{"plant-1", "plant-2"}}, {Name: "sub"}}
	g := open(t, set, auth.Options{})
	for _, tc := range []struct {
		name string
		c    m
		want *fault.Fault
	}{
		{"all there", m{"site": "plant-2", "scp": []string{"write", "read"}, "upn": "corp-eva", "azp": "known"}, nil},
		{"one of a list", m{"site": []string{"x", "plant-1"}, "scp": []string{"write"}, "upn": "corp-eva", "azp": "known"}, nil},
		{"other value", m{"site": "plant-3", "scp": []string{"write"}}, fault.InvalidCredentials},
		{"absent", m{"scp": []string{"write"}}, fault.InvalidCredentials},
		{"null", m{"site": nil, "scp": []string{"write"}}, fault.InvalidCredentials},
		{"empty list", m{"site": []string{}, "scp": []string{"write"}}, fault.InvalidCredentials},
	} {
		p, err := g.ask(t, "/scoped", "Authorization", "bearer "+mint(t, "EdDSA", edKey(), nil, jwks(tc.c)))
		check(t, tc.name, p, err, tc.want)
		if tc.want == nil && err == nil && (p.Subject != "eva" || p.ConsumerKey != "known" || !strings.HasPrefix(p.Claims.Text("scope"), "write")) {
			t.Errorf("%s: got %+v", tc.name, p)
		}
	}
}

func TestTimeWithoutProof(t *testing.T) {
	for _, tc := range []struct {
		name string
		rule policy.Unproven
		boot time.Duration
		exp  time.Duration
		want *fault.Fault
	}{
		{"floor accepts", policy.UnprovenFloor, time.Hour, time.Minute, nil},
		{"floor refuses what is surely over", policy.UnprovenFloor, time.Hour, -time.Minute, fault.InvalidCredentials},
		{"strict", policy.UnprovenStrict, time.Hour, time.Minute, fault.ClockUnproven},
		{"strict, surely over", policy.UnprovenStrict, time.Hour, -time.Minute, fault.InvalidCredentials},
		{"within grace", policy.UnprovenGrace, 10 * time.Minute, time.Minute, nil},
		{"after grace", policy.UnprovenGrace, 10*time.Minute + time.Second, time.Minute, fault.ClockUnproven},
	} {
		set := base(t)
		set.Issuers[0].Unproven, set.Issuers[0].UnprovenGrace = tc.rule, 600
		g := open(t, set, auth.Options{})
		g.cache = auth.NewCache(16)
		token := "Bearer " + mint(t, "RS256", rsaKey(), nil, claims(m{"exp": noon.Add(tc.exp).Unix(), "nbf": noon.Add(time.Hour).Unix()}))
		for _, how := range []string{"first", "again"} {
			g.now = policy.Now{Lower: noon, Boot: tc.boot}
			p, err := g.ask(t, "/jwt", "Authorization", token)
			check(t, tc.name+", "+how, p, err, tc.want)
		}
	}
}

func TestAGenuineTokenThatIsOverSaysSoInProblemForm(t *testing.T) {
	set := base(t)
	set.Faults = policy.FaultsProblem
	g := open(t, set, auth.Options{})
	over := m{"exp": noon.Unix() - 1}
	p, err := g.ask(t, "/jwt", "Authorization", "Bearer "+mint(t, "RS256", rsaKey(), nil, claims(over)))
	check(t, "genuine", p, err, fault.TokenExpired)
	p, err = g.ask(t, "/jwt", "Authorization", "Bearer "+mint(t, "RS256", otherRSA(), nil, claims(over)))
	check(t, "forged", p, err, fault.InvalidCredentials)
}

func TestNewRefusesIssuersThatWouldBeWeak(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip("this Go refuses to make a small key to test with: " + err.Error())
	}
	key := []policy.Key{{PKIX: public(t, rsaKey())}}
	for _, tc := range []struct {
		i    policy.Issuer
		want string
	}{
		{policy.Issuer{Name: "x", Issuer: "i", Algorithms: []string{"none"}, Keys: key}, `"none"`},
		{policy.Issuer{Name: "x", Issuer: "i", Algorithms: []string{"HS256"}, Keys: key}, `"HS256"`},
		{policy.Issuer{Name: "x", Issuer: "i", Keys: key}, "no algorithm"},
		{policy.Issuer{Name: "x", Issuer: "i", Algorithms: []string{"RS256"}}, "no key"},
		{policy.Issuer{Name: "x", Algorithms: []string{"RS256"}, Keys: key}, "no iss"},
		{policy.Issuer{Name: "x", Issuer: "i", Algorithms: []string{"ES256"}, Keys: key}, "fits"},
		{policy.Issuer{Name: "x", Issuer: "i", Leeway: 61, Algorithms: []string{"RS256"}, Keys: key}, "leeway"},
		{policy.Issuer{Name: "x", Issuer: "i", Algorithms: []string{"RS256"}, Keys: []policy.Key{{PKIX: []byte("x")}}}, "key 0"},
		{policy.Issuer{Name: "x", Issuer: "i", Algorithms: []string{"RS256"}, Keys: []policy.Key{{PKIX: public(t, small)}}}, "1024 bits"},
	} {
		_, err := auth.New(&policy.Set{Issuers: []policy.Issuer{tc.i}}, auth.Options{})
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), `"x"`) {
			t.Errorf("got %v; want %q", err, tc.want)
		}
	}
	two := policy.Issuer{Name: "x", Issuer: "i", Algorithms: []string{"RS256"}, Keys: key}
	if _, err := auth.New(&policy.Set{Issuers: []policy.Issuer{two, two}}, auth.Options{}); err == nil {
		t.Error("two issuers with one iss are accepted")
	}
}
