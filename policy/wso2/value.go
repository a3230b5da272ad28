package wso2

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"tidegate/policy/refusal"
	"tidegate/policy/source"
)

// An Object is one JSON object of a reply, or one mapping of an archive's file. Fields
// that are absent or null are zero; unknown fields are ignored.
type Object struct {
	from string // the call or file, for messages
	path string // JSON path in it
	node *source.Node
}

// Text returns a scalar field as written, "" when it is absent.
func (o Object) Text(names ...string) string {
	for _, n := range names {
		if v := o.node.Value(n); v.IsScalar() {
			return v.Text
		}
	}
	return ""
}

// Has reports whether the field is there and not null.
func (o Object) Has(name string) bool { return !o.node.Value(name).Absent() }

// A List is one page of a list.
type List struct {
	Items []Object
	Total int  // of pagination; -1 when it is not said
	More  bool // next is not empty
}

// ParseObject reads a reply that is one JSON object. A reply of another shape is E_FORMAT.
func ParseObject(call string, body []byte) (Object, error) {
	n, err := parse(call, call+".json", body)
	if err != nil {
		return Object{}, err
	}
	if n.Kind != source.Map {
		return Object{}, fault(call, "$", "want an object, got %s", n.Kind)
	}
	return Object{from: call, path: "$", node: n}, nil
}

// ParseList reads a reply {list, pagination, next}. A reply of another shape is E_FORMAT.
func ParseList(call string, body []byte) (*List, error) {
	o, err := ParseObject(call, body)
	if err != nil {
		return nil, err
	}
	r := &reader{from: call}
	v := r.of(o)
	l := &List{Total: -1, More: v.text("next") != ""}
	if p := v.get("pagination"); p.there() && p.get("total").there() {
		l.Total = p.number("total")
	}
	if !v.get("list").there() && !v.get("count").there() {
		r.fault("$.list", "missing")
	}
	for _, e := range v.list("list") {
		if e.n.Kind != source.Map {
			r.fault(e.path, "want an object, got %s", e.n.Kind)
			continue
		}
		l.Items = append(l.Items, Object{from: call, path: e.path, node: e.n})
	}
	return l, r.err()
}

// parse reads JSON or YAML, by the ending of name.
func parse(call, name string, body []byte) (*source.Node, error) {
	if len(body) == 0 {
		return nil, fault(call, "$", "empty")
	}
	if strings.HasSuffix(name, ".json") && body[0] == '<' {
		return nil, fault(call, "$", "not JSON but a page that begins with %q", clip(string(body)))
	}
	var r source.Report
	n := source.Parse(name, body, &r)
	if n == nil || r.Failed() {
		f := r.Findings()[0]
		return nil, fault(call, fmt.Sprintf("line %d", max(1, f.Pos.Line)), "%s", f.Message)
	}
	return n, nil
}

func clip(s string) string {
	if len(s) > 40 {
		s = strings.ToValidUTF8(s[:40], "")
	}
	return s
}

// fault is a reply or a file of the wrong shape.
func fault(from, path, format string, args ...any) error {
	return refusal.New(refusal.Format, "%s: %s: %s", from, path, fmt.Sprintf(format, args...))
}

// A reader collects what is wrong with the shape of one document.
type reader struct {
	from   string
	faults []error
}

func (r *reader) of(o Object) value { return value{r, o.node, o.path} }

func (r *reader) fault(path, format string, args ...any) {
	if len(r.faults) < 20 { // the first few say what kind of reply it is
		r.faults = append(r.faults, fault(r.from, path, format, args...))
	}
}

func (r *reader) err() error { return errors.Join(r.faults...) }

// A value is a place in a document, with its path.
type value struct {
	r    *reader
	n    *source.Node
	path string
}

// get returns the first of the fields that is there and not null.
func (v value) get(names ...string) value {
	for _, name := range names {
		if c := v.n.Value(name); !c.Absent() {
			return value{v.r, c, v.path + "." + name}
		}
	}
	return value{v.r, nil, v.path + "." + names[0]}
}

func (v value) there() bool { return !v.n.Absent() }

func (v value) text(names ...string) string {
	c := v.get(names...)
	switch {
	case !c.there():
		return ""
	case !c.n.IsScalar():
		v.r.fault(c.path, "want a text, got %s", c.n.Kind)
		return ""
	}
	return c.n.Text
}

// yes reads true, false, and the texts of them.
func (v value) yes(names ...string) bool {
	c := v.get(names...)
	if !c.there() {
		return false
	}
	switch strings.ToLower(c.n.Text) {
	case "true", "enabled":
		return true
	case "false", "disabled", "":
		if c.n.IsScalar() {
			return false
		}
	}
	v.r.fault(c.path, "want true or false, got %s", show(c.n))
	return false
}

// number reads a whole number from -1 to 2^53, 0 when it is absent. A text of digits will do.
func (v value) number(names ...string) int {
	c := v.get(names...)
	if !c.there() || c.n.IsScalar() && c.n.Text == "" {
		return 0
	}
	n, err := strconv.ParseInt(c.n.Text, 10, 64)
	if err != nil || n < -1 || n > 1<<53 {
		v.r.fault(c.path, "want a whole number, got %s", show(c.n))
		return 0
	}
	return int(n)
}

// list reads a list; an element of its own is a list of one.
func (v value) list(names ...string) []value {
	c := v.get(names...)
	if !c.there() {
		return nil
	}
	if c.n.Kind != source.List {
		v.r.fault(c.path, "want a list, got %s", c.n.Kind)
		return nil
	}
	out := make([]value, 0, len(c.n.List))
	for i, e := range c.n.List {
		if !e.Absent() {
			out = append(out, value{v.r, e, c.path + "[" + strconv.Itoa(i) + "]"})
		}
	}
	return out
}

// texts reads a list of texts, or one text with commas.
func (v value) texts(names ...string) []string {
	c := v.get(names...)
	if c.there() && c.n.IsScalar() {
		var out []string
		for s := range strings.SplitSeq(c.n.Text, ",") {
			if s = strings.TrimSpace(s); s != "" {
				out = append(out, s)
			}
		}
		return out
	}
	var out []string
	for _, e := range v.list(names...) {
		if !e.n.IsScalar() {
			v.r.fault(e.path, "want a text, got %s", e.n.Kind)
			continue
		}
		out = append(out, e.n.Text)
	}
	return out
}

// object reads a mapping, or, as API Manager nests them, a text that holds one in JSON.
func (v value) object(names ...string) value {
	c := v.get(names...)
	switch {
	case !c.there() || c.n.Kind == source.Map:
		return c
	case c.n.Kind == source.Text && strings.TrimSpace(c.n.Text) == "":
		return value{v.r, nil, c.path}
	case c.n.Kind == source.Text:
		var inner source.Report
		n := source.Parse("inner.json", []byte(c.n.Text), &inner)
		if n == nil || inner.Failed() {
			f := inner.Findings()[0]
			v.r.fault(c.path, "the JSON in this text: line %d: %s", max(1, f.Pos.Line), f.Message)
			return value{v.r, nil, c.path}
		}
		if n.Kind == source.Map {
			return value{v.r, n, c.path}
		}
		v.r.fault(c.path, "the JSON in this text: want an object, got %s", n.Kind)
		return value{v.r, nil, c.path}
	}
	v.r.fault(c.path, "want an object, got %s", c.n.Kind)
	return value{v.r, nil, c.path}
}

func show(n *source.Node) string {
	if n.IsScalar() {
		return strconv.Quote(clip(n.Text))
	}
	return n.Kind.String()
}
