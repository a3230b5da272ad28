package wso2

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"tidegate/policy/source"
)

// policies makes entries of policies.yaml of every policy that was fetched.
func (c *converter) policies(x *Export) error {
	var faults []error
	for _, l := range []struct {
		kind, list string
		from       []Object
		read       func(value, string) *source.Node
	}{
		{KindResource, "resourcePolicies", x.Advanced, c.resourcePlan},
		{KindSubscription, "subscriptionPolicies", x.Subscription, c.subscriptionPolicy},
		{KindApplication, "applicationPolicies", x.Application, c.applicationPlan},
		{KindCustom, "customPolicies", x.Custom, c.customRule},
	} {
		for _, o := range l.from {
			r := &reader{from: o.from}
			v := r.of(o)
			name := v.text("policyName", "name")
			if name == "" {
				r.fault(v.path+".policyName", "missing")
			} else if !strings.EqualFold(name, "Unlimited") && !strings.EqualFold(name, "AsyncUnlimited") {
				if n := l.read(v, name); n != nil {
					c.add(Entry{Kind: l.kind, ID: name, Value: n, Source: digest(canonical(o.node, noise...))})
				}
			}
			if err := r.err(); err != nil {
				faults = append(faults, err)
			}
		}
	}
	return join(faults)
}

func (c *converter) applicationPlan(v value, name string) *source.Node {
	n := c.limit(v.get("defaultLimit"), KindApplication, name)
	if n != nil {
		c.burst(n, v.get("burstLimit"), KindApplication, name)
	}
	return n
}

func (c *converter) subscriptionPolicy(v value, name string) *source.Node {
	n := c.limit(v.get("defaultLimit"), KindSubscription, name)
	if n == nil {
		return nil
	}
	c.burst(n, v, KindSubscription, name)
	if v.get("stopOnQuotaReach").there() && !v.yes("stopOnQuotaReach") {
		set(n, "stopOnQuota", truth(false))
	}
	for _, f := range []string{"graphQLMaxDepth", "graphQLMaxComplexity"} {
		if k := v.number(f); k > 0 {
			c.r.open(KindSubscription, name, fmt.Sprintf("%s %d: not kept", f, k), "")
		}
	}
	return n
}

func (c *converter) resourcePlan(v value, name string) *source.Node {
	n := c.limit(v.get("defaultLimit"), KindResource, name)
	if n == nil {
		n = mapping()
	}
	groups := &source.Node{Kind: source.List}
	for _, g := range v.list("conditionalGroups") {
		if e := c.group(g, name); e != nil {
			groups.List = append(groups.List, e)
		}
	}
	if len(groups.List) > 0 {
		set(n, "groups", groups)
		if len(groups.List) > 1 {
			set(n, "groups_match", text("every")) // as theirs
		}
	}
	if len(n.Keys) == 0 {
		return nil
	}
	return n
}

var timeUnits = map[string]string{
	"sec": "sec", "second": "sec", "seconds": "sec", "s": "sec", "min": "min", "minute": "min", "minutes": "min", "m": "min",
	"hour": "hour", "hours": "hour", "h": "hour", "day": "day", "days": "day", "d": "day", "week": "week", "weeks": "week",
	"month": "month", "months": "month", "year": "year", "years": "year",
}

// limit reads a limit in the form of 2.6, flat, or of 3.2 and later, nested by its type.
func (c *converter) limit(v value, kind, name string) *source.Node {
	t := strings.ToUpper(v.text("type"))
	in := v
	switch t {
	case "REQUESTCOUNTLIMIT", "REQUESTCOUNT":
		if nested := v.get("requestCount"); nested.there() && nested.n.Kind == source.Map {
			in = nested
		}
	case "BANDWIDTHLIMIT", "BANDWIDTH", "BANDWIDTHVOLUME":
		if nested := v.get("bandwidth"); nested.there() {
			in = nested
		}
	default:
		if t == "" {
			t = "nothing"
		}
		c.r.open(kind, name, "counts "+t+", which a gateway cannot: the plan is not imported", "")
		return nil
	}
	unit := timeUnits[strings.ToLower(in.text("timeUnit"))]
	if unit == "" {
		c.r.open(kind, name, fmt.Sprintf("its time unit %q is not known: the plan is not imported", in.text("timeUnit")), "write it into policies.yaml by hand")
		return nil
	}
	n := mapping()
	if strings.HasPrefix(t, "BANDWIDTH") {
		size := strings.ToUpper(in.text("dataUnit"))
		if !slices.Contains([]string{"KB", "MB", "GB"}, size) {
			c.r.open(kind, name, fmt.Sprintf("its data unit %q is not known: the plan is not imported", size), "write it into policies.yaml by hand")
			return nil
		}
		set(n, "bandwidth", number(in.number("dataAmount")))
		set(n, "bandwidthUnit", text(size))
	} else {
		set(n, "count", number(in.number("requestCount")))
	}
	set(n, "unitTime", number(max(1, in.number("unitTime"))))
	set(n, "timeUnit", text(unit))
	return n
}

