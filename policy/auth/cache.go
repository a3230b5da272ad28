package auth

import (
	"encoding/binary"
	"sync"
)

// A Cache keeps verified credentials. Get and Put are safe for concurrent use. A cache
// may lose entries at any time. The Guard checks what Get returns: an entry that collides, or
// comes from another Guard, does no harm.
type Cache interface {
	Get(key [32]byte) (*Verified, bool)
	Put(key [32]byte, v *Verified)
}

const (
	shards     = 16
	entryBytes = 4 << 10 // mean size the bound in bytes allows for
)

// Tokens is a bounded Cache. It holds at most n entries and about 4 KiB per entry on
// average, whichever comes first, and drops what was not used lately (CLOCK).
type Tokens struct {
	shards [shards]shard
}

type shard struct {
	mu      sync.Mutex
	entries map[[32]byte]int // into ring
	ring    []slot
	hand    int
	bytes   int
	max     int // entries
}

type slot struct {
	key  [32]byte
	v    *Verified
	used bool
}

// NewCache returns a cache of at most n entries, rounded up to a multiple of 16.
func NewCache(n int) *Tokens {
	t := new(Tokens)
	per := max((n+shards-1)/shards, 1)
	for i := range t.shards {
		t.shards[i].max = per
		t.shards[i].entries = make(map[[32]byte]int)
	}
	return t
}

// Len returns the number of entries.
func (t *Tokens) Len() int {
	n := 0
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		n += len(s.entries)
		s.mu.Unlock()
	}
	return n
}

func (t *Tokens) shard(key *[32]byte) *shard {
	return &t.shards[binary.LittleEndian.Uint64(key[:8])%shards]
}

// Get implements Cache.
func (t *Tokens) Get(key [32]byte) (*Verified, bool) {
	s := t.shard(&key)
	s.mu.Lock()
	i, ok := s.entries[key]
	if !ok {
		s.mu.Unlock()
		return nil, false
	}
	s.ring[i].used = true
	v := s.ring[i].v
	s.mu.Unlock()
	return v, true
}

// Put implements Cache. An entry larger than a shard's share is not kept.
func (t *Tokens) Put(key [32]byte, v *Verified) {
	s := t.shard(&key)
	s.mu.Lock()
	defer s.mu.Unlock()
	budget := s.max * entryBytes
	if v.size > budget {
		return
	}
	if i, ok := s.entries[key]; ok {
		s.bytes += v.size - s.ring[i].v.size
		s.ring[i].v, s.ring[i].used = v, true
	} else {
		for len(s.entries) >= s.max || s.bytes+v.size > budget {
			s.evict()
		}
		s.entries[key] = len(s.ring)
		s.ring = append(s.ring, slot{key: key, v: v})
		s.bytes += v.size
	}
	for s.bytes > budget {
		s.evict()
	}
}

// evict drops one entry that was not used since the hand passed it last. The last slot
// takes its place. The caller holds mu, and there is an entry.
func (s *shard) evict() {
	for {
		if s.hand >= len(s.ring) {
			s.hand = 0
		}
		if e := &s.ring[s.hand]; e.used {
			e.used = false
			s.hand++
			continue
		}
		break
	}
	gone := s.ring[s.hand]
	last := len(s.ring) - 1
	if s.hand != last {
		s.ring[s.hand] = s.ring[last]
		s.entries[s.ring[s.hand].key] = s.hand
	}
	s.ring[last] = slot{}
	s.ring = s.ring[:last]
	delete(s.entries, gone.key)
	s.bytes -= gone.v.size
}
