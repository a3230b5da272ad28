package appliance_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func TestRevokedCredentialStopsAtOnceAndAfterARestart(t *testing.T) {
	url, _ := backend(t)
	dir, fleet := t.TempDir(), devicetest.NewFleet(t)
	d := devicetest.Start(t, devicetest.Options{Dir: dir, Fleet: fleet})
	d.Apply(t, fleet.API(t, url, "/things"))
	if _, err := d.Desk().Confirm(context.Background(), "test"); err != nil {
		t.Fatal(err)
	}
	stolen := "Bearer " + fleet.Token(t, map[string]any{"jti": "stolen"})
	other := "Bearer " + fleet.Token(t, map[string]any{"jti": "other"})
	status := func(token string) int {
		return call(t, "GET", d.URL("/echo/1.0/things"), "Authorization", token).status
	}
	for _, token := range []string{stolen, stolen, other} { // the second from the cache
		if got := status(token); got != 200 {
			t.Fatalf("before: got %d", got)
		}
	}
	text := socket(t, d, "POST", "/v1/revocations", `{"revocations":[{"jti":"stolen","until":"2090-01-01T00:00:00Z"},{"user":"nobody"}]}`)
	if !strings.Contains(text, `"added":2,"entries":2,"most":100000`) {
		t.Errorf("got %s", text)
	}
	if got := status(stolen); got != 401 {
		t.Errorf("next call: got %d, want 401", got)
	}
	if got := status(other); got != 200 {
		t.Errorf("another token: got %d", got)
	}
	if text := socket(t, d, "GET", "/v1/history?limit=5", ""); !strings.Contains(text, "revoked: 1 by jti, 1 by user") {
		t.Errorf("not in the audit log: %s", text)
	}
	if text := socket(t, d, "POST", "/v1/revocations", `{"revocations":[{"user":"nobody"}]}`); !strings.Contains(text, `"added":0`) {
		t.Errorf("again: got %s", text)
	}
	for body, reason := range map[string]string{
		`{"revocations":[]}`:                                           "empty",
		`{"revocations":[{"jti":"a","user":"b"}]}`:                     "jti and user: want one of them",
		`{"revocations":[{"until":"2090-01-01T00:00:00Z"}]}`:           "names no credential",
		`{"revocations":[{"jti":"a"},{"name":"b"}]}`:                   `revocation 2: \"name\" names no credential`,
		`{"revocations":[{"jti":"a","until":"tomorrow"}]}`:             "RFC 3339",
		`{"revocations":[{"signature":"%"}]}`:                          "base64url",
		`{"revocations":[{"jti":7}]}`:                                  "cannot unmarshal",
		`{"revoked":[{"jti":"a"}]}`:                                    "unknown field",
		`{"revocations":[{"jti":"a"}]} {}`:                             "behind",
		`{"revocations":[{"jti":""}]}`:                                 "jti is empty",
		`{"revocations":[{"api_key_sha256":"00"}]}`:                    "64 hex digits",
		`{"revocations":[{"jti":"a","until":"1960-01-01T00:00:00Z"}]}`: "RFC 3339",
	} {
		if code, text := d.Socket(t, "POST", "/v1/revocations", body); code != 400 || !strings.Contains(text, reason) {
			t.Errorf("%s: got %d %s, want 400 with %q", body, code, text, reason)
		}
	}
	d.Stop(t)
	d = devicetest.Start(t, devicetest.Options{Dir: dir, Fleet: fleet})
	if got := status(stolen); got != 401 {
		t.Errorf("first call after a restart: got %d, want 401", got)
	}
	if got := status(other); got != 200 {
		t.Errorf("another token after a restart: got %d", got)
	}
}

// An issuerServer publishes a JWK Set.
type issuerServer struct {
	*httptest.Server
	mu    sync.Mutex
	body  string
	code  int
	asked atomic.Int64
}

func newIssuerServer(t *testing.T) *issuerServer {
	s := &issuerServer{code: 200}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.asked.Add(1)
		s.mu.Lock()
		defer s.mu.Unlock()
		w.Header().Set("Content-Type", "application/jwk-set+json")
		w.WriteHeader(s.code)
		_, _ = io.WriteString(w, s.body)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *issuerServer) publish(t *testing.T, code int, keys ...*ecdsa.PrivateKey) {
	t.Helper()
	var list []string
	for i, k := range keys {
		b, err := k.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":"%d","x":%q,"y":%q}`, i,
			base64.RawURLEncoding.EncodeToString(b[1:33]), base64.RawURLEncoding.EncodeToString(b[33:])))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.code, s.body = code, `{"keys":[`+strings.Join(list, ",")+`]}`
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// tokenOf signs a token that names its key.
func tokenOf(t *testing.T, k *ecdsa.PrivateKey, kid string) string {
	t.Helper()
	tok := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"iss": devicetest.Issuer, "sub": "tester", "exp": time.Now().Add(time.Hour).Unix()})
	tok.Header["kid"] = kid
	s, err := tok.SignedString(k)
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + s
}

