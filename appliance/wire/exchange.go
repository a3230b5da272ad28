package wire

import (
	"context"
	"io"
	"net/netip"
	"tidegate/policy"
)

// A Field is one header or trailer field. Names compare without regard to case.
type Field struct{ Name, Value string }

// A Head is what a request says before its body: what was received, without hop-by-hop
// fields, the framing fields, Host and Expect, and without fields whose name holds a character
// outside letters, digits and "-".
type Head struct {
	Method    string
	Authority string // Host as sent
	Path      string // percent-encoded, as it will be forwarded
	Query     string // as sent, without "?"
	Header    Header
	Upgrade   string // "websocket" when a well-formed upgrade is asked for, else ""
	Length    int64  // of the body; 0: none, -1: not known
	Trailers  bool   // te: trailers was sent
	Announced string // names of the request's trailer fields, as the Trailer field has them
	GRPC      bool   // content type application/grpc…
	Proto     string // "HTTP/1.0", "HTTP/1.1", "HTTP/2.0"
}

// An Exchange is one call in the hands of an engine. It is for one goroutine and valid
// until the handler returns.
type Exchange interface {
	policy.Call

	// Context ends when the client is gone or the server stops waiting for the call.
	Context() context.Context
	// Head returns the request's head; the caller may read it, not change it.
	Head() *Head
	// Peer returns the address of the connection's other end.
	Peer() netip.AddrPort
	// ID returns the request id: taken over from a trusted peer, else new.
	ID() string
	// RequestBody returns the body; the first read sends "100 Continue" if it was asked for.
	// Reading fails with an error that [BodyFault] knows when the client breaks the framing, is
	// too slow, or exceeds the limit. After EOF, RequestTrailer holds the trailer fields.
	RequestBody() io.Reader
	RequestTrailer() Header
	// LimitBody bounds the bytes that RequestBody yields; at the bound reading fails.
	LimitBody(n int64)

	// Start sends status and header; length -1 means unknown. It may be called once. The
	// engine adds framing, Date and Connection; Header must not hold them. Neither Start nor
	// Trailer keeps h or its strings.
	Start(status int, h Header, length int64) error
	// Write sends body bytes; it blocks while the client does not read.
	Write(p []byte) (int, error)
	// Flush sends what is buffered.
	Flush() error
	// Trailer sets the trailer fields to be sent after the body (chunked, HTTP/2).
	Trailer(h Header)
	// Started reports whether Start was called.
	Started() bool
	// Abort ends the connection (HTTP/1.1) or resets the stream (HTTP/2) so that the client sees
	// that the answer is not whole.
	Abort()
	// Tunnel answers 101 with h and returns the raw connection; HTTP/1.1 only. What the client
	// sent early is read first. The engine never touches the connection again.
	Tunnel(h Header) (io.ReadWriteCloser, error)
	// Counts returns the body bytes received and sent so far.
	Counts() (in, out int64)
}

// A Handler decides one call and answers it. It must call Start, Tunnel or Abort.
type Handler interface {
	Serve(x Exchange)
}

// A Refuser answers for requests that the engine refuses by itself, so that those answers
// have the same form, id and record as all others. x has a Head as far as it was read.
type Refuser interface {
	// Refuse is called with the status (400, 408, 414, 431, 501, 503, 505) and the reason for
	// the log; the engine closes the connection afterwards. Header fields and body are absent.
	Refuse(x Exchange, status int, reason string)
}
