// Package introspect asks a key manager about opaque tokens, by RFC 7662 or by the SOAP
// key validation of older WSO2 API Manager, and remembers what it said: in memory, and on disk, so
// that a device that starts without a link goes on honouring what was honoured.
//
// It promises one question at a time for each token, that a yes is kept no longer than the
// policy allows and never beyond the token's end, and that a no takes a remembered yes off the
// disk before it is told. When nothing can be said the answer is 503, never 401. No token is
// stored: entries are found by a hash.
//
// It does not judge scopes, subscriptions or revocation; package auth does.
package introspect

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"tidegate/appliance/upstream"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/fault"
	"time"
)

var _ auth.Introspector = (*Asker)(nil)

// Bounds of one question, and of what follows a failure.
const (
	askTime     = 5 * time.Second
	answerBytes = 64 << 10
	connections = 8
	patience    = 3 // failures in a row before nobody is asked for a while
	firstPause  = time.Second
	maxPause    = 30 * time.Second
	retryAfter  = 5 * time.Second // told to a client after one failure
)

// Options are what an Asker is made of.
type Options struct {
	Config *policy.Introspection
	TLS    *policy.TLS // profile that Config names; nil for none
	// URL, Username and Password replace those of Config on this device; empty: Config's.
	URL, Username, Password string
	Secret                  func(policy.Secret) []byte // nil for an unknown one
	TLSTime                 func() time.Time           // time for certificates; nil: the system's
	Now                     func() policy.Now
	Cache                   *Cache
	Log                     *slog.Logger
	// Dial replaces net.Dialer, for tests and special networks; nil: the system's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// An Asker judges opaque tokens (auth.Introspector). It belongs to one edition; what it
// remembers is in its Cache, which does not. It is safe for concurrent use.
type Asker struct {
	site  *upstream.Site
	speak protocol
	basic string // value of Authorization; "" for none
	keep  time.Duration
	now   func() policy.Now
	cache *Cache
	log   *slog.Logger

	mu       sync.Mutex
	flights  map[key]*flight
	failures int // in a row
	probing  bool
	paused   time.Time // nobody is asked before
}

// protocol is one way to ask. URL and key of an answer belong to it.
type protocol interface {
	// name is part of the key of an answer.
	name() string
	// perAPI reports whether an answer is for one operation only.
	perAPI() bool
	request(q *auth.Question) (h wire.Header, body []byte)
	// read returns what the answer says of the token. An error means that it says nothing.
	read(body []byte) (*auth.Introspected, error)
}

// New returns an Asker for the key manager of o. Nothing is dialed.
func New(o Options) (*Asker, error) {
	url := o.URL
	if url == "" {
		url = o.Config.URL
	}
	var speak protocol = rfc7662{}
	if o.Config.SOAP {
		speak = soap{}
		if !strings.Contains(url, soapService) {
			url = strings.TrimRight(url, "/") + soapService
		}
	}
	site, err := upstream.NewSite(url, upstream.SiteOptions{TLS: o.TLS, Secret: o.Secret, TLSTime: o.TLSTime, Connections: connections, Dial: o.Dial})
	if err != nil {
		return nil, fmt.Errorf("introspection: %w", err)
	}
	a := &Asker{
		site: site, speak: speak, keep: time.Duration(o.Config.CacheSeconds) * time.Second,
		now: o.Now, cache: o.Cache, log: o.Log, flights: map[key]*flight{},
	}
	user, password := o.Username, o.Password
	if user == "" {
		user = o.Config.Username
	}
	if password == "" && o.Secret != nil {
		password = string(o.Secret(o.Config.Password))
	}
	if user != "" {
		if password == "" {
			return nil, fmt.Errorf("introspection: secret %q is neither in the bundle nor in the device's configuration", o.Config.Password)
		}
		a.basic = upstream.Basic(user, password)
	}
	return a, nil
}

// Close closes the connections. Questions under way are answered.
func (a *Asker) Close() { a.site.Close() }

// A flight is one question under way.
type flight struct {
	done chan struct{}
	said *auth.Introspected
	err  error
}

// Introspect implements auth.Introspector. The error is a *fault.Error of status 503 when
// nothing can be said, or that of ctx.
func (a *Asker) Introspect(ctx context.Context, q auth.Question) (*auth.Introspected, error) {
	k := a.key(&q)
	if said := a.cache.get(k, a.now().Lower); said != nil {
		return said, nil
	}
	a.mu.Lock()
	if f := a.flights[k]; f != nil {
		a.mu.Unlock()
		select {
		case <-f.done:
			return f.said, f.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	probe, err := a.may()
	if err != nil {
		a.mu.Unlock()
		return nil, err
	}
	f := &flight{done: make(chan struct{})}
	a.flights[k] = f
	a.mu.Unlock()
	// Others wait for it: it does not end with the call that happens to ask.
	var echo bool
	f.said, echo, f.err = a.ask(context.WithoutCancel(ctx), &q)
	if f.err == nil {
		a.cache.put(k, f.said, a.now().Lower, a.keep, echo)
	}
	a.mu.Lock()
	f.err = a.note(f.err, probe)
	delete(a.flights, k)
	a.mu.Unlock()
	close(f.done)
	return f.said, f.err
}

// key returns the hash under which an answer is kept.
func (a *Asker) key(q *auth.Question) key {
	h := sha256.New()
	part := func(s string) {
		fmt.Fprintf(h, "%d:%s", len(s), s) // hash.Hash never fails
	}
	part(a.speak.name())
	part(a.site.String())
	part(q.Token)
	if a.speak.perAPI() {
		part(q.API.BasePath)
		part(q.API.Version)
		part(q.Method)
		part(q.Resource)
	}
	return key(h.Sum(nil))
}

// may reports whether the key manager may be asked now. After failures in a row one
// question goes out at a time. The caller holds a.mu.
func (a *Asker) may() (probe bool, err error) {
	if a.failures < patience {
		return false, nil
	}
	left := time.Until(a.paused)
	if left > 0 || a.probing {
		return false, away(errors.New("the key manager did not answer lately and is not asked at the moment"), max(left, firstPause))
	}
	a.probing = true
	return true, nil
}

// note counts how a question went and returns what its callers are told. The caller holds
// a.mu.
func (a *Asker) note(err error, probe bool) error {
	if probe {
		a.probing = false
	}
	if err == nil {
		if a.failures >= patience {
			a.log.Info("key manager answers again", "url", a.site.String())
		}
		a.failures = 0
		return nil
	}
	a.failures++
	wait := retryAfter
	if a.failures >= patience {
		wait = firstPause << min(a.failures-patience, 10)
		wait = min(wait, maxPause)
		wait = wait/2 + rand.N(wait/2)
		a.paused = time.Now().Add(wait)
		a.log.Warn("key manager does not answer", "url", a.site.String(), "pause", wait.Round(time.Millisecond), "error", err)
	}
	return away(err, wait)
}

// away is what a client is told when nothing can be said of its token.
func away(err error, after time.Duration) error {
	return &fault.Error{Fault: fault.KeyManagerAway, Err: err, RetryAfter: after}
}

// ask puts one question. echo reports that the answer holds the token.
func (a *Asker) ask(ctx context.Context, q *auth.Question) (said *auth.Introspected, echo bool, err error) {
	h, body := a.speak.request(q)
	if a.basic != "" {
		h = append(h, wire.Field{Name: "Authorization", Value: a.basic})
	}
	answer, err := a.site.Ask(ctx, "POST", h, body, answerBytes, askTime)
	if err != nil {
		return nil, false, err
	}
	if answer.Status != 200 {
		return nil, false, fmt.Errorf("%s: status %d", a.site, answer.Status)
	}
	if said, err = a.speak.read(answer.Body); err != nil {
		return nil, false, fmt.Errorf("%s: %w", a.site, err)
	}
	return said, bytes.Contains(answer.Body, []byte(q.Token)), nil
}
