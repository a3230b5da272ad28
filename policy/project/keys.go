package project

import (
	"crypto/sha1" // names certificates (RFC 7515 §4.1.7), proves nothing
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"path"
	"strings"
	"tidegate/policy"
	"tidegate/policy/jwk"
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
		k, err := jwk.Convert(func(name string) (string, bool) {
			v := n.Value(name)
			if v.Absent() {
				return "", false
			}
			if !v.IsScalar() {
				return "", true
			}
			return v.Text, true
		})
		switch {
		case errors.Is(err, jwk.ErrOtherUse):
			continue
		case errors.Is(err, jwk.ErrPrivate):
			err = errors.New("a private or secret key: it must not be in a project")
			fallthrough
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
				l.report.Add(Finding{
					Pos: n.Pos, Severity: Error, Object: o.Name, Security: true,
					Message: key + ": a private key must not be here", Hint: "put it into secrets.yaml",
				})
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
		l.report.Add(Finding{
			Pos: o.Pos("verify_hostname"), Severity: Warning, Object: o.Name, Security: true,
			Message: "the host name of the backend is not verified: any certificate of the authorities will do",
		})
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
