package counters

import (
	"context"
	"math"
	"math/bits"
	"tidegate/policy/throttle"
	"time"
)

// A manner is how claims are judged.
type manner uint8

const (
	taking   manner = iota
	charging        // bytes of a stream that has begun
	settling        // the same, after the wait for the disk was in vain
)

// Take implements [throttle.Counter].
func (l *Ledger) Take(ctx context.Context, now throttle.Instant, claims []throttle.Claim) (throttle.Verdict, error) {
	return l.run(ctx, now, claims, taking)
}

// Charge implements [throttle.Counter].
func (l *Ledger) Charge(ctx context.Context, now throttle.Instant, claims []throttle.Claim) (throttle.Verdict, error) {
	return l.run(ctx, now, claims, charging)
}

func (l *Ledger) run(ctx context.Context, now throttle.Instant, claims []throttle.Claim, how manner) (throttle.Verdict, error) {
	if len(claims) > throttle.MaxClaims {
		return throttle.Verdict{Denied: -1, Tightest: -1}, throttle.ErrClaims
	}
	m := l.moment(now)
	v, stalled := l.try(m, claims, how, nil)
	if !stalled {
		return v, nil
	}
	return l.wait(ctx, m, claims, how)
}

// wait repeats try after each write until the claims are decided or time is up.
func (l *Ledger) wait(ctx context.Context, m moment, claims []throttle.Claim, how manner) (throttle.Verdict, error) {
	timer := time.NewTimer(l.stall)
	defer timer.Stop()
	for {
		var done chan struct{}
		v, stalled := l.try(m, claims, how, &done)
		if !stalled {
			return v, nil
		}
		l.urge()
		late := l.disk == nil || l.failure.Load() != nil || ctx.Err() != nil
		if !late {
			select {
			case <-done:
				continue
			case <-ctx.Done():
			case <-timer.C:
			}
		}
		if how == charging {
			if v, stalled = l.try(m, claims, settling, nil); !stalled {
				return v, nil
			}
		}
		l.stalls.Add(1)
		return throttle.Verdict{Denied: -1, Tightest: -1}, throttle.ErrStalled
	}
}

// Release implements [throttle.Counter].
func (l *Ledger) Release(claims []throttle.Claim) {
	for i := range claims {
		r := claims[i].Rule
		if r.Kind != throttle.InFlight {
			continue
		}
		s := &l.stripes[stripeOf(&claims[i].Key)]
		s.mu.Lock()
		c, _ := l.find(s, &claims[i].Key, r.Def())
		if c == nil && s.shared > 0 {
			over := overflowKey(r, stripeOf(&claims[i].Key))
			c, _ = l.find(s, &over, r.Def())
		}
		if c != nil {
			c.used = max(0, c.used-claims[i].N)
		}
		s.mu.Unlock()
	}
}

// moment brings an instant to the ledger's time: a new time line closes what is open,
// and no window is judged by a second before the floor.
func (l *Ledger) moment(now throttle.Instant) moment {
	if now.Line != l.line.Load() {
		l.reline(now)
	}
	return l.raised(moment{sec: now.Lower.Unix(), frac: time.Duration(now.Lower.Nanosecond()), boot: now.Boot})
}

// raised lifts a moment to the floor. try asks again under its locks: a count that was
// dropped as over must not begin anew for a call that read the clock before.
func (l *Ledger) raised(m moment) moment {
	if f := l.floor.Load(); m.sec < f {
		m.sec, m.frac = f, 0
	}
	return m
}

// raise lifts the floor, before anything is dropped because it is over at the second sec.
func (l *Ledger) raise(sec int64) {
	for {
		f := l.floor.Load()
		if sec <= f || l.floor.CompareAndSwap(f, sec) {
			return
		}
	}
}

// held is one claim on its way through try.
type held struct {
	c    *cell
	s    *stripe
	pos  uint32
	home int32
	need int64 // units of this claim and of earlier ones on the same cell
}

