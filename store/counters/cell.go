package counters

import (
	"encoding/binary"
	"math/bits"
	"sync"
	"tidegate/policy"
	"tidegate/policy/throttle"
	"time"
)

// A cell is the count of one key under one definition. Its stripe's lock guards it.
// Beyond its identity (key and def) it takes 56 bytes.
type cell struct {
	key throttle.Key
	def uint64

	used int64 // units taken in this window; Burst: arrival time in ns; InFlight: calls
	resv int64 // units of this window that are durable, for this key or as its allowance
	aux  int64 // sliding windows: units of the window before
	rule *throttle.Rule

	start uint32 // second the window began (good until 2106)
	span  uint32 // its length in seconds
	next  uint32 // units of the next window that are durable
	grant uint32 // units of the last reservation
	at    uint32 // powered-on second of it
	shard uint16 // id of the shard that holds its record; 0: none
	flags flags
}

type flags uint16

const (
	owned    flags = 1 << iota // a record of its own says what was used in this window
	bare                       // no allowance: only a record of its own admits
	oldNext                    // next is of an earlier process, which may have used it
	want                       // queued for the next write
	flight                     // in the write that runs
	live                       // the cell holds a key
	overflow                   // stands for all keys that found no room
	sliding                    // kind bits of a record whose rule was not seen yet
	burst
	inflight
	pinned // a claim of the call being decided uses it
)

func (c *cell) end() int64 { return int64(c.start) + int64(c.span) }

// dead reports whether nothing of c can matter any more.
func (c *cell) dead(m moment) bool {
	switch {
	case c.flags&(want|flight|pinned) != 0:
		return false
	case c.flags&inflight != 0:
		return c.used == 0
	case c.flags&burst != 0:
		return time.Duration(c.used) <= m.boot
	}
	end := c.end()
	if c.next > 0 || c.flags&sliding != 0 {
		end += int64(c.span)
	}
	if c.rule != nil && c.rule.Kind == throttle.Bytes && c.used > c.rule.Limit && c.rule.Limit > 0 {
		end += int64(c.span) * (c.used / c.rule.Limit) // what it owes to later windows
	}
	return end <= m.sec
}

// A moment is an instant as the ledger judges it.
type moment struct {
	sec  int64         // of trusted time, never below the floor
	frac time.Duration // within the second
	boot time.Duration
}

func later(a, b moment) moment {
	if b.sec > a.sec || b.sec == a.sec && b.frac > a.frac {
		a.sec, a.frac = b.sec, b.frac
	}
	a.boot = max(a.boot, b.boot)
	return a
}

// until returns the time from m to the second sec.
func (m moment) until(sec int64) time.Duration {
	return max(0, time.Duration(sec-m.sec)*time.Second-m.frac)
}

// into returns the time from the second sec to m.
func (m moment) into(sec int64) time.Duration {
	return max(0, time.Duration(m.sec-sec)*time.Second+m.frac)
}

const (
	stripes   = 64 // one bit each in a set of locks
	blockSize = 32
)

// A stripe is a part of the table with a lock of its own: cells in blocks that never
// move, and an open-addressed index of positions.
type stripe struct {
	mu     sync.Mutex
	index  []uint32 // position + 1; 0: empty
	blocks []*[blockSize]cell
	free   []uint32
	n, cap int
	shared int // overflow cells among n
	wants  []wanted
	latest moment
	swept  time.Duration
	halted bool // the clean stop has counted this stripe
	_      [40]byte
}

// wanted is a cell to be written, with the units a waiting call asks for.
type wanted struct {
	pos uint32
	ask int64
}

func stripeOf(k *throttle.Key) int { return int(k[0]) % stripes }

func (s *stripe) at(pos uint32) *cell { return &s.blocks[pos/blockSize][pos%blockSize] }

// home is where the search for a key begins. Keys are hashes over what callers choose;
// the seeds keep callers from choosing keys that collide.
func (l *Ledger) home(s *stripe, k *throttle.Key) int {
	hi, lo := bits.Mul64(binary.LittleEndian.Uint64(k[:8])^l.seeds[0], binary.LittleEndian.Uint64(k[8:])^l.seeds[1])
	h, _ := bits.Mul64(hi^lo, uint64(len(s.index)))
	return int(h)
}

// find returns the cell of a key under a definition and its position, or nil.
func (l *Ledger) find(s *stripe, k *throttle.Key, def uint64) (*cell, uint32) {
	home, p := l.look(s, k)
	return l.follow(s, k, def, home, p)
}

// look begins a search: it returns where, and what the index holds there.
func (l *Ledger) look(s *stripe, k *throttle.Key) (int32, uint32) {
	if len(s.index) == 0 {
		return 0, 0
	}
	i := l.home(s, k)
	return int32(i), s.index[i]
}

// follow ends it.
func (l *Ledger) follow(s *stripe, k *throttle.Key, def uint64, home int32, p uint32) (*cell, uint32) {
	for i := int(home); p != 0; p = s.index[i] {
		if c := s.at(p - 1); c.def == def && c.key == *k {
			return c, p - 1
		}
		if i++; i == len(s.index) {
			i = 0
		}
	}
	return nil, 0
}

// each calls fn for every cell of a key, whatever its definition.
func (l *Ledger) each(s *stripe, k *throttle.Key, fn func(*cell, uint32)) {
	if len(s.index) == 0 {
		return
	}
	for i := l.home(s, k); s.index[i] != 0; {
		if c := s.at(s.index[i] - 1); c.key == *k {
			fn(c, s.index[i]-1)
		}
		if i++; i == len(s.index) {
			i = 0
		}
	}
}

