package appliance_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/policy/project"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// example runs a device with a project of examples/. The endpoint of a name leads to url, as an
// operator would say in the device's configuration, and the fleet's issuer is added.
func example(t *testing.T, name, endpoint, url string) *devicetest.Device {
	t.Helper()
	p, found := project.Load(os.DirFS("../examples/" + name))
	for _, f := range found {
		if f.Severity == project.Error || !strings.Contains(f.Message, "anybody may call") { // two of them are open, and say so
			t.Errorf("examples/%s: %s", name, f)
		}
	}
	if p == nil {
		t.FailNow()
	}
	d := devicetest.Start(t, devicetest.Options{Config: func(c *config.Config) {
		c.Listen.HTTPS = "127.0.0.1:0"
		c.Endpoints = map[string]config.Endpoint{endpoint: {URL: config.Words{url}}}
	}})
	p.Set.Issuers = append(p.Set.Issuers, d.Fleet.PolicyIssuer(t))
	d.Apply(t, p.Set)
	return d
}

func TestExampleWebSocket(t *testing.T) {
	d := example(t, "websocket", "live", echoSocket(t, nil))
	token := http.Header{"Authorization": {"Bearer " + d.Fleet.Token(t, nil)}}
	c, _ := dial(t, d, "/live/1.0/readings", token)
	if got, code := talk(t, c, websocket.TextMessage, "17.5 kWh"); got != "17.5 kWh" || code != 0 {
		t.Errorf("got %q, %d", got, code)
	}
	if _, code := talk(t, c, websocket.TextMessage, strings.Repeat("x", 5000)); code != 1009 {
		t.Errorf("a large message: closed with %d, want 1009", code)
	}
	c, _ = dial(t, d, "/live/1.0/readings", token)
	code := 0
	for range 100 {
		if _, code = talk(t, c, websocket.TextMessage, "m"); code != 0 {
			break
		}
	}
	if code != 1008 {
		t.Errorf("100 messages: closed with %d, want 1008", code)
	}
	for name, h := range map[string]struct {
		header http.Header
		path   string
		status int
	}{
		"no token":     {nil, "/live/1.0/readings", 401},
		"other origin": {http.Header{"Authorization": token["Authorization"], "Origin": {"https://evil.test"}}, "/live/1.0/readings", 403},
		"not allowed":  {nil, "/live/1.0/plain", 400},
	} {
		_, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+d.Addr("http")+h.path, h.header)
		if err == nil || resp == nil || resp.StatusCode != h.status {
			t.Errorf("%s: got %v, %v, want %d", name, resp, err, h.status)
		}
	}
}

func TestExampleGRPC(t *testing.T) {
	server := grpc.NewServer()
	desc := grpc.ServiceDesc{ServiceName: "meters.Readings", HandlerType: (*any)(nil)}
	for _, m := range []string{"Add", "Watch"} {
		desc.Streams = append(desc.Streams, grpc.StreamDesc{StreamName: m, Handler: echoes(m, nil), ServerStreams: true, ClientStreams: true})
	}
	server.RegisterService(&desc, struct{}{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	d := example(t, "grpc", "readings", "http://"+ln.Addr().String())
	cc := connect(t, d)
	as := func(claims map[string]any) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+d.Fleet.Token(t, claims))
	}
	add := func(ctx context.Context, method string) (string, codes.Code) {
		out := &wrapperspb.StringValue{}
		err := cc.Invoke(ctx, "/meters.Readings/"+method, wrapperspb.String("17.5 kWh"), out)
		return out.Value, status.Code(err)
	}
	for i, want := range []codes.Code{codes.OK, codes.OK, codes.OK, codes.ResourceExhausted} {
		if got, code := add(as(nil), "Add"); code != want || code == codes.OK && got != "echo 17.5 kWh" {
			t.Errorf("call %d: got %q, %v, want %v", i+1, got, code, want)
		}
	}
	if _, code := add(as(nil), "Watch"); code != codes.PermissionDenied {
		t.Errorf("no scope: got %v", code)
	}
	if _, code := add(t.Context(), "Add"); code != codes.Unauthenticated {
		t.Errorf("no token: got %v", code)
	}
	s, err := cc.NewStream(as(map[string]any{"scope": "readings.watch"}), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/meters.Readings/Watch")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"one", "two"} {
		out := &wrapperspb.StringValue{}
		if err := s.SendMsg(wrapperspb.String(m)); err != nil {
			t.Fatal(err)
		}
		if err := s.RecvMsg(out); err != nil || out.Value != "echo "+m {
			t.Errorf("a stream: got %q, %v", out.Value, err)
		}
	}
	_ = s.CloseSend()
	if err := s.RecvMsg(&wrapperspb.StringValue{}); err != io.EOF || s.Trailer().Get("x-count")[0] != "2" {
		t.Errorf("the end of a stream: %v, trailer %v", err, s.Trailer())
	}
}

