// Command fleetsim runs a fleet of light devices against one real broker, two collectors and a
// publisher, all programs of their own, and prints figures: a connect storm with jitter, steady
// batches and states, and a publish in three stages. It is called by make fleet-sim and ends what
// it starts.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"tidegate/sync/bundle"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync/mqttsynctest"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleetsim:", err)
		os.Exit(1)
	}
}

// sim is one run.
type sim struct {
	n                      int
	spread, every, steady  time.Duration
	states, back           time.Duration
	calls, size            int
	addr, dir              string
	fleet                  *mqttsynctest.Fleet
	devices                []*light
	programs               []*program // the broker first
	seen                   *watcher
	sent, acked, confirmed atomic.Int64
	answered, dropped      atomic.Int64
}

func run(ctx context.Context) error {
	s := &sim{}
	flag.IntVar(&s.n, "n", 10_000, "devices")
	flag.DurationVar(&s.spread, "spread", 60*time.Second, "the connect storm is spread over this")
	flag.DurationVar(&s.every, "every", time.Minute, "one batch per device in this time")
	flag.DurationVar(&s.states, "states", 10*time.Minute, "one state per device in this time (a real one sends it each 6 h)")
	flag.DurationVar(&s.back, "back", 30*time.Second, "a device whose connection ended comes back within this")
	flag.DurationVar(&s.steady, "steady", time.Minute, "how long steady load is measured")
	flag.IntVar(&s.calls, "calls", 50, "calls in a batch")
	flag.IntVar(&s.size, "bundle", 20_000, "bytes of the bundle")
	place := flag.String("store", "", "store of the collectors: a file, or postgres://…; default: a file that is thrown away")
	flag.Parse()
	var err error
	if s.dir, err = os.MkdirTemp("", "fleetsim"); err != nil {
		return err
	}
	defer os.RemoveAll(s.dir) //nolint:errcheck // temporary
	if *place == "" {
		*place = filepath.Join(s.dir, "fleet.db")
	}
	if s.fleet, err = mqttsynctest.NewFleet(); err != nil {
		return err
	}
	defer func() {
		for _, p := range s.programs {
			p.end()
		}
	}()
	if err := s.broker(); err != nil {
		return err
	}
	reg, err := s.make()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	if s.seen, err = watch(ctx, s.url()); err != nil {
		return err
	}
	tide, err := s.fleetSide(ctx, *place)
	if err != nil {
		return err
	}
	fmt.Printf("%d devices: one batch of %d calls each %s, one state each %s; store %s\n", s.n, s.calls, s.every, s.states, kindOf(*place))
	if err := s.storm(ctx, &all); err != nil {
		return err
	}
	s.measureSteady(ctx)
	if err := s.again(ctx); err != nil {
		return err
	}
	if err := s.stages(ctx, reg, tide); err != nil {
		return err
	}
	cancel()
	all.Wait()
	return s.judge(*place)
}

// make makes the devices and enrols them.
func (s *sim) make() (*fleet.Registry, error) {
	devices := filepath.Join(s.dir, "devices")
	if err := os.Mkdir(devices, 0o700); err != nil {
		return nil, err
	}
	for i := range s.n {
		d, file, err := newLight(s, i)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(devices, d.id.String()+".tidedevice"), file, 0o600); err != nil {
			return nil, err
		}
		s.devices = append(s.devices, d)
	}
	return fleet.OpenRegistry(devices, s.fleet.State)
}

func (s *sim) url() *url.URL { return &url.URL{Scheme: "tcp", Host: s.addr} }

// publication makes the bundle, and a rollout that tells nobody yet.
func (s *sim) publication() (*fleet.Published, error) {
	b, err := s.fleet.Bundle(1, s.size, func(*bundle.Manifest) {})
	if err != nil {
		return nil, err
	}
	name := filepath.Join(s.dir, "site.tide")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		return nil, err
	}
	r := fleet.Rollout{Percent: 0}
	if err := r.Write(filepath.Join(s.dir, "rollout.json")); err != nil {
		return nil, err
	}
	return fleet.OpenBundle(name, s.fleet.State)
}

