package appliance

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "tidegate"

// source is the imports of one package of ours, read from its files.
type source struct {
	imports map[string][]string // import path → files, without tests
	tests   map[string][]string
}

// readSources reads the import clauses of every Go file in the module. It reads the
// files itself: a version built on the go command passes from a stale test cache.
func readSources(t *testing.T) map[string]*source {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatal(err)
	}
	out := map[string]*source{}
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name != root {
				if base := d.Name(); base == "testdata" || strings.HasPrefix(base, ".") {
					return filepath.SkipDir
				}
				if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
					return filepath.SkipDir // a nested module
				}
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(name))
		if err != nil {
			return err
		}
		pkg := path.Join(module, filepath.ToSlash(rel))
		s := out[pkg]
		if s == nil {
			s = &source{imports: map[string][]string{}, tests: map[string][]string{}}
			out[pkg] = s
		}
		into := s.imports
		if strings.HasSuffix(name, "_test.go") {
			into = s.tests
		}
		for _, spec := range f.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			into[p] = append(into[p], path.Join(filepath.ToSlash(rel), filepath.Base(name)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// top returns the first folder of a package of ours, "" for others.
func top(pkg string) string {
	rest, ok := strings.CutPrefix(pkg, module+"/")
	if !ok {
		return ""
	}
	first, _, _ := strings.Cut(rest, "/")
	return first
}

// below lists what each folder may import besides itself.
var below = map[string][]string{
	"cmd":       {"appliance", "sync", "store", "platform", "policy", "examples"}, // tidectl init copies one
	"appliance": {"sync", "store", "platform", "policy"},
	"sync":      {"store", "platform", "policy"},
	"store":     {"platform", "policy"},
	"platform":  {"policy"},
	"policy":    {},
	"examples":  {},
	"scripts":   {"appliance", "sync", "store", "platform", "policy"},
}

func TestImportsGoInOneDirection(t *testing.T) {
	seen := 0
	for pkg, s := range readSources(t) {
		from := top(pkg)
		for p, files := range s.imports {
			to := top(p)
			if to == "" || to == from {
				continue
			}
			seen++
			if !slices.Contains(below[from], to) {
				t.Errorf("%s imports %s: %s may not see %s", files[0], p, from, to)
			}
			if from == "platform" && p != module+"/policy/refusal" {
				t.Errorf("%s imports %s: of policy, platform sees only the words of refusals", files[0], p)
			}
		}
	}
	if seen < 10 {
		t.Fatalf("only %d imports between folders seen: the test reads the wrong tree", seen)
	}
}

func TestFolderSyncHoldsOnlyPackages(t *testing.T) {
	for _, dir := range []string{"sync", "cmd"} {
		files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) > 0 {
			t.Errorf("%s: a package of that name would shadow the standard library's", files[0])
		}
	}
}

func TestPolicyIsPure(t *testing.T) {
	forbidden := []string{"os", "net/http", "os/exec", "io/ioutil", "syscall"}
	for pkg, s := range readSources(t) {
		if top(pkg) != "policy" {
			continue
		}
		for _, p := range forbidden {
			if files := s.imports[p]; files != nil {
				t.Errorf("%s imports %s: policy decides, it does not touch the machine", files[0], p)
			}
		}
	}
}

// linked returns every package that a program links, ours followed, others named.
func linked(all map[string]*source, pkg string) map[string]string {
	from := map[string]string{}
	var walk func(string)
	walk = func(p string) {
		s := all[p]
		if s == nil {
			return
		}
		for q, files := range s.imports {
			if _, ok := from[q]; !ok {
				from[q] = files[0]
				walk(q)
			}
		}
	}
	walk(pkg)
	return from
}

func TestWhatEachProgramLinks(t *testing.T) {
	all := readSources(t)
	tests := []struct {
		program string
		never   []string // prefixes of import paths
		but     []string // packages below them that are forms, without a database
	}{
		{"tidegate/cmd/tidegate", []string{
			"text/template", "html/template", "net/rpc", "testing",
			"go.yaml.in/yaml", "github.com/getkin/kin-openapi", "github.com/spf13/cobra",
			"modernc.org/sqlite", "github.com/jackc/pgx", "database/sql",
			"tidegate/policy/project", "tidegate/policy/openapi", "tidegate/policy/wso2",
			"tidegate/sync/bundle/write", "tidegate/sync/fleet",
		}, nil},
		{"tidegate/cmd/tidectl", []string{
			"go.etcd.io/bbolt", "tidegate/appliance", "tidegate/store", "text/template", "html/template",
		}, []string{"tidegate/store/events/batch", "tidegate/store/events/export"}},
	}
	for _, tc := range tests {
		got := linked(all, tc.program)
		if len(got) < 20 {
			t.Errorf("%s links only %d packages: the test reads the wrong tree", tc.program, len(got))
		}
		for p, file := range got {
			for _, n := range tc.never {
				if (p == n || strings.HasPrefix(p, n+"/")) && !slices.Contains(tc.but, p) {
					t.Errorf("%s links %s (through %s)", tc.program, p, file)
				}
			}
		}
	}
}

func TestLibrariesForTestsStayInTests(t *testing.T) {
	only := []string{
		"github.com/google/go-cmp", "github.com/rogpeppe/go-internal", "pgregory.net/rapid",
		"go.uber.org/goleak", "github.com/veraison/go-cose", "github.com/mochi-mqtt/server", "google.golang.org/grpc", "google.golang.org/protobuf", "testing",
	}
	for pkg, s := range readSources(t) {
		if strings.HasSuffix(pkg, "test") || top(pkg) == "scripts" {
			continue // packages that serve tests, as policytest
		}
		for p, files := range s.imports {
			for _, o := range only {
				if p == o || strings.HasPrefix(p, o+"/") {
					t.Errorf("%s imports %s outside a test", files[0], p)
				}
			}
		}
	}
}
