package project

import (
	"fmt"
	"strings"
	"tidegate/policy"
	"tidegate/policy/jwk"
	"tidegate/policy/source"
	"time"
)

// auth reads auth.yaml.
func (l *loader) auth(o *source.Object) {
	l.set.AuthHeader = o.Text("header")
	l.set.ForwardAuth = o.Bool(false, "forward_credential")
	if l.set.AuthHeader != "" {
		l.places["auth.yaml"] = o.Pos("header")
	}
	for _, t := range o.Named("backend_tls") { // before what refers to them
		l.profile(t)
	}
	for _, i := range o.Objects("issuers") {
		l.issuer(&l.set.Issuers, i, "issuer")
	}
	if k := o.Object("api_keys"); k != nil {
		l.set.APIKeys.RequireAllowed = k.Bool(false, "require_allowed_apis")
		for _, i := range k.Objects("issuers") {
			l.issuer(&l.set.APIKeys.Issuers, i, "issuer of API keys")
		}
		k.Close()
	}
	for _, u := range o.Objects("users") {
		l.user(u)
	}
	l.mutualTLS(o.Object("mtls"))
	l.backendJWT(o.Object("backend_jwt"), o)
	l.introspection(o.Object("introspection"), o)
	o.Close()
}

// issuer adds an issuer to a list, unless its keys could not be read: that was told, and
// nothing refers to it.
func (l *loader) issuer(to *[]policy.Issuer, o *source.Object, what string) {
	i := policy.Issuer{Name: o.Text("name"), Issuer: o.Need("issuer"), Pos: o.Node.Pos}
	if i.Name == "" {
		i.Name = i.Issuer
	}
	o.Name = fmt.Sprintf("%s %q", what, i.Name)
	i.Audience = o.Texts("audience")
	i.JWKSURL, i.TLS = o.Text("jwks_url"), o.Text("tls")
	fetch := l.whereFetched(o, &i)
	switch {
	case fetch != onDevice && o.Has("jwks", "certificate"):
		o.Errorf("fetch", "jwks or certificate is given too: want one of them")
	case fetch != onDevice && i.JWKSURL != "":
		i.Keys = l.fetched(o, &i, fetch)
	case o.Has("jwks") && o.Has("certificate"):
		o.Errorf("certificate", "jwks is given too: want one of them")
	case o.Has("jwks"):
		i.Keys = l.jwks(o)
	case o.Has("certificate"):
		i.Keys = l.certificateKey(o)
		i.SingleKey = i.Keys != nil
	}
	i.Algorithms = o.Texts("algorithms")
	if i.Algorithms == nil {
		i.Algorithms = algorithmsOf(i.Keys)
	}
	if i.Algorithms == nil && fetch != onDevice && l.fetch == nil {
		i.Algorithms = jwk.Signatures() // those of the keys, when they are fetched
	}
	i.Leeway = seconds(o, "leeway", 0, 0, time.Minute)
	i.Subscriptions = subscriptionMode(o)
	i.ConsumerKey = o.Text("consumer_key_claim")
	i.Claims = l.renames(o)
	i.Required = l.required(o)
	switch o.Word("unproven_time", "floor", "strict", "grace") {
	case "strict":
		i.Unproven = policy.UnprovenStrict
	case "grace":
		i.Unproven = policy.UnprovenGrace
	}
	i.UnprovenGrace = seconds(o, "unproven_grace", 0, time.Second, 7*24*time.Hour)
	o.Close()
	if i.Keys == nil && (o.Has("jwks", "certificate") || fetch != onDevice && l.fetch != nil) {
		return
	}
	*to = append(*to, i)
}

// seconds reads a duration of whole seconds.
func seconds(o *source.Object, key string, def, low, high time.Duration) uint32 {
	d := o.Duration(def, low, high, key)
	if d%time.Second != 0 {
		o.Errorf(key, "%s is not whole seconds", d)
	}
	return uint32(d / time.Second)
}

