package gateway

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"tidegate/policy"
	"tidegate/policy/fault"
	"time"
)

// gate is the compiled conditional access of an API or operation.
type gate struct {
	allow, deny policy.Networks
	methods     []string
	types       []string
	times       []policy.Hours
	zones       []*time.Location // of times
}

// newGate compiles a; nil for nil.
func newGate(a *policy.Access) (*gate, error) {
	if a == nil {
		return nil, nil
	}
	g := &gate{allow: policy.NewNetworks(a.Allow), deny: policy.NewNetworks(a.Deny), methods: a.Methods, types: a.ContentTypes, times: a.Times}
	for _, h := range a.Times {
		loc, err := time.LoadLocation(h.Zone)
		if err != nil {
			return nil, err
		}
		g.zones = append(g.zones, loc)
	}
	return g, nil
}

// The reasons of a closed gate, for the log.
var (
	errDenied  = errors.New("client address is not allowed here")
	errOutside = errors.New("not at this time")
	errMethod  = errors.New("method is not allowed here")
	errType    = errors.New("content type is not accepted here")
)

// check returns a refusal when the gate is closed for the call.
func (g *gate) check(client netip.Addr, now time.Time, method, contentType string, body bool) error {
	if g.deny.Contain(client) || len(g.allow) > 0 && !g.allow.Contain(client) {
		return fault.New(fault.Forbidden, errDenied)
	}
	if len(g.times) > 0 && !g.open(now) {
		return fault.New(fault.Forbidden, errOutside)
	}
	if len(g.methods) > 0 && !slices.Contains(g.methods, method) {
		return &fault.Error{Fault: fault.MethodNot, Allow: strings.Join(g.methods, ", "), Err: errMethod}
	}
	if len(g.types) > 0 && body && !g.takes(contentType) {
		return fault.New(fault.MediaType, errType)
	}
	return nil
}

// open reports whether now lies in one of the spans.
func (g *gate) open(now time.Time) bool {
	for i, h := range g.times {
		t := now.In(g.zones[i])
		day := uint(t.Weekday())
		since := time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute + time.Duration(t.Second())*time.Second
		today := h.Days&(1<<day) != 0
		if h.From <= h.To {
			if today && since >= h.From && since < h.To {
				return true
			}
			continue
		}
		yesterday := h.Days&(1<<((day+6)%7)) != 0
		if today && since >= h.From || yesterday && since < h.To {
			return true
		}
	}
	return false
}

// takes reports whether a media type is listed, without its parameters.
func (g *gate) takes(contentType string) bool {
	t, _, _ := strings.Cut(contentType, ";")
	t = strings.ToLower(strings.TrimSpace(t))
	for _, want := range g.types {
		if t == want || strings.HasSuffix(want, "/*") && strings.HasPrefix(t, want[:len(want)-1]) {
			return true
		}
	}
	return false
}

// access asks the gates of the API and of the operation.
func (c *call) access() error {
	for _, g := range [...]*gate{c.ed.apis[c.match.APIIndex].gate, c.op.gate} {
		if g == nil {
			continue
		}
		if err := g.check(c.client(), c.now.Lower, c.x.Head().Method, c.x.Header("Content-Type"), c.x.Head().Length != 0); err != nil {
			return err
		}
	}
	return nil
}