// eventually waits for ok, which something in the background brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

func TestKeysOfAnIssuerAreFollowedAndOutliveTheLink(t *testing.T) {
	url, _ := backend(t)
	issuer, k := newIssuerServer(t), newKey(t)
	issuer.publish(t, 503)
	dir, fleet := t.TempDir(), devicetest.NewFleet(t)
	d := devicetest.Start(t, devicetest.Options{Dir: dir, Fleet: fleet})
	set := fleet.API(t, url, "/things")
	set.Issuers = []policy.Issuer{{Name: "test", Issuer: devicetest.Issuer, Algorithms: []string{"ES256"}, JWKSURL: issuer.URL + "/keys"}}
	d.Apply(t, set)
	get := func(token string) answer { return call(t, "GET", d.URL("/echo/1.0/things"), "Authorization", token) }

	a := get(tokenOf(t, k, "0"))
	want := `{"fault":{"code":900900, "message":"Unclassified Authentication Failure", "description":"Unclassified Authentication Failure"}}`
	if a.status != 503 || a.header.Get("Retry-After") == "" || a.body != want {
		t.Errorf("no key was ever known: got %d %s %v", a.status, a.body, a.header)
	}
	if a := get("Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJ4In0.AA"); a.status != 401 {
		t.Errorf("a token that is wrong by itself: got %d", a.status)
	}
	issuer.publish(t, 200, k)
	d.Apply(t, set) // a new bundle asks at once
	eventually(t, "the fetched key counts", func() bool { return get(tokenOf(t, k, "0")).status == 200 })
	if _, err := d.Desk().Confirm(context.Background(), "test"); err != nil {
		t.Fatal(err)
	}
	// Rotation: the bundle's next activation fetches the new set; the old token, cached until
	// then, must not outlive its key.
	old, next := tokenOf(t, k, "0"), newKey(t)
	if a := get(old); a.status != 200 {
		t.Fatalf("got %d", a.status)
	}
	issuer.publish(t, 200, next)
	d.Apply(t, set)
	eventually(t, "the next key counts", func() bool { return get(tokenOf(t, next, "0")).status == 200 })
	if a := get(old); a.status != 401 {
		t.Errorf("token of a key that is gone: got %d, want 401", a.status)
	}
	if _, err := d.Desk().Confirm(context.Background(), "test"); err != nil {
		t.Fatal(err)
	}
	d.Stop(t)
	issuer.publish(t, 500)
	before := issuer.asked.Load()
	d = devicetest.Start(t, devicetest.Options{Dir: dir, Fleet: fleet})
	eventually(t, "a failed fetch", func() bool { return issuer.asked.Load() > before })
	if a := get(tokenOf(t, next, "0")); a.status != 200 {
		t.Errorf("last good copy after a restart without a link: got %d %s", a.status, a.body)
	}
}

// Keys change while calls go on: each is judged by the old keys or the new ones, and a token of
// a key that is in both is never refused.
func TestChangeOfKeysDropsNoCall(t *testing.T) {
	url, _ := backend(t)
	issuer, stays := newIssuerServer(t), newKey(t)
	issuer.publish(t, 200, stays)
	d := devicetest.Start(t, devicetest.Options{})
	set := d.Fleet.API(t, url, "/things")
	set.Issuers = []policy.Issuer{{Name: "test", Issuer: devicetest.Issuer, Algorithms: []string{"ES256"}, JWKSURL: issuer.URL}}
	d.Apply(t, set)
	token := tokenOf(t, stays, "0")
	status := func(token string) int {
		return call(t, "GET", d.URL("/echo/1.0/things"), "Authorization", token).status
	}
	eventually(t, "the key counts", func() bool { return status(token) == 200 })
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var calls atomic.Int64
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				calls.Add(1)
				if got := status(token); got != 200 {
					t.Errorf("a call was answered %d", got)
					return
				}
			}
		})
	}
	for range 5 {
		more := newKey(t)
		issuer.publish(t, 200, stays, more)
		d.Apply(t, set) // asks anew
		eventually(t, "the new key counts", func() bool { return status(tokenOf(t, more, "1")) == 200 })
	}
	close(stop)
	wg.Wait()
	if calls.Load() < 20 {
		t.Errorf("only %d calls went on meanwhile", calls.Load())
	}
}

