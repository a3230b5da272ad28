package media

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
)

// A Mount is one line of the mount table (proc_pid_mountinfo(5)).
type Mount struct {
	ID       int
	Device   string // major:minor
	Root     string // of the mount within its file system
	Dir      string // mount point
	ReadOnly bool   // this mount
	Type     string // of the file system
	Source   string
}

// maxMounts bounds the mount table: a machine with more is not one of ours.
const maxMounts = 10_000

// ParseMounts reads a mount table in the form of /proc/self/mountinfo.
func ParseMounts(r io.Reader) ([]Mount, error) {
	var all []Mount
	s := bufio.NewScanner(r)
	s.Buffer(nil, 64<<10)
	for s.Scan() {
		m, err := parseMount(s.Text())
		if err != nil {
			return nil, fmt.Errorf("mount table, line %d: %w", len(all)+1, err)
		}
		if all = append(all, m); len(all) > maxMounts {
			return nil, fmt.Errorf("mount table: more than %d lines", maxMounts)
		}
	}
	return all, s.Err()
}

// parseMount reads "36 35 98:0 /root /dir rw,noatime master:1 - vfat /dev/sda1 rw".
func parseMount(line string) (m Mount, err error) {
	head, tail, ok := strings.Cut(line, " - ")
	a, b := strings.Fields(head), strings.Fields(tail)
	if !ok || len(a) < 6 || len(b) < 2 {
		return m, fmt.Errorf("%q has too few fields", line)
	}
	if m.ID, err = strconv.Atoi(a[0]); err != nil {
		return m, fmt.Errorf("mount id %q is not a number", a[0])
	}
	m.Device, m.Root, m.Dir = a[2], unescape(a[3]), unescape(a[4])
	m.Type, m.Source = b[0], unescape(b[1])
	for _, list := range []string{a[5], strings.Join(b[2:], ",")} {
		for o := range strings.SplitSeq(list, ",") {
			m.ReadOnly = m.ReadOnly || o == "ro"
		}
	}
	return m, nil
}

// unescape turns \040 and the like, which the kernel writes for blanks, back.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
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

// volumes returns the mounts on the folders, or directly in them. Of several on one place only
// the last can be seen.
func volumes(table []Mount, dirs []string) []Volume {
	at := map[string]int{}
	var all []Volume
	for _, m := range table {
		if m.Type == "autofs" || !watched(m.Dir, dirs) {
			continue
		}
		v := Volume{
			Dir: m.Dir, Device: m.Device, Type: m.Type, ReadOnly: m.ReadOnly,
			id: fmt.Sprintf("%d %s %s %s %s", m.ID, m.Device, m.Root, m.Dir, m.Source),
		}
		if i, ok := at[m.Dir]; ok {
			all[i] = v
			continue
		}
		at[m.Dir] = len(all)
		all = append(all, v)
	}
	return all
}

func watched(dir string, dirs []string) bool {
	for _, d := range dirs {
		if d = path.Clean(d); dir == d || path.Dir(dir) == d && dir != d {
			return true
		}
	}
	return false
}

func compare(a, b string) int { return strings.Compare(a, b) }