// try decides the claims under the locks of their keys: every claim is checked, then
// every claim is counted, or none. It reports true when the limits have room but no
// durable unit is there; then *done, if asked for, is closed after the next write.
func (l *Ledger) try(m moment, claims []throttle.Claim, how manner, done *chan struct{}) (v throttle.Verdict, stalled bool) {
	var mask uint64
	for i := range claims {
		mask |= 1 << stripeOf(&claims[i].Key)
	}
	halted := l.lock(mask, m)
	defer l.unlock(mask)
	m = l.raised(m)
	v = throttle.Verdict{Denied: -1, Tightest: -1}
	if done != nil {
		*done = *l.settled.Load()
	}
	if halted {
		return v, true
	}
	var slots [throttle.MaxClaims]held
	// Two short loops first: the processor then fetches all cells at once.
	for i := range claims {
		h := &slots[i]
		h.s = &l.stripes[stripeOf(&claims[i].Key)]
		h.home, h.pos = l.look(h.s, &claims[i].Key)
	}
	for i := range claims {
		h := &slots[i]
		h.c, h.pos = l.follow(h.s, &claims[i].Key, claims[i].Rule.Def(), h.home, h.pos)
	}
	for i := range claims {
		cl := &claims[i]
		r := cl.Rule
		h := &slots[i]
		if how != taking && r.Kind != throttle.Bytes {
			h.c = nil
			continue
		}
		if h.c == nil {
			// An earlier claim may have made the cell, or room for it.
			if h.c, h.pos = l.find(h.s, &cl.Key, r.Def()); h.c == nil {
				h.c, h.pos = l.enter(h.s, r, &cl.Key, m, slots[:len(claims)])
			}
		}
		if r.Windowed() && (m.sec >= h.c.end() || h.c.rule != r) {
			l.refresh(h.c, r, m)
		}
		h.need = cl.N
		for j := range i {
			if slots[j].c == h.c {
				h.need += claims[j].N
			}
		}
		switch l.judge(h, r, m, how, &v) {
		case full:
			if v.Denied < 0 {
				v.Denied, v.Level = i, r.Level
			}
			v.Retry = max(v.Retry, l.retry(h, r, m))
		case dry:
			l.queue(h.s, h.c, h.pos, h.need)
			stalled = true
		}
	}
	if v.Denied >= 0 {
		l.show(&v, claims, slots[:len(claims)], m)
		return v, false
	}
	if stalled {
		return v, true
	}
	for i := range claims {
		if h := &slots[i]; h.c != nil {
			l.count(h, &claims[i], m, &v)
		}
	}
	l.show(&v, claims, slots[:len(claims)], m)
	return v, false
}

// lock takes the stripes of mask in ascending order, so that two calls never wait for
// each other.
func (l *Ledger) lock(mask uint64, m moment) (halted bool) {
	for ; mask != 0; mask &= mask - 1 {
		s := &l.stripes[bits.TrailingZeros64(mask)]
		s.mu.Lock()
		s.latest = later(s.latest, m)
		halted = halted || s.halted
	}
	return halted
}

func (l *Ledger) unlock(mask uint64) {
	for ; mask != 0; mask &= mask - 1 {
		l.stripes[bits.TrailingZeros64(mask)].mu.Unlock()
	}
}

type judgement uint8

const (
	room judgement = iota
	full           // no room in the limit
	dry            // room, but no durable unit
)

// limit returns the limit a cell is held to. A key that shares an overflow counter may
// have used its allowance before, so the counter is that much smaller.
func (l *Ledger) limit(c *cell, r *throttle.Rule) int64 {
	if c.flags&overflow == 0 || !r.Durable() {
		return r.Limit
	}
	a := l.allowanceOf(r)
	if t := (*l.touches.Load())[touchKey{r.Def(), r.Level}]; t != nil {
		if g := t.grant(int64(c.start)); g != nil {
			a = max(a, g.calls)
		}
	}
	return max(0, r.Limit-a)
}

// judge decides one claim and changes nothing.
func (l *Ledger) judge(h *held, r *throttle.Rule, m moment, how manner, v *throttle.Verdict) judgement {
	c := h.c
	switch r.Kind {
	case throttle.Burst:
		if _, ok := r.Bucket(time.Duration(c.used), m.boot, h.need); !ok {
			return full
		}
		return room
	case throttle.InFlight:
		if h.need > r.Limit-c.used {
			return full
		}
		return room
	}
	if l.closed(c, r, m) {
		v.Notes |= throttle.Closed
		return full
	}
	limit := l.limit(c, r)
	left := limit - l.count0(c, r, m)
	units := h.need // that must be durable
	if how == taking && r.Kind == throttle.Bytes {
		units = max(units, 1) // a call that will carry some bytes
	}
	if left < units {
		switch {
		case r.Quota == throttle.Mark, how != taking && r.Tail == throttle.Finish:
			units = max(0, min(units, limit-c.used))
		default:
			return full
		}
	}
	if c.used+units <= c.resv || l.disk == nil || units <= 0 || !r.Durable() {
		return room
	}
	if l.endow(c, r); c.used+units <= c.resv {
		return room
	}
	if how == settling && r.Tail == throttle.Finish {
		return room // the stream has begun: what passes now is owed, in memory
	}
	if r.Loss == throttle.FailOpen && l.failure.Load() != nil {
		v.Notes |= throttle.Undurable
		return room
	}
	return dry
}

