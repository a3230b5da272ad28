package project

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// sharedData returns the folder of documents of others, or skips.
func sharedData(t *testing.T) string {
	t.Helper()
	dir := filepath.Join("..", "..", "..", "shared", "data", "openapi")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		t.Skip("the documents of others are not here: they lie beside the repository, in shared/data/openapi")
	}
	return dir
}

func TestDocumentsOfOthersMakeProjects(t *testing.T) {
	dir := sharedData(t)
	plans := "resourcePolicies: [{10kPerMin: {count: 10000}}, {20kPerMin: {count: 20000}}]\n"
	names, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	broken := map[string]int{ // errors that the documents do have
		"callback-example.yaml": 1, "link-example.yaml": 1, "interceptors_sample.yaml": 2,
	}
	for _, name := range names {
		base := filepath.Base(name)
		t.Run(base, func(t *testing.T) {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			_, findings := Load(files(t, map[string]string{tideFile: minimalTide, plansFile: plans, "apis/" + base: string(data)}))
			mistakes := 0
			for _, f := range findings {
				if f.Severity == Error {
					mistakes++
					if broken[base] == 0 {
						t.Error(f)
					}
				}
			}
			if mistakes != broken[base] {
				t.Errorf("got %d errors, want %d: %v", mistakes, broken[base], findings)
			}
		})
	}
}
