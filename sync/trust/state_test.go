package trust

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
	"time"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// full returns a state in which everything is set.
func full(t testing.TB) State {
	t.Helper()
	s := follow(t, pinned(t, root(1), 0), root(2), 0)
	s = s.Confirm(offer(41, 41)).Confirm(with(offer(7, 7), func(o *Offer) { o.Channel = "beta" }))
	s = s.Fail(offer(43, 43), refusal.Health).Try(offer(44, 44)).Advance(time.Hour)
	s, _, err := s.Enrol(sign(t, envelope.Device, enrolment(t, nil), 20), DeviceIDOf(signer(5).Public()), built)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStateRoundTrip(t *testing.T) {
	for name, s := range map[string]State{"empty": {}, "pinned": pinned(t, root(1), 0), "full": full(t)} {
		b, err := s.Marshal()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := Load(b, s.Roots(), s.build)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if record(t, got) != string(b) {
			t.Errorf("%s: stored as %x, loaded as %x", name, b, record(t, got))
		}
		if got.Floor().Unix != s.Floor().Unix || got.Generation() != s.Generation() || fmt.Sprint(got.epochs) != fmt.Sprint(s.epochs) {
			t.Errorf("%s: loaded %+v, want %+v", name, got, s)
		}
	}
	s := full(t)
	got, err := Load([]byte(record(t, s)), s.Roots(), built)
	if err != nil {
		t.Fatal(err)
	}
	if l, ok := got.OnTrial(); !ok || l.Seq != 44 {
		t.Errorf("on trial %v, %v", l, ok)
	}
	if f, ok := got.Failure(Digest{43}); !ok || f.Word != refusal.Health {
		t.Errorf("failure %v, %v", f, ok)
	}
	if e := got.Enrolment(); e == nil || e.Product != "gate" {
		t.Errorf("enrolment %v", e)
	}
	if got.Root().Version != 2 {
		t.Errorf("root %d", got.Root().Version)
	}
}

// TestD18Unreadable damages each byte of the record, and the roots beside it: the
// outcome is E_STATE or another state, never a panic, and roots are never mixed up.
func TestD18Unreadable(t *testing.T) {
	s := full(t)
	b := []byte(record(t, s))
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 0x55
		if _, err := Load(c, s.Roots(), built); err != nil && !refusal.Is(err, refusal.State) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	two, err := canon.Marshal(stored{Format: 1, Chain: State{}.Chain(), Trial: []Line{offer(1, 1).Line(), offer(2, 2).Line()}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Load(two, nil, built)
	wantRefusal(t, err, refusal.State, "2 bundles on trial")
	_, err = Load(bytes.Replace([]byte(record(t, State{})), []byte{1, 1}, []byte{1, 2}, 1), nil, built)
	wantRefusal(t, err, refusal.State, "format 2")
	_, err = Load(nil, nil, built)
	wantRefusal(t, err, refusal.State, "unreadable")
	_, err = Load(b, s.Roots()[:1], built)
	wantRefusal(t, err, refusal.State, "other roots")
	_, err = Load(b, [][]byte{s.Roots()[1], s.Roots()[0]}, built)
	wantRefusal(t, err, refusal.State, "other roots")
	_, err = Load([]byte(record(t, State{})), nil, built)
	wantRefusal(t, err, "", "")
}

// TestD16StoredIsNotJudgedAgain loads a state whose root and bundle are long expired.
func TestD16StoredIsNotJudgedAgain(t *testing.T) {
	s := pinned(t, root(1).with(func(r *Root) { r.Expires = built + 2*day }), 0)
	o := with(offer(1, 1), func(o *Offer) { o.Expires = built + 3*day })
	s = s.Confirm(o).SetTime((built + 9*year) * 1000)
	got, err := Load([]byte(record(t, s)), s.Roots(), built)
	if err != nil {
		t.Fatal(err)
	}
	at := Moment{Floor: got.Floor().Unix, Serving: o.Digest}
	if v, _, err := got.Judge(o, device, at); v != AlreadyInstalled {
		t.Errorf("the serving bundle: %v, %v", v, err)
	}
	wantRefusal(t, got.Allowed(o.Line()), "", "")
	_, w, err := got.Judge(offer(2, 2), device, at)
	wantRefusal(t, err, "", "")
	wantWarnings(t, w, refusal.WarnRootExpired)
}

func TestCountersMoveAtConfirm(t *testing.T) {
	s := pinned(t, root(1), 0).Confirm(offer(10, 10))
	counters := func(s State) string {
		l, _ := s.Confirmed("gate", "stable")
		return fmt.Sprint(l)
	}
	before := counters(s)
	tried := s.Try(offer(20, 20))
	if counters(tried) != before {
		t.Error("counters moved at the trial")
	}
	failed := tried.Fail(offer(20, 20), refusal.Health)
	if _, on := failed.OnTrial(); on || counters(failed) != before {
		t.Error("a failed trial left something behind")
	}
	at := Moment{Floor: built, Serving: Digest{10}}
	if v, _, err := failed.Judge(offer(15, 15), device, at); v != Install {
		t.Errorf("a bundle between the confirmed and the failed one: %v, %v", v, err)
	}
	confirmed := tried.Confirm(offer(20, 20))
	if l, _ := confirmed.Confirmed("gate", "stable"); l.Seq != 20 {
		t.Errorf("confirmed %d, want 20", l.Seq)
	}
	if _, on := confirmed.OnTrial(); on {
		t.Error("still on trial after it was confirmed")
	}
	if counters(s) != before {
		t.Error("the old state changed")
	}
	for name, other := range map[string]State{"confirmed": tried.Confirm(offer(11, 11)), "failed": tried.Fail(offer(11, 11), refusal.Health)} {
		if l, on := other.OnTrial(); !on || l.Seq != 20 {
			t.Errorf("another bundle %s, and the trial is over", name)
		}
	}
	again := failed.Confirm(offer(20, 20))
	if _, ok := again.Failure(Digest{20}); ok {
		t.Error("a confirmed bundle is remembered as failed")
	}
}

func TestLast32FailuresAreRemembered(t *testing.T) {
	s := pinned(t, root(1), 0)
	for n := range 40 {
		s = s.Fail(offer(uint64(n+1), byte(n+1)), refusal.Health)
		if len(s.failed) > MaxFailures {
			t.Fatalf("%d failures are remembered", len(s.failed))
		}
	}
	s = s.Fail(offer(20, 20), refusal.Compile) // again, with another word
	for n := 1; n <= 40; n++ {
		f, ok := s.Failure(Digest{byte(n)})
		if ok != (n > 8) {
			t.Errorf("failure %d remembered: %v", n, ok)
		}
		if n == 20 && f.Word != refusal.Compile {
			t.Errorf("failure 20 has word %s", f.Word)
		}
	}
	if s.Forgive(Digest{99}).Generation() != s.Generation() {
		t.Error("to forgive what never failed is a change")
	}
}

func TestAbandon(t *testing.T) {
	s := pinned(t, root(1), 0)
	if s.Abandon(refusal.Health).Generation() != s.Generation() {
		t.Error("to abandon nothing is a change")
	}
	got := s.Try(offer(20, 20)).Abandon(refusal.Health)
	if record(t, got) != record(t, s.Try(offer(20, 20)).Fail(offer(20, 20), refusal.Health)) {
		t.Error("an abandoned trial is not a failed one")
	}
}

func TestMark(t *testing.T) {
	s := full(t)
	if b, err := s.Mark(80); err == nil {
		t.Errorf("mark of %d bytes where 80 are there", len(b))
	}
	for _, limit := range []int{230, 300, 430} {
		b, err := s.Mark(limit)
		if err != nil || len(b) > limit {
			t.Fatalf("mark of %d bytes, %v, want at most %d", len(b), err, limit)
		}
		got, err := Restore(b, s.Roots(), s.EnrolmentMessage(), built)
		if err != nil {
			t.Fatal(err)
		}
		if got.Floor() != s.Floor() || got.Root().Version != 2 || got.Enrolment() == nil {
			t.Errorf("restored %+v", got)
		}
		if l, ok := got.Confirmed("gate", "stable"); limit > 230 && (!ok || l.Seq != 41) {
			t.Errorf("limit %d: confirmed %v, %v", limit, l, ok)
		}
		if l, ok := got.Confirmed("gate", "beta"); limit == 430 && (!ok || l.Seq != 7) {
			t.Errorf("limit %d: beta confirmed %v, %v", limit, l, ok)
		}
	}
}
