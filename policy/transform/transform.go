// Package transform edits calls and answers as a bundle declares it: headers, query, path,
// method, host, status, whole answers, and JSON bodies. [New] compiles and checks everything;
// a call only fills placeholders.
//
// What a caller sends can never change the structure of a message through a placeholder: in a
// header a control character becomes a space, in a path or a query everything but unreserved
// characters is percent-encoded, in JSON it is a string or, from a body, one whole value, and a
// path that would get a dot segment is refused. A placeholder without a value is empty; a
// header that holds nothing else is then left out.
//
// Package transform does not send anything and keeps nothing of a call.
package transform

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"tidegate/policy"
	"tidegate/policy/fault"
	"tidegate/policy/strictjson"
)

// MaxTemplate bounds each text of a transform, in bytes.
const MaxTemplate = 64 << 10

// A View is what placeholders see of a call.
type View struct {
	Call   policy.Call
	Params Params
	Claims *policy.Claims
	ID     string
	Body   []byte // JSON that strictjson.Check has passed, where a body is edited; else nil
}

// Params are the path parameters of a call; *route.Match has them.
type Params interface {
	Param(name string) string    // decoded
	RawParam(name string) string // as sent
}

// Rules are the compiled transforms of an operation. They are immutable and safe for concurrent use.
type Rules struct {
	request, response []edit
	query             []edit
	path, host        *template
	method            string
	statuses          []policy.Status
	fixed             *fixed

	dropRequest, dropResponse []strictjson.Pointer
	requestBody, responseBody *jsonTemplate
}

// An edit is one compiled [policy.Edit].
type edit struct {
	kind  policy.EditKind
	name  string
	value *template
}

// fixed is an answer without a backend.
type fixed struct {
	status  int
	headers []edit
	body    []byte
	json    *jsonTemplate
}

// Check returns everything that is wrong with t.
func Check(t *policy.Transform) error {
	_, err := New(t)
	return err
}

// CheckFor returns everything that is wrong with t at an operation: also placeholders for
// parameters that its path template does not have.
func CheckFor(t *policy.Transform, pathTemplate string) error {
	r, err := New(t)
	if err != nil || r == nil {
		return err
	}
	var errs []error
	for _, tpl := range r.templates() {
		for _, p := range tpl.parts {
			switch {
			case p.from != fromPath:
			case p.text == "*" && strings.HasSuffix(pathTemplate, "/*"):
			case !strings.Contains(pathTemplate, "{"+p.text+"}") && !strings.Contains(pathTemplate, "{;"+p.text+"}"):
				errs = append(errs, fmt.Errorf("{path.%s}: the path %s has no such parameter", p.text, pathTemplate))
			}
		}
	}
	return errors.Join(errs...)
}

// templates returns every text of r that holds placeholders.
func (r *Rules) templates() []*template {
	var out []*template
	lists := [][]edit{r.request, r.response, r.query}
	bodies := []*jsonTemplate{r.requestBody, r.responseBody}
	if r.fixed != nil {
		lists, bodies = append(lists, r.fixed.headers), append(bodies, r.fixed.json)
	}
	for _, list := range lists {
		for i := range list {
			out = append(out, list[i].value)
		}
	}
	for _, b := range bodies {
		if b != nil {
			out = append(out, &b.template)
		}
	}
	out = append(out, r.path, r.host)
	return slices.DeleteFunc(out, func(t *template) bool { return t == nil })
}

// New compiles transforms that are applied one after the other: those of an API, then
// those of its operation. Where only one can hold (path, method, host, body, answer) the last one
// does. It returns nil when there are none. The error names every fault.
func New(list ...*policy.Transform) (*Rules, error) {
	r := new(Rules)
	var c compiler
	some := false
	for _, t := range list {
		if t == nil {
			continue
		}
		some = true
		r.request = append(r.request, c.edits("request headers", t.RequestHeaders, inHeader)...)
		r.response = append(r.response, c.edits("response headers", t.ResponseHeaders, inHeader)...)
		r.query = append(r.query, c.edits("query", t.Query, inQuery)...)
		if t.Path != "" {
			r.path = c.text("path", t.Path, inPath)
		}
		if t.Host != "" {
			r.host = c.text("host", t.Host, inHost)
		}
		if t.Method != "" {
			r.method = c.methodName(t.Method)
		}
		for _, s := range t.Statuses {
			if s.From == s.To || s.To < 200 || s.To == 304 || s.From < 200 {
				c.fault("status: %d instead of %d", s.To, s.From)
			}
		}
		r.statuses = append(r.statuses, t.Statuses...)
		if t.Fixed != nil {
			r.fixed = c.answer(t.Fixed)
		}
		r.dropRequest = append(r.dropRequest, c.pointers("request: drop", t.DropRequest)...)
		r.dropResponse = append(r.dropResponse, c.pointers("response: drop", t.DropFields)...)
		if t.RequestBody != "" {
			r.requestBody = c.json("request: body", t.RequestBody, true)
		}
		if t.ResponseBody != "" {
			r.responseBody = c.json("response: body", t.ResponseBody, true)
		}
	}
	if err := errors.Join(c.faults...); err != nil {
		return nil, err
	}
	if !some {
		return nil, nil
	}
	return r, nil
}

