package gateway_test

import (
	"testing"
	"tidegate/appliance/wire/wiretest"
	"tidegate/policy"
	"time"
)

const plainAnswer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 41\r\n\r\n" + `{"id":1,"secret":"s","items":[1,2,3,4,5]}`

// BenchmarkServe is the cost of a call between the engine's two halves: with the backend's
// connection, without the client's.
func BenchmarkServe(b *testing.B) {
	who := newIssuer(b)
	token := "Bearer " + who.token(b, nil)
	protect := func(set *policy.Set) *policy.Set {
		set.Issuers = []policy.Issuer{who.policy(b)}
		set.APIs[0].Operations[0].Security = []policy.Alternative{{{Scheme: 0}}}
		set.Plans = []policy.Plan{{Kind: policy.ResourcePlan, Name: "p", Limit: policy.Limit{Count: 1 << 30, Window: time.Hour}}}
		set.APIs[0].Operations[0].Plan = "p"
		return set
	}
	edits := &policy.Transform{
		RequestHeaders: []policy.Edit{{Kind: policy.EditSet, Name: "X-User", Value: "{claim.sub}"}},
		Path:           "/v2/{path.id}",
	}
	backend := "http://" + wiretest.Backend(b, plainAnswer)
	for _, bb := range []struct {
		name string
		set  *policy.Set
		x    *exchange
	}{
		{"plain", apiSet(backend, nil), newExchange("GET", "/a/x/1", "Accept", "*/*")},
		{"JWT and limit", protect(apiSet(backend, nil)), newExchange("GET", "/a/x/1", "Authorization", token)},
		{"transform", protect(apiSet(backend, func(_ *policy.API, o *policy.Operation) { o.Edit = edits })), newExchange("GET", "/a/x/1", "Authorization", token)},
		{"drop a field", apiSet(backend, func(_ *policy.API, o *policy.Operation) { o.Edit = &policy.Transform{DropFields: []string{"/secret"}} }), newExchange("GET", "/a/x/1")},
		{"fixed answer", apiSet(backend, func(_ *policy.API, o *policy.Operation) {
			o.Edit = &policy.Transform{Fixed: &policy.Fixed{Status: 200, Body: []byte("ok")}}
		}), newExchange("GET", "/a/x/1")},
		{"stored answer", apiSet(backend, func(a *policy.API, _ *policy.Operation) { a.Cache = &policy.Cache{Seconds: 3600} }), newExchange("GET", "/a/x/1")},
		{"schema", withSchema(apiSet(backend, nil)), newExchange("GET", "/a/x/1?limit=5")},
	} {
		b.Run(bb.name, func(b *testing.B) {
			g, _, _ := serve(b, bb.set, nil)
			bb.x.keep = true
			g.Serve(bb.x)
			if bb.x.status != 200 {
				b.Fatalf("status %d: %s", bb.x.status, bb.x.got)
			}
			bb.x.keep = false
			b.ReportAllocs()
			for b.Loop() {
				bb.x.reset()
				g.Serve(bb.x)
			}
		})
	}
}

// withSchema checks the parameters of the operation.
func withSchema(set *policy.Set) *policy.Set {
	set.Schemas = []policy.Schema{{Parameters: []policy.Parameter{
		{Name: "limit", In: policy.InQuery, Style: "form", Explode: true, Schema: []byte(`{"type":"integer","maximum":10}`)},
	}}}
	set.APIs[0].Operations[0].Request = 1
	return set
}
