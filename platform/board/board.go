// Package board is what the first process of a flash image does to its machine: it mounts,
// grows the data partition, sets up the network, finds sticks, keeps the boot state of two
// system slots, feeds the hardware watchdog and bounds memory.
//
// It promises that a power cut at any moment leaves a machine that boots, and that nothing
// which is read from a stick, a network or the boot partition can stop the first process.
// It knows nothing of the gateway.
package board

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Boot is the state from which the boot loader chooses a slot; packaging/image/boot.cmd
// reads and writes the same.
type Boot struct {
	Slot  string // what to boot: "A" or "B"
	Good  string // the last slot that is known to work
	Back  string // the slot that was given up, "none"
	Tries int    // boots that Slot has left while it is not Good
}

// The two records of the boot state, in front of the first partition. Only the older one is
// ever overwritten: a torn write leaves the newer one.
const (
	recordSize = 512
	firstAt    = 0x100 * 512
	secondAt   = 0x400 * 512
)

var recordAt = [2]int64{firstAt, secondAt}

// A Disk is read and written in place.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// ReadOnly is a Disk that is not written.
type ReadOnly struct{ io.ReaderAt }

// WriteAt fails.
func (ReadOnly) WriteAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }

// Sync does nothing.
func (ReadOnly) Sync() error { return nil }

// ErrNoBoot says that neither record of the boot state can be read.
var ErrNoBoot = errors.New("no readable boot state")

// ReadBoot returns the newer readable record.
func ReadBoot(d Disk) (Boot, error) {
	_, b, err := readBoot(d)
	return b.Boot, err
}

// record is a Boot with its place in the sequence 0, 1, 2, 0, …
type record struct {
	Boot
	gen int
}

// readBoot returns which record counts, and the record.
func readBoot(d Disk) (int, record, error) {
	var have [2]*record
	for i, at := range recordAt {
		b := make([]byte, recordSize)
		if _, err := d.ReadAt(b, at); err != nil {
			return 0, record{}, fmt.Errorf("boot state: %w", err)
		}
		if r, ok := decodeBoot(b); ok {
			have[i] = &r
		}
	}
	switch {
	case have[0] == nil && have[1] == nil:
		return 0, record{}, ErrNoBoot
	case have[0] == nil:
		return 1, *have[1], nil
	case have[1] == nil:
		return 0, *have[0], nil
	case (have[0].gen+1)%3 == have[1].gen:
		return 1, *have[1], nil
	}
	return 0, *have[0], nil
}

// WriteBoot replaces the older record. Until it returns nil the newer one counts.
func WriteBoot(d Disk, b Boot) error {
	newest, old, err := readBoot(d)
	switch {
	case errors.Is(err, ErrNoBoot):
		newest, old.gen = 1, 2
	case err != nil:
		return err
	}
	if _, err := d.WriteAt(encodeBoot(record{b, (old.gen + 1) % 3}), recordAt[1-newest]); err != nil {
		return fmt.Errorf("boot state: %w", err)
	}
	return d.Sync()
}

func encodeBoot(r record) []byte {
	return Record(map[string]string{
		"SLOT": r.Slot, "GOOD": r.Good, "BACK": r.Back, "TRIES": strconv.FormatInt(int64(r.Tries), 16), "GEN": strconv.Itoa(r.gen),
	})
}

// Record writes a sector in the form of U-Boot's "env export -c": CRC-32 of the rest,
// little-endian, then NAME=VALUE texts with a zero behind each, and one more. The values
// must fit.
func Record(values map[string]string) []byte {
	b := make([]byte, 4, recordSize)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		b = append(b, name+"="+values[name]+"\x00"...)
	}
	b = append(b, make([]byte, recordSize-len(b))...)
	binary.LittleEndian.PutUint32(b, crc32.ChecksumIEEE(b[4:]))
	return b
}

// values reads what [Record] wrote; false for a sector that is none or is damaged.
func values(b []byte) (map[string]string, bool) {
	if len(b) != recordSize || binary.LittleEndian.Uint32(b) != crc32.ChecksumIEEE(b[4:]) {
		return nil, false
	}
	text, _, _ := bytes.Cut(b[4:], []byte{0, 0})
	v := map[string]string{}
	for s := range strings.SplitSeq(string(text), "\x00") {
		if name, value, ok := strings.Cut(s, "="); ok {
			v[name] = value
		}
	}
	return v, true
}

func decodeBoot(b []byte) (record, bool) {
	v, ok := values(b)
	if !ok {
		return record{}, false
	}
	tries, err1 := strconv.ParseUint(v["TRIES"], 16, 8) // U-Boot counts in hex
	gen, err2 := strconv.ParseUint(v["GEN"], 10, 8)
	slot := func(s string) bool { return s == "A" || s == "B" }
	if err1 != nil || err2 != nil || gen > 2 || !slot(v["SLOT"]) || !slot(v["GOOD"]) {
		return record{}, false
	}
	return record{Boot{Slot: v["SLOT"], Good: v["GOOD"], Back: v["BACK"], Tries: int(tries)}, int(gen)}, true
}
