package appliance_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"tidegate/appliance/config"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// frame is a message as gRPC frames it: not compressed, its length, its bytes.
func frame(msg string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg)))
	return append(b, msg...)
}

// readFrame reads one message.
func readFrame(r io.Reader) (string, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[1:]))
	_, err := io.ReadFull(r, b)
	return string(b), err
}

// notGRPC is an HTTP/2 server that is none of gRPC: a plain refusal, an answer that breaks off, and one
// that tells which trailers the client takes.
func notGRPC(t *testing.T) string {
	t.Helper()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/pkg.Echo/Plain":
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(503)
			fmt.Fprint(w, "away")
		case "/pkg.Echo/Cut":
			w.Header().Set("Content-Type", "application/grpc")
			_, _ = w.Write(frame("half")[:7])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		default:
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("X-Te", r.Header.Get("Te"))
			w.Header().Set("Grpc-Status", "0")
		}
	}))
	s.Config.Protocols = &protocols
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

// grpcClient speaks HTTP/2 over TLS to a device.
func grpcClient(t *testing.T) *http.Client {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, DisableCompression: true} // the device made its own certificate
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func withTLS(c *config.Config) { c.Listen.HTTPS = "127.0.0.1:0" }

// grpcAnswer is what a gRPC client looks at.
type grpcAnswer struct {
	status        int
	code, message string // wherever they stand
	only          bool   // they stood in the header: trailers only
	frames        string
	err           error
	header        http.Header
	trailer       http.Header
}

func grpcCall(t *testing.T, c *http.Client, method, url string, body io.Reader, lines ...string) grpcAnswer {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/grpc")
	q.Header.Set("Te", "trailers")
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		if name == "Grpc-Timeout" {
			q.Header.Add(name, value)
		} else {
			q.Header.Set(name, value)
		}
	}
	resp, err := c.Do(q)
	if err != nil {
		return grpcAnswer{err: err}
	}
	defer resp.Body.Close()
	a := grpcAnswer{status: resp.StatusCode, header: resp.Header}
	b, err := io.ReadAll(resp.Body)
	a.err = err
	if resp.Header.Get("Content-Type") != "application/grpc" {
		a.frames = string(b)
	} else {
		for r := bytes.NewReader(b); r.Len() > 0; {
			m, err := readFrame(r)
			if err != nil {
				break
			}
			text := &wrapperspb.StringValue{}
			if err := proto.Unmarshal([]byte(m), text); err != nil {
				t.Fatalf("%s: a message that is none: %q", url, m)
			}
			a.frames += text.Value + ";"
		}
	}
	a.trailer = resp.Trailer
	a.code, a.message = resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message")
	if v := resp.Header.Get("Grpc-Status"); v != "" {
		a.code, a.message, a.only = v, resp.Header.Get("Grpc-Message"), true
	}
	return a
}

