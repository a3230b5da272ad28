package gateway

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"tidegate/appliance/upstream"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"tidegate/policy/fault"
	"tidegate/policy/transform"
)

// The fields that the gateway sets itself: what a client sends under these names is
// never forwarded, unless the peer is a trusted proxy and the field says so.
const (
	fieldFor       = "X-Forwarded-For"
	fieldHost      = "X-Forwarded-Host"
	fieldProto     = "X-Forwarded-Proto"
	fieldForwarded = "Forwarded"
	fieldID        = "X-Request-Id"
	fieldCert      = "X-WSO2-CLIENT-CERTIFICATE"
)

// group returns the backends that the caller's key type may use.
func (c *call) group() (*upstream.Group, error) {
	g, f := c.op.production, fault.NoProductionBackend
	if c.who != nil && c.who.KeyType == policy.Sandbox {
		g, f = c.op.sandbox, fault.NoSandboxBackend
	}
	if g == nil {
		return nil, fault.New(f, nil)
	}
	return g, nil
}

// prepare builds the request for the backend in c.req.
func (c *call) prepare() {
	h := c.x.Head()
	c.forwardedHeader(h)
	c.req = wire.Request{
		Method:   h.Method,
		Header:   c.header,
		Upgrade:  h.Upgrade,
		Trailers: h.Trailers,
	}
	if h.Length != 0 {
		c.req.Body = c.requestBody(h.Length)
		c.req.Length = h.Length
		if h.Length < 0 {
			c.req.Trailer, c.req.Announced = c.x.RequestTrailer, h.Announced
		}
		c.req.Interrupt = wire.Interrupter(c.x)
	}
}

// forwardedHeader copies the fields that go on, without the credential that was used, and
// says who calls.
func (c *call) forwardedHeader(h *wire.Head) {
	trusted := c.x.TrustedPeer()
	for _, f := range h.Header {
		if !c.passes(f.Name, trusted) {
			continue
		}
		if len(c.op.dropCookie) > 0 && strings.EqualFold(f.Name, "Cookie") {
			if f.Value = c.cookies(f.Value); f.Value == "" {
				continue
			}
		}
		c.header = append(c.header, f)
	}
	c.certificate(trusted)
	m := c.mark()
	if trusted {
		h.Header.Values(fieldFor, func(v string) bool {
			c.text = append(c.text, v...)
			c.text = append(c.text, ", "...)
			return true
		})
	}
	c.text = c.x.Peer().Addr().Unmap().AppendTo(c.text)
	c.add(fieldFor, c.value(m))
	if !trusted || !h.Header.Has(fieldHost) {
		c.add(fieldHost, h.Authority)
	}
	if !trusted || !h.Header.Has(fieldProto) {
		proto := "http"
		if c.x.TLS() != nil {
			proto = "https"
		}
		c.add(fieldProto, proto)
	}
	c.add(fieldID, c.x.ID())
	if trusted && h.Header.Has(fieldForwarded) {
		c.forwarded(h)
	}
	if h.Upgrade != "" && c.framed() {
		c.drop(fieldExtended) // compressed messages have no size that could be limited
	}
	if c.op.response != nil || c.op.rules != nil && c.op.rules.WritesResponse() {
		c.set("Accept-Encoding", "identity") // it will be read here
		c.drop("Range")
		c.drop("If-Range")
	}
}

// passes reports whether a field of the client's goes on to the backend as it is.
func (c *call) passes(name string, trusted bool) bool {
	for _, d := range c.op.drop {
		if strings.EqualFold(name, d) {
			return false
		}
	}
	switch len(name) { // most names are none of ours: compare only those of a like length
	case len(fieldFor):
		if strings.EqualFold(name, fieldFor) {
			return false // rebuilt
		}
	case len(fieldHost):
		if strings.EqualFold(name, fieldHost) {
			return trusted
		}
		if strings.EqualFold(name, fieldProto) {
			return trusted
		}
	case len(fieldForwarded):
		if strings.EqualFold(name, fieldForwarded) {
			return false // rebuilt
		}
	case len(fieldTrace):
		if strings.EqualFold(name, fieldTrace) {
			return c.traced()
		}
	case len(fieldState):
		if strings.EqualFold(name, fieldState) {
			return c.traced()
		}
	case len(fieldID):
		if strings.EqualFold(name, fieldID) {
			return false // set anew
		}
	}
	if len(name) == len(fieldProto) && strings.EqualFold(name, fieldProto) {
		return trusted
	}
	if len(name) == len(fieldCert) && strings.EqualFold(name, fieldCert) {
		return trusted
	}
	return true
}

// safe reports whether a method may be repeated (RFC 9110 §9.2.2).
func safe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// forward sends the call to its backend and relays the answer. It returns an error only
// while nothing has been answered.
func (c *call) forward() error {
	if c.x.Head().Upgrade != "" {
		if err := c.handshake(); err != nil {
			return err
		}
	}
	if c.op.request != nil {
		if err := c.check(); err != nil {
			return err
		}
	}
	if c.op.rules != nil {
		c.view = transform.View{Call: c.x, Params: &c.match, ID: c.x.ID()}
		if c.who != nil {
			c.view.Claims = c.who.Claims
		}
		if c.op.rules.Fixed() {
			return c.fixed()
		}
	}
	g, err := c.group()
	if err != nil {
		return err
	}
	c.prepare()
	to := upstream.Call{Suffix: c.match.Rest, Query: c.query()}
	if c.op.rules != nil {
		if err := c.edit(&to.Host, &to.Suffix, &to.Query); err != nil {
			return err
		}
	}
	if err := c.assert(); err != nil {
		return err
	}
	c.req.Header = c.header
	to.Safe = safe(c.req.Method)
	if c.x.Head().GRPC {
		if to.Within, err = c.deadline(); err != nil {
			return err
		}
	}
	if c.caches(g, &to) {
		return c.cachedForward(g, to)
	}
	resp, res, err := g.Do(c.context(), &c.req, to)
	c.result = res
	if err != nil {
		return backendFault(err)
	}
	return c.relay(resp)
}

// gone is recorded for a client that left before the answer: nobody reads it, and it is no
// failure of the backend or of the bundle. The status is the one that nginx uses.
var gone = &fault.Fault{Code: 499, Status: 499, Message: "Runtime Error", Description: "The client closed the request", Shape: fault.Flat}

// backendFault turns an error of upstream into what the client is told.
func backendFault(err error) error {
	var none *upstream.NoneError
	var own *fault.Error
	if errors.As(err, &own) {
		return own // a limit ended the request's body
	}
	if status, ok := wire.BodyFault(err); ok {
		return fault.New(bodyFault(status), err)
	}
	switch {
	case errors.As(err, &none):
		return &fault.Error{Fault: fault.NoBackend, Err: err, RetryAfter: none.After}
	case errors.Is(err, context.Canceled):
		return fault.New(gone, err)
	case errors.Is(err, upstream.ErrTimeout):
		return fault.New(fault.BackendTimeout, err)
	default:
		return fault.New(fault.BackendBroken, err)
	}
}

// bodyFault is what a client is told about its own body.
func bodyFault(status int) *fault.Fault {
	switch status {
	case http.StatusRequestTimeout:
		return fault.Timeout
	case http.StatusRequestEntityTooLarge:
		return fault.TooLarge
	default:
		return fault.BadRequest
	}
}
