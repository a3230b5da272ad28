package wso2

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"tidegate/policy/source"
)

// blocks makes entries of block conditions.
func (c *converter) blocks(x *Export) error {
	var faults []error
	for _, o := range x.Blocked {
		r := &reader{from: o.from}
		v := r.of(o)
		if !v.get("conditionStatus").there() || v.yes("conditionStatus") {
			c.block(v, o)
		}
		if err := r.err(); err != nil {
			faults = append(faults, err)
		}
	}
	return join(faults)
}

func (c *converter) block(v value, o Object) {
	kind := strings.ToUpper(v.text("conditionType"))
	x := v.get("conditionValue")
	what, invert := "", false
	switch kind {
	case "IP", "IPRANGE":
		if x.there() && x.n.Kind == source.Text && !strings.HasPrefix(x.n.Text, "{") {
			what = x.n.Text
		} else {
			x = v.object("conditionValue")
			what, invert = x.text("fixedIp"), x.yes("invert")
			if kind == "IPRANGE" {
				what = addressRange(x.text("startingIp"), x.text("endingIp"))
			}
		}
		kind = "IP"
		if !isRange(what) {
			c.r.open(KindBlock, what, "its addresses do not parse: not imported", "write it into blocked of consumers.yaml by hand")
			return
		}
	case "API", "APPLICATION", "USER":
		what = v.text("conditionValue")
	default:
		c.r.open(KindBlock, kind+" "+v.text("conditionId"), "a condition of type "+kind+" is not kept", "write what it blocked into blocked of consumers.yaml by hand")
		return
	}
	if what == "" {
		v.r.fault(v.path+".conditionValue", "missing")
		return
	}
	n := mapping()
	set(n, "type", text(kind))
	set(n, "value", text(what))
	if invert {
		set(n, "invert", truth(true))
	}
	c.add(Entry{
		Kind: KindBlock,
		ID:   kind + " " + what, Value: n, Source: digest(canonical(o.node, noise...)),
	})
}

// consumers makes entries of the applications and subscriptions of the APIs imported.
func (c *converter) consumers(x *Export, apis []*api) error {
	r := &reader{from: "internal data"}
	ids := map[string]*api{} // apiId of the data API
	for _, o := range x.DataAPIs {
		v := r.of(o)
		for _, a := range apis {
			if v.text("name") == a.name && v.text("version") == a.version {
				ids[v.text("apiId")] = a
			}
		}
	}
	used := map[string]bool{}
	for _, o := range x.Subscriptions {
		v := r.of(o)
		a, app := ids[v.text("apiId")], v.text("appId")
		if a == nil || app == "" {
			continue
		}
		used[app] = true
		c.subscription(v, o, a, app)
	}
	keys := map[string][]*source.Node{}
	for _, o := range x.Keys {
		v := r.of(o)
		k := mapping()
		set(k, "consumer_key", text(v.text("consumerKey")))
		if strings.EqualFold(v.text("keyType"), "SANDBOX") {
			set(k, "type", text("SANDBOX"))
		}
		if v.text("consumerKey") != "" {
			keys[v.text("applicationId")] = append(keys[v.text("applicationId")], k)
		}
	}
	for _, o := range x.Applications {
		v := r.of(o)
		if id := v.text("id", "applicationId"); used[id] {
			c.application(v, o, id, keys[id])
		}
	}
	return r.err()
}

func (c *converter) subscription(v value, o Object, a *api, app string) {
	n := mapping()
	set(n, "application", text(app))
	set(n, "api", text(a.name))
	set(n, "version", text(a.version))
	if p := v.text("policyId", "policy"); p != "" && !strings.EqualFold(p, "Unlimited") {
		if c.subscriptionPlan(p) {
			set(n, "plan", text(p))
		} else {
			c.r.open(KindSubscribed, a.object+" by application "+app, fmt.Sprintf("its plan %q is defined by nobody: the subscription is not limited", p), "define the plan in policies.yaml and import again")
		}
	}
	state := strings.ToUpper(v.text("subscriptionState"))
	switch state {
	case "", "UNBLOCKED":
	case "TIER_UPDATE_PENDING", "BLOCKED", "PROD_ONLY_BLOCKED", "ON_HOLD", "INACTIVE", "REJECTED":
		set(n, "state", text(state))
	default:
		c.r.Warnings = append(c.r.Warnings, fmt.Sprintf("subscription of application %s to %s: state %q is not known: taken for INACTIVE", app, a.object, state))
		set(n, "state", text("INACTIVE"))
	}
	c.add(Entry{
		Kind: KindSubscribed,
		ID:   app + " " + a.name + " " + a.version, Value: n, Source: digest(canonical(o.node, noise...)),
	})
}

func (c *converter) application(v value, o Object, id string, keys []*source.Node) {
	n := mapping()
	set(n, "id", text(id))
	setText(n, "name", v.text("name"))
	setText(n, "owner", v.text("subName", "owner"))
	if p := v.text("policy", "policyId"); p != "" && !strings.EqualFold(p, "Unlimited") {
		if c.plans[KindApplication+" "+p] {
			set(n, "plan", text(p))
		} else {
			c.r.open(KindConsumer, cmp.Or(v.text("name"), id), fmt.Sprintf("its plan %q is defined by nobody: the application is not limited", p), "define the plan in policies.yaml and import again")
		}
	}
	slices.SortFunc(keys, func(x, y *source.Node) int {
		return cmp.Compare(x.Value("consumer_key").Text, y.Value("consumer_key").Text)
	})
	if len(keys) > 0 {
		set(n, "keys", list(keys...))
	}
	c.add(Entry{
		Kind: KindConsumer, ID: id, Value: n,
		Source: digest(append(canonical(o.node, noise...), canonical(list(keys...))...)),
	})
}
