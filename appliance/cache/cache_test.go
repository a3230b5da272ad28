package cache

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"tidegate/appliance/wire"
	"time"
)

const second = time.Second

var rules = Rules{Default: 60 * second, Offline: 300 * second}

// fields makes a header of lines "Name: value".
func fields(lines ...string) wire.Header {
	var h wire.Header
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		h = append(h, wire.Field{Name: name, Value: value})
	}
	return h
}

func get(uri string, now time.Duration, lines ...string) *Request {
	return &Request{Method: "GET", URI: uri, Who: "app", Now: now, Header: fields(lines...)}
}

// store gives the cache an answer and reports whether it took it.
func store(c *Cache, r *Request, status int, body string, lines ...string) bool {
	w := c.Begin(r, rules, status, fields(lines...), int64(len(body)), 0)
	if w == nil {
		return false
	}
	w.Write([]byte(body))
	w.Commit()
	return true
}

func TestWhatIsStored(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		req    []string
		answer []string
		auth   bool
		want   bool
	}{
		{"plain", 200, nil, nil, false, true},
		{"max-age", 200, nil, []string{"Cache-Control: max-age=5"}, false, true},
		{"no-store", 200, nil, []string{"Cache-Control: no-store"}, false, false},
		{"no-store in a second line", 200, nil, []string{"Cache-Control: max-age=5", "Cache-Control: no-store"}, false, false},
		{"no-store in capitals", 200, nil, []string{"cache-control: NO-STORE"}, false, false},
		{"no-store behind a quoted comma", 200, nil, []string{`Cache-Control: x="a,b\",", no-store`}, false, false},
		{"no-store only inside quotes", 200, nil, []string{`Cache-Control: x="a, no-store"`}, false, true},
		{"no-store asked", 200, []string{"Cache-Control: no-store"}, nil, false, false},
		{"private", 200, nil, []string{"Cache-Control: private, max-age=9"}, false, false},
		{"private fields", 200, nil, []string{`Cache-Control: private="x", max-age=9`}, false, false},
		{"cookie", 200, nil, []string{"Set-Cookie: a=b", "Cache-Control: public"}, false, false},
		{"varies by anything", 200, nil, []string{"Vary: Accept, *"}, false, false},
		{"authorization", 200, nil, []string{"Cache-Control: max-age=9"}, true, false},
		{"authorization, public", 200, nil, []string{"Cache-Control: public"}, true, true},
		{"authorization, s-maxage", 200, nil, []string{"Cache-Control: s-maxage=9"}, true, true},
		{"authorization, must-revalidate", 200, nil, []string{"Cache-Control: must-revalidate"}, true, true},
		{"not found without freshness", 404, nil, nil, false, false},
		{"not found with freshness", 404, nil, []string{"Cache-Control: max-age=5"}, false, true},
		{"redirect for now", 302, nil, []string{"Cache-Control: max-age=5"}, false, false},
		{"redirect for ever", 301, nil, nil, false, true},
		{"part", 206, nil, []string{"Cache-Control: max-age=5"}, false, false},
		{"failure", 500, nil, []string{"Cache-Control: max-age=5"}, false, false},
		{"stale at once but confirmable", 200, nil, []string{"Cache-Control: max-age=0, must-revalidate", `ETag: "a"`}, false, true},
		{"stale at once and of no use", 200, nil, []string{"Cache-Control: max-age=0, must-revalidate"}, false, false},
	} {
		c := New(1 << 20)
		r := get("/", 0, tt.req...)
		r.Authorized = tt.auth
		if got := store(c, r, tt.status, "x", tt.answer...); got != tt.want {
			t.Errorf("%s: stored %v, want %v", tt.name, got, tt.want)
		}
	}
	c := New(1 << 20)
	head := get("/", 0)
	head.Method = "HEAD"
	if store(c, head, 200, "") {
		t.Error("an answer to HEAD was stored")
	}
}

