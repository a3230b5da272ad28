package wso2

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"tidegate/policy/refusal"
	"tidegate/policy/source"

	"github.com/pelletier/go-toml/v2"
)

// A conf is micro-gw.conf: keys in lower case, since the product does not mind, and which
// of them were read.
type conf struct {
	c    *converter
	root *source.Node
	used map[string]bool
	pems []string
	toml []setting
}

// A setting is a key of tidegate.toml.
type setting struct{ section, key, value string }

// configuration turns micro-gw.conf into entries of the project and a tidegate.toml, and
// reports every key that has no place in either.
func (c *converter) configuration(name string, body []byte, pems []string) error {
	var v map[string]any
	if err := toml.Unmarshal(body, &v); err != nil {
		var d *toml.DecodeError
		if errors.As(err, &d) {
			line, _ := d.Position()
			return refusal.New(refusal.Format, "%s:%d: not readable as TOML: %s", name, line, d.Error())
		}
		return refusal.New(refusal.Format, "%s: not readable as TOML: %w", name, err)
	}
	f := &conf{c: c, root: tomlTree(v), used: map[string]bool{}, pems: pems}
	f.listener()
	f.credentials()
	f.issuers()
	f.keyManager()
	f.backendJWT()
	f.apiKeys()
	f.users()
	f.others()
	f.unread()
	c.file("tidegate.toml", f.file(name))
	return nil
}

// tomlTree is the tree of a TOML value, keys in lower case; tables that differ in case only
// are joined.
func tomlTree(v any) *source.Node {
	switch v := v.(type) {
	case map[string]any:
		n := mapping()
		for _, k := range slices.Sorted(keys(v)) {
			e, low := tomlTree(v[k]), strings.ToLower(k)
			n = source.Merge(n, &source.Node{Kind: source.Map, Keys: []source.Key{{Name: low, Value: e}}})
		}
		return n
	case []any:
		n := &source.Node{Kind: source.List}
		for _, e := range v {
			n.List = append(n.List, tomlTree(e))
		}
		return n
	case bool:
		return truth(v)
	case int64:
		return &source.Node{Kind: source.Number, Text: strconv.FormatInt(v, 10)}
	case float64:
		return decimal(v)
	}
	return text(fmt.Sprint(v))
}

func keys(m map[string]any) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// get reads a scalar by its path, "section.key".
func (f *conf) get(paths ...string) string {
	for _, p := range paths {
		f.used[p] = true
		if n := f.root.At(strings.Split(p, ".")...); n.IsScalar() {
			return n.Text
		}
	}
	return ""
}

func (f *conf) yes(path string) bool { return strings.EqualFold(f.get(path), "true") }

// ignore marks keys that say nothing here, and everything below them.
func (f *conf) ignore(paths ...string) {
	for _, p := range paths {
		f.used[p] = true
		f.ignoreBelow(p, f.root.At(strings.Split(p, ".")...))
	}
}

func (f *conf) ignoreBelow(p string, n *source.Node) {
	for _, k := range n.All() {
		f.used[p+"."+k.Name] = true
		f.ignoreBelow(p+"."+k.Name, k.Value)
	}
}

func (f *conf) set(section, key, value string) {
	f.toml = append(f.toml, setting{section, key, value})
}

func (f *conf) need(kind, name, how string) {
	f.c.r.Needs = append(f.c.r.Needs, Need{kind, name, how})
}

func (f *conf) listener() {
	host := cmp.Or(f.get("listenerconfig.host"), "0.0.0.0")
	if p := f.get("listenerconfig.httpport"); p != "" {
		f.set("listen", "http", strconv.Quote(host+":"+p))
	}
	if p := f.get("listenerconfig.httpsport"); p != "" {
		f.set("listen", "https", strconv.Quote(host+":"+p))
	}
	if k := f.get("listenerconfig.keystorepath", "listenerconfig.keystore.path"); k != "" && !strings.HasSuffix(k, "ballerinaKeystore.p12") {
		f.need("certificate", "tls.cert_file", "convert "+k+": openssl pkcs12 -in FILE -nokeys -out cert.pem; openssl pkcs12 -in FILE -nocerts -nodes -out key.pem; "+
			"name both in tidegate.toml as tls.cert_file and tls.key_file")
	}
	for _, s := range []struct{ from, section, key string }{
		{"maxurilength", "limits", "uri_bytes"}, {"maxheadersize", "limits", "header_bytes"}, {"maxentitybodysize", "limits", "body_bytes"},
	} {
		v := f.get("listenerconfig."+s.from, "listenerconfig.requestlimits."+s.from, "http1settings."+s.from)
		if n, err := strconv.Atoi(v); err == nil {
			f.set(s.section, s.key, strconv.Itoa(max(n, 0)))
		}
	}
	if v := f.get("listenerconfig.timeoutinmillis", "listenerconfig.idletimeout"); v != "" {
		if n, err := strconv.Atoi(v); err == nil && n > 0 {
			f.set("listen", "idle_timeout", strconv.Quote(strconv.Itoa(n/1000)+"s"))
		}
	}
	switch v := strings.ToLower(f.get("mutualsslconfig.sslverifyclient")); v {
	case "require", "optional":
		f.set("tls", "client_auth", strconv.Quote(v))
	}
	f.ignore("listenerconfig.tokenlistenerport", "listenerconfig.keystorepassword", "listenerconfig.keystore", "listenerconfig.truststorepath",
		"listenerconfig.truststorepassword", "listenerconfig.truststore", "listenerconfig.keepalive", "mutualsslconfig", "http2", "filters")
}

