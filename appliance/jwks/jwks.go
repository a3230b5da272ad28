// Package jwks follows the JWK Sets of issuers (RFC 7517) while a link exists. The last
// good copy is on disk and counts until a newer one comes, with or without a link: a fetch
// that fails changes nothing.
//
// A copy takes the place of the keys that a bundle has for its issuer. When a newer bundle has
// others, those count until the URL has been asked again: what the bundle says was signed
// later than the copy was fetched.
package jwks

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"tidegate/appliance/upstream"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"tidegate/policy/jwk"
	"tidegate/store"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// When sets are fetched.
const (
	askTime    = 10 * time.Second
	usual      = time.Hour // where the answer does not say how long it is fresh
	soonest    = 5 * time.Minute
	latest     = 24 * time.Hour
	firstWait  = 10 * time.Second // after a failure; doubled by each, and spread by half
	longest    = 15 * time.Minute
	onDemand   = 30 * time.Second // least time between fetches for tokens that name an unknown key
	maxCopies  = 32
	bucket     = "jwks" // in state.db: SHA-256 of the URL → copy, in CBOR
	copyFormat = 1
)

// Options are what a Follower works with.
type Options struct {
	DB      *store.DB        // nil: copies live until the end of the process
	TLSTime func() time.Time // time for certificates; nil: the system's
	// Changed is called after keys have changed, by the goroutine of Run.
	Changed func()
	Log     *slog.Logger
}

// A Follower keeps the keys of issuers up to date. It is made once and outlives editions.
// All methods are safe for concurrent use.
type Follower struct {
	o    Options
	wake chan struct{}
	ask  func(context.Context, *upstream.Site) (*upstream.Answer, error)

	mu     sync.Mutex
	copies map[string]*keyCopy // by URL
	watch  map[string]*watched // by URL
}

// A keyCopy is the last good set of a URL.
type keyCopy struct {
	Format uint         `cbor:"1,keyasint"`
	URL    string       `cbor:"2,keyasint"`
	Keys   []policy.Key `cbor:"3,keyasint"`
	// Beside are the hashes of the keys that bundles had for the URL's issuers when the copy was fetched.
	Beside [][]byte `cbor:"4,keyasint"`
}

// watched is a URL that the active bundle names.
type watched struct {
	beside [][]byte
	site   *upstream.Site
	next   time.Time // of the next fetch
	last   time.Time // of the last one, zero before
	failed int       // in a row
}

// Open reads the copies of db. With an error, those that could be read count.
func Open(o Options) (*Follower, error) {
	f := &Follower{o: o, wake: make(chan struct{}, 1), ask: ask, copies: map[string]*keyCopy{}, watch: map[string]*watched{}}
	if f.o.Log == nil {
		f.o.Log = slog.New(slog.DiscardHandler)
	}
	if o.DB == nil {
		return f, nil
	}
	var bad []error
	err := o.DB.View(func(tx *store.Tx) error {
		return tx.Bucket(bucket).Each(func(_, v []byte) error {
			c := new(keyCopy)
			if err := cbor.Unmarshal(v, c); err != nil || c.Format != copyFormat {
				bad = append(bad, errors.Join(errors.New("a copy does not read"), err))
				return nil
			}
			f.copies[c.URL] = c
			return nil
		})
	})
	if err := errors.Join(append(bad, err)...); err != nil {
		return f, fmt.Errorf("copies of JWK Sets: %w", err)
	}
	return f, nil
}

// Apply returns set with the copies in the place of its issuers' keys: set itself where
// there are none.
func (f *Follower) Apply(set *policy.Set) *policy.Set {
	f.mu.Lock()
	defer f.mu.Unlock()
	issuers, a := f.replace(set.Issuers)
	keys, b := f.replace(set.APIKeys.Issuers)
	if !a && !b {
		return set
	}
	out := *set
	out.Issuers, out.APIKeys.Issuers = issuers, keys
	return &out
}

