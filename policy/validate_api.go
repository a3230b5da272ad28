package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

func (v *validator) checkAPIs() {
	type path struct{ host, path string }
	paths := map[path]*API{}
	for i := range v.set.APIs {
		a := &v.set.APIs[i]
		object := a.object()
		v.name(a.Pos, object, "the name (info.title)", a.Name)
		v.name(a.Pos, object, "the version (info.version)", a.Version)
		id := APIID{a.Name, a.Version}
		if b := v.apis[id]; b != nil {
			v.hint(a.Pos, object, "give one of them another version", "defined twice, first in %s", b.Pos)
		} else {
			v.apis[id] = a
		}
		v.basePath(a, object, a.BasePath)
		answers := []string{a.BasePath}
		if a.Default {
			v.basePath(a, object, a.DefaultPath)
			answers = append(answers, a.DefaultPath)
		} else if a.DefaultPath != "" {
			v.add(a.Pos, object, "a default path without being the default version")
		}
		hosts := a.Hosts
		if len(hosts) == 0 {
			hosts = []string{""}
		}
		for _, h := range hosts {
			for j, p := range answers {
				b := paths[path{h, p}]
				switch {
				case b == nil:
					paths[path{h, p}] = a
				case b == a:
				case j == 1:
					v.hint(a.Pos, object, "only one version can be the default", "its default path %q is also answered by %s in %s", show(p), b.object(), b.Pos)
				default:
					v.hint(a.Pos, object, "set x-wso2-basePath", "its base path %q is also that of %s in %s", show(p), b.object(), b.Pos)
				}
			}
		}
		v.checkAPI(a, object)
	}
}

// object returns how an API is named in messages.
func (a *API) object() string { return fmt.Sprintf("API %q %s", a.Name, a.Version) }

func show(p string) string {
	if p == "" {
		return "/"
	}
	return p
}

func (v *validator) basePath(a *API, object, p string) {
	if p == "" {
		return
	}
	clean, err := CleanTemplate(p)
	if err != nil || clean != p || strings.ContainsAny(p, "{}*") {
		v.add(a.Pos, object, "base path %q: want /segments without parameters and without a slash at the end", p)
	}
}

func (v *validator) checkAPI(a *API, object string) {
	for _, h := range a.Hosts {
		if h == "" || h != strings.ToLower(h) || strings.ContainsAny(h, "/: @?#") {
			v.add(a.Pos, object, "host %q: want a name in lower case without a port", h)
		}
	}
	if a.Transports > HTTP|HTTPS {
		v.add(a.Pos, object, "unknown transports %d", a.Transports)
	}
	if a.AuthHeader != "" && !token(a.AuthHeader) {
		v.add(a.Pos, object, "header %q is not a name of a header", a.AuthHeader)
	}
	if a.MutualTLS > MutualMandatory {
		v.add(a.Pos, object, "unknown mode of mutual TLS %d", a.MutualTLS)
	}
	if a.Optional && a.MutualTLS != MutualMandatory {
		v.add(a.Pos, object, "application security is optional, but mutual TLS is not mandatory: anybody could call")
	}
	if a.MutualTLS != MutualNone && len(v.set.ClientCAs) == 0 {
		v.hint(a.Pos, object, "name them in auth.yaml mtls", "mutual TLS without any client certificates to accept")
	}
	for _, name := range a.ClientCAs {
		if !slices.ContainsFunc(v.set.ClientCAs, func(c ClientCA) bool { return c.Name == name }) {
			v.hint(a.Pos, object, "define it in auth.yaml mtls", "unknown client authority %q", name)
		}
	}
	for _, s := range a.Schemes {
		if s.Kind < OAuth2 || s.Kind > Certificate {
			v.add(a.Pos, object, "unknown kind of credential %d", s.Kind)
		}
		if s.Kind == APIKey && (s.In < InHeader || s.In > InCookie || s.Name == "") {
			v.add(a.Pos, object, "an API key needs a place and a name")
		} else if s.In == InHeader && !token(s.Name) {
			v.add(a.Pos, object, "%q is not a name of a header", s.Name)
		}
	}
	v.plan(a.Pos, object, ResourcePlan, a.Plan)
	for _, p := range a.Plans {
		v.plan(a.Pos, object, SubscriptionPlan, p)
	}
	v.endpointRef(a.Pos, object, a.Production)
	v.endpointRef(a.Pos, object, a.Sandbox)
	v.cors(a, object)
	if a.Cache != nil && a.Cache.Seconds == 0 {
		v.add(a.Pos, object, "a cache of 0 seconds keeps nothing")
	}
	v.access(a.Pos, object, a.Access)
	v.transform(a.Pos, object, a.Edit)
	if a.MaxBody < 0 {
		v.add(a.Pos, object, "a body of at most %d bytes", a.MaxBody)
	}
	v.targets(a, object)
	shapes := make(map[[2]string]*Operation, len(a.Operations))
	for i := range a.Operations {
		op := &a.Operations[i]
		before := len(v.faults)
		if v.checkOperation(a, op) {
			key := [2]string{op.Method, TemplateShape(op.Template)}
			if first := shapes[key]; first != nil {
				v.hint(op.Pos, "", "they match the same calls: remove one", "conflicts with %s %s in %s", first.Method, first.Template, first.Pos)
			} else {
				shapes[key] = op
			}
		}
		v.nameFaults(before, object, op)
	}
}

