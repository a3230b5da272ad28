package wso2

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/policy/source"
	"tidegate/policy/wso2/wso2test"
	"time"
)

const (
	plainEndpoint   = `"endpointConfig":"{\"production_endpoints\":{\"url\":\"http://10.0.0.1\"},\"endpoint_type\":\"http\"}"`
	plainDefinition = `{"swagger":"2.0","info":{"title":"x","version":"x"},"paths":{"/a":{"get":{"responses":{"200":{"description":"ok"}}}}}}`
)

// oneAPI converts one API of the REST API whose description is the given members.
func oneAPI(t *testing.T, members string) (*Result, *source.Node) {
	t.Helper()
	r, err := tryAPI(t, members, plainDefinition)
	if err != nil {
		t.Fatal(err)
	}
	return r, document(t, r)
}

func tryAPI(t *testing.T, members, definition string) (*Result, error) {
	t.Helper()
	o, err := ParseObject("get detail", []byte(`{"name":"A","version":"1.0","context":"/a",`+members+`}`))
	if err != nil {
		t.Fatal(err)
	}
	return Convert(&Export{APIs: []APISource{{Object: o, Definition: []byte(definition), DefinitionName: "d.json"}}}, nil)
}

func document(t *testing.T, r *Result) *source.Node {
	t.Helper()
	var rep source.Report
	n := source.Parse(r.Documents[0].File, r.Documents[0].Body, &rep)
	if n == nil || rep.Failed() {
		t.Fatalf("%v\n%s", rep.Findings(), r.Documents[0].Body)
	}
	return n
}

func asJSON(n *source.Node) string { return string(canonical(n)) }

func TestEndpointsOfEachType(t *testing.T) {
	for name, tc := range map[string]struct{ config, production, sandbox string }{
		"http": {
			`{"endpoint_type":"http","production_endpoints":{"url":"http://a","config":null},"sandbox_endpoints":{"url":"http://b"}}`,
			`{"type":"http","urls":["http://a"]}`, `{"type":"http","urls":["http://b"]}`,
		},
		"address":      {`{"endpoint_type":"address","production_endpoints":{"url":"http://a"}}`, `{"type":"http","urls":["http://a"]}`, `null`},
		"only sandbox": {`{"endpoint_type":"http","sandbox_endpoints":{"url":"http://b"}}`, `null`, `{"type":"http","urls":["http://b"]}`},
		"load balance": {
			`{"endpoint_type":"load_balance","production_endpoints":[{"url":"http://a"},{"url":"http://b","endpoint_type":"http","template_not_supported":false}],"algoCombo":"x"}`,
			`{"type":"load_balance","urls":["http://a","http://b"]}`, `null`,
		},
		"failover": {
			`{"endpoint_type":"failover","production_endpoints":{"url":"http://a"},"production_failovers":[{"url":"http://b"},{"url":"http://c"}],"sandbox_failovers":[]}`,
			`{"type":"failover","urls":["http://a","http://b","http://c"]}`, `null`,
		},
		"settings": {
			`{"endpoint_type":"http","production_endpoints":{"url":"http://a","config":{"actionDuration":"30000","actionSelect":"fault","suspendDuration":"5000","retryTimeOut":"2","retryDelay":"100","factor":"1.0"}}}`,
			`{"advanceEndpointConfig":{"circuitBreaker":{"failureThreshold":0.5,"resetTimeInMillis":5000,"rollingWindow":{"bucketSizeInMillis":10000,"requestVolumeThreshold":2,"timeWindowInMillis":60000}},"retryConfig":{"count":2,"intervalInMillis":100},"timeoutInMillis":30000},"type":"http","urls":["http://a"]}`, `null`,
		},
		"user": {
			`{"endpoint_type":"http","production_endpoints":{"url":"http://a"},"endpoint_security":{"production":{"enabled":true,"type":"BASIC","username":"u","password":""},"sandbox":{"enabled":false}}}`,
			`{"securityConfig":{"type":"basic","username":"u"},"type":"http","urls":["http://a"]}`, `null`,
		},
	} {
		text, err := json.Marshal(tc.config)
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range []string{tc.config, string(text)} { // an object, and JSON in a text
			_, doc := oneAPI(t, `"endpointConfig":`+form)
			if got := asJSON(doc.Value("x-wso2-production-endpoints")); got != tc.production {
				t.Errorf("%s: production: got %s, want %s", name, got, tc.production)
			}
			if got := asJSON(doc.Value("x-wso2-sandbox-endpoints")); got != tc.sandbox {
				t.Errorf("%s: sandbox: got %s, want %s", name, got, tc.sandbox)
			}
		}
	}
	for _, config := range []string{`{"endpoint_type":"awslambda","access_method":"role-supplied"}`, `{"endpoint_type":"http","production_endpoints":{"url":""}}`, `""`, `null`} {
		if _, err := tryAPI(t, `"endpointConfig":`+config, plainDefinition); !refusal.Is(err, refusal.Compile) || !strings.Contains(err.Error(), "A 1.0: no endpoint") {
			t.Errorf("%s: got %v", config, err)
		}
	}
}

