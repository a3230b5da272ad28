package envelope

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestSignElsewhere(t *testing.T) {
	env, err := Sign(Manifest, payload, signer(1))
	if err != nil {
		t.Fatal(err)
	}
	pub := signer(2).Public()
	sig, _ := signer(2).Sign(TBS(Manifest, payload, pub))
	both, err := Add(env, Manifest, pub, sig)
	if err != nil {
		t.Fatal(err)
	}
	if want := good(1, 2).bytes(); !bytes.Equal(both, want) {
		t.Errorf("got %x, want %x", both, want)
	}

	again, err := AddSigner(both, Manifest, signer(2))
	if err != nil || !bytes.Equal(again, both) {
		t.Errorf("signing twice with one key: got %x, %v, want no change", again, err)
	}
	sig[0] ^= 1
	if _, err := Add(env, Manifest, pub, sig); err == nil || !strings.Contains(err.Error(), "no signature of key") {
		t.Errorf("a bad signature: got %v", err)
	}
	if _, err := Add(env, Root, pub, sig); err == nil {
		t.Error("a manifest took the signature of a root")
	}
}

func TestGoodSignatureReplacesBad(t *testing.T) {
	m := good(1, 2)
	spoil(0, make([]byte, 64))(&m)
	env, err := AddSigner(m.bytes(), Manifest, signer(1))
	if err != nil {
		t.Fatal(err)
	}
	if want := good(1, 2).bytes(); !bytes.Equal(env, want) {
		t.Errorf("got %x, want %x", env, want)
	}
}

// broken is a signer whose device does not answer.
type broken struct{ PrivateKey }

var errUnplugged = errors.New("token is unplugged")

func (broken) Sign([]byte) ([]byte, error) { return nil, errUnplugged }

func TestSignRefuses(t *testing.T) {
	if b, err := Sign(Manifest, payload); err == nil {
		t.Errorf("unsigned: got %x", b)
	}
	if _, err := Sign(Manifest, payload, broken{signer(1)}); !errors.Is(err, errUnplugged) {
		t.Errorf("broken signer: got %v", err)
	}
	if _, err := Sign(Manifest, make([]byte, MaxPayload+1), signer(1)); err == nil {
		t.Error("payload above the limit was signed")
	}
	var all []Signer
	for n := range 17 {
		all = append(all, signer(n))
	}
	if _, err := Sign(Manifest, payload, all...); err == nil {
		t.Error("17 signatures were made")
	}
}
