package policy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Algorithms returns the signature algorithms (RFC 7518 §3.1, RFC 8037) that a public
// key can verify; nil for a key of another kind or of a size that is too small.
func Algorithms(key any) []string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return nil
		}
		return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return []string{"ES256"}
		case 384:
			return []string{"ES384"}
		case 521:
			return []string{"ES512"}
		}
	case ed25519.PublicKey:
		return []string{"EdDSA"}
	}
	return nil
}

var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

func (v *validator) checkIssuers() {
	v.issuers(v.set.Issuers, "issuer")
	v.issuers(v.set.APIKeys.Issuers, "issuer of API keys")
	if v.set.AuthHeader != "" && !token(v.set.AuthHeader) {
		v.add(Pos{}, "auth.yaml", "header %q is not a name of a header", v.set.AuthHeader)
	}
	if i := v.set.Introspection; i != nil {
		if err := CheckTarget(i.URL); err != nil {
			v.add(Pos{}, "introspection", "url %v", err)
		}
		if i.TLS != "" && !v.profile(i.TLS) {
			v.add(Pos{}, "introspection", "unknown TLS profile %q", i.TLS)
		}
		if i.CacheSeconds > 86400 {
			v.add(Pos{}, "introspection", "an answer kept for %d seconds: want at most a day", i.CacheSeconds)
		}
	}
	if b := v.set.BackendJWT; b != nil && b.Enabled {
		if !slices.Contains([]string{"RS256", "ES256", "EdDSA"}, b.Algorithm) {
			v.add(Pos{}, "backend_jwt", "algorithm %q: want RS256, ES256 or EdDSA", b.Algorithm)
		}
		if b.Key == "" {
			v.add(Pos{}, "backend_jwt", "no key to sign with")
		}
		if b.Header != "" && !token(b.Header) {
			v.add(Pos{}, "backend_jwt", "header %q is not a name of a header", b.Header)
		}
	}
}

func (v *validator) issuers(list []Issuer, what string) {
	names, texts := map[string]bool{}, map[string]bool{}
	for i := range list {
		s := &list[i]
		object := fmt.Sprintf("%s %q", what, s.Name)
		v.name(s.Pos, object, "the name", s.Name)
		if names[s.Name] {
			v.add(s.Pos, object, "defined twice")
		}
		names[s.Name] = true
		if s.Issuer == "" {
			v.add(s.Pos, object, "issuer, the text of the claim iss, is missing")
		} else if texts[s.Issuer] {
			v.add(s.Pos, object, "the claim iss %q belongs to two issuers", s.Issuer)
		}
		texts[s.Issuer] = true
		v.keys(s, object)
		if s.Leeway > 60 {
			v.add(s.Pos, object, "a leeway of %d s: want at most 60", s.Leeway)
		}
		if s.Subscriptions > SubscriptionsOff || s.Unproven > UnprovenGrace {
			v.add(s.Pos, object, "unknown mode")
		}
		if (s.Unproven == UnprovenGrace) != (s.UnprovenGrace > 0) {
			v.add(s.Pos, object, "a grace while the clock is unproven needs its length, and only then has one")
		}
		for _, c := range s.Claims {
			if c.From == "" || c.To == "" {
				v.add(s.Pos, object, "a claim without a name")
			}
		}
		for _, c := range s.Required {
			if c.Name == "" {
				v.add(s.Pos, object, "a required claim without a name")
			}
		}
	}
}

func (v *validator) keys(s *Issuer, object string) {
	if len(s.Algorithms) == 0 {
		v.add(s.Pos, object, "no algorithms")
	}
	for _, a := range s.Algorithms {
		if !slices.Contains(algorithms, a) {
			v.hint(s.Pos, object, "allowed: "+strings.Join(algorithms, ", "), "algorithm %q is not allowed", a)
		}
	}
	if len(s.Keys) == 0 && s.JWKSURL == "" {
		v.hint(s.Pos, object, "name a jwks file, a certificate, or jwks_url", "no keys: no token of it could be verified")
	}
	if s.JWKSURL != "" {
		if err := CheckTarget(s.JWKSURL); err != nil {
			v.add(s.Pos, object, "jwks_url %v", err)
		}
	}
	if s.TLS != "" && !v.profile(s.TLS) {
		v.hint(s.Pos, object, "define it in auth.yaml backend_tls", "unknown TLS profile %q", s.TLS)
	}
	if s.SingleKey && len(s.Keys) != 1 {
		v.add(s.Pos, object, "one certificate, but %d keys", len(s.Keys))
	}
	usable := map[string]bool{}
	for i, k := range s.Keys {
		name := fmt.Sprintf("%s: key %d", object, i+1)
		if k.ID != "" {
			name = fmt.Sprintf("%s: key %q", object, k.ID)
		}
		pub, err := x509.ParsePKIXPublicKey(k.PKIX)
		if err != nil {
			v.add(s.Pos, name, "does not parse: %v", err)
			continue
		}
		can := Algorithms(pub)
		switch {
		case can == nil:
			v.add(s.Pos, name, "is of a kind or size that is not accepted: want RSA from 2048 bits, P-256, P-384, P-521 or Ed25519")
		case k.Algorithm != "" && !slices.Contains(can, k.Algorithm):
			v.add(s.Pos, name, "cannot verify %s", k.Algorithm)
		case k.Algorithm != "":
			usable[k.Algorithm] = true
		default:
			for _, a := range can {
				usable[a] = true
			}
		}
	}
	if len(s.Keys) == 0 || s.JWKSURL != "" {
		return
	}
	for _, a := range s.Algorithms {
		if slices.Contains(algorithms, a) && !usable[a] {
			v.add(s.Pos, object, "algorithm %s has no key that can verify it", a)
		}
	}
}

