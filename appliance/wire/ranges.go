package wire

import (
	"net/netip"
	"tidegate/policy"
)

// Ranges returns a test of whether an address lies in one of the ranges, for
// Server.Trusted. IPv4 in IPv6 form is judged as IPv4.
func Ranges(ranges []policy.Range) func(netip.Addr) bool {
	return policy.NewNetworks(ranges).Contain
}
