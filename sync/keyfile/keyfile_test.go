package keyfile_test

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/keyfile"
)

func newKey(t *testing.T) keyfile.Key {
	t.Helper()
	k, err := keyfile.Generate("release-1")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeyComesBackWithItsPassphraseOnly(t *testing.T) {
	k := newKey(t)
	b, err := k.Marshal([]byte("tide"))
	if err != nil {
		t.Fatal(err)
	}
	if !keyfile.Sealed(b) || bytes.Contains(b, k.Private[:32]) {
		t.Error("the file is not sealed")
	}
	got, err := keyfile.Parse(b, []byte("tide"))
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != k.Name || !bytes.Equal(got.Private, k.Private) {
		t.Errorf("got %q, want %q with the same key", got.Name, k.Name)
	}
	for _, wrong := range []string{"Tide", "", "tide "} {
		if _, err := keyfile.Parse(b, []byte(wrong)); !refusal.Is(err, refusal.Key) {
			t.Errorf("passphrase %q: got %v, want E_KEY", wrong, err)
		}
	}
}

func TestUnsealedKeyNeedsNoPassphrase(t *testing.T) {
	k := newKey(t)
	b, err := k.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := keyfile.Parse(b, nil)
	if err != nil || !bytes.Equal(got.Private, k.Private) || keyfile.Sealed(b) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestDamagedFilesAreRefused(t *testing.T) {
	b, err := newKey(t).Marshal([]byte("p"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	kdf := regexp.MustCompile(`Kdf: .*`)
	for name, bad := range map[string]string{
		"empty":          "",
		"other block":    strings.ReplaceAll(text, "TIDEGATE PRIVATE KEY", "PRIVATE KEY"),
		"more behind":    text + "x",
		"huge memory":    strings.Replace(text, "m=65536", "m=4294967295", 1),
		"other kdf":      strings.Replace(text, "argon2id", "scrypt", 1),
		"made unsealed":  kdf.ReplaceAllString(text, "Kdf: none"),
		"no salt at all": strings.Replace(text, "salt=", "pepper=", 1),
	} {
		if _, err := keyfile.Parse([]byte(bad), []byte("p")); !refusal.Is(err, refusal.Key) {
			t.Errorf("%s: got %v, want E_KEY", name, err)
		}
	}
}

func TestPublicKeyIsOneLine(t *testing.T) {
	p := newKey(t).Public()
	got, err := keyfile.ParsePublic([]byte(p.String() + "\n"))
	if err != nil || got != p {
		t.Errorf("got %v, %v; want %v", got, err, p)
	}
	zero := "ed25519 " + strings.Repeat("00", 32)
	for _, bad := range []string{"", "ed25519", "rsa " + strings.Repeat("11", 32), p.String() + "\n" + p.String(), zero} {
		if _, err := keyfile.ParsePublic([]byte(bad)); !refusal.Is(err, refusal.Key) {
			t.Errorf("%q: got %v, want E_KEY", bad, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	k, err := keyfile.Generate("n")
	if err != nil {
		f.Fatal(err)
	}
	b, err := k.Marshal(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(k.Public().String()))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := keyfile.Parse(b, nil); err == nil && len(k.Private) != 64 {
			t.Errorf("accepted a key of %d bytes", len(k.Private))
		}
		if p, err := keyfile.ParsePublic(b); err == nil && p.Key.Valid() != nil {
			t.Error("accepted an invalid public key")
		}
	})
}
