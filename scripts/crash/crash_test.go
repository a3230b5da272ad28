package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
	"time"
)

const (
	limit    = 20_000
	diskSize = 96 << 20
)

// device is the program on one data folder.
type device struct {
	t      testing.TB
	cmd    *exec.Cmd
	done   chan struct{}
	log    *bytes.Buffer
	http   string
	socket string
}

// start runs the device and waits until it answers; nil when it ends by itself.
func start(t testing.TB, program, data string, set ...string) *device {
	t.Helper()
	short, err := os.MkdirTemp("", "tg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(short) })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &device{t: t, http: ln.Addr().String(), socket: filepath.Join(short, "s"), done: make(chan struct{}), log: &bytes.Buffer{}}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	d.cmd = exec.Command(program, "run", "--config", "", "--data", data, "--set", "listen.http="+d.http, "--set", "listen.https=",
		"--set", "admin.listen=", "--set", "admin.socket="+d.socket, "--set", "events.request_id=true",
		"--set", "events.max_bytes=16 MiB")
	if set == nil {
		set = []string{"throttle.flush_every=1s", "events.interval=1s"}
	}
	for _, s := range set {
		d.cmd.Args = append(d.cmd.Args, "--set", s)
	}
	d.cmd.Stderr = d.log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = d.cmd.Wait()
		close(d.done)
	}()
	for {
		select {
		case <-d.done:
			return nil
		default:
		}
		if resp, err := http.Get("http://" + d.http + "/health"); err == nil {
			_ = resp.Body.Close()
			return d
		}
	}
}

func (d *device) kill() {
	_ = d.cmd.Process.Kill()
	<-d.done
}

// ask sends a request to the socket.
func (d *device) ask(method, path string, body io.Reader) (string, error) {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dial net.Dialer
		return dial.DialContext(ctx, "unix", d.socket)
	}}}
	r, err := http.NewRequest(method, "http://device"+path, body)
	if err != nil {
		return "", err
	}
	resp, err := c.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, b)
	}
	return string(b), err
}

