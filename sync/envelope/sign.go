package envelope

import (
	"crypto/ed25519"
	"fmt"
	"tidegate/sync/canon"
)

// A Signer holds, or can reach, one private key.
type Signer interface {
	Public() PublicKey
	// Sign returns the Ed25519 signature of tbs, 64 bytes.
	Sign(tbs []byte) ([]byte, error)
}

// A PrivateKey is a [Signer] whose key is in memory.
type PrivateKey ed25519.PrivateKey

// Public returns the public half.
func (k PrivateKey) Public() PublicKey { return PublicKey(k[ed25519.PublicKeySize:]) }

// Sign implements [Signer].
func (k PrivateKey) Sign(tbs []byte) ([]byte, error) {
	return ed25519.Sign(ed25519.PrivateKey(k), tbs), nil
}

// TBS returns the bytes that the owner of pub signs, the Sig_structure of RFC 9052
// §4.4: what a hardware key or another machine is given.
func TBS(kind Kind, payload []byte, pub PublicKey) []byte {
	return toBeSigned(kind, signerHeader(pub), payload)
}

// signerHeader returns {1: -8, 4: key id}.
func signerHeader(pub PublicKey) []byte {
	id := pub.ID()
	b := canon.AppendMap(nil, 2)
	b = canon.AppendInt(canon.AppendUint(b, headerAlg), -8)
	return canon.AppendBytes(canon.AppendUint(b, headerKeyID), id[:])
}

// Sign returns the message of the given kind and payload, signed by each of signers.
// Nothing comes out unsigned: at least one signer is needed.
func Sign(kind Kind, payload []byte, signers ...Signer) ([]byte, error) {
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("sign %s: payload of %d bytes, at most %d are allowed", kind, len(payload), MaxPayload)
	}
	m := &Message{Kind: kind, Payload: payload}
	for _, s := range signers {
		if err := m.add(s); err != nil {
			return nil, err
		}
	}
	return m.encode()
}

// AddSigner returns the message env with the signature of s added; see [Add].
func AddSigner(env []byte, kind Kind, s Signer) ([]byte, error) {
	m, err := Parse(env, kind)
	if err != nil {
		return nil, err
	}
	if err := m.add(s); err != nil {
		return nil, err
	}
	return m.encode()
}

// Add returns the message env with a signature that was made elsewhere over [TBS].
// A signature that does not verify is refused here, not on a device far away. If the
// key has signed before, the new signature takes the place of the old one.
func Add(env []byte, kind Kind, pub PublicKey, sig []byte) ([]byte, error) {
	return AddSigner(env, kind, made{pub, sig})
}

// made is a Signer that has signed already.
type made struct {
	pub PublicKey
	sig []byte
}

func (m made) Public() PublicKey           { return m.pub }
func (m made) Sign([]byte) ([]byte, error) { return m.sig, nil }

// add lets s sign and checks what it returns.
func (m *Message) add(s Signer) error {
	pub := s.Public()
	if err := pub.Valid(); err != nil {
		return fmt.Errorf("sign %s: %w", m.Kind, err)
	}
	header := signerHeader(pub)
	tbs := toBeSigned(m.Kind, header, m.Payload)
	sig, err := s.Sign(tbs)
	if err != nil {
		return fmt.Errorf("sign %s with key %s: %w", m.Kind, pub.ID(), err)
	}
	if len(sig) != ed25519.SignatureSize || !ed25519.Verify(pub[:], tbs, sig) {
		return fmt.Errorf("sign %s: what came back is no signature of key %s", m.Kind, pub.ID())
	}
	id := pub.ID()
	entry := signature{protected: header, alg: algEdDSA, kid: id[:], value: sig}
	if i := m.find(entry); i >= 0 {
		m.signatures[i] = entry
		return nil
	}
	m.signatures = append(m.signatures, entry)
	return nil
}

// encode returns the message and shows that it parses.
func (m *Message) encode() ([]byte, error) {
	b := canon.AppendSignTag(nil)
	b = canon.AppendArray(b, 4)
	b = canon.AppendBytes(b, m.Kind.protected())
	b = canon.AppendMap(b, 0)
	b = canon.AppendBytes(b, m.Payload)
	b = canon.AppendArray(b, len(m.signatures))
	for _, s := range m.signatures {
		b = canon.AppendArray(b, 3)
		b = canon.AppendBytes(b, s.protected)
		b = canon.AppendMap(b, 0)
		b = canon.AppendBytes(b, s.value)
	}
	if _, err := Parse(b, m.Kind); err != nil {
		return nil, fmt.Errorf("sign %s: %w", m.Kind, err)
	}
	return b, nil
}