// burst reads rateLimitCount per rateLimitTimeUnit.
func (c *converter) burst(n *source.Node, v value, kind, name string) {
	if !v.there() {
		return
	}
	count := v.number("rateLimitCount")
	if count <= 0 {
		return
	}
	unit := timeUnits[strings.ToLower(v.text("rateLimitTimeUnit"))]
	if unit == "" {
		c.r.open(kind, name, fmt.Sprintf("the time unit of its burst, %q, is not known: the burst is not kept", v.text("rateLimitTimeUnit")), "add burst to the plan by hand")
		return
	}
	b := mapping()
	set(b, "count", number(count))
	set(b, "timeUnit", text(unit))
	set(n, "burst", b)
}

// group reads one conditional group. A group with a condition that cannot be kept would
// match more calls than it did, and take them from the plan's own limit: it is not kept.
func (c *converter) group(v value, plan string) *source.Node {
	name := v.text("description")
	object := fmt.Sprintf("%s: group %q", plan, name)
	limit := c.limit(v.get("limit", "defaultLimit"), KindResource, object)
	if limit == nil {
		return nil
	}
	match := &source.Node{Kind: source.List}
	for _, cond := range v.list("conditions") {
		m, why := condition(cond)
		if m == nil {
			c.r.open("condition", object, why+": the group is not kept", "write the group into policies.yaml by hand")
			return nil
		}
		if cond.yes("invertCondition") {
			set(m, "invert", truth(true))
		}
		match.List = append(match.List, m)
	}
	if len(match.List) == 0 {
		c.r.open("condition", object, "has no conditions: the group is not kept", "")
		return nil
	}
	n := mapping()
	setText(n, "name", name)
	set(n, "match", match)
	n.Keys = append(n.Keys, limit.Keys...)
	return n
}

// condition reads one condition, flat as in 2.6 or in an object named after its type.
func condition(v value) (*source.Node, string) {
	m := mapping()
	named := func(key string, in value, name, pattern string) (*source.Node, string) {
		set(m, key, text(in.text(name)))
		p := in.text(pattern)
		if in.text(name) == "" || p == "" {
			return nil, "a condition without a name or a value"
		}
		if _, err := regexp.Compile(p); err != nil {
			return nil, fmt.Sprintf("the pattern %q does not compile (RE2)", p)
		}
		set(m, "pattern", text(p))
		return m, ""
	}
	in := func(field string) value {
		if x := v.get(field); x.there() {
			return x
		}
		return v
	}
	switch t := strings.ToUpper(v.text("type")); t {
	case "HEADERCONDITION":
		return named("header", in("headerCondition"), "headerName", "headerValue")
	case "QUERYPARAMETERCONDITION":
		return named("query", in("queryParameterCondition"), "parameterName", "parameterValue")
	case "JWTCLAIMSCONDITION":
		return named("claim", in("jwtClaimsCondition"), "claimUrl", "attribute")
	case "IPCONDITION":
		x := in("ipCondition")
		span := x.text("specificIP")
		if strings.EqualFold(x.text("ipConditionType"), "IPRANGE") {
			span = addressRange(x.text("startingIP"), x.text("endingIP"))
		}
		if !isRange(span) {
			return nil, fmt.Sprintf("the addresses %q do not parse", span)
		}
		set(m, "ip", text(span))
		return m, ""
	default:
		return nil, fmt.Sprintf("a condition of type %q", t)
	}
}

func addressRange(from, to string) string {
	if from == to {
		return from
	}
	return from + "-" + to
}

