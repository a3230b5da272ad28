package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Allocate gives f the length size with its blocks reserved, so that later writes inside
// it find no full disk. On a file system without reservation it only sets the length.
// The caller syncs.
func Allocate(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
		return f.Truncate(size)
	}
	return &os.PathError{Op: "fallocate", Path: f.Name(), Err: err}
}
