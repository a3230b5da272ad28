package gateway_test

import (
	"net/netip"
	"testing"
	"tidegate/policy"
	"time"
)

// span reads a range.
func span(t *testing.T, s string) policy.Range {
	t.Helper()
	r, err := policy.ParseRange(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const (
	notHere   = `{"code":403, "type":"Status report", "message":"Runtime Error", "description":"Access is not allowed"}`
	notMethod = `{"code":405, "type":"Status report", "message":"Runtime Error", "description":"Method not allowed for given API resource"}`
	notType   = `{"code":415, "type":"Status report", "message":"Runtime Error", "description":"Unsupported media type"}`
)

// TestConditionalAccess shows who may call by address, hour, method and media type. The clock of
// these tests stands at Friday, 15 January 2027, 08:00 UTC.
func TestConditionalAccess(t *testing.T) {
	days := func(names ...time.Weekday) (bits uint8) {
		for _, d := range names {
			bits |= 1 << d
		}
		return bits
	}
	hours := func(bits uint8, from, to time.Duration, zone string) *policy.Access {
		return &policy.Access{Times: []policy.Hours{{Days: bits, From: from * time.Hour, To: to * time.Hour, Zone: zone}}}
	}
	every := uint8(0x7f)
	plant := []policy.Range{span(t, "10.0.0.0/8"), span(t, "fd00::/8"), span(t, "192.0.2.10-192.0.2.20")}
	one := []policy.Range{span(t, "10.9.9.9")}
	for _, tt := range []struct {
		name   string
		access *policy.Access
		client string
		method string
		kind   string // of a body
		status int
		body   string
	}{
		{"no condition", &policy.Access{}, "203.0.113.1", "GET", "", 200, "ok"},
		{"inside a prefix", &policy.Access{Allow: plant}, "10.255.255.255", "GET", "", 200, "ok"},
		{"below a prefix", &policy.Access{Allow: plant}, "9.255.255.255", "GET", "", 403, notHere},
		{"above a prefix", &policy.Access{Allow: plant}, "11.0.0.0", "GET", "", 403, notHere},
		{"begin of a range", &policy.Access{Allow: plant}, "192.0.2.10", "GET", "", 200, "ok"},
		{"end of a range", &policy.Access{Allow: plant}, "192.0.2.20", "GET", "", 200, "ok"},
		{"behind a range", &policy.Access{Allow: plant}, "192.0.2.21", "GET", "", 403, notHere},
		{"IPv6", &policy.Access{Allow: plant}, "fd00::1", "GET", "", 200, "ok"},
		{"another IPv6", &policy.Access{Allow: plant}, "fe80::1", "GET", "", 403, notHere},
		{"IPv4 in IPv6 form", &policy.Access{Allow: plant}, "::ffff:10.1.2.3", "GET", "", 200, "ok"},
		{"IPv4 in IPv6 form that is denied", &policy.Access{Deny: one}, "::ffff:10.9.9.9", "GET", "", 403, notHere},
		{"denied though allowed", &policy.Access{Allow: plant, Deny: one}, "10.9.9.9", "GET", "", 403, notHere},
		{"beside a denied one", &policy.Access{Deny: one}, "10.9.9.8", "GET", "", 200, "ok"},
		{"within hours", hours(every, 6, 22, ""), "10.0.0.1", "GET", "", 200, "ok"},
		{"the first second", hours(every, 8, 9, ""), "10.0.0.1", "GET", "", 200, "ok"},
		{"the end is outside", hours(every, 6, 8, ""), "10.0.0.1", "GET", "", 403, notHere},
		{"another day", hours(days(time.Monday, time.Saturday), 6, 22, ""), "10.0.0.1", "GET", "", 403, notHere},
		{"this day", hours(days(time.Friday), 6, 22, ""), "10.0.0.1", "GET", "", 200, "ok"},
		{"past midnight, from the day before", hours(days(time.Thursday), 22, 9, ""), "10.0.0.1", "GET", "", 200, "ok"},
		{"past midnight, of a day that is to come", hours(days(time.Friday), 22, 9, ""), "10.0.0.1", "GET", "", 403, notHere},
		{"in another zone", hours(every, 9, 10, "Europe/Oslo"), "10.0.0.1", "GET", "", 200, "ok"},
		{"in another zone, already over", hours(every, 8, 9, "Europe/Oslo"), "10.0.0.1", "GET", "", 403, notHere},
		{"in another zone it is another day", hours(days(time.Saturday), 0, 3, "Pacific/Kiritimati"), "10.0.0.1", "GET", "", 403, notHere},
		{"a method that is listed", &policy.Access{Methods: []string{"GET", "HEAD"}}, "10.0.0.1", "GET", "", 200, "ok"},
		{"a method that is not", &policy.Access{Methods: []string{"GET", "HEAD"}}, "10.0.0.1", "POST", "", 405, notMethod},
		{"address before method", &policy.Access{Methods: []string{"GET"}, Deny: one}, "10.9.9.9", "POST", "", 403, notHere},
		{"a media type", &policy.Access{ContentTypes: []string{"application/json"}}, "10.0.0.1", "POST", "Application/JSON; charset=utf-8", 200, "ok"},
		{"a family of media types", &policy.Access{ContentTypes: []string{"text/*"}}, "10.0.0.1", "POST", "text/csv", 200, "ok"},
		{"another media type", &policy.Access{ContentTypes: []string{"application/json"}}, "10.0.0.1", "POST", "application/xml", 415, notType},
		{"a media type that begins so", &policy.Access{ContentTypes: []string{"application/json"}}, "10.0.0.1", "POST", "application/json-patch", 415, notType},
		{"no media type", &policy.Access{ContentTypes: []string{"application/json"}}, "10.0.0.1", "POST", " ", 415, notType},
		{"no body, no media type", &policy.Access{ContentTypes: []string{"application/json"}}, "10.0.0.1", "POST", "", 200, "ok"},
	} {
		for level, change := range map[string]func(*policy.API, *policy.Operation){
			"API":       func(a *policy.API, _ *policy.Operation) { a.Access = tt.access },
			"operation": func(_ *policy.API, o *policy.Operation) { o.Access = tt.access },
		} {
			set := apiSet("http://127.0.0.1:9", func(a *policy.API, o *policy.Operation) {
				o.Method, o.Edit = tt.method, &policy.Transform{Fixed: &policy.Fixed{Status: 200, Body: []byte("ok")}}
				change(a, o)
			})
			g, _, _ := serve(t, set, nil)
			x := newExchange(tt.method, "/a/x/1")
			x.client = netip.MustParseAddr(tt.client)
			if tt.kind != "" {
				x.withBody(tt.kind, "{}")
			}
			ask(g, x)
			if x.status != tt.status || string(x.got) != tt.body {
				t.Errorf("%s of the %s: got %d %s, want %d %s", tt.name, level, x.status, x.got, tt.status, tt.body)
			}
			if allow := x.header.Value("Allow"); tt.status == 405 && allow != "GET, HEAD" {
				t.Errorf("%s: Allow %q", tt.name, allow)
			}
		}
	}
}
