package appliance_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
	"time"
)

// authority issues client certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key := newKey(t)
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{c, key}
}

// issue makes a certificate for clients that ends at to.
func (a *authority) issue(t *testing.T, name string, to time.Time, usage x509.ExtKeyUsage) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: to.Add(-48 * time.Hour), NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// mutualDevice is a device with an API per authority and mode, and a backend that tells
// the certificate it was told.
func mutualDevice(t *testing.T, mode string, plant, ship *authority) *devicetest.Device {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Join(r.Header.Values("X-Wso2-Client-Certificate"), "|"))
	}))
	t.Cleanup(s.Close)
	d := devicetest.Start(t, devicetest.Options{Config: func(c *config.Config) {
		c.Listen.HTTPS = "127.0.0.1:0"
		c.TLS.ClientAuth = mode
	}})
	set := d.Fleet.API(t, s.URL, "/things")
	base := set.APIs[0]
	set.APIs = nil
	for _, a := range []policy.API{
		{Name: "plant", MutualTLS: policy.MutualMandatory, Optional: true, ClientCAs: []string{"plant"}},
		{Name: "ship", MutualTLS: policy.MutualMandatory, Optional: true, ClientCAs: []string{"ship"}},
		{Name: "both", MutualTLS: policy.MutualMandatory, ClientCAs: []string{"plant"}},
		{Name: "maybe", MutualTLS: policy.MutualOptional, ClientCAs: []string{"plant"}},
	} {
		a.Version, a.BasePath, a.Production, a.Schemes = "1.0", "/"+a.Name, base.Production, base.Schemes
		a.Operations = base.Operations
		set.APIs = append(set.APIs, a)
	}
	set.ClientCAs = []policy.ClientCA{{Name: "plant", Authorities: [][]byte{plant.cert.Raw}}, {Name: "ship", Authorities: [][]byte{ship.cert.Raw}}}
	d.Apply(t, set)
	return d
}