func TestJWTThatDoesNotVerifyMayBeAskedAbout(t *testing.T) {
	url, _ := backend(t)
	km := newKeyManager(t)
	km.says(`{"active":true,"username":"ann"}`)
	d := devicetest.Start(t, devicetest.Options{})
	set := d.Fleet.API(t, url, "/things")
	foreign := tokenOf(t, newKey(t), "7")
	for _, retry := range []bool{false, true} {
		set.Introspection = &policy.Introspection{URL: km.URL, CacheSeconds: 60, RetryFailedJWT: retry}
		d.Apply(t, set)
		want := map[bool]int{false: 401, true: 200}[retry]
		if a := call(t, "GET", d.URL("/echo/1.0/things"), "Authorization", foreign); a.status != want {
			t.Errorf("retry_failed_jwt %v: got %d %s, want %d", retry, a.status, a.body, want)
		}
	}
}

// keyManager is an RFC 7662 server.
type keyManager struct {
	*httptest.Server
	asked atomic.Int64
	mu    sync.Mutex
	say   string
	login string
}

func newKeyManager(t *testing.T) *keyManager {
	k := &keyManager{}
	k.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.asked.Add(1)
		k.mu.Lock()
		defer k.mu.Unlock()
		user, pw, _ := r.BasicAuth()
		k.login = user + ":" + pw + " " + r.PostFormValue("token")
		_, _ = io.WriteString(w, k.say)
	}))
	t.Cleanup(k.Close)
	return k
}

func (k *keyManager) says(s string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.say = s
}

func TestOpaqueTokensAreHonouredAfterARestartWithoutALink(t *testing.T) {
	url, _ := backend(t)
	km := newKeyManager(t)
	km.says(`{"active":true,"username":"fitter1@carbon.super","scope":"read write","client_id":"c1","exp":` + fmt.Sprint(time.Now().Add(time.Hour).Unix()) + `}`)
	dir, fleet := t.TempDir(), devicetest.NewFleet(t)
	password := func(c *config.Config) {
		c.Endpoints = map[string]config.Endpoint{"introspection": {Password: "pw of this device"}}
	}
	d := devicetest.Start(t, devicetest.Options{Dir: dir, Fleet: fleet, Config: password})
	set := fleet.API(t, url, "/things", "/write")
	set.APIs[0].Operations[1].Scopes = []string{"admin"}
	set.Introspection = &policy.Introspection{URL: km.URL + "/introspect", Username: "gate", Password: "introspection/password", CacheSeconds: 900}
	d.Apply(t, set)
	if _, err := d.Desk().Confirm(context.Background(), "test"); err != nil {
		t.Fatal(err)
	}
	get := func(path, token string) answer {
		return call(t, "GET", d.URL("/echo/1.0"+path), "Authorization", "Bearer "+token)
	}
	for range 3 {
		if a := get("/things", "opaque-1"); a.status != 200 {
			t.Fatalf("got %d %s", a.status, a.body)
		}
	}
	if n := km.asked.Load(); n != 1 {
		t.Errorf("asked %d times for one token", n)
	}
	km.mu.Lock()
	if km.login != "gate:pw of this device opaque-1" {
		t.Errorf("the key manager saw %q", km.login)
	}
	km.mu.Unlock()
	if a := get("/write", "opaque-1"); a.status != 403 {
		t.Errorf("without the scope: got %d", a.status)
	}
	km.says(`{"active":false}`)
	if a := get("/things", "opaque-2"); a.status != 401 || !strings.Contains(a.body, "900901") {
		t.Errorf("refused: got %d %s", a.status, a.body)
	}
	d.Stop(t)
	km.Close()
	d = devicetest.Start(t, devicetest.Options{Dir: dir, Fleet: fleet, Config: password})
	if a := get("/things", "opaque-1"); a.status != 200 {
		t.Errorf("honoured before, without a link: got %d %s", a.status, a.body)
	}
	a := get("/things", "opaque-3")
	if a.status != 503 || !strings.Contains(a.body, "900900") || a.header.Get("Retry-After") == "" {
		t.Errorf("unknown, without a link: got %d %s %v", a.status, a.body, a.header)
	}
	// A bundle that names another server does not take the answers of this one over.
	set.Introspection.URL = "http://127.0.0.1:1/introspect"
	d.Apply(t, set)
	if a := get("/things", "opaque-1"); a.status != 503 {
		t.Errorf("answer of another server: got %d", a.status)
	}
}
