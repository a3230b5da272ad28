package route_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"tidegate/policy"
	"tidegate/policy/fault"
	"tidegate/policy/route"
)

// api returns an API from "METHOD /template" lines.
func api(name, base string, ops ...string) policy.API {
	a := policy.API{Name: name, Version: "1.0", BasePath: base}
	for _, o := range ops {
		method, tpl, _ := strings.Cut(o, " ")
		a.Operations = append(a.Operations, policy.Operation{Method: method, Template: tpl})
	}
	return a
}

func table(t testing.TB, apis ...policy.API) *route.Table {
	t.Helper()
	tab, err := route.New(&policy.Set{APIs: apis})
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func petstore() policy.API {
	return api("pets", "/pets/v1",
		"GET /pet/{id}", "PUT /pet/{id}", "GET /pet/mine", "GET /{kind}/mine", "POST /pet",
		"GET /{name}.json", "GET /report.{format}", "GET /{a}-{b}.x", "GET /{name}.json/d",
		"GET /files/*", "GET /a/{b}/c", "GET /a/x/d", "GET /", "GET /caf%C3%A9",
	)
}

func TestTheMostExactTemplateAnswers(t *testing.T) {
	tab := table(t, petstore(), api("root", "", "GET /*"), api("deep", "/pets/v1/deep", "GET /x"))
	for _, tc := range []struct {
		path, want string // template, then parameters
	}{
		{"/pets/v1/pet/7", "/pet/{id} id=7"},
		{"/pets/v1/pet/7/", "/pet/{id} id=7"},
		{"/pets/v1/pet/7;v=1", "/pet/{id} id=7"},
		{"/pets;a/v1;b=2/pet;c/7;v=1/", "/pet/{id} id=7"},
		{"/pets/v1/pet/mine", "/pet/mine"},
		{"/pets/v1/pet/m%69ne", "/pet/mine"},
		{"/pets/v1/cat/mine", "/{kind}/mine kind=cat"},
		{"/pets/v1/pet/a%2Fb", "/pet/{id} id=a/b"},
		{"/pets/v1/pet/a%2Fmine", "/pet/{id} id=a/mine"},
		{"/%70ets/v1/pet/7", "/pet/{id} id=7"},
		{"/pets/v1/x.json", "/{name}.json name=x"},
		{"/pets/v1/x%2ejson", "/{name}.json name=x"},
		{"/pets/v1/a%20b.json/d", "/{name}.json/d name=a b"},
		{"/pets/v1/report.pdf", "/report.{format} format=pdf"},
		{"/pets/v1/report.json", "/report.{format} format=json"}, // more literal bytes
		{"/pets/v1/1-2-3.x", "/{a}-{b}.x a=1 b=2-3"},
		{"/pets/v1/files/a/b/c", "/files/* *=a/b/c"},
		{"/pets/v1/files/a", "/files/* *=a"},
		{"/pets/v1/a/x/c", "/a/{b}/c b=x"}, // back from the exact "x"
		{"/pets/v1/a/x/d", "/a/x/d"},
		{"/pets/v1", "/"},
		{"/pets/v1/", "/"},
		{"/pets/v1/caf%c3%a9", "/caf%C3%A9"},
		{"/pets/v1/café", "/caf%C3%A9"},
		{"/pets/v1/deep/x", "/x"},
		{"/pets", "/* *=pets"},
		{"/pets/v10", "/* *=pets/v10"}, // whole segments only
		{"/", "/* *="},
	} {
		m, err := tab.Match("h", "GET", tc.path, false)
		if err != nil {
			t.Errorf("%s: %v", tc.path, err)
			continue
		}
		got := m.Op.Template
		m.Params(func(n, v string) bool { got += " " + n + "=" + v; return true })
		if got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.path, got, tc.want)
		}
		if m.Op != &m.API.Operations[m.OpIndex] || m.API.BasePath != m.Base {
			t.Errorf("%s: indexes or base %q do not belong to the API %q", tc.path, m.Base, m.API.BasePath)
		}
		if m.Rest != "" && m.Rest[0] != '/' || !strings.HasSuffix(tc.path, m.Rest) {
			t.Errorf("%s: rest %q", tc.path, m.Rest)
		}
	}
}

