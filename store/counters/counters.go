// Package counters keeps the counts behind the limits of a device, and never gives a
// call away because of a crash, a power cut, a jump of the clock or a new bundle.
//
// Before it admits calls it writes down how many it may have admitted (reservation
// ahead). A crash can only lose calls that were reserved and not used:
//
//   - a call is admitted only with a unit that was durable before;
//   - a key that is seldom used lives on an allowance that one record per window
//     states for all keys without a record of their own;
//   - recovery takes every durable unit as used;
//   - a clean stop writes the exact counts, and loses nothing.
//
// So for every key and window: admitted ≤ durable ≤ limit. What a crash costs is at
// most one reservation per key: about one percent of a limit per day, for short windows
// the share of half a minute.
//
// Package counters does not know what a plan is or how a key is made; it counts
// [throttle.Claim] values. It keeps no log of single calls. Limits across several
// devices are not its subject: each device counts alone.
package counters

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"tidegate/policy/throttle"
	"time"
)

// Defaults and bounds of [Options].
const (
	DefaultKeys   = 200_000
	MinKeys       = 1_000
	MaxKeys       = 1_000_000
	DefaultPeriod = 30 * time.Second
	DefaultStall  = 250 * time.Millisecond
)

// A Start says what the windows that are open when a ledger opens count as.
type Start uint8

// The starts. Windows too short to be on disk, and all windows without a disk, begin
// closed under the first two.
const (
	AsLeft     Start = iota // what the disk says
	StartShut               // full: what lay on the disk is not what was written last
	StartEmpty              // empty: serve rather than be exact (throttle.without_store = "open")
)

// Options say how a ledger works. The zero value is usable.
type Options struct {
	Keys   int           // keys in memory, MinKeys to MaxKeys; 0: DefaultKeys
	Period time.Duration // between two commits that are not urgent; 0: DefaultPeriod
	Stall  time.Duration // longest wait of a call for the disk; 0: DefaultStall
	Start  Start
	Log    *slog.Logger // nil: silent
}

// A Ledger counts claims and keeps the counts on disk. Its methods are safe for
// concurrent use. It implements [throttle.Counter].
type Ledger struct {
	disk   Disk // nil: memory only
	period time.Duration
	stall  time.Duration
	empty  bool // Start is StartEmpty
	shut   bool // Start is StartShut
	log    *slog.Logger
	opened time.Duration // powered-on time when the ledger opened
	fixed  fixed

	line    atomic.Uint32 // time line of floor and of every window
	floor   atomic.Int64  // no window is judged by an earlier second; at least firstSecond
	through atomic.Int64  // windows that began at or before this second are closed

	seeds   [2]uint64
	stripes [stripes]stripe
	touches atomic.Pointer[map[touchKey]*touch]

	kick    chan struct{} // capacity 1: somebody waits for a unit
	settled atomic.Pointer[chan struct{}]
	failure atomic.Pointer[failed]

	commits, stalls, overflowed atomic.Int64

	// flushing serialises everything that writes: Run, Reset, a new time line. The
	// fields below are its own.
	flushing sync.Mutex
	shards   []shard // by id − 1
	filling  uint16
	spare    []uint16 // ids of deleted shards
	governor governor
	touchMu  sync.Mutex // makes touches; readers use the snapshot
}

type failed struct{ err error }

// fixed replaces computed sizes in tests; zero means computed.
type fixed struct{ reserve, allow int64 }

var _ throttle.Counter = (*Ledger)(nil)

