package wso2

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"tidegate/policy/source"
	"unicode/utf16"

	"go.yaml.in/yaml/v4"
)

// The tree of a document is that of package source, here also built and changed.

func text(s string) *source.Node { return &source.Node{Kind: source.Text, Text: s} }

func number(n int) *source.Node { return &source.Node{Kind: source.Number, Text: strconv.Itoa(n)} }

func decimal(f float64) *source.Node {
	return &source.Node{Kind: source.Number, Text: strconv.FormatFloat(f, 'f', -1, 64)}
}

func truth(b bool) *source.Node { return &source.Node{Kind: source.Bool, Text: strconv.FormatBool(b)} }

func texts(list []string) *source.Node {
	n := &source.Node{Kind: source.List}
	for _, s := range list {
		n.List = append(n.List, text(s))
	}
	return n
}

func list(nodes ...*source.Node) *source.Node { return &source.Node{Kind: source.List, List: nodes} }

func mapping() *source.Node { return &source.Node{Kind: source.Map} }

// set gives a mapping that belongs to us an entry: in place, or at the end.
func set(n *source.Node, name string, v *source.Node) {
	for i := range n.Keys {
		if n.Keys[i].Name == name {
			n.Keys[i].Value = v
			return
		}
	}
	n.Keys = append(n.Keys, source.Key{Name: name, Value: v})
}

// setText is set for a text that is not empty.
func setText(n *source.Node, name, s string) {
	if s != "" {
		set(n, name, text(s))
	}
}

// clone returns a shallow copy that may be changed: without the index of a large mapping,
// so that its keys are looked through.
func clone(n *source.Node) *source.Node {
	return &source.Node{Kind: n.Kind, Text: n.Text, Pos: n.Pos, Keys: slices.Clone(n.Keys), List: slices.Clone(n.List)}
}

// own replaces the mapping under a name by a copy that may be changed; nil when there is none.
func own(n *source.Node, name string) *source.Node {
	for i := range n.Keys {
		if n.Keys[i].Name == name && n.Keys[i].Value != nil && n.Keys[i].Value.Kind == source.Map {
			n.Keys[i].Value = clone(n.Keys[i].Value)
			return n.Keys[i].Value
		}
	}
	return nil
}

// encodeJSON writes a tree with the order of its keys, indented, with a line end.
func encodeJSON(n *source.Node) []byte {
	var b bytes.Buffer
	writeJSON(&b, n, 0)
	b.WriteByte('\n')
	return b.Bytes()
}

func writeJSON(b *bytes.Buffer, n *source.Node, depth int) {
	line := func(d int) {
		b.WriteByte('\n')
		for range d {
			b.WriteString("  ")
		}
	}
	switch {
	case n.Absent():
		b.WriteString("null")
	case n.Kind == source.List && len(n.List) == 0:
		b.WriteString("[]")
	case n.Kind == source.Map && len(n.Keys) == 0:
		b.WriteString("{}")
	case n.Kind == source.List:
		b.WriteByte('[')
		for i, e := range n.List {
			if i > 0 {
				b.WriteByte(',')
			}
			line(depth + 1)
			writeJSON(b, e, depth+1)
		}
		line(depth)
		b.WriteByte(']')
	case n.Kind == source.Map:
		b.WriteByte('{')
		for i, k := range n.Keys {
			if i > 0 {
				b.WriteByte(',')
			}
			line(depth + 1)
			quote(b, k.Name)
			b.WriteString(": ")
			writeJSON(b, k.Value, depth+1)
		}
		line(depth)
		b.WriteByte('}')
	default:
		writeScalar(b, n)
	}
}

func writeScalar(b *bytes.Buffer, n *source.Node) {
	switch n.Kind {
	case source.Text:
		quote(b, n.Text)
	case source.Bool:
		b.WriteString(strings.ToLower(n.Text))
	default:
		b.WriteString(n.Text)
	}
}

func quote(b *bytes.Buffer, s string) {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s)         // a string always encodes
	b.Truncate(b.Len() - 1) // the line end
}

// canonical writes a tree as RFC 8785 does, so that two replies with the same content give
// the same bytes. Fields named in without are left out, at every depth.
func canonical(n *source.Node, without ...string) []byte {
	var b bytes.Buffer
	writeCanonical(&b, n, without)
	return b.Bytes()
}

