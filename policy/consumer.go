package policy

import "net/netip"

// An Issuer is somebody whose tokens count. Keys are PKIX, DER: the workstation turns
// JWKS documents and certificates into them.
type Issuer struct {
	Name       string   `cbor:"1,keyasint"`
	Issuer     string   `cbor:"2,keyasint"`           // claim iss, compared as text
	Audience   []string `cbor:"3,keyasint,omitempty"` // one of them must be in aud; empty: aud is not asked
	Keys       []Key    `cbor:"4,keyasint,omitempty"`
	Algorithms []string `cbor:"5,keyasint"`           // RFC 7518 and RFC 8037 names; never none, never HMAC
	Leeway     uint32   `cbor:"6,keyasint,omitempty"` // seconds, ≤ 60
	// SingleKey: keys came as one certificate, so an unknown kid is ignored, not refused.
	SingleKey     bool             `cbor:"7,keyasint,omitempty"`
	Subscriptions SubscriptionMode `cbor:"8,keyasint,omitempty"`
	ConsumerKey   string           `cbor:"9,keyasint,omitempty"` // claim that holds the consumer key; empty: consumerKey
	Claims        []ClaimRename    `cbor:"10,keyasint,omitempty"`
	Required      []ClaimRule      `cbor:"11,keyasint,omitempty"`
	JWKSURL       string           `cbor:"12,keyasint,omitempty"` // followed at run time when a link exists
	Unproven      Unproven         `cbor:"13,keyasint,omitempty"`
	UnprovenGrace uint32           `cbor:"14,keyasint,omitempty"` // seconds of powered-on time, for UnprovenGrace
	TLS           string           `cbor:"15,keyasint,omitempty"` // name of a profile, for JWKSURL

	Pos Pos `cbor:"-"`
}

// Unproven says what to do with exp while the device has no proof of the time.
type Unproven uint8

// What to do with exp while the clock is unproven (STATE: UNSYNCED).
const (
	UnprovenFloor  Unproven = iota // judge by the time floor
	UnprovenStrict                 // 503 until time is proven
	UnprovenGrace                  // judge by the floor for a while after start, then 503
)

// A Key verifies signatures of an issuer.
type Key struct {
	ID         string `cbor:"1,keyasint,omitempty"` // kid
	Thumbprint string `cbor:"2,keyasint,omitempty"` // x5t as WSO2 writes it, if known
	Algorithm  string `cbor:"3,keyasint,omitempty"` // the only one allowed; empty: all of the key's type
	PKIX       []byte `cbor:"4,keyasint"`
}

// SubscriptionMode says what a token needs besides its signature.
type SubscriptionMode uint8

// The subscription modes of an issuer.
const (
	SubscriptionsAuto SubscriptionMode = iota
	SubscriptionsRequired
	SubscriptionsOff
)

// A ClaimRename copies claim From to claim To. A list becomes space-separated text;
// Prefix is cut off the value.
type ClaimRename struct {
	From   string `cbor:"1,keyasint"`
	To     string `cbor:"2,keyasint"`
	Prefix string `cbor:"3,keyasint,omitempty"`
}

// A ClaimRule asks that a claim is present and, if Values is not empty, has one of them.
type ClaimRule struct {
	Name   string   `cbor:"1,keyasint"`
	Values []string `cbor:"2,keyasint,omitempty"`
}

// Introspection configures opaque tokens.
type Introspection struct {
	URL            string           `cbor:"1,keyasint"`
	SOAP           bool             `cbor:"2,keyasint,omitempty"` // legacy key validation instead of RFC 7662
	Username       string           `cbor:"3,keyasint,omitempty"`
	Password       Secret           `cbor:"4,keyasint,omitempty"`
	TLS            string           `cbor:"5,keyasint,omitempty"`
	RetryFailedJWT bool             `cbor:"6,keyasint,omitempty"`
	CacheSeconds   uint32           `cbor:"7,keyasint,omitempty"` // ≤ 900 by default; bound of what an offline reboot honours
	Subscriptions  SubscriptionMode `cbor:"8,keyasint,omitempty"`
}

// A Secret is the path of a value in the sealed secrets of a bundle, or of an override
// on the device; empty: none.
type Secret string

// APIKeys are the accepted API keys: random ones by hash, and signed ones by issuer.
type APIKeys struct {
	Keys           []HashedKey `cbor:"1,keyasint,omitempty"` // ascending by Hash
	Issuers        []Issuer    `cbor:"2,keyasint,omitempty"`
	RequireAllowed bool        `cbor:"3,keyasint,omitempty"` // signed keys must name the API in allowedAPIs
}

// A HashedKey is a random API key of at least 128 bits, known by its SHA-256.
type HashedKey struct {
	Hash        [32]byte `cbor:"1,keyasint"`
	Name        string   `cbor:"2,keyasint,omitempty"`
	Application string   `cbor:"3,keyasint,omitempty"` // id
	KeyType     KeyType  `cbor:"4,keyasint,omitempty"`
	APIs        []APIID  `cbor:"5,keyasint,omitempty"` // empty: every API
	Expires     uint64   `cbor:"6,keyasint,omitempty"` // Unix seconds; 0: never
}

// APIID names an API. Version "*" means all.
type APIID struct {
	Name    string `cbor:"1,keyasint"`
	Version string `cbor:"2,keyasint"`
}

