package openapi

import (
	"fmt"
	"slices"
	"strings"
	"tidegate/policy"
	"tidegate/policy/source"
)

// A scheme is an entry of securitySchemes, as the policy sees it.
type scheme struct {
	policy.Scheme
	ok bool // false: not supported; said when it is used
}

// security is what a document or an operation asks of a caller.
type security struct {
	given  bool // something was said
	open   bool // x-wso2-disable-security, security: []
	alts   []policy.Alternative
	scopes []string // of the requirements
}

// securitySchemes reads the definitions.
func (d *reader) securitySchemes() {
	d.schemes = map[string]scheme{}
	defs := d.root.At("components", "securitySchemes")
	if d.v2 {
		defs = d.root.Value("securityDefinitions")
	}
	for _, k := range defs.All() {
		object := fmt.Sprintf("%s: security scheme %q", d.object, k.Name)
		n := d.resolve(k.Value, object)
		d.schemes[k.Name] = d.scheme(n)
	}
}

func (d *reader) scheme(n *source.Node) scheme {
	text := func(key string) string {
		if v := n.Value(key); v.IsScalar() {
			return v.Text
		}
		return ""
	}
	switch text("type") {
	case "oauth2", "openIdConnect":
		return scheme{policy.Scheme{Kind: policy.OAuth2}, true}
	case "basic":
		return scheme{policy.Scheme{Kind: policy.Basic}, d.v2}
	case "mutualTLS":
		return scheme{policy.Scheme{Kind: policy.Certificate}, true}
	case "http":
		switch strings.ToLower(text("scheme")) {
		case "bearer", "jwt":
			return scheme{policy.Scheme{Kind: policy.OAuth2}, true}
		case "basic":
			return scheme{policy.Scheme{Kind: policy.Basic}, true}
		}
	case "apiKey":
		in := map[string]policy.Location{"header": policy.InHeader, "query": policy.InQuery, "cookie": policy.InCookie}[text("in")]
		return scheme{policy.Scheme{Kind: policy.APIKey, In: in, Name: text("name")}, in != 0 && text("name") != ""}
	}
	return scheme{}
}

// use returns the index of a scheme of the API, added if it is new.
func (d *reader) use(s policy.Scheme) uint32 {
	api := &d.doc.API
	if s.Kind == policy.Certificate && api.MutualTLS == policy.MutualNone {
		api.MutualTLS = policy.MutualOptional
	}
	for i := range api.Schemes {
		if api.Schemes[i] == s {
			return uint32(i)
		}
	}
	api.Schemes = append(api.Schemes, s)
	return uint32(len(api.Schemes) - 1)
}

func (d *reader) apiSecurity(api *policy.API) {
	o := d.r.Object(d.root, "document", d.object)
	d.secured = d.security(o)
	if v := o.Value("x-wso2-disable-security"); v != nil {
		d.secured.open = o.Bool(false, "x-wso2-disable-security")
	}
	switch o.Word("x-wso2-mutual-ssl", "mandatory", "optional") {
	case "mandatory":
		api.MutualTLS = policy.MutualMandatory
	case "optional":
		api.MutualTLS = policy.MutualOptional
	}
	api.ClientCAs = o.Texts("x-tidegate-client-cas")
	if a := o.Object("x-wso2-application-security"); a != nil {
		api.Optional = a.Bool(false, "optional")
		if api.Optional && api.MutualTLS != policy.MutualMandatory {
			d.r.Add(source.Finding{
				Pos: a.Pos("optional"), Severity: source.Error, Object: a.Name, Security: true,
				Message: "optional: true needs x-wso2-mutual-ssl: mandatory", Hint: "without it anybody could call the API",
			})
		}
	}
}

func (d *reader) operationSecurity(api *policy.API, op *policy.Operation, o *source.Object) {
	s := d.security(o)
	if !s.given {
		s = d.secured
	} else if !o.Has("security") {
		s.scopes = d.secured.scopes
	}
	open := s.open || d.disabled()
	switch o.Text("x-auth-type") {
	case "None":
		open = true
	case "", "Application", "Application User", "Application & Application User", "Any":
	default:
		o.Errorf("x-auth-type", "%q is not one of None, Application, Application User, Application & Application User, Any", o.Text("x-auth-type"))
	}
	if o.Has("x-wso2-disable-security") {
		open = o.Bool(false, "x-wso2-disable-security")
	}
	if x := o.Object("x-wso2-application-security"); x != nil && x.Has("optional") && x.Bool(false, "optional") && !api.Optional {
		d.r.Add(source.Finding{
			Pos: x.Pos("optional"), Severity: source.Error, Object: o.Name, Security: true,
			Message: "application security can be made optional for the whole API only", Hint: "set optional: true at the top of the document",
		})
	}
	if open {
		return
	}
	op.Security = s.alts
	if len(op.Security) == 0 {
		op.Security = []policy.Alternative{{{Scheme: d.use(policy.Scheme{Kind: policy.OAuth2})}}}
	}
	op.Scopes = s.scopes
	if own := o.Text("x-scope"); own != "" {
		op.Scopes = []string{own}
	}
}

