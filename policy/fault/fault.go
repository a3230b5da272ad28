// Package fault is the table of what a client is told when its call is refused: code,
// status, message and description, with bodies that are byte for byte those of WSO2
// API Microgateway, or RFC 9457 problem details.
//
// An [Error] keeps apart what the client may know (its Fault) and what only the log may
// know (its Err).
package fault

import (
	"strconv"
	"time"
)

// A Fault is one public answer.
type Fault struct {
	Code        int // 900901, 101503, or the status for faults of the protocol
	Status      int
	Message     string
	Description string
	Shape       Shape
}

// Shape is which of WSO2's body forms a fault has.
type Shape uint8

// The body forms.
const (
	Nested   Shape = iota // {"fault":{"code":…}}
	Flat                  // {"code":404, "type":"Status report", …}
	KeyFault              // {"ERROR_CODE":"900901", …}
)

// The faults of authentication and authorization.
var (
	Unclassified        = auth(900900, 500, "Unclassified Authentication Failure", "")
	KeyManagerAway      = auth(900900, 503, "Unclassified Authentication Failure", "")
	InvalidCredentials  = auth(900901, 401, "Invalid Credentials", "Make sure you have given the correct access token")
	MissingCredentials  = auth(900902, 401, "Missing Credentials", "Make sure your API request provides required credentials")
	TokenExpired        = auth(900903, 401, "Access Token Expired", "Renew the access token and try again")
	TokenInactive       = auth(900904, 401, "Access Token Inactive", "Generate a new access token and try again")
	TokenType           = auth(900905, 401, "Incorrect Access Token Type is provided", "")
	NoResource          = auth(900906, 403, "No matching resource found in the API for the given request", "Check the API documentation and add a proper REST resource path to the invocation URL")
	TemporarilyBlocked  = auth(900907, 401, "The requested API is temporarily blocked", "")
	ResourceForbidden   = auth(900908, 403, "Resource forbidden ", "")
	SubscriptionHold    = auth(900909, 401, "The subscription to the API is inactive", "")
	InsufficientScope   = auth(900910, 403, "The access token does not allow you to access the requested resource", "")
	InvalidLogin        = auth(900911, 401, "Invalid Credentials", "Make sure you have given the correct username and password")
	InvalidFormat       = auth(900912, 401, "Invalid Format", `Make sure you have given the credentials in correct format with ":" character`)
	InvalidScheme       = auth(900917, 401, "Invalid Authentication scheme", "API can not be used with this authentication scheme")
	NoProductionBackend = &Fault{900901, 403, "Production key offered to the API with no production endpoint", "", KeyFault}
	NoSandboxBackend    = &Fault{900901, 403, "Sandbox key offered to the API with no sandbox endpoint", "", KeyFault}
)

// The faults of limits.
var (
	ThrottledAPI          = throttled(900800)
	ThrottledOperation    = throttled(900802)
	ThrottledApplication  = throttled(900803)
	ThrottledSubscription = throttled(900804)
	ThrottledCustom       = throttled(900806)
	Blocked               = &Fault{900805, 403, "Message blocked", "You have been blocked from accesing the resource", Nested}
	PolicyError           = &Fault{900809, 500, "Internal server error occured", "POLICY ENFORCEMENT ERROR", Nested}
)

// The faults of backends, routing and protocol.
var (
	BackendBroken  = &Fault{101503, 502, "Runtime Error", "Error connecting to the back end", Nested}
	BackendTimeout = &Fault{101504, 504, "Runtime Error", "Connection timed out", Nested}
	NoBackend      = &Fault{303001, 503, "Runtime Error", "No backend is available", Nested}
	NotFound       = flat(404, "No matching resource found for given API Request")
	MethodNot      = flat(405, "Method not allowed for given API resource")
	BadRequest     = flat(400, "Bad request")
	Timeout        = flat(408, "Request timed out")
	TooLarge       = flat(413, "Request body is too large")
	LongTarget     = flat(414, "Request target is too long")
	MediaType      = flat(415, "Unsupported media type")
	LargeHeader    = flat(431, "Request header fields are too large")
	NotImplemented = flat(501, "Not implemented")
	Version        = flat(505, "HTTP version not supported")
	Stalled        = flat(503, "The limit cannot be checked at the moment")
	ClockUnproven  = flat(503, "The time is not known yet")
	Forbidden      = flat(403, "Access is not allowed")
)

