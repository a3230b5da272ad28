package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestStreamsOfAConnectionAreBounded holds calls at a backend and counts its connections: each has as
// many calls as it may, another one is opened for more, and beyond both a call is not served.
func TestStreamsOfAConnectionAreBounded(t *testing.T) {
	var conns atomic.Int64
	var mu sync.Mutex
	most, now := 0, map[string]int{}
	hold := make(chan struct{})
	arrived := make(chan struct{}, 100)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		now[r.RemoteAddr]++
		most = max(most, now[r.RemoteAddr])
		mu.Unlock()
		arrived <- struct{}{}
		<-hold
		mu.Lock()
		now[r.RemoteAddr]--
		mu.Unlock()
		_, _ = io.WriteString(w, strings.Repeat("x", 100))
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	c := newTestClient(t, Target{Addr: s.Listener.Addr().String(), Protocol: HTTP2, Streams: 3, MaxActive: 2, WaitTime: 20 * time.Millisecond})
	ask := func(ctx context.Context) error {
		resp, err := c.Do(ctx, &Request{Method: "GET", Path: "/"})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if err := ask(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	for range 6 {
		<-arrived
	}
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections for 6 calls of 3 each", n)
	}
	if err := ask(t.Context()); !errors.Is(err, ErrBusy) || !NeverSent(err) {
		t.Errorf("a call beyond both: %v", err)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if err := ask(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that nobody waits for: %v", err)
	}
	close(hold)
	wg.Wait()
	for range 10 { // there is room again, on the connections that are there
		if err := ask(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := conns.Load(); n != 2 || most != 3 {
		t.Errorf("%d connections, at most %d calls on one", n, most)
	}
}

func TestConnectionsOfBoundedStreamsGrowOld(t *testing.T) {
	var conns atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") }))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	c := newTestClient(t, Target{Addr: s.Listener.Addr().String(), Protocol: HTTP2, Streams: 3, MaxAge: time.Nanosecond})
	for range 4 {
		resp, err := c.Do(t.Context(), &Request{Method: "GET", Path: "/"})
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if n := conns.Load(); n != 4 {
		t.Errorf("%d connections for four calls", n)
	}
}
