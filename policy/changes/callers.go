package changes

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"tidegate/policy"
	"time"
)

// callers compares who may call, and who may not.
func (d *differ) callers() {
	d.each("issuer of tokens", issuers(d.from.Issuers), issuers(d.to.Issuers))
	d.each("issuer of API keys", issuers(d.from.APIKeys.Issuers), issuers(d.to.APIKeys.Issuers))
	d.each("API key", apiKeys(d.from), apiKeys(d.to))
	d.each("user", users(d.from), users(d.to))
	d.each("client authority", authorities(d.from), authorities(d.to))
	d.each("application", applications(d.from), applications(d.to))
	d.each("subscription", subscriptions(d.from), subscriptions(d.to))
	d.each("block", blocks(d.from), blocks(d.to))
	d.revocations()
}

func issuers(all []policy.Issuer) []view {
	out := make([]view, 0, len(all))
	for _, i := range all {
		i.Pos = policy.Pos{}
		keys := []string{}
		for n, k := range i.Keys {
			id := k.ID
			if id == "" {
				id = "number " + strconv.Itoa(n+1)
			}
			sum := sha256.Sum256(k.PKIX)
			keys = append(keys, id+" ("+hex.EncodeToString(sum[:4])+"…)")
		}
		out = append(out, view{
			key: i.Name, name: i.Name, summary: given("", i.Issuer, "audience", strings.Join(i.Audience, " or "), "keys", strconv.Itoa(len(i.Keys))),
			facts: []fact{
				{"issuer", i.Issuer, "Issuer"},
				{"audience", list(i.Audience), "Audience"},
				{"keys", keys, "Keys"},
				{"algorithms", list(i.Algorithms), "Algorithms"},
				{"leeway", number(int64(i.Leeway)), "Leeway"},
				{"required claims", i.Required, "Required"},
				{"address of its keys", i.JWKSURL, "JWKSURL"},
			},
			rest: i,
		})
	}
	return out
}

func apiKeys(s *policy.Set) []view {
	names := applicationNames(s)
	out := make([]view, 0, len(s.APIKeys.Keys))
	for _, k := range s.APIKeys.Keys {
		hash := hex.EncodeToString(k.Hash[:])
		apis := []string{}
		for _, a := range k.APIs {
			apis = append(apis, a.Name+" "+a.Version)
		}
		until := ""
		if k.Expires != 0 {
			until = date(k.Expires)
		}
		out = append(out, view{
			key: hash, name: strings.TrimSpace(k.Name + " (sha256 " + hash[:8] + "…)"),
			summary: given("of", names[k.Application], "for", strings.Join(apis, ", "), "until", until),
			facts:   []fact{{"name", k.Name, "Name"}, {"application", names[k.Application], "Application"}, {"endpoints", k.KeyType.String(), "KeyType"}, {"APIs", apis, "APIs"}, {"expiry", until, "Expires"}},
			rest:    k,
		})
	}
	return out
}

// date is a time in Unix seconds as people read it.
func date(sec uint64) string {
	return time.Unix(int64(min(sec, 1<<37)), 0).UTC().Format(time.RFC3339) //nolint:gosec // bounded above
}

func users(s *policy.Set) []view {
	out := make([]view, 0, len(s.Users))
	for _, u := range s.Users {
		u.Pos = policy.Pos{}
		out = append(out, view{
			key: u.Name, name: u.Name, summary: given("scope", strings.Join(u.Scopes, " "), "plan", u.Plan),
			facts: []fact{{"password", hidden{u.Hash}, "Hash"}, {"scopes", list(u.Scopes), "Scopes"}, {"plan", u.Plan, "Plan"}},
			rest:  u,
		})
	}
	return out
}

// hidden is a text that is compared and not shown.
type hidden struct{ text string }

func authorities(s *policy.Set) []view {
	out := make([]view, 0, len(s.ClientCAs))
	for _, c := range s.ClientCAs {
		out = append(out, view{
			key: c.Name, name: c.Name, summary: given("authorities", number(int64(len(c.Authorities))), "certificates", number(int64(len(c.Certificates)))),
			facts: []fact{{"authorities", c.Authorities, "Authorities"}, {"certificates", c.Certificates, "Certificates"}},
			rest:  c,
		})
	}
	return out
}

