package openapi

import (
	"fmt"
	"strconv"
	"strings"
	"tidegate/policy"
	"tidegate/policy/source"
	"time"
)

// documentKeys and operationKeys are the extensions known at each level. A name of
// ours that is not among them is a mistake; one of WSO2's is a warning.
var documentKeys = []string{
	"x-wso2-basePath", productionKey, sandboxKey, "x-wso2-endpoints", "x-wso2-throttling-tier", "x-throttling-tier",
	"x-wso2-cors", "x-wso2-response-cache", "x-wso2-request-interceptor", "x-wso2-response-interceptor",
	"x-wso2-disable-security", "x-wso2-application-security", "x-wso2-mutual-ssl", "x-wso2-auth-header",
	"x-wso2-transports", "x-wso2-owner", "x-wso2-security",
	"x-tidegate-default-version", "x-tidegate-plans", "x-tidegate-validate", "x-tidegate-transform", "x-tidegate-access",
	"x-tidegate-hosts", "x-tidegate-max-body", "x-tidegate-compress", "x-tidegate-client-cas",
}

var operationKeys = []string{
	productionKey, sandboxKey, "x-wso2-throttling-tier", "x-throttling-tier",
	"x-wso2-request-interceptor", "x-wso2-response-interceptor",
	"x-wso2-disable-security", "x-wso2-application-security", "x-auth-type", "x-scope",
	"x-tidegate-validate", "x-tidegate-transform", "x-tidegate-access", "x-tidegate-max-body", "x-tidegate-websocket",
}

// extensions reads what is said of the API as a whole, but security and endpoints.
func (d *reader) extensions(api *policy.API) {
	o := d.r.Object(d.root, "document", d.object)
	api.Owner = o.Text("x-wso2-owner")
	api.AuthHeader = o.Text("x-wso2-auth-header")
	for _, t := range o.Scalars("x-wso2-transports") {
		switch strings.ToLower(t.Text) {
		case "http":
			api.Transports |= policy.HTTP
		case "https":
			api.Transports |= policy.HTTPS
		default:
			d.r.Errorf(t.Pos, d.object, "x-wso2-transports: %q is not http or https", t.Text)
		}
	}
	api.Plan = o.Text("x-wso2-throttling-tier")
	if t := o.Text("x-throttling-tier"); api.Plan == "" {
		api.Plan = t
	}
	if strings.EqualFold(api.Plan, policy.Unlimited) {
		api.Plan = ""
	}
	api.Plans = o.Texts("x-tidegate-plans")
	for _, h := range o.Texts("x-tidegate-hosts") {
		api.Hosts = append(api.Hosts, strings.ToLower(h))
	}
	api.MaxBody = d.size(o, "x-tidegate-max-body")
	api.Compress = o.Bool(false, "x-tidegate-compress")
	api.CORS = d.cors(o)
	api.Cache = d.cache(o)
	api.Edit = d.transform(o)
	api.Access = d.access(o)
	d.opt.Validate = d.validation(o)
	d.interceptors(o)
	for _, k := range d.root.Keys {
		d.extension(k, documentKeys)
	}
}

func (d *reader) operationExtensions(o *source.Object) {
	for _, k := range o.Node.Keys {
		d.extension(k, operationKeys)
	}
}

// extension tells an extension that is not known at its level.
func (d *reader) extension(k source.Key, known []string) {
	for _, name := range known {
		if k.Name == name {
			return
		}
	}
	switch {
	case strings.HasPrefix(k.Name, "x-tidegate-"):
		f := source.Finding{Pos: k.Pos, Severity: source.Error, Object: d.object, Message: "unknown extension " + k.Name}
		if near := source.Nearest(k.Name, known); near != "" {
			f.Hint = "did you mean " + near + "?"
		}
		d.r.Add(f)
	case strings.HasPrefix(k.Name, "x-wso2-"):
		d.r.Warnf(k.Pos, d.object, "%s is not known here and has no effect", k.Name)
	case strings.HasPrefix(k.Name, "x-"):
		d.foreignExtension(k)
	}
}

