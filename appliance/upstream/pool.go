package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"tidegate/appliance/wire"
	"tidegate/policy"
)

// An Override replaces, on one device, what a bundle says of a group.
type Override struct {
	URLs     []string
	Username string
	Password string
}

// Options are what the device adds to a bundle's endpoints.
type Options struct {
	Overrides map[string]Override        // by group name
	Secret    func(policy.Secret) []byte // nil for an unknown one
	TLSTime   func() time.Time           // time for certificates; nil: the system's
	Log       *slog.Logger
	MaxIdle   int // connections kept per target; 0: 64
	MaxActive int // connections per target; 0: 1,024
	MaxWait   int // calls waiting per target; 0: 1,024
}

// A Pool holds the groups of one edition.
type Pool struct {
	groups   []*Group
	backends map[string]*backend // by what makes two targets the same
	opt      Options
}

// New compiles the groups of set. What old knows of a target, by URL and settings, is
// taken over; old may be nil. Nothing is dialed. The errors name their group.
func New(set *policy.Set, opt Options, old *Pool) (*Pool, error) {
	if opt.Secret == nil {
		opt.Secret = func(policy.Secret) []byte { return nil }
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	p := &Pool{backends: map[string]*backend{}, opt: opt}
	var errs []error
	for i := range set.Endpoints {
		g, err := p.group(set, &set.Endpoints[i], old)
		if err != nil {
			errs = append(errs, fmt.Errorf("endpoint %q: %w", set.Endpoints[i].Name, err))
			continue
		}
		p.groups = append(p.groups, g)
	}
	return p, errors.Join(errs...)
}

// Group returns the group that ref means, nil for none.
func (p *Pool) Group(ref policy.EndpointRef) *Group {
	if ref == 0 || int(ref) > len(p.groups) {
		return nil
	}
	return p.groups[ref-1]
}

func (p *Pool) group(set *policy.Set, spec *policy.Endpoints, old *Pool) (*Group, error) {
	g := &Group{name: spec.Name, spec: spec, timeout: spec.Timeout, budget: newBudget()}
	if g.timeout == 0 {
		g.timeout = DefaultTimeout
	}
	over := p.opt.Overrides[spec.Name]
	targets := spec.Targets
	if len(over.URLs) > 0 {
		targets = nil
		for _, u := range over.URLs {
			targets = append(targets, policy.Target{URL: u})
		}
	}
	if len(targets) == 0 {
		return nil, errors.New("no target")
	}
	if len(targets) > 256 {
		return nil, fmt.Errorf("%d targets; at most 256", len(targets))
	}
	var profile *policy.TLS
	if spec.TLS != "" {
		i := slices.IndexFunc(set.TLS, func(t policy.TLS) bool { return t.Name == spec.TLS })
		if i < 0 {
			return nil, fmt.Errorf("unknown TLS profile %q", spec.TLS)
		}
		profile = &set.TLS[i]
	}
	var err error
	if g.auth, err = newAuth(spec.Auth, over, p.opt); err != nil {
		return nil, err
	}
	for _, t := range targets {
		if err := p.add(g, t, profile, old); err != nil {
			return nil, err
		}
	}
	g.order = interleave(g.targets)
	return g, nil
}

// add adds one target to g.
func (p *Pool) add(g *Group, spec policy.Target, profile *policy.TLS, old *Pool) error {
	where, err := parsePlace(spec.URL)
	if err != nil {
		return err
	}
	key := fmt.Sprintf("%s %v %+v %+v %+v %v %q", spec.URL, g.spec.HTTP2, g.spec.Pool, g.spec.Breaker, profile, g.spec.Eject != nil, g.spec.Proxy)
	if g.spec.Breaker != nil {
		key += fmt.Sprintf(" %+v", *g.spec.Breaker)
	}
	b := p.backends[key]
	if b == nil && old != nil {
		b = old.backends[key]
	}
	if b == nil {
		if b, err = p.backend(g, where, profile); err != nil {
			return err
		}
	}
	p.backends[key] = b
	t := &target{backend: b, display: where.display, base: where.base, query: where.query, host: where.host, weight: max(int64(spec.Weight), 1), group: g}
	if g.spec.Host != "" {
		t.host = g.spec.Host
	}
	g.targets = append(g.targets, t)
	return nil
}

// backend makes what is not known yet.
func (p *Pool) backend(g *Group, where place, profile *policy.TLS) (*backend, error) {
	host, _, err := net.SplitHostPort(where.addr)
	if err != nil {
		return nil, err
	}
	pool := g.spec.Pool
	t := wire.Target{
		Addr:       where.addr,
		MaxActive:  pick(int(pool.MaxActive), p.opt.MaxActive, 1024),
		MaxIdle:    pick(int(pool.MaxIdle), p.opt.MaxIdle, 64),
		MaxWaiting: pick(0, p.opt.MaxWait, 1024),
		IdleTime:   pool.Idle,
	}
	if pool.MaxActive < 0 {
		t.MaxActive = 1 << 20
	}
	if g.spec.HTTP2 {
		t.Protocol = wire.HTTP2
	}
	if where.tls {
		if t.TLS, err = tlsConfig(profile, host, p.opt.Secret, p.opt.TLSTime); err != nil {
			return nil, err
		}
	}
	if g.spec.Proxy != "" {
		u, err := url.Parse(g.spec.Proxy)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("proxy %q is not a URL", g.spec.Proxy)
		}
		t.Proxy = &wire.Proxy{Addr: u.Host}
		if u.User != nil {
			pw, _ := u.User.Password()
			t.Proxy.Authorization = basicAuth(u.User.Username(), pw).Value
		}
	}
	b := &backend{client: wire.NewClient(t)}
	if s := g.spec.Breaker; s != nil {
		b.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
			Name: where.display, MaxRequests: 1, Interval: s.Window, BucketPeriod: s.Bucket, Timeout: s.Reset,
			ReadyToTrip: func(c gobreaker.Counts) bool {
				return c.Requests >= s.Volume && float64(c.TotalFailures) > s.Share*float64(c.Requests)
			},
			OnStateChange: func(name string, from, to gobreaker.State) {
				p.opt.Log.Warn("circuit changed", "target", name, "from", from.String(), "to", to.String())
			},
		})
	}
	return b, nil
}

