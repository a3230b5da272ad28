package gateway_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"tidegate/appliance/gateway"
	"tidegate/policy"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// backendOf runs h as a backend until the test ends.
func backendOf(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// ask serves one call and returns the exchange with its answer.
func ask(g *gateway.Gateway, x *exchange) *exchange {
	x.keep = true
	g.Serve(x)
	return x
}

func TestStoredAnswers(t *testing.T) {
	var calls atomic.Int64
	var away, notModified atomic.Bool
	url := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		n := calls.Add(1)
		switch {
		case away.Load():
			w.WriteHeader(503)
			return
		case r.Method != "GET":
			w.WriteHeader(204)
			return
		case r.Header.Get("If-None-Match") == `"v1"` && notModified.Load():
			w.WriteHeader(304)
			return
		case strings.HasSuffix(r.URL.Path, "public"):
			w.Header().Set("Cache-Control", "public, max-age=50")
		}
		w.Header().Set("ETag", `"v1"`)
		fmt.Fprintf(w, "answer %d to %s", n, r.Header.Get("X-User"))
	})
	who := newIssuer(t)
	set := apiSet(url, func(a *policy.API, o *policy.Operation) {
		a.Cache = &policy.Cache{Seconds: 60, StaleOffline: 600}
		o.Security = []policy.Alternative{{{Scheme: 0}}}
		put := *o
		put.Method = "PUT"
		a.Operations = append(a.Operations, put)
	})
	set.Issuers = []policy.Issuer{who.policy(t)}
	g, c, r := serve(t, set, nil)
	bearer := func(app, user string) string {
		return "Bearer " + who.token(t, map[string]any{"sub": user, "application": map[string]any{"id": app, "name": app}})
	}
	one, two := bearer("1", "ann"), bearer("2", "bob")
	get := func(token, path string, more ...string) *exchange {
		return ask(g, newExchange("GET", "/a/x/"+path, append([]string{"Authorization", token}, more...)...))
	}
	expect := func(name string, x *exchange, status int, body, age string) {
		t.Helper()
		if x.status != status || string(x.got) != body || x.header.Value("Age") != age {
			t.Errorf("%s: got %d %q, age %q; want %d %q, %q", name, x.status, x.got, x.header.Value("Age"), status, body, age)
		}
	}
	expect("first", get(one, "1"), 200, "answer 1 to ", "")
	c.boot = 10 * time.Second
	expect("stored", get(one, "1"), 200, "answer 1 to ", "10")
	if r.last.Flags == 0 {
		t.Error("the event does not tell that the answer was stored")
	}
	expect("another user of the application", get(bearer("1", "eve"), "1"), 200, "answer 1 to ", "10")
	expect("another application", get(two, "1"), 200, "answer 2 to ", "")
	expect("another query", get(one, "1?a=b"), 200, "answer 3 to ", "")
	expect("a client that has it", get(one, "1", "If-None-Match", `"v1"`), 304, "", "10")
	head := ask(g, newExchange("HEAD", "/a/x/1", "Authorization", one))
	if head.status != 405 {
		t.Errorf("HEAD must be declared: got %d", head.status)
	}
	expect("a public answer", get(one, "public"), 200, "answer 4 to ", "")
	expect("a public answer for another", get(two, "public"), 200, "answer 4 to ", "0")
	expect("no-cache", get(one, "1", "Cache-Control", "no-cache"), 200, "answer 5 to ", "")
	expect("only if stored, and it is", get(one, "1", "Cache-Control", "only-if-cached"), 200, "answer 5 to ", "0")
	if x := get(one, "none", "Cache-Control", "only-if-cached"); x.status != 504 {
		t.Errorf("only if stored, and it is not: got %d", x.status)
	}
	if x := get("", "1"); x.status != 401 {
		t.Errorf("without a credential: got %d %s", x.status, x.got)
	}

	c.boot = 100 * time.Second
	notModified.Store(true)
	expect("confirmed", get(one, "1"), 200, "answer 5 to ", "0")
	notModified.Store(false)
	c.boot = 200 * time.Second
	away.Store(true)
	expect("stale while the backend is away", get(one, "1"), 200, "answer 5 to ", "100")
	c.boot = 2000 * time.Second
	if x := get(one, "1"); x.status != 503 {
		t.Errorf("stale for too long: got %d", x.status)
	}
	away.Store(false)
	n := calls.Load()
	expect("back again", get(one, "1"), 200, fmt.Sprintf("answer %d to ", n+1), "")
	if x := ask(g, newExchange("PUT", "/a/x/1", "Authorization", one)); x.status != 204 {
		t.Fatalf("PUT: got %d", x.status)
	}
	expect("after a change", get(one, "1"), 200, fmt.Sprintf("answer %d to ", n+3), "")

	// The same definition in a new bundle keeps what is stored; another one does not.
	again, err := g.Build(set, nil)
	if err != nil {
		t.Fatal(err)
	}
	g.Activate(again)
	expect("the same API in a new bundle", get(one, "1"), 200, fmt.Sprintf("answer %d to ", n+3), "0")
	changed := *set
	changed.APIs = append([]policy.API(nil), set.APIs...)
	changed.APIs[0].Edit = &policy.Transform{RequestHeaders: []policy.Edit{{Kind: policy.EditSet, Name: "X-User", Value: "{claim.sub}"}}}
	other, err := g.Build(&changed, nil)
	if err != nil {
		t.Fatal(err)
	}
	g.Activate(other)
	expect("a changed API", get(one, "1"), 200, fmt.Sprintf("answer %d to ann", n+4), "")
	expect("where the backend hears the user, another user", get(bearer("1", "eve"), "1"), 200, fmt.Sprintf("answer %d to eve", n+5), "")
}

