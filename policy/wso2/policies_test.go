package wso2

import (
	"encoding/json"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/policy/wso2/wso2test"
)

// objects reads a list of policies written as JSON.
func objects(t *testing.T, items ...string) []Object {
	t.Helper()
	l, err := ParseList("list policies", []byte(`{"list": [`+strings.Join(items, ",")+`]}`))
	if err != nil {
		t.Fatal(err)
	}
	return l.Items
}

// converted is what an export without APIs gives.
func converted(t *testing.T, x *Export) *Result {
	t.Helper()
	r, err := Convert(x, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// entry returns an entry as JSON, "" when it is not there.
func (r *Result) entry(kind, id string) string {
	for _, e := range r.Entries {
		if e.Kind == kind && e.ID == id {
			return string(canonical(e.Value))
		}
	}
	return ""
}

func TestLimitsOfEachForm(t *testing.T) {
	for _, tc := range []struct{ limit, want, lost string }{
		{`{"type":"RequestCountLimit","timeUnit":"min","unitTime":1,"requestCount":50}`, `{"count":50,"timeUnit":"min","unitTime":1}`, ""},
		{`{"type":"REQUESTCOUNTLIMIT","requestCount":{"timeUnit":"hour","unitTime":2,"requestCount":50},"bandwidth":null}`, `{"count":50,"timeUnit":"hour","unitTime":2}`, ""},
		{`{"type":"BandwidthLimit","timeUnit":"day","unitTime":1,"dataAmount":1000,"dataUnit":"KB"}`, `{"bandwidth":1000,"bandwidthUnit":"KB","timeUnit":"day","unitTime":1}`, ""},
		{`{"type":"BANDWIDTHLIMIT","bandwidth":{"timeUnit":"min","unitTime":1,"dataAmount":5,"dataUnit":"gb"}}`, `{"bandwidth":5,"bandwidthUnit":"GB","timeUnit":"min","unitTime":1}`, ""},
		{`{"type":"RequestCountLimit","timeUnit":"months","unitTime":3,"requestCount":2147483647}`, `{"count":2147483647,"timeUnit":"month","unitTime":3}`, ""},
		{`{"type":"RequestCountLimit","timeUnit":"min","unitTime":"5","requestCount":"7"}`, `{"count":7,"timeUnit":"min","unitTime":5}`, ""},
		{`{"type":"RequestCountLimit","timeUnit":"fortnight","unitTime":1,"requestCount":1}`, "", "fortnight"},
		{`{"type":"BandwidthLimit","timeUnit":"day","unitTime":1,"dataAmount":1000,"dataUnit":"bits"}`, "", "BITS"},
		{`{"type":"EVENTCOUNTLIMIT","eventCount":{"eventCount":3}}`, "", "EVENTCOUNTLIMIT"},
		{`{"type":"AIAPIQUOTALIMIT"}`, "", "AIAPIQUOTALIMIT"},
		{`null`, "", "nothing"},
	} {
		r := converted(t, &Export{Application: objects(t, `{"policyName":"P","defaultLimit":`+tc.limit+`}`)})
		if got := r.entry(KindApplication, "P"); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.limit, got, tc.want)
		}
		if tc.lost == "" {
			continue
		}
		if d := r.Report.Dropped; len(d) != 1 || !d[0].Security || !strings.Contains(d[0].Reason, tc.lost) {
			t.Errorf("%s: dropped %+v, want one that names %s", tc.limit, d, tc.lost)
		}
	}
}

