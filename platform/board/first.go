package board

import (
	"strconv"
	"strings"
	"time"
)

// Options are what the first process works with. The paths are those of the image.
type Options struct {
	Program string        // the gateway
	User    uint32        // as which it runs
	Memory  int64         // bytes that it may use
	Helper  int64         // bytes that what reads a stick may use
	Tasks   int64         // threads, each
	Data    string        // where the data partition is mounted
	Boot    string        // where the boot partition is mounted
	Empty   string        // gzipped image of an empty data partition, for a factory reset
	Prove   time.Duration // how long a new system must serve before it counts as good
	GiveUp  time.Duration // after which a new system that does not serve is given up
	Quiet   time.Duration // between the insertion of a stick and the first look at it
}

// Default returns the options of the flash image.
func Default() Options {
	const mib = 1 << 20
	return Options{
		Program: "/usr/bin/tidegate", User: 500, Memory: 256 * mib, Helper: 64 * mib, Tasks: 256,
		Data: "/data", Boot: "/boot", Empty: "/usr/lib/tideinit/data.img.gz",
		Prove: time.Minute, GiveUp: 5 * time.Minute, Quiet: 2 * time.Second,
	}
}

// The pauses between two starts of the gateway.
const (
	firstPause = time.Second
	lastPause  = time.Minute
)

// pause returns how long to wait before the next start after one that lasted.
func pause(before, lasted time.Duration) time.Duration {
	if lasted > lastPause {
		return firstPause
	}
	return min(max(2*before, firstPause), lastPause)
}

// rootArgument returns the value of root= on a kernel's command line.
func rootArgument(cmdline string) string {
	for _, w := range strings.Fields(cmdline) {
		if v, ok := strings.CutPrefix(w, "root="); ok {
			return v
		}
	}
	return ""
}

// parsePartUUID reads "PARTUUID=74696465-02": the number of a disk with an MBR and that of a
// partition, both in hex.
func parsePartUUID(s string) (disk uint32, partition int, ok bool) {
	s, ok = strings.CutPrefix(s, "PARTUUID=")
	id, n, cut := strings.Cut(s, "-")
	d, err1 := strconv.ParseUint(id, 16, 32)
	p, err2 := strconv.ParseUint(n, 16, 8)
	if !ok || !cut || err1 != nil || err2 != nil || d == 0 || p == 0 {
		return 0, 0, false
	}
	return uint32(d), int(p), true
}
