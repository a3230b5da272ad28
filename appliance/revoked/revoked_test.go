package revoked_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"tidegate/appliance/revoked"
	"tidegate/policy"
	"tidegate/policy/refusal"
	"tidegate/store"
	"tidegate/store/storetest"
)

const mib = 1 << 20

func open(t testing.TB, path string, o store.Options) *store.DB {
	t.Helper()
	o.MaxBytes, o.Schema = 16*mib, 1
	db, err := store.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func list(t testing.TB, db *store.DB) *revoked.List {
	t.Helper()
	l, err := revoked.Open(db)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func entryOf(kind policy.RevocationKind, n int, until uint64) policy.Revocation {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	sum := sha256.Sum256(b[:])
	return policy.Revocation{Kind: kind, Hash: [16]byte(sum[:16]), Until: until}
}

func add(t testing.TB, l *revoked.List, rs ...policy.Revocation) int {
	t.Helper()
	n, err := l.Add(1000, rs, nil)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// wants fails unless l has exactly the end of r.
func wants(t testing.TB, l *revoked.List, r policy.Revocation) {
	t.Helper()
	until, ok := l.Until(r.Kind, r.Hash)
	if !ok || until != r.Until {
		t.Errorf("kind %d: got %d, %v; want %d", r.Kind, until, ok, r.Until)
	}
}

func TestAddedEntriesAreSeenAndSurviveARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db := open(t, path, store.Options{})
	l := list(t, db)
	before := l.Generation()
	rs := []policy.Revocation{entryOf(policy.RevokedID, 1, 5000), entryOf(policy.RevokedUser, 1, 0), entryOf(policy.RevokedID, 2, 0)}
	if n := add(t, l, rs...); n != 3 {
		t.Errorf("%d entries are new, want 3", n)
	}
	if l.Generation() == before {
		t.Error("the generation did not move: caches would not look again")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	l = list(t, open(t, path, store.Options{}))
	for _, r := range rs {
		wants(t, l, r)
	}
	if _, ok := l.Until(policy.RevokedKey, rs[0].Hash); ok {
		t.Error("a hash counts under another kind")
	}
	if l.Len() != 3 {
		t.Errorf("%d entries, want 3", l.Len())
	}
}

func TestLongerOfTwoEndsCounts(t *testing.T) {
	l := list(t, nil)
	for _, step := range []struct {
		until uint64
		n     int
		want  uint64
	}{{5000, 1, 5000}, {4000, 0, 5000}, {6000, 1, 6000}, {6000, 0, 6000}, {0, 1, 0}, {9000, 0, 0}} {
		generation := l.Generation()
		r := entryOf(policy.RevokedID, 7, step.until)
		if n := add(t, l, r); n != step.n {
			t.Errorf("until %d: %d changed, want %d", step.until, n, step.n)
		}
		if moved := l.Generation() != generation; moved != (step.n > 0) {
			t.Errorf("until %d: generation moved: %v", step.until, moved)
		}
		r.Until = step.want
		wants(t, l, r)
	}
	r := entryOf(policy.RevokedID, 8, 100)
	s := r
	s.Until = 300
	if n := add(t, l, r, s, r); n != 1 {
		t.Errorf("three of one name count as %d", n)
	}
	wants(t, l, s)
}

func TestNothingIsInForceThatIsNotOnDisk(t *testing.T) {
	for _, fate := range storetest.Fates {
		t.Run(fate.String(), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			var faults storetest.Faults
			db := open(t, path, store.Options{Commit: faults.Commit})
			l := list(t, db)
			faults.At(1, fate)
			r := entryOf(policy.RevokedID, 1, 0)
			if _, err := l.Add(0, []policy.Revocation{r}, nil); err == nil {
				t.Fatal("reported as taken")
			}
			if _, ok := l.Until(r.Kind, r.Hash); ok {
				t.Error("in force, though nobody can say whether it is on disk")
			}
		})
	}
}

func TestWhatIsWrittenBesideIsInTheSameTransaction(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "state.db"), store.Options{})
	l := list(t, db)
	no := errors.New("no")
	r := entryOf(policy.RevokedID, 1, 0)
	if _, err := l.Add(0, []policy.Revocation{r}, func(*store.Tx, int) error { return no }); !errors.Is(err, no) {
		t.Fatalf("got %v", err)
	}
	if list(t, db).Len() != 0 || l.Len() != 0 {
		t.Error("the entry stayed without its record")
	}
	calls := 0
	for range 2 {
		if _, err := l.Add(0, []policy.Revocation{r}, func(_ *store.Tx, n int) error { calls += n; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if calls != 1 {
		t.Errorf("recorded %d times, want once: the second time changes nothing", calls)
	}
}

func TestFullListDropsWhatIsOverAndThenRefuses(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "state.db"), store.Options{})
	l := list(t, db)
	rs := make([]policy.Revocation, revoked.Max)
	for i := range rs {
		rs[i] = entryOf(policy.RevokedID, i, 500)
	}
	rs[7].Until = 0
	add(t, l, rs...)
	more := entryOf(policy.RevokedUser, 1, 0)
	_, err := l.Add(499, []policy.Revocation{more}, nil)
	if w, _ := refusal.Of(err); w != refusal.Limit || !strings.Contains(refusal.Hint(err), "bundle") {
		t.Errorf("full list: got %v", err)
	}
	if l.Len() != revoked.Max {
		t.Errorf("a refused addition left %d entries", l.Len())
	}
	if n, err := l.Add(500, []policy.Revocation{more}, nil); err != nil || n != 1 {
		t.Fatalf("with %d over: got %d, %v", revoked.Max-1, n, err)
	}
	for _, l := range []*revoked.List{l, list(t, db)} {
		wants(t, l, more)
		wants(t, l, rs[7])
		if l.Len() != 2 {
			t.Errorf("%d entries, want 2", l.Len())
		}
	}
}

func TestDamagedPartIsToldAndTheRestCounts(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "state.db"), store.Options{})
	l := list(t, db)
	a, b := entryOf(policy.RevokedID, 1, 0), entryOf(policy.RevokedID, 3, 0)
	add(t, l, a, b)
	if a.Hash[0] == b.Hash[0] {
		t.Fatal("both are in one part: the test shows nothing")
	}
	if err := db.Update(func(tx *store.Tx) error { return tx.Bucket("revoked").Put(a.Hash[:1], []byte("short")) }); err != nil {
		t.Fatal(err)
	}
	l, err := revoked.Open(db)
	if err == nil {
		t.Error("damage was not told")
	}
	wants(t, l, b)
}

