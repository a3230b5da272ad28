// Package store opens, checks, sets aside and migrates the database files of a device.
//
// A [DB] is one bbolt file in which every value carries a checksum of its own. What an
// Update wrote is on disk when it returns nil, and whole after any power cut. A file that
// is damaged is found before it is used, in a child process, and set aside: it is never a
// reason not to start. A [Dir] is the data directory: it holds the lock, counts starts and
// steps out of a crash loop.
//
// Package store knows bytes, keys and durability. It does not know what an API is, it does
// not decide what may be rebuilt from where, and it starts no goroutine that outlives a call.
package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"tidegate/platform/durable"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Limits of one file, in bytes. The upper one keeps a file readable and growable on a
// 32-bit device.
const (
	MinBytes = 64 << 10
	MaxBytes = 256 << 20
)

const (
	pageSize  = 4096 // always: a data partition must move between kernels with 4, 16 and 64 KiB pages
	allocSize = 256 << 10
	lockWait  = 2 * time.Second
	slowView  = 50 * time.Millisecond
)

// Options say how a file is opened.
type Options struct {
	MaxBytes   int64       // the file never grows above it; MinBytes to MaxBytes
	Space      Space       // reserved at creation, or taken as needed
	Access     Access      // read and write, or read only
	Schema     uint32      // the number this program writes, ≥ 1
	Migrations []Migration // how older files come to Schema, one step per number

	// Commit, when set, stands in for every commit of Update: it may call commit or not,
	// and what it returns is the outcome. It exists for fault tests (package storetest).
	Commit func(path string, commit func() error) error
}

// Space says when the room of a file is taken from the disk.
type Space int

// The kinds of Space.
const (
	AsNeeded Space = iota
	Reserved       // MaxBytes at creation, so that the file cannot meet a full disk later
)

// Access says what a handle may do.
type Access int

// The kinds of Access.
const (
	ReadWrite Access = iota
	ReadOnly         // Update refuses with E_STORE_RO; a file that is absent reads as empty
)

// DB is one open file. Its methods are safe to call together; writers wait for each other.
// A View or Update must not be started inside another one by the same goroutine.
type DB struct {
	path  string
	o     Options
	check checker // for Reopen

	// mu is held shared by transactions and exclusively while the file is replaced.
	mu      sync.RWMutex
	bolt    *bolt.DB // nil: an empty, read-only database
	failed  atomic.Pointer[failure]
	slow    atomic.Int64
	commits atomic.Int64
}

type failure struct{ err error }

