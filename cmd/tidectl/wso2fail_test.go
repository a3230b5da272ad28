package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/policy/wso2/wso2test"
	"tidegate/sync/apim/apimtest"

	"github.com/google/go-cmp/cmp"
)

func TestImportWithWrongWordsIsAUsageError(t *testing.T) {
	dir := t.TempDir()
	full := filepath.Join(t.TempDir(), "full")
	if err := os.MkdirAll(filepath.Join(full, "photos"), 0o755); err != nil {
		t.Fatal(err)
	}
	const server, user = "--server=https://apim.example:9443", "--user=admin"
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{server, user, dir}, "import wso2: give --label, or --api with --version"},
		{[]string{server, user, "--api", "A", dir}, "import wso2: give --label, or --api with --version"},
		{[]string{server, user, "--version", "1", dir}, "import wso2: give --label, or --api with --version"},
		{[]string{server, user, "--apim", "2.6", "--label", "L", "--api", "A", "--version", "1", dir}, "import wso2: give --label, or --api with --version"},
		{[]string{server, user, "--label", "L", "--api", "A", dir}, "import wso2: give --label, or --api with --version"},
		{[]string{user, "--label", "L", dir}, "give --server https://host:port, or --archive FILE"},
		{[]string{server, "--label", "L", dir}, "give --user"},
		{[]string{"--server=http://apim.example:9443", user, "--label", "L", dir}, "a password must not travel in the clear"},
		{[]string{"--server=https://admin:x@apim.example", user, "--label", "L", dir}, "want https://host:port"},
		{[]string{server, user, "--label", "L", "--apim", "5.0", dir}, `--apim "5.0" is not one of auto, 2.6`},
		{[]string{"--archive", "x.zip", "--label", "L", dir}, "an archive says everything itself"},
		{[]string{server, user, "--label", "L", full}, "is no project"},
		{[]string{server, user, "--password", "secret", "--label", "L", dir}, "unknown flag: --password"},
	} {
		r := runWSO2(t, nil, append([]string{"import", "wso2"}, tc.args...)...)
		if r.code != 2 || !strings.Contains(r.err, tc.want) {
			t.Errorf("%v: exit code %d, want 2 and %q\n%s", tc.args, r.code, tc.want, r.err)
		}
	}
	r := runWSO2(t, []string{wso2PasswordVariable + "="}, "import", "wso2", server, user, "--label", "L", dir)
	r.must(t, 2).says(t, "no terminal to ask on; give --password-file FILE or set TIDECTL_WSO2_PASSWORD")
}

