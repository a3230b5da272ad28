// Package events is the queue of recorded calls: it takes one event per call without
// ever making the call wait, keeps batches of them in a bounded file, and gives them up
// when the fleet has acknowledged them.
//
// It promises: what Flush has put down survives a power cut; the file never outgrows its
// cap; whatever is dropped, for whatever reason, is counted and declared as a loss;
// nothing is delivered again after Release has returned. It does not promise calls still
// in memory when the power goes, one interval at most: the next start declares them.
//
// Package events sends nothing: packages uplink and export read from it.
package events

import (
	"log/slog"
	"tidegate/store/events/batch"
	"time"
)

// The words of package batch that callers of a queue need.
type (
	Event  = batch.Event
	Batch  = batch.Batch
	Loss   = batch.Loss
	Class  = batch.Class
	Epoch  = batch.Epoch
	Reason = batch.Reason
)

// A Keep says which calls keep their detail. Roll-ups always count all.
type Keep uint8

// The choices of events.detail.
const (
	KeepAll    Keep = iota
	KeepErrors      // refused, or answered 400 and above
	KeepNone
)

// An AddressForm says how much of a client's address is kept.
type AddressForm uint8

// The choices of events.client_address.
const (
	AddressPrefix AddressForm = iota // IPv4 /24, IPv6 /48
	AddressFull
	AddressNone
)

// An Extra is a column that is off unless asked for.
type Extra uint8

// The extras; a set is their sum.
const (
	WithUserAgent Extra = 1 << iota
	WithRequestID       // and the trace id
)

// An Instant is one moment by all clocks of the device.
type Instant struct {
	Now   time.Time // the clock that gave Event.Time, with its monotonic reading
	Stamp batch.Stamp
}

// Options of a queue. Zero values mean the default. The cap is that of the file.
type Options struct {
	Interval time.Duration // the longest time an event stays in memory; 30 s
	Detail   Keep
	Address  AddressForm
	Extras   Extra
	BootID   [16]byte       // of the kernel
	Clock    func() Instant // nil: the system's clock, unproven
	Log      *slog.Logger   // nil: silent
}

// A Cursor is a place in the queue: all batches of Class up to Seq have been seen. The
// zero Seq is the beginning. A cursor of another epoch than the queue's is taken as the
// beginning, since then no batch of it is left.
type Cursor struct {
	Class Class
	Epoch Epoch
	Seq   uint64
}

// After returns the cursor behind b.
func After(b *Batch) Cursor { return Cursor{Class: b.Class, Epoch: b.Epoch, Seq: b.Seq} }

// Status is what the queue can tell of itself.
type Status struct {
	Classes [2]ClassStatus // detail, roll-ups
	Waiting int            // events in memory, not yet durable
	Bytes   int64          // in the file, by our own count
	Cap     int64          // above this the oldest are dropped
	Losses  int            // loss records not yet acknowledged
	Err     error          // why nothing is written; nil when all is well
}

// ClassStatus is the part of one class.
type ClassStatus struct {
	Class  Class
	Epoch  Epoch
	Head   uint64 // newest batch; 0: none was ever made
	Acked  uint64 // all up to here are released or lost
	Count  int    // batches in the file
	Calls  uint64 // calls in them
	Bytes  int64
	Lost   map[Reason]uint64 // calls lost, as far as their number is known
	Oldest time.Time         // start of the oldest batch; zero: none
}
