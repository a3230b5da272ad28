// Package clock gives time that can be trusted on a device without a network. It has a
// lower bound that never goes back, the only time by which anything may be refused or
// expire; an upper bound where time was proven since the kernel started; and the time the device
// was powered on. The system clock is shown and compared, and raises nothing by itself.
//
// What proves time is judged by the caller: signatures, nonces and epochs are not looked at
// here. Package clock writes no file; Run hands the state to be stored to its caller.
package clock

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"tidegate/policy/refusal"
	"time"
)

const (
	syncedFor   = 24 * time.Hour
	saveEvery   = 10 * time.Minute
	signedReach = 400 * 24 * time.Hour // how far an attestation may lead what root or release signed
	issuedReach = 3653 * 24 * time.Hour
	jump        = 5 * time.Second
	maxKept     = 32 // contributions kept
)

// A Machine is what the clock reads.
type Machine interface {
	// Boot returns the time since the kernel started, suspend included. It never goes back.
	Boot() time.Duration
	// BootID names this run of the kernel.
	BootID() [16]byte
	// Wall returns the system clock, right or wrong.
	Wall() time.Time
}

// A Quality says how well the time is known.
type Quality int

// The qualities.
const (
	Unsynced Quality = iota // no proof since the kernel started: only the lower bound
	Holdover                // proven in this boot, more than 24 h ago
	Synced                  // proven less than 24 h ago
)

// String returns the word of status and events.
func (q Quality) String() string {
	switch q {
	case Synced:
		return "SYNCED"
	case Holdover:
		return "HOLDOVER"
	}
	return "UNSYNCED"
}

// Instant is the part of a reading that limits need: they turn windows by Lower and
// measure bursts by Boot. When Line changes, Lower may have gone back.
type Instant struct {
	Lower time.Time
	Boot  time.Duration
	Line  uint32
}

// A Reading is all the clock knows at one moment.
type Reading struct {
	Instant
	Upper    time.Time // zero when Unsynced: there is no upper bound
	Estimate time.Time // for events and people; between the bounds where there are two
	Wall     time.Time // the system clock
	BootID   [16]byte
	Quality  Quality
	Source   Origin // of the contribution that makes Lower
}

// An Origin says where a contribution to the floor came from.
type Origin uint8

// The origins. Their numbers are stored.
const (
	Build       Origin = 1 // build time of this program
	Root        Origin = 2 // issued time of an accepted root
	Manifest    Origin = 3 // issued time of a confirmed manifest
	Attestation Origin = 4 // signed by the time role
	Operator    Origin = 5 // a person at the console
	System      Origin = 6 // the system clock, where the site vouches for it
)

// String returns the word for messages.
func (o Origin) String() string {
	names := [...]string{Build: "build time", Root: "trust root", Manifest: "bundle", Attestation: "attestation", Operator: "operator", System: "system clock"}
	if int(o) < len(names) && names[o] != "" {
		return names[o]
	}
	return fmt.Sprintf("origin %d", uint8(o))
}

// A Contribution says that At has passed.
type Contribution struct {
	Origin Origin
	Role   uint64 // that signed it, 0 for none; roles are numbered in BUNDLES.md
	Epoch  uint64 // of that role
	At     time.Time
}

// A Proof says what time it is: at the moment of the call, At with an error of at most Err
// either way, plus up to RoundTrip because the answer was on its way.
type Proof struct {
	Contribution
	Err       time.Duration
	RoundTrip time.Duration
}

// Clock is trusted time. Its methods are safe to call together.
type Clock struct {
	machine Machine
	now     atomic.Pointer[view] // what Instant needs, without a lock

	mu    sync.Mutex
	state State
	wall  time.Time // where the system clock put the boot, at the last look
}

// view is an immutable base: lower = base + 999/1000 of the time since boot.
type view struct {
	boot  time.Duration
	base  time.Time
	line  uint32
	least *atomic.Int64 // the highest lower bound given out on this line, Unix ns
}

