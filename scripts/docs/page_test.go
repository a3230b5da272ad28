package main

import (
	"strings"
	"testing"
)

// Every fence of every page says what it is, and every shell block is run or says why not.
func TestPagesAreInForm(t *testing.T) {
	all, err := pages("../..")
	if err != nil {
		t.Fatal(err)
	}
	run, skipped := 0, 0
	for _, page := range all {
		blocks, err := read("../..", page)
		if err != nil {
			t.Error(err)
		}
		for _, b := range blocks {
			switch {
			case b.shell() && b.skip == "":
				run++
			case b.shell():
				skipped++
			}
		}
	}
	if len(all) < 15 || run < 40 {
		t.Errorf("%d pages with %d blocks to run: some were not found", len(all), run)
	}
	if skipped*5 > run {
		t.Errorf("%d blocks are not run, of %d", skipped, run+skipped)
	}
}

func TestFencesThatAreRefused(t *testing.T) {
	for _, tc := range []struct{ page, want string }{
		{"```\nls\n```\n", "language \"\" is not one of"},
		{"```bash\nls\n```\n", "language \"bash\""},
		{"```sh\nls\n", "not closed"},
		{"```sh skip\nls\n```\n", "no attribute"},
		{"```sh when=\"never\"\nls\n```\n", "attribute \"when\""},
		{"```toml skip=\"x\"\na = 1\n```\n", "is not run"},
		{"Do:\n\n    make run\n", "without a fence"},
	} {
		if _, err := parse(tc.page); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: got %v, want %q", tc.page, err, tc.want)
		}
	}
}

func TestWhatBecomesOfBlocks(t *testing.T) {
	blocks, err := parse("```sh\na\n```\ntext\n```yaml\nb: 1\n```\n<!-- run: deb -->\n```sh\nc\n```\n```sh skip=\"a board\"\nd\n```\n```sh until=\"up\"\ne 'x'\n```\n```console\n$ f\nsome words…\n  [1.2 s]\n$ g &\n```\n")
	if err != nil {
		t.Fatal(err)
	}
	want := "at P:1\na\nat P:15\nstart 'up' 'e '\\''x'\\''\n'\nat P:18\n" +
		"step 'f'\nshown=$PWD/shown.$((++nth))\nf >\"$shown\" 2>&1 || { cat \"$shown\"; false; }\nprinted 'some words'\nstep 'g &'\nshown=$PWD/shown.$((++nth))\n{ g; } >\"$shown\" 2>&1 &\n"
	if got := script("P", blocks); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
