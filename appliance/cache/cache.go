// Package cache keeps answers of backends: a shared cache as RFC 9111 describes it, bounded in
// bytes, for GET, and HEAD out of what GET left.
//
// An answer that is not public belongs to one caller only, by [Request.Who], so that an
// application never sees what another one was told. What a backend forbids to keep is not kept: no-store,
// private, Vary: *, cookies, answers to a forwarded Authorization without leave (RFC 9111 §3.5).
// Ages are counted in powered-on time, so that neither a wrong clock nor a suspend makes an old
// answer fresh.
//
// The cache is in memory only. It does not forward anything: [Cache.Lookup] says what may be
// done with what is stored, and the caller does it. Of calls that ask for the same at a time, one goes to
// the backend and the others wait for what it stores ([Cache.Join]).
package cache

import (
	"container/list"
	"hash/maphash"
	"strings"
	"sync"
	"tidegate/appliance/wire"
	"time"
)

// Bounds of one cache.
const (
	maxShare    = 8   // an answer may take one part in so many of the cache
	maxVariants = 32  // of one URI
	overhead    = 512 // bytes of memory that an entry takes besides its texts
)

// A Space separates answers: it is a digest of the definition of an API. Answers outlive a new
// bundle where the definition stays as it is.
type Space [16]byte

// A Request is what the cache looks at of a request to a backend.
type Request struct {
	Space      Space
	Method     string
	URI        string        // all that says what is asked for: endpoint, path, query
	Header     wire.Header   // as it would be forwarded
	Who        string        // whom an answer that is not public belongs to
	Authorized bool          // a credential or a cookie goes to the backend
	Now        time.Duration // powered-on time
}

// Rules are the settings of an API.
type Rules struct {
	Default time.Duration // freshness where the backend gives none, and upper bound
	Offline time.Duration // for which a stale answer may serve while the backend is away
}

// A Use says what may be done with a stored answer.
type Use uint8

// The uses.
const (
	Bypass   Use = iota // the cache has no part in the call
	Miss                // nothing is stored; the answer may be
	Hit                 // the entry may be served
	Validate            // the entry may be served after the backend confirmed it
	Refuse              // the client wants a stored answer only, and there is none: 504
)

// A Cache keeps answers. All methods are safe for concurrent use. A nil Cache keeps nothing.
type Cache struct {
	max int64

	mu     sync.Mutex
	used   int64 // by entries and by answers on their way in
	sets   map[setKey]*set
	recent *list.List // of *Entry, the last used first
	stats  Stats

	seed    maphash.Seed
	flights map[uint64]*Flight
	lone    map[uint64]time.Duration // until when
}

type setKey struct {
	space Space
	uri   string
}

// set is the variants of one URI.
type set struct {
	key     setKey
	entries []*Entry
}

// Stats are counts since the start, and what is held now.
type Stats struct {
	Hits, Misses, Validations, Stored, Evicted, Offline uint64
	Collapsed                                           uint64 // waited for the answer to another call
	Bytes                                               int64
	Entries                                             int
}

// New returns a cache of at most maxBytes, nil when that is too little for anything.
func New(maxBytes int64) *Cache {
	if maxBytes < maxShare*overhead {
		return nil
	}
	return &Cache{
		max: maxBytes, sets: map[setKey]*set{}, recent: list.New(),
		seed: maphash.MakeSeed(), flights: map[uint64]*Flight{}, lone: map[uint64]time.Duration{},
	}
}

// Stats returns the counts.
func (c *Cache) Stats() Stats {
	if c == nil {
		return Stats{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Bytes, s.Entries = c.used, c.recent.Len()
	return s
}

// Lookup returns what is stored for a request and what may be done with it. The entry is nil
// unless the use is Hit or Validate.
func (c *Cache) Lookup(r *Request) (*Entry, Use) {
	if c == nil || r.Method != "GET" && r.Method != "HEAD" || r.Header.Has("Range") || r.Header.Has("If-Match") || r.Header.Has("If-Unmodified-Since") {
		return nil, Bypass
	}
	ask := requestControl(r.Header)
	c.mu.Lock()
	e := c.find(r)
	if e == nil {
		c.stats.Misses++
		c.mu.Unlock()
		switch {
		case ask.onlyIfCached:
			return nil, Refuse
		case ask.noStore:
			return nil, Bypass
		}
		return nil, Miss
	}
	c.recent.MoveToFront(e.place)
	use := e.use(r.Now, &ask)
	if use == Hit {
		c.stats.Hits++
	} else {
		c.stats.Validations++
	}
	c.mu.Unlock()
	switch {
	case use == Validate && ask.onlyIfCached:
		return nil, Refuse
	case use == Validate && ask.noStore:
		return nil, Bypass
	}
	return e, use
}

// find returns the variant for a request. The caller holds mu.
func (c *Cache) find(r *Request) *Entry {
	s := c.sets[setKey{r.Space, r.URI}]
	if s == nil {
		return nil
	}
	for i := len(s.entries) - 1; i >= 0; i-- { // the last stored first
		if e := s.entries[i]; (e.public || e.who == r.Who && e.authorized == r.Authorized) && e.selects(r.Header) {
			return e
		}
	}
	return nil
}

// Invalidate forgets every variant of a URI: a call that may have changed it went through
// (RFC 9111 §4.4).
func (c *Cache) Invalidate(space Space, uri string) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sets[setKey{space, uri}]
	for s != nil && len(s.entries) > 0 {
		c.remove(s.entries[0])
	}
}

// Keep forgets every answer of a space that keep does not name.
func (c *Cache) Keep(keep map[Space]bool) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.recent.Front(); e != nil; {
		next := e.Next()
		if x := e.Value.(*Entry); !keep[x.set.key.space] {
			c.remove(x)
		}
		e = next
	}
}