func TestRestIsWhatTheBackendGets(t *testing.T) {
	tab := table(t, petstore())
	m, err := tab.Match("h", "GET", "/pets;m=1/v1/pet/a%2Fb;v=2/", false)
	if err != nil {
		t.Fatal(err)
	}
	if m.Rest != "/pet/a%2Fb;v=2/" || m.Base != "/pets/v1" || m.RawParam("id") != "a%2Fb" || m.Param("no") != "" {
		t.Errorf("rest %q, base %q, id %q", m.Rest, m.Base, m.RawParam("id"))
	}
}

// TestMatrixParameters shows templates that ask for a segment of nothing but a matrix part.
func TestMatrixParameters(t *testing.T) {
	tab := table(t, api("m", "/m", "GET /at/{;where}", "GET /at/{;where}/day/{day}", "GET /at/{name}", "GET /at/x", "GET /no/{name}"))
	for path, want := range map[string]string{
		"/m/at/;where=1":              "/at/{;where} where=;where=1",
		"/m/at/;lat=1;lon=2/":         "/at/{;where} where=;lat=1;lon=2",
		"/m/at/;where=a%2Fb/day/7;v=": "/at/{;where}/day/{day} where=;where=a%2Fb day=7",
		"/m/at/;":                     "/at/{;where} where=;",
		"/m/at/a;where=1":             "/at/{name} name=a",
		"/m/at/x;where=1":             "/at/x",
		"/m/at//":                     "",
		"/m/at//day/7":                "",
		"/m/no/;name=1":               "",
	} {
		m, err := tab.Match("h", "GET", path, false)
		got := ""
		if err == nil {
			got = m.Op.Template
			m.Params(func(n, _ string) bool { got += " " + n + "=" + m.RawParam(n); return true })
		}
		if got != want {
			t.Errorf("%s: got %q, %v, want %q", path, got, err, want)
		}
	}
	set := &policy.Set{APIs: []policy.API{api("m", "/m", "GET /{;}", "GET /a{;b}", "GET /{;b", "GET /{;a;b}", "GET /{a;b}", "GET /x/{;a}", "GET /x/{;b}")}}
	_, err := route.New(set)
	if err == nil {
		t.Fatal("templates that are none compiled")
	}
	for _, o := range []string{"GET /{;}", "GET /a{;b}", "GET /{;b:", "GET /{;a;b}", "GET /{a;b}", "same calls as GET /x/{;a}"} {
		if !strings.Contains(err.Error(), o) {
			t.Errorf("not told: %s in %v", o, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	only := api("secure", "/s", "GET /x")
	only.Transports = policy.HTTPS
	tab := table(t, petstore(), only)
	for _, tc := range []struct {
		method, path string
		tls          bool
		want         *fault.Fault
		allow        string
	}{
		{"GET", "/nope", false, fault.NotFound, ""},
		{"GET", "", false, fault.NotFound, ""},
		{"OPTIONS", "*", false, fault.NotFound, ""},
		{"GET", "pets/v1", false, fault.NotFound, ""},
		{"GET", "/pets/v1/pet/7/8", false, fault.NotFound, ""},
		{"GET", "/pets/v1//pet/7", false, fault.NotFound, ""},
		{"GET", "//pets/v1/pet/7", false, fault.NotFound, ""},
		{"GET", "/pets/v1/pet//", false, fault.NotFound, ""},
		{"GET", "/pets/v1/files/a//b", false, fault.NotFound, ""},
		{"GET", "/pets/v1/files/", false, fault.NotFound, ""}, // one or more
		{"GET", "/pets/v1/;x/7", false, fault.NotFound, ""},
		{"GET", "/pets/v1/.json", false, fault.NotFound, ""}, // a parameter has a byte
		{"GET", "/pets/v1/pet/..;x", false, fault.BadRequest, ""},
		{"GET", "/pets/v1/pet/%2e%2E;x", false, fault.BadRequest, ""},
		{"GET", "/pets/v1/files/a/.;x/b", false, fault.BadRequest, ""},
		{"DELETE", "/pets/v1/pet/7", false, fault.MethodNot, "GET, PUT"},
		{"PUT", "/pets/v1/pet/mine", false, fault.MethodNot, "GET"}, // the path decides first
		{"get", "/pets/v1/pet/7", false, fault.MethodNot, "GET, PUT"},
		{"GET", "/s/x", false, fault.NotFound, ""},
		{"GET", "/" + strings.Repeat("a", 1<<16), false, fault.LongTarget, ""},
	} {
		_, err := tab.Match("h", tc.method, tc.path, tc.tls)
		var f *fault.Error
		if !errors.As(err, &f) || f.Fault != tc.want || f.Allow != tc.allow {
			t.Errorf("%s %.40s: got %v, allow %q; want %d %q", tc.method, tc.path, err, func() string {
				if f == nil {
					return ""
				}
				return f.Allow
			}(), tc.want.Status, tc.allow)
		}
	}
	if _, err := tab.Match("h", "GET", "/s/x", true); err != nil {
		t.Errorf("https: %v", err)
	}
}

func TestDefaultVersionAndHosts(t *testing.T) {
	a := api("m", "/m/1.2", "GET /r")
	a.Default, a.DefaultPath = true, "/m"
	b := api("m", "/m/1.3", "GET /r")
	b.Version = "1.3"
	c := api("site", "/m", "GET /r")
	c.Hosts = []string{"plant.example"}
	tab := table(t, a, b, c)
	for _, tc := range []struct{ host, path, base, api string }{
		{"h", "/m/r", "/m", "m:1.0"},
		{"h", "/m/1.2/r", "/m/1.2", "m:1.0"},
		{"h", "/m/1.3/r", "/m/1.3", "m:1.3"},
		{"plant.example", "/m/r", "/m", "site:1.0"},
		{"plant.example", "/m/1.3/r", "/m/1.3", "m:1.3"},
	} {
		m, err := tab.Match(tc.host, "GET", tc.path, false)
		if err != nil || m.Base != tc.base || m.API.Name+":"+m.API.Version != tc.api {
			t.Errorf("%s%s: got %q of %v, %v; want %q of %s", tc.host, tc.path, m.Base, m.API, err, tc.base, tc.api)
		}
	}
}

func TestMethodsForPreflight(t *testing.T) {
	tab := table(t, petstore())
	i, methods, err := tab.Methods("h", "/pets/v1/pet/7", false)
	if err != nil || i != 0 || !slices.Equal(methods, []string{"GET", "PUT"}) {
		t.Errorf("got %d %v %v", i, methods, err)
	}
	if _, _, err := tab.Methods("h", "/x", false); err == nil {
		t.Error("no error for an unknown path")
	}
}

func TestNewNamesBothSidesOfAConflict(t *testing.T) {
	twoDefaults := func() []policy.API {
		a, b := api("a", "/c/1", "GET /"), api("b", "/c/2", "GET /")
		a.Default, a.DefaultPath, b.Default, b.DefaultPath = true, "/c", true, "/c"
		return []policy.API{a, b}
	}
	hosts := func() []policy.API {
		a, b := api("a", "/c", "GET /"), api("b", "/c/", "GET /")
		a.Hosts, b.Hosts = []string{"x", "y"}, []string{"y", "z"}
		return []policy.API{a, b}
	}
	for _, tc := range []struct {
		name string
		apis []policy.API
		want []string
	}{
		{"parameter names", []policy.API{api("a", "/a", "GET /x/{id}", "GET /x/{name}")}, []string{"GET /x/{name}", "GET /x/{id}", `"a:1.0"`}},
		{"same template", []policy.API{api("a", "/a", "GET /x", "GET /x/")}, []string{"answers the same calls as GET /x"}},
		{"escaped the same", []policy.API{api("a", "/a", "GET /%61", "GET /a")}, []string{"answers the same calls"}},
		{"base path", []policy.API{api("a", "/a", "GET /"), api("b", "/a", "GET /")}, []string{`"a:1.0"`, `"b:1.0"`, `"/a"`}},
		{"defaults", twoDefaults(), []string{`"a:1.0"`, `"b:1.0"`, `"/c"`}},
		{"hosts", hosts(), []string{`"a:1.0"`, `"b:1.0"`, `host "y"`}},
		{
			"all at once",
			[]policy.API{api("a", "/a", "GET /{", "GET /{x}{y}", "GET /a/*/b", "GET /{a}/{a}", "GET /a//b", "GET /x;y", "GET /..", "GET x", "GET /%zz", "GET /}", "GET /{*}")},
			[]string{"GET /{:", "{x}{y}", "/a/*/b", `"a" appears twice`, "a segment is empty", "matrix", "dot segments", "slash", "bad percent escape", "GET /}", "GET /{*}"},
		},
		{"base with parameter", []policy.API{api("a", "/{x}", "GET /")}, []string{"no parameters"}},
		{"base without slash", []policy.API{api("a", "x", "GET /")}, []string{"slash"}},
		{"too many", []policy.API{api("a", "/a", "GET "+strings.Repeat("/{a}x", 1)+func() (s string) {
			for i := range 13 {
				s += fmt.Sprintf("/{p%d}", i)
			}
			return
		}())}, []string{"at most 12"}},
	} {
		_, err := route.New(&policy.Set{APIs: tc.apis})
		if err == nil {
			t.Errorf("%s: no error", tc.name)
			continue
		}
		for _, w := range tc.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q is not in:\n%v", tc.name, w, err)
			}
		}
	}
}

func TestOneTemplateWithTwoParameterNamesForTwoMethods(t *testing.T) {
	tab := table(t, api("a", "/a", "GET /x/{id}", "PUT /x/{name}"))
	for method, name := range map[string]string{"GET": "id", "PUT": "name"} {
		if m, err := tab.Match("h", method, "/a/x/7", false); err != nil || m.Param(name) != "7" {
			t.Errorf("%s: %q %v", method, m.Param(name), err)
		}
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	tab := large(t)
	for _, path := range []string{"/area7/api107/v1/things/42/parts/9", "/area7/api107/v1/things/4%2F2/p%61rts/9", "/area7/api107/v1/docs3/a/b.json"} {
		if n := testing.AllocsPerRun(100, func() {
			m, err := tab.Match("gateway.test", "GET", path, false)
			if err != nil || m.Op == nil {
				t.Fatal(path, err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", path, n)
		}
	}
}

// large is a table of 200 APIs with 5,000 operations.
func large(t testing.TB) *route.Table {
	var apis []policy.API
	for i := range 200 {
		a := api(fmt.Sprint("api", i), fmt.Sprintf("/area%d/api%d/v1", i%10, i))
		for k := range 5 {
			for _, tpl := range []string{"/things%s", "/things%s/{id}", "/things%s/{id}/parts/{part}", "/docs%s/{name}/{file}.json", "/files%s/*"} {
				n := ""
				if k > 0 {
					n = fmt.Sprint(k)
				}
				a.Operations = append(a.Operations, policy.Operation{Method: "GET", Template: fmt.Sprintf(tpl, n)})
			}
		}
		apis = append(apis, a)
	}
	return table(t, apis...)
}

func BenchmarkMatch5000Operations(b *testing.B) {
	tab := large(b)
	for _, bc := range []struct{ name, path string }{
		{"exact", "/area7/api107/v1/things"},
		{"parameters", "/area7/api107/v1/things/42/parts/9"},
		{"escaped", "/area7/api107/v1/things/4%2F2/p%61rts/9"},
		{"in segment", "/area7/api107/v1/docs3/a/b.json"},
		{"asterisk", "/area7/api107/v1/files4/a/b/c/d"},
	} {
		b.Run(bc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tab.Match("gateway.test", "GET", bc.path, false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNew5000Operations(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		large(b)
	}
}
