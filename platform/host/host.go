// Package host tells facts of the machine that an operator needs: kernel, mounts, space,
// wear of the flash, and who is at the other end of a unix socket. What cannot be known
// is the zero value; nothing here fails a device.
package host

import (
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A Mount is the mounted file system that holds a path.
type Mount struct {
	Point, Type, Device string
	Options             []string // of the mount and of the file system
}

// Has reports whether an option is set, alone or with a value.
func (m Mount) Has(option string) bool {
	return slices.ContainsFunc(m.Options, func(o string) bool { return o == option || strings.HasPrefix(o, option+"=") })
}

// Space is the room of a file system, in bytes.
type Space struct{ Total, Free int64 }

// Credentials are who opened a unix socket, by the kernel's word at the time of connect.
type Credentials struct{ UID, GID, PID int }

// MountOf returns the mount that holds an absolute, clean path. root is the root of the
// file system; only /proc/self/mountinfo is read (proc_pid_mountinfo(5)).
func MountOf(root fs.FS, name string) Mount {
	var best Mount
	for line := range strings.Lines(text(root, "proc/self/mountinfo")) {
		left, right, ok := strings.Cut(strings.TrimSpace(line), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 3 {
			continue
		}
		point := unescape(l[4])
		if !within(point, name) || len(point) < len(best.Point) {
			continue
		}
		best = Mount{Point: point, Type: r[0], Device: unescape(r[1]), Options: append(strings.Split(l[5], ","), strings.Split(r[2], ",")...)}
	}
	return best
}

func within(dir, name string) bool {
	return dir == "/" || name == dir || strings.HasPrefix(name, dir+"/")
}

// unescape resolves the octal escapes of the kernel, as \040 for a space.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Written returns the bytes that this process gave to block devices since it started, 0
// where the kernel does not count them (proc_pid_io(5)).
func Written(root fs.FS) int64 {
	for line := range strings.Lines(text(root, "proc/self/io")) {
		if rest, ok := strings.CutPrefix(line, "write_bytes:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			if err != nil || n < 0 {
				return 0
			}
			return n
		}
	}
	return 0
}

// WornPercent returns how much of its life an eMMC says it has used, in steps of 10, from
// the worse of its two areas (JEDEC JESD84-B51, DEVICE_LIFE_TIME_EST); -1 where no card says.
func WornPercent(root fs.FS) int {
	worst := -1
	for _, name := range glob(root, "sys/block/mmcblk*/device/life_time") {
		for _, f := range strings.Fields(text(root, name)) {
			if n, err := strconv.ParseUint(f, 0, 8); err == nil && n >= 1 && n <= 11 {
				worst = max(worst, int(n)*10)
			}
		}
	}
	return worst
}

func glob(root fs.FS, pattern string) []string {
	names, err := fs.Glob(root, pattern)
	if err != nil {
		return nil
	}
	return names
}

// KernelAtLeast reports whether a release such as "5.10.94-rpi" is the version or newer.
// A release that cannot be read is: there is nothing to warn of.
func KernelAtLeast(release string, want ...int) bool {
	rest := release
	for _, w := range want {
		digits := 0
		for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
			digits++
		}
		n, err := strconv.Atoi(rest[:digits])
		if err != nil {
			return true
		}
		if n != w {
			return n > w
		}
		rest = strings.TrimPrefix(rest[digits:], ".")
	}
	return true
}

func text(root fs.FS, name string) string {
	b, err := fs.ReadFile(root, path.Clean(name))
	if err != nil {
		return ""
	}
	return string(b)
}
