package auth

import (
	"context"
	"crypto/sha1" //nolint:gosec // hashes of the users of a WSO2 microgateway
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"tidegate/policy"
	"tidegate/policy/fault"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// maxLogin bounds the value of a Basic header.
const maxLogin = 2 << 10

// bounds of password hashes: above, one login would take the device from everybody else.
const (
	maxArgonMemory = MaxLogin >> 10 // KiB
	maxArgonTime   = 16
	maxArgonLanes  = 4
	maxBcryptCost  = 14
)

var (
	errLoginForm = errors.New("the login is not base64 of name:password")
	errLogin     = errors.New("the user or the password is wrong")
	errBusy      = errors.New("too many logins are being checked")
)

// loginRetry is when a client may try again after too many logins at once.
const loginRetry = time.Second

type user struct {
	secret secret
	p      policy.Principal // with Cached set
	idents []ident
}

// secret is a parsed password hash.
type secret struct {
	kind   hashKind
	bcrypt []byte
	memory uint32 // KiB
	time   uint32
	lanes  uint8
	salt   []byte
	sum    []byte
}

type hashKind uint8

// The kinds of hash, cheapest first.
const (
	hashSHA1 hashKind = iota + 1
	hashSHA256
	hashSHA512
	hashBcrypt
	hashArgon
)

func (g *Guard) compileUsers() error {
	var errs []error
	plan := ""
	for i := range g.set.Plans {
		if p := &g.set.Plans[i]; p.Kind == policy.SubscriptionPlan && p.Name == policy.DefaultPlan {
			plan = p.Name
		}
	}
	g.users = make(map[string]*user, len(g.set.Users))
	for i := range g.set.Users {
		u := &g.set.Users[i]
		s, err := parseSecret(u.Hash)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("user %q: %w", u.Name, err))
			continue
		case u.Name == "" || strings.IndexByte(u.Name, ':') >= 0:
			errs = append(errs, fmt.Errorf("user %q: a name has at least one character and no colon", u.Name))
			continue
		case g.users[u.Name] != nil:
			errs = append(errs, fmt.Errorf("user %q is there twice", u.Name))
			continue
		case s.kind == hashArgon && g.memory == nil:
			errs = append(errs, fmt.Errorf("user %q: Argon2id needs a bound of memory", u.Name))
		}
		c := &user{secret: s, p: policy.Principal{
			Kind: policy.Basic, Subject: u.Name, Tenant: "carbon.super",
			SubscriptionPlan: plan, Scopes: u.Scopes, Cached: true,
		}}
		if at := strings.LastIndexByte(u.Name, '@'); at >= 0 {
			c.p.Tenant = u.Name[at+1:]
		}
		if u.Plan != "" {
			c.p.SubscriptionPlan = u.Plan
		}
		c.idents = appendUser(nil, &c.p)
		g.users[u.Name] = c
		if g.stranger == nil || g.stranger.cost() < s.cost() {
			g.stranger = &c.secret
		}
	}
	return errors.Join(errs...)
}

// cost orders hashes by the time a check takes.
func (s *secret) cost() uint64 {
	c := uint64(s.kind) << 56
	switch s.kind {
	case hashArgon:
		return c | uint64(s.memory)*uint64(s.time)
	case hashBcrypt:
		n, _ := bcrypt.Cost(s.bcrypt) // parsed already
		return c | uint64(n)
	}
	return c
}

// parseSecret reads $argon2id$… (PHC form), $2…$ (bcrypt) and @sha…: with hex in or
// without braces.
func parseSecret(hash string) (secret, error) {
	switch {
	case strings.HasPrefix(hash, "$argon2id$"):
		return parseArgon(hash)
	case strings.HasPrefix(hash, "$2"):
		n, err := bcrypt.Cost([]byte(hash))
		if err != nil {
			return secret{}, errors.New("the bcrypt hash cannot be read")
		}
		if n > maxBcryptCost {
			return secret{}, fmt.Errorf("bcrypt cost is %d, at most %d are possible", n, maxBcryptCost)
		}
		return secret{kind: hashBcrypt, bcrypt: []byte(hash)}, nil
	}
	for kind, prefix := range map[hashKind]string{hashSHA1: "@sha1:", hashSHA256: "@sha256:", hashSHA512: "@sha512:"} {
		text, ok := strings.CutPrefix(hash, prefix)
		if !ok {
			continue
		}
		if in, ok := strings.CutPrefix(text, "{"); ok {
			if text, ok = strings.CutSuffix(in, "}"); !ok {
				break
			}
		}
		sum, err := hex.DecodeString(text)
		if err != nil || len(sum) != map[hashKind]int{hashSHA1: sha1.Size, hashSHA256: sha256.Size, hashSHA512: sha512.Size}[kind] {
			break
		}
		return secret{kind: kind, sum: sum}, nil
	}
	return secret{}, errors.New("the password hash is none of $argon2id$…, $2…$ (bcrypt), @sha1:, @sha256: and @sha512: with hex")
}

