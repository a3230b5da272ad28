package envelope

import (
	"bytes"
	"crypto/ed25519"
	"math/big"
	"slices"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"

	"github.com/veraison/go-cose"
)

// spoil returns a change that puts sig in the place of signature i.
func spoil(i int, sig []byte) func(*message) {
	return func(m *message) { m.entries[i].signature = canon.AppendBytes(nil, sig) }
}

func TestCounting(t *testing.T) {
	unknown := signedWith(9, header(-8, signer(9).Public()))
	noKid := func(n int) entry { return signedWith(n, unhex(t, "a10127")) }
	noAlg := func(n int) entry {
		id := signer(n).Public().ID()
		return signedWith(n, canon.AppendBytes(unhex(t, "a104"), id[:]))
	}
	withAlg := func(n int, alg string) entry {
		id := signer(n).Public().ID()
		return signedWith(n, slices.Concat(unhex(t, "a201"), unhex(t, alg), canon.AppendBytes([]byte{4}, id[:])))
	}
	// A signature of key 9 under the name of key 1, over bytes that name key 1.
	stolenName := signedWith(9, header(-8, signer(1).Public()))
	add := func(e ...entry) func(*message) {
		return func(m *message) { m.entries = append(m.entries, e...) }
	}
	for _, v := range []struct {
		id, name string
		signers  []int
		change   func(*message)
		need     int // of keys 1, 2, 3
		word     refusal.Word
		reason   string
		extraBad bool
	}{
		{"", "1 of 3", []int{2}, nil, 1, "", "", false},
		{"", "2 of 3", []int{3, 1}, nil, 2, "", "", false},
		{"", "3 of 3", []int{3, 1, 2}, nil, 3, "", "", false},
		{"", "1 of 2 needed", []int{1}, nil, 2, refusal.SigThreshold, "1 of 2 keys", false},
		{"B1", "only signature zeros", []int{1}, spoil(0, make([]byte, 64)), 1, refusal.SigBad, "does not verify", true},
		{"B1", "only signature empty", []int{1}, spoil(0, nil), 1, refusal.SigBad, "signature of 0 bytes", true},
		{"B1", "only signature 63 bytes", []int{1}, spoil(0, make([]byte, 63)), 1, refusal.SigBad, "signature of 63 bytes", true},
		{"B1", "only signature 65 bytes", []int{1}, spoil(0, make([]byte, 65)), 1, refusal.SigBad, "signature of 65 bytes", true},
		{"B3", "only unknown keys", []int{8, 9}, nil, 1, refusal.SigThreshold, signer(8).Public().ID().String(), false},
		{"B3", "key ids of unknown keys are listed", []int{8, 9}, nil, 1, refusal.SigThreshold, signer(9).Public().ID().String(), false},
		{"B4", "threshold and an unknown key", []int{1, 2}, add(unknown), 2, "", "", false},
		{"B5", "threshold and garbage of a known key", []int{1, 2, 3}, spoil(2, make([]byte, 64)), 2, "", "", true},
		{"B5", "threshold and empty of a known key", []int{1, 2, 3}, spoil(0, nil), 2, "", "", true},
		{"B5", "some counted, one bad: threshold", []int{1, 2}, spoil(1, nil), 2, refusal.SigThreshold, "1 of 2 keys", true},
		{"", "another key under the name of one", nil, add(stolenName), 1, refusal.SigBad, "does not verify", true},
		{"B14", "revoked key", []int{5}, nil, 1, refusal.SigThreshold, "revoked in root 5", false},
		{"B15", "alg ES256", nil, add(withAlg(1, "26")), 1, refusal.SigThreshold, "alg -7", false},
		{"B15", "alg PS256", nil, add(withAlg(1, "3824")), 1, refusal.SigThreshold, "alg -37", false},
		{"B15", "alg -999", nil, add(withAlg(1, "3903e6")), 1, refusal.SigThreshold, "alg -999", false},
		{"B15", "alg as text", nil, add(withAlg(1, "654564445341")), 1, refusal.SigThreshold, `alg "EdDSA"`, false},
		{"B15", "alg missing", nil, add(noAlg(1)), 1, refusal.SigThreshold, "no alg", false},
		{"B15", "kid missing", nil, add(noKid(1)), 1, refusal.SigThreshold, "no key id", false},
		{"", "alg Ed25519 counts", nil, add(withAlg(1, "32")), 1, "", "", false},
		{"", "both algs of one key count once", []int{1}, add(withAlg(1, "32")), 2, refusal.SigThreshold, "1 of 2 keys", false},
		{"", "no kid twice is no fault of form", []int{1}, add(noKid(2), noKid(3)), 1, "", "", false},
		{"B2", "payload changed", []int{1}, func(m *message) { m.payload[3] ^= 1 }, 1, refusal.SigBad, "does not verify", true},
	} {
		t.Run(strings.TrimSpace(v.id+" "+v.name), func(t *testing.T) {
			m := good(v.signers...)
			if v.change != nil {
				v.change(&m)
			}
			p, err := Parse(m.bytes(), Manifest)
			if err != nil {
				t.Fatal(err)
			}
			keys := role(t, v.need, 1, 2, 3).WithFormer(map[KeyID]string{signer(5).Public().ID(): "revoked in root 5"})
			c, err := p.Verify(keys)
			wantRefusal(t, err, v.word, v.reason)
			if c.Met() != (err == nil) {
				t.Errorf("Met() = %v beside %v", c.Met(), err)
			}
			warned := slices.ContainsFunc(c.Warnings(), func(w *refusal.Error) bool { return w.Word == refusal.WarnSigExtraBad })
			if warned != v.extraBad {
				t.Errorf("W_SIG_EXTRA_BAD: %v, want %v", warned, v.extraBad)
			}
		})
	}
}

