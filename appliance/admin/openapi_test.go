package admin_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"tidegate/appliance/admin"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

var update = flag.Bool("update", false, "write openapi.json anew")

// An operation is one row of the description: what the document says and the tests ask.
type operation struct {
	method, path, summary string
	query                 [][2]string // name, description
	request               string      // media type of the request's body
	answer                any         // of type application/json; nil: see media
	media                 string      // of an answer that is not JSON
	where                 string      // "", "socket" or "page": where it is served; "" is both
}

func operations() []operation {
	type m = map[string]string
	return []operation{
		{method: "GET", path: "/v1/status", summary: "How the device is", answer: admin.Status{}},
		{method: "GET", path: "/v1/doctor", summary: "What was looked at, and what to do", answer: []admin.Finding{}},
		{method: "GET", path: "/v1/apis", summary: "What is served", answer: []admin.APIView{}},
		{
			method: "GET", path: "/v1/traffic", summary: "Counts since the start, of each API, or of each operation of one", answer: admin.TrafficView{},
			query: [][2]string{{"api", "name of an API: its operations are counted one by one"}, {"version", "of that API"}},
		},
		{method: "GET", path: "/v1/series", summary: "The last hour in steps of 10 s", answer: admin.SeriesView{}},
		{method: "GET", path: "/v1/backends", summary: "Backends and breakers", answer: []admin.BackendView{}},
		{
			method: "GET", path: "/v1/counters", summary: "Counts of limits", answer: []admin.CounterView{},
			query: [][2]string{{"plan", "only this plan"}, {"sort", "plan, or share: the fullest first"}, {"limit", "at most this many; 10000"}},
		},
		{method: "POST", path: "/v1/counters/reset", summary: "Set the counts of a key to zero", answer: struct {
			Key   string `json:"key"`
			Reset int    `json:"reset"`
		}{}, query: [][2]string{{"key", "the key, or LEVEL:SUBJECT"}}},
		{method: "GET", path: "/v1/history", summary: "The audit log, oldest first", answer: []admin.HistoryView{}, query: [][2]string{{"limit", "the newest N; 100, at most 1000"}}},
		{method: "GET", path: "/v1/history/export", summary: "The audit log with chain and checkpoints", media: "application/vnd.tidegate.audit+cbor-seq"},
		{
			method: "GET", path: "/v1/events", summary: "All recorded calls. They are flushed first", media: "application/x-ndjson",
			query: [][2]string{{"format", "ndjson, csv or wso2"}, {"since", "RFC 3339 time"}, {"stream-version", "of wso2: 3.0.0, 3.1.0 or 3.2.0"}},
		},
		{
			method: "GET", path: "/v1/calls", summary: "The newest calls that fit a search, newest first. Nothing is flushed", answer: admin.CallsView{},
			query: [][2]string{{"q", "text in any field"}, {"api", "name of an API"}, {"status", "429, or 4xx"}, {"limit", "100, at most 1000"}},
		},
		{method: "GET", path: "/v1/logs", summary: "The last lines of the log, oldest first", answer: []admin.LogLine{}, query: [][2]string{{"limit", "200, at most 512"}}},
		{method: "GET", path: "/v1/access", summary: "The access log as far as it is kept in memory, oldest first; 409 where it is not", media: "text/plain"},
		{method: "POST", path: "/v1/plan", summary: "What apply would do with the file in the body", request: "application/octet-stream", answer: admin.Outcome{}, query: [][2]string{{"name", "of the file, for messages"}}},
		{
			method: "POST", path: "/v1/apply", summary: "Take the file in the body in. A line for each step; the last one is final", request: "application/octet-stream", media: "application/x-ndjson",
			query: [][2]string{{"name", "of the file, for messages"}, {"wait", "true: also wait for the verdict of the trial"}, {"retry", "true: also if it failed before"}},
		},
		{method: "POST", path: "/v1/confirm", summary: "Confirm the bundle on trial", answer: admin.Outcome{}},
		{method: "POST", path: "/v1/rollback", summary: "Go back to the bundle before", answer: admin.Outcome{}},
		{method: "POST", path: "/v1/sync", summary: "Open the link to the fleet now, whatever its mode", answer: admin.Link{}, query: [][2]string{{"wait", "true: answer when all is fetched and delivered"}}},
		{method: "GET", path: "/v1/revocations", summary: "How many revocations are in force beside those of the bundle", answer: admin.RevokedView{}},
		{method: "POST", path: "/v1/revocations", summary: "Refuse credentials from the next call on", request: "application/json", answer: admin.RevokedView{}},
		{method: "GET", path: "/v1/trust", summary: "The root that the device believes", answer: admin.Trust{}},
		{method: "POST", path: "/v1/trust", summary: "Pin the first trust root, or follow its chain", request: "application/octet-stream", answer: admin.Outcome{}, query: [][2]string{{"fingerprint", "SHA-256 of the first root, for the first one"}}},
		{method: "GET", path: "/v1/enrol", summary: "A signed request to be enrolled", media: "application/vnd.tidegate.enroll+cbor-seq"},
		{
			method: "POST", path: "/v1/stick", summary: "Upgrades the connection to the line of a helper that holds a stick", media: "application/octet-stream", where: "socket",
			query: [][2]string{{"name", "of the volume, as sda1"}},
		},
		{method: "GET", path: "/v1/admins", summary: "Who may sign in", answer: []admin.AccountView{}, where: "socket"},
		{method: "POST", path: "/v1/admins", summary: "Make an account or replace its password; only root and the device's own user", request: "application/json", answer: admin.AccountView{}, where: "socket"},
		{method: "DELETE", path: "/v1/admins/{name}", summary: "Take an account away; only root and the device's own user", answer: admin.AccountView{}, where: "socket"},
		{method: "GET", path: "/v1/session", summary: "Who asks", answer: admin.SessionView{}, where: "page"},
		{method: "POST", path: "/v1/login", summary: "Sign in; sets a cookie", request: "application/json", answer: admin.SessionView{}, where: "page"},
		{method: "POST", path: "/v1/logout", summary: "Sign out", answer: admin.SessionView{}, where: "page"},
		{method: "GET", path: "/healthz/live", summary: "The process answers", answer: m{}},
		{method: "GET", path: "/healthz/ready", summary: "The device serves; 503 if not", answer: m{}},
		{method: "GET", path: "/metrics", summary: "Prometheus text format", media: "text/plain"},
		{method: "GET", path: "/openapi.json", summary: "This document", media: "application/json"},
	}
}

