package keyfile

import (
	"bytes"
	"testing"
	"tidegate/policy/refusal"
)

func TestUnsealOpensWhatSealMadeAndNothingElse(t *testing.T) {
	const kind = "TIDEGATE TEST SECRET"
	secret, pass := []byte("the client's secret"), []byte("correct horse")
	b, err := Seal(kind, "somebody", secret, pass)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, secret) {
		t.Fatal("the secret is readable in the file")
	}
	got, err := Unseal(kind, b, pass)
	if err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("got %q, %v, want %q", got, err, secret)
	}
	for name, f := range map[string]func() ([]byte, error){
		"another passphrase": func() ([]byte, error) { return Unseal(kind, b, []byte("wrong")) },
		"no passphrase":      func() ([]byte, error) { return Unseal(kind, b, nil) },
		"another kind":       func() ([]byte, error) { return Unseal("TIDEGATE OTHER", b, pass) },
		"another kind, renamed": func() ([]byte, error) {
			return Unseal("TIDEGATE OTHER", bytes.ReplaceAll(b, []byte(kind), []byte("TIDEGATE OTHER")), pass)
		},
		"something behind it": func() ([]byte, error) { return Unseal(kind, append(bytes.Clone(b), "more"...), pass) },
	} {
		if got, err := f(); !refusal.Is(err, refusal.Key) {
			t.Errorf("%s: got %q, %v, want E_KEY", name, got, err)
		}
	}
	if _, err := Seal(kind, "x", secret, nil); err == nil {
		t.Error("sealed with nothing")
	}
}
