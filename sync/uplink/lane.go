package uplink

import (
	"context"
	"sync"
	"tidegate/store/events"
	"tidegate/store/events/batch"
	"time"
)

// A lane is one class of batches on its way.
type lane struct {
	class batch.Class
	epoch batch.Epoch
	known bool   // epoch is that of the queue
	low   uint64 // all up to here are released
	head  uint64 // newest batch that we know of
	reach uint64 // no higher number can ever have been sent

	todo   []span               // not sent since the run began, ascending
	flying map[uint64]time.Time // sent and not acknowledged
	rto    time.Duration        // wait for an ack before sending again
	since  time.Time            // of the last progress
}

// A span is numbers from lo to hi, both included.
type span struct{ lo, hi uint64 }

// begin forgets what was sent.
func (d *Drain) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.lanes {
		d.lanes[i].known = false
		d.lanes[i].rto = resendAfter
	}
	for _, s := range d.losses {
		s.sent = time.Time{}
	}
	d.look(time.Now())
}

// look brings the lanes in line with the queue. The caller holds mu.
func (d *Drain) look(now time.Time) {
	st := d.o.Queue.Status()
	for i := range d.lanes {
		l := &d.lanes[i]
		for _, c := range st.Classes {
			if c.Class != l.class || c.Epoch == (batch.Epoch{}) {
				continue
			}
			switch {
			case l.epoch != c.Epoch:
				// The first look in this process, or a new file: an earlier process may have
				// sent all that there is.
				*l = lane{class: l.class, epoch: c.Epoch, reach: c.Head, rto: resendAfter}
				fallthrough
			case !l.known:
				l.known, l.low, l.head = true, c.Acked, c.Head
				l.todo, l.flying, l.since = nil, map[uint64]time.Time{}, now
				l.add(l.low+1, l.head)
			default:
				l.add(l.head+1, c.Head)
				l.head = max(l.head, c.Head)
				if c.Acked > l.low {
					l.acked(c.Acked, nil)
				}
			}
		}
	}
}

func (l *lane) add(lo, hi uint64) {
	if lo <= hi {
		l.todo = append(l.todo, span{lo, hi})
	}
}

// acked notes that batches are gone from the queue and returns how many of them were flying.
func (l *lane) acked(upTo uint64, also []uint64) (n uint64) {
	l.low = max(l.low, upTo)
	for seq := range l.flying {
		if seq <= upTo {
			delete(l.flying, seq)
			n++
		}
	}
	for _, seq := range also {
		if _, ok := l.flying[seq]; ok {
			delete(l.flying, seq)
			n++
		}
	}
	if n > 0 {
		l.since, l.rto = time.Now(), resendAfter
	}
	return n
}

// late puts everything that flies back to what is to be sent, when no ack has come for too
// long, and reports how many.
func (l *lane) late(now time.Time) int {
	if len(l.flying) == 0 || now.Sub(l.since) < l.rto {
		return 0
	}
	n := len(l.flying)
	l.todo = nil
	l.add(l.low+1, l.head)
	clear(l.flying)
	l.since, l.rto = now, min(2*l.rto, resendAtMost)
	return n
}

// pick takes the next number to send.
func (l *lane) pick(o Order) (seq uint64, ok bool) {
	for len(l.todo) > 0 {
		i := 0
		if o == NewestFirst {
			i = len(l.todo) - 1
		}
		s := &l.todo[i]
		s.lo = max(s.lo, l.low+1)
		if s.lo > s.hi {
			l.todo = append(l.todo[:i], l.todo[i+1:]...)
			continue
		}
		if o == NewestFirst {
			seq, s.hi = s.hi, s.hi-1
		} else {
			seq, s.lo = s.lo, s.lo+1
		}
		if _, flies := l.flying[seq]; !flies {
			return seq, true
		}
	}
	return 0, false
}

