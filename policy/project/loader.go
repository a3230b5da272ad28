package project

import (
	"io/fs"

	"tidegate/policy"
	"tidegate/policy/source"
)

// A loader holds what is known while a project is read.
type loader struct {
	fsys    fs.FS
	report  *source.Report
	project *Project
	set     *policy.Set
}

func newLoader(fsys fs.FS) *loader {
	set := &policy.Set{Format: policy.Format}
	return &loader{
		fsys:    fsys,
		report:  new(source.Report),
		project: &Project{Set: set, Secrets: map[string][]byte{}},
		set:     set,
	}
}

func (l *loader) load() {
	l.report.Errorf(policy.Pos{File: "tide.yaml"}, "", "no such file")
}
