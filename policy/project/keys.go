package project

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1" // names certificates (RFC 7515 §4.1.7), proves nothing
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"path"
	"strings"

	"tidegate/policy"
	"tidegate/policy/openapi"
	"tidegate/policy/source"
)

// jwks reads a JWK Set (RFC 7517 §5): a mapping in place, or the name of a file.
func (l *loader) jwks(o *source.Object) []policy.Key {
	v := o.Value("jwks")
	if v.IsScalar() {
		b := l.bytes(v.Text, o, "jwks")
		if b == nil {
			return nil
		}
		if v = source.Parse(path.Clean(v.Text), b, l.report); v == nil {
			return nil
		}
	}
	list := v.Value("keys")
	if list == nil || list.Kind != source.List {
		o.Errorf("jwks", "not a JWK Set: no list of keys")
		return nil
	}
	var out []policy.Key
	bad := false
	for i, n := range list.List {
		k, err := jwk(n)
		switch {
		case errors.Is(err, errNotForSignatures):
			continue
		case err != nil:
			l.report.Errorf(n.Pos, o.Name, "jwks: key %d: %v", i+1, err)
			bad = true
			continue
		}
		out = append(out, k)
	}
	if len(out) == 0 && !bad {
		o.Errorf("jwks", "none of the keys is for signatures")
	}
	return out
}

var errNotForSignatures = errors.New("not for signatures")

// jwk turns a JWK (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2) into PKIX.
func jwk(n *source.Node) (policy.Key, error) {
	text := func(name string) string {
		if v := n.Value(name); v.IsScalar() {
			return v.Text
		}
		return ""
	}
	if use := text("use"); use != "" && use != "sig" {
		return policy.Key{}, errNotForSignatures
	}
	if n.Value("d") != nil || n.Value("k") != nil {
		return policy.Key{}, errors.New("a private or secret key: it must not be in a project")
	}
	number := func(name string) ([]byte, error) {
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text(name), "="))
		if err != nil || len(b) == 0 {
			return nil, fmt.Errorf("%s is missing or not base64url", name)
		}
		return b, nil
	}
	var pub any
	switch kty := text("kty"); kty {
	case "RSA":
		m, err1 := number("n")
		e, err2 := number("e")
		if err := errors.Join(err1, err2); err != nil {
			return policy.Key{}, err
		}
		exponent := new(big.Int).SetBytes(e)
		if !exponent.IsInt64() || exponent.Int64() > 1<<31-1 || exponent.Int64() < 3 || exponent.Bit(0) == 0 {
			return policy.Key{}, errors.New("the exponent e is not accepted")
		}
		pub = &rsa.PublicKey{N: new(big.Int).SetBytes(m), E: int(exponent.Int64())}
	case "EC":
		k, err := ecKey(text("crv"), number)
		if err != nil {
			return policy.Key{}, err
		}
		pub = k
	case "OKP":
		x, err := number("x")
		if err != nil {
			return policy.Key{}, err
		}
		if text("crv") != "Ed25519" || len(x) != ed25519.PublicKeySize {
			return policy.Key{}, fmt.Errorf("curve %q of %d bytes: want Ed25519", text("crv"), len(x))
		}
		pub = ed25519.PublicKey(x)
	default:
		return policy.Key{}, fmt.Errorf("kty %q: want RSA, EC or OKP", kty)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return policy.Key{}, err
	}
	return policy.Key{ID: text("kid"), Thumbprint: text("x5t"), Algorithm: text("alg"), PKIX: der}, nil
}

