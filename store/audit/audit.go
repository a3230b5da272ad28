// Package audit keeps the log of what happened to a device: starts, roots, refusals,
// trials, confirmations, alarms. Each entry carries the hash of the one before, so that
// none can be changed or taken out unseen, and checkpoints signed by the device fix how
// far the log went.
//
// An entry is written in the transaction of the change it tells of: neither exists without
// the other. The log is a ring of 16,384 entries. It is evidence against editing, not
// against somebody who owns the device and its key: to that end exports leave the device.
package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"tidegate/policy/refusal"
	"tidegate/store"
	"time"
	"unicode/utf8"
)

// Sizes of the log.
const (
	Keep            = 16384 // entries in the ring
	checkpointEvery = 256
	maxSource       = 64  // bytes
	maxDetail       = 160 // bytes
)

// The flood rule.
const (
	repeatWindow  = 24 * time.Hour // of powered-on time: same refusal of the same object
	networkWindow = time.Hour
	networkMost   = 60 // refusals from the network in networkWindow
	maxCounted    = 1024
)

// An Event says what happened.
type Event string

// The events. They are part of exports: none is renamed or reused.
const (
	Start      Event = "start"
	Root       Event = "root"
	Refused    Event = "refused"
	Staged     Event = "staged"
	Trial      Event = "trial"
	Confirmed  Event = "confirmed"
	RolledBack Event = "rolled-back"
	Clock      Event = "clock"
	Enrolled   Event = "enrolled"
	Alarm      Event = "alarm"
	Operator   Event = "operator" // something a person did at the device
	Flood      Event = "flood"    // refusals from the network that have no entry of their own
)

// SourceNetwork begins the Source of what came over the network; the flood rule looks at it.
const SourceNetwork = "mqtt"

// Entry is one event. Number and hash chain are the log's business.
type Entry struct {
	Boot   [16]byte      // boot id of the kernel
	Uptime time.Duration // since boot, suspend included
	Floor  time.Time     // the lower bound of time
	Wall   time.Time     // the system clock; zero where it means nothing
	Event  Event
	Word   refusal.Word // of a refusal or an alarm
	Digest []byte       // SHA-256 of the object, 32 bytes, or none
	Source string       // where it came from: "usb", "mqtt", "apply"; at most 64 bytes
	Detail string       // for people, no secrets; cut at 160 bytes
	Count  uint64       // of events this one stands for beside itself
}

// Record is an entry as it is in the log.
type Record struct {
	N    uint64   // 1, 2, 3 …
	Prev [32]byte // hash of the entry before
	Hash [32]byte
	Entry
}

// wire is an entry on disk: a map in core deterministic encoding (RFC 8949 section 4.2.1).
type wire struct {
	N      uint64       `cbor:"1,keyasint"`
	Prev   []byte       `cbor:"2,keyasint"`
	Boot   []byte       `cbor:"3,keyasint"`
	Uptime uint64       `cbor:"4,keyasint"` // milliseconds
	Floor  uint64       `cbor:"5,keyasint"` // seconds since 1970, UTC
	Wall   uint64       `cbor:"6,keyasint,omitempty"`
	Event  Event        `cbor:"7,keyasint"`
	Word   refusal.Word `cbor:"8,keyasint,omitempty"`
	Digest []byte       `cbor:"9,keyasint,omitempty"`
	Source string       `cbor:"10,keyasint,omitempty"`
	Detail string       `cbor:"11,keyasint,omitempty"`
	Count  uint64       `cbor:"12,keyasint,omitempty"`
}

// A Sealer signs a checkpoint: that the log has n entries and entry n has the hash h.
type Sealer interface {
	SealCheckpoint(n uint64, h [32]byte) ([]byte, error)
}

// A Log appends. Its methods are safe to call together.
type Log struct {
	sealer Sealer
	keep   int
	code   codec

	mu      sync.Mutex
	repeats map[string]uint64 // refusals since their entry, by word and digest
	network struct {
		since   time.Time // lower bound of time at its begin
		count   int
		dropped uint64
	}
	counted uint64
	sealErr error
}

// New returns a log that signs its checkpoints with sealer; nil: there are none, as on a
// device whose key cannot be used.
func New(sealer Sealer) (*Log, error) {
	code, err := newCodec()
	if err != nil {
		return nil, err
	}
	return &Log{sealer: sealer, keep: Keep, code: code, repeats: make(map[string]uint64)}, nil
}

