//go:build !linux

package clock

import (
	"crypto/rand"
	"time"
)

// machine counts from the start of the process: no device runs on this system.
type machine struct {
	id    [16]byte
	start time.Time
}

// ThisMachine returns the clocks of this process.
func ThisMachine() Machine {
	m := machine{start: time.Now()}
	_, _ = rand.Read(m.id[:]) // never fails
	return m
}

func (m machine) Boot() time.Duration { return time.Since(m.start) }
func (m machine) BootID() [16]byte    { return m.id }
func (m machine) Wall() time.Time     { return time.Now() }
