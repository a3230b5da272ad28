package wire

import (
	"errors"
	"os"
)

// The errors of a Client that callers tell apart.
var (
	ErrClosed      = errors.New("client is closed")
	ErrBusy        = errors.New("all connections to the backend are in use")
	ErrBadResponse = errors.New("response is not HTTP")
)

// A TryError is a failed try.
type TryError struct {
	Stage  Stage
	Sent   bool  // at least one byte of the request was handed to the kernel
	Reused bool  // the connection had served a call before
	Got    bool  // at least one byte of the response had come
	Err    error // why
}

// Stage is where a try failed.
type Stage string

// The stages of a try.
const (
	StageWait     Stage = "wait for a connection"
	StageDial     Stage = "dial"
	StageWrite    Stage = "send request"
	StageBody     Stage = "read request body" // the client's fault: BodyFault knows it
	StageResponse Stage = "read response"
)

// Error returns the stage and the reason.
func (e *TryError) Error() string { return string(e.Stage) + ": " + e.Err.Error() }

// Unwrap returns the reason.
func (e *TryError) Unwrap() error { return e.Err }

// Timeout reports whether a time limit ended the try.
func (e *TryError) Timeout() bool {
	var t interface{ Timeout() bool }
	return errors.Is(e.Err, os.ErrDeadlineExceeded) || errors.As(e.Err, &t) && t.Timeout()
}

// NeverSent reports whether err says that no byte of the request left, so that another try
// cannot do the work twice.
func NeverSent(err error) bool {
	var t *TryError
	return errors.As(err, &t) && !t.Sent
}

// Stale reports whether err says that a kept connection ended before a byte of the
// response came: most likely the backend closed it while it was idle. A request that is
// safe to repeat should be tried once more on another connection.
func Stale(err error) bool {
	var t *TryError
	return errors.As(err, &t) && t.Reused && !t.Got && !t.Timeout() && (t.Stage == StageWrite || t.Stage == StageResponse)
}
