package counters

import (
	"errors"
	"strings"
	"testing"
	"tidegate/policy/throttle"
	"time"
)

type node struct {
	parent int32
	by     action
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
