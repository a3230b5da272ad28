package wso2

import (
	"strings"
	"testing"
	"tidegate/policy/source"

	"github.com/google/go-cmp/cmp"
)

// node reads YAML into a tree.
func node(t testing.TB, s string) *source.Node {
	t.Helper()
	var r source.Report
	n := source.Parse("x.yaml", []byte(s), &r)
	if n == nil || r.Failed() {
		t.Fatal(r.Findings())
	}
	return n
}

func TestEntriesArePutWhereAPersonWouldPutThem(t *testing.T) {
	put := func(kind, id, value string) func(*yamlFile) error {
		return func(f *yamlFile) error {
			return f.put(&Entry{Kind: kind, ID: id, Value: node(t, value)})
		}
	}
	take := func(kind, id string) func(*yamlFile) error {
		return func(f *yamlFile) error { f.take(kind, id); return nil }
	}
	for name, tc := range map[string]struct {
		before string
		do     func(*yamlFile) error
		after  string
	}{
		"an empty file": {"", put(KindApplication, "P", "{count: 1, timeUnit: min}"), "applicationPolicies:\n  - P: {count: 1, timeUnit: min}\n"},
		"comments only": {"# ours\n", put(KindLabel, "l", "l"), "# ours\nlabels: [l]\n"},
		"replaced in its place": {
			"# head\napplicationPolicies:\n  # first\n  - A: {count: 1, timeUnit: min} # a\n  - B: {count: 2, timeUnit: min} # b\nsubscriptionPolicies: []\n",
			put(KindApplication, "A", "{count: 9, timeUnit: min}"),
			"# head\napplicationPolicies:\n  # first\n  - A: {count: 9, timeUnit: min}\n  - B: {count: 2, timeUnit: min} # b\nsubscriptionPolicies: []\n",
		},
		"in a mapping of names": {
			"applicationPolicies:\n  A: {count: 1, timeUnit: min}\n", put(KindApplication, "B", "{count: 2, timeUnit: min}"),
			"applicationPolicies:\n  A: {count: 1, timeUnit: min}\n  B: {count: 2, timeUnit: min}\n",
		},
		"in a list on one line": {
			"applicationPolicies: [A: {count: 1, timeUnit: min}]\n", put(KindApplication, "B", "{count: 2, timeUnit: min}"),
			"applicationPolicies: [{A: {count: 1, timeUnit: min}}, {B: {count: 2, timeUnit: min}}]\n",
		},
		"a keyed one": {
			"blocked:\n  - {type: IP, value: 10.0.0.1}\n", put(KindBlock, "IP 10.0.0.1", "{type: IP, value: 10.0.0.1, invert: true}"),
			"blocked:\n  - {type: IP, value: 10.0.0.1, invert: true}\n",
		},
		"deep down":      {"mtls: {authorities: []}\n", put(KindClientCert, "p", "{alias: p, certificate: p.pem}"), "mtls: {authorities: [], certificates: [{alias: p, certificate: p.pem}]}\n"},
		"a member":       {"product: x\n", put(KindSetting, "fault_format", "wso2"), "product: x\nfault_format: wso2\n"},
		"null is a list": {"blocked:\n", put(KindBlock, "USER u", "{type: USER, value: u}"), "blocked:\n  - {type: USER, value: u}\n"},
		"taken":          {"labels: [a, b]\n", take(KindLabel, "a"), "labels: [b]\n"},
		"the last one":   {"x: 1\nlabels: [a]\n", take(KindLabel, "a"), "x: 1\n"},
		"not there":      {"labels: [a]\n", take(KindLabel, "z"), "labels: [a]\n"},
		"one of two in an element": {
			"applicationPolicies:\n  - A: {count: 1, timeUnit: min}\n    B: {count: 2, timeUnit: min}\n", take(KindApplication, "A"),
			"applicationPolicies:\n  - B: {count: 2, timeUnit: min}\n",
		},
	} {
		f, err := openYAML("x.yaml", []byte(tc.before))
		if err == nil {
			err = tc.do(f)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := f.bytes()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(tc.after, string(got)); d != "" {
			t.Errorf("%s: - want, + got:\n%s", name, d)
		}
	}
	for _, bad := range []string{"[1, 2]", "text", "applicationPolicies: text", "a: ["} {
		f, err := openYAML("x.yaml", []byte(bad))
		if err == nil {
			err = f.put(&Entry{Kind: KindApplication, ID: "P", Value: node(t, "{count: 1}")})
		}
		if err == nil {
			t.Errorf("%q: taken", bad)
		}
	}
}

// awkward are texts that a careless writer turns into something else.
var awkward = []string{
	"", " ", "true", "True", "null", "~", "no", "on", "y", "012", "0x1F", "1_000", "1e3", ".5", "1.20", "-0", "+1", "2024-01-01", "12:30:45", "=", "<<",
	"- a", "a: b", "a #b", "#a", "&a", "*a", "!a", "%a", "@a", "`a`", "{a}", "[a]", "a,b", "a\nb", "a\nb\n", "\na", " a\nb", "a \nb", "a\n\n", "tab\there", "\r\n", "ü", "\u2028", "😀", "\x7f",
	"'single'", `"double"`, "back\\slash", "trailing ", "trailing:", "/a/{b}", "http://x:80/y", "$userId:$apiContext", "^night$", "\x00", "\ufeffbom", "...", "---",
}

func TestBothEncodersKeepEveryText(t *testing.T) {
	for _, kind := range []source.Kind{source.Text, source.Number, source.Bool} {
		values := awkward
		switch kind {
		case source.Number:
			values = []string{"0", "-1", "1.20", "1e400", "12345678901234567890", "0.1"}
		case source.Bool:
			values = []string{"true", "false"}
		}
		for _, s := range values {
			n := mapping()
			set(n, "v", &source.Node{Kind: kind, Text: s})
			set(n, "l", list(&source.Node{Kind: kind, Text: s}))
			if kind == source.Text && s != "" {
				set(n, s, text("as a key"))
			}
			for flow := range 2 {
				b, err := dumpYAML(yamlNode(n, flow*10))
				if err != nil {
					t.Errorf("%q: %v", s, err)
					continue
				}
				same(t, n, "x.yaml", b)
			}
			same(t, n, "x.json", encodeJSON(n))
		}
	}
}

// same parses b and compares it with n.
func same(t testing.TB, n *source.Node, name string, b []byte) {
	t.Helper()
	var r source.Report
	got := source.Parse(name, b, &r)
	if got == nil || r.Failed() {
		t.Errorf("%s: %v\n%q", name, r.Findings(), b)
		return
	}
	if d := cmp.Diff(outline(n), outline(got)); d != "" {
		t.Errorf("%s: - want, + got:\n%s\n%q", name, d, b)
	}
}

// outline is a tree with its kinds, without places.
func outline(n *source.Node) any {
	if n.Absent() {
		return nil
	}
	switch n.Kind {
	case source.Map:
		out := []any{"map"}
		for _, k := range n.Keys {
			out = append(out, k.Name, outline(k.Value))
		}
		return out
	case source.List:
		out := []any{"list"}
		for _, e := range n.List {
			out = append(out, outline(e))
		}
		return out
	}
	return n.Kind.String() + " " + n.Text
}

func TestCanonicalFormIsThatOfRFC8785(t *testing.T) {
	var r source.Report
	in := source.Parse("x.json", []byte(`{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}`), &r)
	want := `{"\r":"Carriage Return","1":"One","` + "\u0080" + `":"Control","ö":"Latin Small Letter O With Diaeresis","€":"Euro Sign","😀":"Emoji: Grinning Face","` + "\ufb33" + `":"Hebrew Letter Dalet With Dagesh"}`
	if got := asJSON(in); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	in = source.Parse("x.json", []byte(`{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001,-0,1.0],"literals":[null,true,false],"drop":1,"deep":[{"drop":2,"b":1,"a":{}}]}`), &r)
	want = `{"deep":[{"a":{},"b":1}],"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27,0,1]}`
	if got := string(canonical(in, "drop")); strings.ReplaceAll(got, "-0", "0") != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func FuzzDocumentsRoundTrip(f *testing.F) {
	for _, s := range awkward {
		f.Add("k", s)
	}
	f.Add("a: b", "{\"x\": [1, 2.50, null, true]}")
	f.Fuzz(func(t *testing.T, key, value string) {
		n := mapping()
		var r source.Report
		if v := source.Parse("v.json", []byte(value), &r); v != nil && !r.Failed() {
			set(n, "json", v)
		}
		if !validText(key) || !validText(value) {
			return
		}
		set(n, "value", text(value))
		if key != "json" && key != "value" {
			set(n, key, text(key))
		}
		b, err := encodeYAML(n)
		if err != nil {
			t.Fatal(err)
		}
		same(t, n, "x.yaml", b)
		same(t, n, "x.json", encodeJSON(n))
	})
}

func validText(s string) bool { return strings.ToValidUTF8(s, "") == s }

func FuzzEntriesIntoFilesOfPeople(f *testing.F) {
	f.Add("applicationPolicies:\n  - A: {count: 1, timeUnit: min} # a\n", "A")
	f.Add("applicationPolicies: {A: {count: 1}}", "B")
	f.Add("x: &a [1]\napplicationPolicies: *a", "B")
	f.Add("# only\n", "x y")
	f.Fuzz(func(t *testing.T, file, id string) {
		if id == "" || !validText(id) {
			return
		}
		var before source.Report
		if source.Parse("x.yaml", []byte(file), &before); before.Failed() {
			return
		}
		y, err := openYAML("x.yaml", []byte(file))
		if err != nil {
			return
		}
		e := &Entry{Kind: KindApplication, ID: id, Value: node(t, "{count: 3, timeUnit: min}")}
		if y.put(e) != nil {
			return
		}
		b, err := y.bytes()
		if err != nil {
			return
		}
		var r source.Report
		root := source.Parse("x.yaml", b, &r)
		if r.Failed() {
			t.Fatalf("%v\n%q", r.Findings(), b)
		}
		if got := current(root, KindApplication, id); got == nil || asJSON(got) != `{"count":3,"timeUnit":"min"}` {
			t.Fatalf("got %s\n%q", asJSON(got), b)
		}
		y.take(KindApplication, id)
		if b, err = y.bytes(); err == nil {
			var r source.Report
			if root := source.Parse("x.yaml", b, &r); root != nil && current(root, KindApplication, id) != nil && !strings.Contains(file, id) {
				t.Fatalf("still there\n%q", b)
			}
		}
	})
}
