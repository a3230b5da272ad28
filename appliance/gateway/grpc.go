package gateway

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"tidegate/appliance/upstream"
	"tidegate/appliance/wire"
	"tidegate/policy/fault"
	"time"
)

const (
	fieldGRPCStatus  = "Grpc-Status"
	fieldGRPCMessage = "Grpc-Message"
	fieldGRPCTimeout = "Grpc-Timeout"
)

// Statuses of gRPC (doc/statuscodes.md of that project).
const (
	grpcUnknown           = 2
	grpcInvalidArgument   = 3
	grpcDeadlineExceeded  = 4
	grpcPermissionDenied  = 7
	grpcResourceExhausted = 8
	grpcUnimplemented     = 12
	grpcUnavailable       = 14
	grpcUnauthenticated   = 16
)

// refuseGRPC answers a gRPC call with trailers only: status 200 and the code that
// corresponds (gRPC over HTTP/2, "Trailers-Only").
func (c *call) refuseGRPC(e *fault.Error) {
	c.add("Content-Type", "application/grpc")
	c.header = c.grpcStatus(c.header, grpcCode(e.Fault.Status), e.Fault.Message)
	c.refusalFields(e)
	if err := c.x.Start(http.StatusOK, c.header, 0); err != nil {
		c.x.Abort()
	}
}

// grpcStatus appends the fields of a status to h. They are valid as long as the call.
func (c *call) grpcStatus(h wire.Header, code int, message string) wire.Header {
	m := c.mark()
	c.text = strconv.AppendInt(c.text, int64(code), 10)
	h = append(h, wire.Field{Name: fieldGRPCStatus, Value: c.value(m)})
	m = c.mark()
	c.text = appendPercent(c.text, message)
	return append(h, wire.Field{Name: fieldGRPCMessage, Value: c.value(m)})
}

// grpcCode is the gRPC status of an HTTP status.
func grpcCode(status int) int {
	switch status {
	case http.StatusBadRequest:
		return grpcInvalidArgument
	case http.StatusUnauthorized:
		return grpcUnauthenticated
	case http.StatusForbidden:
		return grpcPermissionDenied
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return grpcUnimplemented
	case http.StatusTooManyRequests, http.StatusRequestEntityTooLarge:
		return grpcResourceExhausted
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return grpcUnavailable
	case http.StatusGatewayTimeout:
		return grpcDeadlineExceeded
	default:
		return grpcUnknown
	}
}

// appendPercent appends a grpc-message: printable ASCII but "%", the rest percent-encoded.
func appendPercent(b []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		if ch := s[i]; ch >= ' ' && ch <= '~' && ch != '%' {
			b = append(b, ch)
		} else {
			b = append(b, '%', hex[ch>>4], hex[ch&15])
		}
	}
	return b
}

// The faults of a grpc-timeout.
var (
	errGRPCTimeout = errors.New("a grpc-timeout that is none, or two of them")
	errNoTime      = errors.New("a grpc-timeout of no time")
)

// deadline returns for how long the client of a gRPC call waits, 0: for ever. The field itself
// goes on to the backend as it came.
func (c *call) deadline() (time.Duration, error) {
	n, value := 0, ""
	c.x.HeaderValues(fieldGRPCTimeout, func(v string) bool {
		n, value = n+1, v
		return true
	})
	if n == 0 {
		return 0, nil
	}
	d, ok := grpcTimeout(value)
	switch {
	case n > 1 || !ok:
		return 0, fault.New(fault.BadRequest, errGRPCTimeout)
	case d == 0:
		return 0, fault.New(fault.BackendTimeout, errNoTime)
	}
	return d, nil
}

// forGood is where a grpc-timeout stops to matter; the largest that can be written would not fit a
// time.Duration.
const forGood = 365 * 24 * time.Hour

// grpcTimeout reads the value of grpc-timeout: 1 to 8 digits and a unit (gRPC over HTTP/2,
// "Timeout").
func grpcTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	var unit time.Duration
	switch s[len(s)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	if err != nil {
		return 0, false
	}
	if time.Duration(n) > forGood/unit {
		return forGood, true
	}
	return time.Duration(n) * unit, true
}

// A punctual body ends in order when the client's deadline passes: what the call came to stands
// in trailers.
type punctual struct {
	io.ReadCloser
	late bool
}

// Read reads the body.
func (p *punctual) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b)
	if errors.Is(err, upstream.ErrDeadline) {
		p.late, err = true, io.EOF
	}
	return n, err
}

// relayGRPC gives the answer of a gRPC backend to the client. A stream that the gateway ends has a
// status of its own; one that breaks otherwise is reset by the caller.
func (c *call) relayGRPC(x wire.Exchange, resp *wire.Response) error {
	body := &punctual{ReadCloser: resp.Body}
	resp.Body = body
	streams := resp.Length < 0 // else the client could not tell a cut body from a broken one
	err := wire.Relay(x, resp, c.header)
	switch {
	case !streams:
	case err == nil && body.late:
		c.fault = uint32(fault.BackendTimeout.Code)
		c.x.Trailer(c.grpcStatus(nil, grpcDeadlineExceeded, fault.BackendTimeout.Message))
	case errors.Is(err, errCut):
		c.x.Trailer(c.grpcStatus(nil, grpcResourceExhausted, errCut.Error()))
		return nil
	}
	return err
}