func TestAnswersThatAreNotShared(t *testing.T) {
	var calls atomic.Int64
	url := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		n := calls.Add(1)
		if r.URL.Query().Get("cookie") != "" {
			w.Header().Set("Set-Cookie", "a=b")
		}
		fmt.Fprintf(w, "%d", n)
	})
	set := apiSet(url, func(a *policy.API, _ *policy.Operation) { a.Cache = &policy.Cache{Seconds: 60} })
	g, _, _ := serve(t, set, nil)
	for name, x := range map[string]func() *exchange{
		"a cookie of the client":   func() *exchange { return newExchange("GET", "/a/x/1", "Cookie", "sid=1") },
		"a credential that passes": func() *exchange { return newExchange("GET", "/a/x/2", "Authorization", "Bearer x") },
		"a cookie of the backend":  func() *exchange { return newExchange("GET", "/a/x/3?cookie=1") },
		"a range":                  func() *exchange { return newExchange("GET", "/a/x/4", "Range", "bytes=0-1") },
		"another Host": func() *exchange {
			x := newExchange("GET", "/a/x/5")
			x.head.Authority = fmt.Sprintf("evil-%d.test", calls.Load())
			return x
		},
	} {
		a, b := ask(g, x()), ask(g, x())
		if string(a.got) == string(b.got) {
			t.Errorf("%s: answered twice with %s", name, a.got)
		}
	}
}

