package project

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

const reference = "../../docs/reference/project.md"

// everything is the project of the manual in which each key stands.
const everything = "../../docs/reference/example"

// families maps paths of readers to the heading under which the manual describes them.
var families = []struct{ from, to string }{
	{"document x-", "x-"},
	{"operation x-", "x-"},
	{"x-wso2-sandbox-endpoints", "x-wso2-production-endpoints"},
	{"x-wso2-endpoints.*", "x-wso2-production-endpoints"},
	{"policies.yaml subscriptionPolicies.*", "policies.yaml resourcePolicies.*"},
	{"policies.yaml applicationPolicies.*", "policies.yaml resourcePolicies.*"},
	{"policies.yaml customPolicies.*", "policies.yaml resourcePolicies.*"},
	{"auth.yaml api_keys issuers[]", "auth.yaml issuers[]"},
	{"x-tidegate-transform request query", "x-tidegate-transform request headers"},
	{"x-tidegate-transform response headers", "x-tidegate-transform request headers"},
	{"tide.yaml validate", "x-tidegate-validate"},
}

// knownKeys are the keys that the readers ask for, named as the manual names them, and those of
// them that an example gives: that of each key, or those in the manual.
func knownKeys(t *testing.T, manual string) (known, given []string) {
	t.Helper()
	for _, fsys := range []fs.FS{os.DirFS(everything), blocks(t, manual)} {
		l := newLoader(fsys)
		l.load()
		for _, f := range l.report.Findings() {
			if f.Severity == Error {
				t.Fatal(f)
			}
		}
		known, given = append(known, ofManual(l.report.Keys())...), append(given, ofManual(l.report.Given())...)
	}
	slices.Sort(known)
	return slices.Compact(known), given
}

// ofManual names keys as the manual does.
func ofManual(keys []string) []string {
	own := []string{"operationId", "responses", "servers", "security", "callbacks"} // of OpenAPI itself
	var out []string
	for _, k := range keys {
		path, key, _ := strings.Cut(k, ": ")
		if strings.HasPrefix(path, secretsFile) || strings.HasPrefix(key, "access-control-") || slices.Contains(own, key) {
			continue
		}
		for _, f := range families {
			if rest, ok := strings.CutPrefix(path, f.from); ok {
				path = f.to + rest
			}
		}
		out = append(out, path+": "+key)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

// describedKeys are the keys in the tables of the manual: heading, then first column.
func describedKeys(text string) []string {
	var out, paths []string
	for _, line := range strings.Split(text, "\n") {
		switch {
		case strings.HasPrefix(line, "#"):
			paths = nil
			if strings.HasPrefix(line, "### ") {
				for _, m := range codeSpan.FindAllStringSubmatch(line, -1) {
					if m[1] != "tide.yaml validate" {
						paths = append(paths, m[1])
					}
				}
			}
		case strings.HasPrefix(line, "| `"):
			first, _, _ := strings.Cut(line[1:], "|")
			for _, p := range paths {
				for _, m := range codeSpan.FindAllStringSubmatch(first, -1) {
					out = append(out, p+": "+m[1])
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func TestReferenceDescribesEveryKeyAndNoOther(t *testing.T) {
	b, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	known, given := knownKeys(t, string(b))
	described := describedKeys(string(b))
	for _, k := range known {
		if !slices.Contains(described, k) {
			t.Errorf("the manual does not describe %s", k)
		}
	}
	for _, k := range described {
		if !slices.Contains(known, k) {
			t.Errorf("the manual describes %s, which nothing reads", k)
		}
	}
	for _, k := range known {
		if !slices.Contains(given, k) && !slices.Contains(notGiven, k) {
			t.Errorf("no example gives %s", k)
		}
	}
}

// notGiven are keys that are refused, so that no example can give them.
var notGiven = []string{
	"auth.yaml users[]: password", "consumers.yaml api_keys[]: key", "x-wso2-production-endpoints securityConfig: password",
}

// blocks is the project that the manual shows in pieces.
func blocks(t *testing.T, manual string) fstest.MapFS {
	t.Helper()
	fsys := fstest.MapFS{}
	for _, name := range []string{"keys/plant.jwks.json", "certs/apim.pem"} {
		data, err := os.ReadFile(filepath.Join(everything, name))
		if err != nil {
			t.Fatal(err)
		}
		fsys[name] = &fstest.MapFile{Data: data}
	}
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(manual, -1) {
		head, _, _ := strings.Cut(block[1], "\n")
		name := strings.TrimPrefix(head, "# ")
		if !fs.ValidPath(name) || fsys[name] != nil {
			t.Fatalf("a block of the manual begins with %q: want the name of a file", head)
		}
		fsys[name] = &fstest.MapFile{Data: []byte(block[1])}
	}
	return fsys
}

func TestExamplesOfReferenceAreAProject(t *testing.T) {
	b, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	fsys := blocks(t, string(b))
	p, findings := Load(fsys)
	for _, f := range findings {
		t.Errorf("%s (%s)", f, f.Hint)
	}
	if p == nil {
		t.Fatal("the examples of the manual are no project")
	}
	if len(fsys) != 9 {
		t.Errorf("got %d files, want the seven of a project and two keys", len(fsys))
	}
}
