package changes

import (
	"strconv"
	"strings"
	"tidegate/policy"
	"time"
)

// settings compares what is said once for all APIs.
func (d *differ) settings() {
	of := func(s *policy.Set) []view {
		faults := "wso2"
		if s.Faults == policy.FaultsProblem {
			faults = "problem"
		}
		rest := *s
		rest.Format, rest.Name, rest.APIs, rest.Endpoints, rest.TLS, rest.Schemas, rest.Plans = 0, "", nil, nil, nil, nil, nil
		rest.Issuers, rest.APIKeys, rest.Users, rest.ClientCAs = nil, policy.APIKeys{}, nil, nil
		rest.Applications, rest.Subscriptions, rest.Blocked, rest.Revoked = nil, nil, nil, nil
		return []view{{facts: []fact{
			{"form of refusals", faults, "Faults"},
			{"credential header", s.AuthHeader, "AuthHeader"},
			{"credentials to backends", yes(s.ForwardAuth), "ForwardAuth"},
			{"introspection of tokens", s.Introspection, "Introspection"},
			{"token for backends", s.BackendJWT, "BackendJWT"},
			{"signed API keys must name the API", yes(s.APIKeys.RequireAllowed), ""},
		}, rest: rest}}
	}
	d.each("settings", of(d.from), of(d.to))
}

// apis compares APIs, and behind each what becomes of its operations.
func (d *differ) apis() {
	old := map[string]*policy.API{}
	for i := range d.from.APIs {
		old[apiName(&d.from.APIs[i])] = &d.from.APIs[i]
	}
	for i := range d.to.APIs {
		api := &d.to.APIs[i]
		was := old[apiName(api)]
		delete(old, apiName(api))
		if was == nil {
			d.each("API", nil, []view{viewAPI(d.to, api)})
			d.each("operation", nil, operations(d.to, api))
			continue
		}
		d.each("API", []view{viewAPI(d.from, was)}, []view{viewAPI(d.to, api)})
		d.each("operation", operations(d.from, was), operations(d.to, api))
	}
	for i := range d.from.APIs {
		if api := old[apiName(&d.from.APIs[i])]; api != nil {
			d.each("API", []view{viewAPI(d.from, api)}, nil)
			d.each("operation", operations(d.from, api), nil)
		}
	}
}

func apiName(a *policy.API) string { return a.Name + " " + a.Version }

func viewAPI(s *policy.Set, a *policy.API) view {
	path := a.BasePath
	if path == "" {
		path = "/"
	}
	rest := *a
	rest.Pos, rest.Production, rest.Sandbox, rest.Operations = policy.Pos{}, 0, 0, nil
	return view{
		key: apiName(a), name: apiName(a),
		summary: given("at", path, "on", strings.Join(a.Hosts, " "), "plan", a.Plan, "backend", group(s, a.Production), "sandbox", group(s, a.Sandbox)),
		facts: []fact{
			{"path", path, "BasePath"},
			{"default path", a.DefaultPath, "DefaultPath"},
			{"hosts", list(a.Hosts), "Hosts"},
			{"owner", a.Owner, "Owner"},
			{"transports", transports(a.Transports), "Transports"},
			{"credential header", a.AuthHeader, "AuthHeader"},
			{"client certificates", certificates(a.MutualTLS, a.Optional), "MutualTLS Optional"},
			{"client authorities", list(a.ClientCAs), "ClientCAs"},
			{"plan", a.Plan, "Plan"},
			{"subscription plans", list(a.Plans), "Plans"},
			{"backend", group(s, a.Production), ""},
			{"sandbox", group(s, a.Sandbox), ""},
			{"CORS", a.CORS, "CORS"},
			{"cache", a.Cache, "Cache"},
			{"access", a.Access, "Access"},
			{"edits", a.Edit, "Edit"},
			{"largest body", size(a.MaxBody), "MaxBody"},
			{"compression", yes(a.Compress), "Compress"},
		},
		rest: rest,
	}
}