// A broken site is one call of the contract gone wrong.
var brokenSites = []struct {
	name    string
	version string
	breakIt func(s *site)
	code    int
	want    []string
}{
	{"wrong password", "2.6", func(s *site) {
		s.Fail("POST /client-registration/v0.14/register", apimtest.Fault{Status: 401})
	}, 1, []string{": invalid user credentials or the user does not have required permissions"}},
	{
		"token refused", "3.1", func(s *site) {
			s.Fail("POST /oauth2/token", apimtest.Fault{Status: 400, Body: `{"error":"invalid_grant"}`})
		}, 1,
		[]string{": invalid user credentials or the user does not have required permissions"},
	},
	{"registration fails", "2.6", func(s *site) { s.Fail("POST /client-registration/", apimtest.Fault{Status: 500}) }, 1, []string{": register client: status 500"}},
	{"no registration", "2.6", func(s *site) { s.Fail("POST /client-registration/", apimtest.Fault{Status: 404}) }, 1, []string{"register client: status 404", "--apim"}},
	{"token fails", "2.6", func(s *site) { s.Fail("POST /oauth2/token", apimtest.Fault{Status: 503}) }, 1, []string{": get token: status 503"}},
	{"redirect", "2.6", func(s *site) { s.Fail("GET /api/am/publisher/", apimtest.Fault{Status: 302}) }, 1, []string{": list APIs: status 302"}},
	{"list fails", "2.6", func(s *site) { s.Fail("GET /api/am/publisher/", apimtest.Fault{Status: 500}) }, 1, []string{": list APIs: status 500"}},
	{"no permission for APIs", "2.6", func(s *site) {
		s.Scope = "apim:tier_view"
		s.Fail("GET /api/am/publisher/", apimtest.Fault{Status: 403})
	}, 1, []string{"the user does not have required permissions: list APIs: status 403", "the token lacks the scope apim:api_view"}},
	{"no permission for policies", "2.6", func(s *site) {
		s.Scope = "apim:api_view"
		s.Fail("GET /api/am/admin/", apimtest.Fault{Status: 401})
	}, 1, []string{"list application policies: status 401", "the token lacks the scope apim:tier_view"}},
	{"subscription policies fail", "2.6", func(s *site) {
		s.Fail("GET /api/am/admin/v0.14/throttling/policies/subscription", apimtest.Fault{Status: 500})
	}, 1, []string{"list subscription policies: status 500"}},
	{"no API under the label", "2.6", func(s *site) { s.APIs = nil }, 1, []string{"no APIs found for the given label: quay-7"}},
	{"none published", "3.2", func(s *site) {
		for _, a := range s.APIs {
			a["status"] = "CREATED"
		}
	}, 1, []string{"no APIs found for the given label: quay-7"}},
	{"no API deployed", "4.1", func(s *site) { s.Fail("GET /api/am/publisher/v3/apis/export", apimtest.Fault{Status: 404}) }, 1, []string{"no APIs found for the given label: quay-7"}},
	{"export is no zip", "4.1", func(s *site) {
		s.Fail("GET /api/am/publisher/v3/apis/export", apimtest.Fault{Status: 200, Type: "application/zip", Body: "PK nonsense"})
	}, 20, []string{"export APIs: not a zip archive"}},
	{"half of the details fail", "3.2", func(s *site) {
		s.Fail("GET /api/am/publisher/v1.2/apis/", apimtest.Fault{Status: 500, After: 2})
	}, 1, []string{": get detail: status 500"}},
	{"a definition fails", "3.2", func(s *site) {
		s.Fail("GET /api/am/publisher/v1.2/apis/0b0f6c6e-41c1-4b5e-9a55-2f6f2a1d7e01/swagger", apimtest.Fault{Status: 500})
	}, 1, []string{`API "MeterReadings" 1.2.0: get definition: status 500`}},
	{"connection breaks off", "2.6", func(s *site) { s.Fail("GET /api/am/publisher/", apimtest.Fault{Hang: true}) }, 1, []string{": cannot connect: "}},
	{"HTML", "2.6", func(s *site) {
		s.Fail("GET /api/am/publisher/", apimtest.Fault{Status: 200, Type: "text/html", Body: "<html><body>Please log in</body></html>"})
	}, 20, []string{`list APIs: $: not JSON but a page that begins with "<html><body>Please log in</body></html>"`}},
	{"empty reply", "2.6", func(s *site) { s.Fail("GET /api/am/publisher/", apimtest.Fault{Status: 200}) }, 20, []string{"list APIs: $: empty"}},
	{
		"half a reply", "2.6", func(s *site) {
			s.Fail("GET /api/am/publisher/", apimtest.Fault{Status: 200, Body: `{"count": 1, "list": [{"name"`})
		}, 20,
		[]string{"list APIs: line 1: not readable as JSON"},
	},
	{
		"another shape", "2.6", func(s *site) {
			s.Fail("GET /api/am/publisher/", apimtest.Fault{Status: 200, Body: `{"list": {"a": 1}}`})
		}, 20,
		[]string{"list APIs: $.list: want a list, got a mapping"},
	},
	{
		"client without a secret", "2.6", func(s *site) {
			s.Fail("POST /client-registration/", apimtest.Fault{Status: 200, Body: `{"clientId": "x"}`})
		}, 20,
		[]string{"register client: $.clientId, $.clientSecret: missing"},
	},
	{"no token", "2.6", func(s *site) { s.Fail("POST /oauth2/token", apimtest.Fault{Status: 200, Body: `{}`}) }, 20, []string{"get token: $.access_token: missing"}},
	{
		"definition does not parse", "2.6", func(s *site) { s.APIs[0]["apiDefinition"] = `{"swagger": "2.0", ` }, 20,
		[]string{"list APIs: $.list[0].apiDefinition: line 1: not readable as JSON"},
	},
	{"no definition", "2.6", func(s *site) { s.APIs[0]["apiDefinition"] = nil }, 20, []string{"$.list[0].apiDefinition: missing"}},
	{
		"endpoints do not parse", "2.6", func(s *site) { s.APIs[0]["endpointConfig"] = `{"production_endpoints": ` }, 20,
		[]string{"list APIs: $.list[0].endpointConfig: the JSON in this text: line 1"},
	},
	{"no endpoint", "2.6", func(s *site) { s.APIs[0]["endpointConfig"] = `{"endpoint_type":"http"}` }, 60, []string{"MeterReadings 1.2.0: no endpoint"}},
	{"two APIs on one base path", "2.6", func(s *site) {
		s.APIs[1]["context"], s.APIs[1]["version"] = "/meters", "1.2.0"
	}, 60, []string{"CraneOrders 1.2.0 and MeterReadings 1.2.0 have one base path, /meters/1.2.0"}},
	{"two default versions", "2.6", func(s *site) {
		s.APIs[1]["context"], s.APIs[1]["isDefaultVersion"] = "/meters", true
	}, 60, []string{"CraneOrders v3 and MeterReadings 1.2.0 are both the default version of /meters"}},
	{"a cyclic reference", "2.6", func(s *site) {
		s.APIs[0]["apiDefinition"] = `{"openapi":"3.0.1","info":{},"paths":{"/a":{"$ref":"#/paths/~1b"},"/b":{"$ref":"#/paths/~1a"}}}`
	}, 60, []string{"apis/meterreadings-1.2.0.json", "a chain of $ref does not end", "the project would not compile"}},
	{"a server that ignores offset", "2.6", func(s *site) { s.PageSize, s.IgnoreOffset = 1, true }, 20, []string{"comes twice: the server ignores offset"}},
}

