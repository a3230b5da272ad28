package cors_test

import (
	"strings"
	"testing"
	"tidegate/policy"
	"tidegate/policy/cors"
	"tidegate/policy/policytest"
	"time"
)

const (
	origin = "https://shop.example"
	vary   = "Vary: Origin"
	varyP  = "Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
)

func lines(f []cors.Field) string {
	var s []string
	for _, x := range f {
		s = append(s, x.Name+": "+x.Value)
	}
	return strings.Join(s, "\n")
}

var (
	strict = &policy.CORS{
		Origins: []string{origin, "http://localhost:3000", "null"}, Methods: []string{"GET", "PUT"},
		Headers: []string{"X-Trace", "Content-Type"}, Expose: []string{"X-Count"}, Credentials: true, MaxAge: 90 * time.Second,
	}
	open     = &policy.CORS{Origins: []string{"*"}, Methods: []string{"*"}, Headers: []string{"*"}, Credentials: true}
	wildCred = &policy.CORS{Origins: []string{origin}, Methods: []string{"*"}, Headers: []string{"*"}, Credentials: true}
	private  = &policy.CORS{Origins: []string{origin}, Private: true}
)

func TestPreflight(t *testing.T) {
	declared := []string{"DELETE", "GET"}
	ask := func(o, method string, more ...string) []string {
		return append([]string{"Origin", o, "Access-Control-Request-Method", method}, more...)
	}
	for _, tc := range []struct {
		name   string
		rules  *policy.CORS
		fields []string
		want   string
	}{
		{"off", nil, ask(origin, "GET"), ""},
		{
			"listed", strict, ask(origin, "PUT", "Access-Control-Request-Headers", "x-trace"),
			varyP + "\nAccess-Control-Allow-Origin: " + origin + "\nAccess-Control-Allow-Credentials: true\nAccess-Control-Allow-Methods: GET, PUT\nAccess-Control-Allow-Headers: X-Trace, Content-Type\nAccess-Control-Max-Age: 90",
		},
		{"not listed", strict, ask("https://evil.example", "PUT"), varyP},
		{"listed as prefix", strict, ask(origin+".evil.example", "PUT"), varyP},
		{"listed as suffix", strict, ask("https://evilshop.example", "PUT"), varyP},
		{"other scheme", strict, ask("http://shop.example", "PUT"), varyP},
		{"other port", strict, ask(origin+":8443", "PUT"), varyP},
		{"with path", strict, ask(origin+"/", "PUT"), varyP},
		{"upper case", strict, ask("HTTPS://SHOP.EXAMPLE", "PUT"), varyP},
		{"two in one line", strict, ask(origin+" https://evil.example", "PUT"), varyP},
		{"two lines", strict, append(ask(origin, "PUT"), "Origin", "https://evil.example"), varyP},
		{
			"null without credentials", strict, ask("null", "PUT"),
			varyP + "\nAccess-Control-Allow-Origin: null\nAccess-Control-Allow-Methods: GET, PUT\nAccess-Control-Allow-Headers: X-Trace, Content-Type\nAccess-Control-Max-Age: 90",
		},
		{"null not listed", wildCred, ask("null", "PUT"), varyP},
		{
			"asterisk is never with credentials", open, ask("https://any.example", "PATCH", "Access-Control-Request-Headers", "authorization, x-a"),
			varyP + "\nAccess-Control-Allow-Origin: *\nAccess-Control-Allow-Methods: PATCH\nAccess-Control-Allow-Headers: authorization, x-a",
		},
		{
			"asterisks are named with credentials", wildCred, ask(origin, "PATCH", "Access-Control-Request-Headers", "authorization"),
			varyP + "\nAccess-Control-Allow-Origin: " + origin + "\nAccess-Control-Allow-Credentials: true\nAccess-Control-Allow-Methods: PATCH\nAccess-Control-Allow-Headers: authorization",
		},
		{
			"hostile method", wildCred, ask(origin, "GET, DELETE\r\nX: y"),
			varyP + "\nAccess-Control-Allow-Origin: " + origin + "\nAccess-Control-Allow-Credentials: true\nAccess-Control-Allow-Methods: DELETE, GET",
		},
		{
			"hostile headers", wildCred, ask(origin, "GET", "Access-Control-Request-Headers", "x-a\r\nSet-Cookie: b=c"),
			varyP + "\nAccess-Control-Allow-Origin: " + origin + "\nAccess-Control-Allow-Credentials: true\nAccess-Control-Allow-Methods: GET",
		},
		{
			"too many headers", wildCred, ask(origin, "GET", "Access-Control-Request-Headers", strings.Repeat("x-a,", 300)),
			varyP + "\nAccess-Control-Allow-Origin: " + origin + "\nAccess-Control-Allow-Credentials: true\nAccess-Control-Allow-Methods: GET",
		},
		{
			"headers in two lines", wildCred, ask(origin, "GET", "Access-Control-Request-Headers", "x-a", "Access-Control-Request-Headers", "x-b"),
			varyP + "\nAccess-Control-Allow-Origin: " + origin + "\nAccess-Control-Allow-Credentials: true\nAccess-Control-Allow-Methods: GET\nAccess-Control-Allow-Headers: x-a, x-b",
		},
		{
			"private network asked", private, ask(origin, "GET", "Access-Control-Request-Private-Network", "true"),
			varyP + ", Access-Control-Request-Private-Network\nAccess-Control-Allow-Origin: " + origin + "\nAccess-Control-Allow-Methods: DELETE, GET\nAccess-Control-Allow-Private-Network: true",
		},
		{
			"private network not asked", private, ask(origin, "GET"),
			varyP + ", Access-Control-Request-Private-Network\nAccess-Control-Allow-Origin: " + origin + "\nAccess-Control-Allow-Methods: DELETE, GET",
		},
		{
			"private network not allowed", strict, ask(origin, "GET", "Access-Control-Request-Private-Network", "true"),
			varyP + "\nAccess-Control-Allow-Origin: " + origin + "\nAccess-Control-Allow-Credentials: true\nAccess-Control-Allow-Methods: GET, PUT\nAccess-Control-Allow-Headers: X-Trace, Content-Type\nAccess-Control-Max-Age: 90",
		},
	} {
		call := policytest.New("OPTIONS", "/x", tc.fields...)
		if !cors.IsPreflight(call) {
			t.Errorf("%s: not taken for a preflight", tc.name)
		}
		if got := lines(cors.New(tc.rules).Preflight(nil, call, declared)); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

func TestActual(t *testing.T) {
	for _, tc := range []struct {
		name   string
		rules  *policy.CORS
		origin string
		want   string
	}{
		{"off", nil, origin, ""},
		{"no origin", strict, "", vary},
		{"no origin, asterisk", open, "", vary},
		{"listed", strict, origin, vary + "\nAccess-Control-Allow-Origin: " + origin + "\nAccess-Control-Allow-Credentials: true\nAccess-Control-Expose-Headers: X-Count"},
		{"not listed", strict, "https://evil.example", vary},
		{"null", strict, "null", vary + "\nAccess-Control-Allow-Origin: null\nAccess-Control-Expose-Headers: X-Count"},
		{"asterisk", open, "null", vary + "\nAccess-Control-Allow-Origin: *"},
	} {
		call := policytest.New("GET", "/x")
		if tc.origin != "" {
			call.Add("Origin", tc.origin)
		}
		if got := lines(cors.New(tc.rules).Actual(nil, call)); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

func TestWhatIsNoPreflight(t *testing.T) {
	for _, call := range []*policytest.Call{
		policytest.New("GET", "/", "Origin", origin, "Access-Control-Request-Method", "GET"),
		policytest.New("OPTIONS", "/", "Origin", origin),
		policytest.New("OPTIONS", "/", "Access-Control-Request-Method", "GET"),
		policytest.New("options", "/", "Origin", origin, "Access-Control-Request-Method", "GET"),
	} {
		if cors.IsPreflight(call) {
			t.Errorf("%+v is taken for a preflight", call)
		}
	}
}

func TestFieldsAreAppended(t *testing.T) {
	have := []cors.Field{{Name: "X-Request-Id", Value: "1"}}
	got := cors.New(open).Actual(have, policytest.New("GET", "/"))
	if len(got) != 2 || got[0] != have[0] {
		t.Errorf("got %v", got)
	}
}

func TestOwns(t *testing.T) {
	for name, want := range map[string]bool{"Access-Control-Allow-Origin": true, "access-control-max-age": true, "Access-Control": false, "Vary": false, "X-Access-Control-": false} {
		if cors.Owns(name) != want {
			t.Errorf("Owns(%q) = %v", name, !want)
		}
	}
}

func BenchmarkActual(b *testing.B) {
	r := cors.New(strict)
	call := policytest.New("GET", "/", "Origin", origin)
	var room [8]cors.Field
	b.ReportAllocs()
	for b.Loop() {
		if len(r.Actual(room[:0], call)) != 4 {
			b.Fatal("fields are missing")
		}
	}
}
