package fleet_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/store/events/batch"
	"tidegate/sync/envelope"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/trust"
)

func newFleet(t testing.TB) *mqttsynctest.Fleet {
	t.Helper()
	f, err := mqttsynctest.NewFleet()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func collector(t testing.TB, f *mqttsynctest.Fleet) *fleet.Collector {
	t.Helper()
	s, err := fleet.OpenStore(context.Background(), filepath.Join(t.TempDir(), "fleet.db"), fleet.CallRows)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	signer := f.Signer(trust.RoleCollector)
	return fleet.NewCollector(fleet.CollectorOptions{Fleet: mqttsynctest.Name, Root: f.State, Devices: f, Store: s, Signer: &signer})
}

// stick writes what a device would write to a stick.
func stick(t testing.TB, d *reporter, e batch.Epoch, damage func([]byte) []byte) string {
	t.Helper()
	dir := t.TempDir()
	out := filepath.Join(dir, "tide", "out", d.id.String())
	if err := os.MkdirAll(out, 0o755); err != nil {
		t.Fatal(err)
	}
	var msgs [][]byte
	l := d.loss(e, 1, 1, 2)
	sealed, err := d.seal.Loss(l.Loss, l.First)
	if err != nil {
		t.Fatal(err)
	}
	msgs = append(msgs, sealed)
	for n := uint64(3); n <= 5; n++ {
		msgs = append(msgs, d.batch(t, e, n, 5).Sealed)
	}
	b := envelope.File(envelope.Batch, msgs...)
	if damage != nil {
		b = damage(b)
	}
	if err := os.WriteFile(filepath.Join(out, "e-3-5.tidebatch"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAStickIsTakenTwiceWithoutHarm(t *testing.T) {
	f := newFleet(t)
	c := collector(t, f)
	d := newDevice(t, "stick")
	f.Know(mqttsynctest.Key("stick").Public())
	dir := stick(t, d, batch.Epoch{1}, nil)
	for range 2 {
		got, err := c.From(t.Context(), dir)
		if err != nil || len(got) != 1 || got[0].Batches != 3 || got[0].Losses != 1 || len(got[0].Refused) != 0 {
			t.Fatalf("%+v, %v", got, err)
		}
		b, err := os.ReadFile(got[0].Ack)
		if err != nil {
			t.Fatal(err)
		}
		msgs, err := envelope.ReadFile(envelope.Ack, bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		a, err := message.OpenAck(msgs[0], f.State, d.id, mqttsynctest.Issued, message.RefusePlainAcks)
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Marks) != 1 || a.Marks[0].UpTo != 5 || len(a.Losses) != 1 {
			t.Errorf("ack %+v, want all up to 5 and one loss", a)
		}
	}
}

func TestADamagedStickGivesWhatStandsBeforeTheFault(t *testing.T) {
	f := newFleet(t)
	f.Know(mqttsynctest.Key("stick").Public())
	for name, damage := range map[string]func([]byte) []byte{
		"cut":     func(b []byte) []byte { return b[:len(b)-10] },
		"flipped": func(b []byte) []byte { b[len(b)-10] ^= 1; return b },
	} {
		t.Run(name, func(t *testing.T) {
			got, err := collector(t, f).From(t.Context(), stick(t, newDevice(t, "stick"), batch.Epoch{1}, damage))
			if err != nil || len(got) != 1 || got[0].Batches != 2 || len(got[0].Refused) != 1 {
				t.Errorf("%+v, %v; want two batches and a reason", got, err)
			}
		})
	}
	got, err := collector(t, f).From(t.Context(), stick(t, newDevice(t, "unknown"), batch.Epoch{1}, nil))
	if err != nil || len(got) != 1 || got[0].Batches != 0 || got[0].Ack != "" || len(got[0].Refused) != 1 {
		t.Errorf("stick of a device that is not enrolled: %+v, %v", got, err)
	}
	if _, err := collector(t, f).From(t.Context(), t.TempDir()); !refusal.Is(err, refusal.Format) {
		t.Errorf("empty stick: %v", err)
	}
}

func request(t testing.TB, f *mqttsynctest.Fleet, key envelope.PrivateKey) []byte {
	t.Helper()
	r := trust.Request{
		Domain: f.Domain, Seq: 1, Issued: mqttsynctest.Issued, Hardware: []string{"linux-arm64"}, Report: key.Public(),
		Seal: []trust.SealKey{{KEM: 0x20, Public: make([]byte, 32)}},
	}
	payload, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	env, err := envelope.Sign(envelope.Enroll, payload, key)
	if err != nil {
		t.Fatal(err)
	}
	return envelope.File(envelope.Enroll, env)
}

func TestEnrol(t *testing.T) {
	f := newFleet(t)
	key := mqttsynctest.Key("new")
	r, err := fleet.OpenRequest(bytes.NewReader(request(t, f, key)))
	if err != nil {
		t.Fatal(err)
	}
	e := fleet.Enroll{Root: f.State, Product: "gate", Channel: "stable", Labels: []string{"south", "north"}, Seq: 1, Issued: mqttsynctest.Issued}
	b, err := e.Sign(r, mqttsynctest.Key("release"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string][]byte{"a.tidedevice": b, "b.tidedevice": []byte("rubbish"), "c.txt": []byte("x")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reg, err := fleet.OpenRegistry(dir, f.State)
	if err != nil {
		t.Fatal(err)
	}
	got, ok := reg.Device(r.ID())
	if !ok || got.Report != key.Public() || !slices.Equal(got.Labels, []string{"north", "south"}) {
		t.Errorf("registry has %+v, %v", got, ok)
	}
	if n := len(reg.Faults()); n != 1 {
		t.Errorf("%d files with faults, want 1", n)
	}
	if _, err := e.Sign(r, mqttsynctest.Key("stranger")); !refusal.Is(err, refusal.SigThreshold) {
		t.Errorf("signed by a stranger: %v", err)
	}
	acl := fleet.ACL("acme", r.ID())
	for _, want := range []string{"topic write tidegate/v1/acme/d/" + r.ID().String() + "/up/#", "tidegate.v1.acme.d." + r.ID().String() + ".dn.>", "tidegate.v1.acme.c.*.*.mf"} {
		if !strings.Contains(acl, want) {
			t.Errorf("rules without %q:\n%s", want, acl)
		}
	}
}

func TestARolloutTellsTheSameDevicesFirst(t *testing.T) {
	f := newFleet(t)
	dir := t.TempDir()
	e := fleet.Enroll{Root: f.State, Product: "gate", Channel: "stable", Seq: 1, Issued: mqttsynctest.Issued}
	const n = 300
	for i := range n {
		key := mqttsynctest.Key("rollout " + string(rune('a'+i)))
		r, err := fleet.OpenRequest(bytes.NewReader(request(t, f, key)))
		if err != nil {
			t.Fatal(err)
		}
		e.Labels = nil
		if i < 10 {
			e.Labels = []string{"pilot"}
		}
		b, err := e.Sign(r, mqttsynctest.Key("release"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, r.ID().String()+".tidedevice"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reg, err := fleet.OpenRegistry(dir, f.State)
	if err != nil {
		t.Fatal(err)
	}
	tide, err := f.Bundle(1, 100, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := f.Publish(t.TempDir(), tide)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	told := func(r fleet.Rollout) map[trust.DeviceID]bool {
		all := map[trust.DeviceID]bool{}
		for _, id := range fleet.Targets(reg, p.Manifest, r) {
			all[id] = true
		}
		return all
	}
	ten, half := told(fleet.Rollout{Percent: 10}), told(fleet.Rollout{Percent: 50})
	if len(ten) < n/20 || len(ten) > n/6 || len(half) < n/3 || len(half) > n*2/3 {
		t.Errorf("10 percent are %d, 50 percent %d of %d", len(ten), len(half), n)
	}
	for id := range ten {
		if !half[id] {
			t.Errorf("%s is among the first tenth and not in the first half", id)
		}
	}
	if got := len(told(fleet.Whole())); got != n {
		t.Errorf("100 percent are %d", got)
	}
	if got := len(told(fleet.Rollout{Percent: 100, Labels: []string{"pilot"}})); got != 10 {
		t.Errorf("%d devices with the label, want 10", got)
	}
	if got := len(told(fleet.Rollout{Percent: 100, Paused: true})); got != 0 {
		t.Errorf("%d devices are told in a pause", got)
	}
	file := filepath.Join(dir, "rollout.json")
	if err := (fleet.Rollout{Percent: 101}).Write(file); err == nil {
		t.Error("101 percent are accepted")
	}
}

func TestABundleOfAnotherFleetIsNotPublished(t *testing.T) {
	f := newFleet(t)
	tide, err := f.Bundle(1, 1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	tide[len(tide)-1] ^= 1
	if _, err := f.Publish(t.TempDir(), tide); !refusal.Is(err, refusal.Digest) {
		t.Errorf("damaged bundle: %v, want E_DIGEST", err)
	}
}

func FuzzTideBatch(f *testing.F) {
	d := newDevice(f, "stick")
	fl := newFleet(f)
	fl.Know(mqttsynctest.Key("stick").Public())
	f.Add(envelope.File(envelope.Batch, d.batch(f, batch.Epoch{1}, 1, 3).Sealed))
	f.Add(envelope.File(envelope.Batch))
	c := collector(f, fl)
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := stick(t, d, batch.Epoch{2}, func([]byte) []byte { return b })
		if _, err := c.From(context.Background(), dir); err != nil {
			t.Fatal(err)
		}
	})
}
