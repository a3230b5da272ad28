package auth_test

import (
	"testing"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/fault"
)

func TestSubscriptions(t *testing.T) {
	other := []m{{"name": "Pumps", "version": "2.0", "subscriptionTier": "Gold"}}
	anyVersion := []m{{"name": "Meters", "version": "*", "subscriptionTier": "Silver", "subscriberTenantDomain": "plant.example"}}
	set := func(mode policy.SubscriptionMode) *gate {
		s := base(t)
		s.Issuers[0].Subscriptions = mode
		return open(t, s, auth.Options{})
	}
	auto, required, off := set(policy.SubscriptionsAuto), set(policy.SubscriptionsRequired), set(policy.SubscriptionsOff)
	for _, tc := range []struct {
		name string
		g    *gate
		c    m
		want *fault.Fault
		plan string
		app  string
		on   bool // subscribed
		key  policy.KeyType
	}{
		{"listed", auto, nil, nil, "Gold", "2", true, policy.Production},
		{"listed, any version", auto, m{"subscribedAPIs": anyVersion}, nil, "Silver", "2", true, policy.Production},
		{"listed, id as text, sandbox", auto, m{"application": m{"id": "x-2"}, "keytype": "SANDBOX"}, nil, "Gold", "x-2", true, policy.Sandbox},
		{"listed, unknown key type", auto, m{"keytype": "TEST"}, nil, "Gold", "2", true, policy.Sandbox},
		{"listed, no key type", auto, m{"keytype": nil}, nil, "Gold", "2", true, policy.Production},
		{"other API listed", auto, m{"subscribedAPIs": other}, fault.ResourceForbidden, "", "", false, 0},
		{"other API listed, required", required, m{"subscribedAPIs": other}, fault.ResourceForbidden, "", "", false, 0},
		{"other API listed, off", off, m{"subscribedAPIs": other}, nil, policy.Unauthenticated, "2", false, 0},
		{"other version listed", auto, m{"subscribedAPIs": []m{{"name": "Meters", "version": "1.2.1"}}}, fault.ResourceForbidden, "", "", false, 0},
		{"other case listed", auto, m{"subscribedAPIs": []m{{"name": "meters", "version": "1.2.0"}}}, fault.ResourceForbidden, "", "", false, 0},
		{"empty list", auto, m{"subscribedAPIs": []m{}}, nil, policy.Unauthenticated, "2", false, 0},
		{"empty list, sandbox", auto, m{"subscribedAPIs": []m{}, "keytype": "SANDBOX"}, nil, policy.Unauthenticated, "2", false, policy.Sandbox},
		{"empty list, blocked in the set", auto, m{"subscribedAPIs": []m{}, "consumerKey": "blocked"}, nil, policy.Unauthenticated, "2", false, 0},
		{"empty list, required", required, m{"subscribedAPIs": []m{}}, fault.ResourceForbidden, "", "", false, 0},
		{"empty list, required, known", required, m{"subscribedAPIs": []m{}, "consumerKey": "known"}, nil, "Gold", "2", true, 0},
		{"empty list, required, by application", required, m{"subscribedAPIs": []m{}, "application": m{"id": "app-a"}}, nil, "Gold", "app-a", true, 0},
		{"absent, known", auto, m{"subscribedAPIs": nil, "consumerKey": "known"}, nil, "Gold", "app-a", true, policy.Production},
		{"absent, known sandbox key", auto, m{"subscribedAPIs": nil, "consumerKey": "known-sandbox", "keytype": nil}, nil, "Gold", "app-a", true, policy.Sandbox},
		{"absent, the token's key type wins", auto, m{"subscribedAPIs": nil, "consumerKey": "known-sandbox"}, nil, "Gold", "app-a", true, policy.Production},
		{"absent, unknown", auto, m{"subscribedAPIs": nil}, nil, policy.Unauthenticated, "2", false, 0},
		{"absent, no consumer key", auto, m{"subscribedAPIs": nil, "consumerKey": nil}, nil, policy.Unauthenticated, "2", false, 0},
		{"absent, unknown, required", required, m{"subscribedAPIs": nil}, fault.ResourceForbidden, "", "", false, 0},
		{"absent, known but not subscribed", auto, m{"subscribedAPIs": nil, "consumerKey": "lonely"}, fault.ResourceForbidden, "", "", false, 0},
		{"absent, known but not subscribed, off", off, m{"subscribedAPIs": nil, "consumerKey": "lonely"}, nil, policy.Unauthenticated, "app-b", false, 0},
		{"null", auto, m{"subscribedAPIs": (*int)(nil), "consumerKey": "known"}, nil, "Gold", "app-a", true, 0},
		{"pending", auto, m{"subscribedAPIs": nil, "consumerKey": "pending"}, nil, "Gold", "app-pending", true, 0},
		{"blocked", auto, m{"subscribedAPIs": nil, "consumerKey": "blocked"}, fault.TemporarilyBlocked, "", "", false, 0},
		{"blocked, required", required, m{"subscribedAPIs": nil, "consumerKey": "blocked"}, fault.TemporarilyBlocked, "", "", false, 0},
		{"production blocked, production", auto, m{"subscribedAPIs": nil, "consumerKey": "prod"}, fault.TemporarilyBlocked, "", "", false, 0},
		{"production blocked, sandbox", auto, m{"subscribedAPIs": nil, "consumerKey": "prod-sandbox", "keytype": "SANDBOX"}, nil, "Gold", "app-prod", true, policy.Sandbox},
		{"on hold", auto, m{"subscribedAPIs": nil, "consumerKey": "hold"}, fault.SubscriptionHold, "", "", false, 0},
		{"inactive", auto, m{"subscribedAPIs": nil, "consumerKey": "inactive"}, fault.SubscriptionHold, "", "", false, 0},
		{"rejected", auto, m{"subscribedAPIs": nil, "consumerKey": "rejected"}, fault.ResourceForbidden, "", "", false, 0},
	} {
		p, err := tc.g.ask(t, "/jwt", "Authorization", "Bearer "+mint(t, "RS256", rsaKey(), nil, claims(tc.c)))
		check(t, tc.name, p, err, tc.want)
		if tc.want != nil || err != nil {
			continue
		}
		if p.SubscriptionPlan != tc.plan || p.ApplicationID != tc.app || p.Subscribed != tc.on || p.KeyType != tc.key {
			t.Errorf("%s: plan %q, application %q, subscribed %v, key type %v; want %q, %q, %v, %v", tc.name,
				p.SubscriptionPlan, p.ApplicationID, p.Subscribed, p.KeyType, tc.plan, tc.app, tc.on, tc.key)
		}
	}
}

