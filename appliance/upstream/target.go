package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"tidegate/appliance/wire"
	"tidegate/policy"
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
func (t *target) do(ctx context.Context, req *wire.Request, call Call, auth authorizer) (*wire.Response, error) {
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
	header := req.Header
	if auth != nil {
		h, err := auth.authorize(ctx, req.Header)
		if err != nil {
			return nil, err
		}
		req.Header = h
	}
	defer func() { req.Header = header }()
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
	if err != nil && wire.Stale(err) && call.Safe && req.Body == nil {
		resp, err = t.client.Do(ctx, req) // the kept connection had ended; a new one tells the truth
	}
	failed := t.failed(ctx, resp, err)
	if done != nil {
		done(failed)
	}
	if t.group.spec.Eject != nil {
		t.note(failed != nil)
	}
	if err != nil {
		t.pending.Add(-1)
		return nil, err
	}
	resp.Body = &counted{ReadCloser: resp.Body, t: t}
	return resp, nil
}

// failed returns why a try counts against the target, nil if it does not: what the client
// broke off, or sent wrongly, says nothing about a backend.
func (t *target) failed(ctx context.Context, resp *wire.Response, err error) error {
	if err != nil {
		if _, client := wire.BodyFault(err); client || ctx.Err() == context.Canceled {
			return nil
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
	for _, o := range g.targets {
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
	return float64(out) <= share*float64(len(g.targets))
}

// counted ends the count of calls in flight when the body is closed.
type counted struct {
	io.ReadCloser
	t    *target
	once atomic.Bool
}

// Close closes the body.
func (c *counted) Close() error {
	if c.once.CompareAndSwap(false, true) {
		c.t.pending.Add(-1)
	}
	return c.ReadCloser.Close()
}

// A place is a target's URL taken apart.
type place struct {
	addr    string // host:port
	tls     bool
	host    string // authority for Host
	base    string
	query   string
	display string
}

// parsePlace takes apart an http or https URL.
func parsePlace(raw string) (place, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return place{}, fmt.Errorf("endpoint %q: %w", raw, err)
	}
	p := place{host: u.Host, base: strings.TrimSuffix(u.EscapedPath(), "/"), query: u.RawQuery}
	port := "80"
	switch u.Scheme {
	case "http":
	case "https":
		p.tls, port = true, "443"
	default:
		return place{}, fmt.Errorf("endpoint %q: scheme %q; want http or https", raw, u.Scheme)
	}
	if u.Hostname() == "" {
		return place{}, fmt.Errorf("endpoint %q: no host", raw)
	}
	if q := u.Port(); q != "" {
		port = q
	}
	p.addr = net.JoinHostPort(u.Hostname(), port)
	p.display = u.Scheme + "://" + u.Host + p.base
	return p, nil
}

// tlsConfig makes the client's side of TLS for one group.
func tlsConfig(profile *policy.TLS, host string, secret func(policy.Secret) []byte, now func() time.Time) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, Time: now}
	if profile == nil {
		return c, nil
	}
	return c, applyProfile(c, profile, secret)
}
