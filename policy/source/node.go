package source

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"tidegate/policy"
)

// The bounds of one file.
const (
	MaxBytes  = 16 << 20
	MaxDepth  = 100
	MaxValues = 2_000_000 // after aliases are unfolded
)

// Kind is the kind of a value.
type Kind uint8

// The kinds of value.
const (
	Null Kind = iota + 1
	Bool
	Number // as JSON writes numbers; other spellings (012, 1_000, 0x1F) are texts
	Text
	List
	Map
)

// String returns the kind as it is told to people.
func (k Kind) String() string {
	switch k {
	case Null:
		return "nothing"
	case Bool:
		return "true or false"
	case Number:
		return "a number"
	case Text:
		return "a text"
	case List:
		return "a list"
	case Map:
		return "a mapping"
	}
	return ""
}

// A Node is a value of a document. It is read-only and, where a document uses aliases,
// shared. A nil Node is an absent value: its methods work and find nothing.
type Node struct {
	Kind Kind
	Text string // of a scalar, as written: a version 1.20 stays "1.20"
	Pos  policy.Pos
	Keys []Key   // of a mapping, in the order of the file; a name occurs once
	List []*Node // of a list

	index map[string]int // of a large mapping: name to place in Keys
}

// A Key is one entry of a mapping.
type Key struct {
	Name  string
	Pos   policy.Pos
	Value *Node
}

// indexFrom is the number of keys from which looking through them is slower than a map.
const indexFrom = 12

// Lookup returns the entry of a name, or nil.
func (n *Node) Lookup(name string) *Key {
	if n == nil {
		return nil
	}
	if n.index != nil {
		if i, ok := n.index[name]; ok {
			return &n.Keys[i]
		}
		return nil
	}
	for i := range n.Keys {
		if n.Keys[i].Name == name {
			return &n.Keys[i]
		}
	}
	return nil
}

// Value returns the value of a name, nil when there is none.
func (n *Node) Value(name string) *Node {
	if k := n.Lookup(name); k != nil {
		return k.Value
	}
	return nil
}

// At follows names from mapping to mapping; nil when one of them is missing.
func (n *Node) At(names ...string) *Node {
	for _, name := range names {
		n = n.Value(name)
	}
	return n
}

// IsScalar reports whether n is a text, a number or a truth value.
func (n *Node) IsScalar() bool {
	return n != nil && (n.Kind == Text || n.Kind == Number || n.Kind == Bool)
}

// Absent reports whether n is missing or null.
func (n *Node) Absent() bool { return n == nil || n.Kind == Null }

// Place returns the position of n, or that of its file when n is nil.
func (n *Node) Place() policy.Pos {
	if n == nil {
		return policy.Pos{}
	}
	return n.Pos
}

func (n *Node) buildIndex() {
	if len(n.Keys) < indexFrom {
		return
	}
	n.index = make(map[string]int, len(n.Keys))
	for i := range n.Keys {
		n.index[n.Keys[i].Name] = i
	}
}

// Read reads the file name of fsys as JSON, when its name ends in .json, or as YAML
// otherwise. A file that cannot be read, or is no such document, is one error in the
// report, and nil. A name given twice in a mapping is an error, and the first counts.
func Read(fsys fs.FS, name string, r *Report) *Node {
	b, err := ReadFile(fsys, name)
	if err != nil {
		r.Add(Finding{Pos: policy.Pos{File: name}, Severity: Error, Message: err.Error()})
		return nil
	}
	return Parse(name, b, r)
}

// Parse is Read for a file that is in memory.
func Parse(name string, b []byte, r *Report) *Node {
	if strings.EqualFold(path.Ext(name), ".json") {
		return parseJSON(name, b, r)
	}
	return parseYAML(name, b, r)
}

// ReadFile reads a file of at most [MaxBytes].
func ReadFile(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		var inner *fs.PathError
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, errors.New("no such file")
		case errors.As(err, &inner):
			return nil, inner.Err // the caller says which file
		}
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	b, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > MaxBytes {
		return nil, fmt.Errorf("larger than %d MiB", MaxBytes>>20)
	}
	return b, nil
}

// All returns the entries of a mapping, none for any other value.
func (n *Node) All() []Key {
	if n == nil || n.Kind != Map {
		return nil
	}
	return n.Keys
}
