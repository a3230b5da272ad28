package intake

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/trust"
)

func spoil(t testing.TB, path string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

func zeros(b []byte) []byte { return make([]byte, len(b)) }

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// The trust state is kept twice: either copy alone brings everything that must not go down
// back, and says so.
func TestI8OneCopyOfTheTrustStateIsEnough(t *testing.T) {
	for name, damage := range map[string]func(w *world){
		"state.db is gone":     func(w *world) { must(t, os.Remove(w.path("state.db"))) },
		"state.db is zeros":    func(w *world) { spoil(t, w.path("state.db"), zeros) },
		"state.db is cut":      func(w *world) { must(t, os.Truncate(w.path("state.db"), 4096)) },
		"trust/state is gone":  func(w *world) { must(t, os.Remove(w.path("trust/state"))) },
		"trust/state is zeros": func(w *world) { spoil(t, w.path("trust/state"), zeros) },
		"trust/root is gone":   func(w *world) { must(t, os.Remove(w.path("trust/root"))) },
		"one slot of two": func(w *world) {
			spoil(t, w.path("trust/state"), func(b []byte) []byte { return append(make([]byte, 512), b[512:]...) })
		},
		"the other slot of two": func(w *world) {
			spoil(t, w.path("trust/state"), func(b []byte) []byte { return append(bytes.Clone(b[:4096]), make([]byte, len(b)-4096)...) })
		},
		"root and slot are gone": func(w *world) {
			must(t, errors.Join(os.Remove(w.path("trust/root")), os.Remove(w.path("trust/state"))))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := settled(t)
			w.fleet.Rotate(t, nil)
			if _, err := w.offer(w.fleet.RootFile(2)); err != nil {
				t.Fatal(err)
			}
			if _, err := w.offer(w.fleet.Enrolment(t, deviceKey, 1, func(e *trust.Enrolment) { e.Labels = []string{"north"} })); err != nil {
				t.Fatal(err)
			}
			floor := w.desk.Floor().Unix
			w.stop()
			damage(w)
			w.start()
			w.wantServes(5)
			w.wantSeq(5)
			s := w.desk.Status()
			if s.Root != 2 || s.Locked != nil || s.Floor.Unix < floor || len(s.Device.Labels) != 1 {
				t.Errorf("status %+v", s)
			}
			w.refuse(candidate(w.bundle(4, nil)), refusal.Rollback, 0)
			w.confirm(w.bundle(6, nil))
			w.restart() // repaired: the other copy may go now
			w.wantServes(6)
			w.wantSeq(6)
			if a := w.desk.Status().Alarms; len(a) != 0 {
				t.Errorf("alarms %v", a)
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAnOlderDatabaseThatIsPutBackCountsForNothing(t *testing.T) {
	w := settled(t)
	w.stop()
	old, err := os.ReadFile(w.path("state.db"))
	must(t, err)
	w.start()
	w.confirm(w.bundle(6, nil))
	w.stop()
	must(t, os.WriteFile(w.path("state.db"), old, 0o600))
	w.start()
	w.wantServes(6)
	w.wantSeq(6)
	if w.desk.Status().Alarms[refusal.StateRollback] == "" {
		t.Error("no alarm")
	}
	w.refuse(candidate(w.bundle(5, nil)), refusal.Rollback, 0)
}

func TestD18BothCopiesAreDamaged(t *testing.T) {
	w := settled(t)
	w.stop()
	must(t, os.Remove(w.path("state.db")))
	spoil(t, w.path("trust/state"), zeros)
	w.start()
	w.wantServes(5) // the newest whole bundle of the shelf
	w.refuse(candidate(w.bundle(6, nil)), refusal.State, 0)
	w.refuse(candidate(w.fleet.RootFile(1)), refusal.State, 0)
	if s := w.desk.Status(); s.Locked == nil || s.Alarms[refusal.State] == "" {
		t.Errorf("status %+v", s)
	}
	w.restart()
	w.wantServes(5)
	w.install() // a person
	if s := w.desk.Status(); s.Locked != nil || s.Root != 1 {
		t.Errorf("status %+v", s)
	}
	w.wantSeq(5)
	w.refuse(candidate(w.bundle(4, nil)), refusal.Rollback, 0)
	w.confirm(w.bundle(6, nil))
	w.restart()
	w.wantServes(6)
}

func (w *world) rot(seq uint64) {
	w.t.Helper()
	d := digestOf(w.t, w.bundle(seq, nil))
	spoil(w.t, filepath.Join(w.dir, "slots", d.String()[:32]+".tide"), func(b []byte) []byte { b[len(b)-3] ^= 1; return b })
}

func TestI15RotInTheServingBundle(t *testing.T) {
	w := settled(t)
	w.rot(5)
	w.desk.scrub(t.Context())
	w.wantServes(5) // from memory
	if w.desk.Status().Alarms[refusal.Digest] == "" {
		t.Error("no alarm")
	}
	if e := w.lastEntry(); e.Word != refusal.Digest {
		t.Errorf("audit entry %+v", e)
	}
	r, err := w.offer(w.bundle(5, nil))
	if err != nil || r.Already || !strings.Contains(r.Detail, "repaired") {
		t.Errorf("repair: %+v, %v", r, err)
	}
	if len(w.desk.Status().Alarms) != 0 {
		t.Error("the alarm stays")
	}
	w.restart()
	w.wantServes(5)
	w.desk.scrub(t.Context())
	if len(w.desk.Status().Alarms) != 0 {
		t.Error("an alarm about a sound shelf")
	}
}

func TestRotThatIsFoundAtStart(t *testing.T) {
	w := settled(t)
	w.rot(5)
	w.restart()
	w.wantServes(4)
	w.wantSeq(5)
	if w.desk.Status().Alarms[refusal.Digest] == "" {
		t.Error("no alarm")
	}
	w.confirm(w.bundle(5, nil)) // any file with that digest
	w.wantServes(5)

	w.rot(5)
	w.rot(4)
	w.restart()
	w.wantServes(0) // safe mode
	if s := w.desk.Status(); s.Serving != nil || s.Alarms[refusal.Health] == "" {
		t.Errorf("status %+v", s)
	}
	w.confirm(w.bundle(5, nil))
	w.wantServes(5)
}

func TestRotInTheBundleOnTrial(t *testing.T) {
	w := settled(t)
	w.put(w.bundle(6, nil))
	w.rot(6)
	w.restart()
	w.wantServes(5)
	w.wantSeq(5)
	w.refuse(candidate(w.bundle(6, nil)), refusal.Digest, 0)
}

func TestI9AReadOnlyDisk(t *testing.T) {
	w := settled(t)
	w.put(w.bundle(6, nil))
	w.stop()
	w.commit = func(string, func() error) error { return os.ErrPermission }
	w.start()
	w.wantServes(5) // the attempt of bundle 6 cannot be written down
	r, err := w.offer(w.bundle(7, nil))
	if word, _ := refusal.Of(err); word.Exit() != 12 {
		t.Errorf("%+v, %v", r, err)
	}
	w.wantServes(5)
	w.stop()
	w.commit = nil
	w.start()
	w.wantServes(6)
}

func TestOlderGivesWayToATrialAndGoodNever(t *testing.T) {
	w := settled(t)
	var sum int64
	for _, d := range w.desk.cur.Load().ptr.Pinned()[:2] {
		sum += w.shelf.Size(d)
	}
	w.quota = sum + 100
	w.restart()
	w.put(w.bundle(6, nil))
	if p := w.desk.cur.Load().ptr; !p.Older.IsZero() || p.Good.IsZero() {
		t.Errorf("pointers %s", pointers(p))
	}
	if len(names(t, w.path("slots"))) != 2 {
		t.Errorf("slots %v", names(t, w.path("slots")))
	}
	if _, err := w.desk.Confirm(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	w.quota = w.shelf.Size(w.desk.cur.Load().ptr.Good) + 100
	w.restart()
	w.refuse(candidate(w.bundle(7, nil)), refusal.NoSpace, 0)
	w.wantServes(6)
}

func TestWhatIsLeftInStagingIsUsedOrDropped(t *testing.T) {
	w := settled(t)
	file, head, chunks := pieces(t, w, 6)
	tr := w.begin(head)
	i := missing(t, tr)[0]
	must(t, tr.Put(i, chunks[i]))
	w.restart() // without a word to the transfer
	if len(names(t, w.path("staging"))) != 1 {
		t.Fatalf("staging %v", names(t, w.path("staging")))
	}
	w.desk.dropCache()
	if len(names(t, w.path("staging"))) != 0 {
		t.Errorf("staging %v", names(t, w.path("staging")))
	}
	w.put(file)
}
