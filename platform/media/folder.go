package media

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"tidegate/policy/refusal"
)

// maxNames bounds how many names of one folder are looked at.
const maxNames = 4096

// A Folder is a volume that is read, and written to, as that of a stranger. Its methods may
// be called together. Names are relative and separated by slashes.
type Folder struct{ root *os.Root }

// Open opens the folder that a volume is mounted on.
func Open(dir string) (*Folder, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, Wrap(err)
	}
	return &Folder{root: root}, nil
}

// Close ends the use of the volume, so that it can be unmounted. Files stay open.
func (f *Folder) Close() error { return f.root.Close() }

// An Entry is a name in a folder.
type Entry struct {
	Name string // of the file in its folder
	Skip string // why it is not looked into; empty: it can be opened
	Dir  bool   // a folder, which no one has to be told of
}

// List returns the names in a folder, none of its folders, in no particular order: at most
// 4,096, and whether there are more. A folder that is not there, or is none, has no names.
func (f *Folder) List(dir string) (all []Entry, more bool, err error) {
	if ok, err := f.HasFolder(dir); !ok || err != nil {
		return nil, false, err
	}
	d, err := f.root.Open(dir)
	if err != nil {
		return nil, false, Wrap(err)
	}
	defer d.Close() //nolint:errcheck // only read
	for len(all) < maxNames {
		some, err := d.ReadDir(256)
		for _, e := range some {
			all = append(all, Entry{Name: e.Name(), Skip: skip(e), Dir: e.IsDir()})
		}
		if err == io.EOF {
			return all, false, nil
		}
		if err != nil {
			return all, false, Wrap(err)
		}
	}
	return all[:maxNames], true, nil
}

// skip tells why a name is not looked into.
func skip(e fs.DirEntry) string {
	switch t := e.Type(); {
	case strings.HasPrefix(e.Name(), "._"):
		return "a shadow file of macOS"
	case strings.HasPrefix(e.Name(), "."):
		return "a hidden file"
	case t.IsDir():
		return "a folder"
	case !t.IsRegular():
		return "no regular file: " + kind(t)
	}
	return ""
}

func kind(t fs.FileMode) string {
	switch {
	case t&fs.ModeSymlink != 0:
		return "a symbolic link"
	case t&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case t&fs.ModeSocket != 0:
		return "a socket"
	case t&fs.ModeDevice != 0:
		return "a device"
	}
	return "of a kind that is not known"
}

// HasFolder reports whether a folder is there that is no link to one.
func (f *Folder) HasFolder(dir string) (bool, error) {
	for part := dir; part != "." && part != ""; part = path.Dir(part) {
		info, err := f.root.Lstat(part)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return false, nil
		}
		if err != nil {
			return false, Wrap(err)
		}
		if !info.IsDir() {
			return false, nil
		}
	}
	return true, nil
}

// errNotRegular is returned for what Read does not open.
var errNotRegular = errors.New("no regular file")

// Read opens a regular file for reading, once, from the front. The name must be one file both
// before and after it is opened: os.Root keeps a path inside the volume, but follows links in it
// and waits for ever at a pipe.
func (f *Folder) Read(name string) (io.ReadCloser, error) {
	if ok, err := f.HasFolder(path.Dir(name)); err != nil || !ok {
		return nil, errors.Join(err, notThere(ok, name))
	}
	before, err := f.root.Lstat(name)
	if err != nil {
		return nil, Wrap(err)
	}
	if !before.Mode().IsRegular() {
		return nil, refusal.New(refusal.MediaIO, "%s: %w: %s", path.Base(name), errNotRegular, kind(before.Mode().Type()))
	}
	file, err := f.root.OpenFile(name, os.O_RDONLY|neverWait, 0)
	if err != nil {
		return nil, Wrap(err)
	}
	after, err := file.Stat()
	if err == nil && (!after.Mode().IsRegular() || !os.SameFile(before, after)) {
		err = refusal.New(refusal.MediaIO, "%s: %w: it was swapped while it was opened", path.Base(name), errNotRegular)
	}
	if err != nil {
		return nil, errors.Join(Wrap(err), file.Close())
	}
	return onlyReads{file}, nil
}

func notThere(ok bool, name string) error {
	if ok {
		return nil
	}
	return Wrap(&fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist})
}

