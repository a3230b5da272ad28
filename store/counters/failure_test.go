package counters

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"tidegate/policy"
	"tidegate/policy/throttle"
	"time"
)

func TestChangedPlans(t *testing.T) {
	minute, hour := throttle.Window{Length: time.Minute}, throttle.Window{Length: time.Hour}
	day := throttle.Window{Form: throttle.Calendar, Unit: throttle.Day}
	for _, tc := range []struct {
		name     string
		old, new throttle.Rule
		used     int
		want     int64 // admitted under the new plan, same window
	}{
		{"limit raised", throttle.Rule{Limit: 5, Window: hour}, throttle.Rule{Limit: 8, Window: hour}, 5, 3},
		{"limit lowered", throttle.Rule{Limit: 8, Window: hour}, throttle.Rule{Limit: 5, Window: hour}, 6, 0},
		{"limit lowered, room left", throttle.Rule{Limit: 8, Window: hour}, throttle.Rule{Limit: 5, Window: hour}, 2, 3},
		{"renamed", throttle.Rule{Name: "a", Limit: 5, Window: hour}, throttle.Rule{Name: "b", Limit: 5, Window: hour}, 2, 3},
		{"longer window", throttle.Rule{Limit: 5, Window: minute}, throttle.Rule{Limit: 10, Window: hour}, 4, 6},
		{"longer window, lower limit", throttle.Rule{Limit: 5, Window: minute}, throttle.Rule{Limit: 3, Window: hour}, 4, 0},
		{"alignment", throttle.Rule{Limit: 5, Window: throttle.Window{Length: 24 * time.Hour}}, throttle.Rule{Limit: 5, Window: day}, 4, 1},
	} {
		for _, crash := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/crash=%v", tc.name, crash), func(t *testing.T) {
				disk := newDisk()
				l := open(t, disk, at(0), Options{})
				l.fixed = fixed{reserve: 1, allow: 1}
				old, next := rule(t, tc.old), rule(t, tc.new)
				for range tc.used {
					if !take(t, l, at(0), old, key("k"), 1).Admitted() {
						t.Fatal("refused under the old plan")
					}
				}
				if crash {
					l = open(t, disk, at(0), Options{})
					l.fixed = fixed{reserve: 1, allow: 1}
				}
				got := admit(t, l, at(0), next, key("k"))
				if got > tc.want || !crash && got != tc.want {
					t.Errorf("admitted %d under the new plan, want %d", got, tc.want)
				}
				// A roll-back finds the old count.
				if got := admit(t, l, at(0), old, key("k")); old.Def() != next.Def() && got > tc.old.Limit-int64(tc.used) {
					t.Errorf("after the roll-back: %d more under the old plan of %d, of which %d were used", got, tc.old.Limit, tc.used)
				}
			})
		}
	}
}

// TestLimitChangeDuringAWrite: a key lives on its allowance under one limit, its first
// record is on its way, and another limit would allow more than that record says. The
// key must wait for a record then: if the power went now, nobody would know.
func TestLimitChangeDuringAWrite(t *testing.T) {
	disk := newDisk()
	l := open(t, disk, at(0), Options{})
	small, large := perMinute(t, 2), perMinute(t, 1000)
	l.Expect(at(0), []*throttle.Rule{large})
	if err := l.flush(urgentFlush); err != nil {
		t.Fatal(err)
	}
	before := disk.commits
	if !take(t, l, at(0), small, key("k"), 1).Admitted() || disk.commits != before {
		t.Fatal("the first call was not served from the allowance")
	}
	w, err := l.gather(urgentFlush)
	if err != nil {
		t.Fatal(err)
	}
	n := int64(1)
	for {
		v, err := l.Take(ended, at(0), []throttle.Claim{{Rule: large, Key: key("k"), N: 1}})
		if errors.Is(err, throttle.ErrStalled) {
			break
		}
		if err != nil || !v.Admitted() {
			t.Fatal(v, err)
		}
		n++
	}
	disk.apply(w.batch) // kept, and then the power went
	l = open(t, disk, at(0), Options{})
	if n += admit(t, l, at(0), large, key("k")); n > 1000 {
		t.Errorf("admitted %d of 1000", n)
	}
}

