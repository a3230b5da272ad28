package project

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"tidegate/examples"
	"tidegate/policy"
	"time"

	"github.com/google/go-cmp/cmp"
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
	p, _ := mustLoad(t, os.DirFS(everything))
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
	a, _ := mustLoad(t, os.DirFS(everything))
	b, _ := mustLoad(t, os.DirFS(everything))
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

func TestNamesThatMeetAreTold(t *testing.T) {
	api := strings.Replace(minimalAPI, "paths:", `x-wso2-endpoints:
  - a.b: {urls: ["http://10.0.0.1"], securityConfig: {type: basic, username: u}}
  - A-B: {urls: ["http://10.0.0.1"]}
  - A.b: {urls: ["http://10.0.0.1"], securityConfig: {type: basic, username: u}}
paths:`, 1)
	_, findings := Load(minimal(t, map[string]string{"apis/a.yaml": api}))
	for _, want := range []string{
		`apis/a.yaml:7: error: endpoint "A.b": its secret endpoints/a.b/password would also be that of endpoint "a.b"`,
		`apis/a.yaml:6: warning: endpoint "A-B": TIDEGATE_ENDPOINTS_A_B_URL would override it and endpoint "a.b" alike`,
	} {
		if !slices.ContainsFunc(findings, func(f Finding) bool { return f.String() == want }) {
			t.Errorf("no finding %q in %v", want, findings)
		}
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
	p, _ := mustLoad(t, os.DirFS(everything))
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
