package wire

import (
	"net/netip"
	"slices"
	"sort"
	"tidegate/policy"
)

// Ranges returns a test of whether an address lies in one of the ranges, for
// Server.Trusted. IPv4 in IPv6 form is judged as IPv4.
func Ranges(ranges []policy.Range) func(netip.Addr) bool {
	r := slices.Clone(ranges)
	slices.SortFunc(r, func(a, b policy.Range) int { return a.From.Compare(b.From) })
	// top[i] is the highest end of r[:i+1], so that nested ranges are found as well.
	top := make([]netip.Addr, len(r))
	for i := range r {
		top[i] = r[i].To
		if i > 0 && top[i-1].Compare(top[i]) > 0 {
			top[i] = top[i-1]
		}
	}
	return func(a netip.Addr) bool {
		a = a.Unmap().WithZone("")
		i := sort.Search(len(r), func(i int) bool { return r[i].From.Compare(a) > 0 })
		return i > 0 && top[i-1].BitLen() == a.BitLen() && top[i-1].Compare(a) >= 0
	}
}
