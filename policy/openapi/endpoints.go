package openapi

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"tidegate/policy"
	"tidegate/policy/source"
	"time"
)

const (
	productionKey = "x-wso2-production-endpoints"
	sandboxKey    = "x-wso2-sandbox-endpoints"
	maxWait       = 24 * time.Hour
)

// endpoints reads the endpoints of the document as a whole.
func (d *reader) endpoints(api *policy.API) {
	d.named = map[string]policy.EndpointRef{}
	o := d.r.Object(d.root, "document", d.object)
	for _, e := range o.Named("x-wso2-endpoints") {
		if _, twice := d.named[e.Name]; twice {
			d.r.Errorf(e.Pos, d.object, "x-wso2-endpoints: %q is given twice", e.Name)
			continue
		}
		d.named[e.Name] = d.group(e.Object, e.Name, false)
	}
	prefix := api.Name + "-" + api.Version
	api.Production = d.side(o, productionKey, prefix+"-production", false)
	api.Sandbox = d.side(o, sandboxKey, prefix+"-sandbox", false)
	if api.Production == 0 && api.Sandbox == 0 && !o.Has(productionKey, sandboxKey) {
		api.Production = d.servers(prefix + "-production")
	}
}

// operationEndpoints reads those that replace the API's for one operation.
func (d *reader) operationEndpoints(op *policy.Operation, o *source.Object, item *source.Node) {
	name := op.ID
	if name == "" {
		name = op.Method + "-" + strings.Trim(op.Template, "/")
	}
	op.Production = d.side(o, productionKey, name+"-production", true)
	op.Sandbox = d.side(o, sandboxKey, name+"-sandbox", true)
	servers := o.Value("servers")
	if servers == nil {
		servers = item.Value("servers")
	}
	if servers != nil {
		d.r.Dropf(servers.Pos, o.Name, "servers below the top of the document: use %s of the operation", productionKey)
	}
}

// side reads one endpoint extension: a group, or the name of one.
func (d *reader) side(o *source.Object, key, name string, derived bool) policy.EndpointRef {
	v := o.Value(key)
	if v == nil {
		return 0
	}
	if v.IsScalar() {
		ref, ok := strings.CutPrefix(v.Text, "#/x-wso2-endpoints/")
		e, known := d.named[ref]
		if !ok || !known {
			f := source.Finding{
				Pos: v.Pos, Severity: source.Error, Object: o.Name,
				Message: fmt.Sprintf("%s: %q is not one of x-wso2-endpoints", key, v.Text),
			}
			names := make([]string, 0, len(d.named))
			for _, n := range d.doc.Endpoints {
				names = append(names, n.Name)
			}
			if near := source.Nearest(ref, names); near != "" {
				f.Hint = "did you mean #/x-wso2-endpoints/" + near + "?"
			}
			d.r.Add(f)
			return 0
		}
		return e
	}
	g := o.Object(key)
	if g == nil {
		return 0
	}
	return d.group(g, name, derived)
}

// group reads one group of targets and returns its reference.
func (d *reader) group(o *source.Object, name string, derived bool) policy.EndpointRef {
	g := policy.Endpoints{Name: name, Pos: o.Node.Pos}
	for _, u := range o.Scalars("urls") {
		g.Targets = append(g.Targets, policy.Target{URL: d.target(u.Text, u.Pos, o.Name), Pos: u.Pos})
	}
	d.weights(&g, o)
	switch o.Word("type", "http", "load_balance", "failover", "least_pending") {
	case "failover":
		g.Kind = policy.Failover
	case "least_pending":
		g.Kind = policy.LeastPending
	case "http":
		if len(g.Targets) > 1 {
			o.Warnf("type", "http with %d urls: taken for load_balance", len(g.Targets))
		}
	}
	g.TLS = o.Text("tls")
	g.HTTP2 = o.Bool(false, "http2")
	g.Host = o.Text("host")
	g.Proxy = o.Text("proxy")
	g.Auth = d.backendAuth(o, name)
	d.health(&g, o)
	d.ejection(&g, o)
	d.advanced(&g, o.Object("advanceEndpointConfig"))
	o.CloseLoosely()
	d.doc.Endpoints = append(d.doc.Endpoints, Endpoints{g, derived})
	return policy.EndpointRef(len(d.doc.Endpoints))
}

func (d *reader) weights(g *policy.Endpoints, o *source.Object) {
	w := o.Value("weights")
	if w == nil {
		return
	}
	ws := o.Scalars("weights")
	if len(ws) != len(g.Targets) {
		o.Errorf("weights", "%d weights for %d urls", len(ws), len(g.Targets))
		return
	}
	for i, n := range ws {
		var v uint32
		if _, err := fmt.Sscanf(n.Text, "%d", &v); err != nil || v < 1 || v > 1000 {
			d.r.Errorf(n.Pos, o.Name, "weights: %q is not from 1 to 1000", n.Text)
			continue
		}
		g.Targets[i].Weight = v
	}
}

