package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"tidegate/policy/refusal"
	"tidegate/store"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Mark is a place in the log: the number of an entry and its hash. The zero Mark is the
// place before the first entry.
type Mark struct {
	N    uint64
	Hash [32]byte
}

// An Opener checks the signature of a checkpoint and returns what it says.
type Opener interface {
	OpenCheckpoint(sealed []byte) (n uint64, h [32]byte, err error)
}

// A BadEntryError names the first entry that does not fit.
type BadEntryError struct {
	N      uint64
	Reason string
}

// Error says which entry is bad and why.
func (e *BadEntryError) Error() string { return fmt.Sprintf("audit entry %d: %s", e.N, e.Reason) }

func bad(n uint64, format string, args ...any) error {
	err := &BadEntryError{N: n, Reason: fmt.Sprintf(format, args...)}
	return refusal.New(refusal.Digest, "%w", err)
}

// codec is the one encoding of entries and exports.
type codec struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

func newCodec() (codec, error) {
	simple, err := cbor.NewSimpleValueRegistryFromDefaults(cbor.WithRejectedSimpleValue(22), cbor.WithRejectedSimpleValue(23))
	if err != nil {
		return codec{}, err
	}
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return codec{}, err
	}
	dec, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		MaxNestedLevels: 4, MaxArrayElements: 16, MaxMapPairs: 16, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		UTF8: cbor.UTF8RejectInvalid, FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		NaN: cbor.NaNDecodeForbidden, Inf: cbor.InfDecodeForbidden, BignumTag: cbor.BignumTagForbidden,
		IntDec: cbor.IntDecConvertSignedOrFail, SimpleValues: simple,
	}.DecMode()
	return codec{enc: enc, dec: dec}, err
}

// decode reads one entry, in the one encoding that Append writes.
func (c codec) decode(b []byte) (Record, error) {
	var w wire
	if err := c.dec.Unmarshal(b, &w); err != nil {
		return Record{}, err
	}
	again, err := c.enc.Marshal(w)
	if err != nil {
		return Record{}, err
	}
	if !bytes.Equal(again, b) || len(w.Prev) != 32 || len(w.Boot) != 16 || w.Event == "" {
		return Record{}, errors.New("not in the form of an entry")
	}
	r := Record{N: w.N, Prev: [32]byte(w.Prev), Hash: sha256.Sum256(b), Entry: Entry{
		Boot: [16]byte(w.Boot), Uptime: time.Duration(min(w.Uptime, 1<<43)) * time.Millisecond, //nolint:gosec // in range
		Floor: unix(w.Floor), Event: w.Event, Word: w.Word, Digest: w.Digest, Source: w.Source, Detail: w.Detail, Count: w.Count,
	}}
	if w.Wall != 0 {
		r.Wall = unix(w.Wall)
	}
	return r, nil
}

func unix(s uint64) time.Time { return time.Unix(int64(min(s, 1<<40)), 0).UTC() } //nolint:gosec // in range

// head returns the newest entry, or the tombstone when there is none.
func head(tx *store.Tx) (Mark, error) {
	c := tx.Bucket(root, entries).Cursor()
	if !c.Last() {
		if c.Err() != nil {
			return Mark{}, c.Err()
		}
		return tomb(tx)
	}
	return Mark{N: binary.BigEndian.Uint64(c.Key()), Hash: sha256.Sum256(c.Value())}, nil
}

func tomb(tx *store.Tx) (Mark, error) {
	v, err := tx.Bucket(root).Get(tombKey)
	if err != nil || v == nil {
		return Mark{}, err
	}
	if len(v) != 40 {
		return Mark{}, fmt.Errorf("audit tombstone: %w", store.ErrCorrupt)
	}
	return Mark{N: binary.BigEndian.Uint64(v), Hash: [32]byte(v[8:])}, nil
}

// Head returns the place of the newest entry.
func Head(db *store.DB) (m Mark, err error) {
	err = db.View(func(tx *store.Tx) error {
		m, err = head(tx)
		return err
	})
	return m, err
}

// Tail returns the newest n entries, oldest first.
func Tail(db *store.DB, n int) ([]Record, error) {
	code, err := newCodec()
	if err != nil {
		return nil, err
	}
	var list []Record
	err = db.View(func(tx *store.Tx) error {
		c := tx.Bucket(root, entries).Cursor()
		for ok := c.Last(); ok && len(list) < n; ok = c.Prev() {
			r, err := code.decode(c.Value())
			if err != nil {
				return bad(binary.BigEndian.Uint64(c.Key()), "%v", err)
			}
			list = append(list, r)
		}
		return c.Err()
	})
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list, err
}

