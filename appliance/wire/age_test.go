package wire

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// A connection that is always in use is dialed again after MaxAge, or a backend that moved
// would never be found.
func TestConnectionsGrowOld(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) }))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	for _, tc := range []struct {
		name     string
		protocol Protocol
		age      time.Duration
		dials    int64
		proto    string
	}{
		{"HTTP/1.1, no bound", HTTP1, 0, 1, "HTTP/1.1"},
		{"HTTP/1.1, at once", HTTP1, time.Nanosecond, 4, "HTTP/1.1"},
		{"HTTP/2, no bound", HTTP2, 0, 1, "HTTP/2.0"},
		{"HTTP/2, at once", HTTP2, time.Nanosecond, 4, "HTTP/2.0"},
	} {
		var dials atomic.Int64
		c := NewClient(Target{Addr: s.Listener.Addr().String(), Protocol: tc.protocol, MaxAge: tc.age, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, network, addr)
		}})
		for range 4 {
			resp, err := c.Do(context.Background(), &Request{Method: "GET", Path: "/"})
			if err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
			b, err := io.ReadAll(resp.Body)
			if err != nil || string(b) != tc.proto {
				t.Errorf("%s: got %q, %v", tc.name, b, err)
			}
			resp.Body.Close()
		}
		if n := dials.Load(); n != tc.dials {
			t.Errorf("%s: %d dials for four calls, want %d", tc.name, n, tc.dials)
		}
		c.Close()
	}
}
