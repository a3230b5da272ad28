package counters

import "fmt"

// The model is a second, smaller statement of the rules, over every interleaving of
// calls, writes, crashes, clean stops and turning windows. A write in flight is lost or
// kept. It has no clock, no locks and no encoding; the test compares it with the ledger
// step by step.

const (
	modelKeys    = 2
	modelWindows = 2
)

// broken leaves out one rule, to show that the rest does not hold without it.
type broken uint8

const (
	nothing       broken = iota
	withoutR2            // a reservation counts before its commit returned
	withoutR3            // recovery takes the record's units as free
	withoutR7            // recovery forgets the allowance
	withoutClause        // a clean stop removes an earlier process's allowance too
)

type config struct {
	limit, reserve, allow int8
	keys                  int
	broken                broken
}

type mcell struct {
	there, owned, bare, oldNext, want, flight, known, stored bool
	w, used, resv, next, grant                               int8
}

type mrecord struct {
	there         bool
	w, resv, next int8
}

type mdisk struct {
	rec   [modelKeys]mrecord
	touch [modelWindows + 1]bool
}

const (
	noGrant int8 = iota
	ownGrant
	inheritedGrant
)

type mwrite struct {
	open, stop bool
	disk       mdisk // after it
	promised   [modelKeys]bool
	used       [modelKeys]int8
}

type state struct {
	disk     mdisk
	cells    [modelKeys]mcell
	granted  [modelWindows + 1]int8 // published
	proposed [modelWindows + 1]int8
	seen     bool // a rule was seen since the last proposal
	changed  bool
	known    bool // a call came since the start
	write    mwrite
	now      int8
	crashes  int8
	stops    int8
	fails    int8
	dirty    bool // a shard's write failed

	admitted [modelKeys][modelWindows]int8
}

// An action is one step. take0 and take1 are calls under key 0 and 1.
type action uint8

const (
	take0 action = iota
	take1
	beginWrite
	beginStop
	endWrite
	crashLost
	crashKept
	failLost // the commit returns an error, and the process goes on
	failKept
	turnWindow
	actions
)

var actionNames = [actions]string{"take0", "take1", "write", "stop", "done", "crash(lost)", "crash(kept)", "fail(lost)", "fail(kept)", "turn"}

type outcome int8

const (
	impossible outcome = iota
	moved
	admitted
	refused
	stalled
)

func (o outcome) String() string {
	return [...]string{"impossible", "moved", "admitted", "refused", "stalled"}[o]
}

func (c config) start() state { return state{} }

func (c config) step(s state, a action, crashes, stops int8) (state, outcome) {
	switch a {
	case take0, take1:
		if int(a) >= c.keys {
			return s, impossible
		}
		return c.take(s, int(a))
	case beginWrite:
		if s.write.open {
			return s, impossible
		}
		return c.begin(s, false)
	case beginStop:
		if s.write.open || s.stops >= stops {
			return s, impossible
		}
		s.stops++
		return c.begin(s, true)
	case endWrite:
		if !s.write.open {
			return s, impossible
		}
		return c.end(s), moved
	case crashLost, crashKept:
		if s.crashes >= crashes || a == crashKept && !s.write.open {
			return s, impossible
		}
		if a == crashKept {
			s.disk = s.write.disk
		}
		s.crashes++
		return c.restart(s), moved
	case failLost, failKept:
		if !s.write.open || s.write.stop || s.fails >= 1 {
			return s, impossible
		}
		s.fails++
		if a == failKept {
			s.disk = s.write.disk
		}
		for k := range c.keys {
			if m := &s.cells[k]; s.write.promised[k] && m.flight {
				m.flight, m.want = false, true
			}
		}
		s.write, s.dirty = mwrite{}, true
		return s, moved
	case turnWindow:
		if s.now+1 >= modelWindows {
			return s, impossible
		}
		s.now++
		return s, moved
	}
	return s, impossible
}

func (c config) take(s state, k int) (state, outcome) {
	if s.write.open && s.write.stop {
		return s, stalled
	}
	m := &s.cells[k]
	if m.there && !m.known {
		s.seen, s.known = true, true
	}
	switch {
	case !m.there:
		*m = mcell{there: true, known: true, w: s.now}
		c.assume(&s, m)
	case m.w < s.now:
		c.turn(&s, m)
	}
	m.known = true
	if m.used >= c.limit {
		return s, refused
	}
	if m.used >= m.resv {
		c.endow(&s, m)
	}
	if m.used >= m.resv {
		m.want = true
		return s, stalled
	}
	m.used++
	s.admitted[k][s.now]++
	switch {
	case m.want || m.flight:
	case !m.owned && !m.bare:
		m.want = m.resv < c.limit && m.resv-m.used <= m.resv/4
	default:
		m.want = m.resv < c.limit && m.resv-m.used <= m.grant/2
	}
	return s, admitted
}

func (c config) assume(s *state, m *mcell) {
	s.seen, s.known = true, true
	if s.granted[m.w] == inheritedGrant {
		m.used = max(m.used, c.allow)
		m.bare = true
	}
	c.endow(s, m)
}

func (c config) endow(s *state, m *mcell) {
	if !m.owned && !m.bare && s.granted[m.w] == ownGrant {
		m.resv = max(m.resv, min(c.allow, c.limit))
	}
}

func (c config) turn(s *state, m *mcell) {
	old := *m
	*m = mcell{there: true, known: true, w: s.now, want: old.want, flight: old.flight, stored: old.stored}
	if s.now == old.w+1 && old.next > 0 {
		m.resv, m.grant, m.owned = old.next, old.next, true
		if old.oldNext && c.broken != withoutR3 {
			m.used = old.next
		}
	}
	c.assume(s, m)
}

