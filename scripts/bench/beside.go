package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"tidegate/sync/envelope"
	"tidegate/sync/fleet"
	"tidegate/sync/trust"
	"time"
)

// A hub is the fleet of one device: a broker, and a collector that acknowledges what the device
// hands up.
type hub struct {
	url       *url.URL
	broker    *exec.Cmd
	collector *fleet.Collector
	store     fleet.Store
	cancel    context.CancelFunc
	done      chan error
	enrolled  *trust.Enrolment
}

// newHub starts Mosquitto. Without it there is no hub, and no error.
func (w *world) newHub() (*hub, error) {
	program := "/usr/sbin/mosquitto"
	if found, err := exec.LookPath("mosquitto"); err == nil {
		program = found
	} else if _, err := os.Stat(program); err != nil {
		return nil, nil //nolint:nilerr // the soak says what it goes without
	}
	port := freePort()
	conf := filepath.Join(w.dir, "mosquitto.conf")
	text := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\npersistence false\nlog_type none\n", port)
	if os.Geteuid() == 0 {
		text += "user root\n"
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	h := &hub{url: &url.URL{Scheme: "tcp", Host: local(port).String()}, broker: exec.Command(program, "-c", conf)}
	h.broker.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return h, h.broker.Start()
}

// config is what the device is told of the hub.
func (h *hub) config() string {
	if h == nil {
		return ""
	}
	return fmt.Sprintf("[mqtt]\nbrokers = [%q]\nfleet = %q\nfirst_after = \"1s\"\nstatus_every = \"1m\"\n", h.url, "bench")
}

// collect enrols the device and begins to take what it hands up.
func (h *hub) collect(ctx context.Context, w *world, g *gateway) error {
	name := filepath.Join(g.dir, "device.tideenroll")
	if err := w.ask(g, "enroll", "--output", name); err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	msgs, err := envelope.ReadFile(envelope.Enroll, f)
	if err != nil {
		return err
	}
	r, err := trust.OpenRequest(msgs[0])
	if err != nil {
		return err
	}
	h.enrolled = &trust.Enrolment{Domain: w.signer.domain, Epoch: 1, Seq: 1, Product: "bench", Channel: "stable", Report: r.Report, Device: r.ID()}
	root, _, err := w.signer.root()
	if err != nil {
		return err
	}
	state, err := fleet.Believe(root)
	if err != nil {
		return err
	}
	if h.store, err = fleet.OpenStore(ctx, filepath.Join(g.dir, "fleet.db"), fleet.BatchOnly); err != nil {
		return err
	}
	signer := w.signer.message()
	h.collector = fleet.NewCollector(fleet.CollectorOptions{
		Broker: fleet.Broker{URLs: []*url.URL{h.url}, ClientID: "bench-collector"}, Fleet: "bench", Root: state, Devices: h, Store: h.store, Signer: &signer,
	})
	ctx, h.cancel = context.WithCancel(ctx)
	h.done = make(chan error, 1)
	go func() { h.done <- h.collector.Run(ctx) }()
	return nil
}

// Device implements [fleet.Directory].
func (h *hub) Device(id trust.DeviceID) (*trust.Enrolment, bool) {
	return h.enrolled, h.enrolled.Device == id
}

// All implements [fleet.Directory].
func (h *hub) All(yield func(*trust.Enrolment) bool) { yield(h.enrolled) }

// close ends what runs.
func (h *hub) close() error {
	if h == nil {
		return nil
	}
	var errs []error
	if h.cancel != nil {
		h.cancel()
		if err := <-h.done; !errors.Is(err, context.Canceled) {
			errs = append(errs, err)
		}
	}
	if h.store != nil {
		errs = append(errs, h.store.Close())
	}
	errs = append(errs, h.broker.Process.Kill())
	_ = h.broker.Wait() // it was killed
	return errors.Join(errs...)
}

// A stick is a FAT image that is mounted as a USB stick is; where that cannot be done, it is a
// folder that is offered with tidegate take, as the packages' units do.
type stick struct {
	image, prepare, mounts, at string
	mounted                    bool
}

// newStick finds out whether FAT can be mounted here.
func (w *world) newStick() (*stick, error) {
	mounts := filepath.Join(w.dir, "media")
	s := &stick{image: filepath.Join(w.dir, "stick.img"), prepare: filepath.Join(w.dir, "prepare"), mounts: mounts, at: filepath.Join(mounts, "stick")}
	for _, d := range []string{s.prepare, s.at} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(s.image, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(s.image, 64<<20); err != nil {
		return nil, err
	}
	if s.mounted = s.mount(s.prepare, true) == nil; s.mounted {
		return s, umount(s.prepare)
	}
	return s, nil // no root, no mkfs.vfat, no loop devices or no FAT in the kernel
}

func (s *stick) config() string {
	if !s.mounted {
		return ""
	}
	return fmt.Sprintf("[usb]\nmounts = [%q]\n", s.mounts)
}

func (s *stick) mount(at string, format bool) error {
	if format {
		if out, err := exec.Command("mkfs.vfat", s.image).CombinedOutput(); err != nil {
			return fmt.Errorf("mkfs.vfat: %w: %s", err, out)
		}
	}
	out, err := exec.Command("mount", "-t", "vfat", "-o", "loop,nosuid,nodev,noexec", s.image, at).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mount: %w: %s", err, out)
	}
	return nil
}

func umount(at string) error {
	out, err := exec.Command("umount", at).CombinedOutput()
	if err != nil {
		return fmt.Errorf("umount: %w: %s", err, out)
	}
	return nil
}

// offer has the device take the next bundle of set from a folder, and waits for the verdict.
func (s *stick) offer(ctx context.Context, w *world, g *gateway, bundle []byte) error {
	if err := os.WriteFile(filepath.Join(s.prepare, "next.tide"), bundle, 0o600); err != nil {
		return err
	}
	if err := orOnTrial(w.ask(g, "take", s.prepare)); err != nil {
		return err
	}
	for began := time.Now(); time.Since(began) < 2*time.Minute && ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		st, err := w.status(g)
		if err != nil {
			return err
		}
		if st.Bundle.State == "confirmed" && st.Bundle.Serving.Seq == w.signer.seq {
			return nil
		}
	}
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the soak is over
	}
	return errors.New("the bundle of the stick is not confirmed after two minutes")
}

// give puts a bundle on a fresh stick, with a folder for what goes out, puts the stick in, and
// waits until the device has written what became of it.
func (s *stick) give(ctx context.Context, bundle []byte) (err error) {
	if err := s.mount(s.prepare, true); err != nil {
		return err
	}
	err = errors.Join(os.WriteFile(filepath.Join(s.prepare, "next.tide"), bundle, 0o600), os.MkdirAll(filepath.Join(s.prepare, "tide", "out"), 0o755), umount(s.prepare))
	if err != nil {
		return err
	}
	if err := s.mount(s.at, false); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, umount(s.at)) }()
	for began := time.Now(); time.Since(began) < 2*time.Minute && ctx.Err() == nil; time.Sleep(200 * time.Millisecond) {
		told, err := filepath.Glob(filepath.Join(s.at, "tide", "out", "*", "status.txt"))
		if err != nil {
			return err
		}
		if len(told) == 0 {
			continue
		}
		text, err := os.ReadFile(told[0])
		if err != nil {
			continue // being replaced
		}
		if !strings.Contains(string(text), "confirmed") {
			return fmt.Errorf("the stick was not taken: %s", text)
		}
		return nil
	}
	if ctx.Err() != nil {
		return nil
	}
	return errors.New("the device wrote nothing about the stick in two minutes")
}
