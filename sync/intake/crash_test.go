package intake

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/store/slots"
	"tidegate/store/storetest"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/bundletest"
	"tidegate/sync/bundle/write"
	"tidegate/sync/trust"
)

// A cut is the panic that ends a run as a power cut would: nothing after it happens.
type cut struct{ step string }

// A story is everything a device does to its disk: it takes a root, an enrolment and a
// bundle in, confirms it, tries another and goes back. It can be told again from any point.
type story struct {
	root, enrolment, six, seven []byte
}

func tell(t testing.TB) (dir string, fleet *bundletest.Fleet, s story) {
	t.Helper()
	w := settled(t)
	w.stop()
	w.fleet.Rotate(t, nil)
	return w.dir, w.fleet, storyOf(t, w.fleet)
}

// storyOf makes the files of the story, for a fleet at root 2.
func storyOf(t testing.TB, f *bundletest.Fleet) story {
	s := story{root: f.RootFile(2), six: f.Bundle(t, 6, nil), seven: f.Bundle(t, 7, nil)}
	s.enrolment = f.Enrolment(t, deviceKey, 1, func(e *trust.Enrolment) { e.Labels = []string{"north"} })
	return s
}

// go on with the story until its end; every error is one of the test.
func (s story) run(w *world) {
	w.t.Helper()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatalf("the story does not go on: %v", err)
		}
	}
	_, err := w.offer(s.root)
	must(err)
	_, err = w.offer(s.enrolment)
	must(err)
	if t := w.desk.onTrial(); t != nil && t.m.Seq == 7 {
		_, err := w.desk.Rollback(w.t.Context(), "test")
		must(err)
	}
	offer := func(b []byte) {
		w.t.Helper()
		c := candidate(b)
		c.Retry = true
		_, err := w.desk.Offer(w.t.Context(), c)
		must(err)
	}
	offer(s.six)
	_, err = w.desk.Confirm(w.t.Context(), "test")
	must(err)
	offer(s.seven)
	_, err = w.desk.Rollback(w.t.Context(), "test")
	must(err)
}

// ended checks the end of the story.
func (s story) ended(w *world, what string) {
	w.t.Helper()
	w.wantServes(6)
	w.wantSeq(6)
	st := w.desk.Status()
	if st.Root != 2 || len(st.Device.Labels) != 1 || st.Trial != nil || st.Good == nil || st.Good.Seq != 6 || st.Locked != nil {
		w.t.Errorf("%s: status at the end %+v", what, st)
	}
	if _, failed := w.desk.Trust().Failure(digestOf(w.t, s.seven)); !failed {
		w.t.Errorf("%s: the failure of bundle 7 is not remembered", what)
	}
	if len(names(w.t, filepath.Join(w.dir, "staging"))) != 0 {
		w.t.Errorf("%s: staging holds %v", what, names(w.t, filepath.Join(w.dir, "staging")))
	}
	if got := names(w.t, filepath.Join(w.dir, "slots")); len(got) > 2 {
		w.t.Errorf("%s: slots are %v", what, got)
	}
}

func digestOf(t testing.TB, file []byte) trust.Digest {
	_, m := bundletest.Open(t, file)
	return m.Digest()
}

// sound checks P0 of a device that has just started.
func (w *world) sound(what string) {
	w.t.Helper()
	m := w.desk.cur.Load()
	if w.desk.locked() != nil {
		w.t.Fatalf("%s: locked: %v", what, w.desk.locked())
	}
	serving := m.ptr.Serving()
	info := w.desk.Status().Serving
	if serving.IsZero() || info == nil || slots.Digest(info.Digest) != serving || w.gate.serves() != policyOf(info.Seq) {
		w.t.Fatalf("%s: serves %q, pointers say %s (%+v)", what, w.gate.serves(), pointers(m.ptr), info)
	}
	l, _ := m.state.Confirmed("gate", "stable")
	if slots.Digest(l.Digest) != m.ptr.Good || l.Seq != 5 && l.Seq != 6 {
		w.t.Fatalf("%s: counters say %d (%s), good is %s", what, l.Seq, l.Digest, m.ptr.Good)
	}
	trial, on := m.state.OnTrial()
	if on != !m.ptr.Trial.IsZero() || on && slots.Digest(trial.Digest) != m.ptr.Trial {
		w.t.Fatalf("%s: the trial of the trust state and of the pointers differ: %v, %s", what, trial, pointers(m.ptr))
	}
	for _, d := range m.ptr.Pinned() {
		if w.shelf.Damaged(d) {
			w.t.Fatalf("%s: the slot of %s is gone", what, d)
		}
	}
	if a := w.desk.Status().Alarms; len(a) != 0 {
		w.t.Fatalf("%s: alarms %v", what, a)
	}
}

