package auth_test

import (
	"context"
	"errors"
	"testing"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/fault"
	"time"
)

// manager is a key manager that knows a few tokens.
type manager struct {
	tokens map[string]*auth.Introspected
	err    error
	asked  []auth.Question
}

func (k *manager) Introspect(_ context.Context, q auth.Question) (*auth.Introspected, error) {
	k.asked = append(k.asked, q)
	if k.err != nil {
		return nil, k.err
	}
	if r := k.tokens[q.Token]; r != nil {
		return r, nil
	}
	return &auth.Introspected{}, nil
}

func TestOpaqueTokens(t *testing.T) {
	k := &manager{tokens: map[string]*auth.Introspected{
		"good":      {Active: true, Subject: "eva", ConsumerKey: "known", Scopes: []string{"write"}, Expires: noon.Add(time.Hour)},
		"anonymous": {Active: true, Subject: "eva"},
		"blocked":   {Active: true, ConsumerKey: "blocked"},
		"lonely":    {Active: true, ConsumerKey: "lonely"},
		"over":      {Active: true, Expires: noon},
		"inactive":  {Code: 900904},
		"expired":   {Code: 900903},
		"strange":   {Code: 12345},
		"decided":   {Active: true, Decided: true, SubscriptionPlan: "Bronze", ApplicationID: "7", ApplicationPlan: "5PerMin", KeyType: policy.Sandbox, EndUserToken: "x.y.z"},
		"jti":       {Active: true, ID: "lost"},
		"key":       {Active: true, ConsumerKey: "stolen"},
		"user":      {Active: true, Subject: "gone"},
		"revoked":   {Active: true},
	}}
	set := base(t)
	set.Introspection = &policy.Introspection{URL: "https://km.example/introspect"}
	set.Revoked = revoked(revoke(policy.RevokedID, []byte("lost")), revoke(policy.RevokedConsumer, []byte("stolen")),
		revoke(policy.RevokedUser, []byte("gone")), revoke(policy.RevokedKey, []byte("revoked")))
	g := open(t, set, auth.Options{Introspector: k})
	for _, tc := range []struct {
		name, path, token string
		want              *fault.Fault
		plan, app         string
	}{
		{"good", "/jwt", "good", nil, "Gold", "app-a"},
		{"with the scope", "/scoped", "good", nil, "Gold", "app-a"},
		{"without the scope", "/scoped", "anonymous", fault.InsufficientScope, "", ""},
		{"the key manager decides scopes", "/scoped", "decided", nil, "Bronze", "7"},
		{"nobody's", "/jwt", "anonymous", nil, policy.Unauthenticated, ""},
		{"blocked", "/jwt", "blocked", fault.TemporarilyBlocked, "", ""},
		{"not subscribed", "/jwt", "lonely", fault.ResourceForbidden, "", ""},
		{"over", "/jwt", "over", fault.TokenExpired, "", ""},
		{"unknown", "/jwt", "unknown", fault.InvalidCredentials, "", ""},
		{"refused with a code", "/jwt", "inactive", fault.TokenInactive, "", ""},
		{"refused as expired", "/jwt", "expired", fault.TokenExpired, "", ""},
		{"refused with a code nobody knows", "/jwt", "strange", fault.InvalidCredentials, "", ""},
		{"revoked id", "/jwt", "jti", fault.InvalidCredentials, "", ""},
		{"revoked consumer key", "/jwt", "key", fault.InvalidCredentials, "", ""},
		{"revoked user", "/jwt", "user", fault.InvalidCredentials, "", ""},
		{"revoked token", "/jwt", "revoked", fault.InvalidCredentials, "", ""},
		{"no token", "/jwt", "a b", fault.InvalidCredentials, "", ""},
		{"control characters", "/jwt", "a\x00b", fault.InvalidCredentials, "", ""},
		{"a JWT is not asked about", "/jwt", mint(t, "RS256", otherRSA(), nil, claims(nil)), fault.InvalidCredentials, "", ""},
	} {
		p, err := g.ask(t, tc.path, "Authorization", "Bearer "+tc.token)
		check(t, tc.name, p, err, tc.want)
		if err == nil && tc.want == nil && (!p.Opaque || p.SubscriptionPlan != tc.plan || p.ApplicationID != tc.app) {
			t.Errorf("%s: got %+v", tc.name, p)
		}
	}
	for _, q := range k.asked {
		if len(q.Token) > 20 || q.Token == "revoked" || q.Token == "a b" {
			t.Errorf("the key manager was asked about %q", q.Token)
		}
		if q.API.Name != "Meters" || q.Method != "GET" || q.Resource != q.Op.Template {
			t.Errorf("question %+v", q)
		}
	}
}

func TestAKeyManagerThatIsAway(t *testing.T) {
	set := base(t)
	set.Introspection = &policy.Introspection{URL: "https://km.example/introspect"}
	g := open(t, set, auth.Options{Introspector: &manager{err: errors.New("no route to host")}})
	p, err := g.ask(t, "/jwt", "Authorization", "Bearer opaque")
	check(t, "away", p, err, fault.KeyManagerAway)
	var e *fault.Error
	if errors.As(err, &e) && e.RetryAfter <= 0 {
		t.Error("no Retry-After")
	}
	g = open(t, set, auth.Options{Introspector: &manager{err: &fault.Error{Fault: fault.NoBackend}}})
	p, err = g.ask(t, "/jwt", "Authorization", "Bearer opaque")
	check(t, "with its own fault", p, err, fault.NoBackend)
}

func TestRequiredSubscriptionsOfOpaqueTokens(t *testing.T) {
	set := base(t)
	set.Introspection = &policy.Introspection{URL: "https://km.example/introspect", Subscriptions: policy.SubscriptionsRequired}
	g := open(t, set, auth.Options{Introspector: &manager{tokens: map[string]*auth.Introspected{
		"anonymous": {Active: true}, "unknown": {Active: true, ConsumerKey: "x"}, "known": {Active: true, ConsumerKey: "known"},
	}}})
	for token, want := range map[string]*fault.Fault{"anonymous": fault.Unclassified, "unknown": fault.ResourceForbidden, "known": nil} {
		p, err := g.ask(t, "/jwt", "Authorization", "Bearer "+token)
		check(t, token, p, err, want)
	}
}

func TestAFailedJWTMayBeAskedAbout(t *testing.T) {
	foreign := mint(t, "RS256", otherRSA(), nil, claims(nil))
	over := mint(t, "RS256", rsaKey(), nil, claims(m{"exp": noon.Unix() - 1}))
	set := base(t)
	set.Introspection = &policy.Introspection{URL: "https://km.example/introspect", RetryFailedJWT: true}
	g := open(t, set, auth.Options{Introspector: &manager{tokens: map[string]*auth.Introspected{foreign: {Active: true}, over: {Active: true}}}})
	p, err := g.ask(t, "/jwt", "Authorization", "Bearer "+foreign)
	check(t, "of an issuer we cannot check", p, err, nil)
	p, err = g.ask(t, "/jwt", "Authorization", "Bearer "+over)
	check(t, "genuine but over", p, err, fault.InvalidCredentials)
}
