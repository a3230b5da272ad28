package openapi

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"tidegate/policy"
	"tidegate/policy/source"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// read reads one document from a text.
func read(t *testing.T, name, text string, opt Options) (*Document, []source.Finding) {
	t.Helper()
	var r source.Report
	d := Read(fstest.MapFS{name: {Data: []byte(text)}}, name, opt, &r)
	return d, r.Findings()
}

func TestOwnDocuments(t *testing.T) {
	for _, name := range []string{"swagger2.yaml", "three0.json", "three1.yaml"} {
		t.Run(name, func(t *testing.T) {
			var r source.Report
			d := Read(os.DirFS("testdata"), name, Options{}, &r)
			if d == nil {
				t.Fatal(r.Findings())
			}
			got := golden(t, d, r.Findings())
			file := filepath.Join("testdata", name+".golden")
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(file, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			compileAll(t, d)
		})
	}
}

// golden writes a document as text, one thing on a line.
func golden(t *testing.T, d *Document, findings []source.Finding) []byte {
	t.Helper()
	var b bytes.Buffer
	a := &d.API
	fmt.Fprintf(&b, "API %q %q at %q", a.Name, a.Version, a.BasePath)
	if a.Default {
		fmt.Fprintf(&b, " and %q", a.DefaultPath)
	}
	fmt.Fprintf(&b, ", production %d, sandbox %d, mutual TLS %d (%s)\n", a.Production, a.Sandbox, a.MutualTLS, a.Pos)
	for i, s := range a.Schemes {
		fmt.Fprintf(&b, "scheme %d: kind %d in %d %q\n", i, s.Kind, s.In, s.Name)
	}
	for i, e := range d.Endpoints {
		fmt.Fprintf(&b, "endpoint %d: %q kind %d", i+1, e.Name, e.Kind)
		for _, g := range e.Targets {
			fmt.Fprintf(&b, " %s (%s)", g.URL, g.Pos)
		}
		fmt.Fprintln(&b)
	}
	for _, op := range a.Operations {
		fmt.Fprintf(&b, "%s %s %q security %v scopes %q plan %q request %d response %d (%s)\n",
			op.Method, op.Template, op.ID, op.Security, op.Scopes, op.Plan, op.Request, op.Response, op.Pos)
	}
	for i, s := range d.Schemas {
		fmt.Fprintf(&b, "schema %d: %s required %v types %q log %v\n", i+1, s.Object, s.Required, s.Types, s.LogOnly)
		for _, p := range s.Parameters {
			fmt.Fprintf(&b, "  parameter %q in %d required %v %s explode %v: %s\n", p.Name, p.In, p.Required, p.Style, p.Explode, p.Schema)
		}
		if s.Body != nil {
			fmt.Fprintf(&b, "  body %s\n", s.Body)
		}
		if s.Defs != nil {
			fmt.Fprintf(&b, "  defs %s\n", s.Defs)
		}
	}
	for _, f := range findings {
		fmt.Fprintln(&b, f)
	}
	return b.Bytes()
}

type refuse struct{}

func (refuse) Load(url string) (any, error) { return nil, fmt.Errorf("outer reference %s", url) }

// compileAll compiles every schema as JSON Schema 2020-12.
func compileAll(t *testing.T, d *Document) {
	t.Helper()
	for _, s := range d.Schemas {
		for _, p := range s.Parameters {
			compile(t, p.Schema, s.Defs)
		}
		compile(t, s.Body, s.Defs)
	}
}

func compile(t *testing.T, schema, defs []byte) *jsonschema.Schema {
	t.Helper()
	if schema == nil {
		return nil
	}
	doc := schema
	if defs != nil {
		doc = fmt.Appendf(nil, `{"$defs":%s,"allOf":[%s]}`, defs, schema)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		t.Fatalf("%v in %s", err, doc)
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(refuse{})
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	if err := c.AddResource("urn:test", v); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("urn:test")
	if err != nil {
		t.Fatalf("%v in %s", err, doc)
	}
	return s
}

func TestCyclicSchemaJudgesDeepValues(t *testing.T) {
	d, _ := read(t, "a.yaml", `openapi: 3.0.0
info: {title: a, version: "1"}
x-tidegate-validate: true
components: {schemas: {Node: {type: object, required: [v], additionalProperties: false, properties: {v: {type: integer}, next: {$ref: "#/components/schemas/Node"}}}}}
paths:
  /n: {post: {requestBody: {content: {application/json: {schema: {$ref: "#/components/schemas/Node"}}}}, responses: {}}}
`, Options{})
	s := compile(t, d.Schemas[0].Body, d.Schemas[0].Defs)
	for in, want := range map[string]bool{
		`{"v":1}`: true, `{"v":1,"next":{"v":2,"next":{"v":3}}}`: true,
		`{"v":1,"next":{"v":2,"next":{}}}`: false, `{"v":1,"next":{"v":"x"}}`: false, `{"v":1,"next":null}`: false,
	} {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(in))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(v); (err == nil) != want {
			t.Errorf("%s: got %v, want valid %v", in, err, want)
		}
	}
}

// with puts extensions and operation members into a small document.
func with(top, operation string) string {
	return `openapi: 3.0.0
info: {title: a, version: "1"}
x-wso2-production-endpoints: {urls: ["http://127.0.0.1:9080"]}
components:
  securitySchemes:
    token: {type: oauth2}
    login: {type: http, scheme: Basic}
    digest: {type: http, scheme: digest}
    key: {type: apiKey, in: cookie, name: k}
` + top + `
paths:
  /x:
    get:
      responses: {"200": {description: ok}}
` + operation
}

func TestSecurity(t *testing.T) {
	const (
		open   = "[]"
		oauth2 = "oauth2"
	)
	for _, tt := range []struct{ name, top, op, want, scopes string }{
		{"nothing said is OAuth 2.0", "", "", oauth2, ""},
		{"API", "security: [{login: []}]", "", "basic", ""},
		{"operation over API", "security: [{login: []}]", "      security: [{token: [a, b]}]", oauth2, "a b"},
		{"or", "", "      security: [{token: [a]}, {login: []}]", "oauth2|basic", "a"},
		{"and", "", "      security: [{token: [a], login: []}]", "oauth2+basic", "a"},
		{"scopes of the API", "security: [{token: [a]}]", "", oauth2, "a"},
		{"x-scope replaces them", "security: [{token: [a]}]", "      x-scope: b", oauth2, "b"},
		{"empty list", "security: [{token: [a]}]", "      security: []", open, ""},
		{"empty alternative beside another is not kept", "", "      security: [{}, {token: []}]", oauth2, ""},
		{"disabled at the operation", "", "      x-wso2-disable-security: true", open, ""},
		{"disabled at the API", "x-wso2-disable-security: true", "", open, ""},
		{"disabled at the API, although the operation names schemes", "x-wso2-disable-security: true", "      security: [{token: []}]", open, ""},
		{"secured again", "x-wso2-disable-security: true", "      x-wso2-disable-security: false", oauth2, ""},
		{"x-auth-type", "", "      x-auth-type: None", open, ""},
		{"x-auth-type loses", "", "      x-auth-type: None\n      x-wso2-disable-security: false", oauth2, ""},
		{"x-auth-type Any", "", "      x-auth-type: Any", oauth2, ""},
		{"application security replaces schemes", "security: [{token: [a]}]\nx-wso2-application-security: {security-types: [basic_auth]}", "", "basic", "a"},
		{"application security of the operation", "x-wso2-application-security: {security-types: [basic_auth]}", "      x-wso2-application-security: {security-types: [oauth2, api_key]}", "oauth2|key 3 k", ""},
		{"own security before that of the API", "x-wso2-application-security: {security-types: [basic_auth]}", "      security: [{token: []}]", oauth2, ""},
		{"undefined default", "", "      security: [{default: []}]", oauth2, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, findings := read(t, "a.yaml", with(tt.top, tt.op), Options{})
			if source.Failed(findings) {
				t.Fatal(findings)
			}
			op := d.API.Operations[0]
			if got := alternatives(&d.API, op); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if got := strings.Join(op.Scopes, " "); got != tt.scopes {
				t.Errorf("scopes: got %q, want %q", got, tt.scopes)
			}
		})
	}
}

