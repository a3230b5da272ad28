// Package clocktest is a machine whose clocks a test moves.
package clocktest

import (
	"sync"
	"time"
)

// Machine stands in for the clocks of a device. The zero value has just booted, at the
// zero time.
type Machine struct {
	mu   sync.Mutex
	boot time.Duration
	id   byte
	wall time.Time
}

// New returns a machine that booted a minute ago and whose system clock says wall.
func New(wall time.Time) *Machine { return &Machine{boot: time.Minute, id: 1, wall: wall} }

// Boot returns the time since boot.
func (m *Machine) Boot() time.Duration { m.mu.Lock(); defer m.mu.Unlock(); return m.boot }

// BootID returns the id of this boot.
func (m *Machine) BootID() [16]byte { m.mu.Lock(); defer m.mu.Unlock(); return [16]byte{m.id} }

// Wall returns the system clock.
func (m *Machine) Wall() time.Time { m.mu.Lock(); defer m.mu.Unlock(); return m.wall }

// Pass lets d pass, on all clocks.
func (m *Machine) Pass(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.boot += d
	m.wall = m.wall.Add(d)
}

// SetWall makes the system clock jump.
func (m *Machine) SetWall(t time.Time) { m.mu.Lock(); defer m.mu.Unlock(); m.wall = t }

// Reboot starts the kernel anew; the system clock says wall then.
func (m *Machine) Reboot(wall time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.boot, m.id, m.wall = 0, m.id+1, wall
}
