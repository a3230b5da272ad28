// Command bench compares the gateway with nginx and HAProxy on one machine, in one run: the
// same upstream, the same calls, one core for the program that is measured and another for
// everything else, in rounds that take turns. The figure that counts is processor time per
// call: it hardly moves when the machine has other work, whereas calls per second and
// latency do.
//
// run.sh builds and starts it. Without an option it takes a few minutes; -full adds the
// slower parts and more rounds. Tables go to standard output, every single measurement to
// out/result.json, plots to out/*.svg.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// scenarios are what a call goes through; see docs/performance.md.
var scenarios = []string{"P", "R", "J", "JR", "JRA"}

// readyTime bounds a program's start.
const readyTime = 2 * time.Minute

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	tidegate, before, out string
	full                  bool
	only                  string
	rounds                int
	time, warm            time.Duration
	soak                  time.Duration
}

func run(args []string) error {
	if len(args) == 2 && args[0] == "upstream" {
		return upstreamMain(args[1])
	}
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.tidegate, "tidegate", "bin/tidegate", "the device program")
	f.StringVar(&o.before, "before", "", "another build of the device program, to be compared with")
	f.StringVar(&o.out, "out", "scripts/bench/out", "folder of results")
	f.BoolVar(&o.full, "full", false, "everything: TLS, new connections, 64 KiB, a fifth of a core, growth")
	f.StringVar(&o.only, "only", "", "parts to run, with commas: "+strings.Join(partNames(), ", "))
	f.IntVar(&o.rounds, "rounds", 0, "rounds of each measurement (default 3, with -full 5)")
	f.DurationVar(&o.time, "time", 0, "time of one measurement (default 1.5s, with -full 5s)")
	f.DurationVar(&o.warm, "warm", 500*time.Millisecond, "warm-up of one measurement")
	f.DurationVar(&o.soak, "soak", 20*time.Minute, "time of the part soak")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	w, err := newWorld(o)
	if err != nil {
		return err
	}
	defer w.close()
	chosen := strings.Split(o.only, ",")
	var errs []error
	for _, p := range parts {
		if o.only == "" && (p.asked || p.slow && !o.full) || o.only != "" && !slices.Contains(chosen, p.name) {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.say("\n## %s\n", p.title)
		if err := p.run(ctx, w); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
			w.say("not measured: %v\n", err)
		}
	}
	return errors.Join(append(errs, w.report.write(filepath.Join(o.out, "result.json")))...)
}

// A part is one group of measurements.
type part struct {
	name, title string
	slow        bool // with -full only
	asked       bool // with -only only
	run         func(context.Context, *world) error
}

var parts = []part{
	{name: "core", title: "One core, 64 connections, 1 KiB", run: partCore},
	{name: "latency", title: "Latency at a fixed rate", run: partLatency},
	{name: "memory", title: "Memory and start, 200 APIs with 5,000 operations", run: partMemory},
	{name: "flood", title: "A hard limit of 256 MiB and more work than fits", run: partFlood},
	{name: "limit", title: "A fifth of a core and 256 MiB, everything at once", asked: true, run: partLimit},
	{name: "many", title: "One core, 1,000 connections", slow: true, run: partMany},
	{name: "large", title: "One core, bodies of 64 KiB", slow: true, run: partLarge},
	{name: "new", title: "One core, a new connection for each call", slow: true, run: partNew},
	{name: "tls", title: "One core, TLS to the client", slow: true, run: partTLS},
	{name: "fifth", title: "A fifth of a core", slow: true, run: partFifth},
	{name: "apis", title: "More and more APIs of 25 operations; calls of JR go to one of them", slow: true, run: partAPIs},
	{name: "keys", title: "More and more callers, each with a counter of its own in the durable ledger", slow: true, run: partKeys},
	{name: "connections", title: "More and more connections, of which at most 64 are busy", slow: true, run: partConnections},
	{name: "profile", title: "Where the time goes", asked: true, run: partProfile},
	{name: "soak", title: "Soak", asked: true, run: partSoak},
}

func partNames() (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}
