package board

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The MBR: four entries of 16 bytes at 446, then 55 AA.
const (
	sector   = 512
	tableAt  = 446
	entryLen = 16
	maxLBA   = 1<<32 - 1
)

// ErrNoTable says that a disk has no partition table.
var ErrNoTable = errors.New("no partition table")

// Extent is where a partition lies, in bytes.
type Extent struct{ Start, Size int64 }

// Partition returns partition n, 1 to 4, of an MBR disk.
func Partition(d Disk, n int) (Extent, error) {
	b, err := mbr(d)
	if err != nil {
		return Extent{}, err
	}
	e := b[tableAt+(n-1)*entryLen:]
	x := Extent{int64(binary.LittleEndian.Uint32(e[8:])) * sector, int64(binary.LittleEndian.Uint32(e[12:])) * sector}
	if x.Size == 0 {
		return Extent{}, fmt.Errorf("partition %d: empty", n)
	}
	return x, nil
}

func mbr(d Disk) ([]byte, error) {
	b := make([]byte, sector)
	if _, err := d.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("partition table: %w", err)
	}
	if b[510] != 0x55 || b[511] != 0xaa {
		return nil, ErrNoTable
	}
	return b, nil
}

// Grow extends partition n, which must be the last on the disk, to the disk's end and returns
// it. One sector is written: at a power cut the old or the new table is there. A partition
// that reaches the end already is left alone.
func Grow(d Disk, n int, size int64) (Extent, error) {
	b, err := mbr(d)
	if err != nil {
		return Extent{}, err
	}
	x, err := Partition(d, n)
	if err != nil {
		return Extent{}, err
	}
	for i := range 4 {
		e := b[tableAt+i*entryLen:]
		if start := int64(binary.LittleEndian.Uint32(e[8:])) * sector; i != n-1 && start > x.Start {
			return x, fmt.Errorf("partition %d: not the last on the disk", n)
		}
	}
	const align = 1 << 20
	end := min(size, maxLBA*sector) / align * align
	if end <= x.Start+x.Size {
		return x, nil
	}
	x.Size = end - x.Start
	binary.LittleEndian.PutUint32(b[tableAt+(n-1)*entryLen+12:], uint32(x.Size/sector))
	if _, err := d.WriteAt(b, 0); err != nil {
		return x, fmt.Errorf("partition table: %w", err)
	}
	return x, d.Sync()
}

// FileSystem names the file system at the start of d by its magic: "vfat", "exfat",
// "iso9660", "ext4", "squashfs"; "" for one that is unknown.
func FileSystem(d Disk) string {
	b := make([]byte, 36<<10)
	n, _ := d.ReadAt(b, 0) // a short disk has zeros behind it
	clear(b[n:])
	is := func(at int, magic string) bool { return string(b[at:at+len(magic)]) == magic }
	switch {
	case is(3, "EXFAT   "):
		return "exfat"
	case is(510, "\x55\xaa") && (is(82, "FAT32   ") || is(54, "FAT16   ") || is(54, "FAT12   ")):
		return "vfat"
	case is(32769, "CD001"):
		return "iso9660"
	case is(1024+56, "\x53\xef"):
		return "ext4"
	case is(0, "hsqs"):
		return "squashfs"
	}
	return ""
}
