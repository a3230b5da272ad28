package events

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"tidegate/store/events/batch"
	"unsafe"
)

// Recorded events wait in chunks. A shard per core has one it fills; full ones go to the
// collector and come back empty. Their number is fixed, 1 MiB in all, so when the collector
// falls behind, calls are lost and counted, and never wait.
const (
	chunkEvents = 32
	chunkText   = 3 << 10
	memoryBytes = 1 << 20
	maxChunks   = memoryBytes / int(unsafe.Sizeof(chunk{}))
)

// A chunk holds events and the bytes of those of their strings that were copied.
type chunk struct {
	n      int
	used   int
	events [chunkEvents]batch.Event
	text   [chunkText]byte
}

// keep returns a copy of s, a view of the chunk's text that is valid until the chunk is
// emptied.
func (c *chunk) keep(s string) string {
	if s == "" {
		return ""
	}
	n := copy(c.text[c.used:], s)
	v := unsafe.String(&c.text[c.used], n)
	c.used += n
	return v
}

// empty makes the chunk ready for use again and lets go of what the events referred to:
// an edition must not live longer because its last call is still noted here.
func (c *chunk) empty() {
	clear(c.events[:c.n])
	c.n, c.used = 0, 0
}

type shard struct {
	mu   sync.Mutex
	fill *chunk // nil: none yet
	lost uint64 // calls that found no chunk
	_    [40]byte
}

// memory is where events are until the collector takes them.
type memory struct {
	shards []shard // a power of two of them
	free   chan *chunk
	full   chan *chunk
	made   atomic.Int32
	wake   chan struct{} // a chunk became full
	agents bool          // user agents are kept
}

func newMemory(agents bool) *memory {
	n := 1
	for n < runtime.GOMAXPROCS(0) && n < maxChunks/4 {
		n *= 2
	}
	return &memory{
		shards: make([]shard, n),
		free:   make(chan *chunk, maxChunks),
		full:   make(chan *chunk, maxChunks),
		wake:   make(chan struct{}, 1),
		agents: agents,
	}
}

// record copies e into the shard that is free. Nothing is done under a shard's lock but
// copying one event or exchanging a chunk.
func (m *memory) record(e *batch.Event) {
	s := m.lock()
	defer s.mu.Unlock()
	agent := e.UserAgent
	if !m.agents {
		agent = ""
	}
	user, key, keyType, publisher := e.User, e.ConsumerKey, e.KeyType, e.Publisher
	need := 0
	for _, t := range [...]*string{&user, &key, &keyType, &publisher, &agent} {
		if len(*t) > batch.MaxText {
			*t = (*t)[:batch.MaxText+1] // one more, so that the batch sees where to cut
		}
		need += len(*t)
	}
	c := s.fill
	if c == nil || c.n == chunkEvents || c.used+need > chunkText {
		if c != nil {
			m.pass(c)
		}
		c = m.take()
		s.fill = c
		if c == nil {
			s.lost++
			return
		}
	}
	kept := &c.events[c.n]
	*kept = *e
	kept.User, kept.ConsumerKey, kept.KeyType = c.keep(user), c.keep(key), c.keep(keyType)
	kept.Publisher, kept.UserAgent = c.keep(publisher), c.keep(agent)
	c.n++
}

// lock returns a locked shard, one that nobody uses now if there is any.
func (m *memory) lock() *shard {
	first := int(rand.Uint32())
	mask := len(m.shards) - 1
	for i := range m.shards {
		if s := &m.shards[(first+i)&mask]; s.mu.TryLock() {
			return s
		}
	}
	s := &m.shards[first&mask]
	s.mu.Lock()
	return s
}

// pass gives a chunk to the collector. The channel has room for all there are.
func (m *memory) pass(c *chunk) {
	m.full <- c
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// take returns an empty chunk, or nil when all are in use.
func (m *memory) take() *chunk {
	select {
	case c := <-m.free:
		return c
	default:
	}
	if m.made.Add(1) > int32(maxChunks) {
		m.made.Add(-1)
		return nil
	}
	return new(chunk)
}

// drain gives the events of full chunks, and with rest those of the others, to add. It
// returns the calls lost since the last drain. It is for one goroutine at a time.
func (m *memory) drain(rest bool, add func(*batch.Event)) (lost uint64) {
	use := func(c *chunk) {
		for i := range c.events[:c.n] {
			add(&c.events[i])
		}
		c.empty()
		m.free <- c
	}
	for n := len(m.full); n > 0; n-- { // not for ever: they come as fast as they go
		use(<-m.full)
	}
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		lost += s.lost
		s.lost = 0
		var c *chunk
		if rest {
			c, s.fill = s.fill, nil
		}
		s.mu.Unlock()
		if c != nil {
			use(c)
		}
	}
	return lost
}

// waiting counts the events in memory.
func (m *memory) waiting() int {
	n := len(m.full) * chunkEvents
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		if s.fill != nil {
			n += s.fill.n
		}
		s.mu.Unlock()
	}
	return n
}

// mask cuts an address to the form that is kept.
func (f AddressForm) mask(a netip.Addr) netip.Addr {
	switch f {
	case AddressFull:
		return a
	case AddressPrefix:
		a = a.Unmap().WithZone("")
		bits := 48
		if a.Is4() {
			bits = 24
		}
		if p, err := a.Prefix(bits); err == nil {
			return p.Addr()
		}
	}
	return netip.Addr{}
}
