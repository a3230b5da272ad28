package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"tidegate/policy/cors"
	"tidegate/policy/fault"
	"tidegate/policy/schema"
	"tidegate/policy/strictjson"
	"tidegate/policy/transform"
)

// looksInto reports whether the body of an answer is needed whole.
func (c *call) looksInto(status int, h wire.Header) bool {
	if c.op.response == nil && (c.op.rules == nil || !c.op.rules.WritesResponse()) || status == http.StatusNoContent || status == http.StatusNotModified {
		return false
	}
	t := h.Value("Content-Type")
	return c.checks(status, t) || c.rewrites(t)
}

// checks reports whether an answer is held against a schema: those that mean success are.
func (c *call) checks(status int, contentType string) bool {
	return c.op.response != nil && status < 300 && c.op.response.Answers(contentType)
}

// rewrites reports whether an answer is edited.
func (c *call) rewrites(contentType string) bool {
	return c.op.rules != nil && c.op.rules.WritesResponse() && schema.IsJSON(schema.MediaType(contentType))
}

// answerWhole reads the body of an answer. When it is above the limit, the bytes read are
// returned with errLarge.
func (c *call) answerWhole(resp *wire.Response) ([]byte, error) {
	limit := c.ed.gw.o.ValidateBytes
	if limit <= 0 {
		limit = defaultLook
	}
	if resp.Length > limit {
		return nil, errLarge
	}
	room := resp.Length
	if room < 0 {
		room = min(unknown, limit)
	}
	if err := c.hold(room); err != nil {
		return nil, err
	}
	b := make([]byte, 0, room+1)
	for {
		n, err := resp.Body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case err == io.EOF:
			return b, nil
		case err != nil:
			return nil, fault.New(fault.BackendBroken, err)
		case int64(len(b)) > limit:
			return b, errLarge
		case len(b) == cap(b):
			if err := c.hold(int64(cap(b))); err != nil {
				return nil, err
			}
			b = append(make([]byte, 0, 2*cap(b)), b...)
		}
	}
}

// errLarge says that an answer is too large to be looked into.
var errLarge = errors.New("the body is larger than what is looked into")

// inspect holds the whole body of an answer against the schema and edits it. It returns the body for the
// client, and whether that differs.
func (c *call) inspect(status int, h wire.Header, body []byte) (out []byte, changed bool, err error) {
	t := h.Value("Content-Type")
	coding := h.Value("Content-Encoding")
	if c.checks(status, t) {
		err := c.parsing(len(body), func() error {
			if !identity(coding) {
				return schema.BadResponse("the body is in content coding " + coding)
			}
			return c.op.response.Response(body)
		})
		if err != nil {
			if !c.op.response.LogOnly() {
				return nil, false, err
			}
			c.noteSchema("response", err)
		}
	}
	if !c.rewrites(t) || len(body) == 0 {
		return body, false, nil
	}
	if !identity(coding) {
		return nil, false, fault.New(fault.BackendBroken, errNotJSON)
	}
	if err := c.parsing(len(body), func() error { return strictjson.Check(body, schema.MaxValues) }); err != nil {
		var syntax *strictjson.SyntaxError
		if errors.As(err, &syntax) {
			err = fault.New(fault.BackendBroken, fmt.Errorf("an answer that is edited: %w", err))
		}
		return nil, false, err
	}
	c.view.Body = body
	b, err := c.op.rules.ResponseBody(&c.view, 2*max(len(body), transform.MaxTemplate))
	if err != nil {
		return nil, false, fault.New(fault.BackendBroken, err)
	}
	return b, true, nil
}

// lookAt reads an answer, looks into it and gives it to the client. It returns an error
// only while nothing has been answered.
func (c *call) lookAt(resp *wire.Response) error {
	defer resp.Body.Close()
	body, err := c.answerWhole(resp)
	if errors.Is(err, errLarge) {
		t := resp.Header.Value("Content-Type")
		switch {
		case c.rewrites(t):
			return fault.New(fault.BackendBroken, err)
		case !c.op.response.LogOnly():
			return schema.BadResponse(err.Error())
		}
		c.noteSchema("response", err)
		return c.relayRest(resp, body)
	}
	if err != nil {
		return err
	}
	if c.writer != nil {
		c.writer.Write(body)
		if len(resp.Trailer()) == 0 {
			c.writer.Commit()
			c.flight.End()
		}
	}
	return c.whole(resp.Status, resp.Header, body, nil)
}

