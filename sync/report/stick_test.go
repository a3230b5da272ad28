package report

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle/bundletest"
	"tidegate/sync/trust"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReceipt(t *testing.T) {
	domain := trust.Domain{1}
	s := &Sealer{Domain: domain, Key: bundletest.Key(1)}
	want := Receipt{Product: "gate", Channel: "stable", Digest: trust.Digest{2}, Phase: "rejected", Word: "E_TARGET", Detail: "why", Number: 7, File: "a.tide"}
	env, err := s.Receipt(&want, time.Unix(1_800_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewOpener(domain, bundletest.Key(1).Public())
	if err != nil {
		t.Fatal(err)
	}
	got, err := o.Receipt(env)
	if diff := cmp.Diff(&want, got); err != nil || diff != "" || got.Issued != 1_800_000_000 {
		t.Fatalf("got %+v, want %+v, %v", got, want, err)
	}
	other, err := NewOpener(domain, bundletest.Key(2).Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Receipt(env); !refusal.Is(err, refusal.SigThreshold) {
		t.Errorf("by another key: %v", err)
	}
	foreign, err := NewOpener(trust.Domain{9}, bundletest.Key(1).Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := foreign.Receipt(env); !refusal.Is(err, refusal.TrustDomain) {
		t.Errorf("of another domain: %v", err)
	}
	for i := range env {
		bent := bytes.Clone(env)
		bent[i] ^= 1
		if _, err := o.Receipt(bent); err == nil {
			t.Fatalf("byte %d bent: it opens", i)
		}
	}
	want.Detail = strings.Repeat("x", MaxReceipt)
	if _, err := s.Receipt(&want, time.Now()); !refusal.Is(err, refusal.Limit) {
		t.Errorf("too long: %v", err)
	}
	if _, err := o.Batch(env); err == nil {
		t.Error("a receipt passes for a batch")
	}
}

// The form of a .tidebatch file stays.
func TestFileWriter(t *testing.T) {
	var b bytes.Buffer
	f, err := NewFileWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	for _, env := range [][]byte{{1}, {2, 3}} {
		if err := f.Add(env); err != nil {
			t.Fatal(err)
		}
	}
	const want = "d9d9f7826a746964652d6261746368014101420203"
	if got := hex.EncodeToString(b.Bytes()); got != want || f.Size() != int64(b.Len()) || !f.Fits(MaxFile) || f.Fits(f.Size()+MaxBatch) {
		t.Errorf("got %s (%d bytes), want %s", got, f.Size(), want)
	}
	if f.n = MaxFile - MaxBatch; f.Fits(2 * MaxFile) {
		t.Error("one more fits above the limit")
	}
}

func FuzzReceipt(f *testing.F) {
	s := &Sealer{Domain: trust.Domain{1}, Key: bundletest.Key(1)}
	env, err := s.Receipt(&Receipt{Phase: "trial", File: "a.tide"}, time.Unix(1_800_000_000, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(env)
	f.Add([]byte{0xd8, 0x62})
	o, err := NewOpener(trust.Domain{1}, bundletest.Key(1).Public())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := o.Receipt(b); err == nil && (r.Type != string(Receipts) || !bytes.Equal(b, env) && len(b) > MaxReceipt) {
			t.Errorf("opened %+v", r)
		}
	})
}
