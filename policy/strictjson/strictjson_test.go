package strictjson

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

const values = 1 << 16

func TestParseAgreesWithEncodingJSON(t *testing.T) {
	for _, s := range []string{
		`{}`, `[]`, ` [1, 2.5, -0, 1e3, 1E-9] `, `"a\u00e9\ud83d\ude00\n\/"`, `null`, `true`, `false`,
		`{"a":{"b":[{"c":""}]},"":0}`, "\"é\"", `[[[[]]]]`, `{"a" : 1 , "b" : [ ] }`, `-12.5e+10`,
	} {
		got, err := Parse([]byte(s), values)
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		d := json.NewDecoder(strings.NewReader(s))
		d.UseNumber()
		var want any
		if err := d.Decode(&want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %#v, want %#v", s, got, want)
		}
		if err := Check([]byte(s), values); err != nil {
			t.Errorf("%s: check: %v", s, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	big := "{"
	for i := range 50 {
		big += `"k` + strings.Repeat("x", i) + `":1,`
	}
	for s, want := range map[string]string{
		``:                                 "the document ends where a value should be at byte 0",
		`{`:                                "a name is missing at byte 1",
		`[1`:                               "the document ends inside a list or an object at byte 2",
		`[1 2]`:                            "a comma is missing at byte 3",
		`[1,]`:                             "not a value at byte 3",
		`{"a":1,}`:                         "a name is missing at byte 7",
		`{"a" 1}`:                          "a colon is missing at byte 5",
		`{"a":1,"\u0061":2}`:               "a name that stands twice in its object at byte 7",
		big + `"kx":2}`:                    "a name that stands twice in its object",
		`1 2`:                              "something follows the value at byte 2",
		`01`:                               "a number that begins with 0 at byte 2",
		`-`:                                "a number without digits at byte 1",
		`1.`:                               "a number without digits behind its point at byte 2",
		`1e`:                               "an exponent without digits at byte 2",
		`1e9999`:                           "an exponent of more than 3 digits at byte 6",
		strings.Repeat("1", 65):            "a number of more than 64 bytes at byte 65",
		strings.Repeat("[", 65):            "more than 64 levels at byte 64",
		`"` + "\x01" + `"`:                 "a control character in a text at byte 1",
		`"\x"`:                             "an unknown escape at byte 1",
		`"\ud800"`:                         "half a pair of surrogates at byte 1",
		`"\udc00\ud800"`:                   "half a pair of surrogates at byte 1",
		`"\u12g4"`:                         `a bad \u escape at byte 1`,
		"\"\xff\"":                         "a text that is not UTF-8 at byte 2",
		"\"\\n\xff\"":                      "a text that is not UTF-8 at byte 4",
		`"abc`:                             "a text without an end at byte 4",
		`"abc\`:                            "a text without an end at byte 5",
		`nul`:                              "not a value at byte 0",
		`NaN`:                              "not a value at byte 0",
		"\ufeff{}":                         "not a value at byte 0",
		`[` + strings.Repeat("1,", values): "more values than are looked into",
	} {
		_, err := Parse([]byte(s), values)
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.40q: got %v, want %q", s, err, want)
		}
		if err2 := Check([]byte(s), values); err2 == nil || err2.Error() != err.Error() {
			t.Errorf("%.40q: check says %v, parse %v", s, err2, err)
		}
	}
}

func pointers(t *testing.T, list ...string) []Pointer {
	t.Helper()
	var out []Pointer
	for _, s := range list {
		p, err := ParsePointer(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func TestFind(t *testing.T) {
	const doc = ` {"a": [1, {"b/c": "x\"]" , "~": null}], "a\u0062": {"d":-1.5e3}, "e":[]} `
	for p, want := range map[string]string{
		"/a":         `[1, {"b/c": "x\"]" , "~": null}]`,
		"/a/0":       "1",
		"/a/1/b~1c":  `"x\"]"`,
		"/a/1/~0":    "null",
		"/ab/d":      "-1.5e3",
		"/e":         "[]",
		"/e/0":       "-",
		"/nothing":   "-",
		"/a/2":       "-",
		"/a/01":      "-",
		"/a/0/b":     "-",
		"/ab/d/more": "-",
	} {
		got, ok := Find([]byte(doc), pointers(t, p)[0])
		if ok != (want != "-") || ok && string(got) != want {
			t.Errorf("%s: got %s, %v, want %s", p, got, ok, want)
		}
	}
}

func TestDrop(t *testing.T) {
	for _, tt := range []struct {
		doc, want string
		drop      []string
	}{
		{`{"a":1,"b":2,"c":3}`, `{"b":2,"c":3}`, []string{"/a"}},
		{`{"a":1,"b":2,"c":3}`, `{"a":1,"c":3}`, []string{"/b"}},
		{`{"a":1,"b":2,"c":3}`, `{"a":1,"b":2}`, []string{"/c"}},
		{`{"a":1,"b":2,"c":3}`, `{"a":1}`, []string{"/c", "/b"}},
		{`{"a":1,"b":2,"c":3}`, `{}`, []string{"/c", "/b", "/a"}},
		{`{"a":1}`, `{}`, []string{"/a"}},
		{`{"a":{"b":1,"c":[1,2,3]},"d":0}`, `{"a":{"c":[1,3]},"d":0}`, []string{"/a/b", "/a/c/1"}},
		{`[{"s":1,"t":2},{"s":3},4]`, `[{"t":2},{},4]`, []string{"/*/s"}},
		{`{"x":{"s":1},"y":{"s":2,"k":3}}`, `{"x":{},"y":{"k":3}}`, []string{"/*/s"}},
		{`{"a":"},\"","b":[]}`, `{"b":[]}`, []string{"/a"}},
		{`{"\u0061":1,"b":2}`, `{"b":2}`, []string{"/a"}},
		{`{"a":1}`, `{"a":1}`, []string{"/b", "/a/b"}},
		{`5`, `5`, []string{"/a"}},
		{` { "a" : 1 , "b" : 2 } `, ` {  "b" : 2 } `, []string{"/a"}},
		{` { "a" : 1 , "b" : 2 } `, ` { "a" : 1  } `, []string{"/b"}},
		{`[1,2,3]`, `[]`, []string{"/*"}},
	} {
		got := string(Drop(nil, []byte(tt.doc), pointers(t, tt.drop...)))
		if got != tt.want {
			t.Errorf("%s without %v: got %s, want %s", tt.doc, tt.drop, got, tt.want)
		}
		if !json.Valid([]byte(got)) {
			t.Errorf("%s without %v: %s is not JSON", tt.doc, tt.drop, got)
		}
	}
}

func TestPointersThatAreNone(t *testing.T) {
	for _, s := range []string{"", "a", "/~", "/~2", "/a~", strings.Repeat("/a", 65)} {
		if p, err := ParsePointer(s); err == nil {
			t.Errorf("%q: got %v", s, p)
		}
	}
}

func TestAppendString(t *testing.T) {
	for s, want := range map[string]string{
		"a\"\\\n</x>&": `"a\"\\\u000a\u003c/x\u003e\u0026"`,
		"é\xff":        "\"é\ufffd\"",
		"":             `""`,
	} {
		if got := string(AppendString(nil, s)); got != want {
			t.Errorf("%q: got %s, want %s", s, got, want)
		}
	}
}

// removed does on values what Drop does on bytes.
func removed(v any, p Pointer) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			if k != p[0] && p[0] != "*" {
				continue
			}
			if len(p) == 1 {
				delete(v, k)
			} else {
				v[k] = removed(v[k], p[1:])
			}
		}
		return v
	case []any:
		out := []any{}
		for i, e := range v {
			if b, _ := json.Marshal(i); string(b) == p[0] || p[0] == "*" {
				if len(p) == 1 {
					continue
				}
				e = removed(e, p[1:])
			}
			out = append(out, e)
		}
		return out
	}
	return v
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,{"b":null}],"c":"\u0061"}`, `[1e5]`, `"\ud83d\ude00"`, `{"a":1,"a":2}`, `[[{}]]`, ` 1 `, `{"*":[{"a":1},2]}`} {
		f.Add([]byte(s), "/a")
		f.Add([]byte(s), "/*/a")
	}
	f.Fuzz(func(t *testing.T, b []byte, pointer string) {
		got, err := Parse(b, values)
		if (err == nil) != (Check(b, values) == nil) {
			t.Fatalf("parse says %v, check %v", err, Check(b, values))
		}
		if err != nil {
			return
		}
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		var want any
		if err := d.Decode(&want); err != nil {
			t.Fatalf("encoding/json refuses it: %v", err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %#v, want %#v", got, want)
		}
		p, err := ParsePointer(pointer)
		if err != nil {
			return
		}
		out := Drop(nil, b, []Pointer{p})
		rest, err := Parse(out, values)
		if err != nil {
			t.Fatalf("without %v: %s: %v", p, out, err)
		}
		if want := removed(got, p); !reflect.DeepEqual(rest, want) {
			t.Fatalf("without %v: got %#v, want %#v", p, rest, want)
		}
		if raw, ok := Find(b, p); ok {
			if _, err := Parse(raw, values); err != nil {
				t.Fatalf("found %q: %v", raw, err)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	doc := []byte(`{"meter":"m-17","value":12.5,"unit":"kWh","tags":["a","b"],"at":{"lat":53.5,"lon":9.9}}`)
	for name, f := range map[string]func(){
		"parse": func() { _, _ = Parse(doc, values) },
		"check": func() { _ = Check(doc, values) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}
