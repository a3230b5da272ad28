// Package refusal holds the stable words with which a device or a tool says no, and
// the exit code of each. The words are interface: scripts, logs, the status topic
// and the audit log carry them; none is ever renamed or reused.
//
// A refusal is an error with a word, the object it is about, the reason, and a hint
// for the next step. Package refusal decides nothing.
package refusal

import (
	"errors"
	"fmt"
)

// A Word names one kind of refusal, for example E_ROLLBACK. Words that begin with
// W_ are warnings: they are reported and never change an exit code.
type Word string

// The words of exit code 10, media.
const (
	MediaGone Word = "E_MEDIA_GONE" // the stick was pulled
	MediaIO   Word = "E_MEDIA_IO"   // read error
	MediaSlow Word = "E_MEDIA_SLOW" // stalled
	MediaFS   Word = "E_MEDIA_FS"   // file system not allowed
)

// The words of exit code 11, no space, and 12, store.
const (
	NoSpace       Word = "E_NO_SPACE"       // quota or free space
	Store         Word = "E_STORE"          // our storage failed
	StoreRO       Word = "E_STORE_RO"       // our storage is read-only
	State         Word = "E_STATE"          // trust state unreadable, updates locked
	StateRollback Word = "E_STATE_ROLLBACK" // an older database was put back (alarm)
)

// The words of exit code 20, format and limits.
const (
	Format        Word = "E_FORMAT"
	FormatVersion Word = "E_FORMAT_VERSION" // needs a newer tidegate
	CBORCanon     Word = "E_CBOR_CANON"     // not canonical, at byte n
	Truncated     Word = "E_TRUNCATED"
	Trailing      Word = "E_TRAILING"
	Limit         Word = "E_LIMIT"
)

// The words of exit code 30, signature, and 31, trust root.
const (
	SigNone      Word = "E_SIG_NONE"
	SigBad       Word = "E_SIG_BAD"
	SigThreshold Word = "E_SIG_THRESHOLD"
	RootNone     Word = "E_ROOT_NONE"
	Root         Word = "E_ROOT"
	RootChain    Word = "E_ROOT_CHAIN"
	TrustDomain  Word = "E_TRUST_DOMAIN"
)

// The words of exit codes 40, rollback, 41, expired, and 42, not for this device.
const (
	Rollback     Word = "E_ROLLBACK"
	Equivocation Word = "E_EQUIVOCATION" // two contents, one number
	Revoked      Word = "E_REVOKED"
	Expired      Word = "E_EXPIRED"
	TimeJump     Word = "E_TIME_JUMP"
	Target       Word = "E_TARGET"
	Runtime      Word = "E_RUNTIME" // needs a newer tidegate to run
)

// The words of exit codes 50, digest and codec, 51, secret and key, 60, does not
// compile, 61, rolled back, and 70, busy.
const (
	Digest          Word = "E_DIGEST"
	Codec           Word = "E_CODEC"
	SecretRecipient Word = "E_SECRET_RECIPIENT"
	SecretAuth      Word = "E_SECRET_AUTH"
	Key             Word = "E_KEY"
	Compile         Word = "E_COMPILE"
	Health          Word = "E_HEALTH"
	Busy            Word = "E_BUSY"
)

// Warnings.
const (
	WarnSigExtraBad  Word = "W_SIG_EXTRA_BAD"
	WarnRootExpired  Word = "W_ROOT_EXPIRED"
	WarnMaybeExpired Word = "W_MAYBE_EXPIRED"
	WarnClock        Word = "W_CLOCK"
	WarnStale        Word = "W_STALE"
	WarnTooMany      Word = "W_TOO_MANY"
	WarnStalled      Word = "W_STALLED"
	WarnKeyGroup     Word = "W_KEY_GROUP"
)

// Exit codes that are not the code of a word.
const (
	ExitOK      = 0
	ExitOther   = 1
	ExitUsage   = 2
	ExitWaiting = 75 // on trial, waiting for confirmation
)

var exits = map[Word]int{
	MediaGone: 10, MediaIO: 10, MediaSlow: 10, MediaFS: 10,
	NoSpace: 11,
	Store:   12, StoreRO: 12, State: 12, StateRollback: 12,
	Format: 20, FormatVersion: 20, CBORCanon: 20, Truncated: 20, Trailing: 20, Limit: 20,
	SigNone: 30, SigBad: 30, SigThreshold: 30,
	RootNone: 31, Root: 31, RootChain: 31, TrustDomain: 31,
	Rollback: 40, Equivocation: 40, Revoked: 40,
	Expired: 41, TimeJump: 41,
	Target: 42, Runtime: 42,
	Digest: 50, Codec: 50,
	SecretRecipient: 51, SecretAuth: 51, Key: 51,
	Compile: 60,
	Health:  61,
	Busy:    70,
}

// Exit returns the exit code of w: 10 to 70, and 1 for a word it does not know.
func (w Word) Exit() int {
	if c, ok := exits[w]; ok {
		return c
	}
	return ExitOther
}

// Words calls yield for every word that is an error, in no particular order.
func Words(yield func(Word) bool) {
	for w := range exits {
		if !yield(w) {
			return
		}
	}
}

// An Error is one refusal. Detail says why in words for people ("bundle 41 is older
// than the active one (42)"); Object names what was refused ("site-42.tide"), empty
// while a lower layer does not know it; Hint is the next step, or empty.
type Error struct {
	Word   Word
	Object string
	Detail string
	Hint   string
	Err    error // the cause, or nil
}

// New returns a refusal whose detail is formatted as by [fmt.Errorf]: a %w names its cause.
func New(w Word, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Word: w, Detail: err.Error(), Err: errors.Unwrap(err)}
}

// WithHint returns a copy of e with the next step set.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// Error returns "object: detail".
func (e *Error) Error() string {
	s := e.Detail
	if s == "" {
		s = string(e.Word)
	}
	if e.Object != "" {
		s = e.Object + ": " + s
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// About returns err with its object named, if err is a refusal without one, else err itself.
func About(object string, err error) error {
	var e *Error
	if !errors.As(err, &e) || e.Object != "" || err != error(e) {
		return err
	}
	c := *e
	c.Object = object
	return &c
}

// Of returns the word of err, and false when err carries none.
func Of(err error) (Word, bool) {
	var e *Error
	if !errors.As(err, &e) {
		return "", false
	}
	return e.Word, true
}

// Is reports whether err carries the word w.
func Is(err error, w Word) bool {
	got, ok := Of(err)
	return ok && got == w
}

// ExitCode returns the exit code that err asks for: 0 for nil, the code of its word,
// and 1 for an error without a word.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	if w, ok := Of(err); ok {
		return w.Exit()
	}
	return ExitOther
}

// Hint returns the next step that err names, or "".
func Hint(err error) string {
	var e *Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Hint
}
