package appliance_test

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// What callers are told, in WSO2's form.
const (
	wsScheme    = `{"fault":{"code":900917, "message":"Invalid Authentication scheme", "description":"Invalid Authentication scheme. API can not be used with this authentication scheme"}}`
	wsLogin     = `{"fault":{"code":900911, "message":"Invalid Credentials", "description":"Invalid Credentials. Make sure you have given the correct username and password"}}`
	wsFormat    = `{"fault":{"code":900912, "message":"Invalid Format", "description":"Invalid Format. Make sure you have given the credentials in correct format with \":\" character"}}`
	wsScope     = `{"fault":{"code":900910, "message":"The access token does not allow you to access the requested resource", "description":"The access token does not allow you to access the requested resource"}}`
	wsResource  = `{"fault":{"code":900908, "message":"Resource forbidden ", "description":"Resource forbidden "}}`
	hostileKey  = "tg-0123456789abcdef0123456789"
	hostileKey2 = "tg-fedcba9876543210fedcba9876"
)

// hostile is a request with a credential that must not pass.
type hostile struct {
	name   string
	path   string
	header []string
	status int
	body   string
}

// fortress runs a device whose API "echo" has an operation for each kind of credential.
func fortress(t *testing.T, change func(*config.Config)) (*devicetest.Device, *policy.Set, *atomic.Int64) {
	t.Helper()
	url, reached := named(t, "backend")
	d := devicetest.Start(t, devicetest.Options{Config: change})
	set := d.Fleet.API(t, url, "/jwt", "/scoped", "/key", "/basic", "/basicscoped")
	a := &set.APIs[0]
	a.Schemes = append(a.Schemes,
		policy.Scheme{Kind: policy.APIKey, In: policy.InHeader, Name: "X-Api-Key"},
		policy.Scheme{Kind: policy.APIKey, In: policy.InQuery, Name: "apikey"},
		policy.Scheme{Kind: policy.APIKey, In: policy.InCookie, Name: "key"},
		policy.Scheme{Kind: policy.Basic})
	a.Operations[1].Scopes = []string{"read"}
	a.Operations[2].Security = []policy.Alternative{{{Scheme: 1}}, {{Scheme: 2}}, {{Scheme: 3}}}
	a.Operations[3].Security = []policy.Alternative{{{Scheme: 4}}}
	a.Operations[4].Security, a.Operations[4].Scopes = []policy.Alternative{{{Scheme: 4}}}, []string{"read"}
	other := *a
	other.Name, other.BasePath = "other", "/other/1.0"
	set.APIs = append(set.APIs, other)
	hash := func(s string) [32]byte { return sha256.Sum256([]byte(s)) }
	set.APIKeys.Keys = []policy.HashedKey{
		{Hash: hash(hostileKey), Name: "one"},
		{Hash: hash(hostileKey2), Name: "elsewhere", APIs: []policy.APIID{{Name: "other", Version: "*"}}},
		{Hash: hash("tg-old-0123456789abcdef0123"), Name: "old", Expires: uint64(time.Now().Add(-time.Hour).Unix())},
		{Hash: hash("tg-lost-0123456789abcdef012"), Name: "lost"},
	}
	slices.SortFunc(set.APIKeys.Keys, func(a, b policy.HashedKey) int { return slices.Compare(a.Hash[:], b.Hash[:]) })
	var err error
	if set.Revoked, err = policy.Revoke("api_key", "tg-lost-0123456789abcdef012", 0); err != nil {
		t.Fatal(err)
	}
	gone, err := policy.Revoke("user", "gone@carbon.super", 0)
	if err != nil {
		t.Fatal(err)
	}
	set.Revoked = append(set.Revoked, gone...)
	slices.SortFunc(set.Revoked, func(a, b policy.Revocation) int { return int(a.Kind) - int(b.Kind) })
	two := hash("two")
	for _, name := range []string{"ann", "gone"} {
		set.Users = append(set.Users, policy.User{Name: name, Hash: "@sha256:" + strings.ToLower(hexOf(two[:]))})
	}
	return d, set, reached
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var out strings.Builder
	for _, c := range b {
		out.WriteByte(digits[c>>4])
		out.WriteByte(digits[c&15])
	}
	return out.String()
}

