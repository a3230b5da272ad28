package policy

import (
	"net/netip"
	"time"
)

// Level is the level at which a plan limits.
type Level uint8

// The levels, in the order in which a call is asked.
const (
	LevelBlock           Level = iota + 1 // block condition
	LevelAPI                              // resource plan of an API
	LevelOperation                        // resource plan of an operation
	LevelSubscription                     // subscription plan
	LevelUnauthenticated                  // the subscription plan of that name
	LevelApplication
	LevelCustom
)

// String returns the word used in events, logs and JSON.
func (l Level) String() string {
	switch l {
	case LevelBlock:
		return "block"
	case LevelAPI:
		return "api"
	case LevelOperation:
		return "operation"
	case LevelSubscription:
		return "subscription"
	case LevelUnauthenticated:
		return "unauthenticated"
	case LevelApplication:
		return "application"
	case LevelCustom:
		return "custom"
	}
	return ""
}

// PlanKind says to what a plan applies.
type PlanKind uint8

// The kinds of plan, as the lists of policies.yaml.
const (
	ResourcePlan PlanKind = iota + 1
	SubscriptionPlan
	ApplicationPlan
	CustomPlan
)

// The names of plans that every project knows.
const (
	Unlimited       = "Unlimited"       // never counted
	Unauthenticated = "Unauthenticated" // a subscription plan, if defined
	DefaultPlan     = "Default"         // for basic users, if defined
)

// A Plan is one throttling policy. Plans are named per kind.
type Plan struct {
	Kind  PlanKind `cbor:"1,keyasint"`
	Name  string   `cbor:"2,keyasint"`
	Limit Limit    `cbor:"3,keyasint,omitempty"` // used when no group matches
	Burst Burst    `cbor:"4,keyasint,omitempty"` // beside Limit
	// Concurrent bounds the calls in flight per key; zero: no bound.
	Concurrent int64 `cbor:"5,keyasint,omitempty"`
	// Soft admits above the limit and marks the call (stopOnQuota: false).
	Soft bool `cbor:"6,keyasint,omitempty"`
	// WarnPercent is the share of the limit from which calls are marked; 0: never; 1–99.
	WarnPercent uint8   `cbor:"7,keyasint,omitempty"`
	OnFailure   Failure `cbor:"8,keyasint,omitempty"`
	Groups      []Group `cbor:"9,keyasint,omitempty"`
	// EveryGroup counts a call in each group that matches; else the first that matches, in the
	// order of Groups, takes it alone.
	EveryGroup bool `cbor:"14,keyasint,omitempty"`
	// Cut stops a stream at the end of the window's bytes; else it finishes, and the excess is
	// charged to the next window. For limits of bytes.
	Cut bool `cbor:"13,keyasint,omitempty"`
	// KeyTemplate and When belong to custom plans: "$userId:$apiContext", and the
	// variables that must have a value for the plan to apply.
	KeyTemplate string     `cbor:"10,keyasint,omitempty"`
	When        []Equation `cbor:"11,keyasint,omitempty"`
	MaxBody     int64      `cbor:"12,keyasint,omitempty"` // bytes of a request body; 0: no bound of its own

	Pos Pos `cbor:"-"`
}

// Unit says what a limit counts.
type Unit uint8

// The units of a limit.
const (
	Requests Unit = iota
	Bytes         // of request and response bodies
)

// A Limit is a number of units per window. The zero Limit does not limit.
type Limit struct {
	Unit   Unit          `cbor:"1,keyasint,omitempty"`
	Count  int64         `cbor:"2,keyasint"` // ≥ 0; 0 admits none
	Window time.Duration `cbor:"3,keyasint"` // whole seconds, > 0; nominal for calendar windows
	Align  Align         `cbor:"4,keyasint,omitempty"`
	Zone   string        `cbor:"5,keyasint,omitempty"` // IANA name, calendar windows only; empty: UTC
}

// IsZero reports whether l does not limit at all.
func (l Limit) IsZero() bool { return l.Window == 0 }

// Align says where the windows of a limit begin.
type Align uint8

// The alignments of windows.
const (
	Epoch         Align = iota // multiples of Window since the epoch, UTC
	CalendarDay                // at midnight in Zone
	CalendarWeek               // Monday, midnight in Zone
	CalendarMonth              // the first, midnight in Zone
	Sliding                    // weighted sum of this window and the one before
)

// A Burst is a GCRA limit: Count at once, refilled evenly over Per. The zero Burst does not limit.
type Burst struct {
	Count int64         `cbor:"1,keyasint"`
	Per   time.Duration `cbor:"2,keyasint"`
}

// Failure says what a plan does while its counters cannot be made durable.
type Failure uint8

// What a plan may do without durable counters. ByKind is closed for bandwidth limits,
// for windows of a day and longer, and for subscription plans; open for the rest.
const (
	ByKind Failure = iota
	FailClosed
	FailOpen
)

// A Group is a limit of its own for the calls for which all its conditions hold.
type Group struct {
	Name       string      `cbor:"1,keyasint,omitempty"`
	Conditions []Condition `cbor:"2,keyasint"`
	Limit      Limit       `cbor:"3,keyasint"`
}

// ConditionKind is what a condition looks at.
type ConditionKind uint8

// The kinds of condition.
const (
	OnIP ConditionKind = iota + 1
	OnHeader
	OnQuery
	OnClaim
)

// A Condition holds when the client address lies in one of Ranges, or when Pattern is
// found in the named value. An absent or empty value never matches. Conditions of one
// kind with Invert are inverted together.
type Condition struct {
	Kind    ConditionKind `cbor:"1,keyasint"`
	Name    string        `cbor:"2,keyasint,omitempty"`
	Pattern string        `cbor:"3,keyasint,omitempty"` // RE2
	Exact   bool          `cbor:"4,keyasint,omitempty"` // Pattern is compared, not searched
	Ranges  []Range       `cbor:"5,keyasint,omitempty"`
	Invert  bool          `cbor:"6,keyasint,omitempty"`
}

// A Range is an inclusive span of addresses of one family.
type Range struct {
	From netip.Addr `cbor:"1,keyasint"`
	To   netip.Addr `cbor:"2,keyasint"`
}

// An Equation compares a template variable ("userId", "customProperty.x") with a text.
type Equation struct {
	Variable string `cbor:"1,keyasint"`
	Value    string `cbor:"2,keyasint"`
}