// replace returns list with the keys of copies. The caller holds f.mu.
func (f *Follower) replace(list []policy.Issuer) (out []policy.Issuer, changed bool) {
	out = list
	for i := range list {
		c := f.copies[list[i].JWKSURL]
		if c == nil || !slices.ContainsFunc(c.Beside, func(h []byte) bool { return string(h) == string(beside(&list[i])) }) {
			continue
		}
		keys := usable(c.Keys, list[i].Algorithms)
		if len(keys) == 0 {
			continue
		}
		if !changed {
			out, changed = slices.Clone(list), true
		}
		out[i].Keys, out[i].SingleKey = keys, false
	}
	return out, changed
}

// usable returns the keys that can verify one of the algorithms.
func usable(keys []policy.Key, algorithms []string) []policy.Key {
	var out []policy.Key
	for _, k := range keys {
		for _, a := range jwk.Algorithms(k) {
			if slices.Contains(algorithms, a) {
				out = append(out, k)
				break
			}
		}
	}
	return out
}

// beside is the hash of the keys that a bundle has for an issuer.
func beside(i *policy.Issuer) []byte {
	h := sha256.New()
	for _, k := range i.Keys {
		fmt.Fprintf(h, "%q %q %q %x\n", k.ID, k.Thumbprint, k.Algorithm, k.PKIX) // hash.Hash never fails
	}
	return h.Sum(nil)
}

// Follow makes the URLs of set those that Run fetches; nil: none. They are fetched at once.
// Secrets are those of set. An error names the issuer whose URL cannot be fetched; the
// others are followed.
func (f *Follower) Follow(set *policy.Set, secret func(policy.Secret) []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.watch
	f.watch = map[string]*watched{}
	for _, w := range old {
		w.site.Close()
	}
	if set == nil {
		return nil
	}
	var errs []error
	for _, list := range [][]policy.Issuer{set.Issuers, set.APIKeys.Issuers} {
		for i := range list {
			if err := f.follow(set, &list[i], secret); err != nil {
				errs = append(errs, fmt.Errorf("issuer %q: jwks_url: %w", list[i].Name, err))
			}
		}
	}
	f.nudge()
	return errors.Join(errs...)
}

// follow adds the URL of one issuer. The caller holds f.mu.
func (f *Follower) follow(set *policy.Set, i *policy.Issuer, secret func(policy.Secret) []byte) error {
	if i.JWKSURL == "" {
		return nil
	}
	w := f.watch[i.JWKSURL]
	if w == nil {
		var profile *policy.TLS
		if at := slices.IndexFunc(set.TLS, func(t policy.TLS) bool { return i.TLS != "" && t.Name == i.TLS }); at >= 0 {
			profile = &set.TLS[at]
		}
		site, err := upstream.NewSite(i.JWKSURL, upstream.SiteOptions{TLS: profile, Secret: secret, TLSTime: f.o.TLSTime, Connections: 1})
		if err != nil {
			return err
		}
		w = &watched{site: site, next: time.Now()}
		f.watch[i.JWKSURL] = w
	}
	w.beside = append(w.beside, beside(i))
	return nil
}

// Missing says that a token names a key that the set at url does not have: it is fetched
// soon, unless it was fetched just now. It never waits.
func (f *Follower) Missing(url string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.watch[url]
	if w == nil || w.failed > 0 {
		return // a failure is tried again by its own time
	}
	if at := w.last.Add(onDemand); at.Before(w.next) {
		w.next = at
		f.nudge()
	}
}

func (f *Follower) nudge() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Run fetches what is due, one URL at a time, until ctx ends.
func (f *Follower) Run(ctx context.Context) error {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		url, w, wait := f.due()
		if w != nil {
			f.one(ctx, url, w)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		t.Reset(wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.wake:
		case <-t.C:
		}
	}
}

// due returns the URL whose time has come, else how long that takes.
func (f *Follower) due() (string, *watched, time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	wait := latest
	for url, w := range f.watch {
		d := time.Until(w.next)
		if d <= 0 {
			return url, w, 0
		}
		wait = min(wait, d)
	}
	return "", nil, wait
}

