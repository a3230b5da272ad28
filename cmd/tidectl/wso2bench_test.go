package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"tidegate/sync/apim/apimtest"
	"time"
)

// BenchmarkManyAPIs measures what a workstation needs for 1,000 APIs with 20 operations
// each: every step as a whole process, its time, its time on a CPU and its peak of memory. The stand-in's time
// to answer is part of the import.
func BenchmarkManyAPIs(b *testing.B) {
	s := apimtest.New(b, "2.6")
	s.Many(1000, 20)
	work := b.TempDir()
	ca := filepath.Join(work, "ca.pem")
	if err := os.WriteFile(ca, s.CA, 0o600); err != nil {
		b.Fatal(err)
	}
	dir := filepath.Join(work, "many")
	key, root := filepath.Join(work, "r.key"), filepath.Join(work, "t.tideroot")
	// step runs the program once and returns its peak of memory in MiB, and its time on a CPU.
	step := func(b *testing.B, args ...string) (float64, time.Duration) {
		b.Helper()
		cmd := exec.Command("tidectl", args...)
		cmd.Env = append(os.Environ(), wso2PasswordVariable+"="+apimtest.Password, "XDG_CONFIG_HOME="+filepath.Join(work, "config"))
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %v\n%.2000s", args, err, out)
		}
		return float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) / 1024, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	importIt := []string{"import", "wso2", "--server", s.URL, "--user", apimtest.User, "--ca", ca, "--label", "quay-7", "--json", dir}
	step(b, "keys", "new", key, "--no-passphrase")
	step(b, "trust", "init", "--root", key+".pub", "--release", key+".pub", "--key", key, "-o", root)
	for _, m := range []struct {
		name   string
		before func()
		args   []string
	}{
		{"import", func() { _ = os.RemoveAll(dir) }, importIt},
		{"import-again", func() {}, importIt},
		{"validate", func() {}, []string{"validate", dir}},
		{"build", func() {}, []string{"build", dir, "-o", filepath.Join(work, "many.tide"), "--key", key, "--root", root, "--seq", "1"}},
	} {
		b.Run(m.name, func(b *testing.B) {
			var peak float64
			var cpu time.Duration
			for b.Loop() {
				b.StopTimer()
				m.before()
				b.StartTimer()
				mib, spent := step(b, m.args...)
				peak, cpu = max(peak, mib), cpu+spent
			}
			b.ReportMetric(peak, "peak-MiB")
			b.ReportMetric(cpu.Seconds()/float64(b.N), "cpu-s/op")
		})
	}
	info, err := os.Stat(filepath.Join(work, "many.tide"))
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("bundle: %d KiB", info.Size()>>10)
}
