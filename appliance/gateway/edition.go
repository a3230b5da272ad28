package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"tidegate/appliance/upstream"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/cors"
	"tidegate/policy/route"
	"tidegate/policy/throttle"
)

// An Edition is a bundle compiled into rules. It is immutable, but for the cache of
// verified tokens and the count of the calls that use it.
type Edition struct {
	gw      *Gateway
	set     *policy.Set
	routes  *route.Table
	guard   *auth.Guard
	limiter *throttle.Limiter
	apis    []api
	pool    *upstream.Pool
	tokens  auth.Cache
	faults  policy.Faults

	refs atomic.Int64 // the gateway's own, and one per call
	stop context.CancelFunc
}

// api is what is prepared of one API.
type api struct {
	cors *cors.Rules
	gate *gate
	ops  []operation
}

// operation is what is prepared of one operation: nothing is looked up by name per call.
type operation struct {
	production *upstream.Group
	sandbox    *upstream.Group
	drop       []string // header fields that are not forwarded
	dropQuery  []string // query parameters that are not forwarded
	gate       *gate
	stats      *OpStats
}

// Set returns the words of the edition; they are read-only.
func (e *Edition) Set() *policy.Set { return e.set }

// Build compiles set into an edition. Secrets are by path. Every fault of the set is in
// the error; nothing is dialed and nothing live is touched.
func (g *Gateway) Build(set *policy.Set, secrets map[string][]byte) (*Edition, error) {
	if err := set.Validate(); err != nil {
		return nil, err
	}
	e := &Edition{gw: g, set: set, faults: set.Faults}
	e.refs.Store(1)
	var errs []error
	var err error
	if e.routes, err = route.New(set); err != nil {
		errs = append(errs, err)
	}
	o := auth.Options{Memory: g.o.Memory, Revoked: g.o.Revoked}
	if g.o.Introspector != nil && set.Introspection != nil {
		o.Introspector = g.o.Introspector(set)
	}
	if e.guard, err = auth.New(set, o); err != nil {
		errs = append(errs, err)
	}
	if e.limiter, err = throttle.New(set); err != nil {
		errs = append(errs, err)
	}
	if e.pool, err = g.pool(set, secrets); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if g.o.Tokens > 0 {
		e.tokens = auth.NewCache(g.o.Tokens)
	}
	e.apis = make([]api, len(set.APIs))
	for i := range set.APIs {
		if err := e.prepare(i); err != nil {
			errs = append(errs, fmt.Errorf("API %q %s: %w", set.APIs[i].Name, set.APIs[i].Version, err))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return e, nil
}

// pool compiles the backends, taking over what the active edition knows of them.
func (g *Gateway) pool(set *policy.Set, secrets map[string][]byte) (*upstream.Pool, error) {
	o := upstream.Options{
		Secret:  func(s policy.Secret) []byte { return secrets[string(s)] },
		TLSTime: g.o.TLSTime, Log: g.o.Log, MaxIdle: g.o.MaxIdle, MaxActive: g.o.MaxActive, MaxWait: g.o.MaxWait,
	}
	if g.o.Overrides != nil {
		o.Overrides = g.o.Overrides(set)
	}
	var old *upstream.Pool
	if cur := g.active.Load(); cur != nil {
		old = cur.pool
	}
	return upstream.New(set, o, old)
}

// prepare compiles the operations of one API.
func (e *Edition) prepare(i int) (err error) {
	a := &e.set.APIs[i]
	e.apis[i].cors = cors.New(a.CORS)
	if e.apis[i].gate, err = newGate(a.Access); err != nil {
		return err
	}
	e.apis[i].ops = make([]operation, len(a.Operations))
	for k := range a.Operations {
		spec := &a.Operations[k]
		op := &e.apis[i].ops[k]
		op.production = e.pool.Group(first(spec.Production, a.Production))
		op.sandbox = e.pool.Group(first(spec.Sandbox, a.Sandbox))
		if len(spec.Security) > 0 && !e.set.ForwardAuth {
			op.drop, op.dropQuery = credentials(e.set, a, spec)
		}
		if b := e.set.BackendJWT; b != nil && b.Enabled {
			op.drop = append(op.drop, assertionHeader(b))
		}
		if op.gate, err = newGate(spec.Access); err != nil {
			return err
		}
		op.stats = e.gw.stats.operation(a.Name, a.Version, spec.Method, spec.Template)
	}
	return nil
}

func first(a, b policy.EndpointRef) policy.EndpointRef {
	if a != 0 {
		return a
	}
	return b
}

// credentials returns the fields and parameters that carry the credentials of an
// operation: they are for the gateway, not for the backend.
func credentials(set *policy.Set, a *policy.API, op *policy.Operation) (header, query []string) {
	bearer := "Authorization"
	if set.AuthHeader != "" {
		bearer = set.AuthHeader
	}
	if a.AuthHeader != "" {
		bearer = a.AuthHeader
	}
	header = append(header, bearer)
	for _, alt := range op.Security {
		for _, use := range alt {
			switch s := a.Schemes[use.Scheme]; {
			case s.Kind != policy.APIKey:
			case s.In == policy.InHeader:
				header = append(header, s.Name)
			case s.In == policy.InQuery:
				query = append(query, s.Name)
			}
		}
	}
	return header, query
}

// assertionHeader is the field that carries the token for the backend.
func assertionHeader(b *policy.BackendJWT) string {
	if b.Header != "" {
		return b.Header
	}
	return "X-JWT-Assertion"
}

// Activate lets e serve from the next call on; nil serves nothing (503). It cannot fail.
// The edition before finishes its calls; then its connections that e does not use are closed.
func (g *Gateway) Activate(e *Edition) {
	if e != nil {
		ctx, stop := context.WithCancel(g.background)
		e.stop = stop
		g.watchers.Go(func() {
			if err := e.pool.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				g.o.Log.Error("health checks ended", "error", err)
			}
		})
		g.o.Counter.Expect(g.instant(), e.limiter.Rules())
	}
	old := g.active.Swap(e)
	if old == nil {
		return
	}
	old.stop()
	if e != nil {
		old.pool.Retire(e.pool)
	}
	old.release()
}

// Active returns the words of the edition that serves, nil for none.
func (g *Gateway) Active() *policy.Set {
	if e := g.active.Load(); e != nil {
		return e.set
	}
	return nil
}

// acquire returns the active edition, or the one that serves nothing, and counts the caller in.
func (g *Gateway) acquire() *Edition {
	for {
		e := g.active.Load()
		if e == nil {
			e = g.none
		}
		for n := e.refs.Load(); n > 0; n = e.refs.Load() {
			if e.refs.CompareAndSwap(n, n+1) {
				return e
			}
		}
		// e ended between the load and the count: another one is active by now.
	}
}

// release counts a caller out. The last one closes what nobody needs any more.
func (e *Edition) release() {
	if e.refs.Add(-1) == 0 && e.pool != nil {
		e.pool.Close()
	}
}

// Describe returns one line about e, for logs.
func (e *Edition) Describe() string {
	n := 0
	for i := range e.set.APIs {
		n += len(e.set.APIs[i].Operations)
	}
	return fmt.Sprintf("%s: %d APIs, %d operations", e.set.Name, len(e.set.APIs), n)
}
