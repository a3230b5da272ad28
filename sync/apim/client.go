package apim

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"tidegate/policy/refusal"
	"tidegate/policy/wso2"
)

// A Version is a version of API Manager, as its REST API differs.
type Version string

// Auto asks the server.
const Auto Version = "auto"

// api is where a version has its REST API.
type api struct {
	version   Version
	register  string // of client registration
	publisher string
	admin     []string // the first that is not 404
}

var apis = []api{
	{"2.6", "v0.14", "v0.14", []string{"v0.14"}},
	{"3.0", "v0.15", "v1.0", []string{"v0.15"}},
	{"3.1", "v0.16", "v1.1", []string{"v0.16"}},
	{"3.2", "v0.17", "v1.2", []string{"v1", "v0.17"}},
	{"4.0", "v0.17", "v2", []string{"v2"}},
	{"4.1", "v0.17", "v3", []string{"v3"}},
	{"4.2", "v0.17", "v4", []string{"v4"}},
}

// Versions are the versions that can be asked for, Auto first.
func Versions() []string {
	out := []string{string(Auto)}
	for _, a := range apis {
		out = append(out, string(a.version))
	}
	return out
}

// Credentials are those of a client that API Manager registered for this user.
type Credentials struct {
	ID       string `json:"client_id"`
	Secret   string `json:"client_secret"`
	Register string `json:"dcr"` // version of the registration that gave them
}

// A Selector says what to fetch: the APIs of a label, or one API. In 4.x a label is always
// needed and a name narrows it.
type Selector struct {
	Label         string
	Name, Version string
}

// String returns "label L" or "api NAME VERSION".
func (s Selector) String() string {
	switch {
	case s.Name != "" && s.Label != "":
		return "label " + s.Label + ", api " + s.Name + " " + s.Version
	case s.Name != "":
		return "api " + s.Name + " " + s.Version
	}
	return "label " + s.Label
}

// A Client fetches from one server as one user. It is for one goroutine.
type Client struct {
	Server         string // https://host:port
	HTTP           *http.Client
	User, Password string
	Version        Version     // Auto: asked
	Credentials    Credentials // of an earlier run; changed when a new client had to be registered
	Subscriptions  bool        // fetch applications, subscriptions and keys too
	Strict         bool        // policies that cannot be fetched are an error
	Progress       func(what string)

	api   api
	token string
	scope string // granted
	warn  []string
}

// Fetch gets everything that the selection needs. What is wrong with a reply's shape is
// E_FORMAT; every other error has no word.
func (c *Client) Fetch(ctx context.Context, s Selector) (*wso2.Export, error) {
	if err := c.login(ctx); err != nil {
		return nil, err
	}
	if err := c.detect(ctx); err != nil {
		return nil, err
	}
	x := &wso2.Export{Server: c.Server, Version: string(c.api.version), Label: s.Label}
	var err error
	switch {
	case c.api.version >= "4" && s.Label == "":
		return nil, refusal.New("", "API Manager %s gives APIs out by label only", c.api.version).WithHint("add --label L: the gateway environment the API is deployed to")
	case c.api.version < "4" && s.Label != "" && s.Name != "":
		return nil, refusal.New("", "API Manager %s takes a label or a name, not both", c.api.version).WithHint("leave out --label, or --api and --version")
	case c.api.version >= "4":
		err = c.export(ctx, x, s)
	case c.api.version >= "3":
		err = c.details(ctx, x, s)
	default:
		err = c.list(ctx, x, s)
	}
	if err != nil {
		return nil, c.explain(err)
	}
	if len(x.APIs) == 0 {
		if s.Name != "" {
			return nil, refusal.New("", "no published API matched name %s, version %s", s.Name, s.Version).WithHint("is it published, and is that the exact version?")
		}
		return nil, refusal.New("", "no APIs found for the given label: %s", s.Label).WithHint("is the label attached to a published API?")
	}
	if err := c.policies(ctx, x); err != nil {
		return nil, c.explain(err)
	}
	if c.Subscriptions {
		if err := c.subscriptions(ctx, x); err != nil {
			return nil, c.explain(err)
		}
	} else {
		x.Unfetched = append(x.Unfetched, wso2.KindConsumer, wso2.KindSubscribed)
	}
	if x.JWKS, err = c.jwks(ctx); err != nil {
		return nil, err
	}
	x.Warnings = append(x.Warnings, c.warn...)
	return x, nil
}

