package main

import (
	"context"
	"crypto/sha256"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"tidegate/policy"
)

func TestFetchForABuild(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/keys":
			_, _ = io.WriteString(w, "the keys")
		case "/moved":
			http.Redirect(w, r, "/keys", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := [][]byte{s.Certificate().Raw}
	sum := sha256.Sum256(s.Certificate().RawSubjectPublicKeyInfo)
	for name, tc := range map[string]struct {
		path    string
		profile *policy.TLS
		limit   int64
		want    string // of the error; "" for none
	}{
		"its authority":          {"/keys", &policy.TLS{CAs: ca}, 8, ""},
		"and pin":                {"/keys", &policy.TLS{CAs: ca, Pins: [][]byte{sum[:]}}, 8, ""},
		"another pin":            {"/keys", &policy.TLS{CAs: ca, Pins: [][]byte{make([]byte, 32)}}, 8, "pinned key"},
		"no authority":           {"/keys", nil, 8, "certificate"},
		"another name":           {"/keys", &policy.TLS{CAs: ca, ServerName: "elsewhere.invalid"}, 8, "elsewhere.invalid"},
		"any name":               {"/keys", &policy.TLS{CAs: ca, AnyName: true}, 8, "verify_hostname"},
		"too long":               {"/keys", &policy.TLS{CAs: ca}, 7, "more than 7 bytes"},
		"not found":              {"/nothing", &policy.TLS{CAs: ca}, 8, "404"},
		"somewhere else":         {"/moved", &policy.TLS{CAs: ca}, 8, "302"},
		"authority that is none": {"/keys", &policy.TLS{CAs: [][]byte{[]byte("x")}}, 8, "x509"},
	} {
		b, err := fetcher(context.Background())(s.URL+tc.path, tc.profile, tc.limit)
		switch {
		case tc.want == "" && (err != nil || string(b) != "the keys"):
			t.Errorf("%s: got %q, %v", name, b, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: got %q, %v; want %q", name, b, err, tc.want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := fetcher(ctx)(s.URL+"/keys", &policy.TLS{CAs: ca}, 8); err == nil {
		t.Error("fetched after the end")
	}
}
