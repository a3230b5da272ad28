package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"tidegate/policy"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// The defaults of a backend JWT.
const (
	DefaultAssertionHeader = "X-JWT-Assertion"
	DefaultDialect         = "http://wso2.org/claims"
	DefaultAssertionLife   = 15 * time.Minute
)

// An Assertion makes the token that tells a backend who calls. It is immutable and safe
// for concurrent use.
type Assertion struct {
	b      policy.BackendJWT
	method jwt.SigningMethod
	key    crypto.Signer
}

// NewAssertion returns a maker of backend tokens. Key is PKCS #8 in PEM or DER, for the algorithm
// of b: RSA of at least 2048 bits, P-256 or Ed25519. With b nil or not enabled it only
// hands on what callers bring, and needs no key.
func NewAssertion(b *policy.BackendJWT, key []byte) (*Assertion, error) {
	if b == nil || !b.Enabled {
		return new(Assertion), nil
	}
	a := &Assertion{b: *b, method: jwt.GetSigningMethod(b.Algorithm)}
	if a.b.Header == "" {
		a.b.Header = DefaultAssertionHeader
	}
	if a.b.Dialect == "" {
		a.b.Dialect = DefaultDialect
	}
	if a.b.Seconds == 0 {
		a.b.Seconds = uint32(DefaultAssertionLife / time.Second)
	}
	if block, _ := pem.Decode(key); block != nil {
		key = block.Bytes
	}
	parsed, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("backend JWT: the key is not PKCS #8")
	}
	fits := false
	switch k := parsed.(type) {
	case *rsa.PrivateKey:
		fits = b.Algorithm == "RS256" && k.N.BitLen() >= minRSABits
	case *ecdsa.PrivateKey:
		fits = b.Algorithm == "ES256" && k.Curve == elliptic.P256()
	case ed25519.PrivateKey:
		fits = b.Algorithm == "EdDSA"
	}
	if !fits {
		return nil, fmt.Errorf("backend JWT: a key of type %T does not fit the algorithm %q: use RS256 with at least %d bits, ES256 with P-256, or EdDSA with Ed25519",
			parsed, b.Algorithm, minRSABits)
	}
	a.key = parsed.(crypto.Signer)
	return a, nil
}

// Header returns the name of the request header that carries the token.
func (a *Assertion) Header() string {
	if a.b.Header == "" {
		return DefaultAssertionHeader
	}
	return a.b.Header
}

// Life returns how long a made token counts. Callers may cache one per credential and API for a
// shorter time.
func (a *Assertion) Life() time.Duration { return time.Duration(a.b.Seconds) * time.Second }

// Token returns the token for one caller at one API: the one that came with the
// credential, else a new one; "" when there is neither. Now is the best estimate of the time, and id
// becomes jti: it must be unique.
func (a *Assertion) Token(p *policy.Principal, api *policy.API, now time.Time, id string) (string, error) {
	if p.EndUserToken != "" && isToken68(p.EndUserToken) {
		return p.EndUserToken, nil
	}
	if a.key == nil || p.Kind == 0 {
		return "", nil
	}
	c := jwt.MapClaims{}
	for name, raw := range p.Claims.All {
		if !slices.Contains(ownClaims, name) && !slices.Contains(a.b.Restricted, name) {
			c[name] = json.RawMessage(raw)
		}
	}
	c["iss"] = a.b.Issuer
	c["sub"] = p.Subject
	c["jti"] = id
	c["iat"] = now.Unix()
	c["exp"] = now.Add(a.Life()).Unix()
	switch len(a.b.Audience) {
	case 0:
	case 1:
		c["aud"] = a.b.Audience[0]
	default:
		c["aud"] = a.b.Audience
	}
	for _, f := range []struct{ name, value string }{
		{"enduser", p.UserID()},
		{"applicationid", p.ApplicationID},
		{"applicationUUId", p.ApplicationID},
		{"subscriber", p.ApplicationOwner},
		{"applicationname", p.ApplicationName},
		{"applicationtier", p.ApplicationPlan},
		{"apiname", api.Name},
		{"enduserTenantDomain", p.Tenant},
		{"apicontext", api.BasePath},
		{"version", api.Version},
		{"tier", p.SubscriptionPlan},
		{"keytype", p.KeyType.String()},
		{"usertype", "Application_User"},
	} {
		c[a.b.Dialect+"/"+f.name] = f.value
	}
	tok := jwt.NewWithClaims(a.method, c)
	if a.b.Thumbprint != "" {
		tok.Header["x5t"] = a.b.Thumbprint
	}
	s, err := tok.SignedString(a.key)
	if err != nil {
		return "", fmt.Errorf("backend JWT for api %s: %w", strconv.Quote(api.Name), err)
	}
	return s, nil
}

// ownClaims are never copied from the caller's token.
var ownClaims = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "backendJwt"}
