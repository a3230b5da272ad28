package wire

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"
)

// handlerFunc is a Handler.
type handlerFunc func(x Exchange)

func (f handlerFunc) Serve(x Exchange) { f(x) }

// statusRefuser answers refusals with their status and reason.
type statusRefuser struct{}

func (statusRefuser) Refuse(x Exchange, status int, reason string) {
	_ = x.Start(status, Header{{"X-Refused", reason}, {"X-Request-Id", x.ID()}}, int64(len(reason)))
	_, _ = x.Write([]byte(reason))
}

// say answers with a short text.
func say(x Exchange, status int, s string) {
	_ = x.Start(status, Header{{"Content-Type", "text/plain"}}, int64(len(s)))
	_, _ = x.Write([]byte(s))
}

// start runs s on a loopback port until the test ends and returns its address.
func start(t testing.TB, s *Server) string {
	t.Helper()
	if s.Refuser == nil {
		s.Refuser = statusRefuser{}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return ln.Addr().String()
}

// dial connects to addr for a raw conversation that ends with the test.
func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second)) // a hanging test fails instead
	return c
}

// raw sends s, closes the sending side and returns all that comes back.
func raw(t testing.TB, addr, s string) string {
	t.Helper()
	c := dial(t, addr)
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	b, _ := io.ReadAll(c)
	return string(b)
}

// backend is a net/http server.
func backend(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// proxy forwards every call to c and relays the answer.
func proxy(c *Client) Handler {
	return handlerFunc(func(x Exchange) {
		q := x.Head()
		r := Request{
			Method: q.Method, Path: q.Path, Query: q.Query, Host: q.Authority, Header: q.Header,
			Length: q.Length, Upgrade: q.Upgrade, Trailers: q.Trailers, Timeout: 10 * time.Second,
		}
		if q.Length != 0 {
			r.Body, r.Interrupt = struct{ io.Reader }{x.RequestBody()}, Interrupter(x)
			if q.Length < 0 {
				r.Trailer, r.Announced = x.RequestTrailer, q.Announced
			}
		}
		resp, err := c.Do(x.Context(), &r)
		if err != nil {
			status := http.StatusBadGateway
			if s, ok := BodyFault(err); ok {
				status = s
			}
			say(x, status, err.Error())
			return
		}
		_ = Relay(x, resp, nil)
	})
}

// fixed is a TCP server that reads one head per answer and answers with given bytes.
func fixed(t testing.TB, answer func(n int, c net.Conn, head string) bool) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	wg.Add(1)
	go func() {
		defer wg.Done()
		for n := 0; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Add(1)
			go func(n int) {
				defer wg.Done()
				defer c.Close()
				buf := make([]byte, 0, 1<<16)
				for {
					end := 0
					for end == 0 {
						if end, _, _ = headEnd(buf, 0); end > 0 {
							break
						}
						m, err := c.Read(buf[len(buf):cap(buf)])
						if m == 0 || err != nil {
							return
						}
						buf = buf[:len(buf)+m]
					}
					head := string(buf[:end])
					buf = append(buf[:0], buf[end:]...)
					if !answer(n, c, head) {
						return
					}
				}
			}(n)
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

func testTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	pool := s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	return &tls.Config{Certificates: s.TLS.Certificates}, &tls.Config{RootCAs: pool, ServerName: "example.com"}
}

func answer200(body string) string {
	return "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
}