// relayRest gives an answer to the client of which a part was read already.
func (c *call) relayRest(resp *wire.Response, first []byte) error {
	c.answerHeader(resp.Header, false)
	c.status = c.mapped(resp.Status)
	x := c.metered()
	if err := x.Start(c.status, c.header, resp.Length); err != nil {
		c.x.Abort()
		return nil //nolint:nilerr // the client is gone
	}
	buf := make([]byte, blockBytes)
	for p := first; ; {
		if len(p) > 0 {
			if _, err := x.Write(p); err != nil {
				c.x.Abort()
				return nil //nolint:nilerr // the client is gone
			}
		}
		n, err := resp.Body.Read(buf)
		p = buf[:n]
		if err == io.EOF {
			_, _ = x.Write(p) // an error here ends the connection by itself
			return nil
		}
		if err != nil {
			c.x.Abort()
			return nil //nolint:nilerr // the answer has begun: breaking off is all that is left
		}
	}
}

// whole gives the client an answer whose body is at hand: of a backend, or out of the cache. extra
// are fields of ours.
func (c *call) whole(status int, h wire.Header, body []byte, extra wire.Header) error {
	body, changed, err := c.inspect(status, h, body)
	if err != nil {
		return err
	}
	c.answerHeader(h, changed)
	c.header = append(c.header, extra...)
	return c.reply(c.mapped(status), body)
}

// mapped returns the status for the client.
func (c *call) mapped(status int) int {
	if c.op == nil || c.op.rules == nil {
		return status
	}
	return c.op.rules.Status(status)
}

// validators are fields that say something about a body, which a changed one makes wrong.
var validators = []string{"Etag", "Last-Modified", "Accept-Ranges"}

// answerHeader makes the header for the client of that of an answer.
func (c *call) answerHeader(h wire.Header, changed bool) {
	c.header = c.header[:0]
	own := c.ed.apis[c.match.APIIndex].cors != nil
	for _, f := range h {
		if c.passesBack(f.Name, own) {
			c.header = append(c.header, f)
		}
	}
	if changed {
		for _, name := range append(validators, digests...) {
			c.drop(name)
		}
		if c.op.rules.WritesResponse() {
			c.set("Content-Type", "application/json")
		}
	}
	if c.op.rules != nil {
		c.op.rules.EditResponse(&c.view, func(kind policy.EditKind, name, value string) {
			switch kind {
			case policy.EditSet:
				c.set(name, value)
			case policy.EditAdd:
				c.add(name, value)
			default:
				c.drop(name)
			}
		})
	}
	c.ownFields()
}

// reply gives the client an answer whose header is in c.header. Nothing was answered yet.
func (c *call) reply(status int, body []byte) error {
	c.status = status
	silent := c.x.Head().Method == http.MethodHead
	if status == http.StatusNoContent || status == http.StatusNotModified {
		body, silent = nil, true
	}
	x, done := c.squeeze(c.metered(), status, int64(len(body)))
	length := int64(len(body))
	if status == http.StatusNotModified {
		length = 0
	}
	if err := x.Start(status, c.header, length); err != nil {
		c.x.Abort()
		return nil //nolint:nilerr // the client is gone
	}
	if !silent && len(body) > 0 {
		if _, err := x.Write(body); err != nil {
			c.x.Abort()
			return nil //nolint:nilerr // the answer has begun: breaking off is all that is left
		}
	}
	if err := done(); err != nil {
		c.x.Abort()
	}
	return nil
}

// fixed gives the answer that the bundle holds.
func (c *call) fixed() error {
	c.header = c.header[:0]
	status, body := c.op.rules.Answer(&c.view, func(name, value string) { c.add(name, value) })
	c.ownFields()
	return c.reply(status, body)
}

// passesBack reports whether a field of the backend's answer goes on to the client.
func (c *call) passesBack(name string, ownCORS bool) bool {
	switch {
	case len(name) == len(fieldID) && strings.EqualFold(name, fieldID),
		len(name) == 6 && strings.EqualFold(name, "Server"),
		ownCORS && cors.Owns(name):
		return false
	}
	return len(c.claims) == 0 || !limitField(name)
}
