// Package upstream sends calls to backends: it picks a target, tries again where that is
// safe, keeps away from targets that fail, and checks their health. The gateway above
// sees one call and one answer.
//
// What is known of a target (its breaker, its failures, its open connections) belongs to
// its URL and outlives the edition of a bundle: [New] takes it over from the pool before.
package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"time"
)

// DefaultTimeout is the time until an answer's header where a group names none.
const DefaultTimeout = 60 * time.Second

// replayBytes bounds the body that is kept for another try.
const replayBytes = 64 << 10

// A Group is one group of equal or ordered targets. It is safe for use by several goroutines.
type Group struct {
	name    string
	spec    *policy.Endpoints
	timeout time.Duration
	members atomic.Pointer[members]
	turn    atomic.Uint32
	auth    authorizer
	budget  *budget
	srv     *discovery // nil: every target has an address
}

// members are the targets of a group at one time. They are immutable.
type members struct {
	targets []*target
	// tiers are indexes into targets, in the order of turns; a tier is used while one of it
	// takes calls, else the next. Only SRV records of several priorities make more than one.
	tiers [][]int
}

// A Call is what [Group.Do] needs to know besides the request.
type Call struct {
	Suffix string // raw path below the base path, begins with "/" or is empty
	Query  string // the call's query, without "?"
	Host   string // Host to send; "": the group's or the target's
	Safe   bool   // the method may be repeated (RFC 9110 §9.2.2)
	// Within bounds all of the call, the answer's body too, beside what the group says: the time
	// after which its client does not want the answer any more. 0: no such time. That it passed
	// says nothing about the target, and reading the body fails with [ErrDeadline].
	Within time.Duration
}

// A Result says how a call went, for its event.
type Result struct {
	Target  string        // URL used last, without credentials
	Retries int           // tries after the first
	Backend time.Duration // until the answer's header, over all tries
}

// Name returns the name of the group, as in overrides.
func (g *Group) Name() string { return g.name }

// Do sends req to a target of g and returns the answer, whose body the caller closes.
// Do sets Base, Path, Query and Host of req, and Timeout where it is zero.
// Errors are [ErrTimeout], [*NoneError] and [ErrBroken], or the context's.
func (g *Group) Do(ctx context.Context, req *wire.Request, call Call) (*wire.Response, Result, error) {
	var res Result
	start := time.Now()
	var resp *wire.Response
	var err error
	if g.spec.Overall > 0 || call.Within > 0 {
		resp, err = g.within(ctx, req, call, &res)
	} else {
		resp, err = g.do(ctx, req, call, &res)
	}
	res.Backend = time.Since(start)
	return resp, res, err
}

// within is do with bounds of time: the group's over all tries, the client's over the body that
// follows too.
func (g *Group) within(ctx context.Context, req *wire.Request, call Call, res *Result) (*wire.Response, error) {
	end := func() {}
	if call.Within > 0 {
		ctx, end = context.WithDeadlineCause(ctx, time.Now().Add(call.Within), ErrDeadline)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := func() bool { return true }
	if g.spec.Overall > 0 {
		stop = time.AfterFunc(g.spec.Overall, func() { cancel(context.DeadlineExceeded) }).Stop
	}
	resp, err := g.do(ctx, req, call, res)
	stop()
	if err != nil {
		cancel(nil)
		end()
		return nil, err
	}
	resp.Body = &cancelling{resp.Body, ctx, cancel, end}
	return resp, nil
}

// cancelling is a body that ends its context with itself.
type cancelling struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	end    context.CancelFunc
}

// Read reads the body.
func (c *cancelling) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		if settle(c.ctx); context.Cause(c.ctx) == ErrDeadline {
			err = ErrDeadline
		}
	}
	return n, err
}

// Close closes the body.
func (c *cancelling) Close() error {
	err := c.ReadCloser.Close()
	c.cancel(nil)
	c.end()
	return err
}

// settle lets ctx end if its time has come. A backend that was told the deadline gives up at the
// same moment, and its news must not come first.
func settle(ctx context.Context) {
	if at, ok := ctx.Deadline(); ok && !time.Now().Before(at) {
		<-ctx.Done()
	}
}

func (g *Group) do(ctx context.Context, req *wire.Request, call Call, res *Result) (*wire.Response, error) {
	if req.Timeout == 0 {
		req.Timeout = g.timeout
	}
	m := g.members.Load()
	if len(m.targets) == 0 && g.srv != nil {
		m = g.found(ctx)
	}
	body := keep(req, call.Safe)
	p := newPlan(g, m)
	g.budget.deposit()
	t := p.pick()
	if t == nil {
		return nil, &NoneError{After: g.soonest()}
	}
	for {
		res.Target = t.display
		resp, err := t.do(ctx, req, call, body)
		if err == nil && !g.bad(resp.Status) {
			return resp, nil
		}
		last := classify(ctx, err)
		if may := (call.Safe || neverSent(err)) && body.rewind(req); !may || !p.again(ctx, resp) {
			return resp, last
		}
		// The answer is kept until another target takes the call: it is better than none.
		if t = p.pick(); t == nil {
			return resp, last
		}
		if resp != nil {
			resp.Body.Close()
		}
		res.Retries++
	}
}