// pick returns the first value above zero.
func pick(values ...int) int {
	for _, v := range values {
		if v > 0 {
			return v
		}
	}
	return 0
}

// interleave returns indexes of targets in proportion to their weights, spread evenly
// (smooth weighted round robin over one period, at most 1,024 steps).
func interleave(targets []*target) []int {
	var total int64
	for _, t := range targets {
		total += t.weight
	}
	steps := min(total, 1024)
	if steps < int64(len(targets)) {
		steps = int64(len(targets))
	}
	current := make([]int64, len(targets))
	order := make([]int, 0, steps)
	for range steps {
		best := 0
		for i, t := range targets {
			current[i] += t.weight
			if current[i] > current[best] {
				best = i
			}
		}
		current[best] -= total
		order = append(order, best)
	}
	for i := range targets { // a tiny weight beside a huge one still gets its turn
		if !slices.Contains(order, i) {
			order = append(order, i)
		}
	}
	return order
}

// Run checks the health of targets until ctx ends. Groups without a health check cost nothing.
func (p *Pool) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, g := range p.groups {
		if g.spec.Health == nil {
			continue
		}
		for _, t := range g.targets {
			wg.Go(func() { t.watch(ctx, p.opt.Log) })
		}
	}
	wg.Wait()
	return ctx.Err()
}

// Retire marks p as replaced by next: what next has taken over stays open when p is closed.
func (p *Pool) Retire(next *Pool) {
	for key, b := range p.backends {
		if next.backends[key] == b {
			delete(p.backends, key)
		}
	}
}

// Close closes the connections of p. Calls in flight finish.
func (p *Pool) Close() {
	for _, b := range p.backends {
		b.client.Close()
	}
}
