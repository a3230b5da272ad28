package usbdrop

import (
	"bytes"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/envelope"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/trust"
	"time"
)

// timeFile returns an attestation for the device as a file.
func (w *world) timeFile(role trust.RoleNumber, at time.Time, change func(*message.Time)) []byte {
	w.t.Helper()
	s := w.fleet.Signer(role)
	m := &message.Time{Device: w.device.ID, Milli: uint64(at.UnixMilli()), Error: 500} //nolint:gosec // a time of this century
	if change != nil {
		change(m)
	}
	b, err := s.Time(m)
	check(w.t, err)
	return envelope.File(envelope.Time, b)
}

// A stick takes the time along: the device knows then that it is at least so late, and not that
// it is so late.
func TestTheTimeComesOnAStick(t *testing.T) {
	for _, name := range []string{"now.tidetime", "tide/now.tidetime", "tide/ack/ID.tidetime"} {
		w := newWorld(t, nil)
		name = strings.Replace(name, "ID", w.device.ID.String(), 1)
		at := w.device.Clock.Lower().Add(40 * 24 * time.Hour)
		stick := w.stick(map[string][]byte{name: w.timeFile(trust.RoleTime, at, nil)})
		v := w.insert(stick)
		w.want(v, Accepted, "")
		if i := w.item(v, name); !strings.Contains(i.text(), "time taken") {
			t.Errorf("%s: %s", name, i.text())
		}
		r := w.device.Clock.Now()
		if r.Lower.Before(at.Add(-time.Second)) || r.Lower.After(at.Add(time.Minute)) {
			t.Errorf("%s: the floor is %s, want %s", name, r.Lower, at)
		}
		if q := r.Quality.String(); q != "UNSYNCED" {
			t.Errorf("%s: a stick of an unknown age makes the clock %s", name, q)
		}
		v = w.insert(stick)
		if i := w.item(v, name); !strings.Contains(i.text(), "already so") {
			t.Errorf("%s once more: %s", name, i.text())
		}
		older := w.stick(map[string][]byte{name: w.timeFile(trust.RoleTime, at.Add(-24*time.Hour), nil)})
		w.want(w.insert(older), Accepted, "")
		if got := w.device.Clock.Now().Lower; got.Before(r.Lower) {
			t.Errorf("%s: an older stick took the floor back to %s", name, got)
		}
	}
}

func TestHostileTimes(t *testing.T) {
	w := newWorld(t, nil)
	at := w.device.Clock.Lower().Add(10 * 24 * time.Hour)
	whole := w.timeFile(trust.RoleTime, at, nil)
	for name, c := range map[string]struct {
		b    []byte
		word refusal.Word
	}{
		"for another device":     {w.timeFile(trust.RoleTime, at, func(m *message.Time) { m.Device[0]++ }), refusal.Target},
		"by the collector":       {w.timeFile(trust.RoleCollector, at, nil), refusal.SigThreshold},
		"401 days from now":      {w.timeFile(trust.RoleTime, mqttsynctest.Now().Add(401*24*time.Hour), nil), refusal.TimeJump},
		"in the year 5000":       {w.timeFile(trust.RoleTime, time.Date(5000, 1, 1, 0, 0, 0, 0, time.UTC), nil), ""},
		"with an error of hours": {w.timeFile(trust.RoleTime, at, func(m *message.Time) { m.Error = 7_200_000 }), refusal.Limit},
		"bit flipped":            {flip(whole, len(whole)-3), refusal.SigBad},
		"endless":                {append(bytes.Clone(whole), make([]byte, 1<<20)...), refusal.Limit},
		"cut":                    {whole[:len(whole)-9], refusal.Truncated},
	} {
		before := w.device.Clock.Lower()
		v := w.insert(w.stick(map[string][]byte{"x.tidetime": c.b}))
		if v.Stage != Refused || c.word != "" && v.Word != c.word {
			t.Errorf("%s: %s %s (%s)", name, v.Stage, v.Word, v.Detail)
		}
		if got := w.device.Clock.Lower(); got.Sub(before) > time.Hour {
			t.Errorf("%s: the floor rose to %s", name, got)
		}
	}
}
