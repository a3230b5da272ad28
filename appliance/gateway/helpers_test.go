package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"tidegate/appliance/gateway"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"tidegate/policy/throttle"
	"tidegate/store/events"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// exchange is a call made of fields. It keeps the answer.
type exchange struct {
	head   wire.Head
	body   string
	from   io.Reader // instead of body
	read   int
	status int
	header wire.Header
	length int64
	got    []byte
	keep   bool // got is wanted
	abort  bool
	proxy  bool // the peer is a trusted proxy
	ctx    context.Context
	tls    *tls.ConnectionState
	client netip.Addr
}

var _ wire.Exchange = (*exchange)(nil)

func newExchange(method, target string, fields ...string) *exchange {
	x := &exchange{head: wire.Head{Method: method, Authority: "gateway.test", Proto: "HTTP/1.1"}}
	x.head.Path, x.head.Query, _ = strings.Cut(target, "?")
	for i := 0; i+1 < len(fields); i += 2 {
		x.head.Header = append(x.head.Header, wire.Field{Name: fields[i], Value: fields[i+1]})
	}
	return x
}

func (x *exchange) withBody(contentType, body string) *exchange {
	x.head.Header = append(x.head.Header, wire.Field{Name: "Content-Type", Value: contentType})
	x.body, x.head.Length = body, int64(len(body))
	return x
}

// reset makes x ready to be served again.
func (x *exchange) reset() {
	x.read, x.status, x.header, x.got, x.abort = 0, 0, x.header[:0], x.got[:0], false
}

func (x *exchange) Method() string            { return x.head.Method }
func (x *exchange) Host() string              { return x.head.Authority }
func (x *exchange) Path() string              { return x.head.Path }
func (x *exchange) Query() string             { return x.head.Query }
func (x *exchange) Header(name string) string { return x.head.Header.Value(name) }
func (x *exchange) HeaderValues(name string, yield func(string) bool) {
	x.head.Header.Values(name, yield)
}

func (x *exchange) Client() netip.Addr {
	if x.client.IsValid() {
		return x.client
	}
	return netip.AddrFrom4([4]byte{192, 0, 2, 1})
}
func (x *exchange) TrustedPeer() bool         { return x.proxy }
func (x *exchange) TLS() *tls.ConnectionState { return x.tls }
func (x *exchange) Body(limit int64) ([]byte, error) {
	if int64(len(x.body)) > limit {
		return nil, &wire.BodyError{Status: 413, Reason: "longer than allowed"}
	}
	return []byte(x.body), nil
}
func (x *exchange) Head() *wire.Head            { return &x.head }
func (x *exchange) Peer() netip.AddrPort        { return netip.AddrPortFrom(x.Client(), 4711) }
func (x *exchange) ID() string                  { return "0123456789abcdef0123456789abcdef" }
func (x *exchange) RequestBody() io.Reader      { return x }
func (x *exchange) RequestTrailer() wire.Header { return nil }
func (x *exchange) LimitBody(int64)             {}
func (x *exchange) Flush() error                { return nil }
func (x *exchange) Trailer(wire.Header)         {}
func (x *exchange) Started() bool               { return x.status != 0 }
func (x *exchange) Abort()                      { x.abort = true }
func (x *exchange) Counts() (in, out int64)     { return int64(x.read), int64(len(x.got)) }
func (x *exchange) Tunnel(wire.Header) (io.ReadWriteCloser, error) {
	return nil, errors.New("no connection")
}

func (x *exchange) Context() context.Context {
	if x.ctx != nil {
		return x.ctx
	}
	return context.Background()
}

