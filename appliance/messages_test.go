package appliance_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
)

// serveBy runs a device with one API whose backend is h. change edits the API before it is applied.
func serveBy(t *testing.T, h http.HandlerFunc, templates []string, change func(*policy.Set, *policy.API)) *devicetest.Device {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	d := devicetest.Start(t, devicetest.Options{Config: func(c *config.Config) { c.Limits.ValidateBytes = 4 << 10 }})
	set := d.Fleet.API(t, s.URL, templates...)
	if change != nil {
		change(set, &set.APIs[0])
	}
	d.Apply(t, set)
	return d
}

// say sends a request with a body and header lines "Name: value", and returns the answer.
func say(t *testing.T, c *http.Client, method, url, body string, lines ...string) answer {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	q, err := http.NewRequestWithContext(t.Context(), method, url, r)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		if name == "Content-Length" {
			q.ContentLength = -1 // chunked
			continue
		}
		q.Header.Add(name, value)
	}
	if q.Header.Get("Accept-Encoding") == "" {
		q.Header.Set("Accept-Encoding", "identity")
	}
	resp, err := c.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// direct follows no redirect and keeps no connection.
func direct(t *testing.T) *http.Client {
	t.Helper()
	tr := &http.Transport{DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

const (
	wsNotFound = `{"code":404, "type":"Status report", "message":"Runtime Error", "description":"No matching resource found for given API Request"}`
	wsMethod   = `{"code":405, "type":"Status report", "message":"Runtime Error", "description":"Method not allowed for given API resource"}`
	wsBad      = `{"code":400, "type":"Status report", "message":"Runtime Error", "description":"Bad request"}`
	wsType     = `{"code":415, "type":"Status report", "message":"Runtime Error", "description":"Unsupported media type"}`
	wsLarge    = `{"code":413, "type":"Status report", "message":"Runtime Error", "description":"Request body is too large"}`
	wsForbid   = `{"code":403, "type":"Status report", "message":"Runtime Error", "description":"Access is not allowed"}`
	wsMissing  = `{"fault":{"code":900902, "message":"Missing Credentials", "description":"Missing Credentials. Make sure your API request provides required credentials"}}`
	wsInvalid  = `{"fault":{"code":900901, "message":"Invalid Credentials", "description":"Invalid Credentials. Make sure you have given the correct access token"}}`
	wsAway     = `{"fault":{"code":101503, "message":"Runtime Error", "description":"Error connecting to the back end"}}`
)

func TestHostileCORS(t *testing.T) {
	d := serveBy(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "https://evil.test")
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		w.Header().Set("Vary", "Accept")
		fmt.Fprint(w, "hello")
	}, []string{"/open", "/closed"}, func(set *policy.Set, a *policy.API) {
		a.CORS = &policy.CORS{
			Origins: []string{"https://panel.example"}, Methods: []string{"GET", "POST"}, Headers: []string{"Content-Type"},
			Expose: []string{"X-Total"}, Credentials: true, MaxAge: 600e9, Private: true,
		}
		open := *a
		open.Name, open.BasePath = "any", "/any/1.0"
		open.Operations = a.Operations[:1]
		open.CORS = &policy.CORS{Origins: []string{"*"}, Headers: []string{"*"}}
		none := *a
		none.Name, none.BasePath, none.CORS = "none", "/none/1.0", nil
		none.Operations = a.Operations[:1]
		set.APIs = append(set.APIs, open, none)
	})
	c := direct(t)
	const ask = "Access-Control-Request-Method: GET"
	for _, tt := range []struct {
		name, method, path string
		lines              []string
		status             int
		body               string
		origin             string // Access-Control-Allow-Origin
		more               string // other fields of CORS, "name=value;" in order
	}{
		{"preflight", "OPTIONS", "/echo/1.0/open", []string{"Origin: https://panel.example", ask}, 204, "", "https://panel.example", "Credentials=true;Methods=GET, POST;Headers=Content-Type;Max-Age=600;"},
		{"preflight of a protected operation", "OPTIONS", "/echo/1.0/closed", []string{"Origin: https://panel.example", ask}, 204, "", "https://panel.example", "Credentials=true;Methods=GET, POST;Headers=Content-Type;Max-Age=600;"},
		{"preflight, private network", "OPTIONS", "/echo/1.0/open", []string{"Origin: https://panel.example", ask, "Access-Control-Request-Private-Network: true"}, 204, "", "https://panel.example", "Credentials=true;Methods=GET, POST;Headers=Content-Type;Private-Network=true;Max-Age=600;"},
		{"preflight, private network of another", "OPTIONS", "/echo/1.0/open", []string{"Origin: https://evil.test", ask, "Access-Control-Request-Private-Network: true"}, 204, "", "", ""},
		{"preflight of another origin", "OPTIONS", "/echo/1.0/open", []string{"Origin: https://evil.test", ask}, 204, "", "", ""},
		{"null origin", "OPTIONS", "/echo/1.0/open", []string{"Origin: null", ask}, 204, "", "", ""},
		{"two origins", "OPTIONS", "/echo/1.0/open", []string{"Origin: https://panel.example", "Origin: https://evil.test", ask}, 204, "", "", ""},
		{"a list of origins", "OPTIONS", "/echo/1.0/open", []string{"Origin: https://panel.example https://evil.test", ask}, 204, "", "", ""},
		{"longer name", "OPTIONS", "/echo/1.0/open", []string{"Origin: https://panel.example.evil.test", ask}, 204, "", "", ""},
		{"other beginning", "OPTIONS", "/echo/1.0/open", []string{"Origin: https://evilpanel.example", ask}, 204, "", "", ""},
		{"without TLS", "OPTIONS", "/echo/1.0/open", []string{"Origin: http://panel.example", ask}, 204, "", "", ""},
		{"another port", "OPTIONS", "/echo/1.0/open", []string{"Origin: https://panel.example:8443", ask}, 204, "", "", ""},
		{"another case", "OPTIONS", "/echo/1.0/open", []string{"Origin: https://PANEL.example", ask}, 204, "", "", ""},
		{"a slash at the end", "OPTIONS", "/echo/1.0/open", []string{"Origin: https://panel.example/", ask}, 204, "", "", ""},
		{"no method asked", "OPTIONS", "/echo/1.0/open", []string{"Origin: https://panel.example"}, 405, wsMethod, "", ""},
		{"no origin", "OPTIONS", "/echo/1.0/open", []string{ask}, 405, wsMethod, "", ""},
		{"unknown path", "OPTIONS", "/echo/1.0/nothing", []string{"Origin: https://panel.example", ask}, 404, wsNotFound, "", ""},
		{"API without CORS", "OPTIONS", "/none/1.0/open", []string{"Origin: https://panel.example", ask}, 405, wsMethod, "", ""},
		{"a call", "GET", "/echo/1.0/open", []string{"Origin: https://panel.example"}, 200, "hello", "https://panel.example", "Credentials=true;Expose=X-Total;"},
		{"a call of another origin", "GET", "/echo/1.0/open", []string{"Origin: https://evil.test"}, 200, "hello", "", ""},
		{"a call without origin", "GET", "/echo/1.0/open", nil, 200, "hello", "", ""},
		{"a refusal", "GET", "/echo/1.0/closed", []string{"Origin: https://panel.example"}, 401, wsMissing, "https://panel.example", "Credentials=true;Expose=X-Total;"},
		{"any origin", "GET", "/any/1.0/open", []string{"Origin: https://evil.test"}, 200, "hello", "*", ""},
		{"any origin, null", "GET", "/any/1.0/open", []string{"Origin: null"}, 200, "hello", "*", ""},
		{"any header", "OPTIONS", "/any/1.0/open", []string{"Origin: https://a.test", ask, "Access-Control-Request-Headers: x-a, x-b"}, 204, "", "*", "Methods=GET;Headers=x-a, x-b;"},
		{"headers that are none", "OPTIONS", "/any/1.0/open", []string{"Origin: https://a.test", ask, "Access-Control-Request-Headers: x-a: evil"}, 204, "", "*", "Methods=GET;"},
	} {
		a := say(t, c, tt.method, d.URL(tt.path), "", tt.lines...)
		more := ""
		for _, n := range []string{"Credentials=Allow-Credentials", "Methods=Allow-Methods", "Headers=Allow-Headers", "Private-Network=Allow-Private-Network", "Expose=Expose-Headers", "Max-Age=Max-Age"} {
			short, name, _ := strings.Cut(n, "=")
			if v := a.header.Get("Access-Control-" + name); v != "" {
				more += short + "=" + v + ";"
			}
		}
		if a.status != tt.status || a.body != tt.body || a.header.Get("Access-Control-Allow-Origin") != tt.origin || len(a.header["Access-Control-Allow-Origin"]) > 1 {
			t.Errorf("%s: got %d %s, origin %q; want %d %s, %q", tt.name, a.status, a.body, a.header["Access-Control-Allow-Origin"], tt.status, tt.body, tt.origin)
		}
		if tt.path[:6] != "/none/" && more != tt.more {
			t.Errorf("%s: got %q, want %q", tt.name, more, tt.more)
		}
		if tt.status < 300 && !strings.Contains(strings.Join(a.header["Vary"], ","), "Origin") && tt.path[:6] != "/none/" {
			t.Errorf("%s: Vary: %q", tt.name, a.header["Vary"])
		}
	}
}

