package admin_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/appliance/admin"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
	"time"
)

// serving is a device with a bundle, a plan that is spent, and calls of several outcomes.
func serving(t *testing.T, change ...func(*config.Config)) *devicetest.Device {
	t.Helper()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	t.Cleanup(backend.Close)
	d := devicetest.Start(t, devicetest.Options{Config: func(c *config.Config) {
		for _, f := range change {
			f(c)
		}
	}})
	set := d.Fleet.API(t, backend.URL, "/open", "/things/{id}")
	set.Plans = []policy.Plan{{Kind: policy.ResourcePlan, Name: "2PerHour", Limit: policy.Limit{Count: 2, Window: 3600e9}}}
	set.APIs[0].Operations[0].Plan = "2PerHour"
	d.Apply(t, set)
	for range 4 {
		get(t, http.DefaultClient, d.URL("/echo/1.0/open"))
	}
	get(t, http.DefaultClient, d.URL("/echo/1.0/things/1"))
	return d
}

// reply is what a visitor saw.
type reply struct {
	status int
	header http.Header
	body   string
}

func do(t *testing.T, c *http.Client, method, url, body string, header ...string) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(b)}
}

func get(t *testing.T, c *http.Client, url string, header ...string) reply {
	t.Helper()
	return do(t, c, http.MethodGet, url, "", header...)
}

const password = "correct horse battery"

// account sets a password over the socket, as somebody at the device does.
func account(t *testing.T, d *devicetest.Device, name, role string) {
	t.Helper()
	status, text := d.Socket(t, "POST", "/v1/admins", fmt.Sprintf(`{"name":%q,"role":%q,"password":%q}`, name, role, password))
	if status != 200 {
		t.Fatalf("set password: %d %s", status, text)
	}
}

// a browser keeps cookies and the token of its session.
type browser struct {
	*http.Client
	base, csrf string
}

func newBrowser(t *testing.T, base string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true, ExpectContinueTimeout: 10 * time.Second} // the device's own certificate
	return &browser{Client: &http.Client{Jar: jar, Transport: tr}, base: base}
}

func (b *browser) signIn(t *testing.T, name, password string) reply {
	t.Helper()
	r := do(t, b.Client, "POST", b.base+"/v1/login", fmt.Sprintf(`{"name":%q,"password":%q}`, name, password), "Content-Type", "application/json")
	var s admin.SessionView
	if r.status == 200 {
		if err := json.Unmarshal([]byte(r.body), &s); err != nil {
			t.Fatal(err)
		}
		b.csrf = s.CSRF
	}
	return r
}

func page(d *devicetest.Device) string { return "http://" + d.Addr("admin") }

func TestThisMachineMayLookAndNotChange(t *testing.T) {
	d := serving(t)
	for _, path := range []string{"/", "/main.js", "/app.css", "/v1/status", "/v1/apis", "/v1/calls", "/metrics", "/openapi.json"} {
		if r := get(t, http.DefaultClient, page(d)+path); r.status != 200 {
			t.Errorf("GET %s: %d %s", path, r.status, r.body)
		}
	}
	for _, path := range []string{"/v1/rollback", "/v1/confirm", "/v1/apply", "/v1/plan", "/v1/trust", "/v1/counters/reset?key=x", "/v1/revocations"} {
		if r := do(t, http.DefaultClient, "POST", page(d)+path, ""); r.status != 401 {
			t.Errorf("POST %s without signing in: %d %s", path, r.status, r.body)
		}
	}
	for _, path := range []string{"/v1/admins", "/v1/admins/admin"} {
		if r := do(t, http.DefaultClient, "DELETE", page(d)+path, ""); r.status != 404 && r.status != 405 {
			t.Errorf("%s is on the page's listener: %d", path, r.status)
		}
	}
	// What comes through a proxy on this machine comes from elsewhere.
	if r := get(t, http.DefaultClient, page(d)+"/v1/status", "X-Forwarded-For", "203.0.113.9"); r.status != 403 {
		t.Errorf("through a proxy: %d %s", r.status, r.body)
	}
}

