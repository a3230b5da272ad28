package policy

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// RevocationWords are the ways to name a credential that no longer counts, as they stand in
// consumers.yaml, in the admin API and on command lines.
var RevocationWords = [...]string{"jti", "signature", "api_key", "api_key_sha256", "consumer_key", "application", "user"}

// Revoke returns the revocations of what word and value name, until a time in Unix seconds, 0
// for ever. It is one, but for a signature of a length that ECDSA has: its text does not say
// which algorithm it was.
func Revoke(word, value string, until uint64) ([]Revocation, error) {
	of := func(kind RevocationKind, b []byte) Revocation {
		sum := sha256.Sum256(b)
		return Revocation{Kind: kind, Hash: [16]byte(sum[:16]), Until: until}
	}
	if value == "" {
		return nil, fmt.Errorf("%s is empty", word)
	}
	switch word {
	case "jti":
		return []Revocation{of(RevokedID, []byte(value))}, nil
	case "api_key":
		return []Revocation{of(RevokedKey, []byte(value))}, nil
	case "consumer_key":
		return []Revocation{of(RevokedConsumer, []byte(value))}, nil
	case "application":
		return []Revocation{of(RevokedApplication, []byte(value))}, nil
	case "user":
		return []Revocation{of(RevokedUser, []byte(value))}, nil
	case "api_key_sha256":
		b, err := hex.DecodeString(value)
		if err != nil || len(b) != sha256.Size {
			return nil, errors.New("api_key_sha256: want 64 hex digits")
		}
		return []Revocation{{Kind: RevokedKey, Hash: [16]byte(b[:16]), Until: until}}, nil
	case "signature":
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(value, "="))
		if err != nil || len(b) == 0 {
			return nil, errors.New("signature: want the third part of a token, in base64url")
		}
		out := []Revocation{of(RevokedSignature, b)}
		// For ES* the half r counts: (r, n−s) is as valid as (r, s).
		if n := len(b); n == 64 || n == 96 || n == 132 {
			out = append(out, of(RevokedSignature, b[:n/2]))
		}
		return out, nil
	}
	return nil, fmt.Errorf("%q names no credential: want one of %s", word, strings.Join(RevocationWords[:], ", "))
}
