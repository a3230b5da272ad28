package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"tidegate/store/events/eventstest"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/mqttsync/pipe"
	"time"
)

// slow carries a bundle of 4 MiB down and 50,000 calls up over a line of 32 kbit/s each way whose
// connections end after 2 to 10 minutes, to a real broker with our access rules and TLS, and holds
// the bytes on the line against what they carried. It takes as long as the line takes.
func slow(ctx context.Context, o options) error {
	const bundle, calls, line = 4 << 20, 50_000, 4000
	ctx, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	f, err := mqttsynctest.NewFleet()
	if err != nil {
		return err
	}
	f.Know(mqttsynctest.Key("device-1").Public())
	u, err := pipe.ParseURL(o.broker)
	if err != nil {
		return err
	}
	store, err := fleet.OpenStore(ctx, filepath.Join(o.dir, "slow.db"), fleet.CallRows)
	if err != nil {
		return err
	}
	defer store.Close() //nolint:errcheck // the run is over
	o.kind, o.bundle = "slow", bundle
	if err := fleetSide(ctx, o, f, u, store); err != nil {
		return err
	}
	link := mqttsynctest.NewLink((&net.Dialer{}).DialContext)
	link.Rate(line)
	link.Life(mqttsynctest.Between(2*time.Minute, 10*time.Minute))
	t, err := as(o.dir, deviceID("device-1").String())
	if err != nil {
		return err
	}
	d, err := mqttsynctest.OpenDevice(mqttsynctest.DeviceOptions{
		Dir: filepath.Join(o.dir, "slow-device"), Key: mqttsynctest.Key("device-1"), Fleet: f, Broker: u.String(), Dial: link.Dial, Interval: time.Hour, Events: 256 << 20,
		Change: func(m *mqttsync.Options) { m.TLS, m.FirstAfter, m.RetryCap = t, 0, 5*time.Second },
	})
	if err != nil {
		return err
	}
	defer d.Stop() //nolint:errcheck // the run is over
	if err := d.Start(ctx); err != nil {
		return err
	}
	for i, e := range eventstest.Mix(calls, time.Now(), 7) {
		d.Queue.Record(&e)
		if i%500 == 499 {
			if err := d.Queue.Flush(ctx); err != nil {
				return err
			}
		}
	}
	began := time.Now()
	for done := false; !done; time.Sleep(100 * time.Millisecond) {
		if ctx.Err() != nil {
			return fmt.Errorf("not within an hour; link %+v", d.Client.Link())
		}
		l, _ := d.Desk.Trust().Confirmed("gate", "stable")
		done = l.Seq == 1 && d.Queue.Status().Classes[0].Count == 0
	}
	took := time.Since(began)
	up, down := link.Bytes()
	stored, sealed := 0, int64(0)
	for b, err := range store.Batches(ctx, fleet.Filter{}) {
		if err != nil {
			return err
		}
		stored += b.Count
		sealed += int64(len(b.Body))
	}
	ratio := float64(up+down) / float64(bundle+sealed)
	fmt.Printf("slow: complete after %.0f s, %d connections ended; %d bytes down for %d, %d up for %d sealed; %.3f times the payload, TLS included; %d of %d calls stored\n",
		took.Seconds(), link.Cuts(), down, bundle, up, sealed, ratio, stored, calls)
	switch {
	case stored != calls:
		return errors.New("calls are missing")
	case ratio > 1.15:
		return errors.New("more than 1.15 times the payload")
	case link.Cuts() == 0:
		return errors.New("no connection ended: the run shows nothing")
	}
	return nil
}
