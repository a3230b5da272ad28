// Package source reads the text files of a project and remembers the place of
// everything in them. It gives a tree of values that stay close to what was written (a
// version 1.20 is the text "1.20", never a number), typed readers that collect each
// mistake instead of stopping at the first, and [Finding], the one form in which
// packages policy/openapi and policy/project tell a person what is wrong.
//
// It bounds what it reads: a file of at most [MaxBytes], nesting of at most
// [MaxDepth], and aliases that unfold to at most [MaxValues] values. It opens no file
// and follows no reference.
package source

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"tidegate/policy"
)

// Severity says what a finding means for a build.
type Severity uint8

// The severities.
const (
	// Error: the project does not build.
	Error Severity = iota + 1
	// Warning: it builds, but probably does not do what was meant.
	Warning
	// Dropped: something in a document that a gateway cannot keep and that changes no decision.
	Dropped
)

// String returns error, warning or dropped.
func (s Severity) String() string {
	switch s {
	case Error:
		return "error"
	case Warning:
		return "warning"
	case Dropped:
		return "dropped"
	}
	return ""
}

// A Finding is one thing to tell about a project.
type Finding struct {
	Pos      policy.Pos
	Severity Severity
	Object   string // what it is about: `plan "gold"`, `GET /readings/{id}`
	Message  string // what is wrong, lower case
	Hint     string // the next step; may be empty
	Security bool   // what is lost or wrong would leave the gateway more open than was meant
}

// String returns "file:line: severity: object: message".
func (f Finding) String() string {
	var b strings.Builder
	if f.Pos.File != "" {
		b.WriteString(f.Pos.File)
		if f.Pos.Line > 0 {
			fmt.Fprintf(&b, ":%d", f.Pos.Line)
		}
		b.WriteString(": ")
	}
	b.WriteString(f.Severity.String())
	b.WriteString(": ")
	if f.Object != "" {
		b.WriteString(f.Object)
		b.WriteString(": ")
	}
	b.WriteString(f.Message)
	return b.String()
}

// A Report collects findings. The zero Report is empty and ready; it is for one goroutine.
type Report struct {
	findings []Finding
	keys     map[string]bool // asked for by an Object
}

// Add adds a finding.
func (r *Report) Add(f Finding) { r.findings = append(r.findings, f) }

// Errorf adds an error without a hint.
func (r *Report) Errorf(pos policy.Pos, object, format string, args ...any) {
	r.Add(Finding{Pos: pos, Severity: Error, Object: object, Message: fmt.Sprintf(format, args...)})
}

// Warnf adds a warning without a hint.
func (r *Report) Warnf(pos policy.Pos, object, format string, args ...any) {
	r.Add(Finding{Pos: pos, Severity: Warning, Object: object, Message: fmt.Sprintf(format, args...)})
}

// Dropf adds a thing that cannot be kept.
func (r *Report) Dropf(pos policy.Pos, object, format string, args ...any) {
	r.Add(Finding{Pos: pos, Severity: Dropped, Object: object, Message: fmt.Sprintf(format, args...)})
}

// Failed reports whether an error was added.
func (r *Report) Failed() bool { return Failed(r.findings) }

// Findings returns what was added: errors first, in each severity those that concern
// security first, then by file and line. Equal findings are given once.
func (r *Report) Findings() []Finding {
	out := slices.Clone(r.findings)
	slices.SortStableFunc(out, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(a.Severity, b.Severity),
			-cmp.Compare(rank(a.Security), rank(b.Security)),
			cmp.Compare(a.Pos.File, b.Pos.File),
			cmp.Compare(a.Pos.Line, b.Pos.Line),
		)
	})
	return slices.Compact(out)
}

func rank(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Failed reports whether one of the findings is an error.
func Failed(fs []Finding) bool {
	return slices.ContainsFunc(fs, func(f Finding) bool { return f.Severity == Error })
}
