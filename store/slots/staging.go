package slots

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"tidegate/platform/durable"
	"tidegate/policy/refusal"
)

// A Staging is a bundle that is being received. It is for one goroutine.
type Staging struct {
	shelf  *Shelf
	layout *Layout
	at     []int64
	f      *os.File
	have   []bool
	spans  map[int][]span // of chunks that came in part
	left   int
	buf    []byte
}

// A span is a range of bytes of a chunk, from inclusive, to exclusive.
type span struct{ from, to int }

// Stage begins or goes on with receiving a bundle. Chunks that an earlier attempt or a slot
// has are taken over after they were hashed; [Staging.Missing] tells the rest. The room is
// taken before the first chunk, if need be from the parts of other bundles: E_NO_SPACE.
//
// One bundle is staged at a time; the caller sees to that.
func (s *Shelf) Stage(l *Layout) (*Staging, error) {
	short, err := s.Short(l)
	if err == nil && short > 0 {
		if err = s.DropParts(l.Bundle); err == nil {
			short, err = s.Short(l)
		}
	}
	if err != nil {
		return nil, err
	}
	if short > 0 {
		return nil, refusal.New(refusal.NoSpace, "a bundle of %d bytes needs %d bytes more than there is room for", l.Size(), short).
			WithHint("make room on the data partition, or raise the quota for bundles")
	}
	g := &Staging{
		shelf: s, layout: l, at: l.offsets(), have: make([]bool, len(l.Chunks)),
		spans: make(map[int][]span), left: len(l.Chunks),
	}
	if err := g.open(); err != nil {
		if g.f != nil {
			err = errors.Join(err, g.f.Close())
		}
		return nil, errors.Join(storeError("staging", err), g.remove())
	}
	return g, nil
}

// open makes the part, or takes up the one that is there.
func (g *Staging) open() error {
	path := g.shelf.partPath(g.layout.Bundle)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := g.create(path); err != nil {
			return err
		}
	case err != nil:
		return err
	case g.sameHead(f):
		g.f = f
		if err := durable.Allocate(f, g.layout.Size()); err != nil {
			return err
		}
		g.takeFrom(f, g.layout)
	default:
		if err := g.replace(path, f); err != nil {
			return err
		}
	}
	g.takeFromSlots()
	return nil
}

func (g *Staging) create(path string) error {
	g.shelf.o.Step("create part")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	g.f = f
	if err := durable.Allocate(f, g.layout.Size()); err != nil {
		return err
	}
	g.shelf.o.Step("write head")
	_, err = f.WriteAt(g.layout.Head, 0)
	return err
}

func (g *Staging) sameHead(f *os.File) bool {
	b := make([]byte, len(g.layout.Head))
	_, err := io.ReadFull(io.NewSectionReader(f, 0, int64(len(b))), b)
	return err == nil && bytes.Equal(b, g.layout.Head)
}

// replace makes a new part beside one whose head differs, because it came with other
// signatures or roots, and takes its chunks over.
func (g *Staging) replace(path string, f *os.File) error {
	old := path + oldExt
	g.shelf.o.Step("set part aside")
	if err := durable.Rename(path, old); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := g.create(path); err != nil {
		return errors.Join(err, f.Close(), os.Remove(old))
	}
	if l, err := g.shelf.o.Layout(io.NewSectionReader(f, 0, 1<<40)); err == nil {
		g.takeFrom(f, l)
	}
	g.shelf.o.Step("remove old part")
	return errors.Join(f.Close(), durable.Remove(old))
}

// takeFrom takes over the chunks that can be found, whole, in the file f of layout l. A
// chunk that is not is simply not taken.
func (g *Staging) takeFrom(f io.ReaderAt, l *Layout) {
	wanted := make(map[Digest]int)
	for i, c := range g.layout.Chunks {
		if !g.have[i] {
			wanted[c.Digest] = i
		}
	}
	at := l.offsets()
	for k, c := range l.Chunks {
		i, ok := wanted[c.Digest]
		if !ok || c.Size != g.layout.Chunks[i].Size {
			continue
		}
		b := g.buffer(c.Size)
		if readChunk(f, at[k]+int64(len(c.Prefix)), c, b) != nil {
			continue
		}
		if f == io.ReaderAt(g.f) {
			// The bytes before the chunk may be torn: they are written again.
			if _, err := g.f.WriteAt(c.Prefix, at[k]); err != nil {
				continue
			}
			g.count(i)
		} else if g.put(i, b) != nil {
			continue
		}
		delete(wanted, c.Digest)
	}
}

// takeFromSlots takes over what slots have. A slot that cannot be read gives nothing.
func (g *Staging) takeFromSlots() {
	entries, err := os.ReadDir(filepath.Join(g.shelf.dir, slotDir))
	if err != nil {
		return
	}
	for _, e := range entries {
		if g.left == 0 {
			return
		}
		if filepath.Ext(e.Name()) != slotExt || !e.Type().IsRegular() {
			continue
		}
		f, err := os.Open(filepath.Join(g.shelf.dir, slotDir, e.Name()))
		if err != nil {
			continue
		}
		if l, err := g.shelf.o.Layout(io.NewSectionReader(f, 0, 1<<40)); err == nil {
			g.takeFrom(f, l)
		}
		_ = f.Close() //nolint:errcheck // only read
	}
}

func (g *Staging) buffer(n int) []byte {
	if cap(g.buf) < n {
		g.buf = make([]byte, n)
	}
	return g.buf[:n]
}

// Missing returns the numbers of the chunks that are still wanted, ascending.
func (g *Staging) Missing() []int {
	missing := make([]int, 0, g.left)
	for i, have := range g.have {
		if !have {
			missing = append(missing, i)
		}
	}
	return missing
}

