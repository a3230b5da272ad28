// Package gateway is the path of a request: it matches, authenticates, limits, forwards
// and records each call under one edition, and it swaps editions.
//
// An [Edition] is a bundle compiled into rules; it is immutable. [Gateway.Compile] makes
// one, [Gateway.Activate] lets it serve: calls in flight finish under the edition they
// began with, and none waits or fails because of the swap. What outlives an edition is
// handed over: breakers and connections of backends, and the counters, which are not
// here but behind [throttle.Counter].
//
// The gateway works over [wire.Exchange] and never sees which engine reads the bytes.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"tidegate/appliance/cache"
	"tidegate/appliance/upstream"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/cors"
	"tidegate/policy/fault"
	"tidegate/policy/throttle"
	"tidegate/store/events"
	"time"
)

// A Recorder takes the event of every call. It must not wait, and must not keep e.
type Recorder interface {
	Record(e *events.Event)
}

// A Counter counts claims, and hears of the rules that calls are about to meet.
type Counter interface {
	throttle.Counter
	Expect(now throttle.Instant, rules []*throttle.Rule)
}

// A Clock tells what the device can say of the time.
type Clock interface {
	Now() policy.Now
	// Line is another number after the time floor was lowered.
	Line() uint32
}

// An AccessLog writes a line per call; nil in Options for none.
type AccessLog interface {
	Log(x wire.Exchange, e *events.Event)
}

// Options are what a gateway works with. All but AccessLog, Introspector,
// Revoked and Keys are required.
type Options struct {
	Clock    Clock
	Counter  Counter
	Recorder Recorder
	Log      *slog.Logger
	Access   AccessLog

	Memory       auth.Memory
	Introspector func(set *policy.Set, secret func(policy.Secret) []byte) (Introspector, error) // of a set that has introspection
	Revoked      auth.Revoked
	Keys         Keys

	Overrides func(*policy.Set) map[string]upstream.Override // addresses and credentials of this device
	TLSTime   func() time.Time
	MaxIdle   int
	MaxActive int
	MaxWait   int

	Tokens        int   // verified tokens remembered; 0: none
	InFlight      int64 // calls served at a time; beyond it 503
	ValidateBytes int64 // bytes of a body that is looked into; 0: 1 MiB
	CompressMin   int64 // bytes from which an answer is compressed
	Responses     int64 // bytes of answers that are stored; 0: none
}

// A Gateway serves calls. It is made once and lives as long as the device. All methods
// are safe for concurrent use, except that Activate is called by one goroutine at a time.
type Gateway struct {
	o      Options
	active atomic.Pointer[Edition]
	none   *Edition // serves nothing; stands in while none is active
	flight atomic.Int64
	stats  *Stats

	cache     *cache.Cache // nil: nothing is stored
	looking   looking
	squeezing *squeezing

	background context.Context // of health checks
	stop       context.CancelFunc
	watchers   sync.WaitGroup
}

// New returns a gateway without an edition: it answers 503 until one is activated.
func New(o Options) *Gateway {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, stop := context.WithCancel(context.Background())
	g := &Gateway{
		o: o, stats: newStats(), background: ctx, stop: stop,
		cache: cache.New(o.Responses), looking: newLooking(), squeezing: newSqueezing(),
	}
	g.none = &Edition{gw: g, set: &policy.Set{}}
	g.none.refs.Store(1)
	return g
}

// Close stops health checks. Calls still in flight finish.
func (g *Gateway) Close() {
	g.stop()
	g.watchers.Wait()
}

// Stats returns the counts of answers, for metrics and for the guard of a trial.
func (g *Gateway) Stats() *Stats { return g.stats }

// Responses returns the counts of the response cache.
func (g *Gateway) Responses() cache.Stats { return g.cache.Stats() }

// InFlight returns the number of calls being served.
func (g *Gateway) InFlight() int64 { return g.flight.Load() }

// instant is the time by which limits are judged.
func (g *Gateway) instant() throttle.Instant {
	now := g.o.Clock.Now()
	return throttle.Instant{Lower: now.Lower, Boot: now.Boot, Line: g.o.Clock.Line()}
}

// healthy is the body of GET /health.
const healthy = `{"status":"healthy"}`

// noBundle is what a call is told while nothing is active.
var noBundle = fault.NoBackend.With("No bundle is active")

// shed is what a call is told when too many are in flight.
var shed = fault.NoBackend.With("The gateway is busy")

