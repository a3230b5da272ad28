package counters

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"tidegate/policy"
	"tidegate/policy/throttle"
	"time"

	"pgregory.net/rapid"
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

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

// TestNeverAdmitsTwice runs random lives of a device: calls, writes that fail or hang,
// crashes, clean stops, a clock that jumps both ways, plans that change. It counts
// admissions from outside.
func TestNeverAdmitsTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// A generator of our own picks evenly; rapid would mostly pick small numbers.
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		windows := []throttle.Window{
			{Length: time.Minute},
			{Length: 5 * time.Minute},
			{Form: throttle.Sliding, Length: time.Minute},
			{Form: throttle.Calendar, Unit: throttle.Day},
		}
		window := pick(rng, windows)
		limits := []int64{1, 2, 5, 10, 40, 250}
		limit := pick(rng, limits)
		mk := func() *throttle.Rule {
			r, err := throttle.Compile(throttle.Rule{Name: "p", Level: policy.LevelApplication, Limit: limit, Window: window})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		r := mk()
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
		if rng.IntN(2) == 0 {
			l.fixed = fixed{reserve: 1 + rng.Int64N(4), allow: 1 + rng.Int64N(4)}
		}
		sizes := l.fixed
		var write *writing
		seen := counted{}
		check := func(k throttle.Key) {
			w := windowOf(l, k, r)
			id := countedAt(k, r, w)
			seen[id]++
			if n := seen[id]; n > limit {
				t.Fatalf("admitted %d of %d in window %d", n, limit, w)
			}
			if window.Form == throttle.Sliding && lower.Unix() >= w {
				prev := seen[countedAt(k, r, w-int64(window.Length/time.Second))]
				into := l.moment(now()).into(w) // the ledger's time never goes back
				if n := r.Estimate(prev, seen[id], into); n > limit {
					t.Fatalf("estimate %d (%d before, %d now, %v in) of %d", n, prev, seen[id], into, limit)
				}
			}
		}
		abandon := func() {
			if write != nil && rng.IntN(2) == 0 {
				disk.apply(write.batch)
			}
			write = nil
			l = reopen()
			l.fixed = sizes
		}
		acts := map[string]func(){
			"calls": func() {
				k := key(pick(rng, []string{"a", "b", "c"}))
				for range 1 + rng.IntN(30) {
					v, err := l.Take(ended, now(), []throttle.Claim{{Rule: r, Key: k, N: 1}})
					if err == nil && v.Admitted() {
						check(k)
					} else if err != nil && !errors.Is(err, throttle.ErrStalled) {
						t.Fatal(err)
					}
				}
			},
			"begin": func() {
				if write != nil {
					return
				}
				w, err := l.gather(pick(rng, []flushMode{tickFlush, urgentFlush}))
				if err != nil {
					t.Fatal(err)
				}
				write = w
			},
			"end": func() {
				if write == nil {
					return
				}
				f := pick(rng, []fate{done, done, done, lost, kept})
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
			"crash": func() { abandon() },
			"stop": func() {
				if write != nil {
					return
				}
				w, err := l.gather(stopFlush)
				if err != nil {
					t.Fatal(err)
				}
				if f := pick(rng, []fate{done, done, lost}); f != lost {
					disk.apply(w.batch)
				}
				l = reopen()
				l.fixed = sizes
			},
			"time": func() {
				d := time.Duration(rng.IntN(90_000)) * time.Millisecond
				boot += d
				lower = lower.Add(d)
			},
			"jump": func() {
				lower = lower.Add(time.Duration(rng.IntN(900)-300) * time.Second)
			},
			"plan": func() {
				limit = pick(rng, limits)
				r = mk()
			},
		}
		names := []string{
			"calls", "calls", "calls", "calls", "calls", "calls", "begin", "begin", "begin", "end", "end", "end",
			"crash", "stop", "time", "time", "jump",
		}
		for range 1500 {
			if rng.IntN(150) == 0 {
				acts["plan"]()
			}
			acts[pick(rng, names)]()
		}
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