func TestPasswordOfABackendGoesToSecretsOnly(t *testing.T) {
	r, doc := oneAPI(t, plainEndpoint+`,"endpointSecurity":{"type":"basic","username":"u","password":"hunter2"}`)
	if strings.Contains(string(r.Documents[0].Body), "hunter2") || asJSON(doc.At("x-wso2-production-endpoints", "securityConfig")) != `{"type":"basic","username":"u"}` {
		t.Errorf("%s", r.Documents[0].Body)
	}
	if got := r.entry(KindSecret, "endpoints/a-1.0-production/password"); got != `"hunter2"` {
		t.Errorf("secret: got %s", got)
	}
	other, _ := oneAPI(t, plainEndpoint+`,"endpointSecurity":{"type":"basic","username":"u","password":"another"}`)
	if r.Documents[0].Source != other.Documents[0].Source {
		t.Error("the digest of the source depends on the password: it could be guessed from it")
	}
	empty, _ := oneAPI(t, plainEndpoint+`,"endpointSecurity":{"type":"basic","username":"u","password":""}`)
	if n := empty.Report.Needs; len(n) == 0 || n[0].Kind != "secret" || !strings.Contains(n[0].How, `endpoints."A-1.0-production".password`) {
		t.Errorf("got %+v", n)
	}
	for _, kind := range []string{"digest", "oauth"} {
		if r, _ := oneAPI(t, plainEndpoint+`,"endpointSecurity":{"type":"`+kind+`","username":"u"}`); len(r.Report.Dropped) != 1 || r.Report.Dropped[0].Kind != "endpoint security" {
			t.Errorf("%s: dropped %+v", kind, r.Report.Dropped)
		}
	}
}

func TestFieldsGoToTheirExtensions(t *testing.T) {
	for _, tc := range []struct{ members, extension, want string }{
		{`"provider":"admin"`, "x-wso2-owner", `"admin"`},
		{`"transport":["https"]`, "x-wso2-transports", `["https"]`},
		{`"transports":"http,https"`, "x-wso2-transports", `["http","https"]`},
		{`"authorizationHeader":"X-Auth"`, "x-wso2-auth-header", `"X-Auth"`},
		{`"authorizationHeader":"Authorization"`, "x-wso2-auth-header", `null`},
		{`"isDefaultVersion":true`, "x-tidegate-default-version", `true`},
		{`"isDefaultVersion":null`, "x-tidegate-default-version", `null`},
		{`"apiLevelPolicy":"20K"`, "x-wso2-throttling-tier", `"20K"`},
		{`"apiThrottlingPolicy":"Unlimited"`, "x-wso2-throttling-tier", `null`},
		{`"tiers":["unlimited","Gold"]`, "x-tidegate-plans", `["Unlimited"]`},
		{`"enableSchemaValidation":true`, "x-tidegate-validate", `{"request":true,"response":true}`},
		{`"responseCaching":"Enabled","cacheTimeout":60`, "x-wso2-response-cache", `{"cacheTimeoutInSeconds":60,"enabled":true}`},
		{`"responseCachingEnabled":false,"cacheTimeout":60`, "x-wso2-response-cache", `null`},
		{`"securityScheme":["oauth2","api_key","oauth_basic_auth_api_key_mandatory"]`, "x-wso2-application-security", `{"security-types":["oauth2","api_key"]}`},
		{`"securityScheme":["mutualssl","mutualssl_mandatory","basic_auth"]`, "x-wso2-application-security", `{"optional":true,"security-types":["basic_auth"]}`},
		{`"securityScheme":["mutualssl","mutualssl_mandatory","basic_auth"]`, "x-wso2-mutual-ssl", `"mandatory"`},
		{`"securityScheme":["mutualssl","oauth2"]`, "x-wso2-mutual-ssl", `"optional"`},
		{`"securityScheme":["mutualssl","oauth2"]`, "x-wso2-application-security", `{"security-types":["oauth2"]}`},
		{`"corsConfiguration":{"corsConfigurationEnabled":false,"accessControlAllowOrigins":["*"]}`, "x-wso2-cors", `null`},
		{
			`"corsConfiguration":{"corsConfigurationEnabled":true,"accessControlAllowOrigins":["https://p"],"accessControlAllowCredentials":true,"accessControlAllowMethods":["GET"],"accessControlExposeHeaders":["X"]}`, "x-wso2-cors",
			`{"accessControlAllowCredentials":true,"accessControlAllowMethods":["GET"],"accessControlAllowOrigins":["https://p"],"accessControlExposeHeaders":["X"]}`,
		},
		{`"corsConfiguration":{"corsConfigurationEnabled":true,"accessControlAllowOrigins":["*"],"accessControlAllowCredentials":true}`, "x-wso2-cors", `{"accessControlAllowOrigins":["*"]}`},
		{`"x":1`, "x-wso2-basePath", `"/a/{version}"`},
		{`"contextTemplate":"/{version}/a"`, "x-wso2-basePath", `"/{version}/a"`},
	} {
		_, doc := oneAPI(t, plainEndpoint+","+tc.members)
		if got := asJSON(doc.Value(tc.extension)); got != tc.want {
			t.Errorf("%s: %s: got %s, want %s", tc.members, tc.extension, got, tc.want)
		}
	}
}

