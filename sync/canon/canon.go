// Package canon is the one form of CBOR that Tidegate reads and writes: RFC 8949
// §4.2.1 core deterministic encoding, narrowed to integers from −2^63, byte strings,
// UTF-8 text, arrays, maps with integer or text keys, false and true. A value has
// exactly one encoding, so a digest or a signature over bytes speaks of the value.
//
// [Check] runs before any decoder sees foreign bytes and allocates nothing while it
// agrees. [Unmarshal] checks, decodes strictly, and proves that nothing was lost by
// encoding again. [Reader] reads a CBOR sequence (RFC 8742) from a file and never
// allocates what a length merely announces. [Cursor] walks bytes that were checked.
//
// Package canon knows no message of ours but one shape: the places where a COSE_Sign
// may stand, because there, and nowhere else, a tag is allowed.
package canon

import (
	"bytes"
	"fmt"
	"tidegate/policy/refusal"
	"unicode/utf8"
)

// MaxDepth and MaxItems are the limits that every object of Tidegate keeps.
const (
	MaxDepth = 8
	MaxItems = 65536
)

// Limits bounds what [Check] accepts: Depth counts levels of nesting, the outermost
// item being 1 and a tag counting as a level; Items counts every item, map keys
// included; Bytes is the length of the encoding.
type Limits struct{ Depth, Items, Bytes int }

// Within returns the usual limits, [MaxDepth] and [MaxItems], for an encoding of at
// most n bytes.
func Within(n int) Limits { return Limits{Depth: MaxDepth, Items: MaxItems, Bytes: n} }

// The major types of RFC 8949 §3.1.
const (
	majorUint   = 0
	majorNegint = 1
	majorBytes  = 2
	majorText   = 3
	majorArray  = 4
	majorMap    = 5
	majorTag    = 6
	majorSimple = 7
)

// tagSign is the tag of COSE_Sign (RFC 9052 §4.1), the only tag of the profile.
const tagSign = 98

// Check reports whether b is exactly one item of the profile, without any tag.
//
// It returns nil, or a refusal with the offset of the fault: E_CBOR_CANON for what
// is not canonical or not of the profile, E_LIMIT for too long, too deep or too many
// items, E_FORMAT for text that is not UTF-8.
func Check(b []byte, lim Limits) error { return check(b, lim, plain) }

// CheckSign is [Check] for one COSE_Sign: the outermost item must be tag 98, and no
// other tag may follow. A missing, other or doubled tag is E_FORMAT.
func CheckSign(b []byte, lim Limits) error { return check(b, lim, sign) }

// CheckMetaset is [Check] for the metaset of a bundle, an array of five in which tag
// 98 stands before the fourth element and before each element of the others.
func CheckMetaset(b []byte, lim Limits) error { return check(b, lim, metaset) }

// A place says which tags may stand where an item is read.
type place uint8

const (
	plain   place = iota // no tag here nor below
	sign                 // tag 98 must stand here
	signed               // the item behind tag 98
	signs                // an array of sign
	metaset              // [signs, signs, signs, sign, signs]
)

// element returns the place of element i of an array that stands at p.
func (p place) element(i uint64) place {
	switch {
	case p == signs, p == metaset && i == 3:
		return sign
	case p == metaset:
		return signs
	}
	return plain
}

func check(b []byte, lim Limits, p place) error {
	if len(b) > lim.Bytes {
		return refusal.New(refusal.Limit, "%d bytes of CBOR, at most %d are allowed", len(b), lim.Bytes)
	}
	c := checker{b: b, lim: lim}
	if err := c.item(1, p); err != nil {
		return err
	}
	if c.off != len(b) {
		return c.refuse(c.off, "more bytes after the item")
	}
	return nil
}

// A checker is the state of one [Check]: where it is and what it has seen.
type checker struct {
	b     []byte
	off   int
	items int
	lim   Limits
}

func (c *checker) refuse(at int, why string) error {
	return refusal.New(refusal.CBORCanon, "CBOR is not canonical at byte %d: %s", at, why)
}

