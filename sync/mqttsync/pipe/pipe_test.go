package pipe_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/mqttsync/pipe"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func parse(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := pipe.ParseURL(s)
	check(t, err)
	return u
}

func TestAddressesOfBrokers(t *testing.T) {
	for _, ok := range []string{"tcp://h:1883", "tls://h", "mqtts://h", "wss://h/mqtt", "ws://h:80/x"} {
		if _, err := pipe.ParseURL(ok); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	for _, bad := range []string{"", "h:1883", "http://h", "tls://", "unix:///x", "tls://h:port"} {
		if _, err := pipe.ParseURL(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// hostile connects to a broker that says what a test wants, once the pipe has subscribed.
func hostile(t *testing.T, say func(c net.Conn), then func(p *pipe.Pipe)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		puppet := &mqttsynctest.Puppet{Connected: say}
		p, err := pipe.Dial(context.Background(), pipe.Options{URL: parse(t, "tcp://broker"), ClientID: "c", Dial: puppet.Dial, KeepAlive: time.Minute})
		check(t, err)
		check(t, p.Subscribe(context.Background(), "a/#"))
		then(p)
		p.Close()
		puppet.Close()
		time.Sleep(time.Minute)
	})
}

func TestAPacketThatIsAnnouncedTooLargeEndsTheConnection(t *testing.T) {
	for name, head := range map[string][]byte{
		"256 MB":                {0x30, 0xff, 0xff, 0xff, 0x7f},
		"69 KiB":                {0x30, 0x80, 0xa8, 0x04},
		"a length without end":  {0x30, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01},
		"a length that is long": {0x30, 0xff, 0xff, 0xff, 0xff, 0x01},
	} {
		t.Run(name, func(t *testing.T) {
			hostile(t, func(c net.Conn) { _, _ = c.Write(head) }, func(p *pipe.Pipe) {
				select {
				case <-p.Lost():
				case <-time.After(time.Minute):
					t.Fatal("the connection lives on")
				}
				if err := p.Err(); !errors.Is(err, pipe.ErrPacket) {
					t.Errorf("ended with %v", err)
				}
			})
		})
	}
}

func TestWhatNobodyReceivesIsDropped(t *testing.T) {
	hostile(t, func(c net.Conn) {
		for range 100 {
			_, _ = c.Write(mqttsynctest.Publication("a/b", []byte("x")))
		}
	}, func(p *pipe.Pipe) {
		time.Sleep(time.Second)
		if n := p.Dropped(); n != 100-16 {
			t.Errorf("%d dropped, want all but the 16 that wait", n)
		}
		if err := p.Send(context.Background(), "a", []byte("x")); err != nil {
			t.Errorf("send after the flood: %v", err)
		}
	})
}

func TestASilentBrokerIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		go func() { // answers CONNECT and nothing else
			b := make([]byte, 64)
			_, _ = theirs.Read(b)
			_, _ = theirs.Write([]byte{0x20, 2, 0, 0})
			_, _ = io.Copy(io.Discard, theirs)
		}()
		p, err := pipe.Dial(context.Background(), pipe.Options{
			URL: parse(t, "tcp://broker"), ClientID: "c", KeepAlive: time.Minute,
			Dial: func(context.Context, string, string) (net.Conn, error) { return ours, nil },
		})
		check(t, err)
		began := time.Now()
		if err := p.Send(context.Background(), "a", []byte("x")); err == nil {
			t.Error("a send that nobody acknowledged succeeded")
		}
		if took := time.Since(began); took > 3*time.Minute {
			t.Errorf("noticed after %s", took)
		}
		p.Close()
		_ = theirs.Close()
		time.Sleep(time.Minute)
	})
}

