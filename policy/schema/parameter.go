package schema

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"tidegate/policy"
	"tidegate/policy/strictjson"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// kinds are JSON types, as bits.
type kinds uint8

const (
	isString kinds = 1 << iota
	isNumber
	isBoolean
	isNull
	isArray
	isObject
)

// parameter is a compiled [policy.Parameter]: how its text becomes a value, and the schema
// of that.
type parameter struct {
	*policy.Parameter
	*compiled       // nil: anything
	kinds     kinds // of the whole
	items     kinds // of the elements of a list
	props     map[string]kinds
	header    string // canonical name, of InHeader
}

// styles are those of OpenAPI, by place. A parameter of the style matrix needs a template {;name}.
var styles = map[policy.Location][]string{
	policy.InPath:   {"simple", "label", "matrix"},
	policy.InQuery:  {"form", "spaceDelimited", "pipeDelimited", "deepObject"},
	policy.InHeader: {"simple"},
	policy.InCookie: {"form"},
}

func newParameter(p *policy.Parameter, defs []byte) (parameter, error) {
	out := parameter{Parameter: p}
	list := styles[p.In]
	if list == nil {
		return out, fmt.Errorf("unknown place %d", p.In)
	}
	if p.Style != "" && !slices.Contains(list, p.Style) {
		return out, fmt.Errorf("style %q is not supported here: want one of %s", p.Style, strings.Join(list, ", "))
	}
	if p.In == policy.InHeader {
		out.header = canonical(p.Name)
	}
	if p.Schema == nil {
		return out, nil
	}
	c, err := compile(p.Schema, defs)
	if err != nil {
		return out, err
	}
	out.compiled = c
	out.kinds = kindsOf(c.schema, 0)
	out.items = kindsOf(itemsOf(c.schema, 0), 0)
	if out.kinds&isObject != 0 {
		out.props = map[string]kinds{}
		propsOf(c.schema, out.props, 0)
	}
	return out, nil
}

// canonical writes a header name as policy.Call asks for it.
func canonical(s string) string {
	b := []byte(strings.ToLower(s))
	up := true
	for i, c := range b {
		if up && 'a' <= c && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
		up = c == '-'
	}
	return string(b)
}

// deepest bounds how far references and combinations are followed for the type of a parameter.
const deepest = 8

// kindsOf returns the types a schema may want, 0 when it says nothing about them.
func kindsOf(s *jsonschema.Schema, depth int) kinds {
	if s == nil || depth > deepest {
		return 0
	}
	var k kinds
	if s.Types != nil {
		for _, t := range s.Types.ToStrings() {
			k |= map[string]kinds{
				"string": isString, "number": isNumber, "integer": isNumber, "boolean": isBoolean,
				"null": isNull, "array": isArray, "object": isObject,
			}[t]
		}
		return k
	}
	if s.Enum != nil {
		for _, v := range s.Enum.Values {
			k |= kindOf(v)
		}
		return k
	}
	if k = kindsOf(s.Ref, depth+1); k != 0 {
		return k
	}
	for _, list := range [][]*jsonschema.Schema{s.AllOf, s.AnyOf, s.OneOf} {
		for _, e := range list {
			k |= kindsOf(e, depth+1)
		}
	}
	return k
}

func kindOf(v any) kinds {
	switch v.(type) {
	case string:
		return isString
	case json.Number, float64:
		return isNumber
	case bool:
		return isBoolean
	case []any:
		return isArray
	case map[string]any:
		return isObject
	}
	return isNull
}

// itemsOf returns the schema of the elements of a list.
func itemsOf(s *jsonschema.Schema, depth int) *jsonschema.Schema {
	if s == nil || depth > deepest {
		return nil
	}
	if s.Items2020 != nil {
		return s.Items2020
	}
	for _, list := range [][]*jsonschema.Schema{{s.Ref}, s.AllOf, s.AnyOf, s.OneOf} {
		for _, e := range list {
			if i := itemsOf(e, depth+1); i != nil {
				return i
			}
		}
	}
	return nil
}

// propsOf collects the types of the properties of a mapping.
func propsOf(s *jsonschema.Schema, out map[string]kinds, depth int) {
	if s == nil || depth > deepest {
		return
	}
	for name, p := range s.Properties {
		out[name] |= kindsOf(p, 0)
	}
	for _, list := range [][]*jsonschema.Schema{{s.Ref}, s.AllOf, s.AnyOf, s.OneOf} {
		for _, e := range list {
			propsOf(e, out, depth+1)
		}
	}
}

