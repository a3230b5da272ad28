// Command docs takes README.md and the pages below docs apart for scripts/docs.sh, which runs
// their shell blocks in order in a clean container.
//
//	docs pages          the pages that have blocks to run, one a line
//	docs script PAGE    what runs the blocks of a page
//	docs count          how many blocks are run, and which are not, and why
package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "docs:", err)
		os.Exit(1)
	}
}

// pages returns README.md and everything below docs, in the order of their names.
func pages(root string) ([]string, error) {
	out := []string{"README.md"}
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".md") {
			rel, _ := filepath.Rel(root, path)
			out = append(out, filepath.ToSlash(rel))
		}
		return err
	})
	return out, err
}

// read returns the blocks of a page.
func read(root, page string) ([]block, error) {
	b, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		return nil, err
	}
	blocks, err := parse(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", page, err)
	}
	return blocks, nil
}

func run(args []string) error {
	if len(args) == 2 && args[0] == "script" {
		blocks, err := read(".", args[1])
		if err == nil {
			fmt.Print(script(args[1], blocks))
		}
		return err
	}
	if len(args) != 1 || args[0] != "pages" && args[0] != "count" {
		return fmt.Errorf("want pages, script PAGE or count")
	}
	all, err := pages(".")
	if err != nil {
		return err
	}
	var here, named int
	var skipped []string
	for _, page := range all {
		blocks, err := read(".", page)
		if err != nil {
			return err
		}
		if args[0] == "pages" && script(page, blocks) != "" {
			fmt.Println(page)
		}
		for _, b := range blocks {
			switch {
			case !b.shell():
			case b.named != "":
				named++
			case b.skip != "":
				skipped = append(skipped, fmt.Sprintf("  %s:%d: %s", page, b.line, b.skip))
			default:
				here++
			}
		}
	}
	if args[0] == "count" {
		fmt.Printf("%d shell blocks: %d are run here, %d by the scripts for installing, %d not:\n%s\n", here+named+len(skipped), here, named, len(skipped), strings.Join(skipped, "\n"))
	}
	return nil
}
