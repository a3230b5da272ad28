package admin

import (
	"net/netip"
	"sync"
	"time"
)

// A guard slows down who guesses passwords. After freeTries failures from one address
// range, each further failure doubles the time until the next try, up to maxDelay. It
// remembers maxRanges ranges; when all are taken, the rest share one.
//
// Nobody is locked out by failures from elsewhere, so an attacker cannot lock out the
// technician who stands before the device.
type guard struct {
	mu     sync.Mutex
	ranges map[netip.Prefix]*tries
	shared tries
}

type tries struct {
	failed int
	next   time.Time // no try before
	last   time.Time
}

const (
	freeTries = 5
	maxDelay  = 15 * time.Minute
	forget    = time.Hour // after the last failure
	maxRanges = 1024
)

// block is the range that an address counts under: an IPv4 address, an IPv6 /64.
func block(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// wait returns how long a may not try; 0: now. A try that is allowed is counted as failed
// until succeeded says otherwise, so that parallel tries count too.
func (g *guard) wait(a netip.Addr, now time.Time) (time.Duration, int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.of(block(a), now)
	if now.Sub(t.last) > forget {
		*t = tries{}
	}
	if d := t.next.Sub(now); d > 0 {
		return d, t.failed
	}
	t.failed++
	t.last = now
	if over := t.failed - freeTries; over >= 0 {
		t.next = now.Add(min(time.Second<<min(over, 20), maxDelay))
	}
	return 0, t.failed
}

// of returns the tries of a range. The caller holds mu.
func (g *guard) of(p netip.Prefix, now time.Time) *tries {
	if t := g.ranges[p]; t != nil {
		return t
	}
	if g.ranges == nil {
		g.ranges = map[netip.Prefix]*tries{}
	}
	if len(g.ranges) >= maxRanges {
		for k, t := range g.ranges {
			if now.Sub(t.last) > forget {
				delete(g.ranges, k)
			}
		}
	}
	if len(g.ranges) >= maxRanges {
		return &g.shared
	}
	t := &tries{}
	g.ranges[p] = t
	return t
}

// succeeded forgets the failures of a.
func (g *guard) succeeded(a netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.ranges, block(a))
}
