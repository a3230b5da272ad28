package board

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
)

// Messages of DHCP (RFC 2131, options by RFC 2132) as far as a device needs them.
const (
	dhcpDiscover = 1
	dhcpOffer    = 2
	dhcpRequest  = 3
	dhcpAck      = 5
	dhcpNak      = 6

	optMask, optRouter, optDNS               = 1, 3, 6
	optAddress, optLease, optType, optServer = 50, 51, 53, 54
	optParameters, optRenew, optClientID     = 55, 58, 61
	optPad, optEnd                           = 0, 255
	dhcpCookie                               = 0x63825363
	dhcpFixed                                = 240 // bytes up to and with the cookie
)

// A Lease is an address for a while.
type Lease struct {
	Address netip.Prefix
	Gateway netip.Addr // invalid: none
	DNS     []netip.Addr
	Server  netip.Addr
	For     time.Duration
	Renew   time.Duration // when to ask again, at most half of For
}

// dhcpMessage is one message of a server.
type dhcpMessage struct {
	kind byte
	Lease
}

// dhcpQuery writes a DISCOVER (no address), a REQUEST for an offer (server given), or a
// REQUEST to renew.
func dhcpQuery(kind byte, id uint32, mac [6]byte, ask, server, have netip.Addr) []byte {
	b := make([]byte, dhcpFixed, 300)
	b[0], b[1], b[2] = 1, 1, 6 // BOOTREQUEST, Ethernet, length of its addresses
	binary.BigEndian.PutUint32(b[4:], id)
	binary.BigEndian.PutUint16(b[10:], 0x8000) // answer by broadcast: there is no address yet
	if have.Is4() {
		copy(b[12:], have.AsSlice())
	}
	copy(b[28:], mac[:])
	binary.BigEndian.PutUint32(b[236:], dhcpCookie)
	b = append(b, optType, 1, kind, optClientID, 7, 1)
	b = append(b, mac[:]...)
	if ask.Is4() {
		b = append(append(b, optAddress, 4), ask.AsSlice()...)
	}
	if server.Is4() {
		b = append(append(b, optServer, 4), server.AsSlice()...)
	}
	b = append(b, optParameters, 4, optMask, optRouter, optDNS, optLease, optEnd)
	return append(b, make([]byte, max(0, 300-len(b)))...)
}

var errNotForUs = errors.New("not an answer to this question")

// parseDHCP reads the answer to question id of mac.
func parseDHCP(b []byte, id uint32, mac [6]byte) (dhcpMessage, error) {
	var m dhcpMessage
	if len(b) < dhcpFixed || b[0] != 2 || binary.BigEndian.Uint32(b[4:]) != id || [6]byte(b[28:34]) != mac || binary.BigEndian.Uint32(b[236:]) != dhcpCookie {
		return m, errNotForUs
	}
	address, bits := netip.AddrFrom4([4]byte(b[16:20])), 24
	seconds, renew := uint32(3600), uint32(0)
	for o := b[dhcpFixed:]; len(o) > 0 && o[0] != optEnd; {
		if o[0] == optPad {
			o = o[1:]
			continue
		}
		if len(o) < 2 || len(o) < 2+int(o[1]) {
			return m, errors.New("an option is cut off")
		}
		v := o[2 : 2+int(o[1])]
		switch {
		case o[0] == optType && len(v) == 1:
			m.kind = v[0]
		case o[0] == optMask && len(v) == 4:
			ones, ok := maskBits(binary.BigEndian.Uint32(v))
			if !ok {
				return m, errors.New("the mask has holes")
			}
			bits = ones
		case o[0] == optRouter && len(v) >= 4:
			m.Gateway = netip.AddrFrom4([4]byte(v))
		case o[0] == optServer && len(v) == 4:
			m.Server = netip.AddrFrom4([4]byte(v))
		case o[0] == optDNS:
			for ; len(v) >= 4 && len(m.DNS) < 3; v = v[4:] {
				m.DNS = append(m.DNS, netip.AddrFrom4([4]byte(v)))
			}
		case o[0] == optLease && len(v) == 4:
			seconds = binary.BigEndian.Uint32(v)
		case o[0] == optRenew && len(v) == 4:
			renew = binary.BigEndian.Uint32(v)
		}
		o = o[2+int(o[1]):]
	}
	if m.kind == dhcpOffer || m.kind == dhcpAck {
		if !address.IsGlobalUnicast() || bits < 8 {
			return m, errors.New("no usable address")
		}
		m.Address = netip.PrefixFrom(address, bits)
	}
	// Neither a flood of questions nor an address that is never asked for again.
	seconds = min(max(seconds, 60), 7*24*3600)
	if renew == 0 || renew > seconds/2 {
		renew = seconds / 2
	}
	m.For, m.Renew = time.Duration(seconds)*time.Second, time.Duration(max(renew, 30))*time.Second
	return m, nil
}

// maskBits returns the length of a mask, false if it is not ones and then zeros.
func maskBits(m uint32) (int, bool) {
	n := 0
	for ; m&(1<<31) != 0; m <<= 1 {
		n++
	}
	return n, m == 0
}
