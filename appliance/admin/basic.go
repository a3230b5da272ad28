package admin

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// basicCache remembers logins by HTTP Basic authentication, which scrapers of metrics use: a
// hash of 12 MiB for every scrape would be a load of its own. It holds no password, only
// a keyed hash that dies with the process.
type basicCache struct {
	once sync.Once
	key  [32]byte

	mu    sync.Mutex
	known map[[32]byte]basicEntry
}

type basicEntry struct {
	account Account
	until   time.Time
}

const (
	basicLife = 10 * time.Minute
	maxBasic  = 64
)

func (c *basicCache) sum(name, password string) (out [32]byte) {
	c.once.Do(func() { rand.Read(c.key[:]) }) //nolint:errcheck // ends the process rather than fail
	m := hmac.New(sha256.New, c.key[:])
	m.Write([]byte(name + "\x00" + password))
	m.Sum(out[:0])
	return out
}

func (c *basicCache) get(k [32]byte, now time.Time) (Account, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.known[k]
	return e.account, ok && now.Before(e.until)
}

func (c *basicCache) put(k [32]byte, x Account, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= maxBasic {
		c.known = map[[32]byte]basicEntry{}
	}
	c.known[k] = basicEntry{x, now.Add(basicLife)}
}

// tryBasic checks a login by HTTP Basic authentication (RFC 7617). It only ever allows to look.
func (p *page) tryBasic(r *http.Request, addr netip.Addr, name, password string) (Account, bool, error) {
	if !p.d.Accounts.Any() {
		return Account{}, false, nil
	}
	k := p.basic.sum(name, password)
	if x, ok := p.basic.get(k, time.Now()); ok && p.d.Accounts.still(&x) {
		return x, true, nil
	}
	x, right, err := p.try(r.Context(), addr, name, password)
	if err != nil || !right {
		return Account{}, false, err
	}
	p.basic.put(k, x, time.Now())
	return x, true, nil
}

// sameText compares secrets in constant time.
func sameText(a, b string) bool {
	return b != "" && subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}
