package appliance_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
	"time"

	"github.com/gorilla/websocket"
)

// echoSocket answers every message with itself, over a real WebSocket library.
func echoSocket(t *testing.T, reached *atomic.Int64) string {
	t.Helper()
	up := websocket.Upgrader{EnableCompression: true, CheckOrigin: func(*http.Request) bool { return true }}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if reached != nil {
			reached.Add(1)
		}
		if r.URL.Path == "/bad-accept" {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
			w.Header().Set("Sec-WebSocket-Accept", "bm90IHRoZSBhbnN3ZXI=")
			w.WriteHeader(101)
			return
		}
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprint(w, "plain")
			return
		}
		c, err := up.Upgrade(w, r, http.Header{"X-Extensions": {r.Header.Get("Sec-WebSocket-Extensions")}})
		if err != nil {
			return
		}
		defer c.Close()
		for {
			kind, b, err := c.ReadMessage()
			if err != nil {
				return
			}
			switch n := 0; {
			case string(b) == "close me":
				_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4001, "as you wish"), time.Now().Add(time.Second))
				return
			case strings.HasPrefix(string(b), "flood "):
				_, _ = fmt.Sscanf(string(b), "flood %d", &n)
				for range n {
					if c.WriteMessage(websocket.TextMessage, []byte("x")) != nil {
						return
					}
				}
			default:
				if c.WriteMessage(kind, b) != nil {
					return
				}
			}
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// socketDevice runs a device whose API has WebSockets without limits, with limits, and protected.
func socketDevice(t *testing.T, reached *atomic.Int64) *devicetest.Device {
	t.Helper()
	return socketDeviceOf(t, echoSocket(t, reached))
}

// socketDeviceOf is socketDevice in front of a given backend.
func socketDeviceOf(t *testing.T, backend string) *devicetest.Device {
	t.Helper()
	d := devicetest.Start(t, devicetest.Options{})
	set := d.Fleet.API(t, backend, "/open/free", "/open/limited", "/closed", "/open/plain", "/bad-accept", "/open/bytes", "/open/framed")
	a := &set.APIs[0]
	for i := range a.Operations {
		a.Operations[i].Upgrade = i != 3
	}
	a.Operations[1].Messages = &policy.Messages{PerSecond: 5, Bytes: 1000}
	a.Operations[4].Security = nil
	a.Operations[6].Messages = &policy.Messages{PerSecond: 1 << 20, Bytes: 1 << 20} // never reached: its frames are looked at all the same
	set.Plans = []policy.Plan{{Kind: policy.ResourcePlan, Name: "5KB", Limit: policy.Limit{Unit: policy.Bytes, Count: 5000, Window: time.Hour}}}
	a.Operations[5].Plan = "5KB"
	guarded := *a
	guarded.Name, guarded.BasePath = "guarded", "/guarded/1.0"
	guarded.CORS = &policy.CORS{Origins: []string{"https://panel.example"}}
	guarded.Operations = a.Operations[:1]
	set.APIs = append(set.APIs, guarded)
	d.Apply(t, set)
	return d
}

