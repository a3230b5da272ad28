package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"tidegate/appliance/gateway"
	"tidegate/appliance/revoked"
	"tidegate/appliance/wire/wiretest"
	"tidegate/policy"
	"tidegate/store"
	"tidegate/store/counters"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/crypto/bcrypt"
)

// A world is what the steps of a call are measured with.
type world struct {
	b       testing.TB
	set     *policy.Set
	api     *policy.API
	op      *policy.Operation
	x       *exchange
	secrets map[string][]byte
	fresh   bool // no token is remembered
	es      issuer
	rsa     *rsa.PrivateKey
}

// newWorld is one API with one operation. It answers by itself, or with the answer of a backend.
func newWorld(b testing.TB, answer string) *world {
	w := &world{b: b, x: newExchange("GET", "/a/x/17?limit=5", "Accept", "*/*", "User-Agent", "bench/1.0"), secrets: map[string][]byte{}, es: newIssuer(b)}
	backend := "http://127.0.0.1:9"
	if answer != "" {
		backend = "http://" + wiretest.Backend(b, answer)
	}
	w.set = apiSet(backend, nil)
	w.api = &w.set.APIs[0]
	w.op = &w.api.Operations[0]
	if answer == "" {
		w.op.Edit = &policy.Transform{Fixed: &policy.Fixed{Status: 200, Body: []byte("ok")}}
	}
	return w
}

func (w *world) edit() *policy.Transform {
	if w.op.Edit == nil {
		w.op.Edit = &policy.Transform{}
	}
	return w.op.Edit
}

func (w *world) field(name, value string) {
	w.x.head.Header = append(w.x.head.Header, fieldOf(name, value))
}

// jwt asks for a token of alg.
func (w *world) jwt(alg string, claims jwt.MapClaims) {
	p := w.es.policy(w.b)
	var token string
	if alg == "RS256" {
		var err error
		if w.rsa == nil {
			if w.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
				w.b.Fatal(err)
			}
		}
		der, err := x509.MarshalPKIXPublicKey(w.rsa.Public())
		if err != nil {
			w.b.Fatal(err)
		}
		p.Algorithms, p.Keys = []string{"RS256"}, []policy.Key{{PKIX: der}}
		all := jwt.MapClaims{"iss": p.Issuer, "sub": "tester", "jti": "1", "exp": int64(1_900_000_000)}
		for k, v := range claims {
			all[k] = v
		}
		if token, err = jwt.NewWithClaims(jwt.SigningMethodRS256, all).SignedString(w.rsa); err != nil {
			w.b.Fatal(err)
		}
	} else {
		token = w.es.token(w.b, claims)
	}
	w.set.Issuers = []policy.Issuer{p}
	w.secured(policy.Scheme{Kind: policy.OAuth2})
	w.field("Authorization", "Bearer "+token)
}

func (w *world) secured(s policy.Scheme) {
	w.api.Schemes = []policy.Scheme{s}
	w.op.Security = []policy.Alternative{{{Scheme: 0}}}
}

func (w *world) apiKey(string, jwt.MapClaims) {
	const key = "0123456789abcdef0123456789abcdef"
	w.set.APIKeys.Keys = []policy.HashedKey{{Hash: sha256.Sum256([]byte(key)), Name: "one"}}
	w.secured(policy.Scheme{Kind: policy.APIKey, In: policy.InHeader, Name: "X-Api-Key"})
	w.field("X-Api-Key", key)
}

func (w *world) basic(cost int) {
	h, err := bcrypt.GenerateFromPassword([]byte("password"), cost)
	if err != nil {
		w.b.Fatal(err)
	}
	w.set.Users = []policy.User{{Name: "user", Hash: string(h)}}
	w.secured(policy.Scheme{Kind: policy.Basic})
	w.field("Authorization", "Basic dXNlcjpwYXNzd29yZA==")
}

// certificate asks for a client certificate.
func (w *world) certificate() {
	make := func(tpl, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, tpl, parent, key.Public(), by)
		if err != nil {
			w.b.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			w.b.Fatal(err)
		}
		return c
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.b.Fatal(err)
	}
	from, to := time.Unix(1_700_000_000, 0), time.Unix(1_900_000_000, 0)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: from, NotAfter: to, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	ca = make(ca, ca, key, key)
	leaf := make(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "press 7"}, NotBefore: from, NotAfter: to, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ca, key, key)
	w.set.ClientCAs = []policy.ClientCA{{Name: "plant", Authorities: [][]byte{ca.Raw}}}
	w.api.MutualTLS, w.api.Optional = policy.MutualMandatory, true
	w.x.tls = &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{leaf}}
}

