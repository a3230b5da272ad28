package mqttsync_test

import (
	"context"
	"testing"
	"tidegate/sync/mqttsync"
	"tidegate/sync/mqttsync/mqttsynctest"
	"time"
)

// fast makes a device try again soon: these tests are about what a cut costs.
func fast(o *mqttsynctest.DeviceOptions) {
	o.Change = func(m *mqttsync.Options) { m.RetryCap = 5 * time.Second }
}

func TestAChunkOutlivesEveryCut(t *testing.T) {
	in(t, func(w *world) {
		const line = 4000 // bytes a second: 32 kbit/s
		w.link.Rate(line)
		w.link.Life(func() time.Duration { return 20 * time.Second })
		w.publish(nil, w.bundle(1, 1<<20))
		w.start(fast)
		began := time.Now()
		w.until("1 MiB in one chunk over 32 kbit/s with a cut each 20 s", time.Hour, func() bool { return w.seq() == 1 })
		up, down := w.link.Bytes()
		t.Logf("%.0f s, %d cuts, %d bytes down, %d up", time.Since(began).Seconds(), w.link.Cuts(), down, up)
		if w.link.Cuts() < 10 {
			t.Errorf("only %d cuts: the test shows nothing", w.link.Cuts())
		}
	})
}

func TestARestartCostsOneChunk(t *testing.T) {
	in(t, func(w *world) {
		const size = 3 << 20 // three chunks
		w.link.Rate(20_000)
		w.publish(nil, w.bundle(1, size))
		d := w.start(fast)
		w.until("half of it", 10*time.Minute, func() bool { l := d.Client.Link(); return l.Fetching != nil && l.Fetching.Have > size/2 })
		w.stop()
		w.start(fast)
		w.until("confirmed", 20*time.Minute, func() bool { return w.seq() == 1 })
		if _, down := w.link.Bytes(); down > size+1<<20+size/10 {
			t.Errorf("%d bytes for %d and one restart: more than one chunk came twice", down, size)
		}
	})
}

func TestBundleAndEventsOverASlowLink(t *testing.T) {
	in(t, func(w *world) {
		const bundle, calls = 4 << 20, 50_000
		w.link.Rate(4000)
		w.link.Life(mqttsynctest.Between(2*time.Minute, 10*time.Minute))
		w.collect(nil)
		w.start(fast)
		w.record(calls, 7)
		size := w.device.Queue.Status().Classes[0].Bytes
		w.publish(nil, w.bundle(1, bundle))
		began := time.Now()
		w.until("bundle", 2*time.Hour, func() bool { return w.seq() == 1 })
		w.until("events", 2*time.Hour, func() bool { return w.device.Queue.Status().Classes[0].Count == 0 })
		took := time.Since(began)
		up, down := w.link.Bytes()
		got, batches := w.stored()
		if got != calls {
			t.Errorf("%d calls arrived, want %d", got, calls)
		}
		var sealed int64
		for b, err := range w.store.Batches(context.Background(), noFilter) {
			check(t, err)
			sealed += int64(len(b.Body))
		}
		t.Logf("%.0f s, %d cuts; down %d bytes for %d, %.3f; up %d bytes for %d in %d batches (%.1f bytes a call), %d on the device",
			took.Seconds(), w.link.Cuts(), down, bundle, float64(down)/bundle, up, sealed, batches, float64(sealed)/calls, size)
		if all, payload := float64(up+down), float64(bundle+sealed); all > 1.15*payload {
			t.Errorf("%.0f bytes on the wire for %.0f, more than 1.15 times", all, payload)
		}
	})
}