// KeyType says which endpoints a credential may use.
type KeyType uint8

// The key types.
const (
	Production KeyType = iota
	Sandbox
)

// String returns PRODUCTION or SANDBOX.
func (t KeyType) String() string {
	if t == Sandbox {
		return "SANDBOX"
	}
	return "PRODUCTION"
}

// A User may log in with HTTP Basic.
type User struct {
	Name   string   `cbor:"1,keyasint"`
	Hash   string   `cbor:"2,keyasint"` // $argon2id$…, $2…$ (bcrypt), or @sha1:/@sha256:/@sha512: + hex
	Scopes []string `cbor:"3,keyasint,omitempty"`
	Plan   string   `cbor:"4,keyasint,omitempty"` // subscription plan; empty: Default, if defined

	Pos Pos `cbor:"-"`
}

// A ClientCA is a set of authorities, or of single certificates, for mutual TLS.
type ClientCA struct {
	Name         string   `cbor:"1,keyasint"`
	Authorities  [][]byte `cbor:"2,keyasint,omitempty"` // DER
	Certificates [][]byte `cbor:"3,keyasint,omitempty"` // DER; these and no others
}

// BackendJWT makes a token for the backend.
type BackendJWT struct {
	Enabled    bool     `cbor:"1,keyasint,omitempty"`
	Header     string   `cbor:"2,keyasint,omitempty"` // default X-JWT-Assertion
	Dialect    string   `cbor:"3,keyasint,omitempty"` // default http://wso2.org/claims
	Issuer     string   `cbor:"4,keyasint,omitempty"`
	Audience   []string `cbor:"5,keyasint,omitempty"`
	Algorithm  string   `cbor:"6,keyasint,omitempty"` // RS256, ES256, EdDSA
	Key        Secret   `cbor:"7,keyasint,omitempty"` // PKCS #8, PEM
	Restricted []string `cbor:"8,keyasint,omitempty"` // claims not copied
	Seconds    uint32   `cbor:"9,keyasint,omitempty"` // lifetime; default 900
	Thumbprint string   `cbor:"10,keyasint,omitempty"`
}

// An Application is a consumer's program.
type Application struct {
	ID    string        `cbor:"1,keyasint"`
	Name  string        `cbor:"2,keyasint"`
	Owner string        `cbor:"3,keyasint,omitempty"`
	Plan  string        `cbor:"4,keyasint,omitempty"` // application plan
	Keys  []ConsumerKey `cbor:"5,keyasint,omitempty"`

	Pos Pos `cbor:"-"`
}

// A ConsumerKey maps a client id to an application.
type ConsumerKey struct {
	Key  string  `cbor:"1,keyasint"`
	Type KeyType `cbor:"2,keyasint,omitempty"`
}

// A Subscription lets an application call an API under a plan.
type Subscription struct {
	Application string            `cbor:"1,keyasint"` // id
	API         APIID             `cbor:"2,keyasint"`
	Plan        string            `cbor:"3,keyasint,omitempty"`
	State       SubscriptionState `cbor:"4,keyasint,omitempty"`

	Pos Pos `cbor:"-"`
}

// SubscriptionState is the state of a subscription, as in WSO2 API Manager.
type SubscriptionState uint8

// The states of a subscription.
const (
	Unblocked SubscriptionState = iota
	TierUpdatePending
	Blocked
	ProdOnlyBlocked
	OnHold
	Inactive
	Rejected
)

// BlockKind is what a block condition looks at.
type BlockKind uint8

// The kinds of block condition.
const (
	BlockAPI         BlockKind = iota + 1 // Value: base path
	BlockApplication                      // Value: "owner:name"
	BlockUser                             // Value: user
	BlockIP                               // Ranges
)

// A Block refuses calls outright.
type Block struct {
	Kind   BlockKind `cbor:"1,keyasint"`
	Value  string    `cbor:"2,keyasint,omitempty"`
	Ranges []Range   `cbor:"3,keyasint,omitempty"`
	Invert bool      `cbor:"4,keyasint,omitempty"` // IP only

	Pos Pos `cbor:"-"`
}

// RevocationKind is what a revocation names.
type RevocationKind uint8

// The kinds of revocation. The hash is the first 16 bytes of the SHA-256 of: the token
// id; the decoded signature (of r for ES*); the API key; the consumer key; the
// application id; the user.
const (
	RevokedID RevocationKind = iota + 1
	RevokedSignature
	RevokedKey
	RevokedConsumer
	RevokedApplication
	RevokedUser
)

// A Revocation refuses a credential until a time. It is 40 bytes for any length of what it names.
type Revocation struct {
	Kind  RevocationKind `cbor:"1,keyasint"`
	Hash  [16]byte       `cbor:"2,keyasint"`
	Until uint64         `cbor:"3,keyasint,omitempty"` // Unix seconds; 0: for ever
}

// ParseRange reads an address, "a-b" or a CIDR prefix.
func ParseRange(s string) (Range, error) { return parseRange(s) }

// Contains reports whether a lies in r. IPv4-mapped addresses are unmapped first.
func (r Range) Contains(a netip.Addr) bool {
	a = a.Unmap()
	return a.BitLen() == r.From.BitLen() && !a.Less(r.From) && !r.To.Less(a)
}
