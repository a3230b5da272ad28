package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"tidegate/policy"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/write"
	"tidegate/sync/trust"
	"time"
)

// Sizes of the part limit.
const (
	limitIdle  = 10_000
	limitBusy  = 1_000
	limitSlow  = 2_000 // uploads that stop in the middle
	limitExtra = 255 << 20
)

// partLimit gives a device under a hard limit of 256 MiB and a fifth of a core everything at once: idle
// connections, busy ones, the largest bundle, and uploads that never end. It must live.
func partLimit(ctx context.Context, w *world) error {
	if err := groups(); err != nil {
		return err
	}
	set, err := w.scenarioSet(200)
	if err != nil {
		return err
	}
	g, err := w.device(deviceSpec{
		name: "Tidegate", set: set, limits: limits{memory: 256 << 20, cpu: 0.2},
		toml: withDetail + "[limits]\nconnections = 20000\n[bundles]\nquota = \"256MiB\"\n",
	})
	if err != nil {
		return err
	}
	defer g.process.stop()
	addr := local(g.plain["JRA"])
	list, err := idlers(addr, limitIdle, w.request("JR", ""))
	if err != nil {
		return err
	}
	defer list.close()
	w.figure("limit: idle connections", float64(len(list)))
	name := filepath.Join(g.dir, "large.tide")
	if err := w.large(name, set); err != nil {
		return err
	}
	phase := func(name string) error {
		m, err := generate(load{addr: addr, requests: [][]byte{w.request("JRA", ""), w.request("JR", "")}, conns: limitBusy, warm: 0, time: 10 * time.Second})
		if err != nil {
			return err
		}
		w.figure("limit: calls answered in 10 s, "+name, float64(m.calls))
		for status, n := range m.other {
			w.figure(fmt.Sprintf("limit: answers %d, %s", status, name), float64(n))
		}
		return nil
	}
	if err := phase("idle and busy connections"); err != nil {
		return err
	}
	applied := make(chan error, 1)
	began := time.Now()
	taken := time.Duration(0)
	go func() {
		err := orOnTrial(w.ask(g, "apply", "--no-wait", name))
		taken = time.Since(began)
		applied <- err
	}()
	if err := phase("and the bundle"); err != nil {
		return err
	}
	held := w.hold(addr, limitSlow)
	defer held.close()
	if err := phase("and the flood"); err != nil {
		return err
	}
	var bundleErr error
	select {
	case bundleErr = <-applied:
	case <-time.After(10 * time.Minute):
		return fmt.Errorf("the bundle was not taken in within 10 minutes")
	}
	b, _ := os.ReadFile(filepath.Join("/sys/fs/cgroup/memory", g.group, "memory.max_usage_in_bytes"))
	var peak float64
	_, _ = fmt.Sscan(strings.TrimSpace(string(b)), &peak)
	w.figure("limit: peak of the control group, MiB", peak/(1<<20))
	w.figure("limit: RSS, MiB", float64(g.rss())/(1<<20))
	kills, _ := os.ReadFile(filepath.Join("/sys/fs/cgroup/memory", g.group, "memory.oom_control"))
	w.say("%s\n", bytes.ReplaceAll(bytes.TrimSpace(kills), []byte("\n"), []byte(", ")))
	switch {
	case !g.alive():
		return fmt.Errorf("the device died: %s", g.out)
	case bundleErr != nil:
		return fmt.Errorf("the bundle: %w", bundleErr)
	}
	w.figure("limit: bundle of 256 MiB on trial after, s", taken.Seconds())
	held.close()
	still := 0
	for _, c := range list[:200] {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		buf := make([]byte, 8<<10)
		if _, err := c.Write(w.request("JR", "")); err != nil {
			continue
		}
		if n, err := c.Read(buf); err == nil && bytes.HasPrefix(buf[:n], []byte("HTTP/1.1 200")) {
			still++
		}
	}
	w.figure("limit: of 200 idle connections still answered", float64(still))
	return ctx.Err()
}

// large writes the largest bundle that the format allows, nearly: the set and noise.
func (w *world) large(name string, set *policy.Set) error {
	w.signer.seq++
	b, err := policy.Encode(set)
	if err != nil {
		return err
	}
	noise := make([]byte, limitExtra-len(b))
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	m := bundle.Manifest{
		Common:  trust.Common{Domain: w.signer.domain, Epoch: 1, Seq: w.signer.seq, Issued: uint64(time.Now().Unix())},
		Product: "bench", Channel: "stable", Name: "bench", Hardware: []string{"any"}, Selectors: []trust.Selector{trust.EveryDevice()},
		Activation: &bundle.Activation{Mode: bundle.ByHand, Window: 900, Attempts: 3},
	}
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer out.Close()
	_, err = write.Build(out, write.Spec{Manifest: m, Files: []write.File{write.Bytes("large/noise.bin", noise), write.Bytes("policy.cbor", b)}}, w.signer.key.Private)
	return err
}
