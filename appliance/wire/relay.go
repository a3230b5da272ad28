package wire

import "io"

// Relay answers x with resp: status, then header in place of resp.Header (the caller has
// edited it; nil means resp.Header as it is), body and trailers. Bodies without a length, such as
// server-sent events, are flushed as they come. A 101 becomes a tunnel that ends when
// one side does. If the backend breaks off inside the body, the client's connection is aborted
// and the backend's error is returned as a [*BackendError]; any other error is the client's.
// Relay closes resp.Body.
func Relay(x Exchange, resp *Response, header Header) error { return relay(x, resp, header) }

// A BackendError is a response body that broke off.
type BackendError struct{ Err error }

// Error returns the reason.
func (e *BackendError) Error() string { return "response body broke off: " + e.Err.Error() }

// Unwrap returns the reason.
func (e *BackendError) Unwrap() error { return e.Err }

// Pipe copies between a and b until one side ends or breaks, closes both, and returns the
// bytes copied from a to b and from b to a.
func Pipe(a, b io.ReadWriteCloser) (ab, ba int64) { return pipe(a, b) }
