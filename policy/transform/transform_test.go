package transform

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"tidegate/policy"
	"tidegate/policy/fault"
	"tidegate/policy/policytest"
)

// params are path parameters by name, as sent.
type params map[string]string

func (p params) RawParam(name string) string { return p[name] }

func (p params) Param(name string) string {
	s, err := url.PathUnescape(p[name])
	if err != nil {
		return p[name]
	}
	return s
}

func rules(t testing.TB, list ...*policy.Transform) *Rules {
	t.Helper()
	r, err := New(list...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func view(target string, fields ...string) *View {
	c := policy.NewClaims(2)
	c.Add("sub", false, `"ann"`, "ann")
	c.Add("roles", true, `["a","b"]`, "a", "b")
	return &View{Call: policytest.New("GET", target, fields...), Params: params{"id": "a%2Fb", "*": "x/y"}, Claims: c, ID: "id-1"}
}

func set(name, value string) policy.Edit {
	return policy.Edit{Kind: policy.EditSet, Name: name, Value: value}
}

// edits returns what EditRequest tells, in one line.
func edits(r *Rules, v *View) string {
	var b strings.Builder
	r.EditRequest(v, func(kind policy.EditKind, name, value string) {
		fmt.Fprintf(&b, "%s%s=%s;", [...]string{policy.EditSet: "", policy.EditAdd: "+", policy.EditRemove: "-"}[kind], name, value)
	})
	return b.String()
}

func TestHeaderEdits(t *testing.T) {
	v := view("/x?q=1%0d%0aEvil:%20yes&empty=&plus=a+b", "X-In", "in", "X-In", "second")
	for _, tt := range []struct {
		name string
		list []policy.Edit
		want string
	}{
		{"literal", []policy.Edit{set("A", "b")}, "A=b;"},
		{"empty literal", []policy.Edit{set("A", "")}, "A=;"},
		{"removed first", []policy.Edit{set("A", "b"), {Kind: policy.EditRemove, Name: "A"}}, "-A=;A=b;"},
		{"every origin", []policy.Edit{set("A", "{path.id} {query.plus} {header.x-in} {claim.sub} {claim.roles} {request.id}")}, "A=a/b a b in ann a b id-1;"},
		{"line breaks become spaces", []policy.Edit{set("A", "{query.q}")}, "A=1  Evil: yes;"},
		{"nothing but an absent value", []policy.Edit{set("A", "{query.none}"), {Kind: policy.EditAdd, Name: "B", Value: "{claim.none}"}}, "-A=;"},
		{"text beside an absent value", []policy.Edit{set("A", "x{query.none}")}, "A=x;"},
		{"braces that are none", []policy.Edit{set("A", `{"a":{1}}`)}, `A={"a":{1}};`},
		{"a URL cannot change its host", []policy.Edit{set("Location", "https://h/{query.q}/{path.id}")}, "Location=https://h/1%0D%0AEvil%3A%20yes/a%2Fb;"},
	} {
		if got := edits(rules(t, &policy.Transform{RequestHeaders: tt.list}), v); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestOperationComesAfterAPI(t *testing.T) {
	api := &policy.Transform{RequestHeaders: []policy.Edit{set("A", "api")}, Path: "/api", DropFields: []string{"/a"}}
	op := &policy.Transform{RequestHeaders: []policy.Edit{set("A", "op")}, Path: "/op", DropFields: []string{"/b"}}
	r := rules(t, api, nil, op)
	if got := edits(r, view("/")); got != "A=api;A=op;" {
		t.Errorf("headers: got %q", got)
	}
	if p, err := r.Path("/x", view("/")); p != "/op" || err != nil {
		t.Errorf("path: got %q, %v", p, err)
	}
	v := view("/")
	v.Body = []byte(`{"a":1,"b":2,"c":3}`)
	if b, err := r.ResponseBody(v, 100); string(b) != `{"c":3}` || err != nil {
		t.Errorf("body: got %s, %v", b, err)
	}
	if r, err := New(nil, nil); r != nil || err != nil {
		t.Errorf("no transforms: got %v, %v", r, err)
	}
}

func TestPaths(t *testing.T) {
	for _, tt := range []struct{ path, target, want string }{
		{"/v2/{path.id}/x", "/", "/v2/a%2Fb/x"},
		{"/v2/{path.*}", "/", "/v2/x/y"},
		{"/v2/{query.q}", "/?q=a/b%3Fc%23d", "/v2/a%2Fb%3Fc%23d"},
		{"/v2/{query.q}", "/?q=..", ""},
		{"/v2/{query.q}", "/?q=%2e%2e", ""},
		{"/v2/{query.q}", "/?q=%252e%252e", ""},
		{"/v2/{query.q}", "/?q=%25252e.", ""},
		{"/v2/{query.q}/x", "/?q=..%2f..", ""},
		{"/v2/{query.q}", "/?q=.%3Bx", ""},
		{"/v2/.{query.q}", "/?q=.", ""},
		{"/v2/{query.q}", "/?q=%00", ""},
		{"/v2/{query.q}", "/?q=a%5Cb", ""},
		{"/v2/{query.none}/x", "/", ""},
		{"/v2/{claim.sub}.json", "/", "/v2/ann.json"},
	} {
		got, err := rules(t, &policy.Transform{Path: tt.path}).Path("/old", view(tt.target))
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s of %s: got %q, %v, want %q", tt.path, tt.target, got, err, tt.want)
		}
		var e *fault.Error
		if err != nil && (!errors.As(err, &e) || e.Fault.Status != 400) {
			t.Errorf("%s of %s: got %v", tt.path, tt.target, err)
		}
	}
	if p, _ := rules(t, &policy.Transform{Method: "POST"}).Path("/old", view("/")); p != "/old" {
		t.Errorf("no rewriting: got %q", p)
	}
}

func TestQueries(t *testing.T) {
	r := rules(t, &policy.Transform{Query: []policy.Edit{
		{Kind: policy.EditRemove, Name: "secret key"}, set("user", "{claim.sub}&x=1"), {Kind: policy.EditAdd, Name: "q", Value: "{query.q}"}, set("gone", "{query.none}"),
	}})
	for query, want := range map[string]string{
		"":                                "user=ann%26x%3D1",
		"a=%20&secret+key=1&b":            "a=%20&b&user=ann%26x%3D1",
		"secret%20key=1&secret%20key":     "user=ann%26x%3D1",
		"user=evil&us%65r=evil&q=a%26b=c": "q=a%26b=c&user=ann%26x%3D1&q=a%26b%3Dc",
		"gone=1":                          "user=ann%26x%3D1",
	} {
		if got := r.Query(query, view("/?"+query)); got != want {
			t.Errorf("%q: got %q, want %q", query, got, want)
		}
	}
}

func TestHostsMethodsStatuses(t *testing.T) {
	r := rules(t, &policy.Transform{Method: "POST", Host: "{query.h}.internal:80", Statuses: []policy.Status{{From: 404, To: 204}}})
	if h, err := r.Host(view("/?h=a")); h != "a.internal:80" || err != nil {
		t.Errorf("got %q, %v", h, err)
	}
	for _, bad := range []string{"a/b", "a%20b", "a%0d%0aX:1", "a@b", "a%3fb"} {
		if h, err := r.Host(view("/?h=" + bad)); err == nil {
			t.Errorf("%s: got %q", bad, h)
		}
	}
	if r.Method("GET") != "POST" || r.Status(404) != 204 || r.Status(200) != 200 {
		t.Error("method or status")
	}
}

func TestBodies(t *testing.T) {
	for _, tt := range []struct{ template, body, want string }{
		{`{"id": {path.id}, "who": "u:{claim.sub}", "no": {claim.none}}`, ``, `{"id": "a/b", "who": "u:ann", "no": null}`},
		{
			`{"all": {body./a}, "n": "{body./n} of {body./s}", "none": {body./x}, "t": "{body./x}"}`, `{"a":[1, {"b":2}],"n":1.5,"s":"\"q\""}`,
			`{"all": [1, {"b":2}], "n": "1.5 of \"q\"", "none": null, "t": ""}`,
		},
		{`"{body./a}"`, `{"a":{"x":"y"}}`, `"{\"x\":\"y\"}"`},
		{`{body./a}`, `{"a":true}`, `true`},
		{`{"q": "{query.q}"}`, ``, `{"q": "\"},{\"admin\":true,\"x\":\""}`},
	} {
		v := view(`/?q=` + url.QueryEscape(`"},{"admin":true,"x":"`))
		if tt.body != "" {
			v.Body = []byte(tt.body)
		}
		got, err := rules(t, &policy.Transform{RequestBody: tt.template}).RequestBody(v, 1000)
		if string(got) != tt.want || err != nil || !json.Valid(got) {
			t.Errorf("%s of %s: got %s, %v, want %s", tt.template, tt.body, got, err, tt.want)
		}
	}
	r := rules(t, &policy.Transform{RequestBody: `[{body./a},{body./a},{body./a}]`})
	v := view("/")
	v.Body = []byte(`{"a":"` + strings.Repeat("x", 500) + `"}`)
	if _, err := r.RequestBody(v, 1000); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	if !r.ReadsRequest() || !r.WritesRequest() || r.WritesResponse() {
		t.Error("what is read and written")
	}
	if plain := rules(t, &policy.Transform{RequestBody: `{}`}); plain.ReadsRequest() || !plain.WritesRequest() {
		t.Error("a fixed body needs none of the caller's")
	}
}

func TestAnswers(t *testing.T) {
	r := rules(t, &policy.Transform{Fixed: &policy.Fixed{Status: 201, Body: []byte(`{"id":{path.id},"q":"{query.q}"}`), Headers: []policy.Edit{
		set("Content-Type", "application/json"), set("X-Who", "{claim.sub}"), set("X-None", "{claim.none}"),
	}}})
	var h []string
	status, body := r.Answer(view(`/?q=%22`), func(n, v string) { h = append(h, n+"="+v) })
	if got, want := fmt.Sprintf("%d %s %v", status, body, h), `201 {"id":"a/b","q":"\""} [Content-Type=application/json X-Who=ann]`; got != want || !r.Fixed() {
		t.Errorf("got %s, want %s", got, want)
	}
	redirect := rules(t, &policy.Transform{Fixed: &policy.Fixed{Status: 308, Headers: []policy.Edit{set("Location", "{query.to}")}}})
	redirect.Answer(view("/?to=https://evil.example/"), func(n, v string) {
		if v != "https%3A%2F%2Fevil.example%2F" {
			t.Errorf("location: got %q", v)
		}
	})
}

func TestSpeaks(t *testing.T) {
	for _, tt := range []struct {
		t    policy.Transform
		want bool
	}{
		{policy.Transform{Path: "/{path.id}"}, false},
		{policy.Transform{Path: "/{claim.sub}"}, true},
		{policy.Transform{RequestHeaders: []policy.Edit{set("A", "{claim.sub}")}}, true},
		{policy.Transform{ResponseHeaders: []policy.Edit{set("A", "{claim.sub}")}}, false},
		{policy.Transform{Query: []policy.Edit{set("a", "{claim.sub}")}}, true},
	} {
		if got := rules(t, &tt.t).Speaks(); got != tt.want {
			t.Errorf("%+v: got %v", tt.t, got)
		}
	}
}

func TestMistakes(t *testing.T) {
	for name, tt := range map[string]struct {
		t    policy.Transform
		want string
	}{
		"unknown origin":         {policy.Transform{RequestHeaders: []policy.Edit{set("A", "{cookie.x}")}}, "unknown placeholder {cookie.x}"},
		"no origin":              {policy.Transform{RequestHeaders: []policy.Edit{set("A", "{id}")}}, "unknown placeholder {id}"},
		"no name":                {policy.Transform{RequestHeaders: []policy.Edit{set("A", "{path.}")}}, "a name is missing"},
		"no end":                 {policy.Transform{RequestHeaders: []policy.Edit{set("A", "{path.x")}}, "without an end"},
		"not of the request":     {policy.Transform{RequestHeaders: []policy.Edit{set("A", "{request.body}")}}, "only request.id"},
		"a header with a space":  {policy.Transform{RequestHeaders: []policy.Edit{set("A", "{header.a b}")}}, "not a name of a header"},
		"a body in a header":     {policy.Transform{RequestHeaders: []policy.Edit{set("A", "{body./x}")}}, "a body can only be used in a body"},
		"a line break":           {policy.Transform{ResponseHeaders: []policy.Edit{set("A", "a\r\nB: c")}}, "a control character"},
		"a relative path":        {policy.Transform{Path: "a"}, "is not a path"},
		"a path with a query":    {policy.Transform{Path: "/a?b"}, "is not a path"},
		"a path with dots":       {policy.Transform{Path: "/a/../b"}, "is not a path"},
		"a path with a bad hex":  {policy.Transform{Path: "/%zz"}, "is not a path"},
		"a host with a path":     {policy.Transform{Host: "a/b"}, "is not a host"},
		"HEAD":                   {policy.Transform{Method: "HEAD"}, "a call cannot become HEAD"},
		"status":                 {policy.Transform{Statuses: []policy.Status{{From: 200, To: 304}}}, "status: 304 instead of 200"},
		"pointer":                {policy.Transform{DropFields: []string{"a"}}, "not a JSON pointer"},
		"no JSON":                {policy.Transform{RequestBody: `{"a":}`}, "not JSON"},
		"two values":             {policy.Transform{RequestBody: `{"a":{body./x}{body./y}}`}, "not JSON"},
		"a name twice":           {policy.Transform{ResponseBody: `{"a":1,"a":2}`}, "stands twice"},
		"a body of no body":      {policy.Transform{Fixed: &policy.Fixed{Status: 200, Body: []byte(`{"a":{body./a}}`), Headers: []policy.Edit{set("Content-Type", "application/json")}}}, "there is no body"},
		"placeholders in HTML":   {policy.Transform{Fixed: &policy.Fixed{Status: 200, Body: []byte(`<p>{query.q}`), Headers: []policy.Edit{set("Content-Type", "text/html")}}}, "only a body of type application/json"},
		"a body of 204":          {policy.Transform{Fixed: &policy.Fixed{Status: 204, Body: []byte(`x`)}}, "has no body"},
		"a large answer":         {policy.Transform{Fixed: &policy.Fixed{Status: 200, Body: make([]byte, MaxTemplate+1)}}, "more than 64 KiB"},
		"a parameter of no path": {policy.Transform{Path: "/{path.nope}"}, "the path /a/{id} has no such parameter"},
		"a star without one":     {policy.Transform{RequestHeaders: []policy.Edit{set("A", "{path.*}")}}, "has no such parameter"},
	} {
		err := CheckFor(&tt.t, "/a/{id}")
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	two := policy.Transform{Path: "a", Host: "b/c"}
	if err := Check(&two); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("two mistakes: got %v", err)
	}
	if err := CheckFor(&policy.Transform{Path: "/{path.*}/{path.id}"}, "/a/{id}/*"); err != nil {
		t.Error(err)
	}
}

func FuzzPlaceholders(f *testing.F) {
	f.Add("a=1&q=%0d%0aX", "a", "b")
	f.Add("q=..%2f", "%2e%2e", "\r\nX: 1")
	f.Add(`q="},{"x":"`, "a;b", "\xff\x00")
	r, err := New(&policy.Transform{
		RequestHeaders: []policy.Edit{set("A", "{query.q}{header.h}{path.id}"), set("Location", "https://h/{query.q}{path.id}")},
		Query:          []policy.Edit{set("a", "{query.q}"), {Kind: policy.EditAdd, Name: "b c", Value: "{header.h}"}},
		Path:           "/x/{query.q}/{header.h}", Host: "{query.q}",
		RequestBody: `{"q":"{query.q}","h":{header.h},"b":{body./a},"t":"{body./a}"}`,
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, query, path, header string) {
		v := &View{Call: policytest.New("GET", "/", "H", header), Params: params{"id": path}, Body: []byte(`{"a":"\u0041"}`)}
		v.Call.(*policytest.Call).RawQuery = query
		// The engine has checked path and query: neither has such bytes.
		if strings.ContainsFunc(path+query, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return
		}
		r.EditRequest(v, func(_ policy.EditKind, name, value string) {
			if strings.ContainsAny(value, "\r\n\x00") {
				t.Errorf("%s: %q", name, value)
			}
			if name == "Location" && value != "" && !strings.HasPrefix(value, "https://h/") {
				t.Errorf("location: %q", value)
			}
		})
		if p, err := r.Path("", v); err == nil {
			if d, err := url.PathUnescape(p); err != nil || strings.Contains(d, "/../") || strings.HasSuffix(d, "/..") || strings.ContainsAny(p, "?# \r\n") {
				t.Errorf("path: %q", p)
			}
		}
		if h, err := r.Host(v); err == nil && !all(h, isHostByte) {
			t.Errorf("host: %q", h)
		}
		if q := r.Query(query, v); strings.ContainsAny(q, "\r\n \x00") {
			t.Errorf("query: %q", q)
		}
		b, err := r.RequestBody(v, 1<<20)
		if err != nil || !json.Valid(b) {
			t.Fatalf("body: %s, %v", b, err)
		}
		var got map[string]any
		if err := json.Unmarshal(b, &got); err != nil || len(got) != 4 || got["t"] != "A" {
			t.Errorf("body: %s, %v", b, err)
		}
	})
}

func BenchmarkTransform(b *testing.B) {
	r := rules(b, &policy.Transform{
		RequestHeaders: []policy.Edit{set("X-User", "{claim.sub}"), {Kind: policy.EditRemove, Name: "Cookie"}},
		Query:          []policy.Edit{set("user", "{claim.sub}")}, Path: "/v2/{path.id}",
		DropFields: []string{"/secret", "/items/*/key"},
	})
	v := view("/x?a=1&b=2")
	body := []byte(`{"id":1,"secret":"s","items":[{"key":1,"v":2},{"key":2,"v":3}]}`)
	for name, f := range map[string]func(){
		"headers": func() { r.EditRequest(v, func(policy.EditKind, string, string) {}) },
		"path":    func() { _, _ = r.Path("", v) },
		"query":   func() { r.Query("a=1&b=2", v) },
		"drop": func() {
			w := *v
			w.Body = body
			_, _ = r.ResponseBody(&w, 1<<20)
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}
