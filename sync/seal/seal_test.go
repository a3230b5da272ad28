package seal

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/hex"
	"strings"
	"testing"
	"tidegate/platform/identity"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
	"tidegate/sync/trust"
)

func want(t *testing.T, err error, word refusal.Word) {
	t.Helper()
	if !refusal.Is(err, word) {
		got, _ := refusal.Of(err)
		t.Fatalf("word %q (%v), want %q", got, err, word)
	}
}

func TestAFileOpensOnlyUnderItsPathAndKey(t *testing.T) {
	key := bytes.Repeat([]byte{7}, contentKeySize)
	sealed, err := sealFile(key, "a", []byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := openFile(key, "a", sealed); err != nil || string(got) != "text" {
		t.Fatalf("%q, %v", got, err)
	}
	_, err = openFile(key, "b", sealed)
	want(t, err, refusal.SecretAuth)
	_, err = openFile(bytes.Repeat([]byte{8}, contentKeySize), "a", sealed)
	want(t, err, refusal.SecretAuth)
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		_, err = openFile(key, "a", bad)
		want(t, err, refusal.SecretAuth)
	}
	for _, short := range [][]byte{nil, sealed[:3], sealed[:len(sealed)-1]} {
		_, err = openFile(key, "a", short)
		want(t, err, refusal.SecretAuth)
	}
	if _, err := sealFile(key, "a", make([]byte, MaxPlain)); err != nil {
		t.Errorf("the largest file: %v", err)
	}
	_, err = sealFile(key, "a", make([]byte, MaxPlain+1))
	want(t, err, refusal.Limit)
}

// Two files of one build have two keys, so that the zero nonce is used once with each.
func TestEqualTextsUnderTwoPathsDiffer(t *testing.T) {
	key := make([]byte, contentKeySize)
	a, err := sealFile(key, "a", []byte("same"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := sealFile(key, "b", []byte("same"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(a[:4], b[:4]) {
		t.Error("the key streams are the same")
	}
}

// Both suites, opened by the standard library directly: what we write is HPKE and nothing of
// our own.
func TestWrappedKeysAreHPKE(t *testing.T) {
	b := Binding{Domain: trust.Domain{1}, Product: "gate", Channel: "stable", Name: "plant", Epoch: 1, Seq: 2}
	key := bytes.Repeat([]byte{3}, contentKeySize)
	for _, c := range []struct {
		kem  hpke.KEM
		size int
	}{{hpke.DHKEM(ecdh.X25519()), 80}, {hpke.MLKEM768X25519(), 1168}} {
		private, err := c.kem.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		r, err := wrap(key, trust.SealKey{KEM: uint64(c.kem.ID()), Public: private.PublicKey().Bytes()}, b)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Sealed) != c.size {
			t.Errorf("KEM %#x: %d bytes, want %d", r.KEM, len(r.Sealed), c.size)
		}
		got, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), b.info(), r.Sealed)
		if err != nil || !bytes.Equal(got, key) {
			t.Errorf("KEM %#x: %x, %v", r.KEM, got, err)
		}
		other := b
		other.Seq++
		if _, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), other.info(), r.Sealed); err == nil {
			t.Errorf("KEM %#x: opens in another bundle", r.KEM)
		}
	}
	if _, err := public(trust.SealKey{KEM: 0x10, Public: make([]byte, 32)}); !refusal.Is(err, refusal.Key) {
		t.Errorf("a KEM that is not ours: %v", err)
	}
	if _, err := public(trust.SealKey{KEM: X25519, Public: make([]byte, 31)}); !refusal.Is(err, refusal.Key) {
		t.Errorf("a short key: %v", err)
	}
}

// The info is part of the format: a device of any version must build the same.
func TestInfoIsFrozen(t *testing.T) {
	b := Binding{Domain: trust.Domain{1, 2}, Product: "gate", Channel: "stable", Name: "plant", Epoch: 3, Seq: 4}
	const frozen = "87" + "72746964656761" + "74652f7365637265742f7631" + "5001020000000000000000000000000000" +
		"6467617465" + "66737461626c65" + "65706c616e74" + "03" + "04"
	if got := hex.EncodeToString(b.info()); got != frozen {
		t.Errorf("info %s, want %s", got, frozen)
	}
	if err := canon.Check(b.info(), canon.Within(1000)); err != nil {
		t.Error(err)
	}
}

func TestTheIdOfAKeyIsThatOfTheDevice(t *testing.T) {
	i, err := identity.Load(t.TempDir()+"/identity", identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range i.SealingKeys() {
		if got := KeyID(trust.SealKey{KEM: uint64(k.KEM), Public: k.Public}); got != k.KID() {
			t.Errorf("id %x, the device says %x", got, k.KID())
		}
	}
}

func TestSecretsFileForm(t *testing.T) {
	in := map[string][]byte{"b": []byte("2"), "a/long/path": {}, "": {0xff}}
	b, err := Encode(in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := Decode(b)
	if err != nil || len(out) != 3 || string(out["b"]) != "2" || out["a/long/path"] == nil {
		t.Fatalf("%q, %v", out, err)
	}
	for name, bad := range map[string]string{
		"array": "80", "value is text": "a1616161 62", "key is a number": "a10141aa", "more": "a000", "unsorted": "a2616240616140", "": "",
	} {
		raw, err := hex.DecodeString(strings.ReplaceAll(bad, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(raw); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzSecrets(f *testing.F) {
	b, err := Encode(map[string][]byte{"a": {1}, "bb": {2, 3}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0xa1, 0x61, 'a', 0x61, 'b'})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Decode(b)
		if _, coded := refusal.Of(err); err != nil && !coded {
			t.Fatalf("an error without a word: %v", err)
		}
		if err != nil {
			return
		}
		again, err := Encode(s)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("another encoding: %x, %v", again, err)
		}
	})
}
