package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"tidegate/platform/durable"
	"tidegate/policy/project"
	"tidegate/policy/refusal"
	"tidegate/policy/wso2"

	"golang.org/x/sync/errgroup"
)

// convert turns an export into files, judges the project they would make, writes them
// unless something is wrong, and reports.
func (a *app) convert(dir string, x *wso2.Export, like wso2.Lock, f importFlags) error {
	fsys := os.DirFS(dir)
	lock, err := readLock(fsys)
	if err != nil {
		return err
	}
	if x.Server == "" {
		x.Unfetched = wso2.Kinds() // an archive says nothing of what is not in it
	}
	res, err := wso2.Convert(x, wso2.KnownPlans(fsys, lock, x.Unfetched))
	if err != nil {
		return err
	}
	return a.place(dir, fsys, res, lock, like, f)
}

func readLock(fsys fs.FS) (*wso2.Lock, error) {
	b, err := fs.ReadFile(fsys, wso2.LockFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return wso2.ParseLock(b)
}

// place compares, judges and writes.
func (a *app) place(dir string, fsys fs.FS, res *wso2.Result, lock *wso2.Lock, like wso2.Lock, f importFlags) error {
	changes, err := wso2.Plan(fsys, res, lock, like, f.force)
	if err != nil {
		return err
	}
	if changes.Any() {
		if err := a.judge(fsys, changes); err != nil {
			return err
		}
	}
	if f.strict && len(res.Report.Dropped) > 0 {
		a.sayReport(res)
		return refusal.New(refusal.Compile, "%d things cannot be kept (--strict); nothing was written", len(res.Report.Dropped))
	}
	if !f.dry {
		if err := writeChanges(dir, changes); err != nil {
			return err
		}
	}
	return a.showImport(dir, res, changes, like, f.dry)
}

// judge reads the project as it would be. What is wrong with it now, and was not before, is
// wrong with what was imported.
func (a *app) judge(fsys fs.FS, changes *wso2.Changes) error {
	judged, err := changes.Judged(fsys)
	if err != nil {
		return err
	}
	_, findings := project.Load(judged)
	if !project.Failed(findings) {
		return nil
	}
	before := map[string]bool{}
	_, old := project.Load(fsys)
	for _, o := range old {
		before[o.String()] = true
	}
	var lines []string
	for _, o := range findings {
		if o.Severity != project.Error || before[o.String()] || strings.Contains(o.Message, "without any client certificates") {
			continue
		}
		lines = append(lines, o.String())
	}
	if len(lines) == 0 {
		return nil
	}
	slices.Sort(lines)
	for _, l := range lines {
		a.Say("tidectl: %s", l)
	}
	return refusal.New(refusal.Compile, "the project would not compile: %d mistakes; nothing was written", len(lines)).
		WithHint("correct them in API Manager, or lay corrections upon the documents in overlays/ (tidectl validate knows them)")
}

// writeChanges puts the files into place, the lock last: what a power cut leaves is made
// whole by the next import. Each file is on disk when this returns, which is mostly waiting:
// several wait at a time.
func writeChanges(dir string, c *wso2.Changes) error {
	var g errgroup.Group
	g.SetLimit(16)
	made := map[string]bool{}
	for _, f := range c.Write {
		folder := filepath.Dir(filepath.Join(dir, filepath.FromSlash(f.Name)))
		if !made[folder] {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return errors.Join(err, g.Wait())
			}
			made[folder] = true
		}
		if f.Name != wso2.LockFile {
			g.Go(func() error { return writeOne(dir, f) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := removeFiles(dir, c.Remove); err != nil {
		return err
	}
	for _, f := range c.Write {
		if f.Name == wso2.LockFile {
			return writeOne(dir, f)
		}
	}
	return nil
}

func writeOne(dir string, f wso2.File) error {
	mode := fs.FileMode(0o644)
	if f.Private {
		mode = 0o600
	}
	return durable.WriteFile(filepath.Join(dir, filepath.FromSlash(f.Name)), f.Body, mode)
}

func removeFiles(dir string, names []string) error {
	for _, n := range names {
		if err := os.Remove(filepath.Join(dir, filepath.FromSlash(n))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// importedAPI is one API in the report.
type importedAPI struct {
	Name       string `json:"name"`
	Version    string `json:"version"`
	File       string `json:"file"`
	State      string `json:"state"`
	Operations int    `json:"operations,omitempty"`
}

// importReport is what an import says in JSON.
type importReport struct {
	Changed bool           `json:"changed"`
	DryRun  bool           `json:"dry_run,omitempty"`
	Server  string         `json:"server,omitempty"`
	APIM    string         `json:"apim,omitempty"`
	APIs    []importedAPI  `json:"apis"`
	Plans   map[string]int `json:"plans"`
	Blocks  int            `json:"blocks"`
	Others  map[string]int `json:"others,omitempty"` // applications, subscriptions, issuers …, by kind
	Files   []string       `json:"written"`
	Removed []string       `json:"removed,omitempty"`
	Dropped []wso2.Dropped `json:"dropped"`
	Warns   []string       `json:"warnings"`
	Needs   []wso2.Need    `json:"needs"`
	Next    []string       `json:"next"`
}

func (a *app) showImport(dir string, res *wso2.Result, c *wso2.Changes, like wso2.Lock, dry bool) error {
	r := importReport{
		Changed: c.Any(), DryRun: dry, Server: strings.TrimPrefix(like.Source, archiveSource), APIM: like.APIM,
		APIs: []importedAPI{}, Plans: map[string]int{"application": 0, "subscription": 0, "resource": 0, "custom": 0}, Others: map[string]int{},
		Files: []string{}, Dropped: orEmpty(res.Report.Dropped), Warns: orEmpty(res.Report.Warnings), Needs: orEmpty(res.Report.Needs), Next: nextSteps(dir, res, c, dry),
	}
	for _, f := range c.Write {
		r.Files = append(r.Files, f.Name)
	}
	for _, o := range c.Objects {
		kind, isPlan := strings.CutSuffix(o.Kind, " plan")
		switch {
		case o.Kind == wso2.KindAPI:
			r.APIs = append(r.APIs, importedAPI{o.Name, o.Version, o.File, o.State, o.Operations})
		case o.State == wso2.Removed:
			r.Removed = append(r.Removed, strings.TrimSpace(o.Kind+" "+o.Name))
		case isPlan:
			r.Plans[kind]++
		case o.Kind == wso2.KindBlock:
			r.Blocks++
		default:
			r.Others[o.Kind]++
		}
	}
	if a.json {
		return a.JSON(r)
	}
	a.printImport(dir, r, c)
	a.sayReport(res)
	if !r.Changed {
		a.Say("tidectl: no changes since the last import; a bundle built from it can be reused")
		return nil
	}
	for i, n := range r.Next {
		if i == 0 {
			a.Say("tidectl: next:")
		}
		a.Say("  %s", n)
	}
	return nil
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// printImport prints one line for each API, and one for everything else that changed.
func (a *app) printImport(dir string, r importReport, c *wso2.Changes) {
	for _, o := range r.APIs {
		fmt.Fprintf(a.Out, "%s\t%s %s\t%s\t%d operations\n", o.State, o.Name, o.Version, filepath.Join(dir, o.File), o.Operations)
	}
	for _, o := range c.Objects {
		if o.Kind != wso2.KindAPI && o.State != wso2.Same {
			fmt.Fprintf(a.Out, "%s\t%s %s\t%s\n", o.State, o.Kind, o.Name, filepath.Join(dir, o.File))
		}
	}
	if r.DryRun {
		a.Say("tidectl: --dry-run: nothing was written")
	}
}

// sayReport tells people what was not kept, what is odd, and what is missing.
func (a *app) sayReport(res *wso2.Result) {
	if a.json {
		return
	}
	for _, d := range res.Report.Dropped {
		mark := "not kept"
		if d.Security {
			mark = "not kept, and it protected something"
		}
		a.Say("tidectl: %s: %s %s: %s", mark, d.Kind, d.Name, d.Reason)
		if d.Hint != "" {
			a.Say("  hint: %s", d.Hint)
		}
	}
	for _, w := range res.Report.Warnings {
		a.Say("tidectl: warning: %s", w)
	}
	for _, n := range res.Report.Needs {
		a.Say("tidectl: needs a %s: %s: %s", n.Kind, n.Name, n.How)
	}
}

// nextSteps are the commands that follow.
func nextSteps(dir string, res *wso2.Result, c *wso2.Changes, dry bool) []string {
	if dry || !c.Any() {
		return []string{}
	}
	out := []string{"tidectl validate " + dir}
	seal := ""
	if slices.ContainsFunc(res.Entries, func(e wso2.Entry) bool { return e.Kind == wso2.KindSecret }) {
		seal = " --seal-for DEVICE.tidedevice"
	}
	return append(out, fmt.Sprintf("tidectl build %s -o %s.tide --key KEY --seq N%s", dir, res.Product, seal))
}
