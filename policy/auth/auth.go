// Package auth says who calls and whether the operation is for them: JWT (RFC 7519),
// opaque tokens, API keys, HTTP Basic (RFC 7617), client certificates, scopes,
// subscriptions and revocation, with the codes of WSO2 API Microgateway.
//
// [New] compiles a set into a [Guard], which is immutable and belongs to one edition.
// Everything is decided from the set, the call and the time the device can prove, with no
// network: only opaque tokens ask somebody else, through [Introspector].
//
// A [Cache] saves the cost of a signature. It holds verified credentials, never
// decisions: time and revocation are judged on every call, and an entry of another Guard does
// not count. So nothing in a cache outlives a revocation, an expiry or a change of keys.
//
// What a client is told does not say which check failed; the reason is in the Err of
// the *fault.Error, for the log, and never holds a credential. The package does not remove credentials
// from what is forwarded and does not count failures.
package auth

import (
	"context"
	"tidegate/policy"
	"tidegate/policy/fault"
	"time"
)

// MaxToken is the longest bearer token or API key that is looked at, in bytes.
const MaxToken = 8 << 10

// LoginMemory is the memory in bytes that one Argon2id login takes at the settings that tidectl
// writes; MaxLogin is the most that New lets a hash ask for, and so the least that a
// Memory must be able to lend at once.
const (
	LoginMemory = 12 << 20
	MaxLogin    = 2 * LoginMemory
)

// CertificateHeader carries a client certificate from a trusted proxy: PEM, or the base64 of
// DER or PEM, percent-encoded. From anybody else it is ignored.
const CertificateHeader = "X-Wso2-Client-Certificate"

// Options are what a Guard needs beside the set.
type Options struct {
	// Memory bounds what logins take at once. Required when the set has users with
	// Argon2id hashes.
	Memory Memory
	// Introspector judges opaque tokens; nil: they are refused.
	Introspector Introspector
	// Revoked is the list of revocations that came after the bundle; nil: none.
	Revoked Revoked
	// MissingKey is told the JWKSURL of an issuer when one of its tokens names a key that it
	// does not have. Strangers can make it be called on every call: it must not wait. nil: nobody.
	MissingKey func(url string)
}

// Memory lends memory to logins. Acquire waits for n bytes until ctx ends or for as long
// as the implementation sees fit; after an error the caller is told 503 and nothing is
// lent. *semaphore.Weighted of golang.org/x/sync is one.
type Memory interface {
	Acquire(ctx context.Context, n int64) error
	Release(n int64)
}

// Revoked is a list of revocations that changes while the Guard is in use. It must be
// safe for concurrent use, and an entry must be visible in Until before Generation moves.
type Revoked interface {
	// Generation is another number after each addition.
	Generation() uint64
	// Until returns until when a credential is revoked, in Unix seconds, 0 for ever.
	Until(kind policy.RevocationKind, hash [16]byte) (until uint64, revoked bool)
}

// An Introspector asks a key manager about an opaque token. It caches and limits its
// calls itself. An error means that no answer could be had: the caller is told 503, or what a
// *fault.Error says.
type Introspector interface {
	Introspect(ctx context.Context, q Question) (*Introspected, error)
}

// A Question is what an Introspector is asked.
type Question struct {
	Token    string
	API      *policy.API
	Op       *policy.Operation
	Resource string // template
	Method   string
}

// Introspected is what a key manager says of a token. It is read-only once returned.
type Introspected struct {
	Active      bool
	Code        int // 9009xx of a refusal; 0: 900901
	Subject     string
	Tenant      string
	ConsumerKey string
	KeyType     policy.KeyType
	Scopes      []string
	Expires     time.Time // zero: unknown
	ID          string    // jti
	Claims      *policy.Claims

	// Decided is set when the key manager has judged subscription and scopes too (SOAP).
	// The fields below then take the place of consumers of the set.
	Decided          bool
	SubscriptionPlan string
	ApplicationID    string
	ApplicationName  string
	ApplicationOwner string
	ApplicationPlan  string
	EndUserToken     string
}

// refuse returns a refusal with its reason for the log.
func refuse(f *fault.Fault, reason error) *fault.Error { return fault.New(f, reason) }
