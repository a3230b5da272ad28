package gateway

import (
	"crypto/sha256"
	"errors"
	"net/http"
	"slices"
	"strings"
	"tidegate/appliance/cache"
	"tidegate/appliance/upstream"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"tidegate/policy/fault"
	"time"
)

// errNotStored says that a client wanted a stored answer only.
var errNotStored = errors.New("only a stored answer was wanted, and there is none")

// spaceOf returns a digest of all in a bundle that decides what the backends of an API answer.
func spaceOf(set *policy.Set, api *policy.API) (cache.Space, error) {
	part := policy.Set{Format: policy.Format, APIs: []policy.API{*api}, BackendJWT: set.BackendJWT, ForwardAuth: set.ForwardAuth, TLS: set.TLS}
	var refs []policy.EndpointRef
	note := func(r policy.EndpointRef) {
		if r != 0 && int(r) <= len(set.Endpoints) && !slices.Contains(refs, r) {
			refs = append(refs, r)
			part.Endpoints = append(part.Endpoints, set.Endpoints[r-1])
		}
	}
	note(api.Production)
	note(api.Sandbox)
	for i := range api.Operations {
		note(api.Operations[i].Production)
		note(api.Operations[i].Sandbox)
	}
	b, err := policy.Encode(&part)
	if err != nil {
		return cache.Space{}, err
	}
	sum := sha256.Sum256(b)
	return cache.Space(sum[:16]), nil
}

// keepAnswers forgets what was stored for APIs that e does not have as they were.
func (g *Gateway) keepAnswers(e *Edition) {
	keep := map[cache.Space]bool{}
	if e != nil {
		for i := range e.apis {
			if e.apis[i].caches {
				keep[e.apis[i].space] = true
			}
		}
	}
	g.cache.Keep(keep)
}

// caches reports whether the cache has a part in the call, and makes c.ask.
func (c *call) caches(g *upstream.Group, to *upstream.Call) bool {
	if !c.api.caches || c.ed.gw.cache == nil || c.req.Upgrade != "" || c.x.Head().GRPC {
		return false
	}
	// What is asked in a body is not in the URI that answers are kept under, and its sender may take
	// its time while others wait.
	if (c.req.Method == http.MethodGet || c.req.Method == http.MethodHead) && c.x.Head().Length != 0 {
		return false
	}
	m := c.mark()
	// Backends make links of the fields that tell the client's host and scheme: who sends another Host
	// must not change what others are told.
	host, scheme := c.req.Header.Value(fieldHost), c.req.Header.Value(fieldProto)
	for _, s := range [...]string{g.Name(), "\x00", to.Host, "\x00", scheme, "\x00", host, "\x00", to.Suffix, "?", to.Query} {
		c.text = append(c.text, s...)
	}
	uri := c.value(m)
	c.ask = cache.Request{
		Space: c.api.space, Method: c.req.Method, URI: uri, Header: c.req.Header, Who: c.owner(),
		Authorized: c.req.Header.Has("Authorization") || c.req.Header.Has("Cookie"), Now: c.now.Boot,
	}
	return true
}

// owner is whom an answer that is not public belongs to: the caller's application; and the
// user as well where the backend is told who that is.
func (c *call) owner() string {
	p := c.who
	if p == nil || p.Kind == 0 {
		return ""
	}
	m := c.mark()
	switch {
	case p.ApplicationID != "":
		c.text = append(append(c.text, "application "...), p.ApplicationID...)
	case p.ConsumerKey != "":
		c.text = append(append(c.text, "consumer "...), p.ConsumerKey...)
	default:
		c.text = append(append(c.text, "user "...), p.UserID()...)
	}
	if c.ed.assertions != nil || c.ed.set.ForwardAuth || p.EndUserToken != "" || c.op.speaks {
		c.text = append(append(c.text, "\x00"...), p.UserID()...)
	}
	return c.value(m)
}

