package appliance_test

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
	"time"
)

// What a client sees of a backend that fails.
const (
	broken   = `{"fault":{"code":101503, "message":"Runtime Error", "description":"Error connecting to the back end"}}`
	timedOut = `{"fault":{"code":101504, "message":"Runtime Error", "description":"Connection timed out"}}`
	nobody   = `{"fault":{"code":303001, "message":"Runtime Error", "description":"No backend is available"}}`
)

// A faulty is a TCP proxy in front of a sound backend that ill-treats what comes back.
type faulty struct {
	addr  string
	mu    sync.Mutex
	fault func(client *net.TCPConn, backend net.Conn)
	open  map[net.Conn]bool
	dials atomic.Int64
}

// newFaulty starts one that is sound until a fault is set.
func newFaulty(t *testing.T, backend string) *faulty {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{addr: ln.Addr().String(), fault: pass, open: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			f.dials.Add(1)
			b, err := net.Dial("tcp", backend)
			if err != nil {
				t.Error(err)
				return
			}
			f.mu.Lock()
			f.open[c], f.open[b] = true, true
			fault := f.fault
			f.mu.Unlock()
			wg.Go(func() {
				defer b.Close()
				defer c.Close()
				wg.Go(func() { _, _ = io.Copy(b, c) })
				fault(c.(*net.TCPConn), b)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		f.set(pass)
		wg.Wait()
	})
	return f
}

// set ends the connections that are open; the next ones are treated by fault.
func (f *faulty) set(fault func(client *net.TCPConn, backend net.Conn)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
	for c := range f.open {
		c.Close()
	}
	clear(f.open)
}

// pass lets everything through.
func pass(c *net.TCPConn, b net.Conn) { _, _ = io.Copy(c, b) }

// resetAfter lets n bytes through, then resets.
func resetAfter(n int64) func(*net.TCPConn, net.Conn) {
	return func(c *net.TCPConn, b net.Conn) {
		_, _ = io.CopyN(c, b, n)
		time.Sleep(20 * time.Millisecond) // let the bytes be read before the reset throws them away
		_ = c.SetLinger(0)
	}
}

// closeAfter lets n bytes through, then closes.
func closeAfter(n int64) func(*net.TCPConn, net.Conn) {
	return func(c *net.TCPConn, b net.Conn) { _, _ = io.CopyN(c, b, n) }
}

// late waits before the first byte.
func late(d time.Duration) func(*net.TCPConn, net.Conn) {
	return func(c *net.TCPConn, b net.Conn) {
		one := make([]byte, 1)
		if _, err := io.ReadFull(b, one); err != nil {
			return
		}
		time.Sleep(d)
		_, _ = c.Write(one)
		pass(c, b)
	}
}

// drip lets one byte through at a time.
func drip(pause time.Duration) func(*net.TCPConn, net.Conn) {
	return func(c *net.TCPConn, b net.Conn) {
		one := make([]byte, 1)
		for {
			if _, err := io.ReadFull(b, one); err != nil {
				return
			}
			if _, err := c.Write(one); err != nil {
				return
			}
			time.Sleep(pause)
		}
	}
}

// halfOpen says nothing, ever: the other end is gone and nobody told.
func halfOpen(c *net.TCPConn, _ net.Conn) {
	_, _ = io.Copy(io.Discard, struct{ io.Reader }{blocked{c}})
}

// blocked reads nothing until the connection is closed by the test's end or the device.
type blocked struct{ c *net.TCPConn }

func (b blocked) Read([]byte) (int, error) {
	for {
		if _, err := b.c.SyscallConn(); err != nil {
			return 0, err
		}
		if err := b.c.SetDeadline(time.Time{}); err != nil {
			return 0, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// instead answers with text in the place of the backend's answer, and closes.
func instead(text string) func(*net.TCPConn, net.Conn) {
	return func(c *net.TCPConn, b net.Conn) {
		if _, err := io.ReadFull(b, make([]byte, 1)); err != nil { // the request has arrived
			return
		}
		_, _ = io.WriteString(c, text)
		time.Sleep(20 * time.Millisecond)
	}
}

// sound is a backend whose answer has a head of about 130 bytes and a body of 10,000.
func sound(t *testing.T) (addr string, calls *atomic.Int64) {
	t.Helper()
	calls = &atomic.Int64{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Length", "10000")
		_, _ = io.WriteString(w, strings.Repeat("x", 10_000))
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), calls
}

// one is a set with one API that leads to url; change edits its group.
func one(t *testing.T, f *devicetest.Fleet, url string, change func(*policy.Endpoints)) *policy.Set {
	t.Helper()
	set := f.API(t, url, "/open")
	post := set.APIs[0].Operations[0]
	post.Method, post.ID = "POST", "post"
	set.APIs[0].Operations = append(set.APIs[0].Operations, post)
	if change != nil {
		change(&set.Endpoints[0])
	}
	return set
}

func TestWhatAClientSeesOfAFaultyBackend(t *testing.T) {
	addr, _ := sound(t)
	f := newFaulty(t, addr)
	d := devicetest.Start(t, devicetest.Options{})
	d.Apply(t, one(t, d.Fleet, "http://"+f.addr, func(e *policy.Endpoints) { e.Timeout = 300 * time.Millisecond }))
	full := strings.Repeat("x", 10_000)
	head := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
	for _, tc := range []struct {
		name   string
		fault  func(*net.TCPConn, net.Conn)
		status int
		body   string
		cut    bool // the body breaks off
	}{
		{"sound", pass, 200, full, false},
		{"closed before a byte", closeAfter(0), 502, broken, false},
		{"reset before a byte", resetAfter(0), 502, broken, false},
		{"closed in the head", closeAfter(30), 502, broken, false},
		{"reset in the head", resetAfter(30), 502, broken, false},
		{"closed in the body", closeAfter(5000), 200, full, true},
		{"reset in the body", resetAfter(5000), 200, full, true},
		{"slow first byte, within the time", late(50 * time.Millisecond), 200, full, false},
		{"slow first byte, beyond the time", late(time.Second), 504, timedOut, false},
		{"slow drip of the head", drip(20 * time.Millisecond), 504, timedOut, false},
		{"half open", halfOpen, 504, timedOut, false},
		{"garbage", instead("SSH-2.0-OpenSSH_9.9\r\n"), 502, broken, false},
		{"another protocol's version", instead("HTTP/2.0 200 OK\r\n\r\n"), 502, broken, false},
		{"empty lines", instead("\r\n\r\n\r\n"), 502, broken, false},
		{"no status", instead("HTTP/1.1 \r\n\r\n"), 502, broken, false},
		{"status 99", instead("HTTP/1.1 099 Odd\r\n\r\n"), 502, broken, false},
		{"two lengths", instead(head + "Content-Length: 3\r\n\r\nabc"), 502, broken, false},
		{"length and chunks", instead(head + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 502, broken, false},
		{"bare LF in the head", instead("HTTP/1.1 200 OK\nContent-Length: 2\n\nab"), 502, broken, false},
		{"folded field", instead(head + "X-A: b\r\n c\r\n\r\nab"), 502, broken, false},
		{"NUL in a field", instead(head + "X-A: b\x00c\r\n\r\nab"), 502, broken, false},
		{"101 that nobody asked for", instead("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"), 502, broken, false},
		{"a few 1xx", instead(strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 3) + head + "\r\nab"), 200, "ab", false},
		{"flood of 1xx", instead(strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 1000)), 502, broken, false},
		{"huge field", instead(head + "X-A: " + strings.Repeat("a", 200<<10) + "\r\n\r\nab"), 502, broken, false},
		{"many fields", instead(head + strings.Repeat("X-A: b\r\n", 30<<10) + "\r\nab"), 502, broken, false},
		{"bad chunk", instead("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nzz\r\n"), 200, "ab", true},
		{"more than announced", instead(head + "\r\nabGARBAGE"), 200, "ab", false},
		{"sound again", pass, 200, full, false},
	} {
		f.set(tc.fault)
		r, err := http.NewRequest("GET", d.URL("/echo/1.0/open"), nil)
		if err != nil {
			t.Fatal(err)
		}
		tr := &http.Transport{DisableKeepAlives: true}
		resp, err := tr.RoundTrip(r)
		if err != nil {
			t.Errorf("%s: no answer: %v", tc.name, err)
			continue
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tc.status || (err != nil) != tc.cut || !tc.cut && string(b) != tc.body || tc.cut && !strings.HasPrefix(tc.body, string(b)) {
			t.Errorf("%s: got %d, %d bytes %.120q, %v; want %d, cut off %v", tc.name, resp.StatusCode, len(b), b, err, tc.status, tc.cut)
		}
		if resp.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: no request id", tc.name)
		}
	}
}

// certified is a TLS backend with a certificate of ca for the given names and time.
func certified(t *testing.T, ca *authority, names []string, to time.Time, change func(*tls.Config)) string {
	t.Helper()
	key := newKey(t)
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "backend"}, NotBefore: to.Add(-48 * time.Hour), NotAfter: to,
		DNSNames: names, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := "nobody"
		if len(r.TLS.PeerCertificates) > 0 {
			who = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		fmt.Fprintf(w, "%s %s", who, tls.VersionName(r.TLS.Version))
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	if change != nil {
		change(s.TLS)
	}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return "https://localhost:" + port
}

func TestTLSToBackends(t *testing.T) {
	ca, other := newAuthority(t, "CA"), newAuthority(t, "CA")
	tomorrow := time.Now().Add(24 * time.Hour)
	right := certified(t, ca, []string{"localhost"}, tomorrow, nil)
	plain, _ := sound(t)
	mutual := certified(t, ca, []string{"localhost"}, tomorrow, func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert })
	d := devicetest.Start(t, devicetest.Options{})
	for _, tc := range []struct {
		name    string
		url     string
		profile policy.TLS
		status  int
		body    string
	}{
		{"right", right, policy.TLS{CAs: [][]byte{ca.cert.Raw}}, 200, "nobody TLS 1.3"},
		{"wrong authority", right, policy.TLS{CAs: [][]byte{other.cert.Raw}}, 502, broken},
		{"authority of nobody", right, policy.TLS{}, 502, broken},
		{"wrong name", certified(t, ca, []string{"elsewhere.example"}, tomorrow, nil), policy.TLS{CAs: [][]byte{ca.cert.Raw}}, 502, broken},
		{"wrong name that is not looked at", certified(t, ca, []string{"elsewhere.example"}, tomorrow, nil), policy.TLS{CAs: [][]byte{ca.cert.Raw}, AnyName: true}, 200, "nobody TLS 1.3"},
		{"wrong name and authority, name not looked at", certified(t, other, []string{"elsewhere.example"}, tomorrow, nil), policy.TLS{CAs: [][]byte{ca.cert.Raw}, AnyName: true}, 502, broken},
		{"name of the profile", certified(t, ca, []string{"elsewhere.example"}, tomorrow, nil), policy.TLS{CAs: [][]byte{ca.cert.Raw}, ServerName: "elsewhere.example"}, 200, "nobody TLS 1.3"},
		{"expired", certified(t, ca, []string{"localhost"}, time.Now().Add(-time.Hour), nil), policy.TLS{CAs: [][]byte{ca.cert.Raw}}, 502, broken},
		{"expired, name not looked at", certified(t, ca, []string{"localhost"}, time.Now().Add(-time.Hour), nil), policy.TLS{CAs: [][]byte{ca.cert.Raw}, AnyName: true}, 502, broken},
		{"not valid yet", certified(t, ca, []string{"localhost"}, time.Now().Add(400*time.Hour), nil), policy.TLS{CAs: [][]byte{ca.cert.Raw}}, 502, broken},
		{
			"TLS 1.2 where 1.3 is asked", certified(t, ca, []string{"localhost"}, tomorrow, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }),
			policy.TLS{CAs: [][]byte{ca.cert.Raw}, MinVersion: tls.VersionTLS13},
			502, broken,
		},
		{
			"TLS 1.2", certified(t, ca, []string{"localhost"}, tomorrow, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }),
			policy.TLS{CAs: [][]byte{ca.cert.Raw}},
			200, "nobody TLS 1.2",
		},
		{
			"TLS 1.1 only", certified(t, ca, []string{"localhost"}, tomorrow, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }),
			policy.TLS{CAs: [][]byte{ca.cert.Raw}},
			502, broken,
		},
		{"plain HTTP where TLS is asked", "https://" + plain, policy.TLS{CAs: [][]byte{ca.cert.Raw}}, 502, broken},
		{"no client certificate where one is asked", mutual, policy.TLS{CAs: [][]byte{ca.cert.Raw}}, 502, broken},
	} {
		set := one(t, d.Fleet, tc.url, func(e *policy.Endpoints) {
			if tc.name != "authority of nobody" {
				e.TLS = "p"
			}
		})
		tc.profile.Name = "p"
		set.TLS = []policy.TLS{tc.profile}
		d.Apply(t, set)
		a := call(t, "GET", d.URL("/echo/1.0/open"))
		if a.status != tc.status || a.body != tc.body {
			t.Errorf("%s: got %d %s, want %d %s", tc.name, a.status, a.body, tc.status, tc.body)
		}
	}
}