func isRange(s string) bool {
	from, to, ok := strings.Cut(s, "-")
	a, err := netip.ParseAddr(from)
	if err != nil || !ok {
		_, perr := netip.ParsePrefix(s)
		return err == nil || perr == nil
	}
	b, err := netip.ParseAddr(to)
	return err == nil && a.Is4() == b.Is4() && a.Compare(b) <= 0
}

// The Siddhi that API Manager's editor proposes for a custom rule, with its own text for
// the conditions. Nothing else is translated.
var (
	siddhi = regexp.MustCompile(`(?is)^\s*FROM\s+RequestStream\s+SELECT\s+(.*?)\(\s*(.*?)\s*\)\s+AS\s+isEligible\s*,\s*str:concat\s*\(.*?\)\s+as\s+throttleKey\s+INSERT\s+INTO\s+EligibilityStream\s*;` +
		`\s*FROM\s+EligibilityStream\s*\[\s*isEligible\s*==\s*true\s*\]\s*#throttler:timeBatch\(\s*(\d+)\s+(\w+)\s*(?:,\s*0\s*)?\)` +
		`\s*SELECT\s+throttleKey\s*,\s*\(\s*count\(\s*\w+\s*\)\s*>=\s*(\d+)\s*\)\s+as\s+isThrottled\s*,\s*expiryTimeStamp\s+group\s+by\s+throttleKey` +
		`\s+INSERT\s+ALL\s+EVENTS\s+into\s+ResultStream\s*;?\s*$`)
	equation = regexp.MustCompile(`^\s*([A-Za-z][A-Za-z0-9]*)\s*==\s*'([^']*)'\s*$`)
	conjunct = regexp.MustCompile(`(?i)\s+and\s+`)
)

func (c *converter) customRule(v value, name string) *source.Node {
	const hint = "write the rule into customPolicies of policies.yaml by hand: keyTemplate, when, count, unitTime, timeUnit"
	m := siddhi.FindStringSubmatch(v.text("siddhiQuery"))
	if m == nil {
		c.r.open(KindCustom, name, "its Siddhi is not of the form that API Manager proposes: not imported", hint)
		return nil
	}
	when := mapping()
	if !strings.EqualFold(strings.TrimSpace(m[2]), "true") {
		for _, term := range conjunct.Split(m[2], -1) {
			e := equation.FindStringSubmatch(term)
			if e == nil {
				c.r.open(KindCustom, name, fmt.Sprintf("its condition %q is not a comparison with a text: not imported", strings.TrimSpace(term)), hint)
				return nil
			}
			set(when, e[1], text(e[2]))
		}
	}
	unit := timeUnits[strings.ToLower(m[4])]
	key := v.text("keyTemplate")
	if unit == "" || key == "" {
		c.r.open(KindCustom, name, "it has no key template, or an unknown time unit: not imported", hint)
		return nil
	}
	n := mapping()
	set(n, "keyTemplate", text(key))
	if len(when.Keys) > 0 {
		set(n, "when", when)
	}
	set(n, "count", &source.Node{Kind: source.Number, Text: m[5]})
	set(n, "unitTime", &source.Node{Kind: source.Number, Text: m[3]})
	set(n, "timeUnit", text(unit))
	return n
}

// archivedTier keeps what an archive of 2.6 says of a tier: its numbers are beside its name.
func (c *converter) archivedTier(v value, name string) {
	count, ms := v.number("requestCount"), v.number("unitTime")
	if name == "" || strings.EqualFold(name, "Unlimited") || c.plans[KindSubscription+" "+name] || count <= 0 || ms <= 0 || v.text("timeUnit") != "ms" {
		return
	}
	n := mapping()
	set(n, "count", number(count))
	unit, per := "sec", 1000
	for _, u := range []struct {
		word string
		ms   int
	}{{"day", 86400000}, {"hour", 3600000}, {"min", 60000}} {
		if ms%u.ms == 0 {
			unit, per = u.word, u.ms
			break
		}
	}
	if ms%per != 0 {
		return
	}
	set(n, "unitTime", number(ms/per))
	set(n, "timeUnit", text(unit))
	if v.get("stopOnQuotaReached").there() && !v.yes("stopOnQuotaReached") {
		set(n, "stopOnQuota", truth(false))
	}
	c.add(Entry{Kind: KindSubscription, ID: name, Value: n, Source: digest(canonical(n))})
}
