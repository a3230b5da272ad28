package apim

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"tidegate/policy/refusal"
	"tidegate/policy/wso2"
)

// pageSize is how many entries a page has, as the original asks.
const pageSize = 500

// query writes a search as the original does: spaces as %20, colons as they are.
func query(s Selector) string {
	if s.Name != "" {
		return "name:" + escape(s.Name) + "%20version:" + escape(s.Version) + "%20status:PUBLISHED"
	}
	return "label:" + escape(s.Label) + "%20status:PUBLISHED"
}

func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// pages gets every page of a list. A server that ignores offset would give a part again and
// again: that is an error, not a part of the label.
func (c *Client) pages(ctx context.Context, call, path string, offset bool) ([]wso2.Object, error) {
	var all []wso2.Object
	seen := map[string]bool{}
	for {
		p := path
		if offset && len(all) > 0 {
			p += fmt.Sprintf("&offset=%d", len(all))
		}
		b, _, err := c.get(ctx, call, p)
		if err != nil {
			return nil, err
		}
		l, err := wso2.ParseList(call, b)
		if err != nil {
			return nil, err
		}
		for _, o := range l.Items {
			if id := o.Text("id"); id != "" && offset {
				if seen[id] {
					return nil, refusal.New(refusal.Format, "%s: the API %s comes twice: the server ignores offset, so only a part of the list can be had", call, id)
				}
				seen[id] = true
			}
			all = append(all, o)
		}
		switch {
		case !offset || len(l.Items) == 0:
			return all, nil
		case l.Total >= 0 && l.Total <= len(all):
			return all, nil
		case l.Total < 0 && len(l.Items) < pageSize && !l.More:
			return all, nil
		}
		c.say("listing APIs: %d so far", len(all))
	}
}

// selected reports whether an entry of a search is meant: the server's match is loose, and a
// name must be equal. Only published APIs count.
func selected(o wso2.Object, s Selector) bool {
	if status := o.Text("lifeCycleStatus", "status"); status != "" && !strings.EqualFold(status, "PUBLISHED") {
		return false
	}
	return s.Name == "" || o.Text("name") == s.Name && o.Text("version") == s.Version
}

func (c *Client) search(ctx context.Context, s Selector, expand bool) ([]wso2.Object, error) {
	c.say("listing APIs")
	path := fmt.Sprintf("/api/am/publisher/%s/apis?query=%s&expand=%t&limit=%d", c.api.publisher, query(s), expand, pageSize)
	if s.Name != "" && expand {
		path = fmt.Sprintf("/api/am/publisher/%s/apis?query=%s&expand=true", c.api.publisher, query(s))
	}
	found, err := c.pages(ctx, "list APIs", path, true)
	if err != nil {
		return nil, err
	}
	out := found[:0]
	for _, o := range found {
		if selected(o, s) {
			out = append(out, o)
		}
	}
	return out, nil
}

// list fetches from 2.6, which puts everything into its list.
func (c *Client) list(ctx context.Context, x *wso2.Export, s Selector) error {
	found, err := c.search(ctx, s, true)
	for _, o := range found {
		x.APIs = append(x.APIs, wso2.APISource{Object: o})
	}
	return err
}

// details fetches from 3.x: each API and its definition.
func (c *Client) details(ctx context.Context, x *wso2.Export, s Selector) error {
	found, err := c.search(ctx, s, false)
	if err != nil {
		return err
	}
	for i, o := range found {
		name := fmt.Sprintf("API %q %s", o.Text("name"), o.Text("version"))
		c.say("fetching API %d of %d", i+1, len(found))
		at := fmt.Sprintf("/api/am/publisher/%s/apis/%s", c.api.publisher, url.PathEscape(o.Text("id")))
		b, _, err := c.get(ctx, name+": get detail", at)
		if err != nil {
			return err
		}
		detail, err := wso2.ParseObject(name+": get detail", b)
		if err != nil {
			return err
		}
		def, _, err := c.get(ctx, name+": get definition", at+"/swagger")
		if err != nil {
			return err
		}
		x.APIs = append(x.APIs, wso2.APISource{Object: detail, Definition: def, DefinitionName: "definition.json"})
	}
	return nil
}

// export fetches from 4.x: one archive of everything that is deployed to an environment.
func (c *Client) export(ctx context.Context, x *wso2.Export, s Selector) error {
	c.say("fetching the APIs of %s", s.Label)
	const call = "export APIs"
	b, h, err := c.get(ctx, call, fmt.Sprintf("/api/am/publisher/%s/apis/export?name=%s&version=%s&gatewayEnvironment=%s", c.api.publisher,
		escape(s.Name), escape(s.Version), escape(base64.StdEncoding.EncodeToString([]byte(s.Label)))))
	switch {
	case statusOf(err) == http.StatusNotFound:
		return nil
	case err != nil:
		return err
	case !strings.HasPrefix(h.Get("Content-Type"), "application/zip"):
		return nil
	}
	inner, err := wso2.ParseDeployments(call, b)
	if err != nil {
		return err
	}
	x.Join(inner)
	return nil
}

