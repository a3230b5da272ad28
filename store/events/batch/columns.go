package batch

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/fxamacker/cbor/v2"
)

// The unpacked body of both classes is one CBOR array:
//
//	body = [ version: 1, strings: [* tstr], tables: [* bstr], columns: [* bstr] ]
//
// A table or column is a string of unsigned varints (LEB128, 64 bits), signed numbers in
// zigzag form. An empty column is a column of zeros. A text is its place in strings from 1;
// 0 is the empty text. Tables hold what belongs together, row by row, so that a column
// can name all of it by one number.
type body struct {
	_       struct{} `cbor:",toarray"`
	Version uint64
	Strings []string
	Tables  [][]byte
	Columns [][]byte
}

const bodyVersion = 1

// level is the effort of deflate. Level 6 saves 2 % of the bytes for a quarter more time.
const level = 2

// dictionary numbers texts in the order they first came.
type dictionary struct {
	index map[string]uint64
	texts []string
	size  int
}

func (d *dictionary) number(s string) uint64 {
	if s == "" {
		return 0
	}
	if n, ok := d.index[s]; ok {
		return n
	}
	return d.add(s)
}

func (d *dictionary) add(s string) uint64 {
	if d.index == nil {
		d.index = make(map[string]uint64)
	}
	kept := tidy(s)
	n, ok := d.index[kept]
	if !ok {
		d.texts = append(d.texts, kept)
		n = uint64(len(d.texts))
		d.index[kept] = n
		d.size += len(kept) + 3
	}
	return n
}

func (d *dictionary) reset() {
	clear(d.index)
	clear(d.texts)
	d.texts, d.size = d.texts[:0], 0
}

func zigzag(v int64) uint64   { return uint64(v)<<1 ^ uint64(v>>63) }
func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

// zeros reports whether a column says nothing: each varint of it is one zero byte.
func zeros(column []byte) bool {
	for _, b := range column {
		if b != 0 {
			return false
		}
	}
	return true
}

// A Packer turns columns into the bytes of a batch. It keeps its buffers, about 1 MiB, so
// builders and tables of one goroutine share one.
type Packer struct {
	mode  cbor.EncMode
	flate *flate.Writer
	out   bytes.Buffer
}

// pack sets Codec, Body and Sum of a batch and returns the unpacked size.
func (p *Packer) pack(b *Batch, content *body) (int, error) {
	if p.flate == nil {
		var err error
		if p.mode, err = cbor.CoreDetEncOptions().EncMode(); err != nil {
			return 0, err
		}
		if p.flate, err = flate.NewWriter(io.Discard, level); err != nil {
			return 0, err
		}
	}
	raw, err := p.mode.Marshal(content)
	if err != nil {
		return 0, fmt.Errorf("encode columns: %w", err)
	}
	p.out.Reset()
	p.flate.Reset(&p.out)
	if _, err := p.flate.Write(raw); err != nil {
		return 0, err
	}
	if err := p.flate.Close(); err != nil {
		return 0, err
	}
	b.Codec, b.Body = Raw, raw
	if p.out.Len() < len(raw) {
		b.Codec, b.Body = Deflate, bytes.Clone(p.out.Bytes())
	}
	b.Sum = sha256.Sum256(b.Body)
	return len(raw), nil
}

// unpack is the inverse of pack for a body from anywhere.
func unpack(b *Batch, want Class, tables, columns int) (*body, error) {
	if b.Class != want {
		return nil, fmt.Errorf("batch holds %s, not %s", b.Class, want)
	}
	if b.Count < 0 || b.Count > MaxEvents {
		return nil, fmt.Errorf("batch of %d entries: at most %d are allowed", b.Count, MaxEvents)
	}
	if len(b.Body) > MaxBody {
		return nil, fmt.Errorf("batch body of %d bytes: at most %d are allowed", len(b.Body), MaxBody)
	}
	raw := b.Body
	switch b.Codec {
	case Raw:
	case Deflate:
		r := flate.NewReader(bytes.NewReader(b.Body))
		var err error
		if raw, err = io.ReadAll(io.LimitReader(r, MaxUnpacked+1)); err != nil {
			return nil, fmt.Errorf("batch body: %w", err)
		}
		if len(raw) > MaxUnpacked {
			return nil, fmt.Errorf("batch body unpacks to more than %d bytes", MaxUnpacked)
		}
	default:
		return nil, fmt.Errorf("batch codec %d is not known", b.Codec)
	}
	mode, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		MaxNestedLevels: 4, MaxArrayElements: 1 << 16, MaxMapPairs: 16, UTF8: cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		return nil, err
	}
	var content body
	if err := mode.Unmarshal(raw, &content); err != nil {
		return nil, fmt.Errorf("batch body: %w", err)
	}
	if content.Version != bodyVersion {
		return nil, fmt.Errorf("batch body of version %d: this program reads version %d", content.Version, bodyVersion)
	}
	if len(content.Tables) != tables || len(content.Columns) != columns {
		return nil, fmt.Errorf("batch body has %d tables and %d columns, want %d and %d",
			len(content.Tables), len(content.Columns), tables, columns)
	}
	return &content, nil
}

// A reader takes the varints of one column or table.
type reader struct {
	rest []byte
	zero bool // an empty column
	err  *error
	name string
}

// readers opens all columns; the first error of any lands in *err.
func readers(columns [][]byte, names []string, err *error) []reader {
	rs := make([]reader, len(columns))
	for i, c := range columns {
		rs[i] = reader{rest: c, zero: len(c) == 0, err: err, name: names[i]}
	}
	return rs
}

func (r *reader) next() uint64 {
	if r.zero {
		return 0
	}
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.fail("ends early or overflows")
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) signed() int64 { return unzigzag(r.next()) }

// below returns a number less than limit.
func (r *reader) below(limit uint64) uint64 {
	v := r.next()
	if v >= limit {
		r.fail("has a number that is too large")
		return 0
	}
	return v
}

// text returns the text that a number of the column stands for.
func (r *reader) text(strings []string) string {
	n := r.below(uint64(len(strings)) + 1)
	if n == 0 {
		return ""
	}
	return strings[n-1]
}

func (r *reader) fail(what string) {
	if *r.err == nil {
		*r.err = fmt.Errorf("batch column %q %s", r.name, what)
	}
}

// finish reports columns that hold more than their batch.
func finish(rs []reader) {
	for i := range rs {
		if len(rs[i].rest) != 0 {
			rs[i].fail("holds more than the batch")
		}
	}
}
