package events

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"tidegate/store"
	"tidegate/store/events/batch"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// The file holds these buckets:
//
//	meta        "queue" → state
//	det, rol    one bucket per batch, named by its number: "h" → header, "b" → body
//	los         number, 8 bytes → loss
//
// A batch has a bucket of its own because the library rewrites the neighbours of a large
// value on one page with it.
const (
	metaBucket = "meta"
	lossBucket = "los"
)

var (
	stateKey     = []byte("queue")
	headerKey    = []byte("h")
	bodyKey      = []byte("b")
	batchBuckets = [...]string{detail: "det", rollUps: "rol"}
)

// state is what the queue knows of its file. It changes in the transaction that changes
// the batches.
type state struct {
	_       struct{} `cbor:",toarray"`
	Version uint64
	Run     [8]byte // the process that wrote last
	Parcel  uint64  // the last of its parcels that is in the file
	Open    bool    // not closed cleanly since
	Wrote   int64   // when events were last written, Unix µs by the device's estimate; 0: never
	Loss    uint64  // number of the last loss record
	Losses  uint64  // loss records in the file
	Classes [2]classState

	soft int64 // not stored: the cap by our own count
}

type classState struct {
	_     struct{} `cbor:",toarray"`
	Epoch Epoch
	Head  uint64    // number of the last batch
	Low   uint64    // all up to here are gone
	Count uint64    // batches in the file
	Calls uint64    // calls in them
	Bytes uint64    // whole pages, as counted by pages
	Lost  [5]uint64 // calls by reason, in the order of batch.Reasons
}

const stateVersion = 1

// softCap is the share of the file, in percent, that batches may fill. Above about 90 the
// library finds no pages for the copy each change needs, and jams for good.
const softCap = 70

func newState() *state {
	s := &state{Version: stateVersion}
	for i := range s.Classes {
		rand.Read(s.Classes[i].Epoch[:]) //nolint:errcheck // ends the process rather than fail
	}
	return s
}

func (s *state) copy() *state {
	c := *s
	return &c
}

// bytes is what batches and loss records take of the file.
func (s *state) bytes() int64 {
	const lossBytes = 160
	return int64(s.Classes[detail].Bytes + s.Classes[rollUps].Bytes + s.Losses*lossBytes)
}

func (c *classState) lost() (n uint64) {
	for _, v := range c.Lost {
		n += v
	}
	return n
}

func reasonIndex(r Reason) int {
	for i, known := range batch.Reasons() {
		if r == known {
			return i
		}
	}
	return 0
}

// pages is what a batch takes of the file: its pages, and its share of the pages above.
func pages(body int) uint64 {
	const page, header, overhead = 4096, 192, 128
	return uint64((header+body+overhead+page-1)/page*page + overhead)
}

func (s *state) put(tx *store.Tx) error {
	b, err := encode(s)
	if err != nil {
		return err
	}
	return tx.Bucket(metaBucket).Put(stateKey, b)
}

// stored reads the state, nil when the file is new.
func stored(tx *store.Tx) (*state, error) {
	b, err := tx.Bucket(metaBucket).Get(stateKey)
	if err != nil || b == nil {
		return nil, err
	}
	var s state
	if err := decode(b, &s); err != nil {
		return nil, fmt.Errorf("state of the event queue: %w", err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("state of the event queue has version %d, want %d: %w", s.Version, stateVersion, store.ErrCorrupt)
	}
	return &s, nil
}

// header is a batch's header as it lies in the file.
type header struct {
	_       struct{} `cbor:",toarray"`
	Class   Class
	Epoch   Epoch
	Seq     uint64
	BootID  [16]byte
	Boot    int64 // µs
	Unix    int64 // µs
	Quality batch.Quality
	Span    int64 // µs
	Count   int
	Calls   uint64
	Codec   batch.Codec
	Lost    uint64
	Sum     [32]byte
	Size    int // of the body
}

func fromBatch(h *batch.Header, size int) header {
	return header{
		Class: h.Class, Epoch: h.Epoch, Seq: h.Seq, BootID: h.BootID, Boot: h.Start.Boot.Microseconds(),
		Unix: h.Start.Unix.UnixMicro(), Quality: h.Start.Quality, Span: h.Span.Microseconds(), Count: h.Count, Calls: h.Calls,
		Codec: h.Codec, Lost: h.Lost, Sum: h.Sum, Size: size,
	}
}

func (h *header) batch() batch.Header {
	return batch.Header{
		Class: h.Class, Epoch: h.Epoch, Seq: h.Seq, BootID: h.BootID,
		Start: batch.Stamp{Boot: time.Duration(h.Boot) * time.Microsecond, Unix: time.UnixMicro(h.Unix).UTC(), Quality: h.Quality},
		Span:  time.Duration(h.Span) * time.Microsecond, Count: h.Count, Calls: h.Calls, Codec: h.Codec, Lost: h.Lost, Sum: h.Sum,
	}
}

// name is the bucket of a batch: names sort as numbers do.
func name(seq uint64) string { return fmt.Sprintf("%016x", seq) }

func number(name string) (uint64, error) {
	var n uint64
	if len(name) != 16 {
		return 0, fmt.Errorf("bucket %q is not named by a number: %w", name, store.ErrCorrupt)
	}
	if _, err := fmt.Sscanf(name, "%016x", &n); err != nil {
		return 0, fmt.Errorf("bucket %q is not named by a number: %w", name, store.ErrCorrupt)
	}
	return n, nil
}

func encode(v any) ([]byte, error) {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, err
	}
	return mode.Marshal(v)
}

// decode reads what encode wrote. Its errors are damage: the store has checked the bytes.
func decode(b []byte, v any) error {
	mode, err := cbor.DecOptions{IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden}.DecMode()
	if err == nil {
		err = mode.Unmarshal(b, v)
	}
	if err != nil {
		return errors.Join(store.ErrCorrupt, err)
	}
	return nil
}

func (c *classState) status(class Class, oldest time.Time) ClassStatus {
	s := ClassStatus{
		Class: class, Epoch: c.Epoch, Head: c.Head, Acked: c.Low, Count: int(c.Count), Calls: c.Calls,
		Bytes: int64(c.Bytes), Oldest: oldest, Lost: make(map[Reason]uint64),
	}
	for i, r := range batch.Reasons() {
		s.Lost[r] = c.Lost[i]
	}
	return s
}

func lossKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