func TestHostileGRPC(t *testing.T) {
	d := grpcDevice(t, nil)
	c := grpcClient(t)
	base := "https://" + d.Addr("https")
	auth := "Authorization: Bearer " + d.Fleet.Token(t, nil)
	if a := grpcCall(t, c, "POST", base+"/pkg.Echo/Once", messages("a")); a.code != "0" {
		t.Fatalf("the one call of a plan: %+v", a)
	}
	// plain hides the length of a body.
	plain := func(r io.Reader) io.Reader { return io.MultiReader(r) }
	for _, tt := range []struct {
		name, method, path string
		body               io.Reader
		lines              []string
		status             int
		code, message      string
		only               bool
		frames             string
	}{
		{"unary", "POST", "/pkg.Echo/Unary", messages("a"), nil, 200, "0", "", false, "echo a;"},
		{"two messages", "POST", "/pkg.Echo/Unary", messages("a", "b"), nil, 200, "0", "", false, "echo a;echo b;"},
		{"no message", "POST", "/pkg.Echo/Unary", nil, nil, 200, "0", "", true, ""},
		{"length not known", "POST", "/pkg.Echo/Unary", plain(messages("a")), nil, 200, "0", "", false, "echo a;"},
		{"with a credential", "POST", "/pkg.Echo/Closed", messages("a"), []string{auth}, 200, "0", "", false, "echo a;"},
		{"under a bandwidth plan", "POST", "/pkg.Echo/Metered", plain(messages("a")), nil, 200, "0", "", false, "echo a;"},

		{"no credential", "POST", "/pkg.Echo/Closed", messages("a"), nil, 200, "16", "Missing Credentials", true, ""},
		{"wrong credential", "POST", "/pkg.Echo/Closed", messages("a"), []string{auth + "x"}, 200, "16", "Invalid Credentials", true, ""},
		{"another scheme", "POST", "/pkg.Echo/Closed", messages("a"), []string{"Authorization: Basic YTpi"}, 200, "16", "Invalid Authentication scheme", true, ""},
		{"scope", "POST", "/pkg.Echo/Scoped", messages("a"), []string{auth}, 200, "7", "The access token does not allow you to access the requested resource", true, ""},
		{"address", "POST", "/pkg.Echo/Denied", messages("a"), nil, 200, "7", "Runtime Error", true, ""},
		{"unknown method", "POST", "/pkg.Echo/Nothing", messages("a"), nil, 200, "12", "Runtime Error", true, ""},
		{"unknown service", "POST", "/pkg.Other/Unary", messages("a"), nil, 200, "12", "Runtime Error", true, ""},
		{"method in another case", "POST", "/pkg.Echo/unary", messages("a"), nil, 200, "12", "Runtime Error", true, ""},
		{"GET", "GET", "/pkg.Echo/Unary", nil, nil, 200, "12", "Runtime Error", true, ""},
		{"above a limit", "POST", "/pkg.Echo/Once", messages("a"), nil, 200, "8", "Message throttled out", true, ""},
		{"announced too large", "POST", "/pkg.Echo/Small", messages("a long message"), nil, 200, "8", "Runtime Error", true, ""},
		{"too large", "POST", "/pkg.Echo/Small", plain(messages("a long message")), nil, 200, "8", "Runtime Error", true, ""},
		{"above the bytes of a plan", "POST", "/pkg.Echo/Capped", plain(messages(strings.Repeat("x", 6<<10))), nil, 200, "8", "Message throttled out", true, ""},
		{"a backend that is away", "POST", "/pkg.Echo/Away", messages("a"), nil, 200, "14", "Runtime Error", true, ""},
		{"a backend that does not answer", "POST", "/pkg.Echo/Late", messages("a"), nil, 200, "4", "Runtime Error", true, ""},
		{"a backend that refuses", "POST", "/pkg.Echo/Fail", messages("a"), nil, 200, "5", "no such thing %E2%82%AC", true, ""},
		{"a backend that is no gRPC server", "POST", "/pkg.Echo/Plain", messages("a"), nil, 503, "", "", false, "away"},
		{"dot segments", "POST", "/pkg.Echo/%2e%2e/Unary", messages("a"), nil, 200, "3", "Runtime Error", true, ""},
		{"gRPC-Web", "POST", "/pkg.Echo/Closed", messages("a"), []string{"Content-Type: application/grpc-web+proto"}, 200, "16", "Missing Credentials", true, ""},
		{"a deadline of no time", "POST", "/pkg.Echo/Unary", messages("a"), []string{"Grpc-Timeout: 0S"}, 200, "4", "Runtime Error", true, ""},
		{"a deadline without a unit", "POST", "/pkg.Echo/Unary", messages("a"), []string{"Grpc-Timeout: 100"}, 200, "3", "Runtime Error", true, ""},
		{"a deadline of nine digits", "POST", "/pkg.Echo/Unary", messages("a"), []string{"Grpc-Timeout: 100000000S"}, 200, "3", "Runtime Error", true, ""},
		{"a negative deadline", "POST", "/pkg.Echo/Unary", messages("a"), []string{"Grpc-Timeout: -1S"}, 200, "3", "Runtime Error", true, ""},
		{"a deadline of another unit", "POST", "/pkg.Echo/Unary", messages("a"), []string{"Grpc-Timeout: 1d"}, 200, "3", "Runtime Error", true, ""},
		{"two deadlines", "POST", "/pkg.Echo/Unary", messages("a"), []string{"Grpc-Timeout: 1S", "Grpc-Timeout: 2S"}, 200, "3", "Runtime Error", true, ""},
		{"a message that is none", "POST", "/pkg.Echo/Unary", strings.NewReader("\x00\x00\x00\x00\x02\xff\xff"), nil, 200, "13", "", true, ""},
		{"a message that ends early", "POST", "/pkg.Echo/Unary", strings.NewReader("\x00\x00\x00\x00\x09a"), nil, 200, "13", "", true, ""},
		{"a message that says it is huge", "POST", "/pkg.Echo/Unary", strings.NewReader("\x00\xff\xff\xff\xff"), nil, 200, "8", "", true, ""},
		{"a compression that nobody knows", "POST", "/pkg.Echo/Unary", messages("a"), []string{"Grpc-Encoding: zz"}, 200, "12", "", true, ""},
	} {
		a := grpcCall(t, c, tt.method, base+tt.path, tt.body, tt.lines...)
		theirs := tt.code == "13" || tt.message == "" // what the server's library says is its own
		if theirs {
			a.message = tt.message
		}
		if a.err != nil || a.status != tt.status || a.code != tt.code || a.message != tt.message || a.only != tt.only || a.frames != tt.frames {
			t.Errorf("%s: got %d, code %q, message %q, trailers only %v, %q, %v; want %d, %q, %q, %v, %q",
				tt.name, a.status, a.code, a.message, a.only, a.frames, a.err, tt.status, tt.code, tt.message, tt.only, tt.frames)
		}
		if a.only && a.code != "5" && a.header.Get("Content-Type") != "application/grpc" {
			t.Errorf("%s: content type %q", tt.name, a.header.Get("Content-Type"))
		}
		if a.err == nil && a.header.Get("X-Request-Id") == "" {
			t.Errorf("%s: no request id", tt.name)
		}
	}
	if a := grpcCall(t, c, "POST", base+"/pkg.Echo/Cut", messages("a")); a.err == nil {
		t.Errorf("a backend that breaks off: got %+v", a)
	}
	// Without HTTP/2 towards the client there are no trailers in its sense, but the refusals are the same.
	if a := grpcCall(t, direct(t), "POST", d.URL("/pkg.Echo/Closed"), messages("a")); a.status != 200 || a.code != "16" {
		t.Errorf("HTTP/1.1: got %+v", a)
	}
	if a := grpcCall(t, direct(t), "POST", d.URL("/pkg.Echo/Unary"), messages("a")); a.code != "0" || a.frames != "echo a;" || a.trailer.Get("X-Count") != "1" {
		t.Errorf("HTTP/1.1: got %+v", a)
	}
}

func TestTrailersReachTheClient(t *testing.T) {
	d := grpcDevice(t, nil)
	c, base := grpcClient(t), "https://"+d.Addr("https")
	a := grpcCall(t, c, "POST", base+"/pkg.Echo/Unary", messages("a", "b"))
	if a.trailer.Get("X-Count") != "2" || a.trailer.Get("Grpc-Status") != "0" {
		t.Errorf("got trailer %v", a.trailer)
	}
	if a := grpcCall(t, c, "POST", base+"/pkg.Echo/Te", nil); a.header.Get("X-Te") != "trailers" {
		t.Errorf("the backend was not told that trailers are taken: %v", a.header)
	}
}