func subscriptionMode(o *source.Object) policy.SubscriptionMode {
	switch o.Word("subscriptions", "auto", "required", "off") {
	case "required":
		return policy.SubscriptionsRequired
	case "off":
		return policy.SubscriptionsOff
	}
	return policy.SubscriptionsAuto
}

// renames reads claims: {scp: scope}, or {groups: {to: role, prefix: "realm/"}}.
func (l *loader) renames(o *source.Object) []policy.ClaimRename {
	v := o.Value("claims")
	if v != nil && v.Kind != source.Map {
		o.Errorf("claims", "want claims with the name each gets, got %s", v.Kind)
		return nil
	}
	var out []policy.ClaimRename
	for _, k := range v.All() {
		c := policy.ClaimRename{From: k.Name}
		if k.Value.IsScalar() {
			c.To = k.Value.Text
		} else if x := l.report.Object(k.Value, authFile+" issuers[] claims.*", o.Name+": claims: "+k.Name); x != nil {
			c.To = x.Need("to")
			c.Prefix = x.Text("prefix")
			x.Close()
		}
		out = append(out, c)
	}
	return out
}

// required reads required: {role: [fitter, master], site: []}.
func (l *loader) required(o *source.Object) []policy.ClaimRule {
	v := o.Value("required")
	if v != nil && v.Kind != source.Map {
		o.Errorf("required", "want claims with the values allowed, got %s", v.Kind)
		return nil
	}
	var out []policy.ClaimRule
	for _, k := range v.All() {
		c := policy.ClaimRule{Name: k.Name}
		switch {
		case k.Value.Absent():
		case k.Value.IsScalar():
			c.Values = []string{k.Value.Text}
		case k.Value.Kind == source.List:
			for _, e := range k.Value.List {
				if !e.IsScalar() {
					l.report.Errorf(e.Pos, o.Name, "required: %s: want a text, got %s", k.Name, e.Kind)
					continue
				}
				c.Values = append(c.Values, e.Text)
			}
		default:
			l.report.Errorf(k.Pos, o.Name, "required: %s: want a list of texts, got %s", k.Name, k.Value.Kind)
		}
		out = append(out, c)
	}
	return out
}

func (l *loader) user(o *source.Object) {
	u := policy.User{Name: o.Need("name"), Pos: o.Node.Pos}
	o.Name = fmt.Sprintf("user %q", u.Name)
	u.Hash = o.Need("password_hash")
	if algorithm, sum, ok := wso2Hash(u.Hash); ok {
		u.Hash = "@" + algorithm + ":" + sum
		l.report.Add(Finding{
			Pos: o.Pos("password_hash"), Severity: Warning, Object: o.Name, Security: true,
			Message: fmt.Sprintf("the password is kept as plain %s, which is guessed quickly", algorithm), Hint: "use Argon2id",
		})
	}
	u.Scopes = o.Texts("scopes")
	u.Plan = o.Text("plan")
	if o.Value("password") != nil {
		l.report.Add(Finding{
			Pos: o.Pos("password"), Severity: Error, Object: o.Name, Security: true,
			Message: "password: a password in a project is readable by everybody who has the bundle", Hint: "give its hash as password_hash",
		})
	}
	o.Close()
	l.set.Users = append(l.set.Users, u)
}

// wso2Hash recognises the forms of micro-gw.conf: 40 hex digits, @sha256:{hex}, @sha512:{hex}.
func wso2Hash(s string) (algorithm, sum string, ok bool) {
	hex := func(s string, n int) bool {
		return len(s) == n && strings.Trim(strings.ToLower(s), "0123456789abcdef") == ""
	}
	if hex(s, 40) {
		return "sha1", strings.ToLower(s), true
	}
	for a, n := range map[string]int{"sha1": 40, "sha256": 64, "sha512": 128} {
		if rest, found := strings.CutPrefix(s, "@"+a+":"); found {
			rest = strings.TrimSuffix(strings.TrimPrefix(rest, "{"), "}")
			return a, strings.ToLower(rest), hex(rest, n)
		}
	}
	return "", "", false
}

