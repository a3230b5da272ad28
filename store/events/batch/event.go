// Package batch is the form of recorded calls outside memory: the event, the batch of
// up to 4,096 of them in columns, the roll-up that counts calls by the minute, and the
// record of a loss. A batch packs and unpacks itself; the same bytes lie in the device's
// queue, travel to the fleet and are stored there.
//
// Package batch opens no file and signs nothing: package events keeps batches, package
// report seals them. Everything that decodes treats its input as foreign.
package batch

import (
	"net/netip"
	"time"
)

// An Event is one call, answered or refused.
//
// Strings marked "edition" must stay unchanged for as long as the event may be in memory,
// a minute or so: they are kept by reference. All others are copied by Record and may be
// views of a buffer that is used again. Text beyond [MaxText] bytes is cut.
type Event struct {
	Time time.Time // when the call began, by the clock of the queue's options

	API, Version, Context string // edition; empty when no API matched
	Template, Method      string // edition: path template; method
	Operation             string // edition: operationId, or empty
	Upstream              string // edition: address of the endpoint that was used last, or empty
	Plan                  string // edition: subscription plan, or empty

	ApplicationID, ApplicationName, ApplicationOwner, ApplicationTier string // edition

	ConsumerKey string
	KeyType     string // PRODUCTION or SANDBOX, or empty
	User        string // empty: nobody was authenticated
	Publisher   string // who published the API
	UserAgent   string

	Status   uint16 // HTTP status sent to the client
	Fault    uint32 // code of the refusal's body: 900901, 101503, 404; 0: the backend answered
	Level    Level  // the level that refused the call
	Protocol Protocol
	Retries  uint8 // attempts after the first
	Flags    Flags

	Total      time.Duration // from the first byte of the request to the last of the response
	Backend    time.Duration // waiting for the backend
	Security   time.Duration // authentication and authorisation
	Throttling time.Duration // plans

	BytesIn, BytesOut uint64 // bodies

	Client    netip.Addr
	RequestID [16]byte
	TraceID   [16]byte
}

// MaxText is the longest text an event keeps in one field, in bytes.
const MaxText = 256

// A Level says which rule refused a call.
type Level uint8

// The levels. Their numbers are part of the format.
const (
	LevelNone         Level = iota // not refused, or refused by the backend
	LevelAPI                       // plan of the API
	LevelOperation                 // plan of the operation
	LevelApplication               // plan of the application
	LevelSubscription              // plan of the subscription
	LevelCustom                    // custom rule
	LevelBlocked                   // block list
	LevelAuth                      // authentication
	LevelScope                     // authorisation: scope, subscription
	LevelRoute                     // no API, path or method
	LevelSchema                    // the message does not fit its schema
	LevelProtocol                  // too large, too slow, malformed
	LevelUpstream                  // no backend answered
	LevelOverload                  // the device shed load
	levels
)

var levelNames = [levels]string{
	"", "api", "operation", "application", "subscription", "custom", "blocked", "auth",
	"scope", "route", "schema", "protocol", "upstream", "overload",
}

// String returns the word of exports, empty for LevelNone.
func (l Level) String() string {
	if l < levels {
		return levelNames[l]
	}
	return "unknown"
}

// A Protocol is the scheme the client used.
type Protocol uint8

// The protocols. Their numbers are part of the format.
const (
	HTTP Protocol = iota
	HTTPS
	WS
	WSS
)

// String returns the scheme, for example "https".
func (p Protocol) String() string {
	switch p {
	case HTTP:
		return "http"
	case HTTPS:
		return "https"
	case WS:
		return "ws"
	case WSS:
		return "wss"
	}
	return "unknown"
}

// Flags are facts about a call.
type Flags uint8

// The flags. Their bits are part of the format.
const (
	TokenCached    Flags = 1 << iota // the verified-token cache answered
	ResponseCached                   // the response cache answered
	OverQuota                        // let pass over quota: the plan does not stop
	Unsynced                         // the device had no proof of the time
)

// Class returns the class of the status, 1 to 5, and 0 for a status outside them.
func (e *Event) Class() uint8 {
	if e.Status < 100 || e.Status > 599 {
		return 0
	}
	return uint8(e.Status / 100)
}

// Failed reports whether the call counts as an error: refused, or answered 400 and above.
func (e *Event) Failed() bool { return e.Status >= 400 || e.Status < 100 || e.Fault != 0 }

// A RollUp counts the calls of one minute of one API, application and status class.
type RollUp struct {
	Minute          time.Time // its begin, UTC
	API, Version    string
	ApplicationID   string
	ApplicationName string
	Class           uint8 // status class 1 to 5; 0: none
	Level           Level // the level that refused; LevelNone for admitted calls

	Calls, Retries     uint64
	BytesIn, BytesOut  uint64
	Total, Backend     time.Duration // sums
	Slowest            time.Duration // the largest Total
	OverQuota, Cached  uint64        // calls let pass over quota; answered by the response cache
	TokenCached, Doubt uint64        // calls with a cached token; calls with an unproven clock
}