const readingSchema = `{"type":"object","required":["meter","value"],"additionalProperties":false,"properties":{
	"meter":{"type":"string","pattern":"^m"},"value":{"type":"number","minimum":0},"unit":{"enum":["kWh","m3"]},"tags":{"type":"array","items":{"type":"string"}}}}`

func TestHostileSchema(t *testing.T) {
	calls := 0
	d := serveBy(t, func(w http.ResponseWriter, r *http.Request) {
		calls++
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.URL.RequestURI(), b)
	}, []string{"/open/{id}"}, func(set *policy.Set, a *policy.API) {
		op := &a.Operations[0]
		op.Method, op.Request = "POST", 1
		set.Schemas = []policy.Schema{{
			Body: []byte(readingSchema), Types: []string{"application/json"}, Others: []string{"text/csv"}, Required: true,
			Parameters: []policy.Parameter{
				{Name: "id", In: policy.InPath, Required: true, Schema: []byte(`{"type":"integer","maximum":99}`)},
				{Name: "limit", In: policy.InQuery, Style: "form", Explode: true, Schema: []byte(`{"type":"integer"}`)},
				{Name: "X-Mode", In: policy.InHeader, Schema: []byte(`{"enum":["a","b"]}`)},
			},
		}}
	})
	told := func(d string) string {
		return `{"fault":{"code":400, "message":"Bad Request", "description":"` + d + `"}}`
	}
	const good = `{"meter":"m1","value":1}`
	c := direct(t)
	for _, tt := range []struct {
		name, path, kind, body string
		lines                  []string
		status                 int
		want                   string
	}{
		{"good", "/1", "application/json", good, nil, 200, "/open/1 " + good},
		{"good and chunked", "/1?limit=3", "application/json", good, []string{"Content-Length: no"}, 200, "/open/1?limit=3 " + good},
		{"another type that is described", "/1", "text/csv", "a,b", nil, 200, "/open/1 a,b"},
		{"nothing that is needed", "/1", "application/json", `{}`, nil, 400, told("#: required key [meter] not found, #: required key [value] not found, ")},
		{
			"one missing, one unknown, one wrong", "/1", "application/json", `{"value":"1","x":1}`, nil, 400,
			told("#: required key [meter] not found, #: extraneous key [x] is not permitted, #/value: expected type: Number, found: String, "),
		},
		{"enum", "/1", "application/json", `{"meter":"m","value":1,"unit":"litre"}`, nil, 400, told("#/unit: litre is not a valid enum value, ")},
		{"markup is escaped", "/1", "application/json", `{"meter":"m","value":1,"unit":"<b>\""}`, nil, 400, told(`#/unit: \u003cb\u003e\" is not a valid enum value, `)},
		{"pattern", "/1", "application/json", `{"meter":"x","value":1}`, nil, 400, told("#/meter: string [x] does not match pattern ^m, ")},
		{"minimum", "/1", "application/json", `{"meter":"m","value":-1}`, nil, 400, told("#/value: -1 is not greater or equal to 0, ")},
		{"inside a list", "/1", "application/json", `{"meter":"m","value":1,"tags":["a",2]}`, nil, 400, told("#/tags/1: expected type: String, found: Number, ")},
		{"a name twice", "/1", "application/json", `{"meter":"m","value":1,"meter":"evil"}`, nil, 400, told("#: not acceptable as JSON: a name that stands twice in its object at byte 23, ")},
		{"a name twice by an escape", "/1", "application/json", `{"meter":"m","value":1,"\u006deter":"evil"}`, nil, 400, told("#: not acceptable as JSON: a name that stands twice in its object at byte 23, ")},
		{"a huge exponent", "/1", "application/json", `{"meter":"m","value":1e999999}`, nil, 400, told("#: not acceptable as JSON: an exponent of more than 3 digits at byte 29, ")},
		{"a long number", "/1", "application/json", `{"meter":"m","value":` + strings.Repeat("1", 65) + `}`, nil, 400, told("#: not acceptable as JSON: a number of more than 64 bytes at byte 86, ")},
		{"deep nesting", "/1", "application/json", strings.Repeat("[", 65), nil, 400, told("#: not acceptable as JSON: more than 64 levels at byte 64, ")},
		{"two documents", "/1", "application/json", good + good, nil, 400, told("#: not acceptable as JSON: something follows the value at byte 24, ")},
		{"not UTF-8", "/1", "application/json", "{\"meter\":\"m\xff\",\"value\":1}", nil, 400, told("#: not acceptable as JSON: a text that is not UTF-8 at byte 12, ")},
		{"cut off", "/1", "application/json", `{"meter":"m","va`, nil, 400, told("#: not acceptable as JSON: a text without an end at byte 16, ")},
		{"a byte order mark", "/1", "application/json", "\xef\xbb\xbf" + good, nil, 400, told("#: not acceptable as JSON: not a value at byte 0, ")},
		{"no body", "/1", "application/json", "", nil, 400, told("#: the body is required, ")},
		{"JSON as text", "/1", "text/plain", good, nil, 415, wsType},
		{"JSON as XML", "/1", "application/xml", good, nil, 415, wsType},
		{"compressed", "/1", "application/json", good, []string{"Content-Encoding: gzip"}, 415, wsType},
		{"too large", "/1", "application/json", `{"meter":"m","value":1,"tags":["` + strings.Repeat("x", 5000) + `"]}`, nil, 413, wsLarge},
		{"too large and chunked", "/1", "application/json", `{"meter":"m","value":1,"tags":["` + strings.Repeat("x", 5000) + `"]}`, []string{"Content-Length: no"}, 413, wsLarge},
		{"path parameter", "/x", "application/json", good, nil, 400, told("#/path/id: expected type: Integer, found: String, ")},
		{"path parameter too large", "/100", "application/json", good, nil, 400, told("#/path/id: 100 is not less or equal to 99, ")},
		{"query twice", "/1?limit=1&limit=2", "application/json", good, nil, 400, told("#/query/limit: given more than once, ")},
		{"query", "/1?limit=1%00", "application/json", good, nil, 400, told(`#/query/limit: expected type: Integer, found: String, `)},
		{"header twice", "/1", "application/json", good, []string{"X-Mode: a", "X-Mode: b"}, 400, told("#/header/X-Mode: given more than once, ")},
		{"header", "/1", "application/json", good, []string{"X-Mode: c"}, 400, told("#/header/X-Mode: c is not a valid enum value, ")},
	} {
		before := calls
		a := say(t, c, "POST", d.URL("/echo/1.0/open"+tt.path), tt.body, append([]string{"Content-Type: " + tt.kind}, tt.lines...)...)
		if a.status != tt.status || a.body != tt.want {
			t.Errorf("%s: got %d %s\nwant %d %s", tt.name, a.status, a.body, tt.status, tt.want)
		}
		if reached := calls > before; reached != (tt.status == 200) {
			t.Errorf("%s: the backend was called: %v", tt.name, reached)
		}
	}
}

