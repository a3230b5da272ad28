package auth_test

import (
	"errors"
	"strings"
	"testing"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/fault"
	"tidegate/policy/policytest"
)

func TestWhichCredentialDecides(t *testing.T) {
	set := keySet(t)
	set.Users = users(t)
	g := open(t, set, auth.Options{})
	token := "Bearer " + mint(t, "RS256", rsaKey(), nil, claims(nil))
	broken := "Bearer " + mint(t, "RS256", otherRSA(), nil, claims(nil))
	login := basicHeader("sha256", "two")
	const bearer, basic, key = `Bearer realm="tidegate"`, `Basic realm="tidegate", charset="UTF-8"`, `ApiKey realm="tidegate", in="header", name="X-Api-Key"`
	invalid := bearer + `, error="invalid_token", error_description="The access token is not valid"`
	for _, tc := range []struct {
		name, path string
		auth, key  string
		want       *fault.Fault
		kind       policy.SchemeKind
		challenge  string
	}{
		{"open, nothing", "/open", "", "", nil, 0, ""},
		{"open, whatever", "/open", broken, "x", nil, 0, ""},
		{"nothing", "/jwt", "", "", fault.MissingCredentials, 0, bearer},
		{"nothing, three ways in", "/any", "", "", fault.MissingCredentials, 0, key + ", " + basic + ", " + bearer},
		{"login where a token is due", "/jwt", login, "", fault.InvalidScheme, 0, bearer},
		{"key where a token is due", "/jwt", "", freeKey, fault.InvalidScheme, 0, bearer},
		{"token where a login is due", "/basic", token, "", fault.InvalidScheme, 0, basic},
		{"unknown scheme", "/any", "Negotiate abc", "", fault.InvalidScheme, 0, key + ", " + basic + ", " + bearer},
		{"bearer without a token", "/jwt", "Bearer", "", fault.MissingCredentials, 0, bearer},
		{"bearer and blanks", "/jwt", "Bearer  ", "", fault.MissingCredentials, 0, bearer},
		{"broken token", "/jwt", broken, "", fault.InvalidCredentials, 0, invalid},
		{"a token before a key", "/any", token, freeKey, nil, policy.OAuth2, ""},
		{"a refused token is not tried as a key", "/any", broken, freeKey, fault.InvalidCredentials, 0, invalid},
		{"a login before a key", "/any", login, freeKey, nil, policy.Basic, ""},
		{"a refused login is not tried as a key", "/any", basicHeader("sha256", "x"), freeKey, fault.InvalidLogin, 0, key + ", " + basic + ", " + bearer},
		{"a key beside what is not allowed", "/key", token, freeKey, nil, policy.APIKey, ""},
		{"a key", "/any", "", freeKey, nil, policy.APIKey, ""},
		{"both", "/both", token, freeKey, nil, policy.OAuth2, ""},
		{"both, no key", "/both", token, "", fault.MissingCredentials, 0, key + ", " + bearer},
		{"both, no token", "/both", "", freeKey, fault.MissingCredentials, 0, key + ", " + bearer},
		{"both, bad key", "/both", token, "x", fault.InvalidCredentials, 0, invalid},
		{"both, bad token", "/both", broken, freeKey, fault.InvalidCredentials, 0, invalid},
		{"scope", "/scoped", token, "", fault.InsufficientScope, 0, bearer + `, error="insufficient_scope", scope="write admin"`},
	} {
		c := newCall(tc.path)
		if tc.auth != "" {
			c.Add("Authorization", tc.auth)
		}
		if tc.key != "" {
			c.Add("X-Api-Key", tc.key)
		}
		p, err := g.call(t, c)
		check(t, tc.name, p, err, tc.want)
		var e *fault.Error
		if errors.As(err, &e) && e.Challenge != tc.challenge && tc.challenge != "" {
			t.Errorf("%s: challenge\n got %s\nwant %s", tc.name, e.Challenge, tc.challenge)
		}
		if err == nil && tc.want == nil && p.Kind != tc.kind {
			t.Errorf("%s: got %+v", tc.name, p)
		}
	}
}