// schemas turns Go types into JSON Schema (2020-12), each named type once.
type schemas map[string]any

func (s schemas) of(t reflect.Type) any {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case t.Kind() == reflect.Pointer:
		return s.of(t.Elem())
	}
	switch t.Kind() {
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Int32:
		return map[string]any{"type": "integer"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return map[string]any{"type": "integer", "minimum": 0}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": s.of(t.Elem())}
	case reflect.Array:
		return map[string]any{"type": "array", "items": s.of(t.Elem()), "minItems": t.Len(), "maxItems": t.Len()}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.Struct:
		if t.Name() == "" {
			return s.object(t)
		}
		if _, ok := s[t.Name()]; !ok {
			s[t.Name()] = nil
			s[t.Name()] = s.object(t)
		}
		return map[string]any{"$ref": "#/components/schemas/" + t.Name()}
	}
	panic("no schema for " + t.String())
}

func (s schemas) object(t reflect.Type) any {
	props := map[string]any{}
	required := []string{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, rest, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		props[name] = s.of(f.Type)
		if !strings.Contains(rest, "omit") {
			required = append(required, name)
		}
	}
	return map[string]any{"type": "object", "properties": props, "required": required, "additionalProperties": false}
}

// document builds the OpenAPI document from the table above and the types of the package.
func document() map[string]any {
	s := schemas{}
	fault := s.of(reflect.TypeFor[admin.Fault]())
	paths := map[string]any{}
	for _, o := range operations() {
		content := map[string]any{}
		switch {
		case o.answer != nil:
			content["application/json"] = map[string]any{"schema": s.of(reflect.TypeOf(o.answer))}
		case o.media == "application/x-ndjson":
			schema := map[string]any{"type": "string", "description": "a JSON object on each line"}
			if o.path == "/v1/apply" {
				schema["x-line"] = s.of(reflect.TypeFor[admin.Outcome]())
			}
			content[o.media] = map[string]any{"schema": schema}
		default:
			content[o.media] = map[string]any{}
		}
		op := map[string]any{
			"summary":     o.summary,
			"operationId": strings.ToLower(o.method) + strings.NewReplacer("/v1/", "-", "/", "-", ".", "-", "{", "", "}", "").Replace(o.path),
			"responses": map[string]any{
				"200":     map[string]any{"description": "done", "content": content},
				"default": map[string]any{"description": "refused", "content": map[string]any{"application/json": map[string]any{"schema": fault}}},
			},
		}
		params := []any{}
		for _, q := range o.query {
			params = append(params, map[string]any{"name": q[0], "in": "query", "description": q[1], "schema": map[string]any{"type": "string"}})
		}
		if strings.Contains(o.path, "{name}") {
			params = append(params, map[string]any{"name": "name", "in": "path", "required": true, "schema": map[string]any{"type": "string"}})
		}
		if len(params) > 0 {
			op["parameters"] = params
		}
		if o.request != "" {
			body := map[string]any{}
			switch o.path {
			case "/v1/admins":
				body["schema"] = s.of(reflect.TypeFor[admin.AccountChange]())
			case "/v1/revocations":
				body["schema"] = s.of(reflect.TypeFor[admin.Revocations]())
			case "/v1/login":
				body["schema"] = map[string]any{"type": "object", "required": []string{"name", "password"}, "properties": map[string]any{
					"name": map[string]any{"type": "string"}, "password": map[string]any{"type": "string", "format": "password"},
				}}
			}
			op["requestBody"] = map[string]any{"required": true, "content": map[string]any{o.request: body}}
		}
		if o.where == "socket" {
			op["description"] = "Only over the unix socket."
		}
		if o.where == "page" {
			op["description"] = "Only on the admin listener."
		}
		if o.method != "GET" && o.path != "/v1/login" {
			op["security"] = []any{map[string]any{"session": []any{}, "csrf": []any{}}, map[string]any{}}
		}
		item, _ := paths[o.path].(map[string]any)
		if item == nil {
			item = map[string]any{}
			paths[o.path] = item
		}
		item[strings.ToLower(o.method)] = op
	}
	return map[string]any{
		"openapi": "3.1.0",
		"info": map[string]any{
			"title": "Tidegate device", "version": "1",
			"description": "What the page and the commands are made of. Over the unix socket the file's permissions say who may use it. On the admin listener, " +
				"addresses of the device may read; everybody else signs in; changes need a session and its token in X-Tidegate-Csrf. Members are added, never renamed or removed.",
			"license": map[string]any{"name": "Apache-2.0", "identifier": "Apache-2.0"},
		},
		"servers": []any{map[string]any{"url": "http://127.0.0.1:9099"}},
		"paths":   paths,
		"components": map[string]any{"schemas": map[string]any(s), "securitySchemes": map[string]any{
			"session": map[string]any{"type": "apiKey", "in": "cookie", "name": "tidegate", "description": "set by /v1/login; __Host-tidegate under TLS"},
			"csrf":    map[string]any{"type": "apiKey", "in": "header", "name": "X-Tidegate-Csrf", "description": "from /v1/session"},
			"basic":   map[string]any{"type": "http", "scheme": "basic", "description": "for GET only, as scrapers use it"},
		}},
		"security": []any{map[string]any{}, map[string]any{"session": []any{}}, map[string]any{"basic": []any{}}},
	}
}

