// Package seal keeps the secrets of a bundle from all but the devices they are for.
//
// Per build there is one random content key. It is wrapped for each recipient by HPKE
// (RFC 9180, base mode) under an info that names the bundle, so that it is of no use in
// another one; each sealed file has a key of its own, derived from the content key and the
// path, so that it does not open under another name. The order is seal, then sign.
//
// Plaintext stays in memory. Package seal keeps no key; a device gives its own by an [Opener].
package seal

import (
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/canon"
	"tidegate/sync/trust"

	"golang.org/x/crypto/chacha20poly1305"
)

// The algorithms (RFC 9180 §7 and the IANA registry HPKE).
const (
	X25519 = 0x0020 // DHKEM(X25519, HKDF-SHA256)
	Hybrid = 0x647a // MLKEM768X25519

	kdf  = 0x0001 // HKDF-SHA256
	aead = 0x0003 // ChaCha20-Poly1305
)

const (
	contentKeySize = 32
	overhead       = chacha20poly1305.Overhead
)

// MaxPlain is the largest file that can be sealed, in bytes.
const MaxPlain = bundle.MaxSealed - overhead

// SecretsPath is the sealed file that holds the secrets of a project: canonical CBOR, a map
// from the path of a secret to its bytes.
const SecretsPath = "secrets.cbor"

// A Binding names the bundle that a content key is for.
type Binding struct {
	Domain                 trust.Domain
	Product, Channel, Name string
	Epoch, Seq             uint64
}

// Bind returns the binding of a bundle.
func Bind(m *bundle.Manifest) Binding {
	return Binding{Domain: m.Domain, Product: m.Product, Channel: m.Channel, Name: m.Name, Epoch: m.Epoch, Seq: m.Seq}
}

// info is the info of HPKE.
func (b Binding) info() []byte {
	c := canon.AppendArray(nil, 7)
	c = canon.AppendText(c, "tidegate/secret/v1")
	c = canon.AppendBytes(c, b.Domain[:])
	c = canon.AppendText(c, b.Product)
	c = canon.AppendText(c, b.Channel)
	c = canon.AppendText(c, b.Name)
	c = canon.AppendUint(c, b.Epoch)
	return canon.AppendUint(c, b.Seq)
}

// KeyID returns the id of a sealing key.
func KeyID(k trust.SealKey) bundle.Digest {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint16(nil, uint16(k.KEM))) //nolint:gosec // numbers of the registry have 16 bits
	h.Write(k.Public)
	return bundle.Digest(h.Sum(nil))
}

func public(k trust.SealKey) (hpke.PublicKey, error) {
	if k.KEM != X25519 && k.KEM != Hybrid {
		return nil, refusal.New(refusal.Key, "sealing key %s: KEM %#04x is not known", KeyID(k), k.KEM)
	}
	kem, err := hpke.NewKEM(uint16(k.KEM))
	if err == nil {
		var pub hpke.PublicKey
		if pub, err = kem.NewPublicKey(k.Public); err == nil {
			return pub, nil
		}
	}
	return nil, refusal.New(refusal.Key, "sealing key %s: %w", KeyID(k), err)
}

// Files seals files, by path, for the bundle b so that each of the keys in to can open
// them. It returns the recipients in the order of the manifest and the sealed files.
func Files(plain map[string][]byte, b Binding, to []trust.SealKey) ([]bundle.Recipient, map[string][]byte, error) {
	if len(to) == 0 {
		return nil, nil, refusal.New(refusal.SecretRecipient, "secrets without a device to seal them for").
			WithHint("name the devices or groups whose keys may open them")
	}
	key := make([]byte, contentKeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, nil, fmt.Errorf("content key: %w", err)
	}
	var recipients []bundle.Recipient
	for _, k := range to {
		r, err := wrap(key, k, b)
		if err != nil {
			return nil, nil, err
		}
		if !slices.ContainsFunc(recipients, func(o bundle.Recipient) bool { return o.KeyID == r.KeyID }) {
			recipients = append(recipients, r)
		}
	}
	sealed := make(map[string][]byte, len(plain))
	for path, text := range plain {
		s, err := sealFile(key, path, text)
		if err != nil {
			return nil, nil, err
		}
		sealed[path] = s
	}
	return bundle.SortSet(recipients), sealed, nil
}

func wrap(key []byte, k trust.SealKey, b Binding) (bundle.Recipient, error) {
	pub, err := public(k)
	if err != nil {
		return bundle.Recipient{}, err
	}
	sealed, err := hpke.Seal(pub, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), b.info(), key)
	if err != nil {
		return bundle.Recipient{}, fmt.Errorf("seal for key %s: %w", KeyID(k), err)
	}
	return bundle.Recipient{KEM: k.KEM, KDF: kdf, AEAD: aead, KeyID: KeyID(k), Sealed: sealed}, nil
}

// fileKey derives the key of one file. It seals one text, so the nonce can be zero.
func fileKey(key []byte, path string) ([]byte, error) {
	info := canon.AppendText(canon.AppendText(canon.AppendArray(nil, 2), "tidegate/secret-file/v1"), path)
	return hkdf.Key(sha256.New, key, nil, string(info), chacha20poly1305.KeySize)
}

func sealFile(key []byte, path string, plain []byte) ([]byte, error) {
	if len(plain) > MaxPlain {
		return nil, refusal.New(refusal.Limit, "path %q: %d bytes to seal, at most %d are allowed", path, len(plain), MaxPlain)
	}
	k, err := fileKey(key, path)
	if err != nil {
		return nil, err
	}
	a, err := chacha20poly1305.New(k)
	if err != nil {
		return nil, err
	}
	return a.Seal(nil, make([]byte, chacha20poly1305.NonceSize), plain, []byte(path)), nil
}

func openFile(key []byte, path string, sealed []byte) ([]byte, error) {
	k, err := fileKey(key, path)
	if err != nil {
		return nil, err
	}
	a, err := chacha20poly1305.New(k)
	if err != nil {
		return nil, err
	}
	plain, err := a.Open(nil, make([]byte, chacha20poly1305.NonceSize), sealed, []byte(path))
	if err != nil {
		return nil, refusal.New(refusal.SecretAuth, "path %q: the sealed file does not open", path)
	}
	return plain, nil
}
