package upstream

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"time"
)

// names is a DNS of SRV records.
type names struct {
	mu     sync.Mutex
	list   []*net.SRV
	err    error
	wait   time.Duration
	looked int
}

func (n *names) lookup(ctx context.Context, name string) ([]*net.SRV, error) {
	n.mu.Lock()
	list, err, wait := n.list, n.err, n.wait
	n.looked++
	n.mu.Unlock()
	if name != "_api._tcp.quay.example" {
		return nil, fmt.Errorf("no such name %q", name)
	}
	if !sleep(ctx, wait) {
		return nil, ctx.Err()
	}
	return list, err
}

func (n *names) looks() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.looked
}

func (n *names) set(err error, list ...*net.SRV) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list, n.err = list, err
}

func srv(target string, priority, weight uint16) *net.SRV {
	return &net.SRV{Target: target + ".", Port: 80, Priority: priority, Weight: weight}
}

// turns returns the targets of n calls, sorted.
func turns(p *Pool, n int) string {
	var out []string
	for range n {
		o := get(p)
		if o.err != nil {
			out = append(out, "none")
		} else {
			out = append(out, o.body)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestTargetsAreFoundBySRV(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		for _, h := range []string{"a", "b", "c"} {
			w.add(h+":80", func(rw http.ResponseWriter, r *http.Request) {
				if r.Host != "quay.example" || r.URL.Path != "/v1/x" {
					t.Errorf("%s was asked for %s%s", h, r.Host, r.URL.Path)
				}
				_, _ = io.WriteString(rw, h)
			})
		}
		n := &names{wait: time.Second}
		n.set(nil, srv("a", 10, 3), srv("b", 10, 1), srv("c", 20, 1))
		spec := policy.Endpoints{}
		p, err := w.try(spec, Options{LookupSRV: n.lookup}, nil, "srv+http://_api._tcp.quay.example/v1")
		if err != nil {
			t.Fatal(err)
		}
		w.closing(p)
		if n.looks() != 0 {
			t.Error("making a pool looked a name up")
		}
		stop := run(p)
		if o := get(p); o.status != 200 || o.took != time.Second {
			t.Errorf("call before the first look ended: got %+v, want that it waits", o)
		}
		if got := turns(p, 8); got != "a a a a a a b b" {
			t.Errorf("weights within the first priority: got %s", got)
		}
		w.hosts["a:80"].refuse(true)
		w.hosts["b:80"].refuse(true)
		w.hosts["a:80"].server.Close()
		w.hosts["b:80"].server.Close()
		if got := turns(p, 2); got != "c c" {
			t.Errorf("the next priority: got %s", got)
		}
		n.set(errors.New("no link"))
		time.Sleep(5 * time.Minute)
		if got := turns(p, 2); got != "c c" {
			t.Errorf("without a link the last records count: got %s", got)
		}
		next, err := w.try(spec, Options{LookupSRV: n.lookup}, p, "srv+http://_api._tcp.quay.example/v1")
		if err != nil {
			t.Fatal(err)
		}
		w.closing(next)
		stop()
		p.Retire(next)
		p.Close()
		if got := turns(next, 2); got != "c c" {
			t.Errorf("after a new bundle without a link: got %s", got)
		}
		stop = run(next)
		n.set(nil, srv("c", 5, 0))
		time.Sleep(time.Minute)
		if got, all := turns(next, 1), len(next.View()); got != "c" || all != 1 {
			t.Errorf("records changed: got %s, %d targets", got, all)
		}
		n.set(nil, srv("", 0, 0))
		time.Sleep(time.Minute)
		if got := turns(next, 1); got != "none" {
			t.Errorf("service that is not offered: got %s", got)
		}
		stop()
	})
}

func TestSRVThatIsNeverFound(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		n := &names{err: errors.New("no link")}
		p, err := w.try(policy.Endpoints{}, Options{LookupSRV: n.lookup}, nil, "srv+http://_api._tcp.quay.example")
		if err != nil {
			t.Fatal(err)
		}
		w.closing(p)
		o := get(p) // nobody looks: the pool does not run
		if wantNone(t, o); o.took != firstWait {
			t.Errorf("waited %s, want %s", o.took, firstWait)
		}
		stop := run(p)
		synctest.Wait()
		if o := get(p); o.took != 0 {
			t.Errorf("after a look that failed: got %+v, want an answer at once", o)
		}
		before := n.looks()
		time.Sleep(time.Minute)
		if tries := n.looks() - before; tries < 8 || tries > 13 {
			t.Errorf("looked %d times in a minute without success", tries)
		}
		stop()
	})
}

