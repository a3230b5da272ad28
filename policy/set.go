// Package policy holds the words of a bundle: the APIs a device serves, who may call
// them, how often, and where the calls go. A [Set] is made on the workstation from a
// project, travels inside a signed bundle, and is compiled on the device into an
// edition. It also holds the small view of one call ([Call]) and of its caller
// ([Principal]) that every rule sees.
//
// Package policy and the packages below it are pure: no files, no dialing, no
// goroutines, no clock. What they need of the world is an argument.
package policy

import "time"

// Format is the version of the encoded form of a [Set] that this package writes.
// [Decode] refuses a higher one.
const Format = 1

// A Set is everything one bundle says. It is immutable once decoded: editions share
// its strings. References between its parts are indexes that [Set.Validate] has checked.
type Set struct {
	Format uint   `cbor:"1,keyasint"`
	Name   string `cbor:"2,keyasint"` // bundle name, for people
	Faults Faults `cbor:"3,keyasint,omitempty"`

	APIs      []API       `cbor:"10,keyasint,omitempty"`
	Endpoints []Endpoints `cbor:"11,keyasint,omitempty"` // API and Operation refer to them by [EndpointRef]
	TLS       []TLS       `cbor:"12,keyasint,omitempty"` // backend TLS profiles, referred to by name
	Schemas   []Schema    `cbor:"13,keyasint,omitempty"`

	Plans []Plan `cbor:"20,keyasint,omitempty"`

	Issuers       []Issuer       `cbor:"30,keyasint,omitempty"`
	Introspection *Introspection `cbor:"31,keyasint,omitempty"`
	APIKeys       APIKeys        `cbor:"32,keyasint,omitempty"`
	Users         []User         `cbor:"33,keyasint,omitempty"`
	ClientCAs     []ClientCA     `cbor:"34,keyasint,omitempty"`
	BackendJWT    *BackendJWT    `cbor:"35,keyasint,omitempty"`
	AuthHeader    string         `cbor:"36,keyasint,omitempty"` // default credential header; empty: Authorization
	ForwardAuth   bool           `cbor:"37,keyasint,omitempty"` // leave the credential in the forwarded request

	Applications  []Application  `cbor:"40,keyasint,omitempty"`
	Subscriptions []Subscription `cbor:"41,keyasint,omitempty"`
	Blocked       []Block        `cbor:"42,keyasint,omitempty"`
	Revoked       []Revocation   `cbor:"43,keyasint,omitempty"` // ascending by Kind, then Hash
}

// Faults is the form of the bodies of refusals.
type Faults uint8

// The forms of refusal bodies.
const (
	FaultsWSO2    Faults = iota // {"fault":{…}}, the default
	FaultsProblem               // RFC 9457
)

// A Pos is a place in a project file, for messages on the workstation. It is not
// part of a bundle.
type Pos struct {
	File string
	Line int // from 1; 0: unknown
}

// Transports says on which listeners an API answers.
type Transports uint8

// The transports, as bits. Zero means both.
const (
	HTTP Transports = 1 << iota
	HTTPS
)

// An EndpointRef is an index into Set.Endpoints plus one; zero means none.
type EndpointRef uint32

// A SchemaRef is an index into Set.Schemas plus one; zero means none.
type SchemaRef uint32

// An API is one OpenAPI document.
type API struct {
	Name        string     `cbor:"1,keyasint"`
	Version     string     `cbor:"2,keyasint"`
	BasePath    string     `cbor:"3,keyasint"`           // versioned; begins with "/", no slash at the end; "" is the root
	DefaultPath string     `cbor:"4,keyasint,omitempty"` // also answered here, when Default
	Default     bool       `cbor:"5,keyasint,omitempty"` // the default version of its context
	Hosts       []string   `cbor:"6,keyasint,omitempty"` // lower case; empty: any
	Owner       string     `cbor:"7,keyasint,omitempty"` // publisher's user
	Transports  Transports `cbor:"8,keyasint,omitempty"`

	AuthHeader string    `cbor:"10,keyasint,omitempty"` // instead of Set.AuthHeader
	MutualTLS  MutualTLS `cbor:"11,keyasint,omitempty"`
	Optional   bool      `cbor:"12,keyasint,omitempty"` // application security is optional beside mutual TLS
	ClientCAs  []string  `cbor:"13,keyasint,omitempty"` // names of Set.ClientCAs; empty: all
	Schemes    []Scheme  `cbor:"14,keyasint,omitempty"` // Operation.Security refers to them

	Plan  string   `cbor:"20,keyasint,omitempty"` // API-level resource plan; counts all operations together
	Plans []string `cbor:"21,keyasint,omitempty"` // subscription plans a subscription may use; empty: any

	Production EndpointRef `cbor:"30,keyasint,omitempty"`
	Sandbox    EndpointRef `cbor:"31,keyasint,omitempty"`

	CORS     *CORS      `cbor:"40,keyasint,omitempty"`
	Cache    *Cache     `cbor:"41,keyasint,omitempty"`
	Access   *Access    `cbor:"42,keyasint,omitempty"`
	Edit     *Transform `cbor:"43,keyasint,omitempty"` // before that of the operation
	MaxBody  int64      `cbor:"44,keyasint,omitempty"` // bytes; 0: the device's limit
	Compress bool       `cbor:"45,keyasint,omitempty"` // may compress responses

	Operations []Operation `cbor:"50,keyasint"`

	Pos Pos `cbor:"-"`
}

