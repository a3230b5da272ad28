package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"time"
)

// Bounds of a token for a backend.
const (
	tokenTime    = 10 * time.Second // of one request for a token
	tokenBytes   = 64 << 10
	tokenLife    = time.Minute    // where the answer has no expires_in
	maxTokenLife = 24 * time.Hour // whatever it says
	tokenPause   = 2 * time.Second
	// tokenYoung is the age below which a 401 of the backend is not blamed on the token: a backend
	// that refuses everybody does not cost a token per call.
	tokenYoung = 10 * time.Second
)

// clientCredentials fetches a token (RFC 6749 §4.4) and uses it for nine tenths of its
// life. One caller fetches, the others wait; after a failure nobody asks for a while.
type clientCredentials struct {
	site  *Site
	body  []byte
	basic string

	mu       sync.Mutex
	token    string
	since    time.Time
	expiry   time.Time
	fetching chan struct{} // closed when the fetch under way has ended; nil: none
	failure  error
	retry    time.Time // before it failure stands
}

// newClientCredentials makes one for the token URL of a. Of the group's profile, the
// authorities count for the token URL too.
func newClientCredentials(a *policy.BackendAuth, id, secret string, profile *policy.TLS, o Options) (*clientCredentials, error) {
	so := SiteOptions{TLSTime: o.TLSTime, Connections: 1, Dial: o.Dial}
	if profile != nil {
		so.TLS = &policy.TLS{Name: profile.Name, CAs: profile.CAs, MinVersion: profile.MinVersion}
	}
	site, err := NewSite(a.TokenURL, so)
	if err != nil {
		return nil, err
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	if len(a.Scopes) > 0 {
		form.Set("scope", strings.Join(a.Scopes, " "))
	}
	return &clientCredentials{site: site, body: []byte(form.Encode()), basic: basicAuth(url.QueryEscape(id), url.QueryEscape(secret)).Value}, nil
}

// A credentialError means that the credential for a backend could not be had: nothing was
// sent to the backend, and it is not to blame.
type credentialError struct{ text string }

func (e *credentialError) Error() string { return e.text }

func (c *clientCredentials) authorize(ctx context.Context, h wire.Header) (wire.Header, error) {
	token, err := c.current(ctx)
	if err != nil {
		return nil, err
	}
	return with(h, wire.Field{Name: "Authorization", Value: "Bearer " + token}), nil
}

// refused makes the next call fetch another token, unless this one is new.
func (c *clientCredentials) refused() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token != "" && time.Since(c.since) > tokenYoung {
		c.token = ""
	}
}

// current returns a token that is valid now.
func (c *clientCredentials) current(ctx context.Context) (string, error) {
	for {
		c.mu.Lock()
		now := time.Now()
		if c.token != "" && now.Before(c.expiry) {
			defer c.mu.Unlock()
			return c.token, nil
		}
		if now.Before(c.retry) {
			defer c.mu.Unlock()
			return "", c.failure
		}
		if under := c.fetching; under != nil {
			c.mu.Unlock()
			select {
			case <-under:
				continue
			case <-ctx.Done():
				return "", context.Cause(ctx)
			}
		}
		done := make(chan struct{})
		c.fetching = done
		c.mu.Unlock()
		// The others wait for it: it does not end with the call that happens to fetch.
		token, life, err := c.fetch(context.WithoutCancel(ctx))
		c.mu.Lock()
		now = time.Now()
		if err == nil {
			c.token, c.since, c.expiry, c.failure = token, now, now.Add(life-life/10), nil
		} else {
			c.failure, c.retry = &credentialError{"token for the backend: " + err.Error()}, now.Add(tokenPause)
		}
		failure := c.failure
		c.fetching = nil
		close(done)
		c.mu.Unlock()
		if failure != nil {
			return "", failure
		}
		return token, nil
	}
}

func (c *clientCredentials) fetch(ctx context.Context) (token string, life time.Duration, err error) {
	a, err := c.site.Ask(ctx, "POST", wire.Header{
		{Name: "Authorization", Value: c.basic},
		{Name: "Content-Type", Value: "application/x-www-form-urlencoded"},
		{Name: "Accept", Value: "application/json"},
	}, c.body, tokenBytes, tokenTime)
	if err != nil {
		return "", 0, err
	}
	if a.Status != 200 {
		return "", 0, fmt.Errorf("%s: status %d", c.site, a.Status)
	}
	var answer struct {
		Token   string      `json:"access_token"`
		Expires json.Number `json:"expires_in"` // some servers send it as text
	}
	if err := json.Unmarshal(a.Body, &answer); err != nil {
		return "", 0, fmt.Errorf("%s: %w", c.site, err)
	}
	if answer.Token == "" || strings.ContainsFunc(answer.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", 0, errors.New(c.site.String() + ": no usable access_token in the answer")
	}
	life = tokenLife
	if n, err := answer.Expires.Int64(); err == nil && n > 0 {
		life = min(time.Duration(min(n, 1<<31))*time.Second, maxTokenLife)
	}
	return answer.Token, life, nil
}