// Buckets and keys in state.db.
const (
	root        = "audit"
	entries     = "entries"     // n, 8 bytes big-endian → entry
	checkpoints = "checkpoints" // n → sealed checkpoint
	seen        = "seen"        // word, digest → n of the entry of that refusal
)

var tombKey = []byte("tomb") // n and hash of the newest entry that fell out

func key(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// Append writes e as the next entry in tx and returns its number. A refusal that the flood
// rule holds back is only counted: the number is 0. At each start and confirm, and every
// 256 entries, a checkpoint goes with it.
func (l *Log) Append(tx *store.Tx, e Entry) (uint64, error) {
	if err := e.check(); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	held, err := l.held(tx, e)
	if err != nil {
		return 0, err
	}
	if held {
		l.count(e)
		return 0, nil
	}
	if flood, ok := l.summary(e); ok {
		if _, err := l.append(tx, flood); err != nil {
			return 0, err
		}
	}
	if e.Event == Refused {
		id := repeatID(e)
		e.Count = l.repeats[id]
		delete(l.repeats, id)
	}
	return l.append(tx, e)
}

// Record is Append for an event that changes nothing else. What the flood rule holds back
// costs no write.
func (l *Log) Record(db *store.DB, e Entry) error {
	if err := e.check(); err != nil {
		return err
	}
	held := false
	err := db.View(func(tx *store.Tx) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		var err error
		if held, err = l.held(tx, e); held {
			l.count(e)
		}
		return err
	})
	if err != nil || held {
		return err
	}
	return db.Update(func(tx *store.Tx) error {
		_, err := l.Append(tx, e)
		return err
	})
}

// Counted returns how many refusals have no entry of their own, since the start.
func (l *Log) Counted() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counted
}

// Err returns why the last checkpoint was not signed, or nil. The log goes on without.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sealErr
}

func (e *Entry) check() error {
	if e.Event == "" {
		return errors.New("audit entry without an event")
	}
	if n := len(e.Digest); n != 0 && n != sha256.Size {
		return fmt.Errorf("audit entry %s: digest of %d bytes", e.Event, n)
	}
	e.Source, e.Detail = cut(e.Source, maxSource), cut(e.Detail, maxDetail)
	return nil
}

