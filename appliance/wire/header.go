package wire

import "strings"

// Header is a list of fields in the order received. Its strings are valid until the call ends.
type Header []Field

// kept returns a copy of h that outlives the call, its text in one piece.
func (h Header) kept() Header {
	if len(h) == 0 {
		return nil
	}
	n := 0
	for i := range h {
		n += len(h[i].Name) + len(h[i].Value)
	}
	var b strings.Builder
	b.Grow(n)
	for i := range h {
		b.WriteString(h[i].Name)
		b.WriteString(h[i].Value)
	}
	rest := b.String()
	out := make(Header, len(h))
	for i := range h {
		name := len(h[i].Name)
		end := name + len(h[i].Value)
		out[i], rest = Field{rest[:name], rest[name:end]}, rest[end:]
	}
	return out
}

// Value returns the first value of a field, "" when it is absent. Names compare without
// regard to case (ASCII).
func (h Header) Value(name string) string {
	for i := range h {
		if sameName(h[i].Name, name) {
			return h[i].Value
		}
	}
	return ""
}

// Has reports whether a field is present.
func (h Header) Has(name string) bool {
	for i := range h {
		if sameName(h[i].Name, name) {
			return true
		}
	}
	return false
}

// Values yields each value of a field in order.
func (h Header) Values(name string, yield func(string) bool) {
	for i := range h {
		if sameName(h[i].Name, name) && !yield(h[i].Value) {
			return
		}
	}
}

// sameName compares two field names without regard to ASCII case.
func sameName(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i++ {
		if x, y := a[i], b[i]; x != y && lower(x) != lower(y) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c-'A' < 26 {
		return c | 0x20
	}
	return c
}
