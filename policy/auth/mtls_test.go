package auth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/fault"
	"tidegate/policy/policytest"
	"time"
)

// party is a certificate with its key.
type party struct {
	*x509.Certificate
	key crypto.Signer
}

// issue makes a certificate of by, or its own for nil. edit changes the template.
func issue(t testing.TB, name string, by *party, edit func(*x509.Certificate)) *party {
	t.Helper()
	key := ecKey(p256().Curve)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	if by == nil {
		c.IsCA, c.ExtKeyUsage, c.KeyUsage = true, nil, x509.KeyUsageCertSign
		c.NotBefore, c.NotAfter = noon.Add(-24*time.Hour), noon.Add(24*time.Hour)
	}
	if edit != nil {
		edit(c)
	}
	parent, signer := c, crypto.Signer(key)
	if by != nil {
		parent, signer = by.Certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &party{cert, key}
}

// present is a call over TLS with a chain of client certificates.
func present(c *policytest.Call, chain ...*party) *policytest.Call {
	c.Conn = &tls.ConnectionState{}
	for _, p := range chain {
		c.Conn.PeerCertificates = append(c.Conn.PeerCertificates, p.Certificate)
	}
	return c
}

// forward is a call through a proxy that passes a certificate on.
func forward(c *policytest.Call, trusted bool, header string) *policytest.Call {
	c.Trusted = trusted
	return c.Add("X-WSO2-CLIENT-CERTIFICATE", header)
}

// mutualSet is the set of the tests with an API that wants certificates.
func mutualSet(t testing.TB, m policy.MutualTLS, optional bool, cas ...policy.ClientCA) *policy.Set {
	set := base(t)
	a := &set.APIs[0]
	a.MutualTLS, a.Optional = m, optional
	a.Schemes = append(a.Schemes, policy.Scheme{Kind: policy.Certificate})
	cert := uint32(len(a.Schemes) - 1)
	a.Operations = append(a.Operations,
		policy.Operation{Method: "GET", Template: "/cert", Security: []policy.Alternative{{{Scheme: cert}}}},
		policy.Operation{Method: "GET", Template: "/certorjwt", Security: []policy.Alternative{{{Scheme: 0}}, {{Scheme: cert}}}},
		policy.Operation{Method: "GET", Template: "/certandjwt", Security: []policy.Alternative{{{Scheme: 0}, {Scheme: cert}}}})
	set.ClientCAs = cas
	return set
}

func TestCertificates(t *testing.T) {
	root := issue(t, "plant CA", nil, nil)
	middle := issue(t, "line CA", root, func(c *x509.Certificate) { c.IsCA, c.ExtKeyUsage, c.KeyUsage = true, nil, x509.KeyUsageCertSign })
	good := issue(t, "press-7", root, nil)
	below := issue(t, "press-8", middle, nil)
	fresh := issue(t, "new", root, func(c *x509.Certificate) { c.NotBefore = noon.Add(30 * time.Minute) })
	over := issue(t, "old", root, func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) })
	server := issue(t, "server", root, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	stranger := issue(t, "press-7", issue(t, "plant CA", nil, nil), nil)
	forged := issue(t, "forged", good, nil) // signed by a certificate that is no authority
	pinned := issue(t, "pinned", nil, func(c *x509.Certificate) { c.NotAfter = noon.Add(time.Hour) })
	pinnedOld := issue(t, "pinned old", nil, func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) })
	revokedCert, revokedName := issue(t, "lost", root, nil), issue(t, "gone", root, nil)

	foreign := issue(t, "other CA", nil, nil)
	cas := []policy.ClientCA{
		{Name: "plant", Authorities: [][]byte{root.Raw}},
		{Name: "pins", Certificates: [][]byte{pinned.Raw, pinnedOld.Raw}},
		{Name: "other", Authorities: [][]byte{foreign.Raw}},
	}
	set := mutualSet(t, policy.MutualMandatory, true, cas...)
	set.APIs[0].ClientCAs = []string{"plant", "pins"}
	set.Revoked = revoked(revoke(policy.RevokedKey, revokedCert.Raw), revoke(policy.RevokedUser, []byte("CN=gone")))
	now := policy.Now{Lower: noon, Upper: noon.Add(time.Minute)}
	unsynced := policy.Now{Lower: noon}
	pemText := func(p *party) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Raw}))
	}
	b := base64.StdEncoding.EncodeToString
	keyPEM, err := x509.MarshalPKCS8PrivateKey(good.key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	get := func() *policytest.Call { return newCall("/jwt") }
	g := open(t, set, auth.Options{})
	cached := open(t, set, auth.Options{})
	cached.cache = auth.NewCache(64)
	for _, tc := range []struct {
		name string
		call *policytest.Call
		now  policy.Now
		want *fault.Fault
		who  string
	}{
		{"of the authority", present(get(), good), now, nil, "CN=press-7"},
		{"with an intermediate", present(get(), below, middle), now, nil, "CN=press-8"},
		{"pinned", present(get(), pinned), now, nil, "CN=pinned"},
		{"made after the floor, time unproven", present(get(), fresh), unsynced, nil, "CN=new"},
		{"header, PEM escaped", forward(get(), true, url.PathEscape(pemText(good))), now, nil, "CN=press-7"},
		{"header, base64 of DER", forward(get(), true, b(good.Raw)), now, nil, "CN=press-7"},
		{"header, base64 of DER escaped", forward(get(), true, url.QueryEscape(b(good.Raw))), now, nil, "CN=press-7"},
		{"header, base64 of PEM", forward(get(), true, b([]byte(pemText(good)))), now, nil, "CN=press-7"},
		{"not valid yet", present(get(), fresh), now, fault.InvalidCredentials, ""},
		{"expired", present(get(), over), now, fault.InvalidCredentials, ""},
		{"expired, time unproven", present(get(), over), unsynced, fault.InvalidCredentials, ""},
		{"pinned but expired", present(get(), pinnedOld), now, fault.InvalidCredentials, ""},
		{"for servers", present(get(), server), now, fault.InvalidCredentials, ""},
		{"same names, other authority", present(get(), stranger), now, fault.InvalidCredentials, ""},
		{"intermediate missing", present(get(), issue(t, "press-9", middle, nil)), now, fault.InvalidCredentials, ""},
		{"signed by no authority", present(get(), forged, good), now, fault.InvalidCredentials, ""},
		{"authority that is not the API's", present(get(), issue(t, "x", foreign, nil)), now, fault.InvalidCredentials, ""},
		{"revoked", present(get(), revokedCert), now, fault.InvalidCredentials, ""},
		{"revoked by name", present(get(), revokedName), now, fault.InvalidCredentials, ""},
		{"none", get(), now, fault.MissingCredentials, ""},
		{"none over TLS", present(get()), now, fault.MissingCredentials, ""},
		{"header from anybody", forward(get(), false, b(good.Raw)), now, fault.MissingCredentials, ""},
		{"the proxy's own certificate", func() *policytest.Call { c := present(get(), good); c.Trusted = true; return c }(), now, fault.MissingCredentials, ""},
		{"header, two lines", forward(forward(get(), true, b(good.Raw)), true, b(good.Raw)), now, fault.InvalidCredentials, ""},
		{"header, no base64", forward(get(), true, "!"), now, fault.InvalidCredentials, ""},
		{"header, bad escape", forward(get(), true, "%zz"), now, fault.InvalidCredentials, ""},
		{"header, no certificate", forward(get(), true, b([]byte("hello"))), now, fault.InvalidCredentials, ""},
		{"header, a private key", forward(get(), true, url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyPEM})))), now, fault.InvalidCredentials, ""},
		{"header, too long", forward(get(), true, strings.Repeat("A", 16<<10+4)), now, fault.InvalidCredentials, ""},
		{"header, of a stranger", forward(get(), true, b(stranger.Raw)), now, fault.InvalidCredentials, ""},
	} {
		for i, g := range []*gate{g, cached, cached} {
			g.now = tc.now
			p, err := g.call(t, tc.call)
			check(t, tc.name, p, err, tc.want)
			if err == nil && tc.want == nil && (p.Kind != policy.Certificate || p.Subject != tc.who || len(p.Certificate) == 0 || p.KeyType != policy.Production || p.Cached && i == 0) {
				t.Errorf("%s: got %+v", tc.name, p)
			}
		}
	}
}

