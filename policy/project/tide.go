package project

import (
	"bytes"
	"encoding/base32"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"tidegate/policy"
	"tidegate/policy/openapi"
	"tidegate/policy/source"
	"time"
)

// droppable are the losses that a project may accept.
var droppable = []string{"interceptors", "plans"}

var manifestName = regexp.MustCompile(`^[a-z0-9._-]{1,64}$`)

// tide reads tide.yaml.
func (l *loader) tide(o *source.Object) {
	if o == nil {
		return
	}
	m := &l.project.Tide
	m.Product = l.manifestName(o, "product", "")
	m.Channel = l.manifestName(o, "channel", "stable")
	m.Name = l.manifestName(o, "name", m.Product)
	l.set.Name = m.Name
	m.Version = o.Text("version")
	if len(m.Version) > 64 {
		o.Errorf("version", "longer than 64 bytes")
	}
	m.Hardware = l.hardware(o)
	m.Devices = l.devices(o)
	m.Expires = o.Time("expires")
	m.ValidFor = o.Duration(0, time.Hour, 10*366*24*time.Hour, "valid_for")
	if m.ValidFor != 0 && !m.Expires.IsZero() {
		o.Errorf("valid_for", "expires is given too: want one of them")
	}
	m.Needs = needs(o)
	for _, p := range o.Objects("probes") {
		m.Probes = append(m.Probes, probe(p))
	}
	if t := o.Object("trial"); t != nil {
		m.Trial.Manual = t.Word("mode", "automatic", "manual") == "manual"
		m.Trial.Window = t.Duration(0, 10*time.Second, 24*time.Hour, "window").Truncate(time.Second)
		m.Trial.Attempts = int(t.Int(0, 1, 9, "attempts"))
		t.Close()
	}
	if o.Word("fault_format", "wso2", "problem") == "problem" {
		l.set.Faults = policy.FaultsProblem
	}
	l.acceptDropped(o)
	if l.backend = o.Text("backend"); l.backend != "" {
		if err := policy.CheckTarget(l.backend); err != nil {
			o.Errorf("backend", "%v", err)
		}
	}
	l.validation(o)
	o.Close()
}

func (l *loader) manifestName(o *source.Object, key, def string) string {
	s := o.Text(key)
	if s == "" {
		if def == "" {
			l.report.Errorf(o.Pos(key), "", "%s is missing", key)
		}
		return def
	}
	if !manifestName.MatchString(s) {
		l.report.Add(Finding{
			Pos: o.Pos(key), Severity: Error, Message: fmt.Sprintf("%s %q is not a name", key, s),
			Hint: "1 to 64 of a-z, 0-9, dot, underscore and hyphen",
		})
	}
	return s
}

func (l *loader) hardware(o *source.Object) []string {
	classes := o.Texts("hardware")
	for _, c := range classes {
		if !manifestName.MatchString(c) {
			o.Errorf("hardware", "%q is not a name of a hardware class like linux-arm64", c)
		}
	}
	slices.Sort(classes)
	classes = slices.Compact(classes)
	if len(classes) == 0 {
		return []string{"any"}
	}
	if len(classes) > 1 && slices.Contains(classes, "any") {
		o.Errorf("hardware", "any beside others: want any alone")
	}
	return classes
}

// devices reads labels and devices; without both the bundle is for every device.
func (l *loader) devices(o *source.Object) []Selector {
	var out []Selector
	if v := o.Value("labels"); v != nil && v.Kind == source.List {
		for _, e := range v.List {
			names := []*source.Node{e}
			if e.Kind == source.List {
				names = e.List
			}
			var s Selector
			for _, n := range names {
				if !n.IsScalar() || !manifestName.MatchString(n.Text) {
					l.report.Errorf(n.Pos, "", "labels: want a name of a-z, 0-9, dot, underscore and hyphen, or a list of names")
					continue
				}
				s.Labels = append(s.Labels, n.Text)
			}
			slices.Sort(s.Labels)
			if s.Labels = slices.Compact(s.Labels); len(s.Labels) > 0 {
				out = append(out, s)
			}
		}
	} else if v != nil {
		o.Errorf("labels", "want a list, got %s", v.Kind)
	}
	for _, n := range o.Scalars("devices") {
		id, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(n.Text))
		if err != nil || len(id) != 16 {
			l.report.Errorf(n.Pos, "", "devices: %q is not a device id: want 26 letters and digits, as tidegate status shows it", n.Text)
			continue
		}
		out = append(out, Selector{Device: (*[16]byte)(id)})
	}
	if len(out) == 0 {
		return []Selector{{}}
	}
	slices.SortFunc(out, compareSelectors)
	return slices.CompactFunc(out, func(a, b Selector) bool { return compareSelectors(a, b) == 0 })
}

