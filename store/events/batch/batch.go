package batch

import (
	"iter"
	"time"
)

// Limits of the format. A reader refuses what exceeds them.
const (
	MaxEvents   = 4096     // events or roll-ups in one batch
	MaxBody     = 60 << 10 // bytes of a packed body
	MaxUnpacked = 1 << 20  // bytes of an unpacked body
)

// A Class is what a batch holds. Its numbers are part of the format.
type Class uint8

// The classes.
const (
	Detail  Class = 1 // events
	RollUps Class = 2
)

// String returns "detail" or "roll-up".
func (c Class) String() string {
	switch c {
	case Detail:
		return "detail"
	case RollUps:
		return "roll-up"
	}
	return "unknown"
}

// An Epoch names one life of a queue's class. It is random and never used again, so
// (device, epoch, seq) names one batch for ever.
type Epoch [8]byte

// A Quality says what is known of a time.
type Quality uint8

// The qualities. Their numbers are part of the format.
const (
	Synced   Quality = 0 // proven less than a day ago
	Holdover Quality = 1 // proven in this boot
	Unproven Quality = 2 // only a lower bound is known
)

// String returns "synced", "holdover" or "unsynced".
func (q Quality) String() string {
	switch q {
	case Synced:
		return "synced"
	case Holdover:
		return "holdover"
	}
	return "unsynced"
}

// A Stamp is one moment by two clocks. With a later proof of time for the same boot, the
// fleet can set right what the device only estimated.
type Stamp struct {
	Boot    time.Duration // since the kernel started, suspend included
	Unix    time.Time     // estimate
	Quality Quality
}

// A Header says what a batch is, without its content.
type Header struct {
	Class  Class
	Epoch  Epoch
	Seq    uint64 // from 1, without gaps in an epoch: a gap is a declared loss
	BootID [16]byte
	Start  Stamp         // of the first event
	Span   time.Duration // from Start to the last event
	Count  int           // events or roll-ups
	Calls  uint64        // calls they stand for
	Codec  Codec
	Lost   uint64   // calls lost so far, as far as known; it goes on when an epoch ends
	Sum    [32]byte // SHA-256 of the body
}

// A Codec says how a body is packed. Its numbers are part of the format.
type Codec uint8

// The codecs.
const (
	Raw     Codec = 0
	Deflate Codec = 1
)

// A Batch is a header and its packed body.
type Batch struct {
	Header
	Body []byte
}

// Events decodes a detail batch. It yields each event, valid until the next, and at most
// one error, the last thing it yields; then what came before is to be ignored.
func (b *Batch) Events() iter.Seq2[*Event, error] { return b.events }

// RollUps decodes a roll-up batch, as Events does a detail batch.
func (b *Batch) RollUps() iter.Seq2[*RollUp, error] { return b.rollUps }

// A Reason says why calls were lost. Its words are part of the format.
type Reason string

// The reasons.
const (
	ReasonCap        Reason = "cap"        // the queue was full: the oldest were dropped
	ReasonCorrupt    Reason = "corrupt"    // a batch could not be read back
	ReasonQuarantine Reason = "quarantine" // the file was set aside whole
	ReasonUnclean    Reason = "unclean"    // in memory at a power cut
	ReasonBuffer     Reason = "buffer"     // memory was full
)

// Reasons lists all reasons.
func Reasons() []Reason {
	return []Reason{ReasonCap, ReasonCorrupt, ReasonQuarantine, ReasonUnclean, ReasonBuffer}
}

// A Loss declares calls that happened and cannot be delivered.
type Loss struct {
	Number      uint64 // from 1 per queue file and rising: what an acknowledgement names
	Class       Class
	Epoch       Epoch
	From, To    uint64 // batches, both included; 0, 0: calls that never were in a batch
	Known       bool   // Calls is the exact number; else nobody knows it
	Calls       uint64
	Bytes       uint64    // of bodies; 0: unknown
	First, Last time.Time // they happened between these, by the device's estimate
	Reason      Reason
}