func TestSRVHealthFollowsTheRecords(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		a := w.add("a:80", nil)
		b := w.add("b:80", nil)
		n := &names{}
		n.set(nil, srv("a", 1, 1))
		p, err := w.try(policy.Endpoints{Health: &policy.Health{Path: "/h", Interval: 5 * time.Second}}, Options{LookupSRV: n.lookup}, nil, "srv+http://_api._tcp.quay.example")
		if err != nil {
			t.Fatal(err)
		}
		w.closing(p)
		stop := run(p)
		time.Sleep(20 * time.Second)
		if a.seen() < 3 {
			t.Error("a is not checked")
		}
		n.set(nil, srv("b", 1, 1))
		time.Sleep(time.Minute)
		a.seen()
		b.seen()
		time.Sleep(20 * time.Second)
		if x, y := a.seen(), b.seen(); x != 0 || y < 3 {
			t.Errorf("checks after the change: %d of a, %d of b", x, y)
		}
		stop()
	})
}

func TestWrongTargets(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		for url, reason := range map[string]string{
			"ftp://a":          "scheme",
			"http:///x":        "no host",
			"srv+http://a:80":  "SRV records tell the port",
			"srv+srv+http://a": "scheme",
			"http://a\x7f":     "invalid control character",
			"://":              "missing protocol scheme",
		} {
			if _, err := w.try(policy.Endpoints{}, Options{}, nil, url); err == nil || !strings.Contains(err.Error(), reason) {
				t.Errorf("%q: got %v, want %q", url, err, reason)
			}
		}
		if _, err := w.try(policy.Endpoints{}, Options{}, nil); err == nil {
			t.Error("no target: accepted")
		}
		if _, err := w.try(policy.Endpoints{TLS: "x"}, Options{}, nil, "a"); err == nil {
			t.Error("unknown profile: accepted")
		}
		if _, err := w.try(policy.Endpoints{Proxy: "socks5://x"}, Options{}, nil, "a"); err == nil {
			t.Error("proxy that is no HTTP proxy: accepted")
		}
		if _, err := w.try(policy.Endpoints{Auth: &policy.BackendAuth{Kind: policy.BackendBearer, Secret: "s"}}, Options{}, nil, "a"); err == nil || !strings.Contains(err.Error(), `secret "s"`) {
			t.Errorf("secret that is not there: got %v", err)
		}
	})
}

