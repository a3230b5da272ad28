package route

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"tidegate/policy"
)

// api is the compiled form of one API: a tree of template segments.
type api struct {
	name       string // for messages
	transports policy.Transports
	root       node
}

// node is a place in the tree of one API.
type node struct {
	edges    []edge           // by static segment, while they are few
	static   map[string]*node // by static segment, when there are many
	patterns []*pattern       // most literal bytes first, then order of the document
	param    *node
	matrix   *node // a segment of a matrix part only
	star     *node // has a leaf only
	leaf
}

// edge leads to the node of a decoded segment.
type edge struct {
	segment string
	to      *node
}

// manyEdges is from where a map finds a segment sooner than a look at each.
const manyEdges = 9

// leaf is what a path that ends at a node offers.
type leaf struct{ ops []op }

// methods returns the methods of l, ascending.
func (l *leaf) methods() []string {
	m := make([]string, len(l.ops))
	for i := range l.ops {
		m[i] = l.ops[i].method
	}
	slices.Sort(m)
	return m
}

type op struct {
	method string
	index  int
	names  []string // of the parameters, in the order of the path
}

// pattern is a segment with literal parts and parameters: "{a}.json", "report.{format}".
// Between two literals lies a parameter of at least one byte; the first and the last may be empty.
type pattern struct {
	lits   []string
	weight int // bytes of lits
	next   *node
}

// base is a node of the tree of base paths.
type base struct {
	next  map[string]*base
	any   *target
	hosts map[string]*target
}

type target struct {
	api  int
	path string
}