func TestFreshness(t *testing.T) {
	const date = "Date: Thu, 01 Jan 2026 00:00:00 GMT"
	for _, tt := range []struct {
		name   string
		answer []string
		req    []string
		age    time.Duration
		want   Use
	}{
		{"default", nil, nil, 59 * second, Hit},
		{"default over", nil, nil, 60 * second, Validate},
		{"max-age", []string{"Cache-Control: max-age=10"}, nil, 9 * second, Hit},
		{"max-age over", []string{"Cache-Control: max-age=10"}, nil, 10 * second, Validate},
		{"two that differ", []string{"Cache-Control: max-age=50", "Cache-Control: max-age=10"}, nil, 11 * second, Validate},
		{"never above the bound", []string{"Cache-Control: max-age=99999999999999999999"}, nil, 61 * second, Validate},
		{"s-maxage wins", []string{"Cache-Control: max-age=1, s-maxage=20"}, nil, 15 * second, Hit},
		{"unreadable", []string{"Cache-Control: max-age=ten", `ETag: "a"`}, nil, 0, Validate},
		{"negative", []string{"Cache-Control: max-age=-1", `ETag: "a"`}, nil, 0, Validate},
		{"quoted", []string{`Cache-Control: max-age="10"`}, nil, 5 * second, Hit},
		{"Age counts", []string{"Cache-Control: max-age=10", "Age: 8"}, nil, 3 * second, Validate},
		{"Expires", []string{date, "Expires: Thu, 01 Jan 2026 00:00:20 GMT"}, nil, 15 * second, Hit},
		{"Expires over", []string{date, "Expires: Thu, 01 Jan 2026 00:00:20 GMT"}, nil, 25 * second, Validate},
		{"Expires 0", []string{date, "Expires: 0"}, nil, 0, Validate},
		{"Expires without Date", []string{"Expires: Thu, 01 Jan 2099 00:00:20 GMT"}, nil, 0, Validate},
		{"max-age before Expires", []string{date, "Expires: 0", "Cache-Control: max-age=9"}, nil, 5 * second, Hit},
		{"no-cache", []string{"Cache-Control: no-cache", `ETag: "a"`}, nil, 0, Validate},
		{"asked no-cache", nil, []string{"Cache-Control: no-cache"}, 0, Validate},
		{"asked Pragma", nil, []string{"Pragma: no-cache"}, 0, Validate},
		{"Pragma beside Cache-Control", nil, []string{"Pragma: no-cache", "Cache-Control: max-age=50"}, 0, Hit},
		{"asked max-age", nil, []string{"Cache-Control: max-age=5"}, 6 * second, Validate},
		{"asked min-fresh", nil, []string{"Cache-Control: min-fresh=30"}, 31 * second, Validate},
		{"asked max-stale", nil, []string{"Cache-Control: max-stale=30"}, 80 * second, Hit},
		{"asked max-stale, too stale", nil, []string{"Cache-Control: max-stale=30"}, 91 * second, Validate},
		{"any max-stale", nil, []string{"Cache-Control: max-stale"}, 9999 * second, Hit},
		{"max-stale against must-revalidate", []string{"Cache-Control: must-revalidate"}, []string{"Cache-Control: max-stale"}, 61 * second, Validate},
		{"only what is stored, fresh", nil, []string{"Cache-Control: only-if-cached"}, 0, Hit},
		{"only what is stored, stale", nil, []string{"Cache-Control: only-if-cached"}, 61 * second, Refuse},
		{"asked no-store, stale", nil, []string{"Cache-Control: no-store"}, 61 * second, Bypass},
		{"range", nil, []string{"Range: bytes=0-1"}, 0, Bypass},
		{"if-match", nil, []string{`If-Match: "a"`}, 0, Bypass},
	} {
		c := New(1 << 20)
		if !store(c, get("/", 1000*second), 200, "x", tt.answer...) {
			t.Errorf("%s: not stored", tt.name)
			continue
		}
		if _, got := c.Lookup(get("/", 1000*second+tt.age, tt.req...)); got != tt.want {
			t.Errorf("%s: use %d, want %d", tt.name, got, tt.want)
		}
	}
	c := New(1 << 20)
	if _, use := c.Lookup(get("/none", 0, "Cache-Control: only-if-cached")); use != Refuse {
		t.Errorf("nothing stored, only that wanted: use %d", use)
	}
	post := get("/", 0)
	post.Method = "POST"
	if _, use := c.Lookup(post); use != Bypass {
		t.Errorf("POST: use %d", use)
	}
}

