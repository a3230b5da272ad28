package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"tidegate/platform/durable"
	"tidegate/policy/refusal"
)

// What callers tell apart. Errors that carry them also carry a word of package refusal.
var (
	ErrCorrupt = errors.New("damaged")                           // a checksum or a page is wrong
	ErrFull    = errors.New("the file has reached its size cap") // nothing was written
	ErrFailed  = errors.New("a commit did not succeed")          // writes are refused until Reopen
)

// NewerError says that a file was written by a newer program.
type NewerError struct {
	Path   string
	Schema uint32 // of the file
	Ours   uint32 // the newest we know
}

// Error names both numbers.
func (e *NewerError) Error() string {
	return fmt.Sprintf("%s has schema %d, this program knows %d", filepath.Base(e.Path), e.Schema, e.Ours)
}

// fail gives err, which stopped what, a word and its place in the errors above.
func fail(what string, err error) error {
	var word *refusal.Error
	if errors.As(err, &word) {
		return err
	}
	w := refusal.Store
	switch durable.Classify(err) {
	case durable.Full:
		w = refusal.NoSpace
	case durable.ReadOnly:
		w = refusal.StoreRO
	}
	if errors.Is(err, ErrFull) {
		w = refusal.NoSpace
	}
	return refusal.New(w, "%s: %w", what, err)
}

func errReadOnly(path string) error {
	return refusal.New(refusal.StoreRO, "%s is open for reading only", filepath.Base(path))
}

func errClosed(path string) error {
	return refusal.New(refusal.Store, "%s is closed", filepath.Base(path))
}
