package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"tidegate/cmd/cli"
	"tidegate/examples"
	"tidegate/policy/project"
	"tidegate/policy/refusal"

	"github.com/spf13/cobra"
)

func (a *app) initCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init DIR",
		Short: "Make a runnable project with a sample API",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := args[0]
			if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
				return fmt.Errorf("%s: the folder is not empty; a project is only made in a new or empty one", dir)
			}
			if err := os.CopyFS(dir, examples.Meters()); err != nil {
				return err
			}
			if a.json {
				return a.JSON(map[string]string{"project": dir})
			}
			a.Say("%s: made. Next: tidectl dev --demo-backend %s", dir, dir)
			return nil
		},
	}
}

func (a *app) validateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "validate [DIR]",
		Short: "Report every error of a project, with file and line",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			p, err := a.loadProject(dir, nil)
			if err != nil {
				return err
			}
			ops := 0
			for i := range p.Set.APIs {
				ops += len(p.Set.APIs[i].Operations)
			}
			if a.json {
				return a.JSON(map[string]any{"valid": true, "apis": len(p.Set.APIs), "operations": ops, "plans": len(p.Set.Plans)})
			}
			a.Say("%s: valid: %d APIs, %d operations, %d plans", dir, len(p.Set.APIs), ops, len(p.Set.Plans))
			return nil
		},
	}
}

// findingView is a finding as JSON shows it.
type findingView struct {
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Severity string `json:"severity"`
	Object   string `json:"object,omitempty"`
	Message  string `json:"message"`
	Hint     string `json:"hint,omitempty"`
	Security bool   `json:"security,omitempty"`
}

// loadProject reads a project and reports what there is to say about it. A project with
// mistakes is exit code 60, after all of them were printed. A nil fetch fetches nothing.
func (a *app) loadProject(dir string, fetch project.Fetcher) (*project.Project, error) {
	if info, err := os.Stat(dir); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, cli.Usage("%s is not a folder", dir)
	}
	fsys, progress := a.watched("reading "+filepath.Base(dir), os.DirFS(dir))
	p, findings := project.Reader{Fetch: fetch}.Load(fsys)
	progress.Done()
	views := make([]findingView, 0, len(findings))
	errors := 0
	for _, f := range findings {
		if f.Pos.File != "" {
			f.Pos.File = filepath.Join(dir, f.Pos.File)
		}
		views = append(views, findingView{f.Pos.File, f.Pos.Line, f.Severity.String(), f.Object, f.Message, f.Hint, f.Security})
		if f.Severity == project.Error {
			errors++
		}
		if !a.json {
			a.Say("%s", f.String())
			if f.Hint != "" {
				a.Say("  hint: %s", f.Hint)
			}
		}
	}
	if a.json && p == nil {
		if err := a.JSON(map[string]any{"valid": p != nil, "findings": views}); err != nil {
			return nil, err
		}
	}
	if p == nil {
		a.Say("tidectl: %s: %d mistakes; nothing was built", dir, errors)
		return nil, cli.StatusError(refusal.Compile.Exit())
	}
	return p, nil
}

// watched returns fsys with a progress on the terminal that goes on with each of its files that is
// opened; where there is no terminal, fsys itself.
func (a *app) watched(what string, fsys fs.FS) (fs.FS, *cli.Progress) {
	files := int64(0)
	_ = fs.WalkDir(fsys, ".", func(_ string, d fs.DirEntry, err error) error { // what cannot be walked is told by who reads it
		if err == nil && !d.IsDir() {
			files++
		}
		return nil
	})
	p := a.Progress(what, files)
	if p == nil {
		return fsys, nil
	}
	return countedFS{fsys, p}, p
}

// countedFS counts the files that are opened.
type countedFS struct {
	fs.FS
	progress *cli.Progress
}

// Open implements fs.FS.
func (c countedFS) Open(name string) (fs.File, error) {
	f, err := c.FS.Open(name)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && !info.IsDir() {
		c.progress.Add(1)
	}
	return f, nil
}