func TestFullTableSharesOneCounter(t *testing.T) {
	disk := newDisk()
	l := open(t, disk, at(0), Options{Keys: MinKeys})
	r := perMinute(t, 3)
	total, shared := 0, 0
	for i := range 4 * MinKeys {
		v := take(t, l, at(0), r, key(fmt.Sprint(i)), 1)
		if v.Notes.Has(throttle.Shared) {
			shared++
		}
		if v.Admitted() {
			total++
		}
	}
	s := l.Stats()
	if s.Keys-s.Shared > s.Capacity {
		t.Errorf("%d keys in a table of %d", s.Keys-s.Shared, s.Capacity)
	}
	if s.Shared == 0 || s.Shared > stripes || shared == 0 || shared > 2*stripes {
		t.Errorf("%d overflow counters admitted %d calls, want at most L−a = 2 each", s.Shared, shared)
	}
	// No key that was counted is forgotten: those with a cell go on with their count.
	for i := range 100 {
		k := key(fmt.Sprint(i))
		if got := admit(t, l, at(0), r, k); got > 2 {
			t.Errorf("key %d: %d more, was used once of 3", i, got)
		}
	}
	// After a crash the overflow goes on: nobody knows which key used what of it.
	l = open(t, disk, at(0), Options{Keys: MaxKeys})
	late := key(fmt.Sprint(4*MinKeys - 1))
	if v := take(t, l, at(0), r, late, 1); v.Admitted() && !v.Notes.Has(throttle.Shared) {
		t.Errorf("a key of the overflow got a count of its own in the same window: %+v", v)
	}
	// The next window begins with a table that has room again.
	l = open(t, disk, at(0), Options{Keys: MinKeys})
	if err := l.flush(tickFlush); err != nil {
		t.Fatal(err)
	}
	if v := take(t, l, at(3*time.Minute), r, late, 1); !v.Admitted() || v.Notes.Has(throttle.Shared) {
		t.Errorf("three minutes later: %+v", v)
	}
}

func TestClosedStart(t *testing.T) {
	hour, tens := throttle.Window{Length: time.Hour}, throttle.Window{Length: 10 * time.Second}
	for _, tc := range []struct {
		name       string
		disk       Disk
		start      Start
		rule       throttle.Rule
		shut, open time.Duration // still refused; admitted
	}{
		{"short window", newDisk(), AsLeft, throttle.Rule{Limit: 3, Window: tens}, 9 * time.Second, 10 * time.Second},
		{"short window, empty start", newDisk(), StartEmpty, throttle.Rule{Limit: 3, Window: tens}, -1, 0},
		{"no disk", nil, AsLeft, throttle.Rule{Limit: 3, Window: hour}, 59 * time.Minute, time.Hour},
		{"no disk, fail-open plan", nil, AsLeft, throttle.Rule{Limit: 3, Window: hour, Loss: throttle.FailOpen}, -1, 0},
		{"no disk, empty start", nil, StartEmpty, throttle.Rule{Limit: 3, Window: hour}, -1, 0},
		{"fresh disk for a bad one", newDisk(), StartShut, throttle.Rule{Limit: 3, Window: hour}, 59 * time.Minute, time.Hour},
		{"fresh disk", newDisk(), AsLeft, throttle.Rule{Limit: 3, Window: hour}, -1, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := open(t, tc.disk, at(0), Options{Start: tc.start})
			r := rule(t, tc.rule)
			if tc.shut >= 0 {
				v := take(t, l, at(tc.shut), r, key("k"), 1)
				if v.Admitted() || !v.Notes.Has(throttle.Closed) || v.Retry != tc.open-tc.shut {
					t.Errorf("%v after the start: %+v, want refused for %v", tc.shut, v, tc.open-tc.shut)
				}
			}
			var got int64
			for range 5 {
				v, err := l.Take(ended, at(tc.open), []throttle.Claim{{Rule: r, Key: key("k"), N: 1}})
				if errors.Is(err, throttle.ErrStalled) && l.disk != nil {
					if err := l.flush(urgentFlush); err != nil {
						t.Fatal(err)
					}
				} else if err != nil {
					t.Fatal(err)
				} else if v.Admitted() {
					got++
				}
			}
			if got < 2 || got > 3 {
				t.Errorf("%v after the start: %d admitted of 3", tc.open, got)
			}
		})
	}
}

