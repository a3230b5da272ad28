package batch

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"
)

// The columns of a detail batch. Their order is the format.
const (
	colTime = iota // µs after the event before it; the first: after the batch's start
	colRoute
	colCaller
	colUser
	colUpstream
	colStatus
	colFault
	colLevel
	colFlags // Flags, and Protocol above them
	colRetries
	colOther // µs of Total that no other latency explains
	colBackend
	colSecurity
	colThrottling
	colIn
	colOut
	colClient
	colAgent
	colRequest // 16 bytes each, not varints
	colTrace   // the same
	detailColumns
)

var detailNames = []string{
	"time", "route", "caller", "user", "upstream", "status", "fault", "level", "flags",
	"retries", "other", "backend", "security", "throttling", "in", "out", "client", "agent", "request", "trace",
}

const protocolShift = 4

// The tables of a detail batch, and how many texts make a row.
const (
	tableRoute  = iota // API, version, context, template, method, operation, publisher
	tableCaller        // application id, name, owner, tier; consumer key, key type, plan
	detailTables
	routeWidth  = 7
	callerWidth = 7
)

var tableNames = []string{"routes", "callers"}

type route struct{ api, version, context, template, method, operation, publisher string }

type caller struct{ id, name, owner, tier, key, keyType, plan string }

// A Builder collects events and packs them into batches. It keeps no string of an event.
// It is for one goroutine.
type Builder struct {
	Packer *Packer // nil: one of its own, made by the first Pack

	texts   dictionary
	routes  map[route]uint64
	callers map[caller]uint64
	clients map[netip.Addr]uint64
	tables  [detailTables][]byte
	columns [detailColumns][]byte

	now   time.Time // the clock of the events at start
	start Stamp
	last  int64 // µs of the newest event added
	span  int64 // µs of the latest event
	count int
	ratio float64 // packed to unpacked size, as the last batch showed it, with a margin
}

// Len returns the number of events collected.
func (b *Builder) Len() int { return b.count }

// size estimates the unpacked body.
func (b *Builder) size() int {
	n := b.texts.size
	for _, t := range b.tables {
		n += len(t)
	}
	for _, c := range b.columns {
		n += len(c)
	}
	return n
}

// Full reports whether the next event might not fit in one batch.
func (b *Builder) Full() bool {
	if b.count >= MaxEvents {
		return true
	}
	const room = 2 << 10 // one event at its largest
	ratio := b.ratio
	if ratio == 0 {
		ratio = 1
	}
	n := b.size() + room
	return float64(n)*ratio > MaxBody || n > MaxUnpacked-(64<<10)
}

// Add collects e. The first event of a batch fixes its start: now is the clock of e.Time,
// and start the same moment.
func (b *Builder) Add(e *Event, now time.Time, start Stamp) {
	if b.count == 0 {
		b.now, b.start, b.last, b.span = now, start, 0, 0
	}
	b.count++
	at := min(max(e.Time.Sub(b.now).Microseconds(), -maxMicros), maxMicros)
	b.put(colTime, zigzag(at-b.last))
	b.last, b.span = at, max(b.span, at)

	b.put(colRoute, b.route(e))
	b.put(colCaller, b.caller(e))
	b.put(colUser, b.texts.number(e.User))
	b.put(colUpstream, b.texts.number(e.Upstream))
	b.put(colStatus, uint64(e.Status))
	b.put(colFault, uint64(e.Fault))
	b.put(colLevel, uint64(e.Level))
	b.put(colFlags, uint64(e.Flags)&(1<<protocolShift-1)|uint64(e.Protocol)<<protocolShift)
	b.put(colRetries, uint64(e.Retries))
	total, backend := micros(e.Total), micros(e.Backend)
	security, throttling := micros(e.Security), micros(e.Throttling)
	b.put(colOther, zigzag(total-backend-security-throttling))
	b.put(colBackend, uint64(backend))
	b.put(colSecurity, uint64(security))
	b.put(colThrottling, uint64(throttling))
	b.put(colIn, e.BytesIn)
	b.put(colOut, e.BytesOut)
	b.put(colClient, b.client(e.Client))
	b.put(colAgent, b.texts.number(e.UserAgent))
	b.columns[colRequest] = append(b.columns[colRequest], e.RequestID[:]...)
	b.columns[colTrace] = append(b.columns[colTrace], e.TraceID[:]...)
}

func (b *Builder) put(column int, v uint64) {
	b.columns[column] = binary.AppendUvarint(b.columns[column], v)
}

// maxMicros bounds every time of the format to 35 years, so that sums do not overflow.
const maxMicros = 1 << 50