func alternatives(a *policy.API, op policy.Operation) string {
	if len(op.Security) == 0 {
		return "[]"
	}
	var alts []string
	for _, alt := range op.Security {
		var uses []string
		for _, u := range alt {
			s := a.Schemes[u.Scheme]
			name := map[policy.SchemeKind]string{policy.OAuth2: "oauth2", policy.Basic: "basic", policy.APIKey: "key", policy.Certificate: "certificate"}[s.Kind]
			if s.Kind == policy.APIKey {
				name += fmt.Sprintf(" %d %s", s.In, s.Name)
			}
			uses = append(uses, name)
		}
		alts = append(alts, strings.Join(uses, "+"))
	}
	return strings.Join(alts, "|")
}

func TestAPIKeyWithoutASchemeComesAsWSO2Says(t *testing.T) {
	d, _ := read(t, "a.yaml", strings.ReplaceAll(with("", "      x-wso2-application-security: {security-types: [api_key]}"), "    key: {type: apiKey, in: cookie, name: k}\n", ""), Options{})
	if got := alternatives(&d.API, d.API.Operations[0]); got != "key 1 apikey|key 2 apikey" {
		t.Errorf("got %s", got)
	}
}

func TestFindings(t *testing.T) {
	for _, tt := range []struct {
		name, top, op, want, hint string
		security                  bool
	}{
		{"unknown scheme", "", "      security: [{tokn: []}]", `a.yaml:15: error: API "a" 1: GET /x: security: unknown scheme "tokn"`, "did you mean token?", true},
		{"unsupported scheme", "", "      security: [{digest: []}]", `a.yaml:15: error: API "a" 1: GET /x: security: the scheme "digest" is of a kind that is not supported`, "", true},
		{"optional credential", "", "      security: [{}, {token: []}]", `a.yaml:15: warning: API "a" 1: GET /x: security: the empty alternative {} is not kept, so a credential is needed`, "", false},
		{"x-auth-type", "", "      x-auth-type: Nobody", `a.yaml:15: error: API "a" 1: GET /x: x-auth-type: "Nobody" is not one of`, "", false},
		{"disable-security is no text", "", `      x-wso2-disable-security: "true"`, `a.yaml:15: error: API "a" 1: GET /x: x-wso2-disable-security: want true or false`, "", false},
		{"optional without mutual TLS", "x-wso2-application-security: {optional: true}", "", `a.yaml:10: error: API "a" 1: x-wso2-application-security: optional: true needs x-wso2-mutual-ssl: mandatory`, "", true},
		{"security type", "x-wso2-application-security: {security-types: [oauth]}", "", `a.yaml:10: error: API "a" 1: x-wso2-application-security: "oauth" is not one of oauth2, basic_auth, api_key`, "", false},
		{"interceptor", "x-wso2-request-interceptor: java:a.B", "", `a.yaml:10: error: API "a" 1: x-wso2-request-interceptor: "java:a.B" is code, which cannot be kept`, "", true},
		{"unknown x-wso2", "x-wso2-new-thing: 1", "", `a.yaml:10: warning: API "a" 1: x-wso2-new-thing is not known here and has no effect`, "", false},
		{"unknown x-tidegate", "x-tidegate-plan: [Gold]", "", `a.yaml:10: error: API "a" 1: unknown extension x-tidegate-plan`, "did you mean x-tidegate-plans?", false},
		{"extension of the API at an operation", "", "      x-tidegate-hosts: [a]", `a.yaml:15: error: API "a" 1: unknown extension x-tidegate-hosts`, "", false},
		{"extension of others", "x-amazon-apigateway-integration: {}", "", `a.yaml:10: dropped: API "a" 1: x-amazon-apigateway-integration: an extension of another product`, "", false},
		{"plan beside that of the API", "x-wso2-throttling-tier: A", "      x-throttling-tier: B", `a.yaml:15: warning: API "a" 1: GET /x: plan "B" is ignored: the API has the plan "A"`, "remove one of them", false},
		{"endpoint reference", "x-wso2-endpoints: [{one: {urls: ['http://a']}}]", `      x-wso2-production-endpoints: "#/x-wso2-endpoints/two"`, `a.yaml:15: error: API "a" 1: GET /x: x-wso2-production-endpoints: "#/x-wso2-endpoints/two" is not one of x-wso2-endpoints`, "", false},
		{"etcd", "x-wso2-sandbox-endpoints: {urls: ['etcd(key, http://a)']}", "", `a.yaml:10: warning: API "a" 1: x-wso2-sandbox-endpoints: etcd key "key" is not looked up: its default http://a is used`, "", false},
		{"password in a document", "x-wso2-sandbox-endpoints: {urls: ['http://a'], securityConfig: {type: basic, username: u, password: p}}", "", `a.yaml:10: error: API "a" 1: x-wso2-sandbox-endpoints: securityConfig: password: a document is not the place for a secret`, "move it to secrets.yaml as endpoints/a-1-sandbox/password", true},
		{"unknown key of an endpoint", "x-wso2-sandbox-endpoints: {url: ['http://a']}", "", `a.yaml:10: warning: API "a" 1: x-wso2-sandbox-endpoints: unknown key "url"`, `did you mean "urls"?`, false},
		{"servers of an operation", "", "      servers: [{url: 'http://a'}]", `a.yaml:15: dropped: API "a" 1: GET /x: servers below the top of the document`, "", false},
		{"outer reference", "x-tidegate-validate: true", "      parameters: [{$ref: 'other.yaml#/a'}]", `a.yaml:15: error: API "a" 1: GET /x: $ref "other.yaml#/a" leaves the document`, "bundle the document into one file first", false},
		{"reference to nothing", "x-tidegate-validate: true", "      parameters: [{$ref: '#/components/parameters/a'}]", `a.yaml:15: error: API "a" 1: GET /x: $ref "#/components/parameters/a" points to nothing`, "", false},
		{"reference to itself", "x-tidegate-validate: true", "      parameters: [{$ref: '#/paths/~1x/get/parameters/0'}]", `a.yaml:15: error: API "a" 1: GET /x: a chain of $ref does not end`, "", false},
		{"keyword that is none", "x-tidegate-validate: true", "      parameters: [{name: a, in: query, schema: {minimun: 1}}]", `a.yaml:15: warning: API "a" 1: GET /x: schema: "minimun" has no effect`, "", false},
		{"pattern", "x-tidegate-validate: true", "      parameters: [{name: a, in: query, schema: {pattern: '(?!x)'}}]", `a.yaml:15: warning: API "a" 1: GET /x: schema: pattern "(?!x)" is not kept`, "", true},
		{"count", "x-tidegate-validate: true", "      parameters: [{name: a, in: query, schema: {minLength: -1}}]", `a.yaml:15: error: API "a" 1: GET /x: schema: minLength: want a whole number from 0, got a number`, "", false},
		{"parameter", "x-tidegate-validate: true", "      parameters: [{name: a, in: boddy}]", `a.yaml:15: error: API "a" 1: GET /x: a parameter needs a name and in: query, header, path or cookie`, "", false},
		{"default version", "x-wso2-basePath: /a\nx-tidegate-default-version: true", "", `a.yaml:11: error: API "a" 1: x-tidegate-default-version: the base path "/a" does not end in the version "1"`, "", false},
		{"template", "", "  /y/{z:\n    get: {}\n", `a.yaml:15: error: API "a" 1: /y/{z: template "/y/{z": braces do not pair`, "", false},
		{"method", "", "    gett: {}\n", `a.yaml:15: error: API "a" 1: /x: unknown key "gett"`, "did you mean get?", false},
		{"WebSocket by POST", "", "    post:\n      responses: {}\n      x-tidegate-websocket: true\n", `a.yaml:17: error: API "a" 1: POST /x: x-tidegate-websocket: only a GET can be upgraded`, "", false},
		{"size", "x-tidegate-max-body: 1MB", "", `a.yaml:10: error: API "a" 1: x-tidegate-max-body: "1MB" is not a size`, "", false},
		{"time of day", "x-tidegate-access: {times: [{from: '25:00', to: '26:00'}]}", "", `a.yaml:10: error: API "a" 1: x-tidegate-access: times[0]: from: "25:00" is not a time of day`, "", false},
		{"not by the standard", "", "      parameters: [{name: a, in: path, required: true, schema: {type: string}}]", `a.yaml:13: warning: API "a" 1: not valid OpenAPI: `, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, findings := read(t, "a.yaml", with(tt.top, tt.op), Options{})
			i := slices.IndexFunc(findings, func(f source.Finding) bool { return strings.HasPrefix(f.String(), tt.want) })
			if i < 0 {
				t.Fatalf("no finding %q in %v", tt.want, findings)
			}
			if f := findings[i]; tt.hint != "" && f.Hint != tt.hint || f.Security != tt.security {
				t.Errorf("got hint %q, security %v", f.Hint, f.Security)
			}
		})
	}
}

