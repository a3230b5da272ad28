// Command bootstate reads and writes the boot state of a flash image, for building and
// testing it.
//
//	go run ./scripts/bootstate IMAGE                          show it
//	go run ./scripts/bootstate IMAGE SLOT GOOD TRIES          write a new one
//	go run ./scripts/bootstate -slot IMAGE SLOT               version and digest of the system in a slot
//	go run ./scripts/bootstate -record NAME=VALUE…            one record on standard output
package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"tidegate/platform/board"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bootstate:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) >= 2 && args[0] == "-record":
		values := map[string]string{}
		for _, a := range args[1:] {
			name, value, ok := strings.Cut(a, "=")
			if !ok {
				return errors.New("want NAME=VALUE")
			}
			values[name] = value
		}
		_, err := os.Stdout.Write(board.Record(values))
		return err
	case len(args) == 3 && args[0] == "-slot":
		return slot(args[1], args[2])
	case len(args) != 1 && len(args) != 4:
		return errors.New("want IMAGE, or IMAGE SLOT GOOD TRIES")
	}
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if len(args) == 4 {
		tries, err := strconv.Atoi(args[3])
		if err != nil {
			return err
		}
		return board.WriteBoot(f, board.Boot{Slot: args[1], Good: args[2], Back: "none", Tries: tries})
	}
	b, err := board.ReadBoot(f)
	if err == nil {
		fmt.Printf("slot %s, good %s, tries %d, given up %s\n", b.Slot, b.Good, b.Tries, b.Back)
	}
	return err
}

// slot prints which system is in a slot.
func slot(image, name string) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	s, err := board.ReadSlot(board.ReadOnly{ReaderAt: f}, name)
	if err != nil {
		return err
	}
	sum := sha256.New()
	for _, x := range []board.Extent{s.Root, s.Kernel} {
		if _, err := io.Copy(sum, io.NewSectionReader(f, x.Start, x.Size)); err != nil {
			return err
		}
	}
	fmt.Printf("%s %x\n", s.About["VERSION"], sum.Sum(nil))
	return nil
}
