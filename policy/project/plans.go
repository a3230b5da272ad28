package project

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"tidegate/policy"
	"tidegate/policy/source"
	"time"
)

// units are the lengths of timeUnit. A month and a year are nominal, as WSO2 counts them.
var units = map[string]time.Duration{
	"sec": time.Second, "min": time.Minute, "hour": time.Hour, "day": 24 * time.Hour,
	"week": 7 * 24 * time.Hour, "month": 30 * 24 * time.Hour, "year": 365 * 24 * time.Hour,
}

var unitWords = []string{"sec", "min", "hour", "day", "week", "month", "year"}

var dataUnits = map[string]int64{"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}

// plans reads policies.yaml.
func (l *loader) plans(o *source.Object) {
	for _, list := range []struct {
		key  string
		kind policy.PlanKind
	}{
		{"resourcePolicies", policy.ResourcePlan},
		{"subscriptionPolicies", policy.SubscriptionPlan},
		{"applicationPolicies", policy.ApplicationPlan},
		{"customPolicies", policy.CustomPlan},
	} {
		for _, e := range o.Named(list.key) {
			e.Object.Name = fmt.Sprintf("plan %q", e.Name)
			l.set.Plans = append(l.set.Plans, l.plan(e, list.kind))
		}
	}
	o.Close()
}

func (l *loader) plan(e source.NamedObject, kind policy.PlanKind) policy.Plan {
	o := e.Object
	p := policy.Plan{Kind: kind, Name: e.Name, Pos: e.Pos, Limit: l.limit(o)}
	if b := o.Object("burst"); b != nil {
		p.Burst = policy.Burst{Count: b.Int(0, 1, math.MaxInt32, "count"), Per: unit(b, "sec")}
		if !b.Has("count") {
			b.Errorf("count", "missing")
		}
		b.Close()
	}
	p.Concurrent = o.Int(0, 1, math.MaxInt32, "concurrent")
	p.Soft = !o.Bool(true, "stopOnQuota")
	if p.Soft && kind != policy.SubscriptionPlan {
		l.report.Warnf(o.Pos("stopOnQuota"), o.Name, "stopOnQuota: false has an effect in subscriptionPolicies only: calls above the limit are refused")
		p.Soft = false
	}
	p.WarnPercent = uint8(o.Int(0, 1, 99, "warn"))
	p.Cut = o.Word("on_exceed", "finish", "cut") == "cut"
	switch o.Word("on_failure", "open", "closed") {
	case "open":
		p.OnFailure = policy.FailOpen
	case "closed":
		p.OnFailure = policy.FailClosed
	}
	for _, g := range o.Objects("groups") {
		p.Groups = append(p.Groups, l.group(g))
	}
	if p.EveryGroup = o.Word("groups_match", "first", "every") == "every"; o.Has("groups_match") && len(p.Groups) == 0 {
		o.Errorf("groups_match", "has no effect without groups")
	}
	p.MaxBody = o.Int(0, 1, 1<<40, "max_body")
	p.KeyTemplate = o.Text("keyTemplate")
	if w := o.Value("when"); w != nil && w.Kind != source.Map {
		o.Errorf("when", "want variables with a text each, got %s", w.Kind)
	} else {
		for _, k := range w.All() {
			if !k.Value.IsScalar() {
				l.report.Errorf(k.Pos, o.Name, "when: %s: want a text, got %s", k.Name, k.Value.Kind)
				continue
			}
			p.When = append(p.When, policy.Equation{Variable: strings.TrimPrefix(k.Name, "$"), Value: k.Value.Text})
		}
	}
	o.Close()
	return p
}

// limit reads count or bandwidth, and the window, which plans and groups have alike.
func (l *loader) limit(o *source.Object) policy.Limit {
	var m policy.Limit
	hasCount, hasBandwidth := o.Has("count"), o.Has("bandwidth")
	m.Count = o.Int(0, 0, math.MaxInt64, "count")
	bandwidth := o.Int(0, 0, math.MaxInt64, "bandwidth")
	data := o.Word("bandwidthUnit", "KB", "MB", "GB")
	window, align, zone := window(o)
	switch {
	case hasCount && hasBandwidth:
		o.Errorf("bandwidth", "count is given too: want one of them")
		return m
	case hasBandwidth:
		size := dataUnits[data]
		if size == 0 {
			size = 1 << 10
		}
		if bandwidth > math.MaxInt64/size {
			o.Errorf("bandwidth", "%d %s is more than can be counted", bandwidth, data)
			return policy.Limit{}
		}
		m.Unit, m.Count = policy.Bytes, bandwidth*size
	case !hasCount:
		for _, key := range []string{"unitTime", "timeUnit", "bandwidthUnit", "align", "zone"} {
			if o.Has(key) {
				o.Errorf(key, "has no effect without count or bandwidth")
				break
			}
		}
		return policy.Limit{}
	}
	m.Window, m.Align, m.Zone = window, align, zone
	key := "count"
	if hasBandwidth {
		key = "bandwidth"
	}
	if v := o.Value(key); v.IsScalar() && v.Text == "0" {
		l.report.Add(Finding{
			Pos: o.Pos(key), Severity: Error, Object: o.Name,
			Message: "a " + key + " of 0 never admits a call", Hint: "to refuse somebody, use blocked in consumers.yaml",
		})
	}
	return m
}

// window reads how long a limit counts, and where it begins.
func window(o *source.Object) (time.Duration, policy.Align, string) {
	align := policy.Epoch
	nominal := "min"
	switch o.Word("align", "epoch", "day", "week", "month", "sliding") {
	case "day":
		align, nominal = policy.CalendarDay, "day"
	case "week":
		align, nominal = policy.CalendarWeek, "week"
	case "month":
		align, nominal = policy.CalendarMonth, "month"
	case "sliding":
		align = policy.Sliding
	}
	return unit(o, nominal), align, o.Text("zone")
}

// unit reads unitTime × timeUnit.
func unit(o *source.Object, def string) time.Duration {
	word := o.Word("timeUnit", unitWords...)
	if word == "" {
		word = def
	}
	u := units[word]
	return time.Duration(o.Int(1, 1, int64(10*366*24*time.Hour/u), "unitTime")) * u
}

func (l *loader) group(o *source.Object) policy.Group {
	g := policy.Group{Name: o.Text("name")}
	if g.Name != "" {
		o.Name = fmt.Sprintf("%s %q", o.Name, g.Name)
	}
	g.Limit = l.limit(o)
	for _, m := range o.Objects("match") {
		if c, ok := l.condition(m); ok {
			g.Conditions = append(g.Conditions, c)
		}
	}
	o.Close()
	return g
}

func (l *loader) condition(o *source.Object) (policy.Condition, bool) {
	c := policy.Condition{Invert: o.Bool(false, "invert"), Exact: o.Bool(false, "exact"), Pattern: o.Text("pattern")}
	var kinds []string
	for _, k := range []struct {
		key  string
		kind policy.ConditionKind
	}{{"header", policy.OnHeader}, {"query", policy.OnQuery}, {"claim", policy.OnClaim}} {
		if name := o.Text(k.key); name != "" {
			c.Kind, c.Name = k.kind, name
			kinds = append(kinds, k.key)
		}
	}
	addresses := o.Scalars("ip")
	for _, n := range addresses {
		r, err := policy.ParseRange(n.Text)
		if err != nil {
			l.report.Errorf(n.Pos, o.Name, "ip: %v", err)
			continue
		}
		c.Ranges = append(c.Ranges, r)
	}
	if len(addresses) > 0 {
		c.Kind = policy.OnIP
		kinds = append(kinds, "ip")
	}
	o.Close()
	if len(kinds) != 1 {
		l.report.Errorf(o.Node.Pos, o.Name, "a condition looks at one of ip, header, query, claim; this one at %d", len(kinds))
		return c, false
	}
	if c.Kind == policy.OnIP && slices.Contains([]bool{c.Pattern != "", c.Exact}, true) {
		l.report.Errorf(o.Node.Pos, o.Name, "a condition on addresses has no pattern")
		return c, false
	}
	return c, c.Kind != policy.OnIP || len(c.Ranges) > 0
}
