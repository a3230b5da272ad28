package events_test

import (
	"context"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"tidegate/store/events"
	"tidegate/store/events/eventstest"
)

// BenchmarkRecord is what a call pays, with a collector at work. "lost" is the share of
// calls that found no memory: this loop has no gateway in it and outruns the collector.
func BenchmarkRecord(b *testing.B) {
	for _, callers := range []int{1, 4, 64} {
		b.Run(strconv.Itoa(callers), func(b *testing.B) {
			b.ReportAllocs()
			l := events.New(options())
			ctx, stop := context.WithCancel(b.Context())
			var running sync.WaitGroup
			running.Go(func() { _ = l.Run(ctx) }) // ends with ErrNoFile
			mix := eventstest.Mix(1024, began, 1)
			b.SetParallelism(callers)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					l.Record(&mix[i&1023])
				}
			})
			b.StopTimer()
			stop()
			running.Wait()
		})
	}
}

// BenchmarkRecordAlone is Record without contention or a collector: memory is emptied
// outside the clock.
func BenchmarkRecordAlone(b *testing.B) {
	b.ReportAllocs()
	l := events.New(options())
	mix := eventstest.Mix(1024, began, 1)
	i := 0
	for b.Loop() {
		l.Record(&mix[i&1023])
		if i++; i&1023 == 0 {
			b.StopTimer()
			_ = l.Flush(context.Background()) // there is no file
			b.StartTimer()
		}
	}
}

// BenchmarkQueue is the whole way of 3,000 calls, 30 s at 100 a second: record, collect,
// pack, commit, read, release. "disk B/event" is what the queue gives to the file system.
func BenchmarkQueue(b *testing.B) {
	b.ReportAllocs()
	db := openFile(b, filepath.Join(b.TempDir(), "events.db"), 64<<20, nil)
	l := open(b, db, options())
	const n = 3_000
	mix := eventstest.Mix(n, began, 1)
	body := 0
	written := db.Stats().WrittenBytes
	for b.Loop() {
		for i := range mix {
			l.Record(&mix[i])
			if i%1000 == 999 {
				events.Collect(l)
			}
		}
		flush(b, l)
		body = 0
		for _, c := range both {
			bs := read(b, l, c)
			for i := range bs {
				body += len(bs[i].Body)
			}
			if err := l.Release(events.After(&bs[len(bs)-1])); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(body)/n, "body-B/event")
	b.ReportMetric(float64(db.Stats().WrittenBytes-written)/float64(b.N)/n, "disk-B/event")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/event")
}