// subscribed makes the caller's application one of 1,000 that are subscribed.
func (w *world) subscribed() {
	for i := range 1000 {
		id := fmt.Sprint(i)
		w.set.Applications = append(w.set.Applications, policy.Application{ID: id, Name: "app " + id, Owner: "plant", Plan: "application", Keys: []policy.ConsumerKey{{Key: "key-" + id}}})
		w.set.Subscriptions = append(w.set.Subscriptions, policy.Subscription{Application: id, API: policy.APIID{Name: "a", Version: "1"}, Plan: "subscription"})
	}
	w.plan(policy.ApplicationPlan, "application")
	w.plan(policy.SubscriptionPlan, "subscription")
}

func (w *world) plan(kind policy.PlanKind, name string) {
	w.set.Plans = append(w.set.Plans, policy.Plan{Kind: kind, Name: name, Limit: policy.Limit{Count: 1 << 40, Window: time.Hour}})
}

func (w *world) revoke(n int) {
	for i := range n {
		h := sha256.Sum256(fmt.Append(nil, i))
		w.set.Revoked = append(w.set.Revoked, policy.Revocation{Kind: policy.RevocationKind(i%6 + 1), Hash: [16]byte(h[:16])})
	}
	slices.SortFunc(w.set.Revoked, func(a, b policy.Revocation) int {
		if a.Kind != b.Kind {
			return int(a.Kind) - int(b.Kind)
		}
		return slices.Compare(a.Hash[:], b.Hash[:])
	})
}

func (w *world) addresses(n int) {
	w.op.Access = &policy.Access{Times: []policy.Hours{{Days: 0x7f, To: 24 * time.Hour}}}
	for i := range n {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		r, err := policy.ParseRange(p.String())
		if err != nil {
			w.b.Fatal(err)
		}
		w.op.Access.Deny = append(w.op.Access.Deny, r)
	}
}

func (w *world) blocks(n int) {
	for i := range n {
		w.set.Blocked = append(w.set.Blocked, policy.Block{Kind: policy.BlockUser, Value: fmt.Sprint("user-", i, "@carbon.super")})
	}
}

func (w *world) cors() {
	w.api.CORS = &policy.CORS{Origins: []string{"https://panel.example"}, Methods: []string{"GET"}, Credentials: true}
	w.field("Origin", "https://panel.example")
}

func (w *world) parameters() {
	withSchema(w.set)
	w.set.Schemas[0].Parameters = append(w.set.Schemas[0].Parameters, policy.Parameter{Name: "id", In: policy.InPath, Required: true, Schema: []byte(`{"type":"integer","minimum":1}`)})
}

const readingSchema = `{"type":"object","required":["meter","value"],"properties":{"meter":{"type":"string","maxLength":32},"value":{"type":"number","minimum":0},"unit":{"enum":["kWh","m3"]},"tags":{"type":"array","items":{"type":"string"}}}}`

const reading = `{"meter":"m17","value":7.25,"unit":"kWh","tags":["a","b"]}`

func (w *world) body() {
	w.set.Schemas = []policy.Schema{{Body: []byte(readingSchema), Types: []string{"application/json"}}}
	w.op.Method, w.op.Request = "POST", 1
	w.x.head.Method = "POST"
	w.x.withBody("application/json", reading)
}

func (w *world) headers() {
	e := w.edit()
	e.RequestHeaders = []policy.Edit{{Kind: policy.EditSet, Name: "X-Site", Value: "quay {path.id}"}, {Kind: policy.EditRemove, Name: "X-Debug"}}
	e.ResponseHeaders = []policy.Edit{{Kind: policy.EditRemove, Name: "X-Powered-By"}}
	e.Path, e.Query = "/v2/{path.id}", []policy.Edit{{Kind: policy.EditSet, Name: "format", Value: "json"}}
}

func (w *world) assertion() {
	der, err := x509.MarshalPKCS8PrivateKey(w.es.key)
	if err != nil {
		w.b.Fatal(err)
	}
	w.secrets["backend_jwt/key"] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	w.set.BackendJWT = &policy.BackendJWT{Enabled: true, Algorithm: "ES256", Issuer: "gateway", Key: "backend_jwt/key"}
}

