package cases

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"tidegate/policy/refusal"
)

var update = flag.Bool("update", false, "write docs/attack-cases.md")

const (
	root     = "../.."
	document = root + "/docs/attack-cases.md"
)

// found is what the test files of the repository hold.
type found struct {
	shows map[string]map[string]bool // id → tests, "sync/intake.TestE8…"
	tests map[string]bool
	text  map[string][]byte // content of test files and scripts
}

var (
	// Ids stand in the names of tests, "TestA18A19Sums" or "TestC1ToC15Rotation"; at the start of
	// the names of rows, "E1 other product"; and at the start of a test's comment, "C20: …".
	inName    = regexp.MustCompile(`^Test((?:[A-K]\d+a?(?:[tT]o[A-K]\d+)?)+)`)
	oneOrSpan = regexp.MustCompile(`([A-K])(\d+)a?(?:[tT]o[A-K](\d+))?`)
	inRow     = regexp.MustCompile(`^([A-K]\d{1,2}a?)(?: |$)`)
	inComment = regexp.MustCompile(`^([A-K]\d{1,2}a?)(?::| on )`)
)

func search(t *testing.T) *found {
	t.Helper()
	f := &found{shows: map[string]map[string]bool{}, tests: map[string]bool{}, text: map[string][]byte{}}
	for _, top := range []string{"sync", "store", "platform", "cmd", "appliance", "scripts", "policy"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			test, script := strings.HasSuffix(name, "_test.go"), strings.HasSuffix(name, ".txtar")
			if !test && !script {
				return nil
			}
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			rel := filepath.ToSlash(strings.TrimPrefix(name, root+string(filepath.Separator)))
			f.text[rel] = b
			if test {
				return f.read(rel, b)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(f.tests) < 300 {
		t.Fatalf("only %d tests found: this reads the wrong tree", len(f.tests))
	}
	return f
}

// read notes the tests of one file and the ids they bear.
func (f *found) read(name string, b []byte) error {
	file, err := parser.ParseFile(token.NewFileSet(), name, b, parser.ParseComments)
	if err != nil {
		return err
	}
	for _, d := range file.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Test") {
			continue
		}
		test := path.Dir(name) + "." + fn.Name.Name
		f.tests[test] = true
		if m := inName.FindStringSubmatch(fn.Name.Name); m != nil {
			for _, s := range oneOrSpan.FindAllStringSubmatch(m[1], -1) {
				lo, _ := strconv.Atoi(s[2])
				hi, err := strconv.Atoi(s[3])
				if err != nil {
					hi = lo
				}
				for n := lo; n <= hi; n++ {
					f.note(s[1]+strconv.Itoa(n), test)
				}
			}
		}
		if fn.Doc != nil {
			if m := inComment.FindStringSubmatch(fn.Doc.Text()); m != nil {
				f.note(m[1], test)
			}
		}
		if !strings.HasPrefix(name, "sync/") && !strings.HasPrefix(name, "store/") {
			continue
		}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil {
					if m := inRow.FindStringSubmatch(s); m != nil {
						f.note(m[1], test)
					}
				}
			}
			return true
		})
	}
	return nil
}

func (f *found) note(id, test string) {
	if f.shows[id] == nil {
		f.shows[id] = map[string]bool{}
	}
	f.shows[id][test] = true
}

// of returns what shows a case, and what is named for it and is not there.
func (f *found) of(c *Case) (shown, missing []string) {
	for test := range f.shows[c.ID] {
		shown = append(shown, test)
	}
	for _, also := range c.Also {
		script, line, isScript := strings.Cut(also, ".txtar: ")
		switch {
		case isScript && bytes.Contains(f.text[script+".txtar"], []byte(line)):
			shown = append(shown, script+".txtar")
		case !isScript && f.tests[also]:
			shown = append(shown, also)
		default:
			missing = append(missing, also)
		}
	}
	slices.Sort(shown)
	return slices.Compact(shown), missing
}

func TestEveryCaseIsShownByATest(t *testing.T) {
	f := search(t)
	seen := map[string]bool{}
	for i := range Cases {
		c := &Cases[i]
		if seen[c.ID] || c.What == "" || c.Expect == "" {
			t.Errorf("%s is there twice, or says too little", c.ID)
		}
		seen[c.ID] = true
		shown, missing := f.of(c)
		for _, m := range missing {
			t.Errorf("%s: %s is not there", c.ID, m)
		}
		if len(shown) == 0 && c.Elsewhere == "" {
			t.Errorf("%s: no test shows that %s ends with %s", c.ID, c.What, c.Expect)
		}
		if len(shown) > 0 && c.Elsewhere != "" {
			t.Errorf("%s is said to be shown elsewhere, and is shown by %v", c.ID, shown)
		}
	}
}

func TestTheDocumentIsCurrent(t *testing.T) {
	want := render(search(t))
	if *update {
		if err := os.WriteFile(document, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(document)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("docs/attack-cases.md is not what the tests say (%v): go test ./scripts/cases -update", err)
	}
}

func render(f *found) []byte {
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# Attacks and accidents")
	p("")
	p("Written by `go test ./scripts/cases -update` from the tests; do not edit. In every case the bundle that")
	p("serves goes on serving unchanged, what the device believes moves only by what was signed for it, the space of")
	p("what was refused is given back, and each refusal leaves one audit entry; a row says what is to be seen beside that.")
	p("† = it ends well. The words are those of the exit codes.")
	total := 0
	for _, g := range groups {
		p("")
		p("## %s. %s", g.letter, g.name)
		p("")
		p("| Id | Case | Must end as | Shown by |")
		p("|---|---|---|---|")
		for i := range Cases {
			c := &Cases[i]
			if !strings.HasPrefix(c.ID, g.letter) {
				continue
			}
			total++
			shown, _ := f.of(c)
			for i, s := range shown {
				shown[i] = "`" + s + "`"
			}
			by := strings.Join(shown, "<br>")
			if by == "" {
				by = c.Elsewhere
			}
			p("| %s | %s | %s | %s |", c.ID, c.What, c.Expect, by)
		}
	}
	p("")
	p("%d cases. Not in this release, and refused rather than guessed: %s.", total, strings.Join(Later, "; "))
	return b.Bytes()
}

// K10: every word that a refusal or a warning can carry comes out of at least one test.
func TestK10EveryWordIsSeenByATest(t *testing.T) {
	f := search(t)
	names := constants(t)
	words := map[refusal.Word]bool{}
	refusal.Words(func(w refusal.Word) bool { words[w] = true; return true })
	for w := range names {
		words[w] = true // the warnings
	}
	if len(words) < 45 {
		t.Fatalf("only %d words", len(words))
	}
	for w := range words {
		named := regexp.MustCompile(`\brefusal\.` + names[w] + `\b|\b` + string(w) + `\b`)
		ok := false
		for name, text := range f.text {
			if !strings.HasPrefix(name, "scripts/cases/") && named.Match(text) {
				ok = true
				break
			}
		}
		if names[w] == "" || !ok {
			t.Errorf("no test wants %s (refusal.%s)", w, names[w])
		}
	}
}

// constants returns the names of the words in the source.
func constants(t *testing.T) map[refusal.Word]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), root+"/policy/refusal/refusal.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := map[refusal.Word]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		if lit, ok := v.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if s, err := strconv.Unquote(lit.Value); err == nil && (strings.HasPrefix(s, "E_") || strings.HasPrefix(s, "W_")) {
				names[refusal.Word(s)] = v.Names[0].Name
			}
		}
		return true
	})
	return names
}
