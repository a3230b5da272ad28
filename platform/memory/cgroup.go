package memory

import (
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// unlimited is the least value that a version 1 group uses for "no limit": the largest
// multiple of the page size, which depends on the kernel.
const unlimited = int64(1) << 60

// Read returns the limits that hold for this process. root is the root of the file system,
// os.DirFS("/") on a device; only /proc and /sys/fs/cgroup are read. What cannot be read is not a limit.
func Read(root fs.FS) Limits {
	l := Limits{Bytes: memTotal(root), Source: "the size of the machine"}
	if l.Bytes == 0 {
		l.Source = ""
	}
	for _, g := range groups(root) {
		switch {
		case g.controllers == "": // version 2
			for _, dir := range upward("sys/fs/cgroup", g.path) {
				l.lower(number(root, path.Join(dir, "memory.max")), "control group "+g.path)
				l.quota(cpuMax(root, path.Join(dir, "cpu.max")))
			}
		case has(g.controllers, "memory"):
			for _, dir := range upward("sys/fs/cgroup/memory", g.path) {
				l.lower(number(root, path.Join(dir, "memory.limit_in_bytes")), "control group "+g.path)
			}
		case has(g.controllers, "cpu"):
			for _, mount := range []string{"sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"} {
				for _, dir := range upward(mount, g.path) {
					l.quota(ratio(number(root, path.Join(dir, "cpu.cfs_quota_us")), number(root, path.Join(dir, "cpu.cfs_period_us"))))
				}
			}
		}
	}
	return l
}

func (l *Limits) lower(n int64, source string) {
	if n > 0 && n < unlimited && (!l.Explicit && (l.Bytes == 0 || n <= l.Bytes) || n < l.Bytes) {
		l.Bytes, l.Explicit, l.Source = n, true, source
	}
}

func (l *Limits) quota(cpus float64) {
	if cpus > 0 && (l.CPUs == 0 || cpus < l.CPUs) {
		l.CPUs = cpus
	}
}

type group struct{ controllers, path string }

// groups reads /proc/self/cgroup: lines "number:controllers:path"; no controllers is version 2.
func groups(root fs.FS) []group {
	var list []group
	for line := range strings.Lines(text(root, "proc/self/cgroup")) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) == 3 && strings.HasPrefix(part[2], "/") {
			list = append(list, group{controllers: part[1], path: path.Clean(part[2])})
		}
	}
	return list
}

// upward returns the folder of the group below mount and all above it: each limits. In a
// container the path may name what the mount does not show; the mount itself is the group then.
func upward(mount, at string) []string {
	dirs := []string{mount}
	for ; at != "/" && at != "."; at = path.Dir(at) {
		dirs = append(dirs, path.Join(mount, at))
	}
	return dirs
}

func has(list, name string) bool {
	for one := range strings.SplitSeq(list, ",") {
		if one == name {
			return true
		}
	}
	return false
}

func memTotal(root fs.FS) int64 {
	for line := range strings.Lines(text(root, "proc/meminfo")) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil || n < 0 || n > unlimited>>10 {
				return 0
			}
			return n << 10
		}
	}
	return 0
}

// Resident returns the resident memory of this process in bytes, 0 where it cannot be read.
func Resident(root fs.FS) int64 {
	for line := range strings.Lines(text(root, "proc/self/status")) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil || n < 0 || n > unlimited>>10 {
				return 0
			}
			return n << 10
		}
	}
	return 0
}

// cpuMax reads "quota period" of version 2, where quota may be "max".
func cpuMax(root fs.FS, name string) float64 {
	part := strings.Fields(text(root, name))
	if len(part) != 2 {
		return 0
	}
	quota, err := strconv.ParseInt(part[0], 10, 64)
	period, err2 := strconv.ParseInt(part[1], 10, 64)
	if err != nil || err2 != nil {
		return 0
	}
	return ratio(quota, period)
}

func ratio(quota, period int64) float64 {
	if quota <= 0 || period <= 0 {
		return 0
	}
	return float64(quota) / float64(period)
}

// number reads one number; "max" and what cannot be read are 0.
func number(root fs.FS, name string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(text(root, name)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func text(root fs.FS, name string) string {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return ""
	}
	return string(b)
}