// say tells what is being done.
func (c *Client) say(format string, args ...any) {
	if c.Progress != nil {
		c.Progress(fmt.Sprintf(format, args...))
	}
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// errCredentials is a refused user.
func (c *Client) errCredentials() error {
	return refusal.New("", "%s: invalid user credentials or the user does not have required permissions", c.Server)
}

// login gets a token, with the client of an earlier run if there is one.
func (c *Client) login(ctx context.Context) error {
	if c.Credentials.ID != "" {
		err := c.getToken(ctx)
		switch statusOf(err) {
		case 0:
			return err
		case http.StatusBadRequest, http.StatusUnauthorized:
			c.Credentials = Credentials{} // the server has forgotten it: register anew
		default:
			return err
		}
	}
	if err := c.register(ctx); err != nil {
		return err
	}
	err := c.getToken(ctx)
	if s := statusOf(err); s == http.StatusUnauthorized || s == http.StatusBadRequest {
		return c.errCredentials()
	}
	return err
}

// register registers a client, with the first version of the registration that exists.
func (c *Client) register(ctx context.Context) error {
	c.say("registering a client")
	versions := []string{"v0.14", "v0.15", "v0.16", "v0.17"}
	if c.Version != Auto {
		i := slices.IndexFunc(apis, func(a api) bool { return a.version == c.Version })
		if i < 0 {
			return fmt.Errorf("API Manager %s is not known", c.Version)
		}
		versions = []string{apis[i].register}
	}
	for _, v := range versions {
		name := "Micro_Gateway_Cli"
		if v == "v0.14" {
			name = "Micro Gateway Cli"
		}
		body, err := json.Marshal(struct {
			CallbackURL string `json:"callbackUrl"`
			ClientName  string `json:"clientName"`
			Owner       string `json:"owner"`
			SaasApp     bool   `json:"saasApp"`
			GrantType   string `json:"grantType"`
			TokenScope  string `json:"tokenScope"`
		}{"https://wso2.org", name, c.User, true, "password", "PRODUCTION"})
		if err != nil {
			return err
		}
		req, err := http.NewRequest(http.MethodPost, c.Server+"/client-registration/"+v+"/register", strings.NewReader(string(body)))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", basic(c.User, c.Password))
		req.Header.Set("Content-Type", "application/json")
		b, _, err := exchange(ctx, c.HTTP, c.Server, "register client", req)
		switch statusOf(err) {
		case http.StatusNotFound:
			continue
		case http.StatusUnauthorized:
			return c.errCredentials()
		}
		if err != nil {
			return about(c.Server, err)
		}
		o, err := wso2.ParseObject("register client", b)
		if err != nil {
			return err
		}
		c.Credentials = Credentials{ID: o.Text("clientId"), Secret: o.Text("clientSecret"), Register: v}
		if c.Credentials.ID == "" || c.Credentials.Secret == "" {
			return refusal.New(refusal.Format, "register client: $.clientId, $.clientSecret: missing")
		}
		return nil
	}
	return refusal.New("", "%s: register client: status 404: no client registration of %s there", c.Server, strings.Join(versions, ", ")).
		WithHint("is it API Manager 2.6, 3.x or 4.x? Name the version with --apim if a proxy hides others")
}

// scopes are what the calls need.
func (c *Client) scopes() string {
	s := "apim:tier_view apim:api_view apim:bl_view"
	if c.Credentials.Register == "v0.17" {
		s += " apim:api_import_export apim:admin_tier_view"
	}
	return s
}

func (c *Client) getToken(ctx context.Context) error {
	c.say("getting a token")
	form := url.Values{"grant_type": {"password"}, "username": {c.User}, "password": {c.Password}, "scope": {c.scopes()}}
	req, err := http.NewRequest(http.MethodPost, c.Server+"/oauth2/token", strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", basic(c.Credentials.ID, c.Credentials.Secret))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	b, _, err := exchange(ctx, c.HTTP, c.Server, "get token", req)
	if err != nil {
		return about(c.Server, err)
	}
	o, err := wso2.ParseObject("get token", b)
	if err != nil {
		return err
	}
	if c.token, c.scope = o.Text("access_token"), o.Text("scope"); c.token == "" {
		return refusal.New(refusal.Format, "get token: $.access_token: missing")
	}
	return nil
}

// about names the server in an error of a status.
func about(server string, err error) error {
	if statusOf(err) != 0 {
		return fmt.Errorf("%s: %w", server, err)
	}
	return err
}

// explain says what a refused call means.
func (c *Client) explain(err error) error {
	var s *StatusError
	if !errors.As(err, &s) {
		return err
	}
	switch s.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		e := refusal.New("", "%s: invalid user credentials or the user does not have required permissions: %w", c.Server, err)
		for _, need := range strings.Fields(c.scopes()) {
			if c.scope != "" && !slices.Contains(strings.Fields(c.scope), need) {
				return e.WithHint("the token lacks the scope %s: give the user a role that has it (Internal/publisher, and for policies an administrator)", need)
			}
		}
		return e
	}
	return fmt.Errorf("%s: %w", c.Server, err)
}

// get calls a REST API with the token.
func (c *Client) get(ctx context.Context, call, path string) ([]byte, http.Header, error) {
	req, err := http.NewRequest(http.MethodGet, c.Server+path, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	return exchange(ctx, c.HTTP, c.Server, call, req)
}

// detect finds out which version it is, as far as the registration left that open.
func (c *Client) detect(ctx context.Context) error {
	var fit []api
	for _, a := range apis {
		if c.Version == a.version || c.Version == Auto && a.register == c.Credentials.Register {
			fit = append(fit, a)
		}
	}
	if len(fit) == 1 {
		c.api = fit[0]
		return nil
	}
	slices.Reverse(fit) // the newest first
	for _, a := range fit {
		_, _, err := c.get(ctx, "find the version", "/api/am/publisher/"+a.publisher+"/apis?limit=1")
		switch {
		case err == nil:
			c.api = a
			return nil
		case statusOf(err) != http.StatusNotFound:
			return c.explain(err)
		}
	}
	return refusal.New("", "%s: find the version: no publisher API of 3.2 or 4.x there", c.Server).WithHint("name the version with --apim")
}
