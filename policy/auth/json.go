package auth

import (
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

// member is one member of a JSON object, unread.
type member struct {
	name string
	raw  string
}

// object is a JSON object in its order. Names are compared byte for byte: "EXP" is not "exp".
type object []member

var (
	errObject = errors.New("not a JSON object")
	errUTF8   = errors.New("not UTF-8")
	errMember = errors.New("a member appears twice")
)

// readObject reads one JSON object and nothing after it. A name that appears twice is an
// error: readers disagree on which one counts.
func readObject(b []byte) (object, error) {
	switch {
	case !utf8.Valid(b):
		return nil, errUTF8
	case !json.Valid(b):
		return nil, errObject
	}
	return splitObject(string(b))
}

// splitObject splits valid JSON. The members share the memory of s.
func splitObject(s string) (object, error) {
	i := skipBlanks(s, 0)
	if s[i] != '{' {
		return nil, errObject
	}
	o := make(object, 0, 16)
	for i = skipBlanks(s, i+1); s[i] != '}'; {
		end := stringEnd(s, i)
		name := textOf(s[i:end])
		if _, twice := o.find(name); twice {
			return nil, errMember
		}
		i = skipBlanks(s, skipBlanks(s, end)+1) // over the colon
		end = valueEnd(s, i)
		o = append(o, member{name, s[i:end]})
		if i = skipBlanks(s, end); s[i] == ',' {
			i = skipBlanks(s, i+1)
		}
	}
	return o, nil
}

// readList splits a valid JSON list into its elements; ok is false for another value.
func readList(s string) (list []string, ok bool) {
	if s == "" || s[0] != '[' {
		return nil, false
	}
	for i := skipBlanks(s, 1); s[i] != ']'; {
		end := valueEnd(s, i)
		list = append(list, s[i:end])
		if i = skipBlanks(s, end); s[i] == ',' {
			i = skipBlanks(s, i+1)
		}
	}
	return list, true
}

// textOf returns a valid JSON value as text: strings decoded, all else as it is.
func textOf(raw string) string {
	if raw == "" || raw[0] != '"' {
		return raw
	}
	if strings.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	var s string
	if json.Unmarshal([]byte(raw), &s) != nil {
		return ""
	}
	return s
}

// The rest walks valid JSON (RFC 8259) only.

func skipBlanks(s string, i int) int {
	for i < len(s) && (s[i] == ' ' || s[i] == '\t' || s[i] == '\n' || s[i] == '\r') {
		i++
	}
	return i
}

// stringEnd returns the index behind the string that begins at i.
func stringEnd(s string, i int) int {
	for i++; s[i] != '"'; i++ {
		if s[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// valueEnd returns the index behind the value that begins at i.
func valueEnd(s string, i int) int {
	for depth := 0; ; {
		switch s[i] {
		case '"':
			i = stringEnd(s, i)
		case '{', '[':
			depth++
			i++
			continue
		case '}', ']':
			depth--
			i++
		case ',', ':', ' ', '\t', '\n', '\r':
			i++
			continue
		default: // number, true, false, null
			for i < len(s) && strings.IndexByte(",]} \t\n\r", s[i]) < 0 {
				i++
			}
		}
		if depth == 0 {
			return i
		}
	}
}
