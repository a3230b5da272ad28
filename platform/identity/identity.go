// Package identity holds the two keys of a device: the report key, which signs what the
// device says and whose fingerprint is the device's name, and the sealing key, for which
// bundles seal secrets. They are made at first start, in files only their owner can read,
// or come from the service manager's credentials.
//
// A key that is lost, readable by others, or another user's is never replaced in silence:
// the device would become another one. Files protect against other users, not against theft
// of the card. Package identity decides nothing about bundles or messages.
package identity

import (
	"crypto"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"tidegate/policy/refusal"
)

// An ID names a device: the first 16 bytes of the thumbprint of its report key. Comparing
// two IDs compares the keys.
type ID [16]byte

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// String returns the ID as 26 characters of base32 in lower case (RFC 4648).
func (id ID) String() string { return base32Lower.EncodeToString(id[:]) }

// ParseID reads the form of [ID.String], and nothing else.
func ParseID(s string) (ID, error) {
	b, err := base32Lower.DecodeString(s)
	if err != nil || len(b) != len(ID{}) || ID(b).String() != s {
		return ID{}, fmt.Errorf("device id %.32q: want 26 characters a-z and 2-7", s)
	}
	return ID(b), nil
}

// Thumbprint returns the SHA-256 of an Ed25519 key as a COSE key map {1: 1, -1: 6, -2: x}
// in its canonical encoding (RFC 9679). It is the kid of signatures by the key.
func Thumbprint(public ed25519.PublicKey) [32]byte {
	// a3 map of 3 · 01 01 kty OKP · 20 06 crv Ed25519 · 21 5820 x, 32 bytes
	return sha256.Sum256(append([]byte{0xa3, 0x01, 0x01, 0x20, 0x06, 0x21, 0x58, 0x20}, public...))
}

// IDOf returns the ID of the device with this report key.
func IDOf(public ed25519.PublicKey) ID {
	t := Thumbprint(public)
	return ID(t[:len(ID{})])
}

// The key encapsulation mechanisms of sealing keys, by their numbers in RFC 9180 and its registry.
const (
	X25519         uint16 = 0x0020
	MLKEM768X25519 uint16 = 0x647a
)

// The one suite beside the KEM.
const (
	kdfHKDFSHA256        = 0x0001
	aeadChaCha20Poly1305 = 0x0003
)

// A SealingKey is the public half of a sealing key.
type SealingKey struct {
	KEM    uint16
	Public []byte
}

// KID returns the name under which bundles list the key: the SHA-256 of the KEM's number, two
// bytes, and the public key.
func (k SealingKey) KID() [32]byte {
	return sha256.Sum256(append(binary.BigEndian.AppendUint16(nil, k.KEM), k.Public...))
}

// An Identity is the keys of this device. It is immutable and safe to call together.
type Identity struct {
	report  ed25519.PrivateKey
	sealing hpke.PrivateKey
	where   string
}

// ID returns the name of the device.
func (i *Identity) ID() ID { return IDOf(i.ReportKey()) }

// Where says where the keys came from, in words for people.
func (i *Identity) Where() string { return i.where }

// ReportKey returns the public report key.
func (i *Identity) ReportKey() ed25519.PublicKey { return i.report.Public().(ed25519.PublicKey) }

// Sign signs message with the report key (Ed25519, RFC 8032).
func (i *Identity) Sign(message []byte) []byte { return ed25519.Sign(i.report, message) }

// Signer returns the report key for libraries that take one, as TLS certificates do.
func (i *Identity) Signer() crypto.Signer { return i.report }

// SealingKeys returns the public keys that can be sealed for.
func (i *Identity) SealingKeys() []SealingKey { return []SealingKey{i.sealingKey()} }

func (i *Identity) sealingKey() SealingKey {
	return SealingKey{KEM: i.sealing.KEM().ID(), Public: i.sealing.PublicKey().Bytes()}
}

// A Recipient is one entry of a bundle's list of who can open its sealed files.
type Recipient struct {
	KEM, KDF, AEAD uint16
	KID            [32]byte
	Sealed         []byte // enc ‖ ciphertext
}

// Open opens what was sealed for this device (HPKE base mode, RFC 9180 section 5.1.1) under
// info. list is who it was sealed for. The error is E_SECRET_RECIPIENT when this device is not in the list,
// E_SECRET_AUTH when the seal does not open: it was made for another bundle, or damaged.
func (i *Identity) Open(list []Recipient, info []byte) ([]byte, error) {
	own := i.sealingKey()
	kid := own.KID()
	for _, r := range list {
		if r.KID != kid {
			continue
		}
		if r.KEM != own.KEM || r.KDF != kdfHKDFSHA256 || r.AEAD != aeadChaCha20Poly1305 {
			return nil, refusal.New(refusal.SecretRecipient, "secrets are sealed with suite %#04x/%#04x/%#04x, which this device does not use", r.KEM, r.KDF, r.AEAD)
		}
		plain, err := hpke.Open(i.sealing, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), info, r.Sealed)
		if err != nil {
			return nil, refusal.New(refusal.SecretAuth, "secrets sealed for device %s do not open: %w", i.ID(), err)
		}
		return plain, nil
	}
	return nil, refusal.New(refusal.SecretRecipient, "secrets are not sealed for device %s", i.ID()).
		WithHint("build again with this device among the recipients")
}

// Options say how the keys are found and made.
type Options struct {
	// Credentials is the folder of the service manager ($CREDENTIALS_DIRECTORY), or empty.
	// Keys found there are used instead of files.
	Credentials string
	// KEM of a sealing key that has to be made: X25519 (0 means that) or MLKEM768X25519.
	KEM uint16
	// Rand is where new keys come from; nil: the system.
	Rand io.Reader
}

func generate(o Options) (ed25519.PrivateKey, hpke.PrivateKey, error) {
	source := o.Rand
	if source == nil {
		source = rand.Reader
	}
	_, report, err := ed25519.GenerateKey(source)
	if err != nil {
		return nil, nil, err
	}
	number := o.KEM
	if number == 0 {
		number = X25519
	}
	kem, err := sealingKEM(number)
	if err != nil {
		return nil, nil, err
	}
	seed := make([]byte, 64)
	if _, err := io.ReadFull(source, seed); err != nil {
		return nil, nil, err
	}
	sealing, err := kem.DeriveKeyPair(seed)
	return report, sealing, err
}

func sealingKEM(number uint16) (hpke.KEM, error) {
	if number != X25519 && number != MLKEM768X25519 {
		return nil, fmt.Errorf("sealing key with KEM %#04x", number)
	}
	return hpke.NewKEM(number)
}

// errKey is E_KEY about one file.
func errKey(path, format string, args ...any) *refusal.Error {
	e := refusal.New(refusal.Key, format, args...)
	e.Object = path
	return e
}

var errAbsent = errors.New("absent")
