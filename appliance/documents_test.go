package appliance_test

import (
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
	"tidegate/policy/project"
)

// shared returns the folder of sample documents beside the repository.
func shared(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../shared/data/openapi")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("the sample documents are not here: %v", err)
	}
	return dir
}

// projectFiles is a project of one document; tide is put into its tide.yaml.
func projectFiles(t *testing.T, document, tide string) fs.FS {
	t.Helper()
	dir := t.TempDir()
	b, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "apis"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"tide.yaml":                       "product: test\nname: test\nbackend: http://127.0.0.1:8080\n" + tide,
		"apis/" + filepath.Base(document): string(b),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return os.DirFS(dir)
}

// projectOf makes a project of one document.
func projectOf(t *testing.T, document string) *project.Project {
	t.Helper()
	p, findings := project.Load(projectFiles(t, document, "accept_dropped: [interceptors, plans]\n"))
	if p == nil {
		for _, f := range findings {
			if f.Severity == project.Error {
				t.Error(f)
			}
		}
		t.FailNow()
	}
	return p
}

// filled is a path of an operation, its parameters filled with texts that differ.
func filled(template string) string {
	var b strings.Builder
	n := 0
	for rest := template; ; {
		open := strings.IndexByte(rest, '{')
		if open < 0 {
			b.WriteString(rest)
			break
		}
		b.WriteString(rest[:open])
		n++
		fmt.Fprintf(&b, "v%d", n)
		rest = rest[open+strings.IndexByte(rest[open:], '}')+1:]
	}
	return strings.Replace(b.String(), "*", "any/thing", 1)
}

// Every operation of every sample document is served, and each call reaches its own
// backend under the right path.
func TestEveryOperationOfEveryDocumentReachesItsBackend(t *testing.T) {
	dir := shared(t)
	var docs []string
	for _, pattern := range []string{"*/*.yaml", "*/*.json"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, found...)
	}
	if len(docs) < 10 {
		t.Fatalf("only %d documents in %s", len(docs), dir)
	}
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Method+" "+r.URL.EscapedPath())
	}))
	defer echo.Close()
	for _, doc := range docs {
		t.Run(filepath.Base(doc), func(t *testing.T) {
			p := projectOf(t, doc)
			// Each group of backends answers under a path of its own, which the calls must show.
			d := devicetest.Start(t, devicetest.Options{Config: func(c *config.Config) {
				c.Endpoints = map[string]config.Endpoint{}
				for _, e := range p.Set.Endpoints {
					c.Endpoints[e.Name] = config.Endpoint{URL: []string{echo.URL + "/group-" + config.EnvName(e.Name)}, Password: "of the device"}
				}
			}})
			set := *p.Set
			set.APIs = append([]policy.API(nil), set.APIs...)
			want := map[string]string{}
			for i := range set.APIs {
				api := &set.APIs[i]
				api.Operations = append([]policy.Operation(nil), api.Operations...)
				for k := range api.Operations {
					op := &api.Operations[k]
					op.Security, op.Plan = nil, "" // who may call is tested elsewhere
					ref := op.Production
					if ref == 0 {
						ref = api.Production
					}
					group := "/group-" + config.EnvName(set.Endpoints[ref-1].Name)
					want[op.Method+" "+api.BasePath+filled(op.Template)] = op.Method + " " + group + filled(op.Template)
				}
				api.Plan = ""
			}
			d.Apply(t, &set)
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
			for call, backend := range want {
				method, target, _ := strings.Cut(call, " ")
				r, err := http.NewRequest(method, d.URL(target), nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil {
					t.Fatal(err)
				}
				if method == http.MethodHead {
					b = []byte(backend)
				}
				if resp.StatusCode != http.StatusOK || string(b) != backend {
					t.Errorf("%s: got %d %s, want %s", call, resp.StatusCode, b, backend)
				}
			}
			t.Logf("%d operations", len(want))
		})
	}
}

// TestPathParametersInEveryStyle calls an API whose document writes path parameters as OpenAPI allows.
func TestPathParametersInEveryStyle(t *testing.T) {
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.URL.EscapedPath())
	}))
	defer echo.Close()
	document := filepath.Join(t.TempDir(), "places.yaml")
	text := `openapi: 3.0.3
info: {title: places, version: "1"}
x-wso2-basePath: /places
x-wso2-disable-security: true
x-tidegate-validate: true
paths:
  /at/{where}:
    parameters:
      - name: where
        in: path
        required: true
        style: matrix
        explode: true
        schema: {type: object, required: [lat], additionalProperties: false, properties: {lat: {type: integer}, lon: {type: integer}}}
    get: {responses: {"200": {description: a place}}}
  /of/{list}:
    get:
      parameters: [{name: list, in: path, required: true, style: label, schema: {type: array, items: {type: integer}}}]
      responses: {"200": {description: places}}
`
	if err := os.WriteFile(document, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	set := projectOf(t, document).Set
	set.Endpoints[0].Targets[0].URL = echo.URL
	d := devicetest.Start(t, devicetest.Options{})
	d.Apply(t, set)
	const bad = `{"fault":{"code":400, "message":"Bad Request", "description":"#/path/%s, "}}`
	for path, want := range map[string]answer{
		"/at/;lat=53;lon=9":   {status: 200, body: "/at/;lat=53;lon=9"},
		"/at/;lat=x":          {status: 400, body: fmt.Sprintf(bad, "where/lat: expected type: Integer, found: String")},
		"/at/;lon=9":          {status: 400, body: fmt.Sprintf(bad, "where: required key [lat] not found")},
		"/at/;lat=1;lat=2":    {status: 400, body: fmt.Sprintf(bad, "where: given more than once")},
		"/at/53":              {status: 404, body: wsNotFound},
		"/at//":               {status: 404, body: wsNotFound},
		"/of/.1,2":            {status: 200, body: "/of/.1,2"},
		"/of/.1,x":            {status: 400, body: fmt.Sprintf(bad, "list/1: expected type: Integer, found: String")},
		"/of/1,2":             {status: 400, body: fmt.Sprintf(bad, "list: does not begin with a point")},
		"/at/;lat=1;%2e%2e":   {status: 400, body: fmt.Sprintf(bad, "where: extraneous key [..] is not permitted")},
		"/at/;lat=1/../../at": {status: 400, body: wsBad},
	} {
		if a := call(t, "GET", d.URL("/places"+path)); a.status != want.status || a.body != want.body {
			t.Errorf("%s: got %d %s, want %d %s", path, a.status, a.body, want.status, want.body)
		}
	}
}
