package auth

import (
	"cmp"
	"errors"
	"slices"
	"tidegate/policy"
	"tidegate/policy/fault"
)

// consumers finds applications and their subscriptions. It holds indexes into the set, a few
// bytes for each, and never a name.
type consumers struct {
	set  *policy.Set
	byID []uint32 // applications, by id
	keys []keyAt  // consumer keys, by key
	subs []subAt  // by application, then API
}

type keyAt struct{ app, key uint32 }

type subAt struct{ app, api, sub uint32 }

func newConsumers(set *policy.Set) consumers {
	c := consumers{set: set, byID: make([]uint32, len(set.Applications))}
	for i := range set.Applications {
		c.byID[i] = uint32(i)
		for k := range set.Applications[i].Keys {
			c.keys = append(c.keys, keyAt{uint32(i), uint32(k)})
		}
	}
	slices.SortStableFunc(c.byID, func(a, b uint32) int {
		return cmp.Compare(set.Applications[a].ID, set.Applications[b].ID)
	})
	slices.SortStableFunc(c.keys, func(a, b keyAt) int { return cmp.Compare(c.text(a), c.text(b)) })
	apis := make(map[string][]uint32, len(set.APIs)) // by name
	for i := range set.APIs {
		apis[set.APIs[i].Name] = append(apis[set.APIs[i].Name], uint32(i))
	}
	for i := range set.Subscriptions {
		s := &set.Subscriptions[i]
		app, ok := c.application(s.Application)
		if !ok {
			continue
		}
		for _, a := range apis[s.API.Name] {
			if s.API.Version == "*" || s.API.Version == set.APIs[a].Version {
				c.subs = append(c.subs, subAt{app, a, uint32(i)})
			}
		}
	}
	// Of several for one API the exact version comes before "*", then the order of the file.
	slices.SortStableFunc(c.subs, func(a, b subAt) int {
		return cmp.Or(cmp.Compare(a.app, b.app), cmp.Compare(a.api, b.api), c.loose(a)-c.loose(b))
	})
	return c
}

func (c *consumers) text(k keyAt) string { return c.set.Applications[k.app].Keys[k.key].Key }

func (c *consumers) loose(s subAt) int {
	if c.set.Subscriptions[s.sub].API.Version == "*" {
		return 1
	}
	return 0
}

// application returns the index of an application.
func (c *consumers) application(id string) (uint32, bool) {
	i, ok := slices.BinarySearchFunc(c.byID, id, func(at uint32, id string) int {
		return cmp.Compare(c.set.Applications[at].ID, id)
	})
	if !ok || id == "" {
		return 0, false
	}
	return c.byID[i], true
}

// key returns the application of a consumer key, and the key's type.
func (c *consumers) key(consumerKey string) (app uint32, t policy.KeyType, ok bool) {
	i, ok := slices.BinarySearchFunc(c.keys, consumerKey, func(at keyAt, key string) int {
		return cmp.Compare(c.text(at), key)
	})
	if !ok || consumerKey == "" {
		return 0, 0, false
	}
	return c.keys[i].app, c.set.Applications[c.keys[i].app].Keys[c.keys[i].key].Type, true
}

// subscription returns the subscription of an application to an API, nil for none.
func (c *consumers) subscription(app uint32, api int) *policy.Subscription {
	i, ok := slices.BinarySearchFunc(c.subs, subAt{app: app, api: uint32(api)}, func(a, b subAt) int {
		return cmp.Or(cmp.Compare(a.app, b.app), cmp.Compare(a.api, b.api))
	})
	if !ok {
		return nil
	}
	return &c.set.Subscriptions[c.subs[i].sub]
}

// describe returns what the set knows of an application.
func (c *consumers) describe(app uint32) application {
	a := &c.set.Applications[app]
	return application{a.ID, a.Name, a.Owner, a.Plan}
}

