package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"sync"
	"tidegate/store/events/eventstest"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/mqttsync/pipe"
	"tidegate/sync/trust"
	"time"
)

type options struct {
	dir, broker, kind, serve, delete string
	lasts                            time.Duration
	from                             uint64
	bundle                           int // bytes of content; default 300,000

	name, tap, backend, api, keys string
	rate                          float64
	settle                        time.Duration
	rest                          []string // a command line
}

// conformance runs one whole round over a broker with our access rules, and then tries what
// they must stop.
func conformance(ctx context.Context, o options) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	f, err := mqttsynctest.NewFleet()
	if err != nil {
		return err
	}
	for _, n := range []string{"device-1", "device-2"} {
		f.Know(mqttsynctest.Key(n).Public())
	}
	u, err := pipe.ParseURL(o.broker)
	if err != nil {
		return err
	}
	store, err := fleet.OpenStore(ctx, filepath.Join(o.dir, o.kind+".db"), fleet.CallRows)
	if err != nil {
		return err
	}
	defer store.Close() //nolint:errcheck // the run is over
	side, endSide := context.WithCancel(ctx)
	defer endSide()
	if err := fleetSide(side, o, f, u, store); err != nil {
		return err
	}
	d, err := openDevice(o, f, u, "device-1")
	if err != nil {
		return err
	}
	stop := sync.OnceValue(d.Stop)
	defer stop() //nolint:errcheck // the run is over
	if err := d.Start(ctx); err != nil {
		return err
	}
	const calls = 3000
	for i, e := range eventstest.Mix(calls, time.Now(), 1) {
		d.Queue.Record(&e)
		if i%500 == 499 {
			if err := d.Queue.Flush(ctx); err != nil {
				return err
			}
		}
	}
	for _, step := range []struct {
		what string
		done func() bool
	}{
		{"bundle 1 confirmed", func() bool { l, _ := d.Desk.Trust().Confirmed("gate", "stable"); return l.Seq == 1 }},
		{"time attested", func() bool { return d.Clock.Now().Quality.String() == "SYNCED" }},
		{"events delivered", func() bool { return d.Queue.Status().Classes[0].Count == 0 }},
		{"status stored", func() bool {
			for r, err := range store.Devices(ctx) {
				return err == nil && r.Seq == 1 && r.Online
			}
			return false
		}},
	} {
		began := time.Now()
		for !step.done() {
			if ctx.Err() != nil {
				return fmt.Errorf("%s: not in time; link %+v", step.what, d.Client.Link())
			}
			time.Sleep(20 * time.Millisecond)
		}
		fmt.Printf("%s: %s (+%s)\n", o.kind, step.what, time.Since(began).Round(time.Millisecond))
	}
	got := 0
	for b, err := range store.Batches(ctx, fleet.Filter{}) {
		if err != nil {
			return err
		}
		got += b.Count
	}
	if got != calls {
		return fmt.Errorf("%d calls stored, want %d", got, calls)
	}
	if err := stop(); err != nil {
		return err
	}
	endSide() // one name, one connection: those who try come next
	time.Sleep(time.Second)
	return denied(ctx, o, u)
}

func fleetSide(ctx context.Context, o options, f *mqttsynctest.Fleet, u *url.URL, store fleet.Store) error {
	collectors := []string{"fleet-collector-1", "fleet-collector-2"}
	group := "collect"
	if o.kind == "nats" { // no shared subscriptions
		collectors, group = collectors[:1], ""
	}
	for _, cn := range collectors {
		t, err := as(o.dir, cn)
		if err != nil {
			return err
		}
		s := f.Signer(trust.RoleCollector)
		c := fleet.NewCollector(fleet.CollectorOptions{
			Broker: fleet.Broker{URLs: []*url.URL{u}, ClientID: cn, TLS: t}, Fleet: mqttsynctest.Name, Root: f.State, Devices: f, Store: store, Signer: &s, Group: group,
		})
		go c.Run(ctx) //nolint:errcheck // ends with ctx
	}
	b, err := f.Bundle(1, max(o.bundle, 300_000), nil)
	if err != nil {
		return err
	}
	p, err := f.Publish(o.dir, b)
	if err != nil {
		return err
	}
	t, err := as(o.dir, "fleet-publisher-1")
	if err != nil {
		return err
	}
	s := f.Signer(trust.RoleTime)
	pub, err := fleet.NewPublisher(fleet.PublisherOptions{
		Broker: fleet.Broker{URLs: []*url.URL{u}, ClientID: "fleet-publisher-1", TLS: t}, Fleet: mqttsynctest.Name, Root: f.State,
		Rollout: fleet.Whole(), Bundles: []*fleet.Published{p}, Signer: &s, Clock: mqttsynctest.Now,
	})
	if err != nil {
		return err
	}
	go pub.Run(ctx) //nolint:errcheck // ends with ctx
	return nil
}

