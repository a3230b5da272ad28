package appliance_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
	"time"
)

// A plan of bytes counts what passes both ways. A stream that reaches the end of its window
// is cut, so that the client sees it, or finishes and is charged to the next window, as the
// plan says.
func TestBandwidthPlansCutOrFinish(t *testing.T) {
	const allowed, size = 100 << 10, 300 << 10
	body := bytes.Repeat([]byte("x"), size)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(body)
	}))
	defer backend.Close()
	for name, cut := range map[string]bool{"cut": true, "finish": false} {
		t.Run(name, func(t *testing.T) {
			d := devicetest.Start(t, devicetest.Options{})
			set := d.Fleet.API(t, backend.URL, "/open")
			set.Plans = []policy.Plan{{
				Kind: policy.ResourcePlan, Name: "bytes", Cut: cut,
				Limit: policy.Limit{Unit: policy.Bytes, Count: allowed, Window: 365 * 24 * time.Hour},
			}}
			set.APIs[0].Plan = "bytes"
			d.Apply(t, set)
			r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, d.URL("/echo/1.0/open"), nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if cut && (err == nil || len(got) > allowed) {
				t.Errorf("%d bytes and error %v; want at most %d, and an answer that is seen to be cut", len(got), err, allowed)
			}
			if !cut && (err != nil || len(got) != size) {
				t.Errorf("%d bytes and error %v; want all %d", len(got), err, size)
			}
			if cut {
				return
			}
			if a := call(t, "GET", d.URL("/echo/1.0/open")); a.status != http.StatusTooManyRequests {
				t.Errorf("next call: status %d, want 429", a.status)
			}
		})
	}
}
