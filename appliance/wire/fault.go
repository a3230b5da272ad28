package wire

import "errors"

// A BodyError is why a request body could not be read to its end: the client's fault, not
// a backend's.
type BodyError struct {
	Status int    // 400: broken framing or connection; 408: too slow; 413: beyond the limit
	Reason string // for the log
	Err    error  // what the connection said; may be nil
}

// Error returns the reason.
func (e *BodyError) Error() string {
	if e.Err != nil {
		return "request body: " + e.Reason + ": " + e.Err.Error()
	}
	return "request body: " + e.Reason
}

// Unwrap returns what the connection said.
func (e *BodyError) Unwrap() error { return e.Err }

// BodyFault reports whether err comes from reading a request body, and the status the client
// is due: 400, 408 or 413. It sees through wrapping, so that it also knows the error of a
// [Client] that could not read the body it should send.
func BodyFault(err error) (status int, ok bool) {
	var b *BodyError
	if errors.As(err, &b) {
		return b.Status, true
	}
	return 0, false
}
