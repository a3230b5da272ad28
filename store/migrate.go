package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"tidegate/platform/durable"
	"tidegate/policy/refusal"

	bolt "go.etcd.io/bbolt"
)

// A Migration brings a file from the schema To-1 to To. Do changes what the step is about;
// the number is written in the same transaction.
type Migration struct {
	To uint32
	Do func(*Tx) error
}

// What every file holds beside the data of its owners.
const metaBucket = "meta"

var (
	schemaKey     = []byte("schema")
	generationKey = []byte("generation")
)

func putSchema(t *Tx, n uint32) error {
	return t.Bucket(metaBucket).Put(schemaKey, binary.BigEndian.AppendUint32(nil, n))
}

// Generation returns the number of the trust state in this file, 0 before the first. The
// copy in trust/state carries the same number: a copy with a higher one says that an older
// database was put back.
func (t *Tx) Generation() (uint64, error) {
	v, err := t.Bucket(metaBucket).Get(generationKey)
	if err != nil || v == nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("meta/generation: %w: %d bytes", ErrCorrupt, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

// SetGeneration sets the number of the trust state. It belongs in the transaction that
// writes the trust state; the slot in trust/state is written after that one.
func (t *Tx) SetGeneration(n uint64) error {
	return t.Bucket(metaBucket).Put(generationKey, binary.BigEndian.AppendUint64(nil, n))
}

// settle brings the file to the schema of the options.
func (db *DB) settle() error {
	if db.bolt == nil {
		return nil
	}
	have, err := db.schema()
	switch {
	case err != nil:
		return err
	case have == db.o.Schema:
		return nil
	case have > db.o.Schema:
		return refusal.New(refusal.Store, "%w", &NewerError{Path: db.path, Schema: have, Ours: db.o.Schema})
	case db.o.Access == ReadOnly:
		return refusal.New(refusal.StoreRO, "%s has schema %d and cannot be brought to %d on a read-only disk",
			filepath.Base(db.path), have, db.o.Schema)
	}
	// A step copies the pages it touches before it frees them: in a file that is half full
	// it may run out of room, and is done on a copy.
	if db.Size() <= db.o.MaxBytes/2 {
		return db.migrate(have)
	}
	return db.migrateCopy(have)
}

func (db *DB) schema() (n uint32, err error) {
	err = db.View(func(t *Tx) error {
		v, err := t.Bucket(metaBucket).Get(schemaKey)
		if err != nil {
			return err
		}
		if len(v) != 4 || binary.BigEndian.Uint32(v) == 0 {
			return fmt.Errorf("%s has no schema: %w", filepath.Base(db.path), ErrCorrupt)
		}
		n = binary.BigEndian.Uint32(v)
		return nil
	})
	return n, err
}

func (db *DB) migrate(have uint32) error {
	for n := have + 1; n <= db.o.Schema; n++ {
		step, ok := db.step(n)
		if !ok {
			return fmt.Errorf("%s: no step from schema %d to %d", filepath.Base(db.path), n-1, n)
		}
		if err := db.Update(func(t *Tx) error { return errors.Join(step.Do(t), putSchema(t, n)) }); err != nil {
			return fmt.Errorf("%s: schema %d to %d: %w", filepath.Base(db.path), n-1, n, err)
		}
	}
	return nil
}

func (db *DB) step(to uint32) (Migration, bool) {
	for _, m := range db.o.Migrations {
		if m.To == to {
			return m, true
		}
	}
	return Migration{}, false
}

// migrateCopy takes the steps on a copy with twice the room, packs the result into a fresh
// file and renames that. A power cut leaves the old file as it was.
func (db *DB) migrateCopy(have uint32) (err error) {
	wide, next := db.path+".wide", db.path+".new"
	defer func() {
		err = errors.Join(err, durable.Remove(wide))
		if err != nil {
			err = errors.Join(err, durable.Remove(next))
		}
	}()
	o := db.o
	o.MaxBytes, o.Space = min(2*db.o.MaxBytes, MaxBytes), AsNeeded
	if err := pack(db.bolt, wide, o); err != nil {
		return fail("copy "+filepath.Base(db.path), err)
	}
	old := o
	old.Schema = have // opened as it is; the steps follow
	big, err := Open(wide, old)
	if err != nil {
		return err
	}
	big.o = o
	err = big.migrate(have)
	if err == nil {
		err = pack(big.bolt, next, db.o)
	}
	if err := errors.Join(err, big.Close()); err != nil {
		return err
	}
	if err := db.closeBolt(); err != nil {
		return err
	}
	if err := durable.Rename(next, db.path); err != nil {
		return err
	}
	db.bolt, err = openBolt(db.path, db.o)
	return err
}

// pack copies all that from holds into a new file at path, without its free pages.
func pack(from *bolt.DB, path string, o Options) error {
	if err := durable.Remove(path); err != nil {
		return err
	}
	to, err := bolt.Open(path, 0o600, boltOptions(o))
	if err != nil {
		return err
	}
	to.AllocSize = allocSize
	err = errors.Join(bolt.Compact(to, from, 1<<20), to.Close())
	if err == nil && o.Space == Reserved {
		err = reserve(path, o.MaxBytes)
	}
	return err
}
