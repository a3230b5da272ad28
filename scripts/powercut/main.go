// Command powercut rebuilds a disk as power cuts could have left it and runs a check on each
// result.
//
//	powercut [-points 24] [-seed 1] [-lying] BASE LOG COMMAND…   cut at random points
//	powercut -count LOG                                          entries in the log so far
//
// BASE is the disk from before the run, LOG what QEMU's blklogwrites driver wrote of the run (the
// format of dm-log-writes). At a point the disk holds every write that was flushed before it, and
// of those that were not any subset, the last of them torn at any sector; half of the points lie at a
// flush, half anywhere. The command is run with the image's name as IMG and the number of the point's
// entry as ENTRY; status 0 is good. With -lying one flushed write in ten is lost, as on a card that
// lies: then damage must be found, or the check has no teeth. Exit status 0: as it should be.
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// The head of a log, and the flags of an entry.
const (
	magic   = 0x6a736677736872
	flush   = 1
	fua     = 2
	discard = 4
	mark    = 8
	sector  = 512
)

// An entry is one write, flush or discard.
type entry struct {
	at     int64 // on the disk
	flags  uint64
	data   int64 // where its bytes lie in the log
	length int64
}

func main() {
	points := flag.Int("points", 24, "")
	seed := flag.Uint64("seed", 1, "")
	lying := flag.Bool("lying", false, "")
	count := flag.Bool("count", false, "")
	flag.Parse()
	a := flag.Args()
	var err error
	switch {
	case *count && len(a) == 1:
		err = tell(a[0])
	case !*count && len(a) >= 3:
		r := &run{rnd: rand.New(rand.NewPCG(*seed, 0)), lying: *lying, command: a[2:]}
		err = r.replay(a[0], a[1], *points)
	default:
		err = errors.New("want BASE LOG COMMAND…, or -count LOG")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "powercut:", err)
		os.Exit(1)
	}
}

// head reads how many entries a log has and how long its sectors are.
func head(f *os.File) (entries uint64, size int64, err error) {
	b := make([]byte, 28)
	if _, err := f.ReadAt(b, 0); err != nil {
		return 0, 0, err
	}
	if binary.LittleEndian.Uint64(b) != magic {
		return 0, 0, errors.New("not a write log")
	}
	return binary.LittleEndian.Uint64(b[16:]), int64(binary.LittleEndian.Uint32(b[24:])), nil
}

func tell(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	n, _, err := head(f)
	if err == nil {
		fmt.Println(n)
	}
	return err
}

// entries reads the log.
func entries(f *os.File) ([]entry, error) {
	n, size, err := head(f)
	if err != nil {
		return nil, err
	}
	var all []entry
	at := size
	b := make([]byte, 32)
	for range n {
		if _, err := f.ReadAt(b, at); err != nil {
			return nil, fmt.Errorf("entry %d: %w", len(all), err)
		}
		word := func(i int) int64 { return int64(binary.LittleEndian.Uint64(b[8*i:])) }
		e := entry{at: word(0) * size, flags: uint64(word(2)), data: at + size}
		at += size
		if e.flags&(discard|mark) == 0 {
			e.length = word(1) * size
			at += e.length
		}
		all = append(all, e)
	}
	return all, nil
}

type run struct {
	rnd     *rand.Rand
	lying   bool
	command []string
	log     *os.File
}

// put writes the first n bytes of an entry to a disk.
func (r *run) put(d *os.File, e entry, n int64) error {
	_, err := io.Copy(io.NewOffsetWriter(d, e.at), io.NewSectionReader(r.log, e.data, n))
	return err
}

func (r *run) replay(base, log string, points int) error {
	f, err := os.Open(log)
	if err != nil {
		return err
	}
	defer f.Close()
	r.log = f
	all, err := entries(f)
	if err != nil {
		return fmt.Errorf("%s: %w", log, err)
	}
	cuts, err := r.choose(all, points)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(log), "powercut")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	disk, crash := filepath.Join(dir, "disk"), filepath.Join(dir, "crash.img")
	if err := clone(base, disk); err != nil {
		return err
	}
	d, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	var pending []entry
	bad := 0
	for i, e := range all {
		if slices.Contains(cuts, i) {
			good, err := r.cut(i, disk, crash, pending)
			if err != nil {
				return err
			}
			if !good {
				bad++
			}
		}
		if e.flags&flush != 0 {
			for _, p := range pending {
				if r.lying && r.rnd.IntN(10) == 0 {
					continue
				}
				if err := r.put(d, p, p.length); err != nil {
					return err
				}
			}
			pending = pending[:0]
		}
		switch {
		case e.length == 0:
		case e.flags&fua != 0 && !r.lying:
			if err := r.put(d, e, e.length); err != nil {
				return err
			}
		default:
			pending = append(pending, e)
		}
	}
	fmt.Printf("%d writes and flushes, %d cuts, %d bad\n", len(all), len(cuts), bad)
	switch {
	case r.lying && bad == 0:
		return errors.New("a disk that loses what was flushed was found good: the check has no teeth")
	case !r.lying && bad > 0:
		return fmt.Errorf("%d bad", bad)
	}
	return nil
}

// choose returns the entries before which the power goes.
func (r *run) choose(all []entry, points int) ([]int, error) {
	var flushes []int
	for i, e := range all {
		if e.flags&flush != 0 {
			flushes = append(flushes, i)
		}
	}
	if len(flushes) < points || len(all) < 2*points {
		return nil, fmt.Errorf("only %d entries and %d flushes in the log", len(all), len(flushes))
	}
	r.rnd.Shuffle(len(flushes), func(i, j int) { flushes[i], flushes[j] = flushes[j], flushes[i] })
	cuts := slices.Clone(flushes[:points/2])
	for len(cuts) < points {
		if n := r.rnd.IntN(len(all)); !slices.Contains(cuts, n) {
			cuts = append(cuts, n)
		}
	}
	slices.Sort(cuts)
	return cuts, nil
}

// cut makes the disk that a cut before entry i leaves and runs the check on it.
func (r *run) cut(i int, disk, crash string, pending []entry) (good bool, err error) {
	if err := clone(disk, crash); err != nil {
		return false, err
	}
	c, err := os.OpenFile(crash, os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	var kept []entry
	for _, p := range pending {
		if r.rnd.IntN(2) == 0 {
			kept = append(kept, p)
		}
	}
	for n, p := range kept {
		size := p.length
		if n == len(kept)-1 {
			size = sector * r.rnd.Int64N(p.length/sector+1) // torn
		}
		if err := r.put(c, p, size); err != nil {
			return false, errors.Join(err, c.Close())
		}
	}
	if err := c.Close(); err != nil {
		return false, err
	}
	cmd := exec.Command(r.command[0], r.command[1:]...) //nolint:gosec // the caller's own
	cmd.Env = append(os.Environ(), "IMG="+crash, fmt.Sprint("ENTRY=", i))
	out, err := cmd.CombinedOutput()
	verdict := "good"
	if err != nil {
		verdict = "BAD: " + err.Error()
	}
	for line := range strings.Lines(string(out)) {
		verdict += ": " + strings.TrimSpace(line)
	}
	w := bufio.NewWriter(os.Stdout)
	fmt.Fprintf(w, "cut before entry %d, %d of %d unflushed writes kept: %s\n", i, len(kept), len(pending), verdict)
	return err == nil, w.Flush()
}

// clone copies a sparse file.
func clone(from, to string) error {
	return exec.Command("cp", "--sparse=always", from, to).Run() //nolint:gosec // names of our own
}