// one fetches one set.
func (f *Follower) one(ctx context.Context, url string, w *watched) {
	keys, fresh, err := f.get(ctx, w.site)
	if ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	w.last = time.Now()
	if err != nil {
		w.failed++
		wait := min(firstWait<<min(w.failed-1, 10), longest)
		w.next = w.last.Add(wait/2 + rand.N(wait/2))
		known := f.copies[url] != nil
		f.mu.Unlock()
		f.o.Log.Warn("keys of an issuer not fetched; those known go on counting", "url", url, "copy", known, "failures", w.failed, "error", err)
		return
	}
	w.failed, w.next = 0, w.last.Add(fresh)
	if f.watch[url] != w { // another bundle follows it by now
		f.mu.Unlock()
		return
	}
	c := &keyCopy{Format: copyFormat, URL: url, Keys: keys, Beside: w.beside}
	same := equal(f.copies[url], c)
	gone := f.keep(c)
	f.mu.Unlock()
	if same {
		return
	}
	if err := f.save(c, gone); err != nil {
		f.o.Log.Error("keys of an issuer count until the next start only", "url", url, "error", err)
	}
	f.o.Log.Info("keys of an issuer changed", "url", url, "keys", len(keys))
	if f.o.Changed != nil {
		f.o.Changed()
	}
}

// keep puts c among the copies and returns the URLs that make room for it. The caller holds
// f.mu.
func (f *Follower) keep(c *keyCopy) (gone []string) {
	f.copies[c.URL] = c
	for url := range f.copies {
		if len(f.copies) <= maxCopies {
			break
		}
		if f.watch[url] == nil {
			delete(f.copies, url)
			gone = append(gone, url)
		}
	}
	return gone
}

func (f *Follower) save(c *keyCopy, gone []string) error {
	if f.o.DB == nil {
		return nil
	}
	b, err := cbor.Marshal(c)
	if err != nil {
		return err
	}
	return f.o.DB.Update(func(tx *store.Tx) error {
		at := tx.Bucket(bucket)
		for _, url := range gone {
			if err := at.Delete(name(url)); err != nil {
				return err
			}
		}
		return at.Put(name(c.URL), b)
	})
}

func name(url string) []byte {
	sum := sha256.Sum256([]byte(url))
	return sum[:]
}

func equal(a, b *keyCopy) bool {
	return a != nil && slices.EqualFunc(a.Keys, b.Keys, func(x, y policy.Key) bool {
		return x.ID == y.ID && x.Thumbprint == y.Thumbprint && x.Algorithm == y.Algorithm && string(x.PKIX) == string(y.PKIX)
	}) && slices.EqualFunc(a.Beside, b.Beside, func(x, y []byte) bool { return string(x) == string(y) })
}

func ask(ctx context.Context, site *upstream.Site) (*upstream.Answer, error) {
	return site.Ask(ctx, "GET", wire.Header{{Name: "Accept", Value: "application/jwk-set+json, application/json"}}, nil, jwk.MaxBytes, askTime)
}

// get fetches a set and returns how long it is fresh.
func (f *Follower) get(ctx context.Context, site *upstream.Site) ([]policy.Key, time.Duration, error) {
	a, err := f.ask(ctx, site)
	if err != nil {
		return nil, 0, err
	}
	if a.Status != 200 {
		return nil, 0, fmt.Errorf("status %d", a.Status)
	}
	keys, err := jwk.Parse(a.Body)
	if err != nil {
		return nil, 0, err
	}
	return keys, freshness(a.Header), nil
}

// freshness reads max-age of Cache-Control (RFC 9111 §5.2.2.1), within reason.
func freshness(h wire.Header) time.Duration {
	d := usual
	h.Values("Cache-Control", func(v string) bool {
		for part := range strings.SplitSeq(v, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			if n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil && strings.EqualFold(name, "max-age") {
				d = time.Duration(n) * time.Second
			}
		}
		return true
	})
	return min(max(d, soonest), latest)
}