func (w *world) resilience() {
	e := &w.set.Endpoints[0]
	e.Targets = append(e.Targets, policy.Target{URL: e.Targets[0].URL + "/b", Weight: 3})
	e.Retry, e.Overall = policy.Retry{Count: 2, Statuses: []uint16{503}}, 10*time.Second
	e.Breaker = &policy.Breaker{Window: time.Minute, Bucket: 10 * time.Second, Volume: 10, Share: 0.5, Reset: time.Second, Statuses: []uint16{503}}
	e.Eject = &policy.Ejection{Failures: 5, For: 30 * time.Second}
}

// serve compiles the world: with the durable ledger on a disk, a list of late revocations, and a
// recorder that forgets.
func (w *world) serve() *gateway.Gateway {
	c := &clock{}
	now := c.Now()
	db, err := store.Open(filepath.Join(w.b.TempDir(), "state.db"), store.Options{MaxBytes: 16 << 20, Schema: 1})
	if err != nil {
		w.b.Fatal(err)
	}
	ledger, err := counters.Open(counters.In(db), instantOf(now), counters.Options{})
	if err != nil {
		w.b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = ledger.Run(ctx) })
	w.b.Cleanup(func() {
		stop()
		running.Wait()
		_ = db.Close()
	})
	late, err := revoked.Open(nil)
	if err != nil {
		w.b.Fatal(err)
	}
	o := gateway.Options{
		Clock: c, Counter: ledger, Recorder: &recorder{}, Revoked: late, Tokens: 1000, InFlight: 100, Responses: 1 << 20, CompressMin: 256,
		TLSTime: func() time.Time { return now.Lower }, Memory: unbounded{},
	}
	if w.fresh {
		o.Tokens = 0
	}
	g := gateway.New(o)
	w.b.Cleanup(g.Close)
	e, err := g.Build(w.set, w.secrets)
	if err != nil {
		w.b.Fatal(err)
	}
	g.Activate(e)
	return g
}

func (w *world) run(b *testing.B, status int) {
	g := w.serve()
	w.x.keep = true
	for range 20 { // a part of them is made once: tokens, connections, pools
		w.x.reset()
		g.Serve(w.x)
		if w.x.status != status || w.x.abort {
			b.Fatalf("status %d: %s", w.x.status, w.x.got)
		}
	}
	w.x.keep = false
	b.ReportAllocs()
	done := wiretest.CPU(b)
	for b.Loop() {
		w.x.reset()
		g.Serve(w.x)
	}
	done()
}

// BenchmarkSteps is each step of a call alone, upon an operation that answers by itself: what a row
// costs more than "nothing" is the step.
func BenchmarkSteps(b *testing.B) {
	for _, s := range []struct {
		name   string
		with   func(w *world)
		status int
	}{
		{"nothing", func(*world) {}, 200},
		{"no such path", func(w *world) { w.x.head.Path = "/a/none/1/2" }, 404},
		{"no credential", func(w *world) { w.jwt("ES256", nil); w.x.head.Header = w.x.head.Header[:2] }, 401},
		{"JWT, remembered", func(w *world) { w.jwt("RS256", nil) }, 200},
		{"JWT, RS256 verified", func(w *world) { w.jwt("RS256", nil); w.fresh = true }, 200},
		{"JWT, ES256 verified", func(w *world) { w.jwt("ES256", nil); w.fresh = true }, 200},
		{"API key", func(w *world) { w.apiKey("", nil); w.fresh = true }, 200},
		{"basic, remembered", func(w *world) { w.basic(bcrypt.MinCost) }, 200},
		{"client certificate, remembered", func(w *world) { w.certificate() }, 200},
		{"JWT and 100,000 revocations", func(w *world) { w.jwt("RS256", nil); w.revoke(100_000) }, 200},
		{"JWT, scope, subscription of 1,000, two limits", func(w *world) {
			w.jwt("RS256", jwt.MapClaims{"scope": "read", "consumerKey": "key-500"})
			w.op.Scopes = []string{"read"}
			w.subscribed()
		}, 200},
		{"hours and 1,000 networks", func(w *world) { w.addresses(1000) }, 200},
		{"JWT and 1,000 blocked users", func(w *world) { w.jwt("RS256", nil); w.blocks(1000) }, 200},
		{"one limit", func(w *world) { w.plan(policy.ResourcePlan, "p"); w.op.Plan = "p" }, 200},
		{"above a limit", func(w *world) {
			w.set.Plans = []policy.Plan{{Kind: policy.ResourcePlan, Name: "p", Limit: policy.Limit{Count: 0, Window: time.Hour}}}
			w.op.Plan = "p"
		}, 429},
		{"CORS", func(w *world) { w.cors() }, 200},
		{"preflight", func(w *world) {
			w.cors()
			w.x.head.Method = "OPTIONS"
			w.field("Access-Control-Request-Method", "GET")
		}, 204},
		{"schema of two parameters", func(w *world) { w.parameters() }, 200},
		{"schema of a body of 60 bytes", func(w *world) { w.body() }, 200},
		{"answer of 1 KiB, gzip", func(w *world) {
			w.api.Compress = true
			w.op.Edit.Fixed.Body = []byte(`{"text":"` + wiretest.JSON[len(wiretest.JSON)-1013:] + `"}`)
			w.op.Edit.Fixed.Headers = []policy.Edit{{Kind: policy.EditSet, Name: "Content-Type", Value: "application/json"}}
			w.field("Accept-Encoding", "gzip")
		}, 200},
	} {
		b.Run(s.name, func(b *testing.B) {
			w := newWorld(b, "")
			s.with(w)
			w.run(b, s.status)
		})
	}
}

