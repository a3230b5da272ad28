package appliance_test

import (
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
	"tidegate/policy/project"
)

// sampleDevice runs a device with one of WSO2's sample documents. Each URL of the document leads to
// a backend of its own, which answers with that URL's name and what it was asked.
func sampleDevice(t *testing.T, name string, change func(*policy.Set)) (*devicetest.Device, map[string]*atomic.Int64) {
	t.Helper()
	set := projectOf(t, filepath.Join(shared(t), "wso2-samples", name)).Set
	calls, at := map[string]*atomic.Int64{}, map[string]string{}
	for i := range set.Endpoints {
		for k := range set.Endpoints[i].Targets {
			u := set.Endpoints[i].Targets[k].URL
			if at[u] == "" {
				at[u], calls[u] = named(t, u)
			}
			set.Endpoints[i].Targets[k].URL = at[u]
		}
	}
	d := devicetest.Start(t, devicetest.Options{Config: func(c *config.Config) {
		c.Endpoints = map[string]config.Endpoint{}
		for _, e := range set.Endpoints {
			if e.Auth != nil {
				c.Endpoints[e.Name] = config.Endpoint{Password: "of the device"}
			}
		}
	}})
	set.Issuers = append(set.Issuers, d.Fleet.PolicyIssuer(t))
	if change != nil {
		change(set)
	}
	d.Apply(t, set)
	return d, calls
}

