package openapi

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"tidegate/policy/source"
)

// side is the side of an operation for which a schema is converted: readOnly and
// writeOnly properties are not required on one of them (OpenAPI 3.0 §4.7.24.2).
type side string

const (
	request  side = "readOnly" // the properties that need not be there
	response side = "writeOnly"
)

// A converter turns schemas of a document into JSON Schema 2020-12.
type converter struct {
	d      *reader
	object string
	side   side
	refs   []string // definitions used, as pointers of the document
	cache  map[string]definition
}

// A definition is a converted target of a $ref, and what it refers to itself.
type definition struct {
	json []byte
	refs []string
}

func (d *reader) converter(object string, s side) *converter {
	if d.defs == nil {
		d.defs = map[side]map[string]definition{request: {}, response: {}}
	}
	return &converter{d: d, object: object, side: s, cache: d.defs[s]}
}

// keep converts a schema of the document.
func (c *converter) keep(n *source.Node) []byte {
	var b bytes.Buffer
	c.schema(&b, n)
	return b.Bytes()
}

// keepParameter converts a parameter of OpenAPI 2.0, which holds schema keywords beside its own.
func (c *converter) keepParameter(p *source.Node) []byte {
	s := *p
	s.Keys = slices.DeleteFunc(slices.Clone(p.Keys), func(k source.Key) bool {
		return slices.Contains([]string{"name", "in", "required", "allowEmptyValue"}, k.Name)
	})
	return c.keep(&source.Node{Kind: source.Map, Pos: s.Pos, Keys: s.Keys})
}

// definitions returns the "$defs" of what was kept, with all that they refer to; nil when
// nothing was referred to.
func (c *converter) definitions() []byte {
	done := map[string]bool{}
	queue := slices.Clone(c.refs)
	for len(queue) > 0 {
		ref := queue[0]
		queue = queue[1:]
		if done[ref] {
			continue
		}
		done[ref] = true
		queue = append(queue, c.definition(ref).refs...)
	}
	if len(done) == 0 {
		return nil
	}
	names := make([]string, 0, len(done))
	for ref := range done {
		names = append(names, ref)
	}
	slices.Sort(names)
	var b bytes.Buffer
	for i, ref := range names {
		b.WriteByte("{,"[min(i, 1)])
		quote(&b, defName(ref))
		b.WriteByte(':')
		b.Write(c.cache[ref].json)
	}
	b.WriteByte('}')
	return b.Bytes()
}

func (c *converter) definition(ref string) definition {
	if def, ok := c.cache[ref]; ok {
		return def
	}
	inner := &converter{d: c.d, object: c.object, side: c.side, cache: c.cache}
	def := definition{json: []byte("true")}
	if n := c.d.pointer(&source.Node{Kind: source.Text, Text: ref, Pos: c.d.root.Pos}, c.object); n != nil {
		def.json = inner.keep(n)
		def.refs = inner.refs
	}
	c.cache[ref] = def
	return def
}

// defName is the name of a pointer's target in "$defs": the component's own where it is one.
func defName(ref string) string {
	for _, prefix := range []string{"#/components/schemas/", "#/definitions/"} {
		if name, ok := strings.CutPrefix(ref, prefix); ok && !strings.Contains(name, "/") {
			return unescape(name)
		}
	}
	return strings.TrimPrefix(ref, "#")
}

// What a keyword holds.
const (
	isAny     = iota + 1
	isSchema  // one schema
	isSchemas // a list of schemas
	isNamed   // schemas by name
	isCount   // a whole number from 0
	isNumber
	isText
	isFlag
	isNote // says nothing about validity
)

var keywords = map[string]int{
	"properties": isNamed, "patternProperties": isNamed, "dependentSchemas": isNamed,
	"allOf": isSchemas, "anyOf": isSchemas, "oneOf": isSchemas, "prefixItems": isSchemas,
	"additionalProperties": isSchema, "not": isSchema, "contains": isSchema, "propertyNames": isSchema,
	"if": isSchema, "then": isSchema, "else": isSchema, "unevaluatedItems": isSchema, "unevaluatedProperties": isSchema,
	"const": isAny, "dependentRequired": isAny,
	"multipleOf": isNumber, "minLength": isCount, "maxLength": isCount, "minItems": isCount, "maxItems": isCount,
	"minProperties": isCount, "maxProperties": isCount, "minContains": isCount, "maxContains": isCount,
	"uniqueItems": isFlag, "format": isText,
	"title": isNote, "description": isNote, "default": isNote, "example": isNote, "examples": isNote, "deprecated": isNote,
	"xml": isNote, "externalDocs": isNote, "discriminator": isNote, "readOnly": isNote, "writeOnly": isNote, "nullable": isNote,
	"$schema": isNote, "$id": isNote, "$comment": isNote, "$defs": isNote, "definitions": isNote, "$vocabulary": isNote,
	"contentEncoding": isNote, "contentMediaType": isNote, "contentSchema": isNote, "collectionFormat": isNote, "style": isNote,
}

