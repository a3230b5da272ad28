package policy

import (
	"crypto/tls"
	"net/netip"
	"time"
)

// A Call is what the rules see of one request. Engines implement it; it is valid until
// the call ends, and nobody keeps its strings. Its methods do not change it and are for
// one goroutine.
type Call interface {
	// Method returns the method exactly as sent.
	Method() string
	// Host returns the authority, in lower case, without the port.
	Host() string
	// Path returns the path as it will be forwarded: percent-encoded, without query, checked by the
	// engine to have no dot segments, NUL, backslash or bad escapes.
	Path() string
	// Query returns the query as sent, without "?".
	Query() string
	// Header returns the first value of a header, "" when it is absent. The name is in canonical form.
	Header(name string) string
	// HeaderValues yields each value of a header in order.
	HeaderValues(name string, yield func(string) bool)
	// Client returns the caller's address as seen through trusted proxies.
	Client() netip.Addr
	// TrustedPeer reports whether the connection comes from a listed proxy.
	TrustedPeer() bool
	// TLS returns the state of the connection, nil without TLS.
	TLS() *tls.ConnectionState
	// Body returns the whole body if it has at most limit bytes. Later readers see it again.
	Body(limit int64) ([]byte, error)
}

// Now is what a device can say of the time. Lower never exceeds the true time; Upper is
// never below it and is zero while nothing bounds the time from above.
type Now struct {
	Lower time.Time
	Upper time.Time
	Boot  time.Duration // powered-on time since boot, with suspend
}

// A Principal is who calls. The zero Principal is nobody: an unsecured operation.
// A Principal that came out of a cache is shared: it is read-only.
type Principal struct {
	Kind    SchemeKind
	Subject string // claim sub, user name, key name, certificate subject
	Tenant  string // tenant domain, "carbon.super" if unknown
	KeyType KeyType

	ApplicationID    string
	ApplicationName  string
	ApplicationOwner string
	ApplicationPlan  string
	ConsumerKey      string

	Subscribed       bool   // a subscription was found
	SubscriptionPlan string // plan of the subscription; Unauthenticated without one; "" when nothing limits
	Scopes           []string
	Claims           *Claims // of a token; nil otherwise
	Opaque           bool    // from introspection
	Cached           bool    // verified earlier
	EndUserToken     string  // backend JWT that came with the credential
	Certificate      []byte  // DER of the client certificate, if one was checked
}

// UserID returns the subject with its tenant: "fitter1@carbon.super".
func (p *Principal) UserID() string {
	if p == nil || p.Subject == "" {
		return ""
	}
	for i := range len(p.Subject) {
		if p.Subject[i] == '@' {
			return p.Subject
		}
	}
	t := p.Tenant
	if t == "" {
		t = "carbon.super"
	}
	return p.Subject + "@" + t
}

// Claims are the claims of a verified token after renaming. They are immutable.
type Claims struct {
	fields []claim
}

type claim struct {
	name   string
	values []string // one, or the elements of a list
	list   bool
	raw    string // JSON
}

// NewClaims returns an empty set of claims with room for n.
func NewClaims(n int) *Claims { return &Claims{fields: make([]claim, 0, n)} }

// Add adds one claim: its texts (numbers and booleans as in JSON) and its JSON form. It
// must not be called once the claims are shared. A second claim of a name replaces the first.
func (c *Claims) Add(name string, list bool, raw string, values ...string) {
	n := claim{name, values, list, raw}
	for i := range c.fields {
		if c.fields[i].name == name {
			c.fields[i] = n
			return
		}
	}
	c.fields = append(c.fields, n)
}

// Text returns the claim as text, the elements of a list joined by spaces; "" when absent.
func (c *Claims) Text(name string) string {
	switch v := c.Values(name); len(v) {
	case 0:
		return ""
	case 1:
		return v[0]
	default:
		n := len(v) - 1
		for _, s := range v {
			n += len(s)
		}
		b := make([]byte, 0, n)
		for i, s := range v {
			if i > 0 {
				b = append(b, ' ')
			}
			b = append(b, s...)
		}
		return string(b)
	}
}

// Values returns the texts of a claim: one, or the elements of a list; nil when absent.
func (c *Claims) Values(name string) []string {
	if c == nil {
		return nil
	}
	for i := range c.fields {
		if c.fields[i].name == name {
			return c.fields[i].values
		}
	}
	return nil
}

// All yields every claim with its JSON form, in the order of the token.
func (c *Claims) All(yield func(name, raw string) bool) {
	if c == nil {
		return
	}
	for i := range c.fields {
		if !yield(c.fields[i].name, c.fields[i].raw) {
			return
		}
	}
}
