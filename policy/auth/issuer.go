package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"tidegate/policy"
)

// algorithms are all that can be allowed. None of them is symmetric.
var algorithms = [...]string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// bounds of keys: below, a signature proves little; above, checking one takes too long.
const (
	minRSABits = 2048
	maxRSABits = 8192
	maxTries   = 8 // keys tried for a token that names none
	maxLeeway  = 60
)

// issuer is a compiled policy.Issuer.
type issuer struct {
	*policy.Issuer
	keys    []verifier
	missing func(url string) // never nil
}

// verifier is a public key and the algorithms it may check. They follow from its type, never
// from a token.
type verifier struct {
	id, thumbprint string
	algorithms     []string
	public         any
}

func compileIssuers(noun string, list []policy.Issuer, missing func(string)) (map[string]*issuer, error) {
	out := make(map[string]*issuer, len(list))
	var errs []error
	for i := range list {
		p := &list[i]
		if have := out[p.Issuer]; have != nil {
			errs = append(errs, fmt.Errorf("%ss %q and %q both have iss %q", noun, have.Name, p.Name, p.Issuer))
			continue
		}
		c, err := compileIssuer(p)
		c.missing = missing
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %q: %w", noun, p.Name, err))
		}
		out[p.Issuer] = c
	}
	return out, errors.Join(errs...)
}

func compileIssuer(p *policy.Issuer) (*issuer, error) {
	c := &issuer{Issuer: p}
	var errs []error
	if p.Issuer == "" {
		errs = append(errs, errors.New("has no iss"))
	}
	if p.Leeway > maxLeeway {
		errs = append(errs, fmt.Errorf("leeway is %d s, at most %d s are possible", p.Leeway, maxLeeway))
	}
	if len(p.Algorithms) == 0 {
		errs = append(errs, errors.New("allows no algorithm"))
	}
	for _, a := range p.Algorithms {
		if !slices.Contains(algorithms[:], a) {
			errs = append(errs, fmt.Errorf("algorithm %q cannot be allowed: use one of %v", a, algorithms))
		}
	}
	if len(p.Keys) == 0 && p.JWKSURL == "" {
		errs = append(errs, errors.New("has no key"))
	}
	for i := range p.Keys {
		k, err := compileKey(&p.Keys[i], p.Algorithms)
		if err != nil {
			errs = append(errs, fmt.Errorf("key %d (kid %q): %w", i, p.Keys[i].ID, err))
			continue
		}
		c.keys = append(c.keys, k)
	}
	return c, errors.Join(errs...)
}

func compileKey(p *policy.Key, allowed []string) (verifier, error) {
	public, err := x509.ParsePKIXPublicKey(p.PKIX)
	if err != nil {
		return verifier{}, err
	}
	var fit []string
	switch k := public.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSABits || n > maxRSABits {
			return verifier{}, fmt.Errorf("RSA key of %d bits: %d to %d are possible", n, minRSABits, maxRSABits)
		}
		fit = algorithms[:6]
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			fit = []string{"ES256"}
		case elliptic.P384():
			fit = []string{"ES384"}
		case elliptic.P521():
			fit = []string{"ES512"}
		default:
			return verifier{}, fmt.Errorf("curve %s has no algorithm", k.Params().Name)
		}
	case ed25519.PublicKey:
		fit = []string{"EdDSA"}
	default:
		return verifier{}, fmt.Errorf("a key of type %T checks no tokens", public)
	}
	v := verifier{id: p.ID, thumbprint: p.Thumbprint, public: public}
	for _, a := range fit {
		if slices.Contains(allowed, a) && (p.Algorithm == "" || p.Algorithm == a) {
			v.algorithms = append(v.algorithms, a)
		}
	}
	if len(v.algorithms) == 0 {
		return verifier{}, fmt.Errorf("none of the issuer's algorithms %v fits this key", allowed)
	}
	return v, nil
}

var (
	errKeyID     = errors.New("the token names a key the issuer does not have")
	errNoKey     = errors.New("no key of the issuer is known yet: its JWK Set was never fetched")
	errAlgorithm = errors.New("no key of the issuer may check the token's algorithm")
)

// candidates returns the keys that may have signed a token: the one it names by kid, else by
// x5t, else each that fits the algorithm, up to eight. An unknown kid counts as none
// when the issuer's keys came as one certificate.
func (s *issuer) candidates(algorithm, kid, x5t string) ([]any, error) {
	if len(s.keys) == 0 && s.JWKSURL != "" {
		s.missing(s.JWKSURL)
		return nil, errNoKey
	}
	if kid != "" {
		named := s.pick(algorithm, func(v *verifier) bool { return v.id == kid })
		if len(named) > 0 {
			return named, nil
		}
		if !s.SingleKey {
			if s.JWKSURL != "" {
				s.missing(s.JWKSURL)
			}
			return nil, errKeyID
		}
	}
	if x5t != "" {
		if named := s.pick(algorithm, func(v *verifier) bool { return v.thumbprint == x5t }); len(named) > 0 {
			return named, nil
		}
	}
	all := s.pick(algorithm, func(*verifier) bool { return true })
	if len(all) == 0 {
		return nil, errAlgorithm
	}
	return all, nil
}

func (s *issuer) pick(algorithm string, want func(*verifier) bool) []any {
	var out []any
	for i := range s.keys {
		v := &s.keys[i]
		if want(v) && slices.Contains(v.algorithms, algorithm) && len(out) < maxTries {
			out = append(out, v.public)
		}
	}
	return out
}