func TestANewTimeLineClosesOpenWindowsOnce(t *testing.T) {
	disk := newDisk()
	l := open(t, disk, at(48*time.Hour), Options{})
	r := rule(t, throttle.Rule{Limit: 5, Window: throttle.Window{Length: time.Hour}})
	if got := admit(t, l, at(48*time.Hour), r, key("k")); got != 5 {
		t.Fatalf("admitted %d", got)
	}
	back := func(d time.Duration) throttle.Instant { n := at(d); n.Line = 1; n.Boot += 48 * time.Hour; return n }
	for _, restart := range []bool{false, true} {
		if restart {
			if err := l.flush(tickFlush); err != nil {
				t.Fatal(err)
			}
			l = open(t, disk, back(20*time.Minute), Options{})
		}
		if v := take(t, l, back(20*time.Minute), r, key("k"), 1); v.Admitted() || v.Retry != 40*time.Minute {
			t.Errorf("restart=%v: %+v, want the open window closed", restart, v)
		}
	}
	if got := admit(t, l, back(time.Hour), r, key("k")); got != 5 {
		t.Errorf("next window of the new line: %d, want 5", got)
	}
}

func TestDiskFailure(t *testing.T) {
	disk := newDisk()
	l := open(t, disk, at(0), Options{})
	l.fixed = fixed{reserve: 2, allow: 1}
	billed := perMinute(t, 10)
	guard := rule(t, throttle.Rule{Level: policy.LevelAPI, Limit: 10, Window: throttle.Window{Length: time.Minute}, Loss: throttle.FailOpen})
	for _, r := range []*throttle.Rule{billed, guard} {
		take(t, l, at(0), r, key(r.Level.String()), 1)
	}
	disk.next = func() fate { return lost }
	var stalls, undurable int
	for range 10 {
		if _, err := tryTake(l, at(0), throttle.Claim{Rule: billed, Key: key("subscription"), N: 1}); errors.Is(err, throttle.ErrStalled) {
			stalls++
		}
		if v, err := tryTake(l, at(0), throttle.Claim{Rule: guard, Key: key("api"), N: 1}); err == nil && v.Notes.Has(throttle.Undurable) {
			undurable++
		}
	}
	if stalls == 0 || undurable == 0 {
		t.Errorf("%d stalls of the closed plan, %d undurable calls of the open one, want both", stalls, undurable)
	}
	if l.Err() == nil || l.Stats().Stalls == 0 {
		t.Errorf("the failure does not show: %v, %+v", l.Err(), l.Stats())
	}
	if v := take(t, l, at(0), guard, key("api"), 1); v.Admitted() {
		t.Error("the open plan admitted more than its limit")
	}
	disk.next = nil
	if err := l.flush(urgentFlush); err != nil {
		t.Fatal(err)
	}
	if err := l.Err(); err != nil {
		t.Errorf("after the disk came back: %v", err)
	}
	if got := admit(t, l, at(0), billed, key("subscription")); got == 0 {
		t.Error("the closed plan did not come back")
	}
	l = open(t, disk, at(0), Options{})
	if got := admit(t, l, at(0), guard, key("api")); got != 0 {
		t.Errorf("after a restart the open plan admits %d more", got)
	}
}

