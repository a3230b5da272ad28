package appliance_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
	"time"
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

// grpcServer speaks gRPC over HTTP/2 without TLS, with prior knowledge.
func grpcServer(t *testing.T) string {
	t.Helper()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	stop := make(chan struct{})
	s := &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("the backend was spoken to in %s", r.Proto)
		}
		w.Header().Set("Content-Type", "application/grpc")
		method := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		switch method {
		case "Fail": // trailers only
			w.Header().Set("Grpc-Status", "5")
			w.Header().Set("Grpc-Message", "no such thing %E2%82%AC")
			return
		case "Plain":
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(503)
			fmt.Fprint(w, "away")
			return
		case "Slow":
			select {
			case <-stop:
			case <-r.Context().Done():
			}
			return
		}
		w.Header().Set("Trailer", "Grpc-Status, Grpc-Message, X-Count")
		w.Header().Set("X-Te", r.Header.Get("Te"))
		n := 0
		for {
			msg, err := readFrame(r.Body)
			if err != nil {
				break
			}
			n++
			if method == "Cut" {
				_, _ = w.Write(frame("half")[:7])
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write(frame("echo " + msg))
			_ = http.NewResponseController(w).Flush()
		}
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set("X-Count", fmt.Sprint(n))
	}), ErrorLog: nil}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		close(stop)
		_ = s.Close()
		<-done
	})
	return "http://" + ln.Addr().String()
}

// grpcClient speaks HTTP/2 over TLS to a device.
func grpcClient(t *testing.T) *http.Client {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, DisableCompression: true} // the device made its own certificate
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func withTLS(c *config.Config) { c.Listen.HTTPS = "127.0.0.1:0" }