func TestHostileUpgrades(t *testing.T) {
	var reached atomic.Int64
	d := socketDevice(t, &reached)
	key := "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
	ask := []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key}
	without := func(name string, more ...string) []string {
		var out []string
		for _, l := range ask {
			if !strings.HasPrefix(l, name+":") {
				out = append(out, l)
			}
		}
		return append(out, more...)
	}
	for _, tt := range []struct {
		name, method, path string
		lines              []string
		status             int
		body               string
		reaches            bool
	}{
		{"a good one", "GET", "/echo/1.0/open/free", ask, 101, "", true},
		{"names in another case", "GET", "/echo/1.0/open/free", []string{"connection: keep-alive, UPGRADE", "upgrade: WebSocket", "sec-websocket-version: 13", key}, 101, "", true},
		{"allowed origin", "GET", "/guarded/1.0/open/free", append(ask, "Origin: https://panel.example"), 101, "", true},
		{"no origin: not a browser", "GET", "/guarded/1.0/open/free", ask, 101, "", true},
		{"another origin", "GET", "/guarded/1.0/open/free", append(ask, "Origin: https://evil.test"), 403, wsForbid, false},
		{"null origin", "GET", "/guarded/1.0/open/free", append(ask, "Origin: null"), 403, wsForbid, false},
		{"an operation without", "GET", "/echo/1.0/open/plain", ask, 400, wsBad, false},
		{"no credential", "GET", "/echo/1.0/closed", ask, 401, wsMissing, false},
		{"unknown path", "GET", "/echo/1.0/nothing", ask, 404, wsNotFound, false},
		{"POST", "POST", "/echo/1.0/open/free", ask, 400, wsBad, false},
		{"HEAD", "HEAD", "/echo/1.0/open/free", ask, 400, "", false},
		{"no key", "GET", "/echo/1.0/open/free", without("Sec-WebSocket-Key"), 400, wsBad, false},
		{"short key", "GET", "/echo/1.0/open/free", without("Sec-WebSocket-Key", "Sec-WebSocket-Key: c2hvcnQ="), 400, wsBad, false},
		{"key that is no base64", "GET", "/echo/1.0/open/free", without("Sec-WebSocket-Key", "Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!=="), 400, wsBad, false},
		{"two keys", "GET", "/echo/1.0/open/free", append(ask, key), 400, wsBad, false},
		{"no version", "GET", "/echo/1.0/open/free", without("Sec-WebSocket-Version"), 400, wsBad, false},
		{"old version", "GET", "/echo/1.0/open/free", without("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8"), 400, wsBad, false},
		{"two versions", "GET", "/echo/1.0/open/free", append(ask, "Sec-WebSocket-Version: 13"), 400, wsBad, false},
		{"a body", "GET", "/echo/1.0/open/free", append(ask, "Content-Length: 3"), 400, wsBad, false},
		{"another protocol", "GET", "/echo/1.0/open/free", without("Upgrade", "Upgrade: foo"), 200, "plain", true},
		{"HTTP/2 without TLS", "GET", "/echo/1.0/open/free", []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"}, 200, "plain", true},
		{"two protocols", "GET", "/echo/1.0/open/free", without("Upgrade", "Upgrade: websocket, foo"), 400, wsBad, false},
		{"not in Connection", "GET", "/echo/1.0/open/free", without("Connection", "Connection: keep-alive"), 400, wsBad, false},
		{"a backend with a wrong answer", "GET", "/echo/1.0/bad-accept", ask, 502, wsAway, true},
	} {
		before := reached.Load()
		resp := raw(t, d, tt.method+" "+tt.path+" HTTP/1.1", tt.lines...)
		body := ""
		if resp.StatusCode != 101 && tt.method != "HEAD" {
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			body = string(b)
		}
		if resp.StatusCode != tt.status || body != tt.body {
			t.Errorf("%s: got %d %s, want %d %s", tt.name, resp.StatusCode, body, tt.status, tt.body)
		}
		if got := reached.Load() > before; got != tt.reaches {
			t.Errorf("%s: reached the backend: %v", tt.name, got)
		}
	}
}

