package upstream

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"sync"
	"time"

	"tidegate/appliance/wire"
	"tidegate/policy"
)

// An authorizer adds a backend's credential to a request's header. It returns a new
// header; that of the caller stays as it is.
type authorizer interface {
	authorize(ctx context.Context, h wire.Header) (wire.Header, error)
}

// fixedAuth is one header field that never changes.
type fixedAuth wire.Field

func (f fixedAuth) authorize(_ context.Context, h wire.Header) (wire.Header, error) {
	return with(h, wire.Field(f)), nil
}

// with returns a copy of h in which f is the only field of its name.
func with(h wire.Header, f wire.Field) wire.Header {
	out := make(wire.Header, 0, len(h)+1)
	for _, g := range h {
		if !strings.EqualFold(g.Name, f.Name) {
			out = append(out, g)
		}
	}
	return append(out, f)
}

// newAuth makes the authorizer of a group.
func newAuth(a *policy.BackendAuth, o Override, o2 Options) (authorizer, error) {
	var user, secret string
	if a != nil {
		user = a.Username
		secret = string(o2.Secret(a.Secret))
	}
	if o.Username != "" {
		user = o.Username
	}
	if o.Password != "" {
		secret = o.Password
	}
	if a == nil {
		if user == "" {
			return nil, nil
		}
		return basicAuth(user, secret), nil
	}
	if secret == "" {
		return nil, fmt.Errorf("secret %q is neither in the bundle nor in the device's configuration", a.Secret)
	}
	switch a.Kind {
	case policy.BackendBasic:
		return basicAuth(user, secret), nil
	case policy.BackendBearer:
		return fixedAuth{Name: "Authorization", Value: "Bearer " + secret}, nil
	case policy.BackendKey:
		return fixedAuth{Name: a.Header, Value: secret}, nil
	case policy.BackendOAuth2:
		return newClientCredentials(a, user, secret, o2)
	}
	return nil, fmt.Errorf("unknown kind %d of backend credential", a.Kind)
}

func basicAuth(user, password string) fixedAuth {
	return fixedAuth{Name: "Authorization", Value: "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))}
}

// clientCredentials fetches a token (RFC 6749 §4.4) and uses it until shortly before it ends.
type clientCredentials struct {
	client *wire.Client
	place  place
	body   string
	basic  string
	now    func() time.Time

	mu     sync.Mutex
	token  string
	expiry time.Time
}

func newClientCredentials(a *policy.BackendAuth, id, secret string, o Options) (*clientCredentials, error) {
	p, err := parsePlace(a.TokenURL)
	if err != nil {
		return nil, err
	}
	t := wire.Target{Addr: p.addr, MaxActive: 1, MaxIdle: 1, MaxWaiting: 64}
	if p.tls {
		host := strings.TrimSuffix(p.host, ":"+p.addr[strings.LastIndexByte(p.addr, ':')+1:])
		if t.TLS, err = tlsConfig(nil, host, o.Secret, o.TLSTime); err != nil {
			return nil, err
		}
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	if len(a.Scopes) > 0 {
		form.Set("scope", strings.Join(a.Scopes, " "))
	}
	return &clientCredentials{
		client: wire.NewClient(t), place: p, body: form.Encode(), now: time.Now,
		basic: basicAuth(url.QueryEscape(id), url.QueryEscape(secret)).Value,
	}, nil
}

func (c *clientCredentials) authorize(ctx context.Context, h wire.Header) (wire.Header, error) {
	token, err := c.get(ctx)
	if err != nil {
		return nil, fmt.Errorf("token for the backend: %w", err)
	}
	return with(h, wire.Field{Name: "Authorization", Value: "Bearer " + token}), nil
}

// get returns a token that is valid now. One caller fetches, the others wait for it.
func (c *clientCredentials) get(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if c.token != "" && now.Before(c.expiry) {
		return c.token, nil
	}
	resp, err := c.client.Do(ctx, &wire.Request{
		Method: "POST", Base: c.place.base, Query: c.place.query, Host: c.place.host, Timeout: 10 * time.Second,
		Header: wire.Header{
			{Name: "Authorization", Value: c.basic},
			{Name: "Content-Type", Value: "application/x-www-form-urlencoded"},
			{Name: "Accept", Value: "application/json"},
		},
		Body: strings.NewReader(c.body), Length: int64(len(c.body)),
	})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.Status != 200 {
		return "", fmt.Errorf("%s: status %d", c.place.display, resp.Status)
	}
	var answer struct {
		Token   string `json:"access_token"`
		Expires int64  `json:"expires_in"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&answer); err != nil {
		return "", fmt.Errorf("%s: %w", c.place.display, err)
	}
	if answer.Token == "" {
		return "", errors.New(c.place.display + ": answer without access_token")
	}
	life := time.Duration(min(max(answer.Expires, 0), 86400)) * time.Second
	c.token, c.expiry = answer.Token, now.Add(life-life/10)
	return c.token, nil
}
