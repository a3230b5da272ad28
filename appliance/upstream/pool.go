package upstream

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"sync"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"time"

	"github.com/sony/gobreaker/v2"
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
	// LookupSRV returns the records of a name, as net.Resolver.LookupSRV with empty service and
	// protocol; nil: the system's resolver.
	LookupSRV func(ctx context.Context, name string) ([]*net.SRV, error)
	// Dial replaces net.Dialer, for tests and special networks; nil: the system's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// maxAge is how long a connection serves before its target is resolved anew.
const maxAge = 5 * time.Minute

// A Pool holds the groups of one edition.
type Pool struct {
	groups []*Group
	opt    Options

	mu       sync.Mutex
	backends map[string]*backend // by what makes two targets the same
	records  map[string][]record // of SRV names, as last looked up
	leaving  []*backend          // no target any more; closed at the next look
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
	if opt.LookupSRV == nil {
		opt.LookupSRV = func(ctx context.Context, name string) ([]*net.SRV, error) {
			_, list, err := net.DefaultResolver.LookupSRV(ctx, "", "", name)
			return list, err
		}
	}
	p := &Pool{opt: opt, backends: map[string]*backend{}, records: map[string][]record{}}
	if old != nil {
		old.mu.Lock()
		defer old.mu.Unlock()
	}
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
	if len(targets) > maxTargets {
		return nil, fmt.Errorf("%d targets; at most %d", len(targets), maxTargets)
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
	if g.auth, err = newAuth(spec.Auth, over, profile, p.opt); err != nil {
		return nil, err
	}
	sources := make([]source, len(targets))
	for i, t := range targets {
		where, err := parsePlace(t.URL)
		if err != nil {
			return nil, err
		}
		sources[i] = source{where, max(int64(t.Weight), 1)}
		if !where.srv {
			continue
		}
		if g.srv == nil {
			g.srv = &discovery{looked: make(chan struct{})}
		}
		if old != nil && old.records[where.name] != nil {
			p.records[where.name] = old.records[where.name]
		}
	}
	if g.srv != nil {
		g.srv.sources, g.srv.profile = sources, profile
	}
	m, err := p.compose(g, sources, profile, old)
	if err != nil {
		return nil, err
	}
	g.members.Store(m)
	return g, nil
}

// target makes the target of g at where.
func (p *Pool) target(g *Group, where place, weight int64, profile *policy.TLS, old *Pool) (*target, error) {
	key := p.key(g, where, profile)
	b := p.backends[key]
	if b == nil && old != nil {
		b = old.backends[key]
	}
	if b == nil {
		var err error
		if b, err = p.backend(g, where, profile); err != nil {
			return nil, err
		}
	}
	p.backends[key] = b
	t := &target{backend: b, display: where.display, base: where.base, query: where.query, host: where.host, weight: weight, group: g}
	if g.spec.Host != "" {
		t.host = g.spec.Host
	}
	return t, nil
}

// key is all that makes what is known of a target: with another one it is not the same.
func (p *Pool) key(g *Group, where place, profile *policy.TLS) string {
	key := fmt.Sprintf("%s %s %s %v %+v %q", where.display, where.addr, where.name, g.spec.HTTP2, g.spec.Pool, g.spec.Proxy)
	if b := g.spec.Breaker; b != nil {
		key += fmt.Sprintf(" breaker %+v", *b)
	}
	if e := g.spec.Eject; e != nil {
		key += fmt.Sprintf(" eject %+v", *e)
	}
	if h := g.spec.Health; h != nil {
		key += fmt.Sprintf(" health %+v", *h)
	}
	if where.tls && profile != nil {
		key += fmt.Sprintf(" tls %+v %x", *profile, sha256.Sum256(p.opt.Secret(profile.ClientKey)))
	}
	return key
}

// backend makes what is not known yet.
func (p *Pool) backend(g *Group, where place, profile *policy.TLS) (*backend, error) {
	pool := g.spec.Pool
	t := wire.Target{
		Addr:       where.addr,
		MaxActive:  pick(int(pool.MaxActive), p.opt.MaxActive, 1024),
		MaxIdle:    pick(int(pool.MaxIdle), p.opt.MaxIdle, 64),
		Streams:    int(pool.Streams),
		MaxWaiting: pick(0, p.opt.MaxWait, 1024),
		WaitTime:   pool.Wait,
		IdleTime:   pool.Idle,
		MaxAge:     maxAge,
		Dial:       p.opt.Dial,
	}
	if pool.MaxActive < 0 {
		t.MaxActive = 1 << 20
	}
	if g.spec.HTTP2 {
		t.Protocol = wire.HTTP2
	}
	var err error
	if where.tls {
		if t.TLS, err = tlsConfig(profile, where.name, p.opt.Secret, p.opt.TLSTime); err != nil {
			return nil, err
		}
	}
	if g.spec.Proxy != "" {
		if t.Proxy, err = p.proxy(g.spec.Proxy); err != nil {
			return nil, err
		}
	}
	b := &backend{client: wire.NewClient(t)}
	if s := g.spec.Breaker; s != nil {
		b.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
			Name: where.display, MaxRequests: 1, Interval: s.Window, BucketPeriod: s.Bucket, Timeout: s.Reset,
			ReadyToTrip: func(c gobreaker.Counts) bool {
				seen := c.TotalSuccesses + c.TotalFailures
				return seen >= s.Volume && float64(c.TotalFailures) > s.Share*float64(seen)
			},
			IsExcluded: func(err error) bool { return err == errNoVerdict },
			OnStateChange: func(name string, from, to gobreaker.State) {
				p.opt.Log.Warn("circuit changed", "target", name, "from", from.String(), "to", to.String())
			},
		})
	}
	return b, nil
}

