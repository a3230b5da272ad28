package appliance_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
	"tidegate/policy/project"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// exampleSet loads a project of examples/, and fails on every finding but that something is
// open.
func exampleSet(t *testing.T, name string) *policy.Set {
	t.Helper()
	p, found := project.Load(os.DirFS("../examples/" + name))
	for _, f := range found {
		if f.Severity == project.Error || !strings.Contains(f.Message, "anybody may call") {
			t.Errorf("examples/%s: %s", name, f)
		}
	}
	if p == nil {
		t.FailNow()
	}
	return p.Set
}

// named answers its name and what it was asked.
func named(t *testing.T, name string) (url string, calls *atomic.Int64) {
	t.Helper()
	calls = &atomic.Int64{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			calls.Add(1)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s %s", name, r.Method, r.URL.RequestURI())
	}))
	t.Cleanup(s.Close)
	return s.URL, calls
}

// leading returns a configuration in which endpoint groups lead to URLs.
func leading(groups map[string][]string, more func(*config.Config)) func(*config.Config) {
	return func(c *config.Config) {
		c.Endpoints = map[string]config.Endpoint{}
		for name, urls := range groups {
			c.Endpoints[name] = config.Endpoint{URL: urls}
		}
		if more != nil {
			more(c)
		}
	}
}