func TestDescriptionIsWhatTheTypesSay(t *testing.T) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(document()); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("openapi.json", b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, b.Bytes()) {
		t.Error("openapi.json is not what the types say; go test ./appliance/admin -run Description -update, then look at the difference")
	}
}

func TestEveryRouteIsDescribed(t *testing.T) {
	described := []string{}
	for _, o := range operations() {
		described = append(described, o.method+" "+o.path)
	}
	for _, r := range admin.Patterns() {
		if !slices.Contains(described, r) {
			t.Errorf("%s is served and not described", r)
		}
	}
}

// TestAnswersAreAsDescribed asks a running device everything that can be asked, and holds
// each answer against the document that the device itself serves.
func TestAnswersAreAsDescribed(t *testing.T) {
	d := serving(t, func(c *config.Config) {
		c.MQTT.Brokers, c.MQTT.Mode = []string{"tcp://127.0.0.1:1"}, "demand"
		c.Log.Access, c.Log.Memory = "combined", 1<<16
	})
	status, body := d.Socket(t, "GET", "/openapi.json", "")
	if status != 200 {
		t.Fatalf("openapi.json: %d", status)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource("doc.json", doc); err != nil {
		t.Fatal(err)
	}
	key := ""
	for _, row := range devicetest.JSON[[]admin.CounterView](t, d, "/v1/counters") {
		key = row.Key
	}
	account(t, d, "anna", "admin")
	b := newBrowser(t, page(d))
	asked := 0
	for _, o := range operations() {
		if o.answer == nil || o.path == "/v1/trust" && o.method == "POST" {
			continue
		}
		path, body := o.path, ""
		switch o.method + " " + o.path {
		case "POST /v1/counters/reset":
			path += "?key=" + key
		case "POST /v1/admins":
			body = `{"name":"eva","role":"viewer","password":"a long enough one"}`
		case "DELETE /v1/admins/{name}":
			path = "/v1/admins/eva"
		case "POST /v1/plan":
			body = string(d.Fleet.Bundle(t, d.Fleet.API(t, "http://127.0.0.1:1", "/open", "/more"), nil))
		case "POST /v1/revocations":
			body = `{"revocations":[{"jti":"7"}]}`
		case "POST /v1/confirm":
			d.Apply(t, d.Fleet.API(t, "http://127.0.0.1:1", "/open"))
		}
		status, text := 0, ""
		switch o.where {
		case "page":
			r := reply{}
			if o.path == "/v1/login" {
				r = b.signIn(t, "anna", password)
			} else {
				r = do(t, b.Client, o.method, b.base+path, body, "X-Tidegate-Csrf", b.csrf)
			}
			status, text = r.status, r.body
		default:
			status, text = d.Socket(t, o.method, path, body)
		}
		if status != 200 {
			t.Errorf("%s %s: status %d: %s", o.method, path, status, text)
			continue
		}
		pointer := "doc.json#/paths/" + strings.ReplaceAll(o.path, "/", "~1") + "/" + strings.ToLower(o.method) + "/responses/200/content/application~1json/schema"
		schema, err := c.Compile(pointer)
		if err != nil {
			t.Errorf("%s: %v", pointer, err)
			continue
		}
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Errorf("%s %s: %v", o.method, path, err)
			continue
		}
		if o.path == "/v1/plan" && !strings.Contains(text, `"what":"operation","name":"GET /echo/1.0/more","change":"added"`) {
			t.Errorf("the plan does not tell of the new operation: %s", text)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("%s %s: %v\n%s", o.method, path, err, text)
		}
		asked++
	}
	for _, o := range operations() { // the others answer with the media type that is described
		if o.media == "" || o.method != "GET" {
			continue
		}
		if got := get(t, http.DefaultClient, page(d)+o.path); got.status != 200 || !strings.HasPrefix(got.header.Get("Content-Type"), o.media) {
			t.Errorf("%s: got %d %s, want %s", o.path, got.status, got.header.Get("Content-Type"), o.media)
		}
	}
	if asked < 24 {
		t.Errorf("only %d operations were asked", asked)
	}
	if status, text := d.Socket(t, http.MethodGet, "/v1/counters?sort=odd", ""); status != 400 || !strings.Contains(text, `"error"`) {
		t.Errorf("a wrong query: got %d %s", status, text)
	}
}
