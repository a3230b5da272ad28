// Package envelope is the one form of signature that Tidegate knows: COSE_Sign
// (RFC 9052 §4.1) with Ed25519, in a strict profile. A message has one kind, named
// three times (content type, external data, field 1 of its payload), so that no kind
// of object can be taken for another; it counts when enough distinct keys of a role
// have signed its exact bytes.
//
// [Parse] judges the form, [Message.Verify] counts the signatures; signing is in
// sign.go. Package envelope does not know which keys a role has, nor what a payload
// means: that is package trust. There is no way through it without a signature.
package envelope

import (
	"bytes"
	"fmt"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
)

// Limits of a message.
const (
	MaxPayload    = 1 << 20 // bytes of the payload
	MaxSignatures = 16
	MaxSignature  = 8 << 10 // bytes of one signature

	// MaxMessage is what a message can take with all its parts at their limits.
	MaxMessage = MaxPayload + MaxSignatures*(MaxSignature+256) + 256
)

// A Kind names what a message is about. Every kind is one word in lower case.
type Kind string

// The kinds of messages.
const (
	Root       Kind = "root"       // trust root
	Manifest   Kind = "manifest"   // what a bundle holds
	Enroll     Kind = "enroll"     // a device asks to be enrolled
	Device     Kind = "device"     // a device is enrolled
	Checkpoint Kind = "checkpoint" // state of an audit log
	Batch      Kind = "batch"      // events
	Loss       Kind = "loss"       // events that were lost
	Status     Kind = "status"     // of a device
	Result     Kind = "result"     // outcome of a bundle
	Time       Kind = "time"       // time attestation
	Ack        Kind = "ack"        // of batches
)

// ContentType returns the content type of the kind's messages (COSE header 3).
func (k Kind) ContentType() string { return "application/vnd.tidegate." + string(k) + "+cbor" }

// external returns the external_aad of the kind's signatures (RFC 9052 §4.4).
func (k Kind) external() []byte { return []byte("tidegate/" + string(k) + "/v1") }

// protected returns the kind's body header, {3: content type}.
func (k Kind) protected() []byte {
	b := canon.AppendMap(nil, 1)
	b = canon.AppendUint(b, headerContentType)
	return canon.AppendText(b, k.ContentType())
}

// The header parameters of the profile (RFC 9052 §3.1).
const (
	headerAlg         = 1
	headerContentType = 3
	headerKeyID       = 4
)

// A Message is one parsed COSE_Sign. Its form is right; its signatures are not
// verified until [Message.Verify] says so.
type Message struct {
	Kind    Kind
	Payload []byte // what is signed, byte for byte; shares memory with the input of Parse

	signatures []signature
}

// A signature is one entry of a message.
type signature struct {
	protected []byte // the header as it stands
	alg       string // "-8", "-19", "ES256", "" when missing
	kid       []byte // nil when missing
	value     []byte
}

// Parse reads one message of the given kind and keeps its bytes as they are. It
// judges nothing but the form: E_FORMAT with "cose" for what is no COSE_Sign of the
// profile and with "type" for another kind, E_CBOR_CANON, E_LIMIT for more than 16
// signatures or parts too large, E_SIG_NONE for none.
func Parse(b []byte, kind Kind) (*Message, error) {
	if err := canon.CheckSign(b, canon.Within(MaxMessage)); err != nil {
		return nil, err
	}
	c := canon.Walk(b)
	c.Tag()
	if n, ok := c.Array(); !ok || n != 4 {
		return nil, malformed("want an array of 4: headers, headers, payload, signatures")
	}
	protected, ok := c.Bytes()
	if !ok {
		return nil, malformed("protected header of the body is not a byte string")
	}
	if err := checkBodyHeader(protected, kind); err != nil {
		return nil, err
	}
	if n, ok := c.Map(); !ok || n != 0 {
		return nil, malformed("unprotected header of the body is not an empty map")
	}
	payload, ok := c.Bytes()
	if !ok {
		return nil, malformed("payload is not a byte string")
	}
	if len(payload) > MaxPayload {
		return nil, refusal.New(refusal.Limit, "payload of %d bytes, at most %d are allowed", len(payload), MaxPayload)
	}
	n, ok := c.Array()
	switch {
	case !ok:
		return nil, malformed("signatures are not an array")
	case n == 0:
		return nil, refusal.New(refusal.SigNone, "%s is not signed", kind)
	case n > MaxSignatures:
		return nil, refusal.New(refusal.Limit, "%d signatures, at most %d are allowed", n, MaxSignatures)
	}
	m := &Message{Kind: kind, Payload: payload, signatures: make([]signature, 0, n)}
	for i := range n {
		s, err := parseSignature(&c)
		if err != nil {
			return nil, refusal.About(fmt.Sprintf("signature %d", i+1), err)
		}
		if j := m.find(s); j >= 0 {
			return nil, malformed("signatures %d and %d name the same key and algorithm", j+1, i+1)
		}
		m.signatures = append(m.signatures, s)
	}
	return m, nil
}

