package slots

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"tidegate/platform/durable"
	"tidegate/policy/refusal"
	"tidegate/store"
)

func TestAnOpenSlotReadsItsChunksWhateverBecomesOfTheFile(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	all := chunks(2, 10)
	l := toyLayout(0, all...)
	fill(t, s, l, all)
	b, err := s.Open(l.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close() //nolint:errcheck // only read
	if err := s.Drop(l.Bundle); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Chunk(1, nil); err != nil || !bytes.Equal(got, all[1]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestA18G16NoSpaceIsSaidBeforeTheFirstChunk(t *testing.T) {
	all := chunks(3, 11)
	l := toyLayout(0, all...)
	free := func(total, free int64) func(*Options) {
		return func(o *Options) {
			o.Space = func(string) (durable.Space, error) { return durable.Space{Total: total, Free: free}, nil }
			o.Reserve = 0
		}
	}
	for name, c := range map[string]struct {
		change func(*Options)
		short  int64
	}{
		"quota":           {func(o *Options) { o.Quota = l.Size() - 1 }, 1},
		"exactly quota":   {func(o *Options) { o.Quota = l.Size() }, 0},
		"reserve 32 MiB":  {free(100<<20, 32<<20+l.Size()-7), 7},
		"just enough":     {free(100<<20, 32<<20+l.Size()), 0},
		"reserve 2 % of":  {free(10<<30, 10<<30/50+l.Size()-1), 1},
		"disk quite full": {free(100<<20, 0), 32<<20 + l.Size()},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir(), c.change)
			if short, err := s.Short(l); err != nil || short != c.short {
				t.Errorf("short by %d, %v; want %d", short, err, c.short)
			}
			g, err := s.Stage(l)
			if c.short == 0 {
				if err != nil {
					t.Fatal(err)
				}
				if err := g.Discard(); err != nil {
					t.Error(err)
				}
			} else {
				word(t, err, refusal.NoSpace)
			}
			if n := list(t, filepath.Join(s.dir, stageDir)); n != 0 {
				t.Errorf("%d files in staging", n)
			}
		})
	}
}

func TestThePartOfAnotherBundleGivesWay(t *testing.T) {
	s := open(t, t.TempDir(), func(o *Options) { o.Quota = 6000 })
	first, second := chunks(3, 12), chunks(3, 13)
	if err := stage(t, s, toyLayout(0, first...)).Close(); err != nil {
		t.Fatal(err)
	}
	fill(t, s, toyLayout(0, second...), second) // both together are above the quota
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	if n := list(t, filepath.Join(s.dir, slotDir)); n != 0 {
		t.Errorf("%d slots after a sweep that keeps none", n)
	}
}

// A cut at any step leaves the slot whole or absent, and what was there before it whole.
func TestI1CutAtEveryStep(t *testing.T) {
	type cut struct{ step string }
	all, other := chunks(3, 14), chunks(2, 15)
	l, before := toyLayout(0, all...), toyLayout(0, other...)
	run := func(dir string, at int) (steps int, died bool) {
		n := 0
		s := open(t, dir, func(o *Options) {
			o.Step = func(name string) {
				if n++; n == at {
					panic(cut{name})
				}
			}
		})
		defer func() {
			if p := recover(); p != nil {
				if _, ok := p.(cut); !ok {
					panic(p)
				}
				steps, died = n, true
			}
		}()
		fill(t, s, l, all)
		return n, false
	}
	total, _ := run(t.TempDir(), 0)
	if total < 6 {
		t.Fatalf("only %d steps", total)
	}
	for first := 1; first <= total; first++ {
		for second := 0; second <= total; second++ {
			dir := t.TempDir()
			fill(t, open(t, dir, nil), before, other)
			run(dir, first)
			if second > 0 {
				run(dir, second)
			}
			s := open(t, dir, nil)
			if s.Has(l.Bundle) {
				if err := verify(t, s, l.Bundle); err != nil {
					t.Fatalf("cut at %d and %d: a slot that is not whole: %v", first, second, err)
				}
			}
			if err := verify(t, s, before.Bundle); err != nil {
				t.Fatalf("cut at %d and %d: the other slot: %v", first, second, err)
			}
			fill(t, s, l, all)
			if err := verify(t, s, l.Bundle); err != nil {
				t.Fatalf("cut at %d and %d: received again: %v", first, second, err)
			}
		}
	}
}

