package openapi

import (
	"bytes"
	"fmt"
	"mime"
	"slices"
	"strings"
	"tidegate/policy"
	"tidegate/policy/source"
)

// schemas makes the checks of an operation, where it asks for them.
func (d *reader) schemas(op *policy.Operation, o *source.Object, item *source.Node) {
	v := d.validation(o)
	if v.Request {
		c := d.converter(o.Name, request)
		s := c.request(o.Node, item)
		s.LogOnly = v.LogOnly
		op.Request = d.addSchema(s, c, op.Pos)
	}
	if v.Response {
		c := d.converter(o.Name, response)
		s := c.response(o.Node.Value("responses"))
		s.LogOnly, s.Others = v.LogOnly, nil
		op.Response = d.addSchema(s, c, op.Pos)
	}
}

// maxSchema bounds one operation's schemas with their definitions, in bytes: a device
// holds them compiled, at several times that.
const maxSchema = 1 << 20

func (d *reader) addSchema(s policy.Schema, c *converter, pos policy.Pos) policy.SchemaRef {
	if len(s.Parameters) == 0 && s.Body == nil && !s.Required {
		return 0
	}
	s.Defs = c.definitions()
	if n := len(s.Defs) + len(s.Body); n > maxSchema {
		d.r.Add(source.Finding{
			Pos: pos, Severity: source.Error, Object: c.object,
			Message: fmt.Sprintf("its schemas are larger than %d KiB", maxSchema>>10),
			Hint:    "set x-tidegate-validate: false for this operation",
		})
		return 0
	}
	d.doc.Schemas = append(d.doc.Schemas, Schema{s, pos, c.object})
	return policy.SchemaRef(len(d.doc.Schemas))
}

// request converts the parameters and the body of an operation.
func (c *converter) request(op, item *source.Node) policy.Schema {
	var s policy.Schema
	params := c.parameters(item.Value("parameters"), nil)
	params = c.parameters(op.Value("parameters"), params)
	for _, p := range params {
		in := textOf(p.Value("in"))
		switch in {
		case "body": // OpenAPI 2.0
			s.Body = c.keep(p.Value("schema"))
			s.Required = truth(p.Value("required"))
			s.Types = c.jsonTypes(c.consumes(op))
			for _, t := range c.consumes(op) {
				s.Others = union(s.Others, otherTypes(t.Text))
			}
			continue
		case "formData":
			c.d.r.Dropf(p.Pos, c.object, "form parameters are not checked")
			continue
		}
		if x, ok := c.parameter(p, in); ok {
			s.Parameters = append(s.Parameters, x)
		}
	}
	if body := c.d.resolve(op.Value("requestBody"), c.object); body != nil {
		s.Required = truth(body.Value("required"))
		c.content(&s, body.Value("content"))
	}
	return s
}

// parameters resolves a list of parameters over those that are known: a later one of the
// same name and place replaces an earlier one.
func (c *converter) parameters(list *source.Node, known []*source.Node) []*source.Node {
	if list == nil {
		return known
	}
	if list.Kind != source.List {
		c.d.r.Errorf(list.Pos, c.object, "parameters: want a list, got %s", list.Kind)
		return known
	}
	for _, e := range list.List {
		p := c.d.resolve(e, c.object)
		if p == nil {
			continue
		}
		same := func(k *source.Node) bool {
			return textOf(k.Value("name")) == textOf(p.Value("name")) && textOf(k.Value("in")) == textOf(p.Value("in"))
		}
		if i := slices.IndexFunc(known, same); i >= 0 {
			known[i] = p
			continue
		}
		known = append(known, p)
	}
	return known
}

var locations = map[string]policy.Location{
	"header": policy.InHeader, "query": policy.InQuery, "cookie": policy.InCookie, "path": policy.InPath,
}

// ownHeaders are described elsewhere in a document; as parameters they are ignored (OpenAPI 3.0 §4.7.12).
var ownHeaders = []string{"accept", "content-type", "authorization"}

func (c *converter) parameter(p *source.Node, in string) (policy.Parameter, bool) {
	x := policy.Parameter{Name: textOf(p.Value("name")), In: locations[in], Required: truth(p.Value("required"))}
	if x.Name == "" || x.In == 0 {
		c.d.r.Errorf(p.Pos, c.object, "a parameter needs a name and in: query, header, path or cookie")
		return x, false
	}
	if x.In == policy.InHeader && slices.Contains(ownHeaders, strings.ToLower(x.Name)) {
		return x, false
	}
	schema := p.Value("schema")
	if c.d.v2 {
		schema = p // type, items and bounds stand in the parameter itself
	}
	if schema == nil && p.Value("content") != nil {
		c.d.r.Dropf(p.Pos, c.object, "parameter %q: its content is not checked", x.Name)
	}
	x.Style, x.Explode = style(p, x.In, c.d.v2)
	if schema != nil {
		if c.d.v2 {
			x.Schema = c.keepParameter(schema)
		} else {
			x.Schema = c.keep(schema)
		}
	}
	return x, true
}

