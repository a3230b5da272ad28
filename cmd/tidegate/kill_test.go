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
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
	"time"
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

// recorded returns the request ids of every event that the device has made durable, and how
// many older ones it declares to have dropped because its queue was full.
func (r *rig) recorded() (ids map[string]bool, dropped int) {
	r.t.Helper()
	ids = map[string]bool{}
	for line := range strings.Lines(r.ask("GET", "/v1/events", nil)) {
		var e struct {
			ID    string `json:"request_id"`
			Loss  string `json:"loss"`
			Calls int    `json:"calls"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			r.t.Fatalf("%v in %q", err, line)
		}
		if e.ID != "" {
			ids[e.ID] = true
		}
		if e.Loss == "cap" {
			dropped += e.Calls
		}
	}
	return ids, dropped
}

// A lane is one path with one limit on it, of one level and one kind of window.
type lane struct {
	name  string
	path  string
	token string
	limit int64

	admitted atomic.Int64 // answers 200 that a client saw, over all lives of the device
	refused  atomic.Int64 // answers 429 in a row
}

// lanes returns a set with a limit of every level and of every kind of window, and a lane for
// each. No window turns while the test runs, but for the calendar's month at its end.
func lanes(t *testing.T, fleet *devicetest.Fleet, backend string, kills int) (*policy.Set, []*lane) {
	t.Helper()
	year := 365 * 24 * time.Hour
	of := func(n int64) int64 { return n * int64(kills) }
	set := fleet.API(t, backend, "/operation", "/subscription", "/application", "/custom", "/open", "/sliding", "/month")
	whole := fleet.API(t, backend, "/a", "/b").APIs[0]
	whole.Name, whole.BasePath, whole.Plan = "whole", "/whole/1.0", "api"
	set.APIs = append(set.APIs, whole)
	fixed := func(kind policy.PlanKind, name string, n int64) policy.Plan {
		return policy.Plan{Kind: kind, Name: name, Limit: policy.Limit{Count: n, Window: year}}
	}
	set.Plans = []policy.Plan{
		fixed(policy.ResourcePlan, "api", of(31)),
		fixed(policy.ResourcePlan, "operation", of(29)),
		fixed(policy.SubscriptionPlan, "subscription", of(37)),
		fixed(policy.SubscriptionPlan, policy.Unauthenticated, of(23)),
		fixed(policy.ApplicationPlan, "application", of(41)),
		{Kind: policy.ResourcePlan, Name: "sliding", Limit: policy.Limit{Count: of(27), Window: year, Align: policy.Sliding}},
		{Kind: policy.ResourcePlan, Name: "month", Limit: policy.Limit{Count: of(33), Window: 30 * 24 * time.Hour, Align: policy.CalendarMonth}},
		{
			Kind: policy.CustomPlan, Name: "custom", KeyTemplate: "$userId", When: []policy.Equation{{Variable: "userId", Value: "special@carbon.super"}},
			Limit: policy.Limit{Count: of(35), Window: year},
		},
	}
	ops := set.APIs[0].Operations
	ops[0].Plan, ops[5].Plan, ops[6].Plan = "operation", "sliding", "month"
	token := func(user, plan, tier string) string {
		return "Bearer " + fleet.Token(t, map[string]any{
			"sub":            user,
			"application":    map[string]string{"id": user, "name": user, "tier": tier, "owner": "o"},
			"subscribedAPIs": []map[string]string{{"name": "echo", "version": "*", "subscriptionTier": plan}, {"name": "whole", "version": "*", "subscriptionTier": plan}},
		})
	}
	free := token("free", policy.Unlimited, policy.Unlimited)
	return set, []*lane{
		{name: "api", path: "/whole/1.0/a", token: free, limit: of(31)},
		{name: "operation", path: "/echo/1.0/operation", token: free, limit: of(29)},
		{name: "subscription", path: "/echo/1.0/subscription", token: token("sub", "subscription", policy.Unlimited), limit: of(37)},
		{name: "unauthenticated", path: "/echo/1.0/open", limit: of(23)},
		{name: "application", path: "/echo/1.0/application", token: token("app", policy.Unlimited, "application"), limit: of(41)},
		{name: "custom", path: "/echo/1.0/custom", token: token("special", policy.Unlimited, policy.Unlimited), limit: of(35)},
		{name: "operation, sliding", path: "/echo/1.0/sliding", token: free, limit: of(27)},
		{name: "operation, month", path: "/echo/1.0/month", token: free, limit: of(33)},
	}
}

// TestKilledUnderLoadAdmitsNeverMore kills the device again and again while clients count
// the 200s that they see, at every level and kind of window. TIDEGATE_KILLS says how often;
// a few times by default.
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
	set, all := lanes(t, fleet, backend.URL, kills)

	p, _ := r.start()
	root, fp := fleet.Root(t)
	r.ask("POST", "/v1/trust?fingerprint="+fp.String(), bytes.NewReader(root))
	r.ask("POST", "/v1/apply?name=test.tide", bytes.NewReader(fleet.Bundle(t, set, nil)))
	r.ask("POST", "/v1/confirm", nil)

	var durable map[string]bool
	exported := 0
	var starts []time.Duration
	for range kills {
		load := newLoad("http://"+r.port, all)
		load.waitFor(30)
		load.stop() // an export takes longer with each kill, and calls in that time would use up the limits
		durable, _ = r.recorded()
		exported += len(durable)
		load = newLoad("http://"+r.port, all)
		load.waitFor(30 + rand.IntN(120))
		p.kill()
		load.stop()
		var took time.Duration
		p, took = r.start()
		starts = append(starts, took)
		now, dropped := r.recorded()
		missing := 0
		for id := range durable {
			if !now[id] {
				missing++
			}
		}
		if missing > dropped {
			t.Fatalf("%d of %d events were exported before the kill and are gone after it; %d are declared dropped\n%s", missing, len(durable), dropped, p.log)
		}
	}
	// Whatever is left of the limits is used up now: over-admission must not show, and
	// under-admission is the price of each kill.
	load := newLoad("http://"+r.port, all)
	load.untilRefused()
	load.stop()
	p.kill()
	slices.Sort(starts)
	t.Logf("%d kills, %d events looked for; starts: median %v, longest %v", kills, exported, starts[len(starts)/2], starts[len(starts)-1])
	for _, l := range all {
		n := l.admitted.Load()
		t.Logf("%-20s %5d of %5d admitted", l.name, n, l.limit)
		if n > l.limit {
			t.Errorf("%s: %d calls were admitted, the limit is %d", l.name, n, l.limit)
		}
		if n == 0 {
			t.Errorf("%s: no call was admitted at all", l.name)
		}
	}
	if exported == 0 {
		t.Error("no event was exported before a kill")
	}
}

// load is a client on each lane that calls as fast as it can.
type load struct {
	base     string
	lanes    []*lane
	answers  atomic.Int64
	progress chan struct{}
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup
}

func newLoad(base string, lanes []*lane) *load {
	l := &load{base: base, lanes: lanes, progress: make(chan struct{}, 1)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	for _, ln := range lanes {
		ln.refused.Store(0)
		l.wg.Go(func() { l.client(ln) })
	}
	return l
}

func (l *load) client(ln *lane) {
	c := &http.Client{Transport: &http.Transport{}}
	for l.ctx.Err() == nil {
		req, err := http.NewRequestWithContext(l.ctx, "GET", l.base+ln.path, nil)
		if err != nil {
			panic(err)
		}
		if ln.token != "" {
			req.Header.Set("Authorization", ln.token)
		}
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
			ln.admitted.Add(1)
			ln.refused.Store(0)
		case http.StatusTooManyRequests:
			ln.refused.Add(1)
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

// untilRefused returns when every lane was refused several times in a row.
func (l *load) untilRefused() {
	done := func() bool {
		return !slices.ContainsFunc(l.lanes, func(ln *lane) bool { return ln.refused.Load() < 5 })
	}
	for !done() {
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
