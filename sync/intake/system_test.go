package intake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"tidegate/policy/refusal"
	"tidegate/store/audit"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/write"
	"tidegate/sync/trust"
	"time"
)

// A fakeMachine has two places and a boot loader, in memory.
type fakeMachine struct {
	mu      sync.Mutex // of all below: the desk decides while tests look
	boot    Boot
	choices []Choice
	content string // of what was installed: about, root, kernel
	install error
	decide  error
	unread  error  // of Boot
	decided func() // after a decision, before its answer
	lost    error  // answer of a decision that was made
}

func newMachine() *fakeMachine {
	return &fakeMachine{boot: Boot{Running: "A", Good: "A", Next: "A", Back: "none"}}
}

func (m *fakeMachine) Boot(context.Context) (Boot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.boot, m.unread
}

// fail makes decisions fail from now on; nil: not any more.
func (m *fakeMachine) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.decide = err
}

func (m *fakeMachine) Install(_ context.Context, i SystemImage) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.install != nil {
		return "", m.install
	}
	m.content = fmt.Sprint(i.About)
	for _, p := range []SystemPart{i.Root, i.Kernel} {
		in, err := p.Open()
		if err != nil {
			return "", err
		}
		b, err := io.ReadAll(in)
		if err != nil || int64(len(b)) != p.Size {
			return "", fmt.Errorf("%d bytes of %d: %w", len(b), p.Size, err)
		}
		m.content += " " + string(b)
	}
	m.boot.Back = "none"
	return "B", nil
}

func (m *fakeMachine) Decide(ctx context.Context, c Choice) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.decide, ctx.Err()); err != nil {
		return err
	}
	m.choices = append(m.choices, c)
	switch c.Verb {
	case Try:
		m.boot.Next, m.boot.Back = c.Place, "none"
	case Keep:
		m.boot.Good, m.boot.Next = m.boot.Running, m.boot.Running
	case GiveUp:
		m.boot.Next, m.boot.Back = m.boot.Good, c.Place
	}
	if m.decided != nil {
		m.decided()
	}
	return errors.Join(m.lost, ctx.Err())
}

func (m *fakeMachine) verbs() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for _, c := range m.choices {
		all = append(all, c.Verb)
	}
	return strings.Join(all, " ")
}

const aboutA = "BOARD=a\nSTATE=1\nVERSION=2.0.0\n"

// system makes a bundle one that holds a system.
func system(about, root string) func(*write.Spec) {
	return func(s *write.Spec) {
		s.Manifest.Product, s.Manifest.Hardware = trust.SystemProduct, []string{"board-a"}
		s.Files = []write.File{
			write.Bytes(bundle.SystemAbout, []byte(about)), write.Bytes(bundle.SystemKernel, []byte("kernel")), write.Bytes(bundle.SystemRoot, []byte(root)),
		}
	}
}

// machined runs a test in a bubble of time on a machine with two places; the device serves bundle 5.
func machined(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := settled(t)
		w.mach = newMachine()
		w.restart()
		test(t, w)
	})
}

// reboot starts the device again on the place that the boot loader chooses.
func (w *world) reboot(boot Boot) {
	w.t.Helper()
	w.mach.boot = boot
	w.restart()
}

func (w *world) systemSeq() uint64 {
	l, _ := w.desk.Trust().Confirmed(trust.SystemProduct, "stable")
	return l.Seq
}

var (
	onB    = Boot{Running: "B", Good: "A", Next: "B", Back: "none"}
	backOn = Boot{Running: "A", Good: "A", Next: "A", Back: "B"}
)

