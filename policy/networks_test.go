package policy

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// TestNetworksHoldWhatTheirRangesHold compares the search with a look at each range.
func TestNetworksHoldWhatTheirRangesHold(t *testing.T) {
	addr := rapid.Custom(func(t *rapid.T) netip.Addr {
		b := rapid.Byte().Draw(t, "byte")
		switch rapid.IntRange(0, 3).Draw(t, "family") {
		case 0:
			return netip.AddrFrom4([4]byte{10, 0, b & 3, b})
		case 1:
			return netip.AddrFrom16(netip.AddrFrom4([4]byte{10, 0, b & 3, b}).As16())
		case 2:
			return netip.AddrFrom16([16]byte{0xfe, 0x80, 15: b}).WithZone("eth0")
		}
		return netip.AddrFrom16([16]byte{0xfe, 0x80, 15: b})
	})
	rapid.Check(t, func(t *rapid.T) {
		var list []Range
		for range rapid.IntRange(0, 8).Draw(t, "ranges") {
			from, to := plainAddr(addr.Draw(t, "from")), plainAddr(addr.Draw(t, "to"))
			if from.BitLen() != to.BitLen() {
				continue
			}
			if to.Less(from) {
				from, to = to, from
			}
			list = append(list, Range{From: from, To: to})
		}
		n := NewNetworks(list)
		for range 20 {
			a := addr.Draw(t, "address")
			want := false
			for _, r := range list {
				want = want || r.Contains(plainAddr(a))
			}
			if got := n.Contain(a); got != want {
				t.Fatalf("%v in %v: got %v, want %v", a, list, got, want)
			}
		}
	})
}
