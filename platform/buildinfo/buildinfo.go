// Package buildinfo says which build of the program runs. The build time is the first
// thing a device knows about what time it is, so it is never below a fixed minimum and never
// absurdly high.
package buildinfo

import (
	"runtime"
	"runtime/debug"
	"strconv"
	"time"
)

// Set by the linker in release builds:
// -X tidegate/platform/buildinfo.version=1.2.3 -X …commit=<hash> -X …date=<Unix seconds or RFC 3339>.
var (
	version string
	commit  string
	date    string
)

// Bounds of a build time that is believed.
var (
	earliest = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) // when this code was written
	latest   = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
)

// Info is what is known about a build.
type Info struct {
	Version  string    `json:"version"`          // "1.2.3", or "devel"
	Commit   string    `json:"commit,omitempty"` // with "+" behind it when the tree had changes
	Go       string    `json:"go"`               // version of the toolchain
	Platform string    `json:"platform"`         // "linux-arm64": also the hardware class of the device
	Time     time.Time `json:"time"`             // of the commit or the build, UTC
}

// Get returns the build of the running program.
func Get() Info {
	b, _ := debug.ReadBuildInfo() // nil in a program built without modules
	return from(b, version, commit, date)
}

func from(b *debug.BuildInfo, version, commit, date string) Info {
	i := Info{Version: version, Commit: commit, Go: runtime.Version(), Platform: runtime.GOOS + "-" + runtime.GOARCH, Time: parse(date)}
	if b == nil {
		b = &debug.BuildInfo{}
	}
	set := make(map[string]string, len(b.Settings))
	for _, s := range b.Settings {
		set[s.Key] = s.Value
	}
	if i.Commit == "" {
		i.Commit = set["vcs.revision"]
		if i.Commit != "" && set["vcs.modified"] == "true" {
			i.Commit += "+"
		}
	}
	if i.Time.IsZero() {
		i.Time = parse(set["vcs.time"])
	}
	if i.Time.Before(earliest) || i.Time.After(latest) {
		i.Time = earliest
	}
	if i.Version == "" && b.Main.Version != "(devel)" {
		i.Version = b.Main.Version
	}
	if i.Version == "" {
		i.Version = "devel"
	}
	return i
}

// parse reads Unix seconds or RFC 3339; anything else is the zero time.
func parse(s string) time.Time {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(n, 0).UTC()
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// String returns one line for people.
func (i Info) String() string {
	s := i.Version
	if i.Commit != "" {
		s += " (" + i.Commit + ")"
	}
	return s + " " + i.Platform + " " + i.Go + " " + i.Time.Format(time.DateOnly)
}
