package wso2

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"tidegate/policy/refusal"

	"github.com/google/go-cmp/cmp"
)

// wholeConf has every key of a microgateway that means something here, in the spelling of
// 3.x with some of 2.6.
const wholeConf = `
[listenerConfig]
  host="10.0.0.1"
  httpPort=8090
  httpsPort=8095
  keyStorePath="/etc/keys/site.p12"
  keyStorePassword="x"
  tokenListenerPort=9096
  maxUriLength=4096
  maxHeaderSize=8192
  maxEntityBodySize=-1
[authConfig]
  authorizationHeader="X-Auth"
  removeAuthHeaderFromOutMessage=false
[keyManager]
  serverUrl="https://km.example:9443"
  tokenContext="oauth2"
  timestampSkew=5000
  enableIntrospectForFailedJWT=true
  [keymanager.security.basic]
    enabled=true
    username="gw"
    password="@encrypted:{abc}"
[[jwtTokenConfig]]
  issuer="https://km.example:9443/oauth2/token"
  audience="http://org.wso2.apimgt/gateway"
  certificateAlias="apim"
  validateSubscription=true
  consumerKeyClaim="azp"
  [[jwtTokenConfig.claims]]
    remoteClaim="scp"
    localClaim="scope"
[[jwtTokenConfig]]
  issuer="https://other.example"
  jwksURL="https://other.example/jwks"
  claimMapperClassName="org.example.Mapper"
[[jwtTokenConfig]]
  issuer="https://unknown.example"
  certificateAlias="missing"
[jwtGeneratorConfig]
  jwtGeneratorEnabled=true
  claimDialect="http://wso2.org/claims"
  tokenIssuer="gw"
[caching]
  enabled=true
  tokenCacheCapacity=5000
[mutualSSLConfig]
  sslVerifyClient="require"
  protocolName="TLS"
[b7a.users]
  [b7a.users.fitter]
    password="5BAA61E4C9B93F3F0682250B6CF8331B7EE68FD8"
    scopes="read,write"
  [b7a.users.prometheus]
    password="@sha256:{5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8}"
[validationConfig]
  enableRequestValidation=true
[httpClients]
  verifyHostname=false
[analytics]
  [analytics.fileUpload]
    enable=true
    uploadingEndpoint="https://apim.example:9444/analytics/v1.0/usage/upload-file"
[tokenRevocationConfig.realtime]
  enableRealtimeMessageRetrieval=true
[throttlingConfig]
  enabledGlobalTMEventPublishing=true
[b7a.log]
  level="TRACE"
[b7a.http.accesslog]
  path="/var/log/access.log"
[b7a.observability.metrics]
  enabled=true
[somethingNew]
  x=1
`

func TestConfigurationGoesToItsPlaces(t *testing.T) {
	r, err := ReadMicrogateway("site", fstest.MapFS{}, "micro-gw.conf", []byte(wholeConf), []string{"certs/apim.pem"})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range r.Entries {
		got[e.Kind+" "+e.ID] = asJSON(e.Value)
	}
	want := map[string]string{
		"authentication setting header":             `"X-Auth"`,
		"authentication setting forward_credential": `true`,
		"authentication setting introspection":      `{"retry_failed_jwt":true,"url":"https://km.example:9443/oauth2/introspect","username":"gw"}`,
		"authentication setting backend_jwt":        `{"dialect":"http://wso2.org/claims","issuer":"gw"}`,
		"issuer apim": `{"audience":["http://org.wso2.apimgt/gateway"],"certificate":"certs/apim.pem","claims":{"scp":"scope"},"consumer_key_claim":"azp",` +
			`"issuer":"https://km.example:9443/oauth2/token","leeway":"5s","name":"apim","subscriptions":"required"}`,
		"issuer other.example": `{"algorithms":["RS256"],"issuer":"https://other.example","jwks_url":"https://other.example/jwks","leeway":"5s","name":"other.example"}`,
		"user fitter":          `{"name":"fitter","password_hash":"5BAA61E4C9B93F3F0682250B6CF8331B7EE68FD8","scopes":["read","write"]}`,
		"setting validate":     `{"request":true}`,
		"setting fault_format": `"wso2"`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("entries: - want, + got:\n%s", d)
	}
	const toml = `# Configuration of a device, from micro-gw.conf. Every other key has its default.

[listen]
http = "10.0.0.1:8090"
https = "10.0.0.1:8095"

[limits]
uri_bytes = 4096
header_bytes = 8192
body_bytes = 0

[tls]
client_auth = "require"

[cache]
tokens = 5000

[log]
level = "debug"
access = "combined"
`
	if len(r.Files) != 1 || r.Files[0].File != "tidegate.toml" {
		t.Fatalf("files %v", r.Files)
	}
	if d := cmp.Diff(toml, string(r.Files[0].Body)); d != "" {
		t.Errorf("tidegate.toml: - want, + got:\n%s", d)
	}
	var needs, dropped []string
	for _, n := range r.Report.Needs {
		needs = append(needs, n.Kind+" "+n.Name)
	}
	for _, d := range r.Report.Dropped {
		dropped = append(dropped, d.Kind+" "+d.Name)
	}
	slices.Sort(needs)
	slices.Sort(dropped)
	if d := cmp.Diff([]string{"certificate certs/missing.pem", "certificate tls.cert_file", "secret backend_jwt/key", "secret introspection/password"}, needs); d != "" {
		t.Errorf("needs: %s", d)
	}
	if d := cmp.Diff([]string{
		"claim mapper https://other.example", "setting analytics", "setting httpClients.verifyHostname", "setting somethingnew.x",
		"setting throttlingConfig, apim.eventHub", "setting tokenRevocationConfig",
	}, dropped); d != "" {
		t.Errorf("dropped: %s", d)
	}
	if !r.Report.Dropped[0].Security {
		t.Error("what protected something does not come first")
	}
}