// refuses sends what must not pass and compares all that a client sees.
func refuses(t *testing.T, d *devicetest.Device, reached *atomic.Int64, challenge string, rows []hostile) {
	t.Helper()
	if len(rows) < 15 {
		t.Errorf("only %d hostile requests", len(rows))
	}
	c := direct(t)
	for _, r := range rows {
		before := reached.Load()
		var lines []string
		for i := 0; i+1 < len(r.header); i += 2 {
			lines = append(lines, r.header[i]+": "+r.header[i+1])
		}
		a := say(t, c, "GET", d.URL("/echo/1.0"+r.path), "", lines...)
		if a.status != r.status || a.body != r.body {
			t.Errorf("%s: got %d %s\nwant %d %s", r.name, a.status, a.body, r.status, r.body)
		}
		if got := a.header.Get("WWW-Authenticate"); r.status == 401 && !strings.HasPrefix(got, challenge) {
			t.Errorf("%s: challenge %q, want %q", r.name, got, challenge)
		}
		if reached.Load() != before {
			t.Errorf("%s: the backend was called", r.name)
		}
		if a.header.Get("Content-Type") != "application/json" || a.header.Get("X-Request-Id") == "" {
			t.Errorf("%s: header %v", r.name, a.header)
		}
	}
}

// passes sends what must pass, so that the refusals beside it mean something.
func passes(t *testing.T, d *devicetest.Device, path string, header ...string) {
	t.Helper()
	if a := call(t, "GET", d.URL("/echo/1.0"+path), header...); a.status != 200 {
		t.Errorf("%s: a good credential: got %d %s", path, a.status, a.body)
	}
}