func TestImportFromABrokenSiteLeavesTheProjectAsItWas(t *testing.T) {
	for _, tc := range brokenSites {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t, tc.version)
			dir := filepath.Join(t.TempDir(), "p")
			s.importLabel(dir).must(t, 0)
			before := files(t, dir)
			fresh := filepath.Join(t.TempDir(), "q")
			tc.breakIt(s)
			for _, d := range []string{dir, fresh} {
				s.importLabel(d, "--force").must(t, tc.code).says(t, tc.want...)
			}
			if d := cmp.Diff(before, files(t, dir)); d != "" {
				t.Errorf("the project was changed: %s", d)
			}
			if got := files(t, fresh); len(got) > 0 {
				t.Errorf("something was written: %v", got)
			}
		})
	}
}

func TestNameThatIsNotThereIsSaid(t *testing.T) {
	s := newSite(t, "2.6")
	dir := t.TempDir()
	runWSO2(t, nil, s.words("--api", "Meter", "--version", "1.2", dir)...).must(t, 1).says(t, "no published API matched name Meter, version 1.2")
	r := runWSO2(t, nil, s.words("--api", "MeterReadings", "--version", "1.2.0", "--json", dir)...).must(t, 0).report(t)
	if len(r.APIs) != 1 || r.APIs[0].Name != "MeterReadings" {
		t.Errorf("got %+v", r.APIs)
	}
	for _, c := range s.Calls() {
		if strings.Contains(c, "query=name:MeterReadings%20version:1.2.0%20status:PUBLISHED&expand=true") {
			return
		}
	}
	t.Error("the search was not made as the original makes it")
}

func Test4xNeedsALabelAndOthersTakeOneSelector(t *testing.T) {
	s := newSite(t, "4.2")
	runWSO2(t, nil, s.words("--api", "MeterReadings", "--version", "1.2.0", t.TempDir())...).must(t, 1).says(t, "gives APIs out by label only")
	runWSO2(t, nil, s.words("--label", "quay-7", "--api", "MeterReadings", "--version", "1.2.0", t.TempDir())...).must(t, 0)
	old := newSite(t, "2.6")
	runWSO2(t, nil, old.words("--label", "quay-7", "--api", "MeterReadings", "--version", "1.2.0", t.TempDir())...).must(t, 1).says(t, "takes a label or a name, not both")
}

