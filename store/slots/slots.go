// Package slots keeps bundles on disk: those a device may serve, and the one being
// received. A slot is whole or absent. Chunks are put into staging in any order and from
// any mix of sources; each is hashed before it counts, and no progress is stored: after a
// power cut the chunks that arrived whole are found again by their hash.
//
// Package slots also keeps the pointers that say which bundle is confirmed, which was
// confirmed before it, and which is on trial. They lie in the state database, so that they
// move in the transaction of the decision.
//
// It does not look inside a bundle: where its chunks lie is told by a [Layout].
package slots

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"tidegate/platform/durable"
	"tidegate/policy/refusal"
	"time"
)

// Digest names a bundle or a chunk: a SHA-256.
type Digest [sha256.Size]byte

// String returns d in 64 hex digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// IsZero reports whether d names nothing.
func (d Digest) IsZero() bool { return d == Digest{} }

// base is the name of the files of a bundle, without folder and ending.
func (d Digest) base() string { return hex.EncodeToString(d[:16]) }

// A Layout says of what the file of a bundle is made: its head, then each chunk behind a
// few bytes of its own. A Layout is not changed after it was given away.
type Layout struct {
	Bundle Digest
	Head   []byte
	Chunks []Chunk
}

// A Chunk is one piece of content of a file.
type Chunk struct {
	Prefix []byte // bytes before the content
	Size   int    // bytes of the content
	Digest Digest // of the content
}

// Size returns the length of the file.
func (l *Layout) Size() int64 {
	n := int64(len(l.Head))
	for _, c := range l.Chunks {
		n += int64(len(c.Prefix) + c.Size)
	}
	return n
}

// offsets returns where the prefix of each chunk begins.
func (l *Layout) offsets() []int64 {
	at := make([]int64, len(l.Chunks))
	n := int64(len(l.Head))
	for i, c := range l.Chunks {
		at[i] = n
		n += int64(len(c.Prefix) + c.Size)
	}
	return at
}

// Names in the directory of a shelf.
const (
	slotDir  = "slots"
	stageDir = "staging"
	slotExt  = ".tide"
	partExt  = ".part"
	oldExt   = ".old" // a part with another head, while its chunks are copied
)

// DefaultReserve is the space, in bytes, that stays free on the file system unless
// [Options] say otherwise.
const DefaultReserve = 32 << 20

// Options say how a shelf works.
type Options struct {
	// Layout reads the layout from the start of the file of a bundle. It takes no more
	// than it needs.
	Layout func(io.Reader) (*Layout, error)

	Quota   int64 // bytes of all files together; 0: no limit but the disk
	Reserve int64 // bytes that stay free on the disk; 0: DefaultReserve, or 2 % if that is more

	// Space tells the room of the file system; nil: that of the operating system.
	Space func(path string) (durable.Space, error)

	// Step, when set, is called before each step that changes the disk, with its name. It
	// exists for tests that cut the power there.
	Step func(name string)
}

// Shelf is the directory of bundles. Its methods are safe to call together; one process
// owns the directory.
type Shelf struct {
	dir string
	o   Options

	mu      sync.Mutex
	layouts map[Digest]*Layout // of slots that were looked at
	damaged map[Digest]bool    // slots in which a bad chunk was seen
}

// Open opens the shelf in dir and makes its folders. What a power cut left of a step that
// did not finish is removed; parts and slots stay.
func Open(dir string, o Options) (*Shelf, error) {
	if o.Layout == nil {
		return nil, errors.New("open shelf: no function for layouts")
	}
	if o.Space == nil {
		o.Space = durable.SpaceAt
	}
	if o.Step == nil {
		o.Step = func(string) {}
	}
	s := &Shelf{dir: dir, o: o, layouts: make(map[Digest]*Layout), damaged: make(map[Digest]bool)}
	for _, d := range []string{slotDir, stageDir} {
		if err := durable.MkdirAll(filepath.Join(dir, d), 0o700); err != nil && !readable(filepath.Join(dir, d)) {
			return nil, storeError("shelf", err)
		}
	}
	entries, err := os.ReadDir(filepath.Join(dir, stageDir))
	if err != nil {
		return nil, storeError("shelf", err)
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != partExt {
			_ = os.Remove(filepath.Join(dir, stageDir, e.Name())) //nolint:errcheck // a leftover that only takes space
		}
	}
	return s, nil
}

// readable reports whether a folder can be used as it is: a data partition that is mounted
// read-only still serves.
func readable(path string) bool {
	_, err := os.ReadDir(path)
	return err == nil
}

func (s *Shelf) slotPath(d Digest) string {
	return filepath.Join(s.dir, slotDir, d.base()+slotExt)
}

func (s *Shelf) partPath(d Digest) string {
	return filepath.Join(s.dir, stageDir, d.base()+partExt)
}

