package project

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"tidegate/policy"

	"go.yaml.in/yaml/v4"
)

// A told default is what the manual says of a key that is not there.
type toldDefault struct{ path, key, value string }

var plainDefault = regexp.MustCompile("^(`[^`]+`|-?[0-9.]+)$")

// toldDefaults are the defaults in the tables of the manual that are values, not sentences.
func toldDefaults(manual string) []toldDefault {
	var out []toldDefault
	var paths []string
	for line := range strings.SplitSeq(manual, "\n") {
		switch {
		case strings.HasPrefix(line, "#"):
			paths = nil
			if strings.HasPrefix(line, "### ") {
				for _, m := range codeSpan.FindAllStringSubmatch(line, -1) {
					paths = append(paths, m[1])
				}
			}
		case strings.HasPrefix(line, "| `"):
			cells := strings.Split(strings.Trim(line, "| "), " | ")
			if len(cells) < 3 {
				continue
			}
			keys := codeSpan.FindAllStringSubmatch(cells[0], -1)
			values := strings.Split(cells[len(cells)-1], ", ")
			if slices.ContainsFunc(values, func(v string) bool { return !plainDefault.MatchString(v) }) || len(values) != 1 && len(values) != len(keys) {
				continue
			}
			for _, p := range paths {
				for i, k := range keys {
					out = append(out, toldDefault{p, k[1], strings.Trim(values[min(i, len(values)-1)], "`")})
				}
			}
		}
	}
	return out
}

// A tree is the files of a project, parsed.
type tree map[string]*yaml.Node

// places returns the mappings that a path of the manual means.
func (t tree) places(path string) []*yaml.Node {
	first, rest, _ := strings.Cut(path, " ")
	var at []*yaml.Node
	switch {
	case strings.HasSuffix(first, ".yaml"):
		at = []*yaml.Node{t[first].Content[0]}
	case first == "document" || first == "operation":
		for name, doc := range t {
			if strings.HasPrefix(name, "apis/") {
				at = append(at, doc.Content[0])
			}
		}
		if first == "operation" {
			at = below(below(below(at, "paths"), "*"), "*")
		}
	default:
		var find func(n *yaml.Node)
		find = func(n *yaml.Node) {
			for i, c := range n.Content {
				if n.Kind == yaml.MappingNode && i%2 == 1 && n.Content[i-1].Value == first && c.Kind == yaml.MappingNode {
					at = append(at, c)
				}
				find(c)
			}
		}
		for name, doc := range t {
			if strings.HasPrefix(name, "apis/") {
				find(doc)
				if first == "x-wso2-production-endpoints" {
					at = append(at, below(below(below([]*yaml.Node{doc.Content[0]}, "x-wso2-endpoints"), "[]"), "*")...)
				}
			}
		}
	}
	for step := range strings.FieldsSeq(rest) {
		name, list := strings.CutSuffix(step, "[]")
		name, each := strings.CutSuffix(name, ".*")
		at = below(at, name)
		if list {
			at = below(at, "[]")
		}
		if each { // a mapping of names, or a list of mappings of one name
			at = below(append(at, below(at, "[]")...), "*")
		}
	}
	return slices.DeleteFunc(at, func(n *yaml.Node) bool { return n.Kind != yaml.MappingNode })
}

// below returns the values of a key, of every key, or of the elements of lists.
func below(at []*yaml.Node, name string) []*yaml.Node {
	var out []*yaml.Node
	for _, n := range at {
		switch {
		case name == "[]" && n.Kind == yaml.SequenceNode:
			out = append(out, n.Content...)
		case name != "[]" && n.Kind == yaml.MappingNode:
			for i := 0; i < len(n.Content); i += 2 {
				if name == "*" || n.Content[i].Value == name {
					out = append(out, n.Content[i+1])
				}
			}
		}
	}
	return out
}

// with returns the project with a key at a place set to value, or without it for nil.
func (t tree) with(tb testing.TB, base fstest.MapFS, n *yaml.Node, key string, value *yaml.Node) *Project {
	tb.Helper()
	kept := n.Content
	n.Content = nil
	for i := 0; i < len(kept); i += 2 {
		if kept[i].Value != key {
			n.Content = append(n.Content, kept[i], kept[i+1])
		}
	}
	if value != nil {
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, value)
	}
	fsys := fstest.MapFS{}
	for name, f := range base {
		fsys[name] = f
	}
	for name, doc := range t {
		b, err := yaml.Marshal(doc)
		if err != nil {
			tb.Fatal(err)
		}
		fsys[name] = &fstest.MapFile{Data: b}
	}
	n.Content = kept
	p, _ := Load(fsys)
	return p
}

// byDevice are defaults that a bundle leaves empty and the device fills in: auth.New and
// auth.NewMaker, upstream.DefaultTimeout, upstream.grow.
var byDevice = []string{
	"auth.yaml: header", "auth.yaml issuers[]: consumer_key_claim", "auth.yaml backend_jwt: header", "auth.yaml backend_jwt: dialect",
	"x-wso2-production-endpoints advanceEndpointConfig: timeoutInMillis", "x-wso2-production-endpoints advanceEndpointConfig: timeout",
	"x-wso2-production-endpoints advanceEndpointConfig retryConfig: backOffFactor",
}

// said is all that a project says, but for places in files.
func said(tb testing.TB, p *Project) string {
	tb.Helper()
	b, err := policy.Encode(p.Set)
	if err != nil {
		tb.Fatal(err)
	}
	tide, err := json.Marshal(p.Tide)
	if err != nil {
		tb.Fatal(err)
	}
	return fmt.Sprintf("%x %s %q", b, tide, p.Secrets)
}

// TestDefaultsOfTheReference builds the examples twice for each default that the manual tells: with
// the key set to it, and without the key. Both must say the same.
func TestDefaultsOfTheReference(t *testing.T) {
	manual, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	full := fstest.MapFS{}
	err = fs.WalkDir(os.DirFS(everything), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(everything + "/" + name)
		full[name] = &fstest.MapFile{Data: b}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	told := toldDefaults(string(manual))
	if len(told) < 70 {
		t.Fatalf("only %d defaults found in the manual", len(told))
	}
	checked := 0
	for _, d := range told {
		if slices.Contains(byDevice, d.path+": "+d.key) {
			continue
		}
		shown, why := false, "no place for it"
		for _, base := range []fstest.MapFS{full, blocks(t, string(manual))} {
			files := tree{}
			for name, f := range base {
				if strings.HasSuffix(name, ".yaml") && name != "secrets.yaml" {
					n := &yaml.Node{}
					if err := yaml.Unmarshal(f.Data, n); err != nil {
						t.Fatal(err)
					}
					files[name] = n
				}
			}
			for _, n := range files.places(d.path) {
				value := &yaml.Node{Kind: yaml.ScalarNode, Value: d.value}
				if d.value == "1.2" || d.value == "2s" || d.value == "10s" {
					value.Style = yaml.DoubleQuotedStyle
				}
				set, without := files.with(t, base, n, d.key, value), files.with(t, base, n, d.key, nil)
				switch {
				case set == nil || without == nil:
					if why == "no place for it" {
						why = "it does not build"
					}
				case said(t, set) != said(t, without):
					t.Errorf("%s: %s is not %s by default", d.path, d.key, d.value)
					shown = true
				default:
					shown = true
				}
			}
		}
		if !shown {
			t.Errorf("%s: %s: %s", d.path, d.key, why)
			continue
		}
		checked++
	}
	t.Logf("%d of %d defaults", checked, len(told))
}
