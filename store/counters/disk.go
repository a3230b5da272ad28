package counters

import (
	"encoding/binary"
	"errors"
	"fmt"
	"tidegate/store"

	"github.com/fxamacker/cbor/v2"
)

// A Disk is where a ledger keeps its records: a few thousand small values in two sets.
type Disk interface {
	// Load calls shard and touch for each value that is there, and returns what the
	// last Commit wrote as its head; nil for a fresh disk.
	Load(shard, touch func(key, value []byte) error) (*Head, error)

	// Commit makes all changes of a batch durable, or none, before it returns nil. When
	// it returns an error, either may be the case.
	Commit(Batch) error
}

// A Batch is one write. A change without a value deletes.
type Batch struct {
	Shards, Touches []Change
	Head            Head
}

// A Change sets the value of a key, or deletes it when Value is nil.
type Change struct{ Key, Value []byte }

// A Head is what a ledger knows of time.
type Head struct {
	_       struct{} `cbor:",toarray"`
	Line    uint32   // time line
	Lower   int64    // second of the last write; no window before it opens again
	Through int64    // windows that began up to here are closed
}

// In returns the part of a database that a ledger uses. The database's owner opens,
// closes and reopens it.
func In(db *store.DB) Disk { return bolted{db} }

type bolted struct{ db *store.DB }

const root = "counters"

var headKey = []byte("head")

func (b bolted) Load(shard, touch func(key, value []byte) error) (*Head, error) {
	var head *Head
	var shards, touches []Change
	// Copy out and close: a reader must not last.
	err := b.db.View(func(tx *store.Tx) error {
		raw, err := tx.Bucket(root).Get(headKey)
		if err != nil || raw == nil {
			return err
		}
		head = new(Head)
		if err := cbor.Unmarshal(raw, head); err != nil {
			return fmt.Errorf("head: %w", err)
		}
		return errors.Join(
			tx.Bucket(root, "shard").Each(collect(&shards)),
			tx.Bucket(root, "touch").Each(collect(&touches)))
	})
	if err != nil {
		return nil, err
	}
	for _, c := range shards {
		if err := shard(c.Key, c.Value); err != nil {
			return nil, err
		}
	}
	for _, c := range touches {
		if err := touch(c.Key, c.Value); err != nil {
			return nil, err
		}
	}
	return head, nil
}

func collect(to *[]Change) func(k, v []byte) error {
	return func(k, v []byte) error {
		*to = append(*to, Change{k, v})
		return nil
	}
}

func (b bolted) Commit(batch Batch) error {
	raw, err := cbor.Marshal(batch.Head)
	if err != nil {
		return err
	}
	return b.db.Update(func(tx *store.Tx) error {
		if err := apply(tx.Bucket(root, "shard"), batch.Shards); err != nil {
			return err
		}
		if err := apply(tx.Bucket(root, "touch"), batch.Touches); err != nil {
			return err
		}
		return tx.Bucket(root).Put(headKey, raw)
	})
}

func apply(b *store.Bucket, changes []Change) error {
	for _, c := range changes {
		var err error
		if c.Value == nil {
			err = b.Delete(c.Key)
		} else {
			err = b.Put(c.Key, c.Value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// A record is one key on disk. Fields are only ever added at the end.
type record struct {
	_     struct{} `cbor:",toarray"`
	Key   []byte
	Def   uint64
	Start int64
	Span  uint32
	Resv  int64
	Next  int64
	Aux   int64
	Form  uint8 // bits of formSliding, formOverflow
}

const (
	formSliding = 1 << iota
	formOverflow
)

// An allowance is one grant on disk.
type allowance struct {
	_     struct{} `cbor:",toarray"`
	Start int64
	End   int64
	Calls int64
}

func shardKey(id uint16) []byte { return binary.BigEndian.AppendUint16(nil, id) }

func (k touchKey) bytes() []byte {
	return append(binary.BigEndian.AppendUint64(nil, k.def), byte(k.level))
}
