package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Lines of a device's configuration: rivals record nothing, so the device that is compared
// with them keeps no detail of calls either; JRA is measured on one that does.
const (
	noDetail   = "[events]\ndetail = \"none\"\n"
	withDetail = "[events]\ndetail = \"all\"\n"
)

// everybody starts all programs, under limits if there are any.
func (w *world) everybody(l limits) ([]*gateway, func(), error) {
	var all []*gateway
	stop := func() {
		for _, g := range all {
			g.process.stop()
		}
	}
	set, err := w.scenarioSet(0)
	if err != nil {
		return nil, nil, err
	}
	starts := []func() (*gateway, error){
		func() (*gateway, error) {
			return w.device(deviceSpec{name: "Tidegate", set: set, toml: noDetail, limits: l})
		},
		func() (*gateway, error) {
			return w.device(deviceSpec{name: "Tidegate, analytics", set: set, toml: withDetail, limits: l})
		},
		func() (*gateway, error) {
			return w.device(deviceSpec{name: "Tidegate, no token cache", set: set, toml: noDetail + "[cache]\ntokens = 0\n", limits: l})
		},
	}
	ours := len(starts)
	if w.before != "" {
		starts = append(starts, func() (*gateway, error) {
			return w.device(deviceSpec{name: "before", binary: w.before, set: set, toml: noDetail, limits: l})
		})
	}
	if program("nginx") != "" {
		starts = append(starts, func() (*gateway, error) { return nginx(w, l) })
	}
	if program("haproxy") != "" {
		starts = append(starts, func() (*gateway, error) { return haproxy(w, l) })
	}
	for i, start := range starts {
		g, err := start()
		if err != nil {
			stop()
			return nil, nil, err
		}
		switch {
		case i < ours:
			g.can = []string{"P R J JR", "JR JRA", "JR"}[i]
		case g.name == "before":
			g.can = "P R J JR"
		}
		all = append(all, g)
	}
	return all, stop, nil
}

func partCore(ctx context.Context, w *world) error {
	return w.compare(ctx, job{part: "core", scenarios: scenarios, conns: 64}, limits{})
}

func partMany(ctx context.Context, w *world) error {
	return w.compare(ctx, job{part: "many", scenarios: scenarios, conns: 1000}, limits{})
}

func partLarge(ctx context.Context, w *world) error {
	return w.compare(ctx, job{part: "large", scenarios: []string{"P", "JR"}, conns: 64, more: "64k"}, limits{})
}

func partNew(ctx context.Context, w *world) error {
	return w.compare(ctx, job{part: "new", scenarios: []string{"P", "JR"}, conns: 16, fresh: true, rounds: 3}, limits{})
}

func partTLS(ctx context.Context, w *world) error {
	if err := w.compare(ctx, job{part: "tls", scenarios: []string{"P", "JR"}, conns: 64, tls: true}, limits{}); err != nil {
		return err
	}
	w.say("\nA new connection with a full handshake for each call:\n\n")
	return w.compare(ctx, job{part: "tls-new", scenarios: []string{"JR"}, conns: 16, tls: true, fresh: true, rounds: 3}, limits{})
}

func partFifth(ctx context.Context, w *world) error {
	if err := groups(); err != nil {
		return err
	}
	return w.compare(ctx, job{part: "fifth", scenarios: scenarios, conns: 64}, limits{cpu: 0.2})
}

