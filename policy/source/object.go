package source

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"tidegate/policy"
	"time"
)

// An Object reads a mapping key by key. What is wrong with a value goes to the report,
// and the reader returns the default: so one pass finds every mistake. It remembers
// which keys were asked for; [Object.Close] reports the others. A nil Object is an
// absent mapping: it answers every question with the default.
type Object struct {
	Node *Node
	Name string // for people: `issuer "plant"`

	path   string // for the list of known keys: "auth.yaml issuers[]"
	report *Report
	asked  map[string]bool
}

// Object returns a reader of n, which must be a mapping; path begins the names of its
// keys in [Report.Keys]. It is nil when n is absent or not a mapping.
func (r *Report) Object(n *Node, path, name string) *Object {
	if n.Absent() {
		return nil
	}
	if n.Kind != Map {
		r.Errorf(n.Pos, name, "want a mapping, got %s", n.Kind)
		return nil
	}
	return &Object{Node: n, Name: name, path: path, report: r, asked: map[string]bool{}}
}

// Keys returns every key that was asked for, as "path: key", ascending. It is the list
// of keys a reader knows, which its manual is compared with.
func (r *Report) Keys() []string { return slices.Sorted(maps.Keys(r.keys)) }

// Given returns those of [Report.Keys] that were there.
func (r *Report) Given() []string {
	return slices.DeleteFunc(r.Keys(), func(k string) bool { return !r.keys[k] })
}

// Pos returns the place of the key, or of the object when the key is not there.
func (o *Object) Pos(key string) policy.Pos {
	if o == nil {
		return policy.Pos{}
	}
	if k := o.Node.Lookup(key); k != nil {
		return k.Pos
	}
	return o.Node.Pos
}

// Errorf adds an error at a key.
func (o *Object) Errorf(key, format string, args ...any) {
	o.report.Errorf(o.Pos(key), o.Name, key+": "+format, args...)
}

// Warnf adds a warning at a key.
func (o *Object) Warnf(key, format string, args ...any) {
	o.report.Warnf(o.Pos(key), o.Name, key+": "+format, args...)
}

// Value returns the value of the first of the keys that is there, nil when it is absent or null.
func (o *Object) Value(keys ...string) *Node {
	if o == nil {
		return nil
	}
	var found *Node
	for _, k := range keys {
		o.asked[k] = true
		v := o.Node.Value(k)
		o.report.know(o.path+": "+k, !v.Absent())
		if found == nil && !v.Absent() {
			found = v
		}
	}
	return found
}

// know notes a key that is asked for, and whether it is there.
func (r *Report) know(key string, given bool) {
	if r.keys == nil {
		r.keys = map[string]bool{}
	}
	r.keys[key] = r.keys[key] || given
}

// Has reports whether one of the keys is there and not null.
func (o *Object) Has(keys ...string) bool { return o.Value(keys...) != nil }

// Text returns a scalar as written; "" when it is absent.
func (o *Object) Text(keys ...string) string {
	v := o.Value(keys...)
	if v == nil {
		return ""
	}
	if !v.IsScalar() {
		o.report.Errorf(v.Pos, o.Name, "%s: want a text, got %s", keys[0], v.Kind)
		return ""
	}
	return v.Text
}

// Need is Text for a key that must be there and not empty.
func (o *Object) Need(key string) string {
	v := o.Value(key)
	if v == nil || v.IsScalar() && v.Text == "" {
		if o != nil {
			o.report.Errorf(o.Pos(key), o.Name, "%s is missing", key)
		}
		return ""
	}
	return o.Text(key)
}

// Bool returns true or false.
func (o *Object) Bool(def bool, keys ...string) bool {
	v := o.Value(keys...)
	if v == nil {
		return def
	}
	if v.Kind != Bool {
		o.report.Errorf(v.Pos, o.Name, "%s: want true or false, got %s", keys[0], describe(v))
		return def
	}
	return strings.EqualFold(v.Text, "true")
}