// An Operation is a method on a path template.
type Operation struct {
	ID       string `cbor:"1,keyasint,omitempty"` // operationId
	Method   string `cbor:"2,keyasint"`           // as in HTTP, upper case
	Template string `cbor:"3,keyasint"`           // "/pets/{id}", below the base path; "/*" at the end: one or more segments

	Security []Alternative `cbor:"10,keyasint,omitempty"` // any one of them; empty: unsecured
	Scopes   []string      `cbor:"11,keyasint,omitempty"` // any one of them; for tokens and basic users
	Plan     string        `cbor:"12,keyasint,omitempty"` // resource plan, unless the API has one

	Production EndpointRef `cbor:"20,keyasint,omitempty"` // instead of the API's
	Sandbox    EndpointRef `cbor:"21,keyasint,omitempty"`

	Request  SchemaRef  `cbor:"30,keyasint,omitempty"` // checks parameters and body
	Response SchemaRef  `cbor:"31,keyasint,omitempty"`
	Edit     *Transform `cbor:"32,keyasint,omitempty"`
	Access   *Access    `cbor:"33,keyasint,omitempty"`
	MaxBody  int64      `cbor:"34,keyasint,omitempty"` // bytes; 0: the API's
	Upgrade  bool       `cbor:"35,keyasint,omitempty"` // WebSocket allowed
	Messages *Messages  `cbor:"36,keyasint,omitempty"` // limits after an upgrade

	Pos Pos `cbor:"-"`
}

// An Alternative is met when each of its uses is (OpenAPI: one security requirement object).
type Alternative []Use

// A Use is one scheme of the API, by index, with the scopes asked of it.
type Use struct {
	Scheme uint32   `cbor:"1,keyasint"`
	Scopes []string `cbor:"2,keyasint,omitempty"`
}

// SchemeKind is a kind of credential.
type SchemeKind uint8

// The kinds of credential.
const (
	OAuth2 SchemeKind = iota + 1 // bearer: JWT, or opaque where introspection is configured
	Basic
	APIKey
	Certificate // mutual TLS
)

// A Scheme is one way to present a credential.
type Scheme struct {
	Kind SchemeKind `cbor:"1,keyasint"`
	In   Location   `cbor:"2,keyasint,omitempty"` // APIKey only
	Name string     `cbor:"3,keyasint,omitempty"` // APIKey: header, query or cookie name
}

// Location is where a parameter is carried.
type Location uint8

// The locations.
const (
	InHeader Location = iota + 1
	InQuery
	InCookie
	InPath
)

// MutualTLS says what an API wants of client certificates.
type MutualTLS uint8

// What an API may want of client certificates.
const (
	MutualNone MutualTLS = iota
	MutualOptional
	MutualMandatory
)

// Messages limits what passes over an upgraded connection, each direction; zero: no limit.
type Messages struct {
	PerSecond int64 `cbor:"1,keyasint,omitempty"`
	Bytes     int64 `cbor:"2,keyasint,omitempty"` // of one message
}

// Access is conditional access. Empty lists admit all; Deny wins over Allow.
type Access struct {
	Allow        []Range  `cbor:"1,keyasint,omitempty"`
	Deny         []Range  `cbor:"2,keyasint,omitempty"`
	ContentTypes []string `cbor:"3,keyasint,omitempty"` // media types of request bodies, lower case
	Times        []Hours  `cbor:"4,keyasint,omitempty"`
	Methods      []string `cbor:"5,keyasint,omitempty"` // upper case
}

// Hours is a weekly span of time. To before From passes midnight.
type Hours struct {
	Days uint8         `cbor:"1,keyasint"` // bit 0 = Sunday
	From time.Duration `cbor:"2,keyasint"` // since midnight
	To   time.Duration `cbor:"3,keyasint"`
	Zone string        `cbor:"4,keyasint,omitempty"` // IANA name; empty: UTC
}