// clone copies the folder of a device.
func clone(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	// CopyFS keeps no modes but the executable bit; the store asks for its own.
	if err := filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	}); err != nil {
		t.Fatal(err)
	}
	return to
}

func again(t testing.TB, dir string, fleet *bundletest.Fleet) *world {
	w := bareWorld(t)
	w.dir, w.fleet = dir, fleet
	return w
}

// until runs fn and cuts the power at step n, counted from 1; 0: never. It returns the steps
// that were taken.
func (w *world) until(n int, fn func()) (steps int, at string) {
	at = w.untilStep(func(string) bool {
		steps++
		return steps == n
	}, fn)
	return steps, at
}

// untilStep runs fn, which starts the device, and cuts the power at the first step that is the
// last one. It returns its name, "" if there was none.
func (w *world) untilStep(last func(name string) bool, fn func()) (at string) {
	w.step = func(name string) {
		if last(name) {
			panic(cut{name})
		}
	}
	defer func() {
		w.step = nil
		if p := recover(); p != nil {
			c, ok := p.(cut)
			if !ok {
				panic(p)
			}
			at = c.step
		}
		w.stop()
	}()
	fn()
	return ""
}

// One power cut at every step of the story; then a second one at a step of the start and of
// what follows. After each the device serves the old or the new bundle as its pointers say,
// counters and pointers agree, and the story comes to its end.
func TestI1toI7PowerCutsSinglyAndInPairs(t *testing.T) {
	dir, fleet, s := tell(t)
	play := func(w *world) func() {
		return func() {
			w.start()
			s.run(w)
		}
	}
	first := again(t, clone(t, dir), fleet)
	total, _ := first.until(0, play(first))
	if total < 30 {
		t.Fatalf("only %d steps", total)
	}
	stride := 19
	if os.Getenv("TIDEGATE_ALL_CUTS") != "" {
		stride = 1
	}
	seen := make(map[string]bool)
	for one := 1; one <= total; one++ {
		w := again(t, clone(t, dir), fleet)
		_, at := w.until(one, play(w))
		seen[at] = true
		what := fmt.Sprintf("cut at step %d (%s)", one, at)
		middle := clone(t, w.dir)

		w.start()
		w.sound(what)
		if p := w.desk.cur.Load().ptr; !p.Trial.IsZero() && p.Attempts != autoAttempts-1 {
			t.Fatalf("%s: on trial with %d attempts left, want one less than %d", what, p.Attempts, autoAttempts)
		}
		s.run(w)
		s.ended(w, what)
		w.restart()
		s.ended(w, what+", started once more")
		w.stop()
		os.RemoveAll(w.dir) //nolint:errcheck // only to save space; the test removes it too

		for two := 1 + one%stride; two <= total; two += stride {
			w := again(t, clone(t, middle), fleet)
			_, second := w.until(two, play(w))
			if second == "" {
				break // the story had ended before
			}
			what := fmt.Sprintf("%s, then at step %d (%s)", what, two, second)
			w.start()
			w.sound(what)
			s.run(w)
			s.ended(w, what)
			w.stop()
			os.RemoveAll(w.dir) //nolint:errcheck // as above
		}
		os.RemoveAll(middle) //nolint:errcheck // as above
	}
	for _, step := range []string{
		"root: transaction", "root: committed", "root: root file", "root: slot", "enrolment file", "write chunk", "rename part",
		"trial: transaction", "trial: committed", "trial: slot", "swap", "confirm: transaction", "confirm: committed", "confirm: slot", "roll back: transaction", "roll back: slot", "sweep",
	} {
		if !seen[step] {
			t.Errorf("no cut at step %q; there were %v", step, slices.Sorted(keys(seen)))
		}
	}
}