// policies fetches the plans and block conditions. The first two are needed: without them a
// limit would be lost. The others are warned of.
func (c *Client) policies(ctx context.Context, x *wso2.Export) error {
	c.say("fetching policies")
	var base string
	for i, v := range c.api.admin {
		base = "/api/am/admin/" + v + "/throttling/"
		found, err := c.pages(ctx, "list application policies", base+"policies/application", false)
		if statusOf(err) == http.StatusNotFound && i+1 < len(c.api.admin) {
			continue
		}
		if err != nil {
			return err
		}
		x.Application = found
		break
	}
	var err error
	if x.Subscription, err = c.pages(ctx, "list subscription policies", base+"policies/subscription", false); err != nil {
		return err
	}
	for _, l := range []struct {
		call, kind string
		paths      []string
		to         *[]wso2.Object
	}{
		{"list advanced policies", wso2.KindResource, []string{"policies/advanced"}, &x.Advanced},
		{"list custom rules", wso2.KindCustom, []string{"policies/custom"}, &x.Custom},
		{"list block conditions", wso2.KindBlock, c.blockPaths(), &x.Blocked},
	} {
		found, err := c.firstOf(ctx, l.call, base, l.paths)
		if err == nil && l.kind == wso2.KindResource {
			found, err = c.groups(ctx, base, found)
		}
		if statusOf(err) != 0 && !c.Strict {
			c.warn = append(c.warn, fmt.Sprintf("%s: not fetched: status %d", strings.TrimPrefix(l.call, "list "), statusOf(err)))
			x.Unfetched = append(x.Unfetched, l.kind)
			continue
		}
		if err != nil {
			return err
		}
		*l.to = found
	}
	return nil
}

func (c *Client) blockPaths() []string {
	if c.api.version < "3.2" {
		return []string{"blacklist"}
	}
	return []string{"deny-policies", "blacklist"}
}

func (c *Client) firstOf(ctx context.Context, call, base string, paths []string) (found []wso2.Object, err error) {
	for _, p := range paths {
		if found, err = c.pages(ctx, call, base+p, false); statusOf(err) != http.StatusNotFound {
			break
		}
	}
	return found, err
}

// groups completes advanced policies whose list entries lack their conditional groups.
func (c *Client) groups(ctx context.Context, base string, list []wso2.Object) ([]wso2.Object, error) {
	for i, o := range list {
		name := o.Text("policyName", "displayName")
		if o.Has("conditionalGroups") || strings.EqualFold(name, "Unlimited") {
			continue
		}
		call := fmt.Sprintf("get advanced policy %q", name)
		b, _, err := c.get(ctx, call, base+"policies/advanced/"+url.PathEscape(o.Text("policyId")))
		if err != nil {
			return nil, err
		}
		full, err := wso2.ParseObject(call, b)
		if err != nil {
			return nil, err
		}
		list[i] = full
	}
	return list, nil
}

// subscriptions fetches from the internal data API, which 3.2 and later have.
func (c *Client) subscriptions(ctx context.Context, x *wso2.Export) error {
	if c.api.version < "3.2" {
		c.warn = append(c.warn, fmt.Sprintf("API Manager %s does not give subscriptions out: its tokens carry them (subscribedAPIs)", c.api.version))
		x.Unfetched = append(x.Unfetched, wso2.KindConsumer, wso2.KindSubscribed)
		return nil
	}
	c.say("fetching subscriptions")
	for _, l := range []struct {
		name string
		to   *[]wso2.Object
	}{{"apis", &x.DataAPIs}, {"applications", &x.Applications}, {"subscriptions", &x.Subscriptions}, {"application-key-mappings", &x.Keys}} {
		req, err := http.NewRequest(http.MethodGet, c.Server+"/internal/data/v1/"+l.name, nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", basic(c.User, c.Password))
		call := "get " + strings.ReplaceAll(l.name, "-", " ")
		b, _, err := exchange(ctx, c.HTTP, c.Server, call, req)
		if err != nil {
			return err
		}
		page, err := wso2.ParseList(call, b)
		if err != nil {
			return err
		}
		*l.to = page.Items
	}
	return nil
}

// jwks fetches the keys of the token issuer, nil where the server does not give them out.
func (c *Client) jwks(ctx context.Context) ([]byte, error) {
	req, err := http.NewRequest(http.MethodGet, c.Server+"/oauth2/jwks", nil)
	if err != nil {
		return nil, err
	}
	b, _, err := exchange(ctx, c.HTTP, c.Server, "get keys", req)
	if statusOf(err) != 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := wso2.ParseObject("get keys", b); err != nil {
		c.warn = append(c.warn, "the keys of the token issuer are not readable: "+err.Error())
		return nil, nil //nolint:nilerr // told as a warning
	}
	return b, nil
}