func TestCertificatesBesideOtherCredentials(t *testing.T) {
	root := issue(t, "CA", nil, nil)
	good, bad := issue(t, "good", root, nil), issue(t, "bad", issue(t, "CA", nil, nil), nil)
	ca := policy.ClientCA{Name: "ca", Authorities: [][]byte{root.Raw}}
	both := open(t, mutualSet(t, policy.MutualMandatory, false, ca), auth.Options{})
	suffices := open(t, mutualSet(t, policy.MutualMandatory, true, ca), auth.Options{})
	optional := open(t, mutualSet(t, policy.MutualOptional, false, ca), auth.Options{})
	token := "Bearer " + mint(t, "RS256", rsaKey(), nil, claims(nil))
	broken := "Bearer " + mint(t, "RS256", otherRSA(), nil, claims(nil))
	for _, tc := range []struct {
		name, path string
		g          *gate
		cert       *party
		token      string
		want       *fault.Fault
		who        string
	}{
		{"both", "/jwt", both, good, token, nil, "fitter1"},
		{"both, no certificate", "/jwt", both, nil, token, fault.InvalidCredentials, ""},
		{"both, no token", "/jwt", both, good, "", fault.MissingCredentials, ""},
		{"both, nothing", "/jwt", both, nil, "", fault.MissingCredentials, ""},
		{"both, bad certificate", "/jwt", both, bad, token, fault.InvalidCredentials, ""},
		{"both, bad token", "/jwt", both, good, broken, fault.InvalidCredentials, ""},
		{"mandatory on an open operation", "/open", both, good, "", nil, "CN=good"},
		{"mandatory on an open operation, none", "/open", both, nil, "", fault.MissingCredentials, ""},
		{"suffices", "/jwt", suffices, good, "", nil, "CN=good"},
		{"suffices, and decides", "/jwt", suffices, good, broken, nil, "CN=good"},
		{"suffices, but is needed", "/jwt", suffices, nil, token, fault.InvalidCredentials, ""},
		{"suffices, bad is not tried as a token", "/jwt", suffices, bad, token, fault.InvalidCredentials, ""},
		{"optional, a token is still needed", "/jwt", optional, good, "", fault.MissingCredentials, ""},
		{"optional, with a token", "/jwt", optional, good, token, nil, "fitter1"},
		{"optional, token alone", "/jwt", optional, nil, token, nil, "fitter1"},
		{"optional, bad certificate", "/jwt", optional, bad, token, fault.InvalidCredentials, ""},
		{"optional, open operation", "/open", optional, nil, "", nil, ""},
		{"alternative, certificate", "/certorjwt", optional, good, "", nil, "CN=good"},
		{"alternative, certificate first", "/certorjwt", optional, good, broken, nil, "CN=good"},
		{"alternative, token", "/certorjwt", optional, nil, token, nil, "fitter1"},
		{"certificate only, none", "/cert", optional, nil, "", fault.MissingCredentials, ""},
		{"certificate only, a token", "/cert", optional, nil, token, fault.InvalidScheme, ""},
		{"requirement of both", "/certandjwt", optional, good, token, nil, "fitter1"},
		{"requirement of both, no certificate", "/certandjwt", optional, nil, token, fault.MissingCredentials, ""},
	} {
		c := newCall(tc.path)
		if tc.cert != nil {
			present(c, tc.cert)
		}
		if tc.token != "" {
			c.Add("Authorization", tc.token)
		}
		p, err := tc.g.call(t, c)
		check(t, tc.name, p, err, tc.want)
		if err == nil && tc.want == nil {
			if p.Subject != tc.who {
				t.Errorf("%s: got %+v; want %s", tc.name, p, tc.who)
			}
			if tc.cert != nil && string(p.Certificate) != string(tc.cert.Raw) {
				t.Errorf("%s: the certificate is lost", tc.name)
			}
		}
	}
}