// Int returns a whole number from low to high.
func (o *Object) Int(def, low, high int64, keys ...string) int64 {
	v := o.Value(keys...)
	if v == nil {
		return def
	}
	n, err := strconv.ParseInt(v.Text, 10, 64)
	if err != nil || v.Kind != Number && v.Kind != Text {
		o.report.Errorf(v.Pos, o.Name, "%s: want a whole number, got %s", keys[0], describe(v))
		return def
	}
	if n < low || n > high {
		o.report.Errorf(v.Pos, o.Name, "%s: %d is not from %d to %d", keys[0], n, low, high)
		return def
	}
	return n
}

// Float returns a number from low to high.
func (o *Object) Float(def, low, high float64, keys ...string) float64 {
	v := o.Value(keys...)
	if v == nil {
		return def
	}
	f, err := strconv.ParseFloat(v.Text, 64)
	if err != nil || v.Kind != Number || math.IsNaN(f) || math.IsInf(f, 0) {
		o.report.Errorf(v.Pos, o.Name, "%s: want a number, got %s", keys[0], describe(v))
		return def
	}
	if f < low || f > high {
		o.report.Errorf(v.Pos, o.Name, "%s: %v is not from %v to %v", keys[0], f, low, high)
		return def
	}
	return f
}

// Duration returns a span such as 500ms, 30s, 5m, 12h or 90d, from low to high.
func (o *Object) Duration(def, low, high time.Duration, keys ...string) time.Duration {
	v := o.Value(keys...)
	if v == nil {
		return def
	}
	d, err := ParseDuration(v.Text)
	if err != nil || !v.IsScalar() {
		o.report.Add(Finding{
			Pos: v.Pos, Severity: Error, Object: o.Name,
			Message: fmt.Sprintf("%s: want a duration, got %s", keys[0], describe(v)), Hint: "write it with its unit: 500ms, 30s, 5m, 12h, 90d",
		})
		return def
	}
	if d < low || d > high {
		o.report.Errorf(v.Pos, o.Name, "%s: %s is not from %s to %s", keys[0], v.Text, low, high)
		return def
	}
	return d
}

// ParseDuration reads what time.ParseDuration reads, and whole days: "90d".
func ParseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q is not a number of days", s)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	return time.ParseDuration(s)
}

// Time returns a time of RFC 3339, or a date, which is its midnight in UTC; the zero time when absent.
func (o *Object) Time(key string) time.Time {
	v := o.Value(key)
	if v == nil {
		return time.Time{}
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, v.Text); err == nil && v.IsScalar() {
			if t.Unix() <= 0 {
				break
			}
			return t.UTC()
		}
	}
	o.report.Errorf(v.Pos, o.Name, "%s: want a time like 2027-01-31T00:00:00Z, got %s", key, describe(v))
	return time.Time{}
}

// Texts returns a list of texts; a single text is a list of one.
func (o *Object) Texts(keys ...string) []string {
	var out []string
	for _, n := range o.Scalars(keys...) {
		out = append(out, n.Text)
	}
	return out
}

// Scalars is Texts with the place of each.
func (o *Object) Scalars(keys ...string) []*Node {
	v := o.Value(keys...)
	if v == nil {
		return nil
	}
	if v.IsScalar() {
		return []*Node{v}
	}
	if v.Kind != List {
		o.report.Errorf(v.Pos, o.Name, "%s: want a list of texts, got %s", keys[0], v.Kind)
		return nil
	}
	out := make([]*Node, 0, len(v.List))
	for _, e := range v.List {
		if !e.IsScalar() {
			o.report.Errorf(e.Pos, o.Name, "%s: want a text, got %s", keys[0], e.Kind)
			continue
		}
		out = append(out, e)
	}
	return out
}

