package main

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"tidegate/policy/wso2"
	"tidegate/policy/wso2/wso2test"

	"github.com/google/go-cmp/cmp"
)

var updateProjects = flag.Bool("update-projects", false, "write the golden projects of imports anew")

// golden compares a project with testdata/wso2/NAME. What differs between runs of a
// stand-in, its port and its keys, is written as in the golden files.
func golden(t *testing.T, name, dir, server string) {
	t.Helper()
	got := files(t, dir)
	for f, text := range got {
		if server != "" {
			text = strings.ReplaceAll(text, server, "https://apim.harbour.example:9443")
		}
		got[f] = text
	}
	if got["keys/apim.jwks.json"] != "" {
		got["keys/apim.jwks.json"] = "the keys of the stand-in, other ones for each run\n"
		l, err := wso2.ParseLock([]byte(got[wso2.LockFile]))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range l.Objects {
			if o.File == "keys/apim.jwks.json" {
				got[wso2.LockFile] = strings.ReplaceAll(got[wso2.LockFile], o.Written, "DIGEST")
			}
		}
	}
	want := filepath.Join("testdata", "wso2", name)
	if *updateProjects {
		if err := os.RemoveAll(want); err != nil {
			t.Fatal(err)
		}
		for f, text := range got {
			full := filepath.Join(want, f)
			if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if d := cmp.Diff(files(t, want), got); d != "" {
		t.Errorf("%s: - golden, + got:\n%s", name, d)
	}
}

func TestGoldenProjectsOfServers(t *testing.T) {
	for _, version := range []string{"2.6", "3.0", "3.2", "4.2"} {
		s := newSite(t, version)
		dir := filepath.Join(t.TempDir(), "p")
		more := []string{}
		if version == "3.2" {
			consumersOf(s)
			more = append(more, "--subscriptions")
		}
		s.importLabel(dir, more...).must(t, 0)
		golden(t, "apim-"+version, dir, s.URL)
	}
}

// consumersOf gives the stand-in applications and subscriptions.
func consumersOf(s *site) {
	s.Data = map[string][]map[string]any{
		"apis": {
			{"apiId": 1, "provider": "admin", "name": "MeterReadings", "version": "1.2.0", "context": "/meters/1.2.0", "policy": nil},
			{"apiId": 2, "provider": "admin", "name": "CraneOrders", "version": "v3", "context": "/cranes/v3", "policy": "20KPerMin"},
			{"apiId": 9, "provider": "admin", "name": "Elsewhere", "version": "1", "context": "/elsewhere/1"},
		},
		"applications": {
			{"id": 2, "uuid": "u2", "name": "TabletApp", "subName": "fitter1", "policy": "50PerMin", "tokenType": "JWT"},
			{"id": 3, "uuid": "u3", "name": "Panel", "subName": "master", "policy": "Unlimited", "tokenType": "JWT"},
			{"id": 7, "uuid": "u7", "name": "Stranger", "subName": "x", "policy": "Unlimited", "tokenType": "JWT"},
		},
		"subscriptions": {
			{"subscriptionId": 11, "apiId": 1, "appId": 2, "policyId": "Gold", "subscriptionState": "UNBLOCKED"},
			{"subscriptionId": 12, "apiId": 2, "appId": 3, "policyId": "Unlimited", "subscriptionState": "BLOCKED"},
			{"subscriptionId": 13, "apiId": 9, "appId": 7, "policyId": "Gold", "subscriptionState": "UNBLOCKED"},
			{"subscriptionId": 14, "apiId": 1, "appId": 3, "policyId": "NoSuchPlan", "subscriptionState": "UNHEARD_OF"},
		},
		"application-key-mappings": {
			{"applicationId": 2, "consumerKey": "k-sandbox", "keyType": "SANDBOX", "keyManager": "Resident Key Manager"},
			{"applicationId": 2, "consumerKey": "k-production", "keyType": "PRODUCTION", "keyManager": "Resident Key Manager"},
			{"applicationId": 7, "consumerKey": "k-stranger", "keyType": "PRODUCTION"},
		},
	}
}

// policyArchive is an advanced policy as apictl exports it.
const policyArchive = `type: throttling policy
subtype: advanced policy
version: v4.2.0
data:
  policyName: 2KPerMinGuarded
  defaultLimit: {type: REQUESTCOUNTLIMIT, requestCount: {timeUnit: min, unitTime: 1, requestCount: 2000}}
`

func TestGoldenProjectsOfArchives(t *testing.T) {
	work := t.TempDir()
	policy := filepath.Join(work, "policy.zip")
	if err := os.WriteFile(policy, wso2test.Zip(map[string]string{"AdvancedThrottlePolicy-2KPerMinGuarded.yaml": policyArchive}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, layout := range []string{"archive-2.6", "archive-4.x"} {
		file := filepath.Join(work, layout+".zip")
		if err := os.WriteFile(file, wso2test.Archive(layout), 0o600); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(work, "p-"+layout)
		runWSO2(t, nil, "import", "wso2", "--archive", file, "--archive", policy, dir).must(t, 0)
		golden(t, layout, dir, "")
		runWSO2(t, nil, "validate", dir).must(t, 0)
	}
}

func TestFolderOfArchivesIsTheSameAsItsArchives(t *testing.T) {
	work := t.TempDir()
	folder := filepath.Join(work, "exported")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	archive := wso2test.Archive("archive-4.x")
	for name, body := range map[string][]byte{"a.zip": archive, "policy.yaml": []byte(policyArchive), "readme.txt": []byte("hello")} {
		if err := os.WriteFile(filepath.Join(folder, name), body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	one, both := filepath.Join(work, "one"), filepath.Join(work, "both")
	runWSO2(t, nil, "import", "wso2", "--archive", filepath.Join(folder, "a.zip"), "--archive", folder, one).must(t, 60).says(t, "would both be")
	runWSO2(t, nil, "import", "wso2", "--archive", folder, both).must(t, 0)
	want := files(t, filepath.Join("testdata", "wso2", "archive-4.x"))
	if d := cmp.Diff(want, files(t, both)); d != "" {
		t.Error(d)
	}
	unpacked := filepath.Join(work, "unpacked")
	if err := os.CopyFS(filepath.Join(unpacked, "deep"), wso2test.Replies()); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"archive-2.6", "v4"} {
		if err := os.RemoveAll(filepath.Join(unpacked, "deep", gone)); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(work, "p")
	r := runWSO2(t, nil, "import", "wso2", "--archive", unpacked, "--json", dir).must(t, 0).report(t)
	if len(r.APIs) != 1 || r.APIs[0].Name != "MeterReadings" {
		t.Errorf("got %+v", r.APIs)
	}
}

func TestEveryGoldenProjectIsOneFolderOfProjectFiles(t *testing.T) {
	found, err := filepath.Glob("testdata/wso2/*")
	if err != nil || len(found) < 6 {
		t.Fatalf("%d golden projects, %v", len(found), err)
	}
	for _, dir := range found {
		f := files(t, dir)
		names := slices.Sorted(maps.Keys(f))
		if !slices.Contains(names, "tide.yaml") || !slices.Contains(names, wso2.LockFile) {
			t.Errorf("%s: %v", dir, names)
		}
	}
}
