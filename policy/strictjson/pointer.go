package strictjson

import (
	"fmt"
	"strconv"
	"strings"
)

// A Pointer is a JSON pointer (RFC 6901), taken apart and unescaped. For [Drop], the
// token "*" stands for every element of an array and every member of an object.
type Pointer []string

// ParsePointer reads a pointer to something inside a document: it begins with "/".
func ParsePointer(s string) (Pointer, error) {
	if s == "" || s[0] != '/' {
		return nil, fmt.Errorf("%q is not a JSON pointer to a member: it begins with /", s)
	}
	p := Pointer(strings.Split(s[1:], "/"))
	if len(p) > MaxDepth {
		return nil, fmt.Errorf("%q has more than %d steps", s, MaxDepth)
	}
	for i, t := range p {
		if strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(t), "~") {
			return nil, fmt.Errorf("%q: after ~ comes 0 or 1", s)
		}
		p[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(t)
	}
	return p, nil
}

// Find returns the bytes of the value at p in b, which [Check] has passed, without the
// blanks around it. The result is a part of b.
func Find(b []byte, p Pointer) (raw []byte, ok bool) {
	w := walker{scanner: scanner{b: b, left: 1 << 30}}
	w.space()
	for _, token := range p {
		if !w.enter(token) {
			return nil, false
		}
	}
	start := w.i
	w.skip()
	return w.b[start:w.i], w.err == nil
}

// walker moves over a document that has been checked.
type walker struct{ scanner }

func (w *walker) skip() {
	w.depth, w.keys = 0, w.keys[:0]
	w.skipValue()
}

// skipValue passes over a value without looking at names.
func (w *walker) skipValue() {
	depth := 0
	for w.i < len(w.b) {
		switch w.b[w.i] {
		case '"':
			w.skipText()
			if depth == 0 {
				return
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth <= 0 {
				if depth == 0 {
					w.i++
				}
				return
			}
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return
			}
		}
		w.i++
	}
}

func (w *walker) skipText() {
	for w.i++; w.i < len(w.b); w.i++ {
		switch w.b[w.i] {
		case '\\':
			w.i++
		case '"':
			w.i++
			return
		}
	}
}

// enter moves to the value of a token in the array or object that begins here.
func (w *walker) enter(token string) bool {
	found := false
	w.members(func(name string, index int) bool {
		if index < 0 && name == token || index >= 0 && strconv.Itoa(index) == token {
			found = true
			return false
		}
		return true
	})
	return found
}

// members calls f at the beginning of each element of the array (index from 0) or value of
// the object (index -1) that begins here. f returns false to stay there; else the walker passes over the value.
func (w *walker) members(f func(name string, index int) bool) {
	if w.i >= len(w.b) || w.b[w.i] != '{' && w.b[w.i] != '[' {
		return
	}
	object := w.b[w.i] == '{'
	w.i++
	for n := 0; ; n++ {
		w.space()
		if w.i >= len(w.b) || w.b[w.i] == '}' || w.b[w.i] == ']' {
			w.i++
			return
		}
		name, index := "", n
		if object {
			name, _ = w.text()
			w.space()
			w.i++ // the colon
			w.space()
			index = -1
		}
		at := w.i
		if !f(name, index) {
			return
		}
		if w.i == at {
			w.skipValue()
		}
		w.space()
		if w.i < len(w.b) && w.b[w.i] == ',' {
			w.i++
		}
	}
}

// Drop appends b, which [Check] has passed, without what the pointers name. Pointers
// that lead nowhere change nothing; in an array the element goes, and the rest moves up.
func Drop(dst, b []byte, pointers []Pointer) []byte {
	d := dropper{walker: walker{scanner{b: b, left: 1 << 30}}, out: dst}
	d.space()
	d.value(pointers)
	return append(d.out, b[d.from:]...)
}

// dropper copies a document but for the spans it leaves out.
type dropper struct {
	walker
	out  []byte
	from int // bytes before it are in out, or left out
}

// value handles the value that begins here under the pointers that may lead into it.
func (d *dropper) value(pointers []Pointer) {
	if d.i >= len(d.b) || d.b[d.i] != '{' && d.b[d.i] != '[' {
		d.skipValue()
		return
	}
	object := d.b[d.i] == '{'
	d.i++
	kept := 0
	for n := 0; ; n++ {
		d.space()
		if d.i >= len(d.b) || d.b[d.i] == '}' || d.b[d.i] == ']' {
			d.i++
			return
		}
		start := d.i
		token := strconv.Itoa(n)
		if object {
			token, _ = d.text()
			d.space()
			d.i++
			d.space()
		}
		var inner []Pointer
		gone := false
		for _, p := range pointers {
			if p[0] != token && p[0] != "*" {
				continue
			}
			if len(p) == 1 {
				gone = true
				break
			}
			inner = append(inner, p[1:])
		}
		if gone {
			d.skipValue()
		} else {
			kept++
			if len(inner) > 0 {
				d.value(inner)
			} else {
				d.skipValue()
			}
		}
		end := d.i
		d.space()
		comma := d.i < len(d.b) && d.b[d.i] == ','
		if comma {
			d.i++
		}
		if gone {
			d.leaveOut(start, end, comma, kept)
		}
	}
}

// leaveOut leaves out the element from start to end and one comma beside it: the one that
// follows, or, for the last element, the one before.
func (d *dropper) leaveOut(start, end int, comma bool, kept int) {
	d.out = append(d.out, d.b[d.from:start]...)
	switch {
	case comma:
		d.from = d.i
	default:
		d.from = end
		if kept > 0 {
			n := len(d.out)
			for n > 0 && d.out[n-1] != ',' {
				n--
			}
			d.out = d.out[:n-1]
		}
	}
}
