package counters

import (
	"context"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"tidegate/policy"
	"tidegate/policy/throttle"
	"tidegate/store"
	"time"
	"unsafe"
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

// BenchmarkFlush is one write to a real file with so many keys in use: its time, and the
// bytes of the pages that bbolt writes (the file system's journal comes on top).
func BenchmarkFlush(b *testing.B) {
	for _, keys := range []int{10, 100, 1_000} {
		b.Run("keys="+strconv.Itoa(keys), func(b *testing.B) {
			db, err := store.Open(filepath.Join(b.TempDir(), "state.db"), store.Options{MaxBytes: 16 << 20, Schema: 1})
			if err != nil {
				b.Fatal(err)
			}
			defer func() {
				if err := db.Close(); err != nil {
					b.Error(err)
				}
			}()
			l := open(b, In(db), at(0), Options{})
			l.fixed = fixed{reserve: 1, allow: 1}
			r := rule(b, throttle.Rule{Limit: throttle.MaxLimit, Window: throttle.Window{Length: time.Hour}})
			var before store.Stats
			for i := range b.N + 1 {
				if i == 1 { // the records exist now
					before = db.Stats()
					b.ResetTimer()
				}
				for k := range keys { // two each: every reservation is used up
					kk := throttle.KeyOf(policy.LevelAPI, strconv.Itoa(k))
					for range 2 {
						if _, err := l.Take(ended, at(0), []throttle.Claim{{Rule: r, Key: kk, N: 1}}); err != nil {
							break // the rest waits for the write
						}
					}
				}
				if err := l.flush(urgentFlush); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(db.Stats().WrittenBytes-before.WrittenBytes)/float64(b.N), "B/commit")
		})
	}
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
