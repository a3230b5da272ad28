package policy

import "time"

// Endpoints is a group of equal or ordered backends.
type Endpoints struct {
	Name    string        `cbor:"1,keyasint"` // the NAME of overrides
	Kind    GroupKind     `cbor:"2,keyasint,omitempty"`
	Targets []Target      `cbor:"3,keyasint"`
	Timeout time.Duration `cbor:"4,keyasint,omitempty"` // until the answer's headers; 0: 60 s
	Overall time.Duration `cbor:"5,keyasint,omitempty"` // over all tries; 0: none
	Retry   Retry         `cbor:"6,keyasint,omitempty"`
	Breaker *Breaker      `cbor:"7,keyasint,omitempty"`
	Pool    Pool          `cbor:"8,keyasint,omitempty"`
	TLS     string        `cbor:"9,keyasint,omitempty"` // name of a profile
	Auth    *BackendAuth  `cbor:"10,keyasint,omitempty"`
	Health  *Health       `cbor:"11,keyasint,omitempty"`
	Eject   *Ejection     `cbor:"12,keyasint,omitempty"`
	HTTP2   bool          `cbor:"13,keyasint,omitempty"` // h2c or h2 to the backend: gRPC
	Host    string        `cbor:"14,keyasint,omitempty"` // Host sent; empty: the target's
	Proxy   string        `cbor:"15,keyasint,omitempty"` // outbound HTTP proxy URL

	Pos Pos `cbor:"-"`
}

// GroupKind says how a target is chosen.
type GroupKind uint8

// The kinds of group.
const (
	RoundRobin GroupKind = iota
	Failover
	LeastPending
)

// A Target is one backend.
type Target struct {
	URL    string `cbor:"1,keyasint"`           // http or https; path and query come before the call's. "srv+http://name": DNS SRV
	Weight uint32 `cbor:"2,keyasint,omitempty"` // 0 counts as 1

	Pos Pos `cbor:"-"`
}

// Retry says when a call is tried again. Only what is safe to repeat, or was never sent, is.
type Retry struct {
	Count    uint32        `cbor:"1,keyasint,omitempty"` // more tries
	Interval time.Duration `cbor:"2,keyasint,omitempty"`
	Factor   float64       `cbor:"3,keyasint,omitempty"` // of the wait; 0 counts as 1
	MaxWait  time.Duration `cbor:"4,keyasint,omitempty"`
	Statuses []uint16      `cbor:"5,keyasint,omitempty"`
}

// A Breaker stops calls to a target that fails.
type Breaker struct {
	Window   time.Duration `cbor:"1,keyasint"`
	Bucket   time.Duration `cbor:"2,keyasint,omitempty"`
	Volume   uint32        `cbor:"3,keyasint"` // calls in the window before it may open
	Share    float64       `cbor:"4,keyasint"` // of failures, 0–1
	Reset    time.Duration `cbor:"5,keyasint"` // until the trial call
	Statuses []uint16      `cbor:"6,keyasint,omitempty"`
}

// Pool bounds connections to one target; zero values take the device's defaults.
type Pool struct {
	MaxActive int32         `cbor:"1,keyasint,omitempty"` // < 0: no bound
	MaxIdle   int32         `cbor:"2,keyasint,omitempty"`
	Wait      time.Duration `cbor:"3,keyasint,omitempty"` // for a free connection
	Idle      time.Duration `cbor:"4,keyasint,omitempty"` // keep-alive
	Streams   int32         `cbor:"5,keyasint,omitempty"` // per HTTP/2 connection
}

// Health is an active check of each target.
type Health struct {
	Path      string        `cbor:"1,keyasint"`
	Interval  time.Duration `cbor:"2,keyasint"`
	Timeout   time.Duration `cbor:"3,keyasint,omitempty"`
	Healthy   uint8         `cbor:"4,keyasint,omitempty"` // successes in a row; 0 counts as 1
	Unhealthy uint8         `cbor:"5,keyasint,omitempty"` // failures in a row; 0 counts as 1
	Statuses  []uint16      `cbor:"6,keyasint,omitempty"` // empty: 200–399
}

// Ejection takes a target out for a while after failures in a row.
type Ejection struct {
	Failures uint32        `cbor:"1,keyasint"`
	For      time.Duration `cbor:"2,keyasint"`
	MaxShare float64       `cbor:"3,keyasint,omitempty"` // of the group that may be out; 0: one half
}

// BackendAuth is the credential for a backend.
type BackendAuth struct {
	Kind     BackendAuthKind `cbor:"1,keyasint"`
	Username string          `cbor:"2,keyasint,omitempty"` // Basic; OAuth 2.0: client id
	Secret   Secret          `cbor:"3,keyasint,omitempty"` // password, token, key, client secret
	Header   string          `cbor:"4,keyasint,omitempty"` // BackendKey: header that carries it
	TokenURL string          `cbor:"5,keyasint,omitempty"`
	Scopes   []string        `cbor:"6,keyasint,omitempty"`
}

// BackendAuthKind is a kind of backend credential.
type BackendAuthKind uint8

// The kinds of backend credential.
const (
	BackendBasic BackendAuthKind = iota + 1
	BackendBearer
	BackendKey
	BackendOAuth2 // client credentials, RFC 6749 §4.4
)

// TLS is how a backend is spoken to.
type TLS struct {
	Name       string   `cbor:"1,keyasint"`
	CAs        [][]byte `cbor:"2,keyasint,omitempty"` // DER; empty: the system's
	ServerName string   `cbor:"3,keyasint,omitempty"`
	AnyName    bool     `cbor:"4,keyasint,omitempty"` // do not check the host name
	MinVersion uint16   `cbor:"5,keyasint,omitempty"` // as crypto/tls; 0: TLS 1.2
	Pins       [][]byte `cbor:"6,keyasint,omitempty"` // SHA-256 of SubjectPublicKeyInfo; one must match
	ClientCert [][]byte `cbor:"7,keyasint,omitempty"` // DER chain
	ClientKey  Secret   `cbor:"8,keyasint,omitempty"` // PKCS #8, PEM

	Pos Pos `cbor:"-"`
}
