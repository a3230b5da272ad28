package throttle

import (
	"math"
	"strconv"
	"time"
)

// The names of the fields, as draft-ietf-httpapi-ratelimit-headers-10 and RFC 9110
// section 10.2.3 define them.
const (
	FieldPolicy     = "RateLimit-Policy"
	FieldLimit      = "RateLimit"
	FieldRetryAfter = "Retry-After"
)

// maxInteger is the largest integer of a structured field (RFC 9651 section 3.3.1).
const maxInteger = 999_999_999_999_999

// fields prepares the parts of the fields that never change.
func (r *Rule) fields() {
	b := appendString(nil, r.Name)
	r.member = string(b) + ";r="
	b = append(b, ";q="...)
	b = strconv.AppendInt(b, min(r.Limit, maxInteger), 10)
	switch r.Kind {
	case Bytes:
		b = append(b, `;qu="content-bytes"`...)
	case InFlight:
		b = append(b, `;qu="concurrent-requests"`...)
	}
	if s := r.seconds(); s > 0 {
		b = append(b, ";w="...)
		b = strconv.AppendInt(b, s, 10)
	}
	r.policy = string(b)
}

// seconds returns the length of the rule's window as a policy states it. A calendar
// window's own length varies: the policy states the usual one.
func (r *Rule) seconds() int64 {
	if r.Window.Form != Calendar {
		return ceilSeconds(r.Window.Length)
	}
	return [...]int64{Day: 86_400, Week: 7 * 86_400, Month: 30 * 86_400}[r.Window.Unit]
}

// AppendPolicy appends the value of RateLimit-Policy for the claims of a call: one
// member per rule of the caller's own counters, for example
//
//	"gold";q=5000;w=60, "gold-burst";q=20;w=1
//
// It appends nothing when there is none; then the field is left out.
func AppendPolicy(dst []byte, claims []Claim) []byte {
	first := len(dst)
	for i, c := range claims {
		if c.Rule.Shared || repeated(claims[:i], c.Rule) {
			continue
		}
		if len(dst) > first {
			dst = append(dst, ", "...)
		}
		dst = append(dst, c.Rule.policy...)
	}
	return dst
}

// repeated reports whether a rule was listed before: one plan may make several claims.
func repeated(claims []Claim, r *Rule) bool {
	for _, c := range claims {
		if c.Rule == r {
			return true
		}
	}
	return false
}

// AppendLimit appends the value of RateLimit: the caller's own counter that is closest
// to its limit, for example "gold";r=50;t=30. It appends nothing when there is none.
func AppendLimit(dst []byte, claims []Claim, v Verdict) []byte {
	if v.Tightest < 0 || v.Tightest >= len(claims) {
		return dst
	}
	r := claims[v.Tightest].Rule
	dst = append(dst, r.member...)
	dst = strconv.AppendInt(dst, max(0, min(v.Remaining, maxInteger)), 10)
	if r.Kind != InFlight { // how long others stay in flight is not known
		dst = append(dst, ";t="...)
		dst = strconv.AppendInt(dst, ceilSeconds(v.Reset), 10)
	}
	return dst
}

// AppendRetryAfter appends the value of Retry-After: whole seconds, rounded up, at
// least 1.
func AppendRetryAfter(dst []byte, d time.Duration) []byte {
	return strconv.AppendInt(dst, max(1, ceilSeconds(d)), 10)
}

func ceilSeconds(d time.Duration) int64 {
	if d > math.MaxInt64-time.Second {
		return int64(d / time.Second)
	}
	return max(0, int64((d+time.Second-1)/time.Second))
}

// appendString appends s as a string of a structured field (RFC 9651 section 3.3.3),
// which holds printable ASCII only: other bytes are percent-encoded, so that two plans
// never get one name.
func appendString(dst []byte, s string) []byte {
	const digits = "0123456789ABCDEF"
	dst = append(dst, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ' || c > '~' || c == '%':
			dst = append(dst, '%', digits[c>>4], digits[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}
