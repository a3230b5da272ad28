package counters

import (
	"maps"
	"math"
	"sync/atomic"
	"tidegate/policy"
	"tidegate/policy/throttle"
)

// First touch (R7). One durable record per definition, level and window says: "any key
// without a record of its own may have used up to this many calls". Such keys are
// served at once and never reach flash.
//
// The record is shared by all plans of a definition and level, because the same key may
// move from one plan to another within a window. Its allowance is that of the smallest
// plan, so that a crash costs no plan more than about one percent.

type touchKey struct {
	def   uint64
	level policy.Level
}

// A touch is the allowance of one definition and level.
type touch struct {
	key    touchKey
	rule   atomic.Pointer[throttle.Rule] // any of them, for its window; nil until a call came
	grants atomic.Pointer[[]grant]
	least  atomic.Int64 // smallest allowance of the rules seen since the last proposal

	// proposed and changed belong to the flusher.
	proposed []grant // written or being written, and perhaps not durable
	changed  bool
}

// A grant is the allowance of one window.
type grant struct {
	start, end int64
	calls      int64
	inherited  bool // given out by an earlier process: not given again
}

const nobody = math.MaxInt64

// allowanceOf is one percent of a limit, rounded up.
func (l *Ledger) allowanceOf(r *throttle.Rule) int64 {
	if l.fixed.allow > 0 {
		return min(l.fixed.allow, r.Limit)
	}
	return (r.Limit + 99) / 100
}

// touchOf returns the touch of a rule, made if need be.
func (l *Ledger) touchOf(r *throttle.Rule) *touch {
	k := touchKey{r.Def(), r.Level}
	t := (*l.touches.Load())[k]
	if t == nil {
		t = l.newTouch(k)
	}
	if t.rule.Load() == nil {
		t.rule.Store(r)
	}
	return t
}

func (l *Ledger) newTouch(k touchKey) *touch {
	l.touchMu.Lock()
	defer l.touchMu.Unlock()
	old := *l.touches.Load()
	if t := old[k]; t != nil {
		return t
	}
	t := &touch{key: k}
	t.least.Store(nobody)
	t.grants.Store(new([]grant))
	next := maps.Clone(old)
	next[k] = t
	l.touches.Store(&next)
	return t
}

// grant returns the durable allowance of the window that begins at start, or nil.
func (t *touch) grant(start int64) *grant {
	for i, g := range *t.grants.Load() {
		if g.start == start {
			return &(*t.grants.Load())[i]
		}
	}
	return nil
}

// see notes that a rule is in use.
func (t *touch) see(r *throttle.Rule) { t.seeCalls((r.Limit + 99) / 100) }

func (t *touch) seeCalls(n int64) {
	for {
		old := t.least.Load()
		if n >= old || t.least.CompareAndSwap(old, n) {
			return
		}
	}
}

// allowed returns how many calls a cell may have used without a record of its own.
func (l *Ledger) allowed(c *cell, r *throttle.Rule) int64 {
	t := (*l.touches.Load())[touchKey{r.Def(), r.Level}]
	if t == nil {
		return 0
	}
	g := t.grant(int64(c.start))
	if g == nil || g.inherited {
		return 0
	}
	return min(g.calls, l.allowanceOf(r))
}

// covered returns what a record of a cell must state at least: the allowance that may
// have been used without it. It looks at proposals too, durable or not.
func (t *touch) covered(start int64) int64 {
	for _, g := range t.proposed {
		if g.start == start {
			return g.calls
		}
	}
	return 0
}

// propose states the allowance of a window once: a second proposal for it never
// differs, so that a write whose fate is unknown does no harm.
func (l *Ledger) propose(t *touch, s throttle.Span) {
	if t.covered(s.Start) > 0 {
		return
	}
	n := t.least.Load()
	if n == nobody || n == 0 {
		return
	}
	if l.fixed.allow > 0 {
		n = l.fixed.allow
	}
	t.proposed = append(t.proposed, grant{start: s.Start, end: s.End, calls: n})
	t.changed = true
}

// prune forgets allowances of windows that are over, the one before included where it
// still counts.
func (t *touch) prune(sec int64) {
	kept := t.proposed[:0]
	for _, g := range t.proposed {
		end := g.end
		if r := t.rule.Load(); r == nil || r.Window.Form == throttle.Sliding {
			end += g.end - g.start
		}
		if end > sec {
			kept = append(kept, g)
		} else {
			t.changed = true
		}
	}
	t.proposed = kept
}

// publish makes the proposals count: their write returned.
func (t *touch) publish() {
	g := append([]grant(nil), t.proposed...)
	t.grants.Store(&g)
	t.changed = false
}
