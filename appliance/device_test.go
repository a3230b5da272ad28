package appliance_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"time"
)

// backend answers with the path it was asked for.
func backend(t *testing.T) (url string, calls *atomic.Int64) {
	t.Helper()
	calls = &atomic.Int64{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		w.Header().Set("X-Backend-Path", r.URL.EscapedPath())
		fmt.Fprintf(w, "%s %s auth=%q", r.Method, r.URL.RequestURI(), r.Header.Get("Authorization"))
	}))
	t.Cleanup(s.Close)
	return s.URL, calls
}

// answer is what a client saw.
type answer struct {
	status int
	header http.Header
	body   string
}

func call(t *testing.T, method, url string, header ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
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

// socket asks the device over its unix socket.
func socket(t *testing.T, d *devicetest.Device, method, path, body string) string {
	t.Helper()
	status, text := d.Socket(t, method, path, body)
	if status != 200 {
		t.Fatalf("%s %s: status %d: %s", method, path, status, text)
	}
	return text
}

func TestDeviceWithoutABundleSaysSo(t *testing.T) {
	d := devicetest.Start(t, devicetest.Options{})
	a := call(t, "GET", d.URL("/echo/1.0/x"))
	want := `{"fault":{"code":303001, "message":"Runtime Error", "description":"No bundle is active"}}`
	if a.status != 503 || a.body != want || a.header.Get("Retry-After") == "" {
		t.Errorf("got %d %s %v", a.status, a.body, a.header)
	}
	if h := call(t, "GET", d.URL("/health")); h.status != 200 || h.body != `{"status":"healthy"}` {
		t.Errorf("health: got %d %s", h.status, h.body)
	}
}

func TestProtectedAndLimitedCall(t *testing.T) {
	url, calls := backend(t)
	d := devicetest.Start(t, devicetest.Options{})
	set := d.Fleet.API(t, url+"/base", "/things/{id}", "/open")
	set.Plans = []policy.Plan{{Kind: policy.ResourcePlan, Name: "3PerHour", Limit: policy.Limit{Count: 3, Window: time.Hour}}}
	set.APIs[0].Operations[0].Plan = "3PerHour"
	d.Apply(t, set)
	token := "Bearer " + d.Fleet.Token(t, nil)

	for i := range 3 {
		a := call(t, "GET", d.URL("/echo/1.0/things/a%2Fb?x=1&y=%20"), "Authorization", token)
		if a.status != 200 || a.body != `GET /base/things/a%2Fb?x=1&y=%20 auth=""` {
			t.Fatalf("call %d: got %d %s", i, a.status, a.body)
		}
		if got, want := a.header.Get("RateLimit-Policy"), `"3PerHour";q=3;w=3600`; got != want {
			t.Errorf("RateLimit-Policy: got %q, want %q", got, want)
		}
		if got := a.header.Get("RateLimit"); !strings.HasPrefix(got, fmt.Sprintf(`"3PerHour";r=%d;t=`, 2-i)) {
			t.Errorf("RateLimit: got %q", got)
		}
	}
	a := call(t, "GET", d.URL("/echo/1.0/things/9"), "Authorization", token)
	if a.status != 429 || a.header.Get("Retry-After") == "" ||
		a.body != `{"fault":{"code":900802, "message":"Message throttled out", "description":"You have exceeded your quota"}}` {
		t.Errorf("over the limit: got %d %s %v", a.status, a.body, a.header)
	}
	for name, c := range map[string]struct {
		path, token string
		status      int
	}{
		"no token":       {"/echo/1.0/things/1", "", 401},
		"broken token":   {"/echo/1.0/things/1", token + "x", 401},
		"unsecured":      {"/echo/1.0/open", "", 200},
		"unknown path":   {"/echo/1.0/nothing", token, 404},
		"unknown API":    {"/other", token, 404},
		"dot segments":   {"/echo/1.0/%2e%2e/open", "", 400},
		"prefix of base": {"/echo/1", "", 404},
	} {
		var h []string
		if c.token != "" {
			h = []string{"Authorization", c.token}
		}
		if a := call(t, "GET", d.URL(c.path), h...); a.status != c.status || a.header.Get("X-Request-Id") == "" {
			t.Errorf("%s: got %d %s, want %d", name, a.status, a.body, c.status)
		}
	}
	if m := call(t, "DELETE", d.URL("/echo/1.0/open")); m.status != 405 || m.header.Get("Allow") != "GET" {
		t.Errorf("method: got %d, Allow %q", m.status, m.header.Get("Allow"))
	}
	if n := calls.Load(); n != 4 {
		t.Errorf("the backend was called %d times, want 4", n)
	}
}

func TestLimitsAndRecordsSurviveARestart(t *testing.T) {
	url, _ := backend(t)
	dir, fleet := t.TempDir(), devicetest.NewFleet(t)
	d := devicetest.Start(t, devicetest.Options{Dir: dir, Fleet: fleet})
	set := fleet.API(t, url, "/things")
	set.Plans = []policy.Plan{{Kind: policy.ResourcePlan, Name: "day", Limit: policy.Limit{Count: 5, Window: 24 * time.Hour}}}
	set.APIs[0].Plan = "day"
	d.Apply(t, set)
	if _, err := d.Desk().Confirm(context.Background(), "test"); err != nil {
		t.Fatal(err)
	}
	token := "Bearer " + fleet.Token(t, nil)
	for range 4 {
		if a := call(t, "GET", d.URL("/echo/1.0/things"), "Authorization", token); a.status != 200 {
			t.Fatalf("got %d %s", a.status, a.body)
		}
	}
	d.Stop(t)

	d = devicetest.Start(t, devicetest.Options{Dir: dir, Fleet: fleet})
	got := []int{}
	for range 2 {
		got = append(got, call(t, "GET", d.URL("/echo/1.0/things"), "Authorization", token).status)
	}
	if got[0] != 200 || got[1] != 429 {
		t.Errorf("after a clean restart: got %v, want 200 then 429", got)
	}
	if n := exported(t, d, "ndjson"); n != 6 {
		t.Errorf("%d events exported, want 6", n)
	}
}

// exported counts the events of an export.
func exported(t *testing.T, d *devicetest.Device, format string) int {
	t.Helper()
	resp := socket(t, d, "GET", "/v1/events?format="+format, "")
	n := 0
	for line := range strings.Lines(resp) {
		if strings.Contains(line, `"status"`) {
			n++
		}
	}
	return n
}

func TestRefusedBundlesLeaveTheActiveOneServing(t *testing.T) {
	url, _ := backend(t)
	d := devicetest.Start(t, devicetest.Options{})
	set := d.Fleet.API(t, url, "/open")
	d.Apply(t, set)
	if _, err := d.Desk().Confirm(context.Background(), "test"); err != nil {
		t.Fatal(err)
	}
	good := d.Fleet.Bundle(t, set, nil)
	broken := d.Fleet.API(t, url, "/open")
	broken.APIs[0].Plan = "nowhere"
	other := devicetest.NewFleet(t)
	for name, c := range map[string]struct {
		file []byte
		want refusal.Word
	}{
		"truncated":        {good[:len(good)-3], refusal.Truncated},
		"too long":         {append(good[:len(good):len(good)], 1), refusal.Trailing},
		"foreign fleet":    {other.Bundle(t, set, nil), refusal.TrustDomain},
		"older":            {d.Fleet.Bundle(t, set, func(m *bundle.Manifest) { m.Seq = 1; m.Version = "older" }), refusal.Equivocation},
		"expired":          {d.Fleet.Bundle(t, set, func(m *bundle.Manifest) { m.Expires = 1 }), refusal.Expired},
		"other hardware":   {d.Fleet.Bundle(t, set, func(m *bundle.Manifest) { m.Hardware = []string{"toaster"} }), refusal.Target},
		"does not compile": {d.Fleet.Bundle(t, broken, nil), refusal.Compile},
		"no bundle at all": {[]byte("hello"), refusal.Format},
	} {
		_, err := d.Offer(t, name, c.file)
		if !refusal.Is(err, c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
		if a := call(t, "GET", d.URL("/echo/1.0/open")); a.status != 200 {
			t.Errorf("%s: the active bundle answers %d", name, a.status)
		}
	}
}

func TestPortInUseIsOneClearLine(t *testing.T) {
	d := devicetest.Start(t, devicetest.Options{})
	err := devicetest.TryStart(t, devicetest.Options{Config: func(c *config.Config) { c.Listen.HTTP = d.Addr("http") }})
	if err == nil || strings.Count(err.Error(), "\n") > 0 || !strings.Contains(err.Error(), "is in use by another program") {
		t.Errorf("got %v", err)
	}
}

func TestTwoDevicesOnOneFolder(t *testing.T) {
	dir := t.TempDir()
	devicetest.Start(t, devicetest.Options{Dir: dir})
	err := devicetest.TryStart(t, devicetest.Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("got %v", err)
	}
}

func TestStatusTellsWhatServes(t *testing.T) {
	url, _ := backend(t)
	d := devicetest.Start(t, devicetest.Options{})
	d.Apply(t, d.Fleet.API(t, url, "/open"))
	var s struct {
		Bundle struct {
			State   string
			Serving struct{ Seq int }
		}
		Trust struct {
			Root int `json:"root_version"`
		}
	}
	if err := json.Unmarshal([]byte(socket(t, d, "GET", "/v1/status", "")), &s); err != nil {
		t.Fatal(err)
	}
	if s.Bundle.State != "trial" || s.Bundle.Serving.Seq != 1 || s.Trust.Root != 1 {
		t.Errorf("got %+v", s)
	}
}
