// Package throttle decides whether a call may go now. It turns the plans of a bundle
// into rules, a call into claims against those rules, and the outcome into the fields
// a client reads.
//
// A claim says "this many units, of this rule, for this key". A [Counter] takes all
// claims of a call or none of them; the one that lasts through power cuts is
// store/counters. The arithmetic both share is here: windows in [Window], the leaky
// bucket in [Rule.Bucket], the sliding estimate in [Rule.Estimate].
//
// Package throttle is pure. It reads no clock (time comes in as an [Instant]), keeps
// no counts, and starts no goroutines. Everything it returns may be used by any number
// of goroutines at once.
package throttle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"tidegate/policy"
	"time"
)

// MaxClaims is the largest number of claims one call may make.
const MaxClaims = 32

// An Instant is one reading of trusted time, as platform/clock gives it.
type Instant struct {
	Lower time.Time     // the time that has surely come; the only one that turns a window
	Boot  time.Duration // powered-on time since boot, suspend included; drives buckets
	Line  uint32        // the time line; a new one begins when the floor was lowered
}

// A Key names one counter: a hash over a level and a subject, without any plan's name,
// so that a count outlives a change of plan.
type Key [16]byte

// KeyOf returns the key of a subject at a level: the first 16 bytes of a SHA-256.
func KeyOf(level policy.Level, subject string) Key {
	var buf [256]byte
	b := append(buf[:0], byte(level))
	b = append(b, subject...)
	return hashed(b)
}

func hashed(b []byte) (k Key) {
	sum := sha256.Sum256(b)
	copy(k[:], sum[:])
	return k
}

// Beside returns the key under which k's burst or its calls in flight are counted, so
// that counters of different units never meet.
func (k Key) Beside(kind Kind) Key {
	if kind == Burst || kind == InFlight {
		k[len(k)-1] ^= byte(kind)
	}
	return k
}

// String returns k in hexadecimal, 32 digits.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// ParseKey reads a key as people write it: the 32 hexadecimal digits that a listing
// shows, or "level:subject", for example "subscription:2:/meters/1.2.0:1.2.0".
func ParseKey(s string) (Key, error) {
	if b, err := hex.DecodeString(s); err == nil && len(b) == len(Key{}) {
		return Key(b), nil
	}
	word, subject, ok := strings.Cut(s, ":")
	if ok && subject != "" {
		for l := policy.LevelAPI; l <= policy.LevelCustom; l++ {
			if l.String() == word {
				return KeyOf(l, subject), nil
			}
		}
	}
	return Key{}, fmt.Errorf("key %q: want 32 hexadecimal digits or level:subject, as in subscription:2:/meters/1.2.0:1.2.0", s)
}

// A Claim asks for N units of a rule in the name of a key. Rules are compiled once per
// bundle and shared by all calls.
type Claim struct {
	Rule *Rule
	Key  Key
	N    int64 // units now: 1 call, or bytes; ≥ 0
}

// A Verdict is the answer to the claims of one call. The numbers that a client may see are
// those of its own counters and of the API or operation it calls; see [Rule.Shared].
type Verdict struct {
	Denied int          // index of the first claim without room; -1: admitted
	Level  policy.Level // level of the denied claim; 0 when admitted

	// Retry is the time until the last of the denied claims has room again; 0 when admitted.
	Retry time.Duration

	// Tightest is the index of the claim with the least units left among those that
	// are the caller's own; -1 when there is none. Remaining and Reset are its units
	// left and the time until its window turns.
	Tightest  int
	Remaining int64
	Reset     time.Duration

	Notes Notes
}

// Admitted reports whether every claim was counted.
func (v Verdict) Admitted() bool { return v.Denied < 0 }

// Notes are marks on a verdict, kept in the call's event.
type Notes uint8

// The notes.
const (
	Over      Notes = 1 << iota // admitted above a plan that only marks (stopOnQuota: false)
	Warned                      // a plan's warning percentage is reached
	Undurable                   // admitted in memory alone: the disk failed and a plan is fail-open
	Shared                      // a claim was counted by an overflow counter: the table is full
	Closed                      // denied because what was used before the start is unknown
)

// Has reports whether all notes of m are in n.
func (n Notes) Has(m Notes) bool { return n&m == m }

// ErrStalled says that a call is within its limits, but that no durable unit came in
// time. It is not the caller's fault: answer 503 with Retry-After: 1.
var ErrStalled = errors.New("no durable unit of a limit came in time")

// ErrClaims says that a call makes more than [MaxClaims] claims.
var ErrClaims = fmt.Errorf("more than %d claims in one call", MaxClaims)

// A Counter counts claims. Its methods are safe for concurrent use.
type Counter interface {
	// Take counts every claim or none. It waits only for a reservation on its way to
	// disk, and never beyond ctx. It returns [ErrStalled] when the limits have room
	// but no durable unit came in time, and [ErrClaims] for too many claims.
	Take(ctx context.Context, now Instant, claims []Claim) (Verdict, error)

	// Charge counts N bytes of a stream against each claim of kind [Bytes], before
	// they pass; claims of other kinds are ignored. A denied verdict means that a
	// claim's rule says [Cut] and has no room: nothing was counted, stop the stream.
	// A rule that says [Finish] takes what exceeds its window from its next one.
	Charge(ctx context.Context, now Instant, claims []Claim) (Verdict, error)

	// Release gives back the claims of kind [InFlight], once per admitted call.
	Release(claims []Claim)
}
