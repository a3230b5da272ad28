package envelope

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"tidegate/policy/refusal"
)

// A PublicKey is an Ed25519 public key (RFC 8032 §5.1.5).
type PublicKey [32]byte

// A KeyID names a key: the SHA-256 thumbprint of its COSE_Key (RFC 9679).
type KeyID [32]byte

// String returns the id in 64 hexadecimal digits.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// thumbprintHead is the COSE_Key {1: 1 (OKP), -1: 6 (Ed25519), -2: h'…'} up to the
// 32 bytes of the key.
var thumbprintHead = [...]byte{0xa3, 0x01, 0x01, 0x20, 0x06, 0x21, 0x58, 0x20}

// ID returns the key's thumbprint.
func (k PublicKey) ID() KeyID {
	var b [len(thumbprintHead) + 32]byte
	copy(b[:], thumbprintHead[:])
	copy(b[len(thumbprintHead):], k[:])
	return sha256.Sum256(b[:])
}

// The curve of Ed25519, −x² + y² = 1 + d·x²·y² modulo p (RFC 8032 §5.1). Constants.
var (
	curveP    = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	curveD, _ = new(big.Int).SetString("37095705934669439343138083508754565189542113879843219016388785533085940283555", 10)
)

// smallOrder holds the y of the eight points of small order, as encoded without the
// sign of x: order 1, order 2, order 4 (two points), order 8 (twice two points).
var smallOrder = [...]string{
	"0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0000000000000000000000000000000000000000000000000000000000000000",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
}

// Valid returns nil for a key that ed25519.Verify judges as RFC 8032 means it, and
// else an error that says why not: y not reduced, no point of the curve, or one of
// the eight points of small order, under which anybody can sign.
func (k PublicKey) Valid() error {
	// y is little-endian; the top bit is the sign of x.
	unsigned := k
	unsigned[31] &= 0x7f
	be := slices.Clone(unsigned[:])
	slices.Reverse(be)
	y := new(big.Int).SetBytes(be)
	if y.Cmp(curveP) >= 0 {
		return fmt.Errorf("key %s: y is not below 2^255 - 19", k.short())
	}
	if slices.Contains(smallOrder[:], hex.EncodeToString(unsigned[:])) {
		return fmt.Errorf("key %s: a point of small order", k.short())
	}
	// x² = u/v with u = y² − 1, v = d·y² + 1. It has a root if and only if u·v has
	// one, for v² is a square. Where x would be 0, y is ±1, which has small order.
	yy := new(big.Int).Mul(y, y)
	u := new(big.Int).Sub(yy, big.NewInt(1))
	v := yy.Mul(yy, curveD)
	v.Add(v, big.NewInt(1))
	if u.Mul(u, v); big.Jacobi(u.Mod(u, curveP), curveP) != 1 {
		return fmt.Errorf("key %s: not a point of the curve", k.short())
	}
	return nil
}

func (k PublicKey) short() string { return hex.EncodeToString(k[:4]) + "…" }

// Keys are the keys of one role and how many of them must sign. The zero Keys is met
// by nothing.
type Keys struct {
	role      string
	threshold int
	keys      []PublicKey
	ids       []KeyID // of keys, in their order
	former    map[KeyID]string
}

// MaxKeys is the largest number of keys of a role.
const MaxKeys = 16

// NewKeys returns the keys of a role: 1 to 16 distinct valid keys, of which at least
// threshold, 1 to all of them, must sign. A breach is E_ROOT.
func NewKeys(role string, threshold int, keys ...PublicKey) (Keys, error) {
	if len(keys) > MaxKeys {
		return Keys{}, refusal.New(refusal.Root, "role %s has %d keys, at most %d are allowed", role, len(keys), MaxKeys)
	}
	ids := make([]KeyID, len(keys))
	for i, k := range keys {
		ids[i] = k.ID()
		if err := k.Valid(); err != nil {
			return Keys{}, refusal.New(refusal.Root, "role %s: %w", role, err)
		}
		if slices.Contains(keys[:i], k) {
			return Keys{}, refusal.New(refusal.Root, "role %s has key %s twice", role, ids[i])
		}
	}
	if threshold < 1 || threshold > len(keys) {
		return Keys{}, refusal.New(refusal.Root, "role %s: threshold %d with %d usable keys", role, threshold, len(keys))
	}
	return Keys{role: role, threshold: threshold, keys: slices.Clone(keys), ids: ids}, nil
}

// WithFormer returns k with reasons why other keys do not count ("revoked in root
// 5"), told when their signatures are found where keys of the role were needed.
func (k Keys) WithFormer(reasons map[KeyID]string) Keys {
	k.former = reasons
	return k
}

// Role returns the name of the role.
func (k Keys) Role() string { return k.role }

// Threshold returns how many keys must sign.
func (k Keys) Threshold() int { return k.threshold }

// Names reports whether a signature of m names a key of k.
func (k Keys) Names(m *Message) bool {
	for _, s := range m.signatures {
		if _, ok := k.find(s.kid); ok {
			return true
		}
	}
	return false
}

// find returns the key with the given id.
func (k Keys) find(kid []byte) (PublicKey, bool) {
	for i := range k.ids {
		if bytes.Equal(k.ids[i][:], kid) {
			return k.keys[i], true
		}
	}
	return PublicKey{}, false
}
