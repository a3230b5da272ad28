package gateway

import "tidegate/policy"

// bodies are the plans that bound request bodies, by name.
type bodies struct {
	resource, subscription, application map[string]int64
	some                                bool // a caller's plan may bound its bodies
}

func newBodies(set *policy.Set) bodies {
	b := bodies{map[string]int64{}, map[string]int64{}, map[string]int64{}, false}
	for i := range set.Plans {
		p := &set.Plans[i]
		if p.MaxBody <= 0 {
			continue
		}
		switch p.Kind {
		case policy.ResourcePlan:
			b.resource[p.Name] = p.MaxBody
		case policy.SubscriptionPlan:
			b.subscription[p.Name], b.some = p.MaxBody, true
		case policy.ApplicationPlan:
			b.application[p.Name], b.some = p.MaxBody, true
		}
	}
	return b
}

// tighter returns the smaller of two bounds, of which 0 is none.
func tighter(a, b int64) int64 {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// operation returns the bound that holds for every caller; 0: none.
func (b *bodies) operation(a *policy.API, op *policy.Operation) int64 {
	n := op.MaxBody
	if n == 0 {
		n = a.MaxBody
	}
	plan := a.Plan
	if plan == "" {
		plan = op.Plan
	}
	return tighter(n, b.resource[plan])
}

// caller returns the bound for a caller; 0: none.
func (b *bodies) caller(n int64, who *policy.Principal) int64 {
	if !b.some {
		return n
	}
	plan := policy.Unauthenticated
	if who != nil && who.Kind != 0 {
		plan = who.SubscriptionPlan
		n = tighter(n, b.application[who.ApplicationPlan])
	}
	return tighter(n, b.subscription[plan])
}
