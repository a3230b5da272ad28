package wire

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func newTestClient(t testing.TB, target Target) *Client {
	t.Helper()
	c := NewClient(target)
	t.Cleanup(func() {
		c.Close()
		if st := c.Stats(); st.Active != 0 || st.Idle != 0 {
			t.Errorf("connections are left: %+v", st)
		}
	})
	return c
}

// fetchAll makes one call and reads its answer.
func fetchAll(t testing.TB, c *Client, r Request) (status int, body string, err error) {
	t.Helper()
	if r.Method == "" {
		r.Method = "GET"
	}
	resp, err := c.Do(context.Background(), &r)
	if err != nil {
		return 0, "", err
	}
	b, err := io.ReadAll(resp.Body)
	status = resp.Status
	resp.Body.Close()
	return status, string(b), err
}

func TestClientSendsWhatItIsGiven(t *testing.T) {
	var got, body string
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r.Method+" "+r.RequestURI+" "+r.Host+" "+strings.Join(r.TransferEncoding, ",")+" "+r.Header.Get("X-A")+" "+r.Trailer.Get("X-Sum"), string(b)
		_, _ = io.WriteString(w, "ok")
	})
	c := newTestClient(t, Target{Addr: addr})
	big := strings.Repeat("0123456789", 20_000)
	for _, tc := range []struct {
		name       string
		r          Request
		want, body string
	}{
		{"get", Request{Base: "/v1", Path: "/a%2Fb;c", Query: "x=1;y&z=%20", Host: "h:1", Header: Header{{"X-A", "b\r\nX-Evil: 1"}, {"Connection", "X-A"}, {"Content-Length", "7"}, {"Host", "evil"}}}, "GET /v1/a%2Fb;c?x=1;y&z=%20 h:1  b  X-Evil: 1 ", ""},
		{"no path", Request{}, "GET / " + addr + "   ", ""},
		{"small", Request{Method: "POST", Path: "/", Body: strings.NewReader("abcd"), Length: 3}, "POST / " + addr + "   ", "abc"},
		{"big", Request{Method: "POST", Path: "/", Body: strings.NewReader(big), Length: int64(len(big))}, "POST / " + addr + "   ", big},
		{"chunked", Request{Method: "POST", Path: "/", Body: strings.NewReader(big), Length: -1, Trailer: func() Header { return Header{{"X-Sum", "9"}, {"Host", "evil"}} }}, "POST / " + addr + " chunked  9", big},
		{"empty chunked", Request{Method: "POST", Path: "/", Body: strings.NewReader(""), Length: -1}, "POST / " + addr + " chunked  ", ""},
		{"empty post", Request{Method: "POST", Path: "/"}, "POST / " + addr + "   ", ""},
		{"long head", Request{Path: "/" + strings.Repeat("p", 6000), Header: Header{{"X-A", "z"}}}, "GET /" + strings.Repeat("p", 6000) + " " + addr + "  z ", ""},
	} {
		status, answer, err := fetchAll(t, c, tc.r)
		if status != 200 || answer != "ok" || err != nil {
			t.Errorf("%s: %d %q %v", tc.name, status, answer, err)
		}
		if got != tc.want || body != tc.body {
			t.Errorf("%s:\n got %.200q %d\nwant %.200q %d", tc.name, got, len(body), tc.want, len(tc.body))
		}
	}
	if st := c.Stats(); st.Dialed != 1 {
		t.Errorf("dialed %d times for calls in a row", st.Dialed)
	}
}

func TestClientRefusesToSplitRequests(t *testing.T) {
	c := newTestClient(t, Target{Addr: "127.0.0.1:1"})
	for _, r := range []Request{
		{Method: "GET /x HTTP/1.1\r\nA:"},
		{Method: ""},
		{Method: "GET", Path: "/ HTTP/1.1\r\n"},
		{Method: "GET", Path: "/a b"},
		{Method: "GET", Query: "a\nb"},
		{Method: "GET", Base: "/\x00"},
		{Method: "GET", Host: "a\r\nX: y"},
	} {
		_, err := c.Do(context.Background(), &r)
		var te *TryError
		if !errors.As(err, &te) || te.Stage != StageWrite || !NeverSent(err) {
			t.Errorf("%+v: got %v", r, err)
		}
	}
}

