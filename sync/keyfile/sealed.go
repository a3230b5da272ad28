package keyfile

import (
	"bytes"
	"encoding/pem"
	"tidegate/policy/refusal"
)

// Seal returns a PEM file of the given type that holds a secret other than a key, sealed as
// a key file is. The passphrase must not be empty; name is for people.
func Seal(kind, name string, secret, passphrase []byte) ([]byte, error) {
	if len(passphrase) == 0 {
		return nil, refusal.New(refusal.Key, "nothing to seal with")
	}
	block := &pem.Block{Type: kind, Headers: map[string]string{"Name": name}}
	if err := seal(block, secret, passphrase); err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}

// Unseal opens what [Seal] made. A file of another type, and one that cannot be opened, is E_KEY.
func Unseal(kind string, b, passphrase []byte) ([]byte, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != kind || len(bytes.TrimSpace(rest)) > 0 {
		return nil, refusal.New(refusal.Key, "not a sealed file of this kind")
	}
	return open(block, passphrase)
}
