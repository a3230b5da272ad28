package counters

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"tidegate/policy"
	"tidegate/policy/throttle"
	"time"
)

// TestAccuracy: exactly N calls pass, N+1 is refused, and the window turns at the
// instant the documentation says, with 64 callers at once.
func TestAccuracy(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("this system has no time zones")
	}
	date := func(m time.Month, day int) time.Duration {
		return time.Date(2026, m, day, 0, 0, 0, 0, berlin).Sub(epoch)
	}
	for _, w := range []struct {
		name  string
		w     throttle.Window
		kind  throttle.Kind
		from  time.Duration // of the first call, after epoch
		turns time.Duration // when the first call passes again
	}{
		{"10 s", throttle.Window{Length: 10 * time.Second}, throttle.Requests, 3 * time.Second, 10 * time.Second},
		{"minute", throttle.Window{Length: time.Minute}, throttle.Requests, 59 * time.Second, time.Minute},
		{"day", throttle.Window{Length: 24 * time.Hour}, throttle.Requests, time.Hour, 24 * time.Hour},
		{"day in Berlin", throttle.Window{Form: throttle.Calendar, Unit: throttle.Day, Zone: berlin}, throttle.Requests, 2 * time.Hour, date(time.January, 6)},
		{"week in Berlin", throttle.Window{Form: throttle.Calendar, Unit: throttle.Week, Zone: berlin}, throttle.Requests, date(time.March, 24), date(time.March, 30)}, // summer time begins on the 29th
		{"month in Berlin", throttle.Window{Form: throttle.Calendar, Unit: throttle.Month, Zone: berlin}, throttle.Requests, date(time.October, 3), date(time.November, 1)},
		{"bytes per minute", throttle.Window{Length: time.Minute}, throttle.Bytes, 0, time.Minute},
		{"sliding minute", throttle.Window{Form: throttle.Sliding, Length: time.Minute}, throttle.Requests, 59 * time.Second, time.Minute},
		{"sliding 10 s", throttle.Window{Form: throttle.Sliding, Length: 10 * time.Second}, throttle.Requests, 3 * time.Second, 10 * time.Second},
		{"sliding bytes per hour", throttle.Window{Form: throttle.Sliding, Length: time.Hour}, throttle.Bytes, 20 * time.Minute, time.Hour},
	} {
		for _, n := range []int64{1, 2, 10, 1_000, 1_000_000} {
			if n > 1_000 && testing.Short() {
				continue
			}
			t.Run(fmt.Sprintf("%s/%d", w.name, n), func(t *testing.T) {
				// The ledger opened an hour ago: short windows are past their closed start.
				l := open(t, newDisk(), at(w.from-time.Hour), Options{Stall: time.Minute})
				stop := running(t, l)
				r := rule(t, throttle.Rule{Kind: w.kind, Limit: n, Window: w.w})
				if got := rush(t, l, at(w.from), r, n+64); got != n {
					t.Errorf("admitted %d of %d", got, n)
				}
				turns, left := w.turns, n-1
				sliding := w.w.Form == throttle.Sliding
				if sliding { // one of n has faded when an n-th of the next window has gone by
					turns, left = turns+(w.w.Length+time.Duration(n)-1)/time.Duration(n), 0
				}
				v := take(t, l, at(turns-time.Nanosecond), r, key("k"), 1)
				if v.Admitted() || v.Retry != time.Nanosecond {
					t.Errorf("1 ns before the turn: admitted %v, retry after %v", v.Admitted(), v.Retry)
				}
				v, err := l.Take(context.Background(), at(turns), []throttle.Claim{{Rule: r, Key: key("k"), N: 1}})
				if err != nil || !v.Admitted() || v.Remaining != left {
					t.Errorf("at the turn: %+v, %v", v, err)
				}
				if sliding && n > 1 { // half of the n has faded, and one more is counted
					if got := rush(t, l, at(w.turns+w.w.Length/2), r, n); got != n/2-1 {
						t.Errorf("half a window later: admitted %d, want %d", got, n/2-1)
					}
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// rush makes calls from 64 goroutines and returns how many were admitted.
func rush(t *testing.T, l *Ledger, now throttle.Instant, r *throttle.Rule, calls int64) int64 {
	var left, passed atomic.Int64
	left.Store(calls)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			claims := []throttle.Claim{{Rule: r, Key: key("k"), N: 1}}
			for left.Add(-1) >= 0 {
				v, err := l.Take(context.Background(), now, claims)
				if err != nil {
					t.Error(err)
					return
				}
				if v.Admitted() {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return passed.Load()
}

func TestSlidingWindowFadesThePreviousOne(t *testing.T) {
	r := rule(t, throttle.Rule{Limit: 10, Window: throttle.Window{Form: throttle.Sliding, Length: time.Minute}})
	disk := newDisk()
	l := open(t, disk, at(0), Options{})
	l.fixed = fixed{reserve: 1, allow: 1}
	if got := admit(t, l, at(50*time.Second), r, key("k")); got != 10 {
		t.Fatalf("admitted %d of 10", got)
	}
	v := take(t, l, at(60*time.Second), r, key("k"), 1)
	if v.Admitted() || v.Retry != 6*time.Second {
		t.Errorf("at the turn: admitted %v, retry after %v, want refused and 6s", v.Admitted(), v.Retry)
	}
	if got := admit(t, l, at(90*time.Second), r, key("k")); got != 5 {
		t.Errorf("half a window later: admitted %d, want 5", got)
	}
	if err := l.flush(tickFlush); err != nil {
		t.Fatal(err)
	}
	l = open(t, disk, at(90*time.Second), Options{}) // a crash forgets nothing
	if got := admit(t, l, at(90*time.Second), r, key("k")); got != 0 {
		t.Errorf("after a crash: admitted %d, want 0", got)
	}
}

func TestAllLevelsOrNone(t *testing.T) {
	l := open(t, newDisk(), at(0), Options{})
	wide := rule(t, throttle.Rule{Level: policy.LevelAPI, Limit: 10, Window: throttle.Window{Length: time.Minute}, Shared: true})
	tight := rule(t, throttle.Rule{Level: policy.LevelSubscription, Limit: 2, Window: throttle.Window{Length: time.Minute}})
	hour := rule(t, throttle.Rule{Level: policy.LevelApplication, Limit: 2, Window: throttle.Window{Length: time.Hour}})
	claims := []throttle.Claim{{Rule: wide, Key: key("api"), N: 1}, {Rule: tight, Key: key("sub"), N: 1}, {Rule: hour, Key: key("app"), N: 1}}
	for i := range 5 {
		v, err := tryTake(l, at(0), claims...)
		if err != nil {
			t.Fatal(err)
		}
		if want := i < 2; v.Admitted() != want {
			t.Fatalf("call %d: admitted %v", i, v.Admitted())
		}
		if i >= 2 && (v.Level != policy.LevelSubscription || v.Denied != 1 || v.Retry != time.Hour) {
			t.Errorf("call %d: %+v, want the first level in order and the latest turn", i, v)
		}
	}
	if v := take(t, l, at(0), wide, key("api"), 1); v.Tightest != -1 {
		t.Errorf("a shared counter shows its numbers: %+v", v)
	}
	for row := range l.Rows {
		if row.Level == policy.LevelAPI && row.Used != 3 {
			t.Errorf("API counter: %d used, want 3: refused calls are counted nowhere", row.Used)
		}
	}
}

func TestOneKeyTwiceInACallCountsTwice(t *testing.T) {
	l := open(t, newDisk(), at(0), Options{})
	r := perMinute(t, 3)
	twice := []throttle.Claim{{Rule: r, Key: key("k"), N: 1}, {Rule: r, Key: key("k"), N: 1}}
	for i, want := range []bool{true, false} {
		if v, err := tryTake(l, at(0), twice...); err != nil || v.Admitted() != want {
			t.Errorf("call %d: admitted %v, %v, want %v", i, v.Admitted(), err, want)
		}
	}
	if got := admit(t, l, at(0), r, key("k")); got != 1 {
		t.Errorf("left over: %d, want 1", got)
	}
}

func TestTooManyClaims(t *testing.T) {
	l := open(t, newDisk(), at(0), Options{})
	r := perMinute(t, 1)
	if _, err := l.Take(ended, at(0), make([]throttle.Claim, throttle.MaxClaims+1)); !errors.Is(err, throttle.ErrClaims) {
		t.Errorf("33 claims: %v", err)
	}
	claims := make([]throttle.Claim, throttle.MaxClaims)
	for i := range claims {
		claims[i] = throttle.Claim{Rule: r, Key: key(fmt.Sprint(i)), N: 1}
	}
	if v, err := tryTake(l, at(0), claims...); err != nil || !v.Admitted() {
		t.Errorf("32 claims: %+v, %v", v, err)
	}
}

func TestBurstBeginsEmptyAndRefills(t *testing.T) {
	l := open(t, newDisk(), at(0), Options{})
	r := rule(t, throttle.Rule{Kind: throttle.Burst, Limit: 20, Window: throttle.Window{Length: time.Second}})
	if got := admit(t, l, at(0), r, key("k")); got != 0 {
		t.Errorf("right after the start: %d, want 0: the calls before it are not known", got)
	}
	v := take(t, l, at(0), r, key("k"), 1)
	if v.Retry != 50*time.Millisecond {
		t.Errorf("retry after %v, want 50ms", v.Retry)
	}
	if got := admit(t, l, at(time.Hour), r, key("k")); got != 20 {
		t.Errorf("full bucket: %d, want 20", got)
	}
	if got := admit(t, l, at(time.Hour+250*time.Millisecond), r, key("k")); got != 5 {
		t.Errorf("a quarter second later: %d, want 5", got)
	}
	if got := admit(t, l, at(time.Hour), r, key("other")); got != 20 {
		t.Errorf("another key: %d, want 20", got)
	}
}

func TestInFlightIsReleased(t *testing.T) {
	l := open(t, newDisk(), at(0), Options{})
	r := rule(t, throttle.Rule{Kind: throttle.InFlight, Limit: 2})
	c := []throttle.Claim{{Rule: r, Key: key("k"), N: 1}}
	if got := admit(t, l, at(0), r, key("k")); got != 2 {
		t.Errorf("at once: %d, want 2", got)
	}
	l.Release(c)
	if got := admit(t, l, at(0), r, key("k")); got != 1 {
		t.Errorf("after one release: %d, want 1", got)
	}
	l.Release(c)
	l.Release(c)
	l.Release(c) // one too many does no harm
	if got := admit(t, l, at(0), r, key("k")); got != 2 {
		t.Errorf("after all were released: %d, want 2", got)
	}
}

func TestSoftPlansMarkAndWarn(t *testing.T) {
	disk := newDisk()
	l := open(t, disk, at(0), Options{})
	r := rule(t, throttle.Rule{Limit: 4, Window: throttle.Window{Length: time.Hour}, Quota: throttle.Mark, WarnPercent: 75})
	for i, want := range []throttle.Notes{0, 0, throttle.Warned, throttle.Warned, throttle.Warned | throttle.Over, throttle.Warned | throttle.Over} {
		v := take(t, l, at(0), r, key("k"), 1)
		if !v.Admitted() || v.Notes != want {
			t.Errorf("call %d: admitted %v, notes %b, want %b", i+1, v.Admitted(), v.Notes, want)
		}
	}
	if err := l.flush(tickFlush); err != nil {
		t.Fatal(err)
	}
	l = open(t, disk, at(0), Options{})
	for row := range l.Rows {
		if row.Durable != 4 {
			t.Errorf("durable %d, want the limit: what is above is counted in memory", row.Durable)
		}
	}
}

func TestBytesAreChargedAndOwed(t *testing.T) {
	disk := newDisk()
	l := open(t, disk, at(0), Options{})
	l.fixed = fixed{reserve: 10, allow: 1}
	w := throttle.Window{Length: time.Minute}
	finish := rule(t, throttle.Rule{Kind: throttle.Bytes, Limit: 1000, Window: w})
	charge := func(now throttle.Instant, r *throttle.Rule, k string, n int64) throttle.Verdict {
		t.Helper()
		c := []throttle.Claim{{Rule: r, Key: key(k), N: n}}
		v, err := l.Charge(ended, now, c)
		if errors.Is(err, throttle.ErrStalled) {
			if err := l.flush(urgentFlush); err != nil {
				t.Fatal(err)
			}
			v, err = l.Charge(ended, now, c)
		}
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if v := take(t, l, at(0), finish, key("k"), 1001); v.Admitted() {
		t.Error("a body larger than the plan was admitted")
	}
	if v := take(t, l, at(0), finish, key("k"), 400); !v.Admitted() || v.Remaining != 600 {
		t.Errorf("400 of 1000: %+v", v)
	}
	if v := charge(at(0), finish, "k", 2200); !v.Admitted() {
		t.Error("a stream that began was cut by a plan that lets it finish")
	}
	// 2600 used: 1600 owed to the next window, 600 to the one after.
	if v := take(t, l, at(time.Minute), finish, key("k"), 0); v.Admitted() || v.Retry != time.Minute {
		t.Errorf("next window: %+v, want refused for a minute", v)
	}
	if err := l.flush(tickFlush); err != nil {
		t.Fatal(err)
	}
	l = open(t, disk, at(time.Minute), Options{}) // what is owed survives
	if v := take(t, l, at(2*time.Minute), finish, key("k"), 0); !v.Admitted() || v.Remaining != 400 {
		t.Errorf("the window after: %+v, want 400 left", v)
	}
	cut := rule(t, throttle.Rule{Kind: throttle.Bytes, Limit: 1000, Window: throttle.Window{Length: time.Hour}, Tail: throttle.Cut})
	if v := charge(at(0), cut, "cut", 1000); !v.Admitted() {
		t.Errorf("all of it: %+v", v)
	}
	if v := charge(at(0), cut, "cut", 1); v.Admitted() {
		t.Error("a byte above a plan that cuts passed")
	}
}
