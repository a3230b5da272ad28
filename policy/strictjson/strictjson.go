// Package strictjson reads JSON (RFC 8259) so that no two readers can disagree about it,
// and edits it in place. It is for bodies that a gateway looks into and a backend reads
// again: a name that stands twice in an object, a lone surrogate or bytes that are not UTF-8
// are errors, and so is what would cost far more to hold or to calculate with than to send.
//
// [Parse] gives the values, [Check] only the judgement, [Find] and [Drop] work on the bytes, so that what
// they leave alone stays byte for byte. Comments, NaN and other extensions are not read.
package strictjson

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// The bounds that every document keeps.
const (
	MaxDepth    = 64 // nested arrays and objects
	MaxNumber   = 64 // bytes of a number
	MaxExponent = 3  // digits of an exponent: 1e999999 costs 68 ms to a calculator with fractions
)

// A SyntaxError is what is wrong with a document, and where.
type SyntaxError struct {
	Offset int // bytes before it
	Reason string
}

// Error returns reason and place.
func (e *SyntaxError) Error() string { return fmt.Sprintf("%s at byte %d", e.Reason, e.Offset) }

// Parse returns the value of b as encoding/json would with UseNumber: map[string]any,
// []any, string, [json.Number], bool or nil. It refuses more than maxValues values. The
// result does not refer to b. Errors are [*SyntaxError].
func Parse(b []byte, maxValues int) (any, error) {
	s := scanner{b: b, left: maxValues, build: true}
	return s.document()
}

// Check judges b as [Parse] does, and builds nothing.
func Check(b []byte, maxValues int) error {
	s := scanner{b: b, left: maxValues}
	_, err := s.document()
	return err
}

// scanner reads one document. Methods return false after setting err.
type scanner struct {
	b     []byte
	i     int
	depth int
	left  int // values that may come
	build bool
	keys  []string // of the open objects, when nothing is built
	err   *SyntaxError
}

func (s *scanner) fail(reason string) bool {
	if s.err == nil {
		s.err = &SyntaxError{s.i, reason}
	}
	return false
}

func (s *scanner) document() (any, error) {
	s.space()
	v, ok := s.value()
	if ok {
		s.space()
		if s.i < len(s.b) {
			ok = s.fail("something follows the value")
		}
	}
	if !ok {
		return nil, s.err
	}
	return v, nil
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

func (s *scanner) value() (any, bool) {
	if s.left--; s.left < 0 {
		return nil, s.fail("more values than are looked into")
	}
	if s.i >= len(s.b) {
		return nil, s.fail("the document ends where a value should be")
	}
	switch c := s.b[s.i]; {
	case c == '{':
		return s.object()
	case c == '[':
		return s.array()
	case c == '"':
		t, ok := s.text()
		if !ok || !s.build {
			return nil, ok
		}
		return t, true
	case c == '-' || c-'0' < 10:
		return s.number()
	case c == 't':
		return true, s.word("true")
	case c == 'f':
		return false, s.word("false")
	case c == 'n':
		return nil, s.word("null")
	}
	return nil, s.fail("not a value")
}

func (s *scanner) word(w string) bool {
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		return s.fail("not a value")
	}
	s.i += len(w)
	return true
}

// number reads a number (RFC 8259 §6).
func (s *scanner) number() (any, bool) {
	start := s.i
	if s.b[s.i] == '-' {
		s.i++
	}
	whole := s.digits()
	switch {
	case whole == 0:
		return nil, s.fail("a number without digits")
	case whole > 1 && s.b[s.i-whole] == '0':
		return nil, s.fail("a number that begins with 0")
	}
	if s.i < len(s.b) && s.b[s.i] == '.' {
		s.i++
		if s.digits() == 0 {
			return nil, s.fail("a number without digits behind its point")
		}
	}
	if s.i < len(s.b) && s.b[s.i]|0x20 == 'e' {
		s.i++
		if s.i < len(s.b) && (s.b[s.i] == '+' || s.b[s.i] == '-') {
			s.i++
		}
		switch n := s.digits(); {
		case n == 0:
			return nil, s.fail("an exponent without digits")
		case n > MaxExponent:
			return nil, s.fail("an exponent of more than 3 digits")
		}
	}
	if s.i-start > MaxNumber {
		return nil, s.fail("a number of more than 64 bytes")
	}
	if !s.build {
		return nil, true
	}
	return json.Number(s.b[start:s.i]), true
}

func (s *scanner) digits() int {
	n := s.i
	for s.i < len(s.b) && s.b[s.i]-'0' < 10 {
		s.i++
	}
	return s.i - n
}

func (s *scanner) open() bool {
	if s.depth++; s.depth > MaxDepth {
		return s.fail("more than 64 levels")
	}
	s.i++
	s.space()
	return true
}

// more reads what stands between two elements: it reports whether another one follows.
func (s *scanner) more(end byte) (another, ok bool) {
	s.space()
	if s.i >= len(s.b) {
		return false, s.fail("the document ends inside a list or an object")
	}
	switch s.b[s.i] {
	case ',':
		s.i++
		s.space()
		return true, true
	case end:
		s.i++
		s.depth--
		return false, true
	}
	return false, s.fail("a comma is missing")
}