// places are the names under which parameters stand in faults.
var places = [...]string{policy.InPath: "#/path", policy.InQuery: "#/query", policy.InHeader: "#/header", policy.InCookie: "#/cookie"}

// parameters checks the parameters of a call.
func (c *Check) parameters(f *faults, call policy.Call, params Params) {
	var query, cookies []pair
	if c.places[policy.InQuery] {
		query = splitQuery(call.Query())
	}
	if c.places[policy.InCookie] {
		call.HeaderValues("Cookie", func(v string) bool {
			cookies = splitCookies(cookies, v)
			return true
		})
	}
	for i := range c.params {
		p := &c.params[i]
		var v any
		var found bool
		var why string
		switch p.In {
		case policy.InPath:
			raw := params.RawParam(p.Name)
			if found = raw != ""; found {
				v, why = p.path(raw)
			}
		case policy.InHeader:
			v, found, why = p.fromHeader(call)
		case policy.InQuery:
			v, found, why = p.fromPairs(query)
		case policy.InCookie:
			v, found, why = p.fromPairs(cookies)
		}
		place := places[p.In]
		switch {
		case why != "":
			f.add(place+"/"+escape(p.Name), why)
		case !found && p.Required:
			f.add(place, "required key ["+p.Name+"] not found")
		case found && p.compiled != nil:
			p.validate(f, place+"/"+escape(p.Name), v)
		}
	}
}

// pair is a name and the values as sent, not decoded, of one query parameter or cookie.
type pair struct{ name, value string }

const (
	twice     = "given more than once"
	badEscape = "bad percent escape"
)

// splitQuery takes a query apart. Names are decoded.
func splitQuery(q string) []pair {
	var out []pair
	for q != "" {
		var part string
		part, q, _ = strings.Cut(q, "&")
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		if n, err := url.QueryUnescape(name); err == nil {
			name = n
		}
		out = append(out, pair{name, value})
	}
	return out
}

// splitCookies takes a Cookie field apart (RFC 6265 §4.2.1).
func splitCookies(out []pair, v string) []pair {
	for v != "" {
		var part string
		part, v, _ = strings.Cut(v, ";")
		name, value, ok := strings.Cut(strings.Trim(part, " \t"), "=")
		if ok {
			out = append(out, pair{name, strings.Trim(value, `"`)})
		}
	}
	return out
}

// fromPairs reads a query parameter or a cookie. why says what is wrong with its form.
func (p *parameter) fromPairs(pairs []pair) (v any, found bool, why string) {
	decode := url.PathUnescape
	if p.In == policy.InQuery {
		decode = url.QueryUnescape // where "+" is a blank
	}
	if p.kinds&isObject != 0 && (p.Style == "deepObject" || p.Explode && p.kinds&isArray == 0) {
		return p.members(pairs, decode)
	}
	list := p.kinds&isArray != 0
	out := []any{}
	for _, e := range pairs {
		if e.name != p.Name {
			continue
		}
		if found && (!list || !p.Explode) {
			return nil, true, twice
		}
		found = true
		if list && p.Explode {
			s, err := decode(e.value)
			if err != nil {
				return nil, true, badEscape
			}
			out = append(out, scalar(s, p.items))
			continue
		}
		v, why = p.text(e.value, p.separator(), decode)
	}
	if list && p.Explode && found {
		return out, true, ""
	}
	return v, found, why
}

// members reads an object whose properties are parameters of their own, or "name[prop]".
func (p *parameter) members(pairs []pair, decode func(string) (string, error)) (any, bool, string) {
	out := map[string]any{}
	for _, e := range pairs {
		name := e.name
		if p.Style == "deepObject" {
			inner, ok := strings.CutPrefix(name, p.Name+"[")
			if !ok || !strings.HasSuffix(inner, "]") {
				continue
			}
			name = inner[:len(inner)-1]
		} else if _, known := p.props[name]; !known {
			continue
		}
		if _, dup := out[name]; dup {
			return nil, true, twice
		}
		s, err := decode(e.value)
		if err != nil {
			return nil, true, badEscape
		}
		out[name] = scalar(s, p.props[name])
	}
	return out, len(out) > 0, ""
}

// separator is what stands between the elements of a list that is one text.
func (p *parameter) separator() []string {
	switch p.Style {
	case "spaceDelimited":
		return []string{"%20", "+"}
	case "pipeDelimited":
		return []string{"|", "%7C", "%7c"}
	}
	return []string{","}
}

