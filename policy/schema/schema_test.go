package schema

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"tidegate/policy"
	"tidegate/policy/fault"
	"tidegate/policy/policytest"
)

// params are path parameters by name.
type params map[string]string

func (p params) RawParam(name string) string { return p[name] }

func compileT(t testing.TB, s policy.Schema) *Check {
	t.Helper()
	c, err := New(&s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// told returns status and description of a refusal.
func told(t testing.TB, err error) (int, string) {
	t.Helper()
	if err == nil {
		return 0, ""
	}
	var e *fault.Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is no refusal", err)
	}
	return e.Fault.Status, e.Fault.Description
}

func post(body string, fields ...string) *policytest.Call {
	c := policytest.New("POST", "/readings", append([]string{"Content-Type", "application/json; charset=utf-8"}, fields...)...)
	c.Payload = []byte(body)
	return c
}

const reading = `{"type":"object","required":["meter","value"],"additionalProperties":false,"properties":{
	"meter":{"type":"string","minLength":3,"maxLength":5,"pattern":"^m"},
	"value":{"type":"number","minimum":5,"maximum":9},
	"unit":{"enum":["kWh","m3"]},
	"count":{"type":"integer","exclusiveMinimum":0,"exclusiveMaximum":10,"multipleOf":2},
	"at":{"type":"string","format":"date-time"},
	"tags":{"type":["array","null"],"items":{"type":"string"},"minItems":2,"maxItems":3,"uniqueItems":true},
	"place":{"$ref":"#/$defs/place"},
	"kind":{"const":"meter"},
	"one":{"oneOf":[{"type":"integer"},{"type":"number","minimum":0}]},
	"any":{"anyOf":[{"type":"integer"},{"type":"boolean"}]},
	"no":{"not":{"type":"string"}},
	"never":false,
	"map":{"type":"object","minProperties":1,"maxProperties":2,"propertyNames":{"pattern":"^[a-z]+$"}},
	"dep":{"type":"object","dependentRequired":{"a":["b"]}}
}}`

const defs = `{"place":{"type":"object","required":["lat"],"properties":{"lon":{"type":"number"},"lat":{"type":"number"}}},
	"unused":{"type":"string"}}`

func TestWordsOfFaults(t *testing.T) {
	c := compileT(t, policy.Schema{Body: []byte(reading), Defs: []byte(defs), Types: []string{"application/json"}})
	ok := `"meter":"m17","value":7`
	for body, want := range map[string]string{
		`{}`:                                                      "#: required key [meter] not found, #: required key [value] not found, ",
		`{` + ok + `}`:                                            "",
		`[]`:                                                      "#: expected type: JSONObject, found: Array, ",
		`{"value":7,"meter":3}`:                                   "#/meter: expected type: String, found: Number, ",
		`{` + ok + `,"unit":"litre"}`:                             "#/unit: litre is not a valid enum value, ",
		`{"meter":"m1","value":3}`:                                "#/meter: expected minLength: 3, actual: 2, #/value: 3 is not greater or equal to 5, ",
		`{"value":9.5,"meter":"x123456"}`:                         "#/meter: expected maxLength: 5, actual: 7, #/meter: string [x123456] does not match pattern ^m, #/value: 9.5 is not less or equal to 9, ",
		`{` + ok + `,"count":0}`:                                  "#/count: 0 is not greater than 0, ",
		`{` + ok + `,"count":10}`:                                 "#/count: 10 is not less than 10, ",
		`{` + ok + `,"count":3}`:                                  "#/count: 3 is not a multiple of 2, ",
		`{` + ok + `,"count":2.5}`:                                "#/count: expected type: Integer, found: Number, ",
		`{` + ok + `,"count":"2"}`:                                "#/count: expected type: Integer, found: String, ",
		`{` + ok + `,"at":"yesterday"}`:                           "#/at: [yesterday] is not a valid date-time, ",
		`{` + ok + `,"tags":null}`:                                "",
		`{` + ok + `,"tags":{}}`:                                  "#/tags: expected type: JSONArray, found: JSONObject, ",
		`{` + ok + `,"tags":["a"]}`:                               "#/tags: expected minimum item count: 2, found: 1, ",
		`{` + ok + `,"tags":["a","a"]}`:                           "#/tags: array items are not unique, ",
		`{` + ok + `,"tags":[1,"a",2,3]}`:                         "#/tags: expected maximum item count: 3, found: 4, #/tags/0: expected type: String, found: Number, #/tags/2: expected type: String, found: Number, #/tags/3: expected type: String, found: Number, ",
		`{` + ok + `,"place":{"lon":"x"}}`:                        "#/place: required key [lat] not found, #/place/lon: expected type: Number, found: String, ",
		`{` + ok + `,"kind":"x"}`:                                 "#/kind: x is not equal to the constant meter, ",
		`{` + ok + `,"one":3}`:                                    "#/one: 2 subschemas matched instead of one, ",
		`{` + ok + `,"one":"x"}`:                                  "#/one: 0 subschemas matched instead of one out of 2, #/one: expected type: Integer, found: String, #/one: expected type: Number, found: String, ",
		`{` + ok + `,"any":"x"}`:                                  "#/any: no subschema matched out of the total 2 subschemas, #/any: expected type: Integer, found: String, #/any: expected type: Boolean, found: String, ",
		`{` + ok + `,"no":"x"}`:                                   "#/no: subject must not be valid against the schema, ",
		`{` + ok + `,"never":1}`:                                  "#/never: false schema always fails, ",
		`{` + ok + `,"map":{}}`:                                   "#/map: minimum size: [1], found: [0], ",
		`{` + ok + `,"map":{"a":1,"b":1,"c":1}}`:                  "#/map: maximum size: [2], found: [3], ",
		`{` + ok + `,"map":{"A":1}}`:                              "#/map: invalid property name [A], ",
		`{` + ok + `,"dep":{"a":1}}`:                              "#/dep: property [b] is required, ",
		`{` + ok + `,"z":1,"a/b":2}`:                              "#: extraneous key [a/b] is not permitted, #: extraneous key [z] is not permitted, ",
		`{"unit":"x","value":1,"extra":0}`:                        "#: required key [meter] not found, #: extraneous key [extra] is not permitted, #/value: 1 is not greater or equal to 5, #/unit: x is not a valid enum value, ",
		`{` + ok + `,"value":8}`:                                  "#: not acceptable as JSON: a name that stands twice in its object at byte 25, ",
		`{"meter":"m17","value":1e9999}`:                          "#: not acceptable as JSON: an exponent of more than 3 digits at byte 29, ",
		`{"meter":`:                                               "#: not acceptable as JSON: the document ends where a value should be at byte 9, ",
		`{"meter":"m17","value":7}{}`:                             "#: not acceptable as JSON: something follows the value at byte 25, ",
		`{"meter":"m` + strings.Repeat("x", 200) + `","value":7}`: "#/meter: expected maxLength: 5, actual: 201, ",
	} {
		want = strings.ReplaceAll(want, "found: Array", "found: JSONArray")
		status, got := told(t, c.Request(post(body), params{}, 1<<20))
		if got != want || (status != 0) != (want != "") || want != "" && status != 400 {
			t.Errorf("%s:\n got %d %s\nwant %s", body, status, got, want)
		}
	}
}

func TestFaultsHaveTheBodyOfWSO2(t *testing.T) {
	c := compileT(t, policy.Schema{Body: []byte(reading), Defs: []byte(defs)})
	var e *fault.Error
	if !errors.As(c.Request(post(`{}`), params{}, 1<<20), &e) {
		t.Fatal("not refused")
	}
	const want = `{"fault":{"code":400, "message":"Bad Request", "description":"#: required key [meter] not found, #: required key [value] not found, "}}`
	if got := string(e.Fault.AppendWSO2(nil)); got != want {
		t.Errorf("request:\n got %s\nwant %s", got, want)
	}
	if !errors.As(c.Response([]byte(`{"meter":"m17","value":7,"unit":"litre"}`)), &e) {
		t.Fatal("not refused")
	}
	const wantResponse = `{"fault":{"code":500, "message":"Bad Response", "description":"#/unit: litre is not a valid enum value, "}}`
	if got := string(e.Fault.AppendWSO2(nil)); got != wantResponse {
		t.Errorf("response:\n got %s\nwant %s", got, wantResponse)
	}
}

func TestBodiesThatHaveNoOneReading(t *testing.T) {
	s := policy.Schema{Body: []byte(`{"type":"object"}`), Types: []string{"application/json", "application/vnd.meter+json"}, Others: []string{"text/plain", "image/*"}}
	c := compileT(t, s)
	s.Required = true
	needed := compileT(t, s)
	for _, tt := range []struct {
		name   string
		c      *Check
		call   *policytest.Call
		status int
		text   string
	}{
		{"JSON", c, post(`{}`), 0, ""},
		{"two types", c, post(`{}`, "Content-Type", "text/plain"), 415, "Unsupported media type"},
		{"two codings", c, post(`{}`, "Content-Encoding", "identity", "Content-Encoding", "gzip"), 415, "Unsupported media type"},
		{"no type", c, bare(`[]`, ""), 400, "#: expected type: JSONObject, found: JSONArray, "},
		{"a described type without schema", c, bare(`whatever`, "text/plain"), 0, ""},
		{"a family of types", c, bare(`whatever`, "image/png"), 0, ""},
		{"a type that is not described", c, bare(`[]`, "text/html"), 415, "Unsupported media type"},
		{"JSON under another name", c, bare(`[]`, "application/x-json"), 415, "Unsupported media type"},
		{"no body and a foreign type", c, bare(``, "text/html"), 0, ""},
		{"compressed", c, post(`{}`, "Content-Encoding", "gzip"), 415, "Unsupported media type"},
		{"identity", c, post(`{}`, "Content-Encoding", "identity"), 0, ""},
		{"no body", c, bare(``, "application/json"), 0, ""},
		{"no body where one is needed", needed, bare(``, "application/json"), 400, "#: the body is required, "},
		{"no body and no type where one is needed", needed, bare(``, ""), 400, "#: the body is required, "},
		{"another described type where one is needed", needed, bare(`x`, "text/plain"), 0, ""},
	} {
		status, text := told(t, tt.c.Request(tt.call, params{}, 100))
		if status != tt.status || text != tt.text {
			t.Errorf("%s: got %d %q, want %d %q", tt.name, status, text, tt.status, tt.text)
		}
	}
	large := bare(strings.Repeat("x", 200), "text/plain")
	if err := needed.Request(large, params{}, 100); err != nil {
		t.Errorf("a large body that is not checked: got %v", err)
	}
	if err := c.Request(post(`{"a":"`+strings.Repeat("x", 200)+`"}`), params{}, 100); !errors.Is(err, policytest.ErrTooLarge) {
		t.Errorf("too large: got %v", err)
	}
}

func bare(body, contentType string) *policytest.Call {
	c := policytest.New("POST", "/")
	if contentType != "" {
		c.Add("Content-Type", contentType)
	}
	c.Payload = []byte(body)
	return c
}

func TestParameters(t *testing.T) {
	list := `{"type":"array","items":{"type":"integer"}}`
	object := `{"type":"object","properties":{"R":{"type":"integer"},"G":{"type":"integer"}},"required":["R"]}`
	p := func(in policy.Location, style string, explode bool, schema string) policy.Parameter {
		return policy.Parameter{Name: "p", In: in, Style: style, Explode: explode, Schema: []byte(schema)}
	}
	q, h, pa, co := policy.InQuery, policy.InHeader, policy.InPath, policy.InCookie
	for _, tt := range []struct {
		name  string
		param policy.Parameter
		value string // query, header, path value or cookies
		want  string
	}{
		{"integer", p(q, "form", true, `{"type":"integer","maximum":10}`), "p=7", ""},
		{"integer too large", p(q, "form", true, `{"type":"integer","maximum":10}`), "p=70", "#/query/p: 70 is not less or equal to 10, "},
		{"no integer", p(q, "form", true, `{"type":"integer"}`), "p=x", "#/query/p: expected type: Integer, found: String, "},
		{"blanks are no number", p(q, "form", true, `{"type":"integer"}`), "p=+7", "#/query/p: expected type: Integer, found: String, "},
		{"hex is no number", p(q, "form", true, `{"type":"number"}`), "p=0x7", "#/query/p: expected type: Number, found: String, "},
		{"number with a blank", p(q, "form", true, `{"type":"number"}`), "p=7%20", "#/query/p: expected type: Number, found: String, "},
		{"large exponent", p(q, "form", true, `{"type":"number"}`), "p=1e99999", "#/query/p: expected type: Number, found: String, "},
		{"text of digits", p(q, "form", true, `{"type":"string"}`), "p=7", ""},
		{"boolean", p(q, "form", true, `{"type":"boolean"}`), "p=true", ""},
		{"no boolean", p(q, "form", true, `{"type":"boolean"}`), "p=TRUE", "#/query/p: expected type: Boolean, found: String, "},
		{"enum of numbers", p(q, "form", true, `{"enum":[1,2]}`), "p=2", ""},
		{"twice", p(q, "form", true, `{"type":"integer"}`), "p=1&p=2", "#/query/p: given more than once, "},
		{"twice by an escape", p(q, "form", true, `{"type":"integer"}`), "p=1&%70=2", "#/query/p: given more than once, "},
		{"absent", p(q, "form", true, `{"type":"integer"}`), "q=1", ""},
		{"bad escape", p(q, "form", true, `{"type":"string"}`), "p=%zz", "#/query/p: bad percent escape, "},
		{"reference", p(q, "form", true, `{"$ref":"#/$defs/small"}`), "p=3", "#/query/p: 3 is not less or equal to 2, "},
		{"list", p(q, "form", true, list), "p=1&p=2", ""},
		{"list with a wrong element", p(q, "form", true, list), "p=1&p=x", "#/query/p/1: expected type: Integer, found: String, "},
		{"list in one", p(q, "form", false, list), "p=1,2,3", ""},
		{"list in one, comma encoded", p(q, "form", false, list), "p=1%2C2", "#/query/p/0: expected type: Integer, found: String, "},
		{"list in one, twice", p(q, "form", false, list), "p=1&p=2", "#/query/p: given more than once, "},
		{"blanks between", p(q, "spaceDelimited", false, list), "p=1%202+3", ""},
		{"pipes between", p(q, "pipeDelimited", false, list), "p=1|2%7C3", ""},
		{"object of parameters", p(q, "form", true, object), "R=1&G=x&other=1", "#/query/p/G: expected type: Integer, found: String, "},
		{"object in one", p(q, "form", false, object), "p=R,1,G,2", ""},
		{"object in one, odd", p(q, "form", false, object), "p=R,1,G", "#/query/p: names and values do not pair, "},
		{"deep object", p(q, "deepObject", true, object), "p[R]=1&p%5BG%5D=2", ""},
		{"deep object without what it needs", p(q, "deepObject", true, object), "p[G]=1", "#/query/p: required key [R] not found, "},
		{"header", p(h, "simple", false, `{"type":"integer"}`), "7", ""},
		{"header list", p(h, "simple", false, list), "1, 2 ,3", ""},
		{"header object", p(h, "simple", true, object), "R=1,G=2", ""},
		{"path", p(pa, "simple", false, `{"type":"string","maxLength":3}`), "a%2Fb", ""},
		{"path too long", p(pa, "simple", false, `{"type":"string","maxLength":3}`), "abcd", "#/path/p: expected maxLength: 3, actual: 4, "},
		{"path list", p(pa, "simple", false, list), "1,2", ""},
		{"path label", p(pa, "label", true, list), ".1.2", ""},
		{"path label without its point", p(pa, "label", true, list), "1.2", "#/path/p: does not begin with a point, "},
		{"path matrix", p(pa, "matrix", false, `{"type":"integer","maximum":5}`), ";p=7", "#/path/p: 7 is not less or equal to 5, "},
		{"path matrix without its semicolon", p(pa, "matrix", false, list), "1,2", "#/path/p: does not begin with a semicolon, "},
		{"path matrix of another name", p(pa, "matrix", false, list), ";q=1", "#/path/p: holds another parameter, "},
		{"path matrix with more", p(pa, "matrix", false, `{"type":"integer"}`), ";p=1;q=1", "#/path/p: holds another parameter, "},
		{"path matrix twice", p(pa, "matrix", false, `{"type":"integer"}`), ";p=1;%70=2", "#/path/p: given more than once, "},
		{"path matrix, list twice in one", p(pa, "matrix", false, list), ";p=1;p=2", "#/path/p: given more than once, "},
		{"path matrix, a wrong element", p(pa, "matrix", true, list), ";p=1;p=x", "#/path/p/1: expected type: Integer, found: String, "},
		{"path matrix, a member twice", p(pa, "matrix", true, object), ";R=1;R=2", "#/path/p: given more than once, "},
		{"path matrix, an unknown member", p(pa, "matrix", true, `{"type":"object","additionalProperties":false,"properties":{"R":{}}}`), ";R=1;Z=2", "#/path/p: extraneous key [Z] is not permitted, "},
		{"path matrix, bad escape", p(pa, "matrix", true, object), ";R=%zz", "#/path/p: bad percent escape, "},
		{"path matrix, plus is no blank", p(pa, "matrix", false, `{"const":"a+b"}`), ";p=a+b", ""},
		{"path UUID", p(pa, "simple", false, `{"type":"string","format":"uuid"}`), "x", "#/path/p: [x] is not a valid uuid, "},
		{"cookie", p(co, "form", true, `{"type":"integer"}`), "a=1; p=7", ""},
		{"cookie twice", p(co, "form", true, `{"type":"integer"}`), "p=1; p=7", "#/cookie/p: given more than once, "},
		{"nullable", p(q, "form", true, `{"type":["integer","null"]}`), "p=", ""},
		{"empty", p(q, "form", true, `{"type":"integer"}`), "p", "#/query/p: expected type: Integer, found: String, "},
	} {
		c := compileT(t, policy.Schema{Parameters: []policy.Parameter{tt.param}, Defs: []byte(`{"small":{"type":"integer","maximum":2}}`)})
		call, path := policytest.New("GET", "/"), params{}
		switch tt.param.In {
		case q:
			call.RawQuery = tt.value
		case h:
			call.Add("P", tt.value)
		case co:
			call.Add("Cookie", tt.value)
		case pa:
			path["p"] = tt.value
		}
		if _, got := told(t, c.Request(call, path, 100)); got != tt.want {
			t.Errorf("%s (%s): got %q, want %q", tt.name, tt.value, got, tt.want)
		}
	}
}

// TestStylesOfTheStandard holds the table "Style Examples" of OpenAPI (3.0.4, 3.1.1; "Parameter
// Object"): each way to write a text, a list and an object is read as that value.
func TestStylesOfTheStandard(t *testing.T) {
	const text, list = `{"type":"string","const":"blue"}`, `{"type":"array","items":{"type":"string"},"const":["blue","black","brown"]}`
	const object = `{"type":"object","properties":{"R":{"type":"integer"},"G":{"type":"integer"},"B":{"type":"integer"}},"const":{"R":100,"G":200,"B":150}}`
	for _, tt := range []struct {
		in                policy.Location
		style             string
		explode           bool
		text, list, value string
	}{
		{policy.InPath, "matrix", false, ";p=blue", ";p=blue,black,brown", ";p=R,100,G,200,B,150"},
		{policy.InPath, "matrix", true, ";p=blue", ";p=blue;p=black;p=brown", ";R=100;G=200;B=150"},
		{policy.InPath, "label", false, ".blue", ".blue,black,brown", ".R,100,G,200,B,150"},
		{policy.InPath, "label", true, ".blue", ".blue.black.brown", ".R=100.G=200.B=150"},
		{policy.InPath, "simple", false, "blue", "blue,black,brown", "R,100,G,200,B,150"},
		{policy.InPath, "simple", true, "blue", "blue,black,brown", "R=100,G=200,B=150"},
		{policy.InHeader, "simple", false, "blue", "blue,black,brown", "R,100,G,200,B,150"},
		{policy.InHeader, "simple", true, "blue", "blue,black,brown", "R=100,G=200,B=150"},
		{policy.InQuery, "form", false, "p=blue", "p=blue,black,brown", "p=R,100,G,200,B,150"},
		{policy.InQuery, "form", true, "p=blue", "p=blue&p=black&p=brown", "R=100&G=200&B=150"},
		{policy.InCookie, "form", false, "p=blue", "p=blue,black,brown", "p=R,100,G,200,B,150"},
		{policy.InQuery, "spaceDelimited", false, "", "p=blue%20black%20brown", "p=R%20100%20G%20200%20B%20150"},
		{policy.InQuery, "pipeDelimited", false, "", "p=blue%7Cblack%7Cbrown", "p=R%7C100%7CG%7C200%7CB%7C150"},
		{policy.InQuery, "deepObject", true, "", "", "p%5BR%5D=100&p%5BG%5D=200&p%5BB%5D=150"},
	} {
		for schema, sent := range map[string]string{text: tt.text, list: tt.list, object: tt.value} {
			if sent == "" {
				continue
			}
			c := compileT(t, policy.Schema{Parameters: []policy.Parameter{{Name: "p", In: tt.in, Style: tt.style, Explode: tt.explode, Required: true, Schema: []byte(schema)}}})
			call, path := policytest.New("GET", "/"), params{}
			switch tt.in {
			case policy.InQuery:
				call.RawQuery = sent
			case policy.InHeader:
				call.Add("P", sent)
			case policy.InCookie:
				call.Add("Cookie", sent)
			case policy.InPath:
				path["p"] = sent
			}
			if _, why := told(t, c.Request(call, path, 100)); why != "" {
				t.Errorf("%s explode %v %q: %s", tt.style, tt.explode, sent, why)
			}
		}
	}
}

func TestRequiredParameters(t *testing.T) {
	c := compileT(t, policy.Schema{Parameters: []policy.Parameter{
		{Name: "id", In: policy.InPath, Required: true},
		{Name: "x-trace", In: policy.InHeader, Required: true, Schema: []byte(`{"type":"string"}`)},
		{Name: "limit", In: policy.InQuery, Required: true, Schema: []byte(`{"type":"integer"}`)},
		{Name: "sid", In: policy.InCookie, Required: true},
	}})
	_, got := told(t, c.Request(policytest.New("GET", "/"), params{}, 100))
	const want = "#/path: required key [id] not found, #/header: required key [x-trace] not found, #/query: required key [limit] not found, #/cookie: required key [sid] not found, "
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	two := policytest.New("GET", "/?limit=1", "X-Trace", "a", "X-Trace", "b", "Cookie", "sid=1")
	if _, got := told(t, c.Request(two, params{"id": "1"}, 100)); got != "#/header/x-trace: given more than once, " {
		t.Errorf("two lines: got %q", got)
	}
}

func TestSchemasThatDoNotCompile(t *testing.T) {
	for name, s := range map[string]policy.Schema{
		"file reference": {Body: []byte(`{"$ref":"file:///etc/passwd"}`)},
		"web reference":  {Body: []byte(`{"$ref":"http://127.0.0.1:1/x"}`)},
		"no definition":  {Body: []byte(`{"$ref":"#/$defs/none"}`), Defs: []byte(`{"a":{}}`)},
		"bad keyword":    {Body: []byte(`{"minLength":-1}`)},
		"look-ahead":     {Body: []byte(`{"pattern":"(?=a)"}`)},
		"not JSON":       {Body: []byte(`{`)},
		"unknown style":  {Parameters: []policy.Parameter{{Name: "p", In: policy.InPath, Style: "form"}}},
		"unknown place":  {Parameters: []policy.Parameter{{Name: "p"}}},
		"bad parameter":  {Parameters: []policy.Parameter{{Name: "p", In: policy.InQuery, Schema: []byte(`{"type":"x"}`)}}},
	} {
		if _, err := New(&s); err == nil {
			t.Errorf("%s: compiled", name)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: more than a line: %q", name, err)
		}
	}
}

func TestManyFaultsAreBounded(t *testing.T) {
	c := compileT(t, policy.Schema{Body: []byte(`{"type":"array","items":{"type":"integer"}}`)})
	_, got := told(t, c.Request(post("["+strings.Repeat(`"x",`, 10000)+`"x"]`), params{}, 1<<20))
	if n := strings.Count(got, ", found"); n != maxFaults {
		t.Errorf("%d faults told, want %d", n, maxFaults)
	}
	_, got = told(t, c.Request(post("["+strings.Repeat(`1,`, 100000)+`1]`), params{}, 1<<20))
	if !strings.HasPrefix(got, "#: not acceptable as JSON: more values than are looked into") {
		t.Errorf("got %.100q", got)
	}
}

func FuzzRequest(f *testing.F) {
	for _, s := range []string{`{"meter":"m17","value":7}`, `{"tags":["a","a"],"one":1,"any":[]}`, `[1,{"a":null}]`, `"\u0000"`} {
		f.Add([]byte(s), "p=1,2&R=7", "a=b; c", "a%2Cb")
		f.Add([]byte(s), "o[a]=1", "c=1", ";a=1;b=%2C;l=2,3")
	}
	s := policy.Schema{Body: []byte(reading), Defs: []byte(defs), Parameters: []policy.Parameter{
		{Name: "p", In: policy.InQuery, Style: "form", Schema: []byte(`{"type":"array","items":{"type":["integer","null"]}}`)},
		{Name: "o", In: policy.InQuery, Style: "deepObject", Explode: true, Schema: []byte(`{"type":"object"}`)},
		{Name: "c", In: policy.InCookie, Schema: []byte(`{"type":["boolean","number"]}`)},
		{Name: "id", In: policy.InPath, Style: "label", Explode: true, Schema: []byte(`{"type":"object","properties":{"a":{"type":"integer"}}}`)},
		{Name: "m", In: policy.InPath, Style: "matrix", Explode: true, Schema: []byte(`{"type":"object","properties":{"a":{"type":"integer"}}}`)},
		{Name: "l", In: policy.InPath, Style: "matrix", Schema: []byte(`{"type":"array","items":{"type":"integer"}}`)},
	}}
	c, err := New(&s)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, query, cookie, path string) {
		call := post(string(body), "Cookie", cookie)
		call.RawQuery = query
		err := c.Request(call, params{"id": path, "m": path, "l": path}, 1<<20)
		if err == nil {
			if len(body) > 0 && !json.Valid(body) {
				t.Errorf("%q passed and is not JSON", body)
			}
			return
		}
		status, text := told(t, err)
		if status != 400 || !strings.HasSuffix(text, ", ") || len(text) > maxText+2*maxShown+600 {
			t.Errorf("got %d, %d bytes: %q", status, len(text), text)
		}
		if again, text2 := told(t, c.Request(call, params{"id": path, "m": path, "l": path}, 1<<20)); again != status || text2 != text {
			t.Errorf("two checks differ:\n%s\n%s", text, text2)
		}
	})
}

