package wire

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestPoolIsBounded(t *testing.T) {
	release := make(chan struct{})
	var entered sync.WaitGroup
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			entered.Done()
			<-release
		}
		_, _ = io.WriteString(w, "ok")
	})
	c := newTestClient(t, Target{Addr: addr, MaxActive: 2, MaxWaiting: 1, MaxIdle: 1})
	entered.Add(2)
	var calls sync.WaitGroup
	for range 2 {
		calls.Go(func() {
			if _, _, err := fetchAll(t, c, Request{Path: "/wait"}); err != nil {
				t.Error(err)
			}
		})
	}
	entered.Wait()
	third := make(chan error, 1)
	go func() {
		_, _, err := fetchAll(t, c, Request{Path: "/"})
		third <- err
	}()
	for c.Stats().Waiting == 0 {
		runtime.Gosched()
	}
	_, _, err := fetchAll(t, c, Request{Path: "/"})
	if !errors.Is(err, ErrBusy) || !NeverSent(err) {
		t.Errorf("got %v, want ErrBusy", err)
	}
	close(release)
	if err := <-third; err != nil {
		t.Error(err)
	}
	calls.Wait()
	if st := c.Stats(); st.Active != 0 || st.Idle > 1 || st.Dialed != 2 {
		t.Errorf("got %+v", st)
	}
	c.Close()
	if _, _, err := fetchAll(t, c, Request{Path: "/"}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestExpiredConnectionsAreClosed(t *testing.T) {
	ended := make(chan struct{})
	addr := fixed(t, func(_ int, c net.Conn, _ string) bool {
		_, _ = io.WriteString(c, answer200("ok"))
		_, _ = c.Read(make([]byte, 1))
		close(ended)
		return false
	})
	c := newTestClient(t, Target{Addr: addr, IdleTime: time.Nanosecond})
	if _, _, err := fetchAll(t, c, Request{Path: "/"}); err != nil {
		t.Fatal(err)
	}
	c.CloseExpired()
	<-ended
}

func TestTLSAndHTTP2ToBackends(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, r.Proto+" "+r.RequestURI+" "+r.Trailer.Get("X-In")+" "+string(b))
		w.Header().Set("X-Sum", "1")
	})
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	conf := s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	conf.NextProtos, conf.ServerName = nil, "example.com"
	plain := httptest.NewUnstartedServer(h)
	plain.Config.Protocols = new(http.Protocols)
	plain.Config.Protocols.SetUnencryptedHTTP2(true)
	plain.Start()
	defer plain.Close()
	for _, tc := range []struct {
		proto  string
		target Target
	}{
		{"HTTP/1.1", Target{Addr: s.Listener.Addr().String(), TLS: conf}},
		{"HTTP/2.0", Target{Addr: s.Listener.Addr().String(), TLS: conf, Protocol: HTTP2}},
		{"HTTP/2.0", Target{Addr: plain.Listener.Addr().String(), Protocol: HTTP2}},
	} {
		c := newTestClient(t, tc.target)
		for _, path := range []string{"/a%2Fb", "//x/y", "/"} {
			resp, err := c.Do(context.Background(), &Request{
				Method: "POST", Path: path, Query: "x=1;y", Length: -1, Body: strings.NewReader("abc"),
				Trailer: func() Header { return Header{{"X-In", "in"}} }, Announced: "X-In", Timeout: 10 * time.Second, Stall: 10 * time.Second,
			})
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			if want := tc.proto + " " + path + "?x=1;y in abc"; string(b) != want || err != nil || resp.Trailer().Value("X-Sum") != "1" {
				t.Errorf("got %q %v trailer %v, want %q", b, err, resp.Trailer(), want)
			}
			resp.Body.Close()
		}
		if st := c.Stats(); tc.target.Protocol == HTTP1 && st.Dialed != 1 {
			t.Errorf("TLS connection was not kept: %+v", st)
		}
	}
	strict := conf.Clone()
	strict.RootCAs = nil
	c := newTestClient(t, Target{Addr: s.Listener.Addr().String(), TLS: strict})
	if _, _, err := fetchAll(t, c, Request{Path: "/"}); !NeverSent(err) {
		t.Errorf("unknown authority: got %v", err)
	}
}

func TestOutboundProxyIsAskedToConnect(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // never read
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "ok "+r.Host) })
	var seen atomic.Value
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			r, err := http.ReadRequest(bufio.NewReader(c))
			if err != nil {
				return
			}
			seen.Store(r.Method + " " + r.Host + " " + r.Header.Get("Proxy-Authorization"))
			if r.Host != addr {
				_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
				c.Close()
				continue
			}
			up, err := net.Dial("tcp", addr)
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			go Pipe(c, up)
		}
	}()
	p := &Proxy{Addr: ln.Addr().String(), Authorization: "Basic x"}
	c := newTestClient(t, Target{Addr: addr, Proxy: p})
	if _, body, err := fetchAll(t, c, Request{Path: "/"}); body != "ok "+addr || err != nil || seen.Load() != "CONNECT "+addr+" Basic x" {
		t.Errorf("got %q %v, proxy saw %v", body, err, seen.Load())
	}
	c = newTestClient(t, Target{Addr: "192.0.2.1:80", Proxy: p})
	if _, _, err := fetchAll(t, c, Request{Path: "/"}); !NeverSent(err) || !strings.Contains(err.Error(), "403") {
		t.Errorf("got %v", err)
	}
}