// grpcDevice runs a device in front of a gRPC server.
func grpcDevice(t *testing.T) *devicetest.Device {
	t.Helper()
	d := devicetest.Start(t, devicetest.Options{Config: withTLS})
	set := d.Fleet.API(t, grpcServer(t))
	set.Endpoints[0].HTTP2, set.Endpoints[0].Timeout = true, 300*time.Millisecond
	set.Endpoints = append(set.Endpoints, policy.Endpoints{Name: "nobody", HTTP2: true, Targets: []policy.Target{{URL: "http://127.0.0.1:1"}}})
	set.Plans = []policy.Plan{
		{Kind: policy.ResourcePlan, Name: "1", Limit: policy.Limit{Count: 1, Window: time.Hour}},
		{Kind: policy.ResourcePlan, Name: "bytes", Limit: policy.Limit{Unit: policy.Bytes, Count: 1 << 20, Window: time.Hour}},
	}
	a := &set.APIs[0]
	a.BasePath = ""
	for _, m := range []string{"Unary", "Closed", "Scoped", "Once", "Small", "Away", "Fail", "Plain", "Slow", "Cut", "Denied", "Metered"} {
		op := policy.Operation{ID: m, Method: "POST", Template: "/pkg.Echo/" + m}
		switch m {
		case "Closed":
			op.Security = []policy.Alternative{{{Scheme: 0}}}
		case "Scoped":
			op.Security, op.Scopes = []policy.Alternative{{{Scheme: 0}}}, []string{"write"}
		case "Once":
			op.Plan = "1"
		case "Small":
			op.MaxBody = 10
		case "Away":
			op.Production = 2
		case "Metered":
			op.Plan = "bytes"
		case "Denied":
			r, err := policy.ParseRange("127.0.0.0/8")
			if err != nil {
				t.Fatal(err)
			}
			op.Access = &policy.Access{Deny: []policy.Range{r}}
		}
		a.Operations = append(a.Operations, op)
	}
	d.Apply(t, set)
	return d
}

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
		q.Header.Set(name, value)
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
			a.frames += m + ";"
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
	d := grpcDevice(t)
	c := grpcClient(t)
	base := "https://" + d.Addr("https")
	plain := direct(t)
	auth := "Authorization: Bearer " + d.Fleet.Token(t, nil)
	if a := grpcCall(t, c, "POST", base+"/pkg.Echo/Once", bytes.NewReader(frame("a"))); a.code != "0" {
		t.Fatalf("the one call of a plan: %+v", a)
	}
	for _, tt := range []struct {
		name, method, path string
		body               io.Reader
		lines              []string
		status             int
		code, message      string
		only               bool
		frames             string
	}{
		{"unary", "POST", "/pkg.Echo/Unary", bytes.NewReader(frame("a")), nil, 200, "0", "", false, "echo a;"},
		{"two messages", "POST", "/pkg.Echo/Unary", bytes.NewReader(append(frame("a"), frame("b")...)), nil, 200, "0", "", false, "echo a;echo b;"},
		{"no message", "POST", "/pkg.Echo/Unary", nil, nil, 200, "0", "", true, ""},
		{"length not known", "POST", "/pkg.Echo/Unary", io.MultiReader(bytes.NewReader(frame("a"))), nil, 200, "0", "", false, "echo a;"},
		{"with a credential", "POST", "/pkg.Echo/Closed", bytes.NewReader(frame("a")), []string{auth}, 200, "0", "", false, "echo a;"},
		{"under a bandwidth plan", "POST", "/pkg.Echo/Metered", io.MultiReader(bytes.NewReader(frame("a"))), nil, 200, "0", "", false, "echo a;"},
		{"no credential", "POST", "/pkg.Echo/Closed", bytes.NewReader(frame("a")), nil, 200, "16", "Missing Credentials", true, ""},
		{"wrong credential", "POST", "/pkg.Echo/Closed", bytes.NewReader(frame("a")), []string{auth + "x"}, 200, "16", "Invalid Credentials", true, ""},
		{"another scheme", "POST", "/pkg.Echo/Closed", bytes.NewReader(frame("a")), []string{"Authorization: Basic YTpi"}, 200, "16", "Invalid Authentication scheme", true, ""},
		{"scope", "POST", "/pkg.Echo/Scoped", bytes.NewReader(frame("a")), []string{auth}, 200, "7", "The access token does not allow you to access the requested resource", true, ""},
		{"address", "POST", "/pkg.Echo/Denied", bytes.NewReader(frame("a")), nil, 200, "7", "Runtime Error", true, ""},
		{"unknown method", "POST", "/pkg.Echo/Nothing", bytes.NewReader(frame("a")), nil, 200, "12", "Runtime Error", true, ""},
		{"unknown service", "POST", "/pkg.Other/Unary", bytes.NewReader(frame("a")), nil, 200, "12", "Runtime Error", true, ""},
		{"GET", "GET", "/pkg.Echo/Unary", nil, nil, 200, "12", "Runtime Error", true, ""},
		{"above a limit", "POST", "/pkg.Echo/Once", bytes.NewReader(frame("a")), nil, 200, "8", "Message throttled out", true, ""},
		{"announced too large", "POST", "/pkg.Echo/Small", bytes.NewReader(frame("a long message")), nil, 200, "8", "Runtime Error", true, ""},
		{"too large", "POST", "/pkg.Echo/Small", io.MultiReader(bytes.NewReader(frame("a long message"))), nil, 200, "8", "Runtime Error", true, ""},
		{"a backend that is away", "POST", "/pkg.Echo/Away", bytes.NewReader(frame("a")), nil, 200, "14", "Runtime Error", true, ""},
		{"a backend that does not answer", "POST", "/pkg.Echo/Slow", bytes.NewReader(frame("a")), nil, 200, "4", "Runtime Error", true, ""},
		{"a backend that refuses", "POST", "/pkg.Echo/Fail", bytes.NewReader(frame("a")), nil, 200, "5", "no such thing %E2%82%AC", true, ""},
		{"a backend that is no gRPC server", "POST", "/pkg.Echo/Plain", bytes.NewReader(frame("a")), nil, 503, "", "", false, "away"},
		{"dot segments", "POST", "/pkg.Echo/%2e%2e/Unary", bytes.NewReader(frame("a")), nil, 200, "3", "Runtime Error", true, ""},
		{"gRPC-Web", "POST", "/pkg.Echo/Closed", bytes.NewReader(frame("a")), []string{"Content-Type: application/grpc-web+proto"}, 200, "16", "Missing Credentials", true, ""},
	} {
		a := grpcCall(t, c, tt.method, base+tt.path, tt.body, tt.lines...)
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
	if a := grpcCall(t, c, "POST", base+"/pkg.Echo/Cut", bytes.NewReader(frame("a"))); a.err == nil {
		t.Errorf("a backend that breaks off: got %+v", a)
	}
	// Without HTTP/2 towards the client there are no trailers in its sense, but the refusals are the same.
	if a := grpcCall(t, plain, "POST", d.URL("/pkg.Echo/Closed"), bytes.NewReader(frame("a"))); a.status != 200 || a.code != "16" {
		t.Errorf("HTTP/1.1: got %+v", a)
	}
	if a := grpcCall(t, plain, "POST", d.URL("/pkg.Echo/Unary"), bytes.NewReader(frame("a"))); a.code != "0" || a.frames != "echo a;" || a.trailer.Get("X-Count") != "1" {
		t.Errorf("HTTP/1.1: got %+v", a)
	}
}

func TestTrailersReachTheClient(t *testing.T) {
	d := grpcDevice(t)
	a := grpcCall(t, grpcClient(t), "POST", "https://"+d.Addr("https")+"/pkg.Echo/Unary", bytes.NewReader(append(frame("a"), frame("b")...)))
	if a.trailer.Get("X-Count") != "2" || a.trailer.Get("Grpc-Status") != "0" || a.header.Get("X-Te") != "trailers" {
		t.Errorf("got trailer %v, header %v", a.trailer, a.header)
	}
}

func TestBothWaysOfAStreamAreOpenAtOnce(t *testing.T) {
	d := grpcDevice(t)
	pr, pw := io.Pipe()
	q, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+d.Addr("https")+"/pkg.Echo/Unary", pr)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/grpc")
	q.Header.Set("Te", "trailers")
	go func() { _, _ = pw.Write(frame("first")) }()
	resp, err := grpcClient(t).Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for i, want := range []string{"echo first", "echo 1", "echo 2"} {
		got, err := readFrame(resp.Body)
		if err != nil || got != want {
			t.Fatalf("message %d: got %q, %v, want %q", i, got, err, want)
		}
		if i < 2 {
			if _, err := pw.Write(frame(fmt.Sprint(i + 1))); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = pw.Close()
	if _, err := readFrame(resp.Body); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
	if resp.Trailer.Get("X-Count") != "3" {
		t.Errorf("trailer: %v", resp.Trailer)
	}
}
