package openapi

import (
	"fmt"
	"strings"
	"tidegate/policy"
	"tidegate/policy/source"
)

// methods are the operations of a path item, in the order of the standard.
var methods = []string{"get", "put", "post", "delete", "options", "head", "patch", "trace"}

func (d *reader) operations(api *policy.API) {
	for _, p := range d.root.Value("paths").All() {
		if strings.HasPrefix(p.Name, "x-") {
			d.foreignExtension(p)
			continue
		}
		d.pathItem(api, p)
	}
}

func (d *reader) pathItem(api *policy.API, p source.Key) {
	object := d.object + ": " + p.Name
	template, err := policy.CleanTemplate(p.Name)
	if err != nil {
		d.r.Errorf(p.Pos, object, "%v", err)
		return
	}
	item := d.resolve(p.Value, object)
	if item == nil || item.Kind != source.Map {
		d.r.Errorf(p.Pos, object, "want a mapping of operations")
		return
	}
	for _, k := range item.Keys {
		switch {
		case isMethod(k.Name):
			d.operation(api, template, strings.ToUpper(k.Name), k, item)
		case k.Name == "summary", k.Name == "description", k.Name == "parameters", k.Name == "$ref", k.Name == "servers":
		case strings.HasPrefix(k.Name, "x-"):
			d.foreignExtension(k)
		default:
			f := source.Finding{Pos: k.Pos, Severity: source.Error, Object: object, Message: fmt.Sprintf("unknown key %q", k.Name)}
			if near := source.Nearest(k.Name, append([]string{"parameters", "servers"}, methods...)); near != "" {
				f.Hint = "did you mean " + near + "?"
			}
			d.r.Add(f)
		}
	}
}

func isMethod(s string) bool {
	for _, m := range methods {
		if s == m {
			return true
		}
	}
	return false
}

func (d *reader) operation(api *policy.API, template, method string, k source.Key, item *source.Node) {
	object := fmt.Sprintf("%s: %s %s", d.object, method, template)
	o := d.r.Object(k.Value, "operation", object)
	if o == nil {
		if k.Value.Absent() {
			d.r.Errorf(k.Pos, object, "empty")
		}
		return
	}
	op := policy.Operation{ID: o.Text("operationId"), Method: method, Template: d.matrix(template, o, item), Pos: k.Pos}
	d.plan(api, &op, o)
	d.operationSecurity(api, &op, o)
	d.operationEndpoints(&op, o, item)
	d.interceptors(o)
	op.Edit = d.transform(o)
	op.Access = d.access(o)
	op.MaxBody = d.size(o, "x-tidegate-max-body")
	d.websocket(&op, o)
	d.schemas(&op, o, item)
	d.operationExtensions(o)
	if c := o.Node.Lookup("callbacks"); c != nil && len(c.Value.Keys) > 0 {
		d.r.Dropf(c.Pos, object, "callbacks: calls that the API makes do not pass this gateway")
	}
	d.links(o)
	api.Operations = append(api.Operations, op)
}

// matrix returns a template in which the parameters of the style matrix are written as such.
func (d *reader) matrix(template string, o *source.Object, item *source.Node) string {
	styles := map[string]*source.Node{} // by name; what the operation says wins
	for _, list := range []*source.Node{item.Value("parameters"), o.Node.Value("parameters")} {
		if list == nil {
			continue
		}
		for _, e := range list.List {
			if p := d.quietly(e); textOf(p.Value("in")) == "path" {
				styles[textOf(p.Value("name"))] = p
			}
		}
	}
	for name, p := range styles {
		if textOf(p.Value("style")) != "matrix" {
			continue
		}
		marked, err := policy.CleanTemplate(strings.Replace(template, "{"+name+"}", "{;"+name+"}", 1))
		if err != nil {
			d.r.Errorf(p.Pos, o.Name, "%v", err)
			continue
		}
		template = marked
	}
	return template
}

// plan reads the resource plan of an operation.
func (d *reader) plan(api *policy.API, op *policy.Operation, o *source.Object) {
	op.Plan = o.Text("x-throttling-tier")
	key := "x-throttling-tier"
	if t := o.Text("x-wso2-throttling-tier"); op.Plan == "" {
		op.Plan, key = t, "x-wso2-throttling-tier"
	}
	if op.Plan == "" || strings.EqualFold(op.Plan, policy.Unlimited) {
		op.Plan = ""
		return
	}
	if api.Plan != "" {
		d.r.Add(source.Finding{
			Pos: o.Pos(key), Severity: source.Warning, Object: o.Name,
			Message: fmt.Sprintf("plan %q is ignored: the API has the plan %q", op.Plan, api.Plan),
			Hint:    "remove one of them",
		})
		op.Plan = ""
	}
}

// websocket reads what is allowed after an upgrade.
func (d *reader) websocket(op *policy.Operation, o *source.Object) {
	const key = "x-tidegate-websocket"
	v := o.Value(key)
	if v == nil {
		return
	}
	if op.Method != "GET" {
		o.Errorf(key, "only a GET can be upgraded")
		return
	}
	if v.Kind == source.Bool {
		op.Upgrade = o.Bool(false, key)
		return
	}
	w := o.Object(key)
	if w == nil {
		return
	}
	op.Upgrade = true
	m := policy.Messages{PerSecond: w.Int(0, 0, 1<<31, "messages_per_second"), Bytes: d.size(w, "message_bytes")}
	if m != (policy.Messages{}) {
		op.Messages = &m
	}
	w.Close()
}

func (d *reader) links(o *source.Object) {
	for _, res := range o.Value("responses").All() {
		target := d.quietly(res.Value)
		if l := target.Lookup("links"); l != nil && len(l.Value.Keys) > 0 {
			d.r.Dropf(l.Pos, o.Name, "links of the answer %s: descriptions for clients", res.Name)
		}
	}
}