func TestResponsesAreReadStrictly(t *testing.T) {
	var answer atomic.Value
	addr := fixed(t, func(_ int, c net.Conn, _ string) bool {
		_, _ = io.WriteString(c, answer.Load().(string))
		return false
	})
	c := newTestClient(t, Target{Addr: addr, HeaderBytes: 20 << 10})
	for _, tc := range []struct {
		name, in string
		ok       bool
		body     string
	}{
		{"length", answer200("abc"), true, "abc"},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", true, "abc"},
		{"until close", "HTTP/1.1 200 OK\r\n\r\nabc", true, "abc"},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nabc", true, "abc"},
		{"no reason", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", true, ""},
		{"interim", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer200("abc"), true, "abc"},
		{"no content", "HTTP/1.1 204 No Content\r\n\r\n", true, ""},
		{"not modified", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", true, ""},
		{"long head", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 15000) + "\r\nContent-Length: 3\r\n\r\nabc", true, "abc"},
		{"nothing", "", false, ""},
		{"half a head", "HTTP/1.1 200 OK\r\nCont", false, ""},
		{"not HTTP", "SSH-2.0-OpenSSH\r\n\r\n", false, ""},
		{"HTTP/2", "HTTP/2.0 200 OK\r\n\r\n", false, ""},
		{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", false, ""},
		{"folded", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 3\r\n\r\nabc", false, ""},
		{"both framings", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false, ""},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", false, ""},
		{"length list", "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc", false, ""},
		{"negative length", "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc", false, ""},
		{"other coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", false, ""},
		{"TE in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false, ""},
		{"NUL", "HTTP/1.1 200 OK\r\nX: \x00\r\nContent-Length: 0\r\n\r\n", false, ""},
		{"101 unasked", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", false, ""},
		{"endless interim", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100), false, ""},
		{"endless head", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: aaaaaaaaa\r\n", 3000), false, ""},
		{"status 099", "HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n", false, ""},
		{"status 2000", "HTTP/1.1 2000 X\r\nContent-Length: 0\r\n\r\n", false, ""},
		{"short body", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", false, ""},
		{"short chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", false, ""},
		{"no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", false, ""},
		{"chunk with bare LF", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", false, ""},
	} {
		answer.Store(tc.in)
		_, body, err := fetchAll(t, c, Request{Path: "/"})
		if Stale(err) { // the connection of the row before, whose end had not arrived
			_, body, err = fetchAll(t, c, Request{Path: "/"})
		}
		if (err == nil) != tc.ok || tc.ok && body != tc.body {
			t.Errorf("%s: got %q %v, want ok %v", tc.name, body, err, tc.ok)
		}
	}
}

func TestResponsesLeaveOutFieldsOfTheConnection(t *testing.T) {
	addr := fixed(t, func(_ int, c net.Conn, _ string) bool {
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nServer: x\r\nKeep-Alive: 5\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nX_Odd: 2\r\nContent-Length: 0\r\nUpgrade: h2c\r\n\r\n")
		return err == nil
	})
	c := newTestClient(t, Target{Addr: addr})
	resp, err := c.Do(context.Background(), &Request{Method: "GET", Path: "/"})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if len(resp.Header) != 2 || resp.Header[0] != (Field{"Server", "x"}) || resp.Header[1] != (Field{"X_Odd", "2"}) {
		t.Errorf("got %q", resp.Header)
	}
}

func TestClosingTwiceDoesNotReachTheNextCall(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) })
	c := newTestClient(t, Target{Addr: addr})
	var old *Response
	for i := range 3 * responses {
		path := "/" + strings.Repeat("x", i)
		resp, err := c.Do(context.Background(), &Request{Method: "GET", Path: path})
		if err != nil {
			t.Fatal(err)
		}
		if old != nil {
			old.Body.Close()
			if _, err := old.Body.Read(make([]byte, 9)); err == nil || old.Status != 200 || len(old.Trailer()) != 0 {
				t.Errorf("a closed response reads %v, status %d", err, old.Status)
			}
		}
		if b, err := io.ReadAll(resp.Body); string(b) != path || err != nil {
			t.Errorf("got %q %v, want %q", b, err, path)
		}
		resp.Body.Close()
		resp.Body.Close()
		old = resp
	}
	if st := c.Stats(); st.Dialed != 1 || st.Idle != 1 {
		t.Errorf("got %+v", st)
	}
}

func TestBytesBehindAnAnswerPoisonTheConnection(t *testing.T) {
	for method, evil := range map[string]string{
		"GET":  answer200("abc") + answer200("EVIL"),
		"HEAD": "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nEVIL!!",
		"PUT":  "HTTP/1.1 204 No Content\r\n\r\nEVIL",
		"POST": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nEVIL",
	} {
		addr := fixed(t, func(n int, c net.Conn, head string) bool {
			s := evil
			if n > 0 {
				s = "HTTP/1.1 204 No Content\r\n\r\n"
			}
			_, err := io.WriteString(c, s)
			return err == nil
		})
		c := newTestClient(t, Target{Addr: addr})
		for range 3 {
			if _, body, err := fetchAll(t, c, Request{Method: method, Path: "/"}); err != nil || strings.Contains(body, "EVIL") {
				t.Errorf("%s: got %q %v", method, body, err)
			}
		}
		if st := c.Stats(); st.Dialed != 2 {
			t.Errorf("%s: %d connections were used, want the first to be given up", method, st.Dialed)
		}
	}
}

func TestErrorsSayWhatMayBeRepeated(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := ln.Addr().String()
	ln.Close()
	c := newTestClient(t, Target{Addr: dead})
	_, _, err = fetchAll(t, c, Request{Path: "/"})
	if !NeverSent(err) || Stale(err) {
		t.Errorf("refused connection: %v", err)
	}
	// The backend takes the second request of a connection and dies on it.
	addr := fixed(t, func(_ int, c net.Conn, head string) bool {
		if strings.Contains(head, "/die") {
			return false
		}
		_, err := io.WriteString(c, answer200("ok"))
		return err == nil
	})
	c = newTestClient(t, Target{Addr: addr})
	_, _, err = fetchAll(t, c, Request{Path: "/die"})
	if err == nil || NeverSent(err) || Stale(err) {
		t.Errorf("death of a new connection: %v", err)
	}
	if _, _, err = fetchAll(t, c, Request{Path: "/"}); err != nil {
		t.Fatal(err)
	}
	_, _, err = fetchAll(t, c, Request{Path: "/die"})
	if NeverSent(err) || !Stale(err) {
		t.Errorf("death of a kept connection: %v", err)
	}
	// A body that cannot be read is not the backend's fault.
	_, _, err = fetchAll(t, c, Request{Method: "POST", Path: "/", Length: 10_000, Body: io.MultiReader(strings.NewReader("abc"), broken{})})
	if status, ok := BodyFault(err); !ok || status != 408 || Stale(err) {
		t.Errorf("broken body: %v", err)
	}
	_, _, err = fetchAll(t, c, Request{Method: "POST", Path: "/", Length: 10_000, Body: strings.NewReader("abc")})
	var te *TryError
	if !errors.As(err, &te) || te.Stage != StageBody {
		t.Errorf("short body: %v", err)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, bodyError(errSlowBody) }

func TestConnectionsThatEndedWhileIdleAreNotUsed(t *testing.T) {
	closed := make(chan struct{}, 1)
	addr := fixed(t, func(n int, c net.Conn, _ string) bool {
		_, _ = io.WriteString(c, answer200("ok"))
		if n == 0 {
			c.Close()
			closed <- struct{}{}
			return false
		}
		return true
	})
	c := newTestClient(t, Target{Addr: addr})
	if _, _, err := fetchAll(t, c, Request{Path: "/"}); err != nil {
		t.Fatal(err)
	}
	<-closed
	for !c.pool.idle[0].sock.readable() { // the end is on its way over loopback
		runtime.Gosched()
	}
	if _, _, err := fetchAll(t, c, Request{Method: "POST", Path: "/"}); err != nil {
		t.Errorf("the dead connection was used: %v", err)
	}
}

func TestTimeoutsAndCancelling(t *testing.T) {
	release := make(chan struct{})
	addr := fixed(t, func(_ int, c net.Conn, head string) bool {
		if strings.Contains(head, "/head") {
			<-release
			return false
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
		<-release
		return false
	})
	t.Cleanup(func() { close(release) })
	c := newTestClient(t, Target{Addr: addr})
	timeout := func(err error) bool {
		var te *TryError
		return errors.As(err, &te) && te.Timeout() && !NeverSent(err) && !Stale(err)
	}
	if _, _, err := fetchAll(t, c, Request{Path: "/head", Timeout: 20 * time.Millisecond}); !timeout(err) {
		t.Errorf("head: got %v", err)
	}
	if _, _, err := fetchAll(t, c, Request{Path: "/body", Timeout: time.Minute, Stall: 20 * time.Millisecond}); err == nil {
		t.Error("body: no error")
	}
	// A context of ours and one of the standard library end the wait in the same way.
	var life lifeline
	ctx, cancel := context.WithCancel(context.Background())
	for name, tc := range map[string]struct {
		ctx context.Context
		end func()
	}{"lifeline": {&life, life.end}, "context": {ctx, cancel}} {
		resp, err := c.Do(tc.ctx, &Request{Method: "GET", Path: "/body"})
		if err != nil {
			t.Fatal(name, err)
		}
		go tc.end()
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", name, err)
		}
		resp.Body.Close()
		if _, err := c.Do(tc.ctx, &Request{Method: "GET", Path: "/head"}); !errors.Is(err, context.Canceled) || !NeverSent(err) {
			t.Errorf("%s after its end: got %v", name, err)
		}
	}
}

func TestEarlyAnswersAreReadThoughTheBodyIsNot(t *testing.T) {
	addr := fixed(t, func(_ int, c net.Conn, _ string) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig")
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, io.LimitReader(c, 100_000))
		return false
	})
	c := newTestClient(t, Target{Addr: addr})
	for range 20 {
		status, body, err := fetchAll(t, c, Request{Method: "POST", Path: "/", Length: 1 << 30, Body: endless{}})
		if status != 413 || body != "big" || err != nil {
			t.Errorf("got %d %q %v", status, body, err)
		}
	}
}

func TestEarlyAnswersThatWantTheBodyGetIt(t *testing.T) {
	const size = 300_000
	got := make(chan int64, 1)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nea")
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(c, "rl")
		got <- n
	}()
	c := newTestClient(t, Target{Addr: ln.Addr().String()})
	status, body, err := fetchAll(t, c, Request{Method: "POST", Path: "/", Length: size, Body: io.LimitReader(endless{}, size)})
	if status != 200 || body != "earl" || err != nil {
		t.Errorf("got %d %q %v", status, body, err)
	}
	if n := <-got; n != size {
		t.Errorf("the backend got %d bytes", n)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