// Word returns one of words; "" and no error when it is absent.
func (o *Object) Word(key string, words ...string) string {
	v := o.Value(key)
	if v == nil {
		return ""
	}
	if v.IsScalar() && slices.Contains(words, v.Text) {
		return v.Text
	}
	f := Finding{
		Pos: v.Pos, Severity: Error, Object: o.Name,
		Message: fmt.Sprintf("%s: %s is not one of %s", key, describe(v), strings.Join(words, ", ")),
	}
	if near := Nearest(v.Text, words); near != "" {
		f.Hint = "did you mean " + near + "?"
	}
	o.report.Add(f)
	return ""
}

// Object returns the mapping at a key, nil when it is absent.
func (o *Object) Object(keys ...string) *Object {
	v := o.Value(keys...)
	if v == nil {
		return nil
	}
	return o.report.Object(v, o.path+" "+keys[0], strings.TrimPrefix(o.Name+": "+keys[0], ": "))
}

// Objects returns the mappings of a list.
func (o *Object) Objects(key string) []*Object {
	v := o.Value(key)
	if v == nil {
		return nil
	}
	if v.Kind != List {
		o.report.Errorf(v.Pos, o.Name, "%s: want a list, got %s", key, v.Kind)
		return nil
	}
	out := make([]*Object, 0, len(v.List))
	for i, e := range v.List {
		name := strings.TrimPrefix(fmt.Sprintf("%s: %s[%d]", o.Name, key, i), ": ")
		if c := o.report.Object(e, o.path+" "+key+"[]", name); c != nil {
			out = append(out, c)
		} else if e.Absent() {
			o.report.Errorf(e.Pos, name, "empty")
		}
	}
	return out
}

// A NamedObject is an entry of a mapping from names to mappings.
type NamedObject struct {
	Name string
	Pos  policy.Pos
	*Object
}

// Named returns the entries of a mapping of names, or, as WSO2 writes it, of a list of
// mappings with one name each. Each value must be a mapping.
func (o *Object) Named(key string) []NamedObject {
	v := o.Value(key)
	if v == nil {
		return nil
	}
	maps := []*Node{v}
	if v.Kind == List {
		maps = v.List
	}
	var out []NamedObject
	for _, m := range maps {
		if m.Kind != Map {
			o.report.Errorf(m.Pos, o.Name, "%s: want names with a mapping each, got %s", key, m.Kind)
			continue
		}
		for _, k := range m.Keys {
			name := fmt.Sprintf("%s %q", key, k.Name)
			c := o.report.Object(k.Value, o.path+" "+key+".*", name)
			if c != nil {
				out = append(out, NamedObject{k.Name, k.Pos, c})
			} else if k.Value.Absent() {
				o.report.Errorf(k.Pos, name, "empty")
			}
		}
	}
	return out
}

// Close reports the keys that nobody asked for as errors, each with the nearest key that exists.
func (o *Object) Close() { o.close(Error) }

// CloseLoosely reports them as warnings: for extensions that other products define.
func (o *Object) CloseLoosely() { o.close(Warning) }

func (o *Object) close(s Severity) {
	if o == nil {
		return
	}
	known := slices.Sorted(maps.Keys(o.asked))
	for _, k := range o.Node.Keys {
		if o.asked[k.Name] {
			continue
		}
		f := Finding{Pos: k.Pos, Severity: s, Object: o.Name, Message: fmt.Sprintf("unknown key %q", k.Name)}
		if near := Nearest(k.Name, known); near != "" {
			f.Hint = fmt.Sprintf("did you mean %q?", near)
		} else if len(known) <= 12 {
			f.Hint = "known keys: " + strings.Join(known, ", ")
		}
		o.report.Add(f)
	}
}

// describe tells a value in a message, shortened.
func describe(n *Node) string {
	if !n.IsScalar() {
		return n.Kind.String()
	}
	if len(n.Text) > 40 {
		return strconv.Quote(strings.ToValidUTF8(n.Text[:40], "")) + "…"
	}
	return strconv.Quote(n.Text)
}
