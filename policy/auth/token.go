package auth

import (
	"crypto/elliptic"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"math/big"
	"slices"
	"strings"
	"tidegate/policy"
	"tidegate/policy/fault"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// token is what a genuine JWT says, apart from any API.
type token struct {
	issuer *issuer
	apiKey bool

	subject, tenant string
	keyType         policy.KeyType
	typed           bool // keytype was given
	consumerKey     string
	app             application
	scopes          []string
	claims          *policy.Claims
	endUserToken    string

	subscriptions []grant // claim subscribedAPIs
	listed        bool    // it was given
	allowed       []grant // claim allowedAPIs
	id            string  // jti
}

// application is who the calls are counted for.
type application struct {
	id, name, owner, plan string
}

// grant is an entry of subscribedAPIs or allowedAPIs.
type grant struct {
	name, version, plan, tenant string
}

// matches reports whether a grant is for an API. Version may be "*" or a list.
func (s *grant) matches(a *policy.API) bool {
	if s.name != a.Name {
		return false
	}
	if s.version == "*" || s.version == a.Version {
		return true
	}
	for v := range strings.SplitSeq(s.version, ",") {
		if strings.TrimSpace(v) == a.Version {
			return true
		}
	}
	return false
}

// The reasons for the log.
var (
	errLong      = errors.New("the token is longer than 8 KiB")
	errForm      = errors.New("the token is not well-formed")
	errHeader    = errors.New("the token's header asks for something that is not understood")
	errIssuer    = errors.New("the token's issuer is not known")
	errAudience  = errors.New("the token is not for this gateway")
	errNoExpiry  = errors.New("the token has no exp")
	errRequired  = errors.New("a required claim is missing or has another value")
	errSignature = errors.New("the token's signature does not fit")
)

// tag keeps kinds of cached credentials apart.
type tag byte

const (
	tagBearer tag = iota + 1
	tagKey
	tagCertificate
)

// hashed is how much of a credential's end goes into a cache key. The end of a token and of a
// certificate is its signature, so that two genuine ones never share it.
const hashed = 64

// cacheKey returns the key of a credential that is compared whole on a hit: a collision
// costs a signature check and lets nobody in.
func (g *Guard) cacheKey(t tag, s string) (key [32]byte) {
	h := maphash.String(g.seed, s[max(0, len(s)-hashed):])
	binary.LittleEndian.PutUint64(key[:8], h)
	key[8] = byte(t)
	return key
}

// cached returns what a cache holds for s, if it is of this Guard.
func (t *trial) cached(key [32]byte, s string) *Verified {
	if t.cache == nil {
		return nil
	}
	v, ok := t.cache.Get(key)
	if !ok || v.guard != t.g || v.exact != s {
		return nil
	}
	return v
}

// bearer judges a bearer token.
func (t *trial) bearer(s string) (*policy.Principal, *fault.Error) {
	if len(s) > MaxToken {
		return nil, t.unauthorized(fault.InvalidCredentials, errLong)
	}
	key := t.g.cacheKey(tagBearer, s)
	if v := t.cached(key, s); v != nil {
		return t.again(v)
	}
	if !t.g.isJWT(s) {
		return t.opaque(s)
	}
	v, err := t.g.parse(s, t.g.issuers, false)
	if err != nil {
		if in := t.g.set.Introspection; in != nil && in.RetryFailedJWT && t.g.introspector != nil {
			return t.opaque(s)
		}
		return nil, t.notGenuine(err)
	}
	return t.first(key, v)
}

// keysRetry is when a client may try again whose issuer has no key yet.
const keysRetry = 10 * time.Second

// notGenuine is the refusal of a JWT that could not be verified. Without any key nothing can
// be said of it.
func (t *trial) notGenuine(err error) *fault.Error {
	if errors.Is(err, errNoKey) {
		return &fault.Error{Fault: fault.KeyManagerAway, Err: err, RetryAfter: keysRetry}
	}
	return t.unauthorized(fault.InvalidCredentials, err)
}

// first judges a token or API key that was just found genuine, and remembers it.
func (t *trial) first(key [32]byte, v *Verified) (*policy.Principal, *fault.Error) {
	if err := v.times.check(t.now, t.g.over(v)); err != nil {
		return nil, t.challenged(err)
	}
	if !t.g.clear(v.idents, t.now) {
		return nil, t.unauthorized(fault.InvalidCredentials, errRevoked)
	}
	if t.cache != nil {
		t.cache.Put(key, v)
	}
	p, f, err := t.g.decide(v, t.m.APIIndex)
	if f != nil {
		return nil, t.unauthorized(f, err)
	}
	return t.finish(v, p)
}

// again judges a token or API key that was found genuine earlier.
func (t *trial) again(v *Verified) (*policy.Principal, *fault.Error) {
	if err := v.times.check(t.now, t.g.over(v)); err != nil {
		return nil, t.challenged(err)
	}
	if !v.stands(t.now) {
		return nil, t.unauthorized(fault.InvalidCredentials, errRevoked)
	}
	d := v.last.Load()
	if d == nil || d.api != t.m.APIIndex {
		p, f, err := t.g.decide(v, t.m.APIIndex)
		if f != nil {
			return nil, t.unauthorized(f, err)
		}
		p.Cached = true
		d = &decision{t.m.APIIndex, p}
		v.last.Store(d)
	}
	return t.finish(v, d.p)
}

// over returns the fault of a credential after its end.
func (g *Guard) over(v *Verified) *fault.Fault {
	if v.token == nil || v.token.apiKey {
		return fault.InvalidCredentials
	}
	return g.expired
}

// finish checks scopes, which bind tokens but not API keys.
func (t *trial) finish(v *Verified, p *policy.Principal) (*policy.Principal, *fault.Error) {
	if v.token == nil || v.token.apiKey {
		return p, nil
	}
	return t.scoped(v.token.scopes, p)
}

// challenged adds a challenge to a refusal for time.
func (t *trial) challenged(e *fault.Error) *fault.Error {
	if e.Fault.Status == 401 {
		return t.unauthorized(e.Fault, e.Err)
	}
	return e
}

// isJWT reports whether s has three parts of which the first is a JSON object with alg.
func (g *Guard) isJWT(s string) bool {
	head, rest, ok := strings.Cut(s, ".")
	if !ok || strings.Count(rest, ".") != 1 || !isSegment(head) {
		return false
	}
	b, err := g.parser.DecodeSegment(head)
	if err != nil {
		return false
	}
	o, err := readObject(b)
	if err != nil {
		return false
	}
	_, ok = o.find("alg")
	return ok
}

// isSegment reports whether s is base64url, without padding or with all of it. Decoders accept
// line breaks and half a padding, so that one token would have many texts.
func isSegment(s string) bool {
	n := len(strings.TrimRight(s, "="))
	if pad := len(s) - n; pad != 0 && (pad > 2 || len(s)%4 != 0) {
		return false
	}
	for i := range n {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return n > 0
}

// newParser returns the reader of the form of tokens. Claims are judged by us: there are
// two bounds of time.
func newParser() *jwt.Parser {
	return jwt.NewParser(jwt.WithValidMethods(algorithms[:]), jwt.WithPaddingAllowed(), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation())
}

// payload keeps the claims as they came. Of RegisteredClaims nothing is read.
type payload struct {
	jwt.RegisteredClaims
	raw []byte
}

// UnmarshalJSON keeps b.
func (p *payload) UnmarshalJSON(b []byte) error {
	p.raw = slices.Clone(b)
	return nil
}

// parse checks form, issuer, signature and the claims that do not depend on time. The
// result keeps s.
func (g *Guard) parse(s string, issuers map[string]*issuer, apiKey bool) (*Verified, error) {
	if len(s) > MaxToken {
		return nil, errLong
	}
	parts := strings.Split(s, ".")
	if len(parts) != 3 || !isSegment(parts[0]) || !isSegment(parts[1]) || !isSegment(parts[2]) {
		return nil, errForm
	}
	var from *issuer
	var o object
	var reason error
	p := new(payload)
	tok, err := g.parser.ParseWithClaims(s, p, func(tok *jwt.Token) (any, error) {
		if o, reason = readObject(p.raw); reason != nil {
			return nil, reason
		}
		from = issuers[o.text("iss")]
		if raw, ok := o.find("iss"); from == nil || !ok || raw[0] != '"' {
			reason = errIssuer
			return nil, reason
		}
		var keys []any
		if keys, reason = from.keysFor(tok); reason != nil {
			return nil, reason
		}
		set := jwt.VerificationKeySet{Keys: make([]jwt.VerificationKey, len(keys))}
		for i, k := range keys {
			set.Keys[i] = k
		}
		return set, nil
	})
	switch {
	case reason != nil:
		return nil, reason
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return nil, errSignature
	case err != nil:
		return nil, errForm
	}
	return g.accept(s, tok, o, from, apiKey)
}

// keysFor reads the header of a token. jku, x5u, jwk and x5c are what an attacker would
// send: they are not looked at.
func (s *issuer) keysFor(tok *jwt.Token) ([]any, error) {
	for _, name := range []string{"crit", "b64", "zip", "enc"} {
		if _, ok := tok.Header[name]; ok {
			return nil, errHeader
		}
	}
	if v, ok := tok.Header["typ"]; ok {
		typ, _ := v.(string)
		switch strings.TrimPrefix(strings.ToLower(typ), "application/") {
		case "jwt", "at+jwt":
		default:
			return nil, errHeader // RFC 8725 §3.11: a token made for another use
		}
	}
	kid, err := headerText(tok, "kid")
	if err != nil {
		return nil, err
	}
	x5t, err := headerText(tok, "x5t")
	if err != nil {
		return nil, err
	}
	return s.candidates(tok.Method.Alg(), kid, x5t)
}

func headerText(tok *jwt.Token, name string) (string, error) {
	v, ok := tok.Header[name]
	if !ok || v == nil {
		return "", nil
	}
	s, ok := v.(string)
	if !ok {
		return "", errHeader
	}
	return s, nil
}

// accept judges the claims of a token whose signature fits.
func (g *Guard) accept(s string, tok *jwt.Token, o object, from *issuer, apiKey bool) (*Verified, error) {
	exp, bounded, err := o.date("exp")
	if err != nil {
		return nil, err
	}
	if !bounded && !apiKey {
		return nil, errNoExpiry
	}
	nbf, _, err := o.date("nbf")
	if err != nil {
		return nil, err
	}
	if len(from.Audience) > 0 {
		aud, _ := o.texts("aud")
		if !slices.ContainsFunc(aud, func(a string) bool { return slices.Contains(from.Audience, a) }) {
			return nil, errAudience
		}
	}
	c := o.claims(from.Claims)
	if !meets(c, from.Required) {
		return nil, errRequired
	}
	t := &token{issuer: from, apiKey: apiKey, claims: c, subject: c.Text("sub"), id: o.text("jti")}
	if err := t.read(o); err != nil {
		return nil, err
	}
	g.identify(t)
	v := &Verified{
		guard: g, exact: strings.Clone(s), size: 3*len(s) + 1024, token: t,
		times: times{
			from: nbf, to: exp, bounded: bounded, leeway: int64(from.Leeway),
			unproven: from.Unproven, graceSeconds: int64(from.UnprovenGrace),
		},
	}
	sig := tok.Signature
	if strings.HasPrefix(tok.Method.Alg(), "ES") {
		sig = sig[:len(sig)/2] // (r, n−s) is as good as (r, s)
	}
	v.idents = append(v.idents, identOfBytes(policy.RevokedSignature, sig))
	if apiKey {
		for _, text := range spellings(s, tok) {
			v.idents = append(v.idents, identOf(policy.RevokedKey, text))
		}
	}
	if t.id != "" {
		v.idents = append(v.idents, identOf(policy.RevokedID, t.id))
	}
	if t.consumerKey != "" {
		v.idents = append(v.idents, identOf(policy.RevokedConsumer, t.consumerKey))
	}
	if t.app.id != "" {
		v.idents = append(v.idents, identOf(policy.RevokedApplication, t.app.id))
	}
	v.idents = appendUser(v.idents, &policy.Principal{Subject: t.subject, Tenant: t.tenant})
	return v, nil
}

// spellings returns every text of a signed API key that the signature check lets pass: the
// last part with and without padding, and for ES* with the other of the two signatures that fit. Who
// revokes a key by its text has only one of them.
func spellings(s string, tok *jwt.Token) []string {
	head := s[:strings.LastIndexByte(s, '.')+1]
	sigs := [][]byte{tok.Signature}
	if m, ok := tok.Method.(*jwt.SigningMethodECDSA); ok {
		order := map[int]elliptic.Curve{256: elliptic.P256(), 384: elliptic.P384(), 521: elliptic.P521()}[m.CurveBits].Params().N
		twin := slices.Clone(tok.Signature)
		half := twin[len(twin)/2:]
		new(big.Int).Sub(order, new(big.Int).SetBytes(half)).FillBytes(half)
		sigs = append(sigs, twin)
	}
	var out []string
	for _, sig := range sigs {
		out = append(out, head+base64.RawURLEncoding.EncodeToString(sig))
		if len(sig)%3 != 0 {
			out = append(out, head+base64.URLEncoding.EncodeToString(sig))
		}
	}
	return out
}

// read fills t from the claims that API Manager writes.
func (t *token) read(o object) error {
	for _, s := range t.claims.Values("scope") {
		t.scopes = append(t.scopes, strings.Fields(s)...)
	}
	name := t.issuer.ConsumerKey
	if name == "" {
		name = "consumerKey"
	}
	t.consumerKey = t.claims.Text(name)
	if k := t.claims.Text("keytype"); k != "" {
		t.typed = true
		if !strings.EqualFold(k, policy.Production.String()) {
			t.keyType = policy.Sandbox
		}
	}
	t.endUserToken = t.claims.Text("backendJwt")
	if raw, ok := o.present("application"); ok {
		a, err := splitObject(raw)
		if err != nil {
			return errForm
		}
		t.app = application{a.text("id"), a.text("name"), a.text("owner"), a.text("tier")}
	}
	var err error
	if t.subscriptions, t.listed, err = grants(o, "subscribedAPIs"); err != nil {
		return err
	}
	if t.allowed, _, err = grants(o, "allowedAPIs"); err != nil {
		return err
	}
	t.tenant = "carbon.super"
	if i := strings.LastIndexByte(t.subject, '@'); i >= 0 {
		t.tenant = t.subject[i+1:]
	}
	return nil
}

// grants reads a list of {name, version}. WSO2's key generator writes "versions".
func grants(o object, claim string) ([]grant, bool, error) {
	raw, ok := o.present(claim)
	if !ok {
		return nil, false, nil
	}
	list, ok := readList(raw)
	if !ok {
		return nil, false, errForm
	}
	out := make([]grant, 0, len(list))
	for _, e := range list {
		m, err := splitObject(e)
		if err != nil {
			return nil, false, errForm
		}
		s := grant{m.text("name"), m.text("version"), m.text("subscriptionTier"), m.text("subscriberTenantDomain")}
		if s.version == "" {
			s.version = m.text("versions")
		}
		out = append(out, s)
	}
	return out, true, nil
}