// cut makes s valid UTF-8 of at most n bytes.
func cut(s string, n int) string {
	s = string([]rune(s))
	for len(s) > n {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

func repeatID(e Entry) string { return string(e.Word) + "\x00" + string(e.Digest) }

// held reports whether the flood rule keeps e out of the log.
func (l *Log) held(tx *store.Tx, e Entry) (bool, error) {
	if e.Event != Refused {
		return false, nil
	}
	b := tx.Bucket(root)
	if v, err := seenAt(tx, e); err != nil || v != 0 {
		if err != nil {
			return false, err
		}
		stored, err := b.Bucket(entries).Get(key(v))
		if err != nil {
			return false, err
		}
		if stored != nil {
			before, err := l.code.decode(stored)
			if err != nil {
				return false, err
			}
			if age := e.Floor.Sub(before.Floor); age >= 0 && age < repeatWindow {
				return true, nil
			}
		}
	}
	return fromNetwork(e) && l.network.count >= networkMost && inWindow(e.Floor, l.network.since), nil
}

func seenAt(tx *store.Tx, e Entry) (uint64, error) {
	v, err := tx.Bucket(root, seen).Get([]byte(repeatID(e)))
	if err != nil || len(v) != 8 {
		return 0, err
	}
	return binary.BigEndian.Uint64(v), nil
}

func fromNetwork(e Entry) bool {
	return e.Event == Refused && len(e.Source) >= len(SourceNetwork) && e.Source[:len(SourceNetwork)] == SourceNetwork
}

func inWindow(now, since time.Time) bool {
	age := now.Sub(since)
	return age >= 0 && age < networkWindow
}

// count notes a refusal that was held back.
func (l *Log) count(e Entry) {
	l.counted++
	if fromNetwork(e) && l.network.count >= networkMost {
		l.network.dropped++
	}
	if id := repeatID(e); len(l.repeats) < maxCounted || l.repeats[id] > 0 {
		l.repeats[id]++
	}
}

// summary turns the hour of the network counter, and returns the entry about what it held
// back, if it did.
func (l *Log) summary(e Entry) (Entry, bool) {
	if !fromNetwork(e) {
		return Entry{}, false
	}
	w := &l.network
	if w.count > 0 && inWindow(e.Floor, w.since) {
		w.count++
		return Entry{}, false
	}
	dropped := w.dropped
	w.since, w.count, w.dropped = e.Floor, 1, 0
	if dropped == 0 {
		return Entry{}, false
	}
	e.Event, e.Word, e.Digest, e.Detail, e.Count = Flood, "", nil, "refusals from the network", dropped
	return e, true
}

func (l *Log) append(tx *store.Tx, e Entry) (uint64, error) {
	all := tx.Bucket(root, entries).Appended()
	last, err := head(tx)
	if err != nil {
		return 0, err
	}
	n := last.N + 1
	b, err := l.code.enc.Marshal(e.wire(n, last.Hash))
	if err != nil {
		return 0, fmt.Errorf("audit entry %d: %w", n, err)
	}
	if err := all.Put(key(n), b); err != nil {
		return 0, err
	}
	if e.Event == Refused {
		if err := l.note(tx, e, n); err != nil {
			return 0, err
		}
	}
	if e.Event == Start || e.Event == Confirmed || n%checkpointEvery == 0 {
		if err := l.checkpoint(tx, n, sha256.Sum256(b)); err != nil {
			return 0, err
		}
	}
	return n, l.trim(tx, n)
}

func (e Entry) wire(n uint64, prev [32]byte) wire {
	w := wire{
		N: n, Prev: prev[:], Boot: e.Boot[:], Uptime: uint64(max(e.Uptime, 0) / time.Millisecond),
		Event: e.Event, Word: e.Word, Digest: e.Digest, Source: e.Source, Detail: e.Detail, Count: e.Count,
	}
	w.Floor = seconds(e.Floor)
	if !e.Wall.IsZero() {
		w.Wall = seconds(e.Wall)
	}
	return w
}

func seconds(t time.Time) uint64 { return uint64(max(t.Unix(), 0)) } //nolint:gosec // not negative

// note remembers where the entry of this refusal is, and forgets some whose day is over.
func (l *Log) note(tx *store.Tx, e Entry, n uint64) error {
	b := tx.Bucket(root, seen)
	if err := b.Put([]byte(repeatID(e)), key(n)); err != nil {
		return err
	}
	s, err := b.Stats()
	if err != nil || s.Keys <= maxCounted {
		return err
	}
	var oldest []byte
	least := n
	if err := b.Each(func(k, v []byte) error {
		if at := binary.BigEndian.Uint64(v); len(v) == 8 && at < least {
			least, oldest = at, k
		}
		return nil
	}); err != nil || oldest == nil {
		return err
	}
	return b.Delete(oldest)
}

func (l *Log) checkpoint(tx *store.Tx, n uint64, h [32]byte) error {
	if l.sealer == nil {
		return nil
	}
	sealed, err := l.sealer.SealCheckpoint(n, h)
	l.sealErr = err
	if err != nil {
		return nil //nolint:nilerr // a lost key must not stop the log; Err tells
	}
	return tx.Bucket(root, checkpoints).Put(key(n), sealed)
}

// trim drops the oldest entries when the ring is full: up to a checkpoint, which stays as
// their tombstone, and 256 where there is none.
func (l *Log) trim(tx *store.Tx, newest uint64) error {
	all := tx.Bucket(root, entries)
	c := all.Cursor()
	if !c.First() {
		return c.Err()
	}
	first := binary.BigEndian.Uint64(c.Key())
	if newest-first+1 <= uint64(l.keep) {
		return nil
	}
	last := first + checkpointEvery - 1
	marks := tx.Bucket(root, checkpoints)
	m := marks.Cursor()
	if m.Seek(key(first)) {
		if at := binary.BigEndian.Uint64(m.Key()); at < newest && at-first < 2*checkpointEvery {
			last = at
		}
	}
	last = min(last, newest-1)
	stored, err := all.Get(key(last))
	if err != nil {
		return err
	}
	h := sha256.Sum256(stored)
	if err := tx.Bucket(root).Put(tombKey, append(key(last), h[:]...)); err != nil {
		return err
	}
	for n := first; n <= last; n++ {
		if err := all.Delete(key(n)); err != nil {
			return err
		}
	}
	var old [][]byte
	for ok := m.First(); ok && binary.BigEndian.Uint64(m.Key()) < last; ok = m.Next() {
		old = append(old, m.Key())
	}
	for _, k := range old {
		if err := marks.Delete(k); err != nil {
			return err
		}
	}
	return m.Err()
}
