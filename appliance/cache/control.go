package cache

import (
	"net/http"
	"strings"
	"tidegate/appliance/wire"
	"time"
)

// control is Cache-Control of a request or an answer (RFC 9111 §5.2). Seconds are -1 where a
// directive is absent.
type control struct {
	noStore, noCache, private, public, mustRevalidate, proxyRevalidate, onlyIfCached, noTransform bool

	maxAge, sMaxAge, minFresh, maxStale int64
}

// longest is what any larger number of seconds counts as.
const longest = 1 << 31

func parseControl(h wire.Header) control {
	c := control{maxAge: -1, sMaxAge: -1, minFresh: -1, maxStale: -1}
	h.Values("Cache-Control", func(v string) bool {
		for v != "" {
			var name, value string
			name, value, v = directive(v)
			c.note(name, value)
		}
		return true
	})
	return c
}

// directive cuts the first directive off a list.
func directive(v string) (name, value, rest string) {
	i := strings.IndexAny(v, ",=")
	if i < 0 {
		return strings.Trim(v, " \t"), "", ""
	}
	name, rest = strings.Trim(v[:i], " \t"), v[i+1:]
	if v[i] == ',' {
		return name, "", rest
	}
	rest = strings.TrimLeft(rest, " \t")
	if rest == "" || rest[0] != '"' {
		value, rest, _ = strings.Cut(rest, ",")
		return name, strings.Trim(value, " \t"), rest
	}
	end := 1
	for end < len(rest) && rest[end] != '"' {
		if rest[end] == '\\' {
			end++
		}
		end++
	}
	end = min(end, len(rest))
	value = rest[1:end]
	_, rest, _ = strings.Cut(rest[end:], ",")
	return name, value, rest
}

// note takes one directive. Of two that differ the stricter one counts, and a number that
// cannot be read is 0: stale is safe.
func (c *control) note(name, value string) {
	tighten := func(to *int64) {
		n := max(seconds(value), 0)
		if *to < 0 || n < *to {
			*to = n
		}
	}
	switch strings.ToLower(name) {
	case "no-store":
		c.noStore = true
	case "no-cache": // with names of fields as well: the whole answer is validated
		c.noCache = true
	case "private":
		c.private = true
	case "public":
		c.public = true
	case "must-revalidate":
		c.mustRevalidate = true
	case "proxy-revalidate":
		c.proxyRevalidate = true
	case "only-if-cached":
		c.onlyIfCached = true
	case "no-transform":
		c.noTransform = true
	case "max-age":
		tighten(&c.maxAge)
	case "s-maxage":
		tighten(&c.sMaxAge)
	case "min-fresh":
		c.minFresh = max(c.minFresh, seconds(value), 0)
	case "max-stale":
		if value == "" {
			c.maxStale = longest
		} else {
			tighten(&c.maxStale)
		}
	}
}

// seconds reads delta-seconds (RFC 9111 §1.2.2); -1 for what is none.
func seconds(s string) int64 {
	if s == "" {
		return -1
	}
	var n int64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return -1
		}
		n = min(n*10+int64(s[i]-'0'), longest)
	}
	return n
}

// requestControl reads what a client asks of caches. Pragma counts where Cache-Control is absent.
func requestControl(h wire.Header) control {
	c := parseControl(h)
	if !h.Has("Cache-Control") && strings.EqualFold(h.Value("Pragma"), "no-cache") {
		c.noCache = true
	}
	return c
}

func responseControl(h wire.Header) control { return parseControl(h) }

// NoTransform reports whether an answer must reach the client as it is.
func NoTransform(h wire.Header) bool { return h.Has("Cache-Control") && parseControl(h).noTransform }

// lifetime returns the freshness that an answer claims (RFC 9111 §4.2.1).
func (c *control) lifetime(h wire.Header) (time.Duration, bool) {
	switch {
	case c.sMaxAge >= 0:
		return time.Duration(c.sMaxAge) * time.Second, true
	case c.maxAge >= 0:
		return time.Duration(c.maxAge) * time.Second, true
	case !h.Has("Expires"):
		return 0, false
	}
	expires, err := http.ParseTime(h.Value("Expires"))
	if err != nil {
		return 0, true // "0" and the like: in the past
	}
	date, err := http.ParseTime(h.Value("Date"))
	if err != nil {
		return 0, true // measured against a clock of its own, and ours proves nothing
	}
	return max(expires.Sub(date), 0), true
}