// storm connects everybody within the spread.
func (s *sim) storm(ctx context.Context, all *sync.WaitGroup) error {
	m := s.measure()
	for i, d := range s.devices {
		all.Go(func() { d.run(ctx, s.spread*time.Duration(i)/time.Duration(s.n)) })
	}
	for s.answered.Load() < int64(s.n) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Since(m.began) > 10*s.spread+time.Minute {
			return fmt.Errorf("after %s only %d devices are connected and answered", time.Since(m.began), s.answered.Load())
		}
		time.Sleep(50 * time.Millisecond)
	}
	fmt.Printf("storm, spread over %s: all connected, subscribed and answered after %.1f s; %d connections lost\n", s.spread, time.Since(m.began).Seconds(), s.dropped.Load())
	m.print()
	return nil
}

func (s *sim) measureSteady(ctx context.Context) {
	sent, acked, m := s.sent.Load(), s.acked.Load(), s.measure()
	select {
	case <-ctx.Done():
		return
	case <-time.After(s.steady):
	}
	took := time.Since(m.began).Seconds()
	fmt.Printf("steady for %.0f s: %.0f batches/s sent, %.0f/s acknowledged after commit; %d connections lost\n",
		took, float64(s.sent.Load()-sent)/took, float64(s.acked.Load()-acked)/took, s.dropped.Load())
	m.print()
}

// again kills the broker, which has kept nothing, and waits until everybody is back.
func (s *sim) again(ctx context.Context) error {
	s.answered.Store(0)
	if err := s.restart(); err != nil {
		return err
	}
	m := s.measure()
	for s.answered.Load() < int64(s.n) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Since(m.began) > 10*time.Minute {
			return fmt.Errorf("ten minutes after the broker came back only %d devices are", s.answered.Load())
		}
		time.Sleep(50 * time.Millisecond)
	}
	fmt.Printf("broker killed and started: all connected, subscribed and answered after %.1f s, with pauses of up to %s\n", time.Since(m.began).Seconds(), s.back)
	m.print()
	return nil
}

// stages publishes to 1, 10 and 100 percent.
func (s *sim) stages(ctx context.Context, reg *fleet.Registry, tide *fleet.Published) error {
	for _, percent := range []int{1, 10, 100} {
		r := fleet.Rollout{Percent: percent}
		want := int64(len(fleet.Targets(reg, tide.Manifest, r)))
		m := s.measure()
		if err := r.Write(filepath.Join(s.dir, "rollout.json")); err != nil {
			return err
		}
		for s.confirmed.Load() < want && time.Since(m.began) < 10*time.Minute && ctx.Err() == nil {
			time.Sleep(20 * time.Millisecond)
		}
		fmt.Printf("publish to %d %%: %d of %d devices have all %d bytes after %.1f s\n", percent, s.confirmed.Load(), want, s.size, time.Since(m.began).Seconds())
		m.print()
		if s.confirmed.Load() < want {
			return fmt.Errorf("stage of %d percent did not converge", percent)
		}
	}
	return ctx.Err()
}

// judge compares what was acknowledged with what is stored, as soon as what is on its way is.
func (s *sim) judge(place string) error {
	store, err := fleet.OpenStore(context.Background(), place, fleet.BatchOnly)
	if err != nil {
		return err
	}
	defer store.Close() //nolint:errcheck // only read
	for began := time.Now(); ; time.Sleep(500 * time.Millisecond) {
		stored, devices, current, err := s.stored(store)
		if err != nil {
			return err
		}
		fits := devices == s.n && current == s.n && stored >= s.acked.Load() && stored <= s.sent.Load()
		if !fits && time.Since(began) < time.Minute {
			continue
		}
		fmt.Printf("stored: %d of %d batches sent, states of %d devices, %d of them with the bundle\n", stored, s.sent.Load(), devices, current)
		if !fits {
			return fmt.Errorf("%d batches were acknowledged and %d sent; what is stored does not fit", s.acked.Load(), s.sent.Load())
		}
		return nil
	}
}

// stored counts batches, devices, and the devices that have the bundle.
func (s *sim) stored(store fleet.Store) (batches int64, devices, current int, err error) {
	for _, err := range store.Batches(context.Background(), fleet.Filter{}) {
		if err != nil {
			return 0, 0, 0, err
		}
		batches++
	}
	for d, err := range store.Devices(context.Background()) {
		if err != nil {
			return 0, 0, 0, err
		}
		devices++
		if d.Seq == 1 {
			current++
		}
	}
	return batches, devices, current, nil
}
