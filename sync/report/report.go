// Package report is what a device says about its calls, in the form that leaves it: one
// batch, or the declaration of one loss, signed by the device's report key. The same bytes
// go over MQTT and onto a stick, and are what the fleet keeps.
//
// Seal and Open are each other's inverse. Open proves who wrote a batch and that it is
// whole; what its columns say is shown when they are decoded. Package report sends,
// stores and acknowledges nothing.
package report

import (
	"crypto/sha256"
	"fmt"
	"tidegate/policy/refusal"
	"tidegate/store/events/batch"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
	"time"
)

// Limits of one sealed object, in bytes.
const (
	MaxBatch = 64 << 10
	MaxLoss  = 4 << 10
)

// wireBatch is the payload of a batch. Field 4 of common is its number in its epoch.
type wireBatch struct {
	trust.Common
	Epoch  batch.Epoch `cbor:"60,keyasint"`
	Class  uint64      `cbor:"61,keyasint"`
	BootID [16]byte    `cbor:"62,keyasint"`
	Start  wireStamp   `cbor:"63,keyasint"`
	Count  uint64      `cbor:"64,keyasint"`
	Codec  uint64      `cbor:"65,keyasint"`
	Body   []byte      `cbor:"66,keyasint"`
	Lost   uint64      `cbor:"67,keyasint"`
}

type wireStamp struct {
	_       struct{} `cbor:",toarray"`
	Boot    uint64   // µs
	Unix    uint64   // µs
	Quality uint64
}

// wireLoss is the payload of a loss. Field 4 of common is its number on its device. Times
// are in whole seconds, rounded outwards.
type wireLoss struct {
	trust.Common
	Epoch  batch.Epoch `cbor:"60,keyasint"`
	Class  uint64      `cbor:"61,keyasint"`
	Range  []uint64    `cbor:"70,keyasint,omitempty"` // first and last batch
	Calls  *uint64     `cbor:"71,keyasint,omitempty"` // absent: not known
	Bytes  uint64      `cbor:"72,keyasint,omitempty"` // 0: not known
	Span   [2]uint64   `cbor:"73,keyasint"`
	Reason string      `cbor:"74,keyasint"`
}

// A Sealer signs for one device.
type Sealer struct {
	Domain trust.Domain
	Key    envelope.Signer // the report key
}

// Batch returns b sealed, at most MaxBatch bytes. issued is now by the device's estimate.
// The header's Span and, of roll-ups, Calls do not travel: they follow from the content.
func (s *Sealer) Batch(b *batch.Batch, issued time.Time) ([]byte, error) {
	w := wireBatch{
		Common: s.common(envelope.Batch, b.Seq, issued),
		Epoch:  b.Epoch, Class: uint64(b.Class), BootID: b.BootID,
		Start: wireStamp{Boot: micros(b.Start.Boot.Microseconds()), Unix: micros(b.Start.Unix.UnixMicro()), Quality: uint64(b.Start.Quality)},
		Count: uint64(max(b.Count, 0)), Codec: uint64(b.Codec), Body: b.Body, Lost: b.Lost,
	}
	if _, err := w.batch(); err != nil {
		return nil, fmt.Errorf("seal %s batch %d: %w", b.Class, b.Seq, err)
	}
	return s.seal(envelope.Batch, &w, MaxBatch)
}

// Loss returns l sealed, at most MaxLoss bytes.
func (s *Sealer) Loss(l *batch.Loss, issued time.Time) ([]byte, error) {
	w := wireLoss{
		Common: s.common(envelope.Loss, l.Number, issued),
		Epoch:  l.Epoch, Class: uint64(l.Class), Bytes: l.Bytes,
		Span: [2]uint64{seconds(l.First), seconds(l.Last.Add(time.Second - 1))}, Reason: string(l.Reason),
	}
	if l.From != 0 {
		w.Range = []uint64{l.From, l.To}
	}
	if l.Known {
		w.Calls = &l.Calls
	}
	if _, err := w.loss(); err != nil {
		return nil, fmt.Errorf("seal loss %d: %w", l.Number, err)
	}
	return s.seal(envelope.Loss, &w, MaxLoss)
}

func (s *Sealer) common(kind envelope.Kind, seq uint64, issued time.Time) trust.Common {
	return trust.Common{Type: string(kind), Domain: s.Domain, Seq: seq, Issued: seconds(issued)}
}

func (s *Sealer) seal(kind envelope.Kind, payload any, limit int) ([]byte, error) {
	b, err := canon.Marshal(payload)
	if err != nil {
		return nil, err
	}
	env, err := envelope.Sign(kind, b, s.Key)
	if err != nil {
		return nil, err
	}
	if len(env) > limit {
		return nil, refusal.New(refusal.Limit, "sealed %s of %d bytes, at most %d are allowed", kind, len(env), limit)
	}
	return env, nil
}

// An Opener opens what one device sealed.
type Opener struct {
	domain trust.Domain
	keys   envelope.Keys
}

// NewOpener returns an Opener for the device with the given report key.
func NewOpener(domain trust.Domain, key envelope.PublicKey) (*Opener, error) {
	keys, err := envelope.NewKeys("report", 1, key)
	if err != nil {
		return nil, err
	}
	return &Opener{domain: domain, keys: keys}, nil
}