// compiler collects faults.
type compiler struct{ faults []error }

func (c *compiler) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Errorf(format, args...))
}

func (c *compiler) text(what, s string, in context) *template {
	t, err := parse(s, in)
	if err != nil {
		c.fault("%s: %w", what, err)
		return nil
	}
	return t
}

func (c *compiler) methodName(m string) string {
	// The answer to HEAD and CONNECT has another form than the client waits for.
	if m == "HEAD" || m == "CONNECT" || m == "TRACE" {
		c.fault("method: a call cannot become %s", m)
	}
	return m
}

func (c *compiler) edits(what string, list []policy.Edit, in context) []edit {
	var out []edit
	for _, e := range list {
		x := edit{kind: e.Kind, name: e.Name}
		if e.Kind != policy.EditRemove {
			place := in
			if in == inHeader && isLocation(e.Name) {
				place = inURL
			}
			x.value = c.text(what+": "+e.Name, e.Value, place)
		}
		out = append(out, x)
	}
	// What is removed goes first, so that it can be set anew.
	slices.SortStableFunc(out, func(a, b edit) int { return rank(a.kind) - rank(b.kind) })
	return out
}

func rank(k policy.EditKind) int {
	if k == policy.EditRemove {
		return 0
	}
	return int(k)
}

// isLocation reports whether a header holds a URL: there a placeholder must not be able to
// name another host.
func isLocation(name string) bool {
	return strings.EqualFold(name, "Location") || strings.EqualFold(name, "Content-Location") || strings.EqualFold(name, "Refresh")
}

func (c *compiler) answer(f *policy.Fixed) *fixed {
	out := &fixed{status: int(f.Status), headers: c.edits("answer", f.Headers, inHeader), body: f.Body}
	kind := ""
	for _, e := range f.Headers {
		if strings.EqualFold(e.Name, "Content-Type") {
			kind, _, _ = strings.Cut(strings.ToLower(e.Value), ";")
		}
	}
	kind = strings.TrimSpace(kind)
	switch isJSON := kind == "application/json" || strings.HasSuffix(kind, "+json"); {
	case len(f.Body) > MaxTemplate:
		c.fault("answer: a body of more than %d KiB", MaxTemplate>>10)
	case len(f.Body) > 0 && (f.Status == 204 || f.Status == 304):
		c.fault("answer: status %d has no body", f.Status)
	case isJSON && len(f.Body) > 0:
		out.json = c.json("answer: body", string(f.Body), false)
	default:
		if t, err := parse(string(f.Body), inPlain); err != nil || t.filled() {
			c.fault("answer: only a body of type application/json can hold placeholders")
		}
	}
	return out
}

func (c *compiler) pointers(what string, list []string) []strictjson.Pointer {
	var out []strictjson.Pointer
	for _, s := range list {
		p, err := strictjson.ParsePointer(s)
		if err != nil {
			c.fault("%s: %w", what, err)
			continue
		}
		out = append(out, p)
	}
	return out
}

func (c *compiler) json(what, s string, body bool) *jsonTemplate {
	t, err := parseJSON(s, body)
	if err != nil {
		c.fault("%s: %w", what, err)
		return nil
	}
	return t
}

// EditRequest tells the edits of the request's header in order. A name that is set has an
// empty value when the field is to be left out.
func (r *Rules) EditRequest(v *View, do func(kind policy.EditKind, name, value string)) {
	tellEdits(r.request, v, do)
}

// EditResponse tells the edits of the answer's header in order, as EditRequest does.
func (r *Rules) EditResponse(v *View, do func(kind policy.EditKind, name, value string)) {
	tellEdits(r.response, v, do)
}

func tellEdits(list []edit, v *View, do func(policy.EditKind, string, string)) {
	for i := range list {
		e := &list[i]
		value := ""
		if e.value != nil {
			value = e.value.fill(v)
		}
		if e.kind == policy.EditSet && value == "" && e.value.filled() {
			do(policy.EditRemove, e.name, "")
			continue
		}
		if e.kind == policy.EditAdd && value == "" && e.value.filled() {
			continue
		}
		do(e.kind, e.name, value)
	}
}

// Method returns the method for the backend.
func (r *Rules) Method(m string) string {
	if r.method != "" {
		return r.method
	}
	return m
}

var errPath = errors.New("the rewritten path would have an empty or a dot segment")

