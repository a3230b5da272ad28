package auth

import (
	"errors"
	"tidegate/policy"
	"tidegate/policy/fault"
	"time"
)

var (
	errOpaque   = errors.New("the token is not a JWT, and no key manager is configured to ask")
	errToken    = errors.New("the token has characters no token has")
	errInactive = errors.New("the key manager says that the token does not count")
	errClient   = errors.New("the key manager does not say whose token it is, and subscriptions are required")
)

// introspectRetry is when a client may try again while the key manager is away.
const introspectRetry = 5 * time.Second

// refusal returns the fault that a key manager asks for (SOAP validationStatus).
func (r *Introspected) refusal() *fault.Fault {
	if r == nil {
		return fault.InvalidCredentials
	}
	for _, f := range []*fault.Fault{
		fault.Unclassified, fault.MissingCredentials, fault.TokenExpired, fault.TokenInactive,
		fault.TokenType, fault.NoResource, fault.TemporarilyBlocked, fault.ResourceForbidden, fault.SubscriptionHold, fault.InsufficientScope,
	} {
		if f.Code == r.Code {
			return f
		}
	}
	return fault.InvalidCredentials
}

// opaque asks the key manager about a token.
func (t *trial) opaque(s string) (*policy.Principal, *fault.Error) {
	if t.g.introspector == nil || t.g.set.Introspection == nil {
		return nil, t.unauthorized(fault.InvalidCredentials, errOpaque)
	}
	if !isToken68(s) {
		return nil, t.unauthorized(fault.InvalidCredentials, errToken)
	}
	key := identOf(policy.RevokedKey, s)
	if !t.g.clear([]ident{key}, t.now) {
		return nil, t.unauthorized(fault.InvalidCredentials, errRevoked)
	}
	r, err := t.g.introspector.Introspect(t.ctx, Question{
		Token: s, API: t.m.API, Op: t.m.Op,
		Resource: t.m.Op.Template, Method: t.call.Method(),
	})
	if err != nil {
		if f := (*fault.Error)(nil); errors.As(err, &f) {
			return nil, f
		}
		return nil, &fault.Error{Fault: fault.KeyManagerAway, Err: err, RetryAfter: introspectRetry}
	}
	if r == nil || !r.Active {
		return nil, t.unauthorized(r.refusal(), errInactive)
	}
	if !r.Expires.IsZero() && !t.now.Lower.Before(r.Expires) {
		return nil, t.unauthorized(fault.TokenExpired, errExpired)
	}
	p, f, err := t.g.introspected(r, t.m.APIIndex)
	if f != nil {
		return nil, t.unauthorized(f, err)
	}
	var ids []ident
	if r.ID != "" {
		ids = append(ids, identOf(policy.RevokedID, r.ID))
	}
	if p.ConsumerKey != "" {
		ids = append(ids, identOf(policy.RevokedConsumer, p.ConsumerKey))
	}
	if p.ApplicationID != "" {
		ids = append(ids, identOf(policy.RevokedApplication, p.ApplicationID))
	}
	if !t.g.clear(appendUser(ids, p), t.now) {
		return nil, t.unauthorized(fault.InvalidCredentials, errRevoked)
	}
	if r.Decided {
		return p, nil
	}
	return t.scoped(r.Scopes, p)
}

// introspected returns the principal of an active opaque token at an API.
func (g *Guard) introspected(r *Introspected, api int) (*policy.Principal, *fault.Fault, error) {
	p := &policy.Principal{
		Kind: policy.OAuth2, Opaque: true, Subject: r.Subject, Tenant: r.Tenant, KeyType: r.KeyType,
		ConsumerKey: r.ConsumerKey, Scopes: r.Scopes, Claims: r.Claims, EndUserToken: r.EndUserToken,
		SubscriptionPlan: policy.Unauthenticated,
	}
	if p.Tenant == "" {
		p.Tenant = "carbon.super"
	}
	if r.Decided {
		p.Subscribed, p.SubscriptionPlan = true, r.SubscriptionPlan
		p.ApplicationID, p.ApplicationName = r.ApplicationID, r.ApplicationName
		p.ApplicationOwner, p.ApplicationPlan = r.ApplicationOwner, r.ApplicationPlan
		return p, nil, nil
	}
	mode := g.set.Introspection.Subscriptions
	if r.ConsumerKey == "" && mode == policy.SubscriptionsRequired {
		return nil, fault.Unclassified, errClient
	}
	if app, keyType, ok := g.consumers.key(r.ConsumerKey); ok {
		d := g.consumers.describe(app)
		p.ApplicationID, p.ApplicationName, p.ApplicationOwner, p.ApplicationPlan = d.id, d.name, d.owner, d.plan
		p.KeyType = keyType
	}
	f, err := g.consult(p, api, mode)
	return p, f, err
}

// isToken68 reports whether s is a token68 (RFC 9110 §11.2).
func isToken68(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-' || c == '.' || c == '_' || c == '~' || c == '+' || c == '/' || c == '=':
		default:
			return false
		}
	}
	return s != ""
}
