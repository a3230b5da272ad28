package seal

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"tidegate/platform/identity"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/canon"
	"tidegate/sync/trust"
)

// An Opener holds private sealing keys, as package identity does. Open opens what was sealed
// for one of them (HPKE base mode, RFC 9180 §5.1.1): E_SECRET_RECIPIENT if none is in the
// list, E_SECRET_AUTH if the seal does not open.
type Opener interface {
	Open(list []identity.Recipient, info []byte) ([]byte, error)
}

// Open returns the secrets of a bundle, nil if it has none: the entries of [SecretsPath] by
// their path, and every other sealed file under the path of the file. device may be nil;
// groups are keys that several devices hold, which is weaker: W_KEY_GROUP.
//
// E_SECRET_RECIPIENT: the bundle is sealed, and for none of the keys. E_SECRET_AUTH: it is
// for one of them and does not open. E_FORMAT: secrets.cbor is not the map it should be.
func Open(r *bundle.Reader, device Opener, groups ...Opener) (map[string][]byte, trust.Warnings, error) {
	m := r.Manifest()
	if len(m.Recipients) == 0 {
		return nil, nil, nil
	}
	key, w, err := unwrap(m, device, groups)
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
	return secrets, w, nil
}

// unwrap opens the content key.
func unwrap(m *bundle.Manifest, device Opener, groups []Opener) ([]byte, trust.Warnings, error) {
	list := make([]identity.Recipient, 0, len(m.Recipients))
	for _, r := range m.Recipients {
		if r.KEM > math.MaxUint16 || r.KDF > math.MaxUint16 || r.AEAD > math.MaxUint16 {
			continue // no number of the registry, so nobody's
		}
		list = append(list, identity.Recipient{KEM: uint16(r.KEM), KDF: uint16(r.KDF), AEAD: uint16(r.AEAD), KID: r.KeyID, Sealed: r.Sealed})
	}
	info := Bind(m).info()
	for i, o := range append([]Opener{device}, groups...) {
		if o == nil {
			continue
		}
		key, err := o.Open(list, info)
		if refusal.Is(err, refusal.SecretRecipient) {
			continue
		}
		if err == nil && len(key) != contentKeySize {
			err = refusal.New(refusal.SecretAuth, "the content key has %d bytes", len(key))
		}
		if err != nil {
			return nil, nil, err
		}
		if i == 0 {
			return key, nil, nil
		}
		return key, trust.Warnings{refusal.New(refusal.WarnKeyGroup, "the secrets were opened with a group key, which several devices hold")}, nil
	}
	return nil, nil, refusal.New(refusal.SecretRecipient, "the secrets are sealed for %d keys, none of them of this device", len(m.Recipients)).
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
