package wire

import (
	"context"
	"io"
	"net"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"tidegate/appliance/wire/wiretest"
	"time"
)

// allocates runs f and complains if it allocates. Under the race detector sync.Pool drops
// what it gets at random, so there f only runs.
func allocates(t *testing.T, f func()) {
	t.Helper()
	n := testing.AllocsPerRun(2000, f)
	if n != 0 && !raceDetector() {
		t.Errorf("%v allocations per call", n)
	}
}

func raceDetector() bool {
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}

// The calls below include the work of the peers on loopback, which allocate nothing either.

func TestServedCallsAllocateNothing(t *testing.T) {
	view := handlerFunc(func(x Exchange) {
		if x.Host() != "gateway.example" || x.Header("Authorization") == "" || len(x.ID()) != 32 || !x.Client().IsLoopback() {
			t.Error("the head is not as sent")
		}
		okAnswer(x)
	})
	k := newCaller(t, start(t, &Server{Handler: view}))
	allocates(t, func() { k.call(t) })
}

var (
	okBytes  = []byte(strings.Repeat("0123456789abcdef", 64))
	okFields = Header{{"Content-Type", "application/json"}}
)

func okAnswer(x Exchange) {
	_ = x.Start(200, okFields, int64(len(okBytes)))
	_, _ = x.Write(okBytes)
}

func TestTriesAllocateNothing(t *testing.T) {
	c := newTestClient(t, Target{Addr: wiretest.Backend(t, wiretest.JSON)})
	buf := make([]byte, 4<<10)
	var life lifeline
	r := Request{Method: "GET", Path: "/pets/v1/pet/17", Header: Header{{"Accept", "application/json"}}, Timeout: time.Minute}
	try := func() {
		resp, err := c.Do(&life, &r)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = resp.Body.Read(buf)
		}
		if err != io.EOF {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	allocates(t, try)
}

func TestProxiedCallsAllocateNothing(t *testing.T) {
	c := newTestClient(t, Target{Addr: wiretest.Backend(t, wiretest.JSON)})
	k := newCaller(t, start(t, &Server{Handler: pooledProxy(c)}))
	allocates(t, func() { k.call(t) })
}

// pooledProxy forwards like proxy, with the request kept between calls, as a gateway does.
func pooledProxy(c *Client) Handler {
	var pool sync.Pool
	return handlerFunc(func(x Exchange) {
		r, ok := pool.Get().(*Request)
		if !ok {
			r = new(Request)
		}
		q := x.Head()
		*r = Request{Method: q.Method, Path: q.Path, Query: q.Query, Host: q.Authority, Header: q.Header, Timeout: time.Minute}
		resp, err := c.Do(x.Context(), r)
		if err == nil {
			err = Relay(x, resp, nil)
		}
		if err != nil {
			x.Abort()
		}
		*r = Request{}
		pool.Put(r)
	})
}

// idleConns opens n connections that make one call each and stay.
func idleConns(tb testing.TB, addr string, n int) {
	buf := make([]byte, 4<<10)
	for i := range n {
		// Addresses of the loopback net keep local ports from running out.
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+i/20000), 1)}}
		c, err := d.DialContext(context.Background(), "tcp", addr)
		if err != nil {
			tb.Skip("not enough file descriptors for the benchmark: ", err)
		}
		tb.Cleanup(func() { c.Close() })
		if _, err := c.Write(benchBytes); err != nil {
			tb.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			tb.Fatal(err)
		}
	}
}

// BenchmarkIdleConnections reports the heap and stack that one idle connection of each
// engine costs, less what the test's own side of it costs.
func BenchmarkIdleConnections(b *testing.B) {
	const n = 5000
	used := func() uint64 {
		for range 4 {
			runtime.GC() // stacks shrink by half at a time
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	sink := func(b *testing.B) string { // accepts, answers once, keeps only the connection
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { ln.Close() })
		go func() {
			buf, held := make([]byte, 4<<10), make([]net.Conn, 0, n)
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				_, _ = c.Read(buf)
				_, _ = c.Write([]byte("ok"))
				held = append(held, c) //nolint:staticcheck // keeps them open
			}
		}()
		return ln.Addr().String()
	}
	measure := func(b *testing.B, addr string) {
		var per float64
		for b.Loop() {
			before := used()
			idleConns(b, addr, n)
			per = float64(used()-before) / n
		}
		b.ReportMetric(per, "B/conn")
		b.ReportMetric(0, "ns/op")
	}
	b.Run("tcp-both-ends", func(b *testing.B) { measure(b, sink(b)) })
	b.Run("wire", func(b *testing.B) { measure(b, start(b, &Server{Handler: okHandler()})) })
	b.Run("net-http", func(b *testing.B) { measure(b, stdServer(b)) })
}
