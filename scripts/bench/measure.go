package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"time"
)

// A job is a load in all programs and scenarios that can carry it.
type job struct {
	part      string
	scenarios []string
	conns     int
	more      string // behind the path
	rate      float64
	tls       bool
	fresh     bool // a new connection for each call
	rounds    int
}

// interleave runs j in rounds: every program and scenario in turn, then again.
func (w *world) interleave(ctx context.Context, programs []*gateway, j job) error {
	if j.rounds == 0 {
		j.rounds = w.rounds
	}
	for round := range j.rounds {
		for _, s := range j.scenarios {
			for _, g := range programs {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if !able(g, s) {
					continue
				}
				if err := w.measure(g, s, round, j); err != nil {
					return fmt.Errorf("%s %s: %w", g.name, s, err)
				}
			}
		}
	}
	return nil
}

// able reports whether a program has a scenario. Analytics belong to their own device.
func able(g *gateway, scenario string) bool {
	for c := range strings.FieldsSeq(g.can) {
		if c == scenario {
			return true
		}
	}
	return false
}

// measure takes one sample.
func (w *world) measure(g *gateway, scenario string, round int, j job) error {
	ports := g.plain
	if j.tls {
		ports = g.secure
	}
	return w.sample(g, scenario, round, j, load{addr: local(ports[scenario]), requests: [][]byte{w.request(scenario, j.more)}}, 0)
}

// sample takes one sample with requests of the caller's choice.
func (w *world) sample(g *gateway, scenario string, round int, j job, l load, size int) error {
	l.conns, l.rate, l.warm, l.time = j.conns, j.rate, w.warm, w.time
	var before time.Duration
	l.atStart = func() { before = g.cpu() }
	var m *measured
	var err error
	switch {
	case j.tls && j.fresh:
		m, err = generateSlow(l, clientTLS(), true)
	case j.tls:
		m, err = generateSlow(l, clientTLS(), false)
	case j.fresh:
		m, err = generateSlow(l, (*tls.Config)(nil), true)
	default:
		m, err = generate(l)
	}
	if err != nil {
		return fmt.Errorf("%w (%s)", err, g.out)
	}
	used := g.cpu() - before
	if m.calls == 0 || m.failed > m.calls/100 {
		return fmt.Errorf("%d calls answered, %d not: %v", m.calls, m.failed, m.other)
	}
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	w.report.Samples = append(w.report.Samples, sample{
		Part: j.part, Program: g.name, Scenario: scenario, Round: round, Conns: j.conns, Rate: j.rate, Calls: m.calls, Failed: m.failed, Size: size,
		CPU: us(used) / float64(m.calls), PerSec: float64(m.calls) / m.took.Seconds(),
		P50: us(m.latency.at(0.5)), P90: us(m.latency.at(0.9)), P99: us(m.latency.at(0.99)), P999: us(m.latency.at(0.999)), Most: us(m.latency.most),
		RSS: float64(g.rss()) / (1 << 20),
	})
	return nil
}

// cpuTable prints processor time per call by program and scenario, and what ours is of each: of the
// medians, and of the rounds that the rest of the machine disturbed least.
func (w *world) cpuTable(part string, programs []*gateway, scenarios []string) {
	w.costs("µs of CPU per call, median", part, programs, scenarios, w.report.median)
	w.say("\n")
	w.costs("the same, least of the rounds", part, programs, scenarios, w.report.least)
}

type figure func(part, program, scenario string, size int, of func(*sample) float64) float64

func (w *world) costs(title, part string, programs []*gateway, scenarios []string, pick figure) {
	cpu := func(s *sample) float64 { return s.CPU }
	own := map[string]float64{}
	for _, g := range programs {
		for _, s := range scenarios {
			if v := pick(part, g.name, s, 0, cpu); strings.HasPrefix(g.name, "Tidegate") && v > 0 && own[s] == 0 {
				own[s] = v
			}
		}
	}
	var rows [][]string
	for _, g := range programs {
		row := []string{g.name}
		best := ""
		for _, s := range scenarios {
			v := pick(part, g.name, s, 0, cpu)
			cell := num(v, 1)
			if v > 0 && own[s] > 0 && !strings.HasPrefix(g.name, "Tidegate") {
				cell += fmt.Sprintf(" (ours: %.2f×)", own[s]/v)
			}
			row = append(row, cell)
			if able(g, s) {
				best = s
			}
		}
		rows = append(rows, append(row, best+" "+num(pick(part, g.name, best, 0, func(s *sample) float64 { return s.PerSec }), 0),
			num(pick(part, g.name, best, 0, func(s *sample) float64 { return s.P99 }), 0),
			num(pick(part, g.name, best, 0, func(s *sample) float64 { return s.RSS }), 1)))
	}
	w.table(append(append([]string{title}, scenarios...), "calls/s", "p99 µs", "RSS MiB"), rows)
}
