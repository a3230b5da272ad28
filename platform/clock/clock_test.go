package clock_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"tidegate/platform/clock"
	"tidegate/platform/clock/clocktest"
	"tidegate/policy/refusal"
	"time"

	"pgregory.net/rapid"
)

var (
	build = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	y1970 = time.Unix(0, 0).UTC()
)

const day = 24 * time.Hour

func proof(at time.Time) clock.Proof {
	return clock.Proof{
		Contribution: clock.Contribution{Origin: clock.Attestation, Role: 6, Epoch: 1, At: at},
		Err:          100 * time.Millisecond, RoundTrip: time.Second,
	}
}

func TestFloorGrowsWithPoweredOnTimeAndNotWithTheWallClock(t *testing.T) {
	m := clocktest.New(y1970)
	c := clock.New(m, build, nil)
	if got := c.Lower(); !got.Equal(build) {
		t.Fatalf("at start: got %v, want the build time", got)
	}
	m.Pass(1000 * time.Hour)
	if got, want := c.Lower(), build.Add(999*time.Hour); !got.Equal(want) {
		t.Errorf("after 1000 h: got %v, want 999/1000 of it: %v", got, want)
	}
	for _, wall := range []time.Time{time.Date(2106, 2, 7, 0, 0, 0, 0, time.UTC), y1970} {
		m.SetWall(wall)
		if got, want := c.Lower(), build.Add(999*time.Hour); !got.Equal(want) {
			t.Errorf("with the wall clock at %v: got %v, want %v", wall, got, want)
		}
	}
	r := c.Now()
	if r.Quality != clock.Unsynced || !r.Upper.IsZero() || r.Source != clock.Build || !r.Estimate.Equal(r.Lower) {
		t.Errorf("%+v", r)
	}
}

func TestFloorSurvivesARestartAndAReboot(t *testing.T) {
	m := clocktest.New(y1970)
	c := clock.New(m, build, nil)
	m.Pass(1000 * time.Second)
	saved := c.State()
	m.Pass(1000 * time.Second)
	want := c.Lower()
	if got := clock.New(m, build, nil, saved).Lower(); !got.Equal(want) {
		t.Errorf("restart in one boot: got %v, want %v", got, want)
	}
	m.Reboot(y1970)
	if got, want := clock.New(m, build, nil, saved).Lower(), saved.Floor(); !got.Equal(want) {
		t.Errorf("reboot: got %v, want what was saved, %v", got, want)
	}
	m.Pass(2000 * time.Second)
	if got, want := clock.New(m, build, nil, saved).Lower(), saved.Floor().Add(1998*time.Second); !got.Equal(want) {
		t.Errorf("reboot, opened late: got %v, want %v", got, want)
	}
}

func TestTheMaximumOfAllCopiesCounts(t *testing.T) {
	m := clocktest.New(y1970)
	c := clock.New(m, build, nil)
	older := c.State()
	if err := c.Contribute(clock.Contribution{Origin: clock.Manifest, Role: 2, Epoch: 1, At: build.Add(day)}); err != nil {
		t.Fatal(err)
	}
	newer := c.State()
	for _, copies := range [][]clock.State{{older, newer}, {newer, older}, {newer, {}}} {
		got := clock.New(m, build, nil, copies...)
		if !got.Lower().Equal(build.Add(day)) || got.Now().Source != clock.Manifest {
			t.Errorf("got %v by %v", got.Lower(), got.Now().Source)
		}
	}
}

func TestQualities(t *testing.T) {
	m := clocktest.New(y1970)
	c := clock.New(m, build, nil)
	at := build.Add(30 * day)
	if err := c.Prove(proof(at)); err != nil {
		t.Fatal(err)
	}
	r := c.Now()
	if r.Quality != clock.Synced || !r.Lower.Equal(at.Add(-100*time.Millisecond)) || !r.Upper.Equal(at.Add(1100*time.Millisecond)) || r.Source != clock.Attestation {
		t.Errorf("synced: %+v", r)
	}
	m.Pass(day)
	r = c.Now()
	if wide := r.Upper.Sub(r.Lower); r.Quality != clock.Holdover || wide < 1200*time.Millisecond+86400*time.Millisecond+8640*time.Millisecond {
		t.Errorf("holdover: %v, bounds %v apart", r.Quality, wide)
	}
	saved := c.State()
	if again := clock.New(m, build, nil, saved).Now(); again.Quality != clock.Holdover || !again.Upper.Equal(r.Upper) {
		t.Errorf("restart of the process: %+v", again)
	}
	m.Reboot(y1970)
	if again := clock.New(m, build, nil, saved).Now(); again.Quality != clock.Unsynced || !again.Upper.IsZero() {
		t.Errorf("after a boot: %+v", again)
	}
}

