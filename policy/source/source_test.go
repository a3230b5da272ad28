package source

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"tidegate/policy"
	"time"

	"github.com/google/go-cmp/cmp"
)

// show writes a tree with the line of each value: {a:1=Text(x)…}.
func show(n *Node) string {
	if n == nil {
		return "-"
	}
	switch n.Kind {
	case Map:
		var parts []string
		for _, k := range n.Keys {
			parts = append(parts, fmt.Sprintf("%s@%d: %s", k.Name, k.Pos.Line, show(k.Value)))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case List:
		var parts []string
		for _, e := range n.List {
			parts = append(parts, show(e))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return fmt.Sprintf("%s@%d", map[Kind]string{Null: "null", Bool: "bool ", Number: "number ", Text: "text "}[n.Kind]+n.Text, n.Pos.Line)
}

func TestValuesStayAsWritten(t *testing.T) {
	for _, tt := range []struct{ name, file, in, want string }{
		{"scalars", "a.yaml", "a: x\nb: 1.20\nc: true\nd: ~\ne: 'no'\n", "{a@1: text x@1, b@2: number 1.20@2, c@3: bool true@3, d@4: null~@4, e@5: text no@5}"},
		{"numbers of YAML 1.1 are texts", "a.yaml", "[012, 1_000, 0x1F, 1e3, .5, +1, 2024-01-01, yes]", "[text 012@1, text 1_000@1, text 0x1F@1, number 1e3@1, text .5@1, text +1@1, text 2024-01-01@1, text yes@1]"},
		{"aliases", "a.yaml", "a: &x\n  b: c\nd: *x\n", "{a@1: {b@2: text c@2}, d@3: {b@2: text c@2}}"},
		{"merge", "a.yaml", "x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\n", "{x@1: {a@1: number 1@1, b@1: number 2@1}, y@2: {b@4: number 3@4, a@1: number 1@1}}"},
		{"empty", "a.yaml", "", "null@1"},
		{"comments only", "a.yaml", "# nothing\n", "null@1"},
		{"JSON", "a.json", "{\"a\": [1.0,\n true], \"b\":\n null}", "{a@1: [number 1.0@1, bool true@2], b@2: null@3}"},
		{"JSON with surrogates", "a.json", `{"a": "\ud83d\ude00 \u2028"}`, "{a@1: text 😀 \u2028@1}"},
		{"JSON with a mark", "a.json", "\xef\xbb\xbf[]", "[]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r Report
			n := Parse(tt.file, []byte(tt.in), &r)
			if fs := r.Findings(); len(fs) != 0 {
				t.Fatalf("findings: %v", fs)
			}
			if got := show(n); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestBrokenFilesAreOneErrorWithTheLine(t *testing.T) {
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	bomb := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := 1; i < 8; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	ladder := "a0: &a0 " + strings.Repeat("[", 60) + strings.Repeat("]", 60) + "\na1: " + strings.Repeat("[", 60) + "*a0" + strings.Repeat("]", 60) + "\n"
	long := "a: &a " + strings.Repeat("x", 1<<20) + "\nb: [" + strings.TrimSuffix(strings.Repeat("*a, ", 1000), ", ") + "]\n"
	for _, tt := range []struct{ name, file, in, want string }{
		{"YAML", "a.yaml", "a: b\n c: d\n", "a.yaml:2: error: not readable as YAML"},
		{"JSON", "a.json", "{\"a\": 1,\n x}", "a.json:2: error: not readable as JSON: invalid character 'x'"},
		{"JSON cut off", "a.json", "{\"a\":\n [1,", "a.json:2: error: not readable as JSON: the file ends in the middle of a value"},
		{"JSON twice", "a.json", "{}\n{}", "a.json:2: error: not readable as JSON: something follows the document"},
		{"not UTF-8", "a.yaml", "a: \xff\n", "a.yaml: error: not UTF-8"},
		{"not UTF-8 in JSON", "a.json", "\"\xff\"", "a.json: error: not UTF-8"},
		{"deep YAML", "a.yaml", deep, "a.yaml:1: error: nested deeper than 100 levels"},
		{"deep JSON", "a.json", deep, "a.json:1: error: not readable as JSON: nested deeper than 100 levels"},
		{"alias bomb", "a.yaml", bomb, "a.yaml:7: error: more than 2000000 values"},
		{"bomb of one long text", "a.yaml", long, "a.yaml:2: error: more than 2000000 values"},
		{"ladder of aliases", "a.yaml", ladder, "a.yaml:2: error: nested deeper than 100 levels"},
		{"alias of itself", "a.yaml", "a: &a [*a]\n", "a.yaml:1: error: "},
		{"key that is a list", "a.yaml", "? [a]\n: b\n", "a.yaml:1: error: a key is not a text"},
		{"key twice", "a.yaml", "a: 1\nb: 2\na: 3\n", `a.yaml:3: error: key "a" is given twice, first on line 1`},
		{"key twice in JSON", "a.json", "{\"a\": 1,\n\"a\": 2}", `a.json:2: error: key "a" is given twice, first on line 1`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r Report
			Parse(tt.file, []byte(tt.in), &r)
			fs := r.Findings()
			if len(fs) != 1 || !strings.HasPrefix(fs[0].String(), tt.want) {
				t.Errorf("got %v, want %s", fs, tt.want)
			}
		})
	}
}

func TestReadRefusesWhatIsTooLarge(t *testing.T) {
	var r Report
	Read(fstest.MapFS{"a.yaml": {Data: make([]byte, MaxBytes+1)}}, "a.yaml", &r)
	Read(fstest.MapFS{}, "b.yaml", &r)
	got := fmt.Sprint(r.Findings())
	if want := "[a.yaml: error: larger than 16 MiB b.yaml: error: no such file]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestObjectCollectsEveryMistake(t *testing.T) {
	var r Report
	n := Parse("f.yaml", []byte(`text: [1]
bool: maybe
int: 1.5
big: 11
float: x
span: 5
time: tomorrow
texts: {a: b}
word: gold
object: x
objects: [1, ~]
named: {a: 1}
extra: 1
tex: 1
`), &r)
	o := r.Object(n, "f.yaml", "thing")
	o.Text("text")
	o.Need("needed")
	o.Bool(true, "bool")
	if got := o.Int(7, 0, 10, "int"); got != 7 {
		t.Errorf("a wrong number is %d, want the default 7", got)
	}
	o.Int(0, 0, 10, "big")
	o.Float(0, 0, 1, "float")
	o.Duration(0, 0, time.Hour, "span")
	o.Time("time")
	o.Texts("texts")
	o.Word("word", "Gold", "silver")
	o.Object("object")
	o.Objects("objects")
	o.Named("named")
	o.Close()
	var got []string
	for _, f := range r.Findings() {
		got = append(got, strings.TrimPrefix(f.String(), "f.yaml:"))
	}
	want := []string{
		`1: error: thing: text: want a text, got a list`,
		`1: error: thing: needed is missing`,
		`2: error: thing: bool: want true or false, got "maybe"`,
		`3: error: thing: int: want a whole number, got "1.5"`,
		`4: error: thing: big: 11 is not from 0 to 10`,
		`5: error: thing: float: want a number, got "x"`,
		`6: error: thing: span: want a duration, got "5"`,
		`7: error: thing: time: want a time like 2027-01-31T00:00:00Z, got "tomorrow"`,
		`8: error: thing: texts: want a list of texts, got a mapping`,
		`9: error: thing: word: "gold" is not one of Gold, silver`,
		`10: error: thing: object: want a mapping, got a text`,
		`11: error: thing: objects[0]: want a mapping, got a number`,
		`11: error: thing: objects[1]: empty`,
		`12: error: named "a": want a mapping, got a number`,
		`13: error: thing: unknown key "extra"`,
		`14: error: thing: unknown key "tex"`,
	}
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if got := r.Keys(); len(got) != 13 || got[0] != "f.yaml: big" {
		t.Errorf("keys that were asked for: %v", got)
	}
}

func TestAbsentObjectAnswersWithDefaults(t *testing.T) {
	var o *Object
	if o.Text("a") != "" || o.Int(3, 0, 9, "a") != 3 || !o.Bool(true, "a") || o.Has("a") || o.Object("a") != nil || o.Need("a") != "" {
		t.Error("an absent mapping says something")
	}
	if o.Duration(time.Second, 0, 0, "a") != time.Second || o.Texts("a") != nil || o.Objects("a") != nil || o.Named("a") != nil {
		t.Error("an absent mapping says something")
	}
	o.Close()
}

func TestFindingsAreOrderedAndGivenOnce(t *testing.T) {
	var r Report
	at := func(line int) policy.Pos { return policy.Pos{File: "f", Line: line} }
	r.Dropf(at(1), "", "d")
	r.Warnf(at(1), "", "w")
	r.Errorf(at(9), "", "e9")
	r.Errorf(at(2), "", "e2")
	r.Errorf(at(2), "", "e2")
	r.Add(Finding{Pos: at(5), Severity: Error, Message: "s", Security: true})
	got := fmt.Sprint(r.Findings())
	if want := "[f:5: error: s f:2: error: e2 f:9: error: e9 f:1: warning: w f:1: dropped: d]"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if !r.Failed() || Failed(r.Findings()[3:]) {
		t.Error("errors, and only errors, fail a project")
	}
}

func TestNearest(t *testing.T) {
	words := []string{"issuer", "audience", "jwks", "certificate"}
	for in, want := range map[string]string{"isuer": "issuer", "Audience": "audience", "jkws": "jwks", "certifcate": "certificate", "x": "", "password": "", strings.Repeat("a", 100): ""} {
		if got := Nearest(in, words); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{"90d": 90 * 24 * time.Hour, "5m": 5 * time.Minute, "1h30m": 90 * time.Minute, "500ms": 500 * time.Millisecond} {
		if got, err := ParseDuration(in); err != nil || got != want {
			t.Errorf("%q: got %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "5", "d", "-1d", "1.5d", "99999999d"} {
		if got, err := ParseDuration(in); err == nil {
			t.Errorf("%q was taken for %v", in, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("a.yaml", []byte("a: &x {b: c}\nd: {<<: *x}\n"))
	f.Add("a.yaml", []byte("a: &a [*a]"))
	f.Add("a.yaml", []byte("? [a]\n: b"))
	f.Add("a.yaml", []byte("%YAML 1.1\n---\n!!binary aGk=\n...\n"))
	f.Add("a.json", []byte(`{"a": [1, {"b": null}], "a": "\ud800"}`))
	f.Add("a.json", []byte(`[1e999999, -0, "\u0000"]`))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		var r Report
		n := Parse(name, b, &r)
		if n == nil && !r.Failed() {
			t.Error("no value and no error")
		}
		lines := strings.Count(string(b), "\n") + strings.Count(string(b), "\r") + strings.Count(string(b), "\u0085") + strings.Count(string(b), "\u2028") + strings.Count(string(b), "\u2029") + 2
		walk(t, n, lines, 0)
	})
}

func walk(t *testing.T, n *Node, lines, depth int) {
	if n == nil || depth > 8 {
		return
	}
	if n.Kind == 0 || n.Pos.Line < 0 || n.Pos.Line > lines {
		t.Errorf("a value of kind %d on line %d of %d", n.Kind, n.Pos.Line, lines)
	}
	for i, k := range n.Keys {
		if n.Lookup(k.Name) != &n.Keys[i] {
			t.Errorf("the key %q is not found where it is", k.Name)
		}
		walk(t, k.Value, lines, depth+1)
	}
	for _, e := range n.List {
		walk(t, e, lines, depth+1)
	}
}
