package appliance_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"testing"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/appliance/wire/wiretest"
	"tidegate/policy"
	"time"
)

// caller repeats one call over one connection and allocates nothing.
type caller struct {
	c       net.Conn
	request []byte
	buf     []byte
	n       int // length of an answer
}

func newCaller(t testing.TB, d *devicetest.Device, path, token string) *caller {
	t.Helper()
	c, err := net.Dial("tcp", d.Addr("http"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	k := &caller{c: c, buf: make([]byte, 16<<10)}
	head := "GET " + path + " HTTP/1.1\r\nHost: gateway.example\r\nUser-Agent: bench/1.0\r\nAccept: application/json\r\n"
	if token != "" {
		head += "Authorization: Bearer " + token + "\r\n"
	}
	k.request = []byte(head + "\r\n")
	if _, err := c.Write(k.request); err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	resp, err := http.ReadResponse(bufio.NewReader(io.TeeReader(c, &all)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp.Status, err)
	}
	k.n = all.Len()
	return k
}

func (k *caller) call(t testing.TB) {
	if _, err := k.c.Write(k.request); err != nil {
		t.Fatal(err)
	}
	// The fields that tell the state of a limit change in length.
	got := 0
	for {
		n, err := k.c.Read(k.buf[got:])
		if err != nil {
			t.Fatal(err)
		}
		got += n
		if i := bytes.Index(k.buf[:got], []byte("\r\n\r\n")); i >= 0 && got >= i+4+1024 {
			return
		}
	}
}

// speedDevice serves what the scenarios of scripts/bench serve.
func speedDevice(t testing.TB) (*devicetest.Device, string, string) {
	t.Helper()
	fleet := devicetest.NewFleet(t)
	url := "http://" + wiretest.Backend(t, wiretest.JSON)
	plenty := policy.Limit{Count: 1 << 40, Window: time.Minute}
	set := fleet.API(t, url, "/open/{id}", "/pet/{id}")
	set.Plans = []policy.Plan{
		{Kind: policy.ResourcePlan, Name: "Plenty", Limit: plenty}, {Kind: policy.SubscriptionPlan, Name: "Gold", Limit: plenty}, {Kind: policy.ApplicationPlan, Name: "App", Limit: plenty},
	}
	full := set.APIs[0]
	full.Name, full.BasePath, full.Plan = "full", "/full/1.0", "Plenty"
	set.APIs = append(set.APIs, full)
	set.Applications = []policy.Application{{ID: "1", Name: "bench", Owner: "bench", Plan: "App", Keys: []policy.ConsumerKey{{Key: "bench-app"}}}}
	set.Subscriptions = []policy.Subscription{
		{Application: "1", API: policy.APIID{Name: "full", Version: "1.0"}, Plan: "Gold"},
		{Application: "1", API: policy.APIID{Name: "echo", Version: "1.0"}, Plan: "Gold"},
	}
	d := devicetest.Start(t, devicetest.Options{Fleet: fleet, Config: func(c *config.Config) { c.Clock.Trust = "system" }})
	d.Apply(t, set)
	return d, fleet.Token(t, nil), fleet.Token(t, map[string]any{"consumerKey": "bench-app"})
}

func underRace() bool {
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}

// TestCallsThroughTheDeviceAllocateLittle counts the allocations of whole calls: read, match,
// authenticate, limit, forward, relay, record. Those of the recorder and of the store, which
// work beside the calls, are in the figure.
func TestCallsThroughTheDeviceAllocateLittle(t *testing.T) {
	d, token, subscribed := speedDevice(t)
	for _, c := range []struct {
		name, path, token string
		most              float64
	}{
		{"plain", "/echo/1.0/open/17", "", 2},
		{"token", "/echo/1.0/pet/17", token, 2},
		{"token, three limits", "/full/1.0/pet/17", subscribed, 2},
	} {
		k := newCaller(t, d, c.path, c.token)
		for range 100 {
			k.call(t)
		}
		n := testing.AllocsPerRun(3000, func() { k.call(t) })
		t.Logf("%s: %v allocations per call", c.name, n)
		if n > c.most && !underRace() { // under the race detector sync.Pool drops what it gets at random
			t.Errorf("%s: %v allocations per call, want at most %v", c.name, n, c.most)
		}
	}
}

// BenchmarkCallsThroughTheDevice includes both peers of each connection.
func BenchmarkCallsThroughTheDevice(b *testing.B) {
	d, token, subscribed := speedDevice(b)
	for _, c := range []struct{ name, path, token string }{
		{"plain", "/echo/1.0/open/17", ""}, {"token", "/echo/1.0/pet/17", token}, {"token-three-limits", "/full/1.0/pet/17", subscribed},
	} {
		b.Run(c.name, func(b *testing.B) {
			k := newCaller(b, d, c.path, c.token)
			b.ReportAllocs()
			for b.Loop() {
				k.call(b)
			}
		})
	}
}
