package gateway

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"sync"
	"tidegate/policy"
	"tidegate/policy/auth"
	"time"
)

// maxAssertions bounds the tokens for backends that are kept.
const maxAssertions = 4096

// assertions are the tokens for backends, made once per credential and API. They belong to an
// edition: another one may have another key.
type assertions struct {
	maker *auth.Assertion
	now   func() time.Time

	mu   sync.Mutex
	kept map[[32]byte]assertion
	ring [][32]byte // keys in the order in which they came
	next int
}

// assertion is one kept token.
type assertion struct {
	token string
	until time.Time // from which a new one is made
}

// newAssertions returns the maker of tokens of a set, nil when backends get none.
func newAssertions(set *policy.Set, secrets map[string][]byte, now func() time.Time) (*assertions, error) {
	if set.BackendJWT == nil && set.Introspection == nil {
		return nil, nil
	}
	var key []byte
	if set.BackendJWT != nil {
		key = secrets[string(set.BackendJWT.Key)]
	}
	m, err := auth.NewAssertion(set.BackendJWT, key)
	if err != nil {
		return nil, err
	}
	if now == nil {
		now = time.Now
	}
	return &assertions{maker: m, now: now, kept: map[[32]byte]assertion{}}, nil
}

// hashes are digests at rest.
var hashes = sync.Pool{New: func() any { return sha256.New() }}

// assertionKey is a digest of all that a token says of a caller at an API.
func assertionKey(p *policy.Principal, api int) (k [32]byte) {
	h := hashes.Get().(hash.Hash)
	defer hashes.Put(h)
	h.Reset()
	var buf [256]byte
	put := func(parts ...string) {
		for _, s := range parts {
			b := binary.AppendUvarint(buf[:0], uint64(len(s)))
			h.Write(append(b, s...))
		}
	}
	h.Write(binary.AppendUvarint(buf[:0], uint64(api)))
	put(p.Subject, p.Tenant, p.KeyType.String(), p.ApplicationID, p.ApplicationName, p.ApplicationOwner, p.ApplicationPlan,
		p.ConsumerKey, p.SubscriptionPlan)
	p.Claims.All(func(name, raw string) bool {
		put(name, raw)
		return true
	})
	h.Sum(k[:0])
	return k
}

// token returns the token for a caller at an API, "" for none.
func (a *assertions) token(p *policy.Principal, api *policy.API, index int) (string, error) {
	if p.EndUserToken != "" || p.Kind == 0 {
		return a.maker.Token(p, api, a.now(), "")
	}
	if a.maker.Life() == 0 {
		return "", nil
	}
	k := assertionKey(p, index)
	now := a.now()
	a.mu.Lock()
	got, ok := a.kept[k]
	a.mu.Unlock()
	if ok && now.Before(got.until) && got.until.Sub(now) <= a.maker.Life() { // a clock set back ends it too
		return got.token, nil
	}
	t, err := a.maker.Token(p, api, now, rand.Text())
	if err != nil || t == "" {
		return "", err
	}
	// It is handed out while a fifth of its life is left at least.
	a.keep(k, assertion{t, now.Add(a.maker.Life() / 5 * 4)})
	return t, nil
}

func (a *assertions) keep(k [32]byte, t assertion) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.kept[k]; !ok {
		if len(a.ring) < maxAssertions {
			a.ring = append(a.ring, k)
		} else {
			delete(a.kept, a.ring[a.next])
			a.ring[a.next] = k
			a.next = (a.next + 1) % maxAssertions
		}
	}
	a.kept[k] = t
}

// assert tells the backend who calls.
func (c *call) assert() error {
	a := c.ed.assertions
	if a == nil || c.who == nil {
		return nil
	}
	t, err := a.token(c.who, c.match.API, c.match.APIIndex)
	if err != nil {
		return err
	}
	if t != "" {
		c.set(a.maker.Header(), t)
	}
	return nil
}
