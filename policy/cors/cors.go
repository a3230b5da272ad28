// Package cors answers browsers of other origins, as the CORS protocol of the Fetch
// standard asks (https://fetch.spec.whatwg.org/#http-cors-protocol).
//
// [Rules] only produce header fields: an origin that is not listed gets the ordinary
// answer without them, and the browser keeps it from the page. Every answer of an API with rules
// varies by Origin, also without one, so that no cache hands one origin's answer to another.
// Whether a call is let through is not for this package to say: CORS protects users of
// browsers, not the API.
package cors

import (
	"slices"
	"strconv"
	"strings"
	"tidegate/policy"
	"time"
)

// A Field is one line of a header; the name is in canonical form.
type Field struct{ Name, Value string }

// Rules are the compiled CORS settings of one API. They are immutable. A nil *Rules is
// an API without CORS: it adds nothing.
type Rules struct {
	origins     []string // ascending
	any         bool     // "*"
	credentials bool
	private     bool
	methods     string // "": those declared on the path
	anyMethod   bool
	headers     string
	anyHeader   bool
	expose      string
	maxAge      string
}

// maxAsked bounds Access-Control-Request-Headers that are repeated in an answer.
const maxAsked = 1024

// New compiles c. It returns nil for nil. "*" among the origins turns credentials off.
func New(c *policy.CORS) *Rules {
	if c == nil {
		return nil
	}
	r := &Rules{
		any:       slices.Contains(c.Origins, "*"),
		private:   c.Private,
		anyMethod: slices.Contains(c.Methods, "*"),
		anyHeader: slices.Contains(c.Headers, "*"),
		methods:   strings.Join(c.Methods, ", "),
		headers:   strings.Join(c.Headers, ", "),
		expose:    strings.Join(c.Expose, ", "),
	}
	r.credentials = c.Credentials
	for _, o := range c.Origins {
		r.origins = append(r.origins, strings.ToLower(strings.TrimSuffix(o, "/")))
	}
	slices.Sort(r.origins)
	if s := int64(c.MaxAge / time.Second); s > 0 {
		r.maxAge = strconv.FormatInt(s, 10)
	}
	return r
}

// IsPreflight reports whether a call is a CORS preflight request: OPTIONS with Origin
// and Access-Control-Request-Method.
func IsPreflight(call policy.Call) bool {
	return call.Method() == "OPTIONS" && call.Header("Origin") != "" &&
		call.Header("Access-Control-Request-Method") != ""
}

// Preflight appends the fields of the 204 answer to a preflight request. Methods are those that
// are declared on the path, for rules that name none.
func (r *Rules) Preflight(dst []Field, call policy.Call, methods []string) []Field {
	if r == nil {
		return dst
	}
	vary := "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
	if r.private {
		vary += ", Access-Control-Request-Private-Network"
	}
	dst = append(dst, Field{"Vary", vary})
	allow, credentials := r.allow(call)
	if allow == "" {
		return dst
	}
	dst = append(dst, Field{"Access-Control-Allow-Origin", allow})
	if credentials {
		dst = append(dst, Field{"Access-Control-Allow-Credentials", "true"})
	}
	m := r.methods
	switch asked := call.Header("Access-Control-Request-Method"); {
	case r.anyMethod && isToken(asked):
		m = asked
	case r.anyMethod || m == "":
		m = strings.Join(methods, ", ")
	}
	if m != "" {
		dst = append(dst, Field{"Access-Control-Allow-Methods", m})
	}
	h := r.headers
	if r.anyHeader {
		// With credentials "*" is no wildcard, and without it does not cover Authorization: name what was asked.
		if h = joined(call, "Access-Control-Request-Headers"); !isTokenList(h) {
			h = ""
		}
	}
	if h != "" {
		dst = append(dst, Field{"Access-Control-Allow-Headers", h})
	}
	if r.private && call.Header("Access-Control-Request-Private-Network") == "true" {
		dst = append(dst, Field{"Access-Control-Allow-Private-Network", "true"})
	}
	if r.maxAge != "" {
		dst = append(dst, Field{"Access-Control-Max-Age", r.maxAge})
	}
	return dst
}

// Actual appends the fields of every other answer, refusals included. Vary is a field
// to add beside one that the backend sent.
func (r *Rules) Actual(dst []Field, call policy.Call) []Field {
	if r == nil {
		return dst
	}
	dst = append(dst, Field{"Vary", "Origin"})
	allow, credentials := r.allow(call)
	if allow == "" {
		return dst
	}
	dst = append(dst, Field{"Access-Control-Allow-Origin", allow})
	if credentials {
		dst = append(dst, Field{"Access-Control-Allow-Credentials", "true"})
	}
	if r.expose != "" {
		dst = append(dst, Field{"Access-Control-Expose-Headers", r.expose})
	}
	return dst
}

// Owns reports whether a field of a backend's answer is replaced by the gateway's own
// on an API with rules. Case does not matter.
func Owns(name string) bool {
	const prefix = "Access-Control-"
	return len(name) > len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
}

// allow returns the value of Access-Control-Allow-Origin, "" for an origin that is not listed.
func (r *Rules) allow(call policy.Call) (value string, credentials bool) {
	origin := call.Header("Origin")
	if origin == "" {
		return "", false
	}
	if r.any {
		return "*", false // with credentials, every site could act as the user
	}
	if !r.listed(origin) || !single(call) {
		return "", false
	}
	// Any sandboxed or local document can have the origin "null": it never acts as the user.
	return origin, r.credentials && origin != "null"
}

// listed compares as the browser serialises an origin: in lower case, byte for byte.
func (r *Rules) listed(origin string) bool {
	_, ok := slices.BinarySearch(r.origins, origin)
	return ok
}

// single reports whether there is one Origin line only.
func single(call policy.Call) bool {
	n := 0
	call.HeaderValues("Origin", func(string) bool { n++; return n < 2 })
	return n == 1
}

func joined(call policy.Call, name string) string {
	var s string
	call.HeaderValues(name, func(v string) bool {
		if s != "" {
			s += ", "
		}
		s += v
		return len(s) <= maxAsked
	})
	return s
}

// isToken reports whether s is a token of RFC 9110 §5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		if !isTokenByte(s[i]) {
			return false
		}
	}
	return s != ""
}

// isTokenList reports whether s is made of tokens, commas and blanks.
func isTokenList(s string) bool {
	if len(s) > maxAsked {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != ',' && c != ' ' && c != '\t' && !isTokenByte(c) {
			return false
		}
	}
	return true
}

func isTokenByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
