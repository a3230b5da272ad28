package auth

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"tidegate/policy"
	"tidegate/policy/fault"
)

var errKeyUnknown = errors.New("the API key is not known")

func compareHashed(a, b policy.HashedKey) int { return bytes.Compare(a.Hash[:], b.Hash[:]) }

// key judges an API key: a random one by its hash, or a signed one when the set has
// issuers of those.
func (t *trial) key(s string) (*policy.Principal, *fault.Error) {
	if len(s) > MaxToken {
		return nil, t.unauthorized(fault.InvalidCredentials, errLong)
	}
	at := t.g.cacheKey(tagKey, s)
	if v := t.cached(at, s); v != nil {
		return t.again(v)
	}
	if len(t.g.keyIssuers) > 0 && t.g.isJWT(s) {
		v, err := t.g.parse(s, t.g.keyIssuers, true)
		if err != nil {
			return nil, t.notGenuine(err)
		}
		return t.first(at, v)
	}
	v := t.g.lookUp(s)
	if v == nil {
		return nil, t.unauthorized(fault.InvalidCredentials, errKeyUnknown)
	}
	return t.first(at, v)
}

// lookUp finds a random API key, nil if there is none. The list is searched by hash, so the time it
// takes says nothing about the keys themselves.
func (g *Guard) lookUp(s string) *Verified {
	h := sha256.Sum256([]byte(s))
	keys := g.set.APIKeys.Keys
	i, ok := slices.BinarySearchFunc(keys, h, func(k policy.HashedKey, h [32]byte) int {
		return bytes.Compare(k.Hash[:], h[:])
	})
	if !ok {
		return nil
	}
	k := &keys[i]
	v := &Verified{
		guard: g, exact: strings.Clone(s), size: len(s) + 512, hashed: k,
		times:  times{to: int64(min(k.Expires, 1<<53)), bounded: k.Expires != 0},
		idents: []ident{{policy.RevokedKey, [16]byte(h[:16])}},
	}
	if k.Application != "" {
		v.idents = append(v.idents, identOf(policy.RevokedApplication, k.Application))
	}
	return v
}

// admit returns the principal of a random API key at an API. The key is the grant: without a
// subscription it calls under the plan Unauthenticated, but the state of one that exists counts.
func (g *Guard) admit(k *policy.HashedKey, api int) (*policy.Principal, *fault.Fault, error) {
	a := &g.set.APIs[api]
	if len(k.APIs) > 0 && !slices.ContainsFunc(k.APIs, func(id policy.APIID) bool {
		return id.Name == a.Name && (id.Version == a.Version || id.Version == "*")
	}) {
		return nil, fault.ResourceForbidden, errNotAllowed
	}
	p := &policy.Principal{
		Kind: policy.APIKey, Subject: k.Name, Tenant: "carbon.super", KeyType: k.KeyType,
		ApplicationID: k.Application, SubscriptionPlan: policy.Unauthenticated,
	}
	app, ok := g.consumers.application(k.Application)
	if !ok {
		return p, nil, nil
	}
	d := g.consumers.describe(app)
	p.ApplicationName, p.ApplicationOwner, p.ApplicationPlan = d.name, d.owner, d.plan
	if s := g.consumers.subscription(app, api); s != nil {
		if f := barrier(s.State, k.KeyType); f != nil {
			return nil, f, errState
		}
		p.Subscribed, p.SubscriptionPlan = true, s.Plan
	}
	return p, nil, nil
}