func TestOperationsAreFilledInWhereTheDefinitionIsSilent(t *testing.T) {
	const definition = `{"openapi":"3.0.1","info":{"title":"x","version":"x"},"paths":{
"/open":{"get":{"responses":{}}}, "/said":{"get":{"x-auth-type":"Any","x-throttling-tier":"Own","x-scope":"own","responses":{}}},
"/one":{"post":{"responses":{}}}, "/two":{"post":{"responses":{}}}, "/own":{"post":{"security":[{"default":["mine"]}],"responses":{}}}}}`
	r, err := tryAPI(t, plainEndpoint+`,"operations":[
{"target":"/open","verb":"GET","authType":"None","throttlingPolicy":"Unlimited","scopes":[]},
{"target":"/said","verb":"GET","authType":"None","throttlingPolicy":"Few","scopes":["other"]},
{"target":"/one","verb":"POST","authType":"Any","throttlingPolicy":"Few","scopes":["a"]},
{"target":"/two","verb":"POST","authType":"Any","throttlingPolicy":"Unlimited","scopes":["a","b"]},
{"target":"/own","verb":"POST","authType":"Any","scopes":["a"]},
{"target":"/gone","verb":"GET","operationPolicies":{"request":[{"policyName":"addHeader"}],"response":[]}}]`, definition)
	if err != nil {
		t.Fatal(err)
	}
	paths := document(t, r).Value("paths")
	for at, want := range map[string]string{
		"/open get x-auth-type": `"None"`, "/open get x-throttling-tier": `null`,
		"/said get x-auth-type": `"Any"`, "/said get x-throttling-tier": `"Own"`, "/said get x-scope": `"own"`,
		"/one post x-throttling-tier": `"Few"`, "/one post x-scope": `"a"`,
		"/two post security": `[{"default":["a","b"]}]`, "/own post security": `[{"default":["mine"]}]`, "/own post x-scope": `null`,
	} {
		if got := asJSON(paths.At(strings.Fields(at)...)); got != want {
			t.Errorf("%s: got %s, want %s", at, got, want)
		}
	}
	if !slices.ContainsFunc(r.Report.Warnings, func(w string) bool { return strings.Contains(w, "GET /gone is not in the definition") }) {
		t.Errorf("warnings %q", r.Report.Warnings)
	}
	if d := r.Report.Dropped; len(d) != 1 || d[0].Kind != "operation policy" || !d[0].Security {
		t.Errorf("dropped %+v", d)
	}
}

