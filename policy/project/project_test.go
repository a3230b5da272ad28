package project

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"tidegate/examples"
	"tidegate/policy"
)

// files makes a project of texts.
func files(t *testing.T, texts map[string]string) fstest.MapFS {
	t.Helper()
	fsys := fstest.MapFS{}
	for name, text := range texts {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

const (
	minimalTide = "product: harbour\n"
	minimalAPI  = `openapi: 3.0.3
info: {title: a, version: "1"}
x-wso2-production-endpoints: {urls: ["http://127.0.0.1:9080"]}
paths:
  /x: {get: {responses: {"200": {description: ok}}}}
`
)

// minimal is the least project, with the texts given over it.
func minimal(t *testing.T, texts map[string]string) fstest.MapFS {
	t.Helper()
	all := map[string]string{tideFile: minimalTide, "apis/a.yaml": minimalAPI}
	for k, v := range texts {
		all[k] = v
	}
	return files(t, all)
}

func mustLoad(t *testing.T, fsys fs.FS) (*Project, []Finding) {
	t.Helper()
	p, findings := Load(fsys)
	if p == nil {
		for _, f := range findings {
			t.Log(f)
		}
		t.Fatal("the project has mistakes")
	}
	return p, findings
}

func TestSampleProjectHasNothingToSay(t *testing.T) {
	p, findings := mustLoad(t, examples.Meters())
	for _, f := range findings {
		t.Error(f)
	}
	if got := len(p.Set.APIs[0].Operations); got != 4 {
		t.Errorf("got %d operations, want 4", got)
	}
	if p.Tide.Name != "meters" || p.Tide.ValidFor != 365*24*time.Hour {
		t.Errorf("manifest: got %+v", p.Tide)
	}
	want := []string{"apis/meters.yaml", "auth.yaml", "consumers.yaml", "keys/plant.jwks.json", "policies.yaml", "tide.yaml"}
	if d := cmp.Diff(want, p.Files); d != "" {
		t.Errorf("files (-want +got):\n%s", d)
	}
}

func TestEveryMistakeIsToldAtOnceWithItsPlace(t *testing.T) {
	_, findings := Load(os.DirFS("testdata/mistakes"))
	var got []string
	for _, f := range findings {
		if f.Severity == Error {
			got = append(got, f.String())
		}
	}
	want := []string{
		`apis/meters.yaml:17: error: API "meters" 1.0: GET /readings: security: unknown scheme "tokn"`,
		`apis/meters.yaml:32: error: API "meters" 1.0: POST /readings: x-wso2-request-interceptor: "check" is code, which cannot be kept`,
		`apis/meters.yaml:6: error: endpoint "meters-1.0-production": target "ftp://127.0.0.1": want http or https`,
		`apis/meters.yaml:14: error: API "meters" 1.0: GET /readings: unknown plan "Gold"`,
		`apis/meters.yaml:23: error: API "meters" 1.0: GET /readings: schema: type: "sting" is not a type`,
		`apis/meters.yaml:40: error: API "meters" 1.0: GET /readings/{other}: conflicts with GET /readings/{id} in apis/meters.yaml:36`,
		`auth.yaml:6: error: issuer "plant": jwks: keys/none.json: no such file`,
		`consumers.yaml:3: error: subscription of application "9" to meters 1.0: unknown application "9"`,
		`policies.yaml:3: error: plan "Silver": timeUnit: "minute" is not one of sec, min, hour, day, week, month, year`,
		`policies.yaml:6: error: plan "Gold": group "night": pattern "(?=x)" does not compile: error parsing regexp: invalid or unsupported Perl syntax: ` + "`(?=`",
		`tide.yaml:4: error: unknown key "chanel"`,
	}
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestEverythingIsReadAsWritten(t *testing.T) {
	p, _ := mustLoad(t, os.DirFS("testdata/everything"))
	got := golden(t, p)
	name := "testdata/everything.golden"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(name, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// golden writes a project as text. Keys are left out: they say nothing to a reader.
func golden(t *testing.T, p *Project) []byte {
	t.Helper()
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	out, err := json.MarshalIndent(prune(v), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

// prune takes out what is empty.
func prune(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			e = prune(e)
			if e == nil || k == "PKIX" || k == "Authorities" || k == "Certificates" || k == "CAs" || k == "ClientCert" {
				delete(v, k)
				continue
			}
			v[k] = e
		}
		if len(v) == 0 {
			return nil
		}
	case []any:
		if len(v) == 0 {
			return nil
		}
		for i := range v {
			v[i] = prune(v[i])
		}
	case string:
		if v == "" || v == "0001-01-01T00:00:00Z" {
			return nil
		}
	case json.Number:
		if v == "0" {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	}
	return v
}

func TestLoadingTwiceGivesTheSameBytes(t *testing.T) {
	a, _ := mustLoad(t, os.DirFS("testdata/everything"))
	b, _ := mustLoad(t, os.DirFS("testdata/everything"))
	x, err := policy.Encode(a.Set)
	if err != nil {
		t.Fatal(err)
	}
	y, err := policy.Encode(b.Set)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		t.Error("two loads of one project differ")
	}
	s, err := policy.Decode(x)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Errorf("what a device would read: %v", err)
	}
}

func TestMistakes(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  string // a finding, as it prints
		hint  string
	}{
		{"no project", map[string]string{tideFile: ""}, "tide.yaml:1: error: product is missing", ""},
		{"bad name", map[string]string{tideFile: "product: Harbour\n"}, `tide.yaml:1: error: product "Harbour" is not a name`, ""},
		{"key twice", map[string]string{tideFile: "product: a\nproduct: b\n"}, `tide.yaml:2: error: key "product" is given twice, first on line 1`, ""},
		{"near key", map[string]string{tideFile: "product: a\nvalid_fr: 3d\n"}, `tide.yaml:2: error: unknown key "valid_fr"`, `did you mean "valid_for"?`},
		{"duration without unit", map[string]string{tideFile: "product: a\nvalid_for: 90\n"}, `tide.yaml:2: error: valid_for: want a duration, got "90"`, "write it with its unit: 500ms, 30s, 5m, 12h, 90d"},
		{"two ends", map[string]string{tideFile: "product: a\nvalid_for: 90d\nexpires: 2030-01-01\n"}, `tide.yaml:2: error: valid_for: expires is given too: want one of them`, ""},
		{"device id", map[string]string{tideFile: "product: a\ndevices: [abc]\n"}, `tide.yaml:2: error: devices: "abc" is not a device id: want 26 letters and digits, as tidegate status shows it`, ""},
		{"probe that writes", map[string]string{tideFile: "product: a\nprobes: [{method: POST, target: /x}]\n"}, `tide.yaml:2: error: probes[0]: method: POST: a probe runs every ten seconds, so it may only look: GET, HEAD or OPTIONS`, ""},
		{"acceptance", map[string]string{tideFile: "product: a\naccept_dropped: [interceptor]\n"}, `tide.yaml:2: error: accept_dropped: "interceptor" is not one of interceptors, plans`, "did you mean interceptors?"},
		{"broken YAML", map[string]string{tideFile: "product: a\n b: c\n"}, "tide.yaml:2: error: not readable as YAML: ", ""},
		{"not a mapping", map[string]string{tideFile: "- a\n"}, "tide.yaml:1: error: want a mapping, got a list", ""},

		{"plan overflows", map[string]string{plansFile: "resourcePolicies: [{a: {bandwidth: 9223372036854775807, bandwidthUnit: GB}}]\n"},
			`policies.yaml:1: error: plan "a": bandwidth: 9223372036854775807 GB is more than can be counted`, ""},
		{"count overflows", map[string]string{plansFile: "resourcePolicies: [{a: {count: 9223372036854775808}}]\n"},
			`policies.yaml:1: error: plan "a": count: want a whole number, got "9223372036854775808"`, ""},
		{"window overflows", map[string]string{plansFile: "resourcePolicies: [{a: {count: 1, unitTime: 1000000, timeUnit: year}}]\n"},
			`policies.yaml:1: error: plan "a": unitTime: 1000000 is not from 1 to 10`, ""},
		{"burst of nothing", map[string]string{plansFile: "subscriptionPolicies: [{a: {count: 5, burst: {count: 0}}}]\n"},
			`policies.yaml:1: error: plan "a": burst: count: 0 is not from 1 to 2147483647`, ""},
		{"never admits", map[string]string{plansFile: "subscriptionPolicies: [{a: {count: 0}}]\n"},
			`policies.yaml:1: warning: plan "a": a count of 0 never admits a call`, ""},
		{"limits nothing", map[string]string{plansFile: "subscriptionPolicies:\n - a: {}\n"},
			`policies.yaml:2: error: plan "a": limits nothing`, "give it a count, or use Unlimited"},
		{"count and bandwidth", map[string]string{plansFile: "subscriptionPolicies: [{a: {count: 1, bandwidth: 1}}]\n"},
			`policies.yaml:1: error: plan "a": bandwidth: count is given too: want one of them`, ""},
		{"calendar", map[string]string{plansFile: "subscriptionPolicies: [{a: {count: 1, align: day, unitTime: 2, timeUnit: day}}]\n"},
			`policies.yaml:1: error: plan "a": a window of 48h0m0s cannot follow the calendar: want one day, week or month`, ""},
		{"zone", map[string]string{plansFile: "subscriptionPolicies: [{a: {count: 1, align: day, zone: Europe/Olso}}]\n"},
			`policies.yaml:1: error: plan "a": zone "Europe/Olso" does not load`, ""},
		{"zone without calendar", map[string]string{plansFile: "subscriptionPolicies: [{a: {count: 1, zone: Europe/Oslo}}]\n"},
			`policies.yaml:1: error: plan "a": zone "Europe/Oslo" has no effect on a window that does not follow the calendar`, ""},
		{"unknown variable", map[string]string{plansFile: "customPolicies: [{a: {count: 1, keyTemplate: $user}}]\n"},
			`policies.yaml:1: error: plan "a": unknown variable "$user"`, ""},
		{"twice", map[string]string{plansFile: "customPolicies:\n- a: {count: 1, keyTemplate: $userId}\n- a: {count: 1, keyTemplate: $userId}\n"},
			`policies.yaml:3: error: plan "a": defined twice in customPolicies, first in policies.yaml:2`, ""},
		{"two conditions in one", map[string]string{plansFile: "resourcePolicies: [{a: {count: 1, groups: [{count: 1, match: [{ip: 10.0.0.1, header: X, pattern: y}]}]}}]\n"},
			`policies.yaml:1: error: plan "a": groups[0]: match[0]: a condition looks at one of ip, header, query, claim; this one at 2`, ""},
		{"range", map[string]string{plansFile: "resourcePolicies: [{a: {count: 1, groups: [{count: 1, match: [{ip: 10.0.0.9-10.0.0.1}]}]}}]\n"},
			`policies.yaml:1: error: plan "a": groups[0]: match[0]: ip: range "10.0.0.9-10.0.0.1": the end is not behind the start`, ""},
		{"plan in the wrong list", map[string]string{plansFile: "applicationPolicies: [{a: {count: 1}}]\n", consumersFile: "applications: [{id: x, plan: b}]\nsubscriptions: [{application: x, api: a, version: 1, plan: a}]\n"},
			`consumers.yaml:2: error: subscription of application "x" to a 1: unknown plan "a"`, "it is defined in applicationPolicies, but must be in subscriptionPolicies"},

		{"password", map[string]string{authFile: "users: [{name: a, password: b}]\n"},
			`auth.yaml:1: error: user "a": password: a password in a project is readable by everybody who has the bundle`, "give its hash as password_hash"},
		{"hash", map[string]string{authFile: "users: [{name: a, password_hash: secret}]\n"},
			`auth.yaml:1: error: user "a": the hash is of no known form`, ""},
		{"private JWK", map[string]string{authFile: `issuers: [{issuer: i, jwks: {keys: [{kty: OKP, crv: Ed25519, x: AA, d: AA}]}}]`},
			`auth.yaml:1: error: issuer "i": jwks: key 1: a private or secret key: it must not be in a project`, ""},
		{"symmetric key", map[string]string{authFile: `issuers: [{issuer: i, jwks: {keys: [{kty: oct, k: AA}]}}]`},
			`auth.yaml:1: error: issuer "i": jwks: key 1: a private or secret key: it must not be in a project`, ""},
		{"HMAC", map[string]string{authFile: `issuers: [{issuer: i, algorithms: HS256, jwks: {keys: [{kty: OKP, crv: Ed25519, x: 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo}]}}]`},
			`auth.yaml:1: error: issuer "i": algorithm "HS256" is not allowed`, ""},
		{"algorithm of another key", map[string]string{authFile: `issuers: [{issuer: i, algorithms: RS256, jwks: {keys: [{kty: OKP, crv: Ed25519, x: 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo}]}}]`},
			`auth.yaml:1: error: issuer "i": algorithm RS256 has no key that can verify it`, ""},
		{"key of another algorithm", map[string]string{authFile: `issuers: [{issuer: i, jwks: {keys: [{kty: OKP, crv: Ed25519, alg: RS256, x: 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo}]}}]`},
			`auth.yaml:1: error: issuer "i": key 1: cannot verify RS256`, ""},
		{"off the curve", map[string]string{authFile: `issuers: [{issuer: i, jwks: {keys: [{kty: EC, crv: P-256, x: AQ, y: AQ}]}}]`},
			`auth.yaml:1: error: issuer "i": jwks: key 1: not a point of the curve`, ""},
		{"short RSA", map[string]string{authFile: `issuers: [{issuer: i, jwks: {keys: [{kty: RSA, n: wJ8, e: AQAB}]}}]`},
			`auth.yaml:1: error: issuer "i": key 1: is of a kind or size that is not accepted: want RSA from 2048 bits, P-256, P-384, P-521 or Ed25519`, ""},
		{"not PEM", map[string]string{authFile: "mtls: {authorities: [{name: a, ca: x.pem}]}\n", "x.pem": "hello"},
			`auth.yaml:1: error: client authority "a": ca: no certificate in PEM form`, ""},
		{"out of the project", map[string]string{authFile: "mtls: {authorities: [{name: a, ca: ../x.pem}]}\n"},
			`auth.yaml:1: error: client authority "a": ca: "../x.pem" is not a path inside the project`, ""},
		{"API of a certificate", map[string]string{authFile: "mtls: {certificates: [{alias: a, certificate: x.pem, apis: [{name: nope}]}]}\n", "x.pem": "hello"},
			`auth.yaml:1: error: client authority "a": unknown API "nope" *`, ""},

		{"key in the open", map[string]string{consumersFile: "api_keys: [{name: a, key: b}]\n"},
			`consumers.yaml:1: error: API key "a": key: a key in a project is readable by everybody who has the bundle`, "give its SHA-256 as sha256"},
		{"API of a key", map[string]string{consumersFile: "\napi_keys: [{name: k, sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855, apis: [{name: a, version: 2}]}]\n"},
			`consumers.yaml:2: error: API key "k": unknown API "a" 2`, "it has 1"},
		{"two revocations in one", map[string]string{consumersFile: "revoked: [{jti: a, user: b}]\n"},
			`consumers.yaml:1: error: revoked[0]: want one of jti, signature, api_key, api_key_sha256, consumer_key, application, user; got 2`, ""},
		{"state", map[string]string{consumersFile: "applications: [{id: x}]\nsubscriptions: [{application: x, api: a, version: 1, state: BLOCKT}]\n"},
			`consumers.yaml:2: error: subscriptions[0]: state: "BLOCKT" is not one of UNBLOCKED, TIER_UPDATE_PENDING, BLOCKED, PROD_ONLY_BLOCKED, ON_HOLD, INACTIVE, REJECTED`, "did you mean BLOCKED?"},

		{"secret twice", map[string]string{secretsFile: "a/B: x\na: {b: y}\n"},
			`secrets.yaml:2: error: the secret a/b is given twice, first on line 1: letter case and special characters do not count`, ""},
		{"secret of nobody", map[string]string{secretsFile: "a: x\n"}, `secrets.yaml:1: warning: the secret a is used by nothing`, ""},
		{"empty secret", map[string]string{secretsFile: "a: \"\"\n"}, `secrets.yaml:1: error: the secret a is empty`, ""},

		{"what only a device would find", map[string]string{"apis/a.yaml": minimalAPI + "  /x%2Dy: {get: {responses: {}}}\n  /x-y: {get: {responses: {}}}\n"},
			`error: a device would refuse it: `, ""},
		{"same API", map[string]string{"apis/b.yaml": minimalAPI}, `apis/b.yaml:2: error: API "a" 1: defined twice, first in apis/a.yaml:2`, ""},
		{"same base path", map[string]string{"apis/b.yaml": strings.Replace(minimalAPI, "title: a", "title: b", 1)},
			`apis/b.yaml:2: error: API "b" 1: its base path "/" is also that of API "a" 1 in apis/a.yaml:2`, "set x-wso2-basePath"},
		{"not OpenAPI", map[string]string{"apis/b.yaml": "a: b\n"}, `apis/b.yaml:1: error: not an OpenAPI document: no key openapi or swagger`, ""},
		{"wildcard with credentials", map[string]string{"apis/a.yaml": minimalAPI + "x-wso2-cors: {accessControlAllowOrigins: ['*'], accessControlAllowCredentials: true}\n"},
			`apis/a.yaml:2: error: API "a" 1: CORS: origin "*" with credentials: every web site could act for a user who is logged in`, "name the origins, or allow no credentials"},
		{"origin without scheme", map[string]string{"apis/a.yaml": minimalAPI + "x-wso2-cors: {accessControlAllowOrigins: [test.com]}\n"},
			`apis/a.yaml:2: warning: API "a" 1: CORS: the origin "test.com" has no scheme: no browser will send it`, "write https://test.com"},
		{"no endpoint", map[string]string{"apis/a.yaml": "openapi: 3.0.0\ninfo: {title: a, version: 1}\npaths: {/x: {get: {responses: {}}}}\n"},
			`apis/a.yaml:3: error: API "a" 1: GET /x: no endpoint: calls would have nowhere to go`, "set x-wso2-production-endpoints"},
		{"open to all", map[string]string{"apis/a.yaml": minimalAPI + "security: []\n"},
			`apis/a.yaml:2: warning: API "a" 1: anybody may call every operation`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, findings := Load(minimal(t, tt.files))
			for _, f := range findings {
				if strings.HasPrefix(f.String(), tt.want) {
					if tt.hint != "" && f.Hint != tt.hint {
						t.Errorf("got hint %q, want %q", f.Hint, tt.hint)
					}
					return
				}
			}
			t.Errorf("no finding %q in:", tt.want)
			for _, f := range findings {
				t.Logf("%s (%s)", f, f.Hint)
			}
		})
	}
}

func TestUsersMayHaveArgon2idHashes(t *testing.T) {
	_, findings := mustLoad(t, minimal(t, map[string]string{authFile: `users:
  - {name: fitter, password_hash: "$argon2id$v=19$m=12288,t=3,p=1$c2FsdHNhbHRzYWx0c2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}
`}))
	if len(findings) != 0 {
		t.Error(findings)
	}
}

func TestMinimalProjectIsEnough(t *testing.T) {
	p, findings := mustLoad(t, minimal(t, nil))
	if len(findings) != 0 {
		t.Errorf("got %v", findings)
	}
	want := Manifest{Product: "harbour", Channel: "stable", Name: "harbour", Hardware: []string{"any"}, Devices: []Selector{{}}}
	if d := cmp.Diff(want, p.Tide); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestDevicesAreOrderedAsTheyAreEncoded(t *testing.T) {
	p, _ := mustLoad(t, minimal(t, map[string]string{tideFile: minimalTide +
		"labels: [bb, a, [north, crane], a]\ndevices: [ZZZZZZZZZZZZZZZZZZZZZZZZZY, aaaaaaaaaaaaaaaaaaaaaaaaae]\n"}))
	var got []string
	for _, s := range p.Tide.Devices {
		if s.Device != nil {
			got = append(got, fmt.Sprintf("%x", s.Device[:1]))
			continue
		}
		got = append(got, strings.Join(s.Labels, "+"))
	}
	if d := cmp.Diff([]string{"00", "ce", "a", "bb", "crane+north"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestLostPlanIsAnErrorUnlessAccepted(t *testing.T) {
	api := strings.Replace(minimalAPI, "{get: {", "{get: {x-throttling-tier: Gone, ", 1)
	p, findings := Load(minimal(t, map[string]string{"apis/a.yaml": api}))
	if p != nil || len(findings) != 1 || findings[0].Hint != "define it in resourcePolicies of policies.yaml" {
		t.Errorf("got %v", findings)
	}
	p, findings = mustLoad(t, minimal(t, map[string]string{"apis/a.yaml": api, tideFile: minimalTide + "accept_dropped: [plans]\n"}))
	if p.Set.APIs[0].Operations[0].Plan != "" {
		t.Error("the unknown plan stayed")
	}
	if len(findings) != 1 || findings[0].Severity != Dropped || !findings[0].Security {
		t.Errorf("got %v", findings)
	}
}

func TestEndpointsOfOneNameAreSharedOrRenamed(t *testing.T) {
	doc := func(title, url, opURL string) string {
		return fmt.Sprintf(`openapi: 3.0.0
info: {title: %s, version: "1"}
x-wso2-basePath: /%[1]s
x-wso2-endpoints: [{shared: {urls: ["http://10.0.0.1"]}}]
x-wso2-production-endpoints: {urls: [%q]}
paths:
  /x:
    get:
      operationId: look
      x-wso2-production-endpoints: {urls: [%q], securityConfig: {type: basic, username: u}}
      x-wso2-sandbox-endpoints: "#/x-wso2-endpoints/shared"
      responses: {"200": {description: ok}}
`, title, url, opURL)
	}
	p, _ := mustLoad(t, minimal(t, map[string]string{
		"apis/a.yaml": doc("a", "http://10.0.0.2", "http://10.0.0.3"),
		"apis/b.yaml": doc("b", "http://10.0.0.4", "http://10.0.0.5"),
	}))
	var names []string
	for _, e := range p.Set.Endpoints {
		names = append(names, e.Name)
	}
	want := []string{"shared", "a-1-production", "look-production", "b-1-production", "b-1-look-production"}
	if d := cmp.Diff(want, names); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	b := p.Set.APIs[1].Operations[0]
	if b.Sandbox != 1 || b.Production != 5 || p.Set.APIs[1].Production != 4 {
		t.Errorf("references: got %d, %d, %d", b.Sandbox, b.Production, p.Set.APIs[1].Production)
	}
	if got := p.Set.Endpoints[4].Auth.Secret; got != "endpoints/b-1-look-production/password" {
		t.Errorf("the secret did not move with the name: %s", got)
	}
	_, findings := Load(minimal(t, map[string]string{
		"apis/a.yaml": doc("a", "http://10.0.0.2", "http://10.0.0.3"),
		"apis/b.yaml": strings.Replace(doc("b", "http://10.0.0.4", "http://10.0.0.5"), "10.0.0.1", "10.9.9.9", 1),
	}))
	if !slices.ContainsFunc(findings, func(f Finding) bool {
		return f.String() == `apis/b.yaml:4: error: endpoint "shared": defined twice, first in apis/a.yaml:4`
	}) {
		t.Errorf("got %v", findings)
	}
}

func TestRevocationsAreSortedAndJoined(t *testing.T) {
	p, _ := mustLoad(t, minimal(t, map[string]string{consumersFile: `
revoked:
  - {user: guest}
  - {jti: a, until: 2030-01-01}
  - {jti: a}
  - {jti: a, until: 2031-01-01}
  - {api_key: tgk_1}
  - {api_key_sha256: ` + fmt.Sprintf("%x", sha256.Sum256([]byte("tgk_1"))) + `}
  - {signature: ` + strings.Repeat("A", 86) + `}
`}))
	var got []string
	for _, r := range p.Set.Revoked {
		got = append(got, fmt.Sprintf("%d %d", r.Kind, r.Until))
	}
	if d := cmp.Diff([]string{"1 0", "2 0", "2 0", "3 0", "6 0"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	sum := sha256.Sum256(make([]byte, 32)) // r of the 64 zero bytes
	if !slices.ContainsFunc(p.Set.Revoked, func(r policy.Revocation) bool {
		return r.Kind == policy.RevokedSignature && bytes.Equal(r.Hash[:], sum[:16])
	}) {
		t.Error("the half of an ES256 signature that an attacker cannot change is not revoked")
	}
}

func TestSecretsComeFromTextsTreesAndFiles(t *testing.T) {
	p, _ := mustLoad(t, os.DirFS("testdata/everything"))
	got := map[string]string{}
	for k, v := range p.Secrets {
		got[k] = string(v)
	}
	want := map[string]string{
		"endpoints/meters/password": "from the text",
		"introspection/password":    "nested",
		"tls/quay/key":              "not a real key either\n",
		"backend_jwt/key":           "not a real key",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	set, err := policy.Encode(p.Set)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range want {
		if bytes.Contains(set, []byte(v)) {
			t.Errorf("the secret %q is readable in the set", v)
		}
	}
}

// sharedData returns the folder of documents of others, or skips.
func sharedData(t *testing.T) string {
	t.Helper()
	dir := filepath.Join("..", "..", "..", "shared", "data", "openapi")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		t.Skip("the documents of others are not here: they lie beside the repository, in shared/data/openapi")
	}
	return dir
}

func TestDocumentsOfOthersMakeProjects(t *testing.T) {
	dir := sharedData(t)
	plans := "resourcePolicies: [{10kPerMin: {count: 10000}}, {20kPerMin: {count: 20000}}]\n"
	names, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	broken := map[string]int{ // errors that the documents do have
		"callback-example.yaml": 1, "link-example.yaml": 1, "webhook-example.yaml": 1, "interceptors_sample.yaml": 2,
	}
	for _, name := range names {
		base := filepath.Base(name)
		t.Run(base, func(t *testing.T) {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			_, findings := Load(files(t, map[string]string{tideFile: minimalTide, plansFile: plans, "apis/" + base: string(data)}))
			mistakes := 0
			for _, f := range findings {
				if f.Severity == Error {
					mistakes++
					if broken[base] == 0 {
						t.Error(f)
					}
				}
			}
			if mistakes != broken[base] {
				t.Errorf("got %d errors, want %d: %v", mistakes, broken[base], findings)
			}
		})
	}
}
