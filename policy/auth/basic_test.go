package auth_test

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/fault"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

func sha256Hash(password string) string {
	h := sha256.Sum256([]byte(password))
	return "@sha256:" + hex.EncodeToString(h[:])
}

func argonHash(password string) string {
	salt := []byte("0123456789abcdef")
	b := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=19$m=64,t=1,p=1$%s$%s", b.EncodeToString(salt), b.EncodeToString(argon2.IDKey([]byte(password), salt, 1, 64, 1, 32)))
}

func basicHeader(name, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

func users(t testing.TB) []policy.User {
	bc, err := bcrypt.GenerateFromPassword([]byte("pass:word"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	s1, s512 := sha1.Sum([]byte("one")), sha512.Sum512([]byte("five"))
	return []policy.User{
		{Name: "argon", Hash: argonHash("secret"), Plan: "Gold"},
		{Name: "bcrypt", Hash: string(bc)},
		{Name: "sha1", Hash: "@sha1:{" + hex.EncodeToString(s1[:]) + "}"},
		{Name: "sha256", Hash: sha256Hash("two")},
		{Name: "sha512", Hash: "@sha512:" + strings.ToUpper(hex.EncodeToString(s512[:]))},
		{Name: "empty", Hash: sha256Hash("")},
		{Name: "eva@plant.example", Hash: sha256Hash("p")},
		{Name: "gone", Hash: sha256Hash("p")},
	}
}

func TestLogins(t *testing.T) {
	set := base(t)
	set.Users = users(t)
	set.Revoked = revoked(revoke(policy.RevokedUser, []byte("gone@carbon.super")))
	cached := open(t, set, auth.Options{})
	cached.cache = auth.NewCache(64)
	plain := open(t, set, auth.Options{})
	raw := func(s string) string { return "Basic " + s }
	b := base64.StdEncoding.EncodeToString
	for _, tc := range []struct {
		name, header string
		want         *fault.Fault
		subject      string
	}{
		{"argon2id", basicHeader("argon", "secret"), nil, "argon"},
		{"bcrypt, colon in the password", basicHeader("bcrypt", "pass:word"), nil, "bcrypt"},
		{"sha1 in braces", basicHeader("sha1", "one"), nil, "sha1"},
		{"sha256", basicHeader("sha256", "two"), nil, "sha256"},
		{"sha512 in capitals", basicHeader("sha512", "five"), nil, "sha512"},
		{"scheme in capitals, blanks", "BASIC   " + b([]byte("sha256:two")) + "  ", nil, "sha256"},
		{"empty password", basicHeader("empty", ""), nil, "empty"},
		{"name with tenant", basicHeader("eva@plant.example", "p"), nil, "eva@plant.example"},
		{"argon2id, wrong", basicHeader("argon", "secret "), fault.InvalidLogin, ""},
		{"bcrypt, wrong", basicHeader("bcrypt", "pass"), fault.InvalidLogin, ""},
		{"sha256, wrong", basicHeader("sha256", ""), fault.InvalidLogin, ""},
		{"unknown user", basicHeader("nobody", "two"), fault.InvalidLogin, ""},
		{"empty name", basicHeader("", "two"), fault.InvalidLogin, ""},
		{"name in capitals", basicHeader("SHA256", "two"), fault.InvalidLogin, ""},
		{"the hash as password", basicHeader("sha256", sha256Hash("two")), fault.InvalidLogin, ""},
		{"revoked user", basicHeader("gone", "p"), fault.InvalidCredentials, ""},
		{"no colon", raw(b([]byte("sha256two"))), fault.InvalidFormat, ""},
		{"not base64", raw("sha256:two"), fault.InvalidFormat, ""},
		{"base64url", raw("c2hhMjU2OnR3bw-_"), fault.InvalidFormat, ""},
		{"no padding", raw(strings.TrimRight(b([]byte("sha256:two")), "=")), fault.InvalidFormat, ""},
		{"unused bits set", raw(strings.Replace(b([]byte("sha256:two")), "w==", "x==", 1)), fault.InvalidFormat, ""},
		{"line break", raw("c2hh\nMjU2OnR3bw=="), fault.InvalidFormat, ""},
		{"something behind", raw(b([]byte("sha256:two")) + " x"), fault.InvalidFormat, ""},
		{"too long", basicHeader("sha256", strings.Repeat("x", 2<<10)), fault.InvalidFormat, ""},
		{"nothing", "Basic", fault.MissingCredentials, ""},
		{"blanks only", "Basic   ", fault.MissingCredentials, ""},
		{"other scheme", "Digest username=x", fault.InvalidScheme, ""},
		{"no scheme", b([]byte("sha256:two")), fault.InvalidScheme, ""},
	} {
		for i, g := range []*gate{plain, cached, cached} {
			p, err := g.ask(t, "/basic", "Authorization", tc.header)
			check(t, tc.name, p, err, tc.want)
			if err != nil {
				var e *fault.Error
				if errors.As(err, &e) && !strings.HasPrefix(e.Challenge, `Basic realm="tidegate", charset="UTF-8"`) {
					t.Errorf("%s: challenge %q", tc.name, e.Challenge)
				}
				continue
			}
			plan := policy.DefaultPlan
			if tc.subject == "argon" {
				plan = "Gold"
			}
			if p.Kind != policy.Basic || p.Subject != tc.subject || p.SubscriptionPlan != plan || p.KeyType != policy.Production || i == 0 && p.Cached || i == 2 && !p.Cached {
				t.Errorf("%s: got %+v", tc.name, p)
			}
		}
	}
	p, err := cached.call(t, newCall("/basic").Add("Authorization", basicHeader("sha256", "two")).Add("Authorization", basicHeader("sha256", "two")))
	check(t, "two lines", p, err, fault.InvalidCredentials)
}

func TestNoDefaultPlanNoLimit(t *testing.T) {
	set := base(t)
	set.Plans, set.Users = nil, users(t)
	if p, err := open(t, set, auth.Options{}).ask(t, "/basic", "Authorization", basicHeader("sha256", "two")); err != nil || p.SubscriptionPlan != "" {
		t.Errorf("got %+v, %v", p, err)
	}
}

// full lends nothing, and counts who asked.
type full struct{ asked []int64 }

func (f *full) Acquire(_ context.Context, n int64) error {
	f.asked = append(f.asked, n)
	return errors.New("full")
}
func (f *full) Release(int64) { panic("released what was not lent") }

func TestLoginsAskForTheirMemory(t *testing.T) {
	set := base(t)
	set.Users = users(t)
	mem := &full{}
	g := open(t, set, auth.Options{Memory: mem})
	for _, name := range []string{"argon", "nobody"} { // an unknown user costs as much as the costliest
		p, err := g.ask(t, "/basic", "Authorization", basicHeader(name, "secret"))
		check(t, name, p, err, fault.KeyManagerAway)
		var e *fault.Error
		if errors.As(err, &e) && e.RetryAfter <= 0 {
			t.Errorf("%s: no Retry-After", name)
		}
	}
	if len(mem.asked) != 2 || mem.asked[0] != 64<<10 || mem.asked[1] != 64<<10 {
		t.Errorf("asked for %v bytes", mem.asked)
	}
	p, err := g.ask(t, "/basic", "Authorization", basicHeader("sha256", "two"))
	check(t, "a cheap hash", p, err, nil)
}

func TestNewRefusesUsersItCannotCheck(t *testing.T) {
	good := argonHash("x")
	for _, tc := range []struct{ hash, want string }{
		{"secret", "password hash"},
		{"", "password hash"},
		{"@sha256:abcd", "password hash"},
		{"@sha1:{" + strings.Repeat("00", 20), "password hash"},
		{"@md5:00", "password hash"},
		{"$2b$31$" + strings.Repeat("a", 53), "cost is 31"},
		{"$2b$xx$", "bcrypt"},
		{"$argon2i$v=19$m=64,t=1,p=1$MDEyMzQ1Njc$MDEyMzQ1Njc", "password hash"},
		{strings.Replace(good, "v=19", "v=16", 1), "Argon2id"},
		{strings.Replace(good, "m=64", "m=24577", 1), "too much"},
		{strings.Replace(good, "t=1", "t=1000", 1), "too much"},
		{strings.Replace(good, "p=1", "p=0", 1), "Argon2id"},
		{strings.Replace(good, ",t=1", "", 1), "Argon2id"},
		{good + "!", "Argon2id"},
	} {
		set := base(t)
		set.Users = []policy.User{{Name: "u", Hash: tc.hash}}
		_, err := auth.New(set, auth.Options{Memory: unbounded{}})
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), `user "u"`) {
			t.Errorf("%s: got %v; want %q", tc.hash, err, tc.want)
		}
	}
	set := base(t)
	set.Users = []policy.User{{Name: "u", Hash: good}}
	if _, err := auth.New(set, auth.Options{}); err == nil {
		t.Error("Argon2id without a bound of memory is accepted")
	}
	set.Users = []policy.User{{Name: "u", Hash: good}, {Name: "u", Hash: good}, {Name: "a:b", Hash: good}}
	if _, err := auth.New(set, auth.Options{Memory: unbounded{}}); err == nil || !strings.Contains(err.Error(), "twice") || !strings.Contains(err.Error(), "colon") {
		t.Errorf("got %v", err)
	}
}