func operations(s *policy.Set, a *policy.API) []view {
	out := make([]view, 0, len(a.Operations))
	for i := range a.Operations {
		o := &a.Operations[i]
		needs := security(a, o.Security)
		rest := *o
		rest.Pos, rest.Production, rest.Sandbox, rest.Request, rest.Response, rest.Security = policy.Pos{}, 0, 0, 0, 0, nil
		out = append(out, view{
			key: o.Method + " " + o.Template, name: o.Method + " " + a.BasePath + o.Template,
			summary: given("", needs, "scope", strings.Join(o.Scopes, " or "), "plan", o.Plan, "backend", group(s, o.Production), "sandbox", group(s, o.Sandbox)),
			facts: []fact{
				{"credentials", needs, ""},
				{"scopes", list(o.Scopes), "Scopes"},
				{"plan", o.Plan, "Plan"},
				{"backend", group(s, o.Production), ""},
				{"sandbox", group(s, o.Sandbox), ""},
				{"check of requests", check(s, o.Request), ""},
				{"check of answers", check(s, o.Response), ""},
				{"edits", o.Edit, "Edit"},
				{"access", o.Access, "Access"},
				{"largest body", size(o.MaxBody), "MaxBody"},
				{"WebSocket", yes(o.Upgrade), "Upgrade"},
				{"limits of messages", o.Messages, "Messages"},
				{"operationId", o.ID, "ID"},
			},
			rest: rest,
		})
	}
	return out
}

// security says what a caller must show: "token or API key in header X-API-Key".
func security(a *policy.API, of []policy.Alternative) string {
	if len(of) == 0 {
		return "open to all"
	}
	var ways []string
	for _, alternative := range of {
		var all []string
		for _, use := range alternative {
			s := a.Schemes[use.Scheme]
			text := map[policy.SchemeKind]string{policy.OAuth2: "token", policy.Basic: "login", policy.APIKey: "API key", policy.Certificate: "certificate"}[s.Kind]
			if s.Kind == policy.APIKey {
				text += map[policy.Location]string{policy.InHeader: " in header ", policy.InQuery: " in query ", policy.InCookie: " in cookie "}[s.In] + s.Name
			}
			if len(use.Scopes) > 0 {
				text += " with " + strings.Join(use.Scopes, " and ")
			}
			all = append(all, text)
		}
		ways = append(ways, strings.Join(all, " and "))
	}
	return strings.Join(ways, " or ")
}

func group(s *policy.Set, r policy.EndpointRef) string {
	if r == 0 {
		return ""
	}
	return s.Endpoints[r-1].Name
}

func check(s *policy.Set, r policy.SchemaRef) any {
	if r == 0 {
		return nil
	}
	return s.Schemas[r-1]
}

func transports(t policy.Transports) string {
	return map[policy.Transports]string{policy.HTTP: "http", policy.HTTPS: "https"}[t] // else both
}

func certificates(m policy.MutualTLS, optional bool) string {
	s := map[policy.MutualTLS]string{policy.MutualOptional: "optional", policy.MutualMandatory: "mandatory"}[m]
	if optional {
		s += " instead of other credentials"
	}
	return s
}

func size(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10) + " bytes"
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// choices name the ways to choose among backends.
var choices = map[policy.GroupKind]string{policy.RoundRobin: "round robin", policy.Failover: "failover", policy.LeastPending: "least pending"}

