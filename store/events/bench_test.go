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

// BenchmarkQueue is the whole way of 30 s of calls, at 10 and at 100 a second: record,
// collect, pack, commit, read, release. "disk-B/event" is what the queue gives to the file
// system, the deletion included.
func BenchmarkQueue(b *testing.B) {
	for _, n := range []int{300, 3_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			db := openFile(b, filepath.Join(b.TempDir(), "events.db"), 64<<20, nil)
			l := open(b, db, options())
			mix := eventstest.Mix(n, began, 1)
			body, calls, rounds := 0, 0, 0
			written := db.Stats().WrittenBytes
			for b.Loop() {
				for i := range mix {
					l.Record(&mix[i])
					if i%1000 == 999 {
						events.Collect(l)
					}
				}
				flush(b, l)
				for _, c := range both {
					bs := read(b, l, c)
					for i := range bs {
						body += len(bs[i].Body)
					}
					if err := l.Release(events.After(&bs[len(bs)-1])); err != nil {
						b.Fatal(err)
					}
				}
				calls += n
				rounds++
			}
			b.ReportMetric(float64(body)/float64(calls), "body-B/event")
			b.ReportMetric(float64(db.Stats().WrittenBytes-written)/float64(calls), "disk-B/event")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(calls), "ns/event")
		})
	}
}
