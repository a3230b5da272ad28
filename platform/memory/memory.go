// Package memory keeps the program inside its memory: it reads the limit of the control
// group, sets a soft limit for the garbage collector below it, and admits work by bytes, so that
// the program sheds load where the kernel would kill it.
//
// The CPU quota needs nothing from us: the Go runtime follows it (GOMAXPROCS). Package
// memory reads it for status and for sizing pools.
package memory

import (
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"sync/atomic"
)

// Limits are what the system allows this process.
type Limits struct {
	Bytes    int64   // of memory; 0: not known
	Explicit bool    // by a control group, not just by the size of the machine
	CPUs     float64 // of quota, as 0.2; 0: none
	Source   string  // where Bytes came from, for people
}

// Shares of the limit. What lies between soft limit and limit is for what the collector
// does not see: mapped database pages, thread stacks, socket buffers in the kernel.
const (
	softShare  = 0.75 // of an explicit limit
	looseShare = 0.40 // of the machine, which others use too
	baseBytes  = 48 << 20
	leastWork  = 8 << 20
)

// A Budget divides the memory.
type Budget struct {
	Limits
	Soft int64 // for the garbage collector; 0: none set
	Work int64 // for requests, bodies and buffers in flight
}

// Plan returns the budget under l. Where nothing is known, it plans for 256 MiB.
func Plan(l Limits) Budget {
	share := looseShare
	if l.Explicit {
		share = softShare
	}
	if l.Bytes <= 0 {
		l.Bytes, l.Source = 256<<20, "assumed"
		share = softShare
	}
	b := Budget{Limits: l, Soft: int64(float64(l.Bytes) * share)}
	b.Work = max(b.Soft-baseBytes, b.Soft/4, min(leastWork, b.Soft))
	return b
}

// Apply sets the soft limit of the garbage collector. A GOMEMLIMIT in the environment wins:
// the budget then follows it. It returns the budget as it is in force.
func (b Budget) Apply() Budget {
	if os.Getenv("GOMEMLIMIT") != "" {
		if set := debug.SetMemoryLimit(-1); set > 0 && set < math.MaxInt64 {
			b.Soft, b.Source = set, "GOMEMLIMIT"
			b.Work = max(b.Soft-baseBytes, b.Soft/4)
		}
		return b
	}
	debug.SetMemoryLimit(b.Soft)
	return b
}

// String returns the budget in one line for people.
func (b Budget) String() string {
	return fmt.Sprintf("%d MiB by %s, soft limit %d MiB, %d MiB for work in flight", b.Bytes>>20, b.Source, b.Soft>>20, b.Work>>20)
}

// A Pool admits work by the bytes it may need. Its methods are safe to call together and
// never block.
type Pool struct {
	size int64
	used atomic.Int64
	peak atomic.Int64
	shed atomic.Uint64
}

// NewPool returns a pool of size bytes.
func NewPool(size int64) *Pool { return &Pool{size: size} }

// Acquire takes n bytes and reports whether they were there; if not, the caller sheds the
// work (503 with Retry-After). n below 1 takes nothing. What was acquired goes back by one Release of as much.
func (p *Pool) Acquire(n int64) bool {
	n = max(n, 0)
	for {
		used := p.used.Load()
		if n > p.size-used { // no sum that could overflow
			p.shed.Add(1)
			return false
		}
		if p.used.CompareAndSwap(used, used+n) {
			p.note(used + n)
			return true
		}
	}
}

func (p *Pool) note(used int64) {
	for {
		peak := p.peak.Load()
		if used <= peak || p.peak.CompareAndSwap(peak, used) {
			return
		}
	}
}

// Release gives n bytes back. More than was acquired is a mistake of the caller, and panics.
func (p *Pool) Release(n int64) {
	if p.used.Add(-max(n, 0)) < 0 {
		panic("memory: released more than was acquired")
	}
}

// PoolStats are figures for status and metrics.
type PoolStats struct {
	Size, Used, Peak int64
	Shed             uint64 // requests that were refused
}

// Stats returns the figures of p.
func (p *Pool) Stats() PoolStats {
	return PoolStats{Size: p.size, Used: p.used.Load(), Peak: p.peak.Load(), Shed: p.shed.Load()}
}
