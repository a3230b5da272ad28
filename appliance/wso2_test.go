package appliance_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/policy/project"
	"tidegate/policy/wso2"
	"tidegate/sync/apim/apimtest"
	"time"
)

// goldenProjects are what tidectl import wso2 makes of the example replies.
const goldenProjects = "../cmd/tidectl/testdata/wso2"

// importedProject loads a golden project with the keys of the stand-in, as an import of this
// run would have got them.
func importedProject(t *testing.T, name string) *project.Project {
	t.Helper()
	var fsys fs.FS = os.DirFS(filepath.Join(goldenProjects, name))
	if _, err := fs.Stat(fsys, "keys/apim.jwks.json"); err == nil {
		keys, err := json.Marshal(apimtest.JWKS())
		if err != nil {
			t.Fatal(err)
		}
		fsys = (&wso2.Changes{Write: []wso2.File{{Name: "keys/apim.jwks.json", Body: keys}}}).Over(fsys)
	}
	p, findings := project.Load(fsys)
	if p == nil {
		t.Fatal(findings)
	}
	return p
}

// backends answer with their name and what they were asked.
type backends struct {
	mu    sync.Mutex
	calls map[string]int
	url   map[string]string
}

func newBackends(t *testing.T, names ...string) *backends {
	t.Helper()
	b := &backends{calls: map[string]int{}, url: map[string]string{}}
	for _, name := range names {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b.mu.Lock()
			b.calls[name]++
			b.mu.Unlock()
			fmt.Fprintf(w, "%s: %s %s %s", name, r.Method, r.URL.RequestURI(), r.Header.Get("Authorization"))
		}))
		t.Cleanup(s.Close)
		b.url[name] = s.URL
	}
	return b
}

func (b *backends) count(name string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls[name]
}

// apimToken is a token as API Manager issues it, for one subscription.
func apimToken(t *testing.T, api, version, tier string, more map[string]any) string {
	t.Helper()
	claims := map[string]any{
		"iss": "https://apim.harbour.example:9443/oauth2/token", "aud": "http://org.wso2.apimgt/gateway", "sub": "fitter2@carbon.super", "keytype": "PRODUCTION", "consumerKey": "ck",
		"application": map[string]any{"id": 2, "name": "TabletApp", "tier": "Unlimited", "owner": "master"}, "scope": "default", "exp": time.Now().Add(time.Hour).Unix(),
		"subscribedAPIs": []any{map[string]any{"name": api, "context": "/x", "version": version, "publisher": "admin", "subscriptionTier": tier, "subscriberTenantDomain": "carbon.super"}},
	}
	for k, v := range more {
		claims[k] = v
	}
	return "Bearer " + apimtest.Token(t, claims)
}

