package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// CheckArg is the hidden first argument with which a program hands the rest to [CheckMain].
const CheckArg = "check-store-file"

// checkTime is how long the check of one file may compute: 16 MiB take 7 ms on a PC and
// 70 ms on a small ARM, 64 MiB three times that. A check that is not done by then, on a
// processor that others use, is begun again with more patience, a few times: only one that
// has computed for so long goes in circles.
const (
	checkTime  = 5 * time.Second
	checkTries = 3
	patience   = 3 // times as long, each try
)

// Exit codes of the child. Go itself ends with 2 on a fault.
const (
	exitSound     = 0
	exitDamaged   = 3
	exitUnread    = 4
	exitMetaLost  = 5
	exitUsage     = 64
	messageLength = 200
)

// errMetaLost says that one of the two meta pages is damaged, and the rest is sound. The
// library then takes the other one without a word, and with it the state one transaction
// ago. No power cut does this on an honest disk, where a sector is whole.
var errMetaLost = fmt.Errorf("%w: one of two meta pages, the last transaction may be lost", ErrCorrupt)

// CheckMain is the child process that looks at one file: args is its path. It returns the
// exit code: 0 sound, 3 damaged, 4 not readable, 5 one meta page lost; a panic or a fault ends the
// process with another one, and means damaged. The reason goes to standard error.
func CheckMain(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "want one file")
		return exitUsage
	}
	err := CheckFile(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	switch {
	case err == nil:
		return exitSound
	case errors.Is(err, errMetaLost):
		return exitMetaLost
	case errors.Is(err, ErrCorrupt):
		return exitDamaged
	}
	return exitUnread
}

// CheckFile reads every page and every checksum of the file at path, which nobody may have
// open for writing. The error is [ErrCorrupt] when it is damaged. Some damage ends the
// process: a program calls it through [CheckMain], in a child.
func CheckFile(path string) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrCorrupt, p)
		}
	}()
	lost, size, err := checkMeta(path)
	if err != nil {
		return err
	}
	if size > 0 && size < 2*pageSize {
		return fmt.Errorf("%w: cut off at %d bytes", ErrCorrupt, size)
	}
	b, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: lockWait, PageSize: pageSize})
	if err != nil {
		return err
	}
	defer b.Close() //nolint:errcheck // only read
	if err := b.View(func(tx *bolt.Tx) error {
		if tx.Size() > size {
			return fmt.Errorf("%w: %d bytes of %d", ErrCorrupt, size, tx.Size())
		}
		return errors.Join(checkPages(tx), tx.ForEach(checkValues))
	}); err != nil {
		return err
	}
	return lost
}

