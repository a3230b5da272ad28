// Package message is what a device and its fleet say to each other over a broker: the
// topics, the payloads and their limits. What the fleet keeps is signed by the device's
// report key; what changes or deletes anything on a device is signed by a role of its trust
// root; all the rest are hints that nobody needs to believe.
//
// Every payload is canonical CBOR and is checked before it is decoded. Package message opens
// no connection and keeps no state.
package message

import (
	"crypto/rand"
	"encoding/hex"
	"tidegate/policy/refusal"
	"tidegate/store/events/batch"
	"tidegate/sync/canon"
	"tidegate/sync/trust"
)

// Limits of payloads, in bytes.
const (
	MaxPacket   = 64<<10 + 512 // of any payload
	MaxStatus   = 4 << 10
	MaxReport   = 4 << 10 // results, losses, log lines
	MaxRequest  = 512     // hello, get, time request
	MaxAnnounce = 1 << 10
	MaxAck      = 1 << 10
	MaxTime     = 512
	MaxCommand  = 1 << 10

	MinPiece  = 4 << 10
	MaxPiece  = 64 << 10 // of data in a piece
	MaxPieces = 8        // asked for by one get
	MaxObject = 2<<20 + 64
)

// A Token ties an answer to its question.
type Token [8]byte

// NewToken returns a random token.
func NewToken() (t Token) {
	rand.Read(t[:]) //nolint:errcheck // ends the process rather than fail
	return t
}

// String returns the token in hexadecimal.
func (t Token) String() string { return hex.EncodeToString(t[:]) }

// A Nonce is what a time request and its answer have in common.
type Nonce [16]byte

// NewNonce returns a random nonce.
func NewNonce() (n Nonce) {
	rand.Read(n[:]) //nolint:errcheck // ends the process rather than fail
	return n
}

// The kinds of unsigned payloads, field 1 of each. Their numbers are part of the format.
const (
	kindWill        = 1
	kindHello       = 2
	kindGet         = 3
	kindTimeRequest = 4
	kindAnnounce    = 10
	kindPiece       = 11
)

// header begins every unsigned payload.
type header struct {
	Version uint64 `cbor:"0,keyasint"` // 1
	Kind    uint64 `cbor:"1,keyasint"`
}

// A Will is what the broker says for a device that went away. The fleet ignores a will whose
// boot id and nonce are not those of the newest birth.
type Will struct {
	header
	Boot  [16]byte `cbor:"62,keyasint"`
	Nonce Token    `cbor:"100,keyasint"`
}

// A Hello asks who is there. A publisher answers with an announcement, a collector with an
// ack, both with its token.
type Hello struct {
	header
	Product string  `cbor:"10,keyasint,omitempty"` // what the device follows, if it knows
	Channel string  `cbor:"22,keyasint,omitempty"`
	Bundle  *Bundle `cbor:"102,keyasint,omitempty"`
	Token   Token   `cbor:"120,keyasint"`
	Root    uint64  `cbor:"132,keyasint,omitempty"` // version of the trust root
	Enrol   uint64  `cbor:"133,keyasint,omitempty"` // seq of the enrolment
}

// A Bundle is what a device has.
type Bundle struct {
	_     struct{} `cbor:",toarray"`
	Good  trust.Digest
	Seq   uint64
	Trial []byte // digest of the bundle on trial, or empty
}

// An Object is a kind of thing that can be fetched. Its numbers are part of the format.
type Object uint64

// The objects.
const (
	BundleObject    Object = 0
	RootObject      Object = 1 // a .tideroot file
	EnrolmentObject Object = 2 // a .tidedevice file
)

// A Get asks for pieces of one part of an object. Part 0 of a bundle is its head, of other
// objects the whole file; parts from 1 are the distinct chunks in the order of the file.
type Get struct {
	header
	Digest trust.Digest `cbor:"110,keyasint"`
	Token  Token        `cbor:"120,keyasint"`
	Part   uint64       `cbor:"121,keyasint"`
	Size   uint64       `cbor:"122,keyasint"` // of a piece
	Pieces []uint64     `cbor:"123,keyasint"` // numbers from 0
}

// A TimeRequest asks for an attestation of the time.
type TimeRequest struct {
	header
	Nonce Nonce `cbor:"90,keyasint"`
}

// An Announcement says what there is to fetch, or that there is nothing.
type Announcement struct {
	header
	Token  *Token `cbor:"120,keyasint,omitempty"` // of the hello that it answers
	Offer  *Offer `cbor:"124,keyasint,omitempty"` // nil: nothing for you
	URL    string `cbor:"125,keyasint,omitempty"` // where the same bytes can be had by https
	Spread uint64 `cbor:"126,keyasint,omitempty"` // seconds: wait a random part of it first
}

// An Offer names an object.
type Offer struct {
	_      struct{} `cbor:",toarray"`
	Object Object
	Epoch  uint64
	Seq    uint64 // of a root its version
	Digest trust.Digest
	Head   uint64 // bytes of part 0
	Total  uint64 // bytes of all chunks
}