func TestThePrincipalOfAToken(t *testing.T) {
	g := open(t, base(t), auth.Options{})
	p, err := g.ask(t, "/jwt", "Authorization", "Bearer "+mint(t, "RS256", rsaKey(), nil, claims(m{"backendJwt": "a.b.c", "sub": "eva@plant.example"})))
	if err != nil {
		t.Fatal(err)
	}
	if p.ApplicationName != "TabletApp" || p.ApplicationOwner != "fitter1" || p.ApplicationPlan != "50PerMin" || p.ConsumerKey != "ck-1" ||
		p.Tenant != "plant.example" || p.UserID() != "eva@plant.example" || p.EndUserToken != "a.b.c" || len(p.Scopes) != 2 || p.Cached || p.Claims.Text("jti") != "id-1" {
		t.Errorf("got %+v", p)
	}
}

func TestScopes(t *testing.T) {
	set := base(t)
	set.Users = []policy.User{{Name: "w", Hash: sha256Hash("pw"), Scopes: []string{"write"}}, {Name: "r", Hash: sha256Hash("pw"), Scopes: []string{"read"}}}
	set.APIKeys.Keys = hashedKeys(policy.HashedKey{Name: "k"}, "key-0123456789abcdef")
	g := open(t, set, auth.Options{})
	g.cache = auth.NewCache(64)
	token := func(scope any) string {
		return "Bearer " + mint(t, "RS256", rsaKey(), nil, claims(m{"scope": scope}))
	}
	for _, tc := range []struct {
		name, path, header, value string
		want                      *fault.Fault
	}{
		{"one of two", "/scoped", "Authorization", token("read admin"), nil},
		{"a list", "/scoped", "Authorization", token([]string{"read", "write"}), nil},
		{"none", "/scoped", "Authorization", token("read"), fault.InsufficientScope},
		{"part of a name", "/scoped", "Authorization", token("writer read-write"), fault.InsufficientScope},
		{"no claim", "/scoped", "Authorization", token(nil), fault.InsufficientScope},
		{"scope of a requirement", "/orscoped", "Authorization", token("read"), fault.InsufficientScope},
		{"user with", "/scoped", "Authorization", basicHeader("w", "pw"), nil},
		{"user without", "/scoped", "Authorization", basicHeader("r", "pw"), fault.InsufficientScope},
		{"keys have none", "/scoped", "X-Api-Key", "key-0123456789abcdef", nil},
	} {
		for range 2 { // once verified, once out of the cache
			p, err := g.ask(t, tc.path, tc.header, tc.value)
			check(t, tc.name, p, err, tc.want)
		}
	}
}