func TestHostileJWTs(t *testing.T) {
	d, set, reached := fortress(t, func(c *config.Config) { c.Clock.Trust = "system" }) // else nothing can be too early
	d.Apply(t, set)
	b64 := base64.RawURLEncoding.EncodeToString
	claims := func(more jwt.MapClaims) jwt.MapClaims {
		c := jwt.MapClaims{"iss": devicetest.Issuer, "sub": "eve", "exp": time.Now().Add(time.Hour).Unix()}
		maps.Copy(c, more)
		for k, v := range c {
			if v == nil {
				delete(c, k)
			}
		}
		return c
	}
	sign := func(m jwt.SigningMethod, key any, header map[string]any, more jwt.MapClaims) string {
		tok := jwt.NewWithClaims(m, claims(more))
		maps.Copy(tok.Header, header)
		s, err := tok.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	es := func(header map[string]any, more jwt.MapClaims) string {
		return sign(jwt.SigningMethodES256, d.Fleet.Issuer, header, more)
	}
	good := es(nil, nil)
	part := strings.Split(good, ".")
	der, err := x509.MarshalPKIXPublicKey(d.Fleet.Issuer.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	mine := newKey(t)
	point, err := mine.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	jwk := map[string]any{"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}
	none, err := json.Marshal(claims(nil))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	passes(t, d, "/jwt", "Authorization", "Bearer "+good)
	var rows []hostile
	for name, token := range map[string]string{
		"alg none":                       b64([]byte(`{"alg":"none"}`)) + "." + b64(none) + ".",
		"alg none in another case":       b64([]byte(`{"alg":"nOnE"}`)) + "." + b64(none) + ".",
		"alg none with a signature":      b64([]byte(`{"alg":"none"}`)) + "." + part[1] + "." + part[2],
		"HMAC with the public key":       sign(jwt.SigningMethodHS256, public, nil, nil),
		"HMAC with the public key's DER": sign(jwt.SigningMethodHS256, der, nil, nil),
		"another key":                    sign(jwt.SigningMethodES256, mine, nil, nil),
		"a key in jwk":                   sign(jwt.SigningMethodES256, mine, map[string]any{"jwk": jwk}, nil),
		"a key at jku":                   sign(jwt.SigningMethodES256, mine, map[string]any{"jku": "https://evil.test/keys"}, nil),
		"a chain at x5u":                 sign(jwt.SigningMethodES256, mine, map[string]any{"x5u": "https://evil.test/chain"}, nil),
		"a chain in x5c":                 sign(jwt.SigningMethodES256, mine, map[string]any{"x5c": []string{base64.StdEncoding.EncodeToString(der)}}, nil),
		"kid that is a path":             sign(jwt.SigningMethodES256, mine, map[string]any{"kid": "../../dev/null"}, nil),
		"crit":                           es(map[string]any{"crit": []string{"exp"}}, nil),
		"b64":                            es(map[string]any{"b64": false}, nil),
		"for another use":                es(map[string]any{"typ": "logout+jwt"}, nil),
		"expired":                        es(nil, jwt.MapClaims{"exp": now.Add(-time.Minute).Unix()}),
		"expired in milliseconds":        es(nil, jwt.MapClaims{"exp": now.Add(-time.Minute).UnixMilli()}),
		"no end":                         es(nil, jwt.MapClaims{"exp": nil}),
		"an end that is text":            es(nil, jwt.MapClaims{"exp": "9999999999"}),
		"not yet":                        es(nil, jwt.MapClaims{"nbf": now.Add(time.Hour).Unix()}),
		"another issuer":                 es(nil, jwt.MapClaims{"iss": "https://evil.test"}),
		"no issuer":                      es(nil, jwt.MapClaims{"iss": nil}),
		"changed claims":                 part[0] + "." + b64([]byte(`{"iss":"`+devicetest.Issuer+`","sub":"admin","exp":9999999999}`)) + "." + part[2],
		"no signature":                   part[0] + "." + part[1] + ".",
		"half a signature":               good[:len(good)-43],
		"another signature":              part[0] + "." + part[1] + "." + b64(make([]byte, 64)),
		"two parts":                      part[0] + "." + part[1],
		"five parts":                     good + ".a.b",
		"opaque":                         "0123456789abcdef",
		"longer than is looked at":       es(nil, jwt.MapClaims{"x": strings.Repeat("x", 8<<10)}),
		"something behind":               good + " x",
	} {
		rows = append(rows, hostile{name, "/jwt", []string{"Authorization", "Bearer " + token}, 401, wsInvalid})
	}
	rows = append(rows,
		hostile{"nothing", "/jwt", nil, 401, wsMissing},
		hostile{"Bearer alone", "/jwt", []string{"Authorization", "Bearer "}, 401, wsMissing},
		hostile{"in the query", "/jwt?access_token=" + good, nil, 401, wsMissing},
		hostile{"in a cookie", "/jwt", []string{"Cookie", "access_token=" + good}, 401, wsMissing},
		hostile{"in another header", "/jwt", []string{"Proxy-Authorization", "Bearer " + good}, 401, wsMissing},
		hostile{"two of them", "/jwt", []string{"Authorization", "Bearer " + good, "Authorization", "Bearer " + good}, 401, wsInvalid},
		hostile{"as a login", "/jwt", []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:two"))}, 401, wsScheme},
		hostile{"without its scheme", "/jwt", []string{"Authorization", good}, 401, wsScheme},
		hostile{"without the scope", "/scoped", []string{"Authorization", "Bearer " + good}, 403, wsScope},
		hostile{"a scope that only begins so", "/scoped", []string{"Authorization", "Bearer " + es(nil, jwt.MapClaims{"scope": "readonly read-all"})}, 403, wsScope},
	)
	refuses(t, d, reached, `Bearer realm="tidegate"`, rows)
	passes(t, d, "/scoped", "Authorization", "Bearer "+es(nil, jwt.MapClaims{"scope": "write read"}))
}

func TestHostileAPIKeys(t *testing.T) {
	d, set, reached := fortress(t, nil)
	d.Apply(t, set)
	token := d.Fleet.Token(t, nil)
	sum := sha256.Sum256([]byte(hostileKey))
	for _, h := range [][]string{{"X-Api-Key", hostileKey}, {"Cookie", "a=b; key=" + hostileKey}} {
		passes(t, d, "/key", h...)
	}
	passes(t, d, "/key?a=b&apikey="+hostileKey)
	h := func(v string) []string { return []string{"X-Api-Key", v} }
	refuses(t, d, reached, `ApiKey realm="tidegate", in="header", name="X-Api-Key"`, []hostile{
		{"none", "/key", nil, 401, wsMissing},
		{"empty", "/key?apikey=", []string{"X-Api-Key", "", "Cookie", "key="}, 401, wsMissing},
		{"unknown", "/key", h("tg-unknown-0123456789abcdef"), 401, wsInvalid},
		{"one byte less", "/key", h(hostileKey[:len(hostileKey)-1]), 401, wsInvalid},
		{"one byte more", "/key", h(hostileKey + "0"), 401, wsInvalid},
		{"capitals", "/key", h(strings.ToUpper(hostileKey)), 401, wsInvalid},
		{"its hash", "/key", h(hexOf(sum[:])), 401, wsInvalid},
		{"its hash in base64", "/key", h(base64.StdEncoding.EncodeToString(sum[:])), 401, wsInvalid},
		{"with a scheme", "/key", h("Bearer " + hostileKey), 401, wsInvalid},
		{"in quotes", "/key", h(`"` + hostileKey + `"`), 401, wsInvalid},
		{"a list of keys", "/key", h("x," + hostileKey), 401, wsInvalid},
		{"expired", "/key", h("tg-old-0123456789abcdef0123"), 401, wsInvalid},
		{"revoked", "/key", h("tg-lost-0123456789abcdef012"), 401, wsInvalid},
		{"of another API", "/key", h(hostileKey2), 403, wsResource},
		{"two lines", "/key", []string{"X-Api-Key", hostileKey, "X-Api-Key", hostileKey}, 401, wsInvalid},
		{"twice in the query", "/key?apikey=x&apikey=" + hostileKey, nil, 401, wsInvalid},
		{"twice in the query, once escaped", "/key?%61pikey=x&apikey=" + hostileKey, nil, 401, wsInvalid},
		{"twice in cookies", "/key", []string{"Cookie", "key=x; key=" + hostileKey}, 401, wsInvalid},
		{"a wrong one beside the right one", "/key?apikey=" + hostileKey, h("wrong-0123456789abcdef"), 401, wsInvalid},
		{"in a header of another name", "/key", []string{"apikey", hostileKey}, 401, wsMissing},
		{"in a query of another case", "/key?ApiKey=" + hostileKey, nil, 401, wsMissing},
		{"as a token", "/key", []string{"Authorization", "Bearer " + hostileKey}, 401, wsScheme},
		{"a token as a key", "/key", h(token), 401, wsInvalid},
		{"longer than is looked at", "/key", h(strings.Repeat("k", 8<<10+1)), 401, wsInvalid},
		{"NUL", "/key?apikey=" + hostileKey + "%00", nil, 401, wsInvalid},
	})
}

func TestHostileLogins(t *testing.T) {
	d, set, reached := fortress(t, nil)
	d.Apply(t, set)
	b := base64.StdEncoding.EncodeToString
	login := func(s string) []string { return []string{"Authorization", "Basic " + b([]byte(s))} }
	raw := func(s string) []string { return []string{"Authorization", s} }
	passes(t, d, "/basic", login("ann:two")...)
	refuses(t, d, reached, `Basic realm="tidegate", charset="UTF-8"`, []hostile{
		{"none", "/basic", nil, 401, wsMissing},
		{"scheme alone", "/basic", raw("Basic"), 401, wsMissing},
		{"wrong password", "/basic", login("ann:Two"), 401, wsLogin},
		{"password with a blank", "/basic", login("ann:two "), 401, wsLogin},
		{"empty password", "/basic", login("ann:"), 401, wsLogin},
		{"empty name", "/basic", login(":two"), 401, wsLogin},
		{"unknown user", "/basic", login("eve:two"), 401, wsLogin},
		{"name in capitals", "/basic", login("ANN:two"), 401, wsLogin},
		{"name with a tenant", "/basic", login("ann@carbon.super:two"), 401, wsLogin},
		{"the hash as password", "/basic", login("ann:" + set.Users[0].Hash), 401, wsLogin},
		{"NUL in the name", "/basic", login("ann\x00:two"), 401, wsLogin},
		{"revoked user", "/basic", login("gone:two"), 401, wsInvalid},
		{"no colon", "/basic", login("anntwo"), 401, wsFormat},
		{"no base64", "/basic", raw("Basic ann:two"), 401, wsFormat},
		{"base64url", "/basic", raw("Basic YW5uOnR3bw-_"), 401, wsFormat},
		{"no padding", "/basic", raw("Basic " + strings.TrimRight(b([]byte("ann:twoo")), "=")), 401, wsFormat},
		{"unused bits set", "/basic", raw("Basic " + strings.Replace(b([]byte("ann:twoo")), "8=", "9=", 1)), 401, wsFormat},
		{"something behind", "/basic", raw("Basic " + b([]byte("ann:two")) + " x"), 401, wsFormat},
		{"longer than is looked at", "/basic", login("ann:" + strings.Repeat("x", 4<<10)), 401, wsFormat},
		{"two lines", "/basic", append(login("ann:two"), login("ann:two")...), 401, wsInvalid},
		{"another scheme", "/basic", raw(`Digest username="ann"`), 401, wsScheme},
		{"a token", "/basic", raw("Bearer " + d.Fleet.Token(t, nil)), 401, wsScheme},
		{"no scheme", "/basic", raw(b([]byte("ann:two"))), 401, wsScheme},
		{"for a proxy", "/basic", []string{"Proxy-Authorization", "Basic " + b([]byte("ann:two"))}, 401, wsMissing},
		{"without the scope", "/basicscoped", login("ann:two"), 403, wsScope},
	})
}

// TestHostileCertificates sends certificates over TLS, by both versions of HTTP, and as a proxy would.
func TestHostileCertificates(t *testing.T) {
	plant, ship, forged := newAuthority(t, "plant CA"), newAuthority(t, "ship CA"), newAuthority(t, "plant CA")
	d, set, reached := fortress(t, func(c *config.Config) { c.Listen.HTTPS = "127.0.0.1:0" })
	a := &set.APIs[0]
	a.MutualTLS, a.Optional, a.ClientCAs = policy.MutualMandatory, true, []string{"plant"}
	tomorrow := time.Now().Add(24 * time.Hour)
	good := plant.issue(t, "pump 7", tomorrow, x509.ExtKeyUsageClientAuth)
	lost := plant.issue(t, "lost", tomorrow, x509.ExtKeyUsageClientAuth)
	revoked, err := policy.Revoke("user", "CN=lost", 0)
	if err != nil {
		t.Fatal(err)
	}
	set.Revoked = append(set.Revoked, revoked...)
	slices.SortFunc(set.Revoked, func(a, b policy.Revocation) int {
		if a.Kind != b.Kind {
			return int(a.Kind) - int(b.Kind)
		}
		return slices.Compare(a.Hash[:], b.Hash[:])
	})
	set.ClientCAs = []policy.ClientCA{{Name: "plant", Authorities: [][]byte{plant.cert.Raw}}, {Name: "ship", Authorities: [][]byte{ship.cert.Raw}}}
	d.Apply(t, set)
	below := &authority{good.Leaf, good.PrivateKey.(*ecdsa.PrivateKey)} // no authority, and signs all the same
	token := []string{"Authorization", "Bearer " + d.Fleet.Token(t, nil)}
	header := func(v string) []string { return []string{"X-WSO2-CLIENT-CERTIFICATE", v} }
	text := url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: good.Certificate[0]})))
	pair := func(c tls.Certificate) *tls.Certificate { return &c }
	chain := func(c tls.Certificate, more ...tls.Certificate) *tls.Certificate {
		for _, m := range more {
			c.Certificate = append(c.Certificate, m.Certificate...)
		}
		return &c
	}
	rows := []struct {
		name   string
		cert   *tls.Certificate
		header []string
		body   string
	}{
		{"none", nil, nil, wsMissing},
		{"none, and a token", nil, token, wsInvalid},
		{"of another API's authority", pair(ship.issue(t, "crane", tomorrow, x509.ExtKeyUsageClientAuth)), nil, wsInvalid},
		{"of another API's authority, and a token", pair(ship.issue(t, "crane", tomorrow, x509.ExtKeyUsageClientAuth)), token, wsInvalid},
		{"same names, another key", pair(forged.issue(t, "pump 7", tomorrow, x509.ExtKeyUsageClientAuth)), nil, wsInvalid},
		{"same names, another key, the real authority behind it", chain(forged.issue(t, "pump 7", tomorrow, x509.ExtKeyUsageClientAuth), tls.Certificate{Certificate: [][]byte{plant.cert.Raw}}), nil, wsInvalid},
		{"signed by a certificate that is no authority", chain(below.issue(t, "pump 8", tomorrow, x509.ExtKeyUsageClientAuth), good), nil, wsInvalid},
		{"expired", pair(plant.issue(t, "late", time.Now().Add(-400*24*time.Hour), x509.ExtKeyUsageClientAuth)), nil, wsInvalid},
		{"not yet", pair(plant.issue(t, "early", time.Now().Add(400*24*time.Hour), x509.ExtKeyUsageClientAuth)), nil, wsInvalid},
		{"for servers", pair(plant.issue(t, "server", tomorrow, x509.ExtKeyUsageServerAuth)), nil, wsInvalid},
		{"for mail", pair(plant.issue(t, "mail", tomorrow, x509.ExtKeyUsageEmailProtection)), nil, wsInvalid},
		{"revoked by its name", pair(lost), nil, wsInvalid},
		{"header of a stranger", nil, header(told(good)), wsMissing},
		{"header of a stranger in lower case", nil, []string{"x-wso2-client-certificate", told(good)}, wsMissing},
		{"header of a stranger in PEM", nil, header(text), wsMissing},
		{"header with an underscore", nil, []string{"X_WSO2_CLIENT_CERTIFICATE", told(good)}, wsMissing},
		{"header beside a bad one", pair(lost), header(told(good)), wsInvalid},
		{"headers of other products", nil, []string{"X-Client-Cert", told(good), "X-SSL-Cert", text, "Ssl-Client-Cert", text}, wsMissing},
		{"Client-Cert of RFC 9440", nil, []string{"Client-Cert", ":" + base64.StdEncoding.EncodeToString(good.Certificate[0]) + ":"}, wsMissing},
	}
	if len(rows) < 15 {
		t.Errorf("only %d hostile requests", len(rows))
	}
	for _, h2 := range []bool{false, true} {
		if a, err := over(t, d, h2, &good, "/echo/1.0/jwt"); err != nil || a.status != 200 {
			t.Errorf("h2 %v: a good certificate: got %d, %v", h2, a.status, err)
		}
		for _, r := range rows {
			before := reached.Load()
			a, err := over(t, d, h2, r.cert, "/echo/1.0/jwt", r.header...)
			if err != nil || a.status != 401 || a.body != r.body || reached.Load() != before {
				t.Errorf("h2 %v, %s: got %d %s, %v, backend called %v\nwant 401 %s", h2, r.name, a.status, a.body, err, reached.Load() != before, r.body)
			}
		}
	}
	// A certificate whose key somebody does not have ends the handshake.
	stolen := tls.Certificate{Certificate: good.Certificate, PrivateKey: newKey(t)}
	for _, h2 := range []bool{false, true} {
		if a, err := over(t, d, h2, &stolen, "/echo/1.0/jwt"); err == nil {
			t.Errorf("h2 %v: a certificate without its key: got %d %s", h2, a.status, a.body)
		}
	}
}
