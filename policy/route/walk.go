package route

import (
	"strings"
	"tidegate/policy"
	"tidegate/policy/fault"
)

// verdict is what a walk comes to.
type verdict uint8

const (
	absent verdict = iota
	found
	dots
)

// find walks to the node of a path and fills in what it learns, but for the operation.
func (t *Table) find(m *Match, host, path string, tls bool) (*node, error) {
	if len(path) > maxPath {
		return nil, &fault.Error{Fault: fault.LongTarget}
	}
	if path == "" || path[0] != '/' {
		return nil, &fault.Error{Fault: fault.NotFound}
	}
	best, rest := t.base(host, path)
	if best == nil {
		return nil, &fault.Error{Fault: fault.NotFound}
	}
	a := t.apis[best.api]
	want := policy.HTTP
	if tls {
		want = policy.HTTPS
	}
	if a.transports != 0 && a.transports&want == 0 {
		return nil, &fault.Error{Fault: fault.NotFound}
	}
	n, v := a.root.walk(m, path, rest, 0)
	if v == absent && a.root.star != nil && rest >= len(path)-1 {
		n, v = a.root.star, found // "/*" is also the bare base path
		m.spans[0] = span{uint16(len(path)), uint16(len(path))}
	}
	switch v {
	case dots:
		return nil, &fault.Error{Fault: fault.BadRequest}
	case absent:
		return nil, &fault.Error{Fault: fault.NotFound}
	}
	m.API = &t.set.APIs[best.api]
	m.APIIndex = best.api
	m.Base = best.path
	m.Rest = path[rest:]
	return n, nil
}

// base returns the longest base path and where the path goes on behind it.
func (t *Table) base(host, path string) (best *target, rest int) {
	at, pos := t.root, 0
	for {
		here := at.any
		if len(at.hosts) > 0 {
			if h := at.hosts[host]; h != nil {
				here = h
			}
		}
		if here != nil {
			best, rest = here, pos
		}
		if at.next == nil || pos >= len(path)-1 {
			return best, rest
		}
		s := segment(path, pos)
		var next *base
		if s.escaped {
			var room [128]byte
			next = at.next[string(appendDecoded(room[:0], path[s.from:s.to]))]
		} else {
			next = at.next[path[s.from:s.to]]
		}
		if next == nil {
			return best, rest
		}
		at, pos = next, s.end
	}
}

// walk looks for the leaf of path[pos:], which is empty or begins with a slash. Each node
// of the tree is visited at most once, since only one way leads to it.
func (n *node) walk(m *Match, path string, pos, params int) (*node, verdict) {
	if pos >= len(path)-1 { // at the end, or at a trailing slash
		if len(n.ops) > 0 {
			return n, found
		}
		return nil, absent
	}
	s := segment(path, pos)
	if s.from == s.to {
		if n.matrix == nil || s.end == s.to { // two slashes
			return nil, absent
		}
		m.spans[params] = span{uint16(s.to), uint16(s.end)}
		return n.matrix.walk(m, path, s.end, params+1)
	}
	if s.dots(path) {
		return nil, dots
	}
	if next := n.next(path, s); next != nil {
		if l, v := next.walk(m, path, s.end, params); v != absent {
			return l, v
		}
	}
	for _, p := range n.patterns {
		if k, ok := p.match(m, path, s, params); ok {
			if l, v := p.next.walk(m, path, s.end, k); v != absent {
				return l, v
			}
		}
	}
	if n.param != nil {
		m.spans[params] = span{uint16(s.from), uint16(s.to)}
		if l, v := n.param.walk(m, path, s.end, params+1); v != absent {
			return l, v
		}
	}
	if n.star != nil {
		m.spans[params] = span{uint16(s.from), uint16(len(path))}
		return n.star, rest(path, s)
	}
	return nil, absent
}

// next returns the node of a static segment, or nil.
func (n *node) next(path string, s seg) *node {
	if !s.escaped {
		return n.to(path[s.from:s.to])
	}
	if n.static == nil && n.edges == nil {
		return nil
	}
	var room [128]byte
	text := appendDecoded(room[:0], path[s.from:s.to])
	if n.static != nil {
		return n.static[string(text)]
	}
	for i := range n.edges {
		if n.edges[i].segment == string(text) {
			return n.edges[i].to
		}
	}
	return nil
}

// rest judges the segments that an asterisk stands for, from s on.
func rest(path string, s seg) verdict {
	for {
		switch {
		case s.from == s.to:
			return absent
		case s.dots(path):
			return dots
		case s.end >= len(path)-1:
			return found
		}
		s = segment(path, s.end)
	}
}

// seg is a segment of a path without its matrix part.
type seg struct {
	from, to int  // of the name
	end      int  // of the segment: at the next slash or the end of the path
	escaped  bool // the name holds a percent sign
}

// segment returns the segment that begins with the slash at pos.
func segment(path string, pos int) seg {
	s := seg{from: pos + 1, to: -1}
	i := pos + 1
	for ; i < len(path); i++ {
		switch path[i] {
		case '/':
			s.end = i
			if s.to < 0 {
				s.to = i
			}
			return s
		case ';':
			if s.to < 0 {
				s.to = i
			}
		case '%':
			if s.to < 0 {
				s.escaped = true
			}
		}
	}
	s.end = i
	if s.to < 0 {
		s.to = i
	}
	return s
}

// dots reports whether s is "." or ".." once decoded.
func (s seg) dots(path string) bool {
	if c := path[s.from]; c != '.' && c != '%' || s.to-s.from > 6 {
		return false
	}
	n := 0
	for i := s.from; i < s.to; n++ {
		var c byte
		if c, i = next(path, i); c != '.' {
			return false
		}
	}
	return n <= 2
}

// match reads a segment with p. It returns how many parameters the match has then.
func (p *pattern) match(m *Match, path string, s seg, params int) (int, bool) {
	i, ok := prefix(path, s.from, s.to, p.lits[0])
	if !ok {
		return 0, false
	}
	for k, lit := range p.lits[1:] {
		last := k == len(p.lits)-2
		from := i
		if i >= s.to {
			return 0, false
		}
		_, i = next(path, i) // a parameter has at least one byte
		for {
			if last && lit == "" {
				m.spans[params] = span{uint16(from), uint16(s.to)}
				return params + 1, true
			}
			end, ok := prefix(path, i, s.to, lit)
			if ok && (!last || end == s.to) {
				m.spans[params] = span{uint16(from), uint16(i)}
				params++
				i = end
				break
			}
			if i >= s.to {
				return 0, false
			}
			_, i = next(path, i)
		}
	}
	return params, true
}

// prefix reports whether path[i:to], decoded, begins with lit, and where it goes on.
func prefix(path string, i, to int, lit string) (int, bool) {
	for k := range len(lit) {
		if i >= to {
			return 0, false
		}
		var c byte
		if c, i = next(path, i); c != lit[k] {
			return 0, false
		}
	}
	return i, true
}

// next returns the decoded byte at i and where the one after it begins.
func next(path string, i int) (byte, int) {
	if path[i] == '%' && i+2 < len(path) {
		hi, ok1 := unhex(path[i+1])
		lo, ok2 := unhex(path[i+2])
		if ok1 && ok2 {
			return hi<<4 | lo, i + 3
		}
	}
	return path[i], i + 1
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func appendDecoded(b []byte, s string) []byte {
	for i := 0; i < len(s); {
		var c byte
		c, i = next(s, i)
		b = append(b, c)
	}
	return b
}

func decode(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	return string(appendDecoded(make([]byte, 0, len(s)), s))
}
