package wire

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"tidegate/policy"
)

// echo answers with method, path and body.
var echo = handlerFunc(func(x Exchange) {
	b, err := io.ReadAll(x.RequestBody())
	if err != nil {
		status, _ := BodyFault(err)
		say(x, status, err.Error())
		return
	}
	say(x, 200, x.Method()+" "+x.Path()+" "+string(b))
})

func readAnswer(t *testing.T, br *bufio.Reader, method string) (*http.Response, string) {
	t.Helper()
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func TestPipelinedCallsAreAnsweredInOrder(t *testing.T) {
	addr := start(t, &Server{Handler: echo})
	c := dial(t, addr)
	var in strings.Builder
	const n = 300 // more than any buffer holds
	for i := range n {
		switch i % 3 {
		case 0:
			fmt.Fprintf(&in, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
		case 1:
			fmt.Fprintf(&in, "POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody\r\n", i) // an empty line behind
		case 2:
			fmt.Fprintf(&in, "POST /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n", i)
		}
	}
	go func() { _, _ = io.WriteString(c, in.String()) }()
	br := bufio.NewReader(c)
	for i := range n {
		want := fmt.Sprintf("GET /%d ", i)
		if i%3 > 0 {
			want = fmt.Sprintf("POST /%d body", i)
		}
		if _, got := readAnswer(t, br, "GET"); got != want {
			t.Fatalf("call %d: got %q, want %q", i, got, want)
		}
	}
}

func TestHeadArrivesInPieces(t *testing.T) {
	addr := start(t, &Server{Handler: echo})
	c := dial(t, addr)
	in := "POST /x HTTP/1.1\r\nHost: a\r\nX-Long: " + strings.Repeat("a", 6000) + "\r\nContent-Length: 3\r\n\r\nabc"
	for in != "" {
		n := min(len(in), 97)
		if _, err := io.WriteString(c, in[:n]); err != nil {
			t.Fatal(err)
		}
		in = in[n:]
	}
	if _, got := readAnswer(t, bufio.NewReader(c), "POST"); got != "POST /x abc" {
		t.Errorf("got %q", got)
	}
}

func TestExpectIsAnsweredByTheFirstRead(t *testing.T) {
	read := make(chan bool, 1)
	addr := start(t, &Server{Handler: handlerFunc(func(x Exchange) {
		if <-read {
			echo(x)
			return
		}
		say(x, 401, "no")
	})})
	const head = "PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
	c := dial(t, addr)
	br := bufio.NewReader(c)
	read <- true
	_, _ = io.WriteString(c, head)
	line, _ := br.ReadString('\n')
	blank, _ := br.ReadString('\n')
	if line != "HTTP/1.1 100 Continue\r\n" || blank != "\r\n" {
		t.Fatalf("got %q %q", line, blank)
	}
	_, _ = io.WriteString(c, "abc")
	if _, got := readAnswer(t, br, "PUT"); got != "PUT /x abc" {
		t.Errorf("got %q", got)
	}
	// The same connection serves on; a refusal comes without 100 and closes.
	read <- false
	_, _ = io.WriteString(c, head)
	resp, _ := readAnswer(t, br, "PUT")
	if resp.StatusCode != 401 || !resp.Close {
		t.Errorf("got %d, close %v; want 401 without 100, closing", resp.StatusCode, resp.Close)
	}
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("connection goes on: %v", err)
	}
}

func TestAnswersAreFramedForEachKindOfRequest(t *testing.T) {
	addr := start(t, &Server{Handler: handlerFunc(func(x Exchange) {
		switch x.Path() {
		case "/known":
			say(x, 200, "hello")
		case "/unknown":
			_ = x.Start(200, nil, -1)
			_, _ = io.WriteString(x, "hel")
			_ = x.Flush()
			_, _ = io.WriteString(x, "lo")
			x.Trailer(Header{{"X-Sum", "5"}})
		case "/empty":
			_ = x.Start(204, nil, 0)
		case "/same":
			_ = x.Start(304, Header{{"ETag", "x"}}, 5)
		case "/split":
			_ = x.Start(200, Header{{"X-A", "a\r\nX-Evil: b\nc"}, {"Connection", "x"}, {"Content-Length", "99"}}, 0)
		case "/big":
			b := strings.Repeat("0123456789", 10_000)
			_ = x.Start(200, nil, int64(len(b)))
			_, _ = io.WriteString(x, b)
		}
	})})
	head := func(method, path, version, more string) string {
		return method + " " + path + " " + version + "\r\nHost: a\r\n" + more + "\r\n"
	}
	const dated = "Date: "
	for _, tc := range []struct{ in, want string }{
		{head("GET", "/known", "HTTP/1.1", "Connection: close\r\n"), "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"},
		{head("HEAD", "/known", "HTTP/1.1", "Connection: close\r\n"), "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"},
		{head("GET", "/known", "HTTP/1.0", ""), "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"},
		{head("GET", "/known", "HTTP/1.0", "Connection: keep-alive\r\n"), "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello"},
		{head("GET", "/unknown", "HTTP/1.1", ""), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nX-Sum: 5\r\n\r\n"},
		{head("HEAD", "/unknown", "HTTP/1.1", ""), "HTTP/1.1 200 OK\r\n\r\n"},
		{head("GET", "/unknown", "HTTP/1.0", "Connection: keep-alive\r\n"), "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"},
		{head("GET", "/empty", "HTTP/1.1", ""), "HTTP/1.1 204 No Content\r\n\r\n"},
		{head("GET", "/same", "HTTP/1.1", ""), "HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 5\r\n\r\n"},
		{head("GET", "/split", "HTTP/1.1", ""), "HTTP/1.1 200 OK\r\nX-A: a  X-Evil: b c\r\nContent-Length: 0\r\n\r\n"},
	} {
		got := raw(t, addr, tc.in)
		i := strings.Index(got, dated)
		if i < 0 {
			t.Errorf("%q: no Date in %q", tc.in, got)
			continue
		}
		j := i + strings.Index(got[i:], "\n") + 1
		if got = got[:i] + got[j:]; got != tc.want {
			t.Errorf("%q:\n got %q\nwant %q", tc.in, got, tc.want)
		}
	}
	if got := raw(t, addr, head("GET", "/big", "HTTP/1.1", "")); !strings.HasSuffix(got, "\r\n\r\n"+strings.Repeat("0123456789", 10_000)) {
		t.Errorf("big body came with %d bytes", len(got))
	}
}

func TestIncompleteAnswersAreSeenAsSuch(t *testing.T) {
	addr := start(t, &Server{Handler: handlerFunc(func(x Exchange) {
		switch x.Path() {
		case "/short":
			_ = x.Start(200, nil, 10)
			_, _ = io.WriteString(x, "abc")
		case "/aborted":
			_ = x.Start(200, nil, -1)
			_, _ = io.WriteString(x, "abc")
			_ = x.Flush()
			x.Abort()
		case "/panic":
			_ = x.Start(200, nil, -1)
			_ = x.Flush()
			panic("a fault of ours")
		case "/nothing":
		}
	})})
	for _, path := range []string{"/short", "/aborted", "/panic", "/nothing"} {
		for _, version := range []string{"1.0", "1.1"} {
			c := dial(t, addr)
			_, _ = io.WriteString(c, "GET "+path+" HTTP/"+version+"\r\nHost: a\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
			}
			var late net.Error
			if err == nil || errors.As(err, &late) && late.Timeout() {
				t.Errorf("%s HTTP/%s: the answer looks whole or still to come: %v", path, version, err)
			}
		}
	}
}

func TestShutdownEndsIdleConnectionsAndWaitsForCalls(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s := &Server{Refuser: statusRefuser{}, Handler: handlerFunc(func(x Exchange) {
		close(entered)
		<-release
		echo(x)
	})}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	idle, busy := dial(t, ln.Addr().String()), dial(t, ln.Addr().String())
	_, _ = io.WriteString(busy, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
	<-entered
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(context.Background()) }()
	if _, err := io.ReadAll(idle); err != nil {
		t.Errorf("idle connection: %v", err)
	}
	select {
	case <-down:
		t.Fatal("Shutdown did not wait for the call")
	default:
	}
	close(release)
	resp, got := readAnswer(t, bufio.NewReader(busy), "GET")
	if got != "GET /x " || !resp.Close {
		t.Errorf("got %q, close %v", got, resp.Close)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("still listening")
	}
}

func TestShutdownCutsWhatDoesNotEnd(t *testing.T) {
	entered := make(chan struct{})
	s := &Server{Handler: handlerFunc(func(x Exchange) {
		close(entered)
		<-x.Context().Done()
		x.Abort()
	})}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(ln) }()
	c := dial(t, ln.Addr().String())
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-entered
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	_, err = io.ReadAll(c)
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		t.Error("the connection goes on")
	}
}