func TestTransforms(t *testing.T) {
	type seen struct {
		Method, URI, Host, User, Evil, Kind, Body string
	}
	var got seen
	url := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = seen{r.Method, r.URL.RequestURI(), r.Host, r.Header.Get("X-User"), r.Header.Get("X-Evil"), r.Header.Get("Content-Type"), string(b)}
		w.Header().Set("X-Backend", "secret name")
		w.Header().Set("ETag", `"x"`)
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("code") != "" {
			w.WriteHeader(404)
		}
		_, _ = io.WriteString(w, `{"id":7,"secret":"s","list":[{"key":1,"v":2}]}`)
	})
	set := apiSet(url, func(a *policy.API, o *policy.Operation) {
		o.Edit = &policy.Transform{
			RequestHeaders: []policy.Edit{{Kind: policy.EditSet, Name: "X-User", Value: "u-{query.user}"}, {Kind: policy.EditRemove, Name: "X-Evil"}},
			Query:          []policy.Edit{{Kind: policy.EditRemove, Name: "user"}},
			Path:           "/v2/{path.id}/{query.user}", Method: "POST", Host: "inside.test",
			RequestBody:     `{"id": {path.id}, "old": {body./a}}`,
			ResponseHeaders: []policy.Edit{{Kind: policy.EditRemove, Name: "X-Backend"}, {Kind: policy.EditSet, Name: "X-Id", Value: "{path.id}"}},
			DropFields:      []string{"/secret", "/list/*/key"},
			Statuses:        []policy.Status{{From: 404, To: 410}},
		}
		fixed := *o
		fixed.Template, fixed.Edit = "/moved/{id}", &policy.Transform{Fixed: &policy.Fixed{Status: 308, Headers: []policy.Edit{{Kind: policy.EditSet, Name: "Location", Value: "https://new.test/{path.id}"}}}}
		gone := *o
		gone.Template, gone.Edit = "/gone", &policy.Transform{Statuses: []policy.Status{{From: 404, To: 204}}}
		drop := *o
		drop.Template, drop.Method, drop.Edit = "/drop", "POST", &policy.Transform{DropRequest: []string{"/admin"}}
		a.Operations = append(a.Operations, fixed, gone, drop)
	})
	g, _, _ := serve(t, set, nil)
	x := ask(g, newExchange("GET", "/a/x/a%2Fb?user=ann%0d%0aX:1&keep=%20", "X-User", "root", "X-Evil", "1").withBody("application/json", `{"a":[1]}`))
	want := seen{"POST", "/v2/a%2Fb/ann%0D%0AX%3A1?keep=%20", "inside.test", "u-ann  X:1", "", "application/json", `{"id": "a/b", "old": [1]}`}
	if got != want {
		t.Errorf("the backend saw\n%+v, want\n%+v", got, want)
	}
	if x.status != 200 || string(x.got) != `{"id":7,"list":[{"v":2}]}` || x.header.Has("X-Backend") || x.header.Has("Etag") || x.header.Value("X-Id") != "a/b" {
		t.Errorf("the client got %d %s %v", x.status, x.got, x.header)
	}
	if x := ask(g, newExchange("GET", "/a/x/1?user=a&code=1")); x.status != 410 || string(x.got) != `{"id":7,"list":[{"v":2}]}` {
		t.Errorf("status: got %d %s", x.status, x.got)
	}
	if x := ask(g, newExchange("GET", "/a/x/1?user=..")); x.status != 400 {
		t.Errorf("dot segment: got %d", x.status)
	}
	if x := ask(g, newExchange("GET", "/a/x/1?user=a").withBody("text/plain", `{"a":1}`)); x.status != 415 {
		t.Errorf("a body that is not JSON: got %d", x.status)
	}
	if x := ask(g, newExchange("GET", "/a/x/1?user=a").withBody("application/json", `{"a":1,"a":2}`)); x.status != 400 {
		t.Errorf("a name twice: got %d %s", x.status, x.got)
	}
	if x := ask(g, newExchange("GET", "/a/moved/1")); x.status != 308 || x.header.Value("Location") != "https://new.test/1" || !x.header.Has("X-Request-Id") {
		t.Errorf("redirect: got %d %v", x.status, x.header)
	}
	if x := ask(g, newExchange("GET", "/a/gone?code=1")); x.status != 204 || len(x.got) != 0 {
		t.Errorf("404 as 204: got %d %s", x.status, x.got)
	}
	ask(g, newExchange("POST", "/a/drop").withBody("application/json", `{"admin":true,"n":1}`))
	if got.Body != `{"n":1}` {
		t.Errorf("dropped from a request: the backend saw %s", got.Body)
	}
	if x := ask(g, newExchange("POST", "/a/drop").withBody("text/plain", `{"admin":true}`)); x.status != 415 {
		t.Errorf("a field to drop under another type: got %d", x.status)
	}
}

