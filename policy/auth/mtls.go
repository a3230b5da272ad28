package auth

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/maphash"
	"net/url"
	"slices"
	"strings"
	"tidegate/policy"
	"tidegate/policy/fault"
	"time"
)

// maxCertificate bounds the header form of a certificate.
const maxCertificate = 16 << 10

var (
	errNoCertificate = errors.New("no client certificate")
	errCertificate   = errors.New("the client certificate is not one of those accepted")
	errCertHeader    = errors.New("the client certificate in the header cannot be read")
)

// authorities are what certificates of one API are checked against.
type authorities struct {
	roots *x509.CertPool // nil: none
	exact [][]byte       // DER; these and no others
}

func (a *authorities) empty() bool { return a.roots == nil && len(a.exact) == 0 }

// namedAuthorities is a compiled policy.ClientCA.
type namedAuthorities struct {
	name  string
	roots []*x509.Certificate
	exact [][]byte
}

func compileAuthorities(list []policy.ClientCA) ([]namedAuthorities, error) {
	out := make([]namedAuthorities, 0, len(list))
	var errs []error
	for i := range list {
		n := namedAuthorities{name: list[i].Name}
		for k, der := range list[i].Authorities {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				errs = append(errs, fmt.Errorf("client CA %q: authority %d: %w", n.name, k, err))
				continue
			}
			n.roots = append(n.roots, c)
		}
		for k, der := range list[i].Certificates {
			if _, err := x509.ParseCertificate(der); err != nil {
				errs = append(errs, fmt.Errorf("client CA %q: certificate %d: %w", n.name, k, err))
				continue
			}
			n.exact = append(n.exact, der)
		}
		out = append(out, n)
	}
	return out, errors.Join(errs...)
}

// choose returns the authorities of an API: those named, or all.
func choose(all []namedAuthorities, names []string) (authorities, error) {
	var a authorities
	var errs []error
	for _, n := range names {
		if !slices.ContainsFunc(all, func(c namedAuthorities) bool { return c.name == n }) {
			errs = append(errs, fmt.Errorf("client CA %q is not defined", n))
		}
	}
	for _, c := range all {
		if len(names) > 0 && !slices.Contains(names, c.name) {
			continue
		}
		for _, r := range c.roots {
			if a.roots == nil {
				a.roots = x509.NewCertPool()
			}
			a.roots.AddCert(r)
		}
		a.exact = append(a.exact, c.exact...)
	}
	return a, errors.Join(errs...)
}

// certificate judges the client certificate of a call: the one in the header of a trusted
// proxy, else the one of the connection. It returns nil without one, if that is allowed. A trusted
// proxy's own certificate says nothing about the client.
func (t *trial) certificate() (*policy.Principal, *fault.Error) {
	var v *Verified
	var err error
	if t.call.TrustedPeer() {
		h := t.call.Header(CertificateHeader)
		if h == "" {
			return t.noCertificate()
		}
		if t.g.another(t.call, CertificateHeader) {
			return nil, t.badCertificate(errTwice)
		}
		key := t.certificateKey(maphash.String(t.g.seed, h[max(0, len(h)-hashed):]), 1)
		if v = t.cached(key, h); v == nil {
			if v, err = t.headerCertificate(h); err != nil {
				return nil, t.badCertificate(err)
			}
			return t.remember(key, v)
		}
	} else {
		state := t.call.TLS()
		if state == nil || len(state.PeerCertificates) == 0 {
			return t.noCertificate()
		}
		leaf := state.PeerCertificates[0]
		key := t.certificateKey(maphash.Bytes(t.g.seed, leaf.Raw[max(0, len(leaf.Raw)-hashed):]), 0)
		if t.cache != nil {
			if have, ok := t.cache.Get(key); ok && have.guard == t.g && have.exact == string(leaf.Raw) {
				v = have
			}
		}
		if v == nil {
			if v, err = t.checkCertificate(state.PeerCertificates, string(leaf.Raw)); err != nil {
				return nil, t.badCertificate(err)
			}
			return t.remember(key, v)
		}
	}
	if err := v.times.check(t.now, fault.InvalidCredentials); err != nil {
		return nil, t.badCertificate(err.Err)
	}
	if !v.stands(t.now) {
		return nil, t.badCertificate(errRevoked)
	}
	return v.fixed, nil
}