func TestExampleCache(t *testing.T) {
	var calls atomic.Int64
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := calls.Add(1)
		if r.Method == "PUT" {
			w.WriteHeader(204)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "max-age=300")
		fmt.Fprintf(w, `{"list":%d,"prices":"%s"}`, n, strings.Repeat("9", 2000))
	}))
	d := example(t, "cache", "prices", backend.URL)
	c, url := direct(t), d.URL("/prices/1.0/list")
	first, second := say(t, c, "GET", url, ""), say(t, c, "GET", url, "")
	if first.status != 200 || second.body != first.body || second.header.Get("Age") == "" || first.header.Get("Age") != "" || calls.Load() != 1 {
		t.Errorf("got %d, ages %q, %q, %d calls", first.status, first.header.Get("Age"), second.header.Get("Age"), calls.Load())
	}
	if a := say(t, c, "GET", url, "", "Accept-Encoding: gzip"); a.header.Get("Content-Encoding") != "gzip" || len(a.body) >= len(first.body) {
		t.Errorf("compressed: %v", a.header)
	}
	if a := say(t, c, "PUT", url, "{}"); a.status != 204 {
		t.Errorf("PUT: got %d", a.status)
	}
	if a := say(t, c, "GET", url, ""); a.body == first.body {
		t.Error("after a change the old answer")
	}
	backend.Close()
	if a := say(t, c, "GET", url, "", "Cache-Control: no-cache"); a.status != 200 || a.header.Get("Age") == "" {
		t.Errorf("while the backend is away: got %d %v", a.status, a.header)
	}
	if a := say(t, c, "GET", url+"?page=2", ""); a.status != 502 || a.body != wsAway {
		t.Errorf("what was never asked for: got %d %s", a.status, a.body)
	}
}

func TestExampleTransforms(t *testing.T) {
	var seen string
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		seen = fmt.Sprintf("%s %s %s debug=%q", r.Method, r.URL.RequestURI(), b, r.Header.Get("X-Debug"))
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Powered-By", "CGI/1.1")
		if strings.Contains(string(b), `"99"`) {
			w.WriteHeader(404)
		}
		_, _ = io.WriteString(w, `{"id":17,"internal":{"db":"x"},"items":[{"n":1,"cost":3},{"n":2,"cost":4}]}`)
	}))
	defer backend.Close()
	d := example(t, "transforms", "orders", backend.URL)
	c := direct(t)
	a := say(t, c, "GET", d.URL(`/orders/1.0/orders/17?who=ann%22%7D&x=1`), "", "X-Debug: 1")
	if a.status != 200 || a.body != `{"id":17,"items":[{"n":1},{"n":2}]}` || a.header.Get("X-Powered-By") != "" {
		t.Errorf("got %d %s %v", a.status, a.body, a.header)
	}
	if want := `POST /legacy/orders.cgi?x=1&format=json {"order": "17", "for": "user ann\"}"} debug=""`; seen != want {
		t.Errorf("the backend saw %s\nwant %s", seen, want)
	}
	if a := say(t, c, "GET", d.URL("/orders/1.0/orders/99"), ""); a.status != 410 {
		t.Errorf("status: got %d", a.status)
	}
	if a := say(t, c, "GET", d.URL("/orders/1.0/old/a%2Fb"), ""); a.status != 308 || a.header.Get("Location") != "/orders/1.0/orders/a%2Fb" {
		t.Errorf("redirect: got %d %v", a.status, a.header)
	}
	if a := say(t, c, "GET", d.URL("/orders/1.0/version"), ""); a.body != `{"version":"1.0","call":"`+a.header.Get("X-Request-Id")+`"}` {
		t.Errorf("answer: got %s", a.body)
	}
}