// secure calls the TLS listener, whose certificate the device made for itself.
func secure(t *testing.T, method, url string, header ...string) answer {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	r, err := http.NewRequestWithContext(context.Background(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

func TestEveryImportedProjectServes(t *testing.T) {
	found, err := filepath.Glob(goldenProjects + "/*")
	if err != nil || len(found) < 6 {
		t.Fatalf("%d golden projects, %v", len(found), err)
	}
	b := newBackends(t, "production", "sandbox")
	for _, dir := range found {
		name := filepath.Base(dir)
		t.Run(name, func(t *testing.T) {
			p := importedProject(t, name)
			d := devicetest.Start(t, devicetest.Options{Config: func(c *config.Config) {
				c.Endpoints = map[string]config.Endpoint{
					"MeterReadings-1.2.0-production": {URL: config.Words{b.url["production"] + "/metering"}, Password: "secret"},
					"MeterReadings-1.2.0-sandbox":    {URL: config.Words{b.url["sandbox"] + "/metering"}, Password: "secret"},
					"CraneOrders-v3-production":      {Password: "secret"},
					"CraneOrders-v3-sandbox":         {Password: "secret"},
				}
			}})
			p.Set.Blocked = nil
			d.Apply(t, p.Set)
			for _, path := range []string{"/meters/1.2.0/status?x=1", "/meters/status?x=1"} {
				if a := call(t, "GET", d.URL(path)); a.status != 200 || !strings.HasPrefix(a.body, "production: GET /metering/status?x=1") {
					t.Errorf("%s: got %d %s", path, a.status, a.body)
				}
			}
			if a := call(t, "GET", d.URL("/meters/1.2.0/readings")); a.status != 401 {
				t.Errorf("without a token: got %d %s", a.status, a.body)
			}
		})
	}
}

func TestImportedLabelServesAsItDidInAPIManager(t *testing.T) {
	b := newBackends(t, "production", "sandbox", "crane1", "crane2", "crane3")
	p := importedProject(t, "apim-2.6")
	d := devicetest.Start(t, devicetest.Options{Config: func(c *config.Config) {
		c.Listen.HTTPS = "127.0.0.1:0"
		c.Endpoints = map[string]config.Endpoint{
			"MeterReadings-1.2.0-production": {URL: config.Words{b.url["production"] + "/metering"}},
			"MeterReadings-1.2.0-sandbox":    {URL: config.Words{b.url["sandbox"] + "/metering"}},
			"CraneOrders-v3-production":      {URL: config.Words{b.url["crane1"] + "/api", b.url["crane2"] + "/api", b.url["crane3"] + "/api"}, Password: "pw"},
			"CraneOrders-v3-sandbox":         {Password: "pw"},
		}
	}})
	d.Apply(t, p.Set)
	const readings = "/meters/1.2.0/readings"
	cranes := "https://" + d.Addr("https") + "/cranes/v3/orders"
	free := apimToken(t, "MeterReadings", "1.2.0", "Unlimited", nil)

	t.Run("the right backend", func(t *testing.T) {
		if a := call(t, "GET", d.URL(readings), "Authorization", free); a.status != 200 || a.body != "production: GET /metering/readings " {
			t.Errorf("production: got %d %s", a.status, a.body)
		}
		sandbox := apimToken(t, "MeterReadings", "1.2.0", "Unlimited", map[string]any{"keytype": "SANDBOX"})
		if a := call(t, "GET", d.URL("/meters/readings/m%2F1"), "Authorization", sandbox); a.status != 200 || a.body != "sandbox: GET /metering/readings/m%2F1 " {
			t.Errorf("sandbox: got %d %s", a.status, a.body)
		}
	})
	t.Run("tiers limit", func(t *testing.T) {
		// Ten in five minutes; should a window turn in between, ten more.
		bronze := apimToken(t, "MeterReadings", "1.2.0", "Bronze", map[string]any{"application": map[string]any{"id": "77", "name": "A", "tier": "Unlimited", "owner": "o"}})
		passed := 0
		for range 21 {
			a := call(t, "GET", d.URL(readings), "Authorization", bronze)
			if a.status == 429 {
				if want := fault(900804, "Message throttled out", "You have exceeded your quota"); a.body != want || a.header.Get("Retry-After") == "" {
					t.Errorf("got %s %v", a.body, a.header)
				}
				break
			}
			if a.status != 200 {
				t.Fatalf("got %d %s", a.status, a.body)
			}
			passed++
		}
		if passed < 10 || passed > 20 {
			t.Errorf("%d calls passed, want 10", passed)
		}
	})
	t.Run("scopes", func(t *testing.T) {
		if a := call(t, "POST", d.URL(readings), "Authorization", free); a.status != 403 || !strings.Contains(a.body, "900910") {
			t.Errorf("without the scope: got %d %s", a.status, a.body)
		}
		fitter := apimToken(t, "MeterReadings", "1.2.0", "Unlimited", map[string]any{"scope": "default readings:write"})
		if a := call(t, "POST", d.URL(readings), "Authorization", fitter); a.status != 200 {
			t.Errorf("with the scope: got %d %s", a.status, a.body)
		}
	})
	t.Run("blocks", func(t *testing.T) {
		guest := apimToken(t, "MeterReadings", "1.2.0", "Unlimited", map[string]any{"sub": "guest"})
		want := fault(900805, "Message blocked", "You have been blocked from accesing the resource")
		for name, a := range map[string]answer{
			"user": call(t, "GET", d.URL(readings), "Authorization", guest),
			"API":  secure(t, "GET", cranes, "X-Crane-Authorization", apimToken(t, "CraneOrders", "v3", "Unlimited", map[string]any{"scope": "orders_read"})),
		} {
			if a.status != 403 || a.body != want {
				t.Errorf("%s: got %d %s", name, a.status, a.body)
			}
		}
	})
	t.Run("CORS", func(t *testing.T) {
		a := secure(t, "OPTIONS", cranes, "Origin", "https://panel.harbour.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-type")
		if a.status != 204 || a.header.Get("Access-Control-Allow-Origin") != "https://panel.harbour.example" || a.header.Get("Access-Control-Allow-Credentials") != "true" ||
			!strings.Contains(a.header.Get("Access-Control-Allow-Methods"), "POST") {
			t.Errorf("preflight: got %d %v", a.status, a.header)
		}
		if a = secure(t, "OPTIONS", cranes, "Origin", "https://evil.example", "Access-Control-Request-Method", "POST"); a.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("another origin: got %d %v", a.status, a.header)
		}
		if a = call(t, "GET", d.URL("/meters/1.2.0/status"), "Origin", "https://panel.harbour.example"); a.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("an API without CORS: got %v", a.header)
		}
	})

	p.Set.Blocked = nil
	d.Apply(t, p.Set)
	t.Run("header, transports, load balancing, login", func(t *testing.T) {
		token := apimToken(t, "CraneOrders", "v3", "Unlimited", map[string]any{"scope": "orders_read"})
		for i := range 6 {
			a := secure(t, "GET", cranes+fmt.Sprintf("?n=%d", i), "X-Crane-Authorization", token)
			if want := ": GET /api/orders?n=" + fmt.Sprint(i) + " Basic " + base64.StdEncoding.EncodeToString([]byte("gateway:pw")); a.status != 200 || !strings.HasSuffix(a.body, want) {
				t.Fatalf("got %d %s", a.status, a.body)
			}
		}
		if x, y, z := b.count("crane1"), b.count("crane2"), b.count("crane3"); x != 2 || y != 2 || z != 2 {
			t.Errorf("the three were called %d, %d and %d times", x, y, z)
		}
		if a := secure(t, "GET", cranes, "Authorization", token); a.status != 401 {
			t.Errorf("in another header: got %d %s", a.status, a.body)
		}
		if a := call(t, "GET", d.URL("/cranes/v3/orders"), "X-Crane-Authorization", token); a.status != 404 {
			t.Errorf("over HTTP: got %d %s", a.status, a.body)
		}
	})
}

func fault(code int, message, description string) string {
	return fmt.Sprintf(`{"fault":{"code":%d, "message":"%s", "description":"%s"}}`, code, message, description)
}

// bodiesProject is a project in which each refusal can be had.
func bodiesProject(backend, down, slow string) fstest.MapFS {
	api := func(name, base, more, paths string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte("openapi: 3.0.3\ninfo: {title: " + name + ", version: '1'}\nx-wso2-basePath: " + base + "\n" + more + "paths:\n" + paths)}
	}
	const get = "  /x: {get: {responses: {'200': {description: ok}}}}\n"
	endpoint := func(side, url, more string) string {
		return "x-wso2-" + side + "-endpoints: {urls: ['" + url + "']" + more + "}\n"
	}
	keys, _ := json.Marshal(apimtest.JWKS()) // maps of texts always encode
	return fstest.MapFS{
		"tide.yaml":           {Data: []byte("product: bodies\nfault_format: wso2\n")},
		"keys/apim.jwks.json": {Data: keys},
		"auth.yaml": {Data: []byte(`issuers: [{name: apim, issuer: "https://apim.harbour.example:9443/oauth2/token", audience: ["http://org.wso2.apimgt/gateway"], jwks: keys/apim.jwks.json}]
users: [{name: fitter, password_hash: 5BAA61E4C9B93F3F0682250B6CF8331B7EE68FD8}]
introspection: {url: "` + down + `/introspect"}
`)},
		"policies.yaml": {Data: []byte(`resourcePolicies: [Zero: {count: 1, timeUnit: day}]
subscriptionPolicies: [Zero: {count: 1, timeUnit: day}]
applicationPolicies: [Zero: {count: 1, timeUnit: day}]
customPolicies: [One: {keyTemplate: $userId, when: {userId: custom@carbon.super}, count: 1, timeUnit: day}]
`)},
		"consumers.yaml": {Data: []byte(`applications:
  - {id: b, name: B, keys: [{consumer_key: k-blocked}]}
  - {id: i, name: I, keys: [{consumer_key: k-inactive}]}
subscriptions:
  - {application: b, api: Bodies, version: "1", state: BLOCKED}
  - {application: i, api: Bodies, version: "1", state: INACTIVE}
blocked: [{type: USER, value: blocked@carbon.super}]
`)},
		"apis/bodies.yaml": api("Bodies", "/b", endpoint("production", backend, "")+endpoint("sandbox", backend, ""), get+
			"  /scope: {get: {x-scope: read, responses: {'200': {description: ok}}}}\n"+
			"  /op: {get: {x-throttling-tier: Zero, responses: {'200': {description: ok}}}}\n"+
			"  /basic: {get: {x-wso2-application-security: {security-types: [basic_auth]}, responses: {'200': {description: ok}}}}\n"),
		"apis/whole.yaml":      api("Whole", "/whole", "x-wso2-throttling-tier: Zero\n"+endpoint("production", backend, ""), get),
		"apis/production.yaml": api("ProductionOnly", "/production", endpoint("production", backend, ""), get),
		"apis/sandbox.yaml":    api("SandboxOnly", "/sandbox", endpoint("sandbox", backend, ""), get),
		"apis/down.yaml":       api("Down", "/down", "x-wso2-disable-security: true\n"+endpoint("production", down, ""), get),
		"apis/slow.yaml":       api("Slow", "/slow", "x-wso2-disable-security: true\n"+endpoint("production", slow, ", advanceEndpointConfig: {timeoutInMillis: 50}"), get),
		"apis/open.yaml": api("Open", "/circuit", "x-wso2-disable-security: true\n"+endpoint("production", down,
			", advanceEndpointConfig: {circuitBreaker: {rollingWindow: {requestVolumeThreshold: 1, timeWindowInMillis: 60000, bucketSizeInMillis: 10000}, failureThreshold: 0.1, resetTimeInMillis: 600000}}"), get),
	}
}