func TestCompression(t *testing.T) {
	long := strings.Repeat(`{"meter":"m17","value":12.5},`, 200)
	url := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("ETag", `"v1"`)
		for name := range q {
			w.Header().Set(name, q.Get(name))
		}
		if q.Get("short") != "" {
			_, _ = io.WriteString(w, "{}")
			return
		}
		_, _ = io.WriteString(w, long)
	})
	set := apiSet(url, func(a *policy.API, _ *policy.Operation) { a.Compress = true })
	g, _, _ := serve(t, set, nil)
	for _, tt := range []struct{ accept, query, want string }{
		{"gzip", "", "gzip"},
		{"zstd, gzip", "", "zstd"},
		{"gzip, zstd;q=0.5", "", "gzip"},
		{"gzip;q=0", "", ""},
		{"", "", ""},
		{"br", "", ""},
		{"*", "", "gzip"},
		{"gzip;q=2", "", ""},
		{"GZIP", "", "gzip"},
		{"gzip", "short=1", ""},
		{"gzip", "Content-Type=image/png", ""},
		{"gzip", "Content-Type=text/event-stream", ""},
		{"gzip", "Content-Encoding=br", "br"},
		{"gzip", "Cache-Control=no-transform", ""},
	} {
		x := ask(g, newExchange("GET", "/a/x/1?"+tt.query, "Accept-Encoding", tt.accept))
		if got := x.header.Value("Content-Encoding"); got != tt.want {
			t.Errorf("%q %s: coding %q, want %q", tt.accept, tt.query, got, tt.want)
			continue
		}
		var r io.Reader = bytes.NewReader(x.got)
		switch x.header.Value("Content-Encoding") {
		case "gzip":
			z, err := gzip.NewReader(r)
			if err != nil {
				t.Fatal(err)
			}
			r = z
		case "zstd":
			z, err := zstd.NewReader(r)
			if err != nil {
				t.Fatal(err)
			}
			defer z.Close()
			r = z
		default:
			continue
		}
		b, err := io.ReadAll(r)
		if err != nil || string(b) != long || len(x.got) >= len(long)/2 || x.length != -1 {
			t.Errorf("%q: %d of %d bytes, announced %d, %v", tt.accept, len(x.got), len(long), x.length, err)
		}
		if x.header.Value("Etag") != `W/"v1"` || x.header.Value("Vary") != "Accept-Encoding" {
			t.Errorf("%q: %v", tt.accept, x.header)
		}
	}
}

