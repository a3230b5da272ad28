package gateway

import (
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/route"
)

// An Introspector judges opaque tokens for one edition, which closes it at its end.
type Introspector interface {
	auth.Introspector
	Close()
}

// Keys are the keys of issuers that come after a bundle (jwks.Follower).
type Keys interface {
	// Apply returns set with the keys that are known now; set itself where it has the newest.
	Apply(set *policy.Set) *policy.Set
	// Follow hears of the set that serves, nil for none. Keys of set that change from now on are
	// told by [Gateway.Rekey].
	Follow(set *policy.Set, secret func(policy.Secret) []byte) error
	// Missing is told of a token that names a key that is not known. It must not wait.
	Missing(url string)
}

// A judge says who calls: a guard, and what it has verified.
type judge struct {
	guard  *auth.Guard
	tokens auth.Cache // nil: none
}

// judge makes the judge of e with the keys that are known now. The cache is a new one:
// what other keys have verified does not count.
func (e *Edition) newJudge() (*judge, error) {
	g := e.gw
	set := e.set
	o := auth.Options{Memory: g.o.Memory, Revoked: g.o.Revoked}
	if g.o.Keys != nil {
		set = g.o.Keys.Apply(set)
		o.MissingKey = g.o.Keys.Missing
	}
	if e.asker != nil {
		o.Introspector = e.asker
	}
	guard, err := auth.New(set, o)
	if err != nil {
		return nil, err
	}
	j := &judge{guard: guard}
	if g.o.Tokens > 0 {
		j.tokens = auth.NewCache(g.o.Tokens)
	}
	return j, nil
}

// Rekey makes the edition that serves judge by the keys that are known now. Calls go on
// meanwhile: each is judged by the old keys or by the new ones. After an error the old ones
// go on counting.
func (g *Gateway) Rekey() error {
	e := g.acquire()
	defer e.release()
	if e.routes == nil { // nothing serves
		return nil
	}
	j, err := e.newJudge()
	if err != nil {
		return err
	}
	e.judge.Store(j)
	return nil
}

// follow tells whose keys matter from now on. What changed since e was built counts too.
func (g *Gateway) follow(e *Edition) {
	if g.o.Keys == nil {
		return
	}
	var set *policy.Set
	secret := func(policy.Secret) []byte { return nil }
	if e != nil {
		set, secret = e.set, e.secret
	}
	if err := g.o.Keys.Follow(set, secret); err != nil {
		g.o.Log.Error("keys are not followed", "error", err)
	}
	if set == nil || g.o.Keys.Apply(set) == set {
		return
	}
	if err := g.Rekey(); err != nil {
		g.o.Log.Error("keys that were fetched do not count", "error", err)
	}
}

// carriers are the places from which the credentials of an operation are taken out before
// the call goes on: they are for the gateway, not for the backend.
func (o *operation) carriers(list []auth.Carrier) {
	for _, c := range list {
		switch c.In {
		case policy.InHeader:
			o.drop = append(o.drop, c.Name)
		case policy.InQuery:
			o.dropQuery = append(o.dropQuery, c.Name)
		case policy.InCookie:
			o.dropCookie = append(o.dropCookie, c.Name)
		}
	}
}

// at is the match of one operation, as far as a guard looks at it.
func (e *Edition) at(api, op int) *route.Match {
	return &route.Match{API: &e.set.APIs[api], Op: &e.set.APIs[api].Operations[op], APIIndex: api, OpIndex: op}
}
