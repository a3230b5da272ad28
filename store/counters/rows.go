package counters

import (
	"fmt"
	"tidegate/policy"
	"tidegate/policy/throttle"
	"time"
)

// A Row is one count, for status and for copies of the state.
type Row struct {
	Key      throttle.Key
	Plan     string // empty until a call came under it since the start
	Level    policy.Level
	Kind     throttle.Kind
	Limit    int64
	Used     int64 // units; Burst: calls the bucket is short of
	Durable  int64 // units on disk; Used is at most this after a crash
	Previous int64 // sliding windows: units of the window before
	Start    time.Time
	End      time.Time // zero for kinds without windows
	Shared   bool      // an overflow counter: the table was full
}

// Rows calls yield for every count in memory, in no particular order, until it returns
// false. yield is called without any lock.
func (l *Ledger) Rows(yield func(Row) bool) {
	boot := l.latest().boot
	for i := range l.stripes {
		for _, r := range l.rowsOf(&l.stripes[i], boot) {
			if !yield(r) {
				return
			}
		}
	}
}

func (l *Ledger) rowsOf(s *stripe, boot time.Duration) []Row {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows := make([]Row, 0, s.n)
	for _, block := range s.blocks {
		for j := range block {
			if c := &block[j]; c.flags&live != 0 {
				rows = append(rows, rowOf(c, boot))
			}
		}
	}
	return rows
}

func rowOf(c *cell, boot time.Duration) Row {
	r := Row{Key: c.key, Used: c.used, Durable: c.resv, Previous: c.aux, Shared: c.flags&overflow != 0}
	if c.rule != nil {
		r.Plan, r.Level, r.Kind, r.Limit = c.rule.Name, c.rule.Level, c.rule.Kind, c.rule.Limit
		if r.Kind == throttle.Burst {
			r.Used = r.Limit - c.rule.BucketRoom(time.Duration(c.used), boot)
		}
	}
	if c.span > 0 {
		r.Start, r.End = time.Unix(int64(c.start), 0).UTC(), time.Unix(c.end(), 0).UTC()
	}
	return r
}

// Reset sets every count of a key to zero, its burst too, on disk before it returns, and
// returns how many counts that were. Calls in flight stay counted. A key that shares an overflow
// counter has no count of its own.
//
// After an error the counts are zero in memory, and a restart may bring them back.
func (l *Ledger) Reset(now throttle.Instant, key throttle.Key) (int, error) {
	m := l.moment(now)
	l.flushing.Lock()
	defer l.flushing.Unlock()
	i := stripeOf(&key)
	s := &l.stripes[i]
	w := &writing{promises: map[uint32]promise{}, repeated: map[uint32]record{}, mode: urgentFlush, now: later(l.latest(), m)}
	n := 0
	s.mu.Lock()
	bucket := key.Beside(throttle.Burst)
	l.each(s, &bucket, func(c *cell, _ uint32) {
		if c.flags&burst != 0 {
			c.used = 0
			n++
		}
	})
	l.each(s, &key, func(c *cell, pos uint32) {
		if c.flags&(inflight|overflow|burst) != 0 {
			return
		}
		c.used, c.aux, c.resv, c.next, c.grant = 0, 0, 0, 0, 0
		c.flags = c.flags&^oldNext | bare
		if l.disk != nil && (c.rule == nil || c.rule.Durable()) {
			l.promise(w, uint32(i)<<26|pos, c, 0)
		}
		n++
	})
	s.mu.Unlock()
	if len(w.promises) == 0 {
		return n, nil
	}
	l.repeat(w)
	if err := l.encode(w); err != nil {
		return n, err
	}
	w.batch.Head = Head{Line: l.line.Load(), Lower: w.now.sec, Through: l.through.Load()}
	err := l.disk.Commit(w.batch)
	l.settle(w, err)
	if err != nil {
		return n, fmt.Errorf("reset counter %s: %w", key, err)
	}
	return n, nil
}
