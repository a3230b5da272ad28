package wire

import (
	"net/netip"
	"strings"
)

// clientOf returns the address of the client: the peer's, or what trusted proxies say. The
// list is read from its end, the side of the nearest proxy, up to the first address that
// is no trusted proxy; what stands before it anyone could have written.
func (s *Server) clientOf(peer netip.Addr, trusted bool, h Header) netip.Addr {
	if !trusted {
		return peer
	}
	name := "X-Forwarded-For"
	if s.ClientField == Forwarded {
		name = "Forwarded"
	}
	client := peer
	for i := len(h) - 1; i >= 0; i-- {
		if !sameName(h[i].Name, name) {
			continue
		}
		for v := h[i].Value; v != ""; {
			var last string
			if j := strings.LastIndexByte(v, ','); j >= 0 {
				v, last = v[:j], v[j+1:]
			} else {
				v, last = "", v
			}
			if s.ClientField == Forwarded {
				last = forNode(last)
			}
			a, ok := nodeAddr(strings.Trim(last, " \t"))
			if !ok {
				return client
			}
			if client = a; !s.Trusted(a) {
				return client
			}
		}
	}
	return client
}

// forNode returns the node of an element's "for" parameter (RFC 7239 §5.2), "" if there is
// none. Node identifiers hold no "," or ";", also when quoted.
func forNode(element string) string {
	for element != "" {
		var pair string
		pair, element, _ = strings.Cut(element, ";")
		k, v, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
		if strings.EqualFold(k, "for") {
			if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
				v = v[1 : len(v)-1]
			}
			return v
		}
	}
	return ""
}

// nodeAddr reads an address with or without port and brackets.
func nodeAddr(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if p, err := netip.ParseAddrPort(s); err == nil {
		return p.Addr().Unmap().WithZone(""), true
	}
	if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
		if a, err := netip.ParseAddr(s[1 : len(s)-1]); err == nil {
			return a.Unmap().WithZone(""), true
		}
	}
	return netip.Addr{}, false
}
