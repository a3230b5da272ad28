package policy

import (
	"net/netip"
	"slices"
)

// Networks are spans of addresses, ascending and apart, for a binary search: 1,000 of them cost a
// call ten comparisons. IPv4 in IPv6 form counts as IPv4, and zones do not count. The zero value
// holds no address.
type Networks []Range

// NewNetworks returns what list holds; spans that touch each other become one.
func NewNetworks(list []Range) Networks {
	r := make(Networks, 0, len(list))
	for _, x := range list {
		x.From, x.To = plainAddr(x.From), plainAddr(x.To)
		r = append(r, x)
	}
	slices.SortFunc(r, func(a, b Range) int { return a.From.Compare(b.From) })
	out := r[:0]
	for _, x := range r {
		if n := len(out); n > 0 && out[n-1].To.BitLen() == x.From.BitLen() && !out[n-1].To.Less(x.From) {
			if out[n-1].To.Less(x.To) {
				out[n-1].To = x.To
			}
			continue
		}
		out = append(out, x)
	}
	return out
}

// Contain reports whether a lies in one of the spans. It allocates nothing.
func (n Networks) Contain(a netip.Addr) bool {
	a = plainAddr(a)
	i, found := slices.BinarySearchFunc(n, a, func(x Range, a netip.Addr) int { return x.From.Compare(a) })
	if found {
		return true
	}
	return i > 0 && n[i-1].Contains(a)
}

func plainAddr(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