// over calls the TLS listener with a client certificate, by HTTP/1.1 or HTTP/2.
func over(t *testing.T, d *devicetest.Device, h2 bool, cert *tls.Certificate, path string, header ...string) (answer, error) {
	t.Helper()
	c := &tls.Config{InsecureSkipVerify: true}
	if cert != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	var protocols http.Protocols
	protocols.SetHTTP1(!h2)
	protocols.SetHTTP2(h2)
	tr := &http.Transport{TLSClientConfig: c, Protocols: &protocols}
	defer tr.CloseIdleConnections()
	r, err := http.NewRequest("GET", "https://"+d.Addr("https")+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	if want := map[bool]int{false: 1, true: 2}[h2]; resp.ProtoMajor != want {
		t.Fatalf("answered by HTTP/%d", resp.ProtoMajor)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}, nil
}

func told(c tls.Certificate) string {
	return url.QueryEscape(base64.StdEncoding.EncodeToString(c.Certificate[0]))
}

func TestClientCertificates(t *testing.T) {
	plant, ship := newAuthority(t, "plant CA"), newAuthority(t, "ship CA")
	d := mutualDevice(t, "optional", plant, ship)
	tomorrow := time.Now().Add(24 * time.Hour)
	pump := plant.issue(t, "pump 7", tomorrow, x509.ExtKeyUsageClientAuth)
	crane := ship.issue(t, "crane", tomorrow, x509.ExtKeyUsageClientAuth)
	late := plant.issue(t, "late", time.Now().Add(-400*24*time.Hour), x509.ExtKeyUsageClientAuth)
	server := plant.issue(t, "a server", tomorrow, x509.ExtKeyUsageServerAuth)
	forged := newAuthority(t, "plant CA")
	forgery := forged.issue(t, "pump 7", tomorrow, x509.ExtKeyUsageClientAuth)
	token := "Bearer " + d.Fleet.Token(t, nil)
	refused := `{"fault":{"code":900901, "message":"Invalid Credentials", "description":"Invalid Credentials. Make sure you have given the correct access token"}}`
	missing := `{"fault":{"code":900902, "message":"Missing Credentials", "description":"Missing Credentials. Make sure your API request provides required credentials"}}`
	for _, h2 := range []bool{false, true} {
		for name, tc := range map[string]struct {
			cert   *tls.Certificate
			path   string
			header []string
			status int
			body   string
		}{
			"right authority":                   {&pump, "/plant/things", nil, 200, told(pump)},
			"the other API's":                   {&pump, "/ship/things", nil, 401, refused},
			"right authority of the other":      {&crane, "/ship/things", nil, 200, told(crane)},
			"none":                              {nil, "/plant/things", nil, 401, missing},
			"expired":                           {&late, "/plant/things", nil, 401, refused},
			"for servers":                       {&server, "/plant/things", nil, 401, refused},
			"same name, another key":            {&forgery, "/plant/things", nil, 401, refused},
			"header of a stranger":              {nil, "/plant/things", []string{"X-WSO2-CLIENT-CERTIFICATE", told(pump)}, 401, missing},
			"header beside a certificate":       {&pump, "/plant/things", []string{"X-WSO2-CLIENT-CERTIFICATE", told(crane)}, 200, told(pump)},
			"both needed, certificate only":     {&pump, "/both/things", nil, 401, missing},
			"both needed, token only":           {nil, "/both/things", []string{"Authorization", token}, 401, refused},
			"both needed, both there":           {&pump, "/both/things", []string{"Authorization", token}, 200, told(pump)},
			"both needed, wrong certificate":    {&crane, "/both/things", []string{"Authorization", token}, 401, refused},
			"optional, none":                    {nil, "/maybe/things", []string{"Authorization", token}, 200, ""},
			"optional, wrong":                   {&crane, "/maybe/things", []string{"Authorization", token}, 401, refused},
			"optional, header is not passed on": {nil, "/maybe/things", []string{"Authorization", token, "X-WSO2-CLIENT-CERTIFICATE", told(pump)}, 200, ""},
			"optional, lower case and doubled":  {nil, "/maybe/things", []string{"Authorization", token, "x-wso2-client-certificate", "a", "X-Wso2-Client-Certificate", "b"}, 200, ""},
		} {
			a, err := over(t, d, h2, tc.cert, tc.path, tc.header...)
			if err != nil {
				t.Errorf("h2 %v, %s: %v", h2, name, err)
				continue
			}
			if a.status != tc.status || a.body != tc.body {
				t.Errorf("h2 %v, %s: got %d %s\nwant %d %s", h2, name, a.status, a.body, tc.status, tc.body)
			}
		}
	}
	if a := call(t, "GET", d.URL("/plant/things")); a.status != 401 {
		t.Errorf("without TLS: got %d", a.status)
	}
}

func TestListenerThatRequiresACertificate(t *testing.T) {
	plant := newAuthority(t, "plant CA")
	d := mutualDevice(t, "require", plant, newAuthority(t, "ship CA"))
	pump := plant.issue(t, "pump 7", time.Now().Add(24*time.Hour), x509.ExtKeyUsageClientAuth)
	for _, h2 := range []bool{false, true} {
		if a, err := over(t, d, h2, nil, "/maybe/things"); err == nil {
			t.Errorf("h2 %v: no certificate: got %d, want no connection", h2, a.status)
		}
		if a, err := over(t, d, h2, &pump, "/plant/things"); err != nil || a.status != 200 {
			t.Errorf("h2 %v: got %d, %v", h2, a.status, err)
		}
	}
}

func TestCertificateThatATrustedProxyTells(t *testing.T) {
	plant, ship := newAuthority(t, "plant CA"), newAuthority(t, "ship CA")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Wso2-Client-Certificate"))
	}))
	t.Cleanup(s.Close)
	d := devicetest.Start(t, devicetest.Options{Config: func(c *config.Config) {
		got, err := config.Load(config.Sources{Flags: []config.Flag{{Key: "listen.trusted_proxies", Value: "127.0.0.1"}}})
		if err != nil {
			t.Fatal(err)
		}
		data, listen, admin := c.Data, c.Listen, c.Admin
		*c = *got
		c.Data, c.Admin = data, admin
		c.Listen.HTTP, c.Listen.HTTPS = listen.HTTP, ""
	}})
	set := d.Fleet.API(t, s.URL, "/things")
	set.APIs[0].MutualTLS, set.APIs[0].Optional, set.APIs[0].ClientCAs = policy.MutualMandatory, true, []string{"plant"}
	set.ClientCAs = []policy.ClientCA{{Name: "plant", Authorities: [][]byte{plant.cert.Raw}}}
	d.Apply(t, set)
	tomorrow := time.Now().Add(24 * time.Hour)
	pump, crane := told(plant.issue(t, "pump", tomorrow, x509.ExtKeyUsageClientAuth)), told(ship.issue(t, "crane", tomorrow, x509.ExtKeyUsageClientAuth))
	for name, tc := range map[string]struct {
		header string
		status int
	}{"good": {pump, 200}, "of another authority": {crane, 401}, "not base64": {"%%%", 401}, "absent": {"", 401}, "cut off": {pump[:len(pump)/2], 401}} {
		var h []string
		if tc.header != "" {
			h = []string{"X-WSO2-CLIENT-CERTIFICATE", tc.header}
		}
		a := call(t, "GET", d.URL("/echo/1.0/things"), h...)
		if a.status != tc.status || tc.status == 200 && a.body != tc.header {
			t.Errorf("%s: got %d %s, want %d", name, a.status, a.body, tc.status)
		}
	}
}
