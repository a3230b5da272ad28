package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// microgatewayProject is a project of the microgateway 3.x.
func microgatewayProject(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "petstore")
	for name, text := range map[string]string{
		"api_definitions/pets.yaml": `openapi: 3.0.0
info: {title: Pets, version: 1.0.0}
x-wso2-basePath: /pets/v1
x-wso2-production-endpoints:
  urls: [https://pets.example/v2]
  securityConfig: {type: BASIC, username: u, password: p}
x-wso2-throttling-tier: 10kPerMin
paths:
  /a:
    get: {responses: {"200": {description: ok}}, x-wso2-request-interceptor: check}
`,
		"policies.yaml": "resourcePolicies:\n  - 10kPerMin:\n     count: 10000\n     unitTime: 1\n     timeUnit: min\n",
		"conf/micro-gw.conf": `
[listenerConfig]
  httpPort=8090
[[jwtTokenConfig]]
  issuer="https://km.example:9443/oauth2/token"
  audience="http://org.wso2.apimgt/gateway"
  jwksURL="https://km.example:9443/oauth2/jwks"
[b7a.users.fitter]
  password="5BAA61E4C9B93F3F0682250B6CF8331B7EE68FD8"
`,
		"interceptors/check.bal": "// code\n",
	} {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestMicrogatewayProjectBecomesAProject(t *testing.T) {
	from := microgatewayProject(t)
	dir := filepath.Join(t.TempDir(), "site")
	r := runWSO2(t, nil, "import", "microgateway", from, "--project", dir).must(t, 0)
	r.says(t, "not kept, and it protected something: interceptor Pets 1.0.0: GET /a", "x-tidegate-transform")
	got := files(t, dir)
	for name, want := range map[string][]string{
		"tide.yaml":            {"product: petstore\n", "fault_format: wso2\n"},
		"policies.yaml":        {"- 10kPerMin: {count: 10000, unitTime: 1, timeUnit: min}"},
		"auth.yaml":            {"issuer: 'https://km.example:9443/oauth2/token'", "algorithms: [RS256]", "name: fitter"},
		"secrets.yaml":         {"endpoints/pets-1.0.0-production/password: p\n"},
		"tidegate.toml":        {"http = \"0.0.0.0:8090\"\n"},
		"apis/pets-1.0.0.yaml": {"type: basic\n", "x-wso2-request-interceptor: check"},
	} {
		for _, w := range want {
			if !strings.Contains(got[name], w) {
				t.Errorf("%s does not contain %q:\n%s", name, w, got[name])
			}
		}
	}
	info, err := os.Stat(filepath.Join(dir, "secrets.yaml"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("secrets.yaml: %v, %v", info.Mode(), err)
	}

	// Until the interceptor is dealt with the project does not build; an overlay does it.
	runWSO2(t, nil, "validate", dir).must(t, 60).says(t, "is code, which cannot be kept")
	overlay := filepath.Join(dir, "overlays/pets-1.0.0.yaml")
	if err := os.MkdirAll(filepath.Dir(overlay), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(overlay, []byte("paths:\n  /a:\n    get:\n      x-wso2-request-interceptor: null\n      x-tidegate-transform: {request: {headers: {set: {X-Checked: \"yes\"}}}}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	runWSO2(t, nil, "validate", dir).must(t, 0)

	before := files(t, dir)
	runWSO2(t, nil, "import", "microgateway", from, "--project", dir).must(t, 0).says(t, "no changes since the last import")
	if d := cmp.Diff(before, files(t, dir)); d != "" {
		t.Error(d)
	}
}

func TestMicrogatewayWithoutAProjectIsSaid(t *testing.T) {
	empty := t.TempDir()
	runWSO2(t, nil, "import", "microgateway", empty, "--project", filepath.Join(t.TempDir(), "p")).must(t, 20).says(t, "no microgateway project", "tidectl import wso2")
	runWSO2(t, nil, "import", "microgateway", filepath.Join(empty, "absent")).must(t, 1)
	runWSO2(t, nil, "import", "microgateway").must(t, 2)
	from := microgatewayProject(t)
	r := runWSO2(t, nil, "import", "microgateway", from, "--strict", "--project", filepath.Join(t.TempDir(), "p"))
	r.must(t, 60).says(t, "cannot be kept (--strict)")
	runWSO2(t, nil, "import", "microgateway", from, "--conf", filepath.Join(from, "absent.conf"), "--project", filepath.Join(t.TempDir(), "p")).must(t, 1)
}
