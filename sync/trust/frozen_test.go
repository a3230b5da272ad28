package trust

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"tidegate/sync/envelope"
)

var freeze = flag.Bool("freeze", false, "write the frozen files of this version")

// frozen returns the files of format 1, which every later version must open. They are
// made of the test keys, so making them again gives the same bytes.
func frozen(t *testing.T) map[string][]byte {
	r := root(1).with(func(r *Root) {
		r.Roles[RoleRoot] = keys(2, 0, 1, 2)
		r.Expires = built + 10*year
		r.Minimums = []Minimum{{Product: "gate", Channel: "stable", Seq: 40}}
		r.Revoked = []Digest{{66}}
	})
	two := r.with(func(r *Root) { r.Version = 2; r.Roles[RoleRoot] = keys(2, 1, 2, 3) })
	request := &Request{
		Seq: 1, Issued: built, Hardware: []string{"linux-arm64"}, Version: [3]uint64{1, 0, 0},
		Report: signer(5).Public(), Seal: []SealKey{{KEM: 32, Public: bytes.Repeat([]byte{7}, 32)}},
	}
	asked, err := request.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"v1.tideroot":   envelope.File(envelope.Root, seal(t, r, 0, 1), seal(t, two, 1, 2)),
		"v1.tideenroll": envelope.File(envelope.Enroll, sign(t, envelope.Enroll, asked, 5)),
		"v1.tidedevice": envelope.File(envelope.Device, sign(t, envelope.Device, enrolment(t, nil), 20)),
		"v1.state":      []byte(record(t, full(t))),
	}
}

func TestFrozenFilesOpen(t *testing.T) {
	made := frozen(t)
	for name, b := range made {
		path := filepath.Join("testdata", name)
		if *freeze {
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, b) {
			t.Errorf("%s: this version writes other bytes (%v)", name, err)
		}
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}

	s, _, err := Pin(read("v1.tideroot"), built)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := envelope.ReadFile(envelope.Root, bytes.NewReader(read("v1.tideroot")))
	if err != nil {
		t.Fatal(err)
	}
	s, _, err = s.AddRoots(roots, built, func(State) error { return nil })
	if err != nil || s.Root().Version != 2 {
		t.Fatalf("roots: %v, at %d", err, s.Root().Version)
	}
	asked, err := envelope.ReadFile(envelope.Enroll, bytes.NewReader(read("v1.tideenroll")))
	if err != nil {
		t.Fatal(err)
	}
	request, err := OpenRequest(asked[0])
	if err != nil {
		t.Fatal(err)
	}
	answered, err := envelope.ReadFile(envelope.Device, bytes.NewReader(read("v1.tidedevice")))
	if err != nil {
		t.Fatal(err)
	}
	s, _, err = s.Enrol(answered[0], request.ID(), built)
	if err != nil || s.Enrolment().Name != "pump house" {
		t.Errorf("enrolment: %v", err)
	}
	stored := full(t)
	got, err := Load(read("v1.state"), stored.Roots(), built)
	if err != nil || record(t, got) != record(t, stored) {
		t.Errorf("state: %v", err)
	}
}