func (f *conf) credentials() {
	if h := f.get("authconfig.authorizationheader"); h != "" && !strings.EqualFold(h, "Authorization") {
		f.c.add(Entry{Kind: KindAuth, ID: "header", Value: text(h)})
	}
	if v := f.get("authconfig.removeauthheaderfromoutmessage"); strings.EqualFold(v, "false") {
		f.c.add(Entry{Kind: KindAuth, ID: "forward_credential", Value: truth(true)})
	}
}

// tables returns a table, or each table of an array of them.
func (f *conf) tables(path string) []*source.Node {
	f.used[path] = true
	n := f.root.At(strings.Split(path, ".")...)
	switch {
	case n == nil:
		return nil
	case n.Kind == source.List:
		return n.List
	case n.Kind == source.Map:
		f.ignoreBelow(path, n)
		return []*source.Node{n}
	}
	return nil
}

func field(n *source.Node, name string) string { return scalarText(n.Value(strings.ToLower(name))) }

func (f *conf) issuers() {
	global := f.yes("security.validatesubscriptions")
	for _, t := range f.tables("jwttokenconfig") {
		if field(t, "issuer") == "" {
			continue
		}
		n := f.issuer(t, KindIssuer)
		if n == nil {
			continue
		}
		if v := field(t, "validateSubscription"); strings.EqualFold(v, "true") || v == "" && global {
			set(n, "subscriptions", text("required"))
		}
		if k := field(t, "consumerKeyClaim"); k != "" {
			set(n, "consumer_key_claim", text(k))
		}
		claims := mapping()
		for _, c := range nodes(t.Value("claims")) {
			if from, to := field(c, "remoteClaim"), field(c, "localClaim"); from != "" && to != "" {
				set(claims, from, text(to))
			}
		}
		if len(claims.Keys) > 0 {
			set(n, "claims", claims)
		}
		if m := field(t, "claimMapperClassName"); m != "" && !strings.HasSuffix(m, ".DefaultJwtTransformer") {
			f.c.r.open("claim mapper", field(t, "issuer"), m+" is code, which cannot be kept", "rename claims with claims of the issuer in auth.yaml")
		}
		f.c.add(Entry{Kind: KindIssuer, ID: n.Value("name").Text, Value: n})
	}
}

// issuer makes an issuer of a table with issuer, audience, certificateAlias and jwksURL;
// nil when its keys are nowhere to be found yet.
func (f *conf) issuer(t *source.Node, kind string) *source.Node {
	iss, alias, jwks := field(t, "issuer"), field(t, "certificateAlias"), field(t, "jwksURL")
	name := cmp.Or(alias, fileName(strings.TrimPrefix(iss, "https://")))
	n := mapping()
	set(n, "name", text(name))
	set(n, "issuer", text(iss))
	if a := field(t, "audience"); a != "" {
		set(n, "audience", texts([]string{a}))
	}
	file := "certs/" + fileName(alias) + ".pem"
	known := alias != "" && slices.Contains(f.pems, file)
	switch {
	case known:
		set(n, "certificate", text(file))
	case alias != "":
		f.need("certificate", file, fmt.Sprintf("the certificate %q of the %s %s: keytool -exportcert -rfc -alias %s -keystore client-truststore.jks > %s, and import again", alias, kind, iss, alias, file))
	}
	if jwks != "" {
		set(n, "jwks_url", text(jwks))
		if !known {
			set(n, "algorithms", texts([]string{"RS256"})) // as API Manager signs
		}
	}
	if !known && jwks == "" {
		return nil
	}
	if skew := f.get("keymanager.timestampskew", "jwttokenconfig.timestampskew"); skew != "" {
		if ms, err := strconv.Atoi(skew); err == nil && ms >= 1000 {
			set(n, "leeway", text(strconv.Itoa(min(ms/1000, 60))+"s"))
		}
	}
	return n
}