// storeError gives an error of our own storage its word.
func storeError(what string, err error) error {
	if _, coded := refusal.Of(err); coded {
		return err
	}
	switch durable.Classify(err) {
	case durable.None:
		return nil
	case durable.Full:
		return refusal.New(refusal.NoSpace, "%s: %w", what, err)
	case durable.ReadOnly:
		return refusal.New(refusal.StoreRO, "%s: %w", what, err)
	}
	return refusal.New(refusal.Store, "%s: %w", what, err)
}

// Has reports whether there is a slot for d. It does not say that the slot is sound.
func (s *Shelf) Has(d Digest) bool {
	info, err := os.Lstat(s.slotPath(d))
	return err == nil && info.Mode().IsRegular()
}

// Damaged reports whether a bad chunk was seen in the slot of d since the start, or the
// slot is not there.
func (s *Shelf) Damaged(d Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.damaged[d] || !s.Has(d)
}

func (s *Shelf) setDamaged(d Digest, is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if is {
		s.damaged[d] = true
	} else {
		delete(s.damaged, d)
	}
}

// Size returns the bytes that the slot of d takes, 0 if there is none.
func (s *Shelf) Size(d Digest) int64 {
	info, err := os.Lstat(s.slotPath(d))
	if err != nil {
		return 0
	}
	return info.Size()
}

// Drop removes the slot of d, durably. One that is not there is no error.
func (s *Shelf) Drop(d Digest) error {
	s.o.Step("drop slot")
	if err := durable.Remove(s.slotPath(d)); err != nil {
		return storeError("drop slot", err)
	}
	s.mu.Lock()
	delete(s.layouts, d)
	delete(s.damaged, d)
	s.mu.Unlock()
	return nil
}

// Digests returns the bundles for which there is a slot whose head can be read.
func (s *Shelf) Digests() ([]Digest, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, slotDir))
	if err != nil {
		return nil, storeError("shelf", err)
	}
	var all []Digest
	for _, e := range entries {
		if filepath.Ext(e.Name()) != slotExt || !e.Type().IsRegular() {
			continue
		}
		f, err := os.Open(filepath.Join(s.dir, slotDir, e.Name()))
		if err != nil {
			continue
		}
		l, err := s.o.Layout(io.NewSectionReader(f, 0, 1<<40))
		_ = f.Close() //nolint:errcheck // only read
		if err == nil && l.Bundle.base()+slotExt == e.Name() {
			all = append(all, l.Bundle)
		}
	}
	return all, nil
}

// Sweep removes every slot but those in keep.
func (s *Shelf) Sweep(keep ...Digest) error { return s.sweep(slotDir, slotExt, keep) }

// DropParts removes what came of bundles that were not received to their end, but for those
// in keep: it is only a cache.
func (s *Shelf) DropParts(keep ...Digest) error { return s.sweep(stageDir, partExt, keep) }

func (s *Shelf) sweep(dir, ext string, keep []Digest) error {
	entries, err := os.ReadDir(filepath.Join(s.dir, dir))
	if err != nil {
		return storeError("sweep", err)
	}
	var errs []error
	for _, e := range entries {
		kept := slices.ContainsFunc(keep, func(d Digest) bool { return e.Name() == d.base()+ext })
		if kept || !e.Type().IsRegular() {
			continue
		}
		s.o.Step("sweep")
		errs = append(errs, durable.Remove(filepath.Join(s.dir, dir, e.Name())))
	}
	return storeError("sweep", errors.Join(errs...))
}

// used returns the bytes of all files, and of those that belong to d.
func (s *Shelf) used(d Digest) (all, own int64, err error) {
	for _, dir := range []string{slotDir, stageDir} {
		entries, err := os.ReadDir(filepath.Join(s.dir, dir))
		if err != nil {
			return 0, 0, err
		}
		for _, e := range entries {
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return 0, 0, err
			}
			all += info.Size()
			if strings.HasPrefix(e.Name(), d.base()) && dir == stageDir {
				own += info.Size()
			}
		}
	}
	return all, own, nil
}

// Short returns how many bytes are missing to stage a bundle of the given layout: 0 when
// there is room under the quota and above the reserve.
func (s *Shelf) Short(l *Layout) (int64, error) {
	all, own, err := s.used(l.Bundle)
	if err != nil {
		return 0, storeError("shelf", err)
	}
	need := max(l.Size()-own, 0)
	var short int64
	if s.o.Quota > 0 {
		short = max(all+need-s.o.Quota, 0)
	}
	space, err := s.o.Space(s.dir)
	if err != nil {
		return 0, storeError("shelf", err)
	}
	reserve := s.o.Reserve
	if reserve == 0 {
		reserve = max(DefaultReserve, space.Total/50)
	}
	return max(short, need+reserve-space.Free), nil
}