func TestTokensForBackends(t *testing.T) {
	var tokens []string
	url := backendOf(t, func(_ http.ResponseWriter, r *http.Request) {
		tokens = append(tokens, r.Header.Values("X-Jwt-Assertion")...)
	})
	who, maker := newIssuer(t), newIssuer(t)
	der, err := x509.MarshalPKCS8PrivateKey(maker.key)
	if err != nil {
		t.Fatal(err)
	}
	set := apiSet(url, func(a *policy.API, o *policy.Operation) {
		o.Security = []policy.Alternative{{{Scheme: 0}}}
		open := *o
		open.Template, open.Security = "/open", nil
		a.Operations = append(a.Operations, open)
	})
	set.Issuers = []policy.Issuer{who.policy(t)}
	set.BackendJWT = &policy.BackendJWT{Enabled: true, Algorithm: "ES256", Issuer: "gateway", Key: "backend_jwt/key"}
	g, c, _ := serve(t, set, map[string][]byte{"backend_jwt/key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})})
	ann, bob := "Bearer "+who.token(t, map[string]any{"sub": "ann"}), "Bearer "+who.token(t, map[string]any{"sub": "bob"})
	send := func(token string) string {
		tokens = nil
		ask(g, newExchange("GET", "/a/x/1", "Authorization", token, "X-JWT-Assertion", "forged"))
		if len(tokens) != 1 {
			t.Fatalf("the backend got %q", tokens)
		}
		return tokens[0]
	}
	first := send(ann)
	part, err := base64.RawURLEncoding.DecodeString(strings.Split(first, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(part, &claims); err != nil || claims["sub"] != "ann" || claims["http://wso2.org/claims/enduser"] != "ann@carbon.super" || claims["iss"] != "gateway" {
		t.Errorf("claims: %v, %v", claims, err)
	}
	if again := send(ann); again != first {
		t.Error("a second token for the same caller")
	}
	if other := send(bob); other == first {
		t.Error("one token for two callers")
	}
	c.boot += 13 * time.Minute
	if later := send(ann); later == first {
		t.Error("a token near its end was handed out")
	}
	tokens = nil
	ask(g, newExchange("GET", "/a/open", "X-JWT-Assertion", "forged"))
	if len(tokens) != 0 {
		t.Errorf("a forged token reached the backend: %q", tokens)
	}
	if _, err := g.Build(set, nil); err == nil {
		t.Error("built without the key")
	}
}

func TestBodiesByPlan(t *testing.T) {
	url := backendOf(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	who := newIssuer(t)
	set := apiSet(url, func(_ *policy.API, o *policy.Operation) {
		o.Method, o.MaxBody, o.Security = "POST", 1000, []policy.Alternative{{{Scheme: 0}}}
	})
	set.Issuers = []policy.Issuer{who.policy(t)}
	limit := policy.Limit{Count: 100, Window: time.Hour}
	set.Plans = []policy.Plan{
		{Kind: policy.SubscriptionPlan, Name: "Small", Limit: limit, MaxBody: 10},
		{Kind: policy.SubscriptionPlan, Name: "Large", Limit: limit, MaxBody: 5000},
		{Kind: policy.ApplicationPlan, Name: "Tiny", Limit: limit, MaxBody: 5},
	}
	g, _, _ := serve(t, set, nil)
	for _, tt := range []struct {
		plan, app string
		n, status int
	}{{"Small", "", 10, 200}, {"Small", "", 11, 413}, {"Large", "", 1000, 200}, {"Large", "", 1001, 413}, {"Large", "Tiny", 6, 413}, {"Large", "Tiny", 5, 200}} {
		token := who.token(t, map[string]any{
			"application":    map[string]any{"id": "1", "name": "a", "tier": tt.app},
			"subscribedAPIs": []any{map[string]any{"name": "a", "version": "1", "subscriptionTier": tt.plan}},
		})
		x := newExchange("POST", "/a/x/1", "Authorization", "Bearer "+token).withBody("text/plain", strings.Repeat("x", tt.n))
		if ask(g, x); x.status != tt.status {
			t.Errorf("%s %s, %d bytes: got %d %s, want %d", tt.plan, tt.app, tt.n, x.status, x.got, tt.status)
		}
	}
}

func TestTracesAndProxies(t *testing.T) {
	var got http.Header
	url := backendOf(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header })
	g, _, _ := serve(t, apiSet(url, nil), nil)
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, tt := range []struct {
		trace []string
		want  string
	}{
		{[]string{good}, good},
		{[]string{"01" + good[2:] + "-more"}, "01" + good[2:] + "-more"},
		{[]string{good, good}, ""},
		{[]string{"ff" + good[2:]}, ""},
		{[]string{strings.ToUpper(good)}, ""},
		{[]string{good + "-x"}, ""},
		{[]string{"00-00000000000000000000000000000000-b7ad6b7169203331-01"}, ""},
		{[]string{good[:54]}, ""},
		{[]string{"x"}, ""},
	} {
		x := newExchange("GET", "/a/x/1", "Tracestate", "a=b", "Forwarded", "for=evil", "X-Forwarded-For", "6.6.6.6", "X-Forwarded-Proto", "https", "X-Request-Id", "evil")
		for _, v := range tt.trace {
			x.head.Header = append(x.head.Header, struct{ Name, Value string }{"Traceparent", v})
		}
		ask(g, x)
		state := ""
		if tt.want != "" {
			state = "a=b"
		}
		if got.Get("Traceparent") != tt.want || got.Get("Tracestate") != state {
			t.Errorf("%q: the backend got %q, %q", tt.trace, got.Get("Traceparent"), got.Get("Tracestate"))
		}
		if got.Get("Forwarded") != "" || got.Get("X-Forwarded-For") != "192.0.2.1" || got.Get("X-Forwarded-Proto") != "http" || got.Get("X-Request-Id") != x.ID() {
			t.Errorf("fields of a proxy that is not trusted: %v", got)
		}
	}
	x := newExchange("GET", "/a/x/1", "Forwarded", "for=198.51.100.7;proto=https", "X-Forwarded-For", "198.51.100.7", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "shop.test")
	x.proxy = true
	ask(g, x)
	if got.Get("Forwarded") != "for=198.51.100.7;proto=https, for=192.0.2.1" || got.Get("X-Forwarded-For") != "198.51.100.7, 192.0.2.1" ||
		got.Get("X-Forwarded-Proto") != "https" || got.Get("X-Forwarded-Host") != "shop.test" {
		t.Errorf("fields of a trusted proxy: %v", got)
	}
}