// BenchmarkForwarded is a call with its backend's connection on loopback: what a row costs more
// than "nothing" is the step, and "everything" is the whole chain.
func BenchmarkForwarded(b *testing.B) {
	full := func(w *world) {
		w.jwt("RS256", jwt.MapClaims{"scope": "read", "consumerKey": "key-500"})
		w.op.Scopes = []string{"read"}
		w.subscribed()
		w.plan(policy.ResourcePlan, "p")
		w.op.Plan = "p"
		w.set.Plans = append(w.set.Plans, policy.Plan{Kind: policy.CustomPlan, Name: "c", KeyTemplate: "$userId:$apiContext", Limit: policy.Limit{Count: 1 << 40, Window: time.Hour}})
		w.revoke(100_000)
		w.blocks(1000)
		w.addresses(1000)
		w.cors()
		w.parameters()
		w.headers()
		w.assertion()
		w.resilience()
	}
	for _, s := range []struct {
		name string
		with func(w *world)
	}{
		{"nothing", func(*world) {}},
		{"transform: headers, path, query", (*world).headers},
		{"transform: a field out of the answer", func(w *world) { w.edit().DropFields = []string{"/secret"} }},
		{"schema of the answer", func(w *world) {
			w.set.Schemas = []policy.Schema{{Body: []byte(`{"type":"object","required":["id"],"properties":{"id":{"type":"integer"}}}`), Types: []string{"application/json"}}}
			w.op.Response = 1
		}},
		{"JWT and a token for the backend, remembered", func(w *world) { w.jwt("RS256", nil); w.assertion() }},
		{"two targets, retry, breaker, ejection", (*world).resilience},
		{"limit of bytes", func(w *world) {
			w.set.Plans = []policy.Plan{{Kind: policy.ResourcePlan, Name: "p", Limit: policy.Limit{Unit: policy.Bytes, Count: 1 << 50, Window: time.Hour}}}
			w.op.Plan = "p"
		}},
		{"stored answer", func(w *world) { w.api.Cache = &policy.Cache{Seconds: 3600} }},
		{"JWT, four limits", func(w *world) {
			w.jwt("RS256", jwt.MapClaims{"consumerKey": "key-500"})
			w.subscribed()
			w.plan(policy.ResourcePlan, "p")
			w.op.Plan = "p"
			w.set.Plans = append(w.set.Plans, policy.Plan{Kind: policy.CustomPlan, Name: "c", KeyTemplate: "$userId:$apiContext", Limit: policy.Limit{Count: 1 << 40, Window: time.Hour}})
		}},
		{"everything but a look into bodies", full},
		{"everything", func(w *world) {
			full(w)
			w.edit().DropFields = []string{"/secret"}
			w.set.Schemas = append(w.set.Schemas, policy.Schema{Body: []byte(`{"type":"object","required":["id"],"properties":{"id":{"type":"integer"}}}`), Types: []string{"application/json"}})
			w.op.Response = policy.SchemaRef(len(w.set.Schemas))
		}},
	} {
		b.Run(s.name, func(b *testing.B) {
			w := newWorld(b, plainAnswer)
			s.with(w)
			w.run(b, 200)
		})
	}
}