// cachedForward answers out of the cache, or forwards the call and stores the answer. It returns an
// error only while nothing has been answered.
func (c *call) cachedForward(g *upstream.Group, to upstream.Call) error {
	store := c.ed.gw.cache
	e, use := store.Lookup(&c.ask)
	if use == cache.Miss || use == cache.Validate {
		var waited bool
		if c.flight, waited = store.Join(c.context(), &c.ask); waited {
			c.now = c.ed.gw.o.Clock.Now()
			c.ask.Now = c.now.Boot
			e, use = store.Lookup(&c.ask)
		}
	}
	switch use {
	case cache.Refuse:
		return fault.New(fault.BackendTimeout, errNotStored)
	case cache.Hit:
		return c.stored(e)
	case cache.Validate:
		c.header = e.Conditional(c.header)
		c.req.Header, c.ask.Header = c.header, c.header
	}
	resp, res, err := g.Do(c.context(), &c.req, to)
	c.result = res
	if use == cache.Validate && away(resp, err) && c.context().Err() == nil && e.Offline(c.ask.Now, c.api.cache) {
		if resp != nil {
			resp.Body.Close()
		}
		store.NoteOffline()
		c.flight.End() // those who wait get it too, whatever this client's pace
		return c.stored(e)
	}
	if err != nil {
		return backendFault(err)
	}
	switch {
	case use == cache.Validate && resp.Status == http.StatusNotModified && (e.Header().Has("Etag") || e.Header().Has("Last-Modified")):
		e = store.Freshen(&c.ask, c.api.cache, e, cloned(resp.Header), res.Backend)
		c.flight.End()
		resp.Body.Close()
		return c.stored(e)
	case use == cache.Bypass && !safe(c.ask.Method) && resp.Status < 400, // it may have changed what is stored
		use == cache.Bypass && (c.ask.Method == http.MethodPut || c.ask.Method == http.MethodDelete) && resp.Status < 400:
		store.Invalidate(c.ask.Space, c.ask.URI)
	case use != cache.Bypass:
		c.writer = store.Begin(&c.ask, c.api.cache, resp.Status, resp.Header, resp.Length, res.Backend)
		switch {
		case c.writer != nil:
			c.flight.Storing()
		case resp.Status < http.StatusInternalServerError:
			c.flight.Lone(c.ask.Now)
		}
		// After a failure the next call may have an answer to store: nobody waits for this one.
		if c.writer == nil {
			c.flight.End()
		}
	}
	return c.relay(resp)
}

// away reports whether a backend could not be asked, or said that it cannot answer.
func away(resp *wire.Response, err error) bool {
	if err != nil {
		_, client := wire.BodyFault(err)
		return !client
	}
	switch resp.Status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// cloned copies a header whose strings end with its response.
func cloned(h wire.Header) wire.Header {
	out := make(wire.Header, len(h))
	for i, f := range h {
		out[i] = wire.Field{Name: strings.Clone(f.Name), Value: strings.Clone(f.Value)}
	}
	return out
}

// told are the fields of a stored answer that a 304 repeats (RFC 9110 §15.4.5).
var told = []string{"Cache-Control", "Content-Location", "Date", "Etag", "Expires", "Vary"}

// stored gives the client a stored answer.
func (c *call) stored(e *cache.Entry) error {
	c.cached = true
	m := c.mark()
	c.text = e.AppendAge(c.text, c.now.Boot)
	age := wire.Header{{Name: "Age", Value: c.value(m)}}
	h := e.Header()
	if !c.looksInto(e.Status(), h) && cache.NotModified(e.Status(), h, c.x.Head().Header) {
		kept := make(wire.Header, 0, len(told))
		for _, f := range h {
			if slices.ContainsFunc(told, func(n string) bool { return strings.EqualFold(n, f.Name) }) {
				kept = append(kept, f)
			}
		}
		c.answerHeader(kept, false)
		c.header = append(c.header, age...)
		return c.reply(http.StatusNotModified, nil)
	}
	return c.whole(e.Status(), h, e.Body(), age)
}

// capture is an exchange that gives the body of an answer to the cache as it passes.
type capture struct {
	wire.Exchange
	c       *call
	trailer bool
}

// captured returns the exchange through which an answer goes that is to be stored.
func (c *call) captured(x wire.Exchange) wire.Exchange {
	if c.writer == nil {
		return x
	}
	c.tee = &capture{Exchange: x, c: c}
	return c.tee
}

// endCapture stores the answer if it was whole.
func (c *call) endCapture(err error) {
	switch {
	case c.writer == nil:
	case err != nil || c.tee.trailer:
		c.writer.Abandon()
	default:
		c.writer.Commit()
		c.flight.End()
	}
}

// Write gives p to the cache, then to the client.
func (t *capture) Write(p []byte) (int, error) {
	if !t.c.writer.Write(p) {
		t.c.flight.Lone(t.c.ask.Now)
	}
	return t.Exchange.Write(p)
}

// Trailer notes that there are trailer fields: they are not stored, nor is the answer then.
func (t *capture) Trailer(h wire.Header) {
	t.trailer = true
	t.Exchange.Trailer(h)
}

// cacheRules are the rules of an API's cache.
func cacheRules(c *policy.Cache) cache.Rules {
	return cache.Rules{
		Default: time.Duration(c.Seconds) * time.Second,
		Offline: time.Duration(c.StaleOffline) * time.Second,
	}
}