// style returns how a list or mapping is written in a parameter.
func style(p *source.Node, in policy.Location, v2 bool) (string, bool) {
	s := "form"
	if in == policy.InPath || in == policy.InHeader {
		s = "simple"
	}
	if v2 {
		switch textOf(p.Value("collectionFormat")) {
		case "multi":
			return "form", true
		case "ssv":
			return "spaceDelimited", false
		case "pipes":
			return "pipeDelimited", false
		}
		return s, false
	}
	if t := textOf(p.Value("style")); t != "" {
		s = t
	}
	explode := s == "form"
	if e := p.Value("explode"); e != nil {
		explode = truth(e)
	}
	return s, explode
}

// content takes the JSON media types of a body.
func (c *converter) content(s *policy.Schema, content *source.Node) {
	var types []*source.Node
	var first *source.Node
	for _, k := range content.All() {
		s.Others = union(s.Others, otherTypes(k.Name))
		if !isJSON(k.Name) {
			continue
		}
		schema := k.Value.Value("schema")
		if first == nil {
			first = schema
		} else if schema != first && textOf(schema.Value("$ref")) != textOf(first.Value("$ref")) {
			c.d.r.Dropf(k.Pos, c.object, "the schema of %s: the body is checked against the first JSON type", k.Name)
			continue
		}
		types = append(types, &source.Node{Kind: source.Text, Text: k.Name})
	}
	if first != nil {
		s.Body = c.keep(first)
		s.Types = c.jsonTypes(types)
	}
}

// response converts the bodies of the answers that mean success: one schema that any of
// them meets.
func (c *converter) response(responses *source.Node) policy.Schema {
	var s policy.Schema
	var bodies [][]byte
	for _, k := range responses.All() {
		if k.Name == "" || k.Name[0] != '2' {
			continue
		}
		r := c.d.resolve(k.Value, c.object)
		var one policy.Schema
		if c.d.v2 {
			if schema := r.Value("schema"); schema != nil {
				one.Body, one.Types = c.keep(schema), []string{"application/json"}
			}
		} else {
			c.content(&one, r.Value("content"))
		}
		if one.Body == nil {
			continue
		}
		s.Types = union(s.Types, one.Types)
		if !slices.ContainsFunc(bodies, func(b []byte) bool { return bytes.Equal(b, one.Body) }) {
			bodies = append(bodies, one.Body)
		}
	}
	switch len(bodies) {
	case 0:
	case 1:
		s.Body = bodies[0]
	default:
		s.Body = slices.Concat([]byte(`{"anyOf":[`), bytes.Join(bodies, []byte(",")), []byte("]}"))
	}
	return s
}

// consumes returns the media types of a body in OpenAPI 2.0.
func (c *converter) consumes(op *source.Node) []*source.Node {
	v := op.Value("consumes")
	if v == nil {
		v = c.d.root.Value("consumes")
	}
	if v == nil || len(v.List) == 0 {
		return []*source.Node{{Kind: source.Text, Text: "application/json"}}
	}
	return v.List
}

func (c *converter) jsonTypes(list []*source.Node) []string {
	var out []string
	for _, n := range list {
		if !isJSON(n.Text) {
			continue
		}
		t, _, err := mime.ParseMediaType(n.Text)
		if err != nil || strings.Contains(t, "*") {
			t = "application/json"
		}
		out = union(out, []string{t})
	}
	return out
}

// otherTypes returns the media type of a body that passes unchecked, if k stands for one.
func otherTypes(k string) []string {
	t, _, err := mime.ParseMediaType(k)
	if err != nil || isJSON(k) && !strings.Contains(t, "*") {
		return nil
	}
	return []string{t}
}

// isJSON reports whether a media type is JSON, or may be.
func isJSON(s string) bool {
	t, _, err := mime.ParseMediaType(s)
	if err != nil {
		return false
	}
	return t == "application/json" || strings.HasSuffix(t, "+json") || t == "*/*" || t == "application/*"
}

func textOf(n *source.Node) string {
	if n.IsScalar() {
		return n.Text
	}
	return ""
}

func truth(n *source.Node) bool {
	return n != nil && n.Kind == source.Bool && strings.EqualFold(n.Text, "true")
}
