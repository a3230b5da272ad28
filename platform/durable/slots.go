package durable

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// Layout of a [Slots] file: two slots, each one sector, in two different 4 KiB pages, so
// that a torn write or a bad page of flash spoils one of them.
const (
	slotSize   = 512
	slotStride = 4096
	slotMagic  = "TIDESLT1"
	slotHead   = len(slotMagic) + 8 + 2 // magic, generation, length
	slotSum    = 4                      // CRC-32C over all before it

	// SlotBytes is the most one slot holds, in bytes.
	SlotBytes = slotSize - slotHead - slotSum
)

// ErrNoSlot says that neither slot of a file can be read.
var ErrNoSlot = errors.New("no whole slot")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Slots is a file of two slots written in turn. Each write overwrites the older slot and
// is synced, so after a power cut at least the newest content written before is there.
// It is safe to call from several goroutines; one process owns the file.
type Slots struct {
	path string

	mu   sync.Mutex
	gen  uint64 // generation of the newest whole slot; 0: none
	data []byte
	torn bool // the other slot is not whole, though it was written once
}

// OpenSlots reads the file at path. A file that does not exist, or has no whole slot, is
// no error: [Slots.Load] then returns [fs.ErrNotExist] or [ErrNoSlot].
func OpenSlots(path string) (*Slots, error) {
	s := &Slots{path: path}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	s.torn = true
	whole := 0
	for i := range int64(2) {
		var b [slotSize]byte
		if _, err := io.ReadFull(io.NewSectionReader(f, i*slotStride, slotSize), b[:]); err != nil {
			continue // too short or unreadable: the same as a bad sum
		}
		gen, data, ok := decodeSlot(b[:])
		if !ok {
			continue
		}
		whole++
		if gen > s.gen {
			s.gen, s.data = gen, data
		}
	}
	if whole == 2 {
		s.torn = false
	}
	return s, nil
}

// Load returns a copy of the newest whole content and its generation, which is at least 1.
// The error is [fs.ErrNotExist] before the first write, and [ErrNoSlot] when there is a
// file without a whole slot.
func (s *Slots) Load() (data []byte, gen uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.gen > 0:
		return append([]byte{}, s.data...), s.gen, nil
	case s.torn:
		return nil, 0, fmt.Errorf("%s: %w", s.path, ErrNoSlot)
	}
	return nil, 0, fmt.Errorf("%s: %w", s.path, fs.ErrNotExist)
}

// Store writes data, at most [SlotBytes], as generation gen, which must be above the one
// before. It is on disk when Store returns nil. After an error the newest content is the
// old one or the new one.
func (s *Slots) Store(data []byte, gen uint64) error {
	if len(data) > SlotBytes {
		return fmt.Errorf("%s: %d bytes do not fit a slot of %d", s.path, len(data), SlotBytes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if gen <= s.gen {
		return fmt.Errorf("%s: generation %d is not above %d", s.path, gen, s.gen)
	}
	if err := s.write(encodeSlot(data, gen)); err != nil {
		return err
	}
	s.gen, s.data = gen, append([]byte{}, data...)
	return nil
}

func (s *Slots) write(b []byte) (err error) {
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	fresh := errors.Is(err, fs.ErrNotExist)
	if fresh {
		f, err = os.OpenFile(s.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// Never the slot that holds the newest content.
	at := int64(0)
	var first [slotSize]byte
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, slotSize), first[:]); err == nil {
		if g, _, ok := decodeSlot(first[:]); ok && g == s.gen {
			at = slotStride
		}
	}
	if _, err := f.WriteAt(b, at); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if fresh {
		return SyncDir(filepath.Dir(s.path))
	}
	return nil
}

func encodeSlot(data []byte, gen uint64) []byte {
	b := make([]byte, slotSize)
	n := copy(b, slotMagic)
	binary.BigEndian.PutUint64(b[n:], gen)
	binary.BigEndian.PutUint16(b[n+8:], uint16(len(data))) //nolint:gosec // at most SlotBytes
	copy(b[slotHead:], data)
	binary.BigEndian.PutUint32(b[slotSize-slotSum:], crc32.Checksum(b[:slotSize-slotSum], castagnoli))
	return b
}

func decodeSlot(b []byte) (gen uint64, data []byte, ok bool) {
	if len(b) != slotSize || string(b[:len(slotMagic)]) != slotMagic ||
		binary.BigEndian.Uint32(b[slotSize-slotSum:]) != crc32.Checksum(b[:slotSize-slotSum], castagnoli) {
		return 0, nil, false
	}
	gen = binary.BigEndian.Uint64(b[len(slotMagic):])
	n := int(binary.BigEndian.Uint16(b[len(slotMagic)+8:]))
	if gen == 0 || n > SlotBytes || len(bytes.Trim(b[slotHead+n:slotSize-slotSum], "\x00")) > 0 {
		return 0, nil, false
	}
	return gen, append([]byte{}, b[slotHead:slotHead+n]...), true
}
