package intake

import (
	"testing"
	"tidegate/policy/refusal"
	"tidegate/store"
	"tidegate/store/audit"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/write"
	"time"
)

// attempted makes a bundle one of a system that gets n starts.
func attempted(n uint64) func(*write.Spec) {
	return func(s *write.Spec) {
		system(aboutA, "hsqs root")(s)
		s.Manifest.Activation = &bundle.Activation{Mode: bundle.Automatic, Window: 120, Attempts: n}
	}
}

// A program that dies again and again uses up the starts of the system that it came with, and
// nothing else: not the files, which a crash loop of nine starts would cost, and not the trial.
func TestASystemWhoseProgramDiesIsGivenUpAfterItsAttempts(t *testing.T) {
	for name, c := range map[string]struct {
		lives   time.Duration
		healthy bool // it served for a minute
	}{
		"late in its window":    {100 * time.Second, true},
		"within a minute":       {50 * time.Second, false},
		"before it served once": {0, false},
	} {
		t.Run(name, func(t *testing.T) {
			machined(t, func(t *testing.T, w *world) {
				r := w.put(w.bundle(1, attempted(9)))
				verbs := "try"
				w.reboot(onB)
				for start := range 9 {
					verbs += " hold"
					if st := w.desk.Status(); st.Trial == nil || st.Attempts != 8-start || w.mach.verbs() != verbs {
						t.Fatalf("start %d: trial %+v, %d starts left, decided %q", start+1, st.Trial, st.Attempts, w.mach.verbs())
					}
					stop := w.run()
					pass(c.lives)
					if c.healthy {
						if err := w.store.Healthy(); err != nil {
							t.Fatal(err)
						}
					}
					stop()
					w.restart()
				}
				if got := w.mach.verbs(); got != verbs+" give-up" || w.desk.Status().Trial != nil {
					t.Errorf("decided %q, trial %+v", got, w.desk.Status().Trial)
				}
				if e := w.lastEntry(); e.Event != audit.RolledBack || e.Word != refusal.Health || e.Detail != "crashed: 9 starts without a verdict" {
					t.Errorf("last entry %+v", e)
				}
				if f, failed := w.desk.Trust().Failure(r.Digest); !failed || f.Word != refusal.Health {
					t.Errorf("remembered %+v, %v", f, failed)
				}
				if mode := w.store.Mode(); mode != store.Normal {
					t.Errorf("the store is %s", mode)
				}
				w.wantServes(5)
				w.wantSeq(5)
				w.reboot(backOn)
				w.wantServes(5)
				w.put(w.bundle(2, attempted(1)))
				w.reboot(onB)
				if st := w.desk.Status(); st.Trial == nil || st.Attempts != 0 {
					t.Errorf("the next system: trial %+v, %d starts left", st.Trial, st.Attempts)
				}
			})
		})
	}
}

// A start that cannot be counted would be one of any number of them.
func TestASystemUnderWhichNothingCanBeWrittenIsGivenUp(t *testing.T) {
	machined(t, func(t *testing.T, w *world) {
		r := w.put(w.bundle(1, attempted(3)))
		w.stop()
		w.commit = func(string, func() error) error { return errBroken }
		w.reboot(onB)
		if got := w.mach.verbs(); got != "try give-up" {
			t.Errorf("decided %q", got)
		}
		w.wantServes(5)
		w.stop()
		w.commit = nil
		w.reboot(backOn)
		if f, failed := w.desk.Trust().Failure(r.Digest); !failed || f.Word != refusal.Health {
			t.Errorf("remembered %+v, %v", f, failed)
		}
	})
}

// A system whose starts are used up gets no new window because the boot loader was not told.
func TestASystemThatCrashedIsGivenUpOnceTheBootLoaderIsTold(t *testing.T) {
	machined(t, func(t *testing.T, w *world) {
		w.put(w.bundle(1, attempted(1)))
		w.reboot(onB)
		w.mach.fail(errBroken)
		w.restart()
		w.run()
		pass(5 * time.Minute)
		if st := w.desk.Status(); st.Trial == nil || st.Alarms[refusal.Store] == "" || w.systemSeq() != 0 {
			t.Errorf("trial %+v, alarms %v, confirmed %d", st.Trial, st.Alarms, w.systemSeq())
		}
		w.mach.fail(nil)
		pass(roundEvery)
		if got := w.mach.verbs(); got != "try hold give-up" || w.desk.Status().Trial != nil {
			t.Errorf("decided %q", got)
		}
	})
}
