package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"tidegate/sync/fleet"
	"tidegate/sync/keyfile"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/mqttsync/pipe"
	"tidegate/sync/trust"
	"time"
)

// A program is a process of the run.
type program struct {
	name string
	cmd  *exec.Cmd
}

// start starts a program whose messages go to a file.
func (s *sim) start(name string, words ...string) error {
	log, err := os.Create(filepath.Join(s.dir, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the program has it
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	s.programs = append(s.programs, &program{name, cmd})
	return nil
}

func (p *program) end() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

// broker starts Mosquitto.
func (s *sim) broker() error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.addr = ln.Addr().String()
	if err := ln.Close(); err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(s.addr)
	conf := filepath.Join(s.dir, "mosquitto.conf")
	text := "listener " + port + " 127.0.0.1\nallow_anonymous true\npersistence false\nmax_packet_size 131072\nlog_type none\nmax_queued_messages 100000\nmax_inflight_messages 200\nsys_interval 1\n"
	if os.Geteuid() == 0 {
		text += "user root\n"
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	if err := s.start("mosquitto", "mosquitto", "-c", conf); err != nil {
		return err
	}
	return s.listens()
}

// restart kills the broker and starts it again.
func (s *sim) restart() error {
	b := s.programs[0]
	_ = b.cmd.Process.Kill()
	_ = b.cmd.Wait()
	s.seen.forget()
	b.cmd = exec.Command(b.cmd.Args[0], b.cmd.Args[1:]...)
	if err := b.cmd.Start(); err != nil {
		return err
	}
	return s.listens()
}

// listens waits until the broker does.
func (s *sim) listens() error {
	for range 200 {
		if c, err := net.Dial("tcp", s.addr); err == nil {
			return c.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("mosquitto does not listen on %s", s.addr)
}

// fleetSide starts two collectors and a publisher: the program that people use.
func (s *sim) fleetSide(ctx context.Context, place string) (*fleet.Published, error) {
	tidectl := filepath.Join(s.dir, "tidectl")
	if out, err := exec.Command("go", "build", "-o", tidectl, "./cmd/tidectl").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build: %w: %s", err, out)
	}
	tide, err := s.publication()
	if err != nil {
		return nil, err
	}
	key := keyfile.Key{Name: "collector", Private: mqttsynctest.Key(trust.RoleCollector.String())}
	text, err := key.Marshal(nil)
	if err != nil {
		return nil, err
	}
	root := filepath.Join(s.dir, "fleet.tideroot")
	if err := errors.Join(os.WriteFile(filepath.Join(s.dir, "collector.key"), text, 0o600), os.WriteFile(root, s.fleet.RootFile, 0o600)); err != nil {
		return nil, err
	}
	common := []string{"--broker", s.url().String(), "--fleet", string(mqttsynctest.Name), "--root", root, "--devices", "devices"}
	for _, id := range []string{"collector-1", "collector-2"} {
		words := append([]string{tidectl, "fleet", "collect", "--client-id", id, "--group", "collect", "--collector-key", "collector.key", "--batches-only", "--store", place}, common...)
		if err := s.start(id, words...); err != nil {
			return nil, err
		}
		if err := s.says(ctx, id, "collecting"); err != nil {
			return nil, err
		}
	}
	words := append([]string{tidectl, "fleet", "publish", "site.tide", "--client-id", "publisher", "--rollout", "rollout.json", "--max-failures", "0"}, common...)
	if err := s.start("publisher", words...); err != nil {
		return nil, err
	}
	return tide, s.says(ctx, "publisher", "announced")
}

// says waits until a program has said a word.
func (s *sim) says(ctx context.Context, name, word string) error {
	for began := time.Now(); time.Since(began) < time.Minute && ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		if b, err := os.ReadFile(filepath.Join(s.dir, name+".log")); err == nil && strings.Contains(string(b), word) {
			return nil
		}
	}
	b, _ := os.ReadFile(filepath.Join(s.dir, name+".log"))
	return fmt.Errorf("%s does not say %q: %s", name, word, b)
}

func kindOf(place string) string {
	if strings.HasPrefix(place, "postgres") {
		return "PostgreSQL"
	}
	return "SQLite"
}

// A watcher follows what the broker counts.
type watcher struct {
	mu     sync.Mutex
	counts map[string]int64
}

const sysMessages = "$SYS/broker/publish/messages/"

// follow subscribes to the counts of the broker, when it is there.
func follow(ctx context.Context, u *url.URL) (*pipe.Pipe, error) {
	for {
		p, err := pipe.Dial(ctx, pipe.Options{URL: u, ClientID: "watcher", KeepAlive: time.Minute, WhenFull: pipe.Wait})
		if err == nil {
			return p, p.Subscribe(ctx, sysMessages+"received", sysMessages+"sent")
		}
		if !sleep(ctx, 200*time.Millisecond) {
			return nil, err
		}
	}
}

func watch(ctx context.Context, u *url.URL) (*watcher, error) {
	p, err := follow(ctx, u)
	if err != nil {
		return nil, err
	}
	w := &watcher{counts: map[string]int64{}}
	go func() {
		for ctx.Err() == nil {
			m, err := p.Receive(ctx)
			if err != nil { // the broker was killed; its counts begin anew
				p.Close()
				if p, err = follow(ctx, u); err != nil {
					return
				}
				continue
			}
			n, _ := strconv.ParseInt(string(m.Payload), 10, 64)
			w.mu.Lock()
			w.counts[strings.TrimPrefix(m.Topic, sysMessages)] = n
			w.mu.Unlock()
		}
	}()
	return w, nil
}

// forget begins anew with the counts.
func (w *watcher) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.counts)
}

func (w *watcher) now() (received, sent int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts["received"], w.counts["sent"]
}

// A measurement is what everybody had used when it began.
type measurement struct {
	s              *sim
	began          time.Time
	ticks          []int
	own            int
	received, sent int64
}

func (s *sim) measure() *measurement {
	m := &measurement{s: s, began: time.Now(), own: ticks(os.Getpid())}
	m.received, m.sent = s.seen.now()
	for _, p := range s.programs {
		m.ticks = append(m.ticks, ticks(p.cmd.Process.Pid))
	}
	return m
}

// print prints what was used since: publications that the broker took and gave, memory, and
// shares of one core.
func (m *measurement) print() {
	took := time.Since(m.began).Seconds()
	received, sent := m.s.seen.now()
	fmt.Printf("  broker took %.0f and gave %.0f messages/s", float64(received-m.received)/took, float64(sent-m.sent)/took)
	for i, p := range m.s.programs {
		pid := p.cmd.Process.Pid
		fmt.Printf("; %s %d MiB, %.0f %%", p.name, rss(pid), float64(ticks(pid)-m.ticks[i])/took)
	}
	fmt.Printf("; devices %d MiB, %.0f %%\n", rss(os.Getpid()), float64(ticks(os.Getpid())-m.own)/took)
}

// rss returns the resident memory of a process in MiB.
func rss(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			return kib >> 10
		}
	}
	return 0
}

// ticks returns the processor time of a process in hundredths of a second.
func ticks(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return user + system
}
