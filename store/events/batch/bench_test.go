package batch_test

import (
	"strconv"
	"testing"
	"tidegate/store/events/batch"
	"tidegate/store/events/eventstest"
	"time"
)

// BenchmarkPack tells the bytes an event takes in batches of the sizes that occur: 30 s at
// 10 and at 33 calls/s, and as many as a batch holds.
func BenchmarkPack(b *testing.B) {
	start := time.Unix(1_800_000_000, 0)
	for _, n := range []int{100, 300, 1000, 4096} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			mix := eventstest.Mix(n, start, 1)
			var builder batch.Builder
			var bytes, batches int
			for b.Loop() {
				bytes, batches = 0, 0 //nolint:ineffassign // the last round counts
				for i := range mix {
					builder.Add(&mix[i], start, batch.Stamp{Unix: start})
				}
				packed, err := builder.Pack()
				if err != nil {
					b.Fatal(err)
				}
				for i := range packed {
					bytes += len(packed[i].Body)
				}
				batches = len(packed)
			}
			b.ReportMetric(float64(bytes)/float64(n), "B/event")
			b.ReportMetric(float64(batches), "batches")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/event")
		})
	}
}
