package wso2

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"tidegate/policy/source"
)

// noise are fields that change without the API changing.
var noise = []string{
	"createdTime", "lastUpdatedTime", "lastUpdatedTimestamp", "thumbnailUri", "workflowStatus",
	"password", "endpointUTPassword", // a digest would be a way to guess them
}

// An api is one API as all versions of API Manager say it.
type api struct {
	src     APISource
	v       value
	name    string
	version string
	base    string // x-wso2-basePath
	labels  []string
	doc     *source.Node // the definition
	yaml    bool
	object  string // for people
	groups  []group
}

// readAPI reads what identifies an API and its definition.
func (c *converter) readAPI(s APISource) (*api, error) {
	r := &reader{from: s.Object.from}
	v := r.of(s.Object)
	a := &api{src: s, v: v, name: v.text("name"), version: v.text("version")}
	if s.Archived {
		id := v.object("id")
		a.name, a.version = cmp.Or(id.text("apiName"), a.name), cmp.Or(id.text("version"), a.version)
	}
	if a.name == "" {
		r.fault(v.path+".name", "missing")
	}
	if a.version == "" {
		r.fault(v.path+".version", "missing")
	}
	a.object = a.name + " " + a.version
	a.base = basePath(v, s.Archived, a.version)
	if a.base == "" {
		r.fault(v.path+".context", "missing")
	}
	a.labels = append(labels(v), s.Deployments...)
	if err := r.err(); err != nil {
		return nil, err
	}
	return a, a.readDefinition(r)
}

// readDefinition parses the OpenAPI document of an API.
func (a *api) readDefinition(r *reader) error {
	from, name, body := a.src.Object.from+": definition of "+a.object, a.src.DefinitionName, a.src.Definition
	if body == nil {
		t := a.v.text("apiDefinition")
		if t == "" {
			r.fault(a.v.path+".apiDefinition", "missing: the API has no definition")
			return r.err()
		}
		from, name, body = a.src.Object.from+": "+a.v.path+".apiDefinition", "definition.json", []byte(t)
	}
	a.yaml = !strings.HasSuffix(strings.ToLower(name), ".json")
	if a.yaml && len(body) > 0 && body[0] == '{' {
		a.yaml, name = false, "definition.json"
	}
	n, err := parse(from, name, body)
	if err != nil {
		return err
	}
	if n.Kind != source.Map {
		return fault(from, "$", "want an object, got %s", n.Kind)
	}
	a.doc = clone(n)
	return r.err()
}

// basePath is x-wso2-basePath of an API: where it answers, with {version} for the version.
func basePath(v value, archived bool, version string) string {
	if t := v.text("contextTemplate"); t != "" {
		if archived || strings.Contains(t, "{version}") {
			return t
		}
	}
	context := v.text("context")
	switch {
	case context == "" || strings.Contains(context, "{version}"):
		return context
	case archived: // has the version in it
		if rest, ok := strings.CutSuffix(context, "/"+version); ok {
			return rest + "/{version}"
		}
		return context
	}
	return strings.TrimSuffix(context, "/") + "/{version}"
}

// labels reads the names of gateways, as texts or as objects.
func labels(v value) []string {
	var out []string
	for _, field := range []string{"labels", "gatewayLabels"} {
		for _, l := range v.list(field) {
			if l.n.IsScalar() {
				out = append(out, l.n.Text)
			} else if name := l.text("name"); name != "" {
				out = append(out, name)
			}
		}
	}
	return out
}

// published reports whether the API may be called, as far as its description says.
func (a *api) published() (string, bool) {
	s := a.v.text("lifeCycleStatus", "status")
	return s, s == "" || strings.EqualFold(s, "PUBLISHED")
}

