package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"tidegate/appliance/wire"
	"time"

	"github.com/sony/gobreaker/v2"
)

// A backend is what is known of one URL. It outlives editions.
type backend struct {
	client  *wire.Client
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}] // nil: none
	pending atomic.Int64

	mu       sync.Mutex
	failures uint32    // in a row, for ejection
	ejected  time.Time // until
	passes   uint8     // health checks passed in a row
	fails    uint8     // health checks failed in a row
	down     atomic.Bool
}

// A target is a backend as one group uses it.
type target struct {
	*backend
	display string // URL without credentials and query, for events and logs
	base    string // path that comes before the call's
	query   string // query that comes before the call's
	host    string // Host sent
	weight  int64
	group   *Group
}

// load is what LeastPending compares: calls in flight per weight.
func (t *target) load() int64 { return t.pending.Load() * 1000 / t.weight }

// open reports whether the target takes calls at now.
func (t *target) open(now time.Time) bool {
	if t.down.Load() {
		return false
	}
	if t.breaker != nil && t.breaker.State() == gobreaker.StateOpen {
		return false
	}
	if t.group.spec.Eject == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return !now.Before(t.ejected)
}

// do tries one call at t and tells breaker and ejection how it went.
func (t *target) do(ctx context.Context, req *wire.Request, call Call, body *replay) (*wire.Response, error) {
	t.address(req, call)
	auth := t.group.auth
	if auth != nil {
		header := req.Header
		h, err := auth.authorize(ctx, header)
		if err != nil {
			return nil, err
		}
		req.Header = h
		defer func() { req.Header = header }()
	}
	var done func(error)
	if t.breaker != nil {
		d, err := t.breaker.Allow()
		if err != nil {
			return nil, &NoneError{After: t.group.soonest(), Err: err}
		}
		done = d
	}
	t.pending.Add(1)
	resp, err := t.client.Do(ctx, req)
	if err != nil && wire.Stale(err) && call.Safe && body.rewind(req) {
		resp, err = t.client.Do(ctx, req) // the kept connection had ended; a new one tells the truth
	}
	if err != nil {
		settle(ctx)
	}
	failed := t.failed(ctx, resp, err)
	if done != nil {
		done(failed)
	}
	if t.group.spec.Eject != nil {
		switch {
		case failed == nil && resp.Length == 0:
			t.note(false)
		case failed != nil && failed != errNoVerdict:
			t.note(true)
		}
	}
	if err != nil {
		t.pending.Add(-1)
		return nil, err
	}
	if auth != nil && resp.Status == http.StatusUnauthorized {
		auth.refused()
	}
	resp.Body = &counted{ReadCloser: resp.Body, t: t, ctx: ctx, bad: failed != nil}
	return resp, nil
}

// address sets where req goes.
func (t *target) address(req *wire.Request, call Call) {
	req.Base, req.Path, req.Query, req.Host = t.base, call.Suffix, call.Query, t.host
	if call.Host != "" {
		req.Host = call.Host
	}
	switch {
	case t.query != "" && call.Query != "":
		req.Query = t.query + "&" + call.Query
	case t.query != "":
		req.Query = t.query
	}
}

// errNoVerdict means that a try says nothing about the target: neither success nor failure.
var errNoVerdict = errors.New("ended for a reason that is not the backend's")

// failed returns why a try counts against the target, nil when it went well. What the
// client broke off or sent wrongly, and what never left for want of a connection, is errNoVerdict.
func (t *target) failed(ctx context.Context, resp *wire.Response, err error) error {
	if err != nil {
		if clientFault(err) || errors.Is(err, wire.ErrBusy) || errors.Is(err, wire.ErrClosed) ||
			ctx.Err() != nil && context.Cause(ctx) != context.DeadlineExceeded {
			return errNoVerdict
		}
		return err
	}
	if b := t.group.spec.Breaker; b != nil && slices.Contains(b.Statuses, uint16(resp.Status)) {
		return fmt.Errorf("status %d", resp.Status)
	}
	if e := t.group.spec.Eject; e != nil && t.group.spec.Breaker == nil && resp.Status >= 500 {
		return fmt.Errorf("status %d", resp.Status)
	}
	return nil
}

// note counts failures in a row and ejects the target when there are enough.
func (t *target) note(failed bool) {
	e := t.group.spec.Eject
	t.mu.Lock()
	defer t.mu.Unlock()
	if !failed {
		t.failures = 0
		return
	}
	t.failures++
	if t.failures < e.Failures || !t.group.mayEject(t) {
		return
	}
	t.failures = 0
	t.ejected = time.Now().Add(e.For)
}

// mayEject reports whether one more target may be out. The caller holds t's lock.
func (g *Group) mayEject(t *target) bool {
	share := g.spec.Eject.MaxShare
	if share == 0 {
		share = 0.5
	}
	out := 1
	now := time.Now()
	all := g.members.Load().targets
	for _, o := range all {
		if o.backend == t.backend {
			continue
		}
		if o.mu.TryLock() { // a target that is busy being judged is in use
			if now.Before(o.ejected) {
				out++
			}
			o.mu.Unlock()
		}
	}
	return float64(out) <= share*float64(len(all))
}

// counted is the body of an answer. It ends the count of calls in flight when it is
// closed, and tells the ejection whether the body came to its end.
type counted struct {
	io.ReadCloser
	t    *target
	ctx  context.Context
	bad  bool // the answer counted as a failure already
	once atomic.Bool
}

// Read reads the body.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if err != nil && c.t.group.spec.Eject != nil && c.ctx.Err() == nil {
		if err != io.EOF {
			c.t.note(true)
		} else if !c.bad {
			c.t.note(false)
		}
	}
	return n, err
}

// Close closes the body.
func (c *counted) Close() error {
	if c.once.CompareAndSwap(false, true) {
		c.t.pending.Add(-1)
	}
	return c.ReadCloser.Close()
}
