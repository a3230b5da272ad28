package apimtest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"sync"
	"testing"
)

// signer is the key of the token issuer, made once: a new RSA key takes long.
var signer = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// JWKS returns the keys of the token issuer.
func JWKS() map[string]any {
	k := signer().PublicKey
	enc := base64.RawURLEncoding.EncodeToString
	return map[string]any{"keys": []any{map[string]any{
		"kty": "RSA", "e": enc(big.NewInt(int64(k.E)).Bytes()), "n": enc(k.N.Bytes()), "use": "sig", "kid": "MzNkNDA5", "alg": "RS256",
	}}}
}

// Token returns a JWT with the given claims, as API Manager signs them.
func Token(t testing.TB, claims map[string]any) string {
	t.Helper()
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	enc := base64.RawURLEncoding.EncodeToString
	head := enc([]byte(`{"typ":"JWT","alg":"RS256","kid":"MzNkNDA5"}`)) + "." + enc(body)
	sum := sha256.Sum256([]byte(head))
	sig, err := rsa.SignPKCS1v15(rand.Reader, signer(), crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return head + "." + enc(sig)
}