func (l *loader) mutualTLS(o *source.Object) {
	for _, a := range o.Objects("authorities") {
		ca := policy.ClientCA{Name: a.Need("name")}
		a.Name = fmt.Sprintf("client authority %q", ca.Name)
		l.places[a.Name] = a.Node.Pos
		ca.Authorities = l.certificates(a, "ca")
		a.Close()
		l.set.ClientCAs = append(l.set.ClientCAs, ca)
	}
	for _, c := range o.Objects("certificates") {
		ca := policy.ClientCA{Name: c.Need("alias")}
		c.Name = fmt.Sprintf("client authority %q", ca.Name)
		l.places[c.Name] = c.Node.Pos
		ca.Certificates = l.certificates(c, "certificate")
		for _, api := range l.apiIDs(c, "apis") {
			l.clientCA = append(l.clientCA, apiCertificate{api, ca.Name, c.Node.Pos, c.Name})
		}
		c.Close()
		l.set.ClientCAs = append(l.set.ClientCAs, ca)
	}
	o.Close()
}

// An apiCertificate is a client certificate for one API, joined to it when the APIs are read.
type apiCertificate struct {
	api    policy.APIID
	alias  string
	pos    policy.Pos
	object string
}

func (l *loader) clientCertificates() {
	for _, c := range l.clientCA {
		found := false
		for i := range l.set.APIs {
			a := &l.set.APIs[i]
			if a.Name == c.api.Name && (a.Version == c.api.Version || c.api.Version == "*") {
				a.ClientCAs = append(a.ClientCAs, c.alias)
				found = true
			}
		}
		if !found {
			l.report.Errorf(c.pos, c.object, "unknown API %q %s", c.api.Name, c.api.Version)
		}
	}
}

// apiIDs reads a list of {name, version}; a missing version means all.
func (l *loader) apiIDs(o *source.Object, key string) []policy.APIID {
	var out []policy.APIID
	for _, a := range o.Objects(key) {
		id := policy.APIID{Name: a.Need("name"), Version: a.Text("version")}
		if id.Version == "" {
			id.Version = "*"
		}
		a.Close()
		out = append(out, id)
	}
	return out
}

func (l *loader) backendJWT(o, auth *source.Object) {
	if o == nil {
		return
	}
	l.places["backend_jwt"] = auth.Pos("backend_jwt")
	b := &policy.BackendJWT{
		Enabled:    o.Bool(true, "enabled"),
		Header:     o.Text("header"),
		Dialect:    o.Text("dialect"),
		Issuer:     o.Text("issuer"),
		Audience:   o.Texts("audience"),
		Algorithm:  o.Word("algorithm", "RS256", "ES256", "EdDSA"),
		Key:        "backend_jwt/key",
		Restricted: o.Texts("restricted_claims"),
		Seconds:    seconds(o, "lifetime", 15*time.Minute, time.Second, 24*time.Hour),
	}
	if b.Algorithm == "" {
		b.Algorithm = "RS256"
	}
	if certs := l.certificates(o, "certificate"); len(certs) > 0 {
		b.Thumbprint = thumbprint(certs[0])
	}
	o.Close()
	if b.Enabled {
		l.set.BackendJWT = b
	}
}

func (l *loader) introspection(o, auth *source.Object) {
	if o == nil {
		return
	}
	l.places["introspection"] = auth.Pos("introspection")
	i := &policy.Introspection{
		URL:            o.Need("url"),
		SOAP:           o.Word("mode", "rfc7662", "soap") == "soap",
		Username:       o.Text("username"),
		TLS:            o.Text("tls"),
		RetryFailedJWT: o.Bool(false, "retry_failed_jwt"),
		CacheSeconds:   seconds(o, "cache", 15*time.Minute, 0, 24*time.Hour),
		Subscriptions:  subscriptionMode(o),
	}
	if i.Username != "" {
		i.Password = "introspection/password"
	}
	o.Close()
	l.set.Introspection = i
}