func (m *mcell) dead(now int8) bool {
	if !m.there || m.want || m.flight {
		return false
	}
	last := m.w
	if m.next > 0 {
		last++
	}
	return last < now
}

func (c config) covered(s *state, w int8) int8 {
	if s.proposed[w] != noGrant {
		return c.allow
	}
	return 0
}

func (c config) begin(s state, stop bool) (state, outcome) {
	for w := range s.proposed {
		over := int8(w) < s.now
		if !s.known { // nor, before a call came, whether its windows slide
			over = int8(w)+1 < s.now
		}
		if over && s.proposed[w] != noGrant {
			s.proposed[w], s.changed = noGrant, true
		}
		if stop && (s.proposed[w] == ownGrant || c.broken == withoutClause && s.proposed[w] != noGrant) {
			s.proposed[w], s.changed = noGrant, true
		}
	}
	if !stop && s.seen {
		for w := s.now; w <= s.now+1; w++ {
			if s.proposed[w] == noGrant {
				s.proposed[w], s.changed = ownGrant, true
			}
		}
		s.seen = false
	}
	dirty := s.dirty
	next := s.disk
	promised := [modelKeys]bool{}
	promise := func(k int) {
		m := &s.cells[k]
		r := mrecord{there: true, w: m.w, resv: m.resv, next: m.next}
		switch {
		case stop:
			r.resv = m.used
			if !m.oldNext {
				r.next = 0
			}
		case !m.known || m.w < s.now:
			r.resv = max(r.resv, m.used)
			if m.known {
				r.resv = max(r.resv, min(c.limit, c.covered(&s, m.w)))
			}
		default:
			r.resv = max(r.resv, min(c.limit, max(m.used+c.reserve, c.covered(&s, m.w))))
			r.next = max(r.next, min(c.limit, max(c.reserve, c.covered(&s, m.w+1))))
		}
		next.rec[k] = r
		promised[k] = true
		s.write.used[k] = m.used
		m.flight, m.stored, dirty = true, true, true
	}
	s.write = mwrite{}
	for k := range c.keys {
		m := &s.cells[k]
		if m.want {
			promise(k)
			m.want = false
		}
	}
	for k := range c.keys {
		m := &s.cells[k]
		switch {
		case !m.there:
		case m.dead(s.now):
			if m.stored {
				dirty = true
				next.rec[k] = mrecord{}
			}
			*m = mcell{}
		case stop:
			if m.used > 0 || m.stored {
				promise(k)
			}
		case m.owned && m.next == 0 && m.used > 0 && m.known && m.w == s.now && m.resv > 0 && !m.flight:
			promise(k)
		}
	}
	if dirty {
		for k := range c.keys { // what shares the shard is written too
			if m := &s.cells[k]; m.there && m.stored && !promised[k] && !m.owned {
				promise(k)
			} else if m.there && m.stored && !promised[k] {
				next.rec[k] = mrecord{there: true, w: m.w, resv: m.resv, next: m.next}
			}
		}
	}
	if s.changed {
		for w := range s.proposed {
			next.touch[w] = s.proposed[w] != noGrant
		}
	}
	if !dirty && !s.changed && !stop {
		return s, moved
	}
	s.write.open, s.write.stop, s.write.disk, s.write.promised = true, stop, next, promised
	if c.broken == withoutR2 && !stop {
		for k := range c.keys {
			if promised[k] && s.cells[k].w == next.rec[k].w {
				s.cells[k].resv, s.cells[k].owned = next.rec[k].resv, true
			}
		}
	}
	return s, moved
}

func (c config) end(s state) state {
	w := s.write
	s.disk, s.dirty = w.disk, false
	if w.stop {
		return c.restart(s)
	}
	s.write = mwrite{}
	for k := range c.keys {
		m := &s.cells[k]
		if !w.promised[k] || !m.flight {
			continue
		}
		m.flight = false
		r := w.disk.rec[k]
		switch {
		case m.w == r.w:
			if r.resv > m.resv {
				m.grant = max(0, r.resv-w.used[k])
				m.resv = r.resv
			}
			m.next = max(m.next, r.next)
			m.owned = true
		case m.w == r.w+1 && r.next > 0:
			m.resv = max(m.resv, r.next)
			m.owned = true
		}
	}
	if s.changed {
		s.granted = s.proposed
		s.changed = false
	}
	return s
}

func (c config) restart(s state) state {
	s.cells = [modelKeys]mcell{}
	s.write = mwrite{}
	s.seen, s.changed, s.known, s.dirty = false, false, false, false
	s.granted = [modelWindows + 1]int8{}
	for w, t := range s.disk.touch {
		if t && c.broken != withoutR7 {
			s.granted[w] = inheritedGrant
		}
	}
	s.proposed = s.granted
	for k, r := range s.disk.rec {
		if !r.there {
			continue
		}
		m := mcell{there: true, owned: true, stored: true, w: r.w, used: r.resv, resv: r.resv, next: r.next, oldNext: r.next > 0}
		if c.broken == withoutR3 {
			m.used = 0
		}
		s.cells[k] = m
	}
	return s
}

// check returns what s violates: S1, and L1 for a call that was refused.
func (c config) check(s state, a action, o outcome) string {
	for k := range c.keys {
		for w, n := range s.admitted[k] {
			if n > c.limit {
				return fmt.Sprintf("S1: key %d admitted %d of %d in window %d", k, n, c.limit, w)
			}
		}
	}
	if o == refused {
		k := int(a - take0)
		if n := s.admitted[k][s.now]; n < c.limit-s.crashes*max(c.reserve, c.allow) {
			return fmt.Sprintf("L1: key %d refused after %d of %d with %d crashes", k, n, c.limit, s.crashes)
		}
	}
	return ""
}