// Batch verifies and opens a sealed batch. Its words are those of packages canon and
// envelope, E_TRUST_DOMAIN, E_FORMAT for a field out of its range and E_LIMIT.
func (o *Opener) Batch(env []byte) (*batch.Batch, error) {
	var w wireBatch
	if err := o.open(env, envelope.Batch, MaxBatch, &w); err != nil {
		return nil, err
	}
	if err := w.CheckFor(envelope.Batch, o.domain); err != nil {
		return nil, err
	}
	return w.batch()
}

// Loss verifies and opens a sealed loss.
func (o *Opener) Loss(env []byte) (*batch.Loss, error) {
	var w wireLoss
	if err := o.open(env, envelope.Loss, MaxLoss, &w); err != nil {
		return nil, err
	}
	if err := w.CheckFor(envelope.Loss, o.domain); err != nil {
		return nil, err
	}
	return w.loss()
}

func (o *Opener) open(env []byte, kind envelope.Kind, limit int, payload any) error {
	if len(env) > limit {
		return refusal.New(refusal.Limit, "sealed %s of %d bytes, at most %d are allowed", kind, len(env), limit)
	}
	m, err := envelope.Parse(env, kind)
	if err != nil {
		return err
	}
	if _, err := m.Verify(o.keys); err != nil {
		return err
	}
	return canon.Unmarshal(m.Payload, payload, canon.Within(limit))
}

// batch checks the fields and returns what they say.
func (w *wireBatch) batch() (*batch.Batch, error) {
	class, err := classOf(w.Class)
	if err != nil {
		return nil, err
	}
	switch {
	case w.Start.Quality > uint64(batch.Unproven):
		return nil, refusal.New(refusal.Format, "field 63: quality %d is not known", w.Start.Quality)
	case w.Start.Boot > maxMicros || w.Start.Unix > maxMicros:
		return nil, refusal.New(refusal.Format, "field 63: a time is out of range")
	case w.Count == 0 || w.Count > batch.MaxEvents:
		return nil, refusal.New(refusal.Limit, "field 64: %d entries, want 1 to %d", w.Count, batch.MaxEvents)
	case w.Codec > uint64(batch.Deflate):
		return nil, refusal.New(refusal.Codec, "field 65: codec %d is not known", w.Codec)
	case len(w.Body) == 0 || len(w.Body) > batch.MaxBody:
		return nil, refusal.New(refusal.Limit, "field 66: %d bytes, want 1 to %d", len(w.Body), batch.MaxBody)
	}
	b := &batch.Batch{Body: w.Body, Header: batch.Header{
		Class: class, Epoch: w.Epoch, Seq: w.Seq, BootID: w.BootID,
		Start: batch.Stamp{
			Boot: time.Duration(w.Start.Boot) * time.Microsecond, Unix: time.UnixMicro(int64(w.Start.Unix)).UTC(),
			Quality: batch.Quality(w.Start.Quality),
		},
		Count: int(w.Count), Codec: batch.Codec(w.Codec), Lost: w.Lost, Sum: sha256.Sum256(w.Body),
	}}
	if class == batch.Detail {
		b.Calls = w.Count
	}
	return b, nil
}

// loss checks the fields and returns what they say.
func (w *wireLoss) loss() (*batch.Loss, error) {
	class, err := classOf(w.Class)
	if err != nil {
		return nil, err
	}
	l := &batch.Loss{Number: w.Seq, Class: class, Epoch: w.Epoch, Bytes: w.Bytes, Reason: batch.Reason(w.Reason)}
	if w.Range != nil {
		if len(w.Range) != 2 || w.Range[0] == 0 || w.Range[0] > w.Range[1] {
			return nil, refusal.New(refusal.Format, "field 70: %d is not a range of batches", w.Range)
		}
		l.From, l.To = w.Range[0], w.Range[1]
	}
	if w.Calls != nil {
		l.Known, l.Calls = true, *w.Calls
	}
	if w.Span[0] > w.Span[1] || w.Span[1] > maxMicros/1e6+1 {
		return nil, refusal.New(refusal.Format, "field 73: %d is not a span of time", w.Span)
	}
	l.First, l.Last = time.Unix(int64(w.Span[0]), 0).UTC(), time.Unix(int64(w.Span[1]), 0).UTC()
	for _, r := range batch.Reasons() {
		if l.Reason == r {
			return l, nil
		}
	}
	return nil, refusal.New(refusal.Format, "field 74: reason %q is not known", w.Reason)
}

func classOf(n uint64) (batch.Class, error) {
	if c := batch.Class(n); n <= 0xff && (c == batch.Detail || c == batch.RollUps) {
		return c, nil
	}
	return 0, refusal.New(refusal.Format, "field 61: class %d is not known", n)
}

// maxMicros bounds times to 285 years, what a time.Duration holds.
const maxMicros = 9e15

// micros and seconds are times as the format has them, never below zero.
func micros(n int64) uint64      { return uint64(min(max(n, 0), maxMicros)) }
func seconds(t time.Time) uint64 { return uint64(min(max(t.Unix(), 0), maxMicros/1e6)) }
