package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// day sends calls through a device at a steady rate for a part of a day, and measures what the
// device writes to its disk and what passes between it and the broker. The device is a program
// that is started here and speaks to the broker through a tap that counts.
//
// It prints "ready" when the tap and the backend listen, and measures after a warm-up in which
// the device starts, is enrolled and has its bundle.
func day(ctx context.Context, o options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tap := &tap{to: o.broker}
	if err := tap.listen(ctx, o.tap); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", o.backend)
	if err != nil {
		return err
	}
	backend := &http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: 10 * time.Second}
	go backend.Serve(ln) //nolint:errcheck // until the end
	defer backend.Close()
	device := exec.Command(o.rest[0], o.rest[1:]...)
	device.Stderr = os.Stderr
	if err := device.Start(); err != nil {
		return err
	}
	gone := make(chan error, 1)
	go func() { gone <- device.Wait() }()
	defer func() {
		_ = device.Process.Signal(syscall.SIGTERM)
		if err := <-gone; err != nil {
			fmt.Fprintln(os.Stderr, "link: the device:", err)
		}
	}()
	c := newCallers(o)
	if err := c.warm(ctx, gone); err != nil {
		return err
	}
	fmt.Println("ready")
	sleepUntil(ctx, time.Now().Add(o.settle)) // what belongs to the start is over
	before, err := written(device.Process.Pid)
	if err != nil {
		return err
	}
	up, down := tap.up.Load(), tap.down.Load()
	began := time.Now()
	c.run(ctx, o.lasts)
	took := time.Since(began)
	if err := ctx.Err(); err != nil {
		return err
	}
	// What was recorded last is sealed and handed up within two intervals of the queue.
	sleepUntil(ctx, time.Now().Add(o.settle))
	after, err := written(device.Process.Pid)
	if err != nil {
		return err
	}
	n := c.made.Load()
	up, down = tap.up.Load()-up, tap.down.Load()-down
	share := float64(24*time.Hour) / float64(took) * (o.rate * took.Seconds()) / float64(n)
	fmt.Printf("%d calls in %s (%.1f a second), %d not answered\n", n, took.Round(time.Second), float64(n)/took.Seconds(), c.failed.Load())
	fmt.Printf("on the wire, TLS and acknowledgements included: %d bytes up, %d down; %.1f and %.1f a call\n", up, down, float64(up)/float64(n), float64(down)/float64(n))
	fmt.Printf("on flash: %d bytes written; %.1f a call\n", after-before, float64(after-before)/float64(n))
	fmt.Printf("a day of %.0f calls a second, by this: %.0f MB up, %.0f MB down, %.0f MB written\n",
		o.rate, float64(up)*share/1e6, float64(down)*share/1e6, float64(after-before)*share/1e6)
	return nil
}

// written is what the kernel has written to disks for a process, in bytes.
func written(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			return strconv.ParseInt(strings.TrimSpace(v), 10, 64)
		}
	}
	return 0, errors.New("/proc: no write_bytes")
}

func sleepUntil(ctx context.Context, t time.Time) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Until(t)):
	}
}

// A tap passes connections on and counts their bytes.
type tap struct {
	to       string
	up, down atomic.Int64
}

func (t *tap) listen(ctx context.Context, addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go t.pass(c)
		}
	}()
	return nil
}

func (t *tap) pass(c net.Conn) {
	defer c.Close()
	up, err := net.Dial("tcp", t.to)
	if err != nil {
		return
	}
	defer up.Close()
	go func() {
		_, _ = io.Copy(counter{up, &t.up}, c)
		_ = up.Close()
	}()
	_, _ = io.Copy(counter{c, &t.down}, up)
}

type counter struct {
	io.Writer
	n *atomic.Int64
}

// Write implements io.Writer.
func (c counter) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// answer is a backend with answers of many sizes after many times.
func answer(w http.ResponseWriter, r *http.Request) {
	time.Sleep(time.Duration(rand.ExpFloat64() * float64(12*time.Millisecond)))
	_, _ = io.Copy(io.Discard, r.Body)
	switch n := rand.IntN(100); {
	case n < 2:
		w.WriteHeader(http.StatusNotFound)
	case n < 3:
		w.WriteHeader(http.StatusInternalServerError)
	}
	_, _ = w.Write(make([]byte, 100+rand.IntN(3000)))
}

// callers are clients with addresses and keys of their own.
type callers struct {
	o            options
	keys         []string
	clients      []*http.Client
	made, failed atomic.Int64
}

func newCallers(o options) *callers {
	c := &callers{o: o, keys: strings.Fields(o.keys)}
	for i := range 40 {
		d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(i), 1)}}
		c.clients = append(c.clients, &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: d.DialContext, MaxIdleConnsPerHost: 8}})
	}
	return c
}

// warm waits until the device answers calls.
func (c *callers) warm(ctx context.Context, gone <-chan error) error {
	for ctx.Err() == nil {
		select {
		case err := <-gone:
			return fmt.Errorf("the device ended: %w", err)
		default:
		}
		if resp, err := c.clients[0].Get(c.o.api + "/status"); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return ctx.Err()
}

// run calls at a steady rate.
func (c *callers) run(ctx context.Context, lasts time.Duration) {
	every := time.Duration(float64(time.Second) / c.o.rate)
	var all sync.WaitGroup
	room := make(chan struct{}, 256)
	began := time.Now()
	for i := 0; time.Duration(i)*every < lasts && ctx.Err() == nil; i++ {
		sleepUntil(ctx, began.Add(time.Duration(i)*every))
		room <- struct{}{}
		all.Go(func() {
			c.call(ctx)
			<-room
		})
	}
	all.Wait()
}

// call makes one call: some open, most with a key, a few with a wrong one or to nowhere.
func (c *callers) call(ctx context.Context) {
	method, path, body := http.MethodGet, "/status", io.Reader(nil)
	switch n := rand.IntN(100); {
	case n < 40:
		path = "/readings?limit=" + strconv.Itoa(1+rand.IntN(100))
	case n < 70:
		path = "/readings/" + strconv.Itoa(rand.IntN(5000))
	case n < 85:
		method, path, body = http.MethodPost, "/readings", strings.NewReader(`{"meter":"m`+strconv.Itoa(rand.IntN(5000))+`","value":`+strconv.Itoa(rand.IntN(1e6))+`}`)
	case n < 87:
		path = "/nowhere"
	}
	r, err := http.NewRequestWithContext(ctx, method, c.o.api+path, body)
	if err != nil {
		c.failed.Add(1)
		return
	}
	key := c.keys[rand.IntN(len(c.keys))]
	if rand.IntN(50) == 0 {
		key = "wrong"
	}
	r.Header.Set("X-API-Key", key)
	c.made.Add(1)
	resp, err := c.clients[rand.IntN(len(c.clients))].Do(r)
	if err != nil {
		c.failed.Add(1)
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
}
