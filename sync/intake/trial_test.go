package intake

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/bundletest"
	"tidegate/sync/bundle/write"
	"tidegate/sync/trust"
	"time"
)

// inTime runs a test in a bubble of time with a device that serves bundle 5 and whose desk
// runs.
func inTime(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := settled(t)
		w.run()
		test(t, w)
	})
}

// run runs the desk until stop is called or the test ends.
func (w *world) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	desk := w.desk
	go func() { done <- desk.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != context.Canceled {
			w.t.Errorf("run: %v", err)
		}
	}
	w.t.Cleanup(stop)
	synctest.Wait()
	return stop
}

// pass lets time pass, and what it brings happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func probed(s *write.Spec) {
	s.Manifest.Probes = []bundle.Probe{{Method: "GET", Target: "/orders/health", Status: []uint64{200, 204}, TimeoutMS: 2000}}
}

func TestAHealthyBundleIsConfirmedAtTheEndOfItsWindow(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		r := w.put(w.bundle(6, probed))
		if r.Deadline != 2*time.Minute || r.ByHand {
			t.Errorf("deadline %v, by hand %v", r.Deadline, r.ByHand)
		}
		pass(119 * time.Second)
		w.wantSeq(5)
		pass(2 * time.Second)
		w.wantSeq(6)
		got, err := w.desk.Wait(t.Context(), r.Digest)
		if err != nil || got.Phase != Confirmed || got.ExitCode() != 0 {
			t.Errorf("outcome %+v, %v", got, err)
		}
		w.wantServes(6)
	})
}

func TestJ2All502GoesBackWithinTheWindow(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.gate.answer(1000, 10) // 1 % before
		r := w.put(w.bundle(6, nil))
		w.gate.answer(30, 30)
		pass(11 * time.Second)
		w.wantServes(5)
		w.wantSeq(5)
		got, err := w.desk.Wait(t.Context(), r.Digest)
		if err != nil || got.Phase != RolledBack || got.Word != refusal.Health || got.ExitCode() != 61 || !strings.Contains(got.Detail, "errors") {
			t.Errorf("outcome %+v, %v", got, err)
		}
		w.refuse(candidate(w.bundle(6, nil)), refusal.Health, 0)
	})
}

func TestBackendsThatWereDeadBeforeDoNotCount(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		pass(time.Minute)
		w.gate.answer(100, 90)
		pass(time.Minute)
		w.put(w.bundle(6, nil))
		w.gate.answer(100, 100) // 0.9 + 0.25 is not passed
		pass(121 * time.Second)
		w.wantSeq(6)
	})
}

func TestFewErrorsAreNotJudged(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.put(w.bundle(6, nil))
		w.gate.answer(19, 19)
		pass(121 * time.Second)
		w.wantSeq(6)
	})
}

func TestJ3ProbesThatFailOrAreLate(t *testing.T) {
	for name, probe := range map[string]func(ctx context.Context, p bundle.Probe) (int, error){
		"wrong": func(context.Context, bundle.Probe) (int, error) { return 503, nil },
		"late": func(ctx context.Context, _ bundle.Probe) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		},
		"late with an answer": func(context.Context, bundle.Probe) (int, error) {
			time.Sleep(2500 * time.Millisecond)
			return 200, nil
		},
		"broken": func(context.Context, bundle.Probe) (int, error) { return 0, errBroken },
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T, w *world) {
				w.gate.set(func(g *fakeGate) { g.probe = probe })
				r := w.put(w.bundle(6, probed))
				pass(125 * time.Second)
				w.wantServes(5)
				w.wantSeq(5)
				got, err := w.desk.Wait(t.Context(), r.Digest)
				if err != nil || got.Word != refusal.Health || !strings.Contains(got.Detail, "probe: GET /orders/health") {
					t.Errorf("outcome %+v, %v", got, err)
				}
			})
		})
	}
}

