package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// limits of a decoded set: 65,536 operations and 131,072 consumers are far above what fits a device.
const (
	maxElements = 1 << 20
	maxNesting  = 24
)

// Nothing in these modes changes after they are made; making them costs more than a decode of a small set.
var encMode = sync.OnceValues(func() (cbor.EncMode, error) {
	return cbor.CoreDetEncOptions().EncMode()
})

var decMode = sync.OnceValues(func() (cbor.DecMode, error) {
	return cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   maxNesting,
		MaxArrayElements:  maxElements,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		UTF8:              cbor.UTF8RejectInvalid,
	}.DecMode()
})

// Encode returns the deterministic encoded form of s (RFC 8949 §4.2.1): the same set
// gives the same bytes.
func Encode(s *Set) ([]byte, error) {
	m, err := encMode()
	if err != nil {
		return nil, err
	}
	return m.Marshal(s)
}

// Decode reads the form that [Encode] writes. It refuses unknown fields and a higher
// [Format]; it does not validate. The result does not refer to b.
func Decode(b []byte) (*Set, error) {
	m, err := decMode()
	if err != nil {
		return nil, err
	}
	var head struct {
		Format uint `cbor:"1,keyasint"`
	}
	if err := cbor.Unmarshal(b, &head); err != nil {
		return nil, fmt.Errorf("policy set: %w", err)
	}
	if head.Format != Format {
		return nil, fmt.Errorf("policy set: format %d, this program reads %d", head.Format, Format)
	}
	s := new(Set)
	if err := m.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("policy set: %w", err)
	}
	return s, nil
}

func parseRange(s string) (Range, error) {
	s = strings.TrimSpace(s)
	if p, err := netip.ParsePrefix(s); err == nil {
		p = p.Masked()
		r := Range{From: p.Addr().Unmap(), To: last(p)}
		if r.To.Is4In6() { // ::ffff:0:0/90: neither IPv4 nor IPv6
			return Range{}, fmt.Errorf("prefix %q mixes IPv4 and IPv6", s)
		}
		return r, nil
	}
	if a, b, ok := strings.Cut(s, "-"); ok {
		from, err1 := netip.ParseAddr(strings.TrimSpace(a))
		to, err2 := netip.ParseAddr(strings.TrimSpace(b))
		if err1 != nil || err2 != nil {
			return Range{}, fmt.Errorf("%q is not a range of addresses", s)
		}
		from, to = from.Unmap().WithZone(""), to.Unmap().WithZone("")
		if from.BitLen() != to.BitLen() || to.Less(from) {
			return Range{}, fmt.Errorf("range %q: the end is not behind the start", s)
		}
		return Range{from, to}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return Range{}, fmt.Errorf("%q is not an address, a range or a prefix", s)
	}
	a = a.Unmap().WithZone("")
	return Range{a, a}, nil
}

// last returns the highest address of a masked prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().Unmap().AsSlice()
	bits := p.Bits()
	if p.Addr().Is4In6() {
		bits -= 96
	}
	for i := max(bits, 0); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
