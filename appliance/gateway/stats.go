package gateway

import (
	"sync"
	"sync/atomic"
	"time"
)

// Bounds are the upper ends of the latency buckets, in seconds; the last bucket has none.
var Bounds = [...]float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}

var bounds = func() (d [len(Bounds)]time.Duration) {
	for i, s := range Bounds {
		d[i] = time.Duration(s * float64(time.Second))
	}
	return d
}()

// maxOperations bounds the operations that are counted one by one. Those of editions long
// gone make room at the next activation.
const maxOperations = 20_000

// An OpName names an operation of any edition.
type OpName struct{ API, Version, Method, Template string }

// OpStats are the counts of one operation. They outlive editions: the same operation of
// the next bundle goes on counting.
type OpStats struct {
	OpName
	counts atomic.Pointer[OpCounts] // nil before the first call: most operations never see one
}

// OpCounts are counts of answers. All fields may be read at any time.
type OpCounts struct {
	Classes [6]atomic.Uint64 // by first digit of the status; 0: none was sent
	Micros  atomic.Uint64    // latency, summed
	Buckets [len(Bounds) + 1]atomic.Uint64
}

// none are the counts of an operation without calls.
var none OpCounts

// Counts returns the counts of o, for reading.
func (o *OpStats) Counts() *OpCounts {
	if c := o.counts.Load(); c != nil {
		return c
	}
	return &none
}

func (o *OpStats) count(status int, d time.Duration) {
	c := o.counts.Load()
	if c == nil {
		o.counts.CompareAndSwap(nil, new(OpCounts))
		c = o.counts.Load()
	}
	c.Classes[class(status)].Add(1)
	c.Micros.Add(uint64(d.Microseconds()))
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	c.Buckets[i].Add(1)
}

func class(status int) int {
	if c := status / 100; c > 0 && c < 6 {
		return c
	}
	return 0
}

// Stats counts answers since the start. It is safe for concurrent use.
type Stats struct {
	other OpStats // calls that matched no operation

	mu    sync.Mutex
	ops   map[OpName]*OpStats
	order []*OpStats
	codes sync.Map // fault code → *atomic.Uint64; as many as there are codes

	all, failed         atomic.Uint64
	remembered, checked atomic.Uint64 // authenticated calls, by how
}

func newStats() *Stats { return &Stats{ops: map[OpName]*OpStats{}} }

// operation returns the counts of an operation, made at activation.
func (s *Stats) operation(name OpName) *OpStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.ops[name]; o != nil {
		return o
	}
	if len(s.order) >= maxOperations {
		return &s.other
	}
	o := &OpStats{OpName: name}
	s.ops[name] = o
	s.order = append(s.order, o)
	return o
}

// count counts one answer. op is nil for a call that matched no operation.
func (s *Stats) count(op *OpStats, status int, code uint32, d time.Duration) {
	if op == nil {
		op = &s.other
	}
	op.count(status, d)
	if code != 0 {
		n, ok := s.codes.Load(code)
		if !ok {
			n, _ = s.codes.LoadOrStore(code, new(atomic.Uint64))
		}
		n.(*atomic.Uint64).Add(1)
	}
	s.all.Add(1)
	if status >= 500 {
		s.failed.Add(1)
	}
}

// Each calls fn for the counts of every operation, and last for the calls that matched none.
func (s *Stats) Each(fn func(*OpStats)) {
	s.mu.Lock()
	order := s.order[:len(s.order):len(s.order)]
	s.mu.Unlock()
	for _, o := range order {
		fn(o)
	}
	fn(&s.other)
}

// Codes calls fn for each fault code that was given, with how often.
func (s *Stats) Codes(fn func(code uint32, n uint64)) {
	s.codes.Range(func(k, v any) bool {
		fn(k.(uint32), v.(*atomic.Uint64).Load())
		return true
	})
}

// Answers returns all answers since the start and the 5xx among them.
func (s *Stats) Answers() (all, failed uint64) {
	return s.all.Load(), s.failed.Load()
}
