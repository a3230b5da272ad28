package gateway

import (
	"errors"
	"strings"
	"tidegate/appliance/wire"
	"tidegate/platform/memory"
	"tidegate/policy"
	"tidegate/policy/fault"
	"tidegate/policy/schema"
	"tidegate/policy/strictjson"
	"tidegate/policy/transform"

	"golang.org/x/sync/semaphore"
)

// Memory for bodies that are looked into. Small ones have a share of their own, so that slow
// clients with large ones do not keep them out.
const (
	smallBody  = 16 << 10
	smallShare = 8 << 20
	largeShare = 32 << 20
	parseShare = 32 << 20
	unknown    = 64 << 10 // what a body of unknown length is taken for until it is read
	perValue   = 1200     // bytes that a JSON value takes while it is checked
)

// looking is the memory for bodies that are looked into.
type looking struct {
	small, large *memory.Pool
	parse        *semaphore.Weighted
}

func newLooking() looking {
	return looking{memory.NewPool(smallShare), memory.NewPool(largeShare), semaphore.NewWeighted(parseShare)}
}

// held is the share of the memory for bodies that a call has.
type held struct {
	pool *memory.Pool
	n    int64
}

// hold takes n bytes for a body of the call, beside what it has; the call is shed if they are not there.
// They go back when the call ends.
func (c *call) hold(n int64) error {
	l := &c.ed.gw.looking
	slot := &c.held[0]
	pool := l.small
	if n > smallBody {
		slot, pool = &c.held[1], l.large
	}
	if !pool.Acquire(n) {
		return &fault.Error{Fault: shed, RetryAfter: stallRetry, Err: errors.New("no memory for another body")}
	}
	slot.pool = pool
	slot.n += n
	return nil
}

// letGo gives back what hold took.
func (c *call) letGo() {
	for _, h := range c.held {
		if h.pool != nil {
			h.pool.Release(h.n)
		}
	}
}

// parsing calls f when there is memory to take a body of n bytes apart.
func (c *call) parsing(n int, f func() error) error {
	cost := min(int64(2*n)+perValue*min(int64(n/2+1), schema.MaxValues), parseShare)
	sem := c.ed.gw.looking.parse
	if err := sem.Acquire(c.context(), cost); err != nil {
		return &fault.Error{Fault: shed, RetryAfter: stallRetry, Err: err}
	}
	defer sem.Release(cost)
	return f()
}

// lookLimit is the largest body that is looked into.
func (c *call) lookLimit() int64 {
	n := c.ed.gw.o.ValidateBytes
	if n <= 0 {
		n = defaultLook
	}
	if m := c.maxBody; m > 0 {
		n = min(n, m)
	}
	return n
}

// defaultLook is the largest body that is looked into where the device does not say.
const defaultLook = 1 << 20

// limited is an exchange whose Body keeps to the bounds of the gateway.
type limited struct {
	wire.Exchange
	c *call
}

// Body returns the body, which was read whole if it is to be checked.
func (l limited) Body(limit int64) ([]byte, error) {
	if l.c.read {
		return l.Exchange.Body(l.c.lookLimit())
	}
	return l.Exchange.Body(limit)
}

// requestWhole reads the body of the request.
func (c *call) requestWhole() ([]byte, error) {
	length, limit := c.x.Head().Length, c.lookLimit()
	switch {
	case length > limit:
		return nil, fault.New(fault.TooLarge, errors.New("a body that is looked into is over the limit"))
	case c.read || length == 0:
	case length < 0:
		length = min(unknown, limit)
		fallthrough
	default:
		if err := c.hold(length); err != nil {
			return nil, err
		}
	}
	b, err := c.x.Body(limit)
	if err != nil {
		if status, ok := wire.BodyFault(err); ok {
			return nil, fault.New(bodyFault(status), err)
		}
		return nil, err
	}
	if more := int64(len(b)) - length; more > 0 && !c.read {
		if err := c.hold(more); err != nil {
			return nil, err
		}
	}
	c.read = true
	return b, nil
}

// check holds the request against its schema.
func (c *call) check() error {
	err := c.checkRequest(c.op.request)
	if err != nil && c.op.request.LogOnly() {
		c.noteSchema("request", err)
		return nil
	}
	return err
}