func (x *exchange) Read(p []byte) (int, error) {
	if x.from != nil {
		return x.from.Read(p)
	}
	n := copy(p, x.body[x.read:])
	if x.read += n; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (x *exchange) Start(status int, h wire.Header, length int64) error {
	x.status, x.length = status, length
	if x.keep {
		for _, f := range h {
			x.header = append(x.header, wire.Field{Name: strings.Clone(f.Name), Value: strings.Clone(f.Value)})
		}
	}
	return nil
}

func (x *exchange) Write(p []byte) (int, error) {
	if x.keep {
		x.got = append(x.got, p...)
	}
	return len(p), nil
}

// clock stands still unless moved.
type clock struct{ boot time.Duration }

func (c *clock) Now() policy.Now {
	now := time.Unix(1_800_000_000, 0)
	return policy.Now{Lower: now, Upper: now, Boot: c.boot}
}
func (c *clock) Line() uint32 { return 1 }

// counter admits everything.
type counter struct{}

func (counter) Take(_ context.Context, _ throttle.Instant, claims []throttle.Claim) (throttle.Verdict, error) {
	return throttle.Verdict{Denied: -1, Tightest: 0, Remaining: 10, Reset: time.Minute}, nil
}

func (counter) Charge(context.Context, throttle.Instant, []throttle.Claim) (throttle.Verdict, error) {
	return throttle.Verdict{Denied: -1, Tightest: -1}, nil
}
func (counter) Release([]throttle.Claim)                  {}
func (counter) Expect(throttle.Instant, []*throttle.Rule) {}

// unbounded is memory for logins.
type unbounded struct{}

func (unbounded) Acquire(context.Context, int64) error { return nil }
func (unbounded) Release(int64)                        {}

func fieldOf(name, value string) wire.Field { return wire.Field{Name: name, Value: value} }

func instantOf(n policy.Now) throttle.Instant {
	return throttle.Instant{Lower: n.Lower, Boot: n.Boot, Line: 1}
}

// recorder keeps the last event.
type recorder struct {
	mu   sync.Mutex
	last events.Event
}

func (r *recorder) Record(e *events.Event) {
	r.mu.Lock()
	r.last = *e
	r.mu.Unlock()
}

// issuer makes tokens.
type issuer struct{ key *ecdsa.PrivateKey }

func newIssuer(t testing.TB) issuer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{k}
}

func (i issuer) policy(t testing.TB) policy.Issuer {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(i.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return policy.Issuer{Name: "test", Issuer: "https://issuer.test", Algorithms: []string{"ES256"}, Keys: []policy.Key{{PKIX: der}}, SingleKey: true}
}

func (i issuer) token(t testing.TB, claims jwt.MapClaims) string {
	t.Helper()
	all := jwt.MapClaims{"iss": "https://issuer.test", "sub": "tester", "exp": int64(1_900_000_000)}
	for k, v := range claims {
		all[k] = v
	}
	s, err := jwt.NewWithClaims(jwt.SigningMethodES256, all).SignedString(i.key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serve returns a gateway that serves set.
func serve(t testing.TB, set *policy.Set, secrets map[string][]byte) (*gateway.Gateway, *clock, *recorder) {
	t.Helper()
	c, r := &clock{}, &recorder{}
	g := gateway.New(gateway.Options{
		Clock: c, Counter: counter{}, Recorder: r, Tokens: 100, InFlight: 100, Responses: 1 << 20, CompressMin: 1 << 10,
		TLSTime: func() time.Time { return time.Unix(1_800_000_000, 0).Add(c.boot) },
	})
	t.Cleanup(g.Close)
	e, err := g.Build(set, secrets)
	if err != nil {
		t.Fatal(err)
	}
	g.Activate(e)
	return g, c, r
}

// apiSet is a set of one API /a with the operation GET /x, and what change makes of it.
func apiSet(backend string, change func(*policy.API, *policy.Operation)) *policy.Set {
	set := &policy.Set{
		Format: policy.Format, Name: "test",
		Endpoints: []policy.Endpoints{{Name: "a-1-production", Targets: []policy.Target{{URL: backend}}}},
	}
	api := policy.API{
		Name: "a", Version: "1", BasePath: "/a", Production: 1, Schemes: []policy.Scheme{{Kind: policy.OAuth2}},
		Operations: []policy.Operation{{Method: "GET", Template: "/x/{id}"}},
	}
	if change != nil {
		change(&api, &api.Operations[0])
	}
	set.APIs = []policy.API{api}
	return set
}
