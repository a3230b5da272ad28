package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"tidegate/policy/project"
	"tidegate/policy/wso2/wso2test"
	"tidegate/sync/apim/apimtest"

	"github.com/google/go-cmp/cmp"
)

// importedOnce is a site, and the project of its first import.
func importedOnce(t *testing.T, version string) (*site, string) {
	t.Helper()
	s := newSite(t, version)
	dir := filepath.Join(t.TempDir(), "p")
	s.importLabel(dir).must(t, 0)
	return s, dir
}

func edit(t *testing.T, name, old, new string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), old) {
		t.Fatalf("%s does not contain %q:\n%s", name, old, b)
	}
	if err := os.WriteFile(name, []byte(strings.Replace(string(b), old, new, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// changedFiles returns the names of files that differ.
func changedFiles(before, after map[string]string) []string {
	var out []string
	for name, text := range after {
		if before[name] != text {
			out = append(out, name)
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			out = append(out, "-"+name)
		}
	}
	slices.Sort(out)
	return out
}

func TestSecondImportOfTheSameChangesNoByte(t *testing.T) {
	for _, version := range []string{"2.6", "3.2", "4.2"} {
		s, dir := importedOnce(t, version)
		for _, a := range s.APIs { // what changes without the API changing
			a["thumbnailUri"], a["lastUpdatedTime"] = "/new.png", "2026-11-26"
		}
		slices.Reverse(s.APIs)
		before := files(t, dir)
		r := s.importLabel(dir, "--json").must(t, 0)
		if v := r.report(t); v.Changed || len(v.Files) > 0 || v.APIs[0].State != "same" {
			t.Errorf("%s: got %+v, want nothing changed", version, v)
		}
		s.importLabel(dir).must(t, 0).says(t, "no changes since the last import; a bundle built from it can be reused")
		if d := cmp.Diff(before, files(t, dir)); d != "" {
			t.Errorf("%s: %s", version, d)
		}
	}
}

func TestChangedServerGivesAMinimalDiff(t *testing.T) {
	s, dir := importedOnce(t, "2.6")
	before := files(t, dir)
	s.APIs[0]["description"] = "Readings"
	s.APIs[0]["endpointConfig"] = strings.ReplaceAll(s.APIs[0]["endpointConfig"].(string), "10.20.0.15", "10.20.0.25")
	s.Application[0]["defaultLimit"].(map[string]any)["requestCount"] = 51
	s.Blocked = s.Blocked[1:]
	r := s.importLabel(dir, "--json").must(t, 0).report(t)
	after := files(t, dir)
	if got, want := changedFiles(before, after), []string{"apis/meterreadings-1.2.0.json", "consumers.yaml", "policies.yaml", "wso2.lock.json"}; !slices.Equal(got, want) {
		t.Errorf("changed %v, want %v", got, want)
	}
	for name, want := range map[string][2]string{
		"apis/meterreadings-1.2.0.json": {"http://10.20.0.15:8080/metering", "http://10.20.0.25:8080/metering"},
		"policies.yaml":                 {"50PerMin: {count: 50,", "50PerMin: {count: 51,"},
		"consumers.yaml":                {"  - {type: IP, value: 10.99.3.7}\n", ""},
	} {
		if got := strings.Replace(before[name], want[0], want[1], 1); got != after[name] {
			t.Errorf("%s: %s", name, cmp.Diff(got, after[name]))
		}
	}
	if r.APIs[1].State != "changed" || r.APIs[0].State != "same" || !slices.Equal(r.Removed, []string{"block condition IP 10.99.3.7"}) {
		t.Errorf("got %+v", r)
	}
}

func TestAPIThatLeftTheLabelIsRemoved(t *testing.T) {
	s, dir := importedOnce(t, "2.6")
	s.APIs = s.APIs[:1]
	r := s.importLabel(dir, "--json").must(t, 0).report(t)
	if !slices.Equal(r.Removed, []string{"api CraneOrders"}) && !strings.Contains(fmt.Sprint(r), "CraneOrders") {
		t.Errorf("got %+v", r)
	}
	if _, err := os.Stat(filepath.Join(dir, "apis/craneorders-v3.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the document is still there: %v", err)
	}
}

func TestEditsByHandAreNotWrittenOver(t *testing.T) {
	s, dir := importedOnce(t, "2.6")
	api, policies := filepath.Join(dir, "apis/meterreadings-1.2.0.json"), filepath.Join(dir, "policies.yaml")
	edit(t, api, "10.20.0.15", "10.20.0.99")
	edit(t, policies, "Gold: {count: 5000,", "Gold: {count: 9,")
	before := files(t, dir)

	s.importLabel(dir).must(t, 0) // nothing new there: the edits stay
	if d := cmp.Diff(before, files(t, dir)); d != "" {
		t.Errorf("nothing changed on the server, but: %s", d)
	}

	s.APIs[0]["isDefaultVersion"] = false
	s.Subscription[0]["defaultLimit"].(map[string]any)["requestCount"] = 6000
	r := s.importLabel(dir).must(t, 1)
	r.says(t, "edited by hand since the last import", "apis/meterreadings-1.2.0.json", `policies.yaml: subscription plan "Gold"`, "overlays/NAME.yaml", "--force")
	if d := cmp.Diff(before, files(t, dir)); d != "" {
		t.Errorf("it was refused, but: %s", d)
	}

	s.importLabel(dir, "--force").must(t, 0)
	after := files(t, dir)
	if strings.Contains(after["apis/meterreadings-1.2.0.json"], "10.20.0.99") || !strings.Contains(after["policies.yaml"], "Gold: {count: 6000,") {
		t.Errorf("--force kept an edit:\n%s", after["policies.yaml"])
	}
}

func TestWhatAPersonAddsStays(t *testing.T) {
	s, dir := importedOnce(t, "2.6")
	edit(t, filepath.Join(dir, "policies.yaml"), "subscriptionPolicies:\n", "# ours: agreed with the harbour\nsubscriptionPolicies:\n  - Night: {count: 5, unitTime: 1, timeUnit: min} # after ten\n")
	edit(t, filepath.Join(dir, "tide.yaml"), "product: quay-7\n", "product: quay-7\nvalid_for: 365d # a year\n")
	if err := os.MkdirAll(filepath.Join(dir, "overlays"), 0o755); err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlays/meterreadings-1.2.0.yaml")
	if err := os.WriteFile(overlay, []byte("x-wso2-production-endpoints: {urls: [http://10.20.0.77:8080]}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.Subscription[0]["defaultLimit"].(map[string]any)["requestCount"] = 6000
	s.APIs[0]["isDefaultVersion"] = false
	s.importLabel(dir).must(t, 0)
	after := files(t, dir)
	for name, want := range map[string][]string{
		"policies.yaml": {"# ours: agreed with the harbour", "Night: {count: 5, unitTime: 1, timeUnit: min} # after ten", "Gold: {count: 6000,"},
		"tide.yaml":     {"valid_for: 365d # a year"},
	} {
		for _, w := range want {
			if !strings.Contains(after[name], w) {
				t.Errorf("%s lost %q:\n%s", name, w, after[name])
			}
		}
	}
	p, findings := project.Load(os.DirFS(dir))
	if p == nil {
		t.Fatal(findings)
	}
	found := false
	for _, e := range p.Set.Endpoints {
		found = found || e.Targets[0].URL == "http://10.20.0.77:8080"
	}
	if !found {
		t.Error("the overlay was lost")
	}
}

func TestAnotherLabelIsAnotherProject(t *testing.T) {
	s, dir := importedOnce(t, "2.6")
	for _, a := range s.APIs {
		a["labels"] = []any{map[string]any{"name": "quay-7"}, map[string]any{"name": "quay-8"}}
	}
	r := runWSO2(t, nil, s.words("--label", "quay-8", dir)...).must(t, 1)
	r.says(t, "the project was imported from "+s.URL+" (label quay-7), not from "+s.URL+" (label quay-8)", "another folder")
	runWSO2(t, nil, s.words("--label", "quay-8", "--force", dir)...).must(t, 0)
	if got := files(t, dir)["tide.yaml"]; !strings.Contains(got, "labels: [quay-8]") {
		t.Errorf("got %s", got)
	}
}

func TestWhatCannotBeFetchedStays(t *testing.T) {
	s, dir := importedOnce(t, "2.6")
	before := files(t, dir)
	s.Fail("GET /api/am/admin/v0.14/throttling/blacklist", apimtest.Fault{Status: 403})
	s.Fail("GET /api/am/admin/v0.14/throttling/policies/custom", apimtest.Fault{Status: 500})
	s.importLabel(dir).must(t, 0).says(t, "block conditions: not fetched: status 403", "custom rules: not fetched: status 500")
	if d := cmp.Diff(before, files(t, dir)); d != "" {
		t.Error(d)
	}
	s.importLabel(dir, "--strict").must(t, 1).says(t, "list custom rules: status 500")
}

func TestAdvancedPoliciesWithoutGroupsAreFetchedOneByOne(t *testing.T) {
	s, dir := importedOnce(t, "2.6")
	before := files(t, dir)
	s.ShortAdvanced = true
	s.importLabel(dir).must(t, 0)
	if d := cmp.Diff(before["policies.yaml"], files(t, dir)["policies.yaml"]); d != "" {
		t.Error(d)
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	s := newSite(t, "2.6")
	dir := filepath.Join(t.TempDir(), "p")
	r := s.importLabel(dir, "--dry-run").must(t, 0)
	r.says(t, "--dry-run: nothing was written")
	if got := files(t, dir); len(got) > 0 {
		t.Errorf("got %v", got)
	}
}

func TestClientIsKeptSealedForTheNextRun(t *testing.T) {
	s := newSite(t, "2.6")
	config := t.TempDir()
	env := []string{"XDG_CONFIG_HOME=" + config}
	dir := filepath.Join(t.TempDir(), "p")
	importIt := func(more ...string) wso2Run {
		return runWSO2(t, env, append(s.words("--label", "quay-7", dir), more...)...)
	}
	importIt().must(t, 0)
	importIt().must(t, 0)
	if n := s.Registered(); n != 1 {
		t.Errorf("%d clients were registered, want 1", n)
	}
	kept := files(t, config)
	if len(kept) != 1 {
		t.Fatalf("kept %v", kept)
	}
	for name, text := range kept {
		if strings.Contains(text, "example-secret-not-real") || strings.Contains(text, apimtest.Password) {
			t.Errorf("%s holds a secret in the clear:\n%s", name, text)
		}
		info, err := os.Stat(filepath.Join(config, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
	s.Forget() // the server was set up anew
	importIt().must(t, 0)
	if n := s.Registered(); n != 2 {
		t.Errorf("%d clients were registered, want a second one", n)
	}
	wrong := runWSO2(t, append(env, wso2PasswordVariable+"=wrong"), s.words("--label", "quay-7", dir)...).must(t, 1)
	wrong.says(t, "invalid user credentials")
	importIt("--forget-client").must(t, 0)
	if n := s.Registered(); n != 3 {
		t.Errorf("%d clients were registered: --forget-client asks for one of its own", n)
	}
}

func TestStrictTakesNoLoss(t *testing.T) {
	s := newSite(t, "2.6")
	s.APIs[0]["sequences"] = []any{map[string]any{"name": "check_signature", "type": "in"}}
	s.APIs[1]["maxTps"] = map[string]any{"production": "50"}
	dir := filepath.Join(t.TempDir(), "p")
	r := s.importLabel(dir, "--strict").must(t, 60)
	r.says(t, "2 things cannot be kept (--strict); nothing was written", "mediation sequence MeterReadings 1.2.0: check_signature", "maxTps CraneOrders v3")
	if got := files(t, dir); len(got) > 0 {
		t.Errorf("got %v", got)
	}
	v := s.importLabel(dir, "--json").must(t, 0).report(t)
	if len(v.Dropped) != 2 || !v.Dropped[0].Security {
		t.Errorf("got %+v", v.Dropped)
	}
}

func TestImportAsAWholeProcess(t *testing.T) {
	s := newSite(t, "3.1")
	work := t.TempDir()
	password := filepath.Join(work, "password")
	if err := os.WriteFile(password, []byte(apimtest.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(work, "p")
	cmd := exec.Command("tidectl", s.words("--label", "quay-7", "--password-file", password, dir)...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+filepath.Join(work, "config"), wso2PasswordVariable+"=another one")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "new\tMeterReadings 1.2.0") {
		t.Errorf("standard output: %s", out)
	}
	cmd = exec.Command("tidectl", s.words("--label", "quay-7", dir)...) // no password, no terminal
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, wso2PasswordVariable) }), "XDG_CONFIG_HOME="+filepath.Join(work, "config"))
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(text), "no terminal to ask on") {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestSubscriptionsOf26StayInItsTokens(t *testing.T) {
	s := newSite(t, "2.6")
	s.importLabel(filepath.Join(t.TempDir(), "p"), "--subscriptions").must(t, 0).says(t, "its tokens carry them (subscribedAPIs)")
}

func TestArchivesAddAndTakeNothingAway(t *testing.T) {
	work := t.TempDir()
	file := filepath.Join(work, "a.zip")
	if err := os.WriteFile(file, wso2test.Archive("archive-2.6"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(work, "b.zip")
	body := wso2test.Zip(map[string]string{
		"B/api.yaml":                 "type: api\ndata: {name: B, version: '2', context: /b, lifeCycleStatus: CREATED, endpointConfig: {endpoint_type: http, production_endpoints: {url: 'http://10.0.0.2'}}}\n",
		"B/Definitions/swagger.yaml": "openapi: 3.0.1\ninfo: {title: B, version: '2'}\npaths: {/x: {get: {responses: {'200': {description: ok}}}}}\n",
	})
	if err := os.WriteFile(other, body, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(work, "p")
	runWSO2(t, nil, "import", "wso2", "--archive", file, dir).must(t, 0)
	runWSO2(t, nil, "import", "wso2", "--archive", other, dir).must(t, 0).says(t, "B 2: its status is CREATED, not PUBLISHED")
	got := files(t, dir)
	if got["apis/meterreadings-1.2.0.json"] == "" || got["apis/b-2.yaml"] == "" {
		t.Errorf("got %v", changedFiles(nil, got))
	}
	r := runWSO2(t, nil, "import", "wso2", "--archive", file, "--json", dir).must(t, 0).report(t)
	if r.Changed {
		t.Errorf("got %+v, want nothing changed", r)
	}
}

func TestClientCertificatesAreAskedForBeforeTheProjectBuilds(t *testing.T) {
	s := newSite(t, "2.6")
	s.APIs[0]["securityScheme"] = []any{"mutualssl", "mutualssl_mandatory", "oauth2", "oauth_basic_auth_api_key_mandatory"}
	dir := filepath.Join(t.TempDir(), "p")
	s.importLabel(dir).must(t, 0).says(t, "needs a certificate: MeterReadings 1.2.0: asks callers for a certificate")
	runWSO2(t, nil, "validate", dir).must(t, 60).says(t, "mutual TLS without any client certificates to accept")
}

func TestImportIntoAProjectThatIsThereKeepsItsOwn(t *testing.T) {
	s := newSite(t, "2.6")
	dir := t.TempDir()
	own := map[string]string{
		"tide.yaml":     "# ours\nproduct: harbour\nlabels: [crane]\nfault_format: problem\n",
		"policies.yaml": "resourcePolicies:\n  - Mine: {count: 5, unitTime: 1, timeUnit: min}\n",
		"auth.yaml":     "issuers:\n  - {name: own, issuer: '" + s.URL + "/oauth2/token', jwks_url: 'https://km/jwks', algorithms: [RS256]}\n",
		"apis/own.yaml": "openapi: 3.0.3\ninfo: {title: Own, version: '1'}\nx-wso2-basePath: /own\nx-wso2-production-endpoints: {urls: ['http://10.0.0.1']}\npaths: {/x: {get: {x-throttling-tier: Mine, responses: {'200': {description: ok}}}}}\n",
	}
	for name, text := range own {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.importLabel(dir).must(t, 0)
	got := files(t, dir)
	if want := "# ours\nproduct: harbour\nlabels: [crane, quay-7]\nfault_format: problem\n"; got["tide.yaml"] != want {
		t.Errorf("tide.yaml: %s", cmp.Diff(want, got["tide.yaml"]))
	}
	if got["auth.yaml"] != own["auth.yaml"] || got["apis/own.yaml"] != own["apis/own.yaml"] || got["keys/apim.jwks.json"] != "" {
		t.Errorf("an issuer that is there was named again:\n%s", got["auth.yaml"])
	}
	if !strings.Contains(got["policies.yaml"], "Mine: {count: 5, unitTime: 1, timeUnit: min}") {
		t.Errorf("policies.yaml:\n%s", got["policies.yaml"])
	}
	runWSO2(t, nil, "validate", dir).must(t, 0)

	// What the other side has too is in the way.
	s.APIs[0]["context"], s.APIs[0]["version"] = "/own", "1"
	edit(t, filepath.Join(dir, "apis/own.yaml"), "/own", "/own/1")
	s.importLabel(dir).must(t, 60).says(t, `its base path "/own/1" is also that of`)
}