// applicationNames are the names of applications by their ids.
func applicationNames(s *policy.Set) map[string]string {
	out := make(map[string]string, len(s.Applications))
	for i := range s.Applications {
		out[s.Applications[i].ID] = s.Applications[i].Name
	}
	return out
}

func applications(s *policy.Set) []view {
	out := make([]view, 0, len(s.Applications))
	for _, a := range s.Applications {
		a.Pos = policy.Pos{}
		keys := []string{}
		for _, k := range a.Keys {
			keys = append(keys, k.Key+" "+k.Type.String())
		}
		out = append(out, view{
			key: a.ID, name: a.Name, summary: given("owner", a.Owner, "plan", a.Plan, "consumer keys", number(int64(len(a.Keys)))),
			facts: []fact{{"name", a.Name, "Name"}, {"owner", a.Owner, "Owner"}, {"plan", a.Plan, "Plan"}, {"consumer keys", keys, "Keys"}},
			rest:  a,
		})
	}
	return out
}

// subscriptionStates names the states that stop calls or may, as API Manager does.
var subscriptionStates = map[policy.SubscriptionState]string{
	policy.TierUpdatePending: "TIER_UPDATE_PENDING", policy.Blocked: "BLOCKED", policy.ProdOnlyBlocked: "PROD_ONLY_BLOCKED",
	policy.OnHold: "ON_HOLD", policy.Inactive: "INACTIVE", policy.Rejected: "REJECTED",
}

func subscriptions(s *policy.Set) []view {
	names := applicationNames(s)
	out := make([]view, 0, len(s.Subscriptions))
	for _, x := range s.Subscriptions {
		x.Pos = policy.Pos{}
		api := x.API.Name + " " + x.API.Version
		out = append(out, view{
			key: x.Application + "\x00" + api, name: names[x.Application] + " to " + api, summary: given("plan", x.Plan, "", subscriptionStates[x.State]),
			facts: []fact{{"plan", x.Plan, "Plan"}, {"state", subscriptionStates[x.State], "State"}},
			rest:  x,
		})
	}
	return out
}

func blocks(s *policy.Set) []view {
	kinds := map[policy.BlockKind]string{policy.BlockAPI: "API", policy.BlockApplication: "application", policy.BlockUser: "user", policy.BlockIP: "address"}
	out := make([]view, 0, len(s.Blocked))
	for _, b := range s.Blocked {
		name := kinds[b.Kind]
		if b.Invert {
			name += " outside"
		}
		if b.Value != "" {
			name += " " + b.Value
		}
		for _, r := range b.Ranges {
			name += " " + r.From.String()
			if r.To != r.From {
				name += "-" + r.To.String()
			}
		}
		out = append(out, view{key: name, name: name})
	}
	return out
}

// revocations are told by how many of each kind: a hash says nothing to people.
func (d *differ) revocations() {
	kinds := map[policy.RevocationKind]string{
		policy.RevokedID: "token ids", policy.RevokedSignature: "token signatures", policy.RevokedKey: "API keys",
		policy.RevokedConsumer: "consumer keys", policy.RevokedApplication: "applications", policy.RevokedUser: "users",
	}
	type id struct {
		kind policy.RevocationKind
		hash [16]byte
	}
	old := make(map[id]uint64, len(d.from.Revoked))
	for _, r := range d.from.Revoked {
		old[id{r.Kind, r.Hash}] = r.Until
	}
	added, moved, lifted := map[policy.RevocationKind]int{}, map[policy.RevocationKind]int{}, map[policy.RevocationKind]int{}
	for _, r := range d.to.Revoked {
		until, known := old[id{r.Kind, r.Hash}]
		delete(old, id{r.Kind, r.Hash})
		switch {
		case !known:
			added[r.Kind]++
		case until != r.Until:
			moved[r.Kind]++
		}
	}
	for k := range old {
		lifted[k.kind]++
	}
	for _, g := range []struct {
		how    How
		counts map[policy.RevocationKind]int
	}{{Added, added}, {Changed, moved}, {Removed, lifted}} {
		var detail []string
		for kind, n := range g.counts {
			detail = append(detail, fmt.Sprintf("%d of %s", n, kinds[kind]))
		}
		if slices.Sort(detail); len(detail) > 0 {
			d.add("revocations", "", g.how, detail)
		}
	}
}
