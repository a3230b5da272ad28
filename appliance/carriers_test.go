package appliance_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
)

// A credential is for the gateway: wherever the guard may take it from, all of that place
// leaves the call, and nothing else does.
func TestCredentialsLeaveTheForwardedCall(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s auth=%q key=%q cookie=%q", r.RequestURI, r.Header["Authorization"], r.Header["X-Api-Key"], r.Header["Cookie"])
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	t.Cleanup(s.Close)
	d := devicetest.Start(t, devicetest.Options{})
	set := d.Fleet.API(t, s.URL, "/jwt", "/header", "/query", "/cookie", "/open")
	a := &set.APIs[0]
	a.Schemes = []policy.Scheme{
		{Kind: policy.OAuth2},
		{Kind: policy.APIKey, In: policy.InHeader, Name: "X-API-Key"},
		{Kind: policy.APIKey, In: policy.InQuery, Name: "api key"},
		{Kind: policy.APIKey, In: policy.InCookie, Name: "sid"},
	}
	for i := range 4 {
		a.Operations[i].Security = []policy.Alternative{{{Scheme: uint32(i)}}}
	}
	const key = "0123456789abcdef0123456789abcdef"
	set.APIKeys.Keys = []policy.HashedKey{{Hash: sha256.Sum256([]byte(key)), Name: "k"}}
	d.Apply(t, set)
	token := "Bearer " + d.Fleet.Token(t, nil)
	for _, tc := range []struct {
		path   string
		header []string
		want   string
	}{
		{"/jwt?a=1", []string{"Authorization", token, "X-API-Key", "other", "Cookie", "a=b"}, `/jwt?a=1 auth=[] key=["other"] cookie=["a=b"]`},
		{"/header", []string{"Authorization", "Basic eA==", "X-API-Key", key}, `/header auth=["Basic eA=="] key=[] cookie=[]`},
		{"/query?a=1&api+key=" + key + "&b=%20&", nil, `/query?a=1&b=%20& auth=[] key=[] cookie=[]`},
		{"/query?%61pi%20key=" + key, nil, `/query auth=[] key=[] cookie=[]`},
		{"/query?api%20key=" + key + "&apikey=stays", nil, `/query?apikey=stays auth=[] key=[] cookie=[]`},
		{"/cookie", []string{"Cookie", "a=1; sid=" + key + "; sidx=2"}, `/cookie auth=[] key=[] cookie=["a=1; sidx=2"]`},
		{"/cookie", []string{"Cookie", "sid=" + key}, `/cookie auth=[] key=[] cookie=[]`},
		{"/open", []string{"Authorization", token, "X-API-Key", key, "Cookie", "sid=1"}, fmt.Sprintf(`/open auth=[%q] key=[%q] cookie=["sid=1"]`, token, key)},
	} {
		a := call(t, "GET", d.URL("/echo/1.0"+tc.path), tc.header...)
		if a.status != 200 || a.body != tc.want {
			t.Errorf("%s: got %d %s\nwant %s", tc.path, a.status, a.body, tc.want)
		}
	}
}