// identify finds the application of a token where the token itself does not say: by its
// consumer key. For a token without subscribedAPIs the set comes first.
func (g *Guard) identify(t *token) {
	app, keyType, ok := g.consumers.key(t.consumerKey)
	if !ok || t.listed && t.app.id != "" {
		return
	}
	t.app = g.consumers.describe(app)
	if !t.typed {
		t.keyType = keyType
	}
}

var (
	errNotSubscribed = errors.New("there is no subscription to the API")
	errNotAllowed    = errors.New("the key is not for this API")
	errNoneAllowed   = errors.New("the key names no API, and the gateway asks for it")
	errState         = errors.New("the subscription is not active")
)

// barrier returns what a subscription's state says against a call.
func barrier(s policy.SubscriptionState, t policy.KeyType) *fault.Fault {
	switch s {
	case policy.Unblocked, policy.TierUpdatePending:
		return nil
	case policy.Blocked:
		return fault.TemporarilyBlocked
	case policy.ProdOnlyBlocked:
		if t == policy.Production {
			return fault.TemporarilyBlocked
		}
		return nil
	case policy.OnHold, policy.Inactive:
		return fault.SubscriptionHold
	}
	return fault.ResourceForbidden
}

// decide returns the principal of a genuine token or API key at an API, or the fault and
// the reason that it may not call there.
func (g *Guard) decide(v *Verified, api int) (*policy.Principal, *fault.Fault, error) {
	if v.hashed != nil {
		return g.admit(v.hashed, api)
	}
	t := v.token
	a := &g.set.APIs[api]
	if t.apiKey && g.set.APIKeys.RequireAllowed {
		if len(t.allowed) == 0 {
			return nil, fault.InvalidCredentials, errNoneAllowed
		}
		if !slices.ContainsFunc(t.allowed, func(s grant) bool { return s.matches(a) }) {
			return nil, fault.ResourceForbidden, errNotAllowed
		}
	}
	p := &policy.Principal{
		Kind: policy.OAuth2, Subject: t.subject, Tenant: t.tenant, KeyType: t.keyType,
		ApplicationID: t.app.id, ApplicationName: t.app.name, ApplicationOwner: t.app.owner, ApplicationPlan: t.app.plan,
		ConsumerKey: t.consumerKey, SubscriptionPlan: policy.Unauthenticated,
		Scopes: t.scopes, Claims: t.claims, EndUserToken: t.endUserToken,
	}
	if t.apiKey {
		p.Kind = policy.APIKey
	}
	mode := t.issuer.Subscriptions
	if len(t.subscriptions) > 0 {
		i := slices.IndexFunc(t.subscriptions, func(s grant) bool { return s.matches(a) })
		switch {
		case i >= 0:
			s := &t.subscriptions[i]
			p.Subscribed, p.SubscriptionPlan = true, s.plan
			if s.tenant != "" && t.tenant == "carbon.super" {
				p.Tenant = s.tenant
			}
		case mode != policy.SubscriptionsOff:
			return nil, fault.ResourceForbidden, errNotSubscribed
		}
		return p, nil, nil
	}
	if t.listed && mode != policy.SubscriptionsRequired {
		return p, nil, nil
	}
	f, err := g.consult(p, api, mode)
	return p, f, err
}

// consult asks the set for the subscription of p's application. It is found by its consumer
// key; where a subscription is required, also by its id.
func (g *Guard) consult(p *policy.Principal, api int, mode policy.SubscriptionMode) (*fault.Fault, error) {
	app, _, known := g.consumers.key(p.ConsumerKey)
	if !known && mode == policy.SubscriptionsRequired {
		app, known = g.consumers.application(p.ApplicationID)
	}
	var s *policy.Subscription
	if known {
		s = g.consumers.subscription(app, api)
	}
	if s == nil {
		if mode == policy.SubscriptionsRequired || known && mode == policy.SubscriptionsAuto {
			return fault.ResourceForbidden, errNotSubscribed
		}
		return nil, nil
	}
	if f := barrier(s.State, p.KeyType); f != nil && mode != policy.SubscriptionsOff {
		return f, errState
	}
	p.Subscribed, p.SubscriptionPlan = true, s.Plan
	return nil, nil
}