func TestUnknownAuthorityAndNoServer(t *testing.T) {
	s := newSite(t, "2.6")
	args := []string{"import", "wso2", "--server", s.URL, "--user", apimtest.User, "--label", "quay-7"}
	dir := filepath.Join(t.TempDir(), "p")
	runWSO2(t, nil, append(args, dir)...).must(t, 1).says(t, s.URL+": cannot connect: ", "hint: give the certificate of its authority with --ca FILE")
	r := runWSO2(t, nil, append(args, "--insecure", dir)...).must(t, 0)
	r.says(t, "--insecure: neither the certificate nor the host name of "+s.URL+" is checked")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	runWSO2(t, nil, "import", "wso2", "--server", "https://"+addr, "--user", "u", "--label", "L", t.TempDir()).must(t, 1).
		says(t, "https://"+addr+": cannot connect: ", "is API Manager running there?")
}

func TestBadArchives(t *testing.T) {
	dir := t.TempDir()
	api := `{"id":{"apiName":"A","version":"1"},"context":"/a/1","status":"PUBLISHED","endpointConfig":"{\"production_endpoints\":{\"url\":\"http://10.0.0.1\"},\"endpoint_type\":\"http\"}"}`
	swagger := `{"swagger":"2.0","info":{"title":"A","version":"1"},"paths":{"/x":{"get":{"responses":{"200":{"description":"ok"}}}}}}`
	many := map[string]string{}
	for i := range 10_001 {
		many[fmt.Sprintf("f%d", i)] = ""
	}
	for name, tc := range map[string]struct {
		body []byte
		code int
		want string
	}{
		"no zip":        {[]byte("hello"), 20, "not a zip archive"},
		"empty":         {wso2test.Zip(nil), 20, "no API in it"},
		"climbs out":    {wso2test.Zip(map[string]string{"../Meta-information/api.json": api}), 20, "leaves the archive"},
		"absolute":      {wso2test.Zip(map[string]string{"/etc/Meta-information/api.json": api}), 20, "leaves the archive"},
		"back slash":    {wso2test.Zip(map[string]string{`a\..\api.json`: api}), 20, "leaves the archive"},
		"too many":      {wso2test.Zip(many), 20, "at most 10000"},
		"bomb":          {wso2test.Zip(map[string]string{"A/Meta-information/api.json": strings.Repeat(" ", 65<<20)}), 20, "more than 64 MiB unpacked"},
		"no definition": {wso2test.Zip(map[string]string{"A/Meta-information/api.json": api}), 20, "the API has no definition"},
		"broken api":    {wso2test.Zip(map[string]string{"A/Meta-information/api.json": "{", "A/Meta-information/swagger.json": swagger}), 20, "not readable as JSON"},
		"too deep":      {wso2test.Zip(map[string]string{"a/b/c/d/e/Meta-information/api.json": api, "a/b/c/d/e/Meta-information/swagger.json": swagger}), 20, "at most 3 folders deep"},
		"good":          {wso2test.Zip(map[string]string{"a/b/A/Meta-information/api.json": api, "a/b/A/Meta-information/swagger.json": swagger, "a/b/A/Sequences/in.xml": "<x/>", "a/b/A/Docs/x.json": "{}"}), 0, "programs of API Manager, which cannot be kept"},
	} {
		file := filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".zip")
		if err := os.WriteFile(file, tc.body, 0o600); err != nil {
			t.Fatal(err)
		}
		r := runWSO2(t, nil, "import", "wso2", "--archive", file, filepath.Join(dir, "p-"+strings.ReplaceAll(name, " ", "-")))
		if r.code != tc.code || !strings.Contains(r.err, tc.want) {
			t.Errorf("%s: exit code %d, want %d and %q\n%s", name, r.code, tc.code, tc.want, r.err)
		}
	}
	runWSO2(t, nil, "import", "wso2", "--archive", filepath.Join(dir, "absent.zip"), filepath.Join(dir, "q")).must(t, 1).says(t, "absent.zip")
}