// etcd is how WSO2 writes a URL that is looked up at run time, with a default.
var etcd = regexp.MustCompile(`^etcd\(\s*([^,]+?)\s*,\s*(.+?)\s*\)$`)

// target returns the URL to use for what was written.
func (d *reader) target(text string, pos policy.Pos, object string) string {
	if m := etcd.FindStringSubmatch(text); m != nil {
		d.r.Add(source.Finding{
			Pos: pos, Severity: source.Warning, Object: object,
			Message: fmt.Sprintf("etcd key %q is not looked up: its default %s is used", m[1], m[2]),
			Hint:    "override the endpoint by name in the configuration of the device",
		})
		text = m[2]
	}
	return text
}

// backendAuth reads securityConfig. The secret itself is never in a document.
func (d *reader) backendAuth(o *source.Object, name string) *policy.BackendAuth {
	s := o.Object("securityConfig")
	if s == nil {
		return nil
	}
	a := &policy.BackendAuth{Username: s.Text("username")}
	part := "password"
	switch s.Word("type", "basic", "bearer", "api_key", "oauth2") {
	case "basic":
		a.Kind = policy.BackendBasic
		if a.Username == "" {
			s.Errorf("username", "missing")
		}
	case "bearer":
		a.Kind, part = policy.BackendBearer, "token"
	case "api_key":
		a.Kind, part = policy.BackendKey, "key"
		a.Header = s.Need("header")
	case "oauth2":
		a.Kind, part = policy.BackendOAuth2, "secret"
		a.Username = s.Need("client_id")
		a.TokenURL = s.Need("token_url")
		a.Scopes = s.Texts("scopes")
	default:
		if !s.Has("type") {
			s.Errorf("type", "missing: want basic, bearer, api_key or oauth2")
		}
		return nil
	}
	a.Secret = policy.Secret(SecretPath("endpoints", name, part))
	if p := s.Value("password"); p != nil {
		d.r.Add(source.Finding{
			Pos: p.Pos, Severity: source.Error, Object: s.Name, Security: true,
			Message: "password: a document is not the place for a secret, it would be readable in the bundle",
			Hint:    fmt.Sprintf("move it to secrets.yaml as %s", a.Secret),
		})
	}
	s.Has("header")
	s.Has("client_id")
	s.Has("token_url")
	s.Has("scopes")
	s.CloseLoosely()
	return a
}

func (d *reader) health(g *policy.Endpoints, o *source.Object) {
	h := o.Object("health")
	if h == nil {
		return
	}
	g.Health = &policy.Health{
		Path:      h.Need("path"),
		Interval:  h.Duration(10*time.Second, time.Second, maxWait, "interval"),
		Timeout:   h.Duration(2*time.Second, 10*time.Millisecond, time.Minute, "timeout"),
		Healthy:   uint8(h.Int(2, 1, 100, "healthy")),
		Unhealthy: uint8(h.Int(3, 1, 100, "unhealthy")),
		Statuses:  d.statuses(h, "statuses"),
	}
	h.Close()
}

func (d *reader) ejection(g *policy.Endpoints, o *source.Object) {
	e := o.Object("eject")
	if e == nil {
		return
	}
	g.Eject = &policy.Ejection{
		Failures: uint32(e.Int(5, 1, 1000, "failures")),
		For:      e.Duration(30*time.Second, time.Second, maxWait, "for"),
		MaxShare: e.Float(0.5, 0.01, 1, "max_share"),
	}
	e.Close()
}

// advanced reads WSO2's timeouts, retries, breaker and pool.
func (d *reader) advanced(g *policy.Endpoints, a *source.Object) {
	if a == nil {
		return
	}
	g.Timeout = millis(a, 0, "timeoutInMillis", "timeout")
	g.Overall = millis(a, 0, "overallTimeoutInMillis")
	if r := a.Object("retryConfig"); r != nil {
		g.Retry = policy.Retry{
			Count:    uint32(r.Int(0, 0, 10, "count")),
			Interval: millis(r, 0, "intervalInMillis"),
			Factor:   r.Float(0, 0, 100, "backOffFactor"),
			MaxWait:  millis(r, 0, "maxWaitIntervalInMillis"),
			Statuses: d.statuses(r, "statusCodes"),
		}
		r.CloseLoosely()
	}
	if c := a.Object("circuitBreaker"); c != nil {
		b := &policy.Breaker{Window: time.Minute, Bucket: 10 * time.Second, Volume: 10}
		if w := c.Object("rollingWindow"); w != nil {
			b.Volume = uint32(w.Int(10, 1, 1<<20, "requestVolumeThreshold"))
			b.Window = millis(w, time.Minute, "timeWindowInMillis")
			b.Bucket = millis(w, min(b.Bucket, b.Window), "bucketSizeInMillis")
			w.CloseLoosely()
		}
		b.Share = c.Float(0.5, 0, 1, "failureThreshold")
		b.Reset = millis(c, 5*time.Second, "resetTimeInMillis")
		b.Statuses = d.statuses(c, "statusCodes")
		c.CloseLoosely()
		g.Breaker = b
	}
	if p := a.Object("poolConfig"); p != nil {
		g.Pool = policy.Pool{
			MaxActive: int32(p.Int(0, -1, 1<<20, "maxActiveConnections")),
			MaxIdle:   int32(p.Int(0, 0, 1<<20, "maxIdleConnections")),
			Wait:      millis(p, 0, "waitTimeInMillis"),
			Idle:      millis(p, 0, "idleTimeInMillis"),
			Streams:   int32(p.Int(0, 0, 1<<20, "maxActiveStreamsPerConnection")),
		}
		p.CloseLoosely()
	}
	a.CloseLoosely()
}

