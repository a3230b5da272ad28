package gateway

import (
	"errors"
	"io"
	"net/http"
	"tidegate/appliance/wire"
	"tidegate/policy/fault"
	"tidegate/policy/throttle"
	"time"
)

// blockBytes is how much of a body passes between two looks at a bandwidth limit.
const blockBytes = 32 << 10

// errCut ends a stream whose plan cuts it at the end of its bytes.
var errCut = errors.New("the bandwidth of the plan is used up")

// meter is an exchange whose body bytes are charged to bandwidth plans as they pass.
type meter struct {
	wire.Exchange
	c *call
}

// metered returns the exchange through which the answer goes.
func (c *call) metered() wire.Exchange {
	if len(c.charge) == 0 {
		return c.x
	}
	c.body.Exchange, c.body.c = c.x, c
	return &c.body
}

// requestBody returns the reader of the request's body. A body of known length was charged
// when the call was admitted.
func (c *call) requestBody(length int64) io.Reader {
	if len(c.charge) == 0 || length >= 0 {
		return c.x.RequestBody()
	}
	// With HTTP/2 both ways are open at once: each has claims of its own.
	return &readMeter{c: c, body: c.x.RequestBody(), charge: append([]throttle.Claim(nil), c.charge...)}
}

// chargeBytes takes n bytes from the plans before they pass. It may be called for both
// directions at once, with claims of its own for each. An error is a [fault.Error], of errCut when
// the plan cuts the stream.
func (c *call) chargeBytes(claims []throttle.Claim, n int) error {
	for i := range claims {
		claims[i].N = int64(n)
	}
	v, err := c.ed.gw.o.Counter.Charge(c.context(), c.instant(), claims)
	if err != nil {
		return uncounted(err)
	}
	if !v.Admitted() {
		return &fault.Error{Fault: throttled(v.Level), Level: uint8(v.Level), RetryAfter: max(v.Retry, time.Second), Err: errCut}
	}
	if v.Notes.Has(throttle.Over) {
		c.over.Store(true)
	}
	return nil
}

// Write charges p, then sends it.
func (m *meter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		b := p[:min(len(p), blockBytes)]
		if err := m.c.chargeBytes(m.c.charge, len(b)); err != nil {
			return n, err
		}
		k, err := m.Exchange.Write(b)
		n += k
		if err != nil {
			return n, err
		}
		p = p[len(b):]
	}
	return n, nil
}

// readMeter charges what it has read before anybody uses it. That a plan ends the body is not the
// backend's failure: the error is a [wire.BodyError] around that of chargeBytes.
type readMeter struct {
	c      *call
	body   io.Reader
	charge []throttle.Claim
}

func (r *readMeter) Read(p []byte) (int, error) {
	n, err := r.body.Read(p[:min(len(p), blockBytes)])
	if n > 0 {
		if err := r.c.chargeBytes(r.charge, n); err != nil {
			return 0, &wire.BodyError{Status: http.StatusTooManyRequests, Reason: "not counted", Err: err}
		}
	}
	return n, err
}