func TestUntouchedDefaultsSayNothing(t *testing.T) {
	r, err := ReadMicrogateway("site", fstest.MapFS{}, "micro-gw.conf", []byte(`
[keyManager]
serverUrl="https://localhost:9443"
username="admin"
password="admin"
[caching]
tokenCache.capacity=100
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Entries) != 1 || !strings.Contains(string(r.Files[0].Body), "tokens = 100") {
		t.Errorf("entries %v", r.Entries)
	}
}

func TestKeyValidationBySOAP(t *testing.T) {
	for _, conf := range []string{
		"[keyManager]\nserverUrl=\"https://km:9443\"\nusername=\"gw\"\npassword=\"pw\"\n",
		"[keyManager]\nserverUrl=\"https://km:9443/\"\nenableLegacyMode=true\n[keymanager.security.basic]\nusername=\"gw\"\npassword=\"pw\"\n",
	} {
		r, err := ReadMicrogateway("site", fstest.MapFS{}, "c", []byte(conf), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := r.entry(KindAuth, "introspection"), `{"mode":"soap","url":"https://km:9443/services/APIKeyValidationService","username":"gw"}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got := r.entry(KindSecret, "introspection/password"); got != `"pw"` {
			t.Errorf("secret: %s", got)
		}
	}
}

func TestProjectsOfTheMicrogateway(t *testing.T) {
	const api = `openapi: 3.0.0
info: {title: Pets, version: 1.0.0}
x-wso2-basePath: /pets
x-wso2-endpoints: [other: {urls: [https://b], securityConfig: {type: BASIC, username: u, password: two}}]
x-wso2-production-endpoints: {urls: [https://a], securityConfig: {type: BASIC, username: u, password: one}}
paths:
  /x:
    get: {operationId: getX, x-wso2-throttling-tier: Few, x-wso2-production-endpoints: {urls: [https://c], securityConfig: {username: u, password: three}}, responses: {"200": {description: ok}}}
`
	fsys := fstest.MapFS{
		"api_definitions/pets.yaml":  {Data: []byte(api)},
		"gen/api_definitions/b.json": {Data: []byte(`{"swagger": "2.0", "info": {"title": "B", "version": "1"}, "paths": {}}`)},
		"policies.yaml":              {Data: []byte("subscriptionPolicies:\n - Gold:\n    count: 5\n    unitTime: 1\n    timeUnit: minutes\n    stopOnQuotaReach: false\n - Unlimited: {count: 1}\n")},
	}
	r, err := ReadMicrogateway("Site 7", fsys, "", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Product != "site-7" || len(r.Documents) != 2 {
		t.Fatalf("product %s, %d documents", r.Product, len(r.Documents))
	}
	if got := string(r.Documents[1].Body); got != `{"swagger": "2.0", "info": {"title": "B", "version": "1"}, "paths": {}}` {
		t.Errorf("a document without passwords was changed: %s", got)
	}
	if body := string(r.Documents[0].Body); strings.Contains(body, "password") {
		t.Errorf("%s", body)
	}
	for id, want := range map[string]string{"endpoints/pets-1.0.0-production/password": `"one"`, "endpoints/other/password": `"two"`, "endpoints/getx-production/password": `"three"`} {
		if got := r.entry(KindSecret, id); got != want {
			t.Errorf("%s: got %s, want %s", id, got, want)
		}
	}
	if got, want := r.entry(KindSubscription, "Gold"), `{"count":5,"stopOnQuota":false,"timeUnit":"min","unitTime":1}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if n := r.Report.Needs; len(n) != 1 || n[0].Kind != "plan" || n[0].Name != "Few" {
		t.Errorf("needs %+v", n)
	}
	for name, bad := range map[string]fstest.MapFS{
		"nothing":    {},
		"definition": {"api_definitions/x.yaml": {Data: []byte("- 1\n")}},
		"no title":   {"api_definitions/x.yaml": {Data: []byte("info: {version: '1'}\n")}},
		"policies":   {"policies.yaml": {Data: []byte("a: [\n")}},
		"conf":       {"conf/micro-gw.conf": {Data: []byte("[a\n")}},
	} {
		if _, err := ReadMicrogateway("x", bad, "", nil, nil); !refusal.Is(err, refusal.Format) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := ReadMicrogateway("x", fstest.MapFS{"conf/micro-gw.conf": {Data: []byte("[a]\nb=1\nc d\n")}}, "", nil, nil); err == nil || !strings.Contains(err.Error(), "conf/micro-gw.conf:3: ") {
		t.Errorf("got %v, want the line", err)
	}
}