func TestWhatProtectedSomethingIsReportedFirst(t *testing.T) {
	r, _ := oneAPI(t, plainEndpoint+`,"type":"GRAPHQL","maxTps":{"production":"10","sandbox":null},"sequences":[{"name":"s"}],
"mediationPolicies":[{"name":"m","type":"in"}],"inSequence":"q","apiPolicies":{"request":[{"policyName":"p"}]},"threatProtectionPolicies":{"list":[{"policyId":"1"}]},"isWebSocket":false`)
	kinds := []string{}
	for i, d := range r.Report.Dropped {
		kinds = append(kinds, d.Kind)
		if i > 0 && d.Security && !r.Report.Dropped[i-1].Security {
			t.Errorf("%s stands behind what protected nothing", d.Kind)
		}
	}
	slices.Sort(kinds)
	if want := []string{"api type", "maxTps", "mediation sequence", "mediation sequence", "mediation sequence", "operation policy", "threat protection"}; !slices.Equal(kinds, want) {
		t.Errorf("got %v, want %v", kinds, want)
	}
	const withCode = `{"swagger":"2.0","info":{"title":"x","version":"x"},"x-wso2-request-interceptor":"java:org.x.Check","paths":{"/a":{"get":{"x-wso2-response-interceptor":"sign","responses":{}}}}}`
	r, err := tryAPI(t, plainEndpoint, withCode)
	if err != nil {
		t.Fatal(err)
	}
	if d := r.Report.Dropped; len(d) != 2 || !strings.Contains(d[0].Hint, "x-tidegate-transform") || !strings.Contains(d[1].Name, "GET /a") {
		t.Errorf("dropped %+v", d)
	}
}

func testCertificate(t *testing.T) []byte {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(1700000000, 0), NotAfter: time.Unix(1900000000, 0)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestCertificatesOfAnArchive(t *testing.T) {
	der := testCertificate(t)
	pemText := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	b64 := base64.StdEncoding.EncodeToString
	old := wso2test.Zip(map[string]string{
		"A/Meta-information/api.json": `{"id":{"apiName":"A","version":"1"},"context":"/a/1","apiSecurity":"oauth2,mutualssl,mutualssl_mandatory,oauth_basic_auth_api_key_mandatory",
 "endpointSecured":true,"endpointUTUsername":"u","endpointUTPassword":"p","endpointConfig":"{\"production_endpoints\":{\"url\":\"https://backend.example:9443/x\"},\"endpoint_type\":\"http\"}"}`,
		"A/Meta-information/swagger.json":               plainDefinition,
		"A/Meta-information/endpoint_certificates.json": fmt.Sprintf(`[{"alias":"backend","hostName":"https://backend.example:9443","certificate":%q}]`, b64([]byte(pemText))),
		"A/Meta-information/client_certificates.json":   fmt.Sprintf(`[{"alias":"panel","certificate":%q,"tierName":"Gold"}]`, b64(der)),
	})
	young := wso2test.Zip(map[string]string{
		"B/api.yaml":                 "type: api\ndata: {name: A, version: '1', context: /a, securityScheme: [mutualssl, mutualssl_mandatory, oauth2, oauth_basic_auth_api_key_mandatory], endpointConfig: {endpoint_type: http, production_endpoints: {url: 'https://backend.example:9443/x'}}}\n",
		"B/Definitions/swagger.yaml": "openapi: 3.0.1\ninfo: {title: A, version: '1'}\npaths: {/a: {get: {responses: {'200': {description: ok}}}}}\n",
		"B/Endpoint-certificates/endpoint_certificates.yaml": "type: endpoint_certificates\ndata: [{alias: backend, endpoint: 'https://backend.example:9443', certificate: backend.crt}]\n",
		"B/Endpoint-certificates/backend.crt":                pemText,
		"B/Client-certificates/client_certificates.yaml":     "type: client_certificates\ndata: [{alias: panel, certificate: panel.crt}]\n",
		"B/Client-certificates/panel.crt":                    string(der),
	})
	for name, body := range map[string][]byte{"2.6": old, "4.x": young} {
		x, err := ParseArchive(name, body)
		if err != nil {
			t.Fatal(err)
		}
		r := converted(t, x)
		if got := r.entry(KindTLS, "backend"); got != `{"ca":"certs/backend.pem"}` {
			t.Errorf("%s: TLS profile %s", name, got)
		}
		if got := r.entry(KindClientCert, "panel"); got != `{"alias":"panel","apis":[{"name":"A","version":"1"}],"certificate":"certs/client-panel.pem"}` {
			t.Errorf("%s: client certificate %s", name, got)
		}
		doc := document(t, r)
		if got := asJSON(doc.At("x-wso2-production-endpoints", "tls")); got != `"backend"` {
			t.Errorf("%s: tls %s", name, got)
		}
		if got := asJSON(doc.Value("x-wso2-mutual-ssl")); got != `"mandatory"` {
			t.Errorf("%s: mutual %s", name, got)
		}
		for _, f := range r.Files {
			if string(f.Body) != pemText {
				t.Errorf("%s: %s: got %q", name, f.File, f.Body)
			}
		}
		if len(r.Files) != 2 {
			t.Errorf("%s: %d files", name, len(r.Files))
		}
	}
}