// Open reads what disk holds and returns a ledger that goes on from it. disk may be
// nil: then every window that is open now counts as full, and later ones are counted in
// memory alone. Nothing is written before Run, and nothing is admitted beyond what is
// durable before Run writes.
//
// Records that cannot be read are an error; the caller opens with [StartShut] and a
// fresh disk then.
func Open(disk Disk, now throttle.Instant, o Options) (*Ledger, error) {
	if o.Keys == 0 {
		o.Keys = DefaultKeys
	}
	if o.Keys < MinKeys || o.Keys > MaxKeys {
		return nil, fmt.Errorf("open counters: %d keys: want %d to %d", o.Keys, MinKeys, MaxKeys)
	}
	l := &Ledger{
		disk: disk, period: o.Period, stall: o.Stall, log: o.Log,
		empty: o.Start == StartEmpty, shut: o.Start == StartShut,
		opened: now.Boot,
		seeds:  [2]uint64{rand.Uint64(), rand.Uint64()},
		kick:   make(chan struct{}, 1),
	}
	if l.period <= 0 {
		l.period = DefaultPeriod
	}
	if l.stall <= 0 {
		l.stall = DefaultStall
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	for i := range l.stripes {
		l.stripes[i].cap = max(1, (o.Keys+stripes-1)/stripes)
	}
	done := make(chan struct{})
	l.settled.Store(&done)
	l.touches.Store(&map[touchKey]*touch{})
	l.line.Store(now.Line)
	l.floor.Store(max(firstSecond, now.Lower.Unix()))
	l.through.Store(noWindow)
	l.governor.open(l.period)
	if disk != nil {
		if err := l.recover(now); err != nil {
			return nil, fmt.Errorf("open counters: %w", err)
		}
	}
	if l.shut {
		l.through.Store(max(l.through.Load(), l.floor.Load()))
	}
	return l, nil
}

const (
	noWindow    = -1 << 62         // before every window
	firstSecond = 400 * 24 * 3_600 // no window that holds it begins before 1970
)

// recover takes every durable unit as used (R3, R7).
func (l *Ledger) recover(now throttle.Instant) error {
	m, err := l.disk.Load(l.loadShard, l.loadTouch)
	if err != nil {
		return err
	}
	switch {
	case m == nil: // a fresh disk
		return nil
	case m.Line != now.Line:
		// The floor was lowered: the windows on disk are of another time line.
		l.forget()
		l.through.Store(l.floor.Load())
		l.urge()
		return nil
	}
	l.floor.Store(max(l.floor.Load(), m.Lower))
	l.through.Store(m.Through)
	return nil
}

// Expect prepares for rules that calls are about to meet: the first calls under a new
// bundle then find an allowance on disk. It does not wait.
func (l *Ledger) Expect(now throttle.Instant, rules []*throttle.Rule) {
	if l.disk == nil {
		return
	}
	m := l.moment(now)
	for _, r := range rules {
		if !r.Durable() {
			continue
		}
		if t := l.touchOf(r); t.grant(r.Window.At(m.sec).Start) == nil {
			t.see(r)
			l.urge()
		}
	}
	l.stripes[0].mu.Lock()
	l.stripes[0].latest = later(l.stripes[0].latest, m)
	l.stripes[0].mu.Unlock()
}

// Err returns nil, or why counts cannot be made durable now.
func (l *Ledger) Err() error {
	if f := l.failure.Load(); f != nil {
		return f.err
	}
	if l.disk == nil {
		return errors.New("counters are kept in memory only")
	}
	return nil
}

// Stats are figures for status and metrics.
type Stats struct {
	Keys       int   // in memory
	Capacity   int   // at most
	Shared     int   // overflow counters in use: the table was full for their keys
	Overflowed int64 // calls counted by an overflow counter, since the start
	Stalls     int64 // calls refused because no durable unit came in time
	Commits    int64
	Written    int64         // bytes given to flash, estimated
	Period     time.Duration // between commits now; it grows when flash is worn too fast
}

// Stats returns the figures since the ledger opened.
func (l *Ledger) Stats() Stats {
	s := Stats{Overflowed: l.overflowed.Load(), Stalls: l.stalls.Load(), Commits: l.commits.Load()}
	for i := range l.stripes {
		st := &l.stripes[i]
		st.mu.Lock()
		s.Keys += st.n
		s.Capacity += st.cap
		s.Shared += st.shared
		st.mu.Unlock()
	}
	s.Written, s.Period = l.governor.figures()
	return s
}

// Run writes reservations until ctx ends, then the exact counts, and returns the error
// of that last write. It is called once. Calls that come after it get
// [throttle.ErrStalled].
func (l *Ledger) Run(ctx context.Context) error {
	if l.disk == nil {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTimer(l.governor.period())
	defer tick.Stop()
	for {
		mode := tickFlush
		select {
		case <-ctx.Done():
			return l.flush(stopFlush)
		case <-tick.C:
			tick.Reset(l.governor.period())
		case <-l.kick:
			mode = urgentFlush
			if !l.pace(ctx) {
				return l.flush(stopFlush)
			}
		}
		before := l.Err()
		err := l.flush(mode)
		switch {
		case err != nil && before == nil:
			l.log.Error("counters cannot be made durable", "err", err)
		case err == nil && before != nil:
			l.log.Info("counters are durable again")
		}
	}
}

// pace waits before an urgent write when the last one failed or flash is worn too fast.
// It reports whether ctx goes on.
func (l *Ledger) pace(ctx context.Context) bool {
	wait := l.governor.pace()
	if l.failure.Load() != nil {
		wait = max(wait, time.Second)
	}
	if wait <= 0 {
		return true
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// urge asks Run for a write at once.
func (l *Ledger) urge() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}
