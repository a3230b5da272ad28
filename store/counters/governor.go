package counters

import (
	"sync"
	"time"
)

// What counters may write to flash: 400 MiB a day, with 64 MiB in hand.
const (
	dailyBytes  = 400 << 20
	bucketBytes = 64 << 20

	maxPeriod = 300 * time.Second
	minShare  = 0.01
	maxShare  = 0.1
)

// Device bytes of a commit, journal included, as measured on ext4: a part that every
// commit pays, and a part per page.
const (
	commitBytes = 5 << 10
	pageBytes   = 7 << 10
)

// A governor keeps counters from wearing out the flash. When its bucket runs low, the
// time between commits and the size of reservations double: what grows is what a crash
// costs, never what is admitted. When it is empty, urgent commits are spread out.
type governor struct {
	mu      sync.Mutex
	base    time.Duration
	factor  int // 1, 2, 4, …
	level   float64
	filled  time.Time
	changed time.Time
	written int64
}

func (g *governor) open(period time.Duration) {
	g.base, g.factor, g.level = period, 1, bucketBytes
	g.filled = time.Now()
	g.changed = g.filled
}

func (g *governor) fill(now time.Time) {
	g.level = min(bucketBytes, g.level+now.Sub(g.filled).Seconds()*dailyBytes/86_400)
	g.filled = now
}

// spend accounts for one commit.
func (g *governor) spend(shards, touches int) {
	cost := commitBytes + pageBytes*shards
	if touches > 0 {
		cost += pageBytes
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.fill(now)
	g.level -= float64(cost)
	g.written += int64(cost)
	if now.Sub(g.changed) < g.now() {
		return
	}
	switch {
	case g.level < bucketBytes/4 && g.base*time.Duration(g.factor) < maxPeriod:
		g.factor *= 2
		g.changed = now
	case g.level > bucketBytes*3/4 && g.factor > 1:
		g.factor /= 2
		g.changed = now
	}
}

func (g *governor) now() time.Duration {
	return max(g.base, min(maxPeriod, g.base*time.Duration(g.factor)))
}

// period returns the time between two commits now (T).
func (g *governor) period() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now()
}

// share returns the least share of a limit that a reservation may take (ε).
func (g *governor) share() float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return min(maxShare, minShare*float64(g.factor))
}

// pace returns how long an urgent commit has to wait: not at all while the bucket holds
// anything.
func (g *governor) pace() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fill(time.Now())
	if g.level > 0 {
		return 0
	}
	seconds := (-g.level + commitBytes + pageBytes) / (float64(dailyBytes) / 86_400)
	return min(time.Minute, time.Duration(seconds*float64(time.Second)))
}

func (g *governor) figures() (written int64, period time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.written, g.now()
}
