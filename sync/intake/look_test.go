package intake

import (
	"io"
	"sync/atomic"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle/write"
	"tidegate/sync/envelope"
)

// watched counts the bytes that were read, and whether it was closed.
type watched struct {
	io.Reader
	n      *atomic.Int64 // another goroutine reads ahead
	closed *atomic.Bool
}

func (w watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	w.n.Add(int64(n))
	return n, err
}

func (w watched) Close() error { w.closed.Store(true); return nil }

func watching(b []byte) (c Candidate, read *atomic.Int64, closed *atomic.Bool) {
	read, closed = new(atomic.Int64), new(atomic.Bool)
	c = candidate(b)
	open := c.Open
	c.Open = func() (io.ReadCloser, error) {
		in, err := open()
		return watched{in, read, closed}, err
	}
	return c, read, closed
}

// A look changes nothing, roots included, and Take goes on where it stopped: each byte is read
// once.
func TestLookKeepsNothingAndTakeReadsOn(t *testing.T) {
	w := settled(t)
	w.fleet.Rotate(t, nil)
	b := w.bundle(6, func(s *write.Spec) {
		s.Roots = w.fleet.Roots[1:]
		s.Files = append(s.Files, write.Bytes("noise", noise(300_000)))
	})
	before := w.picture()
	c, read, closed := watching(b)
	l, r, err := w.desk.Look(t.Context(), c)
	if err != nil || r.Phase != Verified || r.Seq != 6 || r.Roots != 0 {
		t.Fatalf("look: %+v, %v", r, err)
	}
	if after := w.picture(); after.roots != before.roots || after.pointer != before.pointer || len(after.staging) != 0 || after.entries != before.entries {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
	if read.Load() > 200_000 || closed.Load() {
		t.Errorf("%d of %d bytes were read, closed %v", read.Load(), len(b), closed.Load())
	}
	if r, err := l.Take(t.Context()); err != nil || r.Phase != OnTrial || r.Roots != 1 {
		t.Fatalf("take: %+v, %v", r, err)
	}
	if read.Load() != int64(len(b)) || !closed.Load() {
		t.Errorf("%d of %d bytes were read, closed %v", read.Load(), len(b), closed.Load())
	}
	w.wantServes(6)
	if _, err := l.Take(t.Context()); err == nil {
		t.Error("taken twice")
	}
}

func TestLookThatIsLetGoOfOrRefused(t *testing.T) {
	w := settled(t)
	before := w.picture()
	c, _, closed := watching(w.bundle(6, nil))
	l, _, err := w.desk.Look(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	l.Close()
	if !closed.Load() {
		t.Error("the source is open")
	}
	c, _, closed = watching(w.bundle(3, nil))
	l, r, err := w.desk.Look(t.Context(), c)
	w.mustBe(r, err, refusal.Rollback)
	if l != nil || !closed.Load() {
		t.Error("a refused bundle is held")
	}
	for _, word := range []refusal.Word{refusal.Format, refusal.MediaIO} {
		c := candidate(w.fleet.RootFile(1))
		if word == refusal.MediaIO {
			c.Open = func() (io.ReadCloser, error) { return nil, errBroken }
		}
		_, r, err := w.desk.Look(t.Context(), c)
		w.mustBe(r, err, word)
	}
	after := w.picture()
	if after.entries -= before.entries; after.entries != 3 {
		t.Errorf("%d audit entries, want 3", after.entries)
	}
	after.entries = before.entries
	if after.pointer != before.pointer || after.roots != before.roots || len(after.staging) != 0 {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
}

// Between Look and Take another bundle came in: Take judges again.
func TestTakeJudgesAgain(t *testing.T) {
	w := settled(t)
	l, _, err := w.desk.Look(t.Context(), candidate(w.bundle(6, nil)))
	if err != nil {
		t.Fatal(err)
	}
	w.confirm(w.bundle(7, nil))
	r, err := l.Take(t.Context())
	w.mustBe(r, err, refusal.Rollback)
	w.wantServes(7)

	l, r, err = w.desk.Look(t.Context(), candidate(w.bundle(7, nil)))
	if err != nil || !r.Already || r.Phase != Confirmed {
		t.Fatalf("the bundle that serves: %+v, %v", r, err)
	}
	l.Close()
	w.put(w.bundle(8, nil))
	l, r, err = w.desk.Look(t.Context(), candidate(w.bundle(8, nil)))
	if err != nil || !r.Already || r.Phase != OnTrial {
		t.Fatalf("the bundle on trial: %+v, %v", r, err)
	}
	l.Close()
	// A desk that is taken leaves the look as it is.
	l, _, err = w.desk.Look(t.Context(), candidate(w.bundle(9, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.desk.take(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Take(t.Context()); !refusal.Is(err, refusal.Busy) {
		t.Errorf("take of a taken desk: %v", err)
	}
	w.desk.leave()
	if _, err := w.desk.Confirm(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	if r, err := l.Take(t.Context()); err != nil || r.Phase != OnTrial {
		t.Errorf("take: %+v, %v", r, err)
	}
}

// An equivocation is alarming wherever it is seen: its evidence is signed.
func TestALookAtAnEquivocationRaisesTheAlarm(t *testing.T) {
	w := settled(t)
	other := w.bundle(5, func(s *write.Spec) { s.Files[0] = write.Bytes("policy.cbor", []byte("other")) })
	_, r, err := w.desk.Look(t.Context(), candidate(other))
	w.mustBe(r, err, refusal.Equivocation)
	if _, raised := w.desk.Status().Alarms[refusal.Equivocation]; !raised {
		t.Error("no alarm")
	}
	if r.Kind != envelope.Manifest {
		t.Errorf("report %+v", r)
	}
}
