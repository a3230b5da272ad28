package wire

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// ClientField names the field in which trusted proxies tell the client's address.
type ClientField uint8

// The fields.
const (
	XForwardedFor ClientField = iota // X-Forwarded-For
	Forwarded                        // Forwarded, RFC 7239
)

// Limits bound what one client can make the server hold. A zero field means its default.
type Limits struct {
	HeaderBytes  int           // request line and fields; default 16 KiB, beyond it 431
	URIBytes     int           // request target; default 8 KiB, beyond it 414
	HeaderFields int           // fields of a request; default 100, beyond it 431
	HeaderTime   time.Duration // from the first byte to the last of the head, and TLS handshake; default 5 s, then 408
	IdleTime     time.Duration // between calls; default 60 s, then the connection is closed
	BodyBytes    int64         // of a request body, unless LimitBody says otherwise; default 0: no bound
	BodyStall    time.Duration // longest pause inside a request body; default 30 s, then 408
	BodyRate     int           // bytes per second a request body must average after BodyStall; default 0: no bound
	WriteStall   time.Duration // longest time one write to the client may block; default 30 s, then it is cut
	Connections  int           // open at a time, all protocols; default 10,000
	Streams      int           // of one HTTP/2 connection; default 32
}

// A Server reads calls from listeners and gives them to its Handler. Its fields are set
// before Serve and not changed later. The zero value of each optional field is usable.
type Server struct {
	Handler Handler
	Refuser Refuser // nil: refusals have an empty body
	Limits  Limits

	// TLSConfig makes Serve speak TLS. Without NextProtos, h2 and http/1.1 are offered.
	TLSConfig *tls.Config
	// Trusted says which peers are proxies whose X-Forwarded-For (or Forwarded) and X-Request-Id
	// count; nil: none. [Ranges] makes one.
	Trusted func(netip.Addr) bool
	// ClientField is the field that the trusted proxies set. The other one is never read: a
	// proxy passes on what it does not know.
	ClientField ClientField
	// Admit is asked before the Handler; false is answered 503 by the Refuser. nil: always true.
	Admit func() bool
	// ErrorLog gets what concerns no call: failed handshakes, accept errors, panics. nil: discarded.
	ErrorLog *slog.Logger

	state serverState
}

// Serve takes connections from ln until it is closed or Shutdown is called, then returns
// nil or the error of Accept. It may be called for several listeners at once.
func (s *Server) Serve(ln net.Listener) error { return s.serve(ln) }

// Shutdown closes the listeners and idle connections at once and waits for calls to
// finish. When ctx ends first, it cuts the rest and returns ctx's error. Tunnels are cut
// at once.
func (s *Server) Shutdown(ctx context.Context) error { return s.shutdown(ctx) }

// Stats are counts since the server was made.
type Stats struct {
	Open          int64 // connections now
	Accepted      int64 // connections ever
	Calls         int64 // given to the Handler
	Refused       int64 // by the engine
	DroppedFields int64 // header fields dropped because of their name
	Evicted       int64 // idle connections closed to make room
}

// Stats returns the counts. It is safe at any time.
func (s *Server) Stats() Stats { return s.state.stats() }
