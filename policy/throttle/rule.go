package throttle

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"tidegate/policy"
	"time"
)

// MaxLimit is the largest number of units a rule may allow in one window (2^53:
// eight pebibytes). Sums of a few of them stay far within 64 bits.
const MaxLimit = 1 << 53

// DurableWindow is the shortest window whose counts are worth a write. Counts of a
// shorter one live in memory; after a start its first window counts as full.
const DurableWindow = time.Minute

// A Kind says what a rule counts.
type Kind uint8

// The kinds.
const (
	Requests Kind = iota // calls per window
	Bytes                // body bytes of request and response per window
	Burst                // calls at once, refilled evenly: GCRA, on powered-on time
	InFlight             // calls being served now
)

var kindNames = [...]string{"requests", "bytes", "burst", "in flight"}

// String returns the word of k, for example "requests".
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// A Quota says what happens to a call above the limit.
type Quota uint8

// The quotas.
const (
	Stop Quota = iota // refuse it
	Mark              // admit it and note [Over] (stopOnQuota: false)
)

// A Loss says what happens to a call when no unit can be made durable.
type Loss uint8

// The losses.
const (
	FailClosed Loss = iota // refuse it: for limits somebody is billed by
	FailOpen               // count it in memory: for limits that protect a backend
)

// A Tail says what happens to a stream that reaches the end of its window's bytes.
type Tail uint8

// The tails.
const (
	Finish Tail = iota // let it pass; the excess is charged to the next window
	Cut                // stop it
)

// A Rule is one limit, as a bundle states it. Make it with [Compile]; a compiled rule
// is never changed.
type Rule struct {
	Name   string // of the plan; clients see it
	Level  policy.Level
	Kind   Kind
	Limit  int64  // units per window; for Burst calls at once, for InFlight calls now
	Window Window // none for InFlight; for Burst, Length is the time in which Limit calls refill

	Quota       Quota
	Loss        Loss
	Tail        Tail
	WarnPercent int  // 1 to 99: note [Warned] from this share of the limit on; 0: never
	Shared      bool // the counter follows what other callers do, and nobody is shown its numbers

	def    uint64
	every  time.Duration // Burst: between two calls
	warn   int64         // units used from which Warned is noted
	policy string        // member of RateLimit-Policy
	member string        // head of the member of RateLimit
}

// Compile checks r and returns it ready for use. The error names every fault of r.
func Compile(r Rule) (*Rule, error) {
	var faults []error
	bad := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	switch {
	case r.Limit < 0:
		bad("limit %d is negative", r.Limit)
	case r.Limit > MaxLimit:
		bad("limit %d is above %d", r.Limit, int64(MaxLimit))
	}
	if r.WarnPercent < 0 || r.WarnPercent > 99 {
		bad("warning at %d %%: want 1 to 99, or 0 for none", r.WarnPercent)
	}
	switch r.Kind {
	case Requests, Bytes:
		if err := r.Window.check(); err != nil {
			faults = append(faults, err)
		}
	case Burst:
		switch {
		case r.Window.Form != Fixed:
			bad("a burst refills over a length of time, not over a %s window", r.Window.Form)
		case r.Window.Length <= 0 || r.Window.Length > maxBurst:
			bad("burst over %v: want more than 0 and at most %v", r.Window.Length, maxBurst)
		case r.Limit > int64(r.Window.Length):
			bad("burst of %d in %v is more than one call per nanosecond", r.Limit, r.Window.Length)
		case r.Limit > 0:
			r.every = (r.Window.Length + time.Duration(r.Limit) - 1) / time.Duration(r.Limit)
		}
	case InFlight:
		if r.Window != (Window{}) {
			bad("a limit of calls in flight has no window")
		}
	default:
		bad("unknown kind %d", r.Kind)
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("%s plan %q: %w", r.Level, r.Name, errors.Join(faults...))
	}
	r.warn = math.MaxInt64
	if r.WarnPercent > 0 {
		hi, lo := bits.Mul64(uint64(r.Limit), uint64(r.WarnPercent))
		q, rem := bits.Div64(hi, lo, 100)
		if rem > 0 {
			q++
		}
		r.warn = max(int64(q), 1)
	}
	r.def = r.definition()
	r.fields()
	return &r, nil
}

// definition hashes what makes counts comparable: kind and window. Limit, level and
// name are left out: a plan whose limit changes keeps its count.
func (r *Rule) definition() uint64 {
	b := []byte{'d', 1, byte(r.Kind), byte(r.Window.Form), byte(r.Window.Unit)}
	b = binary.BigEndian.AppendUint64(b, uint64(r.Window.Length))
	if r.Window.Zone != nil {
		b = append(b, r.Window.Zone.String()...)
	}
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:])
}

// Def identifies the rule's kind, window, alignment and unit. Counts under one
// definition are comparable, whatever the limit.
func (r *Rule) Def() uint64 { return r.def }

// Windowed reports whether r counts in windows.
func (r *Rule) Windowed() bool { return r.Kind == Requests || r.Kind == Bytes }

// Durable reports whether counts of r are worth keeping on disk: those of windows of
// [DurableWindow] and longer.
func (r *Rule) Durable() bool {
	return r.Windowed() && (r.Window.Form == Calendar || r.Window.Length >= DurableWindow)
}

// Warns reports whether a count of used units is at or above the warning percentage.
func (r *Rule) Warns(used int64) bool { return used >= r.warn }

// maxBurst keeps limit·every, which is below length + limit, far from the end of int64.
const maxBurst = MaxWindow

// Bucket takes n calls from a leaky bucket (GCRA) whose theoretical arrival time is
// tat, both in powered-on time. It returns the new arrival time and true, or tat and
// false when there is no room. n must not be negative.
func (r *Rule) Bucket(tat, now time.Duration, n int64) (time.Duration, bool) {
	if n > r.Limit {
		return tat, false
	}
	next := max(tat, now) + time.Duration(n)*r.every
	if next-now > time.Duration(r.Limit)*r.every {
		return tat, false
	}
	return next, true
}

// BucketWait returns how long n calls must wait for room in the bucket; n above the
// limit never has room, and gets the time until the bucket is full.
func (r *Rule) BucketWait(tat, now time.Duration, n int64) time.Duration {
	return max(0, tat+time.Duration(min(n, r.Limit))*r.every-time.Duration(r.Limit)*r.every-now)
}

// BucketRoom returns how many calls the bucket would admit at once.
func (r *Rule) BucketRoom(tat, now time.Duration) int64 {
	if r.every == 0 {
		return 0
	}
	return max(0, int64((time.Duration(r.Limit)*r.every-max(0, tat-now))/r.every))
}

// EmptyBucket returns the arrival time of a bucket that was empty at the instant start.
func (r *Rule) EmptyBucket(start time.Duration) time.Duration {
	return start + time.Duration(r.Limit)*r.every
}
