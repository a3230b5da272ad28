package appliance_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/policy/project"
)

// TestExampleOfTheKeyManager asks for a token as clients of the microgateway do.
func TestExampleOfTheKeyManager(t *testing.T) {
	km := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // a short one shows in the answer
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.URL.Path, r.Header.Get("Authorization"), body)
	}))
	t.Cleanup(km.Close)
	p, findings := project.Load(os.DirFS("../examples/keymanager"))
	if p == nil {
		t.Fatal(findings)
	}
	d := devicetest.Start(t, devicetest.Options{Config: func(c *config.Config) {
		c.Endpoints = map[string]config.Endpoint{"KeyManager": {URL: config.Words{km.URL + "/oauth2"}}}
	}})
	d.Apply(t, p.Set)
	post := func(path, kind, body string) answer {
		r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, d.URL(path), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", kind)
		r.SetBasicAuth("key", "secret")
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer{resp.StatusCode, resp.Header, string(b)}
	}
	const form = "application/x-www-form-urlencoded"
	if a := post("/token", form, "grant_type=client_credentials"); a.status != 200 || a.body != "POST /oauth2/token Basic a2V5OnNlY3JldA== grant_type=client_credentials" {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if a := call(t, "GET", d.URL("/userinfo?schema=openid"), "Authorization", "Bearer x"); a.status != 200 || a.body != "GET /oauth2/userinfo Bearer x " {
		t.Errorf("got %d %s", a.status, a.body)
	}
	for name, a := range map[string]answer{
		"415": post("/token", "application/json", "{}"), "413": post("/token", form, strings.Repeat("a", 17<<10)),
		"404": call(t, "GET", d.URL("/services/Admin")), "405": call(t, "GET", d.URL("/token")),
	} {
		if fmt.Sprint(a.status) != name {
			t.Errorf("want %s, got %d %s", name, a.status, a.body)
		}
	}
	limited := false
	for range 41 { // twice the limit, should a window turn in between
		limited = limited || post("/token", form, "x=1").status == 429
	}
	if !limited {
		t.Error("no limit")
	}
}
