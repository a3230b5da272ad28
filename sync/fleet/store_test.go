package fleet_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"tidegate/store/events/batch"
	"tidegate/store/events/eventstest"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/report"
	"tidegate/sync/trust"
	"time"
)

// TestStore is one suite for every database: a file of SQLite always, a PostgreSQL server where
// TIDEGATE_TEST_POSTGRES names one.
func TestStore(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { suite(t, filepath.Join(t.TempDir(), "a b?.db")) })
	if place := os.Getenv("TIDEGATE_TEST_POSTGRES"); place != "" {
		t.Run("postgres", func(t *testing.T) { suite(t, place) })
	}
}

func suite(t *testing.T, place string) {
	ctx := context.Background()
	open := func() fleet.Store {
		s, err := fleet.OpenStore(ctx, place, fleet.CallRows)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s, other := open(), open() // a second collector
	t.Cleanup(func() { _, _ = s.Close(), other.Close() })

	put := func(s fleet.Store, in fleet.Intake) map[batch.Epoch]uint64 {
		t.Helper()
		marks, err := s.Put(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		got := map[batch.Epoch]uint64{}
		for _, m := range marks {
			got[m.Epoch] = m.UpTo
		}
		return got
	}
	want := func(got map[batch.Epoch]uint64, e batch.Epoch, upTo uint64) {
		t.Helper()
		if got[e] != upTo {
			t.Fatalf("mark is %d, want %d", got[e], upTo)
		}
	}
	e1 := batch.Epoch(message.NewToken())
	d := newDevice(t, "store "+message.NewToken().String())
	b := func(seqs ...uint64) (in fleet.Intake) {
		for _, n := range seqs {
			in.Batches = append(in.Batches, d.batch(t, e1, n, 10))
		}
		return in
	}
	want(put(s, b(1, 2)), e1, 2)
	want(put(other, b(4, 6)), e1, 2)
	want(put(s, b(1, 2, 4)), e1, 2) // again
	want(put(other, b(3)), e1, 4)
	want(put(s, fleet.Intake{Losses: []fleet.Loss{d.loss(e1, 1, 5, 5)}}), e1, 6)
	want(put(s, fleet.Intake{Losses: []fleet.Loss{d.loss(e1, 1, 5, 5)}}), e1, 6)

	// What a device has released it will never send again.
	st := &message.Status{Nonce: message.Token{2}, State: "confirmed", Queues: []message.Queue{{Class: 1, Epoch: e1, Head: 12, Acked: 9}}, Bundle: &message.Bundle{Good: trust.Digest{1}, Seq: 4}}
	want(put(other, fleet.Intake{Statuses: []fleet.Status{{Device: d.id, Received: time.Now(), Status: st}}}), e1, 9)
	want(put(s, b(10)), e1, 10)

	calls := func(f fleet.Filter) (n int) {
		t.Helper()
		for v, err := range s.Batches(ctx, f) {
			if err != nil {
				t.Fatal(err)
			}
			n += v.Count
		}
		return n
	}
	if n := calls(fleet.Filter{Device: d.id}); n != 60 { // 1, 2, 3, 4, 6, 10
		t.Errorf("%d calls, want 60", n)
	}
	marks, err := other.Marks(ctx, d.id, 4)
	if err != nil || len(marks) != 1 || marks[0].UpTo != 10 {
		t.Errorf("marks %+v, %v", marks, err)
	}
	losses, err := s.Losses(ctx, fleet.Filter{Device: d.id})
	if err != nil || len(losses) != 1 || losses[0].From != 5 || losses[0].Reason != batch.ReasonCap || losses[0].Calls != 7 {
		t.Errorf("losses %+v, %v", losses, err)
	}
	row := func() (r fleet.DeviceRow) {
		t.Helper()
		for v, err := range s.Devices(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			if v.Device == d.id.String() {
				return v
			}
		}
		t.Fatal("no such device")
		return r
	}
	if r := row(); !r.Online || r.Seq != 4 || r.State != "confirmed" || r.Batches != 6 || r.Queued != 3 {
		t.Errorf("row %+v", r)
	}
	// Another collector received an older state and commits it later.
	for _, tc := range []struct {
		age  time.Duration
		want uint64 // bundle
	}{{10 * time.Second, 4}, {time.Hour, 3}, {0, 4}} {
		v := *st
		v.Bundle = &message.Bundle{Good: trust.Digest{byte(tc.age / time.Second)}, Seq: 3}
		if tc.age == 0 {
			v.Bundle = st.Bundle
		}
		put(other, fleet.Intake{Statuses: []fleet.Status{{Device: d.id, Received: time.Now().Add(-tc.age), Status: &v}}})
		if got := row().Seq; got != tc.want {
			t.Errorf("after a state of %s ago the bundle is %d, want %d", tc.age, got, tc.want)
		}
	}
	put(s, fleet.Intake{Wills: []fleet.Will{{Device: d.id, Will: &message.Will{Nonce: message.Token{1}}}}})
	if !row().Online {
		t.Error("a will of another connection counted")
	}
	put(s, fleet.Intake{Wills: []fleet.Will{{Device: d.id, Will: &message.Will{Nonce: message.Token{2}}}}})
	if row().Online {
		t.Error("the will did not count")
	}
	// A stick brings what the device said before, and after.
	for _, tc := range []struct {
		age  time.Duration
		want uint64
	}{{48 * time.Hour, 4}, {time.Minute, 4}, {-time.Minute, 5}} {
		v := *st
		v.Nonce, v.Bundle = message.Token{}, &message.Bundle{Good: trust.Digest{5}, Seq: 5}
		put(s, fleet.Intake{Statuses: []fleet.Status{{Device: d.id, Received: time.Now().Add(-tc.age), Status: &v}}})
		if r := row(); r.Seq != tc.want || r.Online {
			t.Errorf("after a stick with a state of %s ago: %+v, want bundle %d and not online", tc.age, r, tc.want)
		}
	}
	// The device is connected, and a stick comes with what it said after.
	back := *st
	back.Nonce = message.Token{3}
	put(s, fleet.Intake{Statuses: []fleet.Status{{Device: d.id, Received: time.Now().Add(2 * time.Minute), Status: &back}}})
	onStick := *st
	onStick.Nonce, onStick.Boot, onStick.Bundle = message.Token{}, [16]byte{9}, &message.Bundle{Good: trust.Digest{6}, Seq: 6}
	put(other, fleet.Intake{Statuses: []fleet.Status{{Device: d.id, Received: time.Now().Add(3 * time.Minute), Status: &onStick}}})
	if r := row(); r.Seq != 6 || !r.Online {
		t.Errorf("after a stick while it is connected: %+v, want bundle 6 and online", r)
	}
	put(s, fleet.Intake{Wills: []fleet.Will{{Device: d.id, Will: &message.Will{Boot: back.Boot, Nonce: back.Nonce}}}})
	if row().Online {
		t.Error("the will of the connection did not count after a stick")
	}
	res := &message.Result{Digest: trust.Digest{1}, Phase: "confirmed", Number: 4}
	res.Common.Seq = 1
	put(s, fleet.Intake{Results: []fleet.Result{{Device: d.id, Result: res}, {Device: d.id, Result: res}}})

	if n, err := s.Prune(ctx, time.Now().Add(time.Hour)); err != nil || n < 6 {
		t.Errorf("%d batches deleted, %v; want all below the mark", n, err)
	}
	want(put(s, b(1, 2, 3)), e1, 10) // what is pruned is still known
	if n := calls(fleet.Filter{Device: d.id}); n != 0 {
		t.Errorf("%d calls came back after they were deleted", n)
	}
}

// A reporter is a device that seals.
type reporter struct {
	id   trust.DeviceID
	name string
	seal report.Sealer
	open *report.Opener
}

func newDevice(t testing.TB, name string) *reporter {
	t.Helper()
	f, err := mqttsynctest.NewFleet()
	if err != nil {
		t.Fatal(err)
	}
	key := mqttsynctest.Key(name)
	r := &reporter{id: trust.DeviceIDOf(key.Public()), name: name, seal: report.Sealer{Domain: f.Domain, Key: key}}
	if r.open, err = report.NewOpener(f.Domain, key.Public()); err != nil {
		t.Fatal(err)
	}
	return r
}

// batch returns a sealed batch of n calls.
func (r *reporter) batch(t testing.TB, e batch.Epoch, seq uint64, n int) fleet.Batch {
	t.Helper()
	var b batch.Builder
	at := time.Unix(mqttsynctest.Issued, 0)
	for _, v := range eventstest.Mix(n, at, seq) {
		b.Add(&v, at, batch.Stamp{Unix: at, Quality: batch.Unproven})
	}
	packed, err := b.Pack()
	if err != nil {
		t.Fatal(err)
	}
	v := &packed[0]
	v.Class, v.Epoch, v.Seq = batch.Detail, e, seq
	sealed, err := r.seal.Batch(v, at)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := r.open.Batch(sealed)
	if err != nil {
		t.Fatal(err)
	}
	return fleet.Batch{Device: r.id, Key: mqttsynctest.Key(r.name).Public(), Sealed: sealed, Received: time.Now(), Batch: opened}
}

func (r *reporter) loss(e batch.Epoch, number, from, to uint64) fleet.Loss {
	at := time.Unix(mqttsynctest.Issued, 0)
	return fleet.Loss{Device: r.id, Received: time.Now(), Loss: &batch.Loss{
		Number: number, Class: batch.Detail, Epoch: e, From: from, To: to, Known: true, Calls: 7, First: at, Last: at, Reason: batch.ReasonCap,
	}}
}
