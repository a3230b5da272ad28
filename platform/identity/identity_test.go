package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/policy/refusal"
)

func load(t *testing.T, dir string, o Options) *Identity {
	t.Helper()
	i, err := Load(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestKeysAreMadeOnceAndStay(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	first := load(t, dir, Options{})
	again := load(t, dir, Options{KEM: MLKEM768X25519}) // an option for new keys changes none
	if first.ID() != again.ID() || !bytes.Equal(first.SealingKeys()[0].Public, again.SealingKeys()[0].Public) {
		t.Error("the second start has other keys")
	}
	if id, err := ReadID(dir); err != nil || id != first.ID() {
		t.Errorf("id file: %v, %v", id, err)
	}
	for _, name := range []string{reportFile, sealingFile} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if load(t, t.TempDir(), Options{}).ID() == first.ID() {
		t.Error("two devices have one id")
	}
	if !ed25519.Verify(again.ReportKey(), []byte("m"), first.Sign([]byte("m"))) {
		t.Error("the signature does not verify")
	}
}

func TestIDHasOneForm(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey)
	id := IDOf(key)
	s := id.String()
	if len(s) != 26 || s != strings.ToLower(s) {
		t.Errorf("id %q", s)
	}
	if back, err := ParseID(s); err != nil || back != id {
		t.Errorf("%v, %v", back, err)
	}
	last := s[:25] + string(rune(s[25]+1)) // unused bits set
	for _, bad := range []string{"", s[:25], s + "a", strings.ToUpper(s), last, strings.Repeat("1", 26)} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	// The COSE key of the all-zero seed, written out.
	b, err := hex.DecodeString("a301012006215820" + "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29")
	if err != nil || Thumbprint(key) != sha256.Sum256(b) {
		t.Errorf("thumbprint %x, %v", Thumbprint(key), err)
	}
}

func TestSecretsOpen(t *testing.T) {
	info := []byte("bundle 7")
	for _, kem := range []uint16{X25519, MLKEM768X25519} {
		i := load(t, t.TempDir(), Options{KEM: kem})
		other := load(t, t.TempDir(), Options{KEM: kem})
		seal := func(to *Identity) Recipient {
			k := to.SealingKeys()[0]
			m, err := hpke.NewKEM(k.KEM)
			if err != nil {
				t.Fatal(err)
			}
			pub, err := m.NewPublicKey(k.Public)
			if err != nil {
				t.Fatal(err)
			}
			sealed, err := hpke.Seal(pub, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), info, bytes.Repeat([]byte{7}, 32))
			if err != nil {
				t.Fatal(err)
			}
			return Recipient{KEM: k.KEM, KDF: 1, AEAD: 3, KID: k.KID(), Sealed: sealed}
		}
		list := []Recipient{seal(other), seal(i)}
		if want := map[uint16]int{X25519: 80, MLKEM768X25519: 1168}[kem]; len(list[1].Sealed) != want {
			t.Errorf("KEM %#x: %d bytes, want %d", kem, len(list[1].Sealed), want)
		}
		if got, err := i.Open(list, info); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{7}, 32)) {
			t.Errorf("KEM %#x: %x, %v", kem, got, err)
		}
		if _, err := i.Open(list, []byte("bundle 8")); !refusal.Is(err, refusal.SecretAuth) {
			t.Errorf("in another bundle: got %v, want E_SECRET_AUTH", err)
		}
		if _, err := i.Open(list[:1], info); !refusal.Is(err, refusal.SecretRecipient) {
			t.Errorf("for another device: got %v, want E_SECRET_RECIPIENT", err)
		}
		weak := list[1]
		weak.AEAD = 0xffff
		if _, err := i.Open([]Recipient{weak}, info); !refusal.Is(err, refusal.SecretRecipient) {
			t.Errorf("with another suite: got %v, want E_SECRET_RECIPIENT", err)
		}
		short := list[1]
		short.Sealed = short.Sealed[:10]
		if _, err := i.Open([]Recipient{short}, info); !refusal.Is(err, refusal.SecretAuth) {
			t.Errorf("cut: got %v, want E_SECRET_AUTH", err)
		}
	}
}