// broker is a real broker on a loopback port.
func broker(t *testing.T, kind string, c *tls.Config, who ...*auth.Options) string {
	t.Helper()
	s := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	if len(who) == 0 {
		check(t, s.AddHook(new(auth.AllowHook), nil))
	} else {
		check(t, s.AddHook(new(auth.Hook), who[0]))
	}
	free, err := net.Listen("tcp", "127.0.0.1:0") // one kind of listener does not tell its port
	check(t, err)
	conf := listeners.Config{ID: "l", Address: free.Addr().String(), TLSConfig: c}
	check(t, free.Close())
	var l listeners.Listener = listeners.NewTCP(conf)
	if kind == "ws" {
		l = listeners.NewWebsocket(conf)
	}
	check(t, s.AddListener(l))
	check(t, s.Serve())
	t.Cleanup(func() { _ = s.Close() })
	for range 100 {
		if c, err := net.Dial("tcp", conf.Address); err == nil {
			check(t, c.Close())
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return conf.Address
}

// round sends a message to itself.
func round(t *testing.T, o pipe.Options) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	o.ClientID = "c"
	p, err := pipe.Dial(ctx, o)
	if err != nil {
		return err
	}
	defer p.Close()
	check(t, p.Subscribe(ctx, "a/#"))
	big := strings.Repeat("x", 60_000)
	check(t, p.Send(ctx, "a/b", []byte(big)))
	m, err := p.Receive(ctx)
	check(t, err)
	if m.Topic != "a/b" || string(m.Payload) != big {
		t.Errorf("%d bytes on %s came back", len(m.Payload), m.Topic)
	}
	return nil
}

func certificate(t *testing.T, name string, from, to time.Time) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to, DNSNames: []string{name},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	check(t, err)
	leaf, err := x509.ParseCertificate(der)
	check(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestWaysToABroker(t *testing.T) {
	now := time.Now()
	cert, pool := certificate(t, "broker.test", now.Add(-time.Hour), now.Add(time.Hour))
	server := &tls.Config{Certificates: []tls.Certificate{cert}}
	client := &tls.Config{RootCAs: pool, ServerName: "broker.test"}
	plain, secure := broker(t, "tcp", nil), broker(t, "tcp", server)
	ws, wss := broker(t, "ws", nil), broker(t, "ws", server)
	proxy, through := httpProxy(t)
	for name, o := range map[string]pipe.Options{
		"tcp":               {URL: parse(t, "tcp://"+plain)},
		"tls":               {URL: parse(t, "tls://"+secure), TLS: client},
		"ws":                {URL: parse(t, "ws://"+ws+"/")},
		"wss":               {URL: parse(t, "wss://"+wss+"/"), TLS: client},
		"tls through proxy": {URL: parse(t, "tls://"+secure), TLS: client, Proxy: proxy},
		"wss through proxy": {URL: parse(t, "wss://"+wss+"/"), TLS: client, Proxy: proxy},
	} {
		t.Run(name, func(t *testing.T) { check(t, round(t, o)) })
	}
	if through() != 2 {
		t.Errorf("%d connections went through the proxy, want 2", through())
	}
	for name, c := range map[string]*tls.Config{
		"another name":      {RootCAs: pool, ServerName: "other.test"},
		"another authority": {RootCAs: x509.NewCertPool(), ServerName: "broker.test"},
		"another time":      {RootCAs: pool, ServerName: "broker.test", Time: func() time.Time { return now.Add(48 * time.Hour) }},
	} {
		if err := round(t, pipe.Options{URL: parse(t, "tls://"+secure), TLS: c}); err == nil {
			t.Errorf("a certificate for %s is accepted", name)
		}
	}
}

func TestNameAndPasswordForTheBroker(t *testing.T) {
	addr := broker(t, "tcp", nil, &auth.Options{Ledger: &auth.Ledger{Auth: auth.AuthRules{{Username: "gate", Password: "right", Allow: true}}}})
	u := parse(t, "tcp://"+addr)
	check(t, round(t, pipe.Options{URL: u, Username: "gate", Password: "right"}))
	for _, o := range []pipe.Options{{}, {Username: "gate"}, {Username: "gate", Password: "wrong"}, {Username: "other", Password: "right"}} {
		o.URL = u
		if err := round(t, o); err == nil {
			t.Errorf("%q with %q got in", o.Username, o.Password)
		} else if strings.Contains(err.Error(), "wrong") {
			t.Errorf("the error holds the password: %v", err)
		}
	}
}

// Who does not want a connection beside the broker's any more does not wait for a silent proxy.
func TestDialingBesideEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		p, err := pipe.Dial(context.Background(), pipe.Options{
			URL: parse(t, "tcp://broker"), ClientID: "c", KeepAlive: time.Hour, Proxy: &url.URL{Scheme: "http", Host: "proxy"},
			Dial: func(context.Context, string, string) (net.Conn, error) {
				dials++
				ours, theirs := net.Pipe()
				go func(silent bool) {
					defer theirs.Close()
					r := bufio.NewReader(theirs)
					if _, err := http.ReadRequest(r); err == nil && !silent {
						_, _ = io.WriteString(theirs, "HTTP/1.1 200 OK\r\n\r\n")
						_, _ = r.ReadByte()
						_, _ = theirs.Write([]byte{0x20, 2, 0, 0}) // CONNACK
					}
					_, _ = io.Copy(io.Discard, r)
				}(dials > 1)
				return ours, nil
			},
		})
		check(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(time.Second, cancel)
		began := time.Now()
		if _, err := p.DialBeside(ctx, "tcp", "files:443"); !errors.Is(err, context.Canceled) || time.Since(began) > 2*time.Second {
			t.Errorf("got %v after %s, want the end of the context at once", err, time.Since(began))
		}
		p.Close()
		time.Sleep(time.Minute)
	})
}