// Clients that break off or lie about their bodies say nothing about the backend: its
// circuit stays closed and the trial of a bundle is not charged with them.
func TestFaultsOfClientsDoNotOpenACircuit(t *testing.T) {
	started := make(chan struct{}, 100)
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" && r.URL.Query().Has("slow") {
			started <- struct{}{}
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "fine")
	}))
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(release) })
	d := devicetest.Start(t, devicetest.Options{})
	d.Apply(t, one(t, d.Fleet, s.URL, func(e *policy.Endpoints) {
		e.Breaker = &policy.Breaker{Window: time.Minute, Bucket: time.Second, Volume: 3, Share: 0.1, Reset: time.Hour}
	}))
	dial := func() net.Conn {
		c, err := net.Dial("tcp", d.Addr("http"))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for range 10 { // gone while the backend works
		c := dial()
		fmt.Fprintf(c, "GET /echo/1.0/open?slow HTTP/1.1\r\nHost: x\r\n\r\n")
		<-started
		c.Close()
	}
	for range 10 { // gone in the middle of a body
		c := dial()
		fmt.Fprintf(c, "POST /echo/1.0/open HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n%s", strings.Repeat("x", 30_000))
		c.Close()
	}
	for range 10 { // a chunk that is none
		c := dial()
		fmt.Fprintf(c, "POST /echo/1.0/open HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n")
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil || !strings.Contains(line, " 400 ") {
			t.Errorf("bad chunk: got %q, %v", line, err)
		}
		c.Close()
	}
	eventually(t, "all calls have ended", func() bool { return d.Status().Calls.InFlight == 0 })
	if a := call(t, "GET", d.URL("/echo/1.0/open")); a.status != 200 || a.body != "fine" {
		t.Errorf("after them: got %d %s", a.status, a.body)
	}
	if st := d.Status().Calls; st.Failed != 0 {
		t.Errorf("%d of %d answers count as failures of the bundle", st.Failed, st.Answered)
	}
}
