package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"tidegate/policy"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

func parseYAML(name string, b []byte, r *Report) *Node {
	file := policy.Pos{File: name}
	if !utf8.Valid(b) {
		r.Add(Finding{Pos: file, Severity: Error, Message: "not UTF-8", Hint: "save the file as UTF-8"})
		return nil
	}
	var doc yaml.Node
	if err := unmarshal(b, &doc); err != nil {
		pos, msg := yamlFault(name, err)
		r.Errorf(pos, "", "%s", msg)
		return nil
	}
	if doc.Kind == 0 || len(doc.Content) == 0 {
		return &Node{Kind: Null, Pos: policy.Pos{File: name, Line: 1}}
	}
	y := yamlReader{file: name, report: r, anchors: map[*yaml.Node]*anchor{}}
	n, err := y.node(doc.Content[0], 0)
	if err != nil {
		r.Errorf(policy.Pos{File: name, Line: y.line}, "", "%v", err)
		return nil
	}
	return n
}

// unmarshal reads one document. The parser reports some faults of its own by panicking
// with a value that is not an error of its interface; a project file must not end the program.
func unmarshal(b []byte, doc *yaml.Node) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("not readable as YAML: %v", p)
		}
	}()
	err = yaml.NewDecoder(bytes.NewReader(b)).Decode(doc)
	if errors.Is(err, io.EOF) {
		return nil // nothing but comments
	}
	return err
}

var yamlLine = regexp.MustCompile(`line (\d+)(?:, column \d+)?: `)

// yamlFault takes the line out of an error of the parser.
func yamlFault(name string, err error) (policy.Pos, string) {
	pos := policy.Pos{File: name}
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	if m := yamlLine.FindStringSubmatchIndex(msg); m != nil {
		pos.Line, _ = strconv.Atoi(msg[m[2]:m[3]])
		msg = msg[m[1]:]
	}
	msg, _, _ = strings.Cut(msg, "\n")
	return pos, "not readable as YAML: " + msg
}

var (
	errDeep    = fmt.Errorf("nested deeper than %d levels", MaxDepth)
	errMany    = fmt.Errorf("more than %d values", MaxValues)
	errItself  = errors.New("an alias contains itself")
	errKeyKind = errors.New("a key is not a text")
)

type yamlReader struct {
	file    string
	report  *Report
	anchors map[*yaml.Node]*anchor
	values  int // aliases unfolded
	reached int // greatest depth, aliases unfolded
	line    int // of the last value, for errors
}

// An anchor is the value an alias stands for, how many values that is, and how many
// levels lie below it.
type anchor struct {
	node   *Node
	values int
	levels int
}

func (y *yamlReader) pos(n *yaml.Node) policy.Pos { return policy.Pos{File: y.file, Line: n.Line} }

func (y *yamlReader) node(n *yaml.Node, depth int) (*Node, error) {
	y.line = n.Line
	if depth > MaxDepth {
		return nil, errDeep
	}
	if n.Kind == yaml.AliasNode {
		return y.alias(n, depth)
	}
	y.reached = max(y.reached, depth)
	if n.Anchor == "" {
		return y.plain(n, depth)
	}
	y.anchors[n] = nil // being read
	values, reached := y.values, y.reached
	y.reached = depth
	v, err := y.plain(n, depth)
	if err != nil {
		return nil, err
	}
	y.anchors[n] = &anchor{v, y.values - values, y.reached - depth}
	y.reached = max(y.reached, reached)
	return v, nil
}

// alias returns the value of an anchor. What walks the tree later walks it unfolded: so
// it is counted, in values and in levels, as if it stood here.
func (y *yamlReader) alias(n *yaml.Node, depth int) (*Node, error) {
	a := y.anchors[n.Alias]
	if a == nil {
		return nil, errItself
	}
	if y.values += a.values; y.values > MaxValues {
		return nil, errMany
	}
	if depth+a.levels > MaxDepth {
		return nil, errDeep
	}
	y.reached = max(y.reached, depth+a.levels)
	return a.node, nil
}

func (y *yamlReader) plain(n *yaml.Node, depth int) (*Node, error) {
	// A long text counts as several values: an alias can repeat it as often as a list.
	if y.values += 1 + len(n.Value)/64; y.values > MaxValues {
		return nil, errMany
	}
	v := &Node{Pos: y.pos(n)}
	switch n.Kind {
	case yaml.ScalarNode:
		v.Text = n.Value
		v.Kind = scalarKind(n)
		return v, nil
	case yaml.SequenceNode:
		v.Kind = List
		v.List = make([]*Node, 0, len(n.Content))
		for _, c := range n.Content {
			e, err := y.node(c, depth+1)
			if err != nil {
				return nil, err
			}
			v.List = append(v.List, e)
		}
		return v, nil
	case yaml.MappingNode:
		v.Kind = Map
		return v, y.mapping(v, n, depth)
	}
	return nil, fmt.Errorf("not a value")
}

func (y *yamlReader) mapping(v *Node, n *yaml.Node, depth int) error {
	v.Keys = make([]Key, 0, len(n.Content)/2)
	seen := make(map[string]int, len(n.Content)/2)
	var merged []*Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if k.Kind == yaml.AliasNode && k.Alias != nil {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			y.line = n.Content[i].Line
			return errKeyKind
		}
		e, err := y.node(n.Content[i+1], depth+1)
		if err != nil {
			return err
		}
		if k.Tag == "!!merge" {
			merged = append(merged, e)
			continue
		}
		if line, twice := seen[k.Value]; twice {
			y.report.Errorf(y.pos(k), "", "key %q is given twice, first on line %d", k.Value, line)
			continue
		}
		seen[k.Value] = k.Line
		v.Keys = append(v.Keys, Key{k.Value, y.pos(k), e})
	}
	for _, m := range merged { // own keys win over merged ones, earlier merges over later ones
		sources := []*Node{m}
		if m.Kind == List {
			sources = m.List
		}
		for _, s := range sources {
			for _, k := range s.Keys {
				if _, own := seen[k.Name]; !own {
					seen[k.Name] = k.Pos.Line
					v.Keys = append(v.Keys, k)
				}
			}
		}
	}
	v.buildIndex()
	return nil
}

var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$`)

// scalarKind resolves a scalar as YAML 1.2 does, but only what JSON also knows: dates,
// octal and grouped numbers stay texts.
func scalarKind(n *yaml.Node) Kind {
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 || n.Tag == "!!str" && n.Style&yaml.TaggedStyle != 0 {
		return Text
	}
	switch n.Value {
	case "", "~", "null", "Null", "NULL":
		return Null
	case "true", "True", "TRUE", "false", "False", "FALSE":
		return Bool
	}
	if jsonNumber.MatchString(n.Value) {
		return Number
	}
	return Text
}
