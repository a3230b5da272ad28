package project

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"tidegate/policy"
	"tidegate/policy/source"
)

// overlay lays overlays/NAME.yaml upon the document apis/NAME.*: what a person wants
// otherwise than the document, which an import may write again, has it. It returns nil
// after an error.
func (l *loader) overlay(root *source.Node, file string) *source.Node {
	name := overlayOf(file)
	if _, err := fs.Stat(l.fsys, name); errors.Is(err, fs.ErrNotExist) {
		return root
	}
	l.project.Files = append(l.project.Files, name)
	over := source.Read(l.fsys, name, l.report)
	switch {
	case over == nil:
		return nil
	case over.Kind == source.Null:
		return root // nothing but comments
	case over.Kind != source.Map:
		l.report.Errorf(over.Pos, "", "want a mapping that is laid upon %s/%s, got %s", apisDir, file, over.Kind)
		return nil
	}
	return source.Merge(root, over)
}

// overlayOf is the overlay of a document.
func overlayOf(file string) string {
	return path.Join(overlaysDir, strings.TrimSuffix(file, path.Ext(file))+".yaml")
}

// strayOverlays tells overlays that belong to no document: what they say would be lost.
func (l *loader) strayOverlays(documents []fs.DirEntry) {
	known := map[string]bool{}
	var names []string
	for _, d := range documents {
		known[overlayOf(d.Name())] = true
		names = append(names, path.Base(overlayOf(d.Name())))
	}
	overlays, err := fs.ReadDir(l.fsys, overlaysDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.report.Errorf(policy.Pos{File: overlaysDir}, "", "%v", err)
	}
	for _, o := range overlays {
		name := path.Join(overlaysDir, o.Name())
		if known[name] || strings.HasPrefix(o.Name(), ".") {
			continue
		}
		f := Finding{
			Pos: policy.Pos{File: name}, Severity: Error,
			Message: fmt.Sprintf("there is no document in %s that it could be laid upon", apisDir),
			Hint:    "an overlay has the name of its document and ends in .yaml",
		}
		if near := source.Nearest(o.Name(), names); near != "" {
			f.Hint = "did you mean " + near + "?"
		}
		l.report.Add(f)
	}
}
