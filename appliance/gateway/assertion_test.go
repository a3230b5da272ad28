package gateway

import (
	"testing"
	"tidegate/policy"
)

func TestEveryFieldOfACallerMakesAnotherToken(t *testing.T) {
	claims := policy.NewClaims(1)
	claims.Add("role", false, `"x"`, "x")
	seen := map[[32]byte]int{}
	for i, p := range []policy.Principal{
		{},
		{Subject: "a"},
		{Tenant: "a"},
		{KeyType: policy.Sandbox},
		{ApplicationID: "a"},
		{ApplicationName: "a"},
		{ApplicationOwner: "a"},
		{ApplicationPlan: "a"},
		{ConsumerKey: "a"},
		{SubscriptionPlan: "a"},
		{Claims: claims},
		{Subject: "ab"},
		{Subject: "a", Tenant: "b"},
	} {
		k := assertionKey(&p, 0)
		if before, twice := seen[k]; twice {
			t.Errorf("callers %d and %d have one key", before, i)
		}
		seen[k] = i
		if k != assertionKey(&p, 0) || k == assertionKey(&p, 1) {
			t.Errorf("caller %d: the key is not that of the caller at the API", i)
		}
	}
}