func TestReadersSeeWholeListsWhileItGrows(t *testing.T) {
	l := list(t, nil)
	fixed := entryOf(policy.RevokedID, -1, 0)
	add(t, l, fixed)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 5000 {
				if _, ok := l.Until(fixed.Kind, fixed.Hash); !ok {
					t.Error("an entry was gone for a moment")
					return
				}
			}
		})
	}
	for i := range 200 {
		add(t, l, entryOf(policy.RevokedID, i, 0))
	}
	wg.Wait()
}

// The list against a map, over random additions and reopening.
func TestListIsAMap(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "state.db"), store.Options{})
	l := list(t, db)
	model := map[policy.Revocation]uint64{}
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		var rs []policy.Revocation
		for range r.IntN(20) {
			e := entryOf(policy.RevocationKind(1+r.IntN(6)), r.IntN(50), uint64(r.IntN(4)*1000))
			rs = append(rs, e)
			key := e
			key.Until = 0
			old, ok := model[key]
			switch {
			case !ok, e.Until == 0, old != 0 && e.Until > old:
				model[key] = e.Until
			}
		}
		if _, err := l.Add(0, rs, nil); err != nil {
			t.Fatal(err)
		}
		if r.IntN(5) == 0 {
			l = list(t, db)
		}
	}
	if l.Len() != len(model) {
		t.Errorf("%d entries, want %d", l.Len(), len(model))
	}
	for e, until := range model {
		e.Until = until
		wants(t, l, e)
	}
}

func BenchmarkUntil(b *testing.B) {
	l := list(b, nil)
	rs := make([]policy.Revocation, revoked.Max)
	for i := range rs {
		rs[i] = entryOf(policy.RevokedID, i, 0)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	add(b, l, rs...)
	runtime.GC()
	runtime.ReadMemStats(&after)
	miss := entryOf(policy.RevokedUser, 1, 0)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		l.Until(policy.RevokedID, rs[i%len(rs)].Hash)
		l.Until(policy.RevokedID, miss.Hash)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/revoked.Max, "heap-B/entry")
	runtime.KeepAlive(rs)
}

func BenchmarkAddOneTo100000(b *testing.B) {
	path := filepath.Join(b.TempDir(), "state.db")
	db := open(b, path, store.Options{})
	l := list(b, db)
	rs := make([]policy.Revocation, revoked.Max-100)
	for i := range rs {
		rs[i] = entryOf(policy.RevokedID, i, 0)
	}
	add(b, l, rs...)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		add(b, l, entryOf(policy.RevokedID, len(rs), uint64(i+1)))
	}
	b.ReportMetric(float64(db.Stats().UsedBytes)/float64(len(rs)), "disk-B/entry")
}

func BenchmarkOpen100000(b *testing.B) {
	path := filepath.Join(b.TempDir(), "state.db")
	db := open(b, path, store.Options{})
	l := list(b, db)
	rs := make([]policy.Revocation, revoked.Max)
	for i := range rs {
		rs[i] = entryOf(policy.RevokedID, i, 0)
	}
	add(b, l, rs...)
	b.ReportAllocs()
	for b.Loop() {
		list(b, db)
	}
}