// NoteOffline counts a stale answer that served while its backend was away.
func (c *Cache) NoteOffline() {
	c.mu.Lock()
	c.stats.Offline++
	c.mu.Unlock()
}

// remove takes an entry out. The caller holds mu.
func (c *Cache) remove(e *Entry) {
	s := e.set
	for i := range s.entries {
		if s.entries[i] == e {
			s.entries = append(s.entries[:i:i], s.entries[i+1:]...)
			break
		}
	}
	if len(s.entries) == 0 {
		delete(c.sets, s.key)
	}
	c.recent.Remove(e.place)
	c.used -= e.size
}

// reserve takes n bytes, at the cost of the answers not used for longest. The caller holds mu.
func (c *Cache) reserve(n int64) bool {
	for c.used+n > c.max {
		last := c.recent.Back()
		if last == nil {
			return false // all of it is on its way in
		}
		c.stats.Evicted++
		c.remove(last.Value.(*Entry))
	}
	c.used += n
	return true
}

// A Writer takes the body of an answer that is to be stored. It is for one goroutine. Exactly
// one of Commit and Abandon ends it.
type Writer struct {
	c        *Cache
	e        *Entry
	key      setKey
	body     []byte
	reserved int64
	gone     bool
}

// Begin prepares to store the answer of a backend; nil when it may not or cannot be stored. The
// answer took delay to come. length is that of the body, -1 if not known.
func (c *Cache) Begin(r *Request, rules Rules, status int, h wire.Header, length int64, delay time.Duration) *Writer {
	if c == nil || r.Method != "GET" || length > c.max/maxShare {
		return nil
	}
	e := newEntry(r, rules, status, h, delay)
	if e == nil {
		return nil
	}
	e.size = overhead + int64(len(r.URI)+len(e.who))
	for i := range e.header {
		e.size += int64(len(e.header[i].Name) + len(e.header[i].Value) + 32)
	}
	w := &Writer{c: c, e: e, key: setKey{r.Space, strings.Clone(r.URI)}}
	if !w.grow(e.size + max(length, 0)) {
		return nil
	}
	if length > 0 {
		w.body = make([]byte, 0, length)
	}
	return w
}

// grow reserves up to n bytes in all.
func (w *Writer) grow(n int64) bool {
	if n <= w.reserved {
		return true
	}
	if n > w.c.max/maxShare+overhead {
		return false
	}
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	if !w.c.reserve(n - w.reserved) {
		return false
	}
	w.reserved = n
	return true
}

// Write takes a piece of the body. It reports false for an answer that is given up because it got
// too large; it may be called on.
func (w *Writer) Write(p []byte) bool {
	if w.gone {
		return false
	}
	if need := int64(len(w.body) + len(p)); need > int64(cap(w.body)) {
		// The room is doubled, and paid for before it is taken.
		room := max(2*int64(cap(w.body)), need, 1<<10)
		if !w.grow(w.e.size + room) {
			if room = need; !w.grow(w.e.size + room) {
				w.Abandon()
				return false
			}
		}
		w.body = append(make([]byte, 0, room), w.body...)
	}
	w.body = append(w.body, p...)
	return true
}

// Abandon gives up.
func (w *Writer) Abandon() {
	if w.gone {
		return
	}
	w.gone, w.body = true, nil
	w.c.mu.Lock()
	w.c.used -= w.reserved
	w.c.mu.Unlock()
}

// Commit stores the answer, whose body is whole. It takes the place of what it replaces.
func (w *Writer) Commit() {
	if w.gone {
		return
	}
	w.gone = true
	w.e.body = w.body
	w.e.size += int64(cap(w.body))
	c := w.c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used += w.e.size - w.reserved
	c.put(w.key, w.e)
}

// put adds an entry whose size is counted already. The caller holds mu.
func (c *Cache) put(key setKey, e *Entry) {
	s := c.sets[key]
	if s == nil {
		s = &set{key: key}
		c.sets[key] = s
	}
	for i := 0; i < len(s.entries); {
		if old := s.entries[i]; (old.public || old.who == e.who && old.authorized == e.authorized) && old.same(e) {
			c.remove(old)
			continue
		}
		i++
	}
	for len(s.entries) >= maxVariants {
		c.stats.Evicted++
		c.remove(s.entries[0])
	}
	c.sets[key] = s // it may have been emptied
	e.set = s
	s.entries = append(s.entries, e)
	e.place = c.recent.PushFront(e)
	c.stats.Stored++
}

// Freshen returns the entry as a 304 of the backend renews it (RFC 9111 §4.3.4), and stores it
// if it still may be.
func (c *Cache) Freshen(r *Request, rules Rules, e *Entry, h wire.Header, delay time.Duration) *Entry {
	merged := e.updated(h)
	n := newEntry(r, rules, e.status, merged, delay)
	if n == nil { // it may be served once more, not kept
		c.mu.Lock()
		defer c.mu.Unlock()
		c.forget(e)
		once := *e
		once.header, once.stored, once.age = merged, r.Now, 0
		return &once
	}
	n.body = e.body
	n.size = e.size
	c.mu.Lock()
	defer c.mu.Unlock()
	key := e.set.key
	c.forget(e)
	if c.reserve(n.size) {
		c.put(key, n)
	}
	return n
}

// forget removes e unless it is gone already. The caller holds mu.
func (c *Cache) forget(e *Entry) {
	for _, x := range e.set.entries {
		if x == e {
			c.remove(e)
			return
		}
	}
}
