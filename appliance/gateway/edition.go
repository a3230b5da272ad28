package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"tidegate/appliance/cache"
	"tidegate/appliance/upstream"
	"tidegate/policy"
	"tidegate/policy/cors"
	"tidegate/policy/route"
	"tidegate/policy/schema"
	"tidegate/policy/throttle"
	"tidegate/policy/transform"
)

// An Edition is a bundle compiled into rules. It is immutable, but for the judge, which
// another one replaces when an issuer's keys change, and the count of the calls that use it.
type Edition struct {
	gw      *Gateway
	set     *policy.Set
	routes  *route.Table
	limiter *throttle.Limiter
	apis    []api
	pool    *upstream.Pool
	faults  policy.Faults

	assertions *assertions     // nil: backends are not told who calls
	checks     []*schema.Check // compiled Set.Schemas, where they are used
	bodies     bodies

	judge  atomic.Pointer[judge]
	asker  Introspector // nil: none
	secret func(policy.Secret) []byte

	refs atomic.Int64 // the gateway's own, and one per call
	stop context.CancelFunc
}

// api is what is prepared of one API.
type api struct {
	cors   *cors.Rules
	gate   *gate
	ops    []operation
	caches bool
	cache  cache.Rules
	space  cache.Space
}

// operation is what is prepared of one operation: nothing is looked up by name per call.
type operation struct {
	production *upstream.Group
	sandbox    *upstream.Group
	drop       []string // header fields that are not forwarded
	dropQuery  []string // query parameters that are not forwarded
	dropCookie []string // cookies that are not forwarded
	gate       *gate
	stats      *OpStats
	maxBody    int64            // bytes of a request's body, by operation, API and resource plan; 0: the device's limit
	request    *schema.Check    // nil: not checked
	response   *schema.Check    // nil: not checked
	rules      *transform.Rules // nil: nothing is edited
	speaks     bool             // rules tell the backend who calls
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
	e.secret = func(s policy.Secret) []byte { return secrets[string(s)] }
	if g.o.Introspector != nil && set.Introspection != nil {
		if e.asker, err = g.o.Introspector(set, e.secret); err != nil {
			errs = append(errs, err)
		}
	}
	j, err := e.newJudge()
	if err != nil {
		errs = append(errs, err)
	}
	e.judge.Store(j)
	if e.limiter, err = throttle.New(set); err != nil {
		errs = append(errs, err)
	}
	if e.pool, err = g.pool(set, secrets); err != nil {
		errs = append(errs, err)
	}
	if e.assertions, err = newAssertions(set, secrets, g.o.TLSTime); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	e.checks = make([]*schema.Check, len(set.Schemas))
	e.bodies = newBodies(set)
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
	if a.Cache != nil && a.Cache.Seconds > 0 {
		e.apis[i].caches, e.apis[i].cache = true, cacheRules(a.Cache)
		if e.apis[i].space, err = spaceOf(e.set, a); err != nil {
			return err
		}
	}
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
			op.carriers(e.judge.Load().guard.Carriers(e.at(i, k)))
		}
		if e.assertions != nil {
			op.drop = append(op.drop, e.assertions.maker.Header())
		}
		if op.gate, err = newGate(spec.Access); err != nil {
			return err
		}
		if err := e.messages(a, spec, op); err != nil {
			return fmt.Errorf("%s %s: %w", spec.Method, spec.Template, err)
		}
		op.stats = e.gw.stats.operation(OpName{a.Name, a.Version, spec.Method, spec.Template})
	}
	return nil
}

func first(a, b policy.EndpointRef) policy.EndpointRef {
	if a != 0 {
		return a
	}
	return b
}

// messages compiles what an operation says of bodies.
func (e *Edition) messages(a *policy.API, spec *policy.Operation, op *operation) (err error) {
	if op.request, err = e.check(spec.Request); err != nil {
		return err
	}
	if op.response, err = e.check(spec.Response); err != nil {
		return err
	}
	if op.rules, err = transform.New(a.Edit, spec.Edit); err != nil {
		return err
	}
	op.speaks = op.rules != nil && op.rules.Speaks()
	op.maxBody = e.bodies.operation(a, spec)
	return nil
}

// check returns a compiled schema of the set, nil for none.
func (e *Edition) check(ref policy.SchemaRef) (*schema.Check, error) {
	if ref == 0 {
		return nil, nil
	}
	if c := e.checks[ref-1]; c != nil {
		return c, nil
	}
	c, err := schema.New(&e.set.Schemas[ref-1])
	if err != nil {
		return nil, fmt.Errorf("schema %d: %w", ref, err)
	}
	e.checks[ref-1] = c
	return c, nil
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
	g.keepAnswers(e)
	g.follow(e)
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
		if e.asker != nil {
			e.asker.Close()
		}
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
