package upstream

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"tidegate/appliance/wire"
	"tidegate/policy"
)

// An authorizer adds a backend's credential to a request's header. It returns a new
// header; that of the caller stays as it is.
type authorizer interface {
	authorize(ctx context.Context, h wire.Header) (wire.Header, error)
	// refused is told that the backend answered 401.
	refused()
}

// fixedAuth is one header field that never changes.
type fixedAuth wire.Field

func (f fixedAuth) authorize(_ context.Context, h wire.Header) (wire.Header, error) {
	return with(h, wire.Field(f)), nil
}

func (fixedAuth) refused() {}

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

// newAuth makes the authorizer of a group; nil for none.
func newAuth(a *policy.BackendAuth, over Override, profile *policy.TLS, o Options) (authorizer, error) {
	var user, secret string
	if a != nil {
		user = a.Username
		secret = string(o.Secret(a.Secret))
	}
	if over.Username != "" {
		user = over.Username
	}
	if over.Password != "" {
		secret = over.Password
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
		return newClientCredentials(a, user, secret, profile, o)
	}
	return nil, fmt.Errorf("unknown kind %d of backend credential", a.Kind)
}

func basicAuth(user, password string) fixedAuth {
	return fixedAuth{Name: "Authorization", Value: "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))}
}

// Basic returns the value of an Authorization header for HTTP Basic (RFC 7617).
func Basic(user, password string) string { return basicAuth(user, password).Value }
