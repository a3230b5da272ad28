// Package intake is the only door for what changes a device: bundles, trust roots and
// enrolments, whoever brings them. A [Desk] takes one candidate at a time through all steps
// of verification, stages it, compiles it, puts it on trial and confirms it, or refuses it
// with a word.
//
// It promises: whatever is offered, whatever fails and wherever the power is cut, the
// bundle that serves goes on serving unchanged; what the device believes moves only by what
// was signed for it; the space of what was refused is given back; each refusal leaves one
// entry in the audit log. One transaction commits an activation, one commits its
// confirmation, and [Desk.Resume] runs the same code at start.
//
// Package intake judges; how bytes arrive is the matter of its callers, and what a bundle
// means that of the [Activator].
package intake

import (
	"context"
	"io"
	"tidegate/platform/clock"
	"tidegate/policy/changes"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
	"time"
)

// An Edition is a compiled bundle, as its [Activator] made it.
type Edition any

// An Activator serves bundles.
type Activator interface {
	// Compile makes an edition of the content of a bundle and its secrets, which it must
	// not keep in any other form. It changes nothing that serves. An error without a word
	// becomes E_COMPILE.
	Compile(ctx context.Context, b *bundle.Reader, secrets map[string][]byte) (Edition, error)
	// Changes says what to would change against from; a nil from is the edition that serves.
	Changes(from, to Edition) []changes.Change
	// Activate makes e the edition that serves. It cannot fail; requests in flight finish
	// on the edition they began with. A nil edition is safe mode: no API is served.
	Activate(e Edition)
}

// A Prober tells whether the device works.
type Prober interface {
	// Health returns why the device does not work, or nil: its listeners are up, its store
	// can be read, and its own health request was answered.
	Health(ctx context.Context) error
	// Probe sends one request of a manifest to the device itself and returns the status.
	// Several may run together.
	Probe(ctx context.Context, p bundle.Probe) (status int, err error)
	// Answers returns how many requests were answered since the start, and how many of
	// them with a status of 500 or above.
	Answers() (all, failed uint64)
}

// A Clock tells the two times that matter here.
type Clock interface {
	// Boot is the time since the device was powered on, suspend included. It never goes
	// back while the process lives.
	Boot() time.Duration
	// Wall is the system clock. It only ever warns.
	Wall() time.Time
}

// A Timekeeper is the trusted clock. It hears of every time that was signed, and what it has
// proven beyond that raises the floor here.
type Timekeeper interface {
	Lower() time.Time
	Contribute(k clock.Contribution) error
	Drop(role, epoch uint64)
}

// A Candidate is a file that somebody offers.
type Candidate struct {
	Source string // "apply", "usb", "mqtt", "admin": for the audit log
	Name   string // of the file, for messages
	Open   func() (io.ReadCloser, error)
	Retry  bool // also if this bundle failed before
}

// A Phase says how far a bundle has come.
type Phase int

// The phases, in order.
const (
	Received   Phase = iota // nothing is known of it
	Rejected                // refused, with a word
	Verified                // signed, for this device, now
	Staged                  // complete on disk
	Compiled                // could be served
	OnTrial                 // serves, and waits for confirmation
	Confirmed               // serves, and the device's counters have moved
	RolledBack              // failed its trial; the one before serves again
	Accepted                // a trust root or an enrolment is in force
)

// String returns the phase in one word.
func (p Phase) String() string {
	switch p {
	case Received:
		return "received"
	case Rejected:
		return "rejected"
	case Verified:
		return "verified"
	case Staged:
		return "staged"
	case Compiled:
		return "compiled"
	case OnTrial:
		return "trial"
	case Confirmed:
		return "confirmed"
	case RolledBack:
		return "rolled-back"
	case Accepted:
		return "accepted"
	}
	return "unknown"
}

// A Report says what became of a candidate, or of a trial.
type Report struct {
	Kind   envelope.Kind // manifest, root or device; empty when the file was none of ours
	Source string
	Object string // name of the file

	Digest                        bundle.Digest // zero before the manifest was read
	Product, Channel, Name, Label string        // Label: the version text for people
	Epoch, Seq                    uint64
	Phase                         Phase
	Already                       bool          // nothing changed: it was so before
	ByHand                        bool          // the trial waits for a person
	Deadline                      time.Duration // of the trial, from now
	Word                          refusal.Word  // why not, or empty
	Detail, Hint                  string
	Warnings                      trust.Warnings
	Roots                         int              // roots accepted on the way
	Changes                       *bundle.Changes  // against what serves; nil if unknown
	Rules                         []changes.Change // of a plan: what changes in what serves

	noted bool   // the audit entry is written
	seen  []byte // digest of the signed object, before its signatures were verified
}

// ExitCode returns the exit code of a program that reports r.
func (r Report) ExitCode() int {
	switch {
	case r.Word != "":
		return r.Word.Exit()
	case r.Phase == OnTrial:
		return refusal.ExitWaiting
	}
	return refusal.ExitOK
}