// foreignExtension tells an extension of another product, once per document.
func (d *reader) foreignExtension(k source.Key) {
	if strings.HasPrefix(k.Name, "x-wso2-") || strings.HasPrefix(k.Name, "x-tidegate-") {
		d.extension(k, nil)
		return
	}
	if !d.foreign[k.Name] {
		d.foreign[k.Name] = true
		d.r.Dropf(k.Pos, d.object, "%s: an extension of another product", k.Name)
	}
}

// interceptors reports code that no gateway of ours can run. It may have been a check of
// security, so it is an error unless the project says otherwise.
func (d *reader) interceptors(o *source.Object) {
	for _, key := range []string{"x-wso2-request-interceptor", "x-wso2-response-interceptor"} {
		v := o.Value(key)
		if v == nil {
			continue
		}
		f := source.Finding{
			Pos: v.Pos, Severity: source.Error, Object: o.Name, Security: true,
			Message: fmt.Sprintf("%s: %q is code, which cannot be kept", key, v.Text),
			Hint:    "say it with x-tidegate-transform, or put accept_dropped: [interceptors] in tide.yaml to lose it",
		}
		if d.opt.AcceptInterceptors {
			f.Severity, f.Hint = source.Dropped, ""
		}
		d.r.Add(f)
	}
}

// basePath reads where the API answers.
func (d *reader) basePath(api *policy.API) {
	o := d.r.Object(d.root, "document", d.object)
	pattern := o.Text("x-wso2-basePath")
	if pattern == "" {
		if u, _ := d.serverURL(); u != nil {
			pattern = u.EscapedPath()
		}
	}
	api.BasePath = cleanBase(strings.ReplaceAll(pattern, "{version}", api.Version))
	if !o.Bool(false, "x-tidegate-default-version") {
		return
	}
	api.Default = true
	api.DefaultPath = cleanBase(strings.Replace(pattern, "/{version}", "", 1))
	if !strings.Contains(pattern, "/{version}") {
		rest, ok := strings.CutSuffix(api.BasePath, "/"+api.Version)
		if !ok {
			o.Errorf("x-tidegate-default-version", "the base path %q does not end in the version %q", api.BasePath, api.Version)
		}
		api.DefaultPath = rest
	}
}

func cleanBase(p string) string {
	p = strings.TrimRight(p, "/")
	if p != "" && p[0] != '/' {
		p = "/" + p
	}
	return p
}

// size reads a number of bytes: 1048576, 512KiB, 1MiB.
func (d *reader) size(o *source.Object, key string) int64 {
	text := o.Text(key)
	if text == "" {
		return 0
	}
	n, unit := text, int64(1)
	for suffix, u := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if s, ok := strings.CutSuffix(text, suffix); ok {
			n, unit = strings.TrimSpace(s), u
		}
	}
	v, err := strconv.ParseInt(n, 10, 64)
	if err != nil || v < 1 || v > (1<<40)/unit {
		o.Errorf(key, "%q is not a size: want bytes, or a number with KiB, MiB or GiB", text)
		return 0
	}
	return v * unit
}

func (d *reader) cors(o *source.Object) *policy.CORS {
	c := o.Object("x-wso2-cors")
	if c == nil {
		return nil
	}
	on := c.Bool(true, "corsConfigurationEnabled", "access-control-enabled")
	v := &policy.CORS{
		Origins:     c.Texts("accessControlAllowOrigins", "access-control-allow-origins"),
		Methods:     c.Texts("accessControlAllowMethods", "access-control-allow-methods"),
		Headers:     c.Texts("accessControlAllowHeaders", "access-control-allow-headers"),
		Expose:      c.Texts("accessControlExposeHeaders", "access-control-expose-headers"),
		Credentials: c.Bool(false, "accessControlAllowCredentials", "access-control-allow-credentials"),
		MaxAge:      time.Duration(c.Int(0, 0, 86400, "accessControlMaxAge", "access-control-max-age")) * time.Second,
		Private:     c.Bool(false, "accessControlAllowPrivateNetwork", "access-control-allow-private-network"),
	}
	c.CloseLoosely()
	if !on {
		return nil
	}
	for i, m := range v.Methods {
		v.Methods[i] = strings.ToUpper(m)
	}
	return v
}