func TestInterceptorsAreLostOnlyWhereThatIsAccepted(t *testing.T) {
	d, findings := read(t, "a.yaml", with("x-wso2-request-interceptor: java:a.B", ""), Options{AcceptInterceptors: true})
	if d == nil || source.Failed(findings) {
		t.Fatal(findings)
	}
	if !slices.ContainsFunc(findings, func(f source.Finding) bool {
		return f.Severity == source.Dropped && f.Security && strings.Contains(f.Message, "java:a.B")
	}) {
		t.Errorf("the loss is not told: %v", findings)
	}
}

func TestNotADocument(t *testing.T) {
	for in, want := range map[string]string{
		"":                      "not an OpenAPI document: want a mapping, got nothing",
		"[]":                    "not an OpenAPI document: want a mapping, got a list",
		"a: b":                  "not an OpenAPI document: no key openapi or swagger",
		"swagger: 1.2":          "Swagger 1.2 is not supported: want 2.0",
		"openapi: 4.0.0":        "OpenAPI 4.0.0 is not supported: want 2.0, 3.0 or 3.1",
		"openapi: 3.0.0\n b: c": "not readable as YAML",
	} {
		d, findings := read(t, "a.yaml", in, Options{})
		if d != nil || len(findings) != 1 || !strings.HasPrefix(findings[0].Message, want) {
			t.Errorf("%q: got %v", in, findings)
		}
	}
}

