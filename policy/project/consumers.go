package project

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"tidegate/policy"
	"tidegate/policy/source"
)

// consumers reads consumers.yaml.
func (l *loader) consumers(o *source.Object) {
	for _, a := range o.Objects("applications") {
		l.application(a)
	}
	for _, s := range o.Objects("subscriptions") {
		l.subscription(s)
	}
	for _, k := range o.Objects("api_keys") {
		l.apiKey(k)
	}
	slices.SortFunc(l.set.APIKeys.Keys, func(a, b policy.HashedKey) int { return bytes.Compare(a.Hash[:], b.Hash[:]) })
	for i, b := range o.Objects("blocked") {
		l.block(b, i)
	}
	for _, r := range o.Objects("revoked") {
		l.revocation(r)
	}
	l.set.Revoked = sortRevocations(l.set.Revoked)
	o.Close()
}

func (l *loader) application(o *source.Object) {
	a := policy.Application{ID: o.Need("id"), Name: o.Text("name"), Owner: o.Text("owner"), Plan: o.Text("plan"), Pos: o.Node.Pos}
	o.Name = fmt.Sprintf("application %q", a.ID)
	if a.Name == "" {
		a.Name = a.ID
	}
	for _, k := range o.Objects("keys") {
		a.Keys = append(a.Keys, policy.ConsumerKey{Key: k.Need("consumer_key"), Type: keyType(k)})
		k.Close()
	}
	o.Close()
	l.set.Applications = append(l.set.Applications, a)
}

func keyType(o *source.Object) policy.KeyType {
	if o.Word("type", "PRODUCTION", "SANDBOX") == "SANDBOX" {
		return policy.Sandbox
	}
	return policy.Production
}

// states are WSO2's words for the state of a subscription.
var states = []string{"UNBLOCKED", "TIER_UPDATE_PENDING", "BLOCKED", "PROD_ONLY_BLOCKED", "ON_HOLD", "INACTIVE", "REJECTED"}

func (l *loader) subscription(o *source.Object) {
	s := policy.Subscription{
		Application: o.Need("application"),
		API:         policy.APIID{Name: o.Need("api"), Version: o.Need("version")},
		Plan:        o.Text("plan"),
		Pos:         o.Node.Pos,
	}
	if i := slices.Index(states, o.Word("state", states...)); i > 0 {
		s.State = policy.SubscriptionState(i)
	}
	o.Close()
	l.set.Subscriptions = append(l.set.Subscriptions, s)
}

func (l *loader) apiKey(o *source.Object) {
	k := policy.HashedKey{Name: o.Need("name"), Application: o.Text("application"), KeyType: keyType(o), APIs: l.apiIDs(o, "apis")}
	o.Name = fmt.Sprintf("API key %q", k.Name)
	l.places[o.Name] = o.Node.Pos
	sum := o.Need("sha256")
	if b, err := hex.DecodeString(sum); err == nil && len(b) == len(k.Hash) {
		copy(k.Hash[:], b)
	} else if sum != "" {
		l.report.Add(Finding{
			Pos: o.Pos("sha256"), Severity: Error, Object: o.Name,
			Message: "sha256: want 64 hex digits", Hint: "tidectl apikey new prints the key and its SHA-256",
		})
	}
	if t := o.Time("expires"); !t.IsZero() {
		k.Expires = uint64(t.Unix())
	}
	if o.Value("key") != nil {
		l.report.Add(Finding{
			Pos: o.Pos("key"), Severity: Error, Object: o.Name, Security: true,
			Message: "key: a key in a project is readable by everybody who has the bundle", Hint: "give its SHA-256 as sha256",
		})
	}
	o.Close()
	l.set.APIKeys.Keys = append(l.set.APIKeys.Keys, k)
}

func (l *loader) block(o *source.Object, index int) {
	b := policy.Block{Invert: o.Bool(false, "invert"), Pos: o.Node.Pos}
	value := o.Need("value")
	switch o.Word("type", "API", "APPLICATION", "USER", "IP") {
	case "API":
		b.Kind, b.Value = policy.BlockAPI, "/"+strings.Trim(value, "/")
	case "APPLICATION":
		b.Kind, b.Value = policy.BlockApplication, value
	case "USER":
		b.Kind, b.Value = policy.BlockUser, value
	case "IP":
		b.Kind = policy.BlockIP
		r, err := policy.ParseRange(value)
		if err != nil {
			o.Errorf("value", "%v", err)
		} else {
			b.Ranges = []policy.Range{r}
		}
	default:
		if !o.Has("type") {
			o.Errorf("type", "missing: want API, APPLICATION, USER or IP")
		}
	}
	o.Close()
	if b.Kind == 0 || b.Kind == policy.BlockIP && b.Ranges == nil {
		return
	}
	l.set.Blocked = append(l.set.Blocked, b)
}

func (l *loader) revocation(o *source.Object) {
	var until uint64
	if t := o.Time("until"); !t.IsZero() {
		until = uint64(t.Unix())
	}
	said := 0
	for _, word := range policy.RevocationWords {
		v := o.Text(word)
		if v == "" {
			continue
		}
		said++
		rs, err := policy.Revoke(word, v, until)
		if err != nil {
			o.Errorf(word, "%s", strings.TrimPrefix(err.Error(), word+": "))
			continue
		}
		l.set.Revoked = append(l.set.Revoked, rs...)
	}
	o.Close()
	if said != 1 {
		l.report.Errorf(o.Node.Pos, o.Name, "want one of jti, signature, api_key, api_key_sha256, consumer_key, application, user; got %d", said)
	}
}

// sortRevocations orders them and joins those of one credential: the later time wins,
// and for ever is the latest.
func sortRevocations(rs []policy.Revocation) []policy.Revocation {
	slices.SortFunc(rs, func(a, b policy.Revocation) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), bytes.Compare(a.Hash[:], b.Hash[:]), cmp.Compare(b.Until-1, a.Until-1))
	})
	return slices.CompactFunc(rs, func(a, b policy.Revocation) bool { return a.Kind == b.Kind && a.Hash == b.Hash })
}