// Chunk returns chunk i, which must be here, after it has compared it, in buf if it fits.
func (g *Staging) Chunk(i int, buf []byte) ([]byte, error) {
	c := g.layout.Chunks[i]
	if cap(buf) < c.Size {
		buf = make([]byte, c.Size)
	}
	buf = buf[:c.Size]
	if err := readChunk(g.f, g.at[i]+int64(len(c.Prefix)), c, buf); err != nil {
		return nil, refusal.New(refusal.Digest, "store: staged chunk %d: %w", i, err)
	}
	return buf, nil
}

// Has reports whether chunk i is here.
func (g *Staging) Has(i int) bool { return g.have[i] }

// Layout returns the layout that is being filled.
func (g *Staging) Layout() *Layout { return g.layout }

// Put stores chunk i after it has compared it with its digest: E_DIGEST. A chunk that is
// here already is no error.
func (g *Staging) Put(i int, data []byte) error {
	if i < 0 || i >= len(g.have) {
		return refusal.New(refusal.Format, "chunk %d of %d", i, len(g.have))
	}
	if g.have[i] {
		return nil
	}
	c := g.layout.Chunks[i]
	if len(data) != c.Size || sha256.Sum256(data) != c.Digest {
		return refusal.New(refusal.Digest, "chunk %d is not what the manifest says", i)
	}
	return g.put(i, data)
}

func (g *Staging) put(i int, data []byte) error {
	g.shelf.o.Step("write chunk")
	c := g.layout.Chunks[i]
	if len(c.Prefix) > 0 {
		if _, err := g.f.WriteAt(c.Prefix, g.at[i]); err != nil {
			return storeError("staging", err)
		}
	}
	if _, err := g.f.WriteAt(data, g.at[i]+int64(len(c.Prefix))); err != nil {
		return storeError("staging", err)
	}
	g.count(i)
	return nil
}

func (g *Staging) count(i int) {
	g.have[i] = true
	g.left--
	delete(g.spans, i)
}

// PutPiece stores a part of chunk i that begins at offset off of its content, and reports
// whether the chunk is complete now. A piece out of range is E_FORMAT. A chunk that is
// complete and not what the manifest says is E_DIGEST; it is wanted again, as a whole.
// A piece that is here already is no error.
func (g *Staging) PutPiece(i, off int, data []byte) (complete bool, err error) {
	if i < 0 || i >= len(g.have) {
		return false, refusal.New(refusal.Format, "chunk %d of %d", i, len(g.have))
	}
	c := g.layout.Chunks[i]
	if off < 0 || len(data) == 0 || off > c.Size-len(data) {
		return false, refusal.New(refusal.Format, "piece of %d bytes at %d in chunk %d of %d bytes", len(data), off, i, c.Size)
	}
	if g.have[i] {
		return true, nil
	}
	g.shelf.o.Step("write piece")
	if _, err := g.f.WriteAt(data, g.at[i]+int64(len(c.Prefix)+off)); err != nil {
		return false, storeError("staging", err)
	}
	g.spans[i] = cover(g.spans[i], span{off, off + len(data)})
	if s := g.spans[i]; len(s) != 1 || s[0] != (span{0, c.Size}) {
		return false, nil
	}
	if err := readChunk(g.f, g.at[i]+int64(len(c.Prefix)), c, g.buffer(c.Size)); err != nil {
		delete(g.spans, i)
		return false, refusal.New(refusal.Digest, "chunk %d is not what the manifest says", i)
	}
	if _, err := g.f.WriteAt(c.Prefix, g.at[i]); err != nil {
		return false, storeError("staging", err)
	}
	g.count(i)
	return true, nil
}

// cover adds s to spans, which ascend and do not touch.
func cover(spans []span, s span) []span {
	out := make([]span, 0, len(spans)+1)
	for _, t := range spans {
		if t.to < s.from || t.from > s.to {
			out = append(out, t)
			continue
		}
		s = span{min(s.from, t.from), max(s.to, t.to)}
	}
	out = append(out, s)
	slices.SortFunc(out, func(a, b span) int { return a.from - b.from })
	return out
}

// Finish makes the slot of a bundle of which no chunk is missing, in place of one that was
// there. When it returns nil the slot is on disk. The staging is over in any case; after an
// error its space is given back.
func (g *Staging) Finish() error {
	if g.left > 0 {
		return errors.Join(refusal.New(refusal.Truncated, "%d of %d chunks are missing", g.left, len(g.have)), g.Discard())
	}
	g.shelf.o.Step("sync part")
	if err := g.f.Sync(); err != nil {
		return errors.Join(storeError("staging", err), g.Discard())
	}
	if err := g.f.Close(); err != nil {
		return errors.Join(storeError("staging", err), g.remove())
	}
	g.shelf.o.Step("rename part")
	d := g.layout.Bundle
	if err := durable.Rename(g.shelf.partPath(d), g.shelf.slotPath(d)); err != nil {
		return errors.Join(storeError("staging", err), g.remove())
	}
	g.shelf.mu.Lock()
	g.shelf.layouts[d] = g.layout
	delete(g.shelf.damaged, d)
	g.shelf.mu.Unlock()
	return nil
}

// Close stops receiving and keeps what came, for another Stage of the same bundle.
func (g *Staging) Close() error { return storeError("staging", g.f.Close()) }

// Discard stops receiving and gives the space back.
func (g *Staging) Discard() error { return errors.Join(g.Close(), g.remove()) }

func (g *Staging) remove() error {
	g.shelf.o.Step("remove part")
	return storeError("staging", durable.Remove(g.shelf.partPath(g.layout.Bundle)))
}
