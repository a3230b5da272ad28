// Command fleetsim runs a fleet of light devices against one real broker, two collectors and a
// publisher, and prints figures: a connect storm with jitter, steady batches, and a publish in
// three stages. It is called by make fleet-sim and ends what it starts.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"tidegate/sync/bundle"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/trust"
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
	calls, size            int
	addr                   string
	fleet                  *mqttsynctest.Fleet
	devices                []*light
	sent, acked, confirmed atomic.Int64
	answered, dropped      atomic.Int64
}

func run(ctx context.Context) error {
	s := &sim{}
	flag.IntVar(&s.n, "n", 10_000, "devices")
	flag.DurationVar(&s.spread, "spread", 60*time.Second, "the connect storm is spread over this")
	flag.DurationVar(&s.every, "every", time.Minute, "one batch per device in this time")
	flag.DurationVar(&s.steady, "steady", time.Minute, "how long steady load is measured")
	flag.IntVar(&s.calls, "calls", 50, "calls in a batch")
	flag.IntVar(&s.size, "bundle", 20_000, "bytes of the bundle")
	flag.Parse()
	dir, err := os.MkdirTemp("", "fleetsim")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // temporary
	if s.fleet, err = mqttsynctest.NewFleet(); err != nil {
		return err
	}
	broker, err := s.broker(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { _ = broker.Process.Kill(); _ = broker.Wait() }()
	reg, err := s.make(dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	if err := s.collectors(ctx, &all, dir); err != nil {
		return err
	}
	pub, tide, err := s.publisher(dir, reg)
	if err != nil {
		return err
	}
	all.Go(func() { _ = pub.Run(ctx) })
	time.Sleep(time.Second)
	fmt.Printf("%d devices, one batch of %d calls each %s\n", s.n, s.calls, s.every)
	if err := s.storm(ctx, &all, broker); err != nil {
		return err
	}
	s.measureSteady(ctx, broker)
	return s.stages(ctx, dir, tide)
}

func (s *sim) broker(ctx context.Context, dir string) (*exec.Cmd, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.addr = ln.Addr().String()
	if err := ln.Close(); err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(s.addr)
	conf := filepath.Join(dir, "mosquitto.conf")
	text := "listener " + port + " 127.0.0.1\nallow_anonymous true\npersistence false\nmax_packet_size 131072\nlog_type none\nmax_queued_messages 100000\nmax_inflight_messages 200\n"
	if os.Geteuid() == 0 {
		text += "user root\n"
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command("mosquitto", "-c", conf)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for range 200 {
		if c, err := net.Dial("tcp", s.addr); err == nil {
			return cmd, c.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return cmd, fmt.Errorf("mosquitto does not listen on %s", s.addr)
}

// make makes the devices and enrols them.
func (s *sim) make(dir string) (*fleet.Registry, error) {
	devices := filepath.Join(dir, "devices")
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

func (s *sim) collectors(ctx context.Context, all *sync.WaitGroup, dir string) error {
	for i := range 2 {
		store, err := fleet.OpenStore(ctx, filepath.Join(dir, "fleet.db"), fleet.BatchOnly)
		if err != nil {
			return err
		}
		signer := s.fleet.Signer(trust.RoleCollector)
		c := fleet.NewCollector(fleet.CollectorOptions{
			Broker: fleet.Broker{URLs: []*url.URL{s.url()}, ClientID: "collector-" + strconv.Itoa(i)}, Fleet: mqttsynctest.Name, Root: s.fleet.State,
			Devices: s.fleet, Store: store, Signer: &signer, Group: "collect",
		})
		all.Go(func() {
			_ = c.Run(ctx)
			st := c.Stats()
			fmt.Printf("collector %d: %d messages, %d batches in %d commits, %d refused\n", i, st.Received, st.Batches, st.Commits, st.Refused)
			_ = store.Close()
		})
	}
	return nil
}

func (s *sim) publisher(dir string, reg *fleet.Registry) (*fleet.Publisher, *fleet.Published, error) {
	b, err := s.fleet.Bundle(1, s.size, func(*bundle.Manifest) {})
	if err != nil {
		return nil, nil, err
	}
	tide, err := s.fleet.Publish(dir, b)
	if err != nil {
		return nil, nil, err
	}
	file := filepath.Join(dir, "rollout.json")
	r := fleet.Rollout{Percent: 0}
	if err := r.Write(file); err != nil {
		return nil, nil, err
	}
	p, err := fleet.NewPublisher(fleet.PublisherOptions{
		Broker: fleet.Broker{URLs: []*url.URL{s.url()}, ClientID: "publisher"}, Fleet: mqttsynctest.Name, Root: s.fleet.State, Devices: reg,
		Bundles: []*fleet.Published{tide}, Rollout: r, File: file, Failures: 0,
	})
	return p, tide, err
}

// storm connects everybody within the spread.
func (s *sim) storm(ctx context.Context, all *sync.WaitGroup, broker *exec.Cmd) error {
	began := time.Now()
	for i, d := range s.devices {
		all.Go(func() { d.run(ctx, s.spread*time.Duration(i)/time.Duration(s.n)) })
	}
	for s.answered.Load() < int64(s.n) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Since(began) > 10*s.spread+time.Minute {
			return fmt.Errorf("after %s only %d devices are connected and answered", time.Since(began), s.answered.Load())
		}
		time.Sleep(50 * time.Millisecond)
	}
	fmt.Printf("storm: all connected, subscribed and answered %.1f s after the first try (spread %s); broker %d MiB, this process with all devices, collectors and publisher %d MiB\n",
		time.Since(began).Seconds(), s.spread, rss(broker.Process.Pid), rss(os.Getpid()))
	return nil
}

func (s *sim) measureSteady(ctx context.Context, broker *exec.Cmd) {
	sent, acked, began := s.sent.Load(), s.acked.Load(), time.Now()
	cpu := ticks(broker.Process.Pid)
	select {
	case <-ctx.Done():
		return
	case <-time.After(s.steady):
	}
	took := time.Since(began).Seconds()
	fmt.Printf("steady: %.0f batches/s sent, %.0f/s acknowledged after commit over %.0f s; broker %d MiB, %.0f %% of a core; %d connections lost\n",
		float64(s.sent.Load()-sent)/took, float64(s.acked.Load()-acked)/took, took, rss(broker.Process.Pid), float64(ticks(broker.Process.Pid)-cpu)/took, s.dropped.Load())
}

// stages publishes to 1, 10 and 100 percent.
func (s *sim) stages(ctx context.Context, dir string, tide *fleet.Published) error {
	reg, err := fleet.OpenRegistry(filepath.Join(dir, "devices"), s.fleet.State)
	if err != nil {
		return err
	}
	for _, percent := range []int{1, 10, 100} {
		r := fleet.Rollout{Percent: percent}
		want := int64(len(fleet.Targets(reg, tide.Manifest, r)))
		began := time.Now()
		if err := r.Write(filepath.Join(dir, "rollout.json")); err != nil {
			return err
		}
		for s.confirmed.Load() < want && time.Since(began) < 10*time.Minute && ctx.Err() == nil {
			time.Sleep(20 * time.Millisecond)
		}
		fmt.Printf("publish to %d %%: %d of %d devices have all %d bytes after %.1f s\n", percent, s.confirmed.Load(), want, s.size, time.Since(began).Seconds())
		if s.confirmed.Load() < want {
			return fmt.Errorf("stage of %d percent did not converge", percent)
		}
	}
	return ctx.Err()
}

// rss returns the resident memory of a process in MiB.
func rss(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			return kib >> 10
		}
	}
	return 0
}

// ticks returns the processor time of a process in hundredths of a second.
func ticks(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return user + system
}
