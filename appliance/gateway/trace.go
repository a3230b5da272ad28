package gateway

import (
	"tidegate/appliance/wire"
)

// The fields of a distributed trace (W3C Trace Context). They are passed on as they came.
const (
	fieldTrace = "Traceparent"
	fieldState = "Tracestate"
)

// traced reports whether the call carries one well-formed traceparent. Else neither of the
// fields goes on: readers of a broken one differ, and tracestate means nothing alone.
func (c *call) traced() bool {
	n, good := 0, true
	c.x.HeaderValues(fieldTrace, func(v string) bool {
		n++
		good = good && goodTrace(v)
		return true
	})
	return n == 1 && good
}

// goodTrace reports whether v is a traceparent of version 00, or of a later one that begins alike
// (W3C Trace Context §3.2).
func goodTrace(v string) bool {
	if len(v) < 55 || v[2] != '-' || v[35] != '-' || v[52] != '-' ||
		!lowerHex(v[:2]) || !lowerHex(v[3:35]) || !lowerHex(v[36:52]) || !lowerHex(v[53:55]) {
		return false
	}
	if v[:2] == "ff" || v[:2] == "00" && len(v) > 55 || len(v) > 55 && v[55] != '-' {
		return false
	}
	return !zeros(v[3:35]) && !zeros(v[36:52])
}

func lowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func zeros(s string) bool {
	for i := range len(s) {
		if s[i] != '0' {
			return false
		}
	}
	return true
}

// forwarded adds this hop to the Forwarded field of a trusted proxy (RFC 7239 §4).
func (c *call) forwarded(h *wire.Head) {
	m := c.mark()
	h.Header.Values(fieldForwarded, func(v string) bool {
		c.text = append(c.text, v...)
		c.text = append(c.text, ", "...)
		return true
	})
	peer := c.x.Peer().Addr().Unmap().WithZone("")
	if peer.Is6() {
		c.text = append(c.text, `for="[`...)
		c.text = peer.AppendTo(c.text)
		c.text = append(c.text, `]"`...)
	} else {
		c.text = append(c.text, "for="...)
		c.text = peer.AppendTo(c.text)
	}
	c.add(fieldForwarded, c.value(m))
}
