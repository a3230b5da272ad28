package throttle

import (
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"tidegate/policy"
)

// conditions decide whether a group applies. For each kind of condition: all plain ones
// hold, and not all inverted ones do.
type conditions struct {
	plain    []condition
	inverted [policy.OnClaim + 1][]condition
}

type condition struct {
	kind    policy.ConditionKind
	name    string
	exact   string
	pattern *regexp.Regexp // nil: exact
	ranges  policy.Networks
}

func (c *compiler) conditions(what string, list []policy.Condition) (out conditions) {
	for i := range list {
		p := &list[i]
		n := condition{kind: p.Kind, name: p.Name}
		switch p.Kind {
		case policy.OnIP:
			if len(p.Ranges) == 0 {
				c.fault("%s: an address condition without addresses never holds", what)
			}
			n.ranges = policy.NewNetworks(p.Ranges)
		case policy.OnHeader, policy.OnQuery, policy.OnClaim:
			if p.Name == "" {
				c.fault("%s: condition %d names no header, parameter or claim", what, i+1)
			}
			if p.Kind == policy.OnHeader {
				n.name = textproto.CanonicalMIMEHeaderKey(p.Name)
			}
			if n.exact = p.Pattern; !p.Exact {
				re, err := regexp.Compile(p.Pattern)
				if err != nil {
					c.fault("%s: pattern of %q: %w", what, p.Name, err)
					continue
				}
				n.pattern = re
			}
		default:
			c.fault("%s: unknown kind of condition %d", what, p.Kind)
			continue
		}
		if p.Invert {
			out.inverted[p.Kind] = append(out.inverted[p.Kind], n)
		} else {
			out.plain = append(out.plain, n)
		}
	}
	return out
}

func (c *conditions) hold(call policy.Call, who *policy.Principal) bool {
	if !all(c.plain, call, who) {
		return false
	}
	for _, list := range c.inverted {
		if len(list) > 0 && all(list, call, who) {
			return false
		}
	}
	return true
}

func all(list []condition, call policy.Call, who *policy.Principal) bool {
	for i := range list {
		if !list[i].holds(call, who) {
			return false
		}
	}
	return true
}

// holds reports whether one of the values matches: a caller who sends a header twice
// does not get around a limit.
func (c *condition) holds(call policy.Call, who *policy.Principal) bool {
	switch c.kind {
	case policy.OnIP:
		return c.ranges.Contain(call.Client())
	case policy.OnHeader:
		found := false
		call.HeaderValues(c.name, func(v string) bool {
			found = c.match(v)
			return !found
		})
		return found
	case policy.OnQuery:
		return c.query(call.Query())
	case policy.OnClaim:
		if who != nil {
			return slices.ContainsFunc(who.Claims.Values(c.name), c.match)
		}
	}
	return false
}

// match reports whether the pattern is found in a value; an empty value never matches.
func (c *condition) match(v string) bool {
	switch {
	case v == "":
		return false
	case c.pattern == nil:
		return v == c.exact
	}
	return c.pattern.MatchString(v)
}

// query looks for the parameter in a query as sent.
func (c *condition) query(raw string) bool {
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		name, value, _ := strings.Cut(pair, "=")
		if name, err := url.QueryUnescape(name); err != nil || name != c.name {
			continue
		}
		if value, err := url.QueryUnescape(value); err == nil && c.match(value) {
			return true
		}
	}
	return false
}
