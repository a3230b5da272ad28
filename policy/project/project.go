// Package project turns a project folder, the one a developer edits, into a
// [policy.Set] and what else a bundle is built from: the manifest part and the values
// to be sealed. It reports every mistake of the project at once, each with its file
// and line.
//
// It reads only what is in the folder; it connects to nothing by itself, runs nothing and
// reads no clock. It signs nothing: the bundle writer does. The keys of each file are
// described in docs/reference/project.md.
package project

import (
	"io/fs"
	"tidegate/policy"
	"tidegate/policy/source"
	"time"
)

// A Finding is one thing to tell about a project.
type Finding = source.Finding

// The severities of a finding. A project with an Error does not build.
const (
	Error   = source.Error
	Warning = source.Warning
	Dropped = source.Dropped
)

// Failed reports whether one of the findings is an error.
func Failed(fs []Finding) bool { return source.Failed(fs) }

// A Project is a folder that was read without an error.
type Project struct {
	Set  *policy.Set // validated
	Tide Manifest
	// Secrets are the values to be sealed, by path ("endpoints/meters/password"). The
	// paths obey the path grammar of a bundle; each value has at most [MaxSecret] bytes.
	Secrets map[string][]byte
	// Files are the files that were read, ascending: what a watcher has to watch, with
	// the folder apis.
	Files []string
}

// A Manifest is what tide.yaml says about the bundle as a whole.
type Manifest struct {
	Product  string     // name
	Channel  string     // name; default "stable"
	Name     string     // bundle name
	Version  string     // for people, at most 64 bytes; may be empty
	Hardware []string   // hardware classes, ascending; "any" when the file names none
	Devices  []Selector // ascending by their encoding; never empty
	// Expires is the time after which the bundle is refused; ValidFor counts from the
	// time of the build instead. At most one of them is set.
	Expires  time.Time
	ValidFor time.Duration
	Needs    [3]uint // least version of tidegate; zero: any
	Probes   []Probe
	Trial    Trial

	AcceptDropped []string // what may be lost without an error, ascending
}

// A Selector names devices: one by its id, all with these labels, or, when both are
// empty, every device.
type Selector struct {
	Device *[16]byte
	Labels []string // ascending
}

// A Probe is a call that a device makes to itself while a bundle is on trial.
type Probe struct {
	Method  string
	Target  string // path and query, from the base path on
	Status  []int  // one of them must come; ascending, never empty
	Timeout time.Duration
}

// A Trial says how a bundle is confirmed. The zero Trial leaves it to the device.
type Trial struct {
	Manual   bool          // by a person
	Window   time.Duration // whole seconds; 0: the device's default
	Attempts int           // starts before it is rolled back, 1–9; 0: the device's default
}

// MaxSecret is the largest size of a secret, in bytes.
const MaxSecret = 64 << 10

// Load reads the project in fsys. The project is nil when one of the findings is an
// error. Findings are ordered as [source.Report.Findings] says. It does not change
// fsys and may be called for several projects at once. It fetches nothing: the keys of a jwks_url
// that is to be fetched at build are missing from the set.
func Load(fsys fs.FS) (*Project, []Finding) { return Reader{}.Load(fsys) }

// A Reader reads projects.
type Reader struct {
	// Fetch fetches what is to be in the bundle and is not in the project; nil: it is left out.
	Fetch Fetcher
}

// Load is like the function, and fetches what a bundle needs.
func (r Reader) Load(fsys fs.FS) (*Project, []Finding) {
	l := newLoader(fsys)
	l.fetch = r.Fetch
	l.load()
	if l.report.Failed() {
		return nil, l.report.Findings()
	}
	return l.project, l.report.Findings()
}
