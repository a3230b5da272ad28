package identity

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"os"
	"strings"
	"testing"
	"tidegate/policy/refusal"

	"golang.org/x/crypto/chacha20poly1305"
)

// vectors reads testdata/hpke.txt: the fields of each vector, by its name.
func vectors(t *testing.T) map[string]map[string][]byte {
	t.Helper()
	file, err := os.ReadFile("testdata/hpke.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]map[string][]byte{}
	var v map[string][]byte
	for line := range strings.Lines(string(file)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			v = map[string][]byte{}
			all[strings.TrimSuffix(name, "]")] = v
		} else if name, value, ok := strings.Cut(line, " "); ok && name != "#" {
			if v[name], err = hex.DecodeString(value); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	return all
}

// TestPublishedVectorsOpen takes the private key, the encapsulated key and the info of the
// published vectors. Their ciphertexts have additional data, which secrets have not: so the
// published one proves the published key and nonce, and what these make of the same text without
// additional data is what a device has to open.
func TestPublishedVectorsOpen(t *testing.T) {
	all := vectors(t)
	for _, name := range []string{"X25519", "MLKEM768-X25519"} {
		t.Run(name, func(t *testing.T) {
			v := all[name]
			aead, err := chacha20poly1305.New(v["key"])
			if err != nil {
				t.Fatal(err)
			}
			if got := aead.Seal(nil, v["nonce"], v["pt"], v["aad"]); !bytes.Equal(got, v["ct"]) {
				t.Fatalf("the vector does not agree with itself: %x", got)
			}
			kem, err := sealingKEM(binary.BigEndian.Uint16(v["kem"]))
			if err != nil {
				t.Fatal(err)
			}
			private, err := kem.NewPrivateKey(v["sk"])
			if err != nil {
				t.Fatal(err)
			}
			device := &Identity{report: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), sealing: private}
			if got := device.sealingKey().Public; !bytes.Equal(got, v["pk"]) {
				t.Errorf("public key %x", got)
			}
			sealed := aead.Seal(bytes.Clone(v["enc"]), v["nonce"], v["pt"], nil)
			r := Recipient{KEM: kem.ID(), KDF: kdfHKDFSHA256, AEAD: aeadChaCha20Poly1305, KID: device.sealingKey().KID(), Sealed: sealed}
			if got, err := device.Open([]Recipient{r}, v["info"]); err != nil || !bytes.Equal(got, v["pt"]) {
				t.Errorf("%q, %v", got, err)
			}
			if got, err := device.Open([]Recipient{r}, append(v["info"], 0)); !refusal.Is(err, refusal.SecretAuth) {
				t.Errorf("under another info: %q, %v", got, err)
			}
		})
	}
}
