package transform

import (
	"errors"
	"fmt"
	"strings"
	"tidegate/policy/strictjson"
)

// jsonTemplate is a JSON text with placeholders: inside a string they stand for text, outside
// for a whole value.
type jsonTemplate struct{ template }

// parseJSON compiles a JSON text. body says whether placeholders may name parts of a body.
func parseJSON(s string, body bool) (*jsonTemplate, error) {
	parts, err := split(s)
	if err != nil {
		return nil, err
	}
	sample := ""
	quoted := false
	for i := range parts {
		p := &parts[i]
		if p.from == literal {
			quoted = quotedAfter(p.text, quoted)
			sample += p.text
			continue
		}
		if p.from == fromBody && !body {
			return nil, errors.New("there is no body to take a value from")
		}
		p.quoted = quoted
		if quoted {
			sample += "x"
		} else {
			sample += "null"
		}
	}
	if err := strictjson.Check([]byte(sample), MaxTemplate); err != nil {
		return nil, fmt.Errorf("not JSON, with its placeholders filled: %w", err)
	}
	return &jsonTemplate{template{parts: parts}}, nil
}

// quotedAfter reports whether the end of s lies inside a string, if its beginning does so or not.
func quotedAfter(s string, quoted bool) bool {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			quoted = !quoted
		}
	}
	return quoted
}

func (t *jsonTemplate) has(o origin) bool { return t != nil && t.template.has(o) }

// fill appends the JSON for a call to b, of at most limit bytes, else ErrTooLarge.
func (t *jsonTemplate) fill(b []byte, v *View, limit int) ([]byte, error) {
	for i := range t.parts {
		p := &t.parts[i]
		switch {
		case p.from == literal:
			b = append(b, p.text...)
		case p.from == fromBody:
			b = appendBody(b, v, p)
		case p.quoted:
			b = strictjson.AppendInString(b, v.value(p))
		default:
			if s := v.value(p); s != "" {
				b = strictjson.AppendString(b, s)
			} else {
				b = append(b, "null"...)
			}
		}
		if len(b) > limit {
			return nil, ErrTooLarge
		}
	}
	return b, nil
}

// appendBody appends a value of the body: as it is, or as text inside a string.
func appendBody(b []byte, v *View, p *part) []byte {
	raw, ok := strictjson.Find(v.Body, p.pointer)
	switch {
	case !ok && p.quoted:
		return b
	case !ok:
		return append(b, "null"...)
	case !p.quoted:
		return append(b, raw...)
	case raw[0] == '"':
		return append(b, raw[1:len(raw)-1]...)
	default:
		return strictjson.AppendInString(b, strings.TrimSpace(string(raw)))
	}
}