func openDevice(o options, f *mqttsynctest.Fleet, u *url.URL, name string) (*mqttsynctest.Device, error) {
	var t *tls.Config
	if pipe.Secure(u) {
		var err error
		if t, err = as(o.dir, deviceID(name).String()); err != nil {
			return nil, err
		}
	}
	return mqttsynctest.OpenDevice(mqttsynctest.DeviceOptions{
		Dir: filepath.Join(o.dir, o.kind+"-"+name), Key: mqttsynctest.Key(name), Fleet: f, Broker: u.String(), Interval: time.Hour, Events: 256 << 20,
		Change: func(m *mqttsync.Options) { m.TLS, m.FirstAfter, m.RetryCap = t, 0, 300*time.Millisecond },
	})
}

// denied tries what one device must not do to another. Denied publishes are acknowledged all
// the same: what counts is that nothing arrives.
func denied(ctx context.Context, o options, u *url.URL) error {
	one, two := deviceID("device-1"), deviceID("device-2")
	dial := func(cn string) (*pipe.Pipe, error) {
		t, err := as(o.dir, cn)
		if err != nil {
			return nil, err
		}
		return pipe.Dial(ctx, pipe.Options{URL: u, ClientID: cn, TLS: t, KeepAlive: time.Minute})
	}
	victim, err := dial(two.String())
	if err != nil {
		return err
	}
	defer victim.Close()
	watch, err := dial("fleet-publisher-1")
	if err != nil {
		return err
	}
	defer watch.Close()
	f := mqttsynctest.Name
	if err := errors.Join(victim.Subscribe(ctx, f.Down(two)), watch.Subscribe(ctx, f.All(message.StatusPart), f.All(message.RequestPart), f.All(message.ReportPart))); err != nil {
		return err
	}
	for _, try := range []struct{ what, topic string }{
		{"publishes as another device", f.Device(two, message.StatusPart)},
		{"publishes requests of another device", f.Device(two, message.RequestPart)},
		{"publishes to another device", f.Device(two, message.CommandPart)},
		{"acknowledges for itself", f.Device(two, message.AckPart)},
	} {
		attacker, err := dial(one.String())
		if err != nil {
			return err
		}
		sctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		_ = attacker.Send(sctx, try.topic, []byte("attack")) // it may look as if it succeeded
		cancel()
		attacker.Cut()
	}
	attacker, err := dial(one.String())
	if err != nil {
		return err
	}
	defer attacker.Cut()
	sctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	_ = attacker.Subscribe(sctx, f.Down(two)) // granted or not
	cancel()
	// The publisher may write there: the attacker must not hear it, the victim must.
	if err := watch.Send(ctx, f.Device(two, message.CommandPart), []byte("for two")); err != nil {
		return err
	}
	end := time.Now().Add(3 * time.Second)
	heard := false
	for _, p := range []struct {
		who string
		c   *pipe.Pipe
	}{{"victim", victim}, {"fleet", watch}, {"attacker", attacker}} {
		rctx, cancel := context.WithDeadline(ctx, end)
		for {
			m, err := p.c.Receive(rctx)
			if err != nil {
				break
			}
			switch {
			case string(m.Payload) == "attack":
				cancel()
				return fmt.Errorf("%s: %s got an attack on %s", o.kind, p.who, m.Topic)
			case p.who == "attacker" && string(m.Payload) == "for two":
				cancel()
				return fmt.Errorf("%s: a device reads what is for another", o.kind)
			case p.who == "victim" && string(m.Payload) == "for two":
				heard = true
			}
		}
		cancel()
		end = time.Now().Add(500 * time.Millisecond)
	}
	if !heard {
		return fmt.Errorf("%s: the device did not hear what was for it: the test shows nothing", o.kind)
	}
	fmt.Printf("%s: a device cannot speak as another, read what is for another, or write what devices read\n", o.kind)
	return nil
}