// text reads a value that is one text: a scalar, a list, or names and values in turn.
func (p *parameter) text(raw string, separators []string, decode func(string) (string, error)) (any, string) {
	if p.kinds&(isArray|isObject) == 0 {
		s, err := decode(raw)
		if err != nil {
			return nil, badEscape
		}
		return scalar(s, p.kinds), ""
	}
	for _, s := range separators[1:] {
		raw = strings.ReplaceAll(raw, s, separators[0])
	}
	var parts []string
	for part := range strings.SplitSeq(raw, separators[0]) {
		s, err := decode(part)
		if err != nil {
			return nil, badEscape
		}
		parts = append(parts, s)
	}
	if p.kinds&isArray != 0 {
		if len(parts) == 1 && parts[0] == "" {
			parts = nil
		}
		out := make([]any, len(parts))
		for i, s := range parts {
			out[i] = scalar(s, p.items)
		}
		return out, ""
	}
	out := map[string]any{}
	for len(parts) > 0 {
		name, value, ok := "", "", true
		if p.Explode {
			name, value, ok = strings.Cut(parts[0], "=")
			parts = parts[1:]
		} else if len(parts) > 1 {
			name, value = parts[0], parts[1]
			parts = parts[2:]
		} else {
			ok = false
		}
		if !ok {
			return nil, "names and values do not pair"
		}
		if _, dup := out[name]; dup {
			return nil, twice
		}
		out[name] = scalar(value, p.props[name])
	}
	return out, ""
}

// path reads a path parameter.
func (p *parameter) path(raw string) (any, string) {
	if p.Style == "matrix" {
		return p.matrix(raw)
	}
	separators := []string{","}
	if p.Style == "label" {
		rest, ok := strings.CutPrefix(raw, ".")
		if !ok {
			return nil, "does not begin with a point"
		}
		raw = rest
		if p.Explode {
			separators[0] = "."
		}
	}
	return p.text(raw, separators, url.PathUnescape)
}

// matrix reads a path parameter that is a matrix part: names and values as in a query, of nothing
// but this parameter.
func (p *parameter) matrix(raw string) (any, string) {
	rest, ok := strings.CutPrefix(raw, ";")
	if !ok {
		return nil, "does not begin with a semicolon"
	}
	spread := p.kinds&isObject != 0 && p.Explode && p.kinds&isArray == 0
	members := map[string]any{}
	var pairs []pair
	for part := range strings.SplitSeq(rest, ";") {
		name, value, _ := strings.Cut(part, "=")
		name, err := url.PathUnescape(name)
		switch {
		case err != nil:
			return nil, badEscape
		case !spread && name != p.Name:
			return nil, "holds another parameter"
		case !spread:
			pairs = append(pairs, pair{name, value})
			continue
		}
		s, err := url.PathUnescape(value)
		if err != nil {
			return nil, badEscape
		}
		if _, dup := members[name]; dup {
			return nil, twice
		}
		members[name] = scalar(s, p.props[name])
	}
	if spread {
		return members, ""
	}
	v, _, why := p.fromPairs(pairs)
	return v, why
}

// fromHeader reads a header; several lines are one list (RFC 9110 §5.3).
func (p *parameter) fromHeader(call policy.Call) (v any, found bool, why string) {
	lines := 0
	var all string
	call.HeaderValues(p.header, func(s string) bool {
		if lines++; lines > 1 {
			all += ","
		}
		all += s
		return true
	})
	switch {
	case lines == 0:
		return nil, false, ""
	case lines > 1 && p.kinds&(isArray|isObject) == 0:
		return nil, true, twice
	}
	v, why = p.text(all, []string{","}, func(s string) (string, error) { return strings.Trim(s, " \t"), nil })
	return v, true, why
}

// scalar makes a value of a text, of the first type that it can be.
func scalar(s string, want kinds) any {
	if want&isNumber != 0 && isJSONNumber(s) {
		return json.Number(s)
	}
	if want&isBoolean != 0 && (s == "true" || s == "false") {
		return s == "true"
	}
	if want&isNull != 0 && want&isString == 0 && (s == "" || s == "null") {
		return nil
	}
	return s
}

func isJSONNumber(s string) bool {
	if s == "" || s[0] != '-' && s[0]-'0' > 9 {
		return false
	}
	return strictjson.Check([]byte(s), 1) == nil && s[len(s)-1]-'0' < 10
}
