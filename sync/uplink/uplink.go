// Package uplink drains the event queue into a sink, whatever the sink is: it reads batches,
// seals them, hands them on, and deletes them when the fleet has acknowledged them, and for no
// other reason.
//
// It promises: a batch is deleted only after an ack that the collector role signed, for this
// device, of this queue, and not above what can ever have been sent; what was lost is declared
// before what follows it; nothing that is on its way grows without bound. It does not promise
// that a batch is sent once: whoever stores it drops what it has seen.
package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"tidegate/policy/refusal"
	"tidegate/store/events"
	"tidegate/store/events/batch"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/trust"
	"time"
)

// A Queue holds batches and losses until they are released; [events.Log] is one.
type Queue interface {
	Read(after events.Cursor, max int) ([]events.Batch, error)
	Release(upTo events.Cursor, also ...uint64) error
	Losses(after uint64, n int) ([]events.Loss, error)
	ReleaseLosses(n uint64) error
	Status() events.Status
}

// A Sealer signs batches and losses; [report.Sealer] is one.
type Sealer interface {
	Batch(b *batch.Batch, issued time.Time) ([]byte, error)
	Loss(l *batch.Loss, issued time.Time) ([]byte, error)
}

// An Order says which batches go first. Roll-ups go before detail in any case.
type Order uint8

// The orders.
const (
	OldestFirst Order = iota
	NewestFirst
)

// Limits of what is on its way.
const (
	Unacked        = 64       // batches sent and not acknowledged
	FlightMessages = 8        // parcels in the hands of the sink
	FlightBytes    = 64 << 10 // of them, unless it is only one
	resendAfter    = time.Minute
	resendAtMost   = time.Hour
	idle           = 2 * time.Second // between looks at an empty queue
	lossesAtOnce   = 16
)

// Options of a Drain. All but Order, Gate, Plain and Log must be set.
type Options struct {
	Queue  Queue
	Sealer Sealer
	Device trust.DeviceID
	Trust  func() trust.State // what acks are verified with
	Floor  func() uint64      // seconds since 1970 that have passed for sure
	Now    func() time.Time   // estimate of the time, for what is sealed
	Plain  message.PlainAcks
	Order  Order
	// Gate says whether batches of a class may go now; nil: always.
	Gate func(batch.Class) bool
	Log  *slog.Logger
}

// A Kind says what a parcel is.
type Kind uint8

// The kinds.
const (
	BatchParcel Kind = iota
	LossParcel
)

// A Parcel is one sealed batch or loss.
type Parcel struct {
	Kind  Kind
	Class batch.Class
	Epoch batch.Epoch
	Seq   uint64 // of a batch; of a loss its number
	Bytes []byte
}

// A Sink takes parcels. Send returns nil when the parcel has been handed over, which says
// nothing about its arrival; on an error the run ends.
type Sink interface {
	Send(ctx context.Context, p Parcel) error
}

// Stats count what a drain has done since it was made.
type Stats struct {
	Batches, Losses uint64 // handed to a sink, repetitions included
	Bytes           uint64 // of them
	Repeated        uint64 // sent again
	Acked           uint64 // batches released
	BadAcks         uint64 // ignored
	LastBad         string // why
	Unacked         int
}

// A Drain empties one queue. Run is called by one goroutine at a time, Acknowledge by any.
type Drain struct {
	o   Options
	log *slog.Logger

	mu      sync.Mutex
	lanes   [2]lane // roll-ups, detail: in the order in which they go
	losses  map[message.LossName]*lossState
	paused  time.Time // no batches before
	rate    uint64    // bytes/s, as the collector asks
	stats   Stats
	changed chan struct{} // a token: something was acknowledged
	earnest chan struct{} // a token: look at once
}

// lossState is what became of a loss since this process began to send.
type lossState struct {
	sent   time.Time // zero: not in this run
	stored bool      // acknowledged
}

// New returns a drain.
func New(o Options) *Drain {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Gate == nil {
		o.Gate = func(batch.Class) bool { return true }
	}
	d := &Drain{o: o, log: o.Log, losses: map[message.LossName]*lossState{}, changed: make(chan struct{}, 1), earnest: make(chan struct{}, 1)}
	d.lanes[0] = lane{class: batch.RollUps, rto: resendAfter}
	d.lanes[1] = lane{class: batch.Detail, rto: resendAfter}
	return d
}

// Stats returns what was done.
func (d *Drain) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stats
	for i := range d.lanes {
		s.Unacked += len(d.lanes[i].flying)
	}
	return s
}

// Wake makes Run look at the queue now.
func (d *Drain) Wake() { poke(d.earnest) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run hands parcels to the sink until ctx ends or the sink fails, and returns why. It starts
// behind what is acknowledged: whatever an earlier sink did with the rest, it goes again.
func (d *Drain) Run(ctx context.Context, sink Sink) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.begin()
	f := newFlight()
	defer f.wait()
	for ctx.Err() == nil {
		p, err := d.next(time.Now())
		if err != nil && !errors.Is(err, events.ErrNoFile) {
			d.log.Warn("event queue cannot be read", "err", err)
		}
		if p == nil {
			timer := time.NewTimer(idle)
			select {
			case <-ctx.Done():
				timer.Stop()
				return context.Cause(ctx)
			case <-d.changed:
			case <-d.earnest:
			case <-timer.C:
			}
			timer.Stop()
			continue
		}
		if err := f.enter(ctx, len(p.Bytes)); err != nil {
			return context.Cause(ctx)
		}
		if err := d.slow(ctx, len(p.Bytes)); err != nil {
			f.leave(len(p.Bytes))
			return context.Cause(ctx)
		}
		send := func() {
			defer f.leave(len(p.Bytes))
			if err := sink.Send(ctx, *p); err != nil {
				cancel(fmt.Errorf("send %s: %w", p, err))
			}
		}
		if p.Kind == LossParcel { // what follows it must not overtake it
			send()
			continue
		}
		f.group.Go(send)
	}
	return context.Cause(ctx)
}