// count0 returns the units that count against the limit now.
func (l *Ledger) count0(c *cell, r *throttle.Rule, m moment) int64 {
	if r.Window.Form != throttle.Sliding {
		return c.used
	}
	return r.Estimate(c.aux, c.used, m.into(int64(c.start)))
}

// closed reports whether nobody knows what a window was used for before the start.
func (l *Ledger) closed(c *cell, r *throttle.Rule, m moment) bool {
	if int64(c.start) <= l.through.Load() {
		return true
	}
	if l.empty || r.Durable() && l.disk != nil && !l.shut {
		return false
	}
	if r.Durable() && r.Loss == throttle.FailOpen && !l.shut {
		return false
	}
	return m.boot < l.opened+time.Duration(c.span)*time.Second
}

// retry returns when a claim without room may come again.
func (l *Ledger) retry(h *held, r *throttle.Rule, m moment) time.Duration {
	c := h.c
	switch {
	case r.Kind == throttle.Burst:
		return r.BucketWait(time.Duration(c.used), m.boot, h.need)
	case r.Kind == throttle.InFlight:
		return time.Second
	case l.closed(c, r, m):
		if int64(c.start) <= l.through.Load() {
			return m.until(c.end())
		}
		return max(m.until(c.end()), l.opened+time.Duration(c.span)*time.Second-m.boot)
	case r.Window.Form == throttle.Sliding && c.flags&overflow == 0:
		return r.EstimateWait(c.aux, c.used, m.into(int64(c.start)), max(h.need, 1))
	case r.Kind == throttle.Bytes && r.Limit > 0 && c.used > r.Limit:
		// Whole windows may be owed.
		return m.until(c.end() + (c.used/r.Limit-1)*int64(c.span))
	}
	return m.until(c.end())
}

// count takes the units of one claim.
func (l *Ledger) count(h *held, cl *throttle.Claim, m moment, v *throttle.Verdict) {
	c, r := h.c, cl.Rule
	switch r.Kind {
	case throttle.Burst:
		tat, _ := r.Bucket(time.Duration(c.used), m.boot, cl.N)
		c.used = int64(tat)
		return
	case throttle.InFlight:
		c.used += cl.N
		return
	}
	c.used += cl.N
	if c.flags&overflow != 0 {
		v.Notes |= throttle.Shared
		l.overflowed.Add(1)
	}
	if l.disk == nil || !r.Durable() || c.flags&(want|flight) != 0 {
		return
	}
	limit := l.limit(c, r)
	if c.flags&(owned|bare) == 0 {
		if c.resv < limit && c.resv-c.used <= c.resv/4 {
			l.queue(h.s, c, h.pos, 0) // soon it needs a record of its own
		}
		return
	}
	if c.resv < limit && c.resv-c.used <= int64(c.grant)/2 {
		l.queue(h.s, c, h.pos, 0) // low-water mark (R2)
	}
}

// queue asks for a reservation with the next write.
func (l *Ledger) queue(s *stripe, c *cell, pos uint32, ask int64) {
	if c.flags&want != 0 && ask <= 1 {
		return
	}
	c.flags |= want
	s.wants = append(s.wants, wanted{pos, ask})
}

// show fills in what the caller may be told.
func (l *Ledger) show(v *throttle.Verdict, claims []throttle.Claim, slots []held, m moment) {
	least := int64(math.MaxInt64)
	for i := range slots {
		h := &slots[i]
		if h.c == nil {
			continue
		}
		r := claims[i].Rule
		var left, used int64
		var reset time.Duration
		switch r.Kind {
		case throttle.Burst:
			left = r.BucketRoom(time.Duration(h.c.used), m.boot)
			used = r.Limit - left
			reset = max(0, time.Duration(h.c.used)-m.boot)
		case throttle.InFlight:
			used = h.c.used
			left = r.Limit - used
		default:
			used = l.count0(h.c, r, m)
			left = l.limit(h.c, r) - used
			reset = m.until(h.c.end())
			if v.Notes&throttle.Closed != 0 && l.closed(h.c, r, m) {
				left, reset = 0, l.retry(h, r, m)
			}
		}
		if v.Denied < 0 {
			if r.Quota == throttle.Mark && used > r.Limit {
				v.Notes |= throttle.Over
			}
			if r.Warns(used) {
				v.Notes |= throttle.Warned
			}
		}
		if left = max(0, left); !r.Shared && left < least {
			least = left
			v.Tightest, v.Remaining, v.Reset = i, left, reset
		}
	}
}