// bad reports whether an answer with this status is worth another try.
func (g *Group) bad(status int) bool {
	return g.failsOver(status) || slices.Contains(g.spec.Retry.Statuses, uint16(status))
}

// failsOver reports whether the next target of a failover group is asked after status.
func (g *Group) failsOver(status int) bool {
	return g.spec.Kind == policy.Failover && status >= http.StatusNotImplemented && status <= http.StatusGatewayTimeout
}

// soonest returns after how long a call without a target may try again.
func (g *Group) soonest() time.Duration {
	d := time.Second
	if b := g.spec.Breaker; b != nil {
		d = max(d, b.Reset)
	} else if e := g.spec.Eject; e != nil {
		d = max(d, e.For)
	} else if h := g.spec.Health; h != nil {
		d = max(d, h.Interval)
	}
	return d
}

// maxTargets is the most targets of a group.
const maxTargets = 256

// A plan is the order in which one call tries targets: each target once, and that again
// for each retry.
type plan struct {
	g       *Group
	m       *members
	first   uint32
	tried   [maxTargets / 64]uint64 // bit per target
	retries uint32
	wait    time.Duration
}

func newPlan(g *Group, m *members) plan {
	p := plan{g: g, m: m, retries: g.spec.Retry.Count, wait: g.spec.Retry.Interval}
	if g.spec.Kind != policy.Failover && len(m.targets) > 1 {
		p.first = g.turn.Add(1) - 1
	}
	return p
}

// next returns the index of the next target that was not tried and takes calls, or -1.
func (p *plan) next() int {
	now := time.Now()
	for _, tier := range p.m.tiers {
		best := -1
		first := int(p.first % uint32(len(tier)))
		for i := range tier {
			k := first + i
			if k >= len(tier) {
				k -= len(tier)
			}
			k = tier[k]
			t := p.m.targets[k]
			if p.tried[k/64]&(1<<(k%64)) != 0 || !t.open(now) {
				continue
			}
			if p.g.spec.Kind != policy.LeastPending {
				return k
			}
			if best < 0 || t.load() < p.m.targets[best].load() {
				best = k
			}
		}
		if best >= 0 {
			return best
		}
	}
	return -1
}

// pick returns the next target and notes that it is tried, or nil.
func (p *plan) pick() *target {
	k := p.next()
	if k < 0 {
		return nil
	}
	p.tried[k/64] |= 1 << (k % 64)
	return p.m.targets[k]
}

// again reports whether the call may be tried once more after an answer, or after an
// error (resp is nil). It waits as long as the group's retries ask for.
func (p *plan) again(ctx context.Context, resp *wire.Response) bool {
	if ctx.Err() != nil {
		return false
	}
	if (resp == nil || p.g.failsOver(resp.Status)) && p.next() >= 0 {
		return true
	}
	if p.retries == 0 || resp != nil && !slices.Contains(p.g.spec.Retry.Statuses, uint16(resp.Status)) {
		return false
	}
	before := p.tried
	p.tried = [maxTargets / 64]uint64{}
	if p.next() < 0 || !p.g.budget.withdraw() {
		p.tried = before
		return false
	}
	p.retries--
	if !sleep(ctx, p.wait) {
		return false
	}
	p.wait = grow(p.wait, p.g.spec.Retry)
	return true
}

// grow returns the wait after d.
func grow(d time.Duration, r policy.Retry) time.Duration {
	if r.Factor > 1 {
		d = time.Duration(float64(d) * r.Factor)
	}
	if r.MaxWait > 0 {
		d = min(d, r.MaxWait)
	}
	return d
}

// sleep waits for d and reports whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// classify turns the error of one try into the group's. It returns nil for nil.
func classify(ctx context.Context, err error) error {
	var none *NoneError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &none):
		return err
	case errors.Is(err, wire.ErrBusy):
		return &NoneError{After: time.Second, Err: err}
	case context.Cause(ctx) == context.DeadlineExceeded, context.Cause(ctx) == ErrDeadline:
		return &timeoutError{err}
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return err
	case clientFault(err):
		return err
	case isTimeout(err):
		return &timeoutError{err}
	default:
		return &brokenError{err}
	}
}

// clientFault reports whether err is the client's: its body could not be read.
func clientFault(err error) bool {
	_, ok := wire.BodyFault(err)
	return ok
}

// neverSent reports whether no byte of the call has left for a backend, and another target
// may do better.
func neverSent(err error) bool {
	var none *NoneError
	return wire.NeverSent(err) || errors.As(err, &none)
}