// An export is a CBOR sequence (RFC 8742): a head, lines, an end.
const (
	exportWord    = "tide-audit"
	exportVersion = 1
	pageEntries   = 256
	maxExport     = 32 << 20
	maxSealed     = 16 << 10
)

// line is [kind, n, bytes].
type line struct {
	_     struct{} `cbor:",toarray"`
	Kind  uint64
	N     uint64
	Bytes []byte
}

// The kinds of line.
const (
	lineTomb       = 1 // hash of entry n, which fell out; first, or absent
	lineCheckpoint = 2 // sealed
	lineEntry      = 3
	lineEnd        = 4 // hash of entry n, the last; always there
)

type exportHead struct {
	_       struct{} `cbor:",toarray"`
	Word    string
	Version uint64
}

// Export writes all entries and checkpoints to w, in pages, so that no transaction is open
// while w is written to. It returns the place of the last entry written: keep it, and a
// later export can be held against it.
func Export(db *store.DB, w io.Writer) (Mark, error) {
	code, err := newCodec()
	if err != nil {
		return Mark{}, err
	}
	put := code.enc.NewEncoder(w)
	if err := put.Encode(exportHead{Word: exportWord, Version: exportVersion}); err != nil {
		return Mark{}, err
	}
	var at, last Mark
	for first := true; ; first = false {
		lines, next, err := page(db, at, first)
		if err != nil {
			return Mark{}, err
		}
		for _, l := range lines {
			if err := put.Encode(l); err != nil {
				return Mark{}, err
			}
		}
		if next == at && !first {
			break
		}
		at, last = next, next
	}
	return last, put.Encode(line{Kind: lineEnd, N: last.N, Bytes: last.Hash[:]})
}

// page returns the lines after the entry at, and the place it came to.
func page(db *store.DB, at Mark, first bool) (lines []line, next Mark, err error) {
	err = db.View(func(tx *store.Tx) error {
		lines, next, err = pageOf(tx, at, first)
		return err
	})
	return lines, next, err
}

func pageOf(tx *store.Tx, at Mark, first bool) (lines []line, next Mark, err error) {
	marks := tx.Bucket(root, checkpoints)
	if first {
		if at, err = tomb(tx); err != nil {
			return nil, at, err
		}
		if at.N > 0 {
			lines = append(lines, line{Kind: lineTomb, N: at.N, Bytes: at.Hash[:]})
			if lines, err = addMark(lines, marks, at.N); err != nil {
				return nil, at, err
			}
		}
	}
	next = at
	c := tx.Bucket(root, entries).Cursor()
	count := 0
	for ok := c.Seek(key(next.N + 1)); ok && count < pageEntries; ok = c.Next() {
		n := binary.BigEndian.Uint64(c.Key())
		if !first && count == 0 && n != at.N+1 {
			return nil, next, refusal.New(refusal.Busy, "audit export: the ring turned past entry %d meanwhile", at.N).WithHint("export again")
		}
		lines = append(lines, line{Kind: lineEntry, N: n, Bytes: c.Value()})
		next = Mark{N: n, Hash: sha256.Sum256(c.Value())}
		if lines, err = addMark(lines, marks, n); err != nil {
			return nil, next, err
		}
		count++
	}
	return lines, next, c.Err()
}

func addMark(lines []line, marks *store.Bucket, n uint64) ([]line, error) {
	sealed, err := marks.Get(key(n))
	if err != nil || sealed == nil {
		return lines, err
	}
	return append(lines, line{Kind: lineCheckpoint, N: n, Bytes: sealed}), nil
}

// Summary says what Verify saw.
type Summary struct {
	First       uint64 // number of the first entry in the export
	Last        Mark
	Checkpoints int    // with a good signature
	Signed      uint64 // the last entry that a signature covers
}