func TestNewRefusesCertificatesWithoutAnAuthority(t *testing.T) {
	_, err := auth.New(mutualSet(t, policy.MutualOptional, false), auth.Options{})
	if err == nil || !strings.Contains(err.Error(), "no authority") || !strings.Contains(err.Error(), `"Meters:1.2.0"`) {
		t.Errorf("got %v", err)
	}
	set := mutualSet(t, policy.MutualOptional, false, policy.ClientCA{Name: "ca", Authorities: [][]byte{[]byte("x")}})
	set.APIs[0].ClientCAs = []string{"nobody"}
	_, err = auth.New(set, auth.Options{})
	if err == nil || !strings.Contains(err.Error(), `"nobody"`) || !strings.Contains(err.Error(), `client CA "ca": authority 0`) {
		t.Errorf("got %v", err)
	}
	var e *fault.Error
	if errors.As(err, &e) {
		t.Error("a fault of the set is told to clients")
	}
}

func TestACachedCertificateEndsWithItsAuthority(t *testing.T) {
	root := issue(t, "short CA", nil, func(c *x509.Certificate) { c.NotAfter = noon.Add(10 * time.Minute) })
	good := issue(t, "press-7", root, nil)
	g := open(t, mutualSet(t, policy.MutualMandatory, true, policy.ClientCA{Name: "ca", Authorities: [][]byte{root.Raw}}), auth.Options{})
	g.cache = auth.NewCache(16)
	for after, want := range map[time.Duration]*fault.Fault{0: nil, 20 * time.Minute: fault.InvalidCredentials} {
		for range 2 {
			g.now = policy.Now{Lower: noon, Upper: noon}
			p, err := g.call(t, present(newCall("/jwt"), good))
			check(t, "before", p, err, nil)
			g.now = policy.Now{Lower: noon.Add(after), Upper: noon.Add(after)}
			p, err = g.call(t, present(newCall("/jwt"), good))
			check(t, after.String(), p, err, want)
		}
	}
}
