package wso2

import (
	"fmt"
	"slices"
	"strings"
	"tidegate/policy/source"

	"go.yaml.in/yaml/v4"
)

// flowKeys is up to how many keys a mapping is written in one line.
const flowKeys = 6

// A yamlFile is a file that people edit, as the YAML library keeps it: with its comments.
type yamlFile struct {
	name    string
	doc     *yaml.Node
	head    []byte // of a file that holds nothing but comments, which the library drops
	changed bool
}

// openYAML parses a file; an absent one is empty.
func openYAML(name string, body []byte) (f *yamlFile, err error) {
	defer func() {
		if p := recover(); p != nil { // the library does, for some input
			err = fmt.Errorf("%s: not readable as YAML: %v", name, p)
		}
	}()
	f = &yamlFile{name: name, doc: new(yaml.Node)}
	if len(strings.TrimSpace(string(body))) > 0 {
		if err := yaml.Unmarshal(body, f.doc); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if f.doc.Kind == 0 {
		f.doc = &yaml.Node{Kind: yaml.DocumentNode}
		for line := range strings.Lines(string(body)) {
			if s := strings.TrimSpace(line); s == "" || s[0] == '#' {
				f.head = append(f.head, strings.TrimRight(line, "\r\n")+"\n"...)
			}
		}
	}
	if len(f.doc.Content) == 0 || f.doc.Content[0].Kind == yaml.ScalarNode && f.doc.Content[0].Tag == "!!null" {
		root := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		f.doc.Content = []*yaml.Node{root}
	}
	if f.doc.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s: not a mapping", name)
	}
	return f, nil
}

func (f *yamlFile) bytes() ([]byte, error) {
	b, err := dumpYAML(f.doc)
	return append(f.head[:len(f.head):len(f.head)], b...), err
}

// list returns the list or mapping under a path, made if need be; nil when the path leads
// through something else.
func (f *yamlFile) list(p place, create bool) *yaml.Node {
	n := f.doc.Content[0]
	for i, key := range p.path {
		next := yamlValue(n, key)
		if next == nil || next.Kind == yaml.ScalarNode && next.Tag == "!!null" {
			if !create {
				return nil
			}
			made := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
			if i == len(p.path)-1 && p.form != members {
				made = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
			}
			setYAML(n, key, made)
			next = made
		}
		n = next
	}
	if n.Kind != yaml.MappingNode && n.Kind != yaml.SequenceNode {
		return nil
	}
	return n
}

func yamlValue(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func setYAML(n *yaml.Node, key string, v *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content[i+1] = v
			return
		}
	}
	n.Content = append(n.Content, scalar(source.Text, key), v)
	if len(n.Content) > 2*flowKeys {
		n.Style &^= yaml.FlowStyle
	}
}

// put writes an entry: in the place of the one with its identity, or at the end.
func (f *yamlFile) put(e *Entry) error {
	p := places[e.Kind]
	l := f.list(p, true)
	if l == nil {
		return fmt.Errorf("%s: %s is not a list", f.name, strings.Join(p.path, "."))
	}
	f.changed = true
	v := yamlNode(e.Value, flowKeys)
	if p.form == members || p.form == named && l.Kind == yaml.MappingNode {
		setYAML(l, e.ID, v)
		return nil
	}
	if l.Kind != yaml.SequenceNode {
		return fmt.Errorf("%s: %s is not a list", f.name, strings.Join(p.path, "."))
	}
	if len(l.Content) == 0 {
		l.Style &^= yaml.FlowStyle
		if p.form == words {
			l.Style |= yaml.FlowStyle
		}
	}
	i := find(l, p, e.ID)
	switch {
	case p.form == named && i >= 0:
		setYAML(l.Content[i], e.ID, v)
	case p.form == named:
		m := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		setYAML(m, e.ID, v)
		l.Content = append(l.Content, m)
	case i >= 0:
		v.HeadComment, v.LineComment, v.FootComment = l.Content[i].HeadComment, l.Content[i].LineComment, l.Content[i].FootComment
		l.Content[i] = v
	default:
		l.Content = append(l.Content, v)
	}
	return nil
}

// take removes an entry, and its list when nothing is left in it.
func (f *yamlFile) take(kind, id string) {
	p := places[kind]
	l := f.list(p, false)
	if l == nil {
		return
	}
	if l.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(l.Content); i += 2 {
			if l.Content[i].Value == id {
				l.Content = slices.Delete(l.Content, i, i+2)
				f.changed = true
				break
			}
		}
	} else if i := find(l, p, id); i >= 0 {
		if m := l.Content[i]; p.form == named && len(m.Content) > 2 {
			for j := 0; j+1 < len(m.Content); j += 2 {
				if m.Content[j].Value == id {
					m.Content = slices.Delete(m.Content, j, j+2)
					break
				}
			}
		} else {
			l.Content = slices.Delete(l.Content, i, i+1)
		}
		f.changed = true
	}
	if len(l.Content) == 0 && len(p.path) > 0 {
		f.prune(p.path)
	}
}

// prune removes an empty list from its mapping.
func (f *yamlFile) prune(path []string) {
	n := f.doc.Content[0]
	for _, key := range path[:len(path)-1] {
		if n = yamlValue(n, key); n == nil {
			return
		}
	}
	last := path[len(path)-1]
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == last {
			n.Content = slices.Delete(n.Content, i, i+2)
			return
		}
	}
}

// find returns the place of an entry in a sequence, -1 when it is not there.
func find(l *yaml.Node, p place, want string) int {
	return slices.IndexFunc(l.Content, func(n *yaml.Node) bool {
		switch p.form {
		case named:
			return yamlValue(n, want) != nil
		case words:
			return n.Kind == yaml.ScalarNode && n.Value == want
		}
		var id []string
		for _, field := range p.fields {
			if v := yamlValue(n, field); v != nil {
				id = append(id, v.Value)
			}
		}
		return strings.Join(id, " ") == want
	})
}

// current returns what a file says of an entry, nil when it is not there.
func current(root *source.Node, kind, want string) *source.Node {
	p := places[kind]
	n := root.At(p.path...)
	switch {
	case n == nil:
		return nil
	case p.form == members || p.form == named && n.Kind == source.Map:
		return n.Value(want)
	}
	for _, item := range n.List {
		switch p.form {
		case named:
			if v := item.Value(want); v != nil {
				return v
			}
		case words:
			if item.IsScalar() && item.Text == want {
				return item
			}
		default:
			var id []string
			for _, field := range p.fields {
				if v := item.Value(field); v.IsScalar() {
					id = append(id, v.Text)
				}
			}
			if strings.Join(id, " ") == want {
				return item
			}
		}
	}
	return nil
}