func TestASystemIsTriedAndKept(t *testing.T) {
	machined(t, func(t *testing.T, w *world) {
		b := w.bundle(1, system(aboutA, "hsqs root"))
		if r, err := w.desk.Plan(t.Context(), candidate(b)); err != nil || r.Phase != Compiled || w.mach.content != "" {
			t.Errorf("plan: %v, %v, installed %q", r.Phase, err, w.mach.content)
		}
		r := w.put(b)
		if r.Product != trust.SystemProduct || r.Label != "1.0.1" || r.Changes != nil {
			t.Errorf("report %+v", r)
		}
		if want := "map[BOARD:a STATE:1 VERSION:2.0.0] hsqs root kernel"; w.mach.content != want {
			t.Errorf("installed %q, want %q", w.mach.content, want)
		}
		if c := w.mach.choices; len(c) != 1 || c[0] != (Choice{Try, "B", 3}) {
			t.Errorf("decided %+v", c)
		}
		w.wantServes(5)
		if st := w.desk.Status(); st.Trial == nil || st.Trial.Product != trust.SystemProduct || st.Serving.Seq != 5 {
			t.Errorf("status: trial %+v, serving %+v", st.Trial, st.Serving)
		}
		w.refuse(candidate(w.bundle(6, nil)), refusal.Busy, 0)
		if _, err := w.desk.Confirm(t.Context(), "test"); !refusal.Is(err, refusal.Busy) {
			t.Errorf("confirmed before it ran: %v", err)
		}

		w.reboot(onB)
		w.run()
		w.wantServes(5)
		if r, err := w.offer(b); err != nil || !r.Already || r.Phase != OnTrial {
			t.Errorf("offered again on trial: %v, %v", r.Phase, err)
		}
		pass(119 * time.Second)
		if w.systemSeq() != 0 {
			t.Error("confirmed before the end of its window")
		}
		pass(2 * time.Second)
		if w.systemSeq() != 1 || w.mach.verbs() != "try hold keep" {
			t.Errorf("confirmed %d, decided %q", w.systemSeq(), w.mach.verbs())
		}
		if e := w.lastEntry(); e.Event != audit.Confirmed {
			t.Errorf("last entry %v", e.Event)
		}
		w.wantSeq(5)

		if r, err := w.offer(b); err != nil || !r.Already || r.Phase != Confirmed {
			t.Errorf("offered again: %v, %v", r.Phase, err)
		}
		w.put(w.bundle(6, nil)) // the APIs go on by themselves
		pass(121 * time.Second)
		w.wantSeq(6)
		if got := names(t, w.dir+"/slots"); len(got) != 2 {
			t.Errorf("slots %q, want those of bundles 5 and 6", got)
		}
		w.refuse(candidate(w.bundle(1, system(aboutA, "hsqs other"))), refusal.Equivocation, 0)
		w.put(w.bundle(2, system(aboutA, "hsqs second")))
	})
}

// What the boot loader says at the next start decides about a system on trial.
func TestTheBootLoaderDecidesWhatBecameOfASystem(t *testing.T) {
	for name, c := range map[string]struct {
		boot   Boot
		verbs  string
		trial  bool
		seq    uint64
		failed bool
	}{
		"it runs":                           {onB, "try hold", true, 0, false},
		"it was kept, and the power went":   {Boot{Running: "B", Good: "B", Next: "B", Back: "none"}, "try", false, 1, false},
		"it did not come up":                {backOn, "try", false, 0, true},
		"the machine has yet to start":      {Boot{Running: "A", Good: "A", Next: "B", Back: "none"}, "try try", true, 0, false},
		"the boot loader was not told":      {Boot{Running: "A", Good: "A", Next: "A", Back: "none"}, "try", false, 0, false},
		"another place was given up before": {Boot{Running: "A", Good: "A", Next: "A", Back: "A"}, "try", false, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			machined(t, func(t *testing.T, w *world) {
				b := w.bundle(1, system(aboutA, "hsqs root"))
				r := w.put(b)
				w.reboot(c.boot)
				w.wantServes(5)
				st := w.desk.Status()
				if got := st.Trial != nil; got != c.trial || w.systemSeq() != c.seq || w.mach.verbs() != c.verbs {
					t.Errorf("trial %v, confirmed %d, decided %q; want %v, %d, %q", got, w.systemSeq(), w.mach.verbs(), c.trial, c.seq, c.verbs)
				}
				if _, failed := w.desk.Trust().Failure(r.Digest); failed != c.failed {
					t.Errorf("remembered as failed: %v", failed)
				}
				if c.failed {
					w.refuse(candidate(b), refusal.Health, 0)
					again := candidate(b)
					again.Retry = true
					if r, err := w.desk.Offer(t.Context(), again); err != nil || r.Phase != OnTrial {
						t.Errorf("retry: %v, %v", r.Phase, err)
					}
				} else if !c.trial && c.seq == 0 {
					w.put(b)
				}
				if len(st.Alarms) != 0 {
					t.Errorf("alarms %v", st.Alarms)
				}
			})
		})
	}
}

// The record of an update that failed must not speak of the next one, which goes to the same
// place: the power goes before the boot loader is told of it.
func TestAFailedSystemSaysNothingAboutTheNext(t *testing.T) {
	machined(t, func(t *testing.T, w *world) {
		w.put(w.bundle(1, system(aboutA, "hsqs one")))
		w.reboot(backOn)
		second := w.bundle(2, system(aboutA, "hsqs two"))
		digest := digestOf(t, second)
		w.stop()
		if w.untilStep(func(name string) bool { return name == "system trial: committed" }, func() {
			w.start()
			w.put(second)
		}) == "" {
			t.Fatal("the power did not go")
		}
		w.start()
		if f, failed := w.desk.Trust().Failure(digest); failed {
			t.Errorf("a system that was never tried is remembered as failed: %+v", f)
		}
		w.put(second)
	})
}

