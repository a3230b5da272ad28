package counters

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tidegate/policy"
	"tidegate/policy/throttle"
)

// counted is what a test saw from outside: admissions per key and window.
type counted map[string]int64

func countedAt(k throttle.Key, r *throttle.Rule, start int64) string {
	return fmt.Sprintf("%s/%x/%d", k, r.Def(), start)
}

// windowOf returns the window in which a ledger counts a key now.
func windowOf(l *Ledger, k throttle.Key, r *throttle.Rule) int64 {
	s := &l.stripes[stripeOf(&k)]
	s.mu.Lock()
	defer s.mu.Unlock()
	c, _ := l.find(s, &k, r.Def())
	if c == nil {
		over := overflowKey(r, stripeOf(&k))
		c, _ = l.find(s, &over, r.Def())
	}
	return int64(c.start)
}

// TestNeverAdmitsTwice runs long random lives of a device: calls, writes that fail or
// hang, crashes, clean stops, a clock that jumps both ways, plans that change. It counts
// admissions from outside.
func TestNeverAdmitsTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		windows := []throttle.Window{
			{Length: time.Minute}, {Length: 5 * time.Minute}, {Form: throttle.Sliding, Length: time.Minute},
			{Form: throttle.Calendar, Unit: throttle.Day},
		}
		window := rapid.SampledFrom(windows).Draw(t, "window")
		limits := []int64{1, 2, 5, 10, 100, 250}
		limit := rapid.SampledFrom(limits).Draw(t, "limit")
		mk := func() *throttle.Rule {
			r, err := throttle.Compile(throttle.Rule{Name: "p", Level: policy.LevelApplication, Limit: limit, Window: window})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		r, most := mk(), limit
		disk := newDisk()
		boot, lower := time.Hour, epoch
		now := func() throttle.Instant { return throttle.Instant{Lower: lower, Boot: boot} }
		reopen := func() *Ledger {
			l, err := Open(disk, now(), Options{})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		l := reopen()
		if rapid.Bool().Draw(t, "sizes fixed") {
			l.fixed = fixed{reserve: rapid.Int64Range(1, 4).Draw(t, "B"), allow: rapid.Int64Range(1, 4).Draw(t, "a")}
		}
		sizes := l.fixed
		var write *writing
		seen := counted{}
		check := func(k throttle.Key) {
			w := windowOf(l, k, r)
			id := countedAt(k, r, w)
			seen[id]++
			if n := seen[id]; n > most {
				t.Fatalf("admitted %d of %d in window %d", n, most, w)
			}
			if window.Form == throttle.Sliding && lower.Unix() >= w {
				prev := seen[countedAt(k, r, w-int64(window.Length/time.Second))]
				into := lower.Sub(time.Unix(w, 0))
				if n := r.Estimate(prev, seen[id], into); n > most {
					t.Fatalf("estimate %d (%d before, %d now, %v in) of %d", n, prev, seen[id], into, most)
				}
			}
		}
		abandon := func() {
			if write != nil && rapid.Bool().Draw(t, "kept") {
				disk.apply(write.batch)
			}
			write = nil
			l = reopen()
			l.fixed = sizes
		}
		t.Repeat(map[string]func(*rapid.T){
			"calls": func(t *rapid.T) {
				k := key(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key"))
				for range rapid.IntRange(1, 30).Draw(t, "n") {
					v, err := l.Take(ended, now(), []throttle.Claim{{Rule: r, Key: k, N: 1}})
					if err == nil && v.Admitted() {
						check(k)
					} else if err != nil && !errors.Is(err, throttle.ErrStalled) {
						t.Fatal(err)
					}
				}
			},
			"begin": func(t *rapid.T) {
				if write != nil {
					t.Skip("a write is under way")
				}
				w, err := l.gather(rapid.SampledFrom([]flushMode{tickFlush, urgentFlush}).Draw(t, "mode"))
				if err != nil {
					t.Fatal(err)
				}
				write = w
			},
			"end": func(t *rapid.T) {
				if write == nil {
					t.Skip("no write")
				}
				f := rapid.SampledFrom([]fate{done, done, done, lost, kept}).Draw(t, "fate")
				if f != lost {
					disk.apply(write.batch)
				}
				var err error
				if f != done {
					err = errDisk
				}
				l.settle(write, err)
				write = nil
			},
			"crash": func(*rapid.T) { abandon() },
			"stop": func(t *rapid.T) {
				if write != nil {
					t.Skip("a write is under way")
				}
				w, err := l.gather(stopFlush)
				if err != nil {
					t.Fatal(err)
				}
				if f := rapid.SampledFrom([]fate{done, done, lost}).Draw(t, "fate"); f != lost {
					disk.apply(w.batch)
				}
				l = reopen()
				l.fixed = sizes
			},
			"time": func(t *rapid.T) {
				d := time.Duration(rapid.IntRange(0, 90_000).Draw(t, "ms")) * time.Millisecond
				boot += d
				lower = lower.Add(d)
			},
			"jump": func(t *rapid.T) {
				lower = lower.Add(time.Duration(rapid.IntRange(-600, 7200).Draw(t, "s")) * time.Second)
			},
			"plan": func(t *rapid.T) {
				limit = rapid.SampledFrom(limits).Draw(t, "limit")
				r, most = mk(), max(most, limit)
			},
		})
	})
}

// TestLongLives is the same with many keys and without shrinking: days of a device.
func TestLongLives(t *testing.T) {
	seeds := 8
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(uint64(seed), 7))
		r := perMinute(t, 40)
		disk := newDisk()
		boot, lower := time.Hour, epoch
		l := open(t, disk, throttle.Instant{Lower: lower, Boot: boot}, Options{})
		seen := counted{}
		crashes := 0
		for range 60_000 {
			now := throttle.Instant{Lower: lower, Boot: boot}
			k := key(fmt.Sprint(rng.IntN(50)))
			v, err := tryTake(l, now, throttle.Claim{Rule: r, Key: k, N: 1})
			if err == nil && v.Admitted() {
				id := countedAt(k, r, windowOf(l, k, r))
				if seen[id]++; seen[id] > 40 {
					t.Fatalf("seed %d: %d of 40 in %s", seed, seen[id], id)
				}
			}
			boot += time.Duration(rng.IntN(40)) * time.Millisecond
			lower = lower.Add(time.Duration(rng.IntN(40)) * time.Millisecond)
			switch rng.IntN(3000) {
			case 0, 1:
				crashes++
				l = open(t, disk, now, Options{})
			case 2:
				lower = lower.Add(-time.Duration(rng.IntN(300)) * time.Second)
			case 3:
				lower = lower.Add(time.Duration(rng.IntN(300)) * time.Second)
			case 4:
				if err := l.flush(stopFlush); err != nil {
					t.Fatal(err)
				}
				l = open(t, disk, now, Options{})
			case 5, 6, 7:
				if err := l.flush(tickFlush); err != nil {
					t.Fatal(err)
				}
			}
		}
		if crashes == 0 {
			t.Errorf("seed %d: no crash happened", seed)
		}
	}
}