func TestBurstAndQuotaOfSubscriptionPolicies(t *testing.T) {
	const limit = `"defaultLimit":{"type":"RequestCountLimit","timeUnit":"min","unitTime":1,"requestCount":9}`
	for _, tc := range []struct{ more, want string }{
		{`"rateLimitCount":20,"rateLimitTimeUnit":"sec"`, `{"burst":{"count":20,"timeUnit":"sec"},"count":9,"timeUnit":"min","unitTime":1}`},
		{`"rateLimitCount":0,"rateLimitTimeUnit":null`, `{"count":9,"timeUnit":"min","unitTime":1}`},
		{`"rateLimitCount":-1,"rateLimitTimeUnit":"NA"`, `{"count":9,"timeUnit":"min","unitTime":1}`},
		{`"rateLimitCount":5,"rateLimitTimeUnit":"NA"`, `{"count":9,"timeUnit":"min","unitTime":1}`},
		{`"stopOnQuotaReach":false`, `{"count":9,"stopOnQuota":false,"timeUnit":"min","unitTime":1}`},
		{`"stopOnQuotaReach":true,"customAttributes":[{"name":"a","value":"b"}],"billingPlan":"FREE"`, `{"count":9,"timeUnit":"min","unitTime":1}`},
	} {
		r := converted(t, &Export{Subscription: objects(t, `{"policyName":"P",`+limit+`,`+tc.more+`}`)})
		if got := r.entry(KindSubscription, "P"); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.more, got, tc.want)
		}
	}
	r := converted(t, &Export{Application: objects(t, `{"policyName":"P",`+limit+`,"burstLimit":{"rateLimitCount":3,"rateLimitTimeUnit":"min"}}`)})
	if got, want := r.entry(KindApplication, "P"), `{"burst":{"count":3,"timeUnit":"min"},"count":9,"timeUnit":"min","unitTime":1}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, name := range []string{"Unlimited", "unlimited", "UNLIMITED"} {
		if r := converted(t, &Export{Subscription: objects(t, `{"policyName":"`+name+`",`+limit+`}`)}); r.entry(KindSubscription, name) != "" {
			t.Errorf("%s was imported", name)
		}
	}
}

func TestConditionsOfBothForms(t *testing.T) {
	for _, tc := range []struct{ cond, want, lost string }{
		{`{"type":"HeaderCondition","headerName":"X-Shift","headerValue":"^night$"}`, `[{"header":"X-Shift","pattern":"^night$"}]`, ""},
		{`{"type":"HEADERCONDITION","invertCondition":true,"headerCondition":{"headerName":"A","headerValue":"b"}}`, `[{"header":"A","invert":true,"pattern":"b"}]`, ""},
		{`{"type":"QueryParameterCondition","parameterName":"mode","parameterValue":"bulk"}`, `[{"pattern":"bulk","query":"mode"}]`, ""},
		{`{"type":"JWTCLAIMSCONDITION","jwtClaimsCondition":{"claimUrl":"role","attribute":"fitter"}}`, `[{"claim":"role","pattern":"fitter"}]`, ""},
		{`{"type":"IPCondition","ipConditionType":"IPSpecific","specificIP":"10.0.0.1"}`, `[{"ip":"10.0.0.1"}]`, ""},
		{`{"type":"IPCONDITION","ipCondition":{"ipConditionType":"IPRANGE","startingIP":"10.0.0.1","endingIP":"10.0.0.9"}}`, `[{"ip":"10.0.0.1-10.0.0.9"}]`, ""},
		{`{"type":"IPCondition","ipConditionType":"IPRange","startingIP":"10.0.0.9","endingIP":"10.0.0.1"}`, "", "do not parse"},
		{`{"type":"HeaderCondition","headerName":"A","headerValue":"(?=x)"}`, "", "does not compile"},
		{`{"type":"HeaderCondition","headerName":"A"}`, "", "without a name or a value"},
		{`{"type":"MoonCondition"}`, "", "MOONCONDITION"},
	} {
		const limit = `{"type":"RequestCountLimit","timeUnit":"min","unitTime":1,"requestCount":9}`
		r := converted(t, &Export{Advanced: objects(t, `{"policyName":"P","defaultLimit":`+limit+`,"conditionalGroups":[{"description":"G","conditions":[`+tc.cond+`],"limit":`+limit+`}]}`)})
		got := ""
		for _, e := range r.Entries {
			if g := e.Value.Value("groups"); e.Kind == KindResource && g != nil {
				got = string(canonical(g.List[0].Value("match")))
			}
		}
		if got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.cond, got, tc.want)
		}
		if tc.lost != "" && (len(r.Report.Dropped) != 1 || !r.Report.Dropped[0].Security || !strings.Contains(r.Report.Dropped[0].Reason, tc.lost)) {
			t.Errorf("%s: dropped %+v, want one that says %q", tc.cond, r.Report.Dropped, tc.lost)
		}
	}
}

func TestCustomRulesAreTranslatedOrReported(t *testing.T) {
	query := func(eligible, batch, count string) string {
		return "FROM RequestStream\nSELECT userId, ( " + eligible + " ) AS isEligible , str:concat('a',':','b') as throttleKey\nINSERT INTO EligibilityStream; \n\n" +
			"FROM EligibilityStream[isEligible==true]#throttler:timeBatch(" + batch + ") \nSELECT throttleKey, (count(userId) >= " + count + ") as isThrottled, expiryTimeStamp group by throttleKey \nINSERT ALL EVENTS into ResultStream;"
	}
	for _, tc := range []struct{ siddhi, want string }{
		{query("userId == 'a@b' and apiContext == '/x/1'", "1 min", "10"), `{"count":10,"keyTemplate":"$userId","timeUnit":"min","unitTime":1,"when":{"apiContext":"/x/1","userId":"a@b"}}`},
		{query("true", "5 hour, 0", "3"), `{"count":3,"keyTemplate":"$userId","timeUnit":"hour","unitTime":5}`},
		{strings.ToLower(query("userid == 'a'", "1 day", "10")), `{"count":10,"keyTemplate":"$userId","timeUnit":"day","unitTime":1,"when":{"userid":"a"}}`},
		{query("userId == 'a' or apiContext == 'b'", "1 min", "10"), ""},
		{query("userId != 'a'", "1 min", "10"), ""},
		{query("regex:find('a', userId)", "1 min", "10"), ""},
		{query("true", "1 fortnight", "10"), ""},
		{query("true", "1 min", "10") + "\nFROM Other SELECT x INSERT INTO y;", ""},
		{"SELECT 1", ""},
		{"", ""},
	} {
		b, err := json.Marshal(map[string]any{"policyName": "R", "siddhiQuery": tc.siddhi, "keyTemplate": "$userId"})
		if err != nil {
			t.Fatal(err)
		}
		r := converted(t, &Export{Custom: objects(t, string(b))})
		if got := r.entry(KindCustom, "R"); got != tc.want {
			t.Errorf("%q: got %s, want %s", tc.siddhi, got, tc.want)
		}
		if lost := len(r.Report.Dropped) == 1 && r.Report.Dropped[0].Security; lost != (tc.want == "") {
			t.Errorf("%q: dropped %+v", tc.siddhi, r.Report.Dropped)
		}
	}
}

func TestBlockConditionsOfEachVersion(t *testing.T) {
	l, err := ParseList("list deny policies", wso2test.Reply("v4/deny-policies.json"))
	if err != nil {
		t.Fatal(err)
	}
	r := converted(t, &Export{Blocked: l.Items})
	for id, want := range map[string]string{
		"IP 10.99.3.7":             `{"type":"IP","value":"10.99.3.7"}`,
		"IP 10.98.0.0-10.98.0.255": `{"type":"IP","value":"10.98.0.0-10.98.0.255"}`,
		"USER guest":               "", // its status is off
	} {
		if got := r.entry(KindBlock, id); got != want {
			t.Errorf("%s: got %q, want %q", id, got, want)
		}
	}
	for _, tc := range []struct{ in, id, want string }{
		{`{"conditionType":"IP","conditionValue":{"fixedIp":"10.0.0.1","invert":true}}`, "IP 10.0.0.1", `{"invert":true,"type":"IP","value":"10.0.0.1"}`},
		{`{"conditionType":"IP","conditionValue":"{\"fixedIp\":\"10.0.0.1\",\"invert\":false}"}`, "IP 10.0.0.1", `{"type":"IP","value":"10.0.0.1"}`},
		{`{"conditionType":"API","conditionValue":"/cranes/v3"}`, "API /cranes/v3", `{"type":"API","value":"/cranes/v3"}`},
	} {
		r := converted(t, &Export{Blocked: objects(t, tc.in)})
		if got := r.entry(KindBlock, tc.id); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.in, got, tc.want)
		}
	}
	for _, in := range []string{`{"conditionType":"IP","conditionValue":"everywhere"}`, `{"conditionType":"SUBSCRIPTION","conditionValue":"/a:1:b"}`} {
		if r := converted(t, &Export{Blocked: objects(t, in)}); len(r.Report.Dropped) != 1 || !r.Report.Dropped[0].Security {
			t.Errorf("%s: dropped %+v", in, r.Report.Dropped)
		}
	}
}

func TestPoliciesOfAnotherShapeAreRefusedWithTheirPath(t *testing.T) {
	for in, want := range map[string]string{
		`{"displayName":"P"}`:  "$.list[0].policyName: missing",
		`{"policyName":["P"]}`: "$.list[0].policyName: want a text",
		`{"policyName":"P","defaultLimit":{"type":"RequestCountLimit","timeUnit":"min","requestCount":"many"}}`: `$.list[0].defaultLimit.requestCount: want a whole number, got "many"`,
		`{"policyName":"P","defaultLimit":{"type":"RequestCountLimit","timeUnit":"min","requestCount":1e99}}`:   "want a whole number",
	} {
		_, err := Convert(&Export{Application: objects(t, in)}, nil)
		if !refusal.Is(err, refusal.Format) || !strings.Contains(err.Error(), "list policies: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", in, err, want)
		}
	}
}

func TestUnusedPlansAreReportedOnceEach(t *testing.T) {
	l := func(name string) []Object {
		p, err := ParseList(name, wso2test.Reply(name))
		if err != nil {
			t.Fatal(err)
		}
		return p.Items
	}
	r := converted(t, &Export{Advanced: l("advanced-policies.json"), Subscription: l("subscription-policies.json")})
	warned := 0
	for _, w := range r.Report.Warnings {
		if strings.HasSuffix(w, "no API uses it") || strings.HasSuffix(w, "no API offers it") {
			warned++
		}
	}
	if warned != 2+4 {
		t.Errorf("got %q", r.Report.Warnings)
	}
}