// Path returns the path below the base path for the backend; rest is that of the call. The
// error is a [*fault.Error] with status 400.
func (r *Rules) Path(rest string, v *View) (string, error) {
	if r.path == nil {
		return rest, nil
	}
	p := r.path.fill(v)
	if !sound(p) {
		return "", fault.New(fault.BadRequest, errPath)
	}
	return p, nil
}

// sound reports whether a path means the same to every reader, however often it decodes.
func sound(p string) bool {
	if strings.Contains(p, "//") {
		return false
	}
	for range 8 {
		for seg := range strings.SplitSeq(p, "/") {
			if i := strings.IndexByte(seg, ';'); i >= 0 {
				seg = seg[:i]
			}
			if seg == "." || seg == ".." {
				return false
			}
		}
		if strings.ContainsAny(p, "\\\x00") {
			return false
		}
		next := unescape(p)
		if next == p {
			return true
		}
		p = next
	}
	return false
}

// Host returns the Host for the backend, "" for that of the endpoint. The error is a
// [*fault.Error] with status 400.
func (r *Rules) Host(v *View) (string, error) {
	if r.host == nil {
		return "", nil
	}
	h := r.host.fill(v)
	if h == "" || !all(h, isHostByte) {
		return "", fault.New(fault.BadRequest, errors.New("the rewritten host is none"))
	}
	return h, nil
}

// Query returns the query for the backend. Parts that no edit names stay byte for byte.
func (r *Rules) Query(query string, v *View) string {
	if len(r.query) == 0 {
		return query
	}
	var parts []string
	if query != "" {
		parts = strings.Split(query, "&")
	}
	for i := range r.query {
		e := &r.query[i]
		if e.kind != policy.EditAdd {
			parts = slices.DeleteFunc(parts, func(p string) bool {
				name, _, _ := strings.Cut(p, "=")
				return name == e.name || unescapeQuery(name) == e.name
			})
		}
		if e.kind != policy.EditRemove {
			value := e.value.fill(v)
			if value == "" && e.value.filled() {
				continue
			}
			parts = append(parts, string(appendEscaped(nil, e.name))+"="+value)
		}
	}
	return strings.Join(parts, "&")
}

// Status returns the status for the client.
func (r *Rules) Status(s int) int {
	for _, m := range r.statuses {
		if int(m.From) == s {
			return int(m.To)
		}
	}
	return s
}

// Fixed reports whether calls are answered without a backend.
func (r *Rules) Fixed() bool { return r.fixed != nil }

// Answer tells the header of the fixed answer and returns its status and body.
func (r *Rules) Answer(v *View, header func(name, value string)) (status int, body []byte) {
	f := r.fixed
	tellEdits(f.headers, v, func(kind policy.EditKind, name, value string) {
		if kind != policy.EditRemove {
			header(name, value)
		}
	})
	if f.json != nil {
		b, err := f.json.fill(nil, v, 2*MaxTemplate)
		if err != nil {
			return 500, nil // placeholders are bounded by the head of a request: it fits
		}
		return f.status, b
	}
	return f.status, f.body
}

// Speaks reports whether an answer tells who the caller is: two callers may then not share it.
func (r *Rules) Speaks() bool {
	claims := func(list []edit) bool {
		return slices.ContainsFunc(list, func(e edit) bool { return e.value.has(fromClaim) })
	}
	return claims(r.request) || claims(r.query) || r.path.has(fromClaim) || r.host.has(fromClaim) || r.requestBody.has(fromClaim)
}

// ReadsRequest reports whether the request's body is needed as JSON.
func (r *Rules) ReadsRequest() bool { return len(r.dropRequest) > 0 || r.requestBody.has(fromBody) }

// WritesRequest reports whether the request's body is replaced.
func (r *Rules) WritesRequest() bool { return len(r.dropRequest) > 0 || r.requestBody != nil }

// WritesResponse reports whether JSON bodies of answers are read and replaced.
func (r *Rules) WritesResponse() bool { return len(r.dropResponse) > 0 || r.responseBody != nil }

// ErrTooLarge says that a rewritten body is above its bound.
var ErrTooLarge = errors.New("the rewritten body is too large")

// RequestBody returns the body for the backend, of at most limit bytes, else ErrTooLarge.
func (r *Rules) RequestBody(v *View, limit int) ([]byte, error) {
	return rewrite(r.dropRequest, r.requestBody, v, limit)
}

// ResponseBody returns the body for the client; v.Body is that of the backend.
func (r *Rules) ResponseBody(v *View, limit int) ([]byte, error) {
	return rewrite(r.dropResponse, r.responseBody, v, limit)
}

func rewrite(drop []strictjson.Pointer, t *jsonTemplate, v *View, limit int) ([]byte, error) {
	w := *v
	if len(drop) > 0 && w.Body != nil {
		w.Body = strictjson.Drop(make([]byte, 0, len(w.Body)), w.Body, drop)
	}
	if t == nil {
		return w.Body, nil
	}
	return t.fill(nil, &w, limit)
}