func TestWhoMaySeeAnAnswer(t *testing.T) {
	c := New(1 << 20)
	store(c, get("/mine", 0), 200, "x")
	store(c, get("/ours", 0), 200, "x", "Cache-Control: public")
	other := func(uri string) *Request { r := get(uri, 1); r.Who = "other"; return r }
	if e, use := c.Lookup(other("/mine")); use != Miss || e != nil {
		t.Errorf("another application sees a private answer: use %d", use)
	}
	if _, use := c.Lookup(other("/ours")); use != Hit {
		t.Errorf("public answer: use %d", use)
	}
	elsewhere := get("/ours", 1)
	elsewhere.Space[0] = 1
	if _, use := c.Lookup(elsewhere); use != Miss {
		t.Errorf("another API sees it: use %d", use)
	}
	// The other one's answer stands beside the first.
	store(c, other("/mine"), 200, "y")
	if e, _ := c.Lookup(get("/mine", 1)); e == nil || string(e.Body()) != "x" {
		t.Error("the first answer is gone")
	}
}

func TestVariants(t *testing.T) {
	c := New(1 << 20)
	for _, l := range []string{"de", "en"} {
		store(c, get("/", 0, "Accept-Language: "+l), 200, l, "Vary: Accept-Language", "Vary: Accept")
	}
	for l, want := range map[string]string{"de": "de", "en": "en", "fr": ""} {
		e, use := c.Lookup(get("/", 0, "Accept-Language: "+l))
		if (use == Hit) != (want != "") || e != nil && string(e.Body()) != want {
			t.Errorf("%s: use %d", l, use)
		}
	}
	if _, use := c.Lookup(get("/", 0, "Accept-Language: de", "Accept: text/plain")); use != Miss {
		t.Errorf("another Accept: use %d", use)
	}
	store(c, get("/packed", 0, "Accept-Encoding: gzip"), 200, "x", "Content-Encoding: gzip")
	if _, use := c.Lookup(get("/packed", 0)); use != Miss {
		t.Errorf("a compressed answer for who takes none: use %d", use)
	}
	c.Invalidate(Space{}, "/packed")
	store(c, get("/", 0, "Accept-Language: de"), 200, "neu", "Vary: Accept-Language", "Vary: Accept")
	if e, _ := c.Lookup(get("/", 0, "Accept-Language: de")); string(e.Body()) != "neu" || c.Stats().Entries != 2 {
		t.Errorf("replaced: %q, %d entries", e.Body(), c.Stats().Entries)
	}
	for i := range 100 {
		store(c, get("/", 0, fmt.Sprintf("Accept-Language: x%d", i)), 200, "x", "Vary: Accept-Language")
	}
	if n := c.Stats().Entries; n != maxVariants {
		t.Errorf("%d variants of one URI, want %d", n, maxVariants)
	}
}

func TestRevalidation(t *testing.T) {
	c := New(1 << 20)
	store(c, get("/", 0), 200, "body", `ETag: "v1"`, "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT", "X-A: old", "Content-Type: text/plain")
	r := get("/", 100*second, `If-None-Match: "client"`, "Accept: */*")
	e, use := c.Lookup(r)
	if use != Validate {
		t.Fatalf("use %d", use)
	}
	h := e.Conditional(append(wire.Header(nil), r.Header...))
	if got := fmt.Sprint(h); got != `[{Accept */*} {If-None-Match "v1"} {If-Modified-Since Thu, 01 Jan 2026 00:00:00 GMT}]` {
		t.Errorf("condition: got %s", got)
	}
	e = c.Freshen(r, rules, e, fields("X-A: new", `ETag: "v1"`, "Content-Type: wrong", "Content-Length: 0"), 0)
	if got := fmt.Sprint(e.Header()); string(e.Body()) != "body" || !strings.Contains(got, "{X-A new}") || strings.Contains(got, "old") ||
		!strings.Contains(got, "text/plain") || strings.Contains(got, "wrong") || strings.Contains(got, "Content-Length") {
		t.Errorf("freshened: %s %s", got, e.Body())
	}
	if _, use := c.Lookup(get("/", 150*second)); use != Hit {
		t.Errorf("after the confirmation: use %d", use)
	}
	// A confirmation may also forbid to keep the answer; then it serves this once.
	r.Now = 500 * second
	e, _ = c.Lookup(r)
	e = c.Freshen(r, rules, e, fields("Cache-Control: no-store"), 0)
	if string(e.Body()) != "body" || c.Stats().Entries != 0 || c.Stats().Bytes != 0 {
		t.Errorf("forbidden: %q, %+v", e.Body(), c.Stats())
	}
}

