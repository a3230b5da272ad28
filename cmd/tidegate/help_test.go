package main

import (
	"os"
	"strings"
	"testing"
)

func TestReferenceListsEveryCommand(t *testing.T) {
	b, err := os.ReadFile("../../docs/reference/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range commands() {
		if !strings.Contains(string(b), "| `"+strings.ReplaceAll(strings.TrimSpace(c.name+" "+c.args), "|", `\|`)+"` | "+c.short+" |") {
			t.Errorf("docs/reference/cli.md does not say of %q what help says", c.name)
		}
	}
}
