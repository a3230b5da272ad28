package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime/debug"
	"strings"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Every value is stored with a CRC-32C over its key and itself in front, big-endian: pages
// carry no checksum, and a stale or foreign page can pass every check of structure.
const sumBytes = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

func seal(key, value []byte) []byte {
	b := make([]byte, sumBytes, sumBytes+len(value))
	binary.BigEndian.PutUint32(b, sum(key, value))
	return append(b, value...)
}

func unseal(key, stored []byte) ([]byte, error) {
	if len(stored) < sumBytes {
		return nil, ErrCorrupt
	}
	value := stored[sumBytes:]
	if binary.BigEndian.Uint32(stored) != sum(key, value) {
		return nil, ErrCorrupt
	}
	return value, nil
}

// Tx is one transaction. It belongs to the function it was given to, and to one goroutine.
type Tx struct {
	bolt     *bolt.Tx // nil: an empty database
	writable bool
	inside   bool // a call into the library runs; still set after it panicked
}

// guard runs fn and turns a fault of the mapped file, or a panic of the library on a
// damaged page, into an error. A panic of fn itself goes on.
func (t *Tx) guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if !t.inside {
			return
		}
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrCorrupt, p)
		}
	}()
	return fn()
}

func (t *Tx) enter() { t.inside = true }
func (t *Tx) leave() { t.inside = false }

// Bucket returns the bucket at path, which has at least one element. Under Update a bucket
// that is absent is made; under View it reads as empty. An error in it comes out of the
// bucket's methods.
func (t *Tx) Bucket(path ...string) *Bucket {
	b := &Bucket{tx: t, path: path}
	if len(path) == 0 {
		b.err = errors.New("bucket without a name")
		return b
	}
	if t.bolt == nil {
		return b
	}
	t.enter()
	b.bolt, b.err = t.find(path)
	t.leave()
	return b
}

func (t *Tx) find(path []string) (*bolt.Bucket, error) {
	var at *bolt.Bucket
	for i, name := range path {
		next, err := t.step(at, name)
		if err != nil {
			return nil, fmt.Errorf("bucket %s: %w", strings.Join(path[:i+1], "/"), err)
		}
		if next == nil {
			return nil, nil
		}
		at = next
	}
	return at, nil
}

func (t *Tx) step(at *bolt.Bucket, name string) (*bolt.Bucket, error) {
	key := []byte(name)
	switch {
	case at == nil && t.writable:
		return t.bolt.CreateBucketIfNotExists(key)
	case at == nil:
		return t.bolt.Bucket(key), nil
	case t.writable:
		return at.CreateBucketIfNotExists(key)
	}
	return at.Bucket(key), nil
}

// Bucket is a sorted set of keys with values, and of buckets below it. It lives as long as
// its transaction.
type Bucket struct {
	tx   *Tx
	path []string
	bolt *bolt.Bucket // nil: absent under View
	err  error
}

// Bucket returns the bucket below b, as [Tx.Bucket].
func (b *Bucket) Bucket(path ...string) *Bucket {
	return b.tx.Bucket(append(append([]string{}, b.path...), path...)...)
}

// Appended says that keys of b are only added at its end, in order: pages are then filled, where
// they are else left half empty for keys between. It returns b.
func (b *Bucket) Appended() *Bucket {
	if b.bolt != nil {
		b.bolt.FillPercent = 0.95
	}
	return b
}

// Get returns a copy of the value of key: nil when it is absent, not nil when it is there
// and empty. The error is [ErrCorrupt] when the checksum does not fit.
func (b *Bucket) Get(key []byte) ([]byte, error) {
	if b.err != nil || b.bolt == nil {
		return nil, b.err
	}
	b.tx.enter()
	stored := b.bolt.Get(key)
	if stored == nil {
		b.tx.leave()
		return nil, nil
	}
	value, err := b.open(key, stored)
	b.tx.leave()
	return value, err
}

func (b *Bucket) open(key, stored []byte) ([]byte, error) {
	value, err := unseal(key, stored)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: key %x: %w", strings.Join(b.path, "/"), key, err)
	}
	return append([]byte{}, value...), nil
}

// Put sets the value of key, which has 1 to 32,768 bytes.
func (b *Bucket) Put(key, value []byte) error {
	return b.change(func() error { return b.bolt.Put(key, seal(key, value)) })
}

// Delete removes key. A key that is absent is no error.
func (b *Bucket) Delete(key []byte) error {
	return b.change(func() error { return b.bolt.Delete(key) })
}

// DeleteBucket removes the bucket name below b with all it holds. One that is absent is no
// error.
func (b *Bucket) DeleteBucket(name string) error {
	return b.change(func() error {
		err := b.bolt.DeleteBucket([]byte(name))
		if errors.Is(err, bolterrors.ErrBucketNotFound) {
			return nil
		}
		return err
	})
}

