package upstream

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"tidegate/policy"
	"time"
)

// When SRV names are looked up. The system's resolver does not tell how long a record may
// be kept.
const (
	lookEvery  = 30 * time.Second
	lookAgain  = 5 * time.Second // after a failure
	lookTime   = 4 * time.Second // of one look
	firstWait  = 2 * time.Second // of a call that comes before the first look has ended
	maxRecords = 64              // of one name
)

// A source is one URL of a group: a target, or a name of SRV records.
type source struct {
	place
	weight int64
}

// A record is one SRV record (RFC 2782) as far as it matters.
type record struct {
	target           string
	port             uint16
	priority, weight uint16
}

// discovery is what a group with SRV names has beside others.
type discovery struct {
	sources []source
	profile *policy.TLS
	once    sync.Once
	looked  chan struct{} // closed after the first look
}

// found waits a moment for the first look of a group that has no target yet.
func (g *Group) found(ctx context.Context) *members {
	t := time.NewTimer(firstWait)
	defer t.Stop()
	select {
	case <-g.srv.looked:
	case <-ctx.Done():
	case <-t.C:
	}
	return g.members.Load()
}

// compose makes the targets of a group from its sources and the records that are known.
// The caller holds p.mu, or p is not in use yet.
func (p *Pool) compose(g *Group, sources []source, profile *policy.TLS, old *Pool) (*members, error) {
	m := &members{}
	var tiers [][]int
	add := func(where place, weight int64, tier int) error {
		if len(m.targets) == maxTargets {
			return nil
		}
		t, err := p.target(g, where, weight, profile, old)
		if err != nil {
			return err
		}
		for len(tiers) <= tier {
			tiers = append(tiers, nil)
		}
		tiers[tier] = append(tiers[tier], len(m.targets))
		m.targets = append(m.targets, t)
		return nil
	}
	for _, s := range sources {
		if !s.srv {
			if err := add(s.place, s.weight, 0); err != nil {
				return nil, err
			}
			continue
		}
		tier, list := -1, p.records[s.name]
		for i, r := range list {
			if i == 0 || r.priority != list[i-1].priority {
				tier++
			}
			if err := add(s.at(r.target, r.port), max(int64(r.weight), 1), tier); err != nil {
				return nil, err
			}
		}
	}
	if g.spec.Kind == policy.Failover { // in the order of the document, and of priorities
		var all []int
		for i := range m.targets {
			all = append(all, i)
		}
		if len(all) > 0 {
			m.tiers = [][]int{all}
		}
		return m, nil
	}
	for _, tier := range tiers {
		if len(tier) > 0 {
			m.tiers = append(m.tiers, interleave(m.targets, tier))
		}
	}
	return m, nil
}

// discover looks the names of a group up until ctx ends, and checks the health of what it
// finds.
func (p *Pool) discover(ctx context.Context, g *Group) {
	var watchers sync.WaitGroup
	defer watchers.Wait()
	stop := func() {}
	defer func() { stop() }()
	watched := g.members.Load()
	for first := true; ; first = false {
		ok := p.look(ctx, g)
		if ctx.Err() != nil {
			return
		}
		g.srv.once.Do(func() { close(g.srv.looked) })
		if m := g.members.Load(); g.spec.Health != nil && (first || m != watched) {
			stop()
			stop = p.watch(ctx, m, &watchers)
			watched = m
		}
		every := lookEvery
		if !ok {
			every = lookAgain
		}
		if !sleep(ctx, every+rand.N(every/8)) {
			return
		}
	}
}

// watch checks the health of targets until ctx ends or stop is called.
func (p *Pool) watch(ctx context.Context, m *members, running *sync.WaitGroup) (stop func()) {
	ctx, stop = context.WithCancel(ctx)
	for i, t := range m.targets {
		running.Go(func() { t.watch(ctx, i, p.opt.Log) })
	}
	return stop
}

// look looks every name of a group up once. A name that cannot be looked up keeps its
// last records. It reports whether all could be.
func (p *Pool) look(ctx context.Context, g *Group) bool {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	ok, changed := true, false
	for _, s := range g.srv.sources {
		if !s.srv {
			continue
		}
		list, err := p.opt.LookupSRV(ctx, s.name)
		if err != nil && len(list) == 0 {
			ok = false
			p.opt.Log.Warn("name not looked up", "name", s.name, "error", err)
			continue
		}
		found := records(list)
		p.mu.Lock()
		if have, known := p.records[s.name]; !known || !slices.Equal(have, found) {
			p.records[s.name] = found
			changed = true
		}
		p.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.leaving {
		b.client.Close()
	}
	p.leaving = nil
	// Another group with the same name may have looked in between: composing is cheap.
	if !changed && len(g.members.Load().targets) > 0 {
		return ok
	}
	m, err := p.compose(g, g.srv.sources, g.srv.profile, nil)
	if err != nil { // the profile was fit when the group was made
		p.opt.Log.Error("targets stay as they were", "endpoint", g.name, "error", err)
		return false
	}
	g.members.Store(m)
	p.forget()
	return ok
}

// forget takes out the backends that no target of any group has any more. A call may
// still hold one: its connections are closed at the next look.
func (p *Pool) forget() {
	used := map[*backend]bool{}
	for _, g := range p.groups {
		for _, t := range g.members.Load().targets {
			used[t.backend] = true
		}
	}
	for key, b := range p.backends {
		if !used[b] {
			delete(p.backends, key)
			p.leaving = append(p.leaving, b)
		}
	}
}

// records orders what a lookup found by priority. A target of "." says that the service
// is not offered.
func records(list []*net.SRV) []record {
	out := []record{}
	for _, s := range list {
		if name := strings.ToLower(strings.TrimSuffix(s.Target, ".")); name != "" && s.Port != 0 {
			out = append(out, record{name, s.Port, s.Priority, s.Weight})
		}
	}
	slices.SortFunc(out, func(a, b record) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.target, b.target), cmp.Compare(a.port, b.port), cmp.Compare(b.weight, a.weight))
	})
	return slices.Clip(out[:min(len(out), maxRecords)])
}
