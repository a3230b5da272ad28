package envelope

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"tidegate/policy/refusal"
)

// The algorithms that count: both are Ed25519 where the key is one (RFC 9053 §2.2,
// RFC 9864 §2.2).
const (
	algEdDSA   = "-8"
	algEd25519 = "-19"
)

// A Count is the outcome of looking at every signature of a message.
type Count struct {
	Threshold int
	Signers   []PublicKey // the distinct keys of the role that signed, in order
	Ignored   []Ignored   // signatures that did not count
}

// An Ignored signature did not count, and is no reason to refuse by itself.
type Ignored struct {
	Key    string // its key id in hexadecimal, "" when it names none
	Reason string // "unknown key", "revoked in root 5", "does not verify", "alg -7"
	Bad    bool   // it names a key of the role and does not verify
}

// Met reports whether the threshold is met.
func (c Count) Met() bool { return c.Threshold > 0 && len(c.Signers) >= c.Threshold }

// String returns "1 of 2 keys" and why the others did not count.
func (c Count) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d keys", len(c.Signers), c.Threshold)
	for i, g := range c.Ignored {
		sep := "; "
		if i == 0 {
			sep = "; not counted: "
		}
		name := "without key id"
		if g.Key != "" {
			name = g.Key
		}
		fmt.Fprintf(&b, "%s%s (%s)", sep, name, g.Reason)
	}
	return b.String()
}

// Warnings returns W_SIG_EXTRA_BAD when a signature of a known key is not good.
func (c Count) Warnings() []*refusal.Error {
	var w []*refusal.Error
	for _, g := range c.Ignored {
		if g.Bad {
			w = append(w, refusal.New(refusal.WarnSigExtraBad, "signature of key %s does not verify", g.Key))
		}
	}
	return w
}

// Count verifies every signature against the keys it names and counts the distinct
// keys that signed. No key is tried that a signature does not name.
func (m *Message) Count(keys Keys) Count {
	c := Count{Threshold: keys.threshold}
	for _, s := range m.signatures {
		key, reason, bad := m.judge(s, keys)
		switch {
		case reason != "":
			c.Ignored = append(c.Ignored, Ignored{Key: hex.EncodeToString(s.kid), Reason: reason, Bad: bad})
		case !slices.Contains(c.Signers, key):
			c.Signers = append(c.Signers, key)
		}
	}
	return c
}

// judge returns the key that signed, or why the signature does not count.
func (m *Message) judge(s signature, keys Keys) (key PublicKey, reason string, bad bool) {
	if s.kid == nil {
		return key, "no key id", false
	}
	key, ok := keys.find(s.kid)
	if !ok {
		if len(s.kid) == len(KeyID{}) {
			if why := keys.former[KeyID(s.kid)]; why != "" {
				return key, why, false
			}
		}
		return key, "no key of role " + keys.role, false
	}
	switch {
	case s.alg == "":
		return key, "no alg", false
	case s.alg != algEdDSA && s.alg != algEd25519:
		return key, "alg " + s.alg, false
	case len(s.value) != ed25519.SignatureSize:
		return key, fmt.Sprintf("signature of %d bytes", len(s.value)), true
	case !ed25519.Verify(key[:], toBeSigned(m.Kind, s.protected, m.Payload), s.value):
		return key, "does not verify", true
	}
	return key, "", false
}

// Verify wants the threshold of keys. If it is not met, the word is E_SIG_BAD when
// none counted and one that named a key of the role failed, else E_SIG_THRESHOLD.
// The Count tells more in either case, warnings included.
func (m *Message) Verify(keys Keys) (Count, error) {
	c := m.Count(keys)
	if c.Met() {
		return c, nil
	}
	bad := slices.ContainsFunc(c.Ignored, func(g Ignored) bool { return g.Bad })
	if len(c.Signers) == 0 && bad {
		return c, refusal.New(refusal.SigBad, "%s is not signed by role %s: %s", m.Kind, keys.role, c)
	}
	return c, refusal.New(refusal.SigThreshold, "%s is not signed by enough keys of role %s: %s", m.Kind, keys.role, c)
}