// backends compares the groups of backends and how they are spoken to.
func (d *differ) backends() {
	of := func(s *policy.Set) []view {
		out := make([]view, 0, len(s.Endpoints))
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			rest := *e
			rest.Pos, rest.Targets = policy.Pos{}, nil
			targets := []string{}
			for _, t := range e.Targets {
				text := t.URL
				if t.Weight > 1 {
					text += " weight " + strconv.FormatUint(uint64(t.Weight), 10)
				}
				targets = append(targets, text)
			}
			out = append(out, view{
				key: e.Name, name: e.Name, summary: targets,
				facts: []fact{
					{"addresses", targets, ""},
					{"choice", choices[e.Kind], "Kind"},
					{"timeout", span(e.Timeout), "Timeout"},
					{"time over all tries", span(e.Overall), "Overall"},
					{"tries", e.Retry, "Retry"},
					{"breaker", e.Breaker, "Breaker"},
					{"connections", e.Pool, "Pool"},
					{"TLS profile", e.TLS, "TLS"},
					{"credentials", e.Auth, "Auth"},
					{"health check", e.Health, "Health"},
					{"ejection", e.Eject, "Eject"},
					{"HTTP/2", yes(e.HTTP2), "HTTP2"},
					{"host", e.Host, "Host"},
					{"proxy", e.Proxy, "Proxy"},
				},
				rest: rest,
			})
		}
		return out
	}
	d.each("backend", of(d.from), of(d.to))

	profiles := func(s *policy.Set) []view {
		out := make([]view, 0, len(s.TLS))
		for _, t := range s.TLS {
			t.Pos = policy.Pos{}
			out = append(out, view{key: t.Name, name: t.Name, facts: []fact{{"authorities", t.CAs, "CAs"}, {"name", t.ServerName, "ServerName"}, {"pins", t.Pins, "Pins"}, {"client certificate", t.ClientCert, "ClientCert"}}, rest: t})
		}
		return out
	}
	d.each("TLS profile", profiles(d.from), profiles(d.to))
}

func span(t time.Duration) string {
	if t == 0 {
		return ""
	}
	s := t.String() // 1h0m0s is 1h
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// failures name what a plan does while its counters cannot be kept.
var failures = map[policy.Failure]string{policy.ByKind: "by its kind", policy.FailClosed: "closed", policy.FailOpen: "open"}

// plans compares limits.
func (d *differ) plans() {
	kinds := map[policy.PlanKind]string{policy.ResourcePlan: "resource plan", policy.SubscriptionPlan: "subscription plan", policy.ApplicationPlan: "application plan", policy.CustomPlan: "custom plan"}
	for _, kind := range []policy.PlanKind{policy.ResourcePlan, policy.SubscriptionPlan, policy.ApplicationPlan, policy.CustomPlan} {
		of := func(s *policy.Set) []view {
			var out []view
			for _, p := range s.Plans {
				if p.Kind != kind {
					continue
				}
				p.Pos = policy.Pos{}
				burst := ""
				if p.Burst.Count > 0 || p.Burst.Per > 0 {
					burst = limit(policy.Limit{Count: p.Burst.Count, Window: p.Burst.Per})
				}
				out = append(out, view{
					key: p.Name, name: p.Name, summary: given("", limit(p.Limit), "burst", burst),
					facts: []fact{
						{"limit", limit(p.Limit), "Limit"},
						{"burst", burst, "Burst"},
						{"calls at a time", number(p.Concurrent), "Concurrent"},
						{"stops calls", yes(!p.Soft), "Soft"},
						{"warns at percent", number(int64(p.WarnPercent)), "WarnPercent"},
						{"conditions", p.Groups, "Groups"},
						{"counts in every group that matches", yes(p.EveryGroup), "EveryGroup"},
						{"cuts streams", yes(p.Cut), "Cut"},
						{"without durable counters", failures[p.OnFailure], "OnFailure"},
						{"key", p.KeyTemplate, "KeyTemplate"},
						{"largest body", size(p.MaxBody), "MaxBody"},
					},
					rest: p,
				})
			}
			return out
		}
		d.each(kinds[kind], of(d.from), of(d.to))
	}
}

func number(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// limit says how much in what time: "5 in 1m", "1048576 bytes in 24h of a calendar day".
func limit(l policy.Limit) string {
	if l.IsZero() {
		return ""
	}
	s := strconv.FormatInt(l.Count, 10)
	if l.Unit == policy.Bytes {
		s += " bytes"
	}
	s += " in " + span(l.Window)
	switch l.Align {
	case policy.Epoch:
		return s
	case policy.Sliding:
		return s + " sliding"
	case policy.CalendarDay:
		s += " of a calendar day"
	case policy.CalendarWeek:
		s += " of a calendar week"
	case policy.CalendarMonth:
		s += " of a calendar month"
	}
	if l.Zone != "" {
		s += " in " + l.Zone
	}
	return s
}
