package throttle

import (
	"fmt"
	"net/netip"
	"strconv"
	"tidegate/policy"
	"time"
)

// A plan is one policy at one level: its rules, and those of its groups.
type plan struct {
	level  policy.Level
	main   *Rule   // when no group matches; nil: no limit of its own
	beside []*Rule // burst and calls in flight, whether a group matches or not
	groups []group
	every  bool // group that matches counts, not the first alone
}

type group struct {
	when   conditions
	rule   *Rule
	suffix string // of the key
}

func (p *plan) static() bool {
	return p == nil || len(p.groups) == 0 && (p.main == nil || p.main.Kind != Bytes)
}

// most returns the largest number of claims p can make.
func (p *plan) most() int {
	if p == nil {
		return 0
	}
	groups := min(1, len(p.groups))
	if p.every {
		groups = len(p.groups)
	}
	return max(1, groups) + len(p.beside)
}

// appendClaims appends the claims of a subject. subject is overwritten behind its end.
func (p *plan) appendClaims(dst []Claim, subject []byte, call policy.Call, who *policy.Principal) []Claim {
	var buf [640]byte
	key := append(buf[:0], byte(p.level))
	key = append(key, subject...)
	matched := false
	for i := range p.groups {
		if g := &p.groups[i]; g.when.hold(call, who) {
			matched = true
			if g.rule != nil {
				dst = append(dst, Claim{g.rule, hashed(append(key, g.suffix...)), 1})
			}
			if !p.every {
				break
			}
		}
	}
	if matched && len(p.beside) == 0 {
		return dst
	}
	k := hashed(key)
	if !matched && p.main != nil {
		dst = append(dst, Claim{p.main, k, 1})
	}
	for _, r := range p.beside {
		dst = append(dst, Claim{r, k.Beside(r.Kind), 1})
	}
	return dst
}

// claims is appendClaims for a plan whose claims never vary.
func (p *plan) claims(dst []Claim, subject string) []Claim {
	if p == nil || len(p.groups) > 0 {
		return dst
	}
	return p.appendClaims(dst, []byte(subject), nil, nil)
}

// A compiler collects the faults and the rules of a set.
type compiler struct {
	faults []error
	rules  []*Rule
}

func (c *compiler) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Errorf(format, args...))
}

func (c *compiler) rule(r Rule) *Rule {
	compiled, err := Compile(r)
	if err != nil {
		c.faults = append(c.faults, err)
		return nil
	}
	c.rules = append(c.rules, compiled)
	return compiled
}

func (c *compiler) plan(p *policy.Plan, level policy.Level) *plan {
	out := &plan{level: level, every: p.EveryGroup}
	if !p.Limit.IsZero() {
		out.main = c.limit(p, level, p.Name, p.Limit)
	}
	for i := range p.Groups {
		g := &p.Groups[i]
		what := fmt.Sprintf("%s plan %q: group %d", level, p.Name, i+1)
		if len(g.Conditions) == 0 {
			c.fault("%s has no condition", what)
		}
		name := g.Name
		if name == "" {
			name = "condition" + strconv.Itoa(i)
		}
		compiled := group{when: c.conditions(what, g.Conditions), suffix: "_condition" + strconv.Itoa(i)}
		if !g.Limit.IsZero() {
			compiled.rule = c.limit(p, level, p.Name+"-"+name, g.Limit)
		}
		out.groups = append(out.groups, compiled)
	}
	if p.Burst.Count > 0 || p.Burst.Per > 0 {
		out.beside = append(out.beside, c.rule(Rule{
			Name: p.Name + "-burst", Level: level, Kind: Burst, Limit: p.Burst.Count,
			Window: Window{Length: p.Burst.Per},
		}))
	}
	if p.Concurrent != 0 {
		out.beside = append(out.beside, c.rule(Rule{
			Name: p.Name + "-concurrent", Level: level, Kind: InFlight, Limit: p.Concurrent,
		}))
	}
	return out
}

func (c *compiler) limit(p *policy.Plan, level policy.Level, name string, l policy.Limit) *Rule {
	r := Rule{
		Name: name, Level: level, Limit: l.Count, WarnPercent: int(p.WarnPercent),
	}
	if l.Unit == policy.Bytes {
		r.Kind = Bytes
		if p.Cut {
			r.Tail = Cut
		}
	}
	switch l.Align {
	case policy.Epoch:
		r.Window = Window{Length: l.Window}
	case policy.Sliding:
		r.Window = Window{Form: Sliding, Length: l.Window}
	case policy.CalendarDay, policy.CalendarWeek, policy.CalendarMonth:
		r.Window = Window{Form: Calendar, Unit: Day + Unit(l.Align-policy.CalendarDay)}
		if l.Zone != "" {
			zone, err := time.LoadLocation(l.Zone)
			if err != nil {
				c.fault("%s plan %q: time zone %q: %w", level, p.Name, l.Zone, err)
			}
			r.Window.Zone = zone
		}
	default:
		c.fault("%s plan %q: unknown alignment %d", level, p.Name, l.Align)
	}
	subscribed := level == policy.LevelSubscription || level == policy.LevelUnauthenticated
	if p.Soft && subscribed {
		r.Quota = Mark
	}
	day := l.Align != policy.Sliding && l.Align != policy.Epoch || l.Window >= 24*time.Hour
	switch {
	case p.OnFailure == policy.FailOpen,
		p.OnFailure == policy.ByKind && l.Unit != policy.Bytes && !day && !subscribed:
		r.Loss = FailOpen
	}
	return c.rule(r)
}

// A custom plan counts under a key of its own making.
type custom struct {
	plan     *plan
	template template
	when     []equation
}

type equation struct {
	variable variable
	value    string
}

func (c *compiler) custom(p *policy.Plan) *custom {
	out := &custom{plan: c.plan(p, policy.LevelCustom)}
	var err error
	if out.template, err = parseTemplate(p.KeyTemplate); err != nil {
		c.fault("custom plan %q: key template: %w", p.Name, err)
	}
	if !out.template.own() {
		// Callers share the counter: its numbers are shown to none of them.
		for _, r := range out.plan.all() {
			r.Shared = true
		}
	}
	for _, e := range p.When {
		v, err := parseVariable(e.Variable)
		if err != nil {
			c.fault("custom plan %q: when: %w", p.Name, err)
		}
		out.when = append(out.when, equation{v, e.Value})
	}
	return out
}

// all returns the rules of p.
func (p *plan) all() (rules []*Rule) {
	for _, r := range append([]*Rule{p.main}, p.beside...) {
		if r != nil {
			rules = append(rules, r)
		}
	}
	for _, g := range p.groups {
		if g.rule != nil {
			rules = append(rules, g.rule)
		}
	}
	return rules
}

func (c *custom) applies(o *Operation, call policy.Call, who *policy.Principal) bool {
	for i := range c.when {
		var buf [256]byte
		if string(c.when[i].variable.fill(buf[:0], o, call, who)) != c.when[i].value {
			return false
		}
	}
	return true
}

// appendClient appends an address without zone, IPv4 in its own form.
func appendClient(b []byte, a netip.Addr) []byte {
	return a.Unmap().WithZone("").AppendTo(b)
}