func TestCredentialsForBackends(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		var got http.Header
		w.add("a:80", func(_ http.ResponseWriter, r *http.Request) { got = r.Header })
		secret := func(s policy.Secret) []byte { return []byte("secret of " + s) }
		for name, tc := range map[string]struct {
			auth         policy.BackendAuth
			over         Override
			header, want string
		}{
			"basic":      {policy.BackendAuth{Kind: policy.BackendBasic, Username: "u", Secret: "x"}, Override{}, "Authorization", Basic("u", "secret of x")},
			"bearer":     {policy.BackendAuth{Kind: policy.BackendBearer, Secret: "x"}, Override{}, "Authorization", "Bearer secret of x"},
			"key":        {policy.BackendAuth{Kind: policy.BackendKey, Header: "X-Key", Secret: "x"}, Override{}, "X-Key", "secret of x"},
			"overridden": {policy.BackendAuth{Kind: policy.BackendBasic, Username: "u", Secret: "x"}, Override{Username: "v", Password: "w"}, "Authorization", Basic("v", "w")},
		} {
			p, err := w.try(policy.Endpoints{Auth: &tc.auth}, Options{Secret: secret, Overrides: map[string]Override{"g": tc.over}}, nil, "a")
			if err != nil {
				t.Fatal(err)
			}
			w.closing(p)
			r := &wire.Request{Method: "GET", Header: wire.Header{{Name: strings.ToLower(tc.header), Value: "of the client"}, {Name: "X-Other", Value: "stays"}}}
			resp, _, err := p.Group(1).Do(context.Background(), r, Call{Safe: true})
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if v := got.Values(tc.header); len(v) != 1 || v[0] != tc.want || got.Get("X-Other") != "stays" {
				t.Errorf("%s: got %v, want %q", name, v, tc.want)
			}
			if len(r.Header) != 2 || r.Header[0].Value != "of the client" {
				t.Errorf("%s: the caller's header was changed", name)
			}
		}
	})
}

func TestTokenForTheBackend(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		var n, status, answer atomic.Int64
		status.Store(200)
		answer.Store(200)
		idp := w.add("idp:80", func(rw http.ResponseWriter, r *http.Request) {
			number := n.Add(1)
			user, pw, _ := r.BasicAuth()
			if r.PostFormValue("grant_type") != "client_credentials" || r.PostFormValue("scope") != "a b" || user != "id%2F1" || pw != "s" {
				t.Errorf("asked with %v by %s:%s", r.PostForm, user, pw)
			}
			time.Sleep(time.Second)
			rw.WriteHeader(int(status.Load()))
			fmt.Fprintf(rw, `{"access_token":"t%d","token_type":"Bearer","expires_in":"100"}`, number)
		})
		var last atomic.Value
		got := func() string { s, _ := last.Load().(string); return s }
		a := w.add("a:80", func(rw http.ResponseWriter, r *http.Request) {
			last.Store(r.Header.Get("Authorization"))
			rw.WriteHeader(int(answer.Load()))
		})
		auth := &policy.BackendAuth{Kind: policy.BackendOAuth2, Username: "id/1", Secret: "x", TokenURL: "http://idp/token", Scopes: []string{"a", "b"}}
		p, err := w.try(policy.Endpoints{Auth: auth, Breaker: breaker()}, Options{Secret: func(policy.Secret) []byte { return []byte("s") }}, nil, "a")
		if err != nil {
			t.Fatal(err)
		}
		w.closing(p)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if o := get(p); o.status != 200 {
					t.Errorf("got %+v", o)
				}
			})
		}
		wg.Wait()
		if idp.seen() != 1 || got() != "Bearer t1" {
			t.Errorf("token %q", got())
		}
		time.Sleep(80 * time.Second)
		get(p)
		if idp.seen() != 0 {
			t.Error("fetched before nine tenths of its life")
		}
		time.Sleep(20 * time.Second)
		if get(p); got() != "Bearer t2" {
			t.Errorf("after its end: got %q", got())
		}
		idp.seen()
		// A token that the backend refuses is replaced, but not at every call.
		answer.Store(401)
		time.Sleep(20 * time.Second)
		for range 10 {
			if o := get(p); o.status != 401 {
				t.Errorf("got %+v", o)
			}
		}
		if idp.seen() != 1 || got() != "Bearer t3" {
			t.Errorf("refused token: got %q", got())
		}
		// Without the token server nothing is sent, nobody is blamed, and one call asks.
		answer.Store(200)
		status.Store(500)
		time.Sleep(200 * time.Second)
		a.seen()
		idp.seen()
		for range 20 {
			wg.Go(func() {
				if o := get(p); !errors.Is(o.err, ErrBroken) || !strings.Contains(o.err.Error(), "status 500") {
					t.Errorf("got %+v", o)
				}
			})
		}
		wg.Wait()
		if x, y := idp.seen(), a.seen(); x != 1 || y != 0 {
			t.Errorf("%d requests for a token, %d calls", x, y)
		}
		status.Store(200)
		time.Sleep(tokenPause)
		if o := get(p); o.status != 200 {
			t.Errorf("the token server works again: got %+v", o)
		}
	})
}

