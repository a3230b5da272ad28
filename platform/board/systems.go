package board

import (
	"errors"
	"fmt"
	"sync"
)

// Systems are the two slots of a disk and the boot state, in the hands of the system that
// runs. Its methods are safe to call together.
type Systems struct {
	Disk    Disk
	Running string       // slot of the system that runs
	Refresh func() error // makes the next reads come from the disk

	mu      sync.Mutex
	held    bool // somebody decides on the system that runs
	decided bool
}

// ErrUndecided says that a slot cannot be replaced now.
var ErrUndecided = errors.New("the system that runs is not the one that is known to work, or another starts next")

// State returns the boot state.
func (s *Systems) State() (Boot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ReadBoot(s.Disk)
}

// Lost notes that a slot which was meant to run did not load, so that it is not tried again.
func (s *Systems) Lost(slot string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return WriteBoot(s.Disk, Boot{Slot: s.Running, Good: s.Running, Back: slot})
}

// Install puts a system into the slot that is not in use and returns the slot. That a system
// which was there before was given up is forgotten first: it says nothing about the new one.
func (s *Systems) Install(about map[string]string, root, kernel Part) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := ReadBoot(s.Disk)
	if err != nil {
		return "", err
	}
	if b.Good != s.Running || b.Slot != s.Running {
		return "", ErrUndecided
	}
	own, err := ReadSlot(s.Disk, s.Running)
	if err != nil {
		return "", err
	}
	if about["BOARD"] != own.About["BOARD"] {
		return "", fmt.Errorf("a system for board %q, this is %q", about["BOARD"], own.About["BOARD"])
	}
	if b.Back != "none" {
		if err := WriteBoot(s.Disk, Boot{Slot: s.Running, Good: s.Running, Back: "none"}); err != nil {
			return "", err
		}
	}
	slot := other(s.Running)
	return slot, WriteSlot(s.Disk, slot, about, root, kernel, s.Refresh)
}

func other(slot string) string {
	if slot == "A" {
		return "B"
	}
	return "A"
}

// Try lets the boot loader start a slot, at most tries times, 1 to 9, until it is kept.
func (s *Systems) Try(slot string, tries int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slot != other(s.Running) || tries < 1 || tries > 9 {
		return fmt.Errorf("try slot %q %d times: %w", slot, tries, errors.ErrUnsupported)
	}
	if _, err := ReadSlot(s.Disk, slot); err != nil {
		return err
	}
	return WriteBoot(s.Disk, Boot{Slot: slot, Good: s.Running, Back: "none", Tries: tries})
}

// Hold says that somebody else decides on the system that runs.
func (s *Systems) Hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = true
}

// Held reports whether Hold was called, and whether the system that runs was decided on.
func (s *Systems) Held() (held, decided bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held, s.decided
}

// Keep makes the system that runs the good one.
func (s *Systems) Keep() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := WriteBoot(s.Disk, Boot{Slot: s.Running, Good: s.Running, Back: "none"})
	s.decided = s.decided || err == nil
	return err
}

// GiveUp lets the good slot start from now on, and reports whether it is another than the one
// that runs.
func (s *Systems) GiveUp(slot string) (again bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := ReadBoot(s.Disk)
	if err != nil {
		return false, err
	}
	if slot == b.Good {
		return false, fmt.Errorf("give up slot %q, the only one that is known to work: %w", slot, errors.ErrUnsupported)
	}
	if err := WriteBoot(s.Disk, Boot{Slot: b.Good, Good: b.Good, Back: slot}); err != nil {
		return false, err
	}
	s.decided = true
	return b.Good != s.Running, nil
}
