// Package jwk turns JSON Web Keys (RFC 7517, RFC 7518 §6, RFC 8037 §2) into keys of a
// policy: public keys that verify signatures, in PKIX form. What is private, too small
// or not on its curve is refused; what is for another use is told apart, so that a set may hold it.
package jwk

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"tidegate/policy"
	"unicode/utf8"
)

// Bounds of a set.
const (
	MaxBytes = 64 << 10 // of a set
	MaxKeys  = 64       // that are for signatures
	maxText  = 256      // bytes of kid, alg and the like
	maxRSA   = 8192     // bits: above, one signature takes too long to check
)

var (
	// ErrOtherUse is a key that is in order and not for verifying signatures that this program
	// can verify: a set may hold it, and it is passed over (RFC 7517 §5).
	ErrOtherUse = errors.New("not for signatures")
	// ErrPrivate is a private or secret key. Who published it has given it away.
	ErrPrivate = errors.New("a private or secret key: it must not be published")
)

// private are the members of private and of symmetric keys (RFC 7518 §6.2.2, §6.3.2, §6.4).
var private = [...]string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

// signatures are the algorithms a key may name.
var signatures = [...]string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// Signatures returns the algorithms that a key may name.
func Signatures() []string { return slices.Clone(signatures[:]) }

// A Member returns a member of a key as text; ok is false when it is absent, and text is ""
// when it is not a text.
type Member func(name string) (text string, ok bool)

// Convert returns the key with these members.
func Convert(m Member) (policy.Key, error) {
	for _, name := range private {
		if _, ok := m(name); ok {
			return policy.Key{}, ErrPrivate
		}
	}
	text := func(name string) string { s, _ := m(name); return s }
	if use, ok := m("use"); ok && use != "sig" {
		return policy.Key{}, ErrOtherUse
	}
	for _, name := range [...]string{"kid", "alg", "x5t"} {
		if s, ok := m(name); ok && (s == "" || len(s) > maxText) {
			return policy.Key{}, fmt.Errorf("%s is no text of 1 to %d bytes", name, maxText)
		}
	}
	public, err := publicKey(text)
	if err != nil {
		return policy.Key{}, err
	}
	can := policy.Algorithms(public)
	if can == nil {
		return policy.Key{}, errors.New("the key is of a size that is not accepted")
	}
	if alg := text("alg"); alg != "" && !slices.Contains(can, alg) {
		if slices.Contains(signatures[:], alg) {
			return policy.Key{}, fmt.Errorf("the key cannot verify %s", alg)
		}
		return policy.Key{}, ErrOtherUse // RSA-OAEP and the like
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return policy.Key{}, err
	}
	return policy.Key{ID: text("kid"), Thumbprint: text("x5t"), Algorithm: text("alg"), PKIX: der}, nil
}

func publicKey(text func(string) string) (any, error) {
	number := func(name string) ([]byte, error) {
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text(name), "="))
		if err != nil || len(b) == 0 || len(b) > maxRSA/8+1 {
			return nil, fmt.Errorf("%s is missing, not base64url, or too long", name)
		}
		return b, nil
	}
	switch kty := text("kty"); kty {
	case "RSA":
		m, err1 := number("n")
		e, err2 := number("e")
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		n, exponent := new(big.Int).SetBytes(m), new(big.Int).SetBytes(e)
		if !exponent.IsInt64() || exponent.Int64() > 1<<31-1 || exponent.Int64() < 3 || exponent.Bit(0) == 0 {
			return nil, errors.New("the exponent e is not accepted")
		}
		if bits := n.BitLen(); bits < 2048 || bits > maxRSA || n.Bit(0) == 0 {
			return nil, fmt.Errorf("an RSA key of %d bits: want an odd modulus of 2048 to %d", bits, maxRSA)
		}
		return &rsa.PublicKey{N: n, E: int(exponent.Int64())}, nil
	case "EC":
		return ecKey(text("crv"), number)
	case "OKP":
		if text("crv") != "Ed25519" {
			return nil, ErrOtherUse
		}
		x, err := number("x")
		if err != nil {
			return nil, err
		}
		if len(x) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("an Ed25519 key of %d bytes", len(x))
		}
		return ed25519.PublicKey(x), nil
	case "":
		return nil, errors.New("kty is missing")
	default:
		return nil, ErrOtherUse
	}
}

