package appliance_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// echoMethods are the methods of pkg.Echo: all answer each message m with "echo m", but for
// those that the server's code names.
var echoMethods = []string{"Unary", "Closed", "Scoped", "Once", "Small", "Denied", "Metered", "Capped", "Fail", "Slow", "Stall"}

// echoes is one method of pkg.Echo.
func echoes(method string, waits chan<- time.Duration) grpc.StreamHandler {
	return func(_ any, s grpc.ServerStream) error {
		switch method {
		case "Fail":
			return status.Error(codes.NotFound, "no such thing €")
		case "Slow", "Stall":
			if method == "Stall" { // an answer begins and then nothing comes
				if err := s.SendMsg(wrapperspb.String("first")); err != nil {
					return err
				}
			}
			at, ok := s.Context().Deadline()
			<-s.Context().Done()
			if ok && waits != nil {
				waits <- time.Until(at)
			}
			return s.Context().Err()
		}
		n := 0
		for {
			m := &wrapperspb.StringValue{}
			if err := s.RecvMsg(m); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return err
			}
			n++
			if err := s.SendMsg(wrapperspb.String("echo " + m.Value)); err != nil {
				return err
			}
		}
		s.SetTrailer(metadata.Pairs("x-count", fmt.Sprint(n)))
		return nil
	}
}

// testService is the service of the gRPC project's interoperability tests.
type testService struct {
	testpb.UnimplementedTestServiceServer
}

// UnaryCall answers with a payload of the size asked for, the status asked for, and the metadata
// that came.
func (testService) UnaryCall(ctx context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("x-grpc-test-echo-initial"); len(v) > 0 {
		_ = grpc.SetHeader(ctx, metadata.Pairs("x-grpc-test-echo-initial", v[0]))
	}
	if v := md.Get("x-grpc-test-echo-trailing-bin"); len(v) > 0 {
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-grpc-test-echo-trailing-bin", v[0]))
	}
	if s := in.GetResponseStatus(); s != nil && s.Code != 0 {
		return nil, status.Error(codes.Code(s.Code), s.Message)
	}
	out := &testpb.SimpleResponse{Payload: &testpb.Payload{Body: make([]byte, in.ResponseSize)}}
	if in.FillUsername {
		out.Username = strings.Join(md.Get("x-user"), ",")
	}
	return out, nil
}

func (testService) StreamingInputCall(s testpb.TestService_StreamingInputCallServer) error {
	sum := 0
	for {
		in, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return s.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: int32(sum)})
		}
		if err != nil {
			return err
		}
		sum += len(in.GetPayload().GetBody())
	}
}

func (testService) StreamingOutputCall(in *testpb.StreamingOutputCallRequest, s testpb.TestService_StreamingOutputCallServer) error {
	for _, p := range in.ResponseParameters {
		if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: make([]byte, p.Size)}}); err != nil {
			return err
		}
	}
	return nil
}

func (t testService) FullDuplexCall(s testpb.TestService_FullDuplexCallServer) error {
	for {
		in, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if st := in.GetResponseStatus(); st != nil && st.Code != 0 {
			return status.Error(codes.Code(st.Code), st.Message)
		}
		for _, p := range in.ResponseParameters {
			if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: make([]byte, p.Size)}}); err != nil {
				return err
			}
		}
	}
}