// TestErrorBodiesOfTheMicrogateway compares each refusal with the bytes that clients of the
// WSO2 API Microgateway know.
func TestErrorBodiesOfTheMicrogateway(t *testing.T) {
	good := newBackends(t, "backend")
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(slow.Close)
	t.Cleanup(func() { close(release) })
	down := httptest.NewServer(nil)
	down.Close()
	p, findings := project.Load(bodiesProject(good.url["backend"], down.URL, slow.URL))
	if p == nil {
		t.Fatal(findings)
	}
	for i := range p.Set.Plans { // no project may say so, but a bundle could
		p.Set.Plans[i].Limit.Count = 0
	}
	d := devicetest.Start(t, devicetest.Options{})
	d.Apply(t, p.Set)

	with := func(more map[string]any) string { return apimToken(t, "Bodies", "1", "Unlimited", more) }
	any1 := func(api string, more map[string]any) string { return apimToken(t, api, "1", "Unlimited", more) }
	tier := func(tier string) string { return apimToken(t, "Bodies", "1", tier, nil) }
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	const invalid = "Invalid Credentials. Make sure you have given the correct access token"
	notFound := `{"code":404, "type":"Status report", "message":"Runtime Error", "description":"No matching resource found for given API Request"}`
	throttled := func(code int) string { return fault(code, "Message throttled out", "You have exceeded your quota") }
	for _, tc := range []struct {
		name, method, path, credential string
		status                         int
		body                           string
	}{
		{"900900", "GET", "/b/x", "Bearer an-opaque-token", 503, fault(900900, "Unclassified Authentication Failure", "Unclassified Authentication Failure")},
		{"900901 signature", "GET", "/b/x", strings.TrimRight(with(nil), "Q") + "x", 401, fault(900901, "Invalid Credentials", invalid)},
		{"900901 expired", "GET", "/b/x", with(map[string]any{"exp": 1600000000}), 401, fault(900901, "Invalid Credentials", invalid)},
		{"900901 audience", "GET", "/b/x", with(map[string]any{"aud": "another"}), 401, fault(900901, "Invalid Credentials", invalid)},
		{"900902", "GET", "/b/x", "", 401, fault(900902, "Missing Credentials", "Missing Credentials. Make sure your API request provides required credentials")},
		{
			"900907", "GET", "/b/x", with(map[string]any{"subscribedAPIs": nil, "consumerKey": "k-blocked"}), 401,
			fault(900907, "The requested API is temporarily blocked", "The requested API is temporarily blocked"),
		},
		{"900908", "GET", "/b/x", any1("Another", nil), 403, fault(900908, "Resource forbidden ", "Resource forbidden ")},
		{
			"900909", "GET", "/b/x", with(map[string]any{"subscribedAPIs": nil, "consumerKey": "k-inactive"}), 401,
			fault(900909, "The subscription to the API is inactive", "The subscription to the API is inactive"),
		},
		{
			"900910", "GET", "/b/scope", with(nil), 403,
			fault(900910, "The access token does not allow you to access the requested resource", "The access token does not allow you to access the requested resource"),
		},
		{"900911", "GET", "/b/basic", basic("fitter:wrong"), 401, fault(900911, "Invalid Credentials", "Invalid Credentials. Make sure you have given the correct username and password")},
		{"900912", "GET", "/b/basic", basic("fitter"), 401, fault(900912, "Invalid Format", `Invalid Format. Make sure you have given the credentials in correct format with \":\" character`)},
		{"900917", "GET", "/b/basic", with(nil), 401, fault(900917, "Invalid Authentication scheme", "Invalid Authentication scheme. API can not be used with this authentication scheme")},
		{"900800", "GET", "/whole/x", any1("Whole", nil), 429, throttled(900800)},
		{"900802", "GET", "/b/op", with(nil), 429, throttled(900802)},
		{"900803", "GET", "/b/x", with(map[string]any{"application": map[string]any{"id": 9, "name": "Z", "tier": "Zero", "owner": "o"}}), 429, throttled(900803)},
		{"900804", "GET", "/b/x", tier("Zero"), 429, throttled(900804)},
		{"900805", "GET", "/b/x", with(map[string]any{"sub": "blocked"}), 403, fault(900805, "Message blocked", "You have been blocked from accesing the resource")},
		{"900806", "GET", "/b/x", with(map[string]any{"sub": "custom"}), 429, throttled(900806)},
		{"900809", "GET", "/b/x", tier("Unheard"), 500, fault(900809, "Internal server error occured", "POLICY ENFORCEMENT ERROR")},
		{
			"sandbox key", "GET", "/production/x", any1("ProductionOnly", map[string]any{"keytype": "SANDBOX"}), 403,
			`{"ERROR_CODE":"900901", "ERROR_MESSAGE":"Sandbox key offered to the API with no sandbox endpoint"}`,
		},
		{
			"production key", "GET", "/sandbox/x", any1("SandboxOnly", nil), 403,
			`{"ERROR_CODE":"900901", "ERROR_MESSAGE":"Production key offered to the API with no production endpoint"}`,
		},
		{"no path", "GET", "/b/nothing", with(nil), 404, notFound},
		{"no API", "GET", "/nothing", "", 404, notFound},
		{"method", "PUT", "/b/x", with(nil), 405, `{"code":405, "type":"Status report", "message":"Runtime Error", "description":"Method not allowed for given API resource"}`},
		{"502", "GET", "/down/x", "", 502, fault(101503, "Runtime Error", "Error connecting to the back end")},
		{"504", "GET", "/slow/x", "", 504, fault(101504, "Runtime Error", "Connection timed out")},
		{"502 opens the circuit", "GET", "/circuit/x", "", 502, fault(101503, "Runtime Error", "Error connecting to the back end")},
		{"503", "GET", "/circuit/x", "", 503, fault(303001, "Runtime Error", "No backend is available")},
	} {
		var h []string
		if tc.credential != "" {
			h = []string{"Authorization", tc.credential}
		}
		a := call(t, tc.method, d.URL(tc.path), h...)
		if a.status != tc.status || a.body != tc.body || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s:\n got %d %s %s\nwant %d %s", tc.name, a.status, a.header.Get("Content-Type"), a.body, tc.status, tc.body)
		}
		switch challenge := a.header.Get("WWW-Authenticate"); {
		case a.status == 401 && challenge == "", a.status == 429 && a.header.Get("Retry-After") == "", a.status == 405 && a.header.Get("Allow") != "GET":
			t.Errorf("%s: headers %v", tc.name, a.header)
		}
	}
	if n := good.count("backend"); n != 0 {
		t.Errorf("the backend was called %d times by refused calls", n)
	}
}

