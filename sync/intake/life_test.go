package intake

import (
	"testing"
	"tidegate/policy/changes"
	"tidegate/policy/refusal"
)

func TestABundleIsTriedConfirmedAndServedAgain(t *testing.T) {
	w := newWorld(t)
	w.wantServes(0)
	one := w.confirm(w.bundle(1, nil))
	w.wantServes(1)
	w.wantSeq(1)
	two := w.put(w.bundle(2, nil))
	w.wantServes(2)
	w.wantSeq(1) // counters move at confirm
	if s := w.desk.Status(); s.Good.Digest != one || s.Trial.Digest != two.Digest || s.Serving.Seq != 2 {
		t.Errorf("status %+v", s)
	}
	if _, err := w.desk.Confirm(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	w.wantSeq(2)
	w.restart()
	w.wantServes(2)
	w.wantSeq(2)
	s := w.desk.Status()
	if s.Good.Digest != two.Digest || s.Older.Digest != one || s.Trial != nil || len(s.Alarms) != 0 {
		t.Errorf("status after the restart %+v", s)
	}
}

func TestPlanKeepsNothing(t *testing.T) {
	w := newWorld(t)
	w.confirm(w.bundle(1, nil))
	w.fleet.Rotate(t, nil)
	b := w.bundle(2, nil)
	before := w.picture()
	r, err := w.desk.Plan(t.Context(), candidate(b))
	if err != nil || r.Phase != Compiled || r.Seq != 2 || r.Changes == nil || len(r.Changes.Changed) != 1 {
		t.Fatalf("plan: %+v, %v", r, err)
	}
	if len(r.Rules) != 2 || r.Rules[0].How != changes.Removed || r.Rules[1].How != changes.Added || r.Rules[0].Name == r.Rules[1].Name {
		t.Errorf("the plan compares %+v, want what serves and what was offered", r.Rules)
	}
	if after := w.picture(); after.serves != before.serves || after.roots != before.roots || len(after.staging) != 0 || len(after.slots) != 1 || after.entries != before.entries {
		t.Errorf("plan changed the device\nbefore %+v\nafter  %+v", before, after)
	}
	b[len(b)-1] ^= 1
	if _, err := w.desk.Plan(t.Context(), candidate(b)); !refusal.Is(err, refusal.Digest) {
		t.Errorf("plan of a damaged file: %v", err)
	}
	if after := w.picture(); len(after.staging) != 0 || after.entries != before.entries {
		t.Errorf("a refused plan changed the device: %+v", after)
	}
}