// convertAPI makes the document of one API.
func (c *converter) convertAPI(a *api) error {
	c.unkept(a)
	info := own(a.doc, "info")
	if info == nil {
		info = mapping()
		set(a.doc, "info", info)
	}
	set(info, "title", text(a.name))
	set(info, "version", text(a.version))
	if d := a.v.text("description"); d != "" && !info.Value("description").IsScalar() {
		set(info, "description", text(d))
	}
	set(a.doc, "x-wso2-basePath", text(a.base))
	if a.v.yes("isDefaultVersion") {
		set(a.doc, "x-tidegate-default-version", truth(true))
	}
	setText(a.doc, "x-wso2-owner", cmp.Or(a.v.text("provider"), a.v.get("id").text("providerName")))
	if t := a.v.texts("transport", "transports"); len(t) > 0 {
		set(a.doc, "x-wso2-transports", texts(t))
	}
	if h := a.v.text("authorizationHeader"); h != "" && !strings.EqualFold(h, "Authorization") {
		set(a.doc, "x-wso2-auth-header", text(h))
	}
	c.tiers(a)
	c.security(a)
	c.cors(a)
	c.cache(a)
	if a.v.yes("enableSchemaValidation") {
		v := mapping()
		set(v, "request", truth(true))
		set(v, "response", truth(true))
		set(a.doc, "x-tidegate-validate", v)
	}
	c.endpoints(a)
	c.operations(a)
	c.certificates(a)
	c.writeEndpoints(a)
	return a.v.r.err()
}

// unkept reports what no gateway of ours does.
func (c *converter) unkept(a *api) {
	switch t := strings.ToUpper(a.v.text("type")); t {
	case "", "HTTP", "SOAP", "SOAPTOREST":
	case "WS":
		c.r.Warnings = append(c.r.Warnings, a.object+": a WebSocket API: allow it with x-tidegate-websocket: true at its GET operation, in an overlay")
	default:
		c.r.drop("api type", a.object, "type "+t+" is not a plain HTTP API: its operations are served as HTTP")
	}
	if a.v.yes("isWebSocket") {
		c.r.Warnings = append(c.r.Warnings, a.object+": a WebSocket API: allow it with x-tidegate-websocket: true at its GET operation, in an overlay")
	}
	const hint = "say what it did with x-tidegate-transform in an overlay: headers, query, path, fixed answers, removal of JSON fields"
	for _, f := range []string{"sequences", "mediationPolicies"} {
		for _, s := range a.v.list(f) {
			c.r.open("mediation sequence", a.object+": "+cmp.Or(s.text("name"), "(no name)"), "a program of API Manager, which cannot be kept", hint)
		}
	}
	for _, f := range []string{"inSequence", "outSequence", "faultSequence"} {
		if s := a.v.text(f); s != "" {
			c.r.open("mediation sequence", a.object+": "+s, f+": a program of API Manager, which cannot be kept", hint)
		}
	}
	c.policyCalls(a.v.get("apiPolicies"), a.object)
	if t := a.v.get("threatProtectionPolicies"); t.there() && (len(t.n.List) > 0 || len(t.n.Keys) > 0 && t.get("list").there() && len(t.list("list")) > 0) {
		c.r.open("threat protection", a.object, "not kept", "x-tidegate-validate and x-tidegate-max-body bound what a backend gets")
	}
	c.maxTPS(a)
}

// policyCalls reports the operation policies of 4.x.
func (c *converter) policyCalls(v value, object string) {
	if !v.there() {
		return
	}
	for _, flow := range []string{"request", "response", "fault"} {
		for _, p := range v.list(flow) {
			c.r.open("operation policy", object+": "+cmp.Or(p.text("policyName"), "(no name)"), "in the "+flow+" flow: cannot be kept",
				"say what it did with x-tidegate-transform in an overlay")
		}
	}
}

// maxTPS reports the bound of calls to the backend, in each of its forms.
func (c *converter) maxTPS(a *api) {
	t := a.v.get("maxTps")
	for _, side := range []string{"production", "sandbox"} {
		n := t.text(side)
		if n == "" {
			n = a.v.text(side + "MaxTps")
		}
		if n != "" && n != "0" && n != "-1" {
			c.r.open("maxTps", a.object, "at most "+n+" calls a second to the "+side+" backend: not kept", "give the API a resource plan with timeUnit: sec")
		}
	}
}

