package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"time"
)

// A Site is one URL that the device itself asks, not for a client: for a token, for keys,
// about a credential. It is safe for concurrent use.
type Site struct {
	client *wire.Client
	place  place
}

// SiteOptions say how a Site is reached. The zero value is usable.
type SiteOptions struct {
	TLS         *policy.TLS                // profile; nil: the system's authorities
	Secret      func(policy.Secret) []byte // of the profile's key
	TLSTime     func() time.Time           // time for certificates; nil: the system's
	Connections int                        // at a time; 0: 4. Sixteen times as many wait.
	Dial        func(ctx context.Context, network, addr string) (net.Conn, error)
}

// NewSite returns the site at an http or https URL. It dials nothing.
func NewSite(url string, o SiteOptions) (*Site, error) {
	p, err := parsePlace(url)
	if err != nil {
		return nil, err
	}
	if p.srv {
		return nil, fmt.Errorf("endpoint %q: only groups of backends are found by SRV", url)
	}
	n := o.Connections
	if n <= 0 {
		n = 4
	}
	t := wire.Target{Addr: p.addr, MaxActive: n, MaxIdle: n, MaxWaiting: 16 * n, MaxAge: maxAge, Dial: o.Dial}
	if p.tls {
		secret := o.Secret
		if secret == nil {
			secret = func(policy.Secret) []byte { return nil }
		}
		if t.TLS, err = tlsConfig(o.TLS, p.name, secret, o.TLSTime); err != nil {
			return nil, err
		}
	}
	return &Site{client: wire.NewClient(t), place: p}, nil
}

// String returns the URL without its query, for messages.
func (s *Site) String() string { return s.place.display }

// An Answer is what a site said.
type Answer struct {
	Status int
	Header wire.Header
	Body   []byte
}

// ErrLong means that an answer is longer than was asked for.
var ErrLong = errors.New("the answer is too long")

// Ask sends one request and reads the answer, of which the body has at most limit bytes.
// Redirects are answers like others. timeout bounds all of it.
func (s *Site) Ask(ctx context.Context, method string, h wire.Header, body []byte, limit int64, timeout time.Duration) (*Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r := &wire.Request{
		Method: method, Base: s.place.base, Path: s.place.slash, Query: s.place.query, Host: s.place.host, Header: h, Timeout: timeout, Stall: timeout,
	}
	send := func() (*wire.Response, error) {
		if body != nil {
			r.Body, r.Length = bytes.NewReader(body), int64(len(body))
		}
		return s.client.Do(ctx, r)
	}
	resp, err := send()
	if wire.Stale(err) { // what is asked here changes nothing at the site
		resp, err = send()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s, err)
	}
	defer resp.Body.Close()
	a := &Answer{Status: resp.Status}
	if a.Body, err = io.ReadAll(io.LimitReader(resp.Body, limit+1)); err != nil {
		return nil, fmt.Errorf("%s: %w", s, err)
	}
	if int64(len(a.Body)) > limit {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", s, ErrLong, limit)
	}
	for _, f := range resp.Header {
		a.Header = append(a.Header, wire.Field{Name: string([]byte(f.Name)), Value: string([]byte(f.Value))})
	}
	return a, nil
}

// Close closes the connections. Requests in flight finish.
func (s *Site) Close() { s.client.Close() }

// tlsConfig makes the client's side of TLS. host is verified unless the profile says
// otherwise.
func tlsConfig(profile *policy.TLS, host string, secret func(policy.Secret) []byte, now func() time.Time) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, Time: now}
	if profile == nil {
		return c, nil
	}
	return c, applyProfile(c, profile, secret)
}
