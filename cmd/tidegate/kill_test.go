package main

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
	"time"

	"tidegate/appliance/devicetest"
	"tidegate/policy"
)

// program is the built device, made once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "tidegate-test-")
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "tidegate")
	cmd := exec.Command("go", "build", "-o", out, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, b)
	}
	return out, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if p, err := program(); err == nil {
		_ = os.RemoveAll(filepath.Dir(p))
	}
	os.Exit(code)
}

// process is one life of the device program.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	log  *bytes.Buffer
}

// rig is a device that is killed and started again on one data folder.
type rig struct {
	t       *testing.T
	program string
	data    string
	socket  string
	port    string
	client  *http.Client // to the socket
}

func newRig(t *testing.T) *rig {
	t.Helper()
	p, err := program()
	if err != nil {
		t.Fatal(err)
	}
	short, err := os.MkdirTemp("", "tg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(short) })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, program: p, data: t.TempDir(), socket: filepath.Join(short, "s"), port: ln.Addr().String()}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	r.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", r.socket)
	}}}
	return r
}

// start runs the device and returns when it answers, with the time that took.
func (r *rig) start() (*process, time.Duration) {
	r.t.Helper()
	p := &process{log: &bytes.Buffer{}, done: make(chan struct{})}
	p.cmd = exec.Command(r.program, "run", "--config", "", "--data", r.data,
		"--set", "listen.http="+r.port, "--set", "listen.https=", "--set", "admin.listen=", "--set", "admin.socket="+r.socket,
		"--set", "events.request_id=true", "--set", "throttle.flush_every=1s")
	p.cmd.Stderr = p.log
	begin := time.Now()
	if err := p.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended does not matter: it is killed
		close(p.done)
	}()
	for {
		resp, err := http.Get("http://" + r.port + "/health")
		if err == nil {
			_ = resp.Body.Close()
			return p, time.Since(begin)
		}
		select {
		case <-p.done:
			r.t.Fatalf("the device ended at start:\n%s", p.log)
		default:
		}
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// ask sends a request to the socket.
func (r *rig) ask(method, path string, body io.Reader) string {
	r.t.Helper()
	req, err := http.NewRequest(method, "http://device"+path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if resp.StatusCode/100 != 2 {
		r.t.Fatalf("%s %s: %s: %s", method, path, resp.Status, b)
	}
	return string(b)
}

// recorded returns the request ids of every event that the device has made durable.
func (r *rig) recorded() map[string]bool {
	r.t.Helper()
	ids := map[string]bool{}
	for line := range strings.Lines(r.ask("GET", "/v1/events", nil)) {
		var e struct {
			ID string `json:"request_id"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			r.t.Fatalf("%v in %q", err, line)
		}
		if e.ID != "" {
			ids[e.ID] = true
		}
	}
	return ids
}

// TestKilledUnderLoadAdmitsNeverMore kills the device again and again while clients count
// the 200s that they see. TIDEGATE_KILLS says how often; a few times by default.
func TestKilledUnderLoadAdmitsNeverMore(t *testing.T) {
	kills := 5
	if s := os.Getenv("TIDEGATE_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		kills = n
	}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	defer backend.Close()
	r := newRig(t)
	fleet := devicetest.NewFleet(t)
	set := fleet.API(t, backend.URL, "/a", "/b")
	year := 365 * 24 * time.Hour // no window turns while the test runs
	opLimit, subLimit := int64(60*kills), int64(100*kills)
	set.Plans = []policy.Plan{
		{Kind: policy.ResourcePlan, Name: "op", Limit: policy.Limit{Count: opLimit, Window: year}},
		{Kind: policy.SubscriptionPlan, Name: "sub", Limit: policy.Limit{Count: subLimit, Window: year}},
		{Kind: policy.ApplicationPlan, Name: "app", Limit: policy.Limit{Count: 10 * subLimit, Window: year}},
	}
	set.APIs[0].Operations[0].Plan = "op"
	token := "Bearer " + fleet.Token(t, map[string]any{
		"application":    map[string]string{"id": "7", "name": "killer", "tier": "app", "owner": "o"},
		"subscribedAPIs": []map[string]string{{"name": "echo", "version": "1.0", "subscriptionTier": "sub"}},
	})

	p, _ := r.start()
	root, fp := fleet.Root(t)
	r.ask("POST", "/v1/trust?fingerprint="+fp.String(), bytes.NewReader(root))
	r.ask("POST", "/v1/apply?name=test.tide", bytes.NewReader(fleet.Bundle(t, set, nil)))
	r.ask("POST", "/v1/confirm", nil)

	var admitted [2]atomic.Int64 // answers 200 that a client saw, by path
	durable := map[string]bool{}
	var starts []time.Duration
	for range kills {
		load := newLoad("http://"+r.port+"/echo/1.0", token, &admitted)
		load.waitFor(20)
		for id := range r.recorded() {
			durable[id] = true
		}
		load.waitFor(20 + rand.IntN(60))
		p.kill()
		load.stop()
		var took time.Duration
		p, took = r.start()
		starts = append(starts, took)
		now := r.recorded()
		for id := range durable {
			if !now[id] {
				t.Fatalf("event %s was exported before the kill and is gone after it; %d before, %d now\n%s", id, len(durable), len(now), p.log)
			}
		}
	}
	// Whatever is left of the limits is used up now: under-admission shows, over-admission must not.
	load := newLoad("http://"+r.port+"/echo/1.0", token, &admitted)
	load.untilRefused()
	load.stop()
	p.kill()
	a, b := admitted[0].Load(), admitted[1].Load()
	t.Logf("%d kills: operation plan %d of %d, subscription plan %d of %d; starts %v", kills, a, opLimit, a+b, subLimit, starts)
	if a > opLimit {
		t.Errorf("operation plan: %d calls were admitted, the limit is %d", a, opLimit)
	}
	if a+b > subLimit {
		t.Errorf("subscription plan: %d calls were admitted, the limit is %d", a+b, subLimit)
	}
	if a == 0 || b == 0 || len(durable) == 0 {
		t.Errorf("nothing was tried: %d and %d calls, %d events", a, b, len(durable))
	}
}

// load is clients that call both paths as fast as they can.
type load struct {
	base, token string
	admitted    *[2]atomic.Int64
	answers     atomic.Int64
	refused     [2]atomic.Int64 // in a row
	progress    chan struct{}
	ctx         context.Context
	cancel      context.CancelFunc
	wg          sync.WaitGroup
}

func newLoad(base, token string, admitted *[2]atomic.Int64) *load {
	l := &load{base: base, token: token, admitted: admitted, progress: make(chan struct{}, 1)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	for i := range 4 {
		l.wg.Go(func() { l.client(i % 2) })
	}
	return l
}

func (l *load) client(which int) {
	path := []string{"/a", "/b"}[which]
	c := &http.Client{Transport: &http.Transport{}}
	for l.ctx.Err() == nil {
		req, err := http.NewRequestWithContext(l.ctx, "GET", l.base+path, nil)
		if err != nil {
			panic(err)
		}
		req.Header.Set("Authorization", l.token)
		resp, err := c.Do(req)
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				l.note() // the device was killed: the calls that follow end at once
				l.cancel()
			}
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusOK:
			l.admitted[which].Add(1)
			l.refused[which].Store(0)
		case http.StatusTooManyRequests:
			l.refused[which].Add(1)
		}
		l.answers.Add(1)
		l.note()
	}
}

func (l *load) note() {
	select {
	case l.progress <- struct{}{}:
	default:
	}
}

// waitFor returns after n more answers, or when the device is gone.
func (l *load) waitFor(n int) {
	for end := l.answers.Load() + int64(n); l.answers.Load() < end; {
		select {
		case <-l.progress:
		case <-l.ctx.Done():
			return
		}
	}
}

// untilRefused returns when both paths were refused several times in a row.
func (l *load) untilRefused() {
	for l.refused[0].Load() < 5 || l.refused[1].Load() < 5 {
		select {
		case <-l.progress:
		case <-l.ctx.Done():
			return
		}
	}
}

func (l *load) stop() {
	l.cancel()
	l.wg.Wait()
}
