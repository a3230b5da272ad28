package wire

import (
	"bytes"
	"net/netip"
)

var (
	errTarget    = &refusal{400, "request target is neither a path nor an http URL"}
	errPath      = &refusal{400, "character that may not stand in a path"}
	errEscape    = &refusal{400, "bad percent escape"}
	errNUL       = &refusal{400, "NUL or backslash in the path"}
	errDots      = &refusal{400, "dot segment in the path"}
	errQuery     = &refusal{400, "character that may not stand in a query"}
	errHost      = &refusal{400, "bad Host"}
	errOtherHost = &refusal{400, "request target and Host name different hosts"}
)

// splitTarget reads a request target in origin-form or absolute-form (RFC 9112 §3.2).
// Authority is nil in origin-form. The parts are slices of t, except the path "/" of a URL
// without one.
func splitTarget(t []byte) (authority, path, query []byte, err *refusal) {
	if len(t) == 0 {
		return nil, nil, nil, errTarget
	}
	if t[0] != '/' {
		switch {
		case len(t) > 7 && fold(t[:7], "http://"):
			t = t[7:]
		case len(t) > 8 && fold(t[:8], "https://"):
			t = t[8:]
		default:
			return nil, nil, nil, errTarget
		}
		i := bytes.IndexAny(t, "/?#")
		if i < 0 {
			i = len(t)
		}
		if authority, t = t[:i], t[i:]; len(authority) == 0 {
			return nil, nil, nil, errTarget
		}
	}
	path = t
	if i := bytes.IndexByte(t, '?'); i >= 0 {
		path, query = t[:i], t[i+1:]
	}
	if len(path) == 0 {
		path = []byte{'/'}
	}
	if err := checkPath(path); err != nil {
		return nil, nil, nil, err
	}
	return authority, path, query, checkQuery(query)
}

// checkPath refuses paths that two readers could resolve differently: dot segments in
// any encoding, however often encoded, also before ";" or between "%2F"; NUL; backslash;
// bad escapes. Everything else stays as it is.
func checkPath(p []byte) *refusal {
	const other = 3       // the segment is more than dots
	dots, cut := 0, false // dots seen; cut: behind the segment's ";"
	for i := 0; i < len(p); {
		c := p[i]
		k := class[c]
		if k&isPath == 0 {
			return errPath
		}
		i++
		if k&isSpecial == 0 {
			if !cut {
				dots = other
			}
			continue
		}
		if c == '%' {
			var n int
			if c, n = unescape(p[i:]); n == 0 {
				return errEscape
			}
			i += n
		}
		switch c {
		case 0, '\\':
			return errNUL
		case '/':
			if dots == 1 || dots == 2 {
				return errDots
			}
			dots, cut = 0, false
		case ';':
			cut = true
		case '.':
			if !cut && dots < other {
				dots++
			}
		default:
			if !cut {
				dots = other
			}
		}
	}
	if dots == 1 || dots == 2 {
		return errDots
	}
	return nil
}

// unescape reads the escape whose "%" stands before b, and through it: "%25" before two
// hex digits is an escaped escape. It returns the innermost byte and the length read, 0
// when the outermost escape is malformed.
func unescape(b []byte) (byte, int) {
	n := 0
	for {
		if len(b) < n+2 {
			break
		}
		h, l := unhex(b[n]), unhex(b[n+1])
		if h > 15 || l > 15 {
			break
		}
		n += 2
		if c := h<<4 | l; c != '%' {
			return c, n
		}
	}
	return '%', n
}

func unhex(c byte) byte {
	switch {
	case c-'0' < 10:
		return c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 255
}

func checkQuery(q []byte) *refusal {
	for i := 0; i < len(q); i++ {
		c := q[i]
		if class[c]&isQuery == 0 {
			return errQuery
		}
		if c == '%' {
			if i+2 >= len(q) || unhex(q[i+1]) > 15 || unhex(q[i+2]) > 15 {
				return errEscape
			}
			i += 2
		}
	}
	return nil
}

// checkHost accepts a registered name, an IPv4 address or an IPv6 address in brackets, with
// or without a port (RFC 9110 §7.2), and returns the length of the part before the port.
func checkHost(h []byte) (int, *refusal) {
	if len(h) == 0 || len(h) > 262 {
		return 0, errHost
	}
	n := 0
	if h[0] == '[' {
		n = bytes.IndexByte(h, ']')
		if n < 3 {
			return 0, errHost
		}
		if a, err := netip.ParseAddr(text(h[1:n])); err != nil || !a.Is6() || a.Zone() != "" {
			return 0, errHost
		}
		n++
	} else {
		for n < len(h) && class[h[n]]&isHost != 0 {
			n++
		}
	}
	if n == 0 {
		return 0, errHost
	}
	if n == len(h) {
		return n, nil
	}
	port := h[n:]
	if port[0] != ':' || len(port) < 2 || len(port) > 6 {
		return 0, errHost
	}
	for _, c := range port[1:] {
		if c < '0' || c > '9' {
			return 0, errHost
		}
	}
	return n, nil
}
