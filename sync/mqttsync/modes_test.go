package mqttsync_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"tidegate/platform/clock"
	"tidegate/sync/fleet"
	"tidegate/sync/intake"
	"tidegate/sync/mqttsync"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/uplink"
	"time"
)

func TestOnDemandNothingIsSaidUntilSomebodyAsks(t *testing.T) {
	in(t, func(w *world) {
		w.collect(nil)
		w.publish(nil)
		d := w.start(func(o *mqttsynctest.DeviceOptions) {
			o.Change = func(m *mqttsync.Options) { m.Mode = mqttsync.Demand }
		})
		w.record(100, 1)
		time.Sleep(20 * time.Minute)
		if up, down := w.link.Bytes(); up+down != 0 {
			t.Fatalf("%d bytes without being asked", up+down)
		}
		d.Client.Wake()
		w.until("delivered", 5*time.Minute, func() bool { return d.Queue.Status().Classes[0].Count == 0 })
		w.until("the link closes again", 5*time.Minute, func() bool { return d.Client.Link().State == mqttsync.Waiting })
		before, _ := w.link.Bytes()
		w.record(100, 2)
		time.Sleep(30 * time.Minute)
		if after, _ := w.link.Bytes(); after != before {
			t.Errorf("%d bytes after the link was closed", after-before)
		}
	})
}

func TestOutsideItsWindowsADeviceAsksForTheTimeOnly(t *testing.T) {
	in(t, func(w *world) {
		w.collect(nil)
		s := w.fleet.Signer(6)
		w.publishAt(mqttsynctest.Now(), &s)
		opens := mqttsynctest.Now().Add(6 * time.Hour)
		window, err := mqttsync.ParseWindow("daily " + opens.Format("15:04") + " 4m")
		check(t, err)
		d := w.start(func(o *mqttsynctest.DeviceOptions) {
			o.Change = func(m *mqttsync.Options) { m.Mode, m.Windows = mqttsync.Windows, []mqttsync.Window{window} }
		})
		w.record(100, 1)
		w.until("the time is known", 2*time.Hour, func() bool { return d.Clock.Now().Quality == clock.Synced })
		time.Sleep(20 * time.Minute)
		if d.Queue.Status().Classes[0].Count == 0 {
			t.Fatal("events went outside the window")
		}
		d.Machine.Pass(6*time.Hour + 2*time.Minute) // the lower bound lags by a thousandth
		w.until("events in the window", 10*time.Minute, func() bool { return d.Queue.Status().Classes[0].Count == 0 })
	})
}

func TestABudgetThatIsSpentClosesTheLink(t *testing.T) {
	in(t, func(w *world) {
		w.collect(nil)
		d := w.start(func(o *mqttsynctest.DeviceOptions) {
			o.Change = func(m *mqttsync.Options) { m.PerDay, m.RetryCap = 100_000, time.Minute }
		})
		w.record(20_000, 1)
		time.Sleep(30 * time.Minute)
		up, down := w.link.Bytes()
		if up+down > 110_000 || up+down < 50_000 {
			t.Errorf("%d bytes on the first day, want at most 100,000", up+down)
		}
		if d.Queue.Status().Classes[0].Count == 0 {
			t.Fatal("all went: the test shows nothing")
		}
		d.Machine.Pass(24 * time.Hour)
		time.Sleep(20 * time.Minute)
		if again, _ := w.link.Bytes(); again == up {
			t.Error("nothing on the second day")
		}
	})
}

func TestNewestFirst(t *testing.T) {
	in(t, func(w *world) {
		w.collect(nil)
		w.start(func(o *mqttsynctest.DeviceOptions) {
			o.Change = func(m *mqttsync.Options) { m.Order = uplink.NewestFirst }
		})
		w.record(20_000, 1)
		w.until("delivered", 30*time.Minute, func() bool { return w.device.Queue.Status().Classes[0].Count == 0 })
		if calls, _ := w.stored(); calls != 20_000 {
			t.Errorf("%d calls, want 20,000", calls)
		}
	})
}

// A ledger notes the results that reach the store.
type ledger struct {
	fleet.Store
	mu      sync.Mutex
	results []fleet.Result
}

func (l *ledger) Put(ctx context.Context, in fleet.Intake) ([]fleet.Mark, error) {
	marks, err := l.Store.Put(ctx, in)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.results = append(l.results, in.Results...)
	}
	return marks, err
}

func TestResultsAreSentUntilTheyAreStored(t *testing.T) {
	in(t, func(w *world) {
		w.publish(nil, w.bundle(1, 1000))
		w.start(nil)
		w.until("confirmed", 10*time.Minute, func() bool { return w.seq() == 1 })
		synctest.Wait() // the result is kept
		w.stop()        // before anybody stored it
		w.start(nil)
		l := &ledger{Store: w.store}
		w.collect(func(o *fleet.CollectorOptions) { o.Store = l })
		w.until("the fleet knows", 20*time.Minute, func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return slices.ContainsFunc(l.results, func(r fleet.Result) bool { return r.Phase == intake.Confirmed.String() && r.Number == 1 })
		})
	})
}
