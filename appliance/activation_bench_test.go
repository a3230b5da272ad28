package appliance_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/intake"
	"time"
)

// BenchmarkActivationUnderLoad activates a thousand bundles and has a thousand refused while
// clients call without a pause, and reports how long calls took in quiet, with clients alone,
// and during the updates, and how many of them failed: none may. One operation is one thousand
// of each; run it with -benchtime=1x.
func BenchmarkActivationUnderLoad(b *testing.B) {
	const each = 1000
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok") //nolint:errcheck // the client sees
	}))
	defer backend.Close()
	d := devicetest.Start(b, devicetest.Options{Config: func(c *config.Config) { c.Events.Detail = "none" }})
	set := d.Fleet.API(b, backend.URL, "/open")
	d.Apply(b, set)

	// All files are made before: building and signing them is the workstation's work.
	var good, bad [][]byte
	for n := range each {
		set.APIs[0].Operations[0].ID = fmt.Sprintf("op%d", n) // each is another edition
		good = append(good, d.Fleet.Bundle(b, set, nil))
		bad = append(bad, d.Fleet.Bundle(b, set, func(m *bundle.Manifest) { m.Product = "other" }))
	}
	confirm := func() {
		if _, err := d.Desk().Confirm(context.Background(), "bench"); err != nil {
			b.Fatal(err)
		}
	}
	confirm()
	for b.Loop() {
		l := startLoad(b, d.URL("/echo/1.0/open"), 4)
		time.Sleep(10 * time.Second) // quiet
		quiet := l.take()
		began := time.Now()
		for n := range each {
			if r, err := d.Offer(b, "good.tide", good[n]); err != nil || r.Phase != intake.OnTrial {
				b.Fatalf("bundle %d: %s, %v", n, r.Phase, err)
			}
			confirm()
			if _, err := d.Offer(b, "bad.tide", bad[n]); !refusal.Is(err, refusal.Target) {
				b.Fatalf("bundle of another product: %v", err)
			}
		}
		took := time.Since(began)
		during := l.take()
		l.stop()
		if n := l.failed.Load(); n > 0 {
			b.Errorf("%d calls failed, the first with %v", n, l.first.Load())
		}
		b.ReportMetric(float64(len(quiet)), "quiet-calls")
		b.ReportMetric(float64(len(during)), "calls")
		b.ReportMetric(float64(l.failed.Load()), "failed")
		for _, q := range []struct {
			name string
			q    float64
		}{{"p50", 0.5}, {"p99", 0.99}, {"p99.9", 0.999}} {
			b.ReportMetric(micros(quiet, q.q), "quiet-"+q.name+"-µs")
			b.ReportMetric(micros(during, q.q), q.name+"-µs")
		}
		b.ReportMetric(took.Seconds()*1000/each, "ms/activation+refusal")
	}
}

// micros returns a quantile of times in microseconds.
func micros(all []time.Duration, q float64) float64 {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return float64(all[min(int(q*float64(len(all))), len(all)-1)].Microseconds())
}

// load is clients that call one address without a pause, each on one connection.
type load struct {
	failed atomic.Int64
	first  atomic.Value // error of the first call that failed
	end    chan struct{}
	wg     sync.WaitGroup

	mu    sync.Mutex
	times []time.Duration
}

func startLoad(b *testing.B, url string, clients int) *load {
	b.Helper()
	l := &load{end: make(chan struct{})}
	for range clients {
		l.wg.Go(func() {
			c := &http.Client{Transport: &http.Transport{MaxIdleConns: 1}}
			defer c.CloseIdleConnections()
			for {
				select {
				case <-l.end:
					return
				default:
				}
				began := time.Now()
				err := get(c, url)
				took := time.Since(began)
				if err != nil && l.failed.Add(1) == 1 {
					l.first.Store(err)
				}
				l.mu.Lock()
				l.times = append(l.times, took)
				l.mu.Unlock()
			}
		})
	}
	return l
}

func get(c *http.Client, url string) error {
	resp, err := c.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != 200 || string(body) != "ok") {
		err = fmt.Errorf("status %d: %.80s", resp.StatusCode, body)
	}
	return err
}

// take returns the times of the calls since the last take.
func (l *load) take() []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.times
	l.times = nil
	return t
}

func (l *load) stop() {
	close(l.end)
	l.wg.Wait()
}
