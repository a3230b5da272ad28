package usbdrop

import (
	"bytes"
	"tidegate/platform/clock"
	"tidegate/policy/refusal"
	"tidegate/sync/envelope"
	"tidegate/sync/intake"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/trust"
	"time"
)

// maxTimeFile bounds a file with an attestation of the time.
const maxTimeFile = message.MaxTime + 64

// attest takes an attestation of the time. It was made when the stick was written, and nobody
// knows how long ago that was: it says what time has passed, and not what time it is. So an old
// one changes nothing, and none makes the clock a synchronised one.
func (v *visit) attest(f *file) {
	defer f.Close()
	r := intake.Report{Kind: envelope.Time, Source: source, Object: shown(f.name)}
	already, err := v.takeTime(f)
	if err != nil {
		r.Phase, r.Word, r.Detail, r.Hint = intake.Rejected, wordOf(err), err.Error(), refusal.Hint(err)
	} else {
		r.Phase, r.Already = intake.Accepted, already
	}
	v.v.add(Item{File: shown(f.name), Report: r})
}

func (v *visit) takeTime(f *file) (already bool, err error) {
	b, err := v.s.rest(f, maxTimeFile)
	if err != nil {
		return false, err
	}
	all, err := envelope.ReadFile(envelope.Time, bytes.NewReader(b))
	if err != nil {
		return false, err
	}
	st := v.p.o.Desk.Trust()
	t, err := message.OpenTime(all[0], st, v.p.o.Device, v.p.o.Desk.Floor().Unix)
	if err != nil {
		return false, err
	}
	if _, err := st.Attest(t.Epoch, t.Milli); err != nil {
		return false, err
	}
	at := time.UnixMilli(int64(t.Milli)).Add(-time.Duration(t.Error) * time.Millisecond).UTC() //nolint:gosec // bounded by OpenTime
	if !at.After(v.p.o.Clock.Lower()) {
		return true, nil
	}
	return false, v.p.o.Clock.Contribute(clock.Contribution{Origin: clock.Attestation, Role: uint64(trust.RoleTime), Epoch: t.Epoch, At: at})
}