// New compiles the APIs of a set. All faults are reported together: templates that cannot
// be read, two operations that answer the same calls, two APIs on one base path. The
// set must not change while the table is in use.
func New(set *policy.Set) (*Table, error) {
	t := &Table{set: set, root: new(base), apis: make([]*api, 0, len(set.APIs))}
	var errs []error
	for i := range set.APIs {
		a, err := compile(&set.APIs[i])
		if err != nil {
			errs = append(errs, err)
		}
		t.apis = append(t.apis, a)
		if err := t.mount(i, set.APIs[i].BasePath); err != nil {
			errs = append(errs, err)
		}
		if d := set.APIs[i].DefaultPath; set.APIs[i].Default && clean(d) != clean(set.APIs[i].BasePath) {
			if err := t.mount(i, d); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return t, nil
}

func clean(path string) string { return strings.TrimSuffix(path, "/") }

// mount makes an API answer below a base path.
func (t *Table) mount(index int, path string) error {
	a := &t.set.APIs[index]
	path = clean(path)
	if path != "" && path[0] != '/' {
		return fmt.Errorf("api %q: base path %q does not begin with a slash", title(a), path)
	}
	at := t.root
	for rest := path; rest != ""; {
		seg, more := rest[1:], ""
		if i := strings.IndexByte(seg, '/'); i >= 0 {
			seg, more = seg[:i], seg[i:]
		}
		lit, err := literal(seg)
		if err != nil {
			return fmt.Errorf("api %q: base path %q: %w", title(a), path, err)
		}
		if strings.ContainsAny(lit, "{}") {
			return fmt.Errorf("api %q: base path %q: a base path has no parameters", title(a), path)
		}
		next := at.next[lit]
		if next == nil {
			next = new(base)
			if at.next == nil {
				at.next = make(map[string]*base)
			}
			at.next[lit] = next
		}
		at, rest = next, more
	}
	here := &target{index, path}
	if len(a.Hosts) == 0 {
		if at.any != nil {
			return t.twice(at.any, here, "")
		}
		at.any = here
		return nil
	}
	for _, h := range a.Hosts {
		if have := at.hosts[h]; have != nil && have.api != index {
			return t.twice(have, here, h)
		}
		if at.hosts == nil {
			at.hosts = make(map[string]*target)
		}
		at.hosts[h] = here
	}
	return nil
}

func (t *Table) twice(have, here *target, host string) error {
	where := fmt.Sprintf("base path %q", here.path)
	if host != "" {
		where += fmt.Sprintf(" of host %q", host)
	}
	return fmt.Errorf("api %q and api %q both answer on %s", title(&t.set.APIs[have.api]), title(&t.set.APIs[here.api]), where)
}

func title(a *policy.API) string { return a.Name + ":" + a.Version }

// compile builds the tree of one API.
func compile(a *policy.API) (*api, error) {
	c := &api{name: title(a), transports: a.Transports}
	var errs []error
	for i := range a.Operations {
		if err := c.add(a, i); err != nil {
			errs = append(errs, fmt.Errorf("api %q: %s %s: %w", c.name, a.Operations[i].Method, a.Operations[i].Template, err))
		}
	}
	c.root.finish()
	return c, errors.Join(errs...)
}

// add puts one operation into the tree.
func (c *api) add(a *policy.API, index int) error {
	o := &a.Operations[index]
	tpl := strings.TrimSuffix(o.Template, "/")
	if tpl != "" && tpl[0] != '/' {
		return errors.New("the template does not begin with a slash")
	}
	at := &c.root
	var names []string
	for rest := tpl; rest != ""; {
		seg := rest[1:]
		if i := strings.IndexByte(seg, '/'); i >= 0 {
			seg, rest = seg[:i], seg[i:]
		} else {
			rest = ""
		}
		if seg == "*" {
			if rest != "" {
				return errors.New(`"*" is allowed at the end of a template only`)
			}
			if at.star == nil {
				at.star = new(node)
			}
			at, names = at.star, append(names, "*")
			break
		}
		if name, ok := strings.CutPrefix(seg, "{;"); ok {
			name = strings.TrimSuffix(name, "}")
			if name == "" || strings.ContainsAny(name, "{};*") || len(name)+3 != len(seg) {
				return fmt.Errorf("segment %q: a matrix part is written {;name}", seg)
			}
			if at.matrix == nil {
				at.matrix = new(node)
			}
			at, names = at.matrix, append(names, name)
			continue
		}
		lits, params, err := split(seg)
		if err != nil {
			return err
		}
		at, names = at.child(lits), append(names, params...)
	}
	if len(names) > MaxParams {
		return fmt.Errorf("%d parameters, at most %d are possible", len(names), MaxParams)
	}
	for i, n := range names {
		if slices.Contains(names[:i], n) {
			return fmt.Errorf("parameter %q appears twice", n)
		}
	}
	for _, have := range at.ops {
		if have.method == o.Method {
			return fmt.Errorf("answers the same calls as %s %s", o.Method, a.Operations[have.index].Template)
		}
	}
	at.ops = append(at.ops, op{o.Method, index, names})
	return nil
}

// child returns the node below n for a segment, made if need be.
func (n *node) child(lits []string) *node {
	switch {
	case len(lits) == 1:
		next := n.to(lits[0])
		if next == nil {
			next = new(node)
			n.join(lits[0], next)
		}
		return next
	case len(lits) == 2 && lits[0] == "" && lits[1] == "":
		if n.param == nil {
			n.param = new(node)
		}
		return n.param
	}
	for _, p := range n.patterns {
		if slices.Equal(p.lits, lits) {
			return p.next
		}
	}
	p := &pattern{lits: lits, next: new(node)}
	for _, l := range lits {
		p.weight += len(l)
	}
	n.patterns = append(n.patterns, p)
	return p.next
}

// to returns the node of a static segment, or nil.
func (n *node) to(segment string) *node {
	if n.static != nil {
		return n.static[segment]
	}
	for i := range n.edges {
		if n.edges[i].segment == segment {
			return n.edges[i].to
		}
	}
	return nil
}

// join adds the node of a static segment.
func (n *node) join(segment string, next *node) {
	if n.static == nil && len(n.edges) < manyEdges-1 {
		n.edges = append(n.edges, edge{segment, next})
		return
	}
	if n.static == nil {
		n.static = make(map[string]*node)
		for _, e := range n.edges {
			n.static[e.segment] = e.to
		}
		n.edges = nil
	}
	n.static[segment] = next
}

// finish orders the patterns of n and of all below it.
func (n *node) finish() {
	slices.SortStableFunc(n.patterns, func(a, b *pattern) int { return b.weight - a.weight })
	for _, e := range n.edges {
		e.to.finish()
	}
	for _, c := range n.static {
		c.finish()
	}
	for _, p := range n.patterns {
		p.next.finish()
	}
	if n.param != nil {
		n.param.finish()
	}
	if n.matrix != nil {
		n.matrix.finish()
	}
	if n.star != nil {
		n.star.finish()
	}
}

// split reads one segment of a template: the literals around its parameters, decoded, and
// the names of these.
func split(seg string) (lits, params []string, err error) {
	if !strings.ContainsAny(seg, "{}") {
		lit, err := literal(seg)
		return []string{lit}, nil, err
	}
	for rest := seg; ; {
		text, more, param := strings.Cut(rest, "{")
		if strings.IndexByte(text, '}') >= 0 {
			return nil, nil, fmt.Errorf("segment %q: a parameter is written {name}", seg)
		}
		lit, err := unescape(text)
		if err != nil {
			return nil, nil, err
		}
		lits = append(lits, lit)
		if !param {
			return lits, params, nil
		}
		if lit == "" && len(params) > 0 {
			return nil, nil, fmt.Errorf("segment %q: two parameters with nothing between them", seg)
		}
		name, more, ok := strings.Cut(more, "}")
		if !ok || name == "" || name == "*" || strings.ContainsAny(name, "{;") {
			return nil, nil, fmt.Errorf("segment %q: a parameter is written {name}", seg)
		}
		params, rest = append(params, name), more
	}
}

// literal decodes a segment without parameters.
func literal(seg string) (string, error) {
	lit, err := unescape(seg)
	switch {
	case err != nil:
		return "", err
	case lit == "":
		return "", errors.New("a segment is empty")
	case lit == "." || lit == "..":
		return "", fmt.Errorf("segment %q: requests with dot segments are refused", seg)
	}
	return lit, nil
}

// unescape decodes a literal part of a segment.
func unescape(s string) (string, error) {
	if strings.IndexByte(s, ';') >= 0 {
		return "", fmt.Errorf("%q: matrix parts do not take part in matching", s)
	}
	d, err := url.PathUnescape(s)
	if err != nil {
		return "", fmt.Errorf("%q: bad percent escape", s)
	}
	return d, nil
}
