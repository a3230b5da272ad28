package gateway

import (
	"encoding/hex"
	"net/http"
	"strings"
	"tidegate/policy"
	"tidegate/store/events"
	"tidegate/store/events/batch"
	"time"
)

// finish records the call and gives it back. It runs also when a rule panicked.
func (c *call) finish() {
	c.giveBack()
	c.letGo()
	if c.writer != nil {
		c.writer.Abandon() // of what was not stored by now
	}
	c.flight.End()
	c.record()
	c.free()
}

// record makes the event of the call. It never waits.
func (c *call) record() {
	g := c.ed.gw
	e := &c.event
	*e = events.Event{
		Time: c.start, Status: uint16(c.status), Fault: c.fault, Level: eventLevel(c),
		Total: time.Since(c.start), Backend: c.result.Backend, Security: c.security, Throttling: c.limits,
		Upstream: c.result.Target, Retries: uint8(min(c.result.Retries, 255)),
		Client: c.client(), UserAgent: c.x.Header("User-Agent"), Protocol: protocol(c),
	}
	in, out := c.x.Counts()
	e.BytesIn, e.BytesOut = uint64(max(in, 0)+c.tunnelIn), uint64(max(out, 0)+c.tunnelOut)
	if a := c.match.API; a != nil {
		e.API, e.Version, e.Context, e.Publisher = a.Name, a.Version, a.BasePath, a.Owner
	}
	if op := c.match.Op; op != nil {
		e.Template, e.Method, e.Operation = op.Template, op.Method, op.ID
	}
	if p := c.who; p != nil && p.Kind != 0 {
		e.ApplicationID, e.ApplicationName, e.ApplicationOwner, e.ApplicationTier = p.ApplicationID, p.ApplicationName, p.ApplicationOwner, p.ApplicationPlan
		e.ConsumerKey, e.KeyType, e.User, e.Plan = p.ConsumerKey, p.KeyType.String(), c.user(p), p.SubscriptionPlan
		if p.Cached {
			e.Flags |= batch.TokenCached
			g.stats.remembered.Add(1)
		} else {
			g.stats.checked.Add(1)
		}
	}
	if c.cached {
		e.Flags |= batch.ResponseCached
	}
	c.noteFlags(e)
	requestID(&e.RequestID, c.x.ID())
	if v := c.x.Header(fieldTrace); v != "" && c.traced() { // what does not go on is not recorded either
		traceID(&e.TraceID, v)
	}
	g.o.Recorder.Record(e)
	var op *OpStats
	if c.op != nil {
		op = c.op.stats
	}
	g.stats.count(op, c.status, c.fault, e.Total)
	if g.o.Access != nil {
		g.o.Access.Log(c.x, e)
	}
}

// user returns the subject with its tenant, as [policy.Principal.UserID], without an allocation.
func (c *call) user(p *policy.Principal) string {
	if p.Subject == "" || strings.IndexByte(p.Subject, '@') >= 0 {
		return p.Subject
	}
	m := c.mark()
	c.text = append(append(c.text, p.Subject...), '@')
	if p.Tenant == "" {
		c.text = append(c.text, "carbon.super"...)
	} else {
		c.text = append(c.text, p.Tenant...)
	}
	return c.value(m)
}

// eventLevel says which rule refused the call.
func eventLevel(c *call) batch.Level {
	switch c.level {
	case policy.LevelBlock:
		return batch.LevelBlocked
	case policy.LevelAPI:
		return batch.LevelAPI
	case policy.LevelOperation:
		return batch.LevelOperation
	case policy.LevelSubscription, policy.LevelUnauthenticated:
		return batch.LevelSubscription
	case policy.LevelApplication:
		return batch.LevelApplication
	case policy.LevelCustom:
		return batch.LevelCustom
	}
	switch {
	case c.fault >= 900800 && c.fault < 900900:
		return batch.LevelOverload
	case c.fault == 900908 || c.fault == 900910 || c.fault == 900907 || c.fault == 900909:
		return batch.LevelScope
	case c.fault >= 900900 && c.fault < 901000:
		return batch.LevelAuth
	case c.fault == 303001 && c.op == nil:
		return batch.LevelOverload
	case c.fault >= 101000 && c.fault < 310000:
		return batch.LevelUpstream
	case c.op == nil && (c.status == 404 || c.status == 405):
		return batch.LevelRoute
	case (c.fault == 0 || c.fault == http.StatusBadRequest) && c.result.Target == "" && c.status >= 400:
		return batch.LevelProtocol
	}
	return batch.LevelNone
}

// protocol is the scheme the client used.
func protocol(c *call) batch.Protocol {
	ws := c.status == http.StatusSwitchingProtocols
	switch {
	case c.x.TLS() != nil && ws:
		return batch.WSS
	case c.x.TLS() != nil:
		return batch.HTTPS
	case ws:
		return batch.WS
	}
	return batch.HTTP
}

// requestID keeps an id that has the form of 16 bytes in hex, with or without dashes.
func requestID(dst *[16]byte, id string) {
	var b [32]byte
	n := 0
	for i := range len(id) {
		if id[i] == '-' {
			continue
		}
		if n == len(b) {
			return
		}
		b[n] = id[i]
		n++
	}
	if n == len(b) {
		var out [16]byte
		if _, err := hex.Decode(out[:], b[:]); err == nil {
			*dst = out
		}
	}
}

// traceID reads the trace id of a well-formed traceparent field (W3C Trace Context §3.2.2).
func traceID(dst *[16]byte, v string) {
	var b [32]byte
	copy(b[:], v[3:35])
	var out [16]byte
	if _, err := hex.Decode(out[:], b[:]); err == nil {
		*dst = out
	}
}
