package throttle

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"tidegate/policy"
	"tidegate/policy/policytest"
	"time"
)

func perMin(n int64) policy.Limit { return policy.Limit{Count: n, Window: time.Minute} }

func span(t testing.TB, s string) policy.Range {
	t.Helper()
	r, err := policy.ParseRange(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// testSet has one API with a plan of its own, and one whose operations have theirs.
func testSet(t testing.TB) *policy.Set {
	return &policy.Set{
		APIs: []policy.API{
			{Name: "Meters", Version: "1.2.0", BasePath: "/meters/1.2.0", Owner: "admin@plant.example", Plan: "Guarded", Operations: []policy.Operation{
				{Method: "GET", Template: "/readings/{id}"}, {Method: "POST", Template: "/readings", Plan: "Slow"},
			}},
			{Name: "Pumps", Version: "2", BasePath: "/pumps/2", Operations: []policy.Operation{
				{Method: "GET", Template: "/{id}", Plan: "Slow"}, {Method: "GET", Template: "/*"}, {Method: "PUT", Template: "/", Plan: "unlimited"},
			}},
		},
		Plans: []policy.Plan{
			{Kind: policy.ResourcePlan, Name: "Guarded", Limit: perMin(2000), Groups: []policy.Group{
				{Name: "guest network", Limit: perMin(60), Conditions: []policy.Condition{{Kind: policy.OnIP, Ranges: []policy.Range{span(t, "10.99.0.0/16")}}}},
				{Name: "night", Limit: perMin(300), Conditions: []policy.Condition{
					{Kind: policy.OnHeader, Name: "x-shift", Pattern: "^night$"}, {Kind: policy.OnQuery, Name: "mode", Pattern: "bulk"},
				}},
				{Name: "not fitters", Limit: perMin(600), Conditions: []policy.Condition{
					{Kind: policy.OnClaim, Name: "role", Pattern: "fitter", Exact: true, Invert: true},
					{Kind: policy.OnClaim, Name: "site", Pattern: "9", Exact: true, Invert: true},
				}},
			}},
			{Kind: policy.ResourcePlan, Name: "Slow", Limit: perMin(10)},
			{Kind: policy.SubscriptionPlan, Name: "Gold", Limit: perMin(5000), Burst: policy.Burst{Count: 20, Per: time.Second}, Concurrent: 4, Soft: true},
			{Kind: policy.SubscriptionPlan, Name: "Trial", Limit: policy.Limit{Unit: policy.Bytes, Count: 1024000, Window: time.Minute}},
			{Kind: policy.SubscriptionPlan, Name: "Unauthenticated", Limit: policy.Limit{Count: 5, Window: 24 * time.Hour, Align: policy.CalendarDay, Zone: "Europe/Berlin"}},
			{Kind: policy.ApplicationPlan, Name: "50PerMin", Limit: perMin(50), Soft: true},
			{
				Kind: policy.CustomPlan, Name: "OneFitter", KeyTemplate: "$userId:$apiContext", Limit: perMin(10),
				When: []policy.Equation{{Variable: "userId", Value: "fitter1@carbon.super"}},
			},
		},
		Blocked: []policy.Block{
			{Kind: policy.BlockIP, Ranges: []policy.Range{span(t, "10.99.3.7"), span(t, "2001:db8::/48"), span(t, "10.99.3.0-10.99.3.9")}},
			{Kind: policy.BlockUser, Value: "guest"},
			{Kind: policy.BlockApplication, Value: "admin:Old App"},
			{Kind: policy.BlockAPI, Value: "/pumps/2"},
		},
	}
}

func limiter(t testing.TB, set *policy.Set) *Limiter {
	t.Helper()
	l, err := New(set)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func fitter() *policy.Principal {
	claims := policy.NewClaims(2)
	claims.Add("role", true, `["fitter","lead"]`, "fitter", "lead")
	claims.Add("site", false, `9`, "9")
	return &policy.Principal{
		Kind: policy.OAuth2, Subject: "fitter2", ApplicationID: "2", ApplicationPlan: "50PerMin", ApplicationOwner: "admin",
		ApplicationName: "TabletApp", ConsumerKey: "k1", Subscribed: true, SubscriptionPlan: "Gold", Claims: claims,
	}
}

func with(p *policy.Principal, change func(*policy.Principal)) *policy.Principal {
	change(p)
	return p
}

// spelled writes claims as level:plan and subject, the subject looked up among those
// that the documentation names.
func spelled(claims []Claim, subjects ...string) (out []string) {
	for _, c := range claims {
		s := "?"
		for _, sub := range subjects {
			base, _, _ := strings.Cut(sub, "#")
			if KeyOf(c.Rule.Level, base).Beside(c.Rule.Kind) == c.Key && strings.Contains(sub, "#") == (c.Rule.Kind >= Burst) &&
				(c.Rule.Kind == InFlight) == strings.Contains(sub, "#inflight") {
				s = sub
			}
		}
		out = append(out, fmt.Sprintf("%s %s %s ×%d", c.Rule.Level, c.Rule.Name, s, c.N))
	}
	return out
}

func TestClaimsFollowTheTableOfLevels(t *testing.T) {
	l := limiter(t, testSet(t))
	subjects := []string{
		"/meters/1.2.0:1.2.0", "/meters/1.2.0:1.2.0_condition0", "/meters/1.2.0:1.2.0_condition1", "/meters/1.2.0:1.2.0_condition2",
		"/pumps/2/{id}:GET", "2:/meters/1.2.0:1.2.0", "2:/meters/1.2.0:1.2.0#burst", "2:/meters/1.2.0:1.2.0#inflight", "2:/pumps/2:2",
		"2:fitter2@carbon.super", "2:fitter1@carbon.super", "192.0.2.1:/pumps/2:2", "192.0.2.1:/meters/1.2.0:1.2.0", "k1:/pumps/2:2", "bob:/pumps/2:2",
		"fitter1@carbon.super:/pumps/2", "fitter2@carbon.super:/pumps/2:2", "2:/pumps/2:2#burst", "2:/pumps/2:2#inflight", "10.99.1.1:/meters/1.2.0:1.2.0",
	}
	gold := func(scope string) []string {
		return []string{"subscription Gold 2:" + scope + " ×1", "subscription Gold-burst 2:" + scope + "#burst ×1", "subscription Gold-concurrent 2:" + scope + "#inflight ×1"}
	}
	join := func(parts ...any) (out []string) {
		for _, p := range parts {
			switch p := p.(type) {
			case string:
				out = append(out, p)
			case []string:
				out = append(out, p...)
			}
		}
		return out
	}
	get := func(target string, fields ...string) *policytest.Call {
		return policytest.New("GET", target, fields...)
	}
	guest := get("/")
	guest.From = netip.MustParseAddr("10.99.1.1")
	app := "application 50PerMin 2:fitter2@carbon.super ×1"
	for _, tc := range []struct {
		name    string
		api, op int
		call    policy.Call
		who     *policy.Principal
		want    []string
	}{
		{"all levels", 0, 0, get("/"), fitter(), join("api Guarded /meters/1.2.0:1.2.0 ×1", gold("/meters/1.2.0:1.2.0"), app)},
		{"an operation's plan is ignored beside the API's", 0, 1, get("/"), fitter(), join("api Guarded /meters/1.2.0:1.2.0 ×1", gold("/meters/1.2.0:1.2.0"), app)},
		{"a group instead of the default", 0, 0, get("/?mode=x+bulk", "X-Shift", "night"), fitter(), join("api Guarded-night /meters/1.2.0:1.2.0_condition1 ×1", gold("/meters/1.2.0:1.2.0"), app)},
		{"half a group", 0, 0, get("/?mode=x", "X-Shift", "night"), fitter(), join("api Guarded /meters/1.2.0:1.2.0 ×1", gold("/meters/1.2.0:1.2.0"), app)},
		{"a header sent twice", 0, 0, get("/?a=1&mode=bulk", "X-Shift", "day", "X-Shift", "night"), fitter(), join("api Guarded-night /meters/1.2.0:1.2.0_condition1 ×1", gold("/meters/1.2.0:1.2.0"), app)},
		{"the first group that matches takes the call", 0, 0, guest, nil, []string{
			"api Guarded-guest network /meters/1.2.0:1.2.0_condition0 ×1", "unauthenticated Unauthenticated 10.99.1.1:/meters/1.2.0:1.2.0 ×1",
		}},
		{
			"inverted together: one of two holds", 0, 0, get("/"), with(fitter(), func(p *policy.Principal) { p.Claims.Add("site", false, `8`, "8") }),
			join("api Guarded-not fitters /meters/1.2.0:1.2.0_condition2 ×1", gold("/meters/1.2.0:1.2.0"), app),
		},
		{"operation level", 1, 0, get("/"), fitter(), join("operation Slow /pumps/2/{id}:GET ×1", gold("/pumps/2:2"), app)},
		{"no resource plan", 1, 1, get("/"), fitter(), join(gold("/pumps/2:2"), app)},
		{"Unlimited in any case", 1, 2, get("/"), with(fitter(), func(p *policy.Principal) { p.SubscriptionPlan, p.ApplicationPlan = "UNLIMITED", "unlimited" }), nil},
		{"unsecured", 1, 1, get("/"), nil, []string{"unauthenticated Unauthenticated 192.0.2.1:/pumps/2:2 ×1"}},
		{
			"token without subscription", 1, 1, get("/"), with(fitter(), func(p *policy.Principal) { p.SubscriptionPlan, p.ApplicationPlan = "Unauthenticated", "" }),
			[]string{"unauthenticated Unauthenticated k1:/pumps/2:2 ×1"},
		},
		{
			"token without subscription and consumer key", 1, 1, get("/"),
			with(fitter(), func(p *policy.Principal) {
				p.Subject, p.ConsumerKey, p.SubscriptionPlan, p.ApplicationPlan = "bob", "", "Unauthenticated", ""
			}),
			[]string{"unauthenticated Unauthenticated bob:/pumps/2:2 ×1"},
		},
		{"Default is not defined", 1, 1, get("/"), &policy.Principal{Kind: policy.Basic, Subject: "bob", SubscriptionPlan: "Default"}, nil},
		{
			"bandwidth takes the stated length", 1, 1, get("/", "Content-Length", "4096"), with(fitter(), func(p *policy.Principal) { p.SubscriptionPlan, p.ApplicationPlan = "Trial", "" }),
			[]string{"subscription Trial 2:/pumps/2:2 ×4096"},
		},
		{
			"bandwidth without a length", 1, 1, get("/", "Content-Length", "4 GB"), with(fitter(), func(p *policy.Principal) { p.SubscriptionPlan, p.ApplicationPlan = "Trial", "" }),
			[]string{"subscription Trial 2:/pumps/2:2 ×0"},
		},
		{
			"custom key", 1, 1, get("/"), with(fitter(), func(p *policy.Principal) { p.Subject = "fitter1" }),
			join(gold("/pumps/2:2"), "application 50PerMin 2:fitter1@carbon.super ×1", "custom OneFitter fitter1@carbon.super:/pumps/2 ×1"),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			claims, err := l.Operation(tc.api, tc.op).Claims(nil, tc.call, tc.who)
			if err != nil {
				t.Fatal(err)
			}
			if got := spelled(claims, subjects...); !slices.Equal(got, tc.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
			}
		})
	}
}

func TestEveryGroupThatMatchesCountsWhenThePlanSaysSo(t *testing.T) {
	set := testSet(t)
	set.Plans[0].EveryGroup = true
	call := policytest.New("GET", "/?mode=bulk", "X-Shift", "night")
	call.From = netip.MustParseAddr("10.99.1.1")
	claims, err := limiter(t, set).Operation(0, 0).Claims(nil, call, nil)
	if err != nil {
		t.Fatal(err)
	}
	api := "/meters/1.2.0:1.2.0"
	want := []string{
		"api Guarded-guest network " + api + "_condition0 ×1", "api Guarded-night " + api + "_condition1 ×1",
		"api Guarded-not fitters " + api + "_condition2 ×1", "unauthenticated Unauthenticated 10.99.1.1:" + api + " ×1",
	}
	if got := spelled(claims, api+"_condition0", api+"_condition1", api+"_condition2", "10.99.1.1:"+api); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestUnknownPlanOfATokenIsRefused(t *testing.T) {
	op := limiter(t, testSet(t)).Operation(1, 1)
	for level, who := range map[policy.Level]*policy.Principal{
		policy.LevelSubscription: with(fitter(), func(p *policy.Principal) { p.SubscriptionPlan = "Platinum" }),
		policy.LevelApplication:  with(fitter(), func(p *policy.Principal) { p.ApplicationPlan = "Platinum" }),
	} {
		claims, err := op.Claims(nil, policytest.New("GET", "/"), who)
		var unknown *UnknownPlanError
		if !errors.As(err, &unknown) || unknown.Level != level || unknown.Name != "Platinum" || len(claims) != 0 {
			t.Errorf("%s: %v, %v", level, claims, err)
		}
	}
}

func TestBlocks(t *testing.T) {
	set := testSet(t)
	open := limiter(t, set).Operation(0, 0)
	from := func(a string) *policytest.Call {
		c := policytest.New("GET", "/")
		c.From = netip.MustParseAddr(a)
		return c
	}
	for a, want := range map[string]bool{
		"10.99.3.7": true, "10.99.3.0": true, "10.99.3.9": true, "10.99.3.10": false, "10.99.2.255": false, "::ffff:10.99.3.7": true,
		"2001:db8::1": true, "2001:db8:0:ffff::1": true, "2001:db8:1::1": false, "192.0.2.1": false, "fe80::1%eth0": false,
	} {
		if got := open.Blocked(from(a), nil); got != want {
			t.Errorf("%s: blocked %v", a, got)
		}
	}
	for name, who := range map[string]*policy.Principal{
		"user":        {Kind: policy.Basic, Subject: "guest"},
		"user@tenant": {Kind: policy.Basic, Subject: "guest@carbon.super"},
		"application": {Kind: policy.OAuth2, Subject: "x", ApplicationOwner: "admin", ApplicationName: "Old App"},
	} {
		if !open.Blocked(from("192.0.2.1"), who) {
			t.Errorf("%s: not blocked", name)
		}
	}
	if open.Blocked(from("192.0.2.1"), fitter()) {
		t.Error("a caller nobody blocked is blocked")
	}
	if !limiter(t, set).Operation(1, 0).Blocked(from("192.0.2.1"), nil) {
		t.Error("a blocked API answers")
	}
	set.Blocked = []policy.Block{{Kind: policy.BlockIP, Invert: true, Ranges: []policy.Range{span(t, "10.0.0.0/8"), span(t, "192.168.0.0/16")}}}
	only := limiter(t, set).Operation(0, 0)
	for a, want := range map[string]bool{"10.1.1.1": false, "192.168.3.4": false, "192.0.2.1": true, "2001:db8::1": true} {
		if got := only.Blocked(from(a), nil); got != want {
			t.Errorf("inverted: %s: blocked %v", a, got)
		}
	}
}

func TestPlansBecomeRules(t *testing.T) {
	rules := map[string]*Rule{}
	for _, r := range limiter(t, testSet(t)).Rules() {
		rules[r.Level.String()+" "+r.Name] = r
	}
	if r := rules["subscription Gold"]; r.Quota != Mark || r.Loss != FailClosed || r.Shared {
		t.Errorf("Gold: %+v, want marking, closed, the caller's own", r)
	}
	if r := rules["application 50PerMin"]; r.Quota != Stop || r.Loss != FailOpen {
		t.Errorf("50PerMin: %+v, want stopping (application plans ignore stopOnQuota), open", r)
	}
	if r := rules["api Guarded"]; r.Shared || r.Loss != FailOpen {
		t.Errorf("Guarded: %+v, want shared, open", r)
	}
	if r := rules["unauthenticated Unauthenticated"]; r.Window.Form != Calendar || r.Window.Zone.String() != "Europe/Berlin" {
		t.Errorf("Unauthenticated: %+v, want days of Berlin", r)
	}
	if r := rules["custom OneFitter"]; r.Shared {
		t.Error("a custom key of one user is the caller's own")
	}
}

func TestNewNamesEveryFault(t *testing.T) {
	set := &policy.Set{
		APIs: []policy.API{{Name: "A", Plan: "Missing"}},
		Plans: []policy.Plan{
			{Kind: policy.ResourcePlan, Name: "P", Limit: perMin(1)},
			{Kind: policy.SubscriptionPlan, Name: "Zone", Limit: policy.Limit{Count: 1, Window: 24 * time.Hour, Align: policy.CalendarDay, Zone: "Sea/Nowhere"}},
			{Kind: policy.ApplicationPlan, Name: "Pattern", Limit: perMin(1), Groups: []policy.Group{{Limit: perMin(1), Conditions: []policy.Condition{{Kind: policy.OnHeader, Name: "X", Pattern: "("}}}}},
			{Kind: policy.ApplicationPlan, Name: "Empty", Limit: perMin(1), Groups: []policy.Group{{Limit: perMin(1)}}},
			{Kind: policy.CustomPlan, Name: "Var", Limit: perMin(1), KeyTemplate: "$nobody"},
			{Kind: policy.CustomPlan, Name: "NoKey", Limit: perMin(1)},
			{Kind: policy.SubscriptionPlan, Name: "Half", Limit: policy.Limit{Count: 1, Window: time.Millisecond}},
		},
		Blocked: []policy.Block{{Kind: policy.BlockIP}},
	}
	many := policy.Plan{Kind: policy.ApplicationPlan, Name: "Many", Limit: perMin(1)}
	for range MaxClaims + 1 {
		many.EveryGroup = true
		many.Groups = append(many.Groups, policy.Group{Limit: perMin(1), Conditions: []policy.Condition{{Kind: policy.OnHeader, Name: "X", Pattern: "x"}}})
	}
	set.Plans = append(set.Plans, many)
	_, err := New(set)
	if err == nil {
		t.Fatal("compiled")
	}
	for _, want := range []string{
		`unknown plan "Missing"`, `"Sea/Nowhere"`, `pattern of "X"`, `"Empty": group 1 has no condition`,
		`unknown variable "nobody"`, `custom plan "NoKey"`, "whole number of seconds", "block condition 1", "could meet",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s:\n%v", want, err)
		}
	}
}

func TestTemplates(t *testing.T) {
	op := limiter(t, testSet(t)).Operation(0, 0)
	who := fitter()
	who.Claims.Add("http://wso2.org/claims/role", false, `"x"`, "x")
	call := policytest.New("GET", "/")
	for s, want := range map[string]string{
		"$userId:$apiContext":         "fitter2@carbon.super:/meters/1.2.0",
		"$resourceKey":                "/meters/1.2.0/readings/{id}:GET",
		"$apiVersion/$appId":          "1.2.0/2",
		"$appTenant-$apiTenant":       "carbon.super-plant.example",
		"v1:$clientIp!":               "v1:192.0.2.1!",
		"$customProperty.role:$appId": "fitter lead:2",
		"a-$customProperty.http://wso2.org/claims/role:$appId": "a-x:2",
		"$customProperty.none":                                 "",
	} {
		tm, err := parseTemplate(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		if got := string(tm.fill(nil, op, call, who)); got != want {
			t.Errorf("%s: %q, want %q", s, got, want)
		}
	}
	for _, s := range []string{"", "$", "$user", "$userIds", "$customProperty.", "x$", "$customProperty"} {
		if tm, err := parseTemplate(s); err == nil {
			t.Errorf("%q parsed: %+v", s, tm)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"$userId:$apiContext", "a$customProperty.http://x/y:$appId", "$$", "$customProperty.-"} {
		f.Add(s)
	}
	op := limiter(f, testSet(f)).Operation(0, 0)
	f.Fuzz(func(t *testing.T, s string) {
		tm, err := parseTemplate(s)
		if err != nil {
			return
		}
		got := string(tm.fill(nil, op, policytest.New("GET", "/"), nil))
		if !strings.Contains(s, "$") && got != s {
			t.Errorf("%q became %q", s, got)
		}
	})
}

func FuzzQueryCondition(f *testing.F) {
	f.Add("a=1&mode=bulk")
	f.Add("mode=%62ulk;x")
	f.Add("&&=&mode")
	c := condition{kind: policy.OnQuery, name: "mode", exact: "bulk"}
	f.Fuzz(func(t *testing.T, raw string) {
		if c.query(raw) && !strings.Contains(raw, "=") {
			t.Errorf("%q: a value without one", raw)
		}
	})
}

func TestStatic(t *testing.T) {
	set := testSet(t)
	if limiter(t, set).Operation(1, 1).Static(fitter()) {
		t.Error("a custom plan may apply, but the claims are said to be static")
	}
	set.Plans = slices.DeleteFunc(set.Plans, func(p policy.Plan) bool { return p.Kind == policy.CustomPlan })
	l := limiter(t, set)
	for name, tc := range map[string]struct {
		api  int
		who  *policy.Principal
		want bool
	}{
		"plain": {1, fitter(), true}, "groups": {0, fitter(), false}, "nobody": {1, nil, false},
		"bytes": {1, with(fitter(), func(p *policy.Principal) { p.SubscriptionPlan = "Trial" }), false},
		"token": {1, with(fitter(), func(p *policy.Principal) { p.SubscriptionPlan = "Unauthenticated" }), true},
	} {
		if got := l.Operation(tc.api, 1).Static(tc.who); got != tc.want {
			t.Errorf("%s: static %v", name, got)
		}
	}
}

func BenchmarkClaims(b *testing.B) {
	l := limiter(b, testSet(b))
	who := fitter()
	call := policytest.New("GET", "/?mode=bulk", "X-Shift", "night")
	for name, op := range map[string]*Operation{"levels": l.Operation(1, 0), "groups": l.Operation(0, 0)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var buf [MaxClaims]Claim
			for b.Loop() {
				if _, err := op.Claims(buf[:0], call, who); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkFields(b *testing.B) {
	l := limiter(b, testSet(b))
	claims, err := l.Operation(1, 0).Claims(nil, policytest.New("GET", "/"), fitter())
	if err != nil {
		b.Fatal(err)
	}
	v := Verdict{Tightest: 1, Remaining: 40, Reset: time.Second}
	var buf [256]byte
	b.ReportAllocs()
	for b.Loop() {
		AppendLimit(AppendPolicy(buf[:0], claims), claims, v)
	}
}