func (b *Bucket) change(fn func() error) error {
	if b.err != nil {
		return b.err
	}
	if !b.tx.writable {
		return fmt.Errorf("bucket %s: write in a view", strings.Join(b.path, "/"))
	}
	b.tx.enter()
	err := fn()
	b.tx.leave()
	if err != nil {
		return fmt.Errorf("bucket %s: %w", strings.Join(b.path, "/"), err)
	}
	return nil
}

// Each calls fn for every key in order, with copies, and stops at the first error. Buckets
// below b are passed over. fn may delete the key it was called for, and no other.
func (b *Bucket) Each(fn func(key, value []byte) error) error {
	c := b.Cursor()
	for ok := c.First(); ok; ok = c.Next() {
		if err := fn(c.Key(), c.Value()); err != nil {
			return err
		}
	}
	return c.Err()
}

// Buckets returns up to n names of the buckets below b in order; n < 0: all.
func (b *Bucket) Buckets(n int) ([]string, error) {
	if b.err != nil || b.bolt == nil {
		return nil, b.err
	}
	var names []string
	b.tx.enter()
	c := b.bolt.Cursor()
	for k, v := c.First(); k != nil && n != len(names); k, v = c.Next() {
		if v == nil {
			names = append(names, string(k))
		}
	}
	b.tx.leave()
	return names, nil
}

// BucketStats are the sizes of one bucket, those below it included.
type BucketStats struct {
	Keys  int
	Bytes int64 // of keys and values in use on pages
	Pages int
}

// Stats counts what b holds. It reads every page of it.
func (b *Bucket) Stats() (BucketStats, error) {
	if b.err != nil || b.bolt == nil {
		return BucketStats{}, b.err
	}
	b.tx.enter()
	s := b.bolt.Stats()
	b.tx.leave()
	return BucketStats{
		Keys:  s.KeyN,
		Bytes: int64(s.LeafInuse) + int64(s.BranchInuse),
		Pages: s.LeafPageN + s.LeafOverflowN + s.BranchPageN + s.BranchOverflowN,
	}, nil
}

// Cursor returns a cursor over the keys of b that stands nowhere yet.
func (b *Bucket) Cursor() *Cursor {
	c := &Cursor{bucket: b, err: b.err}
	if b.err == nil && b.bolt != nil {
		b.tx.enter()
		c.bolt = b.bolt.Cursor()
		b.tx.leave()
	}
	return c
}

// Cursor moves over the keys of one bucket in their order, passing over buckets. It lives
// as long as its transaction. After a change of the bucket, Seek before going on.
type Cursor struct {
	bucket *Bucket
	bolt   *bolt.Cursor
	key    []byte
	value  []byte
	err    error
}

// First goes to the first key and reports whether there is one.
func (c *Cursor) First() bool { return c.move((*bolt.Cursor).First, (*bolt.Cursor).Next) }

// Last goes to the last key and reports whether there is one.
func (c *Cursor) Last() bool { return c.move((*bolt.Cursor).Last, (*bolt.Cursor).Prev) }

// Next goes to the next key and reports whether there is one.
func (c *Cursor) Next() bool { return c.move((*bolt.Cursor).Next, (*bolt.Cursor).Next) }

// Prev goes to the key before and reports whether there is one.
func (c *Cursor) Prev() bool { return c.move((*bolt.Cursor).Prev, (*bolt.Cursor).Prev) }

// Seek goes to the first key that is not below key and reports whether there is one.
func (c *Cursor) Seek(key []byte) bool {
	at := bytes.Clone(key)
	return c.move(func(b *bolt.Cursor) ([]byte, []byte) { return b.Seek(at) }, (*bolt.Cursor).Next)
}

// Key returns a copy of the key the cursor stands on, nil when it stands on none.
func (c *Cursor) Key() []byte { return c.key }

// Value returns a copy of the value the cursor stands on.
func (c *Cursor) Value() []byte { return c.value }

// Err returns what ended the walk: nil at its end, [ErrCorrupt] on a bad checksum.
func (c *Cursor) Err() error { return c.err }

func (c *Cursor) move(first, then func(*bolt.Cursor) ([]byte, []byte)) bool {
	c.key, c.value = nil, nil
	if c.err != nil || c.bolt == nil {
		return false
	}
	c.bucket.tx.enter()
	k, v := first(c.bolt)
	for k != nil && v == nil { // a bucket
		k, v = then(c.bolt)
	}
	if k == nil {
		c.bucket.tx.leave()
		return false
	}
	key := bytes.Clone(k)
	value, err := c.bucket.open(k, v)
	c.bucket.tx.leave()
	if err != nil {
		c.err = err
		return false
	}
	c.key, c.value = key, value
	return true
}