// String names the parcel for messages.
func (p *Parcel) String() string {
	if p.Kind == LossParcel {
		return fmt.Sprintf("loss %d", p.Seq)
	}
	return fmt.Sprintf("%s batch %d", p.Class, p.Seq)
}

// slow keeps to the rate that the collector asks for.
func (d *Drain) slow(ctx context.Context, n int) error {
	d.mu.Lock()
	rate := d.rate
	d.mu.Unlock()
	if rate == 0 {
		return nil
	}
	timer := time.NewTimer(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Drained reports whether nothing waits to be sent or acknowledged.
func (d *Drain) Drained() bool {
	s := d.o.Queue.Status()
	n := s.Losses
	for _, c := range s.Classes {
		n += c.Count
	}
	return n == 0 && s.Err == nil
}

// Hold sends no batches for a while from now; zero ends it.
func (d *Drain) Hold(t time.Duration) {
	d.mu.Lock()
	d.paused = time.Now().Add(t)
	d.mu.Unlock()
	poke(d.changed)
}

// Acknowledge takes an ack as it came. What it names is deleted when Acknowledge returns nil.
// An ack that is not to be believed changes nothing, is counted, and its refusal returned.
func (d *Drain) Acknowledge(b []byte) (*message.Ack, error) {
	a, err := message.OpenAck(b, d.o.Trust(), d.o.Device, d.o.Floor(), d.o.Plain)
	if err == nil {
		err = d.take(a)
	}
	if err != nil {
		d.mu.Lock()
		d.stats.BadAcks++
		d.stats.LastBad = err.Error()
		d.mu.Unlock()
		return nil, err
	}
	poke(d.changed)
	return a, nil
}

// WentOut notes that batches up to c left the device another way, on a stick: a collector that
// has them may acknowledge them here, though this drain has not sent them.
func (d *Drain) WentOut(c events.Cursor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.look(time.Now())
	if l := d.laneOf(c.Epoch); l != nil {
		l.reach = max(l.reach, c.Seq)
	}
}

// take applies an ack. All of it is judged before any of it is done.
func (d *Drain) take(a *message.Ack) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.look(time.Now())
	for _, m := range a.Marks {
		l := d.laneOf(m.Epoch)
		if l == nil {
			continue // of a queue that is gone: a collector remembers longer than a device
		}
		highest := m.UpTo
		for _, n := range m.Also {
			highest = max(highest, n)
		}
		if highest > l.reach {
			return refusal.New(refusal.Limit, "ack of %s batch %d, and %d is the last that can have been sent", l.class, highest, l.reach)
		}
	}
	for _, m := range a.Marks {
		if l := d.laneOf(m.Epoch); l != nil {
			if err := d.release(l, m); err != nil {
				return err
			}
		}
	}
	if err := d.releaseLosses(a.Losses); err != nil {
		return err
	}
	if a.Pause > 0 {
		d.paused = time.Now().Add(time.Duration(a.Pause) * time.Second)
	}
	d.rate = a.Rate
	return nil
}

// release deletes the batches of a mark. The caller holds mu.
func (d *Drain) release(l *lane, m message.Mark) error {
	upTo := max(m.UpTo, l.low)
	var also []uint64
	for _, n := range m.Also {
		if n > upTo {
			also = append(also, n)
		}
	}
	if upTo == l.low && len(also) == 0 {
		return nil
	}
	err := d.o.Queue.Release(events.Cursor{Class: l.class, Epoch: l.epoch, Seq: upTo}, also...)
	if errors.Is(err, events.ErrForeign) {
		return nil // the queue was made anew since we looked
	}
	if err != nil {
		return err
	}
	d.stats.Acked += l.acked(upTo, also)
	return nil
}

// releaseLosses notes which losses are stored and deletes those below the first that is not.
// The caller holds mu.
func (d *Drain) releaseLosses(names []message.LossName) error {
	news := false
	for _, n := range names {
		if s := d.losses[n]; s != nil && !s.stored { // one that was not sent is not of this queue
			s.stored, news = true, true
		}
	}
	if !news {
		return nil
	}
	pending, err := d.o.Queue.Losses(0, lossesAtOnce)
	if err != nil {
		return err
	}
	var upTo uint64
	for i := range pending {
		name := nameOf(&pending[i])
		if s := d.losses[name]; s == nil || !s.stored {
			break
		}
		upTo = pending[i].Number
		delete(d.losses, name)
	}
	if upTo == 0 {
		return nil
	}
	return d.o.Queue.ReleaseLosses(upTo)
}

func nameOf(l *events.Loss) message.LossName {
	return message.LossName{Epoch: l.Epoch, Number: l.Number}
}