func TestJ4AProbeThatFlapsAndSettlesIsConfirmed(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		began := time.Now()
		w.gate.set(func(g *fakeGate) {
			g.probe = func(context.Context, bundle.Probe) (int, error) {
				if time.Since(began) < 85*time.Second {
					return 500, nil
				}
				return 204, nil
			}
		})
		w.put(w.bundle(6, probed))
		pass(121 * time.Second)
		w.wantSeq(6)
	})
}

func TestAProbeThatFailsInTheLastRoundsIsNot(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		began := time.Now()
		w.gate.set(func(g *fakeGate) {
			g.probe = func(context.Context, bundle.Probe) (int, error) {
				if time.Since(began) > 95*time.Second {
					return 500, nil
				}
				return 200, nil
			}
		})
		w.put(w.bundle(6, probed))
		pass(121 * time.Second)
		w.wantServes(5)
	})
}

func TestADeviceThatIsNotHealthyGoesBack(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.put(w.bundle(6, nil))
		w.gate.set(func(g *fakeGate) { g.sick = errBroken })
		pass(121 * time.Second)
		w.wantServes(5)
		w.wantSeq(5)
	})
}

func TestJ6GoodIsRevokedDuringTheTrial(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		good := w.desk.cur.Load().ptr.Good
		w.put(w.bundle(6, nil))
		w.fleet.Rotate(t, func(r *trust.Root) { r.Revoked = []trust.Digest{trust.Digest(good)} })
		if r, err := w.offer(w.fleet.RootFile(2)); err != nil || r.Roots != 1 {
			t.Fatalf("root: %+v, %v", r, err)
		}
		w.wantServes(6)
		w.gate.set(func(g *fakeGate) { g.sick = errBroken })
		pass(121 * time.Second)
		w.wantServes(4)
		w.restart()
		w.wantServes(4)
	})
}

func TestTheBundleOnTrialIsRevoked(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		r := w.put(w.bundle(6, nil))
		w.fleet.Rotate(t, func(root *trust.Root) { root.Revoked = []trust.Digest{r.Digest} })
		if _, err := w.offer(w.fleet.RootFile(2)); err != nil {
			t.Fatal(err)
		}
		w.wantServes(5)
		w.refuse(candidate(w.bundle(6, nil)), refusal.Revoked, 0)
	})
}

func TestTheServingBundleIsRevoked(t *testing.T) {
	w := settled(t)
	good := w.desk.cur.Load().ptr.Good
	w.fleet.Rotate(t, func(r *trust.Root) { r.Revoked = []trust.Digest{trust.Digest(good)} })
	if _, err := w.offer(w.fleet.RootFile(2)); err != nil {
		t.Fatal(err)
	}
	w.wantServes(4)
	w.restart()
	w.wantServes(4)
	w.fleet.Rotate(t, func(r *trust.Root) {
		r.Minimums = []trust.Minimum{{Product: "gate", Channel: "stable", Epoch: 1, Seq: 6}}
	})
	if _, err := w.offer(w.fleet.RootFile(3)); err != nil {
		t.Fatal(err)
	}
	w.wantServes(4) // nothing else is allowed
	if w.desk.Status().Alarms[refusal.Revoked] == "" {
		t.Error("no alarm")
	}
	w.confirm(w.bundle(6, nil))
	if a := w.desk.Status().Alarms; len(a) != 0 {
		t.Errorf("alarms %v", a)
	}
}

func byHand(s *write.Spec) {
	s.Manifest.Activation = &bundle.Activation{Mode: bundle.ByHand, Window: 900, Attempts: 3}
}

func TestJ8ByHandAndNobodyComes(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		r := w.put(w.bundle(6, byHand))
		if !r.ByHand || r.Deadline != 15*time.Minute || r.ExitCode() != 75 {
			t.Errorf("report %+v", r)
		}
		pass(899 * time.Second)
		w.wantServes(6)
		pass(2 * time.Second)
		w.wantServes(5)
		w.wantSeq(5)
	})
}