func TestASystemThatDoesNotServeIsGivenUp(t *testing.T) {
	machined(t, func(t *testing.T, w *world) {
		r := w.put(w.bundle(1, system(aboutA, "hsqs root")))
		w.reboot(onB)
		w.run()
		w.gate.set(func(g *fakeGate) { g.sick = errBroken })
		pass(121 * time.Second)
		if w.mach.verbs() != "try hold give-up" || w.systemSeq() != 0 {
			t.Errorf("decided %q, confirmed %d", w.mach.verbs(), w.systemSeq())
		}
		if f, ok := w.desk.Trust().Failure(r.Digest); !ok || f.Word != refusal.Health {
			t.Errorf("remembered %+v, %v", f, ok)
		}
		w.wantServes(5)
	})
}

func TestASystemIsDecidedByHand(t *testing.T) {
	byHand := func(s *write.Spec) {
		system(aboutA, "hsqs root")(s)
		s.Manifest.Activation = &bundle.Activation{Mode: bundle.ByHand, Window: 900, Attempts: 2}
	}
	for _, keep := range []bool{true, false} {
		machined(t, func(t *testing.T, w *world) {
			w.put(w.bundle(1, byHand))
			w.reboot(onB)
			decide, verbs, seq, phase := w.desk.Rollback, "try hold give-up", uint64(0), RolledBack
			if keep {
				decide, verbs, seq, phase = w.desk.Confirm, "try hold keep", 1, Confirmed
			}
			r, err := decide(t.Context(), "test")
			if err != nil || r.Phase != phase || w.mach.verbs() != verbs || w.systemSeq() != seq {
				t.Errorf("phase %v, decided %q, confirmed %d, %v", r.Phase, w.mach.verbs(), w.systemSeq(), err)
			}
		})
	}
}

func TestAMachineThatDoesNotStartAnewEndsTheTrial(t *testing.T) {
	machined(t, func(t *testing.T, w *world) {
		w.run()
		w.put(w.bundle(1, system(aboutA, "hsqs root")))
		w.gate.answer(100, 100) // is no matter of a system that does not run yet
		pass(9 * time.Minute)
		if w.mach.verbs() != "try" {
			t.Fatalf("decided %q", w.mach.verbs())
		}
		pass(2 * time.Minute)
		if w.mach.verbs() != "try give-up" || w.desk.Status().Trial != nil {
			t.Errorf("decided %q", w.mach.verbs())
		}
	})
}

// A system that is refused changes nothing: not the device, not the machine.
func TestSystemsThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*write.Spec)
		word   refusal.Word
		mach   func(*fakeMachine)
	}{
		"of another board":  {func(s *write.Spec) { system(aboutA, "hsqs")(s); s.Manifest.Hardware = []string{"board-b"} }, refusal.Target, nil},
		"of any board":      {func(s *write.Spec) { system(aboutA, "hsqs")(s); s.Manifest.Hardware = []string{"any"} }, refusal.Target, nil},
		"of two boards":     {func(s *write.Spec) { system(aboutA, "hsqs")(s); s.Manifest.Hardware = []string{"board-a", "board-b"} }, refusal.Target, nil},
		"says another":      {system("BOARD=b\nSTATE=1\nVERSION=2\n", "hsqs"), refusal.Target, nil},
		"no way back":       {system("BOARD=a\nSTATE=2\nVERSION=2\n", "hsqs"), refusal.Runtime, nil},
		"form not a number": {system("BOARD=a\nSTATE=x\nVERSION=2\n", "hsqs"), refusal.Compile, nil},
		"about twice":       {system(aboutA+"BOARD=a\n", "hsqs"), refusal.Compile, nil},
		"about odd":         {system(aboutA+"\x1b[2J=1\n", "hsqs"), refusal.Compile, nil},
		"about too long":    {system(aboutA+"X="+strings.Repeat("x", 400)+"\n", "hsqs"), refusal.Limit, nil},
		"no squashfs":       {system(aboutA, "root"), refusal.Compile, nil},
		"empty":             {system(aboutA, ""), refusal.Compile, nil},
		"a file too many": {func(s *write.Spec) {
			system(aboutA, "hsqs")(s)
			s.Files = append(s.Files, write.Bytes("system/x", nil))
		}, refusal.Compile, nil},
		"a file too few":   {func(s *write.Spec) { system(aboutA, "hsqs")(s); s.Files = s.Files[:2] }, refusal.Compile, nil},
		"does not fit":     {system(aboutA, "hsqs"), refusal.Store, func(m *fakeMachine) { m.install = errBroken }},
		"another on trial": {system(aboutA, "hsqs"), refusal.Busy, func(m *fakeMachine) { m.boot = onB }},
		"another is next":  {system(aboutA, "hsqs"), refusal.Busy, func(m *fakeMachine) { m.boot.Next = "B" }},
	} {
		t.Run(name, func(t *testing.T) {
			machined(t, func(t *testing.T, w *world) {
				if c.mach != nil {
					c.mach(w.mach)
				}
				b := w.bundle(1, c.change)
				r, err := w.offer(b)
				w.mustBe(r, err, c.word)
				if len(w.mach.choices) != 0 || w.systemSeq() != 0 || w.desk.Status().Trial != nil {
					t.Errorf("decided %q", w.mach.verbs())
				}
				if w.mach.content != "" {
					t.Errorf("installed %q", w.mach.content)
				}
				if got := names(t, w.dir+"/slots"); len(got) != 2 {
					t.Errorf("slots %q, want those of bundles 4 and 5", got)
				}
				w.wantServes(5)
			})
		})
	}
}

