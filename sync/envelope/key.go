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

// Valid returns nil for a key that ed25519.Verify judges as RFC 8032 means it, and
// else an error that says why not: y not reduced, no point of the curve, or one of
// the eight points of small order, under which anybody can sign.
func (k PublicKey) Valid() error {
	// y is little-endian; the top bit is the sign of x.
	be := slices.Clone(k[:])
	slices.Reverse(be)
	sign := be[0] >> 7
	be[0] &= 0x7f
	y := new(big.Int).SetBytes(be)

	// p = 2^255 − 19; −x² + y² = 1 + d·x²·y² with d = −121665/121666 (RFC 8032 §5.1).
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	if y.Cmp(p) >= 0 {
		return fmt.Errorf("key %s: y is not below 2^255 - 19", k.short())
	}
	mod := func(v *big.Int) *big.Int { return v.Mod(v, p) }
	one := big.NewInt(1)
	d := mod(new(big.Int).Mul(big.NewInt(-121665), new(big.Int).ModInverse(big.NewInt(121666), p)))
	yy := mod(new(big.Int).Mul(y, y))
	u := mod(new(big.Int).Sub(yy, one))
	v := mod(new(big.Int).Add(mod(new(big.Int).Mul(d, yy)), one)) // never 0: −1/d is no square
	xx := mod(new(big.Int).Mul(u, new(big.Int).ModInverse(v, p)))
	if new(big.Int).ModSqrt(xx, p) == nil {
		return fmt.Errorf("key %s: not a point of the curve", k.short())
	}
	if xx.Sign() == 0 && sign == 1 {
		return fmt.Errorf("key %s: x is 0 with its sign set", k.short())
	}

	// Order 8 divides out in three doublings: the y of 2P is (y² + x²)/(2 + x² − y²)
	// (from the unified addition law with a = −1). Small order ends at (0, 1).
	for range 3 {
		num := mod(new(big.Int).Add(yy, xx))
		den := mod(new(big.Int).Sub(new(big.Int).Add(big.NewInt(2), xx), yy))
		y = mod(num.Mul(num, new(big.Int).ModInverse(den, p)))
		yy = mod(new(big.Int).Mul(y, y))
		u = mod(new(big.Int).Sub(yy, one))
		v = mod(new(big.Int).Add(mod(new(big.Int).Mul(d, yy)), one))
		xx = mod(new(big.Int).Mul(u, new(big.Int).ModInverse(v, p)))
	}
	if y.Cmp(one) == 0 {
		return fmt.Errorf("key %s: a point of small order", k.short())
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