func TestOffline(t *testing.T) {
	for _, tt := range []struct {
		answer string
		age    time.Duration
		want   bool
	}{
		{"", 59 * second, true},
		{"", 300 * second, true},
		{"", 360 * second, true},
		{"", 361 * second, false},
		{"Cache-Control: must-revalidate", 61 * second, false},
		{"Cache-Control: proxy-revalidate", 61 * second, false},
		{"Cache-Control: s-maxage=9", 61 * second, false},
		{"Cache-Control: no-cache", 0, false},
	} {
		c := New(1 << 20)
		store(c, get("/", 0), 200, "x", tt.answer, `ETag: "a"`)
		e, _ := c.Lookup(get("/", tt.age))
		if got := e.Offline(tt.age, rules); got != tt.want {
			t.Errorf("%q after %s: got %v", tt.answer, tt.age, got)
		}
	}
	c := New(1 << 20)
	store(c, get("/", 0), 200, "x")
	if e, _ := c.Lookup(get("/", 61*second)); e.Offline(61*second, Rules{Default: 60 * second}) {
		t.Error("stale although the API does not allow it")
	}
}

func TestClientsThatHaveItAlready(t *testing.T) {
	answer := fields(`ETag: W/"v1"`, "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT")
	for line, want := range map[string]bool{
		`If-None-Match: "v1"`:                              true,
		`If-None-Match: W/"v1"`:                            true,
		`If-None-Match: "a,b", "v1"`:                       true,
		`If-None-Match: *`:                                 true,
		`If-None-Match: "v2"`:                              false,
		`If-None-Match: v1`:                                false,
		`If-None-Match: "v1`:                               false,
		"If-Modified-Since: Thu, 01 Jan 2026 00:00:00 GMT": true,
		"If-Modified-Since: Wed, 31 Dec 2025 23:59:59 GMT": false,
		"If-Modified-Since: yesterday":                     false,
		"X-Other: 1":                                       false,
	} {
		if got := NotModified(200, answer, fields(line)); got != want {
			t.Errorf("%s: got %v", line, got)
		}
	}
	both := fields(`If-None-Match: "v2"`, "If-Modified-Since: Thu, 01 Jan 2026 00:00:00 GMT")
	if NotModified(200, answer, both) || NotModified(404, answer, fields("If-None-Match: *")) {
		t.Error("the entity tag decides alone, and only for 200")
	}
}

func TestInvalidation(t *testing.T) {
	c := New(1 << 20)
	var a, b Space
	b[0] = 1
	for _, s := range []Space{a, b} {
		for _, uri := range []string{"/1", "/2"} {
			for _, l := range []string{"de", "en"} {
				r := get(uri, 0, "Accept-Language: "+l)
				r.Space = s
				store(c, r, 200, "x", "Vary: Accept-Language")
			}
		}
	}
	c.Invalidate(a, "/1")
	if n := c.Stats().Entries; n != 6 {
		t.Errorf("after one URI: %d entries, want 6", n)
	}
	c.Keep(map[Space]bool{b: true})
	if n := c.Stats().Entries; n != 4 {
		t.Errorf("after an edition without the first API: %d entries, want 4", n)
	}
	c.Keep(nil)
	if s := c.Stats(); s.Entries != 0 || s.Bytes != 0 || len(c.sets) != 0 {
		t.Errorf("after all: %+v, %d sets", s, len(c.sets))
	}
}

