package bundle

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
	"tidegate/sync/trust"
	"time"
)

// A Manifest says everything that is signed about a bundle. Values of [ParseManifest]
// keep all rules of the format.
type Manifest struct {
	trust.Common // Epoch is that of the release role; Seq is counted by the publisher

	Product    string           `cbor:"10,keyasint"`
	Hardware   []string         `cbor:"11,keyasint"` // classes; "any" has to be written
	Selectors  []trust.Selector `cbor:"12,keyasint"` // any one of them
	Name       string           `cbor:"13,keyasint"`
	Version    string           `cbor:"14,keyasint"` // for people, at most 64 bytes
	Base       *Base            `cbor:"15,keyasint,omitempty"`
	Files      []File           `cbor:"16,keyasint"` // ascending by path
	Total      uint64           `cbor:"17,keyasint"` // stored bytes of the distinct chunks
	Recipients []Recipient      `cbor:"18,keyasint,omitempty"`
	Probes     []Probe          `cbor:"19,keyasint,omitempty"`
	Least      *[3]uint64       `cbor:"20,keyasint,omitempty"` // least version of tidegate
	Activation *Activation      `cbor:"21,keyasint,omitempty"`
	Channel    string           `cbor:"22,keyasint"`

	digest Digest
	chunks []Chunk
	first  map[Digest]int // place of a digest in chunks
}

// A Base names the bundle that an overlay lies on.
type Base struct {
	_      struct{} `cbor:",toarray"`
	Name   string
	Digest Digest
}

// A Codec says how a file is stored.
type Codec uint8

// The codecs.
const (
	Raw    Codec = 0
	Zstd   Codec = 1
	Sealed Codec = 2 // size and digest describe the sealed bytes
)

// String returns the name of the codec for people.
func (c Codec) String() string {
	switch c {
	case Raw:
		return "raw"
	case Zstd:
		return "zstd"
	case Sealed:
		return "sealed"
	}
	return fmt.Sprintf("codec %d", uint8(c))
}

// A File is one file of the content.
type File struct {
	Path   string  `cbor:"1,keyasint"`
	Size   uint64  `cbor:"2,keyasint"` // unpacked
	Digest Digest  `cbor:"3,keyasint"` // of the unpacked bytes
	Codec  Codec   `cbor:"4,keyasint"`
	Chunks []Chunk `cbor:"5,keyasint"` // of the stored bytes, in order
}

// A Chunk is a piece of the stored bytes.
type Chunk struct {
	_      struct{} `cbor:",toarray"`
	Size   uint64   // 1 to ChunkBytes
	Digest Digest
}

// A Recipient is one key that can open the sealed files.
type Recipient struct {
	_      struct{} `cbor:",toarray"`
	KEM    uint64   // numbers of RFC 9180 and its registry
	KDF    uint64
	AEAD   uint64
	KeyID  Digest // SHA-256 over the KEM number as two bytes and the public key
	Sealed []byte // enc and ciphertext of the content key
}

// A Probe is a request whose answer says that a bundle on trial works.
type Probe struct {
	_         struct{} `cbor:",toarray"`
	Method    string
	Target    string // path and query
	Status    []uint64
	TimeoutMS uint64
}

// Timeout returns how long the answer may take.
func (p Probe) Timeout() time.Duration { return time.Duration(p.TimeoutMS) * time.Millisecond }

// A Mode says who confirms a trial.
type Mode uint8

// The modes.
const (
	Automatic Mode = 0
	ByHand    Mode = 1
)

// Activation says how a bundle is put on trial.
type Activation struct {
	_        struct{} `cbor:",toarray"`
	Mode     Mode
	Window   uint64 // seconds
	Attempts uint64 // 1 to 9
}

// Digest returns the digest of the bundle.
func (m *Manifest) Digest() Digest { return m.digest }

// Chunks returns the distinct chunks in the order of the file. The caller must not change it.
func (m *Manifest) Chunks() []Chunk { return m.chunks }

// Place returns the number of the chunk with the given digest.
func (m *Manifest) Place(d Digest) (int, bool) {
	i, ok := m.first[d]
	return i, ok
}

// Size returns the length of the whole file when its head has n bytes.
func (m *Manifest) Size(n int64) int64 {
	for _, c := range m.chunks {
		n += int64(len(c.Head())) + int64(c.Size) //nolint:gosec // at most MaxContent
	}
	return n
}

// Offsets returns where the bytes of each chunk begin, behind their CBOR head, when the
// head of the file has n bytes.
func (m *Manifest) Offsets(n int64) []int64 {
	at := make([]int64, len(m.chunks))
	for i, c := range m.chunks {
		n += int64(len(c.Head()))
		at[i] = n
		n += int64(c.Size) //nolint:gosec // at most ChunkBytes
	}
	return at
}

// Head returns the CBOR head that stands before the chunk in the file.
func (c Chunk) Head() []byte { return canon.AppendBytesHead(nil, c.Size) }

// File returns the file with the given path.
func (m *Manifest) File(path string) (*File, bool) {
	lo, hi := 0, len(m.Files)
	for lo < hi {
		mid := (lo + hi) / 2
		if strings.Compare(m.Files[mid].Path, path) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(m.Files) && m.Files[lo].Path == path {
		return &m.Files[lo], true
	}
	return nil, false
}

// ParseManifest reads the payload of a manifest and checks all rules of the format. Its
// signatures must have been verified, or the result be shown as unverified.
//
// Refusals are E_CBOR_CANON, E_FORMAT with the field, path or type, and E_LIMIT.
func ParseManifest(payload []byte) (*Manifest, error) {
	m := new(Manifest)
	if err := canon.Unmarshal(payload, m, canon.Within(MaxManifest)); err != nil {
		if other := payloadType(payload); refusal.Is(err, refusal.Format) && other != "" && other != "manifest" {
			return nil, refusal.New(refusal.Format, "type: payload is a %q, want a manifest", other)
		}
		return nil, refuseAt("manifest", err)
	}
	m.digest = sha256.Sum256(payload)
	if err := m.check(); err != nil {
		return nil, refuseAt("manifest", err)
	}
	return m, nil
}

// payloadType returns field 1 of an object of ours, which is its first.
func payloadType(payload []byte) string {
	c := canon.Walk(payload)
	if n, ok := c.Map(); !ok || n == 0 {
		return ""
	}
	if key, ok := c.Uint(); !ok || key != 1 {
		return ""
	}
	s, _ := c.Text()
	return s
}

// EncodeManifest returns the payload of m after it has checked all rules.
func EncodeManifest(m *Manifest) ([]byte, error) {
	b, err := canon.Marshal(m)
	if err != nil {
		return nil, err
	}
	if _, err := ParseManifest(b); err != nil {
		return nil, err
	}
	return b, nil
}

// Offer returns what the decision about the bundle depends on.
func (m *Manifest) Offer() trust.Offer {
	o := trust.Offer{
		Digest: m.digest, Domain: m.Domain,
		Product: m.Product, Channel: m.Channel,
		Epoch: m.Epoch, Seq: m.Seq, Issued: m.Issued, Expires: m.Expires,
		Hardware: m.Hardware, Selectors: m.Selectors,
	}
	if m.Least != nil {
		o.Least = *m.Least
	}
	return o
}
