package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"tidegate/policy"
	"unicode/utf8"
)

// jsonReader builds the tree from the tokens of encoding/json. A YAML parser would read
// most JSON too, but not escaped surrogate pairs, and much slower.
type jsonReader struct {
	file   string
	report *Report
	dec    *json.Decoder
	text   []byte
	offset int64 // up to which lines are counted
	line   int
	values int
}

func parseJSON(name string, b []byte, r *Report) *Node {
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(b) {
		r.Add(Finding{Pos: policy.Pos{File: name}, Severity: Error, Message: "not UTF-8", Hint: "save the file as UTF-8"})
		return nil
	}
	j := &jsonReader{file: name, report: r, dec: json.NewDecoder(bytes.NewReader(b)), text: b, line: 1}
	j.dec.UseNumber()
	n, err := j.value(0)
	if err == nil {
		if _, more := j.dec.Token(); !errors.Is(more, io.EOF) {
			j.advance(j.dec.InputOffset())
			err = errors.New("something follows the document")
		}
	}
	if err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			j.advance(syntax.Offset)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			j.advance(int64(len(b)))
			err = errors.New("the file ends in the middle of a value")
		}
		r.Errorf(policy.Pos{File: name, Line: j.line}, "", "not readable as JSON: %v", err)
		return nil
	}
	return n
}

// advance counts the lines up to an offset and returns the place there.
func (j *jsonReader) advance(to int64) policy.Pos {
	to = min(to, int64(len(j.text)))
	if to > j.offset {
		j.line += bytes.Count(j.text[j.offset:to], []byte("\n"))
		j.offset = to
	}
	return policy.Pos{File: j.file, Line: j.line}
}

func (j *jsonReader) value(depth int) (*Node, error) {
	if depth > MaxDepth {
		return nil, errDeep
	}
	if j.values++; j.values > MaxValues {
		return nil, errMany
	}
	t, err := j.dec.Token()
	if err != nil {
		return nil, err
	}
	n := &Node{Pos: j.advance(j.dec.InputOffset())}
	switch t := t.(type) {
	case nil:
		n.Kind = Null
	case bool:
		n.Kind, n.Text = Bool, "false"
		if t {
			n.Text = "true"
		}
	case json.Number:
		n.Kind, n.Text = Number, t.String()
	case string:
		n.Kind, n.Text = Text, t
	case json.Delim:
		if t == '[' {
			return n, j.list(n, depth)
		}
		return n, j.mapping(n, depth)
	}
	return n, nil
}

func (j *jsonReader) list(n *Node, depth int) error {
	n.Kind = List
	for j.dec.More() {
		e, err := j.value(depth + 1)
		if err != nil {
			return err
		}
		n.List = append(n.List, e)
	}
	_, err := j.dec.Token()
	return err
}

func (j *jsonReader) mapping(n *Node, depth int) error {
	n.Kind = Map
	seen := map[string]int{}
	for j.dec.More() {
		t, err := j.dec.Token()
		if err != nil {
			return err
		}
		name, ok := t.(string)
		if !ok {
			return errKeyKind
		}
		pos := j.advance(j.dec.InputOffset())
		e, err := j.value(depth + 1)
		if err != nil {
			return err
		}
		if line, twice := seen[name]; twice {
			j.report.Errorf(pos, "", "key %q is given twice, first on line %d", name, line)
			continue
		}
		seen[name] = pos.Line
		n.Keys = append(n.Keys, Key{name, pos, e})
	}
	n.buildIndex()
	_, err := j.dec.Token()
	return err
}
