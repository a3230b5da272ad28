package introspect

import (
	"errors"
	"math"
	"net/url"
	"strconv"
	"strings"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"tidegate/policy/auth"
	"time"
)

// rfc7662 is token introspection (RFC 7662).
type rfc7662 struct{}

func (rfc7662) name() string { return "rfc7662" }
func (rfc7662) perAPI() bool { return false }

func (rfc7662) request(q *auth.Question) (wire.Header, []byte) {
	form := url.Values{"token": {q.Token}}
	return wire.Header{
		{Name: "Content-Type", Value: "application/x-www-form-urlencoded"},
		{Name: "Accept", Value: "application/json"},
	}, []byte(form.Encode())
}

var errNoActive = errors.New("the answer does not say whether the token is active")

// read reads RFC 7662 §2.2. WSO2's username comes with its tenant; it is preferred to sub.
func (rfc7662) read(body []byte) (*auth.Introspected, error) {
	c, err := auth.ParseClaims(body)
	if err != nil {
		return nil, err
	}
	switch raw(c, "active") {
	case "true":
	case "false":
		return &auth.Introspected{}, nil
	default:
		return nil, errNoActive
	}
	r := &auth.Introspected{Active: true, Subject: c.Text("username"), ConsumerKey: c.Text("client_id"), ID: c.Text("jti"), Claims: c}
	if r.Subject == "" {
		r.Subject = c.Text("sub")
	}
	if i := strings.LastIndexByte(r.Subject, '@'); i >= 0 {
		r.Tenant = r.Subject[i+1:]
	}
	for _, s := range c.Values("scope") {
		r.Scopes = append(r.Scopes, strings.Fields(s)...)
	}
	if t := c.Text("keytype"); t != "" && !strings.EqualFold(t, policy.Production.String()) {
		r.KeyType = policy.Sandbox
	}
	if text := c.Text("exp"); text != "" {
		if r.Expires, err = date(text); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// raw returns a claim as JSON, "" when it is absent.
func raw(c *policy.Claims, name string) (out string) {
	c.All(func(n, raw string) bool {
		if n == name {
			out = raw
		}
		return n != name
	})
	return out
}

// milliseconds is the size from which a time is in milliseconds.
const milliseconds = 1e11

func date(s string) (time.Time, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || f < 0 || f > 1e15 {
		return time.Time{}, errors.New("exp is not a time")
	}
	if f >= milliseconds {
		f /= 1000
	}
	return time.Unix(int64(f), 0), nil
}
