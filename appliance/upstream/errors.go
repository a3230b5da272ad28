package upstream

import (
	"context"
	"errors"
	"net"
	"os"
	"time"
)

// The kinds of failure of a call, for errors.Is.
var (
	// ErrBroken: no connection, a TLS failure, or an answer that is not HTTP.
	ErrBroken = errors.New("backend unreachable or broken")
	// ErrTimeout: no answer in time.
	ErrTimeout = errors.New("backend timed out")
	// ErrDeadline: the time passed for which the client waits ([Call.Within]).
	ErrDeadline = errors.New("the client's deadline passed")
)

// A NoneError means that no target takes calls at the moment: circuits open, all
// targets down, or the pool full. After is when it is worth asking again.
type NoneError struct {
	After time.Duration
	Err   error // why the last target was not used, or nil
}

// Error describes the failure for the log.
func (e *NoneError) Error() string {
	if e.Err != nil {
		return "no backend available: " + e.Err.Error()
	}
	return "no backend available"
}

// Unwrap returns the cause.
func (e *NoneError) Unwrap() error { return e.Err }

type brokenError struct{ err error }

func (e *brokenError) Error() string        { return "backend: " + e.err.Error() }
func (e *brokenError) Unwrap() error        { return e.err }
func (e *brokenError) Is(target error) bool { return target == ErrBroken }

type timeoutError struct{ err error }

func (e *timeoutError) Error() string        { return "backend: " + e.err.Error() }
func (e *timeoutError) Unwrap() error        { return e.err }
func (e *timeoutError) Is(target error) bool { return target == ErrTimeout }

// isTimeout reports whether err means that time ran out.
func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
