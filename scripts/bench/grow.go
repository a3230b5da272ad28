package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"tidegate/policy"
	"time"
)

// A curve is one figure over what grows.
type curve struct {
	name   string
	points [][2]float64
}

// partAPIs measures devices with more and more APIs of 25 operations.
func partAPIs(ctx context.Context, w *world) error {
	cost, memory, start := curve{name: "µs of CPU per call"}, curve{name: "RSS idle, MiB"}, curve{name: "start to first call, ms"}
	var rows [][]string
	for _, n := range []int{5, 10, 100, 1000, 10_000} {
		set, err := w.scenarioSet(n)
		if err != nil {
			return err
		}
		g, err := w.device(deviceSpec{name: "Tidegate", set: set, toml: noDetail + "[bundles]\nquota = \"256MiB\"\n"})
		if err != nil {
			return fmt.Errorf("%d APIs: %w", n, err)
		}
		sleep(ctx, 2*time.Second)
		rss := float64(g.rss()) / (1 << 20)
		err = w.repeat(ctx, g, "JR", job{part: "APIs", conns: 64}, [][]byte{w.request("JR", "")}, n)
		g.process.stop()
		if err != nil {
			return err
		}
		us := w.report.median("APIs", g.name, "JR", n, func(s *sample) float64 { return s.CPU })
		ms := float64(g.start.Microseconds()) / 1e3
		cost.points = append(cost.points, [2]float64{float64(n), us})
		memory.points = append(memory.points, [2]float64{float64(n), rss})
		start.points = append(start.points, [2]float64{float64(n), ms})
		rows = append(rows, []string{fmt.Sprint(n), fmt.Sprint(n * len(petOperations)), num(us, 1), num(rss, 1), num(ms, 0)})
	}
	w.table([]string{"APIs", "operations", cost.name, memory.name, start.name}, rows)
	return errFirst(w.plot("apis-cpu", "Cost of a call (JR)", "APIs", cost), w.plot("apis-memory", "Memory and start", "APIs", memory, start))
}

// partKeys measures one limit that is counted for more and more callers: calls come from as many
// addresses, which a trusted proxy names.
func partKeys(ctx context.Context, w *world) error {
	set, err := w.scenarioSet(0)
	if err != nil {
		return err
	}
	set.Plans = append(set.Plans, policy.Plan{Kind: policy.SubscriptionPlan, Name: policy.Unauthenticated, Limit: plenty})
	cost := curve{name: "µs of CPU per call"}
	var rows [][]string
	g, err := w.device(deviceSpec{name: "Tidegate", set: set, toml: noDetail})
	if err != nil {
		return err
	}
	defer g.process.stop()
	for _, n := range []int{1, 10, 100, 1000, 10_000, 100_000} {
		requests := make([][]byte, n)
		for i := range requests {
			requests[i] = w.requestTo("/p/v1/pet/17", "P", fmt.Sprintf("X-Forwarded-For: 10.%d.%d.%d", i>>16, i>>8&255, i&255))
		}
		// Each key is met before it is measured, and its record written.
		for met := 0; met < n; {
			m, err := generate(load{addr: local(g.plain["P"]), requests: requests, first: met, conns: 64, time: time.Second})
			if err != nil {
				return err
			}
			met += int(m.calls) //nolint:gosec // of one second
		}
		sleep(ctx, 2*time.Second)
		if err := w.repeat(ctx, g, "P", job{part: "keys", conns: 64}, requests, n); err != nil {
			return err
		}
		us := w.report.median("keys", g.name, "P", n, func(s *sample) float64 { return s.CPU })
		rss := w.report.median("keys", g.name, "P", n, func(s *sample) float64 { return s.RSS })
		cost.points = append(cost.points, [2]float64{float64(n), us})
		rows = append(rows, []string{fmt.Sprint(n), num(us, 1), num(rss, 1)})
	}
	w.table([]string{"keys", cost.name, "RSS, MiB"}, rows)
	return w.plot("keys-cpu", "Cost of a call with a limit per caller", "keys", cost)
}

// partConnections measures 64 busy connections beside more and more idle ones.
func partConnections(ctx context.Context, w *world) error {
	set, err := w.scenarioSet(0)
	if err != nil {
		return err
	}
	cost, memory := curve{name: "µs of CPU per call"}, curve{name: "RSS, MiB"}
	var rows [][]string
	g, err := w.device(deviceSpec{name: "Tidegate", set: set, toml: noDetail + "[limits]\nconnections = 20000\n"})
	if err != nil {
		return err
	}
	defer g.process.stop()
	for _, n := range []int{1, 10, 64, 100, 1000, 10_000} {
		busy := min(n, 64)
		list, err := idlers(local(g.plain["JR"]), n-busy, w.request("JR", ""))
		if err != nil {
			return err
		}
		err = w.repeat(ctx, g, "JR", job{part: "connections", conns: busy}, [][]byte{w.request("JR", "")}, n)
		list.close()
		if err != nil {
			return err
		}
		us := w.report.median("connections", g.name, "JR", n, func(s *sample) float64 { return s.CPU })
		rss := w.report.median("connections", g.name, "JR", n, func(s *sample) float64 { return s.RSS })
		cost.points = append(cost.points, [2]float64{float64(n), us})
		memory.points = append(memory.points, [2]float64{float64(n), rss})
		rows = append(rows, []string{fmt.Sprint(n), fmt.Sprint(busy), num(us, 1), num(rss, 1)})
	}
	w.table([]string{"connections", "busy", cost.name, memory.name}, rows)
	return errFirst(w.plot("connections-cpu", "Cost of a call (JR)", "connections", cost), w.plot("connections-memory", "Memory", "connections", memory))
}

// repeat takes a sample in each round.
func (w *world) repeat(ctx context.Context, g *gateway, scenario string, j job, requests [][]byte, size int) error {
	for round := range w.rounds {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := w.sample(g, scenario, round, j, load{addr: local(g.plain[scenario]), requests: requests}, size); err != nil {
			return err
		}
	}
	return nil
}

func errFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *world) plot(name, title, x string, curves ...curve) error {
	var b strings.Builder
	drawSVG(&b, title, x, curves)
	return os.WriteFile(filepath.Join(w.out, name+".svg"), []byte(b.String()), 0o644)
}