// A Piece is a part of a part.
type Piece struct {
	header
	Digest trust.Digest `cbor:"110,keyasint"`
	Token  Token        `cbor:"120,keyasint"`
	Part   uint64       `cbor:"121,keyasint"`
	Offset uint64       `cbor:"127,keyasint"` // in the part
	Data   []byte       `cbor:"128,keyasint"`
}

// Encode returns the payload of an unsigned message: *Will, *Hello, *Get, *TimeRequest,
// *Announcement or *Piece.
func Encode(m any) ([]byte, error) {
	set := func(h *header, kind uint64) { *h = header{1, kind} }
	switch m := m.(type) {
	case *Will:
		set(&m.header, kindWill)
	case *Hello:
		set(&m.header, kindHello)
	case *Get:
		set(&m.header, kindGet)
	case *TimeRequest:
		set(&m.header, kindTimeRequest)
	case *Announcement:
		set(&m.header, kindAnnounce)
	case *Piece:
		set(&m.header, kindPiece)
	default:
		return nil, refusal.New(refusal.Format, "type: %T is no unsigned message", m)
	}
	return canon.Marshal(m)
}

// Signed reports whether b has the form of a signed message, which [Decode] does not read.
func Signed(b []byte) bool { return len(b) > 1 && b[0] == 0xd8 && b[1] == 98 }

// Decode reads an unsigned message of a kind that this program knows.
func Decode(b []byte) (any, error) {
	if len(b) > MaxPacket {
		return nil, refusal.New(refusal.Limit, "message of %d bytes, at most %d are allowed", len(b), MaxPacket)
	}
	if err := canon.Check(b, canon.Within(MaxPacket)); err != nil {
		return nil, err
	}
	kind, err := kindOf(b)
	if err != nil {
		return nil, err
	}
	switch kind {
	case kindWill:
		return decode(b, new(Will), MaxRequest)
	case kindHello:
		return decode(b, new(Hello), MaxRequest)
	case kindGet:
		m, err := decode(b, new(Get), MaxRequest)
		if err == nil {
			err = m.check()
		}
		return m, err
	case kindTimeRequest:
		return decode(b, new(TimeRequest), MaxRequest)
	case kindAnnounce:
		m, err := decode(b, new(Announcement), MaxAnnounce)
		if err == nil {
			err = m.check()
		}
		return m, err
	case kindPiece:
		m, err := decode(b, new(Piece), MaxPacket)
		if err == nil && len(m.Data) > MaxPiece {
			err = refusal.New(refusal.Limit, "piece of %d bytes, at most %d are allowed", len(m.Data), MaxPiece)
		}
		return m, err
	}
	return nil, refusal.New(refusal.FormatVersion, "message of kind %d, which this program does not know", kind)
}

func decode[T any](b []byte, m *T, limit int) (*T, error) {
	if err := canon.Unmarshal(b, m, canon.Within(limit)); err != nil {
		return nil, err
	}
	return m, nil
}

// kindOf reads fields 0 and 1, the first of every unsigned message.
func kindOf(b []byte) (uint64, error) {
	c := canon.Walk(b)
	if n, ok := c.Map(); !ok || n < 2 {
		return 0, refusal.New(refusal.Format, "type: not a message")
	}
	k0, ok0 := c.Uint()
	version, okv := c.Uint()
	k1, ok1 := c.Uint()
	kind, okk := c.Uint()
	switch {
	case !ok0 || !okv || k0 != 0:
		return 0, refusal.New(refusal.Format, "field 0 (version) is missing")
	case version != 1:
		return 0, refusal.New(refusal.FormatVersion, "message of version %d, which this program does not know", version)
	case !ok1 || !okk || k1 != 1:
		return 0, refusal.New(refusal.Format, "field 1 (kind) is missing")
	}
	return kind, nil
}

func (g *Get) check() error {
	switch {
	case g.Size < MinPiece || g.Size > MaxPiece:
		return refusal.New(refusal.Limit, "field 122: pieces of %d bytes, want %d to %d", g.Size, MinPiece, MaxPiece)
	case len(g.Pieces) == 0 || len(g.Pieces) > MaxPieces:
		return refusal.New(refusal.Limit, "field 123: %d pieces, want 1 to %d", len(g.Pieces), MaxPieces)
	case g.Part > 1<<20:
		return refusal.New(refusal.Limit, "field 121: part %d", g.Part)
	}
	for _, n := range g.Pieces {
		if n > MaxObject/MinPiece {
			return refusal.New(refusal.Limit, "field 123: piece %d", n)
		}
	}
	return nil
}

func (a *Announcement) check() error {
	o := a.Offer
	switch {
	case o == nil:
		return nil
	case o.Object > EnrolmentObject:
		return refusal.New(refusal.FormatVersion, "field 124: object of kind %d, which this program does not know", o.Object)
	case o.Head == 0 || o.Head > MaxObject:
		return refusal.New(refusal.Limit, "field 124: first part of %d bytes, want 1 to %d", o.Head, MaxObject)
	case a.Spread > 7*24*3600:
		return refusal.New(refusal.Limit, "field 126: spread of %d s, at most a week is allowed", a.Spread)
	}
	return nil
}

// An Epoch names one life of a queue's class.
type Epoch = batch.Epoch