func TestResponsesAreChecked(t *testing.T) {
	body := func(r *http.Request) string { return r.URL.Query().Get("body") }
	handler := func(w http.ResponseWriter, r *http.Request) {
		kind := "application/json"
		if k := r.URL.Query().Get("kind"); k != "" {
			kind = k
		}
		w.Header().Set("Content-Type", kind)
		if e := r.URL.Query().Get("coding"); e != "" {
			w.Header().Set("Content-Encoding", e)
		}
		if r.Header.Get("Accept-Encoding") != "identity" || r.Header.Get("Range") != "" {
			t.Errorf("the backend was asked for %q, %q", r.Header.Get("Accept-Encoding"), r.Header.Get("Range"))
		}
		if s := r.URL.Query().Get("status"); s != "" {
			w.WriteHeader(404)
		}
		if r.URL.Query().Get("large") != "" {
			_, _ = io.WriteString(w, `{"meter":"m","value":1,"tags":["`+strings.Repeat("x", 9000)+`"]}`)
			return
		}
		_, _ = io.WriteString(w, body(r))
	}
	d := serveBy(t, handler, []string{"/open/strict", "/open/log"}, func(set *policy.Set, a *policy.API) {
		a.Operations[0].Response, a.Operations[1].Response = 1, 2
		set.Schemas = []policy.Schema{
			{Body: []byte(readingSchema), Types: []string{"application/json"}},
			{Body: []byte(readingSchema), Types: []string{"application/json"}, LogOnly: true},
		}
	})
	told := func(d string) string {
		return `{"fault":{"code":500, "message":"Bad Response", "description":"` + d + `"}}`
	}
	c := direct(t)
	large := `{"meter":"m","value":1,"tags":["` + strings.Repeat("x", 9000) + `"]}`
	for _, tt := range []struct {
		query  string
		status int
		want   string
		log    string // where only reported, when it differs from the backend's
	}{
		{`body={"meter":"m","value":1}`, 200, `{"meter":"m","value":1}`, ""},
		{`body={"meter":"m","value":1,"unit":"litre"}`, 500, told("#/unit: litre is not a valid enum value, "), `{"meter":"m","value":1,"unit":"litre"}`},
		{`body={"secret":1}`, 500, told("#: required key [meter] not found, #: required key [value] not found, #: extraneous key [secret] is not permitted, "), `{"secret":1}`},
		{`body=oops`, 500, told("#: not acceptable as JSON: not a value at byte 0, "), "oops"},
		{`body=oops&kind=text/html`, 200, "oops", ""},
		{`body=oops&status=404`, 404, "oops", ""},
		{`body=x&coding=br`, 500, told("#: the body is in content coding br, "), "x"},
		{`large=1`, 500, told("#: the body is larger than what is looked into, "), large},
	} {
		u := strings.NewReplacer("{", "%7B", "}", "%7D", `"`, "%22").Replace(tt.query)
		if a := say(t, c, "GET", d.URL("/echo/1.0/open/strict?"+u), "", "Range: bytes=0-1", "Accept-Encoding: gzip"); a.status != tt.status || a.body != tt.want {
			t.Errorf("%s: got %d %s\nwant %d %s", tt.query, a.status, a.body, tt.status, tt.want)
		}
		want, status := tt.want, tt.status
		if tt.log != "" {
			want, status = tt.log, 200
		}
		if a := say(t, c, "GET", d.URL("/echo/1.0/open/log?"+u), ""); a.status != status || a.body != want {
			t.Errorf("%s, only reported: got %d %.200s", tt.query, a.status, a.body)
		}
	}
	if a := say(t, c, "HEAD", d.URL("/echo/1.0/open/strict"), ""); a.status != 405 {
		t.Errorf("HEAD: got %d", a.status)
	}
}
