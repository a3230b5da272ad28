package slots

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"tidegate/policy/refusal"
)

// A toy file has a head of its own form: "toy", a byte of padding count, the padding, and
// for each chunk its size and digest. The digest of the bundle is that of the chunk list.
func toyLayout(pad int, chunks ...[]byte) *Layout {
	var list []byte
	for _, c := range chunks {
		d := sha256.Sum256(c)
		list = append(binary.BigEndian.AppendUint32(list, uint32(len(c))), d[:]...)
	}
	l := &Layout{Bundle: sha256.Sum256(list)}
	l.Head = append([]byte("toy"), byte(pad), byte(len(chunks)))
	l.Head = append(append(l.Head, make([]byte, pad)...), list...)
	for _, c := range chunks {
		l.Chunks = append(l.Chunks, Chunk{Prefix: []byte{0xc0, byte(len(c) % 251)}, Size: len(c), Digest: sha256.Sum256(c)})
	}
	return l
}

func readToy(r io.Reader) (*Layout, error) {
	head := make([]byte, 5)
	if _, err := io.ReadFull(r, head); err != nil || string(head[:3]) != "toy" {
		return nil, errors.Join(err, errors.New("not a toy"))
	}
	rest := make([]byte, int(head[3])+36*int(head[4]))
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil, err
	}
	list := rest[head[3]:]
	l := &Layout{Bundle: sha256.Sum256(list), Head: append(head, rest...)}
	for len(list) > 0 {
		n := int(binary.BigEndian.Uint32(list))
		l.Chunks = append(l.Chunks, Chunk{Prefix: []byte{0xc0, byte(n % 251)}, Size: n, Digest: Digest(list[4:36])})
		list = list[36:]
	}
	return l, nil
}