func TestByHandConfirmed(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.put(w.bundle(6, byHand))
		pass(5 * time.Minute)
		if r, err := w.desk.Confirm(t.Context(), "operator"); err != nil || r.Phase != Confirmed {
			t.Fatalf("confirm: %+v, %v", r, err)
		}
		w.wantSeq(6)
		pass(time.Hour)
		w.wantServes(6)
		if r, err := w.desk.Confirm(t.Context(), "operator"); err != nil || !r.Already {
			t.Errorf("confirm again: %+v, %v", r, err)
		}
	})
}

func TestJ9RollbackByAPerson(t *testing.T) {
	w := settled(t)
	if r, err := w.desk.Rollback(t.Context(), "operator"); err != nil || r.Seq != 4 || r.ExitCode() != 0 {
		t.Fatalf("rollback: %+v, %v", r, err)
	}
	w.wantServes(4)
	w.wantSeq(5) // counters stay
	w.restart()
	w.wantServes(4)
	w.refuse(candidate(w.bundle(3, nil)), refusal.Rollback, 0)
	if _, err := w.desk.Rollback(t.Context(), "operator"); !refusal.Is(err, refusal.Rollback) {
		t.Errorf("a second rollback: %v", err)
	}
	w.confirm(w.bundle(5, nil)) // as itself
	w.wantServes(5)
	w.wantSeq(5)

	w.fleet.Rotate(t, func(r *trust.Root) {
		r.Minimums = []trust.Minimum{{Product: "gate", Channel: "stable", Epoch: 1, Seq: 5}}
	})
	if _, err := w.offer(w.fleet.RootFile(2)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.desk.Rollback(t.Context(), "operator"); !refusal.Is(err, refusal.Rollback) {
		t.Errorf("rollback below the minimum: %v", err)
	}
	w.wantServes(5)
}

func TestTheFirstBundleThatFailsServesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.run()
		w.gate.set(func(g *fakeGate) {
			g.probe = func(context.Context, bundle.Probe) (int, error) { return 500, nil }
		})
		w.put(w.bundle(1, probed))
		pass(121 * time.Second)
		w.wantServes(1)
		w.wantSeq(0)
		s := w.desk.Status()
		if s.Trial != nil || s.Good != nil || s.Alarms[refusal.Health] == "" {
			t.Errorf("status %+v", s)
		}
		w.confirm(w.bundle(2, nil))
		w.wantServes(2)
		if a := w.desk.Status().Alarms; len(a) != 0 {
			t.Errorf("alarms %v", a)
		}
	})
}

func TestAShortWindowIsJudgedByARoundOfItsOwn(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		asked := 0
		w.gate.set(func(g *fakeGate) {
			g.probe = func(context.Context, bundle.Probe) (int, error) { asked++; return 500, nil }
		})
		w.put(w.bundle(6, func(s *write.Spec) {
			probed(s)
			s.Manifest.Activation = &bundle.Activation{Window: 5, Attempts: 1}
		}))
		pass(6 * time.Second)
		w.wantServes(5)
		if asked != 1 {
			t.Errorf("%d probes", asked)
		}
	})
}

func TestD10TheFloorRisesWithPoweredOnTime(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		before := w.desk.Floor().Unix
		pass(10*time.Hour + time.Second)
		if got := w.desk.Floor().Unix - before; got < 35900 || got > 36001 {
			t.Errorf("in 10 hours the floor rose by %d s", got)
		}
		stored := w.desk.cur.Load().state.Floor().Unix - before
		if stored < 35300 {
			t.Errorf("stored are %d s of 10 hours", stored)
		}
		w.refuse(candidate(w.bundle(6, func(s *write.Spec) { s.Manifest.Expires = bundletest.Issued + 3600 })), refusal.Expired, 0)
	})
}