// micros is a latency in µs, up to 101 days: four of them stay below maxMicros.
func micros(d time.Duration) int64 { return min(max(d.Microseconds(), 0), 1<<43) }

func (b *Builder) route(e *Event) uint64 {
	k := route{e.API, e.Version, e.Context, e.Template, e.Method, e.Operation, e.Publisher}
	if n, ok := b.routes[k]; ok {
		return n
	}
	if b.routes == nil {
		b.routes = make(map[route]uint64)
	}
	for _, s := range k.texts() {
		b.tables[tableRoute] = binary.AppendUvarint(b.tables[tableRoute], b.texts.number(*s))
		*s = strings.Clone(*s)
	}
	n := uint64(len(b.routes))
	b.routes[k] = n
	return n
}

func (b *Builder) caller(e *Event) uint64 {
	k := caller{e.ApplicationID, e.ApplicationName, e.ApplicationOwner, e.ApplicationTier, e.ConsumerKey, e.KeyType, e.Plan}
	if n, ok := b.callers[k]; ok {
		return n
	}
	if b.callers == nil {
		b.callers = make(map[caller]uint64)
	}
	for _, s := range k.texts() {
		b.tables[tableCaller] = binary.AppendUvarint(b.tables[tableCaller], b.texts.number(*s))
		*s = strings.Clone(*s)
	}
	n := uint64(len(b.callers))
	b.callers[k] = n
	return n
}

func (b *Builder) client(a netip.Addr) uint64 {
	if !a.IsValid() {
		return 0
	}
	a = a.WithZone("").Unmap()
	if n, ok := b.clients[a]; ok {
		return n
	}
	if b.clients == nil {
		b.clients = make(map[netip.Addr]uint64)
	}
	n := b.texts.number(a.String())
	b.clients[a] = n
	return n
}

// tidy returns a copy of s that the format can hold: valid UTF-8 of at most MaxText bytes.
func tidy(s string) string {
	if len(s) > MaxText {
		end := MaxText
		for end > MaxText-utf8.UTFMax && !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end]
	}
	if utf8.ValidString(s) {
		return strings.Clone(s)
	}
	return strings.ToValidUTF8(s, "?")
}

// Pack turns what was collected into batches, without Epoch, Seq, BootID and Lost, and
// starts anew. It is one batch, or several when one would exceed MaxBody.
func (b *Builder) Pack() ([]Batch, error) {
	defer b.reset()
	if b.count == 0 {
		return nil, nil
	}
	content := &body{Version: bodyVersion, Strings: b.texts.texts, Tables: b.tables[:]}
	for _, c := range b.columns {
		if zeros(c) {
			c = nil
		}
		content.Columns = append(content.Columns, c)
	}
	one := Batch{Header: Header{
		Class: Detail, Start: b.start, Span: time.Duration(b.span) * time.Microsecond,
		Count: b.count, Calls: uint64(b.count),
	}}
	if b.Packer == nil {
		b.Packer = new(Packer)
	}
	raw, err := b.Packer.pack(&one, content)
	if err != nil {
		return nil, err
	}
	b.ratio = min(1, max(0.2, float64(len(one.Body))/float64(raw)*1.1))
	if len(one.Body) <= MaxBody {
		return []Batch{one}, nil
	}
	return b.halves(&one.Header, content)
}

