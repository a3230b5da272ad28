package clock

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const bootIDFile = "/proc/sys/kernel/random/boot_id"

// resample is how long a reading of CLOCK_BOOTTIME serves: it costs a system call, Go's
// monotonic clock does not. After a suspend Boot lags by at most this much running time.
const resample = time.Second

// machine reads CLOCK_BOOTTIME, which goes on in suspend; Go's monotonic clock does not.
type machine struct {
	id     [16]byte
	start  time.Duration // taken off; not 0 only where the kernel has no boot id
	anchor atomic.Pointer[anchor]
}

type anchor struct {
	boot time.Duration
	mono time.Time // read after boot, so that what is added never overtakes it
}

// ThisMachine returns the clocks of this machine.
func ThisMachine() Machine {
	m := &machine{}
	m.anchor.Store(&anchor{boot: boottime(), mono: time.Now()})
	b, err := os.ReadFile(bootIDFile)
	if err == nil {
		if raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(b)), "-", "")); err == nil && len(raw) == 16 {
			m.id = [16]byte(raw)
			return m
		}
	}
	// Without an id each process counts as a boot, and its time begins with it: else the
	// time before it would be counted twice.
	m.start = boottime()
	_, _ = rand.Read(m.id[:]) // never fails
	return m
}

func (m *machine) Boot() time.Duration {
	a := m.anchor.Load()
	d := time.Since(a.mono)
	if d > resample {
		next := &anchor{boot: boottime(), mono: time.Now()}
		m.anchor.CompareAndSwap(a, next)
		return next.boot - m.start
	}
	return max(a.boot+d-m.start, 0)
}

func (m *machine) BootID() [16]byte { return m.id }
func (m *machine) Wall() time.Time  { return time.Now() }

func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("clock: CLOCK_BOOTTIME: " + err.Error()) // in every kernel since 2.6.39
	}
	return time.Duration(ts.Nano())
}