func ecKey(crv string, number func(string) ([]byte, error)) (*ecdsa.PublicKey, error) {
	curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[crv]
	if curve == nil {
		return nil, ErrOtherUse
	}
	x, err1 := number("x")
	y, err2 := number("y")
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	size := (curve.Params().BitSize + 7) / 8
	if len(x) > size || len(y) > size {
		return nil, errors.New("a coordinate is too long")
	}
	point := make([]byte, 1+2*size) // uncompressed, SEC 1 §2.3.3
	point[0] = 4
	copy(point[1+size-len(x):], x)
	copy(point[1+2*size-len(y):], y)
	k, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, errors.New("not a point of the curve")
	}
	return k, nil
}

// Parse reads a JWK Set (RFC 7517 §5) of at most [MaxBytes] from a party that is not
// trusted with more. Keys for other uses are passed over; one key that is private or
// wrong spoils the set, as do two members of one name. A set without a key for signatures is an
// error.
func Parse(b []byte) ([]policy.Key, error) {
	if len(b) > MaxBytes {
		return nil, fmt.Errorf("JWK Set of %d bytes: at most %d are read", len(b), MaxBytes)
	}
	if !utf8.Valid(b) || !json.Valid(b) {
		return nil, errors.New("JWK Set is not JSON in UTF-8")
	}
	top, err := members(b)
	if err != nil {
		return nil, fmt.Errorf("JWK Set: %w", err)
	}
	var list []json.RawMessage
	if err := json.Unmarshal(top["keys"], &list); err != nil || list == nil {
		return nil, errors.New("JWK Set: no list of keys")
	}
	var out []policy.Key
	for i, raw := range list {
		k, err := parseKey(raw)
		switch {
		case errors.Is(err, ErrOtherUse):
			continue
		case err != nil:
			return nil, fmt.Errorf("JWK Set: key %d: %w", i+1, err)
		case len(out) == MaxKeys:
			return nil, fmt.Errorf("JWK Set: more than %d keys for signatures", MaxKeys)
		}
		out = append(out, k)
	}
	if len(out) == 0 {
		return nil, errors.New("JWK Set: none of the keys is for signatures")
	}
	return out, nil
}

func parseKey(raw json.RawMessage) (policy.Key, error) {
	m, err := members(raw)
	if err != nil {
		return policy.Key{}, err
	}
	if ops, ok := m["key_ops"]; ok {
		var list []string
		if err := json.Unmarshal(ops, &list); err != nil {
			return policy.Key{}, errors.New("key_ops is not a list of texts")
		}
		if !slices.Contains(list, "verify") {
			return policy.Key{}, ErrOtherUse
		}
	}
	return Convert(func(name string) (string, bool) {
		v, ok := m[name]
		if !ok || string(v) == "null" {
			return "", false
		}
		var s string
		if json.Unmarshal(v, &s) != nil {
			return "", true
		}
		return s, true
	})
}

// members splits a JSON object.
func members(b []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(strings.NewReader(string(b)))
	t, err := d.Token()
	if err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	out := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string)
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("%q appears twice", name)
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, err
		}
		out[name] = v
	}
	return out, nil
}

// Algorithms returns what k can verify: its own algorithm, or all of its kind; nil for a key
// that does not parse.
func Algorithms(k policy.Key) []string {
	if k.Algorithm != "" {
		return []string{k.Algorithm}
	}
	public, err := x509.ParsePKIXPublicKey(k.PKIX)
	if err != nil {
		return nil
	}
	return policy.Algorithms(public)
}