// TestSamplesOfWSO2 runs every sample document of WSO2's microgateway and compares what a client sees with
// what that product documents for its extensions.
func TestSamplesOfWSO2(t *testing.T) {
	shared(t) // not here: nothing to run
	const pet = "https://petstore.swagger.io/v2"
	token := func(d *devicetest.Device, scope string) []string {
		return []string{"Authorization", "Bearer " + d.Fleet.Token(t, map[string]any{"scope": scope})}
	}
	get := func(d *devicetest.Device, path string, header ...string) answer {
		t.Helper()
		return call(t, "GET", d.URL(path), header...)
	}
	expect := func(what string, a answer, status int, body string) {
		t.Helper()
		if a.status != status || a.body != body {
			t.Errorf("%s: got %d %s, want %d %s", what, a.status, a.body, status, body)
		}
	}
	seen := 0
	run := func(name string, fn func(t *testing.T)) {
		seen++
		t.Run(name, fn)
	}
	run("petstore_basic", func(t *testing.T) { // x-wso2-basePath, x-wso2-production-endpoints; secured unless it says otherwise
		d, _ := sampleDevice(t, "petstore_basic.yaml", nil)
		expect("base path", get(d, "/petstore/v1/pet/7", token(d, "")...), 200, pet+" GET /pet/7")
		expect("no token", get(d, "/petstore/v1/pet/7"), 401, wsMissing)
		expect("path of the server", get(d, "/v2/pet/7", token(d, "")...), 404, wsNotFound)
	})
	run("petstore_swagger3", func(t *testing.T) { // no extension: the first server is base path and backend
		base := ""
		d, calls := sampleDevice(t, "petstore_swagger3.yaml", func(set *policy.Set) { base = set.APIs[0].BasePath })
		var backend string
		for u := range calls {
			backend = u
		}
		expect("scope of the operation", get(d, base+"/pet/findByTags?tags=a", token(d, "read:pets")...), 200, backend+" GET /pet/findByTags?tags=a")
		expect("another scope", get(d, base+"/pet/findByTags?tags=a", token(d, "other")...), 403, wsScope)
		expect("no token", get(d, base+"/pet/findByTags?tags=a"), 401, wsMissing)
	})
	run("cors_sample", func(t *testing.T) {
		d, _ := sampleDevice(t, "cors_sample.yaml", nil)
		c := direct(t)
		a := say(t, c, "OPTIONS", d.URL("/petstore/v1/pet/7"), "", "Origin: test.com", "Access-Control-Request-Method: GET")
		h := a.header
		if a.status != 204 || h.Get("Access-Control-Allow-Origin") != "test.com" || h.Get("Access-Control-Allow-Headers") != "Authorization, Content-Type" || !strings.Contains(h.Get("Access-Control-Allow-Methods"), "GET") {
			t.Errorf("preflight: got %d %v", a.status, h)
		}
		if a := say(t, c, "OPTIONS", d.URL("/petstore/v1/pet/7"), "", "Origin: evil.test", "Access-Control-Request-Method: GET"); a.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("preflight of another origin: got %v", a.header)
		}
		bearer := "Authorization: " + token(d, "")[1]
		if a := say(t, c, "GET", d.URL("/petstore/v1/pet/7"), "", "Origin: example.com", bearer); a.status != 200 || a.header.Get("Access-Control-Allow-Origin") != "example.com" {
			t.Errorf("call: got %d %v", a.status, a.header)
		}
	})
	run("endpoint_by_reference_sample", func(t *testing.T) {
		d, calls := sampleDevice(t, "endpoint_by_reference_sample.yaml", nil)
		for range 4 {
			a := get(d, "/petstore/v1/pet/findByStatus?status=sold", token(d, "")...)
			if a.status != 200 || !strings.HasSuffix(a.body, " GET /pet/findByStatus?status=sold") {
				t.Errorf("operation: got %d %s", a.status, a.body)
			}
			if a := get(d, "/petstore/v1/pet/7", token(d, "")...); a.status != 200 {
				t.Errorf("API: got %d %s", a.status, a.body)
			}
		}
		for url, want := range map[string]int64{pet: 2, "https://petstore.swagger.io/v5": 2, "https://petstore.swagger.io/v3": 2, "https://petstore.swagger.io/v4": 2} {
			if got := calls[url].Load(); got != want {
				t.Errorf("%s got %d calls, want %d: they take turns", url, got, want)
			}
		}
	})
	run("per_resource_endpoint", func(t *testing.T) { // the endpoint of an operation wins over that of the API
		d, calls := sampleDevice(t, "per_resource_endpoint.yaml", nil)
		const own, list = "http://www.mocky.io/v2/5cd28b9a310000bf293397f9", "http://www.mocky.io/v2/5cd28cd73100008628339802"
		for range 2 {
			expect("by id", get(d, "/petstore/v1/pet/7", token(d, "")...), 200, own+" GET /pet/7")
			if a := get(d, "/petstore/v1/pet/findByStatus?status=sold", token(d, "")...); a.status != 200 {
				t.Errorf("list: got %d %s", a.status, a.body)
			}
		}
		if calls[own].Load() != 2 || calls[list].Load() != 1 || calls[pet].Load() != 1 {
			t.Errorf("calls: %d, %d, %d", calls[own].Load(), calls[list].Load(), calls[pet].Load())
		}
	})
	run("policies_sample", func(t *testing.T) { // the plan of the API counts all operations, that of the operation is ignored
		d, _ := sampleDevice(t, "policies_sample.yaml", func(set *policy.Set) {
			set.APIs[0].Plan = "10kPerMin" // the sample's file of plans is not here: 3 calls stand for it
			set.Plans = []policy.Plan{{Kind: policy.ResourcePlan, Name: "10kPerMin", Limit: policy.Limit{Count: 3, Window: 365 * 24 * 3600e9}}}
		})
		for i, path := range []string{"/pet/7", "/pet/findByStatus?status=sold", "/pet/8"} {
			if a := get(d, "/petstore/v1"+path, token(d, "")...); a.status != 200 {
				t.Errorf("call %d: got %d %s", i+1, a.status, a.body)
			}
		}
		const full = `{"fault":{"code":900800, "message":"Message throttled out", "description":"You have exceeded your quota"}}`
		a := get(d, "/petstore/v1/pet/findByStatus?status=sold", token(d, "")...)
		expect("above the plan of the API", a, 429, full)
		if a.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	})
	run("security_sample", func(t *testing.T) { // scopes of the operation: one of them is enough
		d, _ := sampleDevice(t, "security_sample.yaml", nil)
		for scope, want := range map[string]int{"read": 200, "write": 200, "admin": 403, "": 403} {
			if a := get(d, "/petstore/v1/pet/7", token(d, scope)...); a.status != want {
				t.Errorf("scope %q: got %d %s, want %d", scope, a.status, a.body, want)
			}
		}
		expect("an operation without", get(d, "/petstore/v1/pet/findByStatus?status=sold", token(d, "")...), 200, pet+" GET /pet/findByStatus?status=sold")
		expect("a login", get(d, "/petstore/v1/pet/7", "Authorization", "Basic YTpi"), 401, wsScheme)
	})
	run("interceptors_sample", func(t *testing.T) { // code cannot run here: an error, unless the project accepts it
		strict := projectFiles(t, filepath.Join(shared(t), "wso2-samples", "interceptors_sample.yaml"), "")
		p, found := project.Load(strict)
		n := 0
		for _, f := range found {
			if f.Severity == project.Error && strings.Contains(f.Message, "interceptor") {
				n++
			}
		}
		if p != nil || n != 2 {
			t.Errorf("built with interceptors: %v", found)
		}
		d, _ := sampleDevice(t, "interceptors_sample.yaml", nil)
		expect("accepted loss", get(d, "/petstore/v1/pet/7", token(d, "")...), 200, pet+" GET /pet/7")
	})
	all, err := filepath.Glob(filepath.Join(shared(t), "wso2-samples", "*.yaml"))
	if err != nil || len(all) != seen {
		t.Errorf("%d samples, %d of them run: %v", len(all), seen, err)
	}
}
