// Package policytest holds a [Call] for the tests of rules: what a rule sees of one
// request, as plain fields. It promises what policy.Call asks of an engine about names
// and order of headers, and leaves out every check of an engine: a test may put any
// bytes into it.
package policytest

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"net/textproto"
	"strings"
	"tidegate/policy"
)

var _ policy.Call = (*Call)(nil)

// A Call is a request made of fields. The zero Call is one without a method, a path or
// an address. It is for one goroutine.
type Call struct {
	Verb      string // method
	Authority string // host without port
	RawPath   string
	RawQuery  string
	Fields    []Field // in order; names in canonical form
	From      netip.Addr
	Trusted   bool // the peer is a listed proxy
	Conn      *tls.ConnectionState
	Payload   []byte
}

// A Field is one line of a header.
type Field struct{ Name, Value string }

// ErrTooLarge is what Body returns above its limit.
var ErrTooLarge = errors.New("body is larger than the limit")

// New returns a call from 192.0.2.1 to host gateway.test. Target is a path with an
// optional query; fields are names and values in turn.
func New(method, target string, fields ...string) *Call {
	path, query, _ := strings.Cut(target, "?")
	c := &Call{
		Verb:      method,
		Authority: "gateway.test",
		RawPath:   path,
		RawQuery:  query,
		From:      netip.AddrFrom4([4]byte{192, 0, 2, 1}),
	}
	for i := 0; i+1 < len(fields); i += 2 {
		c.Add(fields[i], fields[i+1])
	}
	return c
}

// Add appends a header line and returns c.
func (c *Call) Add(name, value string) *Call {
	c.Fields = append(c.Fields, Field{textproto.CanonicalMIMEHeaderKey(name), value})
	return c
}

// Method implements policy.Call.
func (c *Call) Method() string { return c.Verb }

// Host implements policy.Call.
func (c *Call) Host() string { return c.Authority }

// Path implements policy.Call.
func (c *Call) Path() string { return c.RawPath }

// Query implements policy.Call.
func (c *Call) Query() string { return c.RawQuery }

// Header implements policy.Call.
func (c *Call) Header(name string) string {
	for i := range c.Fields {
		if c.Fields[i].Name == name {
			return c.Fields[i].Value
		}
	}
	return ""
}

// HeaderValues implements policy.Call.
func (c *Call) HeaderValues(name string, yield func(string) bool) {
	for i := range c.Fields {
		if c.Fields[i].Name == name && !yield(c.Fields[i].Value) {
			return
		}
	}
}

// Client implements policy.Call.
func (c *Call) Client() netip.Addr { return c.From }

// TrustedPeer implements policy.Call.
func (c *Call) TrustedPeer() bool { return c.Trusted }

// TLS implements policy.Call.
func (c *Call) TLS() *tls.ConnectionState { return c.Conn }

// Body implements policy.Call.
func (c *Call) Body(limit int64) ([]byte, error) {
	if int64(len(c.Payload)) > limit {
		return nil, ErrTooLarge
	}
	return c.Payload, nil
}
