package appliance

import (
	"context"
	"errors"
	"tidegate/appliance/admin"
	"tidegate/appliance/gateway"
	"tidegate/appliance/introspect"
	"tidegate/appliance/jwks"
	"tidegate/appliance/revoked"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/store"
	"tidegate/store/audit"
	"time"

	"golang.org/x/sync/semaphore"
)

var _ admin.Revoker = (*App)(nil)

// credentials are what the device knows of credentials beside its bundle, and what outlives
// bundles.
type credentials struct {
	logins  *loginMemory
	revoked *revoked.List
	answers *introspect.Cache
	keys    *jwks.Follower
}

// openCredentials reads what state.db holds of credentials. What cannot be read is told,
// and the device serves with the rest.
func (a *App) openCredentials() {
	var db *store.DB
	if a.report.Mode == store.Normal {
		db = a.dir.State()
	}
	c := &a.credentials
	c.logins = &loginMemory{room: semaphore.NewWeighted(loginRoom), wait: loginWait}
	var err error
	if c.revoked, err = revoked.Open(db); err != nil {
		a.find("%v; tokens that were revoked may count again: revoke them anew", err)
	}
	if db == nil {
		a.find("revocations, keys of issuers and introspections live until the next start only")
	}
	if c.answers, err = introspect.Open(db, a.log); err != nil {
		a.find("%v; those tokens are asked about again", err)
	}
	c.keys, err = jwks.Open(jwks.Options{DB: db, TLSTime: a.time.clock.Best, Log: a.log, Changed: a.rekey})
	if err != nil {
		a.find("%v; the keys of the bundle count", err)
	}
}

// rekey lets the gateway judge by the keys that were just fetched.
func (a *App) rekey() {
	if err := a.gateway.Rekey(); err != nil {
		a.log.Error("keys that were fetched do not count", "error", err)
	}
}

// introspector makes what judges opaque tokens for a set. An endpoint group named
// "introspection" in the configuration overrides its address and login.
func (a *App) introspector(set *policy.Set, secret func(policy.Secret) []byte) (gateway.Introspector, error) {
	o := introspect.Options{
		Config: set.Introspection, Secret: secret, TLSTime: a.time.clock.Best, Now: a.time.Now, Cache: a.credentials.answers, Log: a.log,
	}
	for i := range set.TLS {
		if set.Introspection.TLS != "" && set.TLS[i].Name == set.Introspection.TLS {
			o.TLS = &set.TLS[i]
		}
	}
	if e, ok := a.cfg.Override("introspection"); ok {
		if len(e.URL) > 0 {
			o.URL = e.URL[0]
		}
		o.Username, o.Password = e.Username, e.Password
	}
	return introspect.New(o)
}

// Bounds of logins: the memory that they may take together, and how long one waits for it.
const (
	loginRoom = auth.MaxLogin
	loginWait = 2 * time.Second
)

// loginMemory lends memory to logins (auth.Memory).
type loginMemory struct {
	room *semaphore.Weighted
	wait time.Duration
}

var errLogins = errors.New("too many logins at a time")

// Acquire waits for n bytes, a bounded time.
func (m *loginMemory) Acquire(ctx context.Context, n int64) error {
	if m.room.TryAcquire(n) {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, m.wait, errLogins)
	defer cancel()
	if err := m.room.Acquire(ctx, n); err != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Release gives n bytes back.
func (m *loginMemory) Release(n int64) { m.room.Release(n) }

// Revoke takes revocations in and records that they came, both or neither
// (admin.Revoker).
func (a *App) Revoke(rs []policy.Revocation, source, detail string) (int, error) {
	lower := a.time.clock.Lower().Unix()
	n, err := a.credentials.revoked.Add(lower, rs, func(tx *store.Tx, n int) error {
		_, err := a.audit.Append(tx, a.stamped(audit.Entry{Event: audit.Operator, Source: source, Detail: detail, Count: uint64(n - 1)}))
		return err
	})
	if err == nil && n > 0 {
		a.log.Info("credentials revoked", "new", n, "source", source)
	}
	return n, err
}

// Revoked returns the revocations that came after the bundle, by kind, and how many there
// may be (admin.Revoker).
func (a *App) Revoked() (kinds map[policy.RevocationKind]int, most int) {
	return a.credentials.revoked.Counts(), revoked.Max
}