func TestTokenAnswersThatAreNone(t *testing.T) {
	bubble(t, func(t *testing.T, w *web) {
		w.add("a:80", nil)
		for name, body := range map[string]string{
			"no JSON": `x`, "no token": `{}`, "line break": `{"access_token":"a\r\nX: y"}`, "not a text": `{"access_token":7}`,
			"too long": `{"access_token":"` + strings.Repeat("a", tokenBytes) + `"}`,
		} {
			host := strings.ReplaceAll(name, " ", "-")
			w.add(host+":80", func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, body) })
			auth := &policy.BackendAuth{Kind: policy.BackendOAuth2, Username: "i", Secret: "x", TokenURL: "http://" + host}
			p, err := w.try(policy.Endpoints{Auth: auth}, Options{Secret: func(policy.Secret) []byte { return []byte("s") }}, nil, "a")
			if err != nil {
				t.Fatal(err)
			}
			w.closing(p)
			if o := get(p); !errors.Is(o.err, ErrBroken) {
				t.Errorf("%s: got %+v", name, o)
			}
		}
	})
}

// selfMade is a TLS backend on loopback with a certificate of its own, and a chain to show.
func selfMade(t *testing.T, more ...[]byte) (url string, cert *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) > 0 {
			_, _ = io.WriteString(rw, r.TLS.PeerCertificates[0].Subject.CommonName)
		}
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: append([][]byte{der}, more...), PrivateKey: key}}, ClientAuth: tls.RequestClientCert}
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return "https://localhost:" + port, cert
}

func pin(c *x509.Certificate) []byte {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return sum[:]
}

