package counters

import (
	"fmt"
	"math"
	"slices"
	"tidegate/policy/throttle"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// shardCells keeps a shard, one CBOR value, below 3 KB: a page then holds one.
const shardCells = 60

// A shard is a set of cells whose records lie together.
type shard struct {
	cells []uint32 // stripe in the upper 6 bits, position in the others
	dirty bool
}

func place(k *throttle.Key, pos uint32) uint32 { return uint32(stripeOf(k))<<26 | pos }

func (l *Ledger) placed(p uint32) (*stripe, *cell) {
	s := &l.stripes[p>>26]
	return s, s.at(p & (1<<26 - 1))
}

// shard returns the shard with an id, made if need be.
func (l *Ledger) shard(id uint16) *shard {
	for len(l.shards) < int(id) {
		l.shards = append(l.shards, shard{})
	}
	return &l.shards[id-1]
}

type flushMode uint8

const (
	tickFlush   flushMode = iota // everything in use; dead cells are freed
	urgentFlush                  // what was asked for
	stopFlush                    // the exact counts of everything (R3)
)

// A promise is what a write states of one cell, and reserves for it.
type promise struct {
	rec  record
	key  throttle.Key
	end  int64
	used int64 // when it was made
}

// A writing is one commit on its way: what it says, and to whom.
type writing struct {
	batch    Batch
	promises map[uint32]promise // by place
	repeated map[uint32]record  // of cells that only share a shard with a promised one
	touches  []*touch
	now      moment
	mode     flushMode
}

// flush writes once. What it reserves counts only after the commit returned (R2).
func (l *Ledger) flush(mode flushMode) error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	w, err := l.gather(mode)
	if err == nil && w != nil {
		err = l.disk.Commit(w.batch)
		l.settle(w, err)
	}
	if err != nil {
		return fmt.Errorf("write counters: %w", err)
	}
	return nil
}

// gather collects a write and returns nil when there is nothing to say.
func (l *Ledger) gather(mode flushMode) (*writing, error) {
	w := &writing{promises: map[uint32]promise{}, repeated: map[uint32]record{}, mode: mode, now: l.latest()}
	l.raise(w.now.sec)
	l.gatherTouches(w)
	for i := range l.stripes {
		l.gatherStripe(w, i)
	}
	if mode != urgentFlush {
		l.tidy()
	}
	l.repeat(w)
	if err := l.encode(w); err != nil {
		return nil, err
	}
	if len(w.batch.Shards)+len(w.batch.Touches) == 0 && mode != stopFlush {
		l.wake()
		return nil, nil
	}
	w.batch.Head = Head{Line: l.line.Load(), Lower: w.now.sec, Through: l.through.Load()}
	return w, nil
}

// latest returns the latest moment any call has shown us. It never lies before the floor.
func (l *Ledger) latest() moment {
	m := moment{sec: l.floor.Load(), boot: l.opened}
	for i := range l.stripes {
		s := &l.stripes[i]
		s.mu.Lock()
		m = later(m, s.latest)
		s.mu.Unlock()
	}
	return m
}

// horizon is how far ahead windows are reserved: no call waits when one turns.
func (l *Ledger) horizon() int64 { return int64(2 * l.governor.period() / time.Second) }

func (l *Ledger) gatherTouches(w *writing) {
	for _, t := range *l.touches.Load() {
		t.prune(w.now.sec)
		if w.mode == stopFlush {
			// Every key used under our allowance gets a record of its own in this
			// write, so the allowance need not be kept. An earlier process's must be.
			n := len(t.proposed)
			t.proposed = slices.DeleteFunc(t.proposed, func(g grant) bool { return !g.inherited })
			t.changed = t.changed || len(t.proposed) != n
		} else if r := t.rule.Load(); r != nil && t.least.Load() != nobody {
			span := r.Window.At(w.now.sec)
			l.propose(t, span)
			if span.End-w.now.sec <= l.horizon() {
				l.propose(t, r.Window.After(span))
				t.least.Store(nobody)
			}
		}
		if t.changed {
			w.touches = append(w.touches, t)
		}
	}
}

