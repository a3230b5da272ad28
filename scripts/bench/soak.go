package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// A look is the state of the device at one moment of a soak.
type look struct {
	at              time.Duration
	rss             float64 // MiB
	files, routines int
	p50, p99        float64 // µs, of calls since the look before
	failed          uint64
}

// partSoak keeps a device at 70 % of what it reached before, while bundles are activated, by
// command and from sticks, and taken back, and recorded calls go up over MQTT and are exported,
// and asks whether anything grows.
func partSoak(ctx context.Context, w *world) (err error) {
	set, err := w.scenarioSet(50)
	if err != nil {
		return err
	}
	var b besides
	if b.hub, err = w.newHub(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.hub.close()) }()
	if b.stick, err = w.newStick(); err != nil {
		return err
	}
	g, err := w.device(deviceSpec{name: "Tidegate", set: set, toml: withDetail + b.hub.config() + b.stick.config()})
	if err != nil {
		return err
	}
	defer g.process.stop()
	if b.hub != nil {
		if err := b.hub.collect(ctx, w, g); err != nil {
			return err
		}
	}
	addr := local(g.plain["JRA"])
	l := load{addr: addr, requests: [][]byte{w.request("JRA", ""), w.request("JR", ""), w.request("P", "")}, conns: 64, warm: time.Second, time: 5 * time.Second}
	m, err := generate(l)
	if err != nil {
		return err
	}
	l.rate = 0.7 * float64(m.calls) / m.took.Seconds()
	w.say("%.0f calls/s for %v, after %.0f at saturation\n\n", l.rate, w.soak, float64(m.calls)/m.took.Seconds())

	work, stop := context.WithCancel(ctx)
	beside := make(chan error, 1)
	go func() { beside <- w.disturb(work, g, &b) }()
	var looks []look
	every := max(w.soak/12, 10*time.Second)
	begun := time.Now()
	for time.Since(begun) < w.soak && ctx.Err() == nil {
		l.warm, l.time = 0, every
		m, err := generate(l)
		if err != nil {
			stop()
			return err
		}
		s, err := w.look(g)
		if err != nil {
			stop()
			return err
		}
		s.at, s.failed = time.Since(begun), m.failed
		s.p50, s.p99 = float64(m.latency.at(0.5).Microseconds()), float64(m.latency.at(0.99).Microseconds())
		looks = append(looks, s)
	}
	stop()
	if err := <-beside; err != nil {
		return err
	}
	var rows [][]string
	for _, s := range looks {
		rows = append(rows, []string{fmt.Sprint(s.at.Round(time.Second)), num(s.rss, 1), fmt.Sprint(s.files), fmt.Sprint(s.routines), num(s.p50, 0), num(s.p99, 0), fmt.Sprint(s.failed)})
	}
	w.table([]string{"after", "RSS, MiB", "files", "goroutines", "p50 µs", "p99 µs", "calls that failed"}, rows)
	w.say("\nMeanwhile: %d activations, %d of them from sticks and %d taken back, %d exports.\n", b.applied, b.sticks, b.back, b.exports)
	if !b.stick.mounted {
		w.say("The sticks were folders given to tidegate take: FAT cannot be mounted here.\n")
	}
	if b.hub == nil {
		w.say("No MQTT: mosquitto is not installed.\n")
		return w.grown(looks)
	}
	s := b.hub.collector.Stats()
	w.say("Over MQTT: %d batches stored in %d commits, %d acknowledgements; %d messages refused.\n", s.Batches, s.Commits, s.Acks, s.Refused)
	if s.Batches == 0 || s.Refused > 0 {
		return fmt.Errorf("%d batches came over MQTT, %d messages were refused %v", s.Batches, s.Refused, s.ByWord)
	}
	return w.grown(looks)
}

// besides are the things that are done beside the calls.
type besides struct {
	applied, sticks, back, exports int
	hub                            *hub
	stick                          *stick
}

// disturb activates a bundle every 15 s, of three one by a stick and one that is taken back, and
// exports what was recorded.
func (w *world) disturb(ctx context.Context, g *gateway, done *besides) error {
	t := time.NewTicker(15 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		set, err := w.scenarioSet(50 + done.applied%2)
		if err != nil {
			return err
		}
		back := done.applied%3 == 2
		if done.applied%3 == 1 {
			bundle, err := w.signer.bundle(set)
			if err != nil {
				return err
			}
			if done.stick.mounted {
				err = done.stick.give(ctx, bundle)
			} else {
				err = done.stick.offer(ctx, w, g, bundle)
			}
			if err != nil {
				return err
			}
			done.sticks++
		} else if err := w.apply(g, set, back); err != nil {
			return err
		}
		done.applied++
		if back {
			if err := w.ask(g, "rollback"); err != nil && !strings.Contains(err.Error(), "trial") {
				return err
			}
			done.back++
		}
		if err := w.ask(g, "events", "export", "--format", "ndjson", "--output", "/dev/null"); err != nil {
			return err
		}
		done.exports++
	}
}

// look asks the kernel and the device.
func (w *world) look(g *gateway) (look, error) {
	l := look{rss: float64(g.rss()) / (1 << 20)}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.cmd.Process.Pid))
	if err != nil {
		return l, err
	}
	l.files = len(files)
	s, err := w.status(g)
	l.routines = s.Process.Goroutines
	return l, err
}

// status is what a soak looks at of a device's status.
type status struct {
	Process struct {
		Goroutines int `json:"goroutines"`
	} `json:"process"`
	Bundle struct {
		State   string `json:"state"`
		Serving struct {
			Seq uint64 `json:"seq"`
		} `json:"serving"`
	} `json:"bundle"`
}

func (w *world) status(g *gateway) (s status, err error) {
	c := exec.Command(w.tidegate, "status", "--json")
	c.Env = append(os.Environ(), "TIDEGATE_ADMIN_SOCKET="+g.socket)
	out, err := c.Output()
	if err != nil {
		return s, fmt.Errorf("tidegate status: %w", err)
	}
	return s, json.Unmarshal(out, &s)
}

// grown compares the last third of the looks with the first after the start.
func (w *world) grown(looks []look) error {
	if len(looks) < 6 {
		w.say("Too short to tell growth from the start.\n")
		return nil
	}
	third := len(looks) / 3
	mean := func(part []look, of func(look) float64) float64 {
		var v []float64
		for _, l := range part {
			v = append(v, of(l))
		}
		return medianOf(v)
	}
	var grew []string
	for _, f := range []struct {
		name  string
		slack float64 // beyond a tenth: of files and goroutines, the 64 connections that may be open to the backend or busy
		of    func(look) float64
	}{
		{"RSS", 4, func(l look) float64 { return l.rss }},
		{"files", 80, func(l look) float64 { return float64(l.files) }},
		{"goroutines", 80, func(l look) float64 { return float64(l.routines) }},
	} {
		first, last := mean(looks[third:2*third], f.of), mean(looks[len(looks)-third:], f.of)
		w.say("%s: %.1f in the second third, %.1f in the last\n", f.name, first, last)
		if last > first*1.1+f.slack {
			grew = append(grew, f.name)
		}
	}
	first, last := mean(looks[third:2*third], func(l look) float64 { return l.p99 }), mean(looks[len(looks)-third:], func(l look) float64 { return l.p99 })
	w.say("p99: %.0f µs in the second third, %.0f in the last (a busy machine moves it)\n", first, last)
	if len(grew) > 0 {
		return fmt.Errorf("grew: %s", strings.Join(grew, ", "))
	}
	return nil
}
