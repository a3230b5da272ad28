package transform

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"tidegate/policy/strictjson"
)

// context is where a text stands: it decides what a literal may hold and how values are written.
type context uint8

const (
	inPlain context = iota
	inHeader
	inURL // a header that holds a URL
	inPath
	inQuery
	inHost
)

// origin is where the value of a placeholder comes from.
type origin uint8

const (
	literal origin = iota
	fromPath
	fromQuery
	fromHeader
	fromClaim
	fromID
	fromBody
)

var origins = map[string]origin{
	"path": fromPath, "query": fromQuery, "header": fromHeader, "claim": fromClaim, "request": fromID, "body": fromBody,
}

// part is a literal, or a placeholder.
type part struct {
	from    origin
	text    string // literal, or the name
	pointer strictjson.Pointer
	quoted  bool // inside a JSON string
}

// template is a text with placeholders.
type template struct {
	parts []part
	in    context
}

// split takes a text apart at its placeholders: "{", a word in lower case, then "." and a
// name, "}". Other braces stand for themselves.
func split(s string) ([]part, error) {
	if len(s) > MaxTemplate {
		return nil, fmt.Errorf("a text of more than %d KiB", MaxTemplate>>10)
	}
	var out []part
	start := 0
	for i := 0; i < len(s); i++ {
		if s[i] != '{' || i+1 == len(s) || s[i+1] < 'a' || s[i+1] > 'z' {
			continue
		}
		end := strings.IndexByte(s[i:], '}')
		if end < 0 {
			return nil, fmt.Errorf("a placeholder without an end: %.20q", s[i:])
		}
		p, err := placeholder(s[i+1 : i+end])
		if err != nil {
			return nil, err
		}
		if i > start {
			out = append(out, part{text: s[start:i]})
		}
		out = append(out, p)
		i += end
		start = i + 1
	}
	if start < len(s) {
		out = append(out, part{text: s[start:]})
	}
	return out, nil
}

func placeholder(s string) (part, error) {
	word, name, _ := strings.Cut(s, ".")
	p := part{from: origins[word], text: name}
	switch {
	case p.from == literal:
		return p, fmt.Errorf("unknown placeholder {%s}: want path, query, header, claim, body with a name, or request.id", s)
	case p.from == fromID && name != "id":
		return p, fmt.Errorf("unknown placeholder {%s}: of the request there is only request.id", s)
	case name == "":
		return p, fmt.Errorf("placeholder {%s}: a name is missing", s)
	case p.from == fromHeader:
		if !all(name, isTokenByte) {
			return p, fmt.Errorf("placeholder {%s}: that is not a name of a header", s)
		}
		p.text = canonical(name)
	case p.from == fromBody:
		var err error
		if p.pointer, err = strictjson.ParsePointer(name); err != nil {
			return p, fmt.Errorf("placeholder {%s}: %w", s, err)
		}
	}
	return p, nil
}

// parse compiles a text that is not JSON.
func parse(s string, in context) (*template, error) {
	parts, err := split(s)
	if err != nil {
		return nil, err
	}
	t := &template{parts, in}
	if t.has(fromBody) {
		return nil, errors.New("a body can only be used in a body")
	}
	sample := ""
	for _, p := range parts {
		if p.from == literal {
			sample += p.text
		} else {
			sample += "x"
		}
	}
	return t, checkSample(sample, in)
}

// checkSample checks a text whose placeholders were filled.
func checkSample(s string, in context) error {
	switch in {
	case inHeader, inURL:
		if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return errors.New("a control character")
		}
	case inQuery:
	case inHost:
		if !all(s, isHostByte) {
			return fmt.Errorf("%q is not a host", s)
		}
	case inPath:
		if _, err := url.PathUnescape(s); err != nil || !all(s, isPathByte) {
			return fmt.Errorf("%q is not a path: other characters must be percent-encoded, and a query stands under query", s)
		}
		if s == "" || s[0] != '/' || !sound(s) {
			return fmt.Errorf("%q is not a path without empty and dot segments", s)
		}
	}
	return nil
}

// has reports whether a value comes from an origin.
func (t *template) has(o origin) bool {
	if t == nil {
		return false
	}
	for i := range t.parts {
		if t.parts[i].from == o {
			return true
		}
	}
	return false
}

// filled reports whether the template is made of placeholders only, so that it may come out empty.
func (t *template) filled() bool {
	if t == nil || len(t.parts) == 0 {
		return false
	}
	for i := range t.parts {
		if t.parts[i].from == literal && t.in != inPlain {
			return false
		}
		if t.parts[i].from != literal && t.in == inPlain {
			return true
		}
	}
	return t.in != inPlain
}

// fill returns the text for a call.
func (t *template) fill(v *View) string {
	if len(t.parts) == 1 && t.parts[0].from == literal && t.in != inQuery {
		return t.parts[0].text
	}
	var buf [256]byte
	b := buf[:0]
	for i := range t.parts {
		p := &t.parts[i]
		switch {
		case p.from == literal && t.in == inQuery:
			b = appendEscaped(b, p.text)
		case p.from == literal:
			b = append(b, p.text...)
		case p.from == fromPath && t.in == inPath, p.from == fromPath && t.in == inURL:
			b = append(b, v.Params.RawParam(p.text)...)
		case t.in == inPath || t.in == inQuery || t.in == inURL:
			b = appendEscaped(b, v.value(p))
		default:
			b = appendClean(b, v.value(p))
		}
	}
	return string(b)
}

// value returns the value of a placeholder, "" for none.
func (v *View) value(p *part) string {
	switch p.from {
	case fromPath:
		return v.Params.Param(p.text)
	case fromQuery:
		return queryValue(v.Call.Query(), p.text)
	case fromHeader:
		return v.Call.Header(p.text)
	case fromClaim:
		return v.Claims.Text(p.text)
	case fromID:
		return v.ID
	}
	return ""
}

// queryValue returns the first value of a query parameter, decoded.
func queryValue(query, name string) string {
	for part := range strings.SplitSeq(query, "&") {
		n, value, _ := strings.Cut(part, "=")
		if n == name || unescapeQuery(n) == name {
			return unescapeQuery(value)
		}
	}
	return ""
}

func unescapeQuery(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	if d, err := url.QueryUnescape(s); err == nil {
		return d
	}
	return s
}

// unescape decodes percent escapes once; what is none stays.
func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := url.PathUnescape(s[i : i+3]); err == nil {
				b = append(b, c...)
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

// appendEscaped appends s with everything but unreserved characters (RFC 3986 §2.3) encoded.
func appendEscaped(b []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		if c := s[i]; isUnreserved(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return b
}

// appendClean appends s with a space for each control character: it stays one field.
func appendClean(b []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if c < ' ' && c != '\t' || c == 0x7f {
			c = ' '
		}
		b = append(b, c)
	}
	return b
}

func isUnreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

func isPathByte(c byte) bool { return isUnreserved(c) || strings.IndexByte("%/!$&'()*+,;=:@", c) >= 0 }
func isHostByte(c byte) bool { return isUnreserved(c) || strings.IndexByte(":[]", c) >= 0 }
func isTokenByte(c byte) bool {
	return isUnreserved(c) || strings.IndexByte("!#$%&'*+^`|", c) >= 0
}

func all(s string, is func(byte) bool) bool {
	for i := range len(s) {
		if !is(s[i]) {
			return false
		}
	}
	return true
}

// canonical writes a header name as policy.Call asks for it.
func canonical(s string) string {
	b := []byte(strings.ToLower(s))
	up := true
	for i, c := range b {
		if up && 'a' <= c && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
		up = c == '-'
	}
	return string(b)
}
