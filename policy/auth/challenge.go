package auth

import (
	"strings"
	"tidegate/policy"
	"tidegate/policy/fault"
)

const (
	bearerChallenge = `Bearer realm="tidegate"`
	basicChallenge  = `Basic realm="tidegate", charset="UTF-8"`
)

// challengeFor returns the challenge (RFC 9110 §11.6.1) for a kind of credential. The schemes of API
// keys and certificates are not registered, but a 401 must have one.
func challengeFor(kind policy.SchemeKind, keys []place, key int) string {
	switch kind {
	case policy.OAuth2:
		return bearerChallenge
	case policy.Basic:
		return basicChallenge
	case policy.APIKey:
		where := map[policy.Location]string{policy.InHeader: "header", policy.InQuery: "query", policy.InCookie: "cookie"}[keys[key].in]
		return `ApiKey realm="tidegate", in="` + where + `", name="` + quoted(keys[key].name) + `"`
	}
	return `ClientCertificate realm="tidegate"`
}

// unauthorized returns a 401 for a credential that was given.
func (t *trial) unauthorized(f *fault.Fault, reason error) *fault.Error {
	e := fault.New(f, reason)
	if f.Status != 401 {
		return e
	}
	e.Challenge = t.op.missing
	if t.op.bearer && t.offer.scheme == schemeBearer {
		e.Challenge = bearerChallenge + `, error="invalid_token", error_description="` + describe(f) + `"`
	}
	if e.Challenge == "" {
		e.Challenge = challengeFor(policy.Certificate, nil, 0)
	}
	return e
}

// describe says what RFC 6750 §3 lets a client know.
func describe(f *fault.Fault) string {
	switch f {
	case fault.TokenExpired:
		return "The access token expired"
	case fault.TemporarilyBlocked, fault.SubscriptionHold:
		return "The subscription is not active"
	}
	return "The access token is not valid"
}

func (t *trial) scopeChallenge() string {
	if !t.op.bearer || t.offer.scheme != schemeBearer {
		return ""
	}
	return bearerChallenge + `, error="insufficient_scope", scope="` + quoted(strings.Join(t.op.scopes, " ")) + `"`
}

// quoted makes s fit for a quoted-string (RFC 9110 §5.6.4).
func quoted(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)
}