// New returns a clock whose floor is the maximum over the copies of its state and build,
// the build time of the program. epochs holds the epoch of each role in the root the device believes:
// what older epochs contributed is left out.
func New(m Machine, build time.Time, epochs map[uint64]uint64, copies ...State) *Clock {
	c := &Clock{machine: m}
	now, id := m.Boot(), m.BootID()
	c.state = State{BootID: id, Boot: now}
	c.state.add(Contribution{Origin: Build, At: build})
	for _, s := range copies {
		c.state.merge(s.moved(now, id))
	}
	// What the copies say, all epochs counted, was the floor they were saved with.
	before := c.state.floor()
	for role, epoch := range epochs {
		c.state.drop(role, epoch)
	}
	if c.state.floor().Before(before) {
		c.state.Line++
	}
	c.publish(nil)
	c.wall = m.Wall().Add(-now)
	return c
}

// Instant returns the lower bound and the time since boot. It takes no lock.
func (c *Clock) Instant() Instant {
	v := c.now.Load()
	boot := c.machine.Boot()
	lower := v.base.Add(credit(boot - v.boot)).UnixNano()
	for {
		least := v.least.Load()
		if lower <= least {
			lower = least
			break
		}
		if v.least.CompareAndSwap(least, lower) {
			break
		}
	}
	return Instant{Lower: time.Unix(0, lower).UTC(), Boot: boot, Line: v.line}
}

// credit is the time that has surely passed while the device measured d: its oscillator
// may be fast.
func credit(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d - d/1000
}

// publish makes the state what Instant sees. old is the view before on the same line, or nil.
func (c *Clock) publish(old *view) {
	v := &view{boot: c.state.Boot, base: c.state.floor(), line: c.state.Line, least: new(atomic.Int64)}
	if old != nil && old.line == v.line {
		v.least = old.least
	} else {
		v.least.Store(v.base.UnixNano())
	}
	c.now.Store(v)
}

// Line returns the number of the time line, as [Clock.Instant] does, without reading a clock.
func (c *Clock) Line() uint32 { return c.now.Load().line }

// Lower returns the lower bound.
func (c *Clock) Lower() time.Time { return c.Instant().Lower }

// Best returns the later of the lower bound and the system clock. It is the time for TLS.
func (c *Clock) Best() time.Time {
	if lower, wall := c.Lower(), c.machine.Wall(); wall.Before(lower) {
		return lower
	} else {
		return wall
	}
}

// Now returns all the clock knows.
func (c *Clock) Now() Reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := Reading{Instant: c.Instant(), Wall: c.machine.Wall(), BootID: c.state.BootID, Source: c.state.source()}
	r.Estimate = r.Wall
	if r.Wall.Before(r.Lower) {
		r.Estimate = r.Lower
	}
	p := c.state.Proof
	if p == nil || r.Boot < p.Boot {
		return r
	}
	age := r.Boot - p.Boot
	r.Quality = Holdover
	if age < syncedFor {
		r.Quality = Synced
	}
	r.Upper = p.at().Add(p.Err + p.RoundTrip + age + age/10_000) // 100 ppm
	r.Estimate = p.at().Add(p.RoundTrip/2 + age)
	if r.Estimate.Before(r.Lower) {
		r.Estimate = r.Lower
	}
	return r
}

// Contribute raises the floor to what k says, if that is higher. It is for accepted roots
// and confirmed manifests. The error is E_TIME_JUMP when k lies more than ten years above the later of
// the build time and the newest root: it then raises nothing.
func (c *Clock) Contribute(k Contribution) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if most := c.state.newest(Build, Root).Add(issuedReach); k.At.After(most) {
		return refusal.New(refusal.TimeJump, "%s of %s is more than ten years after %s", k.Origin, day(k.At), day(most.Add(-issuedReach)))
	}
	c.raise(k)
	return nil
}

