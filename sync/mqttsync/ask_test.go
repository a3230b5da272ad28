package mqttsync_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"tidegate/sync/fleet"
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

// slow takes its time to store batches.
type slow struct {
	fleet.Store
	takes time.Duration
}

// Put implements fleet.Store.
func (s slow) Put(ctx context.Context, in fleet.Intake) ([]fleet.Mark, error) {
	if len(in.Batches) > 0 {
		select {
		case <-time.After(s.takes):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return s.Store.Put(ctx, in)
}

// A collector that takes longer than a publisher may take to answer is waited for.
func TestWithoutAPublisherWhoAsksWaitsForTheCollector(t *testing.T) {
	in(t, func(w *world) {
		w.collect(func(o *fleet.CollectorOptions) { o.Store = slow{w.store, 90 * time.Second} })
		d := w.start(demand)
		w.record(2000, 1)
		took, err := w.sync()
		check(t, err)
		if n := d.Queue.Status().Classes[0].Count; n != 0 {
			t.Errorf("%d batches wait after %s, when all is said to be delivered", n, took)
		}
		if l := d.Client.Link(); l.Publisher {
			t.Errorf("a publisher answered, and there is none: %+v", l)
		}
	})
}

func TestWithoutACollectorWhoAsksIsToldSo(t *testing.T) {
	in(t, func(w *world) {
		w.publish(nil)
		d := w.start(demand)
		w.record(100, 1)
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		l, err := d.Client.Sync(ctx)
		check(t, err)
		if !l.Publisher || l.Collector || d.Queue.Status().Classes[0].Count == 0 {
			t.Errorf("link %+v, want that only a publisher answered and the events wait", l)
		}
	})
}

// A gate holds back what comes from a broker while its token is taken.
type gate chan struct{}

func (g gate) dial(next func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := next(ctx, network, address)
		return gated{c, g}, err
	}
}

type gated struct {
	net.Conn
	gate gate
}

// Read implements net.Conn.
func (c gated) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.gate <- struct{}{}
	<-c.gate
	return n, err
}

// The connection is just sending its status when somebody asks: the round that was done before
// is not the one that is asked for.
func TestWhoAsksIsNotToldOfTheRoundBefore(t *testing.T) {
	in(t, func(w *world) {
		const every = 10 * time.Minute
		g := make(gate, 1)
		w.collect(nil)
		w.publish(nil)
		d := w.start(func(o *mqttsynctest.DeviceOptions) {
			o.Dial = g.dial(o.Dial)
			o.Change = func(m *mqttsync.Options) { m.StatusEvery, m.KeepAlive = every, 20*time.Minute }
		})
		_, err := w.sync()
		check(t, err)
		up, _ := w.link.Bytes()
		for began := time.Now(); ; time.Sleep(time.Second) { // until a status is sent
			if time.Since(began) > 2*every {
				t.Fatal("no status in twice its interval")
			}
			g <- struct{}{}
			time.Sleep(time.Second)
			if now, _ := w.link.Bytes(); now > up {
				break // it is on its way, and its acknowledgement is held back
			}
			<-g
		}
		w.record(100, 1)
		done := make(chan error)
		go func() {
			_, err := w.sync()
			done <- err
		}()
		time.Sleep(time.Second)
		<-g
		check(t, <-done)
		if n := d.Queue.Status().Classes[0].Count; n != 0 {
			t.Errorf("%d batches wait when all is said to be done", n)
		}
	})
}

// What comes in takes longer than anybody is to wait.
func TestWhoAsksIsToldAfterAnHourAndTheRestFollows(t *testing.T) {
	in(t, func(w *world) {
		b := w.bundle(1, 5<<19)
		f := w.files(drip(24 << 10)(b)) // 89 minutes
		w.announce(b, address)
		w.collect(nil)
		reach := w.reach(f)
		d := w.start(func(o *mqttsynctest.DeviceOptions) {
			reach(o)
			change := o.Change
			o.Change = func(m *mqttsync.Options) { change(m); m.Mode = mqttsync.Demand }
		})
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Hour)
		defer cancel()
		began := time.Now()
		_, err := d.Client.Sync(ctx)
		var link *mqttsync.LinkError
		if took := time.Since(began); !errors.As(err, &link) || !strings.Contains(err.Error(), "an hour") || took > 65*time.Minute {
			t.Fatalf("got %v after %s, want that an hour was not enough", err, took)
		}
		if w.seq() != 0 {
			t.Fatal("all came within the hour: the test shows nothing")
		}
		w.until("the rest, without being asked again", time.Hour, func() bool { return w.seq() == 1 })
		if n := d.Client.Link().Drops["https-slow"]; n != 0 {
			t.Error("a server that is slow and steady was given up")
		}
	})
}