// layout returns the layout of the slot of d, and opens the slot.
func (s *Shelf) layout(d Digest) (*Layout, *os.File, error) {
	f, err := os.Open(s.slotPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, refusal.New(refusal.Store, "no bundle %s in the store", d.base())
	}
	if err != nil {
		return nil, nil, storeError("open slot", err)
	}
	s.mu.Lock()
	l := s.layouts[d]
	s.mu.Unlock()
	if l != nil {
		return l, f, nil
	}
	l, err = s.o.Layout(io.NewSectionReader(f, 0, 1<<40))
	if err == nil && l.Bundle != d {
		err = errors.New("it holds another bundle")
	}
	if err != nil {
		s.setDamaged(d, true)
		return nil, nil, errors.Join(refusal.New(refusal.Digest, "store: slot %s: %w", d.base(), err), f.Close())
	}
	s.mu.Lock()
	s.layouts[d] = l
	s.mu.Unlock()
	return l, f, nil
}

// Open opens the slot of d. The error is E_DIGEST when the slot is not what its name says.
func (s *Shelf) Open(d Digest) (*Slot, error) {
	l, f, err := s.layout(d)
	if err != nil {
		return nil, err
	}
	return &Slot{shelf: s, layout: l, at: l.offsets(), f: f}, nil
}

// A Slot is an open bundle. Its methods are safe to call together. Dropping or repairing
// the bundle does not disturb it.
type Slot struct {
	shelf  *Shelf
	layout *Layout
	at     []int64
	f      *os.File
}

// Layout returns where the chunks lie.
func (b *Slot) Layout() *Layout { return b.layout }

// Chunk returns chunk i after it has compared it with its digest, in buf if it fits. Other
// content is E_DIGEST, and the slot counts as damaged from then on.
func (b *Slot) Chunk(i int, buf []byte) ([]byte, error) {
	c := b.layout.Chunks[i]
	if cap(buf) < c.Size {
		buf = make([]byte, c.Size)
	}
	buf = buf[:c.Size]
	if err := readChunk(b.f, b.at[i]+int64(len(c.Prefix)), c, buf); err != nil {
		b.shelf.setDamaged(b.layout.Bundle, true)
		return nil, refusal.New(refusal.Digest, "store: slot %s: chunk %d: %w", b.layout.Bundle.base(), i, err).
			WithHint("give the device the same bundle again: it repairs the copy")
	}
	return buf, nil
}

var errContent = errors.New("the content has changed")

// readChunk reads into buf, which has the size of c, and compares.
func readChunk(r io.ReaderAt, at int64, c Chunk, buf []byte) error {
	if _, err := r.ReadAt(buf, at); err != nil {
		if err == io.EOF {
			return errContent
		}
		return err
	}
	if sha256.Sum256(buf) != c.Digest {
		return errContent
	}
	return nil
}

// Verify reads the whole slot: every chunk, the bytes between them, and its length. wait is
// called before each chunk, to go slowly; nil: at full speed.
func (b *Slot) Verify(ctx context.Context, wait func(context.Context) error) error {
	bad := func(err error) error {
		b.shelf.setDamaged(b.layout.Bundle, true)
		return refusal.New(refusal.Digest, "store: slot %s: %w", b.layout.Bundle.base(), err)
	}
	info, err := b.f.Stat()
	if err != nil {
		return storeError("slot", err)
	}
	if info.Size() != b.layout.Size() {
		return bad(fmt.Errorf("it has %d bytes, want %d", info.Size(), b.layout.Size()))
	}
	var buf []byte
	for i, c := range b.layout.Chunks {
		if wait != nil {
			if err := wait(ctx); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		prefix := make([]byte, len(c.Prefix))
		if _, err := b.f.ReadAt(prefix, b.at[i]); err != nil || !bytes.Equal(prefix, c.Prefix) {
			return bad(fmt.Errorf("the head of chunk %d has changed", i))
		}
		if buf, err = b.Chunk(i, buf); err != nil {
			return err
		}
	}
	return nil
}

// Stored returns the file of the bundle as it was received.
func (b *Slot) Stored() io.Reader { return io.NewSectionReader(b.f, 0, b.layout.Size()) }

// Close closes the slot.
func (b *Slot) Close() error { return b.f.Close() }

// Scrub reads every slot of want and returns those that are damaged. It waits pace between
// two chunks, so that it takes little from who serves.
func (s *Shelf) Scrub(ctx context.Context, pace time.Duration, want ...Digest) ([]Digest, error) {
	wait := func(ctx context.Context) error {
		t := time.NewTimer(pace)
		defer t.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
			return nil
		}
	}
	var damaged []Digest
	for _, d := range want {
		b, err := s.Open(d)
		if err == nil {
			err = errors.Join(b.Verify(ctx, wait), b.Close())
		}
		if ctx.Err() != nil {
			return damaged, ctx.Err()
		}
		if err != nil {
			s.setDamaged(d, true)
			damaged = append(damaged, d)
		} else {
			s.setDamaged(d, false)
		}
	}
	return damaged, nil
}
