// Package keyfile keeps signing keys on a workstation: the private half sealed with a
// passphrase (Argon2id, RFC 9106, and XChaCha20-Poly1305), the public half as one line.
//
// A key file is PEM. Nothing in it is trusted before the seal opens: the public key is
// derived from the private one, never read from beside it. There is no way to take a
// private key or a passphrase as an argument of a command; callers read it from a prompt
// or the environment.
package keyfile

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"tidegate/policy/refusal"
	"tidegate/sync/envelope"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

// The cost of opening a key file. Files say what they were made with, within bounds.
const (
	costTime   = 3
	costMemory = 64 << 10 // KiB: 64 MiB
	maxTime    = 16
	maxMemory  = 1 << 20 // KiB
	maxFile    = 16 << 10
)

const (
	blockType = "TIDEGATE PRIVATE KEY"
	kdfName   = "argon2id"
	kdfNone   = "none"
)

// A Key is a signing key with a name for people.
type Key struct {
	Name    string
	Private envelope.PrivateKey
}

// Generate returns a new key from the system's randomness.
func Generate(name string) (Key, error) {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, err
	}
	return Key{Name: name, Private: envelope.PrivateKey(priv)}, nil
}

// Marshal returns the key file of k. A nil passphrase leaves the key unsealed.
func (k Key) Marshal(passphrase []byte) ([]byte, error) {
	block := &pem.Block{Type: blockType, Headers: map[string]string{"Name": k.Name}}
	seed := ed25519.PrivateKey(k.Private).Seed()
	if passphrase == nil {
		block.Headers["Kdf"] = kdfNone
		block.Bytes = seed
		return pem.EncodeToMemory(block), nil
	}
	if err := seal(block, seed, passphrase); err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}

// seal fills a block with a secret that a passphrase opens. The type of the block is bound in.
func seal(block *pem.Block, secret, passphrase []byte) error {
	salt := make([]byte, 16)
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	if _, err := rand.Read(salt); err != nil {
		return err
	}
	if _, err := rand.Read(nonce); err != nil {
		return err
	}
	block.Headers["Kdf"] = fmt.Sprintf("%s t=%d m=%d p=1 salt=%s", kdfName, costTime, costMemory, base64.RawStdEncoding.EncodeToString(salt))
	aead, err := chacha20poly1305.NewX(argon2.IDKey(passphrase, salt, costTime, costMemory, 1, chacha20poly1305.KeySize))
	if err != nil {
		return err
	}
	block.Bytes = append(nonce, aead.Seal(nil, nonce, secret, []byte(block.Type))...)
	return nil
}

// Sealed reports whether the key file b needs a passphrase. It is false for what is no key file.
func Sealed(b []byte) bool {
	block, _ := pem.Decode(b)
	return block != nil && block.Type == blockType && block.Headers["Kdf"] != kdfNone
}

// Parse opens a key file. The passphrase is not used for an unsealed one. What cannot be
// opened is E_KEY; nothing tells a wrong passphrase from a damaged file.
func Parse(b, passphrase []byte) (Key, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != blockType || len(bytes.TrimSpace(rest)) > 0 {
		return Key{}, refusal.New(refusal.Key, "not a tidegate private key file")
	}
	k := Key{Name: block.Headers["Name"]}
	seed := block.Bytes
	if block.Headers["Kdf"] != kdfNone {
		var err error
		if seed, err = open(block, passphrase); err != nil {
			return Key{}, err
		}
	}
	if len(seed) != ed25519.SeedSize {
		return Key{}, refusal.New(refusal.Key, "key of %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	k.Private = envelope.PrivateKey(ed25519.NewKeyFromSeed(seed))
	return k, nil
}

func open(block *pem.Block, passphrase []byte) ([]byte, error) {
	fields := strings.Fields(block.Headers["Kdf"])
	if len(fields) != 5 || fields[0] != kdfName {
		return nil, refusal.New(refusal.Key, "unknown key derivation %q", block.Headers["Kdf"])
	}
	t, err1 := number(fields[1], "t=", maxTime)
	m, err2 := number(fields[2], "m=", maxMemory)
	p, err3 := number(fields[3], "p=", 1)
	text, ok := strings.CutPrefix(fields[4], "salt=")
	salt, err4 := base64.RawStdEncoding.DecodeString(text)
	if err := errors.Join(err1, err2, err3, err4); err != nil || !ok || len(salt) < 8 {
		return nil, refusal.New(refusal.Key, "unknown key derivation %q", block.Headers["Kdf"])
	}
	if len(passphrase) == 0 {
		return nil, refusal.New(refusal.Key, "the key is sealed with a passphrase").WithHint("set TIDECTL_PASSPHRASE or run on a terminal")
	}
	aead, err := chacha20poly1305.NewX(argon2.IDKey(passphrase, salt, t, m, uint8(p), chacha20poly1305.KeySize))
	if err != nil {
		return nil, err
	}
	if len(block.Bytes) < aead.NonceSize() {
		return nil, refusal.New(refusal.Key, "wrong passphrase, or the file is damaged")
	}
	nonce, sealed := block.Bytes[:aead.NonceSize()], block.Bytes[aead.NonceSize():]
	secret, err := aead.Open(nil, nonce, sealed, []byte(block.Type))
	if err != nil {
		return nil, refusal.New(refusal.Key, "wrong passphrase, or the file is damaged")
	}
	return secret, nil
}

func number(field, prefix string, limit uint32) (uint32, error) {
	s, ok := strings.CutPrefix(field, prefix)
	n, err := strconv.ParseUint(s, 10, 32)
	if !ok || err != nil || n == 0 || uint32(n) > limit {
		return 0, fmt.Errorf("%q", field)
	}
	return uint32(n), nil
}

// A Public is the public half of a key, with its name.
type Public struct {
	Name string
	Key  envelope.PublicKey
}

// Public returns the public half of k.
func (k Key) Public() Public { return Public{Name: k.Name, Key: k.Private.Public()} }

// String returns the one line of a public key: "ed25519 HEX NAME".
func (p Public) String() string {
	s := "ed25519 " + hex.EncodeToString(p.Key[:])
	if p.Name != "" {
		s += " " + p.Name
	}
	return s
}

// ParsePublic reads the one line of a public key, or takes the public half of an
// unsealed or sealed key file's line beside it. The key is checked (envelope.PublicKey.Valid).
func ParsePublic(b []byte) (Public, error) {
	line := strings.TrimSpace(string(b))
	kind, rest, _ := strings.Cut(line, " ")
	text, name, _ := strings.Cut(strings.TrimSpace(rest), " ")
	raw, err := hex.DecodeString(text)
	if kind != "ed25519" || err != nil || len(raw) != ed25519.PublicKeySize || strings.ContainsAny(line, "\n\r") {
		return Public{}, refusal.New(refusal.Key, `not a public key; want one line "ed25519 HEX NAME"`)
	}
	p := Public{Name: strings.TrimSpace(name), Key: envelope.PublicKey(raw)}
	if err := p.Key.Valid(); err != nil {
		return Public{}, refusal.New(refusal.Key, "public key: %w", err)
	}
	return p, nil
}

// Read reads a key file or a public key of at most 16 KiB.
func Read(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, refusal.New(refusal.Key, "larger than any key file")
	}
	return b, nil
}
