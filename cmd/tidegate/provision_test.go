package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// lay puts files of these names below dir.
func lay(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, n := range names {
		p := filepath.Join(dir, n)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// below returns names without dir in front.
func below(dir string, names []string) []string {
	var out []string
	for _, n := range names {
		out = append(out, strings.TrimPrefix(n, dir+"/"))
	}
	return out
}

// A mounted secret consists of links; a folder of an image is its maker's word.
func TestWhatADeviceComesWith(t *testing.T) {
	dir := t.TempDir()
	lay(t, dir, "..data/site.tideroot", "..data/site.tide", "fingerprint")
	for _, n := range []string{"site.tideroot", "site.tide"} {
		if err := os.Symlink(filepath.Join("..data", n), filepath.Join(dir, n)); err != nil {
			t.Fatal(err)
		}
	}
	names, err := provisions(dir)
	if got, want := below(dir, names), []string{"site.tideroot", "site.tide"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}
