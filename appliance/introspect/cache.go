package introspect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/store"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Bounds of what is remembered.
const (
	maxEntries   = 4096
	maxBytes     = 2 << 20 // of all entries, as they are on disk
	maxEntry     = 16 << 10
	refusedFor   = 30 * time.Second
	writeEvery   = 30 * time.Second
	bucket       = "introspection" // in state.db: key → kept, in CBOR
	storedFormat = 1
)

// key is the hash of a question.
type key [32]byte

// entry is a yes.
type entry struct {
	said      *auth.Introspected
	at, until int64 // by the lower bound of time, Unix seconds
	size      int
	onDisk    bool
	memory    bool // never written: the answer holds the token itself
}

// A Cache remembers answers across editions and power cuts. All methods are safe for
// concurrent use.
type Cache struct {
	db  *store.DB // nil: memory only
	log *slog.Logger

	mu      sync.Mutex
	allowed map[key]*entry
	bytes   int
	gone    map[key]bool // on disk, and no longer here
	refused map[key]refusal
	write   sync.Mutex // of writes, so that an older state never follows a newer one
}

type refusal struct {
	code    int
	decided bool
	until   time.Time // monotonic
}

// Open reads what was remembered before. With an error, what could be read counts.
func Open(db *store.DB, log *slog.Logger) (*Cache, error) {
	c := &Cache{db: db, log: log, allowed: map[key]*entry{}, gone: map[key]bool{}, refused: map[key]refusal{}}
	if db == nil {
		return c, nil
	}
	var bad error
	err := db.View(func(tx *store.Tx) error {
		return tx.Bucket(bucket).Each(func(k, v []byte) error {
			e, err := decode(v)
			if err != nil || len(k) != len(key{}) {
				bad = errors.Join(errors.New("an entry does not read"), err)
				return nil
			}
			e.onDisk = true
			c.allowed[key(k)] = e
			c.bytes += e.size
			return nil
		})
	})
	if err := errors.Join(bad, err); err != nil {
		return c, fmt.Errorf("remembered introspections: %w", err)
	}
	return c, nil
}

// get returns what is remembered and still counts, nil if nothing does.
func (c *Cache) get(k key, lower time.Time) *auth.Introspected {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := c.refused[k]; ok {
		if time.Now().Before(r.until) {
			return &auth.Introspected{Code: r.code, Decided: r.decided}
		}
		delete(c.refused, k)
	}
	e := c.allowed[k]
	if e == nil || !e.counts(lower.Unix()) {
		return nil
	}
	return e.said
}

// counts reports whether e stands at a time. A start may put the lower bound of time back a
// little; an entry from further ahead than it may live is none.
func (e *entry) counts(lower int64) bool {
	return lower < e.until && e.at-lower <= e.until-e.at
}

// put remembers an answer: a yes for keep at most and never beyond its end, a no for 30 s. One
// that echoes the token is not written to disk.
func (c *Cache) put(k key, said *auth.Introspected, lower time.Time, keep time.Duration, echo bool) {
	if !said.Active {
		c.refuse(k, said)
		return
	}
	e := &entry{said: said, at: lower.Unix(), until: lower.Add(keep).Unix(), memory: echo}
	if !said.Expires.IsZero() {
		e.until = min(e.until, said.Expires.Unix())
	}
	e.size = len(encode(e)) + len(k)
	if e.until <= e.at || e.size > maxEntry {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.refused, k)
	c.drop(k)
	for len(c.allowed) >= maxEntries || c.bytes+e.size > maxBytes {
		c.evict()
	}
	c.allowed[k] = e
	c.bytes += e.size
}

// drop forgets an entry. The caller holds c.mu.
func (c *Cache) drop(k key) {
	e := c.allowed[k]
	if e == nil {
		return
	}
	delete(c.allowed, k)
	c.bytes -= e.size
	if e.onDisk {
		c.gone[k] = true
	}
}

// evict forgets the entry that ends first among a few. The caller holds c.mu.
func (c *Cache) evict() {
	var worst key
	var first *entry
	n := 0
	for k, e := range c.allowed { // in no order
		if first == nil || e.until < first.until {
			worst, first = k, e
		}
		if n++; n == 8 {
			break
		}
	}
	c.drop(worst)
}

// refuse remembers a no. A yes that is on disk goes first: a power cut must not bring it
// back.
func (c *Cache) refuse(k key, said *auth.Introspected) {
	c.mu.Lock()
	c.drop(k)
	if len(c.refused) >= maxEntries {
		now := time.Now()
		for k, r := range c.refused {
			if !now.Before(r.until) || len(c.refused) >= maxEntries {
				delete(c.refused, k)
			}
		}
	}
	c.refused[k] = refusal{said.Code, said.Decided, time.Now().Add(refusedFor)}
	stored := c.gone[k]
	c.mu.Unlock()
	if !stored || c.db == nil {
		return
	}
	c.write.Lock()
	defer c.write.Unlock()
	if err := c.db.Update(func(tx *store.Tx) error { return tx.Bucket(bucket).Delete(k[:]) }); err != nil {
		c.log.Error("a refused token may be honoured after a power cut", "error", err)
		return
	}
	c.mu.Lock()
	delete(c.gone, k)
	c.mu.Unlock()
}

