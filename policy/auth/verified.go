package auth

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"tidegate/policy"
	"tidegate/policy/fault"
)

// Verified is a credential that was found genuine by one Guard. It is opaque to caches,
// and holds no decision about an operation.
type Verified struct {
	guard  *Guard
	exact  string // the credential, compared on a hit; "" where the key of the cache is its SHA-256
	size   int    // bytes, about
	times  times
	idents []ident

	token  *token            // of a JWT
	hashed *policy.HashedKey // of a random API key
	fixed  *policy.Principal // of a login or certificate, with Cached set

	current atomic.Uint64 // generation of Revoked at which idents were clear, plus one
	last    atomic.Pointer[decision]
}

// decision is the principal of a token at the API it was used with last. It depends on
// nothing that changes during the life of a Guard.
type decision struct {
	api int
	p   *policy.Principal // with Cached set
}

// ident is a name under which a credential can be revoked.
type ident struct {
	kind policy.RevocationKind
	hash [16]byte
}

func identOf(kind policy.RevocationKind, name string) ident {
	return identOfBytes(kind, []byte(name))
}

func identOfBytes(kind policy.RevocationKind, name []byte) ident {
	h := sha256.Sum256(name)
	return ident{kind, [16]byte(h[:16])}
}

// appendUser appends the names of a user: with its tenant, and without the default one.
func appendUser(ids []ident, p *policy.Principal) []ident {
	full := p.UserID()
	if full == "" {
		return ids
	}
	ids = append(ids, identOf(policy.RevokedUser, full))
	if bare, ok := strings.CutSuffix(full, "@carbon.super"); ok {
		ids = append(ids, identOf(policy.RevokedUser, bare))
	}
	return ids
}

// revocations is the list of a bundle.
type revocations struct {
	list  []policy.Revocation
	start [policy.RevokedUser + 2]int // of each kind
}

func newRevocations(list []policy.Revocation) (revocations, error) {
	r := revocations{list: list}
	if !slices.IsSortedFunc(list, func(a, b policy.Revocation) int {
		if a.Kind != b.Kind {
			return int(a.Kind) - int(b.Kind)
		}
		return bytes.Compare(a.Hash[:], b.Hash[:])
	}) {
		return r, errors.New("revocations are not in ascending order of kind and hash")
	}
	for k := range r.start {
		r.start[k] = sort.Search(len(list), func(i int) bool { return int(list[i].Kind) >= k })
	}
	if n := len(list); n > 0 && (list[0].Kind == 0 || list[n-1].Kind > policy.RevokedUser) {
		return r, fmt.Errorf("revocations have a kind this program does not know: %d", list[n-1].Kind)
	}
	return r, nil
}

// has reports whether id is revoked at a time of which lower is the bound, in Unix seconds.
func (r *revocations) has(id ident, lower int64) bool {
	i, to := r.start[id.kind], r.start[id.kind+1]
	end := to
	for i < to {
		mid := int(uint(i+to) >> 1)
		if bytes.Compare(r.list[mid].Hash[:], id.hash[:]) < 0 {
			i = mid + 1
		} else {
			to = mid
		}
	}
	for ; i < end && r.list[i].Hash == id.hash; i++ {
		if standing(r.list[i].Until, lower) {
			return true
		}
	}
	return false
}

// standing reports whether a revocation is still in force. Only the lower bound may end one.
func standing(until uint64, lower int64) bool {
	return until == 0 || lower < 0 || uint64(lower) < until
}

var errRevoked = errors.New("the credential is revoked")

// clear reports whether none of ids is revoked, by the bundle or later.
func (g *Guard) clear(ids []ident, now policy.Now) bool {
	lower := now.Lower.Unix()
	for _, id := range ids {
		if g.bundled.has(id, lower) {
			return false
		}
	}
	return g.clearLately(ids, lower)
}

// clearLately looks at the later list only.
func (g *Guard) clearLately(ids []ident, lower int64) bool {
	if g.revoked == nil {
		return true
	}
	for _, id := range ids {
		if until, ok := g.revoked.Until(id.kind, id.hash); ok && standing(until, lower) {
			return false
		}
	}
	return true
}

// stands reports whether v, out of a cache, is not revoked. The list of the bundle was
// asked before v went into the cache and is the same for the life of the Guard; the later
// list is asked again when it has grown.
func (v *Verified) stands(now policy.Now) bool {
	g := v.guard
	if g.revoked == nil {
		return true
	}
	generation := g.revoked.Generation() // before the look: what is added meanwhile moves it
	if v.current.Load() == generation+1 {
		return true
	}
	if !g.clearLately(v.idents, now.Lower.Unix()) {
		return false
	}
	v.current.Store(generation + 1)
	return true
}

// times are the bounds of a credential in Unix seconds.
type times struct {
	from, to     int64 // nbf; exp: first second at which it no longer counts
	bounded      bool  // to is set
	leeway       int64
	unproven     policy.Unproven
	graceSeconds int64
}

var (
	errExpired  = errors.New("the credential is expired")
	errEarly    = errors.New("the credential is not valid yet")
	errUnproven = errors.New("the time is not proven, and the issuer asks for it")
)

// unprovenRetry is when a client may ask again for a time that is not proven yet.
const unprovenRetry = 60e9

// check judges by the two bounds of time: only the lower one may expire something, only
// the upper one may show that something has not begun. expired is the fault after the end.
func (w *times) check(now policy.Now, expired *fault.Fault) *fault.Error {
	if w.bounded && now.Lower.Unix()-w.leeway >= w.to {
		return fault.New(expired, errExpired)
	}
	if now.Upper.IsZero() {
		if !w.bounded {
			return nil
		}
		switch w.unproven {
		case policy.UnprovenStrict:
			return unproven()
		case policy.UnprovenGrace:
			if now.Boot.Seconds() > float64(w.graceSeconds) {
				return unproven()
			}
		}
		return nil
	}
	if w.from != 0 && w.from > now.Upper.Unix()+w.leeway {
		return fault.New(fault.InvalidCredentials, errEarly)
	}
	return nil
}

func unproven() *fault.Error {
	return &fault.Error{Fault: fault.ClockUnproven, Err: errUnproven, RetryAfter: unprovenRetry}
}
