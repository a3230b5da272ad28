package board

import "strings"

// An Uevent is what the kernel says when a device comes or goes.
type Uevent struct {
	Action    string // "add", "remove", "change"
	Path      string // below /sys
	Subsystem string
	Name      string // of the device below /dev
	Type      string // of a block device: "disk", "partition"
}

// ParseUevent reads one message of the kernel's: "ACTION@PATH", then NAME=VALUE, each with a
// zero behind it. Messages of others (udev's begin with "libudev") give false.
func ParseUevent(b []byte) (Uevent, bool) {
	lines := strings.Split(string(b), "\x00")
	action, path, ok := strings.Cut(lines[0], "@")
	if !ok || !strings.HasPrefix(path, "/") {
		return Uevent{}, false
	}
	u := Uevent{Action: action, Path: path}
	for _, l := range lines[1:] {
		name, value, _ := strings.Cut(l, "=")
		switch name {
		case "SUBSYSTEM":
			u.Subsystem = value
		case "DEVNAME":
			u.Name = value
		case "DEVTYPE":
			u.Type = value
		}
	}
	return u, true
}

// Volume reports whether u is a block device that came by USB and has a name that is safe in
// a path.
func (u Uevent) Volume() bool {
	return u.Action == "add" && u.Subsystem == "block" && strings.Contains(u.Path, "/usb") && plain(u.Name)
}

// plain reports whether s is a word of a-z and 0-9.
func plain(s string) bool {
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && len(s) <= 16
}
