package policy

import (
	"strings"
	"testing"
)

func TestCleanTemplate(t *testing.T) {
	tests := []struct{ in, want, fault string }{
		{"/", "/", ""},
		{"/a/{b}/c", "/a/{b}/c", ""},
		{"/a/", "/a", ""},
		{"/report.{format}", "/report.{format}", ""},
		{"/{a}-{b}.json/d", "/{a}-{b}.json/d", ""},
		{"/pkg.Service/Method", "/pkg.Service/Method", ""},
		{"/a/*", "/a/*", ""},
		{"/*", "/*", ""},
		{"/a%2Fb", "/a%2Fb", ""},
		{"", "", "does not begin with a slash"},
		{"a/b", "", "does not begin with a slash"},
		{"/a?b=c", "", "has a query or a fragment"},
		{"/a#b", "", "has a query or a fragment"},
		{"/a//b", "", "an empty segment"},
		{"/a//", "", "an empty segment"},
		{"/../a", "", `a segment ".."`},
		{"/%2e%2E/a", "", `a segment "%2e%2E"`},
		{"/a/%", "", "bad escape"},
		{"/a/%00", "", "a character"},
		{`/a/\b`, "", "a character"},
		{"/*/a", "", `"*" may only be the whole last segment`},
		{"/a*", "", `"*" may only be the whole last segment`},
		{"/{a", "", "braces do not pair"},
		{"/a}", "", "braces do not pair"},
		{"/{{a}}", "", "braces do not pair"},
		{"/{}", "", "a parameter without a name"},
		{"/{a}/{a}", "", `the parameter "a" twice`},
		{"/{a}{b}", "", "two parameters with nothing between them"},
		{"/a/{;b}/c", "/a/{;b}/c", ""},
		{"/a{;b}", "", "must be a whole segment"},
		{"/{;b}c", "", "must be a whole segment"},
		{"/{;}", "", "a parameter without a name"},
		{"/{a}/{;a}", "", `the parameter "a" twice`},
		{"/" + strings.Repeat("a", 1024), "", "longer than 1024 bytes"},
	}
	for _, tt := range tests {
		got, err := CleanTemplate(tt.in)
		if tt.fault == "" && (err != nil || got != tt.want) {
			t.Errorf("%q: got %q, %v, want %q", tt.in, got, err, tt.want)
		}
		if tt.fault != "" && (err == nil || !strings.Contains(err.Error(), tt.fault)) {
			t.Errorf("%q: got %v, want %q", tt.in, err, tt.fault)
		}
	}
}

func FuzzCleanTemplate(f *testing.F) {
	for _, s := range []string{"/", "/a/{b}.json/*", "/{a}{b}", "/%2e%2e", "/a//", "/{", "/a\\b", "*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := CleanTemplate(s)
		if err != nil {
			return
		}
		again, err := CleanTemplate(got)
		if err != nil || again != got {
			t.Errorf("%q became %q, which became %q, %v", s, got, again, err)
		}
		if shape := TemplateShape(got); strings.Count(shape, "{}")+strings.Count(shape, "{;}") != strings.Count(got, "{") {
			t.Errorf("the shape of %q is %q", got, shape)
		}
	})
}

func TestTemplateShape(t *testing.T) {
	for in, want := range map[string]string{"/a/{b}/c": "/a/{}/c", "/{x}.{y}": "/{}.{}", "/a": "/a", "/": "/", "/a/{;b}": "/a/{;}"} {
		if got := TemplateShape(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestCheckTarget(t *testing.T) {
	for in, fault := range map[string]string{
		"http://127.0.0.1:9080":           "",
		"https://backend.example/api?k=v": "",
		"http://[::1]:8080":               "",
		"srv+http://meters.quay.example":  "",
		"":                                "want http or https",
		"127.0.0.1:9080":                  "is not a URL",
		"ftp://x":                         "want http or https",
		"http://":                         "has no host",
		"http:///x":                       "has no host",
		"http://u:p@x":                    "has a user",
		"http://x/#f":                     "has a fragment",
		"http://x/../y":                   `has a segment ".."`,
		"http://{host}/x":                 "is not a URL",
		"http://x:0":                      "has a bad host",
		"http://x:99999999999999999999/":  "",
		"file:///etc/passwd":              "want http or https",
		"srv+srv+http://x":                "want http or https",
	} {
		err := CheckTarget(in)
		if fault == "" && err != nil || fault != "" && (err == nil || !strings.Contains(err.Error(), fault)) {
			t.Errorf("%q: got %v, want %q", in, err, fault)
		}
	}
}