// Prove takes a proof of the time: the floor rises to it and there is an upper bound until
// the next boot. A proof below the floor, or an attestation more than 400 days above the newest time
// that root or release signed, is E_TIME_JUMP and changes nothing. An operator is believed beyond that: the caller
// writes it to the audit log.
func (c *Clock) Prove(p Proof) error {
	if p.Err < 0 || p.RoundTrip < 0 {
		return fmt.Errorf("proof of time with an error of %v, round trip %v", p.Err, p.RoundTrip)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.Instant()
	if end := p.At.Add(p.Err + p.RoundTrip); end.Before(now.Lower) {
		return refusal.New(refusal.TimeJump, "%s says %s, and it is at least %s (%s)", p.Origin, stamp(p.At), stamp(now.Lower), c.state.source())
	}
	if p.Origin != Operator {
		if most := c.state.newest(Build, Root, Manifest).Add(signedReach); p.At.After(most) {
			return refusal.New(refusal.TimeJump, "%s says %s, more than 400 days after the newest signed time %s", p.Origin, stamp(p.At), day(most.Add(-signedReach)))
		}
	}
	c.state.Proof = &Held{At: p.At.UnixMilli(), Err: p.Err, RoundTrip: p.RoundTrip, Boot: now.Boot}
	k := p.Contribution
	k.At = p.At.Add(-p.Err)
	c.raise(k)
	return nil
}

// raise adds k at this moment.
func (c *Clock) raise(k Contribution) {
	old := c.now.Load()
	c.state = c.state.moved(c.machine.Boot(), c.state.BootID)
	c.state.add(k)
	c.publish(old)
}

// Drop takes out what role contributed in epochs below epoch, as when a root raises it: keys of those
// epochs may be stolen. Lower may go back by it; then Line is one higher.
func (c *Clock) Drop(role, epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.now.Load()
	c.state = c.state.moved(c.machine.Boot(), c.state.BootID)
	before := c.state.floor()
	c.state.drop(role, epoch)
	if c.state.floor().Before(before) {
		c.state.Line++
	}
	c.publish(old)
}

// State returns what has to be stored, as of now.
func (c *Clock) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.moved(c.machine.Boot(), c.state.BootID)
}

// Options are for Run.
type Options struct {
	// Save stores the state durably; it is called every ten minutes and at the end.
	Save func(State) error
	// TrustSystem takes the system clock as proof: for a site that vouches for it (NTS, GNSS,
	// an RTC of its own).
	TrustSystem bool
	// SystemErr is the error of the system clock then.
	SystemErr time.Duration
	Log       *slog.Logger
}

// Run watches the system clock and has the state saved until ctx ends, and once then. Its
// error is that of the last save.
func (c *Clock) Run(ctx context.Context, o Options) error {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	c.look(o)
	for {
		select {
		case <-ctx.Done():
			return o.Save(c.State())
		case <-tick.C:
			c.look(o)
			if err := o.Save(c.State()); err != nil {
				o.Log.Error("time floor not stored", "err", err)
			}
		}
	}
}

func (c *Clock) look(o Options) {
	if o.TrustSystem {
		if err := c.Prove(Proof{Contribution: Contribution{Origin: System, At: c.machine.Wall()}, Err: o.SystemErr}); err != nil {
			o.Log.Warn("system clock not believed", "word", refusal.WarnClock, "err", err)
		}
		return
	}
	if doubt := c.Doubt(); doubt != "" {
		o.Log.Warn("system clock in doubt", "word", refusal.WarnClock, "why", doubt)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall = c.machine.Wall().Add(-c.machine.Boot())
}

// Doubt says in words what is wrong with the system clock, or "": it is below the floor,
// above the upper bound, or jumped since the last look of Run.
func (c *Clock) Doubt() string {
	r := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch moved := r.Wall.Add(-r.Boot).Sub(c.wall); {
	case r.Wall.Before(r.Lower.Add(-time.Second)):
		return fmt.Sprintf("the system clock says %s, and it is at least %s (%s)", stamp(r.Wall), stamp(r.Lower), r.Source)
	case r.Quality != Unsynced && r.Wall.After(r.Upper.Add(time.Second)):
		return fmt.Sprintf("the system clock says %s, and it is at most %s", stamp(r.Wall), stamp(r.Upper))
	case moved > jump || moved < -jump:
		return fmt.Sprintf("the system clock jumped by %v", moved.Round(time.Second))
	}
	return ""
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
func day(t time.Time) string   { return t.UTC().Format(time.DateOnly) }
