package wso2

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"tidegate/policy/openapi"
	"tidegate/policy/source"
)

// A group is the endpoints of one side of an API.
type group struct {
	key  string // extension
	name string // for overrides and secrets
	side string
	urls []string
	kind string
	node *source.Node
}

// endpoints reads endpointConfig, or endpoint[] of 3.0.
func (c *converter) endpoints(a *api) {
	v := a.v.object("endpointConfig")
	for _, side := range []string{"production", "sandbox"} {
		g := group{key: "x-wso2-" + side + "-endpoints", name: a.name + "-" + a.version + "-" + side, side: side}
		var config value
		if v.there() {
			config = c.sideOf(a, v, &g)
		} else {
			config = c.endpoint30(a, &g)
		}
		g.urls = slices.DeleteFunc(g.urls, func(s string) bool { return s == "" })
		if len(g.urls) == 0 {
			continue
		}
		g.node = mapping()
		set(g.node, "urls", texts(g.urls))
		set(g.node, "type", text(g.kind))
		c.advanced(a, &g, config)
		a.groups = append(a.groups, g)
	}
	c.endpointSecurity(a, v)
}

// sideOf reads one side by its endpoint_type and returns the settings of its first URL.
func (c *converter) sideOf(a *api, v value, g *group) value {
	g.kind = "http"
	kind := v.text("endpoint_type")
	first := v.get(g.side + "_endpoints")
	all := []value{first}
	if first.there() && first.n.Kind == source.List {
		all = v.list(g.side + "_endpoints")
	}
	switch kind {
	case "", "http", "address", "service", "sequence_backend":
	case "load_balance":
		g.kind = "load_balance"
	case "failover":
		g.kind = "failover"
		all = append(all, v.list(g.side+"_failovers")...)
	default:
		if g.side == "production" {
			c.r.drop("endpoint", a.object, "endpoint type "+kind+" is not a URL")
		}
		return value{v.r, nil, v.path}
	}
	for _, e := range all {
		if e.there() {
			g.urls = append(g.urls, strings.TrimSpace(e.text("url")))
		}
	}
	if len(g.urls) > 1 && g.kind == "http" {
		g.kind = "load_balance"
	}
	if len(g.urls) == 0 {
		return value{v.r, nil, v.path}
	}
	return all[0].object("config")
}

// endpoint30 reads endpoint[] of API Manager 3.0.
func (c *converter) endpoint30(a *api, g *group) value {
	g.kind = "http"
	for _, e := range a.v.list("endpoint") {
		if t := strings.ToLower(e.text("type")); !strings.HasPrefix(t, g.side) {
			continue
		}
		in := e.get("inline")
		for _, u := range in.object("endpointConfig").list("list") {
			g.urls = append(g.urls, u.text("url"))
		}
		switch strings.ToLower(in.object("endpointConfig").text("endpointType")) {
		case "load_balanced", "load_balance":
			g.kind = "load_balance"
		case "fail_over", "failover":
			g.kind = "failover"
		}
	}
	return value{a.v.r, nil, ""}
}

// advanced turns the settings of a Synapse endpoint into timeouts, tries and a breaker.
func (c *converter) advanced(a *api, g *group, v value) {
	if !v.there() {
		return
	}
	out := mapping()
	if n := v.number("actionDuration"); n > 0 {
		set(out, "timeoutInMillis", number(n))
	}
	retries := v.number("retryTimeOut")
	if retries > 0 {
		retry := mapping()
		set(retry, "count", number(min(retries, 10)))
		if n := v.number("retryDelay"); n > 0 {
			set(retry, "intervalInMillis", number(n))
		}
		set(out, "retryConfig", retry)
	}
	if n := v.number("suspendDuration"); n > 0 {
		window, breaker := mapping(), mapping()
		set(window, "requestVolumeThreshold", number(max(1, retries)))
		set(window, "timeWindowInMillis", number(60000))
		set(window, "bucketSizeInMillis", number(10000))
		set(breaker, "rollingWindow", window)
		set(breaker, "failureThreshold", decimal(0.5))
		set(breaker, "resetTimeInMillis", number(n))
		set(out, "circuitBreaker", breaker)
	}
	if len(out.Keys) > 0 {
		set(g.node, "advanceEndpointConfig", out)
	}
	var lost []string
	for _, f := range []string{"suspendMaxDuration", "factor", "suspendErrorCode", "retryErroCode", "retryErrorCode", "actionSelect"} {
		x := v.get(f)
		if x.there() && x.n.Text != "" && x.n.Text != "fault" && x.n.Text != "1.0" || x.there() && len(x.n.List) > 0 {
			lost = append(lost, f)
		}
	}
	if len(lost) > 0 {
		c.r.drop("endpoint setting", a.object+": "+g.side, strings.Join(lost, ", ")+": not kept")
	}
}

// endpointSecurity reads the credential for the backend, in each of its forms.
func (c *converter) endpointSecurity(a *api, config value) {
	sides := config.get("endpoint_security")
	both := a.v.get("endpointSecurity")
	for i := range a.groups {
		g := &a.groups[i]
		s := both
		if sides.there() {
			if s = sides.get(g.side); s.there() && s.get("enabled").there() && !s.yes("enabled") {
				continue
			}
		}
		kind, user, password := strings.ToLower(s.text("type")), s.text("username"), s.text("password")
		if a.src.Archived && !s.there() && a.v.yes("endpointSecured") {
			kind, user, password = "basic", a.v.text("endpointUTUsername"), a.v.text("endpointUTPassword")
			if a.v.yes("endpointAuthDigest") {
				kind = "digest"
			}
		}
		switch kind {
		case "", "none":
		case "basic":
			c.backendLogin(a, g, user, password)
		default:
			c.r.drop("endpoint security", a.object+": "+g.side, "type "+kind+" is not kept: calls go to the backend without a credential")
		}
	}
}

