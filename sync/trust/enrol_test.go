package trust

import (
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
)

// enrolment returns the payload of an enrolment of the device whose report key is
// test key 5, after the change.
func enrolment(t testing.TB, change func(*Enrolment)) []byte {
	t.Helper()
	report := signer(5).Public()
	e := &Enrolment{
		Domain: domain, Seq: 4, Issued: built, Product: "gate", Channel: "stable",
		Report: report, Device: DeviceIDOf(report), Seal: []SealKey{{KEM: 32, Public: []byte{1}}},
		Labels: []string{"north", "plant"}, Name: "pump house",
	}
	if change != nil {
		change(e)
	}
	b, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEnrol(t *testing.T) {
	me := DeviceIDOf(signer(5).Public())
	s := pinned(t, root(1), 0)
	s, _, err := s.Enrol(sign(t, envelope.Device, enrolment(t, nil), 20), me, built)
	if err != nil {
		t.Fatal(err)
	}
	other := signer(6).Public()
	for _, v := range []struct {
		name   string
		change func(*Enrolment)
		by     int
		word   refusal.Word
		reason string
		after  uint64 // seq in force
	}{
		{"the same again", nil, 20, "", "", 4},
		{"the same by another key", nil, 21, "", "", 4},
		{"higher seq", func(e *Enrolment) { e.Seq = 5 }, 20, "", "", 5},
		{"lower seq", func(e *Enrolment) { e.Seq = 3 }, 20, refusal.Rollback, "enrolment 3 is older than the one in force (4)", 4},
		{"same seq, another label", func(e *Enrolment) { e.Labels = []string{"ship"} }, 20, refusal.Equivocation, "another enrolment 4", 4},
		{"another device", func(e *Enrolment) { e.Seq, e.Report, e.Device = 5, other, DeviceIDOf(other) }, 20, refusal.Target, "enrols device", 4},
		{"not by release", func(e *Enrolment) { e.Seq = 5 }, 26, refusal.SigThreshold, "a key of role time", 4},
		{"other domain", func(e *Enrolment) { e.Seq, e.Domain = 5, Domain{} }, 20, refusal.TrustDomain, "", 4},
		{"epoch not known", func(e *Enrolment) { e.Seq, e.Epoch = 5, 1 }, 20, refusal.RootChain, "epoch 1", 4},
		{"expired", func(e *Enrolment) { e.Seq, e.Expires = 5, built-1 }, 20, refusal.Expired, "at least", 4},
		{"2099", func(e *Enrolment) { e.Seq, e.Issued = 5, 4_070_908_800 }, 20, refusal.TimeJump, "10 years", 4},
	} {
		t.Run(v.name, func(t *testing.T) {
			got, _, err := s.Enrol(sign(t, envelope.Device, enrolment(t, v.change), v.by), me, built)
			wantRefusal(t, err, v.word, v.reason)
			if got.Enrolment().Seq != v.after {
				t.Errorf("enrolment %d in force, want %d", got.Enrolment().Seq, v.after)
			}
			if changed := record(t, got) != record(t, s); changed != (v.after != 4) {
				t.Errorf("state changed: %v", changed)
			}
		})
	}

	s = follow(t, s, root(2).with(epoch(RoleRelease, 1)), 0)
	_, _, err = s.Enrol(sign(t, envelope.Device, enrolment(t, func(e *Enrolment) { e.Seq = 9 }), 20), me, built)
	wantRefusal(t, err, refusal.Rollback, "epoch 0 of role release is over")
	again, _, err := s.Enrol(sign(t, envelope.Device, enrolment(t, func(e *Enrolment) { e.Seq, e.Epoch = 1, 1 }), 20), me, built)
	if err != nil || again.Enrolment().Seq != 1 {
		t.Errorf("first of a new epoch: %v", err)
	}
}

func TestEnrolmentRules(t *testing.T) {
	for _, v := range []struct {
		name   string
		change func(*Enrolment)
		reason string
	}{
		{"product no name", func(e *Enrolment) { e.Product = "" }, "field 10"},
		{"channel no name", func(e *Enrolment) { e.Channel = "Stable" }, "field 22"},
		{"labels not sorted", func(e *Enrolment) { e.Labels = []string{"plant", "north"} }, "ascending"},
		{"label twice", func(e *Enrolment) { e.Labels = []string{"north", "north"} }, "ascending"},
		{"label no name", func(e *Enrolment) { e.Labels = []string{"no/rth"} }, "not a name"},
		{"hardware no name", func(e *Enrolment) { e.Hardware = []string{""} }, "not a name"},
		{"no sealing key", func(e *Enrolment) { e.Seal = nil }, "field 41"},
		{"empty sealing key", func(e *Enrolment) { e.Seal = []SealKey{{KEM: 32}} }, "empty key"},
		{"id of another key", func(e *Enrolment) { e.Device = DeviceID{1} }, "does not hold the report key"},
		{"report key of small order", func(e *Enrolment) { e.Report = envelope.PublicKey{1} }, "small order"},
		{"seq 0", func(e *Enrolment) { e.Seq = 0 }, "field 4"},
	} {
		t.Run(v.name, func(t *testing.T) {
			report := signer(5).Public()
			e := &Enrolment{
				Domain: domain, Seq: 4, Product: "gate", Channel: "stable",
				Report: report, Device: DeviceIDOf(report), Seal: []SealKey{{KEM: 32, Public: []byte{1}}},
			}
			v.change(e)
			_, err := e.Marshal()
			wantRefusal(t, err, refusal.Format, v.reason)
		})
	}
}

func TestDevice(t *testing.T) {
	me := DeviceIDOf(signer(5).Public())
	version := [3]uint64{1, 0, 0}
	s := pinned(t, root(1), 0)
	d := s.Device(me, "linux-arm64", version)
	if d.Product != "" || d.Channel != "" || len(d.Labels) != 0 || d.ID != me || d.Version != version || len(d.Hardware) != 1 {
		t.Errorf("not enrolled: %+v", d)
	}
	// E3: labels come from the enrolment alone; until then none select it.
	_, _, err := s.Judge(with(offer(1, 1), func(o *Offer) { o.Selectors = []Selector{DevicesWith("north")} }), d, Moment{})
	wantRefusal(t, err, refusal.Target, "label north")

	d = s.Confirm(offer(1, 1)).Device(me, "linux-arm64", version)
	if d.Product != "gate" || d.Channel != "stable" {
		t.Errorf("after the first bundle: %+v", d)
	}
	s, _, err = s.Enrol(sign(t, envelope.Device, enrolment(t, func(e *Enrolment) {
		e.Channel, e.Hardware = "beta", []string{"pump-2"}
	}), 20), me, built)
	if err != nil {
		t.Fatal(err)
	}
	d = s.Confirm(offer(1, 1)).Device(me, "linux-arm64", version)
	if d.Channel != "beta" || len(d.Labels) != 2 || len(d.Hardware) != 2 || d.Hardware[0] != "linux-arm64" {
		t.Errorf("enrolled: %+v", d)
	}
}

func TestRequest(t *testing.T) {
	report := signer(5).Public()
	r := &Request{
		Seq: 1, Issued: built, Hardware: []string{"linux-arm64"}, Version: [3]uint64{1, 0, 0},
		Report: report, Seal: []SealKey{{KEM: 32, Public: []byte{1, 2}}},
	}
	payload, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenRequest(sign(t, envelope.Enroll, payload, 5))
	if err != nil || got.ID() != DeviceIDOf(report) || got.Hardware[0] != "linux-arm64" || got.Version != r.Version {
		t.Errorf("got %+v, %v", got, err)
	}
	_, err = OpenRequest(sign(t, envelope.Enroll, payload, 6))
	wantRefusal(t, err, refusal.SigThreshold, "role report")
	_, err = OpenRequest(sign(t, envelope.Device, payload, 5))
	wantRefusal(t, err, refusal.Format, "type")
	_, err = OpenRequest(make([]byte, MaxEnrolment+1))
	wantRefusal(t, err, refusal.Limit, "16385 bytes")
	r.Hardware = nil
	_, err = r.Marshal()
	wantRefusal(t, err, refusal.Format, "field 11")
}

func TestCheckpoint(t *testing.T) {
	c := &Checkpoint{Common: Common{Domain: domain, Seq: 1, Issued: built}, N: 256, Head: Digest{9}}
	payload, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	env := sign(t, envelope.Checkpoint, payload, 5)
	got, err := OpenCheckpoint(env, signer(5).Public())
	if err != nil || got.N != 256 || got.Head != c.Head {
		t.Errorf("got %+v, %v", got, err)
	}
	_, err = OpenCheckpoint(env, signer(6).Public())
	wantRefusal(t, err, refusal.SigThreshold, "no key of role report")

	wrong := object(t, Common{Type: "batch", Domain: domain, Seq: 1})
	_, err = OpenReport(envelope.Checkpoint, sign(t, envelope.Checkpoint, wrong, 5), signer(5).Public())
	wantRefusal(t, err, refusal.Format, `type: payload is a "batch"`)
	b, err := OpenReport(envelope.Batch, sign(t, envelope.Batch, wrong, 5), signer(5).Public())
	if err != nil || canon.Check(b, canon.Within(1<<10)) != nil {
		t.Errorf("batch: %v", err)
	}
}