func TestZeroKeysAreMetByNothing(t *testing.T) {
	m, err := Parse(good(1).bytes(), Manifest)
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Verify(Keys{})
	wantRefusal(t, err, refusal.SigThreshold, "0 of 0")
}

func TestB2EveryBit(t *testing.T) {
	whole := good(1).bytes()
	keys := role(t, 1, 1)
	for i := range whole {
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[i] ^= 1 << bit
			m, err := Parse(b, Manifest)
			if err == nil {
				_, err = m.Verify(keys)
			}
			if exit := refusal.ExitCode(err); exit != 20 && exit != 30 {
				t.Fatalf("bit %d of byte %d: exit %d, %v", bit, i, exit, err)
			}
		}
	}
}

// order is the order of the base point (RFC 8032 §5.1).
var order, _ = new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)

func TestB10LargeS(t *testing.T) {
	m := good(1)
	sig := bytes.Clone(m.entries[0].signature[2:])
	s := slices.Clone(sig[32:])
	slices.Reverse(s)
	large := new(big.Int).Add(new(big.Int).SetBytes(s), order).FillBytes(make([]byte, 32))
	slices.Reverse(large)
	m.entries[0].signature = canon.AppendBytes(nil, append(sig[:32:32], large...))
	p, err := Parse(m.bytes(), Manifest)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Verify(role(t, 1, 1))
	wantRefusal(t, err, refusal.SigBad, "does not verify")
}

// TestB18GoCose compares with another implementation of COSE: what it makes of our
// messages, and of each of them with one bit changed. Where the two differ, ours must
// be the stricter one, and for the form.
func TestB18GoCose(t *testing.T) {
	whole := good(1, 2).bytes()
	oracle := func(b []byte) error {
		var m cose.SignMessage
		if err := m.UnmarshalCBOR(b); err != nil {
			return err
		}
		var v []cose.Verifier
		for n := range 2 {
			pub := signer(n + 1).Public()
			one, err := cose.NewVerifier(cose.AlgorithmEdDSA, ed25519.PublicKey(pub[:]))
			if err != nil {
				t.Fatal(err)
			}
			v = append(v, one)
		}
		return m.Verify(Manifest.external(), v...)
	}
	keys := role(t, 2, 1, 2)
	ours := func(b []byte) error {
		m, err := Parse(b, Manifest)
		if err != nil {
			return err
		}
		_, err = m.Verify(keys)
		return err
	}
	if err := oracle(whole); err != nil {
		t.Fatalf("go-cose refuses what we signed: %v", err)
	}
	if err := ours(whole); err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[i] ^= 1 << bit
			theirs, mine := oracle(b), ours(b)
			switch {
			case theirs != nil && mine == nil:
				t.Errorf("bit %d of byte %d: accepted, go-cose says %v", bit, i, theirs)
			case theirs == nil && refusal.ExitCode(mine) != 20:
				t.Errorf("bit %d of byte %d: go-cose accepts, we say %v", bit, i, mine)
			}
		}
	}
}

// TestGoCoseSigns shows that a message signed by the other implementation counts.
func TestGoCoseSigns(t *testing.T) {
	key := signer(1)
	s, err := cose.NewSigner(cose.AlgorithmEdDSA, ed25519.PrivateKey(key))
	if err != nil {
		t.Fatal(err)
	}
	id := key.Public().ID()
	m := cose.SignMessage{
		Headers: cose.Headers{Protected: cose.ProtectedHeader{cose.HeaderLabelContentType: Manifest.ContentType()}},
		Payload: payload,
		Signatures: []*cose.Signature{{Headers: cose.Headers{Protected: cose.ProtectedHeader{
			cose.HeaderLabelAlgorithm: cose.AlgorithmEdDSA, cose.HeaderLabelKeyID: id[:],
		}}}},
	}
	if err := m.Sign(nil, Manifest.external(), s); err != nil {
		t.Fatal(err)
	}
	b, err := m.MarshalCBOR()
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse(b, Manifest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Verify(role(t, 1, 1)); err != nil {
		t.Error(err)
	}
}

func BenchmarkVerify(b *testing.B) {
	env := good(1, 2).bytes()
	keys := role(b, 2, 1, 2, 3)
	b.ReportAllocs()
	for b.Loop() {
		m, err := Parse(env, Manifest)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := m.Verify(keys); err != nil {
			b.Fatal(err)
		}
	}
}
