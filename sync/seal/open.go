package seal

import (
	"bytes"
	"fmt"
	"maps"

	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/canon"
	"tidegate/sync/trust"
)

// A Key is a private sealing key, as its keeper lets it be used.
type Key struct {
	Public trust.SealKey
	Group  bool // several devices hold it, which is weaker
	// Open opens enc ‖ ciphertext by HPKE base mode with HKDF-SHA256, ChaCha20-Poly1305
	// and no additional data (RFC 9180 §6.1).
	Open func(info, sealed []byte) ([]byte, error)
}

// Open returns the secrets of a bundle, nil if it has none: the entries of [SecretsPath] by
// their path, and every other sealed file under the path of the file.
//
// E_SECRET_RECIPIENT: the bundle is sealed, and for none of keys. E_SECRET_AUTH: it is for
// one of them and does not open. E_FORMAT: secrets.cbor is not the map it should be. The
// warning is W_KEY_GROUP if a group key was used.
func Open(r *bundle.Reader, keys ...Key) (map[string][]byte, trust.Warnings, error) {
	m := r.Manifest()
	if len(m.Recipients) == 0 {
		return nil, nil, nil
	}
	key, group, err := unwrap(m, keys)
	if err != nil {
		return nil, nil, err
	}
	secrets := make(map[string][]byte)
	for _, f := range m.Files {
		if f.Codec != bundle.Sealed {
			continue
		}
		sealed, err := r.ReadFile(f.Path, bundle.MaxSealed)
		if err != nil {
			return nil, nil, err
		}
		plain, err := openFile(key, f.Path, sealed)
		if err != nil {
			return nil, nil, err
		}
		if f.Path != SecretsPath {
			secrets[f.Path] = plain
			continue
		}
		values, err := Decode(plain)
		if err != nil {
			return nil, nil, err
		}
		maps.Copy(secrets, values)
	}
	var w trust.Warnings
	if group {
		w = append(w, refusal.New(refusal.WarnKeyGroup, "the secrets were opened with a group key, which several devices hold"))
	}
	return secrets, w, nil
}

// unwrap opens the content key with the first of keys that is a recipient.
func unwrap(m *bundle.Manifest, keys []Key) (key []byte, group bool, err error) {
	for _, k := range keys {
		id := KeyID(k.Public)
		for _, r := range m.Recipients {
			if r.KeyID != id || r.KEM != k.Public.KEM || r.KDF != kdf || r.AEAD != aead {
				continue
			}
			key, err := k.Open(Bind(m).info(), bytes.Clone(r.Sealed))
			if err != nil || len(key) != contentKeySize {
				return nil, false, refusal.New(refusal.SecretAuth, "the content key does not open with key %s", id)
			}
			return key, k.Group, nil
		}
	}
	return nil, false, refusal.New(refusal.SecretRecipient, "the secrets are sealed for %d keys, none of them of this device", len(m.Recipients)).
		WithHint("enrol the device and build again with its key")
}

// Encode returns the content of secrets.cbor.
func Encode(secrets map[string][]byte) ([]byte, error) {
	if secrets == nil {
		secrets = map[string][]byte{}
	}
	return canon.Marshal(secrets)
}

// Decode reads what [Encode] writes. The values never appear in its errors.
func Decode(b []byte) (map[string][]byte, error) {
	secrets := make(map[string][]byte)
	if err := canon.Check(b, canon.Within(MaxPlain)); err != nil {
		return nil, fmt.Errorf("%s: %w", SecretsPath, err)
	}
	c := canon.Walk(b)
	n, ok := c.Map()
	for i := uint64(0); ok && i < n; i++ {
		var path string
		var value []byte
		if path, ok = c.Text(); ok {
			value, ok = c.Bytes()
		}
		secrets[path] = bytes.Clone(value)
	}
	if !ok {
		return nil, refusal.New(refusal.Format, "%s: want a map from text to byte strings", SecretsPath)
	}
	return secrets, nil
}
