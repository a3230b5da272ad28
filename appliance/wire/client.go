package wire

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"time"
)

// Protocol is how a [Client] speaks to its target.
type Protocol uint8

// The protocols.
const (
	HTTP1 Protocol = iota // HTTP/1.1 by our own engine; TLS when Target.TLS is set
	HTTP2                 // HTTP/2: by ALPN when Target.TLS is set (HTTP/1.1 if the target lacks it), else with prior knowledge (h2c)
)

// A Target is one backend address and how to reach it. The zero value of each field but
// Addr is usable.
type Target struct {
	Addr     string      // host:port; resolved again at each dial
	Protocol Protocol    //
	TLS      *tls.Config // nil: plain; without ServerName, the host of Addr is verified

	MaxActive   int           // connections (HTTP/1.1) in use; default 1,024
	MaxIdle     int           // connections kept; default 64
	Streams     int           // calls at a time on a connection of HTTP/2; default 0: as many as the backend allows
	MaxWaiting  int           // calls waiting for a connection at MaxActive; default 0: none waits
	WaitTime    time.Duration // longest time a call waits for one; default DialTimeout
	DialTimeout time.Duration // of resolve, connect, proxy and TLS together; default 5 s
	IdleTime    time.Duration // a kept connection is not used after; default 30 s
	MaxAge      time.Duration // since the dial, after which a connection is not kept, so that Addr is resolved again; default: no bound
	HeaderBytes int           // of a response head and of trailers; default 64 KiB
	WriteStall  time.Duration // longest time one write may block; default 30 s

	// Proxy is reached instead of Addr and asked to CONNECT. nil: direct; the environment is never read.
	Proxy *Proxy
	// Dial replaces net.Dialer, for tests and special networks.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// A Proxy is an HTTP proxy for outbound connections.
type Proxy struct {
	Addr          string      // host:port
	TLS           *tls.Config // nil: the proxy is spoken to in plain; without ServerName, the host of Addr is verified
	Authorization string      // value of Proxy-Authorization; "" for none
}

// A Client keeps connections to one Target. All methods are safe for concurrent use.
type Client struct {
	target Target
	pool   pool
	h2     *h2client
}

// NewClient returns a client for t. It dials nothing.
func NewClient(t Target) *Client { return newClient(t) }

// A Request is one try of a call. Its strings are read during Do only, and so is the Body
// unless Interrupt is set.
type Request struct {
	Method string
	Base   string // written before Path; a prefix of the target: "/v1" or ""
	Path   string // percent-encoded, begins with "/" unless Base and Path are both "" (then "/" is sent)
	Query  string // without "?"
	Host   string // value of Host; "" means Target.Addr
	Header Header // without Host, Connection, framing and hop-by-hop fields; names as they should be sent

	Body    io.Reader     // nil: none
	Length  int64         // of Body; -1: not known, sent chunked
	Trailer func() Header // asked after Body's EOF; nil: none. Needs Length -1 with HTTP/1.1
	// Announced names the trailer fields, separated by commas. HTTP/2 sends trailers only if it names one.
	Announced string

	// Interrupt, when not nil, says that Body may be read in another goroutine until the response's
	// body is closed, and makes a read that waits fail. HTTP/2 then has both ways open at once, as
	// gRPC needs; without it the body is read by the caller of Do, before Do returns. See [Interrupter].
	Interrupt func()

	Upgrade  string // "websocket": asks for a 101
	Trailers bool   // sends "TE: trailers"

	Timeout time.Duration // from the request's last byte (HTTP/2: from Do) until the response's head is complete; 0: none
	Stall   time.Duration // longest pause inside the response's body; 0: none
}

// A Response is a backend's answer. Its strings are valid until Body is closed, which the
// caller must do, also for a 101; closing it again does nothing.
type Response struct {
	Status int
	Header Header // without hop-by-hop and framing fields
	Length int64  // of Body; -1: not known
	Body   io.ReadCloser
	// Upgraded is the connection after a 101, else nil. What the backend sent early is read first.
	Upgraded io.ReadWriteCloser

	own     responseBody  // of our own engine
	trailer func() Header // of net/http
	pool    *buffers
}

// Trailer returns the trailer fields; it is complete after Body's EOF and gone after its Close.
func (r *Response) Trailer() Header {
	switch {
	case r.own.cc != nil:
		return r.own.cc.body.trailer
	case r.trailer != nil:
		return r.trailer()
	}
	return nil
}

// Do sends one request and reads the head of its response, in the caller's goroutine.
// Nothing is repeated: a failed try is an error that [NeverSent], [Stale] and
// [BodyFault] can judge. 1xx answers but 101 are skipped. When ctx ends, the connection is
// cut and Do, or the read of the body, fails with ctx's error.
func (c *Client) Do(ctx context.Context, r *Request) (*Response, error) { return c.do(ctx, r) }

// Close closes kept connections; those in use are closed when their call ends. Later
// calls fail with ErrClosed.
func (c *Client) Close() { c.close() }

// ClientStats are counts of a Client's connections.
type ClientStats struct {
	Active, Idle, Waiting int   // now
	Dialed                int64 // ever
}

// Stats returns the counts.
func (c *Client) Stats() ClientStats { return c.stats() }