// schema writes n as JSON Schema 2020-12.
func (c *converter) schema(b *bytes.Buffer, n *source.Node) {
	switch {
	case n == nil:
		b.WriteString("true")
		return
	case n.Kind == source.Bool:
		b.WriteString(strings.ToLower(n.Text))
		return
	case n.Kind != source.Map:
		c.d.r.Errorf(n.Pos, c.object, "schema: want a mapping, got %s", n.Kind)
		b.WriteString("true")
		return
	}
	nullable := truth(n.Value("nullable")) || truth(n.Value("x-nullable"))
	wrap := nullable && n.Value("type") == nil
	if wrap {
		b.WriteString(`{"anyOf":[{"type":"null"},`)
	}
	b.WriteByte('{')
	w := &members{b: b}
	if ref := n.Value("$ref"); ref != nil && ref.Kind == source.Text {
		if c.d.pointer(ref, c.object) != nil {
			w.name("$ref")
			quote(b, "#/$defs/"+escape(defName(ref.Text)))
			c.refs = union(c.refs, []string{ref.Text})
		}
		if !c.d.v31 { // the siblings of a reference count from 3.1 on
			n = nil
		}
	}
	for _, k := range n.All() {
		c.keyword(w, n, k, nullable && !wrap)
	}
	b.WriteByte('}')
	if wrap {
		b.WriteString(`]}`)
	}
}

// members writes the members of an object.
type members struct {
	b    *bytes.Buffer
	some bool
}

func (w *members) name(s string) {
	if w.some {
		w.b.WriteByte(',')
	}
	w.some = true
	quote(w.b, s)
	w.b.WriteByte(':')
}

func quote(b *bytes.Buffer, s string) {
	q, _ := json.Marshal(s) // a string cannot fail
	b.Write(q)
}

func (c *converter) keyword(w *members, n *source.Node, k source.Key, nullable bool) {
	v := k.Value
	switch k.Name {
	case "$ref":
		return
	case "type":
		c.types(w, v, nullable)
		return
	case "enum":
		c.enum(w, n, v, nullable)
		return
	case "required":
		c.required(w, n, v)
		return
	case "pattern":
		c.pattern(w, v)
		return
	case "items":
		if v.Kind == source.List { // a tuple, as before 2020-12
			k.Name = "prefixItems"
			c.write(w, n, k, isSchemas)
			return
		}
		c.write(w, n, k, isSchema)
		return
	case "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum":
		c.bound(w, n, k)
		return
	}
	if kind, known := keywords[k.Name]; known {
		c.write(w, n, k, kind)
		return
	}
	if !strings.HasPrefix(k.Name, "x-") {
		c.d.r.Warnf(k.Pos, c.object, "schema: %q has no effect", k.Name)
	}
}

func (c *converter) write(w *members, n *source.Node, k source.Key, kind int) {
	v := k.Value
	wrong := func(want string) { c.d.r.Errorf(v.Pos, c.object, "schema: %s: want %s, got %s", k.Name, want, v.Kind) }
	switch kind {
	case isSchema:
		w.name(k.Name)
		c.schema(w.b, v)
	case isSchemas:
		if v.Kind != source.List || len(v.List) == 0 {
			wrong("a list of schemas")
			return
		}
		w.name(k.Name)
		for i, e := range v.List {
			w.b.WriteByte("[,"[min(i, 1)])
			c.schema(w.b, e)
		}
		w.b.WriteByte(']')
	case isNamed:
		if v.Kind != source.Map {
			wrong("schemas by name")
			return
		}
		w.name(k.Name)
		w.b.WriteByte('{')
		inner := &members{b: w.b}
		for _, p := range v.Keys {
			inner.name(p.Name)
			c.schema(w.b, p.Value)
		}
		w.b.WriteByte('}')
	case isCount:
		if u, err := strconv.ParseFloat(v.Text, 64); err != nil || v.Kind != source.Number || u < 0 || u != float64(int64(u)) {
			wrong("a whole number from 0")
			return
		}
		w.name(k.Name)
		w.b.WriteString(v.Text)
	case isNumber:
		if v.Kind != source.Number {
			wrong("a number")
			return
		}
		w.name(k.Name)
		w.b.WriteString(v.Text)
	case isFlag:
		if v.Kind != source.Bool {
			wrong("true or false")
			return
		}
		w.name(k.Name)
		w.b.WriteString(strings.ToLower(v.Text))
	case isText:
		if !v.IsScalar() {
			wrong("a text")
			return
		}
		w.name(k.Name)
		quote(w.b, v.Text)
	case isAny:
		w.name(k.Name)
		value(w.b, v, typeIs(n, "string"))
	}
}

var jsonTypes = []string{"array", "boolean", "integer", "null", "number", "object", "string"}

