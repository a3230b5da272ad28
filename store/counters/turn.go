package counters

import (
	"math"
	"tidegate/policy/throttle"
)

// begin sets up a cell for its first claim. s is locked.
func (l *Ledger) begin(s *stripe, c *cell, r *throttle.Rule, m moment) {
	c.rule = r
	switch r.Kind {
	case throttle.Burst:
		c.flags |= burst
		c.used = int64(r.EmptyBucket(l.opened))
		if l.empty {
			c.used = 0
		}
		return
	case throttle.InFlight:
		c.flags |= inflight
		return
	}
	if r.Window.Form == throttle.Sliding {
		c.flags |= sliding
	}
	c.at = uint32(m.boot.Seconds())
	span := r.Window.At(m.sec)
	c.start, c.span = uint32(span.Start), uint32(span.End-span.Start)
	if c.flags&overflow != 0 {
		c.flags |= bare
	}
	l.assume(c, r, span)
	// A plan whose window or kind changed begins with what the key used so far.
	l.each(s, &c.key, func(old *cell, _ uint32) {
		if old.def != c.def && old.flags&(burst|inflight|overflow) == 0 && old.end() > m.sec && old.used > 0 {
			c.used = max(c.used, min(r.Limit, old.used))
			c.flags |= bare
		}
	})
	l.endow(c, r)
}

// endow lets a cell without a record of its own live on the allowance, once it is durable.
func (l *Ledger) endow(c *cell, r *throttle.Rule) {
	if c.flags&(owned|bare) == 0 && l.disk != nil && r.Durable() {
		c.resv = max(c.resv, l.allowed(c, r))
	}
}

// assume takes as used what an earlier process may have admitted in a window without a
// record of the key (R7).
func (l *Ledger) assume(c *cell, r *throttle.Rule, span throttle.Span) {
	if !r.Durable() || l.disk == nil {
		return
	}
	t := l.touchOf(r)
	t.see(r)
	if g := t.grant(span.Start); g != nil && g.inherited {
		c.used = max(c.used, g.calls)
		c.flags |= bare
	}
	if r.Window.Form == throttle.Sliding && c.aux == 0 {
		for _, g := range *t.grants.Load() {
			if g.end == span.Start && g.inherited {
				c.aux = g.calls
			}
		}
	}
}

// refresh brings a cell to the window of m and to the rule of a claim.
func (l *Ledger) refresh(c *cell, r *throttle.Rule, m moment) {
	if c.rule != r {
		if c.rule == nil || c.rule.Limit != r.Limit || c.rule.Level != r.Level {
			if c.flags&owned == 0 {
				c.flags |= bare // calls under two limits are not told apart without a record
				c.resv = 0
			}
			if r.Durable() && l.disk != nil {
				l.touchOf(r).see(r)
			}
		}
		c.rule = r
	}
	if m.sec < c.end() {
		return
	}
	span := r.Window.At(m.sec)
	used := owed(c, r, span)
	kept := c.flags & (live | overflow | sliding | want | flight)
	var resv, aux int64
	if span.Start == c.end() {
		aux = c.used
		resv = int64(c.next)
		if c.next > 0 {
			kept |= owned
			if c.flags&oldNext != 0 {
				used = max(used, resv)
			}
		}
	}
	if c.flags&sliding == 0 {
		aux = 0
	}
	c.start, c.span = uint32(span.Start), uint32(span.End-span.Start)
	c.used, c.resv, c.aux, c.next, c.flags = used, resv, aux, 0, kept
	c.grant = uint32(min(resv, math.MaxUint32))
	c.at = uint32(m.boot.Seconds())
	if c.flags&overflow != 0 {
		c.flags |= bare
	}
	l.assume(c, r, span)
	l.endow(c, r)
}

// owed returns the bytes above the limit of earlier windows that count in the window
// span: a stream is not cut in the middle, its excess is charged later.
func owed(c *cell, r *throttle.Rule, span throttle.Span) int64 {
	if r.Kind != throttle.Bytes || r.Quota == throttle.Mark || r.Window.Form == throttle.Sliding || c.used <= r.Limit {
		return 0
	}
	over := c.used - r.Limit
	if c.span > 0 && r.Limit > 0 {
		over -= r.Limit * ((span.Start - c.end()) / int64(c.span))
	}
	if r.Limit == 0 {
		return 0
	}
	return max(0, over)
}