func keys(m map[string]bool) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// C20: a cut between two roots of one file. The chain goes on from the root that stands, and
// the bundle that came with them is not there.
func TestC20CutsBetweenRoots(t *testing.T) {
	w := settled(t)
	w.stop()
	for range 3 {
		w.fleet.Rotate(t, nil)
	}
	file := w.bundle(6, func(s *write.Spec) { s.Roots = w.fleet.Roots[1:] })
	versions := make(map[uint64]bool)
	for n := 1; ; n++ {
		v := again(t, clone(t, w.dir), w.fleet)
		_, at := v.until(n, func() {
			v.start()
			_, _ = v.offer(file) //nolint:errcheck // it may not return
		})
		if at == "create part" || at == "" {
			break
		}
		if !strings.HasPrefix(at, "root") {
			continue
		}
		v.start()
		v.sound(fmt.Sprintf("cut at step %d (%s)", n, at))
		v.wantServes(5)
		versions[v.desk.Status().Root] = true
		v.confirm(file)
		if got := v.desk.Status().Root; got != 4 {
			t.Errorf("cut at step %d (%s): root is %d at the end", n, at, got)
		}
		v.stop()
	}
	for _, version := range []uint64{1, 2, 3, 4} {
		if !versions[version] {
			t.Errorf("no cut left the device at root %d: %v", version, versions)
		}
	}
}

// Each commit of the story goes wrong in each way: nothing of it on disk, all of it, or torn.
// The device says so, goes on serving, and is sound after the next start.
func TestI10CommitsThatGoWrong(t *testing.T) {
	dir, fleet, s := tell(t)
	count := new(storetest.Faults)
	w := again(t, clone(t, dir), fleet)
	w.commit = count.Commit
	w.start()
	s.run(w)
	total := count.Commits()
	w.stop()
	if total < 7 {
		t.Fatalf("only %d commits", total)
	}
	for _, fate := range storetest.Fates {
		for n := 1; n <= total; n++ {
			what := fmt.Sprintf("commit %d of %d: %s", n, total, fate)
			w := again(t, clone(t, dir), fleet)
			faults := new(storetest.Faults)
			faults.At(n, fate)
			w.commit = faults.Commit
			w.start()
			before := w.gate.serves()
			if before == "" {
				t.Fatalf("%s: nothing serves", what)
			}
			for _, step := range []func() error{
				func() error { _, err := w.offer(s.root); return err },
				func() error { _, err := w.offer(s.enrolment); return err },
				func() error { _, err := w.offer(s.six); return err },
				func() error { _, err := w.desk.Confirm(t.Context(), "test"); return err },
				func() error { _, err := w.offer(s.seven); return err },
				func() error { _, err := w.desk.Rollback(t.Context(), "test"); return err },
			} {
				before, known := w.gate.serves(), w.desk.cur.Load()
				err := step()
				if err != nil && w.desk.cur.Load() != known {
					t.Fatalf("%s: the device believes what is not on its disk, after %v", what, err)
				}
				if now := w.gate.serves(); err != nil && now != before {
					t.Fatalf("%s: serves %q after %v, before %q", what, now, err, before)
				}
				if word, coded := refusal.Of(err); err != nil && (!coded || word.Exit() != 12 && word.Exit() != 40 && word.Exit() != 70) {
					t.Fatalf("%s: %v", what, err)
				}
				if w.gate.serves() == "" {
					t.Fatalf("%s: nothing serves", what)
				}
			}
			w.stop()
			w.commit = nil
			w.start()
			w.sound(what)
			s.run(w)
			s.ended(w, what)
			w.stop()
			os.RemoveAll(w.dir) //nolint:errcheck // only to save space
		}
	}
}

func TestJ1ABundleThatKillsTheProcess(t *testing.T) {
	w := settled(t)
	w.put(w.bundle(6, nil))
	w.restart() // first start: 2 attempts are left
	w.wantServes(6)
	if a := w.desk.Status().Attempts; a != 2 {
		t.Errorf("%d attempts are left", a)
	}
	w.restart()
	w.wantServes(6)
	w.restart()
	w.wantServes(5)
	w.wantSeq(5)
	r := w.refuse(candidate(w.bundle(6, nil)), refusal.Health, 0)
	if r.Word.Exit() != 61 {
		t.Errorf("exit %d", r.Word.Exit())
	}
	// The attempt is gone before the bundle is loaded.
	c := candidate(w.bundle(6, nil))
	c.Retry = true
	if _, err := w.desk.Offer(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.gate.onCompile = nil
	for range 2 {
		w.until(99, func() {
			w.gate.set(func(g *fakeGate) { g.refuse = nil })
			w.open()
			w.gate.onCompile = func(b *bundle.Reader) {
				if b.Manifest().Seq == 6 {
					panic(cut{"load"})
				}
			}
			_ = w.desk.Resume(t.Context()) //nolint:errcheck // it does not return
		})
	}
	w.gate.onCompile = nil
	w.start()
	w.wantServes(5)
}
