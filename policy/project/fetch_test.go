package project

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"tidegate/policy"
	"tidegate/policy/jwk"
)

const publishedSet = `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`

// fetching is a project with one issuer of the given words.
func fetching(issuer string) fstest.MapFS {
	return fstest.MapFS{
		"tide.yaml": {Data: []byte("product: p\n")},
		"auth.yaml": {Data: []byte("issuers:\n  - " + issuer + "\n")},
		"apis/a.yaml": {Data: []byte("openapi: 3.0.3\ninfo: {title: a, version: '1'}\nx-wso2-basePath: /a\n" +
			"x-wso2-production-endpoints: {urls: ['http://b.example']}\npaths:\n  /x:\n    get: {responses: {'200': {description: d}}}\n")},
	}
}

func TestKeysAreFetchedAtBuild(t *testing.T) {
	for name, tc := range map[string]struct {
		issuer  string
		fetches int
		keys    int
		url     string
	}{
		"build":  {"{issuer: i, jwks_url: 'https://i.example/keys', fetch: build}", 1, 1, ""},
		"both":   {"{issuer: i, jwks_url: 'https://i.example/keys', fetch: both}", 1, 1, "https://i.example/keys"},
		"device": {"{issuer: i, jwks_url: 'https://i.example/keys', algorithms: [EdDSA]}", 0, 0, "https://i.example/keys"},
	} {
		fetches := 0
		r := Reader{Fetch: func(url string, _ *policy.TLS, limit int64) ([]byte, error) {
			fetches++
			if url != "https://i.example/keys" || limit != jwk.MaxBytes {
				t.Errorf("%s: fetched %s up to %d bytes", name, url, limit)
			}
			return []byte(publishedSet), nil
		}}
		p, fs := r.Load(fetching(tc.issuer))
		if p == nil {
			t.Fatalf("%s: %v", name, fs)
		}
		i := p.Set.Issuers[0]
		if fetches != tc.fetches || len(i.Keys) != tc.keys || i.JWKSURL != tc.url || len(i.Algorithms) != 1 || i.Algorithms[0] != "EdDSA" {
			t.Errorf("%s: %d fetches, got %+v", name, fetches, i)
		}
	}
}

func TestValidationNeedsNoFetch(t *testing.T) {
	if p, fs := Load(fetching("{issuer: i, jwks_url: 'https://i.example/keys', fetch: build}")); p == nil {
		t.Errorf("got %v", fs)
	}
}

func TestMistakesOfFetching(t *testing.T) {
	for name, tc := range map[string]struct {
		issuer, answer string
		err            error
		want           string
	}{
		"no link":       {"{issuer: i, jwks_url: 'https://i.example', fetch: build}", "", errors.New("no route"), `auth.yaml:2: error: issuer "i": jwks_url: not fetched: no route`},
		"private key":   {"{issuer: i, jwks_url: 'https://i.example', fetch: build}", `{"keys":[{"kty":"oct","k":"AA"}]}`, nil, "private or secret key"},
		"no set":        {"{issuer: i, jwks_url: 'https://i.example', fetch: both}", `<html>`, nil, "not JSON"},
		"nothing there": {"{issuer: i, algorithms: [ES256], fetch: build}", "", nil, "there is no jwks_url to fetch"},
		"both ways":     {"{issuer: i, jwks_url: 'https://i.example', jwks: {keys: []}, fetch: build}", "", nil, "want one of them"},
		"unknown place": {"{issuer: i, jwks_url: 'https://i.example', fetch: later}", "", nil, "later"},
		"profile":       {"{issuer: i, jwks_url: 'https://i.example', algorithms: [ES256], tls: nowhere}", "", nil, `unknown TLS profile "nowhere"`},
		"over plain":    {"{issuer: i, jwks_url: 'http://i.example', algorithms: [ES256]}", "", nil, "whoever is on the way"},
		"profile alone": {"{issuer: i, algorithms: [ES256], tls: nowhere}", "", nil, "there is no jwks_url that it could be for"},
	} {
		r := Reader{Fetch: func(string, *policy.TLS, int64) ([]byte, error) { return []byte(tc.answer), tc.err }}
		_, fs := r.Load(fetching(tc.issuer))
		found := false
		for _, f := range fs {
			found = found || strings.Contains(f.String(), tc.want)
		}
		if !found {
			t.Errorf("%s: no finding %q in %v", name, tc.want, fs)
		}
	}
}
