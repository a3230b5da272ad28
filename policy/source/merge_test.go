package source

import (
	"strings"
	"testing"
)

// flat writes a tree on one line.
func flat(n *Node) string {
	switch {
	case n == nil:
		return "absent"
	case n.Kind == Map:
		var parts []string
		for _, k := range n.Keys {
			parts = append(parts, k.Name+":"+flat(k.Value))
		}
		return "{" + strings.Join(parts, " ") + "}"
	case n.Kind == List:
		var parts []string
		for _, e := range n.List {
			parts = append(parts, flat(e))
		}
		return "[" + strings.Join(parts, " ") + "]"
	}
	return n.Text
}

func TestMergeLaysOneTreeUponAnother(t *testing.T) {
	for _, tc := range []struct{ base, over, want string }{
		{"a: 1", "b: 2", "{a:1 b:2}"},
		{"a: 1\nb: 2\nc: 3", "b: 4", "{a:1 b:4 c:3}"},
		{"a: {x: 1, y: 2}", "a: {y: 3, z: 4}", "{a:{x:1 y:3 z:4}}"},
		{"a: {x: 1, y: 2}", "a: {x: null}", "{a:{y:2}}"},
		{"a: 1", "a: null", "{}"},
		{"a: 1", "b: null", "{a:1}"},
		{"a: [1, 2]", "a: [3]", "{a:[3]}"},
		{"a: {x: 1}", "a: text", "{a:text}"},
		{"a: text", "a: {x: 1, y: null}", "{a:{x:1}}"},
		{"a: 1", "# nothing is said", "{a:1}"},
	} {
		var r Report
		over := Parse("over.yaml", []byte(tc.over), &r)
		if over.Kind == Null {
			over = nil
		}
		base := Parse("base.yaml", []byte(tc.base), &r)
		before := flat(base)
		if got := flat(Merge(base, over)); got != tc.want {
			t.Errorf("%q over %q: got %s, want %s", tc.over, tc.base, got, tc.want)
		}
		if flat(base) != before {
			t.Errorf("%q over %q: the base was changed to %s", tc.over, tc.base, flat(base))
		}
		if r.Failed() {
			t.Error(r.Findings())
		}
	}
}

func TestMergeKeepsThePlaceOfEachValue(t *testing.T) {
	var r Report
	n := Merge(Parse("base.yaml", []byte("a: 1\nb: 2"), &r), Parse("over.yaml", []byte("\n\nb: 3"), &r))
	if got := n.Value("a").Pos.File; got != "base.yaml" {
		t.Errorf("a is in %s", got)
	}
	if got := n.Value("b").Pos; got.File != "over.yaml" || got.Line != 3 {
		t.Errorf("b is in %s", got)
	}
}