func checkPages(tx *bolt.Tx) error {
	var first error
	for err := range tx.Check() { // to its end: the sender waits for us
		if first == nil {
			first = fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	return first
}

func checkValues(name []byte, b *bolt.Bucket) error {
	return b.ForEach(func(k, v []byte) error {
		if v == nil {
			return checkValues(k, b.Bucket(k))
		}
		if _, err := unseal(k, v); err != nil {
			return fmt.Errorf("bucket %q: key %x: %w", name, k, err)
		}
		return nil
	})
}

// Layout of a meta page of bbolt, in the byte order of the machine: 16 bytes of page head, then
// magic, version, page size, flags (4 bytes each), root, sequence, freelist, high water,
// transaction, checksum (8 each). The checksum is FNV-1a over what is before it.
const (
	metaStart   = 16
	metaTx      = 64
	metaSum     = 72
	metaEnd     = 80
	metaMagicAt = 16
	metaMagic   = 0xED0CDAED
)

type metaPage struct {
	whole bool
	tx    uint64
}

func readMetas(path string) (m [2]metaPage, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return m, 0, err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return m, 0, err
	}
	for i := range m {
		var b [metaEnd]byte
		if _, err := f.ReadAt(b[:], int64(i)*pageSize); err != nil {
			if errors.Is(err, io.EOF) {
				continue
			}
			return m, 0, err
		}
		h := fnv.New64a()
		_, _ = h.Write(b[metaStart:metaSum]) // never fails
		m[i] = metaPage{
			whole: binary.NativeEndian.Uint32(b[metaMagicAt:]) == metaMagic && binary.NativeEndian.Uint64(b[metaSum:]) == h.Sum64(),
			tx:    binary.NativeEndian.Uint64(b[metaTx:]),
		}
	}
	return m, info.Size(), nil
}

// checkMeta returns errMetaLost in lost when exactly one meta page is whole.
func checkMeta(path string) (lost error, size int64, err error) { //nolint:staticcheck // lost is a finding, err ends the check
	m, size, err := readMetas(path)
	switch {
	case err != nil:
		return nil, 0, err
	case !m[0].whole && !m[1].whole:
		return nil, 0, fmt.Errorf("%w: both meta pages", ErrCorrupt)
	case m[0].whole && m[1].whole:
		return nil, size, nil
	}
	return errMetaLost, size, nil
}

// turnBack writes to path a copy of from that opens at its transaction before the last. It
// reports false when there is none.
func turnBack(from, path string) (bool, error) {
	m, _, err := readMetas(from)
	if err != nil || !m[0].whole || !m[1].whole {
		return false, err
	}
	newer := int64(0)
	if m[1].tx > m[0].tx {
		newer = 1
	}
	if err := copyFile(from, path); err != nil {
		return false, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return false, err
	}
	// The first commit after this writes the page anew, as its number is this page's turn.
	_, err = f.WriteAt(make([]byte, metaEnd-metaStart), newer*pageSize+metaStart)
	return err == nil, errors.Join(err, f.Sync(), f.Close())
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}

// A checker runs CheckFile in a child process, or in this one when it has no command.
type checker struct {
	command []string
	limit   time.Duration // 0: checkTime
	wait    time.Duration // before the first child is ended; 0: limit
}

// run checks the file at path. A file that is absent is sound.
func (c checker) run(ctx context.Context, path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if len(c.command) == 0 {
		return CheckFile(path)
	}
	limit := c.limit
	if limit == 0 {
		limit = checkTime
	}
	for wait, try := cmp.Or(c.wait, limit), 1; ; wait, try = wait*patience, try+1 {
		err := c.child(ctx, path, limit, wait)
		if !errors.Is(err, errStarved) {
			return err
		}
		if try == checkTries {
			return nil // nothing speaks against the file; each value still has its checksum
		}
	}
}

// errStarved says that a check was not done in time and had not computed for long either.
var errStarved = errors.New("the check had no time to run")

// child checks the file at path in a child process that is ended after wait. It means damage
// when the child has computed for the larger part of limit by then.
func (c checker) child(ctx context.Context, path string, limit, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.command[0], append(c.command[1:len(c.command):len(c.command)], path)...) //nolint:gosec // our own program
	var out tail
	cmd.Stderr = &out
	cmd.Env = []string{"GOTRACEBACK=none"}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		// No memory for a child, or the program is being replaced: look ourselves. If
		// that ends us, the count of starts gets us out.
		return CheckFile(path)
	}
	err := cmd.Wait()
	name := filepath.Base(path)
	if ctx.Err() != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			if s := cmd.ProcessState; s == nil || s.UserTime()+s.SystemTime() < limit/2 {
				return errStarved
			}
			return fmt.Errorf("%s: %w: the check did not end within %v", name, ErrCorrupt, limit)
		}
		return ctx.Err()
	}
	if err == nil {
		return nil
	}
	switch cmd.ProcessState.ExitCode() {
	case exitMetaLost:
		return fmt.Errorf("%s: %w", name, errMetaLost)
	case exitUnread:
		return fmt.Errorf("%s cannot be read: %s", name, out.String())
	case exitDamaged:
		return fmt.Errorf("%s: %w: %s", name, ErrCorrupt, strings.TrimPrefix(out.String(), ErrCorrupt.Error()+": "))
	}
	return fmt.Errorf("%s: %w: the check ended with %w: %s", name, ErrCorrupt, err, out.String())
}

// tail keeps the first line of what a child says, cut.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	if room := messageLength - len(t.b); room > 0 {
		t.b = append(t.b, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(t.b), []byte("\n"))
	return strings.ToValidUTF8(string(line), "?")
}
