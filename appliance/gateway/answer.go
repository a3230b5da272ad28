package gateway

import (
	"errors"
	"net/http"
	"strings"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"tidegate/policy/cors"
	"tidegate/policy/fault"
	"tidegate/policy/throttle"
)

// refuse answers with a fault. The client sees the fault, the log the reason.
func (c *call) refuse(err error) {
	var e *fault.Error
	if !errors.As(err, &e) {
		e = fault.New(fault.PolicyError, err)
	}
	c.status, c.fault = e.Fault.Status, uint32(e.Fault.Code)
	if e.Fault.Shape == fault.Flat && e.Fault.Code < 1000 {
		c.fault = 0
		if c.status == http.StatusServiceUnavailable {
			c.fault = uint32(e.Fault.Code)
		}
	}
	if c.level == 0 {
		c.level = policy.Level(e.Level)
	}
	if e.Err != nil && e.Fault.Status >= http.StatusInternalServerError {
		c.ed.gw.o.Log.Warn("call refused", "status", e.Fault.Status, "code", e.Fault.Code, "id", strings.Clone(c.x.ID()), "reason", e.Err.Error())
	}
	if c.x.Started() {
		c.x.Abort()
		return
	}
	c.header = c.header[:0]
	if c.x.Head().GRPC {
		c.refuseGRPC(e)
		return
	}
	m := c.mark()
	if c.ed.faults == policy.FaultsProblem {
		c.text = e.Fault.AppendProblem(c.text)
		c.add("Content-Type", fault.ProblemType)
	} else {
		c.text = e.Fault.AppendWSO2(c.text)
		c.add("Content-Type", fault.ContentType)
	}
	body := c.text[m:len(c.text):len(c.text)]
	c.refusalFields(e)
	if err := c.x.Start(e.Fault.Status, c.header, int64(len(body))); err != nil {
		c.x.Abort()
		return
	}
	if c.x.Head().Method == http.MethodHead {
		return
	}
	if _, err := c.x.Write(body); err != nil {
		c.x.Abort()
	}
}

// refusalFields adds the fields that go with a refusal.
func (c *call) refusalFields(e *fault.Error) {
	if e.Challenge != "" {
		c.add("WWW-Authenticate", e.Challenge)
	}
	if e.Allow != "" {
		c.add("Allow", e.Allow)
	}
	if e.RetryAfter > 0 {
		m := c.mark()
		c.text = throttle.AppendRetryAfter(c.text, e.RetryAfter)
		c.add(throttle.FieldRetryAfter, c.value(m))
	}
	c.ownFields()
}

// ownFields adds what every answer carries: the request id, the state of the limits, and
// CORS.
func (c *call) ownFields() {
	c.add(fieldID, c.x.ID())
	if len(c.claims) > 0 {
		m := c.mark()
		c.text = throttle.AppendPolicy(c.text, c.claims)
		if v := c.value(m); v != "" {
			c.add(throttle.FieldPolicy, v)
		}
		m = c.mark()
		c.text = throttle.AppendLimit(c.text, c.claims, c.verdict)
		if v := c.value(m); v != "" {
			c.add(throttle.FieldLimit, v)
		}
	}
	if c.match.API == nil {
		return
	}
	if r := c.ed.apis[c.match.APIIndex].cors; r != nil {
		var buf [4]cors.Field
		for _, f := range r.Actual(buf[:0], c.x) {
			c.add(f.Name, f.Value)
		}
	}
}

// relay gives the backend's answer to the client. It returns an error only while nothing has
// been answered.
func (c *call) relay(resp *wire.Response) error {
	if resp.Upgraded != nil {
		return c.tunnel(resp)
	}
	head := c.x.Head().Method == http.MethodHead
	if !head && c.looksInto(resp.Status, resp.Header) {
		return c.lookAt(resp)
	}
	changes := head && c.rewrites(resp.Header.Value("Content-Type"))
	if changes { // a GET would be answered with another body
		resp.Length = -1
	}
	c.answerHeader(resp.Header, changes)
	c.status = c.mapped(resp.Status)
	if c.status == http.StatusNoContent && resp.Status != c.status {
		defer resp.Body.Close() // what the backend said besides is not told
		c.drop("Content-Type")
		return c.reply(c.status, nil)
	}
	resp.Status = c.status
	x, done := c.squeeze(c.captured(c.metered()), c.status, resp.Length)
	var err error
	if c.x.Head().GRPC {
		err = c.relayGRPC(x, resp)
	} else {
		err = wire.Relay(x, resp, c.header)
	}
	if e := done(); err == nil {
		err = e
	}
	c.endCapture(err)
	if err != nil {
		c.ed.gw.o.Log.Debug("answer broke off", "error", err)
		c.x.Abort() // a plan may have cut it: the client must see that it is not whole
	}
	return nil
}

// limitField reports whether a name is one of those that tell the state of the limits.
func limitField(name string) bool {
	return strings.EqualFold(name, throttle.FieldLimit) || strings.EqualFold(name, throttle.FieldPolicy)
}
