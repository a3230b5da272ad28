package counters

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"tidegate/policy/throttle"
)

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
		if n := s.admitted[k][s.now]; n < c.limit-(s.crashes)*max(c.reserve, c.allow) {
			return fmt.Sprintf("L1: key %d refused after %d of %d with %d crashes", k, n, c.limit, s.crashes)
		}
	}
	return ""
}

type node struct {
	parent int32
	by     action
	depth  int16
}

// explore visits every state within the bounds, breadth first. visit gets each edge; it
// returns false to stop.
func (c config) explore(crashes, stops int8, visit func(path func() []action, from state, a action, to state, o outcome) bool) int {
	states := []state{c.start()}
	nodes := []node{{parent: -1}}
	index := map[state]int32{states[0]: 0}
	path := func(i int32) func() []action {
		return func() (p []action) {
			for j := i; nodes[j].parent >= 0; j = nodes[j].parent {
				p = append(p, nodes[j].by)
			}
			for l, r := 0, len(p)-1; l < r; l, r = l+1, r-1 {
				p[l], p[r] = p[r], p[l]
			}
			return p
		}
	}
	for i := 0; i < len(states); i++ {
		s := states[i]
		for a := range actions {
			to, o := c.step(s, a, crashes, stops)
			if o == impossible {
				continue
			}
			if !visit(path(int32(i)), s, a, to, o) {
				return len(states)
			}
			if _, ok := index[to]; !ok {
				index[to] = int32(len(states))
				states = append(states, to)
				nodes = append(nodes, node{parent: int32(i), by: a})
			}
		}
	}
	return len(states)
}

func spell(path []action, last action) string {
	var b strings.Builder
	for _, a := range path {
		b.WriteString(actionNames[a] + " ")
	}
	return b.String() + actionNames[last]
}

// TestModelHolds explores every interleaving and finds no call given twice.
func TestModelHolds(t *testing.T) {
	total := 0
	for _, b := range modelBounds(testing.Short()) {
		c := b.config
		total += c.explore(b.crashes, b.stops, func(path func() []action, _ state, a action, to state, o outcome) bool {
			if fault := c.check(to, a, o); fault != "" {
				t.Errorf("%+v: %s\n%s", c, fault, spell(path(), a))
				return false
			}
			return true
		})
	}
	t.Logf("%d states", total)
}

type bounds struct {
	config
	crashes, stops int8
}

func modelBounds(short bool) (all []bounds) {
	for limit := int8(1); limit <= 5; limit++ {
		for reserve := int8(1); reserve <= 2; reserve++ {
			for allow := int8(1); allow <= 2; allow++ {
				crashes := int8(3)
				if short {
					crashes = 2
				}
				all = append(all, bounds{config{limit: limit, reserve: reserve, allow: allow, keys: 1}, crashes, 2})
			}
		}
	}
	for limit := int8(1); limit <= 2; limit++ {
		for allow := int8(1); allow <= 2; allow++ {
			if !short || limit == 1 {
				all = append(all, bounds{config{limit: limit, reserve: 1, allow: allow, keys: 2}, 1, 1})
			}
		}
	}
	return all
}

// TestModelNeedsEachRule leaves out one rule at a time; the model must then break. A
// model that cannot fail would prove nothing.
func TestModelNeedsEachRule(t *testing.T) {
	for _, tc := range []struct {
		name   string
		broken broken
	}{{"R2", withoutR2}, {"R3", withoutR3}, {"R7", withoutR7}, {"clean-stop clause of R7", withoutClause}} {
		t.Run(tc.name, func(t *testing.T) {
			c := config{limit: 3, reserve: 2, allow: 2, keys: 1, broken: tc.broken}
			found := ""
			c.explore(2, 1, func(path func() []action, _ state, a action, to state, o outcome) bool {
				if fault := c.check(to, a, o); strings.HasPrefix(fault, "S1") {
					found = fault + "\n" + spell(path(), a)
				}
				return found == ""
			})
			if found == "" {
				t.Fatal("no over-admission found without the rule: it would not be needed")
			}
			t.Log(found)
		})
	}
}

// TestLedgerAgreesWithModel replays every edge of the model on a ledger: each call must
// get the same answer.
func TestLedgerAgreesWithModel(t *testing.T) {
	edges := 0
	all := []bounds{
		{config{limit: 1, reserve: 1, allow: 1, keys: 1}, 2, 1},
		{config{limit: 3, reserve: 2, allow: 1, keys: 1}, 2, 1},
		{config{limit: 4, reserve: 1, allow: 2, keys: 1}, 1, 1},
		{config{limit: 1, reserve: 1, allow: 1, keys: 2}, 1, 0},
	}
	for _, b := range all {
		c := b.config
		c.explore(b.crashes, b.stops, func(path func() []action, _ state, a action, _ state, o outcome) bool {
			if a != take0 && a != take1 {
				return true
			}
			edges++
			if got := c.replay(t, path(), a); got != o {
				t.Errorf("%+v: ledger says %v, model %v\n%s", c, got, o, spell(path(), a))
				return false
			}
			return true
		})
	}
	t.Logf("%d calls compared", edges)
}

// machine runs actions on a real ledger over a fake disk.
type machine struct {
	c     config
	t     testing.TB
	rule  *throttle.Rule
	disk  *fakeDisk
	l     *Ledger
	now   int
	write *writing
}

func (c config) replay(t testing.TB, path []action, last action) outcome {
	m := &machine{c: c, t: t, rule: perMinute(t, int64(c.limit)), disk: newDisk()}
	m.open()
	for i, a := range path {
		if m.write == nil && (a == endWrite || a == crashKept || a == failLost || a == failKept) {
			t.Fatalf("%+v: the ledger has no write under way\n%s", c, spell(path[:i], a))
		}
		m.do(a)
	}
	return m.do(last)
}

func (m *machine) instant() throttle.Instant { return at(time.Duration(m.now) * time.Minute) }

func (m *machine) open() {
	m.l = open(m.t, m.disk, m.instant(), Options{})
	m.l.fixed = fixed{reserve: int64(m.c.reserve), allow: int64(m.c.allow)}
	m.write = nil
}

func (m *machine) do(a action) outcome {
	switch a {
	case take0, take1:
		k := throttle.Key{0: 1, 1: byte(a)}
		v, err := m.l.Take(ended, m.instant(), []throttle.Claim{{Rule: m.rule, Key: k, N: 1}})
		switch {
		case errors.Is(err, throttle.ErrStalled):
			return stalled
		case err != nil:
			m.t.Fatal(err)
		case v.Admitted():
			return admitted
		}
		return refused
	case beginWrite, beginStop:
		mode := tickFlush
		if a == beginStop {
			mode = stopFlush
		}
		m.l.stripes[0].latest = later(m.l.stripes[0].latest, m.l.moment(m.instant()))
		w, err := m.l.gather(mode)
		if err != nil {
			m.t.Fatal(err)
		}
		m.write = w
	case endWrite:
		m.disk.apply(m.write.batch)
		m.l.settle(m.write, nil)
		if m.write.mode == stopFlush {
			m.open()
		}
		m.write = nil
	case failLost, failKept:
		if a == failKept {
			m.disk.apply(m.write.batch)
		}
		m.l.settle(m.write, errDisk)
		m.write = nil
	case crashLost:
		m.open()
	case crashKept:
		m.disk.apply(m.write.batch)
		m.open()
	case turnWindow:
		m.now++
	}
	return moved
}