// halves packs a body that came out too large as two batches: the ratio of the batch
// before it promised too much.
func (b *Builder) halves(h *Header, content *body) ([]Batch, error) {
	parts := [2]Builder{{Packer: b.Packer, ratio: 1}, {Packer: b.Packer, ratio: 1}}
	n := 0
	err := decode(h, content, func(e *Event) bool {
		parts[n*2/h.Count].Add(e, h.Start.Unix, h.Start)
		n++
		return true
	})
	if err != nil {
		return nil, err
	}
	var all []Batch
	for i := range parts {
		some, err := parts[i].Pack()
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

func (b *Builder) reset() {
	b.texts.reset()
	clear(b.routes)
	clear(b.callers)
	clear(b.clients)
	for i := range b.tables {
		b.tables[i] = b.tables[i][:0]
	}
	for i := range b.columns {
		b.columns[i] = b.columns[i][:0]
	}
	b.count = 0
}

func (b *Batch) events(yield func(*Event, error) bool) {
	content, err := unpack(b, Detail, detailTables, detailColumns)
	if err == nil {
		stopped := false
		err = decode(&b.Header, content, func(e *Event) bool {
			stopped = !yield(e, nil)
			return !stopped
		})
		if stopped {
			return
		}
	}
	if err != nil {
		yield(nil, err)
	}
}

// decode yields the events of a body, all of them the same Event, until yield returns
// false. After an error, what was yielded is not to be trusted.
func decode(h *Header, content *body, yield func(*Event) bool) error {
	routes, callers, err := tables(content)
	if err != nil {
		return err
	}
	clients := make(map[string]netip.Addr)
	ids := [2][]byte{content.Columns[colRequest], content.Columns[colTrace]}
	for i, c := range ids {
		if len(c) != 0 && len(c) != 16*h.Count {
			return fmt.Errorf("batch column %q has %d bytes for %d events", detailNames[colRequest+i], len(c), h.Count)
		}
	}
	col := readers(content.Columns[:colRequest], detailNames, &err)
	var e Event
	at := int64(0)
	for i := range h.Count {
		at += col[colTime].signed()
		if at < -maxMicros || at > maxMicros {
			col[colTime].fail("leaves the range of times")
		}
		e = Event{Time: h.Start.Unix.Add(time.Duration(at) * time.Microsecond)}
		if r := col[colRoute].below(uint64(len(routes))); err == nil {
			routes[r].into(&e)
		}
		if c := col[colCaller].below(uint64(len(callers))); err == nil {
			callers[c].into(&e)
		}
		e.User = col[colUser].text(content.Strings)
		e.Upstream = col[colUpstream].text(content.Strings)
		e.Status = uint16(col[colStatus].below(1 << 16))
		e.Fault = uint32(col[colFault].below(1 << 32))
		e.Level = Level(col[colLevel].below(1 << 8))
		flags := col[colFlags].below(1 << 8)
		e.Flags, e.Protocol = Flags(flags&(1<<protocolShift-1)), Protocol(flags>>protocolShift)
		e.Retries = uint8(col[colRetries].below(1 << 8))
		total := col[colOther].signed()
		for _, part := range []struct {
			column int
			d      *time.Duration
		}{{colBackend, &e.Backend}, {colSecurity, &e.Security}, {colThrottling, &e.Throttling}} {
			v := int64(col[part.column].below(maxMicros + 1))
			total += v
			*part.d = time.Duration(v) * time.Microsecond
		}
		if total < 0 || total > maxMicros {
			col[colOther].fail("gives an impossible latency")
		}
		e.Total = time.Duration(total) * time.Microsecond
		e.BytesIn, e.BytesOut = col[colIn].next(), col[colOut].next()
		if text := col[colClient].text(content.Strings); text != "" {
			a, ok := clients[text]
			if !ok {
				var fault error
				if a, fault = netip.ParseAddr(text); fault != nil {
					return fmt.Errorf("batch column %q: %w", detailNames[colClient], fault)
				}
				clients[text] = a
			}
			e.Client = a
		}
		e.UserAgent = col[colAgent].text(content.Strings)
		if len(ids[0]) != 0 {
			copy(e.RequestID[:], ids[0][16*i:])
		}
		if len(ids[1]) != 0 {
			copy(e.TraceID[:], ids[1][16*i:])
		}
		if err != nil {
			return err
		}
		if !yield(&e) {
			return nil
		}
	}
	finish(col)
	return err
}

func (r *route) texts() [routeWidth]*string {
	return [...]*string{&r.api, &r.version, &r.context, &r.template, &r.method, &r.operation, &r.publisher}
}

func (r *route) into(e *Event) {
	e.API, e.Version, e.Context, e.Template = r.api, r.version, r.context, r.template
	e.Method, e.Operation, e.Publisher = r.method, r.operation, r.publisher
}

func (c *caller) texts() [callerWidth]*string {
	return [...]*string{&c.id, &c.name, &c.owner, &c.tier, &c.key, &c.keyType, &c.plan}
}

func (c *caller) into(e *Event) {
	e.ApplicationID, e.ApplicationName, e.ApplicationOwner, e.ApplicationTier = c.id, c.name, c.owner, c.tier
	e.ConsumerKey, e.KeyType, e.Plan = c.key, c.keyType, c.plan
}

func tables(content *body) (routes []route, callers []caller, err error) {
	tab := readers(content.Tables, tableNames, &err)
	for len(tab[tableRoute].rest) > 0 && err == nil && len(routes) < MaxEvents {
		var r route
		for _, s := range r.texts() {
			*s = tab[tableRoute].text(content.Strings)
		}
		routes = append(routes, r)
	}
	for len(tab[tableCaller].rest) > 0 && err == nil && len(callers) < MaxEvents {
		var c caller
		for _, s := range c.texts() {
			*s = tab[tableCaller].text(content.Strings)
		}
		callers = append(callers, c)
	}
	finish(tab)
	return routes, callers, err
}
