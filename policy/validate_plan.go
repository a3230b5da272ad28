package policy

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Bounds of a plan. Sums of two windows of the largest count, and of a body beside it,
// stay far within 64 bits.
const (
	maxCount  = 1 << 53
	maxWindow = 10 * 366 * 24 * time.Hour
)

func (v *validator) checkPlans() {
	seen := map[planName]Pos{}
	for i := range v.set.Plans {
		p := &v.set.Plans[i]
		object := fmt.Sprintf("plan %q", p.Name)
		v.name(p.Pos, object, "the name", p.Name)
		if p.Kind < ResourcePlan || p.Kind > CustomPlan {
			v.add(p.Pos, object, "unknown kind %d", p.Kind)
			continue
		}
		if strings.EqualFold(p.Name, Unlimited) {
			v.hint(p.Pos, object, "leave it out: the name means no limit everywhere", "%s cannot be defined", Unlimited)
		}
		key := planName{p.Kind, p.Name}
		if first, twice := seen[key]; twice {
			v.add(p.Pos, object, "defined twice in %s, first in %s", p.Kind.list(), first)
		}
		seen[key] = p.Pos
		v.plans[key] = true
		v.checkPlan(p, object)
	}
}

func (v *validator) checkPlan(p *Plan, object string) {
	v.limit(p.Pos, object, p.Limit)
	v.burst(p, object)
	if p.Concurrent < 0 || p.Concurrent > 1<<31 {
		v.add(p.Pos, object, "%d calls at a time", p.Concurrent)
	}
	if p.MaxBody < 0 {
		v.add(p.Pos, object, "a body of at most %d bytes", p.MaxBody)
	}
	if p.MaxBody > 0 && p.Kind == CustomPlan {
		v.hint(p.Pos, object, "put it on a resource, subscription or application plan, or use x-tidegate-max-body", "a custom plan cannot bound bodies")
	}
	if p.WarnPercent > 99 {
		v.add(p.Pos, object, "warns from %d percent: want 1 to 99", p.WarnPercent)
	}
	if p.OnFailure > FailOpen {
		v.add(p.Pos, object, "unknown behaviour %d without durable counters", p.OnFailure)
	}
	if p.Limit.IsZero() && p.Burst == (Burst{}) && p.Concurrent == 0 && len(p.Groups) == 0 && p.MaxBody == 0 {
		v.hint(p.Pos, object, "give it a count, or use "+Unlimited, "limits nothing")
	}
	if p.Limit.IsZero() && (p.Soft || p.WarnPercent > 0) && len(p.Groups) == 0 {
		v.add(p.Pos, object, "says what happens at a limit that it does not have")
	}
	if p.Soft && p.OnFailure == FailClosed {
		v.add(p.Pos, object, "contradicts itself: it passes calls above the limit, but none without counters")
	}
	for i, g := range p.Groups {
		name := fmt.Sprintf("%s: group %d", object, i+1)
		if g.Name != "" {
			name = fmt.Sprintf("%s: group %q", object, g.Name)
		}
		if len(g.Conditions) == 0 {
			v.add(p.Pos, name, "no conditions: use the plan's own limit")
		}
		if g.Limit.IsZero() {
			v.add(p.Pos, name, "no limit")
		}
		v.limit(p.Pos, name, g.Limit)
		for _, c := range g.Conditions {
			v.condition(p.Pos, name, c)
		}
	}
	v.custom(p, object)
}

