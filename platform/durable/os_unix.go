//go:build unix

package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

const errQuota = unix.EDQUOT

// SyncDir makes the names in the folder at path durable.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		err = nil // a file system that has no sync of folders has nothing to lose by it
	}
	return errors.Join(err, d.Close())
}

// chmod undoes what the umask took from perm.
func chmod(f *os.File, perm fs.FileMode) error { return f.Chmod(perm) }

// Lock takes the lock of the folder at dir for this process, without waiting, and holds
// it until the result is closed or the process ends. It writes nothing, so it works on a
// read-only file system. The error is a [LockedError] when another process has the lock.
func Lock(dir string) (io.Closer, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case err == nil:
		return d, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		err = &LockedError{Path: dir}
	default:
		err = &fs.PathError{Op: "flock", Path: dir, Err: err}
	}
	return nil, errors.Join(err, d.Close())
}

// Space is the room of the file system that holds a path, in bytes.
type Space struct {
	Total int64
	Free  int64 // for a process without privilege
}

// SpaceAt returns the room of the file system that holds path.
func SpaceAt(path string) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Space{}, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	size := int64(st.Bsize)                                                          //nolint:unconvert // the type differs between systems
	return Space{Total: int64(st.Blocks) * size, Free: int64(st.Bavail) * size}, nil //nolint:unconvert // the same
}

// Owner returns the user that the file or folder at path belongs to.
func Owner(path string) (uid int, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return int(st.Uid), nil
}