func TestAnOldBundleIsSaidToBeStale(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		pass(89 * 24 * time.Hour)
		if s := w.desk.Status(); len(s.Warnings) != 0 || s.Age < 88*24*time.Hour {
			t.Errorf("after 89 days: age %v, warnings %v", s.Age, s.Warnings)
		}
		pass(2 * 24 * time.Hour)
		if s := w.desk.Status(); !has(s.Warnings, refusal.WarnStale) {
			t.Errorf("after 91 days: age %v, warnings %v", s.Age, s.Warnings)
		}
		w.confirm(w.bundle(6, nil))
		if s := w.desk.Status(); len(s.Warnings) != 0 || s.Age > time.Hour {
			t.Errorf("after a new bundle: age %v, warnings %v", s.Age, s.Warnings)
		}
	})
}

func TestTheShelfIsScrubbedWhileTheDeskRuns(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		pass(2 * time.Hour)
		if a := w.desk.Status().Alarms; len(a) != 0 {
			t.Errorf("alarms %v", a)
		}
		w.rot(4)
		pass(8 * 24 * time.Hour)
		if w.desk.Status().Alarms[refusal.Digest] == "" {
			t.Error("no alarm within a week")
		}
	})
}

func TestG3G4SlowSourcesAndDeadOnes(t *testing.T) {
	for name, read := range map[string]func(end chan struct{}) io.Reader{
		"1 KiB a second": func(chan struct{}) io.Reader { return &trickle{each: 1 << 10, every: time.Second} },
		"never answers":  func(end chan struct{}) io.Reader { return blocked{end} },
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T, w *world) {
				end := make(chan struct{})
				defer close(end)
				began := time.Now()
				r := w.refuse(Candidate{Source: "usb", Name: "x", Open: func() (io.ReadCloser, error) {
					head := canonHead()
					return io.NopCloser(io.MultiReader(bytes.NewReader(head), read(end))), nil
				}}, refusal.MediaSlow, 0)
				if took := time.Since(began); took < 29*time.Second || took > 61*time.Second {
					t.Errorf("given up after %v", took)
				}
				if r.Word.Exit() != 10 {
					t.Errorf("exit %d", r.Word.Exit())
				}
				w.put(w.bundle(6, nil)) // the desk is free
			})
		})
	}
	// A slow source that brings 64 KiB in time is waited for.
	inTime(t, func(t *testing.T, w *world) {
		file := w.bundle(6, func(s *write.Spec) { s.Files = append(s.Files, write.Bytes("zz", noise(300_000))) })
		r, err := w.desk.Offer(t.Context(), Candidate{Open: func() (io.ReadCloser, error) {
			return io.NopCloser(&trickle{b: file, each: 4 << 10, every: time.Second}), nil
		}})
		if err != nil || r.Phase != OnTrial {
			t.Errorf("offer: %+v, %v", r, err)
		}
	})
}

// canonHead begins a bundle with a metaset of 1 MiB.
func canonHead() []byte {
	return append([]byte("\xd9\xd9\xf7\x82\x6btide-bundle\x01"), 0x5a, 0, 0x10, 0, 0)
}

// trickle gives each bytes every so often: of b, or without end.
type trickle struct {
	b     []byte
	each  int
	every time.Duration
	ends  bool
}

func (r *trickle) Read(p []byte) (int, error) {
	time.Sleep(r.every)
	if r.b == nil && !r.ends {
		return min(r.each, len(p)), nil
	}
	r.ends = true
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), r.each)], r.b)
	r.b = r.b[n:]
	return n, nil
}

// blocked answers when end is closed.
type blocked struct{ end chan struct{} }

func (r blocked) Read([]byte) (int, error) {
	<-r.end
	return 0, io.EOF
}

func TestI12AnOfferThatIsCalledOff(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		end := make(chan struct{})
		defer close(end)
		file := w.bundle(6, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		before := w.picture()
		_, err := w.desk.Offer(ctx, Candidate{Open: func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(file[:len(file)-9]), blocked{end})), nil
		}})
		if err == nil {
			t.Fatal("no error")
		}
		if after := w.picture(); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("before %+v\nafter  %+v", before, after)
		}
		w.put(file)
	})
}