func (l *Ledger) gatherStripe(w *writing, i int) {
	s := &l.stripes[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.wants {
		if c := s.at(q.pos); c.flags&want != 0 {
			l.promise(w, uint32(i)<<26|q.pos, c, q.ask)
		}
	}
	for _, q := range s.wants {
		s.at(q.pos).flags &^= want
	}
	s.wants = s.wants[:0]
	if w.mode == urgentFlush {
		return
	}
	if w.mode == stopFlush {
		s.halted = true
	}
	for b, block := range s.blocks {
		for j := range block {
			c := &block[j]
			pos := uint32(b*blockSize + j)
			switch {
			case c.flags&live == 0 || c.flags&(burst|inflight) != 0:
			case c.dead(w.now):
				l.remove(s, pos)
			case w.mode == stopFlush:
				if c.rule == nil || c.rule.Durable() {
					if c.used > 0 || c.aux > 0 || c.shard != 0 {
						l.promise(w, uint32(i)<<26|pos, c, 0)
					}
				}
			case c.flags&owned != 0 && c.next == 0 && c.used > 0 && c.rule != nil && c.rule.Durable() &&
				w.now.sec < c.end() && c.end()-w.now.sec <= l.horizon() && c.resv > 0 && c.flags&flight == 0:
				l.promise(w, uint32(i)<<26|pos, c, 0)
			}
		}
	}
	if w.mode == tickFlush {
		l.sweep(s, w.now)
	}
}

// leave takes a cell out of its shard.
func (l *Ledger) leave(c *cell, p uint32) {
	sh := l.shard(c.shard)
	sh.dirty = true
	sh.cells = slices.DeleteFunc(sh.cells, func(q uint32) bool { return q == p })
	c.shard = 0
}

// promise decides what the write states of a cell. The cell's stripe is locked.
func (l *Ledger) promise(w *writing, p uint32, c *cell, ask int64) {
	resv, next := c.resv, int64(c.next)
	r := c.rule
	switch {
	case w.mode == stopFlush:
		resv = c.used
		if r != nil && r.Quota == throttle.Mark && r.Kind == throttle.Requests {
			resv = min(c.used, max(r.Limit, c.resv))
		}
		if c.flags&oldNext == 0 {
			next = 0
		}
	case r == nil || w.now.sec >= c.end():
		// Nobody asked in this window, or it is over: nothing to reserve.
		resv = max(resv, c.used)
		if r != nil {
			resv = max(resv, min(r.Limit, l.touchOf(r).covered(int64(c.start))))
		}
	default:
		t := l.touchOf(r)
		b := l.reserve(c, r, w.now)
		// A record hides the allowance, so it covers it.
		resv = max(resv, min(r.Limit, max(c.used+max(b, ask), t.covered(int64(c.start)))))
		if r.Kind == throttle.Bytes && r.Quota == throttle.Stop {
			resv = max(resv, c.used) // what is owed to the next window
		}
		if c.end()-w.now.sec <= l.horizon() {
			next = max(next, min(r.Limit, max(b, t.covered(c.end())), math.MaxUint32))
		}
	}
	if old, ok := w.promises[p]; ok {
		resv, next = max(resv, old.rec.Resv), max(next, old.rec.Next)
	}
	w.promises[p] = promise{rec: recordOf(c, resv, next), key: c.key, end: c.end(), used: c.used}
	c.flags |= flight
	l.assign(c, p)
}

// reserve returns the size of a reservation (R4): the use of two periods, at least 1, at
// most the share ε of the limit.
func (l *Ledger) reserve(c *cell, r *throttle.Rule, m moment) int64 {
	if l.fixed.reserve > 0 {
		return l.fixed.reserve
	}
	two := 2 * l.governor.period()
	share := max(l.governor.share(), two.Seconds()/float64(c.span))
	most := min(int64(math.Ceil(min(share, 1)*float64(r.Limit))), math.MaxUint32)
	if c.grant == 0 {
		return max(1, min(most, (r.Limit+99)/100))
	}
	elapsed := max(1, m.boot.Seconds()-float64(c.at))
	taken := float64(c.used - (c.resv - int64(c.grant)))
	return max(1, min(most, int64(math.Ceil(taken/elapsed*two.Seconds()))))
}

// assign puts a cell in a shard: the one being filled, so that keys that live together
// lie together. A cell leaves a shard that has nearly emptied.
func (l *Ledger) assign(c *cell, p uint32) {
	if c.shard != 0 && c.shard != l.filling && len(l.shard(c.shard).cells) < shardCells/4 {
		l.leave(c, p)
	}
	if c.shard == 0 {
		if l.filling == 0 || len(l.shard(l.filling).cells) >= shardCells {
			l.filling = l.freshShard()
		}
		c.shard = l.filling
		if sh := l.shard(c.shard); !slices.Contains(sh.cells, p) { // left there by a dead cell
			sh.cells = append(sh.cells, p)
		}
	}
	l.shard(c.shard).dirty = true
}

// freshShard returns the id of an empty shard.
func (l *Ledger) freshShard() uint16 {
	for n := len(l.spare); n > 0; n = len(l.spare) {
		id := l.spare[n-1]
		l.spare = l.spare[:n-1]
		if len(l.shard(id).cells) == 0 {
			return id
		}
	}
	// MaxKeys cells fill 16,667 shards; one not yet full is always there.
	for id := range l.shards {
		if len(l.shards[id].cells) < shardCells/4 {
			return uint16(id + 1)
		}
	}
	return uint16(len(l.shards) + 1)
}

// tidy marks the shards that cells have left, so that they are written again.
func (l *Ledger) tidy() {
	for i := range l.shards {
		if l.purge(uint16(i + 1)) {
			l.shards[i].dirty = true
		}
	}
}

// purge takes cells that are gone out of a shard and reports whether there were any.
// Their places may hold other keys by now.
func (l *Ledger) purge(id uint16) bool {
	sh := l.shard(id)
	n := len(sh.cells)
	sh.cells = slices.DeleteFunc(sh.cells, func(p uint32) bool {
		s, c := l.placed(p)
		s.mu.Lock()
		defer s.mu.Unlock()
		return c.shard != id
	})
	return len(sh.cells) != n
}

// repeat notes the records of cells that are written only because their shard is. It
// goes on until no shard is left with a cell it has not seen: a promise may move a cell.
func (l *Ledger) repeat(w *writing) {
	for again := true; again; {
		again = false
		for i := range l.shards {
			if !l.shards[i].dirty {
				continue
			}
			l.purge(uint16(i + 1))
			for _, p := range slices.Clone(l.shards[i].cells) {
				if _, ok := w.promises[p]; ok {
					continue
				}
				if _, ok := w.repeated[p]; ok {
					continue
				}
				again = true
				s, c := l.placed(p)
				s.mu.Lock()
				if c.shard != uint16(i+1) {
					// Gone this moment: the next pass does not see it.
				} else if c.flags&owned != 0 {
					w.repeated[p] = recordOf(c, c.resv, int64(c.next))
				} else {
					// Its window turned without a record; a record of nothing would
					// hide what it used of the allowance.
					l.promise(w, p, c, 0)
				}
				s.mu.Unlock()
			}
		}
	}
}

// encode writes out the shards and allowances that changed.
func (l *Ledger) encode(w *writing) error {
	for i := range l.shards {
		sh := &l.shards[i]
		if !sh.dirty {
			continue
		}
		records := make([]record, 0, len(sh.cells))
		for _, p := range sh.cells {
			if pr, ok := w.promises[p]; ok {
				records = append(records, pr.rec)
			} else if r, ok := w.repeated[p]; ok {
				records = append(records, r)
			}
		}
		change := Change{Key: shardKey(uint16(i + 1))}
		if len(records) > 0 {
			raw, err := cbor.Marshal(records)
			if err != nil {
				return err
			}
			change.Value = raw
		}
		w.batch.Shards = append(w.batch.Shards, change)
	}
	for _, t := range w.touches {
		change := Change{Key: t.key.bytes()}
		if len(t.proposed) > 0 {
			saved := make([]allowance, len(t.proposed))
			for i, g := range t.proposed {
				saved[i] = allowance{Start: g.start, End: g.end, Calls: g.calls}
			}
			raw, err := cbor.Marshal(saved)
			if err != nil {
				return err
			}
			change.Value = raw
		}
		w.batch.Touches = append(w.batch.Touches, change)
	}
	return nil
}

func recordOf(c *cell, resv, next int64) record {
	r := record{
		Key: append([]byte(nil), c.key[:]...), Def: c.def, Start: int64(c.start), Span: c.span,
		Resv: resv, Next: next, Aux: c.aux,
	}
	if c.flags&sliding != 0 {
		r.Form |= formSliding
	}
	if c.flags&overflow != 0 {
		r.Form |= formOverflow
	}
	return r
}

// settle makes the promises count, when the commit returned without an error, and lets
// those who wait try again.
func (l *Ledger) settle(w *writing, err error) {
	for p, pr := range w.promises {
		s, c := l.placed(p)
		s.mu.Lock()
		l.keep(s, c, p, pr, w, err == nil)
		s.mu.Unlock()
	}
	if err == nil {
		l.failure.Store(nil)
		for _, t := range w.touches {
			t.publish()
		}
		for i := range l.shards {
			sh := &l.shards[i]
			if sh.dirty && len(sh.cells) == 0 && !slices.Contains(l.spare, uint16(i+1)) && uint16(i+1) != l.filling {
				l.spare = append(l.spare, uint16(i+1))
			}
			sh.dirty = false
		}
		if n := len(w.batch.Shards) + len(w.batch.Touches); n > 0 {
			l.commits.Add(1)
			l.governor.spend(len(w.batch.Shards), len(w.batch.Touches))
		}
	} else {
		l.failure.Store(&failed{err})
	}
	l.wake()
}

// wake lets those who wait for a write try again.
func (l *Ledger) wake() {
	done := make(chan struct{})
	close(*l.settled.Swap(&done))
}

// keep applies one promise. Its cell may have turned to another window meanwhile.
func (l *Ledger) keep(s *stripe, c *cell, p uint32, pr promise, w *writing, durable bool) {
	if c.key != pr.key || c.def != pr.rec.Def || c.flags&flight == 0 {
		return
	}
	c.flags &^= flight
	switch {
	case !durable:
		if w.mode != stopFlush {
			l.queue(s, c, p&(1<<26-1), 1)
		}
	case w.mode == stopFlush:
	case int64(c.start) == pr.rec.Start:
		if pr.rec.Resv > c.resv {
			c.grant = uint32(min(max(0, pr.rec.Resv-pr.used), math.MaxUint32))
			c.at = uint32(w.now.boot.Seconds())
			c.resv = pr.rec.Resv
		}
		c.next = uint32(max(int64(c.next), pr.rec.Next))
		c.flags |= owned
	case int64(c.start) == pr.end && pr.rec.Next > 0:
		c.resv = max(c.resv, pr.rec.Next)
		c.flags |= owned
	}
}