// grpcServer runs a gRPC server, without TLS unless opts say so. On waits, if not nil, the methods Slow
// and Stall tell how long their caller would still have waited when they were cancelled.
func grpcServer(t *testing.T, waits chan<- time.Duration, opts ...grpc.ServerOption) string {
	t.Helper()
	s := grpc.NewServer(opts...)
	testpb.RegisterTestServiceServer(s, testService{})
	desc := grpc.ServiceDesc{ServiceName: "pkg.Echo", HandlerType: (*any)(nil)}
	for _, m := range echoMethods {
		desc.Streams = append(desc.Streams, grpc.StreamDesc{StreamName: m, Handler: echoes(m, waits), ServerStreams: true, ClientStreams: true})
	}
	s.RegisterService(&desc, struct{}{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return "http://" + ln.Addr().String()
}

// grpcDevice runs a device in front of a gRPC server.
func grpcDevice(t *testing.T, waits chan<- time.Duration) *devicetest.Device {
	t.Helper()
	d := devicetest.Start(t, devicetest.Options{Config: withTLS})
	set := d.Fleet.API(t, grpcServer(t, waits))
	set.Endpoints[0].HTTP2 = true
	set.Endpoints = append(set.Endpoints,
		policy.Endpoints{Name: "nobody", HTTP2: true, Targets: []policy.Target{{URL: "http://127.0.0.1:1"}}},
		policy.Endpoints{Name: "no gRPC", HTTP2: true, Targets: []policy.Target{{URL: notGRPC(t)}}},
		policy.Endpoints{Name: "short", HTTP2: true, Timeout: 300 * time.Millisecond, Targets: set.Endpoints[0].Targets},
	)
	set.Plans = []policy.Plan{
		{Kind: policy.ResourcePlan, Name: "1", Limit: policy.Limit{Count: 1, Window: time.Hour}},
		{Kind: policy.ResourcePlan, Name: "bytes", Limit: policy.Limit{Unit: policy.Bytes, Count: 1 << 20, Window: time.Hour}},
		{Kind: policy.ResourcePlan, Name: "few bytes", Cut: true, Limit: policy.Limit{Unit: policy.Bytes, Count: 4 << 10, Window: 365 * 24 * time.Hour}},
	}
	a := &set.APIs[0]
	a.BasePath = ""
	add := func(id, path string, change func(*policy.Operation)) {
		op := policy.Operation{ID: id, Method: "POST", Template: path}
		if change != nil {
			change(&op)
		}
		a.Operations = append(a.Operations, op)
	}
	secured := []policy.Alternative{{{Scheme: 0}}}
	for _, m := range append([]string{"Away", "Plain", "Cut", "Late", "Te"}, echoMethods...) {
		add(m, "/pkg.Echo/"+m, func(op *policy.Operation) {
			switch m {
			case "Closed":
				op.Security = secured
			case "Scoped":
				op.Security, op.Scopes = secured, []string{"write"}
			case "Once":
				op.Plan = "1"
			case "Small":
				op.MaxBody = 12
			case "Away":
				op.Production = 2
			case "Plain", "Cut", "Te":
				op.Production = 3
			case "Late":
				op.Production = 4
				op.Edit = &policy.Transform{Path: "/pkg.Echo/Slow"}
			case "Metered":
				op.Plan = "bytes"
			case "Capped":
				op.Plan = "few bytes"
			case "Denied":
				r, err := policy.ParseRange("127.0.0.0/8")
				if err != nil {
					t.Fatal(err)
				}
				op.Access = &policy.Access{Deny: []policy.Range{r}}
			}
		})
	}
	for _, m := range []string{"UnaryCall", "StreamingInputCall", "StreamingOutputCall", "FullDuplexCall", "HalfDuplexCall"} {
		add(m, "/grpc.testing.TestService/"+m, nil)
	}
	d.Apply(t, set)
	return d
}

// connect makes a client of the gRPC library.
func connect(t *testing.T, d *devicetest.Device) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+d.Addr("https"), // the device made its own certificate
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func payload(n int) *testpb.Payload { return &testpb.Payload{Body: make([]byte, n)} }

// TestGRPCOfEveryKind passes the four kinds of call between a client and a server of the
// gRPC library.
func TestGRPCOfEveryKind(t *testing.T) {
	c := testpb.NewTestServiceClient(connect(t, grpcDevice(t, nil)))
	ctx := t.Context()
	for _, opts := range [][]grpc.CallOption{nil, {grpc.UseCompressor("gzip")}} {
		out, err := c.UnaryCall(ctx, &testpb.SimpleRequest{Payload: payload(271828), ResponseSize: 314159}, opts...)
		if err != nil || len(out.GetPayload().GetBody()) != 314159 {
			t.Errorf("unary: got %d bytes, %v", len(out.GetPayload().GetBody()), err)
		}
		up, err := c.StreamingInputCall(ctx, opts...)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{27182, 8, 1828, 45904} {
			if err := up.Send(&testpb.StreamingInputCallRequest{Payload: payload(n)}); err != nil {
				t.Fatal(err)
			}
		}
		if sum, err := up.CloseAndRecv(); err != nil || sum.AggregatedPayloadSize != 74922 {
			t.Errorf("client streaming: got %v, %v", sum, err)
		}
		sizes := []int32{31415, 9, 2653, 58979}
		ask := &testpb.StreamingOutputCallRequest{}
		for _, n := range sizes {
			ask.ResponseParameters = append(ask.ResponseParameters, &testpb.ResponseParameters{Size: n})
		}
		down, err := c.StreamingOutputCall(ctx, ask, opts...)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range sizes {
			if m, err := down.Recv(); err != nil || len(m.GetPayload().GetBody()) != int(n) {
				t.Errorf("server streaming: got %d bytes, %v, want %d", len(m.GetPayload().GetBody()), err, n)
			}
		}
		if _, err := down.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("server streaming: after the end %v", err)
		}
		both, err := c.FullDuplexCall(ctx, opts...)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range sizes { // each message goes out after the answer to the one before
			if err := both.Send(&testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{{Size: n}}}); err != nil {
				t.Fatal(err)
			}
			if m, err := both.Recv(); err != nil || len(m.GetPayload().GetBody()) != int(n) {
				t.Errorf("both ways: got %d bytes, %v, want %d", len(m.GetPayload().GetBody()), err, n)
			}
		}
		if err := both.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := both.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("both ways: after the end %v", err)
		}
	}
}

