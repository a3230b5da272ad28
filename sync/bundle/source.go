package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"tidegate/policy/refusal"
)

// maxEmptyReads is how often a source may answer nothing at all before it counts as broken.
const maxEmptyReads = 100

// A steadyReader reads a medium: it repeats reads that a signal broke off, gives up on a
// source that makes no progress, and names what went wrong with a word.
type steadyReader struct{ src io.Reader }

func (r *steadyReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for range maxEmptyReads {
		n, err := r.src.Read(p)
		if n > 0 {
			return n, nil // an error comes again with the next read
		}
		if err == nil || errors.Is(err, syscall.EINTR) {
			continue
		}
		return 0, MediaError(err)
	}
	return 0, refusal.New(refusal.MediaIO, "read: %w", io.ErrNoProgress)
}

// MediaError gives an error of a source its word: E_MEDIA_GONE for a device that is not
// there any more, else E_MEDIA_IO. An end of file stays what it is, and so does what has a
// word or comes from the caller's context.
func MediaError(err error) error {
	switch _, coded := refusal.Of(err); {
	case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF):
		return io.EOF
	case coded, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ESHUTDOWN):
		return refusal.New(refusal.MediaGone, "read: %w", err)
	}
	return refusal.New(refusal.MediaIO, "read: %w", err)
}

// refuseAt says in a refusal where it was met; other errors are wrapped.
func refuseAt(where string, err error) error {
	var e *refusal.Error
	if !errors.As(err, &e) || error(e) != err {
		return fmt.Errorf("%s: %w", where, err)
	}
	c := *e
	c.Detail = where + ": " + e.Detail
	return &c
}

func chunkName(i int) string { return fmt.Sprintf("chunk %d", i) }