// TestRunWritesOncePerPeriod: the low-water mark waits for the next write, a caller
// without a unit does not.
func TestRunWritesOncePerPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk()
		l := open(t, disk, at(0), Options{})
		stop := running(t, l)
		r := rule(t, throttle.Rule{Limit: 10_000, Window: throttle.Window{Length: time.Hour}})
		start := time.Now()
		now := func() throttle.Instant { return at(time.Since(start)) }
		for range 900 { // one call a second: a quarter of an hour
			v, err := l.Take(context.Background(), now(), []throttle.Claim{{Rule: r, Key: key("k"), N: 1}})
			if err != nil || !v.Admitted() {
				t.Fatalf("%v: %+v, %v", time.Since(start), v, err)
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if disk.commits > 900/30+3 {
			t.Errorf("%d commits in 15 minutes, want about one per 30 s at most", disk.commits)
		}
		if l.Stats().Stalls != 0 {
			t.Errorf("%d calls waited in vain", l.Stats().Stalls)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Take(context.Background(), now(), []throttle.Claim{{Rule: r, Key: key("k"), N: 1}}); !errors.Is(err, throttle.ErrStalled) {
			t.Errorf("a call after the clean stop: %v", err)
		}
		l = open(t, disk, now(), Options{})
		if got := admit(t, l, now(), r, key("k")); got != 10_000-900 {
			t.Errorf("after a clean stop %d calls are left, want %d", got, 10_000-900)
		}
	})
}

func TestStallIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(t, newDisk(), at(0), Options{}) // nobody runs it
		start := time.Now()
		_, err := l.Take(context.Background(), at(0), []throttle.Claim{{Rule: perMinute(t, 5), Key: key("k"), N: 1}})
		if !errors.Is(err, throttle.ErrStalled) || time.Since(start) != DefaultStall {
			t.Errorf("%v after %v, want a stall after %v", err, time.Since(start), DefaultStall)
		}
	})
}

func TestReset(t *testing.T) {
	disk := newDisk()
	l := open(t, disk, at(0), Options{})
	r := rule(t, throttle.Rule{Limit: 5, Window: throttle.Window{Length: time.Hour}})
	admit(t, l, at(0), r, key("k"))
	if n, err := l.Reset(at(0), key("nobody")); n != 0 || err != nil {
		t.Errorf("unknown key: %d, %v", n, err)
	}
	n, err := l.Reset(at(0), key("k"))
	if n != 1 || err != nil {
		t.Fatalf("reset: %d, %v", n, err)
	}
	l = open(t, disk, at(0), Options{}) // it was durable
	if got := admit(t, l, at(0), r, key("k")); got < 4 {
		t.Errorf("after the reset and a crash: %d of 5, want all but a reservation", got)
	}
	disk.next = func() fate { return lost }
	if _, err := l.Reset(at(0), key("k")); !errors.Is(err, errDisk) {
		t.Errorf("reset on a failing disk: %v", err)
	}
}

func TestGovernorSpreadsWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g governor
		g.open(30 * time.Second)
		for begin := time.Now(); g.pace() == 0 || time.Since(begin) < 5*time.Hour; {
			time.Sleep(g.pace())
			g.spend(10, 1)
			time.Sleep(time.Second)
		}
		if g.period() != maxPeriod || g.share() != maxShare {
			t.Errorf("with an empty bucket: a write every %v, reservations of %v, want %v and %v", g.period(), g.share(), maxPeriod, maxShare)
		}
		begin, _ := g.figures()
		for day := time.Now(); time.Since(day) < 24*time.Hour; {
			time.Sleep(max(g.pace(), time.Second))
			if g.pace() == 0 {
				g.spend(10, 1)
			}
		}
		if end, _ := g.figures(); end-begin > dailyBytes+dailyBytes/50 {
			t.Errorf("%d MiB in a day under a constant rush, want at most 400", (end-begin)>>20)
		}
		time.Sleep(24 * time.Hour)
		for range 10 {
			g.spend(1, 0)
			time.Sleep(maxPeriod)
		}
		if g.period() != 30*time.Second {
			t.Errorf("a quiet day later: every %v, want 30s", g.period())
		}
	})
}

func TestAnIdleKeyIsSmall(t *testing.T) {
	l := open(t, newDisk(), at(0), Options{})
	r := perMinute(t, 1000)
	const n = 100_000
	for i := range n {
		take(t, l, at(0), r, key(fmt.Sprint(i)), 1)
	}
	if b := float64(tableBytes(l))/n - 24; b > 64 {
		t.Errorf("%.1f bytes per key beyond its identity, want at most 64", b)
	}
}