// Serve decides one call and answers it (wire.Handler).
func (g *Gateway) Serve(x wire.Exchange) {
	start := time.Now()
	if h := x.Head(); h.Path == "/health" && (h.Method == http.MethodGet || h.Method == http.MethodHead) {
		g.health(x)
		return
	}
	n := g.flight.Add(1)
	defer g.flight.Add(-1)
	ed := g.acquire()
	defer ed.release()
	c := newCall(x, ed, start)
	defer c.finish()
	var err error
	switch {
	case ed == g.none:
		err = &fault.Error{Fault: noBundle, RetryAfter: 10 * time.Second}
	case n > g.o.InFlight && g.o.InFlight > 0:
		err = &fault.Error{Fault: shed, RetryAfter: time.Second}
	default:
		err = c.serve()
	}
	if err != nil {
		c.refuse(err)
	}
}

// serve takes the call through the rules. An error means that nothing was answered yet.
func (c *call) serve() error {
	h := c.x.Head()
	if cors.IsPreflight(c.x) && c.preflight(h) {
		return nil
	}
	m, err := c.ed.routes.Match(c.x.Host(), h.Method, h.Path, c.x.TLS() != nil)
	if err != nil {
		return err
	}
	c.match = m
	c.api = &c.ed.apis[m.APIIndex]
	c.op = &c.api.ops[m.OpIndex]
	c.now = c.ed.gw.o.Clock.Now()
	if err := c.access(); err != nil {
		return err
	}
	before := time.Now()
	j := c.ed.judge.Load()
	c.who, err = j.guard.Authenticate(c.context(), c.x, &c.match, c.now, j.tokens)
	after := time.Now()
	c.security = after.Sub(before)
	if err != nil {
		return err
	}
	err = c.take()
	c.limits = time.Since(after)
	if err != nil {
		return err
	}
	if n := c.ed.bodies.caller(c.op.maxBody, c.who); n > 0 {
		if h.Length > n {
			return fault.New(fault.TooLarge, errors.New("announced body is over the limit"))
		}
		c.maxBody = n
		c.x.LimitBody(n)
	}
	return c.forward()
}

// preflight answers a CORS preflight request for an API that has rules, before
// authentication: browsers send no credentials with it.
func (c *call) preflight(h *wire.Head) bool {
	i, methods, err := c.ed.routes.Methods(c.x.Host(), h.Path, c.x.TLS() != nil)
	if err != nil || c.ed.apis[i].cors == nil {
		return false
	}
	for _, f := range c.ed.apis[i].cors.Preflight(nil, c.x, methods) {
		c.add(f.Name, f.Value)
	}
	c.add(fieldID, c.x.ID())
	c.match.API, c.match.APIIndex = &c.ed.set.APIs[i], i
	c.start204()
	return true
}

func (c *call) start204() {
	c.status = http.StatusNoContent
	if err := c.x.Start(c.status, c.header, 0); err != nil {
		c.x.Abort()
	}
}

// health answers GET /health on the API listeners.
func (g *Gateway) health(x wire.Exchange) {
	h := wire.Header{{Name: "Content-Type", Value: fault.ContentType}, {Name: fieldID, Value: x.ID()}, {Name: "Cache-Control", Value: "no-store"}}
	if err := x.Start(http.StatusOK, h, int64(len(healthy))); err != nil {
		x.Abort()
		return
	}
	if x.Head().Method == http.MethodHead {
		return
	}
	if _, err := x.Write([]byte(healthy)); err != nil {
		x.Abort()
	}
}

// Refuse answers what the engine refused by itself (wire.Refuser).
func (g *Gateway) Refuse(x wire.Exchange, status int, reason string) {
	ed := g.acquire()
	defer ed.release()
	c := newCall(x, ed, time.Now())
	defer c.finish()
	f := protocolFault(status)
	e := &fault.Error{Fault: f, Err: errors.New(reason)}
	if status == http.StatusServiceUnavailable {
		e.RetryAfter = time.Second
	}
	c.refuse(e)
}

// protocolFault returns the fault of a status that an engine refuses with.
func protocolFault(status int) *fault.Fault {
	switch status {
	case http.StatusRequestTimeout:
		return fault.Timeout
	case http.StatusRequestEntityTooLarge:
		return fault.TooLarge
	case http.StatusRequestURITooLong:
		return fault.LongTarget
	case http.StatusRequestHeaderFieldsTooLarge:
		return fault.LargeHeader
	case http.StatusNotImplemented:
		return fault.NotImplemented
	case http.StatusHTTPVersionNotSupported:
		return fault.Version
	case http.StatusServiceUnavailable:
		return shed
	default:
		return fault.BadRequest
	}
}