func TestTheCredentialHeaderOfASetAndOfAnAPI(t *testing.T) {
	set := base(t)
	set.AuthHeader = "x-auth"
	set.APIs[1].AuthHeader = "X-Pump-Auth"
	g := open(t, set, auth.Options{})
	token := "Bearer " + mint(t, "RS256", rsaKey(), nil, claims(m{"subscribedAPIs": []m{}}))
	for _, tc := range []struct {
		path, header string
		want         *fault.Fault
	}{
		{"/meters/1.2.0/jwt", "X-Auth", nil},
		{"/meters/1.2.0/jwt", "Authorization", fault.MissingCredentials}, // it is the backend's
		{"/pumps/2.0/jwt", "X-Pump-Auth", nil},
		{"/pumps/2.0/jwt", "X-Auth", fault.MissingCredentials},
	} {
		p, err := g.call(t, policytest.New("GET", tc.path, tc.header, token))
		check(t, tc.path+" "+tc.header, p, err, tc.want)
	}
	p, err := g.call(t, policytest.New("GET", "/pumps/2.0/jwt", "X-Pump-Auth", token, "X-Pump-Auth", "Bearer x"))
	check(t, "two lines", p, err, fault.InvalidCredentials)
}

func TestAMatchOfAnotherEditionIsNotServed(t *testing.T) {
	big, small := base(t), base(t)
	small.APIs = small.APIs[:1]
	small.APIs[0].Operations = small.APIs[0].Operations[:2]
	g := open(t, small, auth.Options{})
	g.table = open(t, big, auth.Options{}).table
	for _, path := range []string{"/pumps/2.0/jwt", "/meters/1.2.0/basic"} {
		p, err := g.call(t, policytest.New("GET", path))
		check(t, path, p, err, fault.Unclassified)
	}
}

func TestNoCredentialIsEverInWhatIsLogged(t *testing.T) {
	set := keySet(t)
	set.Users = users(t)
	g := open(t, set, auth.Options{})
	for path, fields := range map[string][]string{
		"/jwt":   {"Authorization", "Bearer " + mint(t, "RS256", otherRSA(), nil, claims(m{"sub": "s3cr3t"}))},
		"/basic": {"Authorization", basicHeader("sha256", "s3cr3t")},
		"/key":   {"X-Api-Key", "s3cr3t"},
	} {
		_, err := g.ask(t, path, fields...)
		if err == nil {
			t.Fatalf("%s is let in", path)
		}
		for _, part := range append(strings.FieldsFunc(fields[1], func(r rune) bool { return r == '.' || r == ' ' }), "s3cr3t") {
			if len(part) > 6 && strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("%s: %q is in %q", path, part, err)
			}
		}
	}
}

func TestNewRefusesWhatWouldLetAnybodyIn(t *testing.T) {
	set := base(t)
	set.APIs[0].Operations[1].Security = []policy.Alternative{{}}
	set.APIs[0].Operations[2].Security = []policy.Alternative{{{Scheme: 99}}}
	set.APIs[1].Schemes = []policy.Scheme{{Kind: policy.APIKey, In: policy.InPath, Name: "x"}, {Kind: 77}}
	set.APIKeys.Keys = []policy.HashedKey{{Hash: [32]byte{2}}, {Hash: [32]byte{1}}}
	set.Revoked = []policy.Revocation{{Kind: policy.RevokedKey}, {Kind: policy.RevokedID}}
	_, err := auth.New(set, auth.Options{})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, w := range []string{
		"let anybody in", "scheme 99 does not exist", "a header, query parameter or cookie", "unknown kind 77",
		"api keys are not in ascending order", "revocations are not in ascending order", `api "Meters:1.2.0": GET /jwt`,
	} {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q is not in:\n%v", w, err)
		}
	}
}
