package openapi

import (
	"slices"
	"strconv"
	"strings"
	"tidegate/policy"
	"tidegate/policy/source"
)

// transform reads x-tidegate-transform.
func (d *reader) transform(o *source.Object) *policy.Transform {
	x := o.Object("x-tidegate-transform")
	if x == nil {
		return nil
	}
	t := new(policy.Transform)
	if q := x.Object("request"); q != nil {
		t.RequestHeaders = d.edits(q.Object("headers"))
		t.Query = d.edits(q.Object("query"))
		t.Path = q.Text("path")
		t.Method = strings.ToUpper(q.Text("method"))
		t.Host = q.Text("host")
		t.RequestBody = q.Text("body")
		t.DropRequest = q.Texts("drop")
		q.Close()
	}
	if s := x.Object("response"); s != nil {
		t.ResponseHeaders = d.edits(s.Object("headers"))
		t.Statuses = d.statusMap(s)
		t.ResponseBody = s.Text("body")
		t.DropFields = s.Texts("drop")
		s.Close()
	}
	if a := x.Object("answer"); a != nil {
		t.Fixed = &policy.Fixed{Status: uint16(a.Int(200, 200, 599, "status")), Body: []byte(a.Text("body"))}
		for _, k := range a.Value("headers").All() {
			if !k.Value.IsScalar() {
				d.r.Errorf(k.Pos, a.Name, "headers: %s: want a text", k.Name)
				continue
			}
			t.Fixed.Headers = append(t.Fixed.Headers, policy.Edit{Kind: policy.EditSet, Name: k.Name, Value: k.Value.Text})
		}
		a.Close()
	}
	x.Close()
	return t
}

// edits reads {set: {A: v}, add: {B: v}, remove: [C]} in that order: remove first, so that
// a header can be removed and set anew.
func (d *reader) edits(o *source.Object) []policy.Edit {
	if o == nil {
		return nil
	}
	var out []policy.Edit
	for _, name := range o.Texts("remove") {
		out = append(out, policy.Edit{Kind: policy.EditRemove, Name: name})
	}
	for _, e := range []struct {
		key  string
		kind policy.EditKind
	}{{"set", policy.EditSet}, {"add", policy.EditAdd}} {
		v := o.Value(e.key)
		if v != nil && v.Kind != source.Map {
			o.Errorf(e.key, "want names with a text each, got %s", v.Kind)
		}
		for _, k := range v.All() {
			if !k.Value.IsScalar() {
				d.r.Errorf(k.Pos, o.Name, "%s: %s: want a text, got %s", e.key, k.Name, k.Value.Kind)
				continue
			}
			out = append(out, policy.Edit{Kind: e.kind, Name: k.Name, Value: k.Value.Text})
		}
	}
	o.Close()
	return out
}

// statusMap reads {404: 204}.
func (d *reader) statusMap(o *source.Object) []policy.Status {
	v := o.Value("status")
	if v != nil && v.Kind != source.Map {
		o.Errorf("status", "want a mapping from status to status, got %s", v.Kind)
	}
	var out []policy.Status
	for _, k := range v.All() {
		from, err1 := strconv.ParseUint(k.Name, 10, 16)
		to, err2 := strconv.ParseUint(k.Value.Text, 10, 16)
		if err1 != nil || err2 != nil || from < 100 || from > 599 || to < 200 || to > 599 {
			d.r.Errorf(k.Pos, o.Name, "status: %s: %s is not a status for a status", k.Name, k.Value.Text)
			continue
		}
		out = append(out, policy.Status{From: uint16(from), To: uint16(to)})
	}
	slices.SortFunc(out, func(a, b policy.Status) int { return int(a.From) - int(b.From) })
	return out
}