func TestClientAddressAndIDComeFromTrustedProxiesOnly(t *testing.T) {
	loopback := Ranges([]policy.Range{
		{From: netip.MustParseAddr("10.0.0.0"), To: netip.MustParseAddr("10.0.0.255")},
		{From: netip.MustParseAddr("127.0.0.0"), To: netip.MustParseAddr("127.255.255.255")},
	})
	show := handlerFunc(func(x Exchange) { say(x, 200, fmt.Sprint(x.Client(), " ", x.TrustedPeer(), " ", x.ID())) })
	trusting := start(t, &Server{Handler: show, Trusted: loopback})
	rfc7239 := start(t, &Server{Handler: show, Trusted: loopback, ClientField: Forwarded})
	wary := start(t, &Server{Handler: show})
	for _, tc := range []struct{ name, addr, fields, want string }{
		{"one", trusting, "X-Forwarded-For: 192.0.2.7\r\n", "192.0.2.7 true"},
		{"spoofed in front", trusting, "X-Forwarded-For: 1.1.1.1, 192.0.2.7\r\n", "192.0.2.7 true"},
		{"through two proxies", trusting, "X-Forwarded-For: 1.1.1.1, 192.0.2.7, 10.0.0.3\r\n", "192.0.2.7 true"},
		{"two fields", trusting, "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-For: 10.0.0.3\r\n", "192.0.2.7 true"},
		{"port and IPv6", trusting, "X-Forwarded-For: [2001:db8::1]:99\r\n", "2001:db8::1 true"},
		{"garbage", trusting, "X-Forwarded-For: 192.0.2.7, unknown\r\n", "127.0.0.1 true"},
		{"all trusted", trusting, "X-Forwarded-For: 10.0.0.9\r\n", "10.0.0.9 true"},
		{"mapped", trusting, "X-Forwarded-For: 192.0.2.7, ::ffff:10.0.0.9\r\n", "192.0.2.7 true"},
		{"the other field", trusting, "Forwarded: for=192.0.2.7\r\n", "127.0.0.1 true"},
		{"RFC 7239", rfc7239, "X-Forwarded-For: 1.1.1.1\r\nForwarded: for=1.1.1.1, for=\"[2001:db8::7]:1\";proto=https , For=10.0.0.4\r\n", "2001:db8::7 true"},
		{"untrusted", wary, "X-Forwarded-For: 192.0.2.7\r\n", "127.0.0.1 false"},
	} {
		got := raw(t, tc.addr, "GET / HTTP/1.1\r\nHost: a\r\n"+tc.fields+"\r\n")
		if _, body, _ := strings.Cut(got, "\r\n\r\n"); !strings.HasPrefix(body, tc.want+" ") {
			t.Errorf("%s: got %q, want %q", tc.name, body, tc.want)
		}
	}
	id := func(addr, given string) string {
		got := raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: "+given+"\r\n\r\n")
		return got[strings.LastIndexByte(got, ' ')+1:]
	}
	if got := id(trusting, "abc-1"); got != "abc-1" {
		t.Errorf("got %q", got)
	}
	for _, got := range []string{id(wary, "abc-1"), id(trusting, "a b"), id(trusting, strings.Repeat("a", 129))} {
		if len(got) != 32 {
			t.Errorf("got %q, want a new id", got)
		}
	}
	if first, second := id(wary, ""), id(wary, ""); first == second {
		t.Error("two calls share an id")
	}
}

