package gateway

import (
	"crypto/sha1" // RFC 6455 §1.3 asks for it; it proves nothing here
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"tidegate/appliance/wire"
	"tidegate/policy/cors"
	"tidegate/policy/fault"
	"tidegate/policy/throttle"
	"time"
)

// The faults of an upgrade.
var (
	errNoUpgrade  = errors.New("an upgrade where the operation allows none")
	errWebSocket  = errors.New("a WebSocket handshake with a field twice (RFC 6455 §11.3)")
	errOrigin     = errors.New("a WebSocket from a page of another origin")
	fieldVersion  = "Sec-WebSocket-Version"
	fieldKey      = "Sec-WebSocket-Key"
	fieldAccept   = "Sec-WebSocket-Accept"
	fieldExtended = "Sec-WebSocket-Extensions"
)

// handshake judges a request for an upgrade, whose form the engine has checked, before it is
// forwarded. What a page of another
// origin may not read by a plain call it may not have by a WebSocket either: browsers do not
// keep it from that by themselves.
func (c *call) handshake() error {
	if !c.match.Op.Upgrade {
		return fault.New(fault.BadRequest, errNoUpgrade)
	}
	n := 0
	c.x.HeaderValues(fieldKey, func(string) bool { n++; return true })
	c.x.HeaderValues(fieldVersion, func(string) bool { n++; return true })
	if n != 2 {
		return fault.New(fault.BadRequest, errWebSocket)
	}
	if r := c.api.cors; r != nil && c.x.Header("Origin") != "" {
		var buf [4]cors.Field
		allowed := false
		for _, f := range r.Actual(buf[:0], c.x) {
			allowed = allowed || f.Name == "Access-Control-Allow-Origin"
		}
		if !allowed {
			return fault.New(fault.Forbidden, errOrigin)
		}
	}
	return nil
}

// framed reports whether what passes an upgraded connection has to be understood: to limit it, or to
// end it with a reason when a plan is used up.
func (c *call) framed() bool {
	m := c.match.Op.Messages
	return m != nil && (m.PerSecond > 0 || m.Bytes > 0) || len(c.charge) > 0
}

// acceptOf returns the answer to a key (RFC 6455 §4.2.2).
func acceptOf(key string) string {
	h := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(h[:])
}

// tunnel joins the client and the backend after a 101.
func (c *call) tunnel(resp *wire.Response) error {
	defer resp.Body.Close()
	if resp.Header.Value(fieldAccept) != acceptOf(c.x.Header(fieldKey)) ||
		c.framed() && resp.Header.Has(fieldExtended) {
		resp.Upgraded.Close()
		return fault.New(fault.BackendBroken, errors.New("the backend answered the WebSocket handshake wrongly"))
	}
	c.answerHeader(resp.Header, false)
	c.status = http.StatusSwitchingProtocols
	client, err := c.x.Tunnel(c.header)
	if err != nil {
		resp.Upgraded.Close()
		c.x.Abort()
		return nil
	}
	if !c.framed() {
		c.tunnelOut, c.tunnelIn = wire.Pipe(resp.Upgraded, client)
		return nil
	}
	t := &tunnel{c: c, client: client, backend: resp.Upgraded}
	up := &half{t: t, from: client, masked: true, charge: append([]throttle.Claim(nil), c.charge...)}
	down := &half{t: t, from: resp.Upgraded, charge: append([]throttle.Claim(nil), c.charge...)}
	up.to, down.to = &frameWriter{w: resp.Upgraded, masked: true}, &frameWriter{w: client}
	up.back, down.back = down.to, up.to
	if m := c.match.Op.Messages; m != nil {
		up.limit(m.PerSecond, m.Bytes)
		down.limit(m.PerSecond, m.Bytes)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		down.run()
	}()
	up.run()
	<-done
	c.tunnelIn, c.tunnelOut = up.bytes, down.bytes
	return nil
}

// A tunnel is an upgraded connection whose frames are looked at.
type tunnel struct {
	c               *call
	client, backend io.Closer
	parting         atomic.Bool // a close frame was sent: its reader has closeTime to see it
	once            sync.Once
}

// end closes both connections, unless somebody is still to hear why.
func (t *tunnel) end() {
	if !t.parting.Load() {
		t.cut()
	}
}

// cut closes both connections.
func (t *tunnel) cut() {
	t.once.Do(func() {
		t.client.Close()
		t.backend.Close()
	})
}

// half is one direction of a tunnel.
type half struct {
	t      *tunnel
	from   io.Reader
	to     *frameWriter // the other end
	back   *frameWriter // towards from
	masked bool         // frames come from a client
	charge []throttle.Claim

	perSecond, maxBytes int64
	tokens              float64
	filled              time.Time

	bytes   int64
	message int64 // payload bytes of the message that is under way
	inside  bool  // a fragmented message is under way
}