func (c *call) checkRequest(k *schema.Check) error {
	if c.x.Head().Length == 0 || !k.HasBody() {
		return k.Request(c.x, &c.match, 0)
	}
	takes, err := k.Takes(c.x)
	if err != nil {
		return err
	}
	n := 0
	if takes {
		b, err := c.requestWhole() // before there is memory to take it apart: it may come slowly
		if err != nil {
			return err
		}
		n = len(b)
	}
	return c.parsing(n, func() error { return k.Request(limited{c.x, c}, &c.match, 0) })
}

// noteSchema logs what a schema that only reports found.
func (c *call) noteSchema(side string, err error) {
	c.ed.gw.o.Log.Info("schema does not hold", "side", side, "api", c.match.API.Name, "operation", c.match.Op.Template,
		"method", c.match.Op.Method, "id", strings.Clone(c.x.ID()), "reason", err.Error())
}

// errNotJSON says that a body cannot be edited.
var errNotJSON = errors.New("a body that is edited must be JSON, not compressed")

// newBody returns the body for the backend where a transform makes it.
func (c *call) newBody() ([]byte, error) {
	r := c.op.rules
	c.view.Body = nil
	if r.ReadsRequest() {
		if c.x.Head().Length != 0 {
			if t, plain := schema.Form(c.x); t != "" && !schema.IsJSON(t) || !plain {
				return nil, fault.New(fault.MediaType, errNotJSON)
			}
		}
		b, err := c.requestWhole()
		if err != nil {
			return nil, err
		}
		if len(b) > 0 {
			err := c.parsing(len(b), func() error { return strictjson.Check(b, schema.MaxValues) })
			if err != nil {
				return nil, c.badJSON(err)
			}
			c.view.Body = b
		}
	}
	limit := c.lookLimit()
	b, err := r.RequestBody(&c.view, int(limit))
	if errors.Is(err, transform.ErrTooLarge) {
		return nil, fault.New(fault.TooLarge, err)
	}
	return b, err
}

// badJSON is what a client is told whose body could not be read.
func (c *call) badJSON(err error) error {
	var syntax *strictjson.SyntaxError
	if errors.As(err, &syntax) {
		return fault.New(fault.BadRequest, err)
	}
	return err
}

func identity(coding string) bool { return coding == "" || strings.EqualFold(coding, "identity") }

// edit applies the transforms of the operation to the request in c.req.
func (c *call) edit(host, suffix, query *string) error {
	r := c.op.rules
	if r.WritesRequest() {
		b, err := c.newBody()
		if err != nil {
			return err
		}
		if err := c.chargeWhole(); err != nil {
			return err
		}
		c.reader.Reset(b)
		c.req.Body, c.req.Length, c.req.Trailer, c.req.Announced, c.req.Interrupt = &c.reader, int64(len(b)), nil, "", nil
		if len(b) > 0 {
			c.set("Content-Type", "application/json")
		} else {
			c.req.Body = nil
		}
		for _, name := range digests {
			c.drop(name)
		}
	}
	r.EditRequest(&c.view, func(kind policy.EditKind, name, value string) {
		switch kind {
		case policy.EditSet:
			c.set(name, value)
		case policy.EditAdd:
			c.add(name, value)
		default:
			c.drop(name)
		}
	})
	c.req.Header = c.header
	c.req.Method = r.Method(c.req.Method)
	var err error
	if *host, err = r.Host(&c.view); err != nil {
		return err
	}
	if *suffix, err = r.Path(*suffix, &c.view); err != nil {
		return err
	}
	*query = r.Query(*query, &c.view)
	return nil
}

// digests are fields that a changed body makes wrong.
var digests = []string{"Content-Md5", "Digest", "Content-Digest", "Repr-Digest"}

// chargeWhole charges a request body of unknown length that is not passed on as it came.
func (c *call) chargeWhole() error {
	if len(c.charge) == 0 || c.x.Head().Length >= 0 {
		return nil
	}
	in, _ := c.x.Counts()
	return c.chargeBytes(c.charge, int(in))
}