func writeCanonical(b *bytes.Buffer, n *source.Node, without []string) {
	switch {
	case n.Absent():
		b.WriteString("null")
	case n.Kind == source.List:
		b.WriteByte('[')
		for i, e := range n.List {
			if i > 0 {
				b.WriteByte(',')
			}
			writeCanonical(b, e, without)
		}
		b.WriteByte(']')
	case n.Kind == source.Map:
		keys := slices.DeleteFunc(slices.Clone(n.Keys), func(k source.Key) bool { return slices.Contains(without, k.Name) })
		slices.SortFunc(keys, func(x, y source.Key) int {
			return slices.Compare(utf16.Encode([]rune(x.Name)), utf16.Encode([]rune(y.Name)))
		})
		b.WriteByte('{')
		for i, k := range keys {
			if i > 0 {
				b.WriteByte(',')
			}
			quote(b, k.Name)
			b.WriteByte(':')
			writeCanonical(b, k.Value, without)
		}
		b.WriteByte('}')
	case n.Kind == source.Number:
		// encoding/json writes numbers as ECMAScript does, which RFC 8785 §3.2.2.3 asks for.
		f, err := strconv.ParseFloat(n.Text, 64)
		if out, bad := json.Marshal(f); err == nil && bad == nil && !math.IsInf(f, 0) {
			b.Write(out)
			return
		}
		b.WriteString(n.Text)
	default:
		writeScalar(b, n)
	}
}

// yamlWords are texts that older YAML reads as something else.
var yamlWords = []string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}

// yamlNode returns the tree for the YAML encoder. Mappings and lists of scalars with no
// more than flow entries are written in one line.
func yamlNode(n *source.Node, flow int) *yaml.Node {
	if n.Absent() {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
	}
	switch n.Kind {
	case source.List:
		out := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		small := len(n.List) <= flow
		for _, e := range n.List {
			small = small && e.IsScalar() && len(e.Text) < 60
			out.Content = append(out.Content, yamlNode(e, flow))
		}
		if small || len(n.List) == 0 {
			out.Style = yaml.FlowStyle
		}
		return out
	case source.Map:
		out := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		small := len(n.Keys) <= flow
		for _, k := range n.Keys {
			small = small && inline(k.Value)
			out.Content = append(out.Content, scalar(source.Text, k.Name), yamlNode(k.Value, flow))
		}
		if small || len(n.Keys) == 0 {
			out.Style = yaml.FlowStyle
		}
		return out
	}
	return scalar(n.Kind, n.Text)
}

// inline reports whether a value fits into a line with others.
func inline(n *source.Node) bool {
	switch {
	case n.IsScalar():
		return len(n.Text) < 60 && !strings.Contains(n.Text, "\n")
	case n.Absent():
		return true
	case n.Kind == source.Map:
		return len(n.Keys) <= 2 && !slices.ContainsFunc(n.Keys, func(k source.Key) bool { return !k.Value.IsScalar() })
	}
	return len(n.List) <= 2 && !slices.ContainsFunc(n.List, func(e *source.Node) bool { return !e.IsScalar() })
}

func scalar(kind source.Kind, s string) *yaml.Node {
	out := &yaml.Node{Kind: yaml.ScalarNode, Value: s}
	switch kind {
	case source.Number:
		// Only what reads back as a number: the readers keep the spelling.
		out.Tag = "!!int"
		if strings.ContainsAny(s, ".eE") {
			out.Tag = "!!float"
		}
	case source.Bool:
		out.Tag, out.Value = "!!bool", strings.ToLower(s)
	default:
		out.Tag = "!!str"
		switch {
		case strings.Contains(s, "\n") && !strings.ContainsAny(s, "\r\t\x00") && strings.TrimRight(s, " \n") == strings.TrimSuffix(s, "\n") && s[0] != ' ' && s[0] != '\n' && !strings.Contains(s, " \n"):
			out.Style = yaml.LiteralStyle
		case slices.Contains(yamlWords, strings.ToLower(s)):
			out.Style = yaml.SingleQuotedStyle
		}
	}
	return out
}

// encodeYAML writes a tree as block YAML.
func encodeYAML(n *source.Node) ([]byte, error) { return dumpYAML(yamlNode(n, 0)) }

func dumpYAML(n *yaml.Node) ([]byte, error) {
	return yaml.Dump(n, yaml.WithV4Defaults(), yaml.WithLineWidth(-1), yaml.WithCompactSeqIndent(false), yaml.WithExplicitEnd(false))
}