// httpProxy answers CONNECT.
func httpProxy(t *testing.T) (*url.URL, func() int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	count := make(chan struct{}, 100)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil || r.Method != http.MethodConnect {
					return
				}
				up, err := net.Dial("tcp", r.Host)
				if err != nil {
					return
				}
				defer up.Close()
				count <- struct{}{}
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
				go func() { _, _ = io.Copy(up, c); _ = up.Close() }()
				_, _ = io.Copy(c, up)
			}()
		}
	}()
	return &url.URL{Scheme: "http", Host: ln.Addr().String()}, func() int { return len(count) }
}

// A link that is cut while much is on its way up costs no minute of the next one.
func TestACutFreesAllWhoSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		go func() { // answers CONNECT and reads nothing more
			b := make([]byte, 64)
			_, _ = theirs.Read(b)
			_, _ = theirs.Write([]byte{0x20, 2, 0, 0})
		}()
		p, err := pipe.Dial(context.Background(), pipe.Options{
			URL: parse(t, "tcp://broker"), ClientID: "c", KeepAlive: time.Minute,
			Dial: func(context.Context, string, string) (net.Conn, error) { return ours, nil },
		})
		check(t, err)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if err := p.Send(context.Background(), "a", make([]byte, 10_000)); !errors.Is(err, pipe.ErrClosed) {
					t.Errorf("send: %v, want that the connection is closed", err)
				}
			})
			all.Go(func() {
				if err := p.Post("a", make([]byte, 10_000)); err != nil && !errors.Is(err, pipe.ErrClosed) {
					t.Errorf("post: %v, want that the connection is closed", err)
				}
			})
		}
		all.Go(func() {
			if err := p.Subscribe(context.Background(), "b"); !errors.Is(err, pipe.ErrClosed) {
				t.Errorf("subscribe: %v, want that the connection is closed", err)
			}
		})
		time.Sleep(10 * time.Second)
		began := time.Now()
		_ = theirs.Close()
		all.Wait()
		p.Close()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("freed after %s", took)
		}
		time.Sleep(time.Minute) // what the client still holds ends
	})
}

// A connection that is closed below us is lost like any other.
func TestAConnectionThatIsClosedOnThisSideIsNoticed(t *testing.T) {
	var conn net.Conn
	p, err := pipe.Dial(t.Context(), pipe.Options{
		URL: parse(t, "tcp://"+broker(t, "tcp", nil)), ClientID: "c", KeepAlive: time.Minute,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, address)
			conn = c
			return c, err
		},
	})
	check(t, err)
	defer p.Close()
	check(t, conn.Close())
	select {
	case <-p.Lost():
	case <-time.After(30 * time.Second): // before the ping of a minute
		t.Error("nobody noticed")
	}
}
