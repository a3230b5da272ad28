package fleet_test

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/trust"
	"time"
)

// Publishers and collectors run for months; people enrol devices, change their labels and take
// them away meanwhile.
func TestARegistryFollowsItsFolder(t *testing.T) {
	f := newFleet(t)
	dir := t.TempDir()
	enrol := func(file, name string, seq uint64, labels ...string) trust.DeviceID {
		t.Helper()
		key := mqttsynctest.Key(name).Public()
		e := fleet.Enroll{Root: f.State, Product: "gate", Channel: "stable", Labels: labels, Seq: seq, Issued: mqttsynctest.Issued}
		b, err := e.Sign(&trust.Request{Report: key, Seal: []trust.SealKey{{KEM: 0x20, Public: make([]byte, 32)}}}, mqttsynctest.Key("release"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return trust.DeviceIDOf(key)
	}
	one := enrol("one.tidedevice", "one", 1)
	synctest.Test(t, func(t *testing.T) {
		r, err := fleet.OpenRegistry(dir, f.State)
		if err != nil {
			t.Fatal(err)
		}
		want := func(id trust.DeviceID, seq uint64, label string) {
			t.Helper()
			e, ok := r.Device(id)
			switch {
			case ok != (seq > 0):
				t.Fatalf("known %v, want %v", ok, seq > 0)
			case ok && (e.Seq != seq || label != "" && (len(e.Labels) != 1 || e.Labels[0] != label)):
				t.Fatalf("enrolment %d with %v, want %d with %q", e.Seq, e.Labels, seq, label)
			case ok && r.File(id) == nil:
				t.Fatal("it has no file")
			}
		}
		want(one, 1, "")
		two := enrol("two.tidedevice", "two", 1)
		time.Sleep(3 * time.Second)
		want(two, 1, "")
		enrol("one.tidedevice", "one", 2, "south") // over the old one
		time.Sleep(31 * time.Second)
		want(one, 2, "south")
		enrol("one-again.tidedevice", "one", 3, "north") // beside it: the newest counts
		time.Sleep(3 * time.Second)
		want(one, 3, "north")
		if err := os.Remove(filepath.Join(dir, "two.tidedevice")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		want(two, 0, "")
		if err := os.WriteFile(filepath.Join(dir, "bad.tidedevice"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		want(one, 3, "north")
		if got := r.Faults(); len(got) != 1 {
			t.Errorf("faults %v, want one", got)
		}
	})
}
