package wso2

import (
	"fmt"
	"strings"
	"tidegate/policy/source"
)

// A said is what API Manager says of one operation beside the definition.
type said struct {
	path, verb, auth, tier string
	scopes                 []string
}

// operations fills in what the definition does not say of its operations.
func (c *converter) operations(a *api) {
	c.interceptors(a.doc, a.object)
	paths := own(a.doc, "paths")
	for _, s := range c.said(a) {
		op := operation(paths, s.path, strings.ToLower(s.verb))
		if op == nil {
			c.r.Warnings = append(c.r.Warnings, fmt.Sprintf("%s: %s %s is not in the definition: not served", a.object, s.verb, s.path))
			continue
		}
		if s.auth == "None" && !op.Value("x-auth-type").IsScalar() {
			set(op, "x-auth-type", text("None"))
		}
		if s.tier != "" && !strings.EqualFold(s.tier, "Unlimited") && !op.Value("x-throttling-tier").IsScalar() && !op.Value("x-wso2-throttling-tier").IsScalar() {
			set(op, "x-throttling-tier", text(s.tier))
		}
		setScopes(op, s.scopes)
	}
	c.uses(a)
}

// uses notes the plans and the code that operations name.
func (c *converter) uses(a *api) {
	level := a.doc.Value("x-wso2-throttling-tier")
	if level == nil {
		level = a.doc.Value("x-throttling-tier")
	}
	if t := scalarText(level); t != "" && !strings.EqualFold(t, "Unlimited") && len(c.used[t]) == 0 {
		c.use(t, a.object)
	}
	for _, p := range a.doc.Value("paths").All() {
		for _, k := range p.Value.All() {
			if k.Value == nil || k.Value.Kind != source.Map || !methods[k.Name] {
				continue
			}
			object := fmt.Sprintf("%s: %s %s", a.object, strings.ToUpper(k.Name), p.Name)
			c.interceptors(k.Value, object)
			for _, key := range []string{"x-throttling-tier", "x-wso2-throttling-tier"} {
				if t := scalarText(k.Value.Value(key)); t != "" && !strings.EqualFold(t, "Unlimited") && level == nil {
					c.use(t, object)
				}
			}
		}
	}
}

var methods = map[string]bool{"get": true, "put": true, "post": true, "delete": true, "options": true, "head": true, "patch": true, "trace": true}

// operation returns an operation that may be changed, nil when there is none.
func operation(paths *source.Node, path, verb string) *source.Node {
	if paths == nil {
		return nil
	}
	item := own(paths, path)
	if item == nil {
		return nil
	}
	return own(item, verb)
}

// setScopes asks for one of the scopes, where the operation asks for none itself.
func setScopes(op *source.Node, scopes []string) {
	if len(scopes) == 0 || op.Value("x-scope").IsScalar() {
		return
	}
	for _, req := range nodes(op.Value("security")) {
		for _, k := range req.All() {
			if len(nodes(k.Value)) > 0 {
				return
			}
		}
	}
	if len(scopes) == 1 {
		set(op, "x-scope", text(scopes[0]))
		return
	}
	req := mapping()
	set(req, "default", texts(scopes))
	set(op, "security", list(req))
}

func nodes(n *source.Node) []*source.Node {
	if n == nil {
		return nil
	}
	return n.List
}

// said reads operations[] of the REST API and of 4.x, and uriTemplates[] of archives, whose
// operations are parallel lists.
func (c *converter) said(a *api) []said {
	var out []said
	for _, o := range a.v.list("operations") {
		out = append(out, said{
			path: o.text("target", "uritemplate", "uriTemplate"), verb: o.text("verb", "httpVerb"),
			auth: o.text("authType"), tier: o.text("throttlingPolicy"), scopes: o.texts("scopes"),
		})
		c.policyCalls(o.get("operationPolicies"), a.object+": "+o.text("verb")+" "+o.text("target"))
	}
	for _, u := range a.v.list("uriTemplates") {
		verbs, auths, tiers, scopes := u.texts("httpVerbs"), u.texts("authTypes"), u.texts("throttlingTiers"), u.get("scopes")
		for i, verb := range verbs {
			s := said{path: u.text("uriTemplate"), verb: verb, auth: at(auths, i), tier: at(tiers, i)}
			if scopes.there() && scopes.n.Kind == source.List && i < len(scopes.n.List) {
				if k := (value{u.r, scopes.n.List[i], scopes.path}).text("key"); k != "" {
					s.scopes = []string{k}
				}
			}
			out = append(out, s)
		}
	}
	return out
}

func at(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return ""
}
