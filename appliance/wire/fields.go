package wire

import "bytes"

// A refusal is why a message is not accepted: the status the client is due and the reason
// for the log. All of them are made once.
type refusal struct {
	status int
	reason string
}

func (r *refusal) Error() string { return r.reason }

var (
	errLineEnd    = &refusal{400, "line does not end in CR LF"}
	errFold       = &refusal{400, "folded field"}
	errFieldName  = &refusal{400, "field name is not a token"}
	errFieldValue = &refusal{400, "control character in a field value"}
	errTooMany    = &refusal{431, "too many fields"}
)

// Classes of bytes in a message.
const (
	isToken   = 1 << iota // tchar, RFC 9110 §5.6.2
	isName                // letters, digits, "-": names that every backend reads alike
	isValue               // field-vchar, SP, HTAB, RFC 9110 §5.5
	isPath                // may stand in a path as it is
	isQuery               // may stand in a query as it is
	isHost                // may stand in a host name
	isMethod              // may stand in a method
	isSpecial             // "/", ".", "%", ";": what a path's check must look at
)

var class = func() (c [256]uint8) {
	for i := 0x20; i < 256; i++ {
		if i != 0x7f {
			c[i] |= isValue
		}
	}
	c['\t'] |= isValue
	for i := 'a'; i <= 'z'; i++ {
		c[i] |= isToken | isName | isHost
		c[i-0x20] |= isToken | isName | isHost | isMethod
	}
	for i := '0'; i <= '9'; i++ {
		c[i] |= isToken | isName | isHost
	}
	for _, b := range "!#$%&'*+.^_`|~-" {
		c[b] |= isToken
	}
	c['-'] |= isName | isMethod | isHost
	for _, b := range "._~" {
		c[b] |= isHost
	}
	for i := 0x21; i < 0x7f; i++ {
		c[i] |= isPath | isQuery
	}
	c['#'] &^= isQuery
	// RFC 3986 §3.3, and what browsers send beyond it: "[", "]", "|".
	for _, b := range "#?\\\"<>^`{}" {
		c[b] &^= isPath
	}
	for _, b := range "/.%;" {
		c[b] |= isSpecial
	}
	return c
}()

func all(b []byte, want uint8) bool {
	for _, c := range b {
		if class[c]&want == 0 {
			return false
		}
	}
	return true
}

// headEnd looks for the end of a head in b, whose first from bytes were looked at
// before. It returns the length of the head with its empty line, or 0 and from where to look
// next. A line end without CR is refused at once, so that nobody waits for one that cannot come.
func headEnd(b []byte, from int) (end, next int, err *refusal) {
	for {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return 0, len(b), nil
		}
		i += from
		if i == 0 || b[i-1] != '\r' {
			return 0, 0, errLineEnd
		}
		if i == 1 || i >= 3 && b[i-2] == '\n' {
			return i + 1, 0, nil
		}
		from = i + 1
	}
}

// splitField cuts the next field off b, which ends with the empty line's CR LF. At the
// empty line it returns a nil name and the rest behind it.
func splitField(b []byte) (name, value, rest []byte, err *refusal) {
	i := bytes.IndexByte(b, '\n')
	if i < 1 || b[i-1] != '\r' {
		return nil, nil, nil, errLineEnd
	}
	line, rest := b[:i-1], b[i+1:]
	if len(line) == 0 {
		return nil, nil, rest, nil
	}
	if line[0] == ' ' || line[0] == '\t' {
		return nil, nil, nil, errFold
	}
	n := 0
	for n < len(line) && class[line[n]]&isToken != 0 {
		n++
	}
	if n == 0 || n == len(line) || line[n] != ':' {
		return nil, nil, nil, errFieldName
	}
	v := line[n+1:]
	for len(v) > 0 && (v[0] == ' ' || v[0] == '\t') {
		v = v[1:]
	}
	for len(v) > 0 && (v[len(v)-1] == ' ' || v[len(v)-1] == '\t') {
		v = v[:len(v)-1]
	}
	if !all(v, isValue) {
		return nil, nil, nil, errFieldValue
	}
	return line[:n], v, rest, nil
}

// fold reports whether b is s, which is in lower case, without regard to ASCII case.
func fold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		if lower(c) != s[i] {
			return false
		}
	}
	return true
}

// tokens yields the elements of a comma-separated list, trimmed; empty ones are left out.
func tokens(v []byte, yield func([]byte) bool) {
	for len(v) > 0 {
		t := v
		if i := bytes.IndexByte(v, ','); i >= 0 {
			t, v = v[:i], v[i+1:]
		} else {
			v = nil
		}
		if t = bytes.Trim(t, " \t"); len(t) > 0 && !yield(t) {
			return
		}
	}
}

// number reads a Content-Length: digits only, RFC 9110 §8.6, below 10^18.
func number(v []byte) (int64, bool) {
	if len(v) == 0 || len(v) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// hopByHop reports whether a field is for one connection only and therefore neither shown
// nor forwarded, nor taken from a handler (RFC 9110 §7.6.1).
func hopByHop(name []byte) bool {
	switch len(name) {
	case 2:
		return fold(name, "te")
	case 7:
		return fold(name, "trailer") || fold(name, "upgrade")
	case 10:
		return fold(name, "connection") || fold(name, "keep-alive")
	case 14:
		return fold(name, "http2-settings") || fold(name, "content-length")
	case 16:
		return fold(name, "proxy-connection")
	case 17:
		return fold(name, "transfer-encoding")
	case 18:
		return fold(name, "proxy-authenticate")
	case 19:
		return fold(name, "proxy-authorization")
	}
	return false
}