func (c *converter) backendLogin(a *api, g *group, user, password string) {
	path := openapi.SecretPath("endpoints", g.name, "password")
	s := mapping()
	set(s, "type", text("basic"))
	set(s, "username", text(user))
	if user == "" {
		c.r.drop("endpoint security", a.object+": "+g.side, "basic without a user name: calls go to the backend without a credential")
		return
	}
	set(g.node, "securityConfig", s)
	if password != "" {
		c.add(Entry{Kind: KindSecret, ID: path, Value: text(password)})
		c.r.Warnings = append(c.r.Warnings, a.object+": the password for the "+g.side+" backend is in secrets.yaml: keep that file out of version control")
		return
	}
	c.r.Needs = append(c.r.Needs, Need{
		"secret", path,
		fmt.Sprintf("the password of %q at the %s backend of %s: put it into secrets.yaml, or set endpoints.%q.password on each device", user, g.side, a.object, g.name),
	})
}

// certificates makes TLS profiles of endpoint certificates, and client certificates of the
// others.
func (c *converter) certificates(a *api) {
	for _, cert := range a.src.EndpointCertificates {
		file := "certs/" + fileName(cert.Alias) + ".pem"
		c.file(file, cert.PEM)
		p := mapping()
		set(p, "ca", text(file))
		c.add(Entry{Kind: KindTLS, ID: cert.Alias, Value: p})
		used := false
		for i := range a.groups {
			g := &a.groups[i]
			if !slices.ContainsFunc(g.urls, func(u string) bool { return sameHost(u, cert.Host) }) {
				continue
			}
			used = true
			if old := g.node.Value("tls"); old != nil && old.Text != cert.Alias {
				c.r.Warnings = append(c.r.Warnings, fmt.Sprintf("%s: %s: the certificates %q and %q are for one group of endpoints: only the first is used", a.object, g.side, old.Text, cert.Alias))
				continue
			}
			set(g.node, "tls", text(cert.Alias))
		}
		if !used {
			c.r.Warnings = append(c.r.Warnings, fmt.Sprintf("%s: the certificate %q is for %s, which is no endpoint of the API", a.object, cert.Alias, cert.Host))
		}
	}
	for _, cert := range a.src.ClientCertificates {
		file := "certs/client-" + fileName(cert.Alias) + ".pem"
		c.file(file, cert.PEM)
		id := mapping()
		set(id, "name", text(a.name))
		set(id, "version", text(a.version))
		p := mapping()
		set(p, "alias", text(cert.Alias))
		set(p, "certificate", text(file))
		set(p, "apis", list(id))
		c.add(Entry{Kind: KindClientCert, ID: cert.Alias, Value: p})
		c.clientCerts = true
	}
}

func sameHost(a, b string) bool {
	host := func(s string) string {
		if u, err := url.Parse(s); err == nil && u.Host != "" {
			return strings.ToLower(u.Host)
		}
		h, _, _ := strings.Cut(strings.ToLower(s), "/")
		return h
	}
	x, y := host(a), host(b)
	xh, _, xp := strings.Cut(x, ":")
	yh, _, yp := strings.Cut(y, ":")
	return x == y || xh == yh && xh != "" && xp != yp
}

// writeEndpoints puts the groups into the definition. Without one, the servers that the
// definition names are those of API Manager itself: an API without an endpoint is an error.
func (c *converter) writeEndpoints(a *api) {
	if len(a.groups) == 0 {
		if a.doc.Value("x-wso2-production-endpoints") == nil && a.doc.Value("x-wso2-sandbox-endpoints") == nil && !c.ownEndpoints(a) {
			c.fail("%s: no endpoint: calls would have nowhere to go; give the API an endpoint and publish it, or leave it out of the label", a.object)
		}
		return
	}
	for _, side := range []string{"production", "sandbox"} {
		remove(a.doc, "x-wso2-"+side+"-endpoints")
	}
	for _, g := range a.groups {
		set(a.doc, g.key, g.node)
	}
	c.count(a)
}

// ownEndpoints reports whether every operation brings its endpoints along.
func (c *converter) ownEndpoints(a *api) bool {
	found := false
	for _, p := range a.doc.Value("paths").All() {
		for _, k := range p.Value.All() {
			if !methods[k.Name] {
				continue
			}
			if k.Value.Value("x-wso2-production-endpoints") == nil && k.Value.Value("x-wso2-sandbox-endpoints") == nil {
				return false
			}
			found = true
		}
	}
	return found
}

// count notes names that two APIs share, which would make one group of two.
func (c *converter) count(a *api) {
	for _, g := range a.groups {
		if other := c.groupNames[g.name]; other != "" && other != a.object {
			c.fail("%s and %s: their endpoints have one name, %q", other, a.object, g.name)
		}
		c.groupNames[g.name] = cmp.Or(c.groupNames[g.name], a.object)
	}
}