func open(t testing.TB, dir string, change func(*Options)) *Shelf {
	t.Helper()
	o := Options{Layout: readToy, Reserve: 1}
	if change != nil {
		change(&o)
	}
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func chunks(n int, seed byte) [][]byte {
	random := rand.NewChaCha8([32]byte{seed})
	var all [][]byte
	for i := range n {
		c := make([]byte, 1000+100*i)
		random.Read(c)
		all = append(all, c)
	}
	return all
}

func stage(t testing.TB, s *Shelf, l *Layout) *Staging {
	t.Helper()
	g, err := s.Stage(l)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func fill(t testing.TB, s *Shelf, l *Layout, all [][]byte) {
	t.Helper()
	g := stage(t, s, l)
	for _, i := range g.Missing() {
		if err := g.Put(i, all[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Finish(); err != nil {
		t.Fatal(err)
	}
}

func word(t testing.TB, err error, want refusal.Word) {
	t.Helper()
	if !refusal.Is(err, want) {
		got, _ := refusal.Of(err)
		t.Fatalf("word %q (%v), want %q", got, err, want)
	}
}

func verify(t testing.TB, s *Shelf, d Digest) error {
	t.Helper()
	b, err := s.Open(d)
	if err != nil {
		return err
	}
	defer b.Close() //nolint:errcheck // only read
	return b.Verify(context.Background(), nil)
}

func list(t testing.TB, dir string) (n int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestH1ChunksMayComeInAnyOrder(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	all := chunks(7, 1)
	l := toyLayout(0, all...)
	g := stage(t, s, l)
	for _, i := range []int{6, 2, 2, 0, 5, 1, 6, 3} {
		if err := g.Put(i, all[i]); err != nil {
			t.Fatal(err)
		}
	}
	word(t, g.Finish(), refusal.Truncated) // what came twice does not stand for what did not come
	g = stage(t, s, l)
	for _, i := range []int{6, 2, 2, 0, 5, 1, 6, 3, 4} {
		if err := g.Put(i, all[i]); err != nil {
			t.Fatal(err)
		}
	}
	if s.Has(l.Bundle) {
		t.Error("there is a slot before Finish")
	}
	if err := g.Finish(); err != nil {
		t.Fatal(err)
	}
	if err := verify(t, s, l.Bundle); err != nil {
		t.Error(err)
	}
	var want bytes.Buffer
	want.Write(l.Head)
	for i, c := range all {
		want.Write(l.Chunks[i].Prefix)
		want.Write(c)
	}
	b, err := s.Open(l.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close() //nolint:errcheck // only read
	if got, err := io.ReadAll(b.Stored()); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("the slot is not the file that was received: %d bytes, %v", len(got), err)
	}
	if n := list(t, filepath.Join(dir, stageDir)); n != 0 {
		t.Errorf("%d files in staging", n)
	}
}

func TestH3H6PiecesInAnyOrderAndWrongOnes(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	all := chunks(2, 2)
	l := toyLayout(0, all...)
	g := stage(t, s, l)
	for _, p := range [][3]int{{0, 996, 5}, {0, -1, 5}, {2, 0, 5}, {-1, 0, 5}, {0, 1000, 1}, {0, 0, 0}} {
		_, err := g.PutPiece(p[0], p[1], make([]byte, p[2]))
		word(t, err, refusal.Format)
	}
	put := func(i, from, to int, complete bool) {
		t.Helper()
		got, err := g.PutPiece(i, from, all[i][from:to])
		if err != nil || got != complete {
			t.Fatalf("piece %d-%d of chunk %d: complete %v, %v", from, to, i, got, err)
		}
	}
	put(0, 500, 1000, false)
	put(0, 0, 200, false)
	put(0, 100, 400, false)
	put(0, 0, 1000, true)
	put(0, 3, 4, true) // again
	put(1, 700, 1100, false)
	put(1, 0, 350, false)
	put(1, 350, 700, true)
	if len(g.Missing()) != 0 {
		t.Errorf("missing %v", g.Missing())
	}
	if err := g.Finish(); err != nil {
		t.Fatal(err)
	}
	if err := verify(t, s, l.Bundle); err != nil {
		t.Error(err)
	}
}

func TestH7AWrongChunkIsWantedAgain(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	all := chunks(2, 3)
	g := stage(t, s, toyLayout(0, all...))
	word(t, g.Put(0, chunks(2, 4)[0]), refusal.Digest)
	_, err := g.PutPiece(1, 0, make([]byte, len(all[1])))
	word(t, err, refusal.Digest)
	if done, err := g.PutPiece(1, 0, all[1][:500]); done || err != nil {
		t.Errorf("the first piece of the second try: complete %v, %v", done, err)
	}
	if m := g.Missing(); len(m) != 2 {
		t.Errorf("missing %v", m)
	}
	word(t, g.Finish(), refusal.Truncated)
	if s.Has(g.layout.Bundle) || list(t, filepath.Join(s.dir, stageDir)) != 0 {
		t.Error("an unfinished bundle left something")
	}
}

func TestH8APartIsTakenUpByItsHashes(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	all := chunks(5, 5)
	l := toyLayout(0, all...)
	g := stage(t, s, l)
	for _, i := range []int{1, 3, 4} {
		if err := g.Put(i, all[i]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.PutPiece(0, 0, all[0][:500]); err != nil {
		t.Fatal(err)
	}
	// Chunk 4 tears, and what stood before chunk 3.
	if _, err := g.f.WriteAt([]byte{1, 2, 3}, g.at[4]+100); err != nil {
		t.Fatal(err)
	}
	if _, err := g.f.WriteAt([]byte{0}, g.at[3]); err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, nil)
	g = stage(t, s, l)
	if m := g.Missing(); fmt.Sprint(m) != "[0 2 4]" {
		t.Errorf("missing %v, want chunks 0, 2 and 4", m)
	}
	for _, i := range g.Missing() {
		if err := g.Put(i, all[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Finish(); err != nil {
		t.Fatal(err)
	}
	if err := verify(t, s, l.Bundle); err != nil {
		t.Error(err)
	}
}

func TestAPartWithAnotherHeadKeepsItsChunks(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	all := chunks(4, 6)
	g := stage(t, s, toyLayout(0, all...))
	for _, i := range []int{0, 2} {
		if err := g.Put(i, all[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	longer := toyLayout(77, all...)
	if longer.Bundle != g.layout.Bundle {
		t.Fatal("the two heads are of different bundles")
	}
	g = stage(t, s, longer)
	if m := g.Missing(); fmt.Sprint(m) != "[1 3]" {
		t.Errorf("missing %v, want chunks 1 and 3", m)
	}
	for _, i := range g.Missing() {
		if err := g.Put(i, all[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Finish(); err != nil {
		t.Fatal(err)
	}
	if err := verify(t, s, longer.Bundle); err != nil {
		t.Error(err)
	}
	if n := list(t, filepath.Join(dir, stageDir)); n != 0 {
		t.Errorf("%d files in staging", n)
	}
}

func TestChunksOfASlotAreCopiedAndRottenOnesAreNot(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	all := chunks(4, 7)
	old := toyLayout(0, all...)
	fill(t, s, old, all)
	flip(t, s.slotPath(old.Bundle), old.offsets()[2]+10)
	fresh := append(chunks(1, 8), all...)
	g := stage(t, s, toyLayout(0, fresh...))
	if m := g.Missing(); fmt.Sprint(m) != "[0 3]" {
		t.Errorf("missing %v, want the new chunk and the rotten one", m)
	}
	if err := g.Discard(); err != nil {
		t.Fatal(err)
	}
}

func flip(t testing.TB, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestI15RotIsFoundAndRepaired(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	all := chunks(3, 9)
	l := toyLayout(0, all...)
	fill(t, s, l, all)
	at := l.offsets()
	for name, where := range map[string]int64{
		"head": 5, "chunk": at[1] + 20, "between chunks": at[2], "last byte": l.Size() - 1,
	} {
		t.Run(name, func(t *testing.T) {
			flip(t, s.slotPath(l.Bundle), where)
			s = open(t, s.dir, nil) // forgets what it knew of the slot
			if damaged, err := s.Scrub(t.Context(), 0, l.Bundle); err != nil || len(damaged) != 1 {
				t.Fatalf("scrub found %v, %v", damaged, err)
			}
			if !s.Damaged(l.Bundle) {
				t.Error("the slot does not count as damaged")
			}
			fill(t, s, l, all)
			if damaged, err := s.Scrub(t.Context(), 0, l.Bundle); err != nil || len(damaged) != 0 || s.Damaged(l.Bundle) {
				t.Errorf("after the repair: %v, %v", damaged, err)
			}
		})
	}
	if err := os.Truncate(s.slotPath(l.Bundle), l.Size()-1); err != nil {
		t.Fatal(err)
	}
	word(t, verify(t, s, l.Bundle), refusal.Digest)
	if err := s.Drop(l.Bundle); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(l.Bundle); !refusal.Is(err, refusal.Store) {
		t.Errorf("open of no slot: %v", err)
	}
	if damaged, err := s.Scrub(t.Context(), 0, l.Bundle); err != nil || len(damaged) != 1 {
		t.Errorf("a slot that is gone is not found: %v, %v", damaged, err)
	}
}
