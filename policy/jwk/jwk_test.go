package jwk_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"tidegate/policy"
	"tidegate/policy/jwk"
)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// The keys of RFC 7517 appendix A.1 and RFC 8037 appendix A.2.
const (
	rfcEC  = `{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"enc","kid":"1"}`
	rfcRSA = `{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}`
	rfcOKP = `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`
)

func TestKeysOfTheStandards(t *testing.T) {
	ec := strings.Replace(rfcEC, `"use":"enc",`, "", 1)
	keys, err := jwk.Parse([]byte(`{"keys":[` + ec + "," + rfcRSA + "," + rfcOKP + `],"more":1}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		id, alg string
		can     string
	}{{"1", "", "ES256"}, {"2011-04-29", "RS256", "RS256"}, {"", "", "EdDSA"}}
	if len(keys) != len(want) {
		t.Fatalf("%d keys, want %d", len(keys), len(want))
	}
	for i, w := range want {
		pub, err := x509.ParsePKIXPublicKey(keys[i].PKIX)
		if err != nil {
			t.Fatal(err)
		}
		if keys[i].ID != w.id || keys[i].Algorithm != w.alg || policy.Algorithms(pub)[0] != w.can {
			t.Errorf("key %d: got %+v", i, keys[i])
		}
	}
}

func TestEveryCurveComesBackAsItWas(t *testing.T) {
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		for range 8 { // coordinates with leading zeros, sooner or later
			k, err := ecdsa.GenerateKey(c, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			der, err := x509.MarshalPKIXPublicKey(k.Public())
			if err != nil {
				t.Fatal(err)
			}
			point, err := k.PublicKey.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			half := (len(point) - 1) / 2
			x, y := new(big.Int).SetBytes(point[1:1+half]), new(big.Int).SetBytes(point[1+half:])
			got, err := jwk.Parse(fmt.Appendf(nil, `{"keys":[{"kty":"EC","crv":%q,"x":%q,"y":%q}]}`, c.Params().Name, b64(x.Bytes()), b64(y.Bytes())))
			if err != nil || string(got[0].PKIX) != string(der) {
				t.Fatalf("%s: got %v, %v", c.Params().Name, got, err)
			}
		}
	}
}

func TestKeysForOtherUsesArePassedOver(t *testing.T) {
	for name, other := range map[string]string{
		"for encryption":     rfcEC,
		"key_ops":            strings.Replace(rfcOKP, "{", `{"key_ops":["wrapKey"],`, 1),
		"unknown kind":       `{"kty":"AKP","pub":"AA"}`,
		"unknown curve":      `{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}`,
		"X25519":             `{"kty":"OKP","crv":"X25519","x":"AA"}`,
		"encryption by name": strings.Replace(rfcRSA, "RS256", "RSA-OAEP", 1),
	} {
		keys, err := jwk.Parse([]byte(`{"keys":[` + other + "," + rfcOKP + `]}`))
		if err != nil || len(keys) != 1 {
			t.Errorf("%s beside a good key: got %d keys, %v", name, len(keys), err)
		}
		if _, err := jwk.Parse([]byte(`{"keys":[` + other + `]}`)); err == nil {
			t.Errorf("%s alone: accepted", name)
		}
	}
}

func TestWrongSets(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set := func(k string) string { return `{"keys":[` + rfcOKP + "," + k + `]}` }
	for name, tc := range map[string]struct{ set, reason string }{
		"empty":                   {``, "not JSON"},
		"list":                    {`[]`, "not a JSON object"},
		"no keys":                 {`{}`, "no list"},
		"keys is null":            {`{"keys":null}`, "no list"},
		"keys is a mapping":       {`{"keys":{}}`, "no list"},
		"no key":                  {`{"keys":[]}`, "none of the keys"},
		"keys twice":              {`{"keys":[` + rfcOKP + `],"keys":[]}`, "twice"},
		"something behind":        {`{"keys":[` + rfcOKP + `]} {}`, "not JSON"},
		"not UTF-8":               {"{\"keys\":[\"\xff\"]}", "UTF-8"},
		"key is a text":           {set(`"x"`), "key 2"},
		"member twice":            {set(`{"kty":"OKP","kty":"RSA"}`), "twice"},
		"escaped member twice":    {set(`{"kty":"OKP","kt\u0079":"RSA"}`), "twice"},
		"private Ed25519":         {set(`{"kty":"OKP","crv":"Ed25519","x":"AA","d":"` + b64(ed.Seed()) + `"}`), "private"},
		"prime of RSA":            {set(strings.Replace(rfcRSA, "{", `{"p":"AA",`, 1)), "private"},
		"private for encryption":  {set(strings.Replace(rfcEC, "{", `{"d":"AA",`, 1)), "private"},
		"symmetric":               {set(`{"kty":"oct","k":"AAAA"}`), "private"},
		"no kind":                 {set(`{"crv":"Ed25519"}`), "kty"},
		"kind is a number":        {set(`{"kty":1}`), "kty"},
		"small RSA":               {set(`{"kty":"RSA","n":"` + b64(small.N.Bytes()) + `","e":"AQAB"}`), "1024 bits"},
		"even modulus":            {set(`{"kty":"RSA","n":"` + b64(append(append([]byte{0x80}, make([]byte, 254)...), 2)) + `","e":"AQAB"}`), "odd modulus"},
		"huge RSA":                {set(`{"kty":"RSA","n":"` + b64(make([]byte, 2000)) + `","e":"AQAB"}`), "too long"},
		"exponent 1":              {set(strings.Replace(rfcRSA, "AQAB", "AQ", 1)), "exponent"},
		"even exponent":           {set(strings.Replace(rfcRSA, "AQAB", "BA", 1)), "exponent"},
		"huge exponent":           {set(strings.Replace(rfcRSA, "AQAB", "AQAAAAAAAQ", 1)), "exponent"},
		"not on the curve":        {set(`{"kty":"EC","crv":"P-256","x":"AQ","y":"AQ"}`), "not a point"},
		"infinity":                {set(`{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}`), "not a point"},
		"long coordinate":         {set(`{"kty":"EC","crv":"P-256","x":"` + b64(make([]byte, 33)) + `","y":"AA"}`), "too long"},
		"short Ed25519":           {set(`{"kty":"OKP","crv":"Ed25519","x":"AAAA"}`), "bytes"},
		"base64 with plus":        {set(`{"kty":"OKP","crv":"Ed25519","x":"++++"}`), "base64url"},
		"another key's algorithm": {set(strings.Replace(rfcRSA, "RS256", "ES256", 1)), "cannot verify"},
		"key_ops is a text":       {set(strings.Replace(rfcRSA, "{", `{"key_ops":"verify",`, 1)), "key_ops"},
		"kid is a number":         {set(strings.Replace(rfcOKP, "{", `{"kid":7,`, 1)), "kid"},
		"long kid":                {set(strings.Replace(rfcOKP, "{", `{"kid":"`+strings.Repeat("k", 257)+`",`, 1)), "kid"},
		"many keys":               {`{"keys":[` + strings.Repeat(rfcOKP+",", jwk.MaxKeys) + rfcOKP + `]}`, "more than"},
		"too long":                {`{"keys":[` + rfcOKP + `]}` + strings.Repeat(" ", jwk.MaxBytes), "at most"},
	} {
		keys, err := jwk.Parse([]byte(tc.set))
		if err == nil || !strings.Contains(err.Error(), tc.reason) || keys != nil {
			t.Errorf("%s: got %d keys, %v; want an error with %q", name, len(keys), err, tc.reason)
		}
	}
	if _, err := jwk.Parse([]byte(set(`{"kty":"oct","k":"AAAA"}`))); !errors.Is(err, jwk.ErrPrivate) {
		t.Errorf("got %v, want ErrPrivate", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"keys":[` + rfcEC + "," + rfcRSA + "," + rfcOKP + `]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQ","e":"AQAB"}]}`))
	f.Add([]byte(`{"keys":[[[[]]]]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := jwk.Parse(b)
		if (err == nil) != (len(keys) > 0) || len(keys) > jwk.MaxKeys {
			t.Fatalf("%d keys, %v", len(keys), err)
		}
		for _, k := range keys {
			pub, err := x509.ParsePKIXPublicKey(k.PKIX)
			if err != nil || policy.Algorithms(pub) == nil {
				t.Fatalf("a key that verifies nothing: %v", err)
			}
		}
	})
}