// remember judges a certificate whose signatures were just checked, and keeps it.
func (t *trial) remember(key [32]byte, v *Verified) (*policy.Principal, *fault.Error) {
	if err := v.times.check(t.now, fault.InvalidCredentials); err != nil {
		return nil, t.badCertificate(err.Err)
	}
	if !t.g.clear(v.idents, t.now) {
		return nil, t.badCertificate(errRevoked)
	}
	if t.cache != nil {
		t.cache.Put(key, v)
	}
	p := *v.fixed
	p.Cached = false
	return &p, nil
}

// certificateKey is a cache key: certificates are judged per API.
func (t *trial) certificateKey(hash uint64, form byte) (key [32]byte) {
	binary.LittleEndian.PutUint64(key[:8], hash)
	key[8], key[9] = byte(tagCertificate), form
	binary.LittleEndian.PutUint32(key[12:16], uint32(t.m.APIIndex))
	return key
}

func (t *trial) noCertificate() (*policy.Principal, *fault.Error) {
	if t.api.mutual != policy.MutualMandatory {
		return nil, nil
	}
	if !t.offer.any() && !t.offer.elsewhere(t.g, t.call, t.api, t.op) {
		return nil, &fault.Error{Fault: fault.MissingCredentials, Err: errNoCertificate, Challenge: t.certificateChallenge()}
	}
	return nil, t.badCertificate(errNoCertificate)
}

func (t *trial) badCertificate(reason error) *fault.Error {
	return &fault.Error{Fault: fault.InvalidCredentials, Err: reason, Challenge: t.certificateChallenge()}
}

func (t *trial) certificateChallenge() string {
	if t.op.missing != "" {
		return t.op.missing
	}
	return challengeFor(policy.Certificate, nil, 0)
}

// headerCertificate reads and checks the header form.
func (t *trial) headerCertificate(h string) (*Verified, error) {
	c, err := parseCertificateHeader(h)
	if err != nil {
		return nil, err
	}
	return t.checkCertificate([]*x509.Certificate{c}, strings.Clone(h))
}

// parseCertificateHeader reads PEM, or the base64 of DER or of PEM, all percent-encoded
// or not.
func parseCertificateHeader(h string) (*x509.Certificate, error) {
	if len(h) > maxCertificate {
		return nil, errCertHeader
	}
	s, err := url.PathUnescape(h) // "+" is a digit of base64, no blank
	if err != nil {
		return nil, errCertHeader
	}
	der := []byte(s)
	if !strings.Contains(s, "-----BEGIN") {
		if der, err = base64.StdEncoding.DecodeString(strings.TrimSpace(s)); err != nil {
			return nil, errCertHeader
		}
	}
	if block, _ := pem.Decode(der); block != nil {
		if block.Type != "CERTIFICATE" {
			return nil, errCertHeader
		}
		der = block.Bytes
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errCertHeader
	}
	return c, nil
}

// checkCertificate checks a chain, its leaf first, against the API's authorities. The
// time is judged by the caller, with both bounds.
func (t *trial) checkCertificate(chain []*x509.Certificate, exact string) (*Verified, error) {
	leaf := chain[0]
	from, to := leaf.NotBefore, leaf.NotAfter
	if !slices.ContainsFunc(t.api.cas.exact, func(der []byte) bool { return string(der) == string(leaf.Raw) }) {
		if t.api.cas.roots == nil {
			return nil, errCertificate
		}
		between := x509.NewCertPool()
		at := t.now.Lower
		for i, c := range chain {
			// The lower bound may lie before a certificate that was made lately.
			if c.NotBefore.After(at) {
				at = c.NotBefore
			}
			if i > 0 {
				between.AddCert(c)
			}
		}
		chains, err := leaf.Verify(x509.VerifyOptions{
			Roots: t.api.cas.roots, Intermediates: between, CurrentTime: at,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errCertificate, err)
		}
		for _, c := range chains[0] {
			from, to = later(from, c.NotBefore), earlier(to, c.NotAfter)
		}
	}
	p := &policy.Principal{
		Kind: policy.Certificate, Subject: leaf.Subject.String(), Tenant: "carbon.super",
		SubscriptionPlan: policy.Unauthenticated, Certificate: leaf.Raw, Cached: true,
	}
	v := &Verified{
		guard: t.g, exact: exact, size: len(exact) + 2*len(leaf.Raw) + 512, fixed: p,
		times:  times{from: from.Unix(), to: to.Unix() + 1, bounded: true},
		idents: []ident{identOfBytes(policy.RevokedKey, leaf.Raw)},
	}
	v.idents = appendUser(v.idents, p)
	return v, nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
