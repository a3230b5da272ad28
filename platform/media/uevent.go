package media

import (
	"bytes"
	"strings"
)

// An Event is what the kernel tells of a device (uevent).
type Event struct {
	Action      string // add, remove, change …
	Subsystem   string
	Device      string // major:minor, empty if it has none
	MediaChange bool   // the medium of a drive was changed, or its button pressed
}

// ParseEvent reads a message of the kernel: "add@/devices/…", then KEY=VALUE, each ended by a
// zero byte. It reports false for what is not one, as the messages of udev.
func ParseEvent(b []byte) (e Event, ok bool) {
	head, rest, found := bytes.Cut(b, []byte{0})
	action, path, at := strings.Cut(string(head), "@")
	if !found || !at || action == "" || !strings.HasPrefix(path, "/") {
		return Event{}, false
	}
	e.Action = action
	var major, minor string
	for field := range bytes.SplitSeq(rest, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		switch key {
		case "SUBSYSTEM":
			e.Subsystem = value
		case "MAJOR":
			major = value
		case "MINOR":
			minor = value
		case "DISK_MEDIA_CHANGE", "DISK_EJECT_REQUEST":
			e.MediaChange = value == "1"
		}
	}
	if major != "" && minor != "" {
		e.Device = major + ":" + minor
	}
	return e, true
}