// find returns the place of the entry that names the same key and algorithm as s,
// −1 if there is none or s names no key.
func (m *Message) find(s signature) int {
	for i, t := range m.signatures {
		if s.kid != nil && bytes.Equal(t.kid, s.kid) && t.alg == s.alg {
			return i
		}
	}
	return -1
}

// checkBodyHeader wants exactly the header of the kind.
func checkBodyHeader(b []byte, kind Kind) error {
	if bytes.Equal(b, kind.protected()) {
		return nil
	}
	if err := checkProtected(b); err != nil {
		return err
	}
	c := canon.Walk(b)
	n, _ := c.Map()
	label, _ := c.Uint()
	got, ok := c.Text()
	if n != 1 || label != headerContentType || !ok {
		return malformed("protected header of the body holds more or other than the content type")
	}
	return refusal.New(refusal.Format, "type: content type is %q, want %q", got, kind.ContentType())
}

// checkProtected wants a map that is not empty. Whatever is wrong inside a protected
// header is E_FORMAT, canonical form included.
func checkProtected(b []byte) error {
	if err := canon.Check(b, canon.Within(MaxSignature)); err != nil {
		return malformed("protected header: %w", err)
	}
	c := canon.Walk(b)
	if n, ok := c.Map(); !ok || n == 0 {
		return malformed("protected header is not a map with something in it")
	}
	return nil
}

// parseSignature reads one entry: [protected, {}, signature].
func parseSignature(c *canon.Cursor) (s signature, err error) {
	if n, ok := c.Array(); !ok || n != 3 {
		return s, malformed("want an array of 3: headers, headers, signature")
	}
	var ok bool
	if s.protected, ok = c.Bytes(); !ok {
		return s, malformed("protected header is not a byte string")
	}
	if err := checkProtected(s.protected); err != nil {
		return s, err
	}
	if err := s.parseHeader(); err != nil {
		return s, err
	}
	if n, ok := c.Map(); !ok || n != 0 {
		return s, malformed("unprotected header is not an empty map")
	}
	if s.value, ok = c.Bytes(); !ok {
		return s, malformed("signature is not a byte string")
	}
	if len(s.value) > MaxSignature {
		return s, refusal.New(refusal.Limit, "%d bytes, at most %d are allowed", len(s.value), MaxSignature)
	}
	return s, nil
}

// parseHeader reads alg and kid and allows nothing else: no crit, no certificate,
// no countersignature.
func (s *signature) parseHeader() error {
	c := canon.Walk(s.protected)
	n, _ := c.Map()
	for range n {
		label, ok := c.Uint()
		switch {
		case ok && label == headerAlg:
			if alg, ok := c.Int(); ok {
				s.alg = fmt.Sprint(alg)
			} else if alg, ok := c.Text(); ok {
				s.alg = fmt.Sprintf("%q", alg)
			} else {
				return malformed("alg is neither an integer nor text")
			}
		case ok && label == headerKeyID:
			if s.kid, ok = c.Bytes(); !ok {
				return malformed("kid is not a byte string")
			}
		default:
			return malformed("protected header holds something other than alg and kid")
		}
	}
	return nil
}

func malformed(format string, args ...any) error {
	return refusal.New(refusal.Format, "cose: "+format, args...)
}

// toBeSigned returns what one signer signs of a message.
func toBeSigned(kind Kind, signerHeader, payload []byte) []byte {
	return sigStructure(kind.protected(), signerHeader, kind.external(), payload)
}

// sigStructure returns the encoded Sig_structure of RFC 9052 §4.4.
func sigStructure(body, signer, external, payload []byte) []byte {
	b := make([]byte, 0, len(body)+len(signer)+len(external)+len(payload)+32)
	b = canon.AppendArray(b, 5)
	b = canon.AppendText(b, "Signature")
	b = canon.AppendBytes(b, body)
	b = canon.AppendBytes(b, signer)
	b = canon.AppendBytes(b, external)
	return canon.AppendBytes(b, payload)
}
