package cache

import (
	"container/list"
	"net/http"
	"strconv"
	"strings"
	"tidegate/appliance/wire"
	"time"
)

// An Entry is one stored answer. It is immutable, but for what the cache knows of its place.
type Entry struct {
	status int
	header wire.Header
	body   []byte

	who    string
	public bool
	// authorized: a credential or a cookie went to the backend, which allowed to keep the answer.
	authorized bool

	vary []wire.Field // names of Vary with the values of the request it was made for

	stored time.Duration // powered-on time at which it came
	age    time.Duration // it had then
	fresh  time.Duration // age up to which it is fresh
	always bool          // to be validated before each use
	strict bool          // never to be served stale
	etag   string
	mod    string // Last-Modified

	size  int64
	set   *set
	place *list.Element
}

// Status returns the status of the answer.
func (e *Entry) Status() int { return e.status }

// Header returns the header of the answer, without Age. It is read-only.
func (e *Entry) Header() wire.Header { return e.header }

// Body returns the body. It is read-only.
func (e *Entry) Body() []byte { return e.body }

// Age returns the age of the answer at now, in whole seconds (RFC 9111 §4.2.3).
func (e *Entry) Age(now time.Duration) int64 { return int64(e.at(now) / time.Second) }

func (e *Entry) at(now time.Duration) time.Duration { return max(now-e.stored, 0) + e.age }

// storable are the statuses that are kept; true: also without explicit freshness (RFC 9110 §15.1).
// Failures are kept only where the backend says for how long.
var storable = map[int]bool{
	http.StatusOK: true, http.StatusNonAuthoritativeInfo: true, http.StatusNoContent: true, http.StatusMultipleChoices: true,
	http.StatusMovedPermanently: true, http.StatusPermanentRedirect: true,
	http.StatusNotFound: false, http.StatusMethodNotAllowed: false, http.StatusGone: false, http.StatusRequestURITooLong: false, http.StatusNotImplemented: false,
}

// newEntry returns what is to be stored of an answer, nil if it may not be (RFC 9111 §3).
func newEntry(r *Request, rules Rules, status int, h wire.Header, delay time.Duration) *Entry {
	byDefault, known := storable[status]
	say := responseControl(h)
	if !known || say.noStore || say.private || requestControl(r.Header).noStore || h.Has("Set-Cookie") {
		return nil
	}
	if r.Authorized && !say.public && !say.mustRevalidate && say.sMaxAge < 0 {
		return nil
	}
	e := &Entry{
		status: status, public: say.public, authorized: r.Authorized, always: say.noCache,
		strict: say.noCache || say.mustRevalidate || say.proxyRevalidate || say.sMaxAge >= 0,
		stored: r.Now, age: ageOf(h) + max(delay, 0),
	}
	switch explicit, ok := say.lifetime(h); {
	case ok:
		e.fresh = min(explicit, rules.Default)
	case byDefault:
		e.fresh = rules.Default
	default:
		return nil
	}
	if !e.varies(r.Header, h) {
		return nil
	}
	if !e.public {
		e.who = strings.Clone(r.Who)
	}
	e.header = make(wire.Header, 0, len(h))
	for _, f := range h {
		if strings.EqualFold(f.Name, "Age") {
			continue
		}
		f = wire.Field{Name: strings.Clone(f.Name), Value: strings.Clone(f.Value)}
		e.header = append(e.header, f)
	}
	e.etag, e.mod = e.header.Value("Etag"), e.header.Value("Last-Modified")
	if e.fresh <= e.age && e.etag == "" && e.mod == "" && (e.strict || rules.Offline == 0) {
		return nil // stale at once, cannot be validated, must not be served
	}
	return e
}

// ageOf reads Age; what is no number is none.
func ageOf(h wire.Header) time.Duration {
	n := seconds(h.Value("Age"))
	return time.Duration(max(n, 0)) * time.Second
}

// varies notes the values that select the entry. It reports false for an answer that no
// other request can select.
func (e *Entry) varies(request, answer wire.Header) bool {
	ok := true
	answer.Values("Vary", func(v string) bool {
		for name := range strings.SplitSeq(v, ",") {
			name = strings.Trim(name, " \t")
			switch {
			case name == "*":
				ok = false
			case name != "":
				e.vary = append(e.vary, wire.Field{Name: strings.Clone(name), Value: combined(request, name)})
			}
		}
		return ok
	})
	if answer.Has("Content-Encoding") { // a backend that compresses without saying so in Vary
		e.vary = append(e.vary, wire.Field{Name: "Accept-Encoding", Value: combined(request, "Accept-Encoding")})
	}
	return ok
}

