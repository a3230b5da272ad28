package canon

import "encoding/binary"

// A Cursor walks bytes that one of the checks has accepted. Each method reads the
// next item if it is of the method's kind and says so; if not, it returns false and
// stays where it is. Slices share memory with the bytes given to [Walk].
type Cursor struct{ rest []byte }

// Walk returns a cursor before the first item of b.
func Walk(b []byte) Cursor { return Cursor{rest: b} }

// next reads a head of the given major type.
func (c *Cursor) next(want byte) (uint64, bool) {
	major, n, size, why := head(c.rest)
	if why != "" || major != want {
		return 0, false
	}
	c.rest = c.rest[size:]
	return n, true
}

// Array reads the head of an array and returns the number of its elements.
func (c *Cursor) Array() (n uint64, ok bool) { return c.next(majorArray) }

// Map reads the head of a map and returns the number of its pairs.
func (c *Cursor) Map() (n uint64, ok bool) { return c.next(majorMap) }

// Tag reads a tag; the item it belongs to is next.
func (c *Cursor) Tag() (n uint64, ok bool) { return c.next(majorTag) }

// Uint reads an integer from 0 to 2^64−1.
func (c *Cursor) Uint() (n uint64, ok bool) { return c.next(majorUint) }

// Int reads an integer from −2^63 to 2^63−1.
func (c *Cursor) Int() (int64, bool) {
	before := *c
	if n, ok := c.next(majorUint); ok && n < 1<<63 {
		return int64(n), true
	}
	*c = before
	if n, ok := c.next(majorNegint); ok && n < 1<<63 {
		return -1 - int64(n), true
	}
	*c = before
	return 0, false
}

// Bytes reads a byte string.
func (c *Cursor) Bytes() ([]byte, bool) { return c.str(majorBytes) }

// Text reads a text string.
func (c *Cursor) Text() (string, bool) {
	s, ok := c.str(majorText)
	return string(s), ok
}

func (c *Cursor) str(major byte) ([]byte, bool) {
	before := *c
	n, ok := c.next(major)
	if !ok || n > uint64(len(c.rest)) {
		*c = before
		return nil, false
	}
	s := c.rest[:n:n]
	c.rest = c.rest[n:]
	return s, true
}

// Raw reads the next item whatever it is and returns its encoding.
func (c *Cursor) Raw() ([]byte, bool) {
	start := c.rest
	for left := uint64(1); left > 0; left-- {
		major, n, size, why := head(c.rest)
		if why != "" {
			c.rest = start
			return nil, false
		}
		c.rest = c.rest[size:]
		switch major {
		case majorBytes, majorText:
			if n > uint64(len(c.rest)) {
				c.rest = start
				return nil, false
			}
			c.rest = c.rest[n:]
		case majorArray:
			left += n
		case majorMap:
			left += 2 * n
		case majorTag:
			left++
		}
	}
	used := len(start) - len(c.rest)
	return start[:used:used], true
}

// End reports whether nothing is left.
func (c *Cursor) End() bool { return len(c.rest) == 0 }

// AppendUint appends the integer n.
func AppendUint(b []byte, n uint64) []byte { return appendHead(b, majorUint, n) }

// AppendInt appends the integer n.
func AppendInt(b []byte, n int64) []byte {
	if n < 0 {
		return appendHead(b, majorNegint, uint64(-1-n))
	}
	return appendHead(b, majorUint, uint64(n))
}

// AppendBytes appends s as a byte string.
func AppendBytes(b, s []byte) []byte { return append(AppendBytesHead(b, uint64(len(s))), s...) }

// AppendBytesHead appends the head of a byte string of n bytes, which the caller
// writes next.
func AppendBytesHead(b []byte, n uint64) []byte { return appendHead(b, majorBytes, n) }

// AppendText appends s as text; s must be valid UTF-8.
func AppendText(b []byte, s string) []byte {
	return append(appendHead(b, majorText, uint64(len(s))), s...)
}

// AppendArray appends the head of an array of n elements, which the caller appends next.
func AppendArray(b []byte, n int) []byte { return appendHead(b, majorArray, uint64(n)) }

// AppendMap appends the head of a map of n pairs, which the caller appends next in
// ascending order of their encoded keys.
func AppendMap(b []byte, n int) []byte { return appendHead(b, majorMap, uint64(n)) }

// AppendSignTag appends tag 98; the caller appends a COSE_Sign next.
func AppendSignTag(b []byte) []byte { return appendHead(b, majorTag, tagSign) }

// appendHead appends the shortest head of the major type with argument n.
func appendHead(b []byte, major byte, n uint64) []byte {
	m := major << 5
	switch {
	case n < 24:
		return append(b, m|byte(n))
	case n < 1<<8:
		return append(b, m|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, m|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, m|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, m|27), n)
}
