package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"tidegate/cmd/cli"
	"tidegate/platform/durable"
	"tidegate/policy/openapi"
	"tidegate/policy/refusal"
	"tidegate/policy/source"

	"github.com/spf13/cobra"
)

func (a *app) importCommand() *cobra.Command {
	c := &cobra.Command{Use: "import", Short: "Bring APIs into a project"}
	c.AddCommand(a.importOpenAPICommand(), a.importWSO2Command(), a.importMicrogatewayCommand())
	return c
}

// imported is one document that was added to a project.
type imported struct {
	Source     string        `json:"source"`
	File       string        `json:"file"`
	Name       string        `json:"name"`
	Version    string        `json:"version"`
	BasePath   string        `json:"base_path"`
	Operations int           `json:"operations"`
	State      string        `json:"state"` // new, changed, same
	Findings   []findingView `json:"findings,omitempty"`

	body []byte
}

func (a *app) importOpenAPICommand() *cobra.Command {
	var dir string
	var force, accept bool
	c := &cobra.Command{
		Use:   "openapi FILE…",
		Short: "Add OpenAPI 2.0, 3.0 or 3.1 documents to a project; reports each thing that cannot be kept",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if _, err := os.Stat(filepath.Join(dir, "tide.yaml")); errors.Is(err, fs.ErrNotExist) {
				return cli.Usage("%s is no project: it has no tide.yaml; make one with tidectl init, or name it with --project DIR", dir)
			}
			return a.importOpenAPI(dir, args, force, accept)
		},
	}
	c.Flags().StringVar(&dir, "project", ".", "folder of the project")
	c.Flags().BoolVar(&force, "force", false, "replace documents of the same name that differ")
	c.Flags().BoolVar(&accept, "accept-interceptors", false, "import documents that name interceptors, which cannot be kept")
	return c
}

// importOpenAPI reads every document first and writes only when all of them can be taken.
func (a *app) importOpenAPI(dir string, files []string, force, accept bool) error {
	var docs []*imported
	failed := 0
	for _, f := range files {
		d, ok := readDocument(f, accept)
		if d.Name != "" {
			d.File = filepath.Join("apis", slug(d.Name)+"-"+slug(d.Version)+strings.ToLower(filepath.Ext(f)))
		}
		if !ok {
			failed++
		}
		docs = append(docs, d)
	}
	for _, d := range docs {
		for _, f := range d.Findings {
			if !a.json {
				a.Say("%s:%d: %s: %s: %s", f.File, f.Line, f.Severity, f.Object, f.Message)
			}
		}
	}
	if failed > 0 {
		if a.json {
			if err := a.JSON(map[string]any{"changed": false, "apis": docs}); err != nil {
				return err
			}
		}
		a.Say("tidectl: %d of %d documents cannot be imported; nothing was written", failed, len(files))
		return cli.StatusError(refusal.Compile.Exit())
	}
	changed, err := a.writeDocuments(dir, docs, force)
	if err != nil {
		return err
	}
	if a.json {
		return a.JSON(map[string]any{"changed": changed, "apis": docs})
	}
	for _, d := range docs {
		fmt.Fprintf(a.Out, "%s\t%s %s\t%s\t%d operations\t%s\n", d.State, d.Name, d.Version, d.BasePath, d.Operations, filepath.Join(dir, d.File))
	}
	a.Say("tidectl: next: tidectl validate %s", dir)
	return nil
}

// readDocument reads one document and says whether it can be imported.
func readDocument(file string, accept bool) (*imported, bool) {
	d := &imported{Source: file, State: "new"}
	var r source.Report
	folder, base := filepath.Split(file)
	if folder == "" {
		folder = "."
	}
	doc := openapi.Read(os.DirFS(folder), base, openapi.Options{AcceptInterceptors: accept}, &r)
	for _, f := range r.Findings() {
		d.Findings = append(d.Findings, findingView{filepath.Join(folder, f.Pos.File), f.Pos.Line, f.Severity.String(), f.Object, f.Message, f.Hint, f.Security})
	}
	if doc == nil || r.Failed() {
		return d, false
	}
	b, err := os.ReadFile(file)
	if err != nil {
		d.Findings = append(d.Findings, findingView{File: file, Severity: "error", Message: err.Error()})
		return d, false
	}
	d.body, d.Name, d.Version, d.BasePath, d.Operations = b, doc.API.Name, doc.API.Version, doc.API.BasePath, len(doc.API.Operations)
	return d, true
}

// writeDocuments puts the documents into the project. A document that is there with other
// content is an error unless force.
func (a *app) writeDocuments(dir string, docs []*imported, force bool) (changed bool, err error) {
	for _, d := range docs {
		old, err := os.ReadFile(filepath.Join(dir, d.File))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return false, err
		case string(old) == string(d.body):
			d.State = "same"
		case !force:
			return false, fmt.Errorf("%s is in the project with other content; use --force to replace it", d.File)
		default:
			d.State = "changed"
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "apis"), 0o755); err != nil {
		return false, err
	}
	for _, d := range docs {
		if d.State == "same" {
			continue
		}
		changed = true
		if err := durable.WriteFile(filepath.Join(dir, d.File), d.body, 0o644); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// slug makes a name usable as a file name: lower case, everything but a–z, 0–9, "." and "_" as "-".
func slug(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '_':
			return r
		}
		return '-'
	}, s)
}