func TestMemoryIsBounded(t *testing.T) {
	const size = 64 << 10
	c := New(size)
	for i := range 500 {
		store(c, get(fmt.Sprintf("/%d", i), 0), 200, strings.Repeat("x", i*37%4000))
		if n := c.Stats().Bytes; n > size {
			t.Fatalf("%d bytes held, the bound is %d", n, size)
		}
	}
	if s := c.Stats(); s.Evicted == 0 || s.Entries == 0 {
		t.Errorf("%+v", s)
	}
	if store(c, get("/large", 0), 200, strings.Repeat("x", size/maxShare+1)) {
		t.Error("an answer above its share was stored")
	}
	// One of unknown length is given up where it gets too large, and pays back.
	before := c.Stats().Bytes
	w := c.Begin(get("/stream", 0), rules, 200, nil, -1, 0)
	for range 100 {
		w.Write(make([]byte, 1000))
	}
	w.Commit()
	if n := c.Stats().Bytes; n > before {
		t.Errorf("given up: %d bytes, %d before", n, before)
	}
	// What is used stays.
	store(c, get("/hot", 0), 200, "x")
	for i := range 300 {
		store(c, get(fmt.Sprintf("/b%d", i), 0), 200, strings.Repeat("y", 900))
		if _, use := c.Lookup(get("/hot", 0)); use != Hit {
			t.Fatalf("the answer in use was dropped at %d", i)
		}
	}
	if New(100) != nil {
		t.Error("a cache of 100 bytes")
	}
	var none *Cache
	if _, use := none.Lookup(get("/", 0)); use != Bypass || none.Begin(get("/", 0), rules, 200, nil, 0, 0) != nil {
		t.Error("no cache takes part")
	}
	none.Invalidate(Space{}, "/")
	none.Keep(nil)
}

func TestManyAtOnce(t *testing.T) {
	c := New(32 << 10)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 300 {
				r := get(fmt.Sprintf("/%d", (i*7+g)%40), time.Duration(i)*second)
				e, use := c.Lookup(r)
				switch {
				case use == Hit && string(e.Body()) != r.URI:
					t.Errorf("%s: got %s", r.URI, e.Body())
				case use == Validate && i%3 == 0:
					c.Freshen(r, rules, e, fields(`ETag: "b"`), 0)
				case i%11 == 0:
					c.Invalidate(r.Space, r.URI)
				default:
					if w := c.Begin(r, rules, 200, fields(`ETag: "a"`), -1, 0); w != nil {
						w.Write([]byte(r.URI))
						if i%5 == 0 {
							w.Abandon()
						} else {
							w.Commit()
						}
					}
				}
			}
		})
	}
	wg.Wait()
	var sum int64
	for e := c.recent.Front(); e != nil; e = e.Next() {
		sum += e.Value.(*Entry).size
	}
	if s := c.Stats(); s.Bytes != sum || sum > 32<<10 {
		t.Errorf("%d bytes counted, %d held", s.Bytes, sum)
	}
}

func FuzzHeaders(f *testing.F) {
	f.Add(`max-age=1, no-cache="a,b", private`, "Accept", `"a", W/"b"`)
	f.Add(`x="\`, "*", `*`)
	f.Add(`s-maxage="7`, ", ,Accept", `W/`)
	f.Fuzz(func(t *testing.T, control, vary, tags string) {
		c := New(1 << 20)
		h := fields("Cache-Control: "+control, "Vary: "+vary, `ETag: "a"`)
		r := get("/", 0, "If-None-Match: "+tags, "Cache-Control: "+control)
		w := c.Begin(r, rules, 200, h, 1, 0)
		if say := responseControl(h); w != nil && (say.noStore || say.private) {
			t.Errorf("stored in spite of %q", control)
		}
		if w != nil {
			w.Write([]byte("x"))
			w.Commit()
			if e, use := c.Lookup(r); e == nil && use != Refuse && use != Bypass {
				t.Errorf("stored and not found: use %d", use)
			}
		}
		NotModified(200, h, r.Header)
	})
}

func BenchmarkLookup(b *testing.B) {
	c := New(8 << 20)
	for i := range 1000 {
		store(c, get(fmt.Sprintf("/things/%d", i), 0), 200, strings.Repeat("x", 1000), "Cache-Control: max-age=50", `ETag: "a"`)
	}
	r := get("/things/500", 1, "Accept: */*", "User-Agent: bench", "Accept-Encoding: gzip")
	b.ReportAllocs()
	for b.Loop() {
		if _, use := c.Lookup(r); use != Hit {
			b.Fatal(use)
		}
	}
}