func (s *scanner) array() (any, bool) {
	if !s.open() {
		return nil, false
	}
	var list []any
	if s.build {
		list = []any{}
	}
	if s.i < len(s.b) && s.b[s.i] == ']' {
		s.i++
		s.depth--
		return list, true
	}
	for {
		v, ok := s.value()
		if !ok {
			return nil, false
		}
		if s.build {
			list = append(list, v)
		}
		another, ok := s.more(']')
		if !another {
			return list, ok
		}
	}
}

func (s *scanner) object() (any, bool) {
	if !s.open() {
		return nil, false
	}
	var m map[string]any
	if s.build {
		m = make(map[string]any)
	}
	first := len(s.keys)
	var seen map[string]struct{} // of large objects that are not built
	if s.i < len(s.b) && s.b[s.i] == '}' {
		s.i++
		s.depth--
		return m, true
	}
	for {
		if s.i >= len(s.b) || s.b[s.i] != '"' {
			return nil, s.fail("a name is missing")
		}
		at := s.i
		name, ok := s.text()
		if !ok {
			return nil, false
		}
		twice := false
		switch {
		case s.build:
			_, twice = m[name]
		case seen != nil:
			_, twice = seen[name]
			seen[name] = struct{}{}
		default:
			for _, k := range s.keys[first:] {
				twice = twice || k == name
			}
			s.keys = append(s.keys, name)
			if len(s.keys)-first == 32 {
				seen = make(map[string]struct{}, 64)
				for _, k := range s.keys[first:] {
					seen[k] = struct{}{}
				}
			}
		}
		if twice {
			s.i = at
			return nil, s.fail("a name that stands twice in its object")
		}
		s.space()
		if s.i >= len(s.b) || s.b[s.i] != ':' {
			return nil, s.fail("a colon is missing")
		}
		s.i++
		s.space()
		v, ok := s.value()
		if !ok {
			return nil, false
		}
		if s.build {
			m[name] = v
		}
		another, ok := s.more('}')
		if !another {
			s.keys = s.keys[:first]
			return m, ok
		}
	}
}

// text reads a string (RFC 8259 §7).
func (s *scanner) text() (string, bool) {
	s.i++
	start := s.i
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c == '"':
			raw := s.b[start:s.i]
			if !utf8.Valid(raw) {
				return "", s.fail("a text that is not UTF-8")
			}
			s.i++
			return string(raw), true
		case c == '\\':
			return s.escaped(start)
		case c < 0x20:
			return "", s.fail("a control character in a text")
		}
		s.i++
	}
	return "", s.fail("a text without an end")
}

// escaped reads on from the first escape of a string that began at start.
func (s *scanner) escaped(start int) (string, bool) {
	out := append([]byte(nil), s.b[start:s.i]...)
	for s.i < len(s.b) {
		c := s.b[s.i]
		switch {
		case c == '"':
			if !utf8.Valid(out) {
				return "", s.fail("a text that is not UTF-8")
			}
			s.i++
			return string(out), true
		case c < 0x20:
			return "", s.fail("a control character in a text")
		case c != '\\':
			out = append(out, c)
			s.i++
			continue
		}
		if s.i+1 >= len(s.b) {
			break
		}
		if e := s.b[s.i+1]; e == 'u' {
			r, ok := s.unicode()
			if !ok {
				return "", false
			}
			out = utf8.AppendRune(out, r)
		} else {
			plain, ok := unescape(e)
			if !ok {
				return "", s.fail("an unknown escape")
			}
			out = append(out, plain)
			s.i += 2
		}
	}
	s.i = len(s.b)
	return "", s.fail("a text without an end")
}

func unescape(e byte) (byte, bool) {
	switch e {
	case '"', '\\', '/':
		return e, true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	}
	return 0, false
}

// unicode reads \uXXXX, and the second half of a pair of surrogates.
func (s *scanner) unicode() (rune, bool) {
	r, ok := s.hex4(s.i)
	if !ok {
		return 0, s.fail("a bad \\u escape")
	}
	if r < 0xd800 || r > 0xdfff {
		s.i += 6
		return r, true
	}
	low, ok := s.hex4(s.i + 6)
	if r > 0xdbff || !ok || low < 0xdc00 || low > 0xdfff {
		return 0, s.fail("half a pair of surrogates")
	}
	s.i += 12
	return (r-0xd800)<<10 + (low - 0xdc00) + 0x10000, true
}

func (s *scanner) hex4(i int) (rune, bool) {
	if i+6 > len(s.b) || s.b[i] != '\\' || s.b[i+1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range s.b[i+2 : i+6] {
		switch {
		case c-'0' < 10:
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// AppendString appends s as a JSON string to b. What is not UTF-8 becomes U+FFFD.
func AppendString(b []byte, s string) []byte {
	b = append(b, '"')
	b = AppendInString(b, s)
	return append(b, '"')
}

// AppendInString appends s as it stands between the quotes of a JSON string.
func AppendInString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			b = utf8.AppendRune(b, r)
			i += n
			continue
		}
		i++
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20 || c == 0x7f || c == '<' || c == '>' || c == '&':
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return b
}
