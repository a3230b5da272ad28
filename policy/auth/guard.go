package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/maphash"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"tidegate/policy"
	"tidegate/policy/fault"
	"tidegate/policy/route"

	"github.com/golang-jwt/jwt/v5"
)

// A Guard decides who calls. It is immutable and safe for concurrent use.
type Guard struct {
	set          *policy.Set
	memory       Memory
	introspector Introspector
	revoked      Revoked

	apis       []apiRules
	issuers    map[string]*issuer // by claim iss
	keyIssuers map[string]*issuer // of signed API keys
	users      map[string]*user
	stranger   *secret // checked for unknown users: as costly as the costliest of users
	consumers  consumers
	bundled    revocations
	expired    *fault.Fault // for a genuine JWT after its exp

	parser *jwt.Parser
	yields sync.Pool    // of *counter
	seed   maphash.Seed // of cache keys; another one in each Guard
	salt   [32]byte     // of cache keys of logins
}

// apiRules are what one API asks of a caller.
type apiRules struct {
	header   string // of bearer tokens and logins, canonical
	mutual   policy.MutualTLS
	suffices bool // the certificate alone
	cas      authorities
	keys     []place
	ops      []*opRules
}

// place is where an API key may be.
type place struct {
	in   policy.Location
	name string
}

// opRules are what one operation asks of a caller.
type opRules struct {
	alternatives []alternative // none: unsecured
	scopes       []string      // any one of them
	missing      string        // challenge without a credential
	bearer       bool          // a bearer challenge is due
	places       uint          // bits of apiRules.keys that are allowed
	carriers     []Carrier
}

// alternative is a list of credentials that are all needed, in the order in which kinds decide.
type alternative []use

type use struct {
	kind policy.SchemeKind
	key  int // index into apiRules.keys, for API keys
}

// nobody is the principal of unsecured operations. It is shared and read-only.
var nobody = new(policy.Principal)

