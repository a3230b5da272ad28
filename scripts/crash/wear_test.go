package crash

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"testing"
	"time"
)

// written returns the bytes that the disk was given, and the syncs.
func (d *disk) written() (bytes int64, syncs int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bytes, d.syncs
}

// BenchmarkWear measures what the device writes to its disk, journal and metadata of ext4
// included, at 100 calls a second with analytics on and the default intervals, for few and many
// keys of limits, and reports it per day. TIDEGATE_WEAR is the length of a run in seconds
// (default 120): shorter than a few flush intervals says little.
func BenchmarkWear(b *testing.B) {
	if why := possible(); why != "" {
		b.Skip(why)
	}
	for _, keys := range []int{10, 1_000, 100_000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			seconds := number(b, "TIDEGATE_WEAR", 120)
			d := &disk{}
			r, dev, m := prepare(b, d, 1<<40, "events.interval=30s", "throttle.flush_every=30s")
			defer func() {
				if err := m.close(); err != nil {
					b.Error(err)
				}
			}()
			tokens := make([]string, min(keys, 100*seconds))
			for i := range tokens {
				tokens[i] = r.bearer(i)
			}
			c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
			from, syncs := d.written()
			begin := time.Now()
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			calls := 0
			for time.Since(begin) < time.Duration(seconds)*time.Second {
				<-tick.C
				if _, err := dev.call(c, tokens[rand.IntN(len(tokens))]); err != nil {
					b.Fatal(err)
				}
				calls++
			}
			if _, err := run("sync", "-f", filepath.Join(r.data)); err != nil {
				b.Fatal(err)
			}
			to, after := d.written()
			day := 24 * 3600 / time.Since(begin).Seconds()
			b.ReportMetric(float64(to-from)*day/(1<<30), "GiB/day")
			b.ReportMetric(float64(after-syncs)*day, "syncs/day")
			b.ReportMetric(float64(to-from)/float64(calls), "B/call")
			b.ReportMetric(float64(calls)/time.Since(begin).Seconds(), "calls/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}