func TestPointersMoveWithTheTransaction(t *testing.T) {
	db, err := store.Open(filepath.Join(t.TempDir(), "state.db"), store.Options{MaxBytes: 1 << 20, Schema: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() //nolint:errcheck // a test
	load := func() (p Pointers) {
		t.Helper()
		if err := db.View(func(tx *store.Tx) (err error) {
			p, err = LoadPointers(tx)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := load(); p != (Pointers{}) || p.Serving() != (Digest{}) {
		t.Errorf("before the first bundle: %+v", p)
	}
	want := Pointers{Good: Digest{1}, Older: Digest{2}, Trial: Digest{3}, Attempts: 3, Active: Digest{1}}
	if err := db.Update(func(tx *store.Tx) error { return want.Store(tx) }); err != nil {
		t.Fatal(err)
	}
	if p := load(); p != want || p.Serving() != (Digest{3}) || len(p.Pinned()) != 4 {
		t.Errorf("got %+v, want %+v", p, want)
	}
	stop := errors.New("stop")
	if err := db.Update(func(tx *store.Tx) error { return errors.Join(Pointers{}.Store(tx), stop) }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if p := load(); p != want {
		t.Errorf("a transaction that did not commit moved the pointers: %+v", p)
	}
}

func BenchmarkStage8MiB(b *testing.B) {
	all := make([][]byte, 8)
	random := rand.NewChaCha8([32]byte{16})
	for i := range all {
		all[i] = make([]byte, 1<<20)
		random.Read(all[i])
	}
	l := toyLayout(0, all...)
	s := open(b, b.TempDir(), nil)
	b.SetBytes(l.Size())
	b.ReportAllocs()
	for b.Loop() {
		fill(b, s, l, all)
		if err := s.Drop(l.Bundle); err != nil {
			b.Fatal(err)
		}
	}
}

// Whatever pieces come in whatever order: a chunk is complete when its bytes are the right
// ones, and never else.
func FuzzPieces(f *testing.F) {
	all := chunks(3, 17)
	f.Add([]byte{0, 0, 255, 1, 0, 255, 2, 0, 255})
	f.Add([]byte{0, 10, 20, 0, 0, 30, 0, 30, 255, 7, 3, 3})
	f.Fuzz(func(t *testing.T, script []byte) {
		s := open(t, t.TempDir(), nil)
		l := toyLayout(0, all...)
		g := stage(t, s, l)
		for ; len(script) >= 3; script = script[3:] {
			i, off, n := int(script[0]%5)-1, int(script[1])*5, int(script[2])*5
			data := make([]byte, n) // wrong, unless it is taken from the chunk
			if i >= 0 && i < 3 && script[0] < 128 && off+n <= len(all[i]) {
				data = all[i][off : off+n]
			}
			done, err := g.PutPiece(i, off, data)
			if w, ok := refusal.Of(err); err != nil && (!ok || w != refusal.Format && w != refusal.Digest) {
				t.Fatalf("piece %d %d %d: %v", i, off, n, err)
			}
			if done != (i >= 0 && i < 3 && g.Has(i)) {
				t.Fatalf("piece %d %d %d: complete %v", i, off, n, done)
			}
		}
		for i, c := range all {
			if !g.Has(i) {
				continue
			}
			if got, err := g.Chunk(i, nil); err != nil || !bytes.Equal(got, c) {
				t.Fatalf("chunk %d: %v", i, err)
			}
		}
		if len(g.Missing()) > 0 {
			if err := g.Discard(); err != nil {
				t.Fatal(err)
			}
			return
		}
		if err := g.Finish(); err != nil {
			t.Fatal(err)
		}
		if err := verify(t, s, l.Bundle); err != nil {
			t.Fatal(err)
		}
	})
}
