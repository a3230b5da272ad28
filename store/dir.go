package store

import (
	"context"
)

// DirOptions say how a data directory is opened.
type DirOptions struct {
	State Options // of state.db

	// Check is the program, with its leading arguments, that runs [CheckMain] in a child
	// process for each file: os.Executable and [CheckArg]. Empty: files are checked in this
	// process, which a badly damaged file can end; for tests.
	Check []string
}

// CheckArg is the hidden first argument with which a program hands the rest to [CheckMain].
const CheckArg = "check-store-file"

// Dir is an open data directory.
type Dir struct{}

// OpenDir opens the data directory at path.
func OpenDir(path string, o DirOptions) (*Dir, Report, error) { return nil, Report{}, nil }

// Report says what was found.
type Report struct{}

type checker struct{ command []string }

func (c checker) run(ctx context.Context, path string) error { return nil }