func (h *half) limit(perSecond, bytes int64) {
	h.perSecond, h.maxBytes = perSecond, bytes
	h.tokens, h.filled = float64(perSecond), time.Now()
}

// A breach ends a tunnel. Code is a status of RFC 6455 §7.4.1.
type breach struct {
	code   uint16
	reason string
}

// Close statuses.
const (
	closeProtocol = 1002
	closePolicy   = 1008
	closeTooBig   = 1009
)

var (
	tooMany   = &breach{closePolicy, "too many messages"}
	tooBig    = &breach{closeTooBig, "message too big"}
	usedUp    = &breach{closePolicy, "the bandwidth of the plan is used up"}
	malformed = &breach{closeProtocol, "malformed frame"}
)

// run copies frames until an end or a breach.
func (h *half) run() {
	buf := make([]byte, blockBytes)
	for {
		b, err := h.frame(buf)
		if err != nil {
			h.t.end()
			return
		}
		if b != nil {
			h.part(b)
			return
		}
	}
}

// part ends the tunnel after a breach. The one who broke a rule hears which; the other end
// hears that it is over.
func (h *half) part(b *breach) {
	h.t.c.ed.gw.o.Log.Info("WebSocket ended", "reason", b.reason, "from_client", h.masked, "id", strings.Clone(h.t.c.x.ID()))
	h.t.parting.Store(true)
	timer := time.AfterFunc(closeTime, h.t.cut)
	defer timer.Stop()
	h.back.close(b.code, b.reason)
	h.to.close(closePolicy, "the other end broke a rule")
	// What came meanwhile is taken off the connection: closing over it would take the close frame
	// from its reader.
	_, _ = io.Copy(io.Discard, h.from)
	h.t.cut()
}

// frame reads one frame (RFC 6455 §5.2) and passes it on.
func (h *half) frame(buf []byte) (*breach, error) {
	head := buf[:2:14]
	if _, err := io.ReadFull(h.from, head); err != nil {
		return nil, err
	}
	final, op, masked := head[0]&0x80 != 0, head[0]&0x0f, head[1]&0x80 != 0
	n := uint64(head[1] & 0x7f)
	extra := 0
	switch n {
	case 126:
		extra = 2
	case 127:
		extra = 8
	}
	size := 2 + extra
	if masked {
		size += 4
	}
	if _, err := io.ReadFull(h.from, buf[2:size]); err != nil {
		return nil, err
	}
	if extra > 0 {
		n = 0
		for _, c := range buf[2 : 2+extra] {
			n = n<<8 | uint64(c)
		}
	}
	if b := h.judge(head[0], final, op, masked, n, extra); b != nil {
		return b, nil
	}
	h.to.mu.Lock()
	defer h.to.mu.Unlock()
	if h.to.closed {
		return nil, io.ErrClosedPipe
	}
	if err := h.pass(buf[:size]); err != nil {
		return nil, err
	}
	for n > 0 {
		p := buf[:min(uint64(len(buf)), n)]
		k, err := h.from.Read(p)
		if k > 0 {
			if len(h.charge) > 0 && h.t.c.chargeBytes(h.charge, k) != nil {
				return nil, h.cut()
			}
			if err := h.pass(p[:k]); err != nil {
				return nil, err
			}
			h.bytes += int64(k)
			n -= uint64(k)
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// cut ends a stream inside a frame: nothing but the end of the connection can follow.
func (h *half) cut() error {
	h.back.close(usedUp.code, usedUp.reason)
	return errCut
}

// judge holds the head of a frame against the standard and the limits.
func (h *half) judge(first byte, final bool, op byte, masked bool, n uint64, extra int) *breach {
	control := op >= 8
	switch {
	case first&0x70 != 0, masked != h.masked, op > 2 && op < 8, op > 10,
		control && (!final || n > 125), extra == 2 && n < 126, extra == 8 && (n < 1<<16 || n>>63 != 0),
		!control && (op == 0) != h.inside:
		return malformed
	}
	begins := !control && !h.inside
	// Empty fragments cost as much as messages and would never reach a size.
	if (begins || control || n == 0) && !h.spend() {
		return tooMany
	}
	if control {
		return nil
	}
	if begins {
		h.message = 0
	}
	h.inside = !final
	h.message += int64(n)
	if h.maxBytes > 0 && (h.message > h.maxBytes || h.message < 0) {
		return tooBig
	}
	return nil
}

// spend takes one message from those of this second.
func (h *half) spend() bool {
	if h.perSecond <= 0 {
		return true
	}
	now := time.Now()
	h.tokens = min(h.tokens+now.Sub(h.filled).Seconds()*float64(h.perSecond), float64(h.perSecond))
	h.filled = now
	if h.tokens < 1 {
		return false
	}
	h.tokens--
	return true
}

func (h *half) pass(p []byte) error {
	_, err := h.to.w.Write(p)
	return err
}