// disabled reports whether the document as a whole has x-wso2-disable-security: true.
func (d *reader) disabled() bool {
	v := d.root.Value("x-wso2-disable-security")
	return v != nil && v.Kind == source.Bool && strings.EqualFold(v.Text, "true")
}

// security reads x-wso2-application-security and security of a document or operation.
func (d *reader) security(o *source.Object) security {
	s := d.requirements(o)
	x := o.Object("x-wso2-application-security")
	if x == nil {
		return s
	}
	types := x.Scalars("security-types")
	x.Value("optional")
	x.CloseLoosely()
	if len(types) == 0 {
		return s
	}
	s.given, s.open, s.alts = true, false, nil
	for _, t := range types {
		switch t.Text {
		case "oauth2":
			s.add(policy.Use{Scheme: d.use(policy.Scheme{Kind: policy.OAuth2})})
		case "basic_auth", "basic":
			s.add(policy.Use{Scheme: d.use(policy.Scheme{Kind: policy.Basic})})
		case "api_key":
			for _, k := range d.apiKeys() {
				s.add(policy.Use{Scheme: d.use(k)})
			}
		default:
			d.r.Errorf(t.Pos, o.Name, "x-wso2-application-security: %q is not one of oauth2, basic_auth, api_key", t.Text)
		}
	}
	return s
}

func (s *security) add(u policy.Use) { s.alts = append(s.alts, policy.Alternative{u}) }

// apiKeys returns the places an API key may come from: those the document declares, else WSO2's.
func (d *reader) apiKeys() []policy.Scheme {
	var out []policy.Scheme
	defs := d.root.At("components", "securitySchemes")
	if d.v2 {
		defs = d.root.Value("securityDefinitions")
	}
	for _, k := range defs.All() {
		if s := d.schemes[k.Name]; s.ok && s.Kind == policy.APIKey && !slices.Contains(out, s.Scheme) {
			out = append(out, s.Scheme)
		}
	}
	if out == nil {
		out = []policy.Scheme{{Kind: policy.APIKey, In: policy.InHeader, Name: "apikey"}, {Kind: policy.APIKey, In: policy.InQuery, Name: "apikey"}}
	}
	return out
}

// requirements reads the key security: a list of alternatives, each a mapping from
// scheme to scopes.
func (d *reader) requirements(o *source.Object) security {
	v := o.Value("security")
	if v == nil {
		return security{}
	}
	if v.Kind != source.List {
		d.r.Errorf(v.Pos, o.Name, "security: want a list, got %s", v.Kind)
		return security{}
	}
	s := security{given: true}
	empty := 0
	for _, req := range v.List {
		if req.Kind != source.Map {
			d.r.Errorf(req.Pos, o.Name, "security: want a mapping from scheme to scopes, got %s", req.Kind)
			continue
		}
		if len(req.Keys) == 0 {
			empty++
			continue
		}
		if alt, scopes := d.requirement(req, o.Name); alt != nil {
			s.alts = append(s.alts, alt)
			s.scopes = union(s.scopes, scopes)
		}
	}
	switch {
	case empty == len(v.List):
		s.open = true
	case empty > 0:
		d.r.Add(source.Finding{
			Pos: v.Pos, Severity: source.Warning, Object: o.Name,
			Message: "security: the empty alternative {} is not kept, so a credential is needed", Hint: "use security: [] for an operation that anybody may call",
		})
	}
	return s
}

// requirement reads one alternative. The scopes go to the operation as a whole (WSO2 asks
// for any one of them), not to the use.
func (d *reader) requirement(req *source.Node, object string) (alt policy.Alternative, scopes []string) {
	for _, k := range req.Keys {
		s, known := d.schemes[k.Name]
		switch {
		case !known && k.Name == "default": // API Manager's name for its own tokens
			d.r.Warnf(k.Pos, object, `security: the scheme "default" is not defined: taken for OAuth 2.0`)
			s = scheme{policy.Scheme{Kind: policy.OAuth2}, true}
		case !known:
			f := source.Finding{
				Pos: k.Pos, Severity: source.Error, Object: object, Security: true,
				Message: fmt.Sprintf("security: unknown scheme %q", k.Name),
			}
			names := make([]string, 0, len(d.schemes))
			for n := range d.schemes {
				names = append(names, n)
			}
			slices.Sort(names)
			if near := source.Nearest(k.Name, names); near != "" {
				f.Hint = "did you mean " + near + "?"
			}
			d.r.Add(f)
			return nil, nil
		case !s.ok:
			d.r.Add(source.Finding{
				Pos: k.Pos, Severity: source.Error, Object: object, Security: true,
				Message: fmt.Sprintf("security: the scheme %q is of a kind that is not supported", k.Name),
				Hint:    "supported: oauth2, openIdConnect, http basic and bearer, apiKey, mutualTLS",
			})
			return nil, nil
		}
		if s.Kind == policy.OAuth2 && k.Value != nil {
			for _, sc := range k.Value.List {
				if sc.IsScalar() {
					scopes = union(scopes, []string{sc.Text})
				}
			}
		}
		if u := (policy.Use{Scheme: d.use(s.Scheme)}); !slices.ContainsFunc(alt, func(a policy.Use) bool { return a.Scheme == u.Scheme }) {
			alt = append(alt, u)
		}
	}
	return alt, scopes
}

// union appends what is new in b to a.
func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}