func (c *converter) types(w *members, v *source.Node, nullable bool) {
	list := []*source.Node{v}
	if v.Kind == source.List {
		list = v.List
	}
	var out []string
	for _, t := range list {
		if t.Kind == source.Null && v.Kind == source.List {
			out = union(out, []string{"null"}) // "null" without quotes, as YAML writers forget them
			continue
		}
		if c.d.v2 && t.Text == "file" {
			return
		}
		if !slices.Contains(jsonTypes, t.Text) {
			f := source.Finding{Pos: t.Pos, Severity: source.Error, Object: c.object, Message: "schema: type: " + strconv.Quote(t.Text) + " is not a type"}
			if near := source.Nearest(t.Text, jsonTypes); near != "" {
				f.Hint = "did you mean " + near + "?"
			}
			c.d.r.Add(f)
			return
		}
		out = union(out, []string{t.Text})
	}
	if nullable {
		out = union(out, []string{"null"})
	}
	if len(out) == 0 {
		return
	}
	w.name("type")
	if len(out) == 1 {
		quote(w.b, out[0])
		return
	}
	for i, t := range out {
		w.b.WriteByte("[,"[min(i, 1)])
		quote(w.b, t)
	}
	w.b.WriteByte(']')
}

func typeIs(n *source.Node, want string) bool { return textOf(n.Value("type")) == want }

func (c *converter) enum(w *members, n, v *source.Node, nullable bool) {
	if v.Kind != source.List || len(v.List) == 0 {
		c.d.r.Errorf(v.Pos, c.object, "schema: enum: want a list of values, got %s", v.Kind)
		return
	}
	w.name("enum")
	null := false
	for i, e := range v.List {
		w.b.WriteByte("[,"[min(i, 1)])
		value(w.b, e, typeIs(n, "string"))
		null = null || e.Kind == source.Null
	}
	if nullable && !null {
		w.b.WriteString(",null")
	}
	w.b.WriteByte(']')
}

// required leaves out what need not be there on this side.
func (c *converter) required(w *members, n, v *source.Node) {
	if v.Kind != source.List {
		c.d.r.Warnf(v.Pos, c.object, "schema: required: want a list of names, got %s; it has no effect", v.Kind)
		return
	}
	var names []string
	for _, e := range v.List {
		if p := c.d.quietly(n.At("properties", e.Text)); !truth(p.Value(string(c.side))) {
			names = union(names, []string{e.Text})
		}
	}
	w.name("required")
	w.b.WriteByte('[')
	for i, s := range names {
		if i > 0 {
			w.b.WriteByte(',')
		}
		quote(w.b, s)
	}
	w.b.WriteByte(']')
}

// quietly resolves a reference of a property; an error in it is told where it is converted.
func (d *reader) quietly(n *source.Node) *source.Node {
	var silent source.Report
	loud := d.r
	d.r = &silent
	n = d.resolve(n, "")
	d.r = loud
	return n
}

var unicodeEscape = regexp.MustCompile(`\\u([0-9a-fA-F]{4})`)

func (c *converter) pattern(w *members, v *source.Node) {
	p := unicodeEscape.ReplaceAllString(v.Text, `\x{$1}`)
	if _, err := regexp.Compile(p); err != nil || !v.IsScalar() {
		c.d.r.Add(source.Finding{
			Pos: v.Pos, Severity: source.Warning, Object: c.object, Security: true,
			Message: "schema: pattern " + strconv.Quote(v.Text) + " is not kept: RE2 has no look-ahead and no back-references",
			Hint:    "write it without them, or as an enum",
		})
		return
	}
	w.name("pattern")
	quote(w.b, p)
}

// bound writes a limit of a number. Before 3.1 an exclusive limit was a flag beside it.
func (c *converter) bound(w *members, n *source.Node, k source.Key) {
	switch k.Name {
	case "exclusiveMinimum", "exclusiveMaximum":
		if k.Value.Kind == source.Bool {
			return // said by its limit
		}
	case "minimum":
		if truth(n.Value("exclusiveMinimum")) {
			k.Name = "exclusiveMinimum"
		}
	case "maximum":
		if truth(n.Value("exclusiveMaximum")) {
			k.Name = "exclusiveMaximum"
		}
	}
	c.write(w, n, k, isNumber)
}

// value writes any value as JSON; with text, scalars become texts: YAML writers forget
// the quotes of a version or a number among texts.
func value(b *bytes.Buffer, n *source.Node, text bool) {
	switch n.Kind {
	case source.Null:
		b.WriteString("null")
	case source.Bool, source.Number:
		switch {
		case text:
			quote(b, n.Text)
		default:
			b.WriteString(strings.ToLower(n.Text))
		}
	case source.Text:
		quote(b, n.Text)
	case source.List:
		b.WriteByte('[')
		for i, e := range n.List {
			if i > 0 {
				b.WriteByte(',')
			}
			value(b, e, false)
		}
		b.WriteByte(']')
	case source.Map:
		b.WriteByte('{')
		w := &members{b: b}
		for _, k := range n.Keys {
			w.name(k.Name)
			value(b, k.Value, false)
		}
		b.WriteByte('}')
	}
}