// TestGRPCMetadataAndStatusPass shows what stands beside the messages: metadata of both
// directions, binary too, trailers, and the server's status with its message.
func TestGRPCMetadataAndStatusPass(t *testing.T) {
	c := testpb.NewTestServiceClient(connect(t, grpcDevice(t, nil)))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-grpc-test-echo-initial", "one", "x-grpc-test-echo-trailing-bin", "\x0a\x0b\x0a\x0b", "x-user", "ann")
	var header, trailer metadata.MD
	out, err := c.UnaryCall(ctx, &testpb.SimpleRequest{FillUsername: true}, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil || out.Username != "ann" {
		t.Fatalf("got %v, %v", out, err)
	}
	if v := header.Get("x-grpc-test-echo-initial"); len(v) != 1 || v[0] != "one" {
		t.Errorf("header: got %v", header)
	}
	if v := trailer.Get("x-grpc-test-echo-trailing-bin"); len(v) != 1 || v[0] != "\x0a\x0b\x0a\x0b" {
		t.Errorf("trailer: got %v", trailer)
	}
	if len(header.Get("x-request-id")) != 1 {
		t.Errorf("no request id: %v", header)
	}
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		message := "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
		_, err := c.UnaryCall(ctx, &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: int32(code), Message: message}})
		if s := status.Convert(err); s.Code() != code || s.Message() != message {
			t.Errorf("%v: got %v %q", code, s.Code(), s.Message())
		}
	}
	if _, err := c.EmptyCall(ctx, &testpb.Empty{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a method that the bundle does not know: %v", err)
	}
	both, err := c.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := both.Send(&testpb.StreamingOutputCallRequest{ResponseStatus: &testpb.EchoStatus{Code: 9, Message: "not now"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := both.Recv(); status.Convert(err).Code() != codes.FailedPrecondition || status.Convert(err).Message() != "not now" {
		t.Errorf("a stream that the server refuses: %v", err)
	}
}

// ask calls a method of pkg.Echo.
func ask(ctx context.Context, cc *grpc.ClientConn, method, message string) (string, error) {
	out := &wrapperspb.StringValue{}
	err := cc.Invoke(ctx, "/pkg.Echo/"+method, wrapperspb.String(message), out)
	return out.Value, err
}

// TestRefusalsOfGRPCHaveItsStatus shows how a client of the gRPC library sees what the
// gateway refuses.
func TestRefusalsOfGRPCHaveItsStatus(t *testing.T) {
	d := grpcDevice(t, nil)
	cc := connect(t, d)
	token := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+d.Fleet.Token(t, nil))
	if got, err := ask(token, cc, "Closed", "a"); got != "echo a" || err != nil {
		t.Fatalf("with a token: got %q, %v", got, err)
	}
	if got, err := ask(t.Context(), cc, "Once", "a"); got != "echo a" || err != nil {
		t.Fatalf("within a plan: got %q, %v", got, err)
	}
	for _, tt := range []struct {
		name, method, message string
		ctx                   context.Context
		code                  codes.Code
		text                  string
	}{
		{"401", "Closed", "a", t.Context(), codes.Unauthenticated, "Missing Credentials"},
		{"403", "Scoped", "a", token, codes.PermissionDenied, "The access token does not allow you to access the requested resource"},
		{"403 by address", "Denied", "a", token, codes.PermissionDenied, "Runtime Error"},
		{"404", "Nothing", "a", token, codes.Unimplemented, "Runtime Error"},
		{"413", "Small", "a long message", token, codes.ResourceExhausted, "Runtime Error"},
		{"429", "Once", "a", token, codes.ResourceExhausted, "Message throttled out"},
		{"502", "Away", "a", token, codes.Unavailable, "Runtime Error"},
		{"504", "Late", "a", token, codes.DeadlineExceeded, "Runtime Error"},
		{"the server's own", "Fail", "a", token, codes.NotFound, "no such thing €"},
	} {
		_, err := ask(tt.ctx, cc, tt.method, tt.message)
		if s := status.Convert(err); s.Code() != tt.code || s.Message() != tt.text {
			t.Errorf("%s: got %v %q, want %v %q", tt.name, s.Code(), s.Message(), tt.code, tt.text)
		}
	}
	if _, err := ask(token, cc, "Plain", "a"); status.Code(err) != codes.Unavailable { // its status is 503, which the client's library maps
		t.Errorf("a backend that speaks no gRPC: %v", err)
	}
	// With no bundle to serve there is no API to call: 503.
	empty := connect(t, devicetest.Start(t, devicetest.Options{Config: withTLS}))
	if _, err := ask(t.Context(), empty, "Unary", "a"); status.Code(err) != codes.Unavailable {
		t.Errorf("no bundle: %v", err)
	}
}

// TestADeadlineOfGRPCHolds shows that grpc-timeout reaches the backend, ends the call there when
// it passes, and that the answer says so wherever the call was.
func TestADeadlineOfGRPCHolds(t *testing.T) {
	waits := make(chan time.Duration, 4)
	d := grpcDevice(t, waits)
	cc := connect(t, d)
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	if _, err := ask(ctx, cc, "Slow", "a"); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
	// The backend knew of the deadline: it was not the end of the client's connection alone.
	if left := <-waits; left > 0 && left > time.Second {
		t.Errorf("the backend would have waited for another %v", left)
	}
	// A client that does not end the call by itself hears of it from the gateway.
	c, base := grpcClient(t), "https://"+d.Addr("https")
	a := grpcCall(t, c, "POST", base+"/pkg.Echo/Slow", messages("a"), "Grpc-Timeout: 50m")
	if a.err != nil || a.status != 200 || a.code != "4" || !a.only {
		t.Errorf("before an answer: got %+v", a)
	}
	<-waits
	a = grpcCall(t, c, "POST", base+"/pkg.Echo/Stall", messages("a"), "Grpc-Timeout: 50m")
	if a.err != nil || a.status != 200 || a.code != "4" || a.only || a.frames != "first;" {
		t.Errorf("inside an answer: got %+v", a)
	}
	<-waits
	a = grpcCall(t, c, "POST", base+"/pkg.Echo/Unary", messages("a"), "Grpc-Timeout: 99999999H")
	if a.code != "0" || a.frames != "echo a;" {
		t.Errorf("a long deadline: got %+v", a)
	}
}

// TestADeadlineOfAClientOpensNoCircuit shows that who asks for an answer within no time does
// not take the backend from the others.
func TestADeadlineOfAClientOpensNoCircuit(t *testing.T) {
	d := devicetest.Start(t, devicetest.Options{Config: withTLS})
	set := d.Fleet.API(t, grpcServer(t, nil), "/open/x")
	set.Endpoints[0].HTTP2 = true
	set.Endpoints[0].Breaker = &policy.Breaker{Window: time.Minute, Bucket: 10 * time.Second, Volume: 2, Share: 0.5, Reset: time.Hour}
	a := &set.APIs[0]
	a.BasePath = ""
	a.Operations = []policy.Operation{{Method: "POST", Template: "/pkg.Echo/Slow"}, {Method: "POST", Template: "/pkg.Echo/Unary"}}
	d.Apply(t, set)
	c, base := grpcClient(t), "https://"+d.Addr("https")
	for range 5 {
		if a := grpcCall(t, c, "POST", base+"/pkg.Echo/Slow", messages("a"), "Grpc-Timeout: 1m"); a.code != "4" {
			t.Fatalf("got %+v", a)
		}
	}
	if a := grpcCall(t, c, "POST", base+"/pkg.Echo/Unary", messages("a")); a.code != "0" {
		t.Errorf("another client: got %+v", a)
	}
}

// TestBothWaysAreOpenUnderABandwidthPlan shows that a plan that counts bytes does not hold a
// stream back, and that one that cuts says why.
func TestBothWaysAreOpenUnderABandwidthPlan(t *testing.T) {
	cc := connect(t, grpcDevice(t, nil))
	desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	s, err := cc.NewStream(t.Context(), desc, "/pkg.Echo/Metered")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		m := fmt.Sprint(i)
		if err := s.SendMsg(wrapperspb.String(m)); err != nil {
			t.Fatal(err)
		}
		out := &wrapperspb.StringValue{}
		if err := s.RecvMsg(out); err != nil || out.Value != "echo "+m {
			t.Fatalf("message %d: got %q, %v", i, out.Value, err)
		}
	}
	// The bytes of the plan end inside of the request, before and after an answer has begun.
	if _, err := ask(t.Context(), cc, "Capped", strings.Repeat("x", 6<<10)); status.Code(err) != codes.ResourceExhausted || status.Convert(err).Message() != "Message throttled out" {
		t.Errorf("a request above the plan: %v", err)
	}
}

// TestGRPCOverTLSToTheBackend shows a gRPC server that is reached by TLS.
func TestGRPCOverTLSToTheBackend(t *testing.T) {
	ca := newAuthority(t, "backends")
	d := devicetest.Start(t, devicetest.Options{Config: withTLS})
	server := ca.issue(t, "backend", time.Now().Add(24*time.Hour), x509.ExtKeyUsageServerAuth)
	url := grpcServer(t, nil, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{server}})))
	set := d.Fleet.API(t, strings.Replace(url, "http:", "https:", 1))
	set.TLS = []policy.TLS{{Name: "plant", CAs: [][]byte{ca.cert.Raw}, AnyName: true}}
	set.Endpoints[0].HTTP2, set.Endpoints[0].TLS = true, "plant"
	set.APIs[0].BasePath = ""
	set.APIs[0].Operations = []policy.Operation{{Method: "POST", Template: "/pkg.Echo/Unary"}}
	d.Apply(t, set)
	if got, err := ask(t.Context(), connect(t, d), "Unary", "a"); got != "echo a" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// messages are strings as gRPC frames them.
func messages(list ...string) io.Reader {
	var b strings.Builder
	for _, m := range list {
		p, err := proto.Marshal(wrapperspb.String(m))
		if err != nil {
			panic(err) // a text of the test that is not UTF-8
		}
		b.Write(frame(string(p)))
	}
	return strings.NewReader(b.String())
}