func TestABootLoaderThatIsNotToldTakesTheTrialBack(t *testing.T) {
	machined(t, func(t *testing.T, w *world) {
		w.mach.decide = errBroken
		b := w.bundle(1, system(aboutA, "hsqs root"))
		r, err := w.offer(b)
		w.mustBe(r, err, refusal.Store)
		if st := w.desk.Status(); st.Trial != nil || !w.desk.cur.Load().ptr.System.IsZero() {
			t.Errorf("trial %+v", st.Trial)
		}
		w.mach.decide = nil
		w.put(b)
	})
}

// stepAt starts the device again and calls fn at the steps of that name.
func (w *world) stepAt(name string, fn func()) {
	w.t.Helper()
	w.step = func(s string) {
		if s == name {
			fn()
		}
	}
	w.restart()
}

// Who offered a system may give up, and an answer may get lost: a system that will start is on
// trial all the same.
func TestASystemThatTheBootLoaderWasToldOfIsOnTrial(t *testing.T) {
	for name, fault := range map[string]func(w *world, giveUp func()){
		"the offer is given up before":  func(w *world, giveUp func()) { w.stepAt("system trial: committed", giveUp) },
		"the offer is given up between": func(w *world, giveUp func()) { w.mach.decided = giveUp },
		"the answer gets lost":          func(w *world, _ func()) { w.mach.lost = errBroken },
		"nothing can be read of it": func(w *world, _ func()) {
			w.mach.decided, w.mach.lost = func() { w.mach.unread = errBroken }, errBroken
		},
	} {
		t.Run(name, func(t *testing.T) {
			machined(t, func(t *testing.T, w *world) {
				ctx, giveUp := context.WithCancel(t.Context())
				defer giveUp()
				fault(w, giveUp)
				r, err := w.desk.Offer(ctx, candidate(w.bundle(1, system(aboutA, "hsqs root"))))
				if err != nil || r.Phase != OnTrial {
					t.Errorf("offer: phase %v, %v", r.Phase, err)
				}
				w.mach.decided, w.mach.lost, w.mach.unread, w.step = nil, nil, nil, nil
				w.reboot(onB)
				if st := w.desk.Status(); st.Trial == nil || w.mach.verbs() != "try hold" {
					t.Errorf("trial %+v, decided %q", st.Trial, w.mach.verbs())
				}
			})
		})
	}
}

func TestASystemOnADeviceThatTakesNone(t *testing.T) {
	w := settled(t)
	w.refuse(candidate(w.bundle(1, system(aboutA, "hsqs"))), refusal.Target, 0)
}

// A root's minimum and its list of what is revoked hold for systems too.
func TestTheRootRulesOverSystems(t *testing.T) {
	machined(t, func(t *testing.T, w *world) {
		b := w.bundle(1, system(aboutA, "hsqs root"))
		r := w.put(b)
		w.reboot(onB)
		w.fleet.Rotate(t, func(root *trust.Root) {
			root.Minimums = append(root.Minimums, trust.Minimum{Product: trust.SystemProduct, Channel: "stable", Epoch: 1, Seq: 2})
		})
		if _, err := w.offer(w.fleet.RootFile(2)); err != nil {
			t.Fatal(err)
		}
		if w.mach.verbs() != "try hold give-up" {
			t.Errorf("decided %q", w.mach.verbs())
		}
		if f, ok := w.desk.Trust().Failure(r.Digest); !ok || f.Word != refusal.Rollback {
			t.Errorf("remembered %+v, %v", f, ok)
		}
		w.reboot(backOn)
		w.refuse(candidate(b), refusal.Rollback, 0)
	})
}

// A device that is not enrolled takes its product from its APIs and not from its system.
func TestASystemDoesNotMakeTheProduct(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := bareWorld(t)
		w.mach = newMachine()
		w.start()
		w.install()
		w.put(w.bundle(1, system(aboutA, "hsqs root")))
		w.reboot(onB)
		if _, err := w.desk.Confirm(t.Context(), "test"); err != nil {
			t.Fatal(err)
		}
		w.put(w.bundle(1, nil))
	})
}
