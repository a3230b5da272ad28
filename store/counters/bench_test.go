package counters

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"tidegate/policy"
	"tidegate/policy/throttle"
)

func benchLedger(b *testing.B, keys int) (*Ledger, [4]*throttle.Rule, []throttle.Key) {
	d := newDisk()
	l := open(b, d, at(0), Options{})
	levels := [4]policy.Level{policy.LevelAPI, policy.LevelSubscription, policy.LevelApplication, policy.LevelCustom}
	var rules [4]*throttle.Rule
	for i, level := range levels {
		rules[i] = rule(b, throttle.Rule{Level: level, Limit: throttle.MaxLimit, Window: throttle.Window{Length: time.Hour}})
	}
	ks := make([]throttle.Key, keys)
	for i := range ks {
		ks[i] = throttle.KeyOf(levels[i%4], strconv.Itoa(i))
		take(b, l, at(0), rules[i%4], ks[i], 1)
	}
	return l, rules, ks
}

// BenchmarkTake is the decision for one call under four levels.
func BenchmarkTake(b *testing.B) {
	for _, keys := range []int{4, 100_000} {
		b.Run("levels=4/keys="+strconv.Itoa(keys), func(b *testing.B) {
			l, rules, ks := benchLedger(b, keys)
			claims := make([]throttle.Claim, 4)
			now := at(time.Second)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				for j := range claims {
					claims[j] = throttle.Claim{Rule: rules[j], Key: ks[i+j], N: 1}
				}
				if i += 4 * 7919; i >= keys-3 {
					i = (i % keys) &^ 3 % keys
				}
				v, err := l.Take(context.Background(), now, claims)
				if err != nil || !v.Admitted() {
					b.Fatal(v, err)
				}
			}
		})
	}
}

// BenchmarkTakeHot is contention: every core on the same key.
func BenchmarkTakeHot(b *testing.B) {
	l, rules, ks := benchLedger(b, 4)
	now := at(time.Second)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		claims := []throttle.Claim{{Rule: rules[0], Key: ks[0], N: 1}}
		for pb.Next() {
			if v, err := l.Take(context.Background(), now, claims); err != nil || !v.Admitted() {
				b.Error(v, err)
				return
			}
		}
	})
}

// BenchmarkTakeSpread is the same load on keys of their own.
func BenchmarkTakeSpread(b *testing.B) {
	l, rules, ks := benchLedger(b, 400)
	now := at(time.Second)
	var id atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		claims := []throttle.Claim{{Rule: rules[0], Key: ks[4*id.Add(1)], N: 1}}
		for pb.Next() {
			if v, err := l.Take(context.Background(), now, claims); err != nil || !v.Admitted() {
				b.Error(v, err)
				return
			}
		}
	})
}

// BenchmarkKeys reports what an idle key costs beyond its identity.
func BenchmarkKeys(b *testing.B) {
	for b.Loop() {
		l, _, _ := benchLedger(b, 200_000)
		b.ReportMetric(float64(tableBytes(l))/200_000-24, "B/key")
	}
}

// tableBytes is the memory of the table: blocks and index.
func tableBytes(l *Ledger) (n uintptr) {
	for i := range l.stripes {
		s := &l.stripes[i]
		n += uintptr(len(s.blocks))*unsafe.Sizeof([blockSize]cell{}) + uintptr(cap(s.index))*4 + uintptr(cap(s.free))*4
	}
	return n
}
