package events

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"tidegate/store"
	"tidegate/store/events/batch"
	"time"
)

// ErrNoFile says that the queue has no file yet, or has given it up.
var ErrNoFile = errors.New("event queue has no file")

// A Log is the queue. All methods may be called together.
//
// An event goes from memory into columns (fill), from there into a parcel, and with the
// parcel into the file (disk). What is on the way is bounded at each place.
type Log struct {
	o      Options
	log    *slog.Logger
	run    [8]byte // names this process in the file
	memory *memory
	ready  chan struct{} // a parcel waits

	// fill guards what is being collected. It is never held during disk work.
	fill struct {
		sync.Mutex
		builder batch.Builder
		table   batch.Table
		detail  Instant // start of builder's batch
		rolls   Instant // start of table's batch
		gone    [2]gone // lost in memory, for the next parcel
		waiting []*parcel
		number  uint64 // of the last parcel
	}

	// disk serialises transactions. It is taken before fill where both are needed.
	disk struct {
		sync.Mutex
		db    *store.DB
		found Found
		begun bool // the file is marked as ours and known is what it holds
		tails map[tail]Loss
		told  uint64 // loss records up to here were handed out and do not change any more
	}
	known atomic.Pointer[state] // as committed; never changed in place
	fault atomic.Pointer[error] // the last failure, nil when all is well
}

// New returns a queue without a file. Events wait in memory, bounded, until Attach.
func New(o Options) *Log {
	if o.Interval <= 0 {
		o.Interval = 30 * time.Second
	}
	if o.Clock == nil {
		start := time.Now()
		o.Clock = func() Instant {
			now := time.Now()
			return Instant{Now: now, Stamp: batch.Stamp{Boot: now.Sub(start), Unix: now, Quality: batch.Unproven}}
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Log{o: o, log: o.Log, memory: newMemory(o.Extras&WithUserAgent != 0), ready: make(chan struct{}, 1)}
	l.fill.builder.Packer = new(batch.Packer)
	l.fill.table.Packer = l.fill.builder.Packer
	rand.Read(l.run[:]) //nolint:errcheck // ends the process rather than fail
	return l
}

// Open returns a queue on a file that was opened as it lay.
func Open(db *store.DB, o Options) (*Log, error) {
	l := New(o)
	return l, l.Attach(db, AsItLay)
}

// Record takes one event. It never waits for the disk or for a reader and does not keep e;
// of the strings of e it keeps those that are marked so. When memory is full the call is
// counted as lost.
func (l *Log) Record(e *Event) { l.memory.record(e) }

// Run writes what was recorded, each interval or when a batch is full, until ctx ends; then
// it flushes once more, notes that the file was closed cleanly and returns the error of
// that. A file that fails does not end Run: it is reopened, or replaced, each interval.
func (l *Log) Run(ctx context.Context) error {
	var collector sync.WaitGroup
	collector.Go(func() { l.collectUntil(ctx) })
	tick := time.NewTicker(l.o.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			collector.Wait()
			return l.finish()
		case <-l.ready:
		case <-tick.C:
			l.collect(true)
			if l.known.Load() != nil && l.fault.Load() == nil {
				l.cut() // else columns go on filling: few large batches wait better than many small ones
			}
		}
		// The error is kept for Status; what was not written waits for the next turn.
		_ = l.commit(ctx) //nolint:errcheck // see above
	}
}

// settle is how long an event stays in a chunk that does not fill up: it keeps its edition
// in memory for as long.
const settle = time.Second

func (l *Log) collectUntil(ctx context.Context) {
	tick := time.NewTicker(settle)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.memory.wake:
			l.collect(false)
		case <-tick.C:
			l.collect(true)
		}
	}
}

// Flush makes everything recorded before it durable.
func (l *Log) Flush(ctx context.Context) error {
	l.collect(true)
	l.cut()
	return l.commit(ctx)
}

// finish is the last flush.
func (l *Log) finish() error {
	ctx := context.Background() // the caller's has ended; the disk gets its time
	if err := l.Flush(ctx); err != nil {
		return fmt.Errorf("last flush of events: %w", err)
	}
	return l.close()
}

// Status tells how the queue is.
func (l *Log) Status() Status {
	s := Status{}
	l.fill.Lock()
	s.Waiting = l.memory.waiting() + l.fill.builder.Len()
	for _, p := range l.fill.waiting {
		s.Waiting += p.calls(batch.Detail)
	}
	l.fill.Unlock()
	if e := l.fault.Load(); e != nil {
		s.Err = *e
	}
	known := l.known.Load()
	if known == nil {
		if s.Err == nil {
			s.Err = ErrNoFile
		}
		return s
	}
	s.Cap, s.Losses = known.soft, int(known.Losses)
	for i := range known.Classes {
		s.Classes[i] = known.Classes[i].status(classes[i], l.oldestStart(place(i), &known.Classes[i]))
		s.Bytes += s.Classes[i].Bytes
	}
	return s
}