func spki(t *testing.T, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestExampleJWT(t *testing.T) {
	url, _ := named(t, "backend")
	office, k := newIssuerServer(t), newKey(t)
	office.publish(t, 200, k)
	set := exampleSet(t, "jwt")
	plant := newKey(t) // somebody else threw the example's away
	set.Issuers[0].Keys, set.Issuers[0].Algorithms = []policy.Key{{ID: "now", PKIX: spki(t, plant)}}, []string{"ES256"}
	set.Issuers[1].JWKSURL = office.URL
	d := devicetest.Start(t, devicetest.Options{Config: leading(map[string][]string{"readings": {url}}, nil)})
	d.Apply(t, set)
	sign := func(k *ecdsa.PrivateKey, kid string, change func(jwt.MapClaims)) string {
		c := jwt.MapClaims{
			"iss": "https://login.plant.example", "aud": []string{"other", "readings"}, "sub": "ann", "exp": time.Now().Add(time.Hour).Unix(),
			"azp": "panel-app", "scp": "read", "groups": []string{"plant/fitter"}, "jti": "1",
		}
		if change != nil {
			change(c)
		}
		tok := jwt.NewWithClaims(jwt.SigningMethodES256, c)
		tok.Header["kid"] = kid
		s, err := tok.SignedString(k)
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + s
	}
	for name, tc := range map[string]struct {
		method, path string
		token        string
		status       int
	}{
		"as it should be":    {"GET", "/latest", sign(plant, "now", nil), 200},
		"scope is missing":   {"POST", "/corrections", sign(plant, "now", nil), 403},
		"scope to write":     {"POST", "/corrections", sign(plant, "now", func(c jwt.MapClaims) { c["scp"] = "write" }), 200},
		"another audience":   {"GET", "/latest", sign(plant, "now", func(c jwt.MapClaims) { c["aud"] = "pumps" }), 401},
		"another role":       {"GET", "/latest", sign(plant, "now", func(c jwt.MapClaims) { c["groups"] = "plant/guest" }), 401},
		"no role":            {"GET", "/latest", sign(plant, "now", func(c jwt.MapClaims) { delete(c, "groups") }), 401},
		"within the leeway":  {"GET", "/latest", sign(plant, "now", func(c jwt.MapClaims) { c["exp"] = time.Now().Unix() - 2 }), 200},
		"over":               {"GET", "/latest", sign(plant, "now", func(c jwt.MapClaims) { c["exp"] = time.Now().Unix() - 60 }), 401},
		"no end":             {"GET", "/latest", sign(plant, "now", func(c jwt.MapClaims) { delete(c, "exp") }), 401},
		"revoked":            {"GET", "/latest", sign(plant, "now", func(c jwt.MapClaims) { c["jti"] = "6a1f0c2e" }), 401},
		"unknown key":        {"GET", "/latest", sign(plant, "old", nil), 401},
		"signed by somebody": {"GET", "/latest", sign(newKey(t), "now", nil), 401},
		"unknown issuer":     {"GET", "/latest", sign(plant, "now", func(c jwt.MapClaims) { c["iss"] = "https://elsewhere.example" }), 401},
		"no token":           {"GET", "/latest", "", 401},
	} {
		if a := call(t, tc.method, d.URL("/readings/1.0"+tc.path), "Authorization", tc.token); a.status != tc.status {
			t.Errorf("%s: got %d %s, want %d", name, a.status, a.body, tc.status)
		}
	}
	ofOffice := sign(k, "0", func(c jwt.MapClaims) { c["iss"] = "https://login.office.example"; c["scope"] = "read" })
	eventually(t, "the office's keys are fetched", func() bool {
		return call(t, "GET", d.URL("/readings/1.0/latest"), "Authorization", ofOffice).status == 200
	})
}

func TestExampleAPIKeys(t *testing.T) {
	store, _ := named(t, "store")
	scratch, _ := named(t, "scratch")
	set := exampleSet(t, "apikeys")
	const meter, visitor = "meter-17-0123456789abcdef0123456789", "visitor-0123456789abcdef0123456789a"
	for i, name := range []string{"meter 17", "visitor panel"} {
		at := slices.IndexFunc(set.APIKeys.Keys, func(k policy.HashedKey) bool { return k.Name == name })
		set.APIKeys.Keys[at].Hash = sha256.Sum256([]byte([]string{meter, visitor}[i]))
	}
	slices.SortFunc(set.APIKeys.Keys, func(a, b policy.HashedKey) int { return slices.Compare(a.Hash[:], b.Hash[:]) })
	d := devicetest.Start(t, devicetest.Options{Config: leading(map[string][]string{"store": {store}, "scratch": {scratch}}, nil)})
	d.Apply(t, set)
	get := func(path string, header ...string) answer {
		return call(t, "GET", d.URL("/ingest/1.0"+path), header...)
	}
	for _, tc := range []struct {
		name   string
		a      answer
		status int
		body   string // or its beginning
	}{
		{"header", get("/values", "X-Meter-Key", meter), 200, "store GET /values"},
		{"query", get("/values?a=1&key=" + meter), 200, "store GET /values?a=1"},
		{"cookie", get("/values", "Cookie", "panel="+meter), 200, "store GET /values"},
		{"sandbox key", get("/values", "X-Meter-Key", visitor), 200, "scratch GET /values"},
		{"both", get("/pair", "X-Meter-Key", meter, "Cookie", "panel="+meter), 200, "store GET /pair"},
		{"one of both", get("/pair", "X-Meter-Key", meter), 401, `{"fault":{"code":900902,`},
		{"none", get("/values"), 401, `{"fault":{"code":900902,`},
		{"wrong", get("/values", "X-Meter-Key", meter+"x"), 401, `{"fault":{"code":900901,`},
		{"in another place", get("/values", "X-Api-Key", meter), 401, `{"fault":{"code":900902,`},
		{"as a token", get("/values", "Authorization", "Bearer "+meter), 401, `{"fault":{"code":900917,`},
	} {
		if tc.a.status != tc.status || !strings.HasPrefix(tc.a.body, tc.body) {
			t.Errorf("%s: got %d %s, want %d %s", tc.name, tc.a.status, tc.a.body, tc.status, tc.body)
		}
	}
	last := 0
	for range 6 {
		last = get("/values", "X-Meter-Key", meter).status
	}
	if last != 429 {
		t.Errorf("plan Meter: got %d after ten calls, want 429", last)
	}
	socket(t, d, "POST", "/v1/revocations", `{"revocations":[{"api_key":"`+visitor+`"}]}`)
	if a := get("/values", "X-Meter-Key", visitor); a.status != 401 {
		t.Errorf("revoked key: got %d", a.status)
	}
}

func TestExampleMTLS(t *testing.T) {
	url, _ := named(t, "backend")
	ca := newAuthority(t, "plant CA")
	set := exampleSet(t, "mtls")
	set.ClientCAs[0].Authorities = [][]byte{ca.cert.Raw}
	d := devicetest.Start(t, devicetest.Options{Config: leading(map[string][]string{"pumps": {url}, "valves": {url}}, func(c *config.Config) { c.Listen.HTTPS = "127.0.0.1:0" })})
	set.Issuers = append(set.Issuers, d.Fleet.PolicyIssuer(t))
	d.Apply(t, set)
	pump := ca.issue(t, "pump 7", time.Now().Add(24*time.Hour), x509.ExtKeyUsageClientAuth)
	for _, h2 := range []bool{false, true} {
		if a, err := over(t, d, h2, &pump, "/pumps/1.0/state"); err != nil || a.status != 200 || a.body != "backend GET /state" {
			t.Errorf("h2 %v: certificate: got %d %s, %v", h2, a.status, a.body, err)
		}
		if a, err := over(t, d, h2, nil, "/pumps/1.0/state"); err != nil || a.status != 401 {
			t.Errorf("h2 %v: none: got %d, %v", h2, a.status, err)
		}
		if a, err := over(t, d, h2, &pump, "/valves/1.0/open"); err != nil || a.status != 405 {
			t.Errorf("h2 %v: GET of a valve: got %d, %v", h2, a.status, err)
		}
	}
	if a := call(t, "GET", d.URL("/pumps/1.0/state")); a.status != 404 {
		t.Errorf("without TLS the API is not there: got %d", a.status)
	}
}

func TestExampleResilience(t *testing.T) {
	one, ofOne := named(t, "one")
	two, ofTwo := named(t, "two")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := "http://" + ln.Addr().String()
	ln.Close()
	var failing atomic.Bool
	var hits atomic.Int64
	sick := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		hits.Add(1)
		if failing.Load() {
			w.WriteHeader(500)
		}
	}))
	t.Cleanup(sick.Close)
	set := exampleSet(t, "resilience")
	// Without overrides the weights of the bundle count.
	set.Endpoints[0].Targets[0].URL, set.Endpoints[0].Targets[1].URL = one, two
	d := devicetest.Start(t, devicetest.Options{Config: leading(map[string][]string{"primary": {sick.URL}, "found": {gone, two}}, nil)})
	d.Apply(t, set)
	get := func(path string) answer { return call(t, "GET", d.URL("/orders/1.0"+path)) }
	for range 40 {
		if a := get("/list"); a.status != 200 {
			t.Fatalf("got %d %s", a.status, a.body)
		}
	}
	if a, b := ofOne.Load(), ofTwo.Load(); a != 30 || b != 10 {
		t.Errorf("turns: %d and %d, want three to one", a, b)
	}
	for range 6 { // one of two is gone: everybody is served by the other
		if a := get("/archive"); a.status != 200 || !strings.HasPrefix(a.body, "two ") {
			t.Errorf("got %d %s", a.status, a.body)
		}
	}
	failing.Store(true)
	seen := map[int]int{}
	for range 30 {
		seen[get("/stock").status]++
	}
	if n := hits.Load(); n != 10 || seen[500] != 10 || seen[503] != 20 {
		t.Errorf("circuit: %d calls reached the backend, clients saw %v; want 10, then 503", n, seen)
	}
	if a := get("/stock"); a.body != nobody || a.header.Get("Retry-After") != "5" {
		t.Errorf("open: got %s %v", a.body, a.header)
	}
	// A new bundle does not close the circuit.
	d.Apply(t, set)
	if a := get("/stock"); a.status != 503 || hits.Load() != 10 {
		t.Errorf("after a new bundle: got %d, %d calls", a.status, hits.Load())
	}
	if _, err := d.Desk().Confirm(context.Background(), "test"); err != nil {
		t.Fatal(err)
	}
}
