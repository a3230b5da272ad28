//go:build !unix

package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
)

const errQuota = syscall.Errno(0)

// SyncDir does nothing: this system has no sync of folders.
func SyncDir(string) error { return nil }

func chmod(*os.File, fs.FileMode) error { return nil }

// Lock is not available on this system, which runs only the workstation program.
func Lock(string) (io.Closer, error) { return nil, errors.ErrUnsupported }

// Space is the room of the file system that holds a path, in bytes.
type Space struct{ Total, Free int64 }

// SpaceAt is not available on this system, which runs only the workstation program.
func SpaceAt(string) (Space, error) { return Space{}, errors.ErrUnsupported }

// Allocate gives f the length size.
func Allocate(f *os.File, size int64) error { return f.Truncate(size) }

// Owner is not available on this system, which runs only the workstation program.
func Owner(string) (uid int, err error) { return 0, errors.ErrUnsupported }