func (v *validator) checkClientCAs() {
	seen := map[string]bool{}
	for _, c := range v.set.ClientCAs {
		object := fmt.Sprintf("client authority %q", c.Name)
		v.name(Pos{}, object, "the name", c.Name)
		if seen[c.Name] {
			v.add(Pos{}, object, "defined twice")
		}
		seen[c.Name] = true
		if len(c.Authorities)+len(c.Certificates) == 0 {
			v.add(Pos{}, object, "no certificates")
		}
		v.certificates(Pos{}, object, c.Authorities)
		v.certificates(Pos{}, object, c.Certificates)
	}
}

// userHash is what a password may be kept as.
var userHash = regexp.MustCompile(`^(\$argon2id\$v=19\$m=\d{1,8},t=\d{1,4},p=\d{1,3}\$[A-Za-z0-9+/]{11,}\$[A-Za-z0-9+/]{22,}|\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}|@sha1:[0-9a-f]{40}|@sha256:[0-9a-f]{64}|@sha512:[0-9a-f]{128})$`)

func (v *validator) checkUsers() {
	seen := map[string]Pos{}
	for _, u := range v.set.Users {
		object := fmt.Sprintf("user %q", u.Name)
		v.name(u.Pos, object, "the name", u.Name)
		if strings.Contains(u.Name, ":") {
			v.add(u.Pos, object, "a name with a colon cannot log in (RFC 7617 §2)")
		}
		if first, twice := seen[u.Name]; twice {
			v.add(u.Pos, object, "defined twice, first in %s", first)
		}
		seen[u.Name] = u.Pos
		if !userHash.MatchString(u.Hash) {
			v.hint(u.Pos, object, "never the password itself: Argon2id, bcrypt, or @sha1:, @sha256:, @sha512: with hex", "the hash is of no known form")
		}
		v.plan(u.Pos, object, SubscriptionPlan, u.Plan)
	}
}

func (v *validator) checkConsumers() {
	keys := map[string]string{}
	for i := range v.set.Applications {
		a := &v.set.Applications[i]
		object := fmt.Sprintf("application %q", a.ID)
		v.name(a.Pos, object, "the id", a.ID)
		v.name(a.Pos, object, "the name", a.Name)
		if first := v.apps[a.ID]; first != nil {
			v.add(a.Pos, object, "defined twice, first in %s", first.Pos)
		}
		v.apps[a.ID] = a
		v.plan(a.Pos, object, ApplicationPlan, a.Plan)
		for _, k := range a.Keys {
			if k.Key == "" {
				v.add(a.Pos, object, "an empty consumer key")
			} else if other, twice := keys[k.Key]; twice {
				v.add(a.Pos, object, "the consumer key %q also belongs to application %q", k.Key, other)
			}
			keys[k.Key] = a.ID
		}
	}
	v.subscriptions()
	v.apiKeys()
}

func (v *validator) subscriptions() {
	type pair struct {
		app string
		api APIID
	}
	seen := map[pair]Pos{}
	for _, s := range v.set.Subscriptions {
		object := fmt.Sprintf("subscription of application %q to %s %s", s.Application, s.API.Name, s.API.Version)
		if v.apps[s.Application] == nil {
			v.add(s.Pos, object, "unknown application %q", s.Application)
		}
		v.apiRef(s.Pos, object, s.API)
		v.plan(s.Pos, object, SubscriptionPlan, s.Plan)
		if s.State > Rejected {
			v.add(s.Pos, object, "unknown state %d", s.State)
		}
		key := pair{s.Application, s.API}
		if first, twice := seen[key]; twice {
			v.add(s.Pos, object, "given twice, first in %s", first)
		}
		seen[key] = s.Pos
		a := v.apis[s.API]
		if a != nil && len(a.Plans) > 0 && s.Plan != "" && !slices.Contains(a.Plans, s.Plan) {
			v.hint(s.Pos, object, "the API allows "+strings.Join(a.Plans, ", "), "the API may not be subscribed under the plan %q", s.Plan)
		}
	}
}

func (v *validator) apiKeys() {
	var before *HashedKey
	for i := range v.set.APIKeys.Keys {
		k := &v.set.APIKeys.Keys[i]
		object := fmt.Sprintf("API key %q", k.Name)
		if before != nil && bytes.Compare(before.Hash[:], k.Hash[:]) >= 0 {
			v.add(Pos{}, object, "given twice, or not in order")
		}
		before = k
		if k.Application != "" && v.apps[k.Application] == nil {
			v.add(Pos{}, object, "unknown application %q", k.Application)
		}
		for _, id := range k.APIs {
			v.apiRef(Pos{}, object, id)
		}
	}
}
