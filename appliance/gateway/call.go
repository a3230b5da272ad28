package gateway

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"tidegate/appliance/cache"
	"tidegate/appliance/upstream"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"tidegate/policy/route"
	"tidegate/policy/throttle"
	"tidegate/policy/transform"
	"tidegate/store/events"
	"time"
	"unsafe"
)

// A call is one request on its way through an edition. It is recycled: nothing that
// outlives the call may keep its slices.
type call struct {
	x     wire.Exchange
	ed    *Edition
	match route.Match
	op    *operation // nil until matched
	who   *policy.Principal
	now   policy.Now

	start    time.Time
	security time.Duration
	limits   time.Duration

	claims  []throttle.Claim
	charge  []throttle.Claim // the bandwidth claims among claims
	verdict throttle.Verdict
	taken   bool

	header wire.Header // of the forwarded request, then of the answer
	text   []byte      // backs values of header
	req    wire.Request
	result upstream.Result
	fault  uint32
	level  policy.Level
	event  events.Event
	cached bool // answered from the response cache
	status int
	body   meter
	over   atomic.Bool // a bandwidth plan that only marks was exceeded

	api     *api // nil until matched
	view    transform.View
	maxBody int64 // bytes allowed in the request's body; 0: the device's limit holds
	held    [2]held
	read    bool         // the request's body was read whole
	reader  bytes.Reader // over the body that goes to the backend instead
	ask     cache.Request
	writer  *cache.Writer // takes the answer
	tee     *capture      // gives it to writer
	flight  *cache.Flight // others wait for that answer

	tunnelIn, tunnelOut int64 // bytes that passed an upgraded connection
}

var calls = sync.Pool{New: func() any {
	return &call{
		claims: make([]throttle.Claim, 0, 8),
		header: make(wire.Header, 0, 32),
		text:   make([]byte, 0, 512),
	}
}}

// newCall takes a call for x.
func newCall(x wire.Exchange, ed *Edition, start time.Time) *call {
	c := calls.Get().(*call)
	c.x, c.ed, c.start = x, ed, start
	return c
}

// free gives c back. Everything that refers to the request is dropped.
func (c *call) free() {
	claims, charge, header, text := c.claims[:0], c.charge[:0], c.header[:0], c.text[:0]
	clear(claims[:cap(claims)])
	clear(charge[:cap(charge)])
	clear(header[:cap(header)])
	if cap(text) > 16<<10 {
		text = make([]byte, 0, 512)
	}
	*c = call{claims: claims, charge: charge, header: header, text: text}
	calls.Put(c)
}

// mark returns the place in c.text from which a value will be built.
func (c *call) mark() int { return len(c.text) }

// value returns what was appended to c.text since mark. It is valid as long as the call.
func (c *call) value(mark int) string {
	b := c.text[mark:]
	if len(b) == 0 {
		return ""
	}
	return unsafe.String(&b[0], len(b))
}

// add appends a field to the header being built.
func (c *call) add(name, value string) {
	c.header = append(c.header, wire.Field{Name: name, Value: value})
}

// set replaces every field of the name by one.
func (c *call) set(name, value string) {
	c.drop(name)
	c.add(name, value)
}

// drop removes every field of the name.
func (c *call) drop(name string) {
	kept := c.header[:0]
	for _, f := range c.header {
		if !strings.EqualFold(f.Name, name) {
			kept = append(kept, f)
		}
	}
	c.header = kept
}

// instant is the time by which limits are judged.
func (c *call) instant() throttle.Instant {
	return throttle.Instant{Lower: c.now.Lower, Boot: c.now.Boot, Line: c.ed.gw.o.Clock.Line()}
}

// client returns the caller's address as seen through trusted proxies.
func (c *call) client() netip.Addr { return c.x.Client().Unmap().WithZone("") }

// context returns the context of the call.
func (c *call) context() context.Context { return c.x.Context() }