// onlyReads hides the other methods of a file: nothing seeks, asks for its size, or maps it.
type onlyReads struct{ f *os.File }

func (r onlyReads) Read(p []byte) (int, error) {
	n, err := r.f.Read(p)
	if err != io.EOF {
		err = Wrap(err)
	}
	return n, err
}

func (r onlyReads) Close() error { return r.f.Close() }

// Wrap gives an error of a medium its word: E_MEDIA_GONE when the device is not there any more,
// E_NO_SPACE when it is full, else E_MEDIA_IO. What has a word keeps it.
func Wrap(err error) error {
	if err == nil {
		return nil
	}
	if _, coded := refusal.Of(err); coded {
		return err
	}
	for _, gone := range []error{syscall.ENODEV, syscall.ENXIO, syscall.ESTALE, syscall.ENOTCONN, syscall.ESHUTDOWN} {
		if errors.Is(err, gone) {
			return refusal.New(refusal.MediaGone, "%w", err)
		}
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EFBIG) {
		return refusal.New(refusal.NoSpace, "the stick is full: %w", err).WithHint("make room on it; nothing was deleted here")
	}
	return refusal.New(refusal.MediaIO, "%w", err)
}

// partName is the name of a file that is not whole yet.
const partName = "tidegate.part"

// MakeFolder makes a folder below one that is there.
func (f *Folder) MakeFolder(dir string) error {
	if ok, err := f.HasFolder(dir); ok || err != nil {
		return err
	}
	return Wrap(f.root.Mkdir(dir, 0o755))
}

// Write makes or replaces a file in a folder, with the content and then under the name that fill
// gives it: what is written goes to a .part, is synced, renamed, the folder synced, and the file
// read back and compared. It returns the size. On an error the .part is gone and what had the
// name before is as it was, unless the error says that reading back failed.
func (f *Folder) Write(dir string, fill func(io.Writer) (name string, err error)) (n int64, err error) {
	if ok, err := f.HasFolder(dir); err != nil || !ok {
		return 0, errors.Join(err, notThere(ok, dir))
	}
	part := path.Join(dir, partName)
	if err := f.Remove(part); err != nil {
		return 0, err
	}
	file, err := f.root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return 0, Wrap(err)
	}
	w := &summing{w: file, sum: sha256.New()}
	name, err := fill(w)
	if err == nil {
		err = Wrap(file.Sync())
	}
	if closed := file.Close(); err == nil {
		err = Wrap(closed)
	}
	name = path.Join(dir, name)
	if err == nil {
		err = Wrap(f.root.Rename(part, name))
	}
	if err != nil {
		_ = f.root.Remove(part)
		return 0, err
	}
	if err := f.sync(dir); err != nil {
		return 0, err
	}
	return w.n, f.compare(name, w)
}

// summing counts and hashes what goes through it.
type summing struct {
	w   io.Writer
	sum hash.Hash
	n   int64
}

func (s *summing) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.sum.Write(p[:n])
	s.n += int64(n)
	return n, Wrap(err)
}

func (f *Folder) sync(dir string) error {
	d, err := f.root.Open(dir)
	if err != nil {
		return Wrap(err)
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) {
		err = nil // this file system has no such thing
	}
	return errors.Join(Wrap(err), Wrap(d.Close()))
}

// compare reads a file back from the medium.
func (f *Folder) compare(name string, want *summing) error {
	in, err := f.Read(name)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	defer in.Close() //nolint:errcheck // only read
	if r, ok := in.(onlyReads); ok {
		forget(r.f)
	}
	got := sha256.New()
	n, err := io.Copy(got, io.LimitReader(in, want.n+1))
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if n != want.n || [sha256.Size]byte(got.Sum(nil)) != [sha256.Size]byte(want.sum.Sum(nil)) {
		return refusal.New(refusal.MediaIO, "read back: %s is not what was written", path.Base(name)).WithHint("the stick is worn out: use another")
	}
	return nil
}

// Remove removes a file; one that is not there is no error.
func (f *Folder) Remove(name string) error {
	if err := f.root.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return Wrap(err)
	}
	return nil
}

// Free returns the bytes that can still be written; -1 where nobody can say.
func (f *Folder) Free() int64 {
	d, err := f.root.Open(".")
	if err != nil {
		return -1
	}
	defer d.Close() //nolint:errcheck // only read
	return free(d)
}