// groups reports why control groups cannot be used.
func groups() error {
	if unix.Geteuid() != 0 {
		return fmt.Errorf("needs root for control groups")
	}
	_, err := os.Stat("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
	if err != nil {
		_, err = os.Stat("/sys/fs/cgroup/cpu")
	}
	return err
}

// compare runs one job in all programs and prints its table.
func (w *world) compare(ctx context.Context, j job, l limits) error {
	all, stop, err := w.everybody(l)
	if err != nil {
		return err
	}
	defer stop()
	if err := w.interleave(ctx, all, j); err != nil {
		return err
	}
	w.cpuTable(j.part, all, j.scenarios)
	return nil
}

// partLatency measures at a rate that every program reaches with ease: latency at saturation says
// only how long the queue is.
func partLatency(ctx context.Context, w *world) error {
	all, stop, err := w.everybody(limits{})
	if err != nil {
		return err
	}
	defer stop()
	direct := &gateway{process: all[0].process, can: "JR", plain: map[string]int{}}
	_, port, _ := net.SplitHostPort(w.upstream)
	var n int
	_, _ = fmt.Sscan(port, &n)
	direct.plain["JR"] = n
	for _, j := range []job{
		{part: "one connection", scenarios: []string{"P", "JR"}, conns: 1},
		{part: "3,000 calls/s, 64 connections", scenarios: []string{"P", "JR"}, conns: 64, rate: 3000},
	} {
		if err := w.interleave(ctx, all, j); err != nil {
			return err
		}
		upstream := *direct.process
		upstream.name = "upstream alone"
		d := *direct
		d.process = &upstream
		if err := w.interleave(ctx, []*gateway{&d}, j); err != nil {
			return err
		}
		var rows [][]string
		for _, g := range append(all, &d) {
			for _, s := range j.scenarios {
				if !able(g, s) {
					continue
				}
				row := []string{g.name, s}
				for _, f := range []func(*sample) float64{
					func(s *sample) float64 { return s.P50 }, func(s *sample) float64 { return s.P90 },
					func(s *sample) float64 { return s.P99 }, func(s *sample) float64 { return s.P999 }, func(s *sample) float64 { return s.CPU },
				} {
					row = append(row, num(w.report.median(j.part, g.name, s, 0, f), 0))
				}
				if g.name == "upstream alone" {
					row[6] = "–"
				}
				rows = append(rows, row)
			}
		}
		w.say("\n%s:\n\n", j.part)
		w.table([]string{"µs", "", "p50", "p90", "p99", "p99.9", "CPU per call"}, rows)
	}
	return nil
}

// partMemory measures a device of 200 APIs with 25 operations each.
func partMemory(ctx context.Context, w *world) error {
	set, err := w.scenarioSet(200)
	if err != nil {
		return err
	}
	var starts []float64
	var g *gateway
	for i := range 5 {
		if g, err = w.device(deviceSpec{name: "Tidegate", set: set, toml: noDetail}); err != nil {
			return err
		}
		starts = append(starts, float64(g.start.Microseconds())/1e3)
		if i < 4 {
			g.process.stop()
		}
	}
	defer g.process.stop()
	sleep(ctx, 3*time.Second)
	mib := func() float64 { return float64(g.rss()) / (1 << 20) }
	w.figure("start to first call, ms", medianOf(starts))
	idle := mib()
	w.figure("RSS idle, MiB", idle)
	w.figure("of it the program's own file, MiB", idle-float64(g.process.smaps("Anonymous:"))/(1<<20))
	peak := idle
	for _, s := range []string{"P", "JR"} {
		if _, err := generate(load{addr: local(g.plain[s]), requests: [][]byte{w.request(s, "")}, conns: 1000, warm: w.warm, time: 3 * time.Second}); err != nil {
			return err
		}
		peak = max(peak, mib())
	}
	w.figure("RSS with 1,000 busy connections, MiB", peak)
	conns, err := idlers(local(g.plain["P"]), 9000, w.request("P", ""))
	if err != nil {
		return err
	}
	held := mib()
	conns.close()
	w.figure("RSS with 9,000 idle connections, MiB", held)
	w.figure("per idle connection above the busy peak, KiB", (held-peak)*1024/9000)
	return ctx.Err()
}

func (w *world) figure(name string, v float64) {
	w.report.Figures[name] = v
	w.say("* %s: %.1f\n", name, v)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// idle connections have made one call each.
type idle []net.Conn

func (i idle) close() {
	for _, c := range i {
		c.Close()
	}
}

func idlers(addr interface{ String() string }, n int, request []byte) (idle, error) {
	var list idle
	buf := make([]byte, 8<<10)
	for i := range n {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+i/20_000), 1)}, Timeout: 10 * time.Second}
		c, err := d.Dial("tcp", addr.String())
		if err != nil {
			list.close()
			return nil, fmt.Errorf("connection %d: %w", i, err)
		}
		list = append(list, c)
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write(request); err != nil {
			list.close()
			return nil, err
		}
		if n, err := c.Read(buf); err != nil || !bytes.HasPrefix(buf[:n], []byte("HTTP/1.1 200")) {
			list.close()
			return nil, fmt.Errorf("connection %d: %w %.60q", i, err, buf[:n])
		}
	}
	return list, nil
}

// partFlood sends more than fits to a device under a hard limit: it must shed, and live.
func partFlood(ctx context.Context, w *world) error {
	if err := groups(); err != nil {
		return err
	}
	set, err := w.scenarioSet(200)
	if err != nil {
		return err
	}
	g, err := w.device(deviceSpec{name: "Tidegate", set: set, toml: withDetail, limits: limits{memory: 256 << 20}})
	if err != nil {
		return err
	}
	defer g.process.stop()
	addr := local(g.plain["JRA"])
	// A slow upstream makes calls pile up: bodies are held by 6,000 connections at once.
	held := w.hold(addr, 6000)
	defer held.close()
	m, err := generate(load{addr: addr, requests: [][]byte{w.request("JRA", "64k"), w.request("JR", "")}, conns: 2000, warm: w.warm, time: max(5*time.Second, w.time)})
	if err != nil {
		return err
	}
	w.figure("flood: calls answered", float64(m.calls))
	w.figure("flood: calls refused or cut", float64(m.failed))
	for status, n := range m.other {
		w.figure(fmt.Sprintf("flood: answers %d", status), float64(n))
	}
	for name, file := range map[string]string{"peak of the control group, MiB": "memory.max_usage_in_bytes"} {
		b, _ := os.ReadFile(filepath.Join("/sys/fs/cgroup/memory", g.group, file))
		var n float64
		_, _ = fmt.Sscan(strings.TrimSpace(string(b)), &n)
		w.figure("flood: "+name, n/(1<<20))
	}
	w.figure("flood: RSS after, MiB", float64(g.rss())/(1<<20))
	if !g.alive() {
		return fmt.Errorf("the device died: %s", g.out)
	}
	held.close()
	freed := time.Now()
	for exchangeOnce(addr.String(), w.request("JRA", "")) != 200 {
		if time.Since(freed) > 30*time.Second {
			return fmt.Errorf("no call is answered 30 s after the flood: %s", g.out)
		}
	}
	w.figure("flood: first call answered after, ms", float64(time.Since(freed).Microseconds())/1e3)
	return ctx.Err()
}

// hold opens connections that send a body slowly, or not at all.
func (w *world) hold(addr interface{ String() string }, n int) idle {
	var list idle
	head := strings.Replace(string(w.requestTo("/jra/v1/pet", "JRA", "Content-Length: 100000", "Content-Type: application/json")), "GET", "POST", 1)
	for range n {
		c, err := net.DialTimeout("tcp", addr.String(), time.Second)
		if err != nil {
			break
		}
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		_, _ = c.Write([]byte(head + strings.Repeat("x", 30_000)))
		list = append(list, c)
	}
	return list
}

// exchangeOnce makes one call over a new connection and returns its status, 0 for none.
func exchangeOnce(addr string, request []byte) int {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return 0
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	return exchange(c, bufio.NewReader(c), request)
}