func TestRangesFindNestedOnes(t *testing.T) {
	in := Ranges([]policy.Range{
		{From: netip.MustParseAddr("10.1.0.0"), To: netip.MustParseAddr("10.1.0.5")},
		{From: netip.MustParseAddr("10.0.0.0"), To: netip.MustParseAddr("10.255.255.255")},
		{From: netip.MustParseAddr("fd00::"), To: netip.MustParseAddr("fd00::ff")},
	})
	for a, want := range map[string]bool{
		"10.1.0.9": true, "10.0.0.0": true, "9.255.255.255": false, "11.0.0.0": false, "fd00::1": true, "fd00::100": false, "::ffff:10.1.1.1": true, "::1": false,
	} {
		if in(netip.MustParseAddr(a)) != want {
			t.Errorf("%s: want %v", a, want)
		}
	}
}

func TestTLSServesBothProtocols(t *testing.T) {
	conf, client := testTLS(t)
	s := &Server{Handler: handlerFunc(func(x Exchange) {
		if x.TLS() == nil {
			t.Error("no TLS state")
		}
		b, _ := io.ReadAll(x.RequestBody())
		say(x, 200, x.Head().Proto+" "+string(b))
	}), TLSConfig: conf}
	addr := start(t, s)
	for proto, next := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		tr := &http.Transport{TLSClientConfig: client.Clone(), ForceAttemptHTTP2: next}
		for _, body := range []string{"", "abc", strings.Repeat("x", 100_000)} {
			r, _ := http.NewRequest("POST", "https://"+addr+"/", strings.NewReader(body))
			resp, err := tr.RoundTrip(r)
			if err != nil {
				t.Fatal(proto, err)
			}
			got, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(got) != proto+" "+body {
				t.Errorf("%s: got %.40q", proto, got)
			}
		}
		tr.CloseIdleConnections()
	}
	// A client that speaks no TLS is ended and frees its place.
	_ = raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	c, err := tls.Dial("tcp", addr, client)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
