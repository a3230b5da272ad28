package board

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"strconv"
	"strings"
)

// A slot begins with its squashfs. At kernelAt stands one sector, a [Record] with what the
// system says of itself and ZSECT, the sectors of the kernel in hex; 4 KiB after it the gzipped
// kernel. packaging/image/boot.cmd reads the same.
const (
	kernelAt   = 64 << 20
	kernelHead = 4096
	rootMagic  = "hsqs"
	rootLength = 40 // where a squashfs has its length, 8 bytes
	kernelSize = "ZSECT"
)

// ErrNoSystem says that a slot holds no system.
var ErrNoSystem = errors.New("no system in the slot")

// A Slot is the system in one slot of a disk.
type Slot struct {
	About        map[string]string // BOARD, VERSION, STATE
	Root, Kernel Extent            // on the disk
}

// SlotExtent returns where slot "A" or "B" lies.
func SlotExtent(d Disk, slot string) (Extent, error) {
	switch slot {
	case "A":
		return Partition(d, 2)
	case "B":
		return Partition(d, 3)
	}
	return Extent{}, fmt.Errorf("slot %q: want A or B", slot)
}

// ReadSlot finds the system in a slot.
func ReadSlot(d Disk, slot string) (Slot, error) {
	x, err := SlotExtent(d, slot)
	if err != nil {
		return Slot{}, err
	}
	b := make([]byte, recordSize)
	if _, err := d.ReadAt(b, x.Start); err != nil {
		return Slot{}, fmt.Errorf("slot %s: %w", slot, err)
	}
	size := int64(binary.LittleEndian.Uint64(b[rootLength:]) & (1<<62 - 1)) //nolint:gosec // masked
	if string(b[:4]) != rootMagic || size > kernelAt {
		return Slot{}, fmt.Errorf("slot %s: %w", slot, ErrNoSystem)
	}
	if _, err := d.ReadAt(b, x.Start+kernelAt); err != nil {
		return Slot{}, fmt.Errorf("slot %s: %w", slot, err)
	}
	about, ok := values(b)
	sectors, err := strconv.ParseInt(about[kernelSize], 16, 32)
	if !ok || err != nil || sectors <= 0 || kernelAt+kernelHead+sectors*sector > x.Size {
		return Slot{}, fmt.Errorf("slot %s: %w", slot, ErrNoSystem)
	}
	delete(about, kernelSize)
	return Slot{About: about, Root: Extent{x.Start, size}, Kernel: Extent{x.Start + kernelAt + kernelHead, sectors * sector}}, nil
}

// A Part is one file of a system.
type Part struct {
	Size int64
	io.Reader
}

// WriteSlot puts a system into a slot. The record that makes it one is taken away first and
// written last, when the rest was read back: at a power cut the slot holds the whole system or
// none. refresh makes the next reads come from the disk.
func WriteSlot(d Disk, slot string, about map[string]string, root, kernel Part, refresh func() error) error {
	x, err := SlotExtent(d, slot)
	if err != nil {
		return err
	}
	if root.Size <= rootLength+8 || root.Size > kernelAt {
		return fmt.Errorf("system of %d bytes, at most %d fit", root.Size, kernelAt)
	}
	if room := x.Size - kernelAt - kernelHead; kernel.Size <= 0 || kernel.Size > room {
		return fmt.Errorf("kernel of %d bytes, at most %d fit", kernel.Size, room)
	}
	record, err := slotRecord(about, kernel.Size)
	if err != nil {
		return err
	}
	if _, err := d.WriteAt(make([]byte, recordSize), x.Start+kernelAt); err != nil {
		return fmt.Errorf("slot %s: %w", slot, err)
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("slot %s: %w", slot, err)
	}
	sums := [2]hash.Hash{sha256.New(), sha256.New()}
	at := [2]int64{x.Start, x.Start + kernelAt + kernelHead}
	for i, p := range []Part{root, kernel} {
		n, err := io.Copy(io.NewOffsetWriter(d, at[i]), io.TeeReader(io.LimitReader(p, p.Size), sums[i]))
		if err == nil && n != p.Size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("slot %s: %w", slot, err)
		}
	}
	if err := errors.Join(d.Sync(), refresh()); err != nil {
		return fmt.Errorf("slot %s: %w", slot, err)
	}
	for i, p := range []Part{root, kernel} {
		again := sha256.New()
		if _, err := io.Copy(again, io.NewSectionReader(d, at[i], p.Size)); err != nil {
			return fmt.Errorf("slot %s: %w", slot, err)
		}
		if !bytes.Equal(again.Sum(nil), sums[i].Sum(nil)) {
			return fmt.Errorf("slot %s: the disk does not give back what was written", slot)
		}
	}
	if _, err := d.WriteAt(record, x.Start+kernelAt); err != nil {
		return fmt.Errorf("slot %s: %w", slot, err)
	}
	return d.Sync()
}

func slotRecord(about map[string]string, kernel int64) ([]byte, error) {
	all := maps.Clone(about)
	if all == nil {
		all = map[string]string{}
	}
	all[kernelSize] = strconv.FormatInt((kernel+sector-1)/sector, 16)
	length := 4
	for k, v := range all {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(v, "\x00") {
			return nil, fmt.Errorf("slot: %q=%q cannot be kept", k, v)
		}
		length += len(k) + len(v) + 2
	}
	if length >= recordSize {
		return nil, fmt.Errorf("slot: what the system says of itself has more than %d bytes", recordSize)
	}
	return Record(all), nil
}