func TestProofsThatAreRefused(t *testing.T) {
	m := clocktest.New(y1970)
	c := clock.New(m, build, nil)
	for name, p := range map[string]clock.Proof{"before the floor": proof(build.Add(-time.Hour)), "401 days ahead": proof(build.Add(401 * day))} {
		if err := c.Prove(p); !refusal.Is(err, refusal.TimeJump) {
			t.Errorf("%s: got %v, want E_TIME_JUMP", name, err)
		}
	}
	if err := c.Contribute(clock.Contribution{Origin: clock.Manifest, Role: 2, At: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)}); !refusal.Is(err, refusal.TimeJump) {
		t.Errorf("issued 2099: got %v, want E_TIME_JUMP", err)
	}
	if err := c.Prove(clock.Proof{Err: -1}); err == nil {
		t.Error("a negative error was accepted")
	}
	if r := c.Now(); !r.Lower.Equal(build) || r.Quality != clock.Unsynced {
		t.Errorf("a refused proof left %+v", r)
	}
	p := proof(build.Add(800 * day))
	p.Origin, p.Role = clock.Operator, 0
	if err := c.Prove(p); err != nil || c.Now().Quality != clock.Synced {
		t.Errorf("an operator: %v", err)
	}
	// The operator's word does not carry an attestation further.
	if err := c.Prove(proof(build.Add(801 * day))); !refusal.Is(err, refusal.TimeJump) {
		t.Errorf("an attestation after the operator: got %v, want E_TIME_JUMP", err)
	}
}

func TestARaisedEpochTakesBackWhatTheOldOneSaid(t *testing.T) {
	m := clocktest.New(y1970)
	c := clock.New(m, build, nil)
	stolen := clock.Contribution{Origin: clock.Manifest, Role: 2, Epoch: 1, At: build.Add(3000 * day)}
	if err := c.Contribute(stolen); err != nil {
		t.Fatal(err)
	}
	if err := c.Contribute(clock.Contribution{Origin: clock.Root, Role: 1, At: build.Add(10 * day)}); err != nil {
		t.Fatal(err)
	}
	saved, line := c.State(), c.Instant().Line
	c.Drop(2, 1)
	if i := c.Instant(); i.Line != line || !i.Lower.Equal(stolen.At) {
		t.Errorf("drop of epochs below 1: %+v", i)
	}
	c.Drop(2, 2)
	if i := c.Instant(); i.Line != line+1 || !i.Lower.Equal(build.Add(10*day)) {
		t.Errorf("drop of epochs below 2: %+v, want the root's time on the next line", i)
	}
	// A copy from before must not bring it back.
	if i := clock.New(m, build, map[uint64]uint64{2: 2}, saved, c.State()).Instant(); !i.Lower.Equal(build.Add(10*day)) || i.Line <= line {
		t.Errorf("opened with an older copy: %+v", i)
	}
}

func TestDoubt(t *testing.T) {
	m := clocktest.New(build.Add(time.Hour))
	c := clock.New(m, build, nil)
	if d := c.Doubt(); d != "" {
		t.Errorf("a good clock: %q", d)
	}
	m.Pass(time.Hour)
	if d := c.Doubt(); d != "" {
		t.Errorf("an hour later: %q", d)
	}
	m.SetWall(m.Wall().Add(time.Minute))
	for range 2 { // to ask changes nothing
		if d := c.Doubt(); d != "the system clock jumped by 1m0s" {
			t.Errorf("after a jump: %q", d)
		}
	}
	if !c.Best().Equal(m.Wall()) {
		t.Errorf("best is %v", c.Best())
	}
	m.SetWall(y1970)
	if d := c.Doubt(); d == "" {
		t.Error("1970 is not doubted")
	}
	if !c.Best().Equal(c.Lower()) {
		t.Errorf("best is %v, want the lower bound", c.Best())
	}
	if err := c.Prove(proof(build.Add(2 * day))); err != nil {
		t.Fatal(err)
	}
	m.SetWall(build.Add(3 * day))
	if d := c.Doubt(); d == "" {
		t.Error("a clock above the upper bound is not doubted")
	}
}

func TestRunSavesAndVouches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := clocktest.New(build.Add(time.Hour))
		c := clock.New(m, build, nil)
		var mu sync.Mutex
		var saved []clock.State
		o := clock.Options{TrustSystem: true, SystemErr: time.Second, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Save: func(s clock.State) error {
			mu.Lock()
			defer mu.Unlock()
			if saved = append(saved, s); len(saved) == 1 {
				return errors.New("the first one does not get through")
			}
			return nil
		}}
		done := make(chan error)
		ctx, stop := context.WithCancel(t.Context())
		go func() { done <- c.Run(ctx, o) }()
		time.Sleep(25 * time.Minute)
		synctest.Wait()
		mu.Lock()
		n := len(saved)
		mu.Unlock()
		if n != 2 {
			t.Errorf("%d saves in 25 min, want 2", n)
		}
		stop()
		if err := <-done; err != nil || len(saved) != 3 {
			t.Errorf("%v, %d saves, want one at the end", err, len(saved))
		}
		if got, want := saved[2].Floor(), build.Add(time.Hour-time.Second); !got.Equal(want) || c.Now().Quality != clock.Synced {
			t.Errorf("floor %v, want the system clock's %v; %v", got, want, c.Now().Quality)
		}
	})
}

func TestRunWarnsOfAJumpOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := clocktest.New(build.Add(time.Hour))
		c := clock.New(m, build, nil)
		var out bytes.Buffer
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- c.Run(ctx, clock.Options{Log: slog.New(slog.NewTextHandler(&out, nil)), Save: func(clock.State) error { return nil }})
		}()
		time.Sleep(time.Minute)
		m.SetWall(m.Wall().Add(time.Hour))
		time.Sleep(time.Hour)
		stop()
		if err := <-done; err != nil || strings.Count(out.String(), "W_CLOCK") != 1 || !strings.Contains(out.String(), "jumped by 1h0m0s") {
			t.Errorf("%v: %s", err, out.String())
		}
	})
}

// Whatever the system clock does and however often the device restarts, the lower bound
// never goes back within a line, never passes the true time, and the upper never falls below it.
func TestBoundsHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		truth := build.Add(time.Hour)
		m := clocktest.New(y1970)
		c := clock.New(m, build, nil)
		saved := c.State()
		floor := saved.Floor()
		check := func() {
			r := c.Now()
			if r.Lower.After(truth) {
				t.Fatalf("lower %v is after the true time %v", r.Lower, truth)
			}
			if r.Lower.Before(floor) {
				t.Fatalf("lower %v is before %v", r.Lower, floor)
			}
			if !r.Upper.IsZero() && r.Upper.Before(truth) {
				t.Fatalf("upper %v is before the true time %v", r.Upper, truth)
			}
		}
		steps := rapid.IntRange(1, 40).Draw(t, "steps")
		for range steps {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0: // time passes; the oscillator is up to 50 ppm fast or slow
				d := time.Duration(rapid.Int64Range(0, int64(40*time.Hour)).Draw(t, "pass"))
				m.Pass(d)
				truth = truth.Add(d + d/1_000_000*time.Duration(rapid.IntRange(-50, 50).Draw(t, "ppm")))
				floor = c.Lower()
			case 1:
				m.SetWall(time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "wall"), 0))
			case 2:
				saved = c.State()
				floor = c.Lower()
			case 3: // the process starts again
				c = clock.New(m, build, nil, saved)
				floor = saved.Floor()
			case 4: // the power was away
				truth = truth.Add(time.Duration(rapid.Int64Range(0, int64(100*time.Hour)).Draw(t, "off")))
				m.Reboot(y1970)
				c = clock.New(m, build, nil, saved)
				floor = saved.Floor()
			case 5:
				err := time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "err"))
				p := proof(truth.Add(time.Duration(rapid.Int64Range(-int64(err), int64(err)).Draw(t, "off by"))))
				p.Err = err + time.Millisecond // times are kept in milliseconds
				if err := c.Prove(p); err != nil && !refusal.Is(err, refusal.TimeJump) {
					t.Fatal(err)
				}
				floor = c.Lower()
			}
			check()
		}
	})
}

func TestReadersTogether(t *testing.T) {
	m := clocktest.New(y1970)
	c := clock.New(m, build, nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var last clock.Instant
			for range 2000 {
				now := c.Instant()
				if now.Line == last.Line && now.Lower.Before(last.Lower) {
					t.Errorf("lower went back from %v to %v", last.Lower, now.Lower)
				}
				last = now
			}
		})
	}
	for i := range 200 {
		m.Pass(time.Second)
		if err := c.Contribute(clock.Contribution{Origin: clock.Manifest, Role: 2, Epoch: uint64(i % 5), At: build.Add(time.Duration(i) * time.Minute)}); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

func TestThisMachine(t *testing.T) {
	m := clock.ThisMachine()
	if m.BootID() == [16]byte{} || m.BootID() != clock.ThisMachine().BootID() {
		t.Errorf("boot id %x", m.BootID())
	}
	a := m.Boot()
	if b := m.Boot(); a <= 0 || b < a {
		t.Errorf("time since boot %v, then %v", a, b)
	}
}

func BenchmarkInstant(b *testing.B) {
	c := clock.New(clock.ThisMachine(), build, nil)
	b.ReportAllocs()
	for b.Loop() {
		c.Instant()
	}
}
