package wire

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// matrix is what must be refused, and with what. std marks rows that net/http, as an
// engine under the same handler, refuses as well.
var matrix = []struct {
	name   string
	in     string
	status int
	std    bool
}{
	{"CL and TE", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, false},
	{"TE and CL", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400, false},
	{"two different CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400, true},
	{"two equal CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400, false},
	{"CL +3", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", 400, true},
	{"CL 3, 3", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", 400, true},
	{"CL -1", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nabc", 400, true},
	{"CL 0x3", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", 400, true},
	{"CL empty", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nabc", 400, true},
	{"CL beyond 63 bits", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\nabc", 400, true},
	{"TE in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, false},
	{"TE xchunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400, false},
	{"TE chunked, identity", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400, false},
	{"TE gzip, chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, true},
	{"TE chunked, chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400, false},
	{"two TE", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, false},
	{"TE with vertical tab", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400, true},
	{"TE empty", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n", 400, false},
	{"two Host", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, true},
	{"two equal Host", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, true},
	{"no Host", "GET / HTTP/1.1\r\nAccept: */*\r\n\r\n", 400, true},
	{"empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, true},
	{"Host with space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, true},
	{"Host with slash", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, true},
	{"Host with userinfo", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, true},
	{"Host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, true},
	{"Host with bad port", "GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n", 400, true},
	{"NUL in value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400, true},
	{"bare CR in value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400, true},
	{"DEL in value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", 400, true},
	{"space before colon", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 3\r\n\r\nabc", 400, true},
	{"space in name", "GET / HTTP/1.1\r\nHost: a\r\nX Y: 3\r\n\r\n", 400, true},
	{"no colon", "GET / HTTP/1.1\r\nHost: a\r\nXY\r\n\r\n", 400, true},
	{"empty name", "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400, true},
	{"name outside ASCII", "GET / HTTP/1.1\r\nHost: a\r\nX\xc3\xa4: x\r\n\r\n", 400, true},
	{"bare LF after request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", 400, false},
	{"bare LF after field", "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400, false},
	{"bare LF at the end", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400, false},
	{"obs-fold", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400, false},
	{"obs-fold of TE", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400, false},
	{"fold before the first field", "GET / HTTP/1.1\r\n X: a\r\nHost: a\r\n\r\n", 400, true},
	{"CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, false},
	{"CONNECT with a path", "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, false},
	{"websocket by POST", "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 400, false},
	{"websocket without Connection", "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 400, false},
	{"websocket without key", "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n", 400, false},
	{"websocket with short key", "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: abc\r\n\r\n", 400, false},
	{"websocket of another version", "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 400, false},
	{"websocket with a body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nabc", 400, false},
	{"websocket or h2c", "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c, websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 400, false},
	{"two Upgrade", "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n", 400, false},
	{"Connection names Authorization", "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nConnection: close, Authorization\r\n\r\n", 400, false},
	{"Connection names Host", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Host\r\n\r\n", 400, false},
	{"Connection names Content-Length", "POST / HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 3\r\n\r\nabc", 400, false},
	{"Connection names X-Forwarded-For", "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nConnection: x-forwarded-for\r\n\r\n", 400, false},
	{"other host in target", "GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", 400, false},
	{"userinfo in target", "GET http://u@a/x HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, true},
	{"other scheme", "GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
	{"target without slash", "GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
	{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
	{"fragment", "GET /x#y HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
	{"space in target", "GET /x y HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
	{"tab in target", "GET /x\ty HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
	{"byte beyond ASCII in target", "GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
	{"two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
	{"tab after method", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
	{"no version", "GET /\r\nHost: a\r\n\r\n", 400, true},
	{"small method", "get / HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
	{"odd method", "G!T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
	{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505, false},
	{"HTTP/2.0", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, true},
	{"HTTP/0.9", "GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505, true},
	{"http/1.1", "GET / http/1.1\r\nHost: a\r\n\r\n", 400, true},
	{"HTTP/1.10", "GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400, true},
	{"unknown expectation", "POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-maybe\r\nContent-Length: 3\r\n\r\nabc", 400, true},
	{"long target", "GET /" + strings.Repeat("a", 9<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n", 414, true},
	{"endless target", "GET /" + strings.Repeat("a", 20<<10), 414, false},
	{"long field", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 17<<10) + "\r\n\r\n", 431, true},
	{"endless fields", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: aaaaaaaaaaaa\r\n", 2000), 431, false},
	{"101 fields", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: a\r\n", 100) + "\r\n", 431, false},
	{"dot segment", "GET /pub/../admin HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
	{"query bad escape", "GET /?a=%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
	{"query cut escape", "GET /?a=%2 HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
}

// counting forwards calls to a backend that counts what reaches it.
func counting(t *testing.T) (Handler, *atomic.Int64) {
	var n atomic.Int64
	addr := fixed(t, func(_ int, c net.Conn, _ string) bool {
		n.Add(1)
		_, err := io.WriteString(c, answer200("reached"))
		return err == nil
	})
	c := NewClient(Target{Addr: addr})
	t.Cleanup(c.Close)
	return proxy(c), &n
}

func statusOf(answer string) int {
	if len(answer) < 12 || !strings.HasPrefix(answer, "HTTP/1.") {
		return 0
	}
	n, _ := strconv.Atoi(answer[9:12])
	return n
}

func TestAmbiguousRequestsNeverReachTheBackend(t *testing.T) {
	h, reached := counting(t)
	own := start(t, &Server{Handler: h})
	ref := &Server{Handler: h, Refuser: statusRefuser{}}
	ref.prepare()
	std := httptest.NewUnstartedServer(&stdHandler{ref})
	std.Config.DisableGeneralOptionsHandler = true
	std.Config.MaxHeaderBytes = 12 << 10
	std.Start()
	defer func() {
		std.Close()
		_ = ref.Shutdown(t.Context())
	}()
	for _, tc := range matrix {
		t.Run(tc.name, func(t *testing.T) {
			got := raw(t, own, tc.in)
			if statusOf(got) != tc.status || reached.Load() != 0 {
				t.Errorf("own engine: %d calls reached the backend; got %.200q, want %d", reached.Load(), got, tc.status)
			}
			if strings.Count(got, "HTTP/1.1 ") != 1 || !strings.Contains(got, "Connection: close\r\n") || !strings.Contains(got, "X-Refused: ") {
				t.Errorf("own engine: want one refusal that closes, got %.300q", got)
			}
			reached.Store(0)
			if tc.std {
				if got := raw(t, std.Listener.Addr().String(), tc.in); statusOf(got) < 400 || reached.Load() != 0 {
					t.Errorf("net/http: %d calls reached the backend; got %.200q", reached.Load(), got)
				}
				reached.Store(0)
			}
		})
	}
}

func TestHTTP2KeepsTheSameRules(t *testing.T) {
	h, reached := counting(t)
	conf, client := testTLS(t)
	s := &Server{Handler: h, TLSConfig: conf}
	addr := start(t, s)
	tr := &http.Transport{TLSClientConfig: client, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	for _, tc := range []struct {
		name   string
		edit   func(r *http.Request)
		status int
	}{
		{"plain", func(r *http.Request) {}, 200},
		{"dot segment", func(r *http.Request) { r.URL.Opaque = "/pub/../admin" }, 400},
		{"encoded dots", func(r *http.Request) { r.URL.Opaque = "/pub/%2e%2e/admin" }, 400},
		{"bad query", func(r *http.Request) { r.URL.RawQuery = "a=%zz" }, 400},
		{"small method", func(r *http.Request) { r.Method = "patch" }, 400},
		{"bad host", func(r *http.Request) { r.Host = "a,b" }, 400},
		{"long target", func(r *http.Request) { r.URL.Path = "/" + strings.Repeat("a", 9<<10) }, 414},
		{"expectation", func(r *http.Request) { r.Header.Set("Expect", "maybe") }, 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reached.Store(0)
			r, err := http.NewRequest("GET", "https://"+addr+"/x", nil)
			if err != nil {
				t.Fatal(err)
			}
			tc.edit(r)
			resp, err := tr.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			want := int64(0)
			if tc.status == 200 {
				want = 1
			}
			if resp.StatusCode != tc.status || resp.ProtoMajor != 2 || reached.Load() != want {
				t.Errorf("got %s %d, %d reached; want %d", resp.Proto, resp.StatusCode, reached.Load(), tc.status)
			}
		})
	}
}

func TestPathsThatTwoReadersCouldResolveDifferently(t *testing.T) {
	for _, p := range []string{
		"/..", "/.", "/a/..", "/a/./b", "/a/../b", "/%2e", "/%2e%2e", "/%2E.", "/.%2e/a", "/a/%2e%2e%2fb", "/a%2f..%2fb",
		"/a%2f%2e%2e", "/%252e%252e", "/%25252e", "/%252e%252e%252f", "/a%252f..", "/..;x=1/a", "/.;/a", "/..%3bx/a", "/%2e%2e;a",
		"/a\\b", "/a%5cb", "/a%5Cb", "/a%255cb", "/%00", "/a%2500", "/%", "/%2", "/%zz", "/a%g0", "/a b", "/a\"", "/a<", "/a{b}", "/a^", "/a`", "/a#",
	} {
		if err := checkPath([]byte(p)); err == nil {
			t.Errorf("%s was accepted", p)
		}
	}
	for _, p := range []string{
		"/", "//", "/a", "/a/", "/a//b", "/...", "/.a", "/a.", "/a..b", "/..a/b", "/a%2Fb", "/a%2fb/c", "/100%25", "/%25zz", "/a;v=..", "/a;..", "/a;x=1/b", "/%41",
		"/a%20b", "/%C3%A4", "/[a]|b", "/a:b@c!$&'()*+,=~-_", "/.../a", "/a;.;..", "/%2e%2e%2e",
	} {
		if err := checkPath([]byte(p)); err != nil {
			t.Errorf("%s was refused: %v", p, err)
		}
	}
}

func TestHosts(t *testing.T) {
	for h, want := range map[string]int{
		"a": 1, "a.example:8080": 9, "10.0.0.1": 8, "[::1]": 5, "[fe80::1]:443": 9, "A-b.C": 5, "a_b": 3,
		"": -1, ":80": -1, "a:": -1, "a:123456": -1, "a:80:80": -1, "[::1": -1, "::1": -1, "[]": -1, "[::1]x": -1, "a,b": -1, "a%20b": -1, "a?b": -1, "[g::1]": -1, "[1.2.3.4]": -1, "[:::]": -1, "[fe80::1%eth0]": -1,
	} {
		n, err := checkHost([]byte(h))
		if err != nil {
			n = -1
		}
		if n != want {
			t.Errorf("%q: got %d, want %d", h, n, want)
		}
	}
}

func TestHandlerSeesWhatWasSent(t *testing.T) {
	view := handlerFunc(func(x Exchange) {
		q := x.Head()
		s := fmt.Sprintf("%s|%s|%s|%s|%s|%s|%d|%v|%v", x.Method(), x.Host(), q.Authority, x.Path(), x.Query(), q.Upgrade, q.Length, q.Trailers, q.GRPC)
		for _, f := range q.Header {
			s += "|" + f.Name + "=" + f.Value
		}
		say(x, 200, s)
	})
	addr := start(t, &Server{Handler: view})
	for _, tc := range []struct{ name, in, want string }{
		{"plain", "GET /a%2Fb;v=1?x=1;y=2&z=%20 HTTP/1.1\r\nHost: Ex.Ample:80\r\nX-a:  b c\t\r\n\r\n", "GET|ex.ample|Ex.Ample:80|/a%2Fb;v=1|x=1;y=2&z=%20||0|false|false|X-a=b c"},
		{"empty query", "GET /? HTTP/1.1\r\nHost: a\r\n\r\n", "GET|a|a|/|||0|false|false"},
		{"absolute", "GET HTTP://A:81?q HTTP/1.1\r\nHost: a:81\r\n\r\n", "GET|a|a:81|/|q||0|false|false"},
		{"names with _ are dropped", "GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 1\r\nX.y: 2\r\nX-Y: 3\r\n\r\n", "GET|a|a|/|||0|false|false|X-Y=3"},
		{"fields of the connection", "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, TE\r\nKeep-Alive: 5\r\nTE: trailers, deflate\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nTrailer: x\r\n\r\n", "GET|a|a|/|||0|true|false"},
		{"h2c is not seen", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", "GET|a|a|/|||0|false|false"},
		{"websocket", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", "GET|a|a|/||websocket|0|false|false|Sec-WebSocket-Version=13|Sec-WebSocket-Key=dGhlIHNhbXBsZSBub25jZQ=="},
		{"HTTP/1.0 without Host", "GET /x HTTP/1.0\r\n\r\n", "GET|||/x|||0|false|false"},
		{"length and grpc", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc+proto\r\nContent-Length: 3\r\n\r\nabc", "POST|a|a|/x|||3|false|true|Content-Type=application/grpc+proto"},
		{"chunked", "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", "POST|a|a|/x|||-1|false|false"},
		{"an absent name in Connection", "GET /x HTTP/1.1\r\nHost: a\r\nConnection: X-Hop\r\n\r\n", "GET|a|a|/x|||0|false|false"},
	} {
		got := raw(t, addr, tc.in)
		_, body, _ := strings.Cut(got, "\r\n\r\n")
		if body != tc.want {
			t.Errorf("%s:\n got %q\nwant %q", tc.name, got, tc.want)
		}
	}
}

// badChunks are bodies whose end two readers could see at different places.
var badChunks = map[string]string{
	"bare LF after size":      "3\nabc\r\n0\r\n\r\n",
	"bare LF after data":      "3\r\nabc\n0\r\n\r\n",
	"0x":                      "0x3\r\nabc\r\n0\r\n\r\n",
	"minus":                   "-3\r\nabc\r\n0\r\n\r\n",
	"plus":                    "+3\r\nabc\r\n0\r\n\r\n",
	"space after size":        "3 \r\nabc\r\n0\r\n\r\n",
	"space before size":       " 3\r\nabc\r\n0\r\n\r\n",
	"underscore":              "0_3\r\nabc\r\n0\r\n\r\n",
	"no size":                 "\r\nabc\r\n0\r\n\r\n",
	"no CR LF after data":     "3\r\nabcd\r\n0\r\n\r\n",
	"LF in an extension":      "3;a\nb\r\nabc\r\n0\r\n\r\n",
	"CR in an extension":      "3;a\rb\r\nabc\r\n0\r\n\r\n",
	"NUL in an extension":     "3;a\x00b\r\nabc\r\n0\r\n\r\n",
	"long extension":          "3;" + strings.Repeat("a", 300) + "\r\nabc\r\n0\r\n\r\n",
	"endless line":            "3;" + strings.Repeat("a", 40000),
	"size beyond 60 bits":     "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
	"many extensions":         strings.Repeat("1;"+strings.Repeat("a", 200)+"\r\nx\r\n", 100) + "0\r\n\r\n",
	"bare LF at the end":      "3\r\nabc\r\n0\r\n\n",
	"trailer with a space":    "3\r\nabc\r\n0\r\nX : y\r\n\r\n",
	"trailer without a colon": "3\r\nabc\r\n0\r\nXy\r\n\r\n",
	"folded trailer":          "3\r\nabc\r\n0\r\nX: y\r\n z\r\n\r\n",
	"trailer with bare LF":    "3\r\nabc\r\n0\r\nX: y\n\r\n",
	"trailer with NUL":        "3\r\nabc\r\n0\r\nX: \x00\r\n\r\n",
	"long trailers":           "3\r\nabc\r\n0\r\n" + strings.Repeat("X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", 200) + "\r\n",
	"other bytes after data":  "3\r\nabcxx0\r\n\r\n",
	"one byte after data":     "3\r\nabcx0\r\n\r\n",
	"cut in data":             "5\r\nabc",
	"cut before the end":      "3\r\nabc\r\n",
	"cut in the end":          "3\r\nabc\r\n0\r\n",
}

func TestBrokenChunksAreTheClientsFault(t *testing.T) {
	addr := start(t, &Server{Handler: handlerFunc(func(x Exchange) {
		_, err := io.Copy(io.Discard, x.RequestBody())
		status, ok := BodyFault(err)
		if !ok {
			status = 200
		}
		say(x, status, "read")
	})})
	for name, body := range badChunks {
		t.Run(name, func(t *testing.T) {
			got := raw(t, addr, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"+body+"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
			if statusOf(got) != 400 || strings.Count(got, "HTTP/1.1 ") != 1 || !strings.Contains(got, "Connection: close") {
				t.Errorf("got %.300q, want one 400 that closes", got)
			}
		})
	}
}

func TestBrokenChunksNeverMakeAWholeRequestForTheBackend(t *testing.T) {
	whole := make(chan string, 100)
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if b, err := io.ReadAll(r.Body); err == nil {
			whole <- string(b)
		}
	})
	c := NewClient(Target{Addr: addr})
	defer c.Close()
	gate := start(t, &Server{Handler: proxy(c)})
	for name, body := range badChunks {
		got := raw(t, gate, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"+body)
		if statusOf(got) != 400 {
			t.Errorf("%s: got %.200q, want 400", name, got)
		}
	}
	select {
	case b := <-whole:
		t.Errorf("the backend read a whole body %q", b)
	default:
	}
}