// compareSelectors orders as the encoded form of a manifest does: arrays by length and
// kind, device ids by their bytes, names by length, then by their bytes.
func compareSelectors(a, b Selector) int {
	if n := a.members() - b.members(); n != 0 {
		return n
	}
	if (a.Device == nil) != (b.Device == nil) {
		if a.Device != nil {
			return -1
		}
		return 1
	}
	if a.Device != nil {
		return bytes.Compare(a.Device[:], b.Device[:])
	}
	return slices.CompareFunc(a.Labels, b.Labels, func(x, y string) int {
		if len(x) != len(y) {
			return len(x) - len(y)
		}
		return strings.Compare(x, y)
	})
}

// members is the length of the encoded array: the kind and what follows it.
func (s Selector) members() int {
	if s.Device != nil {
		return 2
	}
	return 1 + len(s.Labels)
}

func needs(o *source.Object) (v [3]uint) {
	text := o.Text("needs")
	if text == "" {
		return v
	}
	parts := strings.Split(text, ".")
	if len(parts) > 3 {
		o.Errorf("needs", "%q is not a version like 1.2.0", text)
		return v
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			o.Errorf("needs", "%q is not a version like 1.2.0", text)
			return [3]uint{}
		}
		v[i] = uint(n)
	}
	return v
}

func probe(o *source.Object) Probe {
	p := Probe{
		Method:  strings.ToUpper(o.Text("method")),
		Target:  o.Need("target"),
		Timeout: o.Duration(2*time.Second, 10*time.Millisecond, time.Minute, "timeout"),
	}
	if p.Method == "" {
		p.Method = "GET"
	}
	if !slices.Contains([]string{"GET", "HEAD", "OPTIONS"}, p.Method) {
		o.Errorf("method", "%s: a probe runs every ten seconds, so it may only look: GET, HEAD or OPTIONS", p.Method)
	}
	if p.Target != "" && p.Target[0] != '/' {
		o.Errorf("target", "%q does not begin with a slash", p.Target)
	}
	for _, n := range o.Scalars("status") {
		s, err := strconv.Atoi(n.Text)
		if err != nil || s < 100 || s > 599 {
			o.Errorf("status", "%q is not a status", n.Text)
			continue
		}
		p.Status = append(p.Status, s)
	}
	if len(p.Status) == 0 {
		p.Status = []int{200}
	}
	slices.Sort(p.Status)
	p.Status = slices.Compact(p.Status)
	o.Close()
	return p
}

func (l *loader) acceptDropped(o *source.Object) {
	for _, n := range o.Scalars("accept_dropped") {
		if slices.Contains(droppable, n.Text) {
			l.project.Tide.AcceptDropped = append(l.project.Tide.AcceptDropped, n.Text)
			continue
		}
		f := Finding{Pos: n.Pos, Severity: Error, Message: fmt.Sprintf("accept_dropped: %q is not one of %s", n.Text, strings.Join(droppable, ", "))}
		if near := source.Nearest(n.Text, droppable); near != "" {
			f.Hint = "did you mean " + near + "?"
		}
		l.report.Add(f)
	}
	slices.Sort(l.project.Tide.AcceptDropped)
	l.project.Tide.AcceptDropped = slices.Compact(l.project.Tide.AcceptDropped)
}

func (l *loader) validation(o *source.Object) {
	v := o.Value("validate")
	switch {
	case v == nil:
	case v.Kind == source.Bool:
		on := o.Bool(false, "validate")
		l.validate = openapi.Validation{Request: on, Response: on}
	default:
		if x := o.Object("validate"); x != nil {
			l.validate = openapi.ReadValidation(x)
		}
	}
}
