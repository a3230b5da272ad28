package cache

import (
	"context"
	"hash/maphash"
	"sync"
	"time"
)

// Bounds of collapsing. What is above them asks the backend by itself.
const (
	maxFollowers = 1024             // that wait for one flight
	maxLone      = 1024             // requests known to have answers that are not stored
	loneFor      = 30 * time.Second // is how long that is known
	headWait     = 5 * time.Second  // for an answer to come: a slow backend is asked by more then
	bodyWait     = 3 * time.Second  // for the rest of an answer whose header is there: its client may read slowly
)

// A Flight is a request on its way to a backend whose answer may serve others that ask for the
// same. One call leads it; those that come meanwhile wait until the answer is stored, or until it
// is known that none will be. A nil Flight is one for which nobody waits.
type Flight struct {
	c    *Cache
	key  uint64
	head chan struct{} // closed when an answer came that may be stored
	done chan struct{} // closed at the end
	once sync.Once

	followers int // under the cache's mu
}

// flightKey is what two requests have in common that may be answered by one. Requests that differ in a field
// that the answer varies by have it in common too: who waited looks again and finds nothing. It is a hash:
// who waits for a foreign flight loses time only.
func (c *Cache) flightKey(r *Request) uint64 {
	var h maphash.Hash
	h.SetSeed(c.seed)
	_, _ = h.Write(r.Space[:])
	_, _ = h.WriteString(r.URI)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(r.Who)
	if r.Authorized {
		_ = h.WriteByte(1)
	}
	return h.Sum64()
}

// Join is called after a Lookup that said Miss or Validate. It returns the flight that the caller
// leads, and must end by [Flight.End]; nil: the caller asks the backend by itself. If another call led
// one already, Join waits for its end and reports true: the caller looks again, and goes alone if
// it finds nothing; so it does if the answer was stored meanwhile. It never waits twice, nor for an answer that is known not to be stored.
func (c *Cache) Join(ctx context.Context, r *Request) (f *Flight, waited bool) {
	ask := requestControl(r.Header)
	if r.Method != "GET" || ask.noCache {
		return nil, false
	}
	key := c.flightKey(r)
	c.mu.Lock()
	if until, ok := c.lone[key]; ok {
		if r.Now < until {
			c.mu.Unlock()
			return nil, false
		}
		delete(c.lone, key)
	}
	if e := c.find(r); e != nil && e.use(r.Now, &ask) == Hit { // stored since the caller looked
		c.mu.Unlock()
		return nil, true
	}
	f = c.flights[key]
	if f == nil {
		f = &Flight{c: c, key: key, head: make(chan struct{}), done: make(chan struct{})}
		c.flights[key] = f
		c.mu.Unlock()
		return f, false
	}
	if f.followers >= maxFollowers {
		c.mu.Unlock()
		return nil, false
	}
	f.followers++
	c.stats.Collapsed++
	c.mu.Unlock()
	f.wait(ctx)
	return nil, true
}

// wait returns when the flight has ended, its answer or the rest of it takes too long, or ctx is
// over.
func (f *Flight) wait(ctx context.Context) {
	t := time.NewTimer(headWait)
	defer t.Stop()
	select {
	case <-f.done:
		return
	case <-ctx.Done():
		return
	case <-t.C:
		return
	case <-f.head:
	}
	t.Reset(bodyWait)
	select {
	case <-f.done:
	case <-ctx.Done():
	case <-t.C:
	}
}

// Storing says that an answer came which is stored when its body is whole.
func (f *Flight) Storing() {
	if f != nil {
		close(f.head)
	}
}

// End lets those who wait look again. It may be called more than once.
func (f *Flight) End() { f.end(func() {}) }

// end ends the flight once; also is called with the cache locked.
func (f *Flight) end(also func()) {
	if f == nil {
		return
	}
	f.once.Do(func() {
		f.c.mu.Lock()
		also()
		delete(f.c.flights, f.key)
		f.c.mu.Unlock()
		close(f.done)
	})
}

// Lone ends the flight and notes that such answers are not stored: for a while nobody waits for
// one. now is powered-on time.
func (f *Flight) Lone(now time.Duration) {
	f.end(func() {
		if len(f.c.lone) >= maxLone {
			clear(f.c.lone)
		}
		f.c.lone[f.key] = now + loneFor
	})
}
