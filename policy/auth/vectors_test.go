package auth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"math/big"
	"testing"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/fault"
	"time"
)

// The signed tokens of RFC 7515, appendices A.2 (RS256) and A.3 (ES256).
const (
	rfcPayload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
	rfcRS256   = "eyJhbGciOiJSUzI1NiJ9." + rfcPayload + ".cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
	rfcN       = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
	rfcES256   = "eyJhbGciOiJFUzI1NiJ9." + rfcPayload + ".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
	rfcX       = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"
	rfcY       = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
)

func TestTokensOfRFC7515(t *testing.T) {
	octets := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	point, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, octets(rfcX)...), octets(rfcY)...))
	if err != nil {
		t.Fatal(err)
	}
	der := func(k any) []byte {
		b, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	set := base(t)
	set.Issuers = []policy.Issuer{{Name: "joe", Issuer: "joe", Algorithms: []string{"RS256", "ES256"}, Keys: []policy.Key{
		{PKIX: der(&rsa.PublicKey{N: new(big.Int).SetBytes(octets(rfcN)), E: 65537})},
		{PKIX: der(point)},
	}}}
	g := open(t, set, auth.Options{})
	exp := time.Unix(1300819380, 0)
	for name, token := range map[string]string{"A.2": rfcRS256, "A.3": rfcES256} {
		g.now = policy.Now{Lower: exp.Add(-time.Second), Upper: exp}
		p, err := g.ask(t, "/jwt", "Authorization", "Bearer "+token)
		check(t, name, p, err, nil)
		if err == nil && p.Claims.Text("http://example.com/is_root") != "true" {
			t.Errorf("%s: got %+v", name, p)
		}
		g.now = policy.Now{Lower: exp, Upper: exp}
		p, err = g.ask(t, "/jwt", "Authorization", "Bearer "+token)
		check(t, name+", over", p, err, fault.InvalidCredentials)
	}
}
