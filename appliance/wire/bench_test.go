package wire

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"tidegate/appliance/wire/wiretest"
)

const benchRequest = "GET /pets/v1/pet/17?full=1 HTTP/1.1\r\nHost: gateway.example\r\nUser-Agent: bench/1.0\r\n" +
	"Accept: application/json\r\nAuthorization: Bearer abcdefghijklmnopqrstuvwxyz\r\n\r\n"

var benchBody = strings.Repeat("0123456789abcdef", 64)

// caller makes closed-loop calls over one connection and allocates nothing.
type caller struct {
	c   net.Conn
	buf []byte
	n   int // length of one answer
}

func newCaller(tb testing.TB, addr string) *caller {
	k := &caller{c: dial(tb, addr), buf: make([]byte, 64<<10)}
	_ = k.c.SetDeadline(past.AddDate(200, 0, 0))
	if _, err := io.WriteString(k.c, benchRequest); err != nil {
		tb.Fatal(err)
	}
	br := bufio.NewReader(io.TeeReader(k.c, countTo{&k.n}))
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
		tb.Fatal(resp.Status, err)
	}
	return k
}

type countTo struct{ n *int }

func (c countTo) Write(p []byte) (int, error) { *c.n += len(p); return len(p), nil }

var benchBytes = []byte(benchRequest)

func (k *caller) call(tb testing.TB) {
	if _, err := k.c.Write(benchBytes); err != nil {
		tb.Fatal(err)
	}
	if _, err := io.ReadFull(k.c, k.buf[:k.n]); err != nil {
		tb.Fatal(err)
	}
}

// BenchmarkPeers is what the other benchmarks hold beside the engine: both ends of loopback.
func BenchmarkPeers(b *testing.B) {
	k := newCaller(b, wiretest.Backend(b, wiretest.JSON))
	b.ReportAllocs()
	defer wiretest.CPU(b)()
	for b.Loop() {
		k.call(b)
	}
}

func okHandler() Handler {
	body := []byte(benchBody)
	h := Header{{"Content-Type", "application/json"}}
	return handlerFunc(func(x Exchange) {
		_ = x.Start(200, h, int64(len(body)))
		_, _ = x.Write(body)
	})
}

func BenchmarkServer(b *testing.B) {
	k := newCaller(b, start(b, &Server{Handler: okHandler()}))
	b.ReportAllocs()
	defer wiretest.CPU(b)()
	for b.Loop() {
		k.call(b)
	}
}

// stdServer is net/http doing the same.
func stdServer(tb testing.TB) string {
	return backend(tb, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, benchBody)
	})
}

func BenchmarkServerNetHTTP(b *testing.B) {
	k := newCaller(b, stdServer(b))
	b.ReportAllocs()
	defer wiretest.CPU(b)()
	for b.Loop() {
		k.call(b)
	}
}

func BenchmarkClient(b *testing.B) {
	c := NewClient(Target{Addr: wiretest.Backend(b, wiretest.JSON)})
	defer c.Close()
	buf := make([]byte, 4<<10)
	h := Header{{"Accept", "application/json"}, {"User-Agent", "bench/1.0"}}
	r := Request{Method: "GET", Path: "/pets/v1/pet/17", Header: h}
	b.ReportAllocs()
	defer wiretest.CPU(b)()
	for b.Loop() {
		clientCall(b, c, &r, buf)
	}
}

func clientCall(tb testing.TB, c *Client, r *Request, buf []byte) {
	resp, err := c.Do(context.Background(), r)
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := resp.Body.Read(buf); err == io.EOF {
			break
		} else if err != nil {
			tb.Fatal(err)
		}
	}
	resp.Body.Close()
}

func BenchmarkClientNetHTTP(b *testing.B) {
	url := "http://" + wiretest.Backend(b, wiretest.JSON) + "/pets/v1/pet/17"
	t := &http.Transport{DisableCompression: true}
	defer t.CloseIdleConnections()
	b.ReportAllocs()
	defer wiretest.CPU(b)()
	for b.Loop() {
		r, _ := http.NewRequest("GET", url, nil)
		resp, err := t.RoundTrip(r)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

func BenchmarkProxy(b *testing.B) {
	c := NewClient(Target{Addr: wiretest.Backend(b, wiretest.JSON)})
	defer c.Close()
	k := newCaller(b, start(b, &Server{Handler: pooledProxy(c)}))
	b.ReportAllocs()
	defer wiretest.CPU(b)()
	for b.Loop() {
		k.call(b)
	}
}

func BenchmarkProxyReverseProxy(b *testing.B) {
	u := &url.URL{Scheme: "http", Host: wiretest.Backend(b, wiretest.JSON)}
	p := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(u) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
	}
	s := httptest.NewServer(p)
	defer s.Close()
	k := newCaller(b, s.Listener.Addr().String())
	b.ReportAllocs()
	defer wiretest.CPU(b)()
	for b.Loop() {
		k.call(b)
	}
}

func BenchmarkParseRequest(b *testing.B) {
	lim := Limits{URIBytes: 8 << 10, HeaderFields: 100}
	q := request{}
	q.Header = make(Header, 0, 16)
	b.ReportAllocs()
	for b.Loop() {
		if end, _, _ := headEnd(benchBytes, 0); end != len(benchBytes) {
			b.Fatal("end")
		}
		if err := parseRequest(benchBytes, &lim, &q); err != nil {
			b.Fatal(err)
		}
	}
}