// combined returns the values of a field as one list.
func combined(h wire.Header, name string) string {
	var b strings.Builder
	h.Values(name, func(v string) bool {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strings.Trim(v, " \t"))
		return true
	})
	return b.String()
}

// selects reports whether a request selects the entry (RFC 9111 §4.1).
func (e *Entry) selects(h wire.Header) bool {
	for i := range e.vary {
		if combined(h, e.vary[i].Name) != e.vary[i].Value {
			return false
		}
	}
	return true
}

// same reports whether the requests that select e select o as well.
func (e *Entry) same(o *Entry) bool {
	for i := range e.vary {
		found := false
		for k := range o.vary {
			found = found || strings.EqualFold(o.vary[k].Name, e.vary[i].Name) && o.vary[k].Value == e.vary[i].Value
		}
		if !found {
			return false
		}
	}
	return true
}

// use says what a request may do with the entry (RFC 9111 §4).
func (e *Entry) use(now time.Duration, ask *control) Use {
	age := e.at(now)
	left := e.fresh - age
	switch {
	case e.always || ask.noCache:
		return Validate
	case ask.maxAge >= 0 && age > time.Duration(ask.maxAge)*time.Second:
		return Validate
	case ask.minFresh >= 0 && left < time.Duration(ask.minFresh)*time.Second:
		return Validate
	case left > 0:
		return Hit
	case !e.strict && ask.maxStale >= 0 && -left <= time.Duration(ask.maxStale)*time.Second:
		return Hit
	}
	return Validate
}

// Offline reports whether the entry may serve while its backend is away.
func (e *Entry) Offline(now time.Duration, rules Rules) bool {
	over := e.at(now) - e.fresh
	return over <= 0 && !e.always || !e.strict && over <= rules.Offline && rules.Offline > 0
}

// Conditional appends to h the fields that ask the backend whether the entry still holds, in
// place of the client's own conditions.
func (e *Entry) Conditional(h wire.Header) wire.Header {
	kept := h[:0]
	for _, f := range h {
		if !strings.EqualFold(f.Name, "If-None-Match") && !strings.EqualFold(f.Name, "If-Modified-Since") {
			kept = append(kept, f)
		}
	}
	if e.etag != "" {
		kept = append(kept, wire.Field{Name: "If-None-Match", Value: e.etag})
	}
	if e.mod != "" {
		kept = append(kept, wire.Field{Name: "If-Modified-Since", Value: e.mod})
	}
	return kept
}

// NotModified reports whether a client that sent h has this answer already (RFC 9110 §13.1).
func NotModified(status int, answer, h wire.Header) bool {
	if status != http.StatusOK {
		return false
	}
	if h.Has("If-None-Match") {
		etag := answer.Value("Etag")
		match := false
		h.Values("If-None-Match", func(v string) bool {
			match = strings.Trim(v, " \t") == "*" || etag != "" && listed(v, etag)
			return !match
		})
		return match
	}
	since, err := http.ParseTime(h.Value("If-Modified-Since"))
	if err != nil {
		return false
	}
	mod, err := http.ParseTime(answer.Value("Last-Modified"))
	return err == nil && !mod.After(since)
}

// listed reports whether a list of entity tags holds etag, by weak comparison (RFC 9110 §8.8.3.2).
func listed(list, etag string) bool {
	etag = strings.TrimPrefix(etag, "W/")
	for list != "" {
		list = strings.TrimLeft(list, " \t,")
		t := strings.TrimPrefix(list, "W/")
		if t == "" || t[0] != '"' {
			return false
		}
		end := strings.IndexByte(t[1:], '"')
		if end < 0 {
			return false
		}
		if t[:end+2] == etag {
			return true
		}
		list = t[end+2:]
	}
	return false
}

// notFreshened are fields of a 304 that say nothing about the stored answer.
var notFreshened = []string{"Content-Length", "Content-Encoding", "Content-Type", "Content-Range"}

// updated returns the header with the fields of a 304 in it (RFC 9111 §3.2).
func (e *Entry) updated(h wire.Header) wire.Header {
	out := make(wire.Header, 0, len(e.header)+len(h))
	for _, f := range e.header {
		if !h.Has(f.Name) || unfreshened(f.Name) {
			out = append(out, f)
		}
	}
	for _, f := range h {
		if !unfreshened(f.Name) {
			out = append(out, f)
		}
	}
	return out
}

func unfreshened(name string) bool {
	for _, n := range notFreshened {
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}

// AppendAge appends the value of the Age field.
func (e *Entry) AppendAge(b []byte, now time.Duration) []byte {
	return strconv.AppendInt(b, e.Age(now), 10)
}