func TestPins(t *testing.T) {
	_, pinned := selfMade(t)
	good, goodCert := selfMade(t)
	// An attacker with a certificate of an authority that is trusted shows the pinned one beside.
	attacker, attackerCert := selfMade(t, pinned.Raw)
	for name, tc := range map[string]struct {
		url     string
		profile policy.TLS
		ok      bool
	}{
		"its own":                           {good, policy.TLS{CAs: [][]byte{goodCert.Raw}, Pins: [][]byte{pin(pinned), pin(goodCert)}}, true},
		"its own, any name":                 {good, policy.TLS{CAs: [][]byte{goodCert.Raw}, Pins: [][]byte{pin(goodCert)}, AnyName: true}, true},
		"another":                           {good, policy.TLS{CAs: [][]byte{goodCert.Raw}, Pins: [][]byte{pin(pinned)}}, false},
		"shown beside the chain":            {attacker, policy.TLS{CAs: [][]byte{attackerCert.Raw}, Pins: [][]byte{pin(pinned)}}, false},
		"shown beside the chain, any name":  {attacker, policy.TLS{CAs: [][]byte{attackerCert.Raw}, Pins: [][]byte{pin(pinned)}, AnyName: true}, false},
		"pinned, of nobody that is trusted": {good, policy.TLS{CAs: [][]byte{pinned.Raw}, Pins: [][]byte{pin(goodCert)}}, false},
	} {
		tc.profile.Name = "p"
		set := &policy.Set{Endpoints: []policy.Endpoints{{Name: "g", TLS: "p", Targets: []policy.Target{{URL: tc.url}}}}, TLS: []policy.TLS{tc.profile}}
		p, err := New(set, Options{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if o := get(p); (o.err == nil) != tc.ok {
			t.Errorf("%s: got %+v, want %v", name, o, tc.ok)
		}
		p.Close()
	}
}

func TestClientCertificateForTheBackend(t *testing.T) {
	url, ca := selfMade(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gate"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	set := &policy.Set{
		Endpoints: []policy.Endpoints{{Name: "g", TLS: "p", Targets: []policy.Target{{URL: url}}}},
		TLS:       []policy.TLS{{Name: "p", CAs: [][]byte{ca.Raw}, ClientCert: [][]byte{der}, ClientKey: "tls/p/key"}},
	}
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	p, err := New(set, Options{Secret: func(policy.Secret) []byte { return secret }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if o := get(p); o.body != "gate" {
		t.Errorf("the backend saw %+v", o)
	}
	for name, s := range map[string][]byte{"absent": nil, "not PEM": []byte("x"), "not PKCS #8": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})} {
		if _, err := New(set, Options{Secret: func(policy.Secret) []byte { return s }}, nil); err == nil || !strings.Contains(err.Error(), `profile "p"`) {
			t.Errorf("key that is %s: got %v", name, err)
		}
	}
	// Another key under the same name is another backend: its connections are not taken over.
	other := append(slices.Clone(secret), '\n')
	next, err := New(set, Options{Secret: func(policy.Secret) []byte { return other }}, p)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if next.Group(1).members.Load().targets[0].backend == p.Group(1).members.Load().targets[0].backend {
		t.Error("connections made with the old key go on")
	}
}

func TestOutboundProxy(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(rw, "through "+r.Host) }))
	t.Cleanup(s.Close)
	for _, secure := range []bool{false, true} {
		asked := make(chan string, 4)
		proxy := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			asked <- r.Method + " " + r.Host + " " + r.Header.Get("Proxy-Authorization")
			if r.Header.Get("Proxy-Authorization") != Basic("u", "p") {
				rw.WriteHeader(407)
				return
			}
			b, err := net.Dial("tcp", s.Listener.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			c, buf, err := http.NewResponseController(rw).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			go func() { _, _ = io.Copy(b, bufio.NewReader(buf)); b.Close() }()
			_, _ = io.Copy(c, b)
			c.Close()
		}))
		scheme := "http"
		if secure {
			scheme = "https"
			proxy.StartTLS()
		} else {
			proxy.Start()
		}
		addr := strings.Replace(proxy.Listener.Addr().String(), "127.0.0.1", "localhost", 1)
		group := func(user string) *Pool {
			set := &policy.Set{Endpoints: []policy.Endpoints{{Name: "g", Proxy: scheme + "://" + user + addr, Targets: []policy.Target{{URL: "http://backend.example:8080"}}}}}
			p, err := New(set, Options{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		p := group("u:p@")
		if secure { // its certificate is one of the test's own
			if o := get(p); !errors.Is(o.err, ErrBroken) || !strings.Contains(o.err.Error(), "certificate") {
				t.Errorf("proxy that nobody vouches for: got %+v", o)
			}
			pool := x509.NewCertPool()
			pool.AddCert(proxy.Certificate())
			p.Close()
			tt := wire.Target{Addr: "backend.example:8080", Proxy: &wire.Proxy{Addr: proxy.Listener.Addr().String(), TLS: &tls.Config{RootCAs: pool}, Authorization: Basic("u", "p")}}
			c := wire.NewClient(tt)
			resp, err := c.Do(context.Background(), &wire.Request{Method: "GET"})
			if err != nil || resp.Status != 200 {
				t.Errorf("proxy over TLS: got %v", err)
			} else {
				resp.Body.Close()
			}
			c.Close()
		} else {
			if o := get(p); o.body != "through backend.example:8080" {
				t.Errorf("got %+v", o)
			}
			if got := <-asked; got != "CONNECT backend.example:8080 "+Basic("u", "p") {
				t.Errorf("the proxy was asked %q", got)
			}
			p.Close()
			p = group("")
			if o := get(p); !errors.Is(o.err, ErrBroken) || !strings.Contains(o.err.Error(), "407") {
				t.Errorf("without a login: got %+v", o)
			}
			p.Close()
		}
		proxy.CloseClientConnections()
		proxy.Close()
	}
}