func auth(code, status int, message, more string) *Fault {
	d := message
	if more != "" {
		d = message + ". " + more
	}
	return &Fault{code, status, message, d, Nested}
}

func throttled(code int) *Fault {
	return &Fault{code, 429, "Message throttled out", "You have exceeded your quota", Nested}
}

func flat(status int, description string) *Fault {
	return &Fault{status, status, "Runtime Error", description, Flat}
}

// With returns a copy of f with another description, for faults that list what is wrong.
func (f *Fault) With(description string) *Fault {
	c := *f
	c.Description = description
	return &c
}

// ContentType is the media type of both of WSO2's forms.
const ContentType = "application/json"

// ProblemType is the media type of RFC 9457.
const ProblemType = "application/problem+json"

// AppendWSO2 appends the body in WSO2's form to b: ", " between members, nothing after
// ":", no line end.
func (f *Fault) AppendWSO2(b []byte) []byte {
	switch f.Shape {
	case KeyFault:
		b = append(b, `{"ERROR_CODE":"`...)
		b = strconv.AppendInt(b, int64(f.Code), 10)
		b = append(b, `", "ERROR_MESSAGE":`...)
		b = appendString(b, f.Message)
		return append(b, '}')
	case Flat:
		b = append(b, `{"code":`...)
		b = strconv.AppendInt(b, int64(f.Code), 10)
		b = append(b, `, "type":"Status report", "message":`...)
		b = appendString(b, f.Message)
		b = append(b, `, "description":`...)
		b = appendString(b, f.Description)
		return append(b, '}')
	default:
		b = append(b, `{"fault":{"code":`...)
		b = strconv.AppendInt(b, int64(f.Code), 10)
		b = append(b, `, "message":`...)
		b = appendString(b, f.Message)
		b = append(b, `, "description":`...)
		b = appendString(b, f.Description)
		return append(b, `}}`...)
	}
}

// AppendProblem appends the body as RFC 9457 problem details to b.
func (f *Fault) AppendProblem(b []byte) []byte {
	b = append(b, `{"type":"urn:tidegate:fault:`...)
	b = strconv.AppendInt(b, int64(f.Code), 10)
	b = append(b, `","title":`...)
	b = appendString(b, f.Message)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(f.Status), 10)
	if f.Description != "" {
		b = append(b, `,"detail":`...)
		b = appendString(b, f.Description)
	}
	b = append(b, `,"code":`...)
	b = strconv.AppendInt(b, int64(f.Code), 10)
	return append(b, '}')
}

// appendString appends s as a JSON string (RFC 8259 §7), ASCII only where it must escape.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20 || c == '<' || c == '>' || c == '&' || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// An Error is a refusal on its way to the client. Err is for the log only.
type Error struct {
	Fault      *Fault
	Err        error         // why, for the log; may be nil
	RetryAfter time.Duration // > 0: a Retry-After header, rounded up to seconds
	Challenge  string        // value of WWW-Authenticate; "" for none
	Allow      string        // value of Allow, with 405
	Level      uint8         // policy.Level that refused; 0: none
}

// New returns an error that shows f to the client and err to the log.
func New(f *Fault, err error) *Error { return &Error{Fault: f, Err: err} }

// Error returns the log's view.
func (e *Error) Error() string {
	s := strconv.Itoa(e.Fault.Code) + " " + e.Fault.Message
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns what only the log may know.
func (e *Error) Unwrap() error { return e.Err }