func TestBasePath(t *testing.T) {
	for _, tt := range []struct{ doc, base, def string }{
		{"x-wso2-basePath: petstore/v1/\n", "/petstore/v1", ""},
		{"x-wso2-basePath: /m/{version}/x\nx-tidegate-default-version: true\n", "/m/1/x", "/m/x"},
		{"x-wso2-basePath: /m/1\nx-tidegate-default-version: true\n", "/m/1", "/m"},
		{"servers: [{url: 'https://a/b/c/'}, {url: 'https://a/d'}]\n", "/b/c", ""},
		{"servers: [{url: '{s}://a/{p}', variables: {s: {default: https}, p: {default: q}}}]\n", "/q", ""},
		{"servers: [{url: /relative}]\n", "/relative", ""},
		{"servers: [{url: 'https://a/'}]\n", "", ""},
		{"", "", ""},
	} {
		d, _ := read(t, "a.yaml", "openapi: 3.0.0\ninfo: {title: a, version: 1}\npaths: {/x: {get: {responses: {}}}}\n"+tt.doc, Options{})
		if d.API.BasePath != tt.base || d.API.DefaultPath != tt.def {
			t.Errorf("%q: got %q, %q, want %q, %q", tt.doc, d.API.BasePath, d.API.DefaultPath, tt.base, tt.def)
		}
	}
}

func TestVersionStaysAsWritten(t *testing.T) {
	for _, v := range []string{"1.20", "1.0", "2024-01-01", "1e3", "0x10", "v1"} {
		d, findings := read(t, "a.yaml", strings.Replace(with("", ""), `version: "1"`, "version: "+v, 1), Options{})
		if d.API.Version != v || source.Failed(findings) {
			t.Errorf("got %q, %v, want %q", d.API.Version, findings, v)
		}
	}
}

func TestSecretPathObeysTheGrammarOfBundles(t *testing.T) {
	for in, want := range map[string]string{
		"Petstore New-1.0-production": "endpoints/petstore-new-1.0-production/password",
		"..":                          "endpoints/-/password", "": "endpoints/-/password", "a/b": "endpoints/a-b/password", "é": "endpoints/--/password",
	} {
		if got := SecretPath("endpoints", in, "password"); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
