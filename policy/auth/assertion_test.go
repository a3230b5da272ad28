package auth_test

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"tidegate/policy"
	"tidegate/policy/auth"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func pkcs8(t testing.TB, k crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func TestAssertion(t *testing.T) {
	g := open(t, base(t), auth.Options{})
	p, err := g.ask(t, "/jwt", "Authorization", "Bearer "+mint(t, "RS256", rsaKey(), nil, claims(m{"role": []string{"fitter"}, "secret": "x", "nbf": noon.Unix() - 5, "http://wso2.org/claims/tier": "forged"})))
	if err != nil {
		t.Fatal(err)
	}
	api := base(t).APIs[0]
	for alg, key := range map[string]crypto.Signer{"RS256": rsaKey(), "ES256": p256(), "EdDSA": edKey()} {
		a, err := auth.NewAssertion(&policy.BackendJWT{
			Enabled: true, Algorithm: alg, Issuer: "tidegate", Audience: []string{"pumps"},
			Restricted: []string{"secret"}, Thumbprint: "TP",
		}, pkcs8(t, key))
		if err != nil {
			t.Fatal(err)
		}
		s, err := a.Token(p, &api, noon, "call-1")
		if err != nil {
			t.Fatal(err)
		}
		got := jwt.MapClaims{}
		tok, err := jwt.NewParser(jwt.WithValidMethods([]string{alg}), jwt.WithTimeFunc(func() time.Time { return noon }), jwt.WithAudience("pumps")).
			ParseWithClaims(s, got, func(*jwt.Token) (any, error) { return key.Public(), nil })
		if err != nil || tok.Header["x5t"] != "TP" || tok.Header["typ"] != "JWT" {
			t.Fatalf("%s: %v %v", alg, tok, err)
		}
		for name, want := range map[string]any{
			"iss": "tidegate", "sub": "fitter1", "jti": "call-1", "iat": float64(noon.Unix()), "exp": float64(noon.Add(15 * time.Minute).Unix()),
			"http://wso2.org/claims/enduser": "fitter1@carbon.super", "http://wso2.org/claims/applicationid": "2", "http://wso2.org/claims/applicationUUId": "2",
			"http://wso2.org/claims/subscriber": "fitter1", "http://wso2.org/claims/applicationname": "TabletApp", "http://wso2.org/claims/applicationtier": "50PerMin",
			"http://wso2.org/claims/apiname": "Meters", "http://wso2.org/claims/apicontext": "/meters/1.2.0", "http://wso2.org/claims/version": "1.2.0",
			"http://wso2.org/claims/tier": "Gold", "http://wso2.org/claims/keytype": "PRODUCTION", "http://wso2.org/claims/usertype": "Application_User",
			"http://wso2.org/claims/enduserTenantDomain": "carbon.super", "consumerKey": "ck-1", "secret": nil, "nbf": nil,
		} {
			if got[name] != want {
				t.Errorf("%s: %s is %v; want %v", alg, name, got[name], want)
			}
		}
		if b, _ := json.Marshal(got["role"]); string(b) != `["fitter"]` {
			t.Errorf("%s: role is %s", alg, b)
		}
		if a.Header() != "X-JWT-Assertion" {
			t.Errorf("header %q", a.Header())
		}
	}
}

func TestAssertionHandsOnWhatTheCallerBrings(t *testing.T) {
	api := base(t).APIs[0]
	off, err := auth.NewAssertion(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	on, err := auth.NewAssertion(&policy.BackendJWT{Enabled: true, Algorithm: "ES256", Header: "X-Who", Dialect: "urn:c", Seconds: 60}, pkcs8(t, p256()))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		a    *auth.Assertion
		p    *policy.Principal
		want string // "": none; "new": a new one
	}{
		{"brought, off", off, &policy.Principal{Kind: policy.OAuth2, EndUserToken: "a.b.c"}, "a.b.c"},
		{"brought, on", on, &policy.Principal{Kind: policy.OAuth2, EndUserToken: "a.b.c"}, "a.b.c"},
		{"unfit for a header", on, &policy.Principal{Kind: policy.OAuth2, EndUserToken: "a\r\nX: y"}, "new"},
		{"unfit for a header, off", off, &policy.Principal{Kind: policy.OAuth2, EndUserToken: "a\r\nX: y"}, ""},
		{"login", on, &policy.Principal{Kind: policy.Basic, Subject: "eva"}, "new"},
		{"nobody", on, &policy.Principal{}, ""},
		{"off", off, &policy.Principal{Kind: policy.Basic, Subject: "eva"}, ""},
	} {
		got, err := tc.a.Token(tc.p, &api, noon, "1")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(got, ".") == 2 && got != tc.p.EndUserToken {
			got = "new"
		}
		if got != tc.want {
			t.Errorf("%s: got %q; want %q", tc.name, got, tc.want)
		}
	}
	if on.Header() != "X-Who" || on.Life() != time.Minute || off.Header() != auth.DefaultAssertionHeader {
		t.Errorf("header %q, life %v", on.Header(), on.Life())
	}
}

func TestAssertionRefusesKeysThatDoNotFit(t *testing.T) {
	for _, tc := range []struct {
		alg string
		key []byte
	}{
		{"ES256", pkcs8(t, rsaKey())},
		{"RS256", pkcs8(t, p256())},
		{"ES256", pkcs8(t, p384())},
		{"EdDSA", pkcs8(t, p256())},
		{"none", pkcs8(t, p256())},
		{"HS256", []byte("secret")},
		{"", pkcs8(t, p256())},
		{"RS256", nil},
	} {
		_, err := auth.NewAssertion(&policy.BackendJWT{Enabled: true, Algorithm: tc.alg}, tc.key)
		if err == nil || !strings.HasPrefix(err.Error(), "backend JWT: ") {
			t.Errorf("%s: got %v", tc.alg, err)
		}
	}
}