// laneOf returns the lane of an epoch, nil when there is none. The caller holds mu.
func (d *Drain) laneOf(e batch.Epoch) *lane {
	for i := range d.lanes {
		if d.lanes[i].epoch == e && d.lanes[i].known {
			return &d.lanes[i]
		}
	}
	return nil
}

// next returns what goes next, nil when nothing may or can.
func (d *Drain) next(now time.Time) (*Parcel, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.look(now)
	if now.Before(d.paused) {
		return nil, nil
	}
	if p, err := d.nextLoss(now); p != nil || err != nil {
		return p, err
	}
	flying := 0
	for i := range d.lanes {
		d.stats.Repeated += uint64(d.lanes[i].late(now))
		flying += len(d.lanes[i].flying)
	}
	if flying >= Unacked {
		return nil, nil
	}
	for i := range d.lanes {
		l := &d.lanes[i]
		if !l.known || !d.o.Gate(l.class) {
			continue
		}
		p, err := d.nextBatch(l, now)
		if p != nil || err != nil {
			return p, err
		}
	}
	return nil, nil
}

func (d *Drain) nextLoss(now time.Time) (*Parcel, error) {
	if d.o.Queue.Status().Losses == 0 {
		return nil, nil
	}
	pending, err := d.o.Queue.Losses(0, lossesAtOnce)
	if err != nil {
		return nil, err
	}
	for i := range pending {
		name := nameOf(&pending[i])
		s := d.losses[name]
		if s != nil && (s.stored || now.Sub(s.sent) < resendAfter) {
			continue
		}
		b, err := d.o.Sealer.Loss(&pending[i], d.o.Now())
		if err != nil {
			return nil, err
		}
		if s == nil {
			s = new(lossState)
			d.losses[name] = s
		}
		s.sent = now
		d.stats.Losses++
		d.stats.Bytes += uint64(len(b))
		return &Parcel{Kind: LossParcel, Class: pending[i].Class, Epoch: name.Epoch, Seq: name.Number, Bytes: b}, nil
	}
	return nil, nil
}

// nextBatch passes over numbers that are not in the queue any more.
func (d *Drain) nextBatch(l *lane, now time.Time) (*Parcel, error) {
	for range 256 {
		seq, ok := l.pick(d.o.Order)
		if !ok {
			return nil, nil
		}
		bs, err := d.o.Queue.Read(events.Cursor{Class: l.class, Epoch: l.epoch, Seq: seq - 1}, 1)
		if err != nil {
			l.add(seq, seq)
			return nil, err
		}
		if len(bs) == 0 || bs[0].Epoch != l.epoch || bs[0].Seq != seq {
			continue
		}
		b, err := d.o.Sealer.Batch(&bs[0], d.o.Now())
		if err != nil {
			return nil, err
		}
		if len(l.flying) == 0 {
			l.since = now
		}
		l.flying[seq] = now
		l.reach = max(l.reach, seq)
		d.stats.Batches++
		d.stats.Bytes += uint64(len(b))
		return &Parcel{Class: l.class, Epoch: l.epoch, Seq: seq, Bytes: b}, nil
	}
	return nil, nil
}

// A flight bounds what is in the hands of the sink.
type flight struct {
	group sync.WaitGroup
	mu    sync.Mutex
	n     int
	bytes int
	freed chan struct{}
}

func newFlight() *flight { return &flight{freed: make(chan struct{}, 1)} }

// enter waits for room for n bytes: at least one parcel always has it.
func (f *flight) enter(ctx context.Context, n int) error {
	for {
		f.mu.Lock()
		if f.n == 0 || f.n < FlightMessages && f.bytes+n <= FlightBytes {
			f.n++
			f.bytes += n
			f.mu.Unlock()
			return nil
		}
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.freed:
		}
	}
}

func (f *flight) leave(n int) {
	f.mu.Lock()
	f.n--
	f.bytes -= n
	f.mu.Unlock()
	poke(f.freed)
}

// wait waits until the sink has returned from everything.
func (f *flight) wait() { f.group.Wait() }