// nameFaults says of which operation the faults from an index on are. Names are made only
// where there is something to say: a device validates thousands of operations at start.
func (v *validator) nameFaults(from int, object string, op *Operation) {
	for _, err := range v.faults[from:] {
		var f *Fault
		if errors.As(err, &f) {
			f.Object = fmt.Sprintf("%s: %s %s", object, op.Method, op.Template)
		}
	}
}

// targets checks that every operation has an endpoint, or needs none.
func (v *validator) targets(a *API, object string) {
	const why, hint = "no endpoint: calls would have nowhere to go", "set x-wso2-production-endpoints in the document, or backend in tide.yaml"
	fixed := func(t *Transform) bool { return t != nil && t.Fixed != nil }
	if a.Production|a.Sandbox != 0 || fixed(a.Edit) {
		return
	}
	var without []*Operation
	for i := range a.Operations {
		if op := &a.Operations[i]; op.Production|op.Sandbox == 0 && !fixed(op.Edit) {
			without = append(without, op)
		}
	}
	if len(without) > 1 && len(without) == len(a.Operations) {
		v.hint(a.Pos, object, hint, why)
		return
	}
	for _, op := range without {
		v.hint(op.Pos, fmt.Sprintf("%s: %s %s", object, op.Method, op.Template), hint, why)
	}
}