// raw sends a request head and "abc" behind it, and reads the head of the answer.
func raw(t *testing.T, d *devicetest.Device, line string, fields ...string) *http.Response {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", d.Addr("http"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	text := line + "\r\nHost: gateway.test\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n"
	if strings.Contains(text, "Content-Length") {
		text += "abc"
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(line, " ")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// dial opens a WebSocket.
func dial(t *testing.T, d *devicetest.Device, path string, header http.Header) (*websocket.Conn, *http.Response) {
	t.Helper()
	dialer := websocket.Dialer{EnableCompression: true}
	c, resp, err := dialer.DialContext(t.Context(), "ws://"+d.Addr("http")+path, header)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, resp
}

// talk sends a message and returns the answer, or the status with which the socket was closed.
func talk(t *testing.T, c *websocket.Conn, kind int, msg string) (string, int) {
	t.Helper()
	if err := c.WriteMessage(kind, []byte(msg)); err != nil {
		return "", -1
	}
	return hear(t, c)
}

func hear(t *testing.T, c *websocket.Conn) (string, int) {
	t.Helper()
	_, b, err := c.ReadMessage()
	var closed *websocket.CloseError
	if errors.As(err, &closed) {
		return closed.Text, closed.Code
	}
	if err != nil {
		return err.Error(), -1
	}
	return string(b), 0
}

func TestMessagesPassAWebSocket(t *testing.T) {
	d := socketDevice(t, nil)
	token := http.Header{"Authorization": {"Bearer " + d.Fleet.Token(t, nil)}}
	for _, path := range []string{"/echo/1.0/open/free", "/echo/1.0/closed", "/echo/1.0/open/limited"} {
		c, resp := dial(t, d, path, token)
		limited := strings.HasSuffix(path, "limited")
		if ext := resp.Header.Get("X-Extensions"); (ext == "") != limited {
			t.Errorf("%s: the backend was offered %q", path, ext)
		}
		if resp.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: no request id", path)
		}
		for _, m := range []string{"hello", "", strings.Repeat("x", 1000)} {
			if got, code := talk(t, c, websocket.BinaryMessage, m); got != m || code != 0 {
				t.Errorf("%s: %d bytes: got %d bytes, closed with %d", path, len(m), len(got), code)
			}
		}
		if got, code := talk(t, c, websocket.TextMessage, "close me"); code != 4001 || got != "as you wish" {
			t.Errorf("%s: the backend's close: got %q, %d", path, got, code)
		}
	}
	c, _ := dial(t, d, "/echo/1.0/open/free", nil)
	large := strings.Repeat("y", 1<<20)
	if got, _ := talk(t, c, websocket.BinaryMessage, large); got != large {
		t.Errorf("a large message: got %d bytes", len(got))
	}
}

func TestLimitsInsideAWebSocket(t *testing.T) {
	d := socketDevice(t, nil)
	open := func() *websocket.Conn { c, _ := dial(t, d, "/echo/1.0/open/limited", nil); return c }

	if got, code := talk(t, open(), websocket.TextMessage, strings.Repeat("x", 1001)); code != 1009 {
		t.Errorf("a message too large: got %q, %d", got, code)
	}
	c := open()
	for i := range 4 { // fragments add up
		if err := writeFrame(c.NetConn(), i == 0, false, strings.Repeat("x", 300)); err != nil {
			break
		}
	}
	if got, code := hear(t, c); code != 1009 {
		t.Errorf("a message of large fragments: got %q, %d", got, code)
	}
	c = open()
	code := 0
	for i := 0; i < 20 && code == 0; i++ {
		_, code = talk(t, c, websocket.TextMessage, "m")
		if i < 5 && code != 0 {
			t.Errorf("message %d: closed with %d", i, code)
		}
	}
	if code != 1008 {
		t.Errorf("20 messages at once: closed with %d, want 1008", code)
	}
	c = open()
	for i := range 20 { // empty fragments of a message that never ends
		if writeFrame(c.NetConn(), i == 0, false, "") != nil {
			break
		}
	}
	if _, code := hear(t, c); code != 1008 {
		t.Errorf("empty fragments: closed with %d, want 1008", code)
	}
	c = open()
	for range 20 {
		if c.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second)) != nil {
			break
		}
	}
	if _, code := hear(t, c); code != 1008 {
		t.Errorf("pings: closed with %d, want 1008", code)
	}
	c = open()
	if got, code := talk(t, c, websocket.TextMessage, "flood 50"); code == 0 {
		for range 60 {
			if got, code = hear(t, c); code != 0 {
				break
			}
		}
		if code != 1008 {
			t.Errorf("a backend that floods: got %q, %d, want 1008", got, code)
		}
	}
	c = open()
	if _, err := c.NetConn().Write([]byte{0xc1, 0x81, 0, 0, 0, 0, 'x'}); err != nil { // a reserved bit
		t.Fatal(err)
	}
	if _, code := hear(t, c); code != 1002 {
		t.Errorf("a reserved bit: closed with %d", code)
	}
	c = open()
	if _, err := c.NetConn().Write([]byte{0x81, 0x01, 'x'}); err != nil { // not masked
		t.Fatal(err)
	}
	if _, code := hear(t, c); code != 1002 {
		t.Errorf("a frame without a mask: closed with %d", code)
	}
	c = open()
	if _, err := c.NetConn().Write(append([]byte{0x82, 0xff}, binary.BigEndian.AppendUint64(nil, 1<<63)...)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.NetConn().Write([]byte{0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if _, code := hear(t, c); code != 1002 {
		t.Errorf("a length with its highest bit: closed with %d", code)
	}
}

// writeFrame writes a masked frame of a fragmented text message.
func writeFrame(w io.Writer, first, last bool, payload string) error {
	b := []byte{0, 0}
	if first {
		b[0] = 1
	}
	if last {
		b[0] |= 0x80
	}
	if len(payload) > 125 {
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	} else {
		b[1] = byte(len(payload))
	}
	b[1] |= 0x80
	b = append(b, 0, 0, 0, 0)
	_, err := w.Write(append(b, payload...))
	return err
}

func TestBandwidthOfAWebSocket(t *testing.T) {
	d := socketDevice(t, nil)
	c, _ := dial(t, d, "/echo/1.0/open/bytes", nil)
	sent := 0
	for range 20 {
		if got, code := talk(t, c, websocket.BinaryMessage, strings.Repeat("x", 500)); code != 0 {
			if code != 1008 && code != -1 {
				t.Errorf("closed with %d %s", code, got)
			}
			break
		}
		sent += 1000
	}
	if sent < 4000 {
		t.Errorf("ended after %d bytes of 5000", sent)
	}
	// The plan takes what exceeds its window from the next one; a new call finds no room.
	if a := call(t, "GET", d.URL("/echo/1.0/open/bytes")); a.status != 429 {
		t.Errorf("after %d bytes a plain call: got %d %s", sent, a.status, a.body)
	}
}

func TestWebSocketsAreRecorded(t *testing.T) {
	d := socketDevice(t, nil)
	c, _ := dial(t, d, "/echo/1.0/open/limited", nil)
	if _, code := talk(t, c, websocket.BinaryMessage, strings.Repeat("x", 700)); code != 0 {
		t.Fatal(code)
	}
	_ = c.Close()
	deadline, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	for {
		s := socket(t, d, "GET", "/v1/events?format=ndjson", "")
		if strings.Contains(s, `"status":101`) {
			if !strings.Contains(s, `"bytes_in":70`) || !strings.Contains(s, `"bytes_out":70`) {
				t.Errorf("got %s", s)
			}
			return
		}
		if deadline.Err() != nil {
			t.Fatalf("no event: %s", s)
		}
	}
}
