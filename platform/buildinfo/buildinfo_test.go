package buildinfo

import (
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

func TestSources(t *testing.T) {
	vcs := &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.time", Value: "2027-01-02T03:04:05+01:00"}, {Key: "vcs.modified", Value: "true"},
	}}
	for _, c := range []struct {
		name                  string
		b                     *debug.BuildInfo
		version, commit, date string
		want                  Info
	}{
		{"nothing", nil, "", "", "", Info{Version: "devel", Time: earliest}},
		{"linker", nil, "1.2.3", "def", "1830000000", Info{Version: "1.2.3", Commit: "def", Time: time.Unix(1830000000, 0).UTC()}},
		{"linker, as text", nil, "1.2.3", "def", "2027-06-01T00:00:00Z", Info{Version: "1.2.3", Commit: "def", Time: time.Date(2027, 6, 1, 0, 0, 0, 0, time.UTC)}},
		{"version control", vcs, "", "", "", Info{Version: "devel", Commit: "abc+", Time: time.Date(2027, 1, 2, 2, 4, 5, 0, time.UTC)}},
		{"linker wins", vcs, "2", "x", "1830000000", Info{Version: "2", Commit: "x", Time: time.Unix(1830000000, 0).UTC()}},
		{"1970", nil, "", "", "0", Info{Version: "devel", Time: earliest}},
		{"the year 3000", nil, "", "", "32503680000", Info{Version: "devel", Time: earliest}},
		{"junk", nil, "", "", "yesterday", Info{Version: "devel", Time: earliest}},
	} {
		got := from(c.b, c.version, c.commit, c.date)
		if got.Go == "" || !strings.Contains(got.Platform, "-") || strings.Contains(got.String(), "\n") {
			t.Errorf("%s: %+v", c.name, got)
		}
		got.Go, got.Platform = "", ""
		if got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
	if Get().Time.Before(earliest) {
		t.Error("this build is from before the code was written")
	}
}