func TestSignedInAdministratorChanges(t *testing.T) {
	d := serving(t)
	account(t, d, "eva", "admin")
	b := newBrowser(t, page(d))
	r := b.signIn(t, "eva", password)
	if r.status != 200 {
		t.Fatalf("sign in: %d %s", r.status, r.body)
	}
	if c := r.header.Get("Set-Cookie"); !strings.Contains(c, "HttpOnly") || !strings.Contains(c, "SameSite=Strict") {
		t.Errorf("cookie: %s", c)
	}
	if r := do(t, b.Client, "POST", b.base+"/v1/confirm", "", "X-Tidegate-Csrf", b.csrf); r.status != 200 {
		t.Errorf("confirm: %d %s", r.status, r.body)
	}
	bundle := d.Fleet.Bundle(t, d.Fleet.API(t, "http://127.0.0.1:1", "/open", "/new"), nil)
	if r := do(t, b.Client, "POST", b.base+"/v1/plan?name=x.tide", string(bundle), "X-Tidegate-Csrf", b.csrf); r.status != 200 || !strings.Contains(r.body, "new_bytes") {
		t.Errorf("plan: %d %s", r.status, r.body)
	}
	if r := do(t, b.Client, "POST", b.base+"/v1/apply?name=x.tide", string(bundle), "X-Tidegate-Csrf", b.csrf); r.status != 200 || !strings.Contains(r.body, `"phase":"trial"`) {
		t.Errorf("apply: %d %s", r.status, r.body)
	}
	if r := do(t, b.Client, "POST", b.base+"/v1/rollback", "", "X-Tidegate-Csrf", b.csrf); r.status != 200 {
		t.Errorf("roll back: %d %s", r.status, r.body)
	}
	var who []string
	for _, h := range devicetest.JSON[[]admin.HistoryView](t, d, "/v1/history") {
		who = append(who, h.Event+" by "+h.Source+": "+h.Detail)
	}
	all := strings.Join(who, "\n")
	for _, want := range []string{"operator by socket uid ", "password of eva (admin) set", "operator by page eva@127.0.0.1: signed in", "confirmed by page eva@127.0.0.1", "trial by page eva@127.0.0.1", "rolled-back by page eva@127.0.0.1"} {
		if !strings.Contains(all, want) {
			t.Errorf("the audit log lacks %q:\n%s", want, all)
		}
	}
	if r := do(t, b.Client, "POST", b.base+"/v1/logout", "", "X-Tidegate-Csrf", b.csrf); r.status != 200 {
		t.Errorf("sign out: %d %s", r.status, r.body)
	}
	if r := do(t, b.Client, "POST", b.base+"/v1/confirm", "", "X-Tidegate-Csrf", b.csrf); r.status != 401 {
		t.Errorf("after signing out: %d %s", r.status, r.body)
	}
}

func TestViewerMayNotChange(t *testing.T) {
	d := serving(t)
	account(t, d, "ron", "viewer")
	b := newBrowser(t, page(d))
	b.signIn(t, "ron", password)
	if r := do(t, b.Client, "POST", b.base+"/v1/rollback", "", "X-Tidegate-Csrf", b.csrf); r.status != 403 || !strings.Contains(r.body, "may look, not change") {
		t.Errorf("got %d %s", r.status, r.body)
	}
}