// keyManager makes introspection of a key manager that is not the untouched default.
func (f *conf) keyManager() {
	server := strings.TrimRight(f.get("keymanager.serverurl"), "/")
	user := f.get("keymanager.username", "keymanager.security.basic.username")
	password := f.get("keymanager.password", "keymanager.security.basic.password")
	soap := f.yes("keymanager.enablelegacymode") || f.root.At("keymanager", "username") != nil
	context := cmp.Or(f.get("keymanager.tokencontext"), "oauth2")
	endpoint := f.get("keymanager.introspectcontext")
	retry := f.yes("keymanager.enableintrospectforfailedjwt")
	for _, k := range []string{"oauth2", "directtoken"} {
		if f.yes("keymanager.security." + k + ".enabled") {
			f.c.r.drop("key manager login", k, "only a user name and a password are kept")
		}
	}
	f.ignore("keymanager")
	if server == "" || strings.Contains(server, "://localhost") {
		return
	}
	n := mapping()
	url := server + "/" + cmp.Or(strings.Trim(endpoint, "/"), context+"/introspect")
	if soap {
		url = server + "/services/APIKeyValidationService"
	}
	set(n, "url", text(url))
	if soap {
		set(n, "mode", text("soap"))
	}
	if user != "" {
		set(n, "username", text(user))
		f.secret("introspection/password", password, "the password of "+user+" at "+server)
	}
	if retry {
		set(n, "retry_failed_jwt", truth(true))
	}
	f.c.add(Entry{Kind: KindAuth, ID: "introspection", Value: n})
}

// secret keeps a password, or asks for it where it is encrypted or missing.
func (f *conf) secret(path, value, what string) {
	if value == "" || strings.HasPrefix(value, "@encrypted") || strings.HasPrefix(value, "$") {
		f.need("secret", path, what+": put it into secrets.yaml")
		return
	}
	f.c.add(Entry{Kind: KindSecret, ID: path, Value: text(value)})
	f.c.r.Warnings = append(f.c.r.Warnings, what+" is in secrets.yaml: keep that file out of version control")
}

func (f *conf) backendJWT() {
	header := f.get("jwtconfig.header")
	on := f.yes("jwtgeneratorconfig.jwtgeneratorenabled") || f.yes("jwtgeneratorconfig.enabled")
	n := mapping()
	if header != "" && header != "X-JWT-Assertion" {
		set(n, "header", text(header))
	}
	for _, s := range []struct{ from, to string }{{"claimdialect", "dialect"}, {"tokenissuer", "issuer"}, {"issuer", "issuer"}, {"audience", "audience"}} {
		if v := f.get("jwtgeneratorconfig." + s.from); v != "" {
			set(n, s.to, text(v))
		}
	}
	switch alg := f.get("jwtgeneratorconfig.signingalgorithm"); {
	case strings.EqualFold(alg, "NONE"):
		f.c.r.drop("backend JWT", "signing algorithm", "tokens without a signature are not made")
	}
	f.ignore("jwtgeneratorconfig", "jwtconfig")
	if !on {
		return
	}
	f.need("secret", "backend_jwt/key", "the private key that signs tokens for backends, PKCS #8 in PEM: put it into secrets.yaml with from_file")
	f.c.add(Entry{Kind: KindAuth, ID: "backend_jwt", Value: n})
}

func (f *conf) apiKeys() {
	for _, p := range []string{"apikey.issuer.tokenconfig", "apikey.tokenconfigs", "apikey.issuer"} {
		for _, t := range f.tables(p) {
			if field(t, "issuer") == "" || field(t, "certificateAlias") == "" || field(t, "certificateAlias") == "ballerina" {
				continue
			}
			if n := f.issuer(t, KindKeyIssuer); n != nil {
				f.c.add(Entry{Kind: KindKeyIssuer, ID: n.Value("name").Text, Value: n})
			}
		}
	}
	f.ignore("apikey")
}

