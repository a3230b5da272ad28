package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

var row = regexp.MustCompile("(?m)^\\| ([A-K][0-9]+) \\|.*\\| [`<].*\\|$")

// TestEveryCaseHasACheckThatIsTakenOut holds the table against the list of cases. Cases that no
// test of this repository shows have nothing to take out.
func TestEveryCaseHasACheckThatIsTakenOut(t *testing.T) {
	doc, err := os.ReadFile("../../docs/attack-cases.md")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, m := range mutations {
		for _, id := range strings.Fields(m.cases) {
			have[id] = true
		}
	}
	rows := row.FindAllSubmatch(doc, -1)
	if len(rows) < 100 {
		t.Fatalf("only %d cases found", len(rows))
	}
	for _, r := range rows {
		if id := string(r[1]); !have[id] {
			t.Errorf("%s: no check of it is ever taken out", id)
		}
	}
}

// TestTheTableFitsTheSource tells that a check has moved before the long run would.
func TestTheTableFitsTheSource(t *testing.T) {
	for _, m := range mutations {
		source, err := os.ReadFile("../../" + m.file)
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := m.mutant(source); err != nil {
			t.Errorf("%s: %s: %v", m.cases, m.file, err)
		}
	}
}