func TestForgedRequestsAreRefused(t *testing.T) {
	d := serving(t)
	account(t, d, "eva", "admin")
	b := newBrowser(t, page(d))
	b.signIn(t, "eva", password)
	for name, header := range map[string][]string{
		"no token":           nil,
		"wrong token":        {"X-Tidegate-Csrf", b.csrf + "x"},
		"empty token":        {"X-Tidegate-Csrf", ""},
		"another site":       {"X-Tidegate-Csrf", b.csrf, "Sec-Fetch-Site", "cross-site"},
		"another port":       {"X-Tidegate-Csrf", b.csrf, "Sec-Fetch-Site", "same-site"},
		"origin of a thief":  {"X-Tidegate-Csrf", b.csrf, "Origin", "http://evil.example"},
		"opaque origin":      {"X-Tidegate-Csrf", b.csrf, "Origin", "null"},
		"password in a form": {"Authorization", "Basic ZXZhOmNvcnJlY3QgaG9yc2UgYmF0dGVyeQ=="},
	} {
		if r := do(t, b.Client, "POST", b.base+"/v1/confirm", "", header...); r.status != 403 {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	if s := devicetest.JSON[admin.Status](t, d, "/v1/status"); s.Bundle.State != "trial" {
		t.Errorf("the bundle is %s: a forged request was obeyed", s.Bundle.State)
	}
	if r := do(t, http.DefaultClient, "POST", b.base+"/v1/login", "name=eva", "Content-Type", "application/x-www-form-urlencoded"); r.status != 400 {
		t.Errorf("a form signs in: %d %s", r.status, r.body)
	}
}

func TestForeignNamesAreRefused(t *testing.T) {
	d := serving(t, func(c *config.Config) { c.Admin.Hosts = []string{"box.plant.example"} })
	for host, want := range map[string]int{
		"evil.example": 403, "evil.example:9099": 403, "127.0.0.1.evil.example": 403, "localhost.evil.example:80": 403, "localhost:x": 403,
		"localhost": 200, "LOCALHOST:9099": 200, "127.0.0.1": 200, "[::1]:9099": 200, "box.plant.example": 200, "box.plant.example.": 200,
	} {
		if r := get(t, http.DefaultClient, page(d)+"/v1/session", "Host", host); r.status != want {
			t.Errorf("Host %s: got %d %s, want %d", host, r.status, r.body, want)
		}
	}
}

func TestGuessingIsSlowedDown(t *testing.T) {
	d := serving(t)
	account(t, d, "eva", "admin")
	b := newBrowser(t, page(d))
	var last reply
	for range 8 {
		last = b.signIn(t, "eva", "wrong password")
		if last.status == 429 {
			break
		}
		if last.status != 401 {
			t.Fatalf("got %d %s", last.status, last.body)
		}
	}
	if last.status != 429 || last.header.Get("Retry-After") == "" {
		t.Fatalf("eight guesses: got %d %v", last.status, last.header)
	}
	if r := b.signIn(t, "eva", password); r.status != 429 {
		t.Errorf("the right password while it is throttled: %d", r.status)
	}
	if r := get(t, b.Client, b.base+"/v1/status", "Authorization", "Basic ZXZhOng="); r.status != 429 {
		t.Errorf("guessing by Basic goes round the guard: %d", r.status)
	}
	m := get(t, http.DefaultClient, page(d)+"/metrics").body
	if !strings.Contains(m, `tidegate_admin_logins_total{result="throttled"} `) || strings.Contains(m, `{result="wrong"} 0`) {
		t.Errorf("sign-ins are not counted")
	}
	entries := 0
	for _, h := range devicetest.JSON[[]admin.HistoryView](t, d, "/v1/history") {
		if strings.Contains(h.Detail, "wrong password") {
			entries++
		}
	}
	if entries == 0 || entries > 4 {
		t.Errorf("%d entries of the audit log tell of the guesses", entries)
	}
}

func TestOffTheBox(t *testing.T) {
	ip := outside(t)
	d := serving(t, func(c *config.Config) { c.Admin.Listen = net.JoinHostPort(ip, "0") })
	b := newBrowser(t, "https://"+d.Addr("admin"))
	r := get(t, b.Client, b.base+"/v1/status")
	if r.status != 403 || !strings.Contains(r.body, "tidegate admin passwd") {
		t.Errorf("before an administrator is set: %d %s", r.status, r.body)
	}
	account(t, d, "eva", "admin")
	for _, path := range []string{"/v1/status", "/v1/calls", "/metrics", "/openapi.json", "/v1/logs"} {
		if r := get(t, b.Client, b.base+path); r.status != 401 {
			t.Errorf("%s without signing in: %d %s", path, r.status, r.body)
		}
	}
	r = b.signIn(t, "eva", password)
	if c := r.header.Get("Set-Cookie"); r.status != 200 || !strings.HasPrefix(c, "__Host-tidegate=") || !strings.Contains(c, "Secure") {
		t.Fatalf("sign in: %d, cookie %s", r.status, c)
	}
	if r := get(t, b.Client, b.base+"/v1/status"); r.status != 200 {
		t.Errorf("signed in: %d %s", r.status, r.body)
	}
	if r := get(t, newBrowser(t, b.base).Client, b.base+"/metrics", "Authorization", "Basic ZXZhOmNvcnJlY3QgaG9yc2UgYmF0dGVyeQ=="); r.status != 200 {
		t.Errorf("metrics by Basic: %d", r.status)
	}
	// A new password ends the sessions under the old one.
	if status, text := d.Socket(t, "POST", "/v1/admins", `{"name":"eva","role":"viewer","password":"another long one"}`); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	if r := get(t, b.Client, b.base+"/v1/status"); r.status != 401 {
		t.Errorf("after a new password: %d", r.status)
	}
}

// outside returns an address of this machine that is not loopback.
func outside(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP.String()
		}
	}
	t.Skip("this machine has no address besides loopback")
	return ""
}