// TestConfigurationOfAMicrogatewayIsOneOfADevice reads the tidegate.toml that micro-gw.conf
// becomes.
func TestConfigurationOfAMicrogatewayIsOneOfADevice(t *testing.T) {
	const conf = `
[listenerConfig]
host="127.0.0.1"
httpPort=8090
httpsPort=8095
maxUriLength=4096
maxHeaderSize=8192
maxEntityBodySize=-1
timeoutInMillis=90000
[mutualSSLConfig]
sslVerifyClient="require"
[caching]
tokenCacheCapacity=5000
[b7a.log]
level="DEBUG"
[b7a.http.accesslog]
console=true
`
	r, err := wso2.ReadMicrogateway("site", fstest.MapFS{}, "micro-gw.conf", []byte(conf), nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "tidegate.toml")
	if err := os.WriteFile(file, r.Files[0].Body, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(config.Sources{File: file})
	if err != nil {
		t.Fatalf("%v\n%s", err, r.Files[0].Body)
	}
	if c.Listen.HTTP != "127.0.0.1:8090" || c.Listen.HTTPS != "127.0.0.1:8095" || c.Limits.URIBytes != 4096 || c.Limits.HeaderBytes != 8192 ||
		c.TLS.ClientAuth != "require" || c.Cache.Tokens != 5000 || c.Log.Level != "debug" || c.Log.Access != "combined" || c.Listen.IdleTimeout.Std() != 90*time.Second {
		t.Errorf("got %+v", c)
	}
}
