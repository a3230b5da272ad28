package project

import (
	"strings"
	"testing"
)

func TestMistakes(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  string // a finding, as it prints
		hint  string
	}{
		{"no project", map[string]string{tideFile: ""}, "tide.yaml:1: error: product is missing", ""},
		{"bad name", map[string]string{tideFile: "product: Harbour\n"}, `tide.yaml:1: error: product "Harbour" is not a name`, ""},
		{"key twice", map[string]string{tideFile: "product: a\nproduct: b\n"}, `tide.yaml:2: error: key "product" is given twice, first on line 1`, ""},
		{"near key", map[string]string{tideFile: "product: a\nvalid_fr: 3d\n"}, `tide.yaml:2: error: unknown key "valid_fr"`, `did you mean "valid_for"?`},
		{"duration without unit", map[string]string{tideFile: "product: a\nvalid_for: 90\n"}, `tide.yaml:2: error: valid_for: want a duration, got "90"`, "write it with its unit: 500ms, 30s, 5m, 12h, 90d"},
		{"two ends", map[string]string{tideFile: "product: a\nvalid_for: 90d\nexpires: 2030-01-01\n"}, `tide.yaml:2: error: valid_for: expires is given too: want one of them`, ""},
		{"device id", map[string]string{tideFile: "product: a\ndevices: [abc]\n"}, `tide.yaml:2: error: devices: "abc" is not a device id: want 26 letters and digits, as tidegate status shows it`, ""},
		{"probe that writes", map[string]string{tideFile: "product: a\nprobes: [{method: POST, target: /x}]\n"}, `tide.yaml:2: error: probes[0]: method: POST: a probe runs every ten seconds, so it may only look: GET, HEAD or OPTIONS`, ""},
		{"acceptance", map[string]string{tideFile: "product: a\naccept_dropped: [interceptor]\n"}, `tide.yaml:2: error: accept_dropped: "interceptor" is not one of interceptors, plans`, "did you mean interceptors?"},
		{"broken YAML", map[string]string{tideFile: "product: a\n b: c\n"}, "tide.yaml:2: error: not readable as YAML: ", ""},
		{"not a mapping", map[string]string{tideFile: "- a\n"}, "tide.yaml:1: error: want a mapping, got a list", ""},

		{
			"plan overflows",
			map[string]string{plansFile: "resourcePolicies: [{a: {bandwidth: 9223372036854775807, bandwidthUnit: GB}}]\n"},
			`policies.yaml:1: error: plan "a": bandwidth: 9223372036854775807 GB is more than can be counted`, "",
		},
		{
			"count overflows",
			map[string]string{plansFile: "resourcePolicies: [{a: {count: 9223372036854775808}}]\n"},
			`policies.yaml:1: error: plan "a": count: want a whole number, got "9223372036854775808"`, "",
		},
		{
			"window overflows",
			map[string]string{plansFile: "resourcePolicies: [{a: {count: 1, unitTime: 1000000, timeUnit: year}}]\n"},
			`policies.yaml:1: error: plan "a": unitTime: 1000000 is not from 1 to 10`, "",
		},
		{
			"burst of nothing",
			map[string]string{plansFile: "subscriptionPolicies: [{a: {count: 5, burst: {count: 0}}}]\n"},
			`policies.yaml:1: error: plan "a": burst: count: 0 is not from 1 to 2147483647`, "",
		},
		{
			"never admits",
			map[string]string{plansFile: "subscriptionPolicies: [{a: {count: 0}}]\n"},
			`policies.yaml:1: error: plan "a": a count of 0 never admits a call`, "to refuse somebody, use blocked in consumers.yaml",
		},
		{
			"group never admits",
			map[string]string{plansFile: "resourcePolicies: [{a: {count: 1, groups: [{name: g, match: [{ip: 10.0.0.1}], bandwidth: 0}]}}]\n"},
			`policies.yaml:1: error: plan "a": groups[0] "g": a bandwidth of 0 never admits a call`, "to refuse somebody, use blocked in consumers.yaml",
		},
		{
			"limits nothing",
			map[string]string{plansFile: "subscriptionPolicies:\n - a: {}\n"},
			`policies.yaml:2: error: plan "a": limits nothing`, "give it a count, or use Unlimited",
		},
		{
			"count and bandwidth",
			map[string]string{plansFile: "subscriptionPolicies: [{a: {count: 1, bandwidth: 1}}]\n"},
			`policies.yaml:1: error: plan "a": bandwidth: count is given too: want one of them`, "",
		},
		{
			"calendar",
			map[string]string{plansFile: "subscriptionPolicies: [{a: {count: 1, align: day, unitTime: 2, timeUnit: day}}]\n"},
			`policies.yaml:1: error: plan "a": a window of 48h0m0s cannot follow the calendar: want one day, week or month`, "",
		},
		{
			"zone",
			map[string]string{plansFile: "subscriptionPolicies: [{a: {count: 1, align: day, zone: Europe/Olso}}]\n"},
			`policies.yaml:1: error: plan "a": zone "Europe/Olso" does not load`, "",
		},
		{
			"zone without calendar",
			map[string]string{plansFile: "subscriptionPolicies: [{a: {count: 1, zone: Europe/Oslo}}]\n"},
			`policies.yaml:1: error: plan "a": zone "Europe/Oslo" has no effect on a window that does not follow the calendar`, "",
		},
		{
			"unknown variable",
			map[string]string{plansFile: "customPolicies: [{a: {count: 1, keyTemplate: $user}}]\n"},
			`policies.yaml:1: error: plan "a": unknown variable "$user"`, "",
		},
		{
			"twice",
			map[string]string{plansFile: "customPolicies:\n- a: {count: 1, keyTemplate: $userId}\n- a: {count: 1, keyTemplate: $userId}\n"},
			`policies.yaml:3: error: plan "a": defined twice in customPolicies, first in policies.yaml:2`, "",
		},
		{
			"two conditions in one",
			map[string]string{plansFile: "resourcePolicies: [{a: {count: 1, groups: [{count: 1, match: [{ip: 10.0.0.1, header: X, pattern: y}]}]}}]\n"},
			`policies.yaml:1: error: plan "a": groups[0]: match[0]: a condition looks at one of ip, header, query, claim; this one at 2`, "",
		},
		{
			"range",
			map[string]string{plansFile: "resourcePolicies: [{a: {count: 1, groups: [{count: 1, match: [{ip: 10.0.0.9-10.0.0.1}]}]}}]\n"},
			`policies.yaml:1: error: plan "a": groups[0]: match[0]: ip: range "10.0.0.9-10.0.0.1": the end is not behind the start`, "",
		},
		{
			"plan in the wrong list",
			map[string]string{plansFile: "applicationPolicies: [{a: {count: 1}}]\n", consumersFile: "applications: [{id: x, plan: b}]\nsubscriptions: [{application: x, api: a, version: 1, plan: a}]\n"},
			`consumers.yaml:2: error: subscription of application "x" to a 1: unknown plan "a"`, "it is defined in applicationPolicies, but must be in subscriptionPolicies",
		},

		{
			"password",
			map[string]string{authFile: "users: [{name: a, password: b}]\n"},
			`auth.yaml:1: error: user "a": password: a password in a project is readable by everybody who has the bundle`, "give its hash as password_hash",
		},
		{
			"hash",
			map[string]string{authFile: "users: [{name: a, password_hash: secret}]\n"},
			`auth.yaml:1: error: user "a": the hash is of no known form`, "",
		},
		{
			"private JWK",
			map[string]string{authFile: `issuers: [{issuer: i, jwks: {keys: [{kty: OKP, crv: Ed25519, x: AA, d: AA}]}}]`},
			`auth.yaml:1: error: issuer "i": jwks: key 1: a private or secret key: it must not be in a project`, "",
		},
		{
			"symmetric key",
			map[string]string{authFile: `issuers: [{issuer: i, jwks: {keys: [{kty: oct, k: AA}]}}]`},
			`auth.yaml:1: error: issuer "i": jwks: key 1: a private or secret key: it must not be in a project`, "",
		},
		{
			"HMAC",
			map[string]string{authFile: `issuers: [{issuer: i, algorithms: HS256, jwks: {keys: [{kty: OKP, crv: Ed25519, x: 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo}]}}]`},
			`auth.yaml:1: error: issuer "i": algorithm "HS256" is not allowed`, "",
		},
		{
			"algorithm of another key",
			map[string]string{authFile: `issuers: [{issuer: i, algorithms: RS256, jwks: {keys: [{kty: OKP, crv: Ed25519, x: 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo}]}}]`},
			`auth.yaml:1: error: issuer "i": algorithm RS256 has no key that can verify it`, "",
		},
		{
			"key of another algorithm",
			map[string]string{authFile: `issuers: [{issuer: i, jwks: {keys: [{kty: OKP, crv: Ed25519, alg: RS256, x: 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo}]}}]`},
			`auth.yaml:1: error: issuer "i": jwks: key 1: the key cannot verify RS256`, "",
		},
		{
			"off the curve",
			map[string]string{authFile: `issuers: [{issuer: i, jwks: {keys: [{kty: EC, crv: P-256, x: AQ, y: AQ}]}}]`},
			`auth.yaml:1: error: issuer "i": jwks: key 1: not a point of the curve`, "",
		},
		{
			"short RSA",
			map[string]string{authFile: `issuers: [{issuer: i, jwks: {keys: [{kty: RSA, n: wJ8, e: AQAB}]}}]`},
			`auth.yaml:1: error: issuer "i": jwks: key 1: an RSA key of 16 bits: want an odd modulus of 2048 to 8192`, "",
		},
		{
			"not PEM",
			map[string]string{authFile: "mtls: {authorities: [{name: a, ca: x.pem}]}\n", "x.pem": "hello"},
			`auth.yaml:1: error: client authority "a": ca: no certificate in PEM form`, "",
		},
		{
			"out of the project",
			map[string]string{authFile: "mtls: {authorities: [{name: a, ca: ../x.pem}]}\n"},
			`auth.yaml:1: error: client authority "a": ca: "../x.pem" is not a path inside the project`, "",
		},
		{
			"API of a certificate",
			map[string]string{authFile: "mtls: {certificates: [{alias: a, certificate: x.pem, apis: [{name: nope}]}]}\n", "x.pem": "hello"},
			`auth.yaml:1: error: client authority "a": unknown API "nope" *`, "",
		},

		{
			"key in the open",
			map[string]string{consumersFile: "api_keys: [{name: a, key: b}]\n"},
			`consumers.yaml:1: error: API key "a": key: a key in a project is readable by everybody who has the bundle`, "give its SHA-256 as sha256",
		},
		{
			"API of a key",
			map[string]string{consumersFile: "\napi_keys: [{name: k, sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855, apis: [{name: a, version: 2}]}]\n"},
			`consumers.yaml:2: error: API key "k": unknown API "a" 2`, "it has 1",
		},
		{
			"block of no API",
			map[string]string{consumersFile: "blocked: [{type: API, value: /a/1}]\n"},
			`consumers.yaml:1: warning: block condition: no API answers at /a/1: nothing is blocked`, "give the base path with its version",
		},
		{
			"two revocations in one",
			map[string]string{consumersFile: "revoked: [{jti: a, user: b}]\n"},
			`consumers.yaml:1: error: revoked[0]: want one of jti, signature, api_key, api_key_sha256, consumer_key, application, user; got 2`, "",
		},
		{
			"state",
			map[string]string{consumersFile: "applications: [{id: x}]\nsubscriptions: [{application: x, api: a, version: 1, state: BLOCKT}]\n"},
			`consumers.yaml:2: error: subscriptions[0]: state: "BLOCKT" is not one of UNBLOCKED, TIER_UPDATE_PENDING, BLOCKED, PROD_ONLY_BLOCKED, ON_HOLD, INACTIVE, REJECTED`, "did you mean BLOCKED?",
		},

		{
			"secret twice",
			map[string]string{secretsFile: "a/B: x\na: {b: y}\n"},
			`secrets.yaml:2: error: the secret a/b is given twice, first on line 1: letter case and special characters do not count`, "",
		},
		{"secret of nobody", map[string]string{secretsFile: "a: x\n"}, `secrets.yaml:1: warning: the secret a is used by nothing`, ""},
		{"empty secret", map[string]string{secretsFile: "a: \"\"\n"}, `secrets.yaml:1: error: the secret a is empty`, ""},

		{
			"what only a device would find",
			map[string]string{"apis/a.yaml": minimalAPI + "  /x%2Dy: {get: {responses: {}}}\n  /x-y: {get: {responses: {}}}\n"},
			`error: a device would refuse it: `, "",
		},
		{"same API", map[string]string{"apis/b.yaml": minimalAPI}, `apis/b.yaml:2: error: API "a" 1: defined twice, first in apis/a.yaml:2`, ""},
		{
			"same base path",
			map[string]string{"apis/b.yaml": strings.Replace(minimalAPI, "title: a", "title: b", 1)},
			`apis/b.yaml:2: error: API "b" 1: its base path "/" is also that of API "a" 1 in apis/a.yaml:2`, "set x-wso2-basePath",
		},
		{"not OpenAPI", map[string]string{"apis/b.yaml": "a: b\n"}, `apis/b.yaml:1: error: not an OpenAPI document: no key openapi or swagger`, ""},
		{
			"wildcard with credentials",
			map[string]string{"apis/a.yaml": minimalAPI + "x-wso2-cors: {accessControlAllowOrigins: ['*'], accessControlAllowCredentials: true}\n"},
			`apis/a.yaml:2: error: API "a" 1: CORS: origin "*" with credentials: every web site could act for a user who is logged in`, "name the origins, or allow no credentials",
		},
		{
			"origin without scheme",
			map[string]string{"apis/a.yaml": minimalAPI + "x-wso2-cors: {accessControlAllowOrigins: [test.com]}\n"},
			`apis/a.yaml:2: warning: API "a" 1: CORS: the origin "test.com" has no scheme: no browser will send it`, "write https://test.com",
		},
		{
			"no endpoint",
			map[string]string{"apis/a.yaml": "openapi: 3.0.0\ninfo: {title: a, version: 1}\npaths: {/x: {get: {responses: {}}}}\n"},
			`apis/a.yaml:3: error: API "a" 1: GET /x: no endpoint: calls would have nowhere to go`, "set x-wso2-production-endpoints in the document, or backend in tide.yaml",
		},
		{
			"open to all",
			map[string]string{"apis/a.yaml": minimalAPI + "security: []\n"},
			`apis/a.yaml:2: warning: API "a" 1: anybody may call every operation`, "",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, findings := Load(minimal(t, tt.files))
			for _, f := range findings {
				if strings.HasPrefix(f.String(), tt.want) {
					if tt.hint != "" && f.Hint != tt.hint {
						t.Errorf("got hint %q, want %q", f.Hint, tt.hint)
					}
					return
				}
			}
			t.Errorf("no finding %q in:", tt.want)
			for _, f := range findings {
				t.Logf("%s (%s)", f, f.Hint)
			}
		})
	}
}
