package mqttsync_test

import (
	"testing"
	"tidegate/platform/clock"
	"tidegate/sync/mqttsync"
	"time"
)

func TestOneRound(t *testing.T) {
	in(t, func(w *world) {
		w.collect(nil)
		w.publish(nil, w.bundle(1, 100_000))
		w.start(nil)
		w.record(5000, 1)
		w.until("bundle confirmed", 5*time.Minute, func() bool { return w.seq() == 1 })
		w.until("events delivered", 5*time.Minute, func() bool { return w.device.Queue.Status().Classes[0].Count == 0 })
		if calls, _ := w.stored(); calls != 5000 {
			t.Errorf("the fleet has %d calls, want 5000", calls)
		}
		if q := w.device.Clock.Now().Quality; q != clock.Synced {
			t.Errorf("clock is %s, want SYNCED", q)
		}
		l := w.device.Client.Link()
		if l.State != mqttsync.Connected || !l.Publisher || !l.Collector {
			t.Errorf("link is %+v, want connected and answered by both", l)
		}
		if len(l.Drops) != 0 {
			t.Errorf("dropped %v, want nothing", l.Drops)
		}
	})
}