func (d *reader) cache(o *source.Object) *policy.Cache {
	c := o.Object("x-wso2-response-cache")
	if c == nil {
		return nil
	}
	on := c.Bool(true, "enabled", "enable")
	v := &policy.Cache{
		Seconds:      uint32(c.Int(300, 1, 365*86400, "cacheTimeoutInSeconds")),
		StaleOffline: uint32(c.Int(0, 0, 365*86400, "staleOfflineInSeconds")),
	}
	c.CloseLoosely()
	if !on {
		return nil
	}
	return v
}

// validation reads x-tidegate-validate: true, or {request, response, log_only}.
func (d *reader) validation(o *source.Object) Validation {
	const key = "x-tidegate-validate"
	v := o.Value(key)
	if v == nil {
		return d.opt.Validate
	}
	if v.Kind == source.Bool {
		on := o.Bool(false, key)
		return Validation{Request: on, Response: on}
	}
	x := o.Object(key)
	return ReadValidation(x)
}

// ReadValidation reads the mapping of x-tidegate-validate, which tide.yaml has too.
func ReadValidation(o *source.Object) Validation {
	v := Validation{
		Request:  o.Bool(true, "request"),
		Response: o.Bool(false, "response"),
		LogOnly:  o.Bool(false, "log_only"),
	}
	o.Close()
	return v
}

// access reads x-tidegate-access.
func (d *reader) access(o *source.Object) *policy.Access {
	x := o.Object("x-tidegate-access")
	if x == nil {
		return nil
	}
	a := &policy.Access{Allow: d.ranges(x, "allow"), Deny: d.ranges(x, "deny")}
	for _, t := range x.Texts("content_types") {
		a.ContentTypes = append(a.ContentTypes, strings.ToLower(t))
	}
	for _, n := range x.Scalars("methods") {
		if !isMethod(strings.ToLower(n.Text)) {
			d.r.Errorf(n.Pos, x.Name, "methods: %q is no method of OpenAPI", n.Text)
			continue
		}
		a.Methods = append(a.Methods, strings.ToUpper(n.Text))
	}
	for _, h := range x.Objects("times") {
		a.Times = append(a.Times, d.hours(h))
	}
	x.Close()
	return a
}

func (d *reader) ranges(o *source.Object, key string) []policy.Range {
	var out []policy.Range
	for _, n := range o.Scalars(key) {
		r, err := policy.ParseRange(n.Text)
		if err != nil {
			d.r.Errorf(n.Pos, o.Name, "%s: %v", key, err)
			continue
		}
		out = append(out, r)
	}
	return out
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func (d *reader) hours(o *source.Object) policy.Hours {
	h := policy.Hours{Zone: o.Text("zone"), From: d.clock(o, "from"), To: d.clock(o, "to")}
	for _, n := range o.Scalars("days") {
		found := false
		for i, w := range weekdays {
			if strings.EqualFold(n.Text, w) {
				h.Days |= 1 << i
				found = true
			}
		}
		if !found {
			d.r.Errorf(n.Pos, o.Name, "days: %q is not one of %s", n.Text, strings.Join(weekdays, ", "))
		}
	}
	if !o.Has("days") {
		h.Days = 1<<7 - 1
	}
	o.Close()
	return h
}

// clock reads a time of day, 00:00 to 24:00.
func (d *reader) clock(o *source.Object, key string) time.Duration {
	text := o.Need(key)
	if text == "" {
		return 0
	}
	if text == "24:00" {
		return 24 * time.Hour
	}
	t, err := time.Parse("15:04", text)
	if err != nil {
		o.Errorf(key, "%q is not a time of day like 06:30 (put it in quotes)", text)
		return 0
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute
}
