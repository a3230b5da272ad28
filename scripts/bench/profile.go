package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// partProfile writes where the processor time of P and JR goes, as perf sees it: functions with
// their own share, kernel included. It needs perf (Debian: linux-perf) and a program with symbols,
// which run.sh builds for it.
func partProfile(ctx context.Context, w *world) error {
	perf, err := exec.LookPath("perf")
	if err != nil {
		return fmt.Errorf("needs perf: %w", err)
	}
	set, err := w.scenarioSet(0)
	if err != nil {
		return err
	}
	g, err := w.device(deviceSpec{name: "Tidegate", set: set, toml: noDetail})
	if err != nil {
		return err
	}
	defer g.process.stop()
	for _, s := range []string{"P", "JR"} {
		data := filepath.Join(w.dir, s+".perf")
		var rec *exec.Cmd
		l := load{addr: local(g.plain[s]), requests: [][]byte{w.request(s, "")}, conns: 64, warm: w.warm, time: 5 * time.Second}
		l.atStart = func() {
			rec = exec.CommandContext(ctx, perf, "record", "-q", "-g", "-F", "1999", "-e", "cpu-clock", "-o", data, "-p", strconv.Itoa(g.cmd.Process.Pid), "--", "sleep", "4")
			err = rec.Start()
		}
		if _, err := generate(l); err != nil {
			return err
		}
		if err != nil {
			return err
		}
		if err := rec.Wait(); err != nil {
			return fmt.Errorf("perf record: %w", err)
		}
		flat, err := exec.CommandContext(ctx, perf, "report", "-i", data, "--stdio", "--no-children", "-g", "none", "--percent-limit", "0.4", "-F", "overhead,sym").Output()
		if err != nil {
			return fmt.Errorf("perf report: %w", err)
		}
		tree, err := exec.CommandContext(ctx, perf, "report", "-i", data, "--stdio", "--children", "-g", "none", "--percent-limit", "0.4", "-F", "overhead_children,overhead,sym").Output()
		if err != nil {
			return fmt.Errorf("perf report: %w", err)
		}
		name := filepath.Join(w.out, "profile-"+s+".txt")
		if err := os.WriteFile(name, append(flat, tree...), 0o644); err != nil {
			return err
		}
		w.say("%s (all of it in %s):\n\n", s, name)
		n := 0
		for line := range strings.Lines(string(flat)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' && n < 25 {
				w.say("    %s\n", line)
				n++
			}
		}
		w.say("\n")
	}
	return nil
}