// Open opens the file at path and creates it when it is absent. A file that may be damaged
// must have been looked at by [CheckFile] in another process first, as [OpenDir] does: the
// library underneath can end the process on a bad page.
//
// The error is a [NewerError] when the file was written by a newer program.
func Open(path string, o Options) (*DB, error) {
	if o.MaxBytes < MinBytes || o.MaxBytes > MaxBytes || o.MaxBytes%pageSize != 0 {
		return nil, fmt.Errorf("open %s: max bytes %d: want a multiple of %d from %d to %d", path, o.MaxBytes, pageSize, MinBytes, MaxBytes)
	}
	if o.Schema == 0 {
		return nil, fmt.Errorf("open %s: schema 0", path)
	}
	if o.Commit == nil {
		o.Commit = func(_ string, commit func() error) error { return commit() }
	}
	db := &DB{path: path, o: o}
	b, err := openBolt(path, o)
	if err != nil {
		return nil, fail("open "+filepath.Base(path), err)
	}
	db.bolt = b
	if err := db.settle(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// openBolt opens or makes the file. It returns nil and no error for a file that is absent
// and may not be made.
func openBolt(path string, o Options) (*bolt.DB, error) {
	info, err := os.Stat(path)
	absent := errors.Is(err, os.ErrNotExist)
	if absent && o.Access == ReadOnly {
		return nil, nil
	}
	if absent || err == nil && info.Size() == 0 {
		if err := create(path, o); err != nil {
			return nil, err
		}
	}
	b, err := bolt.Open(path, 0o600, boltOptions(o))
	if err != nil {
		return nil, err
	}
	b.AllocSize = allocSize
	return b, nil
}

func boltOptions(o Options) *bolt.Options {
	return &bolt.Options{
		Timeout:         lockWait,
		PageSize:        pageSize,
		FreelistType:    bolt.FreelistMapType,
		MaxSize:         int(o.MaxBytes),
		InitialMmapSize: int(o.MaxBytes), // a remap would stop all readers
		ReadOnly:        o.Access == ReadOnly,
	}
}

// create makes the file under another name, so that a power cut cannot leave a half made
// one: a file of zeros would be damage, and an empty one a loss nobody declared.
func create(path string, o Options) (err error) {
	tmp := path + durable.TempSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	o.Access = ReadWrite
	b, err := bolt.Open(tmp, 0o600, boltOptions(o))
	if err != nil {
		return err
	}
	b.AllocSize = allocSize
	err = b.Update(func(tx *bolt.Tx) error { return putSchema(&Tx{bolt: tx, writable: true}, o.Schema) })
	if err = errors.Join(err, b.Close()); err == nil && o.Space == Reserved {
		err = reserve(tmp, o.MaxBytes)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return durable.Rename(tmp, path)
}

func reserve(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := durable.Allocate(f, size); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Sync(), f.Close())
}

// Path returns the name of the file.
func (db *DB) Path() string { return db.path }

// Err returns nil, or why the handle refuses writes: a commit did not succeed, the handle
// is read-only, or it is closed. The error carries a word of exit code 11 or 12.
func (db *DB) Err() error {
	if f := db.failed.Load(); f != nil {
		return f.err
	}
	if db.o.Access == ReadOnly {
		return errReadOnly(db.path)
	}
	return nil
}

// View calls fn with a transaction that sees one state of the file. fn must return within
// 50 ms: what a reader holds cannot be reused, and the file fills. Everything fn gets is a
// copy and may be kept; the Tx may not.
func (db *DB) View(fn func(*Tx) error) error {
	db.mu.RLock()
	defer db.mu.RUnlock()
	start := time.Now()
	defer func() {
		if time.Since(start) > slowView {
			db.slow.Add(1)
		}
	}()
	if db.bolt == nil {
		if f := db.failed.Load(); f != nil {
			return f.err
		}
		return fn(&Tx{})
	}
	tx, err := db.bolt.Begin(false)
	if err != nil {
		return fail("read "+filepath.Base(db.path), err)
	}
	defer tx.Rollback() //nolint:errcheck // a read has nothing to undo
	t := &Tx{bolt: tx}
	return db.word(t.guard(func() error { return fn(t) }))
}

// Update calls fn with a transaction that may write, and commits it when fn returns nil.
// When Update returns nil the changes are on disk. When fn returns an error nothing
// changes and Update returns that error.
//
// A commit that does not succeed makes the handle refuse writes from then on with
// [ErrFailed]: nobody can say what is on disk before [DB.Reopen]. The one exception is
// [ErrFull], the cap of the file: nothing was written, and a smaller Update may succeed.
func (db *DB) Update(fn func(*Tx) error) error {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if err := db.Err(); err != nil {
		return err
	}
	tx, err := db.bolt.Begin(true)
	if err != nil {
		return fail("write "+filepath.Base(db.path), err)
	}
	// The writer before us may have failed while we waited for it.
	if err := db.Err(); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	done := false
	defer func() {
		if !done { // fn panicked: nothing of it may stay
			_ = tx.Rollback() //nolint:errcheck // the panic goes on and says more
		}
	}()
	t := &Tx{bolt: tx, writable: true}
	if err := t.guard(func() error { return fn(t) }); err != nil {
		done = true
		return db.word(errors.Join(err, tx.Rollback()))
	}
	err = db.o.Commit(db.path, func() error { return commit(tx) })
	done = true
	if err == nil {
		db.commits.Add(1)
		return nil
	}
	_ = tx.Rollback() //nolint:errcheck // for a hook that did not commit; else it is closed already
	if errors.Is(err, bolterrors.ErrMaxSizeReached) {
		return fail("commit "+filepath.Base(db.path), ErrFull)
	}
	err = fail("commit "+filepath.Base(db.path), errors.Join(ErrFailed, err))
	db.failed.CompareAndSwap(nil, &failure{err})
	return err
}

// word gives damage that a transaction met its word; other errors are the caller's own.
func (db *DB) word(err error) error {
	if errors.Is(err, ErrCorrupt) {
		return fail(filepath.Base(db.path), err)
	}
	return err
}

// commit turns a panic on a damaged page into an error; the handle is given up then.
func commit(tx *bolt.Tx) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: commit: %v", ErrCorrupt, p)
		}
	}()
	return tx.Commit()
}

