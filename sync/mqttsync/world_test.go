package mqttsync_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"tidegate/store/events/batch"
	"tidegate/store/events/eventstest"
	"tidegate/sync/envelope"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/trust"
	"time"
)

// noFilter chooses everything.
var noFilter fleet.Filter

// A world is a broker, a fleet and one device, all in one bubble of virtual time.
type world struct {
	t      *testing.T
	fleet  *mqttsynctest.Fleet
	broker *mqttsynctest.Broker
	link   *mqttsynctest.Link
	store  fleet.Store
	dir    string
	key    envelope.PrivateKey
	device *mqttsynctest.Device
	stops  []func()
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// in runs fn in a world of its own.
func in(t *testing.T, fn func(w *world)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, dir: dir, key: mqttsynctest.Key("device")}
		var err error
		w.fleet, err = mqttsynctest.NewFleet()
		check(t, err)
		w.broker, err = mqttsynctest.NewBroker()
		check(t, err)
		w.link = mqttsynctest.NewLink(w.broker.Dial)
		w.fleet.Know(w.key.Public())
		w.store, err = fleet.OpenStore(context.Background(), filepath.Join(dir, "fleet.db"), fleet.CallRows)
		check(t, err)
		defer func() {
			w.stop()
			for i := len(w.stops) - 1; i >= 0; i-- {
				w.stops[i]()
			}
			check(t, w.broker.Close())
			check(t, w.store.Close())
			time.Sleep(time.Minute) // whatever still runs ends
		}()
		fn(w)
	})
}

func (w *world) brokerFor(id string) fleet.Broker {
	u, err := url.Parse("tcp://broker:1883")
	check(w.t, err)
	return fleet.Broker{URLs: []*url.URL{u}, ClientID: id, Dial: w.broker.Dial}
}

// run runs something of the fleet until the end, and returns what ends it earlier.
func (w *world) run(fn func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = fn(ctx)
	}()
	stop = func() { cancel(); <-done }
	w.stops = append(w.stops, stop)
	return stop
}

func (w *world) collect(change func(*fleet.CollectorOptions)) *fleet.Collector {
	s := w.fleet.Signer(trust.RoleCollector)
	o := fleet.CollectorOptions{Broker: w.brokerFor("collector"), Fleet: mqttsynctest.Name, Root: w.fleet.State, Devices: w.fleet, Store: w.store, Signer: &s}
	if change != nil {
		change(&o)
	}
	c := fleet.NewCollector(o)
	w.run(c.Run)
	return c
}

func (w *world) publish(change func(*fleet.PublisherOptions), bundles ...[]byte) *fleet.Publisher {
	s := w.fleet.Signer(trust.RoleTime)
	o := fleet.PublisherOptions{
		Broker: w.brokerFor("publisher"), Fleet: mqttsynctest.Name, Root: w.fleet.State, Rollout: fleet.Whole(), Signer: &s, Clock: mqttsynctest.Now,
	}
	for _, b := range bundles {
		p, err := w.fleet.Publish(w.dir, b)
		check(w.t, err)
		w.stops = append(w.stops, func() { check(w.t, p.Close()) })
		o.Bundles = append(o.Bundles, p)
	}
	if change != nil {
		change(&o)
	}
	p, err := fleet.NewPublisher(o)
	check(w.t, err)
	w.run(p.Run)
	return p
}

func (w *world) bundle(seq uint64, size int) []byte {
	b, err := w.fleet.Bundle(seq, size, nil)
	check(w.t, err)
	return b
}

// start runs the device.
func (w *world) start(change func(*mqttsynctest.DeviceOptions)) *mqttsynctest.Device {
	w.t.Helper()
	o := mqttsynctest.DeviceOptions{Dir: filepath.Join(w.dir, "device"), Key: w.key, Fleet: w.fleet, Dial: w.link.Dial}
	if change != nil {
		change(&o)
	}
	d, err := mqttsynctest.OpenDevice(o)
	check(w.t, err)
	w.device = d // before the start: what a peer does may ask for it
	check(w.t, d.Start(context.Background()))
	return d
}

// stop ends the device.
func (w *world) stop() {
	if w.device != nil {
		check(w.t, w.device.Stop())
		w.device = nil
	}
}

// record puts n calls into the queue and makes them durable.
func (w *world) record(n int, seed uint64) {
	w.t.Helper()
	events := eventstest.Mix(n, time.Now(), seed)
	for i := range events {
		w.device.Queue.Record(&events[i])
		if i%500 == 499 || i == n-1 { // memory holds about two thousand
			check(w.t, w.device.Queue.Flush(context.Background()))
		}
	}
}

// until waits, in virtual time, until fn holds.
func (w *world) until(what string, most time.Duration, fn func() bool) {
	w.t.Helper()
	for begin := time.Now(); !fn(); time.Sleep(100 * time.Millisecond) {
		if time.Since(begin) > most {
			w.t.Fatalf("%s: not within %s\nlink %+v", what, most, w.device.Client.Link())
		}
	}
}

// stored returns how many calls the fleet has.
func (w *world) stored() (calls, batches int) {
	for b, err := range w.store.Batches(context.Background(), fleet.Filter{}) {
		check(w.t, err)
		if b.Class == batch.Detail {
			calls += b.Count
			batches++
		}
	}
	return calls, batches
}

func (w *world) seq() uint64 {
	l, _ := w.device.Desk.Trust().Confirmed("gate", "stable")
	return l.Seq
}

// overwrite puts other content into the file of a published bundle.
func overwrite(dir string, published, content []byte) error {
	sum := sha256.Sum256(published)
	return os.WriteFile(filepath.Join(dir, fmt.Sprintf("%x.tide", sum[:8])), content, 0o600)
}

func (w *world) publishOpened(p *fleet.Published) {
	w.publish(func(o *fleet.PublisherOptions) { o.Bundles = append(o.Bundles, p) })
}

// publishAt publishes nothing, by a clock that says at.
func (w *world) publishAt(at time.Time, s *message.Signer) {
	began := time.Now()
	w.publish(func(o *fleet.PublisherOptions) {
		o.Signer = s
		o.Clock = func() time.Time { return at.Add(time.Since(began)) }
	})
}