func millis(o *source.Object, def time.Duration, keys ...string) time.Duration {
	return time.Duration(o.Int(def.Milliseconds(), 0, maxWait.Milliseconds(), keys...)) * time.Millisecond
}

func (d *reader) statuses(o *source.Object, key string) []uint16 {
	var out []uint16
	for _, n := range o.Scalars(key) {
		var s uint16
		if _, err := fmt.Sscanf(n.Text, "%d", &s); err != nil || s < 100 || s > 599 {
			d.r.Errorf(n.Pos, o.Name, "%s: %q is not a status from 100 to 599", key, n.Text)
			continue
		}
		out = append(out, s)
	}
	return out
}

// serverURL returns the first server with its variables filled in, nil when there is none.
func (d *reader) serverURL() (*url.URL, policy.Pos) {
	if d.v2 {
		return d.swaggerURL()
	}
	servers := d.root.Value("servers")
	if servers == nil || servers.Kind != source.List || len(servers.List) == 0 {
		return nil, policy.Pos{}
	}
	s := servers.List[0]
	raw := s.Value("url")
	if !raw.IsScalar() {
		d.r.Errorf(s.Pos, d.object, "servers: url is missing")
		return nil, policy.Pos{}
	}
	text := raw.Text
	for _, v := range s.Value("variables").All() {
		def := v.Value.Value("default")
		if !def.IsScalar() {
			d.r.Errorf(v.Pos, d.object, "servers: the variable %q has no default", v.Name)
			continue
		}
		text = strings.ReplaceAll(text, "{"+v.Name+"}", def.Text)
	}
	u, err := url.Parse(text)
	if err != nil || strings.ContainsAny(text, "{}") {
		d.r.Errorf(raw.Pos, d.object, "servers: %q is not a URL", text)
		return nil, policy.Pos{}
	}
	return u, raw.Pos
}

func (d *reader) swaggerURL() (*url.URL, policy.Pos) {
	u := &url.URL{}
	pos := d.root.Pos
	if b := d.root.Value("basePath"); b.IsScalar() {
		u.Path, pos = b.Text, b.Pos
	}
	if h := d.root.Value("host"); h.IsScalar() {
		u.Host, pos = h.Text, h.Pos
		u.Scheme = "https"
		if s := d.root.Value("schemes"); s != nil && len(s.List) > 0 && s.List[0].Text != "" {
			u.Scheme = s.List[0].Text
			for _, e := range s.List {
				if e.Text == "https" {
					u.Scheme = "https"
				}
			}
		}
	}
	return u, pos
}

// servers makes the endpoint of a document without endpoint extensions: its first server.
func (d *reader) servers(name string) policy.EndpointRef {
	u, pos := d.serverURL()
	if u == nil || u.Host == "" {
		return d.fallback(name, u, pos)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	if all := d.root.Value("servers"); all != nil && len(all.List) > 1 {
		d.r.Dropf(all.List[1].Pos, d.object, "servers after the first: they are alternatives for clients; name those to balance over in %s", productionKey)
	}
	g := policy.Endpoints{Name: name, Targets: []policy.Target{{URL: u.String(), Pos: pos}}, Pos: pos}
	d.doc.Endpoints = append(d.doc.Endpoints, Endpoints{g, false})
	return policy.EndpointRef(len(d.doc.Endpoints))
}

// fallback makes the endpoint of a document that names no backend at all from the one of
// the project, if it has one.
func (d *reader) fallback(name string, server *url.URL, pos policy.Pos) policy.EndpointRef {
	if d.opt.Backend == "" {
		return 0
	}
	to := strings.TrimSuffix(d.opt.Backend, "/")
	if server != nil {
		to += strings.TrimSuffix(server.EscapedPath(), "/")
	}
	g := policy.Endpoints{Name: name, Targets: []policy.Target{{URL: to, Pos: pos}}, Pos: pos}
	d.doc.Endpoints = append(d.doc.Endpoints, Endpoints{g, false})
	return policy.EndpointRef(len(d.doc.Endpoints))
}
