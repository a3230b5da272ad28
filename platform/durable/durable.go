// Package durable writes files so that a power cut leaves the old content or the new
// one, and nothing between. It gives whole-file writes, renames and folders that are on
// disk when the call returns, a two-slot file for small state ([Slots]), the lock of a
// data directory, and what a full or read-only disk is called.
//
// It promises no more than the disk does: storage that answers a flush without doing it
// can still lose what was written. It knows nothing of what the bytes mean.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// TempSuffix ends the name of the file that [WriteFile] and [WriteFrom] fill before it
// gets its name. A file with this suffix is a write that did not finish; it may be removed.
const TempSuffix = ".tmp"

// WriteFile replaces the file at path by data, with mode perm. When it returns nil the
// content and the name are on disk; after an error or a power cut the file is what it was
// before, or whole and new. Two writers of one path must be kept apart by the caller.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return WriteFrom(path, perm, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// WriteFrom is [WriteFile] for content that fill produces. What fill returns is returned
// as it is, and the file at path is then what it was before. A device, a pipe or a socket at
// path, such as /dev/null, is written to and never replaced.
func WriteFrom(path string, perm fs.FileMode, fill func(io.Writer) error) (err error) {
	if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() && !fi.IsDir() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(fill(f), f.Close())
	}
	tmp := path + TempSuffix
	// A rest of an earlier run may have another owner or mode; O_EXCL keeps us from
	// writing through a link somebody placed there.
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreAbsent(os.Remove(tmp)))
		}
	}()
	if err := errors.Join(fill(f), chmod(f, perm)); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	return Rename(tmp, path)
}

// Create makes a file that did not exist, with data and mode perm, durably. It returns an
// error that is [fs.ErrExist] when there is one already, and then changes nothing.
func Create(path string, data []byte, perm fs.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreAbsent(os.Remove(path)))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(chmod(f, perm), f.Sync(), f.Close()); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Rename renames a file or folder and makes the change durable in both folders. The content of a
// file must have been synced before.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	if a, b := filepath.Dir(from), filepath.Dir(to); a != b {
		return SyncDir(a)
	}
	return nil
}

// Remove removes the file at path, durably. A file that is not there is no error.
func Remove(path string) error {
	if err := os.Remove(path); err != nil {
		return ignoreAbsent(err)
	}
	return SyncDir(filepath.Dir(path))
}

// MkdirAll makes the folder at path and its missing parents, with mode perm, durably.
func MkdirAll(path string, perm fs.FileMode) error {
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	if err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(parent)
}

// A Trouble says which kind of trouble a disk gave.
type Trouble int

// The kinds of trouble.
const (
	None     Trouble = iota // no error
	Other                   // an I/O error, or anything else
	Full                    // no space, or over quota
	ReadOnly                // the file system is mounted read-only
)

// Classify tells a full disk and a read-only one from every other error. It also knows
// them by their text, because some libraries keep only that.
func Classify(err error) Trouble {
	if err == nil {
		return None
	}
	for _, c := range []struct {
		errno   syscall.Errno
		trouble Trouble
	}{{syscall.ENOSPC, Full}, {errQuota, Full}, {syscall.EROFS, ReadOnly}} {
		if c.errno != 0 && (errors.Is(err, c.errno) || strings.Contains(err.Error(), c.errno.Error())) {
			return c.trouble
		}
	}
	return Other
}

// A LockedError says that another process holds the lock of Path.
type LockedError struct{ Path string }

// Error says who is in the way.
func (e *LockedError) Error() string { return fmt.Sprintf("%s is in use by another process", e.Path) }

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