// Flush writes what is new, if anything is, and takes out what is over at lower.
func (c *Cache) Flush(lower time.Time) error {
	if c.db == nil {
		return nil
	}
	c.write.Lock()
	defer c.write.Unlock()
	put, gone := map[key][]byte{}, map[key]bool{}
	c.mu.Lock()
	for k, e := range c.allowed {
		switch {
		case e.until <= lower.Unix():
			c.drop(k)
		case !e.onDisk && !e.memory:
			put[k] = encode(e)
			e.onDisk = true
		}
	}
	for k := range c.gone {
		if put[k] == nil {
			gone[k] = true
		}
	}
	clear(c.gone)
	c.mu.Unlock()
	if len(put) == 0 && len(gone) == 0 {
		return nil
	}
	err := c.db.Update(func(tx *store.Tx) error {
		b := tx.Bucket(bucket)
		for k := range gone {
			if err := b.Delete(k[:]); err != nil {
				return err
			}
		}
		for k, v := range put {
			if err := b.Put(k[:], v); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		return nil
	}
	c.mu.Lock()
	for k := range put {
		if e := c.allowed[k]; e != nil {
			e.onDisk = false
		}
		c.gone[k] = true // nobody knows what is on disk
	}
	for k := range gone {
		c.gone[k] = true
	}
	c.mu.Unlock()
	return fmt.Errorf("remembered introspections: %w", err)
}

// Run writes every 30 s until ctx ends, and then once more. A power cut loses what is
// younger: those tokens are asked about again.
func (c *Cache) Run(ctx context.Context, now func() policy.Now) error {
	t := time.NewTicker(writeEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return errors.Join(c.Flush(now().Lower), ctx.Err())
		case <-t.C:
			if err := c.Flush(now().Lower); err != nil {
				c.log.Error("not written", "error", err)
			}
		}
	}
}

// Len returns how many tokens are remembered as good.
func (c *Cache) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.allowed)
}

// kept is an entry on disk.
type kept struct {
	Format           uint     `cbor:"1,keyasint"`
	At               int64    `cbor:"2,keyasint"`
	Until            int64    `cbor:"3,keyasint"`
	Subject          string   `cbor:"4,keyasint,omitempty"`
	Tenant           string   `cbor:"5,keyasint,omitempty"`
	ConsumerKey      string   `cbor:"6,keyasint,omitempty"`
	KeyType          uint8    `cbor:"7,keyasint,omitempty"`
	Scopes           []string `cbor:"8,keyasint,omitempty"`
	Expires          *int64   `cbor:"9,keyasint,omitempty"` // Unix seconds; absent: unknown
	ID               string   `cbor:"10,keyasint,omitempty"`
	Claims           string   `cbor:"11,keyasint,omitempty"` // JSON object
	Decided          bool     `cbor:"12,keyasint,omitempty"`
	SubscriptionPlan string   `cbor:"13,keyasint,omitempty"`
	ApplicationID    string   `cbor:"14,keyasint,omitempty"`
	ApplicationName  string   `cbor:"15,keyasint,omitempty"`
	ApplicationOwner string   `cbor:"16,keyasint,omitempty"`
	ApplicationPlan  string   `cbor:"17,keyasint,omitempty"`
	EndUserToken     string   `cbor:"18,keyasint,omitempty"`
}

func encode(e *entry) []byte {
	s := e.said
	k := kept{
		Format: storedFormat, At: e.at, Until: e.until, Subject: s.Subject, Tenant: s.Tenant, ConsumerKey: s.ConsumerKey,
		KeyType: uint8(s.KeyType), Scopes: s.Scopes, ID: s.ID, Claims: object(s.Claims), Decided: s.Decided,
		SubscriptionPlan: s.SubscriptionPlan, ApplicationID: s.ApplicationID, ApplicationName: s.ApplicationName,
		ApplicationOwner: s.ApplicationOwner, ApplicationPlan: s.ApplicationPlan, EndUserToken: s.EndUserToken,
	}
	if !s.Expires.IsZero() {
		t := s.Expires.Unix()
		k.Expires = &t
	}
	b, err := cbor.Marshal(k)
	if err != nil { // texts and numbers only
		panic(err)
	}
	return b
}

// object returns claims as the JSON object that auth.ParseClaims reads.
func object(c *policy.Claims) string {
	if c == nil {
		return ""
	}
	var b strings.Builder
	b.WriteByte('{')
	c.All(func(name, raw string) bool {
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		n, err := json.Marshal(name)
		if err != nil {
			return false
		}
		b.Write(n)
		b.WriteByte(':')
		b.WriteString(raw)
		return true
	})
	b.WriteByte('}')
	return b.String()
}

func decode(b []byte) (*entry, error) {
	var k kept
	if err := cbor.Unmarshal(b, &k); err != nil {
		return nil, err
	}
	if k.Format != storedFormat {
		return nil, fmt.Errorf("format %d, this program reads %d", k.Format, storedFormat)
	}
	s := &auth.Introspected{
		Active: true, Subject: k.Subject, Tenant: k.Tenant, ConsumerKey: k.ConsumerKey, KeyType: policy.KeyType(k.KeyType),
		Scopes: k.Scopes, ID: k.ID, Decided: k.Decided, SubscriptionPlan: k.SubscriptionPlan, ApplicationID: k.ApplicationID,
		ApplicationName: k.ApplicationName, ApplicationOwner: k.ApplicationOwner, ApplicationPlan: k.ApplicationPlan, EndUserToken: k.EndUserToken,
	}
	if k.Expires != nil {
		s.Expires = time.Unix(*k.Expires, 0)
	}
	if k.Claims != "" {
		var err error
		if s.Claims, err = auth.ParseClaims([]byte(k.Claims)); err != nil {
			return nil, err
		}
	}
	return &entry{said: s, at: k.At, until: k.Until, size: len(b) + len(key{})}, nil
}