// New compiles a set. All faults that a person can fix are reported together, each with
// the name of what has it. The set must not change while the Guard is in use.
func New(set *policy.Set, o Options) (*Guard, error) {
	g := &Guard{
		set: set, memory: o.Memory, introspector: o.Introspector, revoked: o.Revoked,
		parser: newParser(), seed: maphash.MakeSeed(), expired: fault.InvalidCredentials,
	}
	if set.Faults == policy.FaultsProblem {
		g.expired = fault.TokenExpired
	}
	g.yields.New = func() any { return newCounter() }
	rand.Read(g.salt[:])
	missing := o.MissingKey
	if missing == nil {
		missing = func(string) {}
	}
	var errs []error
	var err error
	if g.issuers, err = compileIssuers("issuer", set.Issuers, missing); err != nil {
		errs = append(errs, err)
	}
	if g.keyIssuers, err = compileIssuers("api key issuer", set.APIKeys.Issuers, missing); err != nil {
		errs = append(errs, err)
	}
	if err := g.compileUsers(); err != nil {
		errs = append(errs, err)
	}
	if g.bundled, err = newRevocations(set.Revoked); err != nil {
		errs = append(errs, err)
	}
	if !slices.IsSortedFunc(set.APIKeys.Keys, compareHashed) {
		errs = append(errs, errors.New("api keys are not in ascending order of their hashes"))
	}
	g.consumers = newConsumers(set)
	cas, err := compileAuthorities(set.ClientCAs)
	if err != nil {
		errs = append(errs, err)
	}
	g.apis = make([]apiRules, len(set.APIs))
	for i := range set.APIs {
		a := &set.APIs[i]
		if g.apis[i], err = compileAPI(set, a, cas); err != nil {
			errs = append(errs, fmt.Errorf("api %q: %w", a.Name+":"+a.Version, err))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return g, nil
}

func compileAPI(set *policy.Set, a *policy.API, cas []namedAuthorities) (apiRules, error) {
	r := apiRules{
		header: "Authorization", mutual: a.MutualTLS,
		suffices: a.MutualTLS == policy.MutualMandatory && a.Optional,
	}
	switch {
	case a.AuthHeader != "":
		r.header = textproto.CanonicalMIMEHeaderKey(a.AuthHeader)
	case set.AuthHeader != "":
		r.header = textproto.CanonicalMIMEHeaderKey(set.AuthHeader)
	}
	var errs []error
	var err error
	keyOf := make([]int, len(a.Schemes))
	certificates := r.mutual != policy.MutualNone
	for i, s := range a.Schemes {
		switch s.Kind {
		case policy.APIKey:
			name := s.Name
			if s.In == policy.InHeader {
				name = textproto.CanonicalMIMEHeaderKey(name)
			}
			if s.In != policy.InHeader && s.In != policy.InQuery && s.In != policy.InCookie || name == "" {
				errs = append(errs, fmt.Errorf("security scheme %d: an API key needs a header, query parameter or cookie with a name", i))
			}
			keyOf[i] = len(r.keys)
			r.keys = append(r.keys, place{s.In, name})
		case policy.Certificate:
			certificates = true
			if r.mutual == policy.MutualNone {
				r.mutual = policy.MutualOptional
			}
		case policy.OAuth2, policy.Basic:
		default:
			errs = append(errs, fmt.Errorf("security scheme %d: unknown kind %d", i, s.Kind))
		}
	}
	if certificates {
		if r.cas, err = choose(cas, a.ClientCAs); err != nil {
			errs = append(errs, err)
		} else if r.cas.empty() {
			errs = append(errs, errors.New("client certificates are asked for, but there is no authority or certificate to accept: add one to mtls in auth.yaml"))
		}
	}
	if len(r.keys) > maxPlaces {
		errs = append(errs, fmt.Errorf("API keys may come from %d places, at most %d are possible", len(r.keys), maxPlaces))
	}
	r.ops = make([]*opRules, len(a.Operations))
	for i := range a.Operations {
		o := &a.Operations[i]
		if i > 0 && asks(o, &a.Operations[i-1]) {
			r.ops[i] = r.ops[i-1]
			continue
		}
		compiled, err := compileOp(a, o, keyOf, r.keys)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", o.Method, o.Template, err))
		}
		compiled.carry(&r)
		r.ops[i] = &compiled
	}
	return r, errors.Join(errs...)
}

// asks reports whether two operations of one API ask for the same.
func asks(o, p *policy.Operation) bool {
	return slices.Equal(o.Scopes, p.Scopes) && slices.EqualFunc(o.Security, p.Security, func(a, b policy.Alternative) bool {
		return slices.EqualFunc(a, b, func(u, v policy.Use) bool { return u.Scheme == v.Scheme && slices.Equal(u.Scopes, v.Scopes) })
	})
}

func compileOp(a *policy.API, o *policy.Operation, keyOf []int, keys []place) (opRules, error) {
	r := opRules{scopes: o.Scopes}
	var challenges []string
	for _, alt := range o.Security {
		var c alternative
		for _, u := range alt {
			if int(u.Scheme) >= len(a.Schemes) {
				return r, fmt.Errorf("security scheme %d does not exist", u.Scheme)
			}
			kind := a.Schemes[u.Scheme].Kind
			c = append(c, use{kind, keyOf[u.Scheme]})
			if kind == policy.APIKey {
				r.places |= 1 << keyOf[u.Scheme]
			}
			challenge := challengeFor(kind, keys, keyOf[u.Scheme])
			if !slices.Contains(challenges, challenge) {
				challenges = append(challenges, challenge)
			}
			r.bearer = r.bearer || kind == policy.OAuth2
			if len(o.Scopes) == 0 { // nothing at the operation itself: what the requirements say still counts
				r.scopes = append(r.scopes, u.Scopes...)
			}
		}
		if len(c) == 0 {
			return r, errors.New("an alternative without a scheme would let anybody in")
		}
		slices.SortStableFunc(c, func(a, b use) int { return rank(a.kind) - rank(b.kind) })
		r.alternatives = append(r.alternatives, c)
	}
	r.missing = strings.Join(challenges, ", ")
	return r, nil
}

// A Carrier is a place in a request that may hold a credential.
type Carrier struct {
	In   policy.Location
	Name string // in canonical form for a header
}

// Carriers returns the places where credentials of an operation are looked for: what a
// gateway takes out of the forwarded request, all of them and all lines of each. The slice belongs to the Guard.
func (g *Guard) Carriers(m *route.Match) []Carrier {
	if !g.knows(m) {
		return nil
	}
	return g.apis[m.APIIndex].ops[m.OpIndex].carriers
}

// carry notes the places of an operation's credentials.
func (r *opRules) carry(a *apiRules) {
	header := false
	for _, alt := range r.alternatives {
		for _, u := range alt {
			header = header || u.kind == policy.OAuth2 || u.kind == policy.Basic
		}
	}
	if header {
		r.carriers = append(r.carriers, Carrier{policy.InHeader, a.header})
	}
	for i, p := range a.keys {
		if r.places&(1<<i) != 0 {
			r.carriers = append(r.carriers, Carrier{p.in, p.name})
		}
	}
}

// knows reports whether m may be of this Guard's set.
func (g *Guard) knows(m *route.Match) bool {
	return m.APIIndex < len(g.apis) && m.OpIndex < len(g.apis[m.APIIndex].ops)
}

// rank is the place of a kind in the order in which credentials decide.
func rank(k policy.SchemeKind) int {
	switch k {
	case policy.Certificate:
		return 0
	case policy.OAuth2:
		return 1
	case policy.Basic:
		return 2
	}
	return 3
}

// Authenticate returns who calls, the zero Principal on an unsecured operation. The
// result may be shared: it is read-only. Cache may be nil. The errors are *fault.Error, with a
// challenge where one is due.
func (g *Guard) Authenticate(ctx context.Context, call policy.Call, m *route.Match, now policy.Now, cache Cache) (*policy.Principal, error) {
	if !g.knows(m) {
		return nil, refuse(fault.Unclassified, errors.New("the match is of another edition"))
	}
	a := &g.apis[m.APIIndex]
	o := a.ops[m.OpIndex]
	if len(o.alternatives) == 0 && a.mutual != policy.MutualMandatory {
		return nobody, nil
	}
	t := trial{g: g, ctx: ctx, call: call, m: m, now: now, cache: cache, api: a, op: o}
	p, err := t.run()
	if err != nil {
		return nil, err
	}
	return p, nil
}

// trial is one call before the Guard.
type trial struct {
	g     *Guard
	ctx   context.Context
	call  policy.Call
	m     *route.Match
	now   policy.Now
	cache Cache
	api   *apiRules
	op    *opRules
	offer offer
}

func (t *trial) run() (*policy.Principal, *fault.Error) {
	if len(t.op.alternatives) > 0 {
		if err := t.offer.read(t.g, t.call, t.api, t.op); err != nil {
			return nil, t.unauthorized(fault.InvalidCredentials, err)
		}
	}
	var holder *policy.Principal // of the certificate
	if t.api.mutual != policy.MutualNone {
		var err *fault.Error
		if holder, err = t.certificate(); err != nil {
			return nil, err
		}
		if holder != nil && (len(t.op.alternatives) == 0 || t.api.suffices) {
			return holder, nil
		}
	}
	chosen := t.choose(holder != nil)
	if chosen == nil {
		return nil, t.nothing()
	}
	var p *policy.Principal
	for _, u := range chosen {
		if u.kind == policy.Certificate {
			continue
		}
		q, err := t.verify(u)
		if err != nil {
			return nil, err
		}
		if p == nil {
			p = q
		}
	}
	switch {
	case p == nil:
		return holder, nil
	case holder != nil:
		both := *p
		both.Certificate = holder.Certificate
		return &both, nil
	}
	return p, nil
}

// choose returns the alternative that decides: of those with every credential there, the one
// whose first credential comes first in the order of kinds, then the first of the document.
func (t *trial) choose(certificate bool) alternative {
	var best alternative
	for _, alt := range t.op.alternatives {
		if best != nil && rank(best[0].kind) <= rank(alt[0].kind) {
			continue
		}
		there := true
		for _, u := range alt {
			there = there && t.offer.has(u, certificate)
		}
		if there {
			best = alt
		}
	}
	return best
}

// nothing says why no alternative can be tried.
func (t *trial) nothing() *fault.Error {
	if !t.offer.any() {
		if t.offer.elsewhere(t.g, t.call, t.api, t.op) {
			return &fault.Error{Fault: fault.InvalidScheme, Challenge: t.op.missing}
		}
		return &fault.Error{Fault: fault.MissingCredentials, Challenge: t.op.missing}
	}
	for _, alt := range t.op.alternatives {
		for _, u := range alt {
			if u.kind != policy.Certificate && t.offer.has(u, false) {
				return &fault.Error{Fault: fault.MissingCredentials, Err: errIncomplete, Challenge: t.op.missing}
			}
		}
	}
	return &fault.Error{Fault: fault.InvalidScheme, Challenge: t.op.missing}
}

func (t *trial) verify(u use) (*policy.Principal, *fault.Error) {
	switch u.kind {
	case policy.OAuth2:
		return t.bearer(t.offer.token)
	case policy.Basic:
		return t.login(t.offer.token)
	default:
		return t.key(t.offer.keys[u.key])
	}
}

// scoped checks that one of the needed scopes is held.
func (t *trial) scoped(held []string, f *policy.Principal) (*policy.Principal, *fault.Error) {
	if len(t.op.scopes) == 0 {
		return f, nil
	}
	for _, s := range t.op.scopes {
		if slices.Contains(held, s) {
			return f, nil
		}
	}
	return nil, &fault.Error{Fault: fault.InsufficientScope, Err: errScope, Challenge: t.scopeChallenge()}
}

var (
	errIncomplete = errors.New("one of several needed credentials is missing")
	errScope      = errors.New("none of the needed scopes is held")
)
