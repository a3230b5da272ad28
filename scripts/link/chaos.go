package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"tidegate/store/events/batch"
	"tidegate/store/events/eventstest"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/mqttsync/pipe"
	"tidegate/sync/trust"
	"time"
)

// device is the device of the chaos run, a process of its own, that records numbered calls and
// says which of them are durable, until it is killed.
func device(ctx context.Context, o options) error {
	f, err := mqttsynctest.NewFleet()
	if err != nil {
		return err
	}
	u, err := pipe.ParseURL(o.broker)
	if err != nil {
		return err
	}
	d, err := openDevice(o, f, u, "device-1")
	if err != nil {
		return err
	}
	// A device that is killed each second is in a crash loop and would set its files aside. This
	// run is about the link, so every start counts as a good one.
	if err := d.Store.Healthy(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.delete != "ack" {
		go control(ctx, o, d, u, f)
		go d.Queue.Run(ctx) //nolint:errcheck // killed
	} else if err := d.Start(ctx); err != nil {
		return err
	}
	fmt.Println("ready")
	template := eventstest.Mix(1, time.Now(), 1)[0]
	for n := o.from; ; {
		if o.from == 0 { // the last one only delivers
			st := d.Queue.Status()
			if st.Classes[0].Count == 0 && (o.delete != "ack" || st.Classes[1].Count == 0 && st.Losses == 0) {
				fmt.Println("empty")
				return nil
			}
			time.Sleep(20 * time.Millisecond)
			continue
		}
		for range 1 + rand.IntN(3) {
			e := template
			e.Time, e.User = time.Now(), strconv.FormatUint(n, 10)
			d.Queue.Record(&e)
			n++
		}
		if err := d.Queue.Flush(ctx); err != nil {
			return err
		}
		fmt.Println("durable", n-1)
		time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
	}
}

// chaos cuts the link each 0.1–0.6 s, kills the broker each 3–6 s and the device each 0.3–1.8 s,
// lets the rest arrive in peace, and compares what the device said is durable with what the
// fleet has.
func chaos(ctx context.Context, o options) error {
	u, err := pipe.ParseURL(o.broker)
	if err != nil {
		return err
	}
	f, err := mqttsynctest.NewFleet()
	if err != nil {
		return err
	}
	f.Know(mqttsynctest.Key("device-1").Public())
	store, err := fleet.OpenStore(ctx, filepath.Join(o.dir, "chaos-"+o.delete+".db"), fleet.CallRows)
	if err != nil {
		return err
	}
	defer store.Close() //nolint:errcheck // the run is over
	b := &broker{words: strings.Fields(o.serve), addr: u.Host}
	if err := b.start(ctx); err != nil {
		return err
	}
	defer b.kill()
	s := f.Signer(trust.RoleCollector)
	c := fleet.NewCollector(fleet.CollectorOptions{
		Broker: fleet.Broker{URLs: []*url.URL{u}, ClientID: "collector", RetryCap: 200 * time.Millisecond}, Fleet: mqttsynctest.Name,
		Root: f.State, Devices: f, Store: store, Signer: &s,
	})
	collecting, stopCollecting := context.WithCancel(ctx)
	defer stopCollecting()
	go c.Run(collecting) //nolint:errcheck // ends with its context

	x, err := newProxy(u.Host)
	if err != nil {
		return err
	}
	defer x.close()
	r := &devices{o: o, broker: "tcp://" + x.addr()}
	torment, peace := context.WithTimeout(ctx, o.lasts)
	defer peace()
	var all sync.WaitGroup
	var kills, cuts, deaths int
	var failed error
	all.Go(func() { cuts = every(torment, 100*time.Millisecond, 600*time.Millisecond, x.cut) })
	all.Go(func() {
		kills = every(torment, 3*time.Second, 6*time.Second, func() {
			b.kill()
			if err := b.start(ctx); err != nil {
				failed = err
				peace()
			}
		})
	})
	all.Go(func() {
		for torment.Err() == nil {
			if err := r.live(torment, uint64(deaths+1)<<32, 300*time.Millisecond+time.Duration(rand.Int64N(int64(1500*time.Millisecond)))); err != nil {
				failed = err
				peace()
				return
			}
			deaths++
		}
	})
	all.Wait()
	if failed != nil {
		return failed
	}
	if err := r.last(ctx); err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // the control's last batches are still in the broker
	return r.judge(ctx, store, o, cuts, kills, deaths)
}

func every(ctx context.Context, lo, hi time.Duration, fn func()) (n int) {
	for {
		select {
		case <-ctx.Done():
			return n
		case <-time.After(lo + time.Duration(rand.Int64N(int64(hi-lo)))):
		}
		fn()
		n++
	}
}

// broker is the broker's process.
type broker struct {
	words []string
	addr  string
	cmd   *exec.Cmd
}

func (b *broker) start(ctx context.Context) error {
	b.cmd = exec.Command(b.words[0], b.words[1:]...)
	if err := b.cmd.Start(); err != nil {
		return err
	}
	for begin := time.Now(); time.Since(begin) < 10*time.Second && ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("tcp", b.addr); err == nil {
			return c.Close()
		}
	}
	return errors.New("the broker does not listen")
}