// insert adds a cell for a key that is not there.
func (l *Ledger) insert(s *stripe, k *throttle.Key, def uint64) (*cell, uint32) {
	if (s.n+1)*20 > len(s.index)*17 { // at most 85 % full
		l.grow(s)
	}
	var pos uint32
	if n := len(s.free); n > 0 {
		pos, s.free = s.free[n-1], s.free[:n-1]
	} else {
		pos = uint32(s.n)
		if int(pos) == len(s.blocks)*blockSize {
			s.blocks = append(s.blocks, new([blockSize]cell))
		}
	}
	c := s.at(pos)
	*c = cell{key: *k, def: def, flags: live}
	s.n++
	l.link(s, k, pos)
	return c, pos
}

func (l *Ledger) link(s *stripe, k *throttle.Key, pos uint32) {
	i := l.home(s, k)
	for s.index[i] != 0 {
		if i++; i == len(s.index) {
			i = 0
		}
	}
	s.index[i] = pos + 1
}

// grow makes the index half as large again; with the 85 % above it holds at most eight
// bytes per key.
func (l *Ledger) grow(s *stripe) {
	old := s.index
	s.index = make([]uint32, max(16, len(old)*3/2))
	for _, p := range old {
		if p != 0 {
			l.link(s, &s.at(p-1).key, p-1)
		}
	}
}

// remove frees a cell. Cells behind it in the index move up, so that no search ends early.
func (l *Ledger) remove(s *stripe, pos uint32) {
	c := s.at(pos)
	i := l.home(s, &c.key)
	for s.index[i] != pos+1 {
		if i++; i == len(s.index) {
			i = 0
		}
	}
	if c.flags&overflow != 0 {
		s.shared--
	}
	*c = cell{}
	s.free = append(s.free, pos)
	s.n--
	n := len(s.index)
	for j := i; ; {
		if j++; j == n {
			j = 0
		}
		p := s.index[j]
		if p == 0 {
			break
		}
		// p may move to the hole unless its home lies behind the hole, up to j.
		h := l.home(s, &s.at(p-1).key)
		if (j-h+n)%n >= (j-i+n)%n {
			s.index[i], i = p, j
		}
	}
	s.index[i] = 0
}

// sweep frees dead cells. Their records are over, and go when their shard is written.
func (l *Ledger) sweep(s *stripe, m moment) {
	for b, block := range s.blocks {
		for i := range block {
			if c := &block[i]; c.flags&live != 0 && c.dead(m) {
				l.remove(s, uint32(b*blockSize+i))
			}
		}
	}
}

// enter returns the cell for a claim that has none: a new one, or the overflow counter
// of its definition when the table is full. s is locked; the cells of earlier claims of
// the call stay where they are.
func (l *Ledger) enter(s *stripe, r *throttle.Rule, k *throttle.Key, m moment, earlier []held) (*cell, uint32) {
	var shared *cell
	var at uint32
	if s.shared > 0 {
		over := overflowKey(r, stripeOf(k))
		shared, at = l.find(s, &over, r.Def())
		if shared != nil && l.sticky(shared, r, m) {
			return shared, at
		}
	}
	if s.n-s.shared >= s.cap {
		if m.boot-s.swept >= time.Second || s.swept == 0 {
			s.swept = max(m.boot, 1)
			for i := range earlier {
				if earlier[i].c != nil {
					earlier[i].c.flags |= pinned
				}
			}
			l.raise(m.sec)
			l.sweep(s, m)
			for i := range earlier {
				if earlier[i].c != nil {
					earlier[i].c.flags &^= pinned
				}
			}
		}
		if s.n-s.shared >= s.cap {
			if shared == nil {
				over := overflowKey(r, stripeOf(k))
				shared, at = l.insert(s, &over, r.Def())
				shared.flags |= overflow
				s.shared++
				l.begin(s, shared, r, m)
			}
			return shared, at
		}
	}
	c, pos := l.insert(s, k, r.Def())
	l.begin(s, c, r, m)
	if shared != nil {
		l.inherit(c, shared, r, m)
	}
	return c, pos
}

// sticky reports whether keys without a cell must go on with the overflow counter:
// until its window ends nobody knows which of them used what.
func (l *Ledger) sticky(c *cell, r *throttle.Rule, m moment) bool {
	switch r.Kind {
	case throttle.InFlight:
		return c.used > 0
	case throttle.Burst:
		return false // inherit keeps the bucket's level
	}
	return m.sec < c.end()
}

// inherit gives a new cell what its key may have used through an overflow counter.
func (l *Ledger) inherit(c, shared *cell, r *throttle.Rule, m moment) {
	switch {
	case r.Kind == throttle.Burst:
		c.used = max(c.used, shared.used)
	case r.Window.Form == throttle.Sliding && shared.end() == int64(c.start):
		c.aux = max(c.aux, shared.used)
	case r.Kind == throttle.Bytes && shared.used > r.Limit:
		c.used = max(c.used, owed(shared, r, r.Window.At(m.sec)))
	}
}

// overflowKey is a key of stripe i that no subject hashes to.
func overflowKey(r *throttle.Rule, i int) throttle.Key {
	var b [9]byte
	binary.BigEndian.PutUint64(b[:], r.Def())
	b[8] = byte(r.Level)
	k := throttle.KeyOf(policy.Level(0), string(b[:]))
	k[0] = byte(i)
	return k
}
