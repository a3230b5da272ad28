package auth

import (
	"encoding/binary"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func key(n uint64) (k [32]byte) {
	binary.LittleEndian.PutUint64(k[:8], n)
	return k
}

func TestTheCacheStaysWithinItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 100).Draw(t, "entries")
		c := NewCache(n)
		per := (n + shards - 1) / shards
		for range rapid.IntRange(1, 400).Draw(t, "puts") {
			k := key(rapid.Uint64Range(0, 300).Draw(t, "key"))
			v := &Verified{size: rapid.IntRange(0, 3*entryBytes).Draw(t, "size")}
			c.Put(k, v)
			if got, ok := c.Get(k); ok && got != v && v.size <= per*entryBytes {
				t.Fatal("Get does not return what was put last")
			}
		}
		for i := range c.shards {
			s := &c.shards[i]
			bytes := 0
			for at, e := range s.ring {
				bytes += e.v.size
				if s.entries[e.key] != at {
					t.Fatal("the index and the ring disagree")
				}
			}
			if len(s.ring) != len(s.entries) || len(s.ring) > s.max || bytes != s.bytes || bytes > s.max*entryBytes {
				t.Fatalf("%d of %d entries, %d bytes, counted %d", len(s.ring), s.max, bytes, s.bytes)
			}
		}
	})
}

func TestWhatIsUsedStays(t *testing.T) {
	c := NewCache(4 * shards)
	hot := &Verified{}
	c.Put(key(0), hot)
	for i := range uint64(1000) {
		if _, ok := c.Get(key(0)); !ok {
			t.Fatalf("the entry in use was dropped after %d others", i)
		}
		c.Put(key((i+1)*shards), &Verified{}) // the same shard
	}
	if c.Len() != 4 {
		t.Errorf("%d entries; want 4", c.Len())
	}
}

func TestTheCacheIsForManyGoroutines(t *testing.T) {
	c := NewCache(64)
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			for i := range uint64(2000) {
				c.Put(key(i*7+g), &Verified{size: int(i)})
				c.Get(key(i * 3))
			}
		})
	}
	wg.Wait()
	if n := c.Len(); n == 0 || n > 64 {
		t.Errorf("%d entries", n)
	}
}