func (b *broker) kill() {
	_ = b.cmd.Process.Kill()
	_ = b.cmd.Wait()
}

// proxy is a TCP proxy whose connections are cut.
type proxy struct {
	ln    net.Listener
	to    string
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func newProxy(to string) (*proxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	x := &proxy{ln: ln, to: to, conns: map[net.Conn]struct{}{}}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go x.serve(c)
		}
	}()
	return x, nil
}

func (x *proxy) addr() string { return x.ln.Addr().String() }

func (x *proxy) serve(c net.Conn) {
	defer c.Close()
	up, err := net.Dial("tcp", x.to)
	if err != nil {
		return
	}
	defer up.Close()
	x.mu.Lock()
	x.conns[c] = struct{}{}
	x.mu.Unlock()
	go func() {
		_, _ = io.Copy(up, c)
		_ = up.Close()
	}()
	_, _ = io.Copy(c, up)
	x.mu.Lock()
	delete(x.conns, c)
	x.mu.Unlock()
}

func (x *proxy) cut() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for c := range x.conns {
		_ = c.Close()
	}
}

func (x *proxy) close() { _ = x.ln.Close(); x.cut() }

// devices are the lives of one device.
type devices struct {
	o      options
	broker string
	lives  []life
}

// life is one process: calls from first to last were durable.
type life struct{ first, last uint64 }

func (r *devices) start(from uint64) (*exec.Cmd, *bufio.Scanner, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(self, "device", "-dir", r.o.dir, "-kind", "chaos-"+r.o.delete, "-broker", r.broker, "-delete-on", r.o.delete, "-from", strconv.FormatUint(from, 10))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	return cmd, bufio.NewScanner(out), cmd.Start()
}

// live starts the device and kills it after a while.
func (r *devices) live(ctx context.Context, from uint64, after time.Duration) error {
	cmd, out, err := r.start(from)
	if err != nil {
		return err
	}
	l := life{first: from, last: from - 1}
	ready := make(chan struct{})
	read := make(chan struct{})
	go func() {
		defer close(read)
		for out.Scan() {
			if out.Text() == "ready" {
				close(ready)
			}
			if n, ok := strings.CutPrefix(out.Text(), "durable "); ok {
				l.last, _ = strconv.ParseUint(n, 10, 64)
			}
		}
	}()
	select {
	case <-ready:
	case <-read:
		return errors.New("the device did not start")
	case <-time.After(30 * time.Second):
		_ = cmd.Process.Kill()
		return errors.New("the device was not ready within 30 s")
	}
	select {
	case <-time.After(after):
	case <-ctx.Done():
	}
	_ = cmd.Process.Kill()
	<-read
	_ = cmd.Wait()
	r.lives = append(r.lives, l)
	return nil
}

// last lets the device deliver what it still has.
func (r *devices) last(ctx context.Context) error {
	cmd, out, err := r.start(0)
	if err != nil {
		return err
	}
	end := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	defer end.Stop()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	empty := false
	for out.Scan() {
		empty = empty || out.Text() == "empty"
	}
	if err := cmd.Wait(); !empty {
		return fmt.Errorf("the queue was not empty after two minutes of peace: %w", err)
	}
	return nil
}

// judge compares.
func (r *devices) judge(ctx context.Context, store fleet.Store, o options, cuts, kills, deaths int) error {
	seen := map[uint64]int{}
	for b, err := range store.Batches(ctx, fleet.Filter{}) {
		if err != nil {
			return err
		}
		for e, err := range b.Events() {
			if err != nil {
				return err
			}
			n, err := strconv.ParseUint(e.User, 10, 64)
			if err != nil {
				return err
			}
			seen[n]++
		}
	}
	var produced, missing, doubled int
	for _, l := range r.lives {
		for n := l.first; n <= l.last; n++ {
			produced++
			if seen[n] == 0 {
				missing++
			}
		}
	}
	for _, n := range seen {
		if n > 1 {
			doubled++
		}
	}
	losses, err := store.Losses(ctx, fleet.Filter{})
	if err != nil {
		return err
	}
	declared := 0
	reasons := map[batch.Reason]int{}
	for _, l := range losses {
		reasons[l.Reason]++
		if l.Reason == batch.ReasonUnclean {
			continue // in memory when the device was killed: nothing that was said to be durable
		}
		declared += int(l.Calls) //nolint:gosec // few
	}
	fmt.Printf("delete on %s, %s: %d cuts, %d broker kills, %d device kills; %d calls durable on the device, %d stored by the fleet, %d lost, %d twice; declared lost %d; loss records %v\n",
		o.delete, o.lasts, cuts, kills, deaths, produced, len(seen), missing, doubled, declared, reasons)
	switch {
	case produced < 100 || cuts < 10 || deaths < 5:
		return errors.New("too little happened: the run shows nothing")
	case doubled > 0:
		return errors.New("calls were stored twice")
	case o.delete == "ack" && (missing > 0 || declared > 0):
		return fmt.Errorf("%d calls are missing and %d declared lost, want none", missing, declared)
	case o.delete != "ack" && missing == 0:
		return errors.New("the control lost nothing: the run has no teeth")
	}
	return nil
}
