package message

import (
	"strings"
	"tidegate/policy/refusal"
	"tidegate/sync/trust"
)

// A Fleet names the topics of one fleet: 1 to 32 of a-z, 0-9 and hyphen.
type Fleet string

const prefix = "tidegate/v1/"

// Check reports a name that cannot stand in a topic.
func (f Fleet) Check() error {
	ok := len(f) >= 1 && len(f) <= 32
	for _, c := range []byte(f) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if !ok {
		return refusal.New(refusal.Format, "fleet %q: want 1 to 32 of a-z, 0-9 and hyphen", string(f))
	}
	return nil
}

// A Part is what follows a device's id in a topic.
type Part string

// The parts. The device writes the first four and reads the others.
const (
	StatusPart  Part = "st"
	BatchPart   Part = "up/an"
	RequestPart Part = "up/rq"
	ReportPart  Part = "up/ev"

	AnnouncePart Part = "dn/mf"
	PiecePart    Part = "dn/bk"
	AckPart      Part = "dn/ak"
	TimePart     Part = "dn/tm"
	CommandPart  Part = "dn/cm"
)

// Device returns the topic of a part of a device.
func (f Fleet) Device(id trust.DeviceID, p Part) string {
	return prefix + string(f) + "/d/" + id.String() + "/" + string(p)
}

// Down returns the filter of everything that is meant for a device.
func (f Fleet) Down(id trust.DeviceID) string {
	return prefix + string(f) + "/d/" + id.String() + "/dn/#"
}

// Channel returns the topic of announcements to all devices of a channel.
func (f Fleet) Channel(product, channel string) string {
	return prefix + string(f) + "/c/" + plain(product) + "/" + plain(channel) + "/mf"
}

// All returns the filter of a part of all devices.
func (f Fleet) All(p Part) string { return prefix + string(f) + "/d/+/" + string(p) }

// AllUp returns the filter of everything that devices send.
func (f Fleet) AllUp() string { return prefix + string(f) + "/d/+/up/#" }

// Shared returns the filter under which the members of a group share messages.
func Shared(group, filter string) string { return "$share/" + group + "/" + filter }

// plain makes a name fit for every broker: NATS escapes dots, and an announcement is only a
// hint, so that two names that meet do no harm.
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '.' || r == '_' {
			return '-'
		}
		return r
	}, name)
}

// Split reads the topic of a device's part. Anything else is false.
func (f Fleet) Split(topic string) (id trust.DeviceID, p Part, ok bool) {
	rest, ok := strings.CutPrefix(topic, prefix+string(f)+"/d/")
	if !ok || len(rest) < 28 || rest[26] != '/' {
		return id, "", false
	}
	id, err := trust.ParseDeviceID(rest[:26])
	if err != nil || id.String() != rest[:26] {
		return id, "", false
	}
	switch p := Part(rest[27:]); p {
	case StatusPart, BatchPart, RequestPart, ReportPart, AnnouncePart, PiecePart, AckPart, TimePart, CommandPart:
		return id, p, true
	}
	return id, "", false
}
