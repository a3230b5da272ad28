package mqttsynctest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"tidegate/platform/clock"
	"tidegate/platform/clock/clocktest"
	"tidegate/policy/changes"
	"tidegate/store"
	"tidegate/store/audit"
	"tidegate/store/events"
	"tidegate/store/events/batch"
	"tidegate/store/slots"
	"tidegate/sync/bundle"
	"tidegate/sync/envelope"
	"tidegate/sync/intake"
	"tidegate/sync/mqttsync"
	"tidegate/sync/trust"
	"time"
)

// DeviceOptions say how a device is opened.
type DeviceOptions struct {
	Dir      string
	Key      envelope.PrivateKey
	Fleet    *Fleet // whose root is installed if there is none
	Dial     func(ctx context.Context, network, address string) (net.Conn, error)
	Broker   string        // URL; default tcp://broker:1883
	Interval time.Duration // of the event queue
	Change   func(*mqttsync.Options)
	Log      *slog.Logger
	Events   int64 // bytes of events.db; default 16 MiB
}

// A Device is what the link has on its device: a desk, a queue, a clock and a store, all real;
// only what serves is not.
type Device struct {
	ID      trust.DeviceID
	Store   *store.Dir
	Desk    *intake.Desk
	Queue   *events.Log
	Clock   *clock.Clock
	Machine *clocktest.Machine
	Client  *mqttsync.Client

	file    *store.DB
	running sync.WaitGroup
	cancel  context.CancelFunc
	queued  chan error
}

// OpenDevice opens the device that lies in a folder, or makes it.
func OpenDevice(o DeviceOptions) (*Device, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Broker == "" {
		o.Broker = "tcp://broker:1883"
	}
	if o.Events == 0 {
		o.Events = 16 << 20
	}
	d := &Device{ID: trust.DeviceIDOf(o.Key.Public()), Machine: clocktest.New(Now())}
	d.Clock = clock.New(d.Machine, time.Unix(Issued-1000, 0), nil)
	if err := d.open(o); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *Device) open(o DeviceOptions) error {
	dir, _, err := store.OpenDir(o.Dir, store.DirOptions{
		State:  store.Options{MaxBytes: 4 << 20, Schema: 1},
		Events: store.Options{MaxBytes: o.Events, Schema: 1},
	})
	if err != nil {
		return err
	}
	d.Store = dir
	shelf, err := slots.Open(o.Dir, slots.Options{Layout: intake.Layout, Reserve: 1})
	if err != nil {
		return err
	}
	log, err := audit.New(nil)
	if err != nil {
		return err
	}
	d.Desk, err = intake.New(intake.Options{
		Dir: o.Dir, State: dir.State(), Slots: dir.Trust(), Shelf: shelf, Audit: log, Activator: gate{}, Prober: gate{},
		Clock: intakeClock{d.Machine, time.Now()}, Time: d.Clock, Device: d.ID, Hardware: "linux-arm64", Version: [3]uint64{1, 0, 0}, Build: Issued - 1000,
		Log: o.Log,
	})
	if err != nil {
		return err
	}
	if d.Desk.Status().Root == 0 && o.Fleet != nil {
		if _, err := d.Desk.InstallRoot(context.Background(), o.Fleet.RootFile, trust.Digest{}); err != nil {
			return err
		}
	}
	began := time.Now()
	d.Queue = events.New(events.Options{Interval: o.Interval, Log: o.Log, BootID: d.Machine.BootID(), Clock: func() events.Instant {
		now := time.Now()
		return events.Instant{Now: now, Stamp: batch.Stamp{Boot: now.Sub(began), Unix: now, Quality: batch.Unproven}}
	}})
	file, report, err := dir.OpenEvents(context.Background())
	if err != nil {
		return err
	}
	d.file = file
	found := events.AsItLay
	if !report.Found.Whole() {
		found = events.SetAside
	}
	if err := d.Queue.Attach(file, found); err != nil {
		return err
	}
	return d.link(o)
}

func (d *Device) link(o DeviceOptions) error {
	u, err := url.Parse(o.Broker)
	if err != nil {
		return err
	}
	m := mqttsync.Options{
		Fleet: Name, Brokers: []*url.URL{u}, Device: d.ID, Key: o.Key, BootID: d.Machine.BootID(), Version: "1.0.0",
		Queue: d.Queue, Desk: d.Desk, Clock: d.Clock, Memory: Memory{d.Store.State()}, Dial: o.Dial, Log: o.Log,
		KeepAlive: 60 * time.Second,
	}
	if o.Change != nil {
		o.Change(&m)
	}
	d.Client, err = mqttsync.New(m)
	return err
}

// Start runs the device until Stop.
func (d *Device) Start(ctx context.Context) error {
	ctx, d.cancel = context.WithCancel(ctx)
	if err := d.Desk.Resume(ctx); err != nil {
		return err
	}
	d.queued = make(chan error, 1)
	d.running.Go(func() { _ = d.Desk.Run(ctx) })
	d.running.Go(func() { d.queued <- d.Queue.Run(ctx) })
	d.running.Go(func() { _ = d.Client.Run(ctx) })
	return nil
}

// Stop ends the device in order.
func (d *Device) Stop() error {
	var err error
	if d.cancel != nil {
		d.cancel()
		d.running.Wait()
		err = <-d.queued
	}
	return errors.Join(err, d.close())
}

func (d *Device) close() error {
	var errs []error
	if d.file != nil {
		errs = append(errs, d.file.Close())
	}
	if d.Store != nil {
		errs = append(errs, d.Store.Close())
	}
	return errors.Join(errs...)
}

// Memory keeps the values of a client in state.db.
type Memory struct{ DB *store.DB }

const bucket = "mqtt"

// Load implements mqttsync.Memory.
func (m Memory) Load(key string) (v []byte, err error) {
	err = m.DB.View(func(tx *store.Tx) (err error) {
		v, err = tx.Bucket(bucket).Get([]byte(key))
		return err
	})
	return v, err
}

// Save implements mqttsync.Memory.
func (m Memory) Save(key string, v []byte) error {
	return m.DB.Update(func(tx *store.Tx) error { return tx.Bucket(bucket).Put([]byte(key), v) })
}

// intakeClock runs with the time of the test.
type intakeClock struct {
	m     *clocktest.Machine
	began time.Time
}

func (c intakeClock) Boot() time.Duration { return time.Since(c.began) }
func (c intakeClock) Wall() time.Time     { return c.m.Wall() }

// gate compiles everything and is always well.
type gate struct{}

func (gate) Compile(_ context.Context, b *bundle.Reader, _ map[string][]byte) (intake.Edition, error) {
	p, err := b.ReadFile("policy.cbor", 1<<20)
	return string(p), err
}
func (gate) Changes(_, _ intake.Edition) []changes.Change     { return nil }
func (gate) Activate(intake.Edition)                          {}
func (gate) Health(context.Context) error                     { return nil }
func (gate) Probe(context.Context, bundle.Probe) (int, error) { return 200, nil }
func (gate) Answers() (all, failed uint64)                    { return 0, 0 }

// Folder returns a folder for a device below dir.
func Folder(dir string, id trust.DeviceID) string { return filepath.Join(dir, id.String()) }