// parseArgon reads $argon2id$v=19$m=12288,t=3,p=1$salt$sum.
func parseArgon(hash string) (secret, error) {
	bad := errors.New("the Argon2id hash cannot be read: want $argon2id$v=19$m=…,t=…,p=…$salt$hash")
	part := strings.Split(hash, "$")
	if len(part) != 6 || part[2] != "v="+strconv.Itoa(argon2.Version) {
		return secret{}, bad
	}
	s := secret{kind: hashArgon}
	for i, p := range strings.Split(part[3], ",") {
		name, value, _ := strings.Cut(p, "=")
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || n == 0 || i > 2 || name != []string{"m", "t", "p"}[i] {
			return secret{}, bad
		}
		switch name {
		case "m":
			s.memory = uint32(n)
		case "t":
			s.time = uint32(n)
		case "p":
			s.lanes = uint8(min(n, 255))
		}
	}
	var err1, err2 error
	s.salt, err1 = base64.RawStdEncoding.Strict().DecodeString(part[4])
	s.sum, err2 = base64.RawStdEncoding.Strict().DecodeString(part[5])
	if err1 != nil || err2 != nil || s.lanes == 0 || len(s.salt) < 8 || len(s.sum) < 16 || len(s.sum) > 64 {
		return secret{}, bad
	}
	if s.memory > maxArgonMemory || s.time > maxArgonTime || s.lanes > maxArgonLanes {
		return secret{}, fmt.Errorf("Argon2id m=%d,t=%d,p=%d takes too much of a small device: at most m=%d,t=%d,p=%d are possible",
			s.memory, s.time, s.lanes, maxArgonMemory, maxArgonTime, maxArgonLanes)
	}
	return s, nil
}

// fits compares in constant time. An error means that nothing was compared.
func (s *secret) fits(ctx context.Context, m Memory, password []byte) (bool, error) {
	var sum []byte
	switch s.kind {
	case hashArgon:
		n := int64(s.memory) << 10
		if err := m.Acquire(ctx, n); err != nil {
			return false, errBusy
		}
		defer m.Release(n)
		sum = argon2.IDKey(password, s.salt, s.time, s.memory, s.lanes, uint32(len(s.sum)))
	case hashBcrypt:
		return bcrypt.CompareHashAndPassword(s.bcrypt, password) == nil, nil
	case hashSHA1:
		h := sha1.Sum(password) //nolint:gosec // see the import
		sum = h[:]
	case hashSHA256:
		h := sha256.Sum256(password)
		sum = h[:]
	case hashSHA512:
		h := sha512.Sum512(password)
		sum = h[:]
	}
	return subtle.ConstantTimeCompare(sum, s.sum) == 1, nil
}

// parseLogin reads the value of a Basic header (RFC 7617 §2): base64 of name:password.
func parseLogin(s string) (name string, password []byte, ok bool) {
	if len(s) > maxLogin {
		return "", nil, false
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return "", nil, false
	}
	for i, c := range b {
		if c == ':' {
			return string(b[:i]), b[i+1:], true
		}
	}
	return "", nil, false
}

// login judges a Basic login. An unknown user takes as long as a known one.
func (t *trial) login(s string) (*policy.Principal, *fault.Error) {
	key := t.g.loginKey(s)
	if t.cache != nil {
		if v, ok := t.cache.Get(key); ok && v.guard == t.g && v.fixed != nil && v.exact == "" {
			if !v.stands(t.now) {
				return nil, t.unauthorized(fault.InvalidCredentials, errRevoked)
			}
			return t.scoped(v.fixed.Scopes, v.fixed)
		}
	}
	name, password, ok := parseLogin(s)
	if !ok {
		return nil, t.unauthorized(fault.InvalidFormat, errLoginForm)
	}
	u := t.g.users[name]
	against := t.g.stranger
	if u != nil {
		against = &u.secret
	}
	if against == nil { // no users at all
		return nil, t.unauthorized(fault.InvalidLogin, errLogin)
	}
	fits, err := against.fits(t.ctx, t.g.memory, password)
	if err != nil {
		return nil, &fault.Error{Fault: fault.KeyManagerAway, Err: err, RetryAfter: loginRetry}
	}
	if u == nil || !fits {
		return nil, t.unauthorized(fault.InvalidLogin, errLogin)
	}
	if !t.g.clear(u.idents, t.now) {
		return nil, t.unauthorized(fault.InvalidCredentials, errRevoked)
	}
	if t.cache != nil {
		t.cache.Put(key, &Verified{guard: t.g, size: 512, idents: u.idents, fixed: &u.p})
	}
	p := u.p
	p.Cached = false
	return t.scoped(p.Scopes, &p)
}

// loginKey is a salted hash of a login: the login itself is not kept.
func (g *Guard) loginKey(s string) [32]byte {
	var room [256]byte
	b := append(room[:0], g.salt[:]...)
	return sha256.Sum256(append(b, s...))
}