func TestPathTricksReachNoFile(t *testing.T) {
	d := serving(t)
	for _, target := range []string{
		"/../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd", "/assets/index.html", "//etc/passwd", "/main.js/../../x",
		"/main.js%00.html", "/.git/config", "/v1/../main.js", "/openapi.json/", "/v1/history/export/../../status", "\\..\\x",
	} {
		c, err := net.Dial("tcp", d.Addr("admin"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", target)
		b, err := io.ReadAll(c)
		_ = c.Close()
		if err != nil {
			t.Fatal(err)
		}
		head, _, _ := bytes.Cut(b, []byte("\r\n"))
		if bytes.Contains(b, []byte("root:")) || bytes.Contains(head, []byte(" 200 ")) {
			t.Errorf("%s: %s", target, head)
		}
	}
}

func TestOversizedUploadIsRefusedBeforeItIsRead(t *testing.T) {
	d := serving(t)
	account(t, d, "eva", "admin")
	b := newBrowser(t, page(d))
	b.signIn(t, "eva", password)
	r, err := http.NewRequestWithContext(context.Background(), "POST", b.base+"/v1/apply", io.LimitReader(zeros{}, 1<<40))
	if err != nil {
		t.Fatal(err)
	}
	r.ContentLength = 1 << 40
	r.Header.Set("X-Tidegate-Csrf", b.csrf)
	r.Header.Set("Expect", "100-continue")
	resp, err := b.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("got %d", resp.StatusCode)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestEveryAnswerOfThePageIsFenced(t *testing.T) {
	d := serving(t)
	for _, path := range []string{"/", "/main.js", "/v1/status", "/nothing", "/v1/confirm", "/healthz/live"} {
		h := get(t, http.DefaultClient, page(d)+path).header
		if c := h.Get("Content-Security-Policy"); !strings.Contains(c, "default-src 'self'") || strings.Contains(c, "unsafe") || !strings.Contains(c, "frame-ancestors 'none'") {
			t.Errorf("%s: policy %q", path, c)
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("X-Frame-Options") != "DENY" || h.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: %v", path, h)
		}
	}
}

func TestPageIsLightAndHasNothingInline(t *testing.T) {
	names, err := filepath.Glob("assets/*")
	if err != nil || len(names) < 8 {
		t.Fatalf("%v, %v", names, err)
	}
	d := serving(t)
	total := 0
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", " style=", "onclick=", "http://", "https://"} {
			if bytes.Contains(bytes.ReplaceAll(b, []byte("http://www.w3.org/2000/svg"), nil), []byte(bad)) {
				t.Errorf("%s holds %q", name, bad)
			}
		}
		path := "/" + filepath.Base(name)
		if path == "/index.html" {
			path = "/"
		}
		r, err := http.NewRequestWithContext(context.Background(), "GET", page(d)+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept-Encoding", "gzip")
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil || resp.Header.Get("Content-Encoding") != "gzip" {
			t.Errorf("%s: %v, %v", path, err, resp.Header)
		}
		if again := get(t, http.DefaultClient, page(d)+path, "If-None-Match", resp.Header.Get("ETag")); again.status != 304 {
			t.Errorf("%s: asked again: %d", path, again.status)
		}
		total += int(n)
	}
	if const200 := 200 << 10; total > const200 {
		t.Errorf("the page weighs %d bytes packed", total)
	}
	t.Logf("the page weighs %d bytes packed, in %d files", total, len(names))
}

// TestHostileInputMakesNoSeries calls with names that a stranger makes up, and looks at what
// became of them in metrics and in the answers that the page shows.
func TestHostileInputMakesNoSeries(t *testing.T) {
	d := serving(t)
	before := strings.Count(get(t, http.DefaultClient, page(d)+"/metrics").body, "\n")
	evil := `<img src=x onerror=alert(1)>`
	for i := range 300 {
		get(t, http.DefaultClient, d.URL(fmt.Sprintf("/made-up-%d/%%3Cscript%%3E", i)), "User-Agent", evil, "X-Request-Id", evil, "Host", fmt.Sprintf("h%d.example", i))
	}
	m := get(t, http.DefaultClient, page(d)+"/metrics").body
	after := strings.Count(m, "\n")
	if after > before+60 { // the series of calls that matched nothing begin once
		t.Errorf("%d lines became %d", before, after)
	}
	if strings.Contains(m, "made-up") || strings.Contains(m, "onerror") || strings.Contains(m, "h1.example") {
		t.Error("a part of a request became a label")
	}
	r := get(t, http.DefaultClient, page(d)+"/v1/calls?q=%3Cimg")
	if ct := r.header.Get("Content-Type"); ct != "application/json" || r.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("the search answers as %q", ct)
	}
}

// TestHostileBundleNames shows that names out of a bundle are quoted wherever they appear.
func TestHostileBundleNames(t *testing.T) {
	d := devicetest.Start(t, devicetest.Options{})
	set := d.Fleet.API(t, "http://127.0.0.1:1", `/open`)
	name := "x\"}\n# HELP evil\nevil 1 <script>"
	set.APIs[0].Name = name
	r, err := d.Offer(t, "evil.tide", d.Fleet.Bundle(t, set, nil))
	if err != nil {
		return // refused as a whole is as good
	}
	if r.Word != "" {
		return
	}
	get(t, http.DefaultClient, d.URL("/echo/1.0/open"))
	for line := range strings.Lines(get(t, http.DefaultClient, page(d)+"/metrics").body) {
		if strings.HasPrefix(line, "evil") || strings.HasPrefix(line, "# HELP evil") {
			t.Errorf("a name broke out of its label: %q", line)
		}
	}
}

func TestLiveCallsAreSeenWithoutAFlush(t *testing.T) {
	d := serving(t)
	devicetest.JSON[admin.CallsView](t, d, "/v1/calls") // somebody looks
	get(t, http.DefaultClient, d.URL("/echo/1.0/open"))
	v := devicetest.JSON[admin.CallsView](t, d, "/v1/calls?status=429")
	if len(v.Calls) != 1 || v.Calls[0].RefusedBy != "operation" || v.Calls[0].Fault != 900802 || v.Calls[0].Client != "127.0.0.0" {
		t.Errorf("got %+v", v)
	}
	if s := devicetest.JSON[admin.Status](t, d, "/v1/status"); s.Events.Batches != 0 {
		t.Errorf("%d batches were written for a look", s.Events.Batches)
	}
}

func TestStoredCallsAreFound(t *testing.T) {
	d := serving(t)
	d.Socket(t, "GET", "/v1/events", "") // an export flushes
	v := devicetest.JSON[admin.CallsView](t, d, "/v1/calls?q=OPEN&limit=3")
	if len(v.Calls) != 3 || v.Calls[0].Template != "/open" || v.Calls[0].Status != 429 || v.Calls[2].Status != 200 {
		t.Errorf("got %+v", v)
	}
	if v := devicetest.JSON[admin.CallsView](t, d, "/v1/calls?status=4xx&api=echo"); len(v.Calls) != 3 {
		t.Errorf("4xx: got %d calls", len(v.Calls))
	}
}