func ecKey(crv string, number func(string) ([]byte, error)) (*ecdsa.PublicKey, error) {
	curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[crv]
	if curve == nil {
		return nil, fmt.Errorf("curve %q: want P-256, P-384 or P-521", crv)
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

// algorithmsOf returns what the keys of an issuer can verify, in the order of first mention.
func algorithmsOf(keys []policy.Key) []string {
	var out []string
	seen := map[string]bool{}
	add := func(a string) {
		if !seen[a] {
			seen[a] = true
			out = append(out, a)
		}
	}
	for _, k := range keys {
		if k.Algorithm != "" {
			add(k.Algorithm)
			continue
		}
		pub, err := x509.ParsePKIXPublicKey(k.PKIX)
		if err != nil {
			continue
		}
		for _, a := range policy.Algorithms(pub) {
			add(a)
		}
	}
	return out
}

// certificateKey reads the key of one certificate, in place or in a file.
func (l *loader) certificateKey(o *source.Object) []policy.Key {
	certs := l.certificates(o, "certificate")
	if len(certs) == 0 {
		return nil
	}
	c, err := x509.ParseCertificate(certs[0])
	if err != nil {
		return nil // told by certificates
	}
	return []policy.Key{{Thumbprint: thumbprint(certs[0]), PKIX: c.RawSubjectPublicKeyInfo}}
}

// thumbprint returns x5t as WSO2 writes it: the base64url of the SHA-1 in hex.
func thumbprint(der []byte) string {
	sum := sha1.Sum(der)
	return base64.RawURLEncoding.EncodeToString([]byte(hex.EncodeToString(sum[:])))
}

// certificates reads PEM certificates: in place, or from one or several files.
func (l *loader) certificates(o *source.Object, key string) [][]byte {
	var out [][]byte
	for _, n := range o.Scalars(key) {
		text := []byte(n.Text)
		if !strings.Contains(n.Text, "-----BEGIN") {
			if text = l.bytes(n.Text, o, key); text == nil {
				continue
			}
		}
		found := false
		for {
			var block *pem.Block
			if block, text = pem.Decode(text); block == nil {
				break
			}
			if strings.Contains(block.Type, "PRIVATE KEY") {
				l.report.Add(Finding{Pos: n.Pos, Severity: Error, Object: o.Name, Security: true,
					Message: key + ": a private key must not be here", Hint: "put it into secrets.yaml"})
				continue
			}
			if block.Type != "CERTIFICATE" {
				continue
			}
			found = true
			if _, err := x509.ParseCertificate(block.Bytes); err != nil {
				l.report.Errorf(n.Pos, o.Name, "%s: certificate %d does not parse: %v", key, len(out)+1, err)
				continue
			}
			out = append(out, block.Bytes)
		}
		if !found {
			l.report.Errorf(n.Pos, o.Name, "%s: no certificate in PEM form", key)
		}
	}
	return out
}

// profile reads one entry of backend_tls.
func (l *loader) profile(e source.NamedObject) {
	o := e.Object
	o.Name = fmt.Sprintf("TLS profile %q", e.Name)
	t := policy.TLS{
		Name:       e.Name,
		Pos:        e.Pos,
		CAs:        l.certificates(o, "ca"),
		ServerName: o.Text("server_name"),
		AnyName:    !o.Bool(true, "verify_hostname"),
		ClientCert: l.certificates(o, "certificate"),
	}
	if t.AnyName {
		l.report.Add(Finding{Pos: o.Pos("verify_hostname"), Severity: Warning, Object: o.Name, Security: true,
			Message: "the host name of the backend is not verified: any certificate of the authorities will do"})
	}
	switch o.Word("min_version", "1.2", "1.3") {
	case "1.3":
		t.MinVersion = tls.VersionTLS13
	}
	for _, p := range o.Scalars("pins") {
		b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(p.Text, "sha256/"))
		if err != nil || len(b) != 32 {
			l.report.Errorf(p.Pos, o.Name, "pins: %q is not the base64 of a SHA-256", p.Text)
			continue
		}
		t.Pins = append(t.Pins, b)
	}
	if len(t.ClientCert) > 0 {
		t.ClientKey = policy.Secret(openapi.SecretPath("tls", e.Name, "key"))
	}
	o.Close()
	l.set.TLS = append(l.set.TLS, t)
}
