package appliance_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
	"time"
)

// TestSlowBodiesDoNotKeepOthersOut shows what clients can do that announce large bodies to be
// checked and do not send them: they are shed beyond the memory for bodies, small bodies pass
// all the while, and the device does not hold what was announced.
func TestSlowBodiesDoNotKeepOthersOut(t *testing.T) {
	d := devicetest.Start(t, devicetest.Options{Config: func(c *config.Config) { c.Limits.ValidateBytes = 1 << 20 }})
	url, _ := backend(t)
	set := d.Fleet.API(t, url, "/open/readings")
	set.Schemas = []policy.Schema{{Body: []byte(readingSchema), Types: []string{"application/json"}}}
	set.APIs[0].Operations[0].Method, set.APIs[0].Operations[0].Request = "POST", 1
	d.Apply(t, set)

	const slow = 100
	conns := make([]net.Conn, slow)
	for i := range conns {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", d.Addr("http"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
		if _, err := fmt.Fprintf(c, "POST /echo/1.0/open/readings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{", 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	// Those for which there was no memory hear so at once; the rest wait, and are heard of no more.
	var shed atomic.Int64
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() {
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			b := make([]byte, 64)
			if n, _ := c.Read(b); strings.HasPrefix(string(b[:n]), "HTTP/1.1 503 ") {
				shed.Add(1)
			}
		})
	}
	wg.Wait()
	if n := shed.Load(); n == 0 || n == slow {
		t.Errorf("%d of %d were shed: want some and not all", n, slow)
	}
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	if before.HeapAlloc > 100<<20 {
		t.Errorf("%d MiB held", before.HeapAlloc>>20)
	}
	c := direct(t)
	for range 20 {
		if a := say(t, c, "POST", d.URL("/echo/1.0/open/readings"), `{"meter":"m1","value":1}`, "Content-Type: application/json"); a.status != 200 {
			t.Fatalf("a small body meanwhile: got %d %s", a.status, a.body)
		}
	}
	for _, c := range conns {
		_ = c.Close()
	}
}

// TestHostileBodiesAtOnce shows that the worst bodies a schema may meet, many at a time, are
// refused within bounded memory.
func TestHostileBodiesAtOnce(t *testing.T) {
	d := devicetest.Start(t, devicetest.Options{Config: func(c *config.Config) { c.Limits.ValidateBytes = 1 << 20 }})
	url, calls := backend(t)
	set := d.Fleet.API(t, url, "/open/list")
	set.Schemas = []policy.Schema{{Body: []byte(`{"type":"array","uniqueItems":true,"items":{"anyOf":[{"type":"object"},{"type":"boolean"}]}}`), Types: []string{"application/json"}}}
	set.APIs[0].Operations[0].Method, set.APIs[0].Operations[0].Request = "POST", 1
	d.Apply(t, set)
	var wg sync.WaitGroup
	for _, body := range []string{
		"[" + strings.Repeat("1,", 60000) + "1]", "[" + strings.Repeat(`"x",`, 60000) + "1]", "[" + strings.Repeat("1,", 500000) + "1]",
		"[" + strings.Repeat("[],", 60000) + "[]]", strings.Repeat("[", 1000000), `["` + strings.Repeat("x", 1<<20-10) + `"]`,
	} {
		for range 3 {
			wg.Go(func() {
				q, err := http.NewRequestWithContext(t.Context(), "POST", d.URL("/echo/1.0/open/list"), strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				q.Header.Set("Content-Type", "application/json")
				resp, err := http.DefaultTransport.RoundTrip(q)
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				b, _ := io.ReadAll(resp.Body)
				if resp.StatusCode != 400 && resp.StatusCode != 503 || len(b) > 20<<10 {
					t.Errorf("%.20s: got %d, %d bytes", body, resp.StatusCode, len(b))
				}
			})
		}
	}
	wg.Wait()
	if n := calls.Load(); n != 0 {
		t.Errorf("%d of them reached the backend", n)
	}
}
