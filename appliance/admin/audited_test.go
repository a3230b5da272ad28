package admin_test

import (
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"tidegate/appliance/admin"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"time"
)

// A change is a request that alters the device, and what the audit log must say of it.
type change struct {
	pattern     string
	path, body  string
	event, says string
}

// TestEveryChangeIsAudited makes each change that the API knows, on the page as an administrator or
// over the socket, and wants an entry that names who it was. A route without a row fails.
func TestEveryChangeIsAudited(t *testing.T) {
	d := serving(t)
	account(t, d, "eva", "admin")
	b := newBrowser(t, page(d))
	if r := b.signIn(t, "eva", password); r.status != 200 {
		t.Fatalf("sign in: %d %s", r.status, r.body)
	}
	key := devicetest.JSON[[]admin.CounterView](t, d, "/v1/counters")[0].Key
	next := string(d.Fleet.Bundle(t, d.Fleet.API(t, "http://127.0.0.1:1", "/open", "/new"), nil))
	rows := []change{
		{pattern: "POST /v1/counters/reset", path: "/v1/counters/reset?key=" + key, event: "operator", says: "counters reset: " + key},
		{pattern: "POST /v1/confirm", event: "confirmed"},
		{pattern: "POST /v1/apply", path: "/v1/apply?name=new.tide", body: next, event: "trial"},
		{pattern: "POST /v1/rollback", event: "rolled-back"},
		{pattern: "POST /v1/revocations", body: `{"revocations":[{"jti":"7"}]}`, event: "operator", says: "revo"},
		{pattern: "POST /v1/admins", body: `{"name":"ron","role":"viewer","password":"a long enough one"}`, event: "operator", says: "password of ron (viewer) set"},
		{pattern: "DELETE /v1/admins/{name}", path: "/v1/admins/ron", event: "operator", says: "ron"},
		{pattern: "POST /v1/logout", event: "operator", says: "signed out"},
		{pattern: "POST /v1/login", body: `{"name":"eva","password":"` + password + `"}`, event: "operator", says: "signed in as admin"},
	}
	// What alters nothing, or is refused here: a plan, a look at the fleet without a link, and a root,
	// whose acceptance is shown where roots are tested; and the line to a stick, whose files the desk
	// notes as it takes or refuses them.
	others := []string{"POST /v1/plan", "POST /v1/stick", "POST /v1/sync", "POST /v1/trust"}
	for _, p := range admin.Patterns() {
		known := slices.Contains(others, p) || slices.ContainsFunc(rows, func(c change) bool { return c.pattern == p })
		if !strings.HasPrefix(p, "GET ") && !known {
			t.Errorf("%s alters the device, and nothing here looks for its entry", p)
		}
	}
	for _, c := range rows {
		method, path, _ := strings.Cut(c.pattern, " ")
		if c.path != "" {
			path = c.path
		}
		before := lastEntry(t, d)
		by := "page eva@127.0.0.1"
		if strings.Contains(path, "/admins") {
			by = "socket uid "
			if status, text := d.Socket(t, method, path, c.body); status != 200 {
				t.Errorf("%s: %d %s", c.pattern, status, text)
			}
		} else if r := do(t, b.Client, method, b.base+path, c.body, "X-Tidegate-Csrf", b.csrf, "Content-Type", "application/json"); r.status != 200 {
			t.Errorf("%s: %d %s", c.pattern, r.status, r.body)
		}
		after := devicetest.JSON[[]admin.HistoryView](t, d, "/v1/history")
		if !slices.ContainsFunc(after, func(h admin.HistoryView) bool {
			return h.N > before && h.Event == c.event && strings.Contains(h.Source, by) && strings.Contains(h.Detail, c.says)
		}) {
			t.Errorf("%s: no entry %q by %q that says %q after entry %d: %+v", c.pattern, c.event, by, c.says, before, after[len(after)-1])
		}
	}
}

func lastEntry(t *testing.T, d *devicetest.Device) uint64 {
	t.Helper()
	all := devicetest.JSON[[]admin.HistoryView](t, d, "/v1/history")
	if len(all) == 0 {
		return 0
	}
	return all[len(all)-1].N
}

// TestEveryMetricIsInTheReference holds what a device exposes against docs/reference/metrics.md.
func TestEveryMetricIsInTheReference(t *testing.T) {
	b, err := os.ReadFile("../../docs/reference/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{} // name → type
	for _, m := range regexp.MustCompile("(?m)^\\| `(tidegate_[a-z_]+)` \\| ([a-z]+) \\|").FindAllStringSubmatch(string(b), -1) {
		told[m[1]] = m[2]
	}
	d := serving(t)
	given := regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`).FindAllStringSubmatch(get(t, http.DefaultClient, page(d)+"/metrics").body, -1)
	if len(given) < 40 {
		t.Errorf("%d families, want all", len(given))
	}
	for _, m := range given {
		if told[m[1]] != m[2] {
			t.Errorf("%s is a %s; docs/reference/metrics.md says %q", m[1], m[2], told[m[1]])
		}
		delete(told, m[1])
	}
	for name := range told {
		if !strings.HasPrefix(name, "tidegate_sync_") && name != "tidegate_disk_worn_ratio" { // with a link, or a card that tells
			t.Errorf("docs/reference/metrics.md tells of %s, which nobody gives", name)
		}
	}
}

func TestTheAccessLogIsKeptInMemory(t *testing.T) {
	if status, text := serving(t).Socket(t, "GET", "/v1/access", ""); status != 409 || !strings.Contains(text, "log.access_memory") {
		t.Errorf("without it: %d %s", status, text)
	}
	d := serving(t, func(c *config.Config) { c.Log.Access, c.Log.Memory = "json", 1<<16 })
	get(t, http.DefaultClient, d.URL("/echo/1.0/open?secret=1"), "Authorization", "Bearer secret")
	for deadline := time.Now().Add(time.Minute); ; { // lines are written behind the calls
		_, text := d.Socket(t, "GET", "/v1/access", "")
		if strings.Count(text, "\n") >= 6 {
			if strings.Contains(text, "secret") || !strings.Contains(text, `"status":429`) {
				t.Errorf("got %s", text)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("six calls, and the log has %q", text)
		}
	}
}
