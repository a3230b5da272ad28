// Program mutate shows that the tests of the cases in docs/attack-cases.md can fail: it takes one
// check after another out of the source, in an overlay that touches no file, and wants a test to
// turn red for each. Run it from the root of the repository:
//
//	go run ./scripts/mutate [-only REGEXP]
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// A mutation is one check taken out of one file.
type mutation struct {
	cases    string
	file     string
	old, new string // old occurs once
	tests    string // package and -run
}

func main() {
	only := flag.String("only", "", "cases and files that match")
	flag.Parse()
	if err := run(*only); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func run(only string) error {
	want, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // of the system's temporary files
	done, alive := 0, 0
	var broken []error
	for _, m := range mutations {
		if !want.MatchString(m.cases + " " + m.file) {
			continue
		}
		killer, err := m.try(dir)
		if err != nil { // the table is out of step with the source
			broken = append(broken, fmt.Errorf("%s: %s: %w", m.cases, m.file, err))
			continue
		}
		done++
		if killer == "" {
			alive++
			killer = "NOTHING: the check can be taken out and no test sees it"
		}
		fmt.Printf("%-10s %-28s %-70.70q %s\n", m.cases, m.file, m.old, killer)
	}
	fmt.Printf("%d checks taken out, %d of them unseen\n", done, alive)
	if alive > 0 {
		broken = append(broken, fmt.Errorf("%d checks are not tested", alive))
	}
	return errors.Join(broken...)
}

var failed = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)

// try runs the tests without the check and returns the first that failed, "" for none.
func (m *mutation) try(dir string) (string, error) {
	source, err := os.ReadFile(m.file)
	if err != nil {
		return "", err
	}
	changed, err := m.mutant(source)
	if err != nil {
		return "", err
	}
	mutant := filepath.Join(dir, "mutant.go")
	if err := os.WriteFile(mutant, changed, 0o600); err != nil {
		return "", err
	}
	full, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(map[string]map[string]string{"Replace": {full: mutant}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, b, 0o600); err != nil {
		return "", err
	}
	pkg, tests, _ := strings.Cut(m.tests, " ")
	out, err := exec.Command("go", "test", "-overlay", overlay, "-vet=off", "-short", "-timeout", "5m", "-run", tests, pkg).CombinedOutput() //nolint:gosec // our own table
	if err == nil {
		return "", nil
	}
	if bytes.Contains(out, []byte("[build failed]")) || bytes.Contains(out, []byte("[setup failed]")) {
		return "", fmt.Errorf("%q → %q does not compile:\n%s", m.old, m.new, out)
	}
	if f := failed.FindSubmatch(out); f != nil {
		return string(f[1]), nil
	}
	return "a panic or the time limit", nil
}

// mutant returns the source without the check.
func (m *mutation) mutant(source []byte) ([]byte, error) {
	if n := bytes.Count(source, []byte(m.old)); n != 1 {
		return nil, fmt.Errorf("%q occurs %d times, want once", m.old, n)
	}
	return bytes.Replace(source, []byte(m.old), []byte(m.new), 1), nil
}
