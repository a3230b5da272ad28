package report_test

import (
	"bytes"
	"crypto/ed25519"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/store/events/batch"
	"tidegate/store/events/eventstest"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
	"tidegate/sync/report"
	"tidegate/sync/trust"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	domain = trust.Domain{1, 2, 3}
	began  = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	issued = began.Add(time.Minute)
)

func key(n byte) envelope.PrivateKey {
	return envelope.PrivateKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize)))
}

func sealer() *report.Sealer { return &report.Sealer{Domain: domain, Key: key(1)} }

func opener(t testing.TB, d trust.Domain, k envelope.PrivateKey) *report.Opener {
	t.Helper()
	o, err := report.NewOpener(d, k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// made returns a batch as a queue gives it out.
func made(t testing.TB, n int) *batch.Batch {
	t.Helper()
	mix := eventstest.Mix(n, began, 1)
	var builder batch.Builder
	for i := range mix {
		builder.Add(&mix[i], began, batch.Stamp{Boot: 77 * time.Second, Unix: began, Quality: batch.Holdover})
	}
	bs, err := builder.Pack()
	if err != nil {
		t.Fatal(err)
	}
	b := &bs[0]
	b.Epoch, b.Seq, b.BootID, b.Lost = batch.Epoch{9, 8, 7}, 42, [16]byte{4}, 17
	return b
}

func TestABatchOpensAsItWasSealed(t *testing.T) {
	want := made(t, 300)
	env, err := sealer().Batch(want, issued)
	if err != nil {
		t.Fatal(err)
	}
	got, err := opener(t, domain, key(1)).Batch(env)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(batch.Header{}, "Span")); diff != "" {
		t.Errorf("batch differs (-sealed +opened):\n%s", diff)
	}
	n := 0
	for _, err := range got.Events() {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 300 {
		t.Errorf("%d events, want 300", n)
	}
	if over := len(env) - len(want.Body); over > 300 {
		t.Errorf("sealing adds %d bytes", over)
	}
}

func TestTheLargestBatchFitsOnePacket(t *testing.T) {
	b := made(t, 1)
	b.Body = make([]byte, batch.MaxBody)
	b.Seq, b.Lost = 1<<63, 1<<63
	env, err := sealer().Batch(b, issued)
	if err != nil {
		t.Fatal(err)
	}
	if len(env) > report.MaxBatch {
		t.Errorf("sealed batch has %d bytes, a packet %d", len(env), report.MaxBatch)
	}
}

func TestALossOpensAsItWasSealed(t *testing.T) {
	for name, want := range map[string]batch.Loss{
		"range": {
			Number: 3, Class: batch.Detail, Epoch: batch.Epoch{1}, From: 5, To: 9, Known: true, Calls: 1200, Bytes: 20_000,
			First: began, Last: began.Add(time.Hour), Reason: batch.ReasonCap,
		},
		"no range, none known": {Number: 4, Class: batch.RollUps, Epoch: batch.Epoch{2}, First: began, Last: began.Add(time.Minute), Reason: batch.ReasonUnclean},
		"known to be zero":     {Number: 5, Class: batch.Detail, Epoch: batch.Epoch{1}, Known: true, First: began, Last: began, Reason: batch.ReasonBuffer},
	} {
		t.Run(name, func(t *testing.T) {
			env, err := sealer().Loss(&want, issued)
			if err != nil {
				t.Fatal(err)
			}
			got, err := opener(t, domain, key(1)).Loss(env)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&want, got); diff != "" {
				t.Errorf("loss differs (-sealed +opened):\n%s", diff)
			}
		})
	}
	odd := batch.Loss{Number: 1, Class: batch.Detail, First: began.Add(999 * time.Millisecond), Last: began.Add(1001 * time.Millisecond), Reason: batch.ReasonCap}
	env, err := sealer().Loss(&odd, issued)
	if err != nil {
		t.Fatal(err)
	}
	got, err := opener(t, domain, key(1)).Loss(env)
	if err != nil {
		t.Fatal(err)
	}
	if !got.First.Equal(began) || !got.Last.Equal(began.Add(2*time.Second)) {
		t.Errorf("span %v to %v, want it rounded outwards", got.First, got.Last)
	}
}

func TestOthersAreRefused(t *testing.T) {
	good, err := sealer().Batch(made(t, 10), issued)
	if err != nil {
		t.Fatal(err)
	}
	loss, err := sealer().Loss(&batch.Loss{Number: 1, Class: batch.Detail, Reason: batch.ReasonCap, First: began, Last: began}, issued)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, tc := range map[string]struct {
		open *report.Opener
		env  []byte
		want refusal.Word
	}{
		"another device": {opener(t, domain, key(2)), good, refusal.SigThreshold},
		"another domain": {opener(t, trust.Domain{9}, key(1)), good, refusal.TrustDomain},
		"changed":        {opener(t, domain, key(1)), flipped, refusal.SigBad},
		"another kind":   {opener(t, domain, key(1)), loss, refusal.Format},
		"too long":       {opener(t, domain, key(1)), make([]byte, report.MaxBatch+1), refusal.Limit},
	} {
		t.Run(name, func(t *testing.T) {
			if b, err := tc.open.Batch(tc.env); !refusal.Is(err, tc.want) || b != nil {
				t.Errorf("got %v, %v; want %s", b, err, tc.want)
			}
		})
	}
}

// TestFieldsOutOfRangeAreRefused signs payloads that an honest device never makes.
func TestFieldsOutOfRangeAreRefused(t *testing.T) {
	env, err := sealer().Batch(made(t, 10), issued)
	if err != nil {
		t.Fatal(err)
	}
	m, err := envelope.Parse(env, envelope.Batch)
	if err != nil {
		t.Fatal(err)
	}
	for field, tc := range map[uint64]struct {
		value any
		want  string
	}{
		4: {0, "seq is 0"}, 60: {[]byte{1}, "60"}, 61: {257, "field 61"}, 63: {[]int{1, 2, 3}, "quality"},
		64: {5000, "field 64"}, 65: {2, "field 65"}, 66: {[]byte{}, "field 66"}, 77: {1, "unknown"},
	} {
		var payload map[uint64]any
		if err := canon.Unmarshal(m.Payload, &payload, canon.Within(report.MaxBatch)); err != nil {
			t.Fatal(err)
		}
		payload[field] = tc.value
		b, err := canon.Marshal(payload)
		if err != nil {
			t.Fatal(err)
		}
		env, err := envelope.Sign(envelope.Batch, b, key(1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := opener(t, domain, key(1)).Batch(env); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("field %d = %v: error %v, want one that says %q", field, tc.value, err, tc.want)
		}
	}
}

func FuzzPayload(f *testing.F) {
	env, err := sealer().Batch(made(f, 5), issued)
	if err != nil {
		f.Fatal(err)
	}
	m, err := envelope.Parse(env, envelope.Batch)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m.Payload)
	o := opener(f, domain, key(1))
	f.Fuzz(func(t *testing.T, payload []byte) {
		env, err := envelope.Sign(envelope.Batch, payload, key(1))
		if err != nil {
			return
		}
		b, err := o.Batch(env)
		if err != nil {
			return
		}
		again, err := sealer().Batch(b, issued)
		if err != nil {
			t.Fatalf("opened batch cannot be sealed: %v", err)
		}
		same, err := o.Batch(again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(b, same); diff != "" {
			t.Errorf("batch changed (-opened +opened again):\n%s", diff)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	b.ReportAllocs()
	s, one := sealer(), made(b, 1000)
	var env []byte
	for b.Loop() {
		var err error
		if env, err = s.Batch(one, issued); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(env)-len(one.Body)), "overhead-B")
}

func BenchmarkOpen(b *testing.B) {
	b.ReportAllocs()
	env, err := sealer().Batch(made(b, 1000), issued)
	if err != nil {
		b.Fatal(err)
	}
	o := opener(b, domain, key(1))
	for b.Loop() {
		if _, err := o.Batch(env); err != nil {
			b.Fatal(err)
		}
	}
}