// Verify reads an export and checks form, numbers, hash chain and the signature of each
// checkpoint; with a nil o signatures are not looked at. earlier is the place an earlier export of the same device came to, or zero:
// with it a tail that was cut off is found. The error is a [BadEntryError] with the first
// entry that does not fit, or a refusal with E_FORMAT, E_TRUNCATED or E_LIMIT.
func Verify(r io.Reader, o Opener, earlier Mark) (Summary, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxExport+1))
	switch {
	case err != nil:
		return Summary{}, err
	case len(b) > maxExport:
		return Summary{}, refusal.New(refusal.Limit, "audit export above %d bytes", maxExport)
	}
	code, err := newCodec()
	if err != nil {
		return Summary{}, err
	}
	var h exportHead
	b, err = code.dec.UnmarshalFirst(b, &h)
	switch {
	case err != nil || h.Word != exportWord:
		return Summary{}, refusal.New(refusal.Format, "not an audit export")
	case h.Version != exportVersion:
		return Summary{}, refusal.New(refusal.FormatVersion, "audit export of version %d", h.Version)
	}
	v := verifier{code: code, opener: o, earlier: earlier}
	for len(b) > 0 {
		var l line
		b, err = code.dec.UnmarshalFirst(b, &l)
		if err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				break
			}
			return v.sum, refusal.New(refusal.Format, "audit export after entry %d: %w", v.at.N, err)
		}
		if v.ended {
			return v.sum, refusal.New(refusal.Trailing, "audit export goes on after its end")
		}
		if err := v.line(l); err != nil {
			return v.sum, err
		}
	}
	if !v.ended {
		return v.sum, refusal.New(refusal.Truncated, "audit export ends after entry %d without its end line", v.at.N)
	}
	if v.at.N < earlier.N {
		return v.sum, bad(v.at.N+1, "cut off: an earlier export had %d entries", earlier.N)
	}
	return v.sum, nil
}

// verifier walks the lines of an export.
type verifier struct {
	code    codec
	opener  Opener
	earlier Mark
	at      Mark
	any     bool // a line was read
	ended   bool
	sum     Summary
}

func (v *verifier) line(l line) error {
	first := !v.any
	v.any = true
	switch l.Kind {
	case lineTomb:
		if !first || len(l.Bytes) != 32 || l.N == 0 {
			return refusal.New(refusal.Format, "audit export: tombstone out of place")
		}
		v.at = Mark{N: l.N, Hash: [32]byte(l.Bytes)}
		return v.compare()
	case lineEntry:
		return v.entry(l)
	case lineCheckpoint:
		return v.checkpoint(l)
	case lineEnd:
		if l.N != v.at.N || !bytes.Equal(l.Bytes, v.at.Hash[:]) {
			return bad(v.at.N+1, "cut off: the export was made at entry %d", l.N)
		}
		v.ended = true
		v.sum.Last = v.at
		return nil
	}
	return refusal.New(refusal.Format, "audit export: line of kind %d", l.Kind)
}

func (v *verifier) entry(l line) error {
	want := v.at.N + 1
	r, err := v.code.decode(l.Bytes)
	switch {
	case err != nil:
		return bad(want, "%v", err)
	case r.N != want || l.N != want:
		return bad(want, "missing: entry %d follows", r.N)
	case r.Prev != v.at.Hash:
		return bad(v.blame(want), "changed, or the entry after it: the hashes do not fit")
	}
	v.at = Mark{N: r.N, Hash: r.Hash}
	if v.sum.First == 0 {
		v.sum.First = r.N
	}
	return v.compare()
}

// blame names the entry whose hash the next one does not have.
func (v *verifier) blame(want uint64) uint64 {
	if v.at.N == 0 {
		return want
	}
	return v.at.N
}

func (v *verifier) checkpoint(l line) error {
	if l.N != v.at.N || len(l.Bytes) > maxSealed {
		return refusal.New(refusal.Format, "audit export: checkpoint %d after entry %d", l.N, v.at.N)
	}
	if v.opener == nil {
		return nil
	}
	n, h, err := v.opener.OpenCheckpoint(l.Bytes)
	switch {
	case err != nil:
		return bad(l.N, "checkpoint: %v", err)
	case n != v.at.N || h != v.at.Hash:
		return bad(l.N, "its signed checkpoint has another hash")
	}
	v.sum.Checkpoints++
	v.sum.Signed = n
	return nil
}

// compare holds the place against the earlier export.
func (v *verifier) compare() error {
	if v.at.N == v.earlier.N && v.at.N != 0 && v.at.Hash != v.earlier.Hash {
		return bad(v.at.N, "an earlier export had another entry of this number")
	}
	return nil
}