func (c *converter) tiers(a *api) {
	var names []string
	for _, t := range a.v.list("tiers", "policies", "availableTiers") {
		name := t.n.Text
		if t.n.Kind == source.Map {
			name = t.text("name")
			c.archivedTier(t, name)
		}
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	a.setTiers(c, names)
	if p := a.v.text("apiLevelPolicy", "apiThrottlingPolicy", "apiLevelThrottlingPolicy"); p != "" && !strings.EqualFold(p, "Unlimited") {
		set(a.doc, "x-wso2-throttling-tier", text(p))
		c.use(p, a.object)
	}
}

// setTiers names the plans a subscription may use. One that nobody defines is left out: a
// device could not look it up.
func (a *api) setTiers(c *converter, names []string) {
	known := slices.DeleteFunc(slices.Clone(names), func(n string) bool {
		if strings.EqualFold(n, "Unlimited") || c.subscriptionPlan(n) {
			return false
		}
		c.r.Warnings = append(c.r.Warnings, fmt.Sprintf("%s: the tier %q is defined by nobody: left out of x-tidegate-plans", a.object, n))
		return true
	})
	for i, n := range known {
		c.offered[n] = true
		if strings.EqualFold(n, "Unlimited") {
			known[i] = "Unlimited"
		}
	}
	if len(known) > 0 {
		set(a.doc, "x-tidegate-plans", texts(known))
	}
}

func (c *converter) security(a *api) {
	var types []string
	mutual, mandatory, app := false, false, false
	for _, s := range a.v.texts("securityScheme", "apiSecurity") {
		switch s {
		case "oauth2", "basic_auth", "api_key":
			types = append(types, s)
		case "mutualssl":
			mutual = true
		case "mutualssl_mandatory":
			mandatory = true
		case "oauth_basic_auth_api_key_mandatory":
			app = true
		default:
			c.r.Warnings = append(c.r.Warnings, fmt.Sprintf("%s: security scheme %q is not known: no caller can use it", a.object, s))
		}
	}
	if mutual || mandatory {
		word := "optional"
		if mandatory {
			word = "mandatory"
		}
		set(a.doc, "x-wso2-mutual-ssl", text(word))
		c.mutual = append(c.mutual, a.object)
	}
	if len(types) == 0 {
		return
	}
	s := mapping()
	set(s, "security-types", texts(types))
	if !app && (mutual || mandatory) {
		if mandatory {
			set(s, "optional", truth(true))
		} else {
			c.r.Warnings = append(c.r.Warnings, a.object+": a certificate alone was enough here; now a token, password or key is needed too, "+
				"unless the certificate is made mandatory (x-wso2-mutual-ssl: mandatory with optional: true)")
		}
	}
	set(a.doc, "x-wso2-application-security", s)
}

func (c *converter) cors(a *api) {
	v := a.v.object("corsConfiguration")
	if !v.there() || !v.yes("corsConfigurationEnabled") {
		remove(a.doc, "x-wso2-cors")
		return
	}
	out := mapping()
	origins := v.texts("accessControlAllowOrigins")
	set(out, "accessControlAllowOrigins", texts(origins))
	for _, f := range []string{"accessControlAllowMethods", "accessControlAllowHeaders", "accessControlExposeHeaders"} {
		if t := v.texts(f); len(t) > 0 {
			set(out, f, texts(t))
		}
	}
	if v.yes("accessControlAllowCredentials") {
		if slices.Contains(origins, "*") {
			c.r.drop("CORS credentials", a.object, `with origin "*" every web site could act for a user who is logged in: credentials are not allowed; name the origins to allow them`)
		} else {
			set(out, "accessControlAllowCredentials", truth(true))
		}
	}
	set(a.doc, "x-wso2-cors", out)
}

func (c *converter) cache(a *api) {
	if !a.v.yes("responseCaching", "responseCache", "responseCachingEnabled") {
		remove(a.doc, "x-wso2-response-cache")
		return
	}
	out := mapping()
	set(out, "enabled", truth(true))
	if n := a.v.number("cacheTimeout"); n > 0 {
		set(out, "cacheTimeoutInSeconds", number(n))
	}
	set(a.doc, "x-wso2-response-cache", out)
}

// remove takes an entry out of a mapping that belongs to us.
func remove(n *source.Node, name string) {
	n.Keys = slices.DeleteFunc(n.Keys, func(k source.Key) bool { return k.Name == name })
}

// interceptors reports the code that a definition names.
func (c *converter) interceptors(n *source.Node, object string) {
	for _, k := range n.All() {
		if k.Name == "x-wso2-request-interceptor" || k.Name == "x-wso2-response-interceptor" {
			c.r.open("interceptor", object, fmt.Sprintf("%s: %q is code, which cannot be kept", k.Name, k.Value.Text),
				"say what it did with x-tidegate-transform in an overlay that also sets "+k.Name+": null, or accept the loss with accept_dropped: [interceptors] in tide.yaml")
		}
	}
}