// item checks the item at c.off, which lies depth levels deep, and moves behind it.
func (c *checker) item(depth int, p place) error {
	at := c.off
	if c.items++; c.items > c.lim.Items {
		return refusal.New(refusal.Limit, "CBOR has more than %d items at byte %d", c.lim.Items, at)
	}
	if depth > c.lim.Depth {
		return refusal.New(refusal.Limit, "CBOR is nested deeper than %d levels at byte %d", c.lim.Depth, at)
	}
	major, n, size, why := head(c.b[at:])
	if why != "" {
		return c.refuse(at, why)
	}
	if err := atPlace(p, major, n, at); err != nil {
		return err
	}
	c.off += size
	switch major {
	case majorNegint:
		if n > 1<<63-1 {
			return c.refuse(at, "integer below -2^63")
		}
	case majorBytes, majorText:
		if n > uint64(len(c.b)-c.off) {
			return c.refuse(at, "string is longer than what is left")
		}
		s := c.b[c.off : c.off+int(n)]
		if major == majorText && !utf8.Valid(s) {
			return refusal.New(refusal.Format, "text at byte %d is not UTF-8", at)
		}
		c.off += int(n)
	case majorArray:
		for i := range n {
			if err := c.item(depth+1, p.element(i)); err != nil {
				return err
			}
		}
	case majorMap:
		return c.pairs(n, depth)
	case majorTag:
		if p != sign {
			return c.refuse(at, "tags are not allowed here")
		}
		return c.item(depth+1, signed)
	case majorSimple:
		if n != 20 && n != 21 {
			return c.refuse(at, "of the simple values only false and true are allowed")
		}
	}
	return nil
}

// pairs checks the n pairs of a map whose head has been read. Keys must strictly
// ascend by their encoded bytes, so none stands twice.
func (c *checker) pairs(n uint64, depth int) error {
	var last []byte
	for range n {
		at := c.off
		if err := c.item(depth+1, plain); err != nil {
			return err
		}
		key := c.b[at:c.off]
		switch key[0] >> 5 {
		case majorUint, majorNegint, majorText:
		default:
			return c.refuse(at, "map key is neither an integer nor text")
		}
		if last != nil {
			switch order := bytes.Compare(last, key); {
			case order == 0:
				return c.refuse(at, "map key stands twice")
			case order > 0:
				return c.refuse(at, "map keys are not sorted")
			}
		}
		last = key
		if err := c.item(depth+1, plain); err != nil {
			return err
		}
	}
	return nil
}

// atPlace refuses an item whose head does not fit the place where it stands.
func atPlace(p place, major byte, n uint64, at int) error {
	switch {
	case p == plain:
		return nil
	case p == sign && major != majorTag:
		return refusal.New(refusal.Format, "cose: no tag at byte %d, want COSE_Sign (tag 98)", at)
	case p == sign && n != tagSign:
		return refusal.New(refusal.Format, "cose: tag %d at byte %d, want COSE_Sign (tag 98)", n, at)
	case p == signed && major == majorTag:
		return refusal.New(refusal.Format, "cose: a second tag at byte %d", at)
	case p == metaset && (major != majorArray || n != 5):
		return refusal.New(refusal.Format, "metaset: want an array of 5 at byte %d", at)
	case p == signs && major != majorArray:
		return refusal.New(refusal.Format, "metaset: want an array of COSE_Sign at byte %d", at)
	}
	return nil
}

// head reads the head at the start of b: major type, argument, and the bytes it
// takes. A fault is told in why, with size 0. For major type 7, n is the number of
// the simple value.
func head(b []byte) (major byte, n uint64, size int, why string) {
	if len(b) == 0 {
		return 0, 0, 0, "ends where an item should begin"
	}
	major, info := b[0]>>5, b[0]&31
	switch {
	case info < 24:
		return major, uint64(info), 1, ""
	case info == 31:
		return 0, 0, 0, "indefinite length"
	case info > 27:
		return 0, 0, 0, "reserved value in the head"
	case major == majorSimple && info > 24:
		return 0, 0, 0, "floating-point number"
	}
	width := 1 << (info - 24)
	if len(b) < 1+width {
		return 0, 0, 0, "ends inside the head of an item"
	}
	for _, x := range b[1 : 1+width] {
		n = n<<8 | uint64(x)
	}
	shortest := n >= 24
	switch {
	case major == majorSimple:
		shortest = n >= 32 // RFC 8949 §3.3: below 32 the second byte does not exist
	case width > 1:
		shortest = n>>(width*4) != 0
	}
	if !shortest {
		return 0, 0, 0, fmt.Sprintf("%d is not in its shortest form", n)
	}
	return major, n, 1 + width, ""
}
