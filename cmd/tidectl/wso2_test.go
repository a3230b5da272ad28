package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/cmd/cli"
	"tidegate/sync/apim/apimtest"
)

// A wso2Run is one run of the program in this process.
type wso2Run struct {
	code     int
	out, err string
}

// runWSO2 runs tidectl with the password of the stand-in in its environment.
func runWSO2(t *testing.T, env []string, args ...string) wso2Run {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(context.Background(), args, &cli.IO{
		In: strings.NewReader(""), Out: &out, Err: &errs,
		Env: append([]string{wso2PasswordVariable + "=" + apimtest.Password}, env...), Name: "tidectl",
	})
	return wso2Run{code, out.String(), errs.String()}
}

// A site is a stand-in and what it takes to import from it.
type site struct {
	*apimtest.Server
	t  *testing.T
	ca string
}

func newSite(t *testing.T, version string) *site {
	t.Helper()
	s := &site{Server: apimtest.New(t, version), t: t, ca: filepath.Join(t.TempDir(), "ca.pem")}
	if err := os.WriteFile(s.ca, s.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// words are the command line of an import.
func (s *site) words(more ...string) []string {
	return append([]string{"import", "wso2", "--server", s.URL, "--user", apimtest.User, "--ca", s.ca}, more...)
}

func (s *site) importLabel(dir string, more ...string) wso2Run {
	s.t.Helper()
	return runWSO2(s.t, nil, append(s.words("--label", "quay-7", dir), more...)...)
}

// must fails the test unless the run ended with the code.
func (r wso2Run) must(t *testing.T, code int) wso2Run {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d\n%s%s", r.code, code, r.out, r.err)
	}
	return r
}

// says fails the test unless standard error has the text.
func (r wso2Run) says(t *testing.T, texts ...string) wso2Run {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(r.err, text) {
			t.Errorf("standard error does not say %q:\n%s", text, r.err)
		}
	}
	return r
}

// report decodes what --json printed.
func (r wso2Run) report(t *testing.T) importReport {
	t.Helper()
	var v importReport
	if err := json.Unmarshal([]byte(r.out), &v); err != nil {
		t.Fatalf("%v\n%s", err, r.out)
	}
	return v
}

// files returns the content of every file below dir.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		out[filepath.ToSlash(rel)] = string(b)
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return out
}

func TestImportOfALabelMakesAProjectThatCompiles(t *testing.T) {
	for _, version := range []string{"2.6", "3.0", "3.1", "3.2", "4.0", "4.1", "4.2"} {
		t.Run(version, func(t *testing.T) {
			s := newSite(t, version)
			dir := filepath.Join(t.TempDir(), "site")
			r := s.importLabel(dir, "--json").must(t, 0).report(t)
			if !r.Changed || r.APIM != version || r.Server != s.URL {
				t.Errorf("got %+v", r)
			}
			if want := map[bool]int{true: 1, false: 2}[version >= "4"]; len(r.APIs) != want {
				t.Errorf("got %d APIs, want %d", len(r.APIs), want)
			}
			v := runWSO2(t, nil, "validate", dir).must(t, 0)
			if strings.Contains(v.err, "error") {
				t.Errorf("%s", v.err)
			}
		})
	}
}