// Nothing is replaced in silence: each of these is E_KEY, names the file, and leaves the
// files as they were.
func TestKeysThatCannotBeUsed(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir string) string{
		"report key lost":  func(t *testing.T, dir string) string { return remove(t, dir, reportFile) },
		"sealing key lost": func(t *testing.T, dir string) string { return remove(t, dir, sealingFile) },
		"open to others": func(t *testing.T, dir string) string {
			p := filepath.Join(dir, sealingFile)
			must(t, os.Chmod(p, 0o644))
			return p
		},
		"a link": func(t *testing.T, dir string) string {
			p := filepath.Join(dir, reportFile)
			must(t, os.Rename(p, p+".real"))
			must(t, os.Symlink(p+".real", p))
			return p
		},
		"a folder": func(t *testing.T, dir string) string {
			p := remove(t, dir, reportFile)
			must(t, os.Mkdir(p, 0o700))
			return p
		},
		"empty": func(t *testing.T, dir string) string { return spoilWith(t, dir, reportFile, nil) },
		"other kind": func(t *testing.T, dir string) string {
			return spoilWith(t, dir, reportFile, pem.EncodeToMemory(&pem.Block{Type: sealingType, Bytes: make([]byte, 32)}))
		},
		"short": func(t *testing.T, dir string) string {
			return spoilWith(t, dir, reportFile, pem.EncodeToMemory(&pem.Block{Type: reportType, Bytes: make([]byte, 31)}))
		},
		"another device's": func(t *testing.T, dir string) string {
			return spoilWith(t, dir, reportFile, pem.EncodeToMemory(&pem.Block{Type: reportType, Bytes: make([]byte, 32)}))
		},
		"unknown KEM": func(t *testing.T, dir string) string {
			return spoilWith(t, dir, sealingFile, pem.EncodeToMemory(&pem.Block{Type: sealingType, Headers: map[string]string{"KEM": "0x0010"}, Bytes: make([]byte, 32)}))
		},
		"id damaged": func(t *testing.T, dir string) string { return spoilWith(t, dir, idFile, []byte("x")) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			load(t, dir, Options{})
			path := spoil(t, dir)
			_, err := Load(dir, Options{})
			if !refusal.Is(err, refusal.Key) || !strings.Contains(err.Error(), path) {
				t.Fatalf("got %v, want E_KEY about %s", err, path)
			}
			if _, again := Load(dir, Options{}); again == nil || again.Error() != err.Error() {
				t.Errorf("the second try says %v", again)
			}
		})
	}
}

func TestForeignOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give a file away")
	}
	dir := t.TempDir()
	load(t, dir, Options{})
	must(t, os.Chown(filepath.Join(dir, reportFile), 12345, -1))
	if _, err := Load(dir, Options{}); !refusal.Is(err, refusal.Key) || refusal.Hint(err) == "" {
		t.Errorf("got %v, want E_KEY with a hint", err)
	}
}

func TestACutAtFirstStartIsRepaired(t *testing.T) {
	dir := t.TempDir()
	i := load(t, dir, Options{})
	remove(t, dir, idFile)
	remove(t, dir, sealingFile)
	again := load(t, dir, Options{})
	if again.ID() != i.ID() {
		t.Error("the report key that was there was replaced")
	}
}

func TestCredentials(t *testing.T) {
	made, dir, creds := t.TempDir(), t.TempDir(), t.TempDir()
	want := load(t, made, Options{})
	if i := load(t, dir, Options{Credentials: creds}); i.ID() == want.ID() {
		t.Error("an empty folder gave keys")
	}
	copyTo := func(from, to string) {
		b, err := os.ReadFile(filepath.Join(made, from))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(creds, to), b, 0o440))
	}
	copyTo(reportFile, reportCredential)
	if _, err := Load(dir, Options{Credentials: creds}); !refusal.Is(err, refusal.Key) {
		t.Errorf("one of two: got %v, want E_KEY", err)
	}
	copyTo(sealingFile, sealingCredential)
	if i := load(t, dir, Options{Credentials: creds}); i.ID() != want.ID() || !strings.Contains(i.Where(), "credentials") {
		t.Errorf("got %v from %q, want %v", i.ID(), i.Where(), want.ID())
	}
}

func FuzzKeyFile(f *testing.F) {
	f.Add(pem.EncodeToMemory(&pem.Block{Type: sealingType, Headers: map[string]string{"KEM": "0x0020"}, Bytes: make([]byte, 32)}))
	f.Add([]byte("-----BEGIN TIDEGATE SEALING KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		block, err := parse(b, sealingType)
		if err != nil {
			return
		}
		if k, err := sealingFrom(block); err == nil && k.KEM().ID() != X25519 && k.KEM().ID() != MLKEM768X25519 {
			t.Errorf("KEM %#x", k.KEM().ID())
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, dir, name string) string {
	t.Helper()
	p := filepath.Join(dir, name)
	must(t, os.Remove(p))
	return p
}

func spoilWith(t *testing.T, dir, name string, b []byte) string {
	t.Helper()
	p := filepath.Join(dir, name)
	must(t, os.WriteFile(p, b, 0o600))
	return p
}
