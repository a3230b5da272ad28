package gateway

import (
	"errors"
	"io"

	"tidegate/appliance/wire"
	"tidegate/policy/throttle"
)

// blockBytes is how much of a body passes between two looks at a bandwidth limit.
const blockBytes = 32 << 10

// errCut ends a stream whose plan cuts it at the end of its bytes.
var errCut = errors.New("the bandwidth of the plan is used up")

// meter is an exchange whose body bytes are charged to bandwidth plans as they pass.
type meter struct {
	wire.Exchange
	c    *call
	body io.Reader
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
	c.body.Exchange, c.body.c = c.x, c
	c.body.body = c.x.RequestBody()
	return readMeter{&c.body}
}

// charge takes n bytes from the plans before they pass.
func (m *meter) charge(n int) error {
	for i := range m.c.charge {
		m.c.charge[i].N = int64(n)
	}
	v, err := m.c.ed.gw.o.Counter.Charge(m.c.context(), m.c.instant(), m.c.charge)
	if err != nil {
		return err
	}
	if !v.Admitted() {
		return errCut
	}
	m.c.verdict.Notes |= v.Notes & throttle.Over
	return nil
}

// Write charges p, then sends it.
func (m *meter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		b := p[:min(len(p), blockBytes)]
		if err := m.charge(len(b)); err != nil {
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

// readMeter charges what it has read before anybody uses it.
type readMeter struct{ m *meter }

func (r readMeter) Read(p []byte) (int, error) {
	n, err := r.m.body.Read(p[:min(len(p), blockBytes)])
	if n > 0 {
		if err := r.m.charge(n); err != nil {
			return 0, err
		}
	}
	return n, err
}