func (v *validator) limit(pos Pos, object string, l Limit) {
	if l.IsZero() {
		if l.Count != 0 {
			v.add(pos, object, "a count of %d without a window", l.Count)
		}
		return
	}
	switch {
	case l.Unit > Bytes:
		v.add(pos, object, "unknown unit %d", l.Unit)
	case l.Count < 0:
		v.add(pos, object, "a count of %d", l.Count)
	case l.Count > maxCount:
		v.add(pos, object, "a count of %d is more than can be counted (%d)", l.Count, int64(maxCount))
	}
	switch {
	case l.Window < time.Second || l.Window%time.Second != 0:
		v.add(pos, object, "a window of %s: want whole seconds", l.Window)
	case l.Window > maxWindow:
		v.add(pos, object, "a window of %s is longer than ten years", l.Window)
	}
	nominal := map[Align]time.Duration{CalendarDay: 24 * time.Hour, CalendarWeek: 7 * 24 * time.Hour, CalendarMonth: 30 * 24 * time.Hour}
	want, calendar := nominal[l.Align]
	switch {
	case l.Align > Sliding:
		v.add(pos, object, "unknown alignment %d", l.Align)
	case calendar && l.Window != want:
		v.add(pos, object, "a window of %s cannot follow the calendar: want one day, week or month", l.Window)
	case !calendar && l.Zone != "":
		v.hint(pos, object, "add align: day, week or month", "zone %q has no effect on a window that does not follow the calendar", l.Zone)
	case calendar:
		v.zone(pos, object, l.Zone)
	}
}

func (v *validator) burst(p *Plan, object string) {
	b := p.Burst
	if b == (Burst{}) {
		return
	}
	switch {
	case b.Count < 1:
		v.add(p.Pos, object, "a burst of %d never admits a call", b.Count)
	case b.Per <= 0 || b.Per > maxWindow:
		v.add(p.Pos, object, "a burst per %s", b.Per)
	case b.Count > int64(b.Per):
		v.add(p.Pos, object, "a burst of %d per %s is more than one call a nanosecond", b.Count, b.Per)
	}
}

func (v *validator) condition(pos Pos, object string, c Condition) {
	switch c.Kind {
	case OnIP:
		if len(c.Ranges) == 0 {
			v.add(pos, object, "a condition on addresses without any")
		}
		v.ranges(pos, object, c.Ranges)
	case OnHeader, OnQuery, OnClaim:
		if c.Name == "" {
			v.add(pos, object, "a condition without a name")
		}
		if c.Pattern == "" {
			v.add(pos, object, "the condition on %q has no pattern", c.Name)
		}
		if !c.Exact {
			if _, err := regexp.Compile(c.Pattern); err != nil {
				v.hint(pos, object, "patterns are RE2: no look-ahead, no back-references", "pattern %q does not compile: %v", c.Pattern, err)
			}
		}
	default:
		v.add(pos, object, "unknown kind of condition %d", c.Kind)
	}
}

// variables may stand in the key of a custom plan.
var variables = []string{"resourceKey", "userId", "apiContext", "apiVersion", "appTenant", "apiTenant", "appId", "clientIp"}

var variable = regexp.MustCompile(`\$[A-Za-z]+(\.[A-Za-z0-9_.:/#-]*[A-Za-z0-9_])?`)

func knownVariable(name string) bool {
	if property, ok := strings.CutPrefix(name, "customProperty."); ok {
		return property != ""
	}
	for _, v := range variables {
		if v == name {
			return true
		}
	}
	return false
}

func (v *validator) custom(p *Plan, object string) {
	if p.Kind != CustomPlan {
		if p.KeyTemplate != "" || len(p.When) > 0 {
			v.add(p.Pos, object, "keyTemplate and when belong to custom plans")
		}
		return
	}
	if p.KeyTemplate == "" {
		v.hint(p.Pos, object, `for example "$userId:$apiContext"`, "keyTemplate is missing")
	}
	for _, name := range variable.FindAllString(p.KeyTemplate, -1) {
		base := name[1:]
		if dot := strings.IndexByte(base, '.'); dot >= 0 && !strings.HasPrefix(base, "customProperty.") {
			base = base[:dot]
		}
		if !knownVariable(base) {
			v.unknownVariable(p, object, name)
		}
	}
	for _, e := range p.When {
		if !knownVariable(e.Variable) {
			v.unknownVariable(p, object, e.Variable)
		}
	}
}

func (v *validator) unknownVariable(p *Plan, object, name string) {
	v.hint(p.Pos, object, "known: $"+strings.Join(variables, " $")+" $customProperty.NAME", "unknown variable %q", name)
}