// checkOperation reports whether the method and the template are sound.
func (v *validator) checkOperation(a *API, op *Operation) bool {
	const object = "" // see nameFaults
	ok := true
	if !token(op.Method) || op.Method != strings.ToUpper(op.Method) || op.Method == "CONNECT" {
		v.add(op.Pos, object, "method %q cannot be served", op.Method)
		ok = false
	}
	if t, err := CleanTemplate(op.Template); err != nil {
		v.add(op.Pos, object, "%v", err)
		ok = false
	} else if t != op.Template {
		v.add(op.Pos, object, "template %q ends in a slash", op.Template)
		ok = false
	}
	for _, alt := range op.Security {
		if len(alt) == 0 {
			v.add(op.Pos, object, "an alternative that asks for no credential")
		}
		for _, u := range alt {
			if uint64(u.Scheme) >= uint64(len(a.Schemes)) {
				v.add(op.Pos, object, "security refers to scheme %d of %d", u.Scheme, len(a.Schemes))
			}
		}
	}
	for _, s := range op.Scopes {
		if s == "" || strings.ContainsAny(s, " \"\\") {
			v.add(op.Pos, object, "scope %q: a scope is one word (RFC 6749 §3.3)", s)
		}
	}
	v.plan(op.Pos, object, ResourcePlan, op.Plan)
	if op.Plan != "" && a.Plan != "" {
		v.add(op.Pos, object, "a plan %q beside that of the API, %q", op.Plan, a.Plan)
	}
	v.endpointRef(op.Pos, object, op.Production)
	v.endpointRef(op.Pos, object, op.Sandbox)
	for _, ref := range []SchemaRef{op.Request, op.Response} {
		if uint64(ref) > uint64(len(v.set.Schemas)) {
			v.add(op.Pos, object, "refers to schema %d of %d", ref, len(v.set.Schemas))
		}
	}
	v.transform(op.Pos, object, op.Edit)
	v.access(op.Pos, object, op.Access)
	if op.MaxBody < 0 {
		v.add(op.Pos, object, "a body of at most %d bytes", op.MaxBody)
	}
	if m := op.Messages; m != nil && (m.PerSecond < 0 || m.Bytes < 0) {
		v.add(op.Pos, object, "negative limits of messages")
	}
	return ok
}

func (v *validator) endpointRef(pos Pos, object string, ref EndpointRef) {
	if uint64(ref) > uint64(len(v.set.Endpoints)) {
		v.add(pos, object, "refers to endpoint %d of %d", ref, len(v.set.Endpoints))
	}
}

func (v *validator) cors(a *API, object string) {
	c := a.CORS
	if c == nil {
		return
	}
	if len(c.Origins) == 0 {
		v.add(a.Pos, object, "CORS without any origin")
	}
	if c.Credentials && slices.Contains(c.Origins, "*") {
		v.hint(a.Pos, object, "name the origins, or allow no credentials",
			`CORS: origin "*" with credentials: every web site could act for a user who is logged in`)
	}
	for _, o := range c.Origins {
		if o == "" || o == "null" || strings.ContainsAny(o, " ,") || o != "*" && strings.Contains(o, "*") {
			v.add(a.Pos, object, "CORS: origin %q: want *, or an origin like https://panel.example", o)
		}
	}
	for _, m := range c.Methods {
		if !token(m) {
			v.add(a.Pos, object, "CORS: method %q", m)
		}
	}
	for _, h := range slices.Concat(c.Headers, c.Expose) {
		if !token(h) {
			v.add(a.Pos, object, "CORS: header %q", h)
		}
	}
	if c.MaxAge < 0 || c.MaxAge > 24*time.Hour {
		v.add(a.Pos, object, "CORS: a maximum age of %s: browsers keep a day at most", c.MaxAge)
	}
}

func (v *validator) access(pos Pos, object string, a *Access) {
	if a == nil {
		return
	}
	v.ranges(pos, object, a.Allow)
	v.ranges(pos, object, a.Deny)
	for _, h := range a.Times {
		const day = 24 * time.Hour
		if h.Days == 0 || h.Days > 1<<7-1 || h.From < 0 || h.From >= day || h.To <= 0 || h.To > day || h.From == h.To {
			v.add(pos, object, "hours: want days, and times from 00:00 to 24:00 that differ")
		}
		v.zone(pos, object, h.Zone)
	}
}

