package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/cmd/cli"
	"tidegate/store"
	"tidegate/store/audit"
	"tidegate/sync/bundle/bundletest"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
)

// sealer signs checkpoints with a test key, as a device does with its own.
type sealer int

func (s sealer) SealCheckpoint(n uint64, h [32]byte) ([]byte, error) {
	cp := &trust.Checkpoint{N: n, Head: h}
	cp.Seq = n
	payload, err := cp.Marshal()
	if err != nil {
		return nil, err
	}
	return envelope.Sign(envelope.Checkpoint, payload, bundletest.Key(int(s)))
}

// exported writes an export with checkpoints signed by a key, and returns its name.
func exported(t *testing.T, key int) string {
	t.Helper()
	dir := t.TempDir()
	db, err := store.Open(filepath.Join(dir, "state.db"), store.Options{MaxBytes: 1 << 20, Schema: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	log, err := audit.New(sealer(key))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := log.Record(db, audit.Entry{Event: audit.Start}); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := audit.Export(db, &b); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "audit.bin")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// K6: an export that somebody made anew has a whole chain; the signatures tell.
func TestK6AnExportThatAnotherKeySigned(t *testing.T) {
	dir := t.TempDir()
	enrolled := filepath.Join(dir, "a.tidedevice")
	if err := os.WriteFile(enrolled, bundletest.New(t, "a").Enrolment(t, 90, 1, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what   string
		key    int
		args   []string
		reason string // "": it verifies
		say    string
	}{
		{"the device's own key", 90, []string{"--key", enrolled}, "", "signed by device " + trust.DeviceIDOf(bundletest.Key(90).Public()).String()},
		{"another key", 91, []string{"--key", enrolled}, "audit entry 1", ""},
		{"no key and no device", 91, []string{"--socket", filepath.Join(dir, "none")}, "", "signatures were not checked"},
		{"no file of a device", 90, []string{"--key", exported(t, 90)}, "not a Tidegate file", ""},
	} {
		var out, errs bytes.Buffer
		err := run(context.Background(), append([]string{"history", "--verify", exported(t, c.key)}, c.args...),
			&cli.IO{In: strings.NewReader(""), Out: &out, Err: &errs, Name: "tidegate"})
		text := out.String() + errs.String()
		if failed := err != 0; failed != (c.reason != "") || !strings.Contains(text, c.reason) || !strings.Contains(text, c.say) {
			t.Errorf("%s: exit %v\n%s", c.what, err, text)
		}
	}
}