// proxy reads the URL of an outbound proxy. One that is spoken to over TLS is verified by
// the system's authorities.
func (p *Pool) proxy(raw string) (*wire.Proxy, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("proxy %q is not an http URL", raw)
	}
	out := &wire.Proxy{}
	port := "80"
	if u.Scheme == "https" {
		port = "443"
		if out.TLS, err = tlsConfig(nil, u.Hostname(), p.opt.Secret, p.opt.TLSTime); err != nil {
			return nil, err
		}
	}
	if q := u.Port(); q != "" {
		port = q
	}
	out.Addr = net.JoinHostPort(u.Hostname(), port)
	if u.User != nil {
		pw, _ := u.User.Password()
		out.Authorization = basicAuth(u.User.Username(), pw).Value
	}
	return out, nil
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

// interleave returns the given indexes of targets in proportion to their weights, spread
// evenly (smooth weighted round robin over one period, at most 1,024 steps).
func interleave(targets []*target, of []int) []int {
	var total int64
	for _, i := range of {
		total += targets[i].weight
	}
	steps := min(total, 1024)
	current := make([]int64, len(of))
	order := make([]int, 0, steps)
	seen := make([]bool, len(of))
	for range steps {
		best := 0
		for i, k := range of {
			current[i] += targets[k].weight
			if current[i] > current[best] {
				best = i
			}
		}
		current[best] -= total
		seen[best] = true
		order = append(order, of[best])
	}
	for i, ok := range seen { // a tiny weight beside a huge one still gets its turn
		if !ok {
			order = append(order, of[i])
		}
	}
	return order
}

// Run checks the health of targets and looks SRV names up until ctx ends. Groups without
// either cost nothing.
func (p *Pool) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, g := range p.groups {
		switch {
		case g.srv != nil:
			wg.Go(func() { p.discover(ctx, g) })
		case g.spec.Health != nil:
			for i, t := range g.members.Load().targets {
				wg.Go(func() { t.watch(ctx, i, p.opt.Log) })
			}
		}
	}
	wg.Wait()
	return ctx.Err()
}

// Retire marks p as replaced by next: what next has taken over stays open when p is
// closed. Run of p has ended or is about to.
func (p *Pool) Retire(next *Pool) {
	next.mu.Lock()
	defer next.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, b := range p.backends {
		if next.backends[key] == b {
			delete(p.backends, key)
		}
	}
}

// Close closes the connections of p. Calls in flight finish.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.backends {
		b.client.Close()
	}
	for _, b := range p.leaving {
		b.client.Close()
	}
	for _, g := range p.groups {
		if c, ok := g.auth.(*clientCredentials); ok {
			c.site.Close()
		}
	}
}