func (f *conf) users() {
	for _, u := range f.root.At("b7a", "users").All() {
		hash := field(u.Value, "password")
		n := mapping()
		set(n, "name", text(u.Name))
		set(n, "password_hash", text(hash))
		if s := strings.FieldsFunc(field(u.Value, "scopes"), func(r rune) bool { return r == ',' || r == ' ' }); len(s) > 0 {
			set(n, "scopes", texts(s))
		}
		if u.Name == "prometheus" {
			continue // reads metrics, which have no login here
		}
		if hash == "" || strings.HasPrefix(hash, "@encrypted") {
			f.need("secret", "user "+u.Name, "its password is not readable: give its hash as password_hash in auth.yaml")
			continue
		}
		f.c.add(Entry{Kind: KindUser, ID: u.Name, Value: n})
	}
	f.ignore("b7a.users")
}

func (f *conf) others() {
	if v := f.get("caching.tokencachecapacity", "caching.tokencache.capacity"); v != "" {
		if n, err := strconv.Atoi(v); err == nil && n > 0 {
			f.set("cache", "tokens", strconv.Itoa(n))
		}
	}
	f.ignore("caching")
	check := mapping()
	if f.yes("validationconfig.enablerequestvalidation") {
		set(check, "request", truth(true))
	}
	if f.yes("validationconfig.enableresponsevalidation") {
		if len(check.Keys) == 0 {
			set(check, "request", truth(false))
		}
		set(check, "response", truth(true))
	}
	if len(check.Keys) > 0 {
		f.c.add(Entry{Kind: KindSetting, ID: "validate", Value: check})
	}
	if strings.EqualFold(f.get("httpclients.verifyhostname"), "false") {
		f.c.r.drop("setting", "httpClients.verifyHostname", "host names of backends are verified; a profile of backend_tls in auth.yaml can say verify_hostname: false for one backend")
	}
	switch l := strings.ToLower(f.get("b7a.log.level")); l {
	case "debug", "info", "warn", "error":
		f.set("log", "level", strconv.Quote(l))
	case "trace":
		f.set("log", "level", `"debug"`)
	}
	if f.get("b7a.http.accesslog.path") != "" || f.yes("b7a.http.accesslog.console") {
		f.set("log", "access", `"combined"`)
	}
	if f.yes("analytics.fileupload.enable") || f.yes("analytics.enable") {
		url := f.get("analytics.fileupload.uploadingendpoint", "analytics.uploadingendpoint")
		f.c.r.drop("setting", "analytics", "a device does not upload usage files itself: tidegate events export --format wso2 writes them, and tidectl wso2 upload --url "+cmp.Or(url, "URL")+" hands them in")
	}
	if f.yes("apim.eventhub.enable") || f.yes("throttlingconfig.enabledglobaltmeventpublishing") {
		f.c.r.drop("setting", "throttlingConfig, apim.eventHub", "limits and subscriptions are decided on the device; subscriptions come with the bundle (tidectl import wso2 --subscriptions)")
	}
	if f.yes("tokenrevocationconfig.realtime.enablerealtimemessageretrieval") || f.yes("tokenrevocationconfig.persistent.enablepersistentstorageretrieval") {
		f.c.r.open("setting", "tokenRevocationConfig", "revocations do not come from a message broker of API Manager", "list revoked tokens in revoked of consumers.yaml, or publish them to the fleet")
	}
	f.ignore("analytics", "throttlingconfig", "throttling", "apim", "tokenrevocationconfig", "b7a.observability", "b7a.log", "b7a.http.accesslog", "security", "validationconfig", "server", "httpclients.verifyhostname")
}

// unread reports the keys that nothing here has read.
func (f *conf) unread() {
	var walk func(string, *source.Node)
	walk = func(p string, n *source.Node) {
		for _, k := range n.All() {
			at := strings.TrimPrefix(p+"."+k.Name, ".")
			switch {
			case f.used[at] && k.Value.Kind != source.Map:
			case k.Value.Kind == source.Map:
				walk(at, k.Value)
			default:
				f.c.r.drop("setting", at, "has no counterpart here")
			}
		}
	}
	walk("", f.root)
}

// file writes tidegate.toml.
func (f *conf) file(from string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# Configuration of a device, from %s. Every other key has its default.\n", from)
	for i, s := range f.toml {
		if i == 0 || f.toml[i-1].section != s.section {
			if slices.ContainsFunc(f.toml[:i], func(o setting) bool { return o.section == s.section }) {
				continue
			}
			fmt.Fprintf(&b, "\n[%s]\n", s.section)
			for _, o := range f.toml[i:] {
				if o.section == s.section {
					fmt.Fprintf(&b, "%s = %s\n", o.key, o.value)
				}
			}
		}
	}
	return []byte(b.String())
}
