package mqttsync_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"tidegate/sync/mqttsync"
	"tidegate/sync/mqttsync/mqttsynctest"
	"time"
)

// demand makes a device that speaks when it is asked.
func demand(o *mqttsynctest.DeviceOptions) {
	o.Change = func(m *mqttsync.Options) { m.Mode, m.RetryCap = mqttsync.Demand, time.Minute }
}

// sync asks and returns the outcome and how long it took.
func (w *world) sync() (time.Duration, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	_, err := w.device.Client.Sync(ctx)
	return time.Since(began), err
}

func TestWhoAsksIsToldWhenAllIsDone(t *testing.T) {
	in(t, func(w *world) {
		w.collect(nil)
		w.publish(nil, w.bundle(1, 100_000))
		d := w.start(demand)
		w.record(2000, 1)
		time.Sleep(10 * time.Minute)
		if up, down := w.link.Bytes(); up+down != 0 {
			t.Fatalf("%d bytes without being asked", up+down)
		}
		took, err := w.sync()
		check(t, err)
		t.Logf("done after %s", took)
		if st := d.Desk.Status(); w.seq() != 1 && st.Trial == nil {
			t.Errorf("no bundle came in: %+v", st)
		}
		if n := d.Queue.Status().Classes[0].Count; n != 0 {
			t.Errorf("%d batches wait when all is said to be done", n)
		}
		w.until("the link closes", time.Minute, func() bool { return d.Client.Link().State == mqttsync.Waiting })
	})
}

func TestWhoAsksInVainIsToldWhy(t *testing.T) {
	in(t, func(w *world) {
		w.collect(nil)
		w.publish(nil)
		d := w.start(demand)
		w.record(100, 1)
		w.link.Down()
		took, err := w.sync()
		var link *mqttsync.LinkError
		if !errors.As(err, &link) || took > time.Minute {
			t.Fatalf("got %v after %s, want why the link cannot be had", err, took)
		}
		w.link.Up()
		w.until("it was tried again", time.Hour, func() bool { return d.Queue.Status().Classes[0].Count == 0 })
	})
}

func TestWhoAsksWhereNobodyAnswersIsToldSo(t *testing.T) {
	in(t, func(w *world) {
		d := w.start(demand)
		w.record(100, 1)
		took, err := w.sync()
		var link *mqttsync.LinkError
		if !errors.As(err, &link) || !strings.Contains(link.Hint, "access control") || took > 5*time.Minute {
			t.Fatalf("got %v after %s, want that nobody answers", err, took)
		}
		before, _ := w.link.Bytes()
		time.Sleep(time.Hour)
		if after, _ := w.link.Bytes(); after != before {
			t.Error("asked once, and the device goes on for ever")
		}
		if n := d.Queue.Status().Classes[0].Count; n == 0 {
			t.Error("events went to nobody")
		}
	})
}

func TestAskingOnAnOpenLinkKeepsIt(t *testing.T) {
	in(t, func(w *world) {
		w.connected()
		w.record(100, 1)
		since := w.device.Client.Link().Since
		_, err := w.sync()
		check(t, err)
		if n := w.device.Queue.Status().Classes[0].Count; n != 0 {
			t.Errorf("%d batches wait when all is said to be done", n)
		}
		if l := w.device.Client.Link(); l.State != mqttsync.Connected || !l.Since.Equal(since) {
			t.Errorf("the link was made anew: %+v", l)
		}
	})
}

func TestADayWithoutBytesLeftIsToldAtOnce(t *testing.T) {
	in(t, func(w *world) {
		w.collect(nil)
		w.start(func(o *mqttsynctest.DeviceOptions) {
			o.Change = func(m *mqttsync.Options) { m.Mode, m.PerDay = mqttsync.Demand, 30_000 }
		})
		w.record(20_000, 1)
		_, err := w.sync()
		if err == nil || !strings.Contains(err.Error(), "bytes_per_day") {
			t.Fatalf("got %v, want that the bytes of the day are spent", err)
		}
		if took, err := w.sync(); err == nil || took != 0 {
			t.Errorf("got %v after %s, want a refusal at once", err, took)
		}
	})
}

func TestInAWindowARoundIsOneConnection(t *testing.T) {
	in(t, func(w *world) {
		w.collect(nil)
		w.publish(nil)
		window, err := mqttsync.ParseWindow("daily 00:00 24h")
		check(t, err)
		var dials atomic.Int64
		d := w.start(func(o *mqttsynctest.DeviceOptions) {
			dial := o.Dial
			o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				dials.Add(1)
				return dial(ctx, network, address)
			}
			o.Change = func(m *mqttsync.Options) {
				m.Mode, m.Windows, m.FirstAfter = mqttsync.Windows, []mqttsync.Window{window}, 0
			}
		})
		w.record(100, 1)
		w.until("delivered", 2*time.Hour, func() bool { return d.Queue.Status().Classes[0].Count == 0 })
		before := dials.Load()
		time.Sleep(time.Hour)
		if n := dials.Load() - before; n < 3 || n > 9 {
			t.Errorf("%d connections in an hour with nothing to say, want one each 7.5 to 15 minutes", n)
		}
	})
}

func TestTheLastContactIsRemembered(t *testing.T) {
	in(t, func(w *world) {
		w.link.Down()
		w.collect(nil)
		w.publish(nil)
		d := w.start(nil)
		time.Sleep(10 * time.Minute)
		if l := d.Client.Link(); !l.Contact.IsZero() {
			t.Errorf("nobody has answered, and the last contact was at %s", l.Contact)
		}
		w.link.Up()
		w.until("somebody answers", time.Hour, func() bool { return d.Client.Link().State == mqttsync.Connected })
		time.Sleep(time.Minute)
		if l := d.Client.Link(); !l.Contact.Equal(time.Now()) {
			t.Errorf("connected, and the last contact was %s ago", time.Since(l.Contact))
		}
		down := time.Now()
		w.link.Down()
		w.until("the link is seen to be down", time.Hour, func() bool { return d.Client.Link().State == mqttsync.Waiting })
		ended := time.Now()
		time.Sleep(3 * time.Hour)
		if l := d.Client.Link(); l.Contact.Before(down) || l.Contact.After(ended) {
			t.Errorf("the last contact was at %s, want between %s and %s", l.Contact, down, ended)
		}
	})
}
