package wire

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2raw is a connection on which a test writes frames itself.
type h2raw struct {
	t *testing.T
	*http2.Framer
	c net.Conn
}

func dialH2(t *testing.T, addr string, conf *tls.Config) *h2raw {
	t.Helper()
	conf = conf.Clone()
	conf.NextProtos = []string{"h2"}
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second)) // a hanging test fails instead
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	h := &h2raw{t, http2.NewFramer(c, c), c}
	h.AllowIllegalWrites = true
	h.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := h.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return h
}

// ask sends a request of name and value in turn, and body, if not empty.
func (h *h2raw) ask(stream uint32, body string, fields ...string) {
	h.t.Helper()
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		if err := e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := h.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: b.Bytes(), EndHeaders: true, EndStream: body == ""}); err != nil {
		h.t.Fatal(err)
	}
	if body != "" {
		if err := h.WriteData(stream, true, []byte(body)); err != nil {
			h.t.Fatal(err)
		}
	}
}

// outcome is what became of a stream: its status, "reset", or "closed" for the connection.
func (h *h2raw) outcome(stream uint32) string {
	for {
		f, err := h.ReadFrame()
		var se http2.StreamError
		switch {
		case errors.As(err, &se):
			continue
		case err != nil:
			return "closed"
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID == stream {
				return f.PseudoValue("status")
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == stream {
				return "reset"
			}
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo {
				return "closed"
			}
		}
	}
}

// TestAmbiguousHTTP2RequestsNeverReachTheBackend writes frames whose fields would say something else
// to a backend that speaks HTTP/1.1.
func TestAmbiguousHTTP2RequestsNeverReachTheBackend(t *testing.T) {
	h, reached := counting(t)
	server, client := testTLS(t)
	addr := start(t, &Server{TLSConfig: server, Handler: h})
	head := []string{":method", "POST", ":scheme", "https", ":path", "/x", ":authority", "gateway.test"}
	with := func(more ...string) []string { return append(append([]string(nil), head...), more...) }
	instead := func(name, value string) []string {
		out := with()
		for i := 0; i < len(out); i += 2 {
			if out[i] == name {
				out[i+1] = value
			}
		}
		return out
	}
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, tt := range []struct {
		name   string
		body   string
		fields []string
		want   string // outcomes that will do, apart by blanks
	}{
		{"good", "abc", with("content-length", "3"), "200"},
		{"good, Host as authority", "", with("host", "gateway.test"), "200"},

		{"transfer-encoding", "0\r\n\r\n" + smuggled, with("transfer-encoding", "chunked"), "reset closed 400"},
		{"transfer-encoding in another form", smuggled, with("transfer-encoding", "xchunked"), "reset closed 400"},
		{"connection", "", with("connection", "close, authorization"), "reset closed 400"},
		{"keep-alive", "", with("keep-alive", "timeout=5"), "reset closed 400"},
		{"proxy-connection", "", with("proxy-connection", "close"), "reset closed 400"},
		{"upgrade", "", with("upgrade", "websocket"), "reset closed 400"},
		{"te", "", with("te", "gzip"), "reset closed 400"},
		{"length above the body", "abc", with("content-length", "30"), "reset closed 400"},
		{"length below the body", "abc" + smuggled, with("content-length", "3"), "reset closed 400"},
		{"length without a body", "", with("content-length", "30"), "reset closed 400"},
		{"two lengths", "abc", with("content-length", "3", "content-length", "30"), "reset closed 400"},
		{"length with a sign", "abc", with("content-length", "+3"), "reset closed 400"},
		{"length that is none", "abc", with("content-length", "three"), "reset closed 400"},
		{"line break in a value", "", with("x-a", "b\r\nTransfer-Encoding: chunked"), "reset closed 400"},
		{"line feed in a value", "", with("x-a", "b\nX-Admin: 1"), "reset closed 400"},
		{"NUL in a value", "", with("x-a", "b\x00c"), "reset closed 400"},
		{"line break in a name", "", with("x-a: b\r\nx-admin", "1"), "reset closed 400"},
		{"blank in a name", "", with("x a", "1"), "reset closed 400"},
		{"colon in a name", "", with("x:a", "1"), "reset closed 400"},
		{"capitals in a name", "", with("X-Admin", "1"), "reset closed 400"},
		{"empty name", "", with("", "1"), "reset closed 400"},
		{"request line in the path", "", instead(":path", "/ HTTP/1.1\r\nHost: a\r\n\r\nGET /admin"), "reset closed 400"},
		{"blank in the path", "", instead(":path", "/x HTTP/1.1"), "reset closed 400"},
		{"empty path", "", instead(":path", ""), "reset closed 400"},
		{"path without a slash", "", instead(":path", "x"), "reset closed 400"},
		{"another host in the path", "", instead(":path", "https://elsewhere.test/x"), "reset closed 400"},
		{"asterisk", "", instead(":path", "*"), "reset closed 400"},
		{"dot segments", "", instead(":path", "/pub/../admin"), "reset closed 400"},
		{"fragment", "", instead(":path", "/x#y"), "reset closed 400"},
		{"request line in the method", "", instead(":method", "GET /admin HTTP/1.1\r\nX: "), "reset closed 400"},
		{"small method", "", instead(":method", "post"), "reset closed 400"},
		{"empty method", "", instead(":method", ""), "reset closed 400"},
		{"line break in the authority", "", instead(":authority", "a\r\nX-Admin: 1"), "reset closed 400"},
		{"authority with a user", "", instead(":authority", "u@gateway.test"), "reset closed 400"},
		{"authority with a path", "", instead(":authority", "gateway.test/admin"), "reset closed 400"},
		{"two authorities", "", with(":authority", "elsewhere.test"), "reset closed 400"},
		{"Host of another name", "", with("host", "elsewhere.test"), "reset closed 400"},
		{"two Hosts", "", with("host", "gateway.test", "host", "elsewhere.test"), "reset closed 400"},
		{"two paths", "", with(":path", "/admin"), "reset closed 400"},
		{"two methods", "", with(":method", "GET"), "reset closed 400"},
		{"a pseudo field behind others", "", append(append([]string(nil), "x-a", "b"), head...), "reset closed 400"},
		{"an unknown pseudo field", "", with(":admin", "1"), "reset closed 400"},
		{"a pseudo field of answers", "", with(":status", "200"), "reset closed 400"},
		{"no path", "", []string{":method", "GET", ":scheme", "https", ":authority", "gateway.test"}, "reset closed 400"},
		{"no scheme", "", []string{":method", "GET", ":path", "/x", ":authority", "gateway.test"}, "reset closed 400"},
		{"no authority", "", []string{":method", "GET", ":scheme", "https", ":path", "/x"}, "reset closed 400"},
		{"CONNECT", "", []string{":method", "CONNECT", ":authority", "elsewhere.test:443"}, "reset closed 400"},
		{"a long path", "", instead(":path", "/"+strings.Repeat("a", 9<<10)), "414"},
		{"a long field", "", with("x-a", strings.Repeat("a", 30<<10)), "431 reset closed"},
		{"many fields", "", with(strings.Split(strings.Repeat("x-a,b,", 150)+"x-a,b", ",")...), "431 reset closed"},
	} {
		reached.Store(0)
		c := dialH2(t, addr, client)
		c.ask(1, tt.body, tt.fields...)
		got, good := c.outcome(1), strings.HasPrefix(tt.name, "good")
		if !strings.Contains(" "+tt.want+" ", " "+got+" ") || (reached.Load() == 1) != good || reached.Load() > 1 {
			t.Errorf("%s: got %q, %d calls reached the backend; want one of %q", tt.name, got, reached.Load(), tt.want)
		}
		c.c.Close()
	}
}

// TestExtendedConnectIsNotOffered shows that WebSockets are for HTTP/1.1: the setting of RFC 8441
// is not sent, a client that asks all the same has its stream reset before any rule or backend
// sees it, and the connection goes on.
func TestExtendedConnectIsNotOffered(t *testing.T) {
	h, reached := counting(t)
	server, client := testTLS(t)
	c := dialH2(t, start(t, &Server{TLSConfig: server, Handler: h}), client)
	c.ask(1, "", ":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":path", "/live", ":authority", "gateway.test", "sec-websocket-version", "13")
	for settings := false; !settings; {
		f, err := c.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := f.(*http2.SettingsFrame); ok && !s.IsAck() {
			settings = true
			if v, ok := s.Value(http2.SettingEnableConnectProtocol); ok && v != 0 {
				t.Error("extended CONNECT is offered")
			}
		}
	}
	if got := c.outcome(1); got != "reset" || reached.Load() != 0 {
		t.Errorf("got %s, %d calls reached the backend", got, reached.Load())
	}
	c.ask(3, "", ":method", "GET", ":scheme", "https", ":path", "/plain", ":authority", "gateway.test")
	if got := c.outcome(3); got != "200" {
		t.Errorf("the next call on the connection: got %s", got)
	}
}