// Close closes the file after the transactions that run. Close of a closed DB is no error.
func (db *DB) Close() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.failed.CompareAndSwap(nil, &failure{errClosed(db.path)})
	return db.closeBolt()
}

func (db *DB) closeBolt() error {
	if db.bolt == nil {
		return nil
	}
	b := db.bolt
	db.bolt = nil
	return b.Close()
}

// Reopen gives a handle that refuses writes a new start: it closes the file, checks it and
// opens it as it lies on disk. Nobody knows whether the Update that failed is in it; who
// keeps a copy in memory has to read again. While Reopen runs, others wait. When it returns an
// error the handle goes on refusing.
func (db *DB) Reopen(ctx context.Context) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if err := db.closeBolt(); err != nil {
		return fail("reopen "+filepath.Base(db.path), err)
	}
	if err := db.check.run(ctx, db.path); err != nil {
		return db.give(fail("reopen "+filepath.Base(db.path), err))
	}
	b, err := openBolt(db.path, db.o)
	if err != nil {
		return db.give(fail("reopen "+filepath.Base(db.path), err))
	}
	db.bolt = b
	db.failed.Store(nil)
	return nil
}

// give notes err as the reason to refuse; a closed file must not read as an empty one.
func (db *DB) give(err error) error {
	db.failed.Store(&failure{err})
	return err
}

// Recreate replaces the file by a fresh one that holds what fill writes, in one step: after
// a power cut the old file or the new one is there. It gives space back to the file system and frees a
// handle that had failed. Transactions wait meanwhile.
func (db *DB) Recreate(fill func(*Tx) error) error {
	what := "recreate " + filepath.Base(db.path)
	if db.o.Access == ReadOnly {
		return errReadOnly(db.path)
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	next := db.path + ".new"
	if err := durable.Remove(next); err != nil {
		return fail(what, err)
	}
	fresh, err := Open(next, db.o)
	if err != nil {
		return err
	}
	if err := errors.Join(fresh.Update(fill), fresh.Close()); err != nil {
		return errors.Join(err, durable.Remove(next))
	}
	if err := db.closeBolt(); err != nil {
		return db.give(fail(what, err))
	}
	if err := durable.Rename(next, db.path); err != nil {
		return db.give(fail(what, err))
	}
	if db.bolt, err = openBolt(db.path, db.o); err != nil {
		return db.give(fail(what, err))
	}
	db.failed.Store(nil)
	return nil
}

// Stats are figures of one open file since it was opened.
type Stats struct {
	FileBytes    int64 // length of the file
	UsedBytes    int64 // pages that hold something; what can be written before MaxBytes is the rest
	MaxBytes     int64
	WrittenBytes int64 // pages given to the file system by commits
	Commits      int64 // by this handle
	OpenViews    int   // readers now
	PendingBytes int64 // freed, but held by a reader
	SlowViews    int64 // readers that took more than 50 ms
}

// Stats returns figures for status and metrics.
func (db *DB) Stats() Stats {
	db.mu.RLock()
	defer db.mu.RUnlock()
	s := Stats{MaxBytes: db.o.MaxBytes, SlowViews: db.slow.Load()}
	if db.bolt == nil {
		return s
	}
	if info, err := os.Stat(db.path); err == nil {
		s.FileBytes = info.Size()
	}
	b := db.bolt.Stats()
	s.Commits = db.commits.Load()
	s.WrittenBytes = b.TxStats.GetPageAlloc() + s.Commits*pageSize // each adds one meta page
	s.OpenViews = b.OpenTxN
	s.PendingBytes = int64(b.PendingPageN) * pageSize
	if tx, err := db.bolt.Begin(false); err == nil {
		s.UsedBytes = tx.Size() - int64(b.FreePageN)*pageSize
		_ = tx.Rollback() //nolint:errcheck // a read has nothing to undo
	}
	return s
}

// Size returns the bytes of the file that hold something.
func (db *DB) Size() int64 { return db.Stats().UsedBytes }

// newEmpty returns a database that reads as empty and refuses writes.
func newEmpty(path string, o Options) *DB {
	o.Access = ReadOnly
	return &DB{path: path, o: o}
}