// recorded returns the ids of the events that are durable, and what is declared lost.
func (d *device) recorded() (map[string]bool, error) {
	text, err := d.ask("GET", "/v1/events", nil)
	if err != nil {
		return nil, err
	}
	ids := map[string]bool{}
	for line := range strings.Lines(text) {
		var e struct {
			ID string `json:"request_id"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return nil, err
		}
		if e.ID != "" {
			ids[e.ID] = true
		}
	}
	return ids, nil
}

// call makes one call and returns its status.
func (d *device) call(c *http.Client, token string) (int, error) {
	r, err := http.NewRequest("GET", "http://"+d.http+"/echo/1.0/x", nil)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Authorization", token)
	resp, err := c.Do(r)
	if err != nil {
		return 0, err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Body.Close()
}

// rest counts how many calls are admitted from now on, until the limit refuses.
func (d *device) rest(token string, most int64) (int64, error) {
	c := &http.Client{Transport: &http.Transport{}}
	var n int64
	for n <= most {
		status, err := d.call(c, token)
		switch {
		case err != nil:
			return n, err
		case status == http.StatusTooManyRequests:
			return n, nil
		case status == http.StatusOK:
			n++
		case status == http.StatusServiceUnavailable: // a unit is on its way to the disk
		default:
			return n, fmt.Errorf("status %d", status)
		}
	}
	return n, nil
}

// moment is what was known when the power went.
type moment struct {
	image    []byte
	admitted int64           // answers 200 that a client had seen
	events   map[string]bool // ids that an export had shown
}

// rig is the device under load on a disk of d, with cuts taken from it.
type rig struct {
	t        testing.TB
	program  string
	data     string
	token    string
	bearer   func(i int) string // a token of another application
	admitted atomic.Int64
}

// prepare brings a device up on the disk, with root and bundle confirmed, and settles the disk.
func prepare(t testing.TB, d *disk, count int64, set ...string) (*rig, *device, *machine) {
	t.Helper()
	if why := possible(); why != "" {
		t.Skip(why)
	}
	dir := t.TempDir()
	r := &rig{t: t, program: filepath.Join(dir, "tidegate")}
	build := exec.Command("go", "build", "-o", r.program, "tidegate/cmd/tidegate")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Dir = "../.." // the main module's own requirements count
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	m := &machine{}
	t.Cleanup(func() {
		if err := m.close(); err != nil {
			t.Error(err)
		}
	})
	for _, sub := range []string{"fuse", "data"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	file, err := m.serve(d, filepath.Join(dir, "fuse"), diskSize)
	if err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	if err := m.mount(file, filepath.Join(dir, "data"), true); err != nil {
		t.Skipf("no loop device here: %v", err)
	}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	t.Cleanup(backend.Close)
	r.data = filepath.Join(dir, "data")
	dev := start(t, r.program, r.data, set...)
	if dev == nil {
		t.Fatal("the device does not start")
	}
	m.undo = append(m.undo, func() error { dev.kill(); return nil })
	fleet := devicetest.NewFleet(t)
	policies := fleet.API(t, backend.URL, "/x")
	policies.Plans = []policy.Plan{
		{Kind: policy.ResourcePlan, Name: "year", Limit: policy.Limit{Count: count, Window: 365 * 24 * time.Hour}},
		{Kind: policy.SubscriptionPlan, Name: "hour", Limit: policy.Limit{Count: 1_000_000, Window: time.Hour}},
		{Kind: policy.ApplicationPlan, Name: "day", Limit: policy.Limit{Count: 10_000_000, Window: 24 * time.Hour}},
	}
	policies.APIs[0].Plan = "year"
	r.token = "Bearer " + fleet.Token(t, nil)
	r.bearer = func(i int) string {
		return "Bearer " + fleet.Token(t, map[string]any{
			"application":    map[string]string{"id": strconv.Itoa(i), "name": "wear", "tier": "day", "owner": "o"},
			"subscribedAPIs": []map[string]string{{"name": "echo", "version": "1.0", "subscriptionTier": "hour"}},
		})
	}
	root, fp := fleet.Root(t)
	for _, step := range []struct {
		path string
		body []byte
	}{{"/v1/trust?fingerprint=" + fp.String(), root}, {"/v1/apply?name=x.tide", fleet.Bundle(t, policies, nil)}, {"/v1/confirm", nil}} {
		if _, err := dev.ask("POST", step.path, bytes.NewReader(step.body)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := run("sync", "-f", filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	d.settle()
	return r, dev, m
}

// cuts loads the device and cuts the power of its disk n times.
func (r *rig) cuts(dev *device, d *disk, rng *rand.Rand, n int) []moment {
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			c := &http.Client{Transport: &http.Transport{}}
			for ctx.Err() == nil {
				if status, err := dev.call(c, r.token); err == nil && status == http.StatusOK {
					r.admitted.Add(1)
				}
			}
		})
	}
	var out []moment
	events := map[string]bool{}
	for range n {
		for target := r.admitted.Load() + 20 + rng.Int64N(limit/int64(n)/2); r.admitted.Load() < target; {
			time.Sleep(time.Millisecond)
		}
		if rng.IntN(2) == 0 {
			now, err := dev.recorded()
			if err != nil {
				r.t.Fatal(err)
			}
			events = now
		}
		var mo moment
		mo.events = events
		mo.image = d.cut(rng, func() { mo.admitted = r.admitted.Load() })
		out = append(out, mo)
	}
	stop()
	wg.Wait()
	return out
}

// after starts a device on the image of a cut and returns what is wrong.
func (r *rig) after(mo moment) (err error) {
	dir := r.t.TempDir()
	image, data := filepath.Join(dir, "image"), filepath.Join(dir, "data")
	if err := errors.Join(os.WriteFile(image, mo.image, 0o600), os.Mkdir(data, 0o700)); err != nil {
		return err
	}
	m := &machine{}
	defer func() { err = errors.Join(err, m.close()) }()
	if err := m.mount(image, data, false); err != nil {
		return fmt.Errorf("the file system does not mount: %w", err)
	}
	dev := start(r.t, r.program, data)
	if dev == nil {
		return errors.New("the device does not start")
	}
	m.undo = append(m.undo, func() error { dev.kill(); return nil })
	status, err := dev.ask("GET", "/v1/status", nil)
	if err != nil {
		return err
	}
	if !strings.Contains(status, `"state":"confirmed"`) {
		return fmt.Errorf("the confirmed bundle does not serve: %s", status)
	}
	now, err := dev.recorded()
	if err != nil {
		return err
	}
	for id := range mo.events {
		if !now[id] {
			return fmt.Errorf("event %s was exported before the cut and is gone (%d before, %d now)", id, len(mo.events), len(now))
		}
	}
	n, err := dev.rest(r.token, limit)
	if err != nil {
		return err
	}
	if mo.admitted+n > limit {
		return fmt.Errorf("over-admission: %d before the cut and %d after it, the limit is %d", mo.admitted, n, limit)
	}
	r.t.Logf("%d admitted before the cut, %d after it: %d of %d; %d events kept", mo.admitted, n, mo.admitted+n, limit, len(mo.events))
	return nil
}

// number reads a number of cuts from the environment.
func number(t testing.TB, name string, or int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return or
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TIDEGATE_CUTS says how many cuts; TIDEGATE_SEED repeats a run.
func TestHonestDiskLosesNothing(t *testing.T) {
	seed := uint64(number(t, "TIDEGATE_SEED", int(time.Now().UnixNano()&0xffffff)))
	t.Logf("TIDEGATE_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	d := &disk{}
	r, dev, _ := prepare(t, d, limit)
	for i, mo := range r.cuts(dev, d, rng, number(t, "TIDEGATE_CUTS", 6)) {
		if err := r.after(mo); err != nil {
			t.Errorf("cut %d: %v", i, err)
		}
	}
	if d.syncs == 0 {
		t.Error("nothing was ever synced: the disk was not in the path")
	}
}

// The control: on a disk that drops what it was told to keep, the same checks must find
// something, or they have no teeth.
func TestLyingDiskIsFoundOut(t *testing.T) {
	d := &disk{}
	r, dev, _ := prepare(t, d, limit)
	d.mu.Lock()
	d.lies = true
	d.mu.Unlock()
	rng := rand.New(rand.NewPCG(7, 7))
	found := 0
	for i, mo := range r.cuts(dev, d, rng, 4) {
		if err := r.after(mo); err != nil {
			t.Logf("cut %d: found: %v", i, err)
			found++
		}
	}
	if found == 0 {
		t.Error("four cuts on a lying disk, and every check passed")
	}
}