// ownFields are set by the gateway itself: an edit of them would change how a message is read.
var ownFields = []string{"Connection", "Content-Length", "Host", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

func (v *validator) transform(pos Pos, object string, t *Transform) {
	if t == nil {
		return
	}
	headers := slices.Concat(t.RequestHeaders, t.ResponseHeaders)
	if t.Fixed != nil {
		headers = append(headers, t.Fixed.Headers...)
		if t.Fixed.Status < 200 || t.Fixed.Status > 599 {
			v.add(pos, object, "transform: a fixed answer with status %d", t.Fixed.Status)
		}
	}
	for _, e := range headers {
		switch {
		case e.Kind < EditSet || e.Kind > EditRemove:
			v.add(pos, object, "transform: unknown kind of edit %d", e.Kind)
		case !token(e.Name):
			v.add(pos, object, "transform: %q is not a name of a header", e.Name)
		case slices.ContainsFunc(ownFields, func(f string) bool { return strings.EqualFold(f, e.Name) }):
			v.add(pos, object, "transform: the header %s belongs to the gateway", e.Name)
		case strings.ContainsAny(e.Value, "\r\n\x00"):
			v.add(pos, object, "transform: the value of %s has a line break", e.Name)
		}
	}
	for _, e := range t.Query {
		if e.Kind < EditSet || e.Kind > EditRemove || e.Name == "" {
			v.add(pos, object, "transform: an edit of the query without a name")
		}
	}
	if t.Path != "" && t.Path[0] != '/' {
		v.add(pos, object, "transform: the path %q does not begin with a slash", t.Path)
	}
	if t.Method != "" && (!token(t.Method) || t.Method == "CONNECT") {
		v.add(pos, object, "transform: method %q", t.Method)
	}
	for _, s := range t.Statuses {
		if s.From < 200 || s.From > 599 || s.To < 200 || s.To > 599 {
			v.add(pos, object, "transform: status %d for %d", s.To, s.From)
		}
	}
	for _, p := range slices.Concat(t.DropFields, t.DropRequest) {
		if p == "" || p[0] != '/' {
			v.add(pos, object, "transform: %q is not a JSON pointer to a member", p)
		}
	}
}

func (v *validator) checkSchemas() {
	for i, s := range v.set.Schemas {
		for _, p := range s.Parameters {
			if p.In < InHeader || p.In > InPath || p.Name == "" {
				v.add(Pos{}, fmt.Sprintf("schema %d", i+1), "a parameter without a place or a name")
			}
		}
	}
}

// token reports whether s is a token (RFC 9110 §5.6.2).
func token(s string) bool {
	if s == "" || len(s) > 256 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return true
}

func (v *validator) checkBlocks() {
	for i, b := range v.set.Blocked {
		object := fmt.Sprintf("block condition %d", i+1)
		switch b.Kind {
		case BlockIP:
			if len(b.Ranges) == 0 {
				v.add(b.Pos, object, "no addresses")
			}
			v.ranges(b.Pos, object, b.Ranges)
			if b.Invert && slices.ContainsFunc(b.Ranges, coversAll) {
				v.add(b.Pos, object, "it blocks nobody: it inverts all addresses")
			}
		case BlockAPI, BlockApplication, BlockUser:
			v.name(b.Pos, object, "the value", b.Value)
			if b.Invert {
				v.add(b.Pos, object, "only conditions on addresses can be inverted")
			}
			if b.Kind == BlockApplication && !strings.Contains(b.Value, ":") {
				v.add(b.Pos, object, "%q: want owner:application", b.Value)
			}
		default:
			v.add(b.Pos, object, "unknown kind %d", b.Kind)
		}
	}
	for i := 1; i < len(v.set.Revoked); i++ {
		a, b := v.set.Revoked[i-1], v.set.Revoked[i]
		if a.Kind > b.Kind || a.Kind == b.Kind && slices.Compare(a.Hash[:], b.Hash[:]) >= 0 {
			v.add(Pos{}, "revocations", "not ascending, or one of them twice")
			break
		}
	}
	for _, r := range v.set.Revoked {
		if r.Kind < RevokedID || r.Kind > RevokedUser {
			v.add(Pos{}, "revocations", "unknown kind %d", r.Kind)
			break
		}
	}
}

func coversAll(r Range) bool {
	if !r.From.IsValid() {
		return false
	}
	p := netip.PrefixFrom(r.From, 0)
	return r.From.IsUnspecified() && r.To == last(p.Masked())
}