// BenchmarkWorst is the most that one body can cost.
func BenchmarkWorst(b *testing.B) {
	c := compileT(b, policy.Schema{Body: []byte(`{"type":"array","uniqueItems":true,"items":{"anyOf":[{"type":"object"},{"type":"boolean"}]}}`)})
	call := post("[" + strings.Repeat("1,", MaxValues-2) + "1]")
	b.ReportAllocs()
	for b.Loop() {
		_ = c.Request(call, params{}, 1<<20)
	}
}

func BenchmarkRequest(b *testing.B) {
	c := compileT(b, policy.Schema{Body: []byte(reading), Defs: []byte(defs), Parameters: []policy.Parameter{
		{Name: "limit", In: policy.InQuery, Required: true, Schema: []byte(`{"type":"integer","minimum":1}`)},
	}})
	call := post(`{"meter":"m17","value":7,"unit":"kWh","tags":["a","b"],"place":{"lat":53.5,"lon":9.9}}`)
	call.RawQuery = "limit=10"
	bad := post(`{"meter":"m17"}`)
	bad.RawQuery = "limit=10"
	get := policytest.New("GET", "/?limit=10")
	for name, call := range map[string]*policytest.Call{"valid": call, "refused": bad, "parameters only": get} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = c.Request(call, params{}, 1<<20)
			}
		})
	}
}
