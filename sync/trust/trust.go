// Package trust decides what a device believes: whose keys count, which bundle may
// follow which, how late it is for sure. It is the semantics of TUF (specification
// 1.0.34) over our own messages, as pure functions: a [State], bytes and a time
// floor go in, and a new State or a refusal with a stable word comes out. A refused
// step returns the State it was given.
//
// The engine promises, whatever bytes it is shown: the root only moves from version
// N to N+1, signed by the thresholds of both; a role's epoch, a product's minimum and
// a confirmed sequence number never fall; the time floor falls only when a root
// raises the epoch of the role that had lifted it.
//
// It keeps nothing and reads no clock: to store each State before the next step is
// the caller's part, and so is what a bundle holds besides its head.
package trust

import (
	"encoding/base32"
	"encoding/hex"
	"strings"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
)

// A Domain names one trust root and all that hangs on it: 16 random bytes, made with
// the first root.
type Domain [16]byte

// String returns the domain in hexadecimal.
func (d Domain) String() string { return hex.EncodeToString(d[:]) }

// A Digest is a SHA-256. The digest of a bundle is that of its manifest's payload.
type Digest [32]byte

// String returns the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// A DeviceID names a device: the first 16 bytes of the thumbprint of its report key.
type DeviceID [16]byte

// DeviceIDOf returns the id of the device that holds the report key.
func DeviceIDOf(report envelope.PublicKey) DeviceID {
	id := report.ID()
	return DeviceID(id[:16])
}

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// String returns the id in 26 characters of base32 (RFC 4648 §6) in lower case.
func (d DeviceID) String() string { return base32Lower.EncodeToString(d[:]) }

// ParseDeviceID reads what [DeviceID.String] writes, in either case.
func ParseDeviceID(s string) (DeviceID, error) {
	b, err := base32Lower.DecodeString(strings.ToLower(s))
	if err != nil || len(b) != len(DeviceID{}) || DeviceID(b).String() != strings.ToLower(s) {
		return DeviceID{}, refusal.New(refusal.Format, "device id %q: want 26 characters a-z, 2-7", s)
	}
	return DeviceID(b), nil
}

// Warnings are refusals that do not refuse: their words begin with W_.
type Warnings []*refusal.Error

// Common is what every signed payload begins with; payload structs embed it.
type Common struct {
	Type       string            `cbor:"1,keyasint"`           // the message's kind
	Domain     Domain            `cbor:"2,keyasint"`           // trust domain
	Epoch      uint64            `cbor:"3,keyasint"`           // of the signing role; 0 if root or a device signs
	Seq        uint64            `cbor:"4,keyasint"`           // from 1; a root's version
	Issued     uint64            `cbor:"5,keyasint"`           // seconds since 1970, UTC
	Expires    uint64            `cbor:"6,keyasint,omitempty"` // the same; 0: never
	Extensions map[uint64][]byte `cbor:"99,keyasint,omitempty"`
}

// CheckFor wants the given kind and trust domain, and a seq from 1: E_FORMAT "type",
// E_TRUST_DOMAIN, E_FORMAT "field".
func (c Common) CheckFor(kind envelope.Kind, domain Domain) error {
	switch {
	case c.Type != string(kind):
		return refusal.New(refusal.Format, "type: payload is a %q, want %q", c.Type, kind)
	case c.Domain != domain:
		return foreign(c.Domain, domain)
	case c.Seq == 0:
		return refusal.New(refusal.Format, "field 4: seq is 0, it counts from 1")
	}
	return nil
}

func foreign(got, want Domain) error {
	return refusal.New(refusal.TrustDomain, "belongs to trust domain %s, this device to %s", got, want).
		WithHint("use a file signed for this fleet")
}

// peek reads type, domain and seq of a payload without decoding the rest, or from
// bytes that nobody has vouched for. It checks the canonical form of all of it.
func peek(payload []byte) (c Common, err error) {
	if err := canon.Check(payload, canon.Within(envelope.MaxPayload)); err != nil {
		return c, err
	}
	walk := canon.Walk(payload)
	walk.Map()
	label := func(want uint64) bool {
		got, ok := walk.Uint()
		return ok && got == want
	}
	var ok bool
	if !label(1) {
		return c, refusal.New(refusal.Format, "type: field 1 is missing")
	}
	if c.Type, ok = walk.Text(); !ok {
		return c, refusal.New(refusal.Format, "type: field 1 is not text")
	}
	if !label(2) {
		return c, refusal.New(refusal.Format, "field 2 (trust domain) is missing")
	}
	domain, ok := walk.Bytes()
	if !ok || len(domain) != len(c.Domain) {
		return c, refusal.New(refusal.Format, "field 2 (trust domain) is not 16 bytes")
	}
	c.Domain = Domain(domain)
	if !label(3) {
		return c, refusal.New(refusal.Format, "field 3 (epoch) is missing")
	}
	if c.Epoch, ok = walk.Uint(); !ok {
		return c, refusal.New(refusal.Format, "field 3 (epoch) is not an unsigned integer")
	}
	if !label(4) {
		return c, refusal.New(refusal.Format, "field 4 (seq) is missing")
	}
	if c.Seq, ok = walk.Uint(); !ok {
		return c, refusal.New(refusal.Format, "field 4 (seq) is not an unsigned integer")
	}
	return c, nil
}

// ValidName reports whether s is a name: 1 to 64 of a-z, 0-9, dot, underscore, hyphen.
// Products, channels, hardware classes and labels are names.
func ValidName(s string) bool {
	if len(s) < 1 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}
