package daemon_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"tidegate/platform/daemon"
	"time"
)

// program is a Program that does what its fields say.
type program struct {
	start  error
	health func(context.Context) error
	mu     sync.Mutex
	state  string // "", started, stopped
	asked  int
	serve  map[string]net.Listener
}

func (p *program) Start(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.start != nil {
		return p.start
	}
	p.state = "started"
	return nil
}

func (p *program) Stop(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = "stopped"
	return nil
}

func (p *program) Health(ctx context.Context) error {
	p.mu.Lock()
	p.asked++
	p.mu.Unlock()
	if p.health == nil {
		return nil
	}
	return p.health(ctx)
}

func (p *program) Listener(name string) net.Listener { return p.serve[name] }

func (p *program) is(t *testing.T, want string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != want {
		t.Errorf("program is %q, want %q", p.state, want)
	}
}

// told records what the service manager is told.
type told struct {
	mu    sync.Mutex
	lines []string
}

func (n *told) notify(state string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, strings.Split(state, "\n")...)
	return nil
}

func (n *told) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.lines
	n.lines = nil
	return l
}

func (n *told) count(line string) (c int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.lines {
		if l == line {
			c++
		}
	}
	return c
}

var quiet = slog.New(slog.DiscardHandler)

// always is a configuration that is always good.
func always(p daemon.Program) func() (daemon.Setup, error) {
	return func() (daemon.Setup, error) {
		return daemon.Setup{Log: quiet, New: func(map[string]net.Listener) (daemon.Program, error) { return p, nil }}, nil
	}
}

// running runs o until the returned function is called, which returns the error of Run.
func running(t *testing.T, o daemon.Options) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	ended := make(chan error, 1)
	go func() { ended <- daemon.Run(ctx, o) }()
	return func() error {
		cancel()
		return <-ended
	}
}

func TestServiceManagerIsToldReadyAndStopping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n told
		p := &program{}
		stop := running(t, daemon.Options{Load: always(p), Notify: n.notify, Watchdog: 30 * time.Second})
		synctest.Wait()
		p.is(t, "started")
		if got, want := n.take(), []string{"READY=1", "STATUS=serving", "WATCHDOG=1"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		p.is(t, "stopped")
		if got, want := n.take(), []string{"STOPPING=1"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestProgramThatDoesNotStartIsNotReady(t *testing.T) {
	var n told
	want := errors.New("port in use")
	err := daemon.Run(t.Context(), daemon.Options{Load: always(&program{start: want}), Notify: n.notify, Watchdog: time.Minute})
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
	if got := n.take(); len(got) > 0 {
		t.Errorf("told %q", got)
	}
}

func TestWatchdogIsFedOnlyWhileHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n told
		var mu sync.Mutex
		var ill error
		p := &program{health: func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			return ill
		}}
		stop := running(t, daemon.Options{Load: always(p), Notify: n.notify, Watchdog: 30 * time.Second})
		set := func(err error) {
			mu.Lock()
			ill = err
			mu.Unlock()
		}
		time.Sleep(time.Minute + time.Second)
		if got := n.count("WATCHDOG=1"); got < 6 || got > 7 {
			t.Errorf("fed %d times in a minute, want one in 10 s", got)
		}
		n.take()
		set(errors.New("store:\nnot readable"))
		time.Sleep(time.Minute)
		if got := n.count("WATCHDOG=1"); got != 0 {
			t.Errorf("fed %d times while ill", got)
		}
		if n.count("STATUS=self-check failed: store: not readable") < 5 {
			t.Errorf("got %q", n.take())
		}
		set(nil)
		time.Sleep(15 * time.Second)
		if n.count("WATCHDOG=1") == 0 || n.count("STATUS=serving") != 1 {
			t.Errorf("well again: got %q", n.take())
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestCheckThatHangsIsNotFedAndNotAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n told
		release := make(chan struct{})
		p := &program{health: func(context.Context) error {
			<-release // deaf to its context, as a read from dead flash is
			return nil
		}}
		stop := running(t, daemon.Options{Load: always(p), Notify: n.notify, Watchdog: 30 * time.Second})
		time.Sleep(2 * time.Minute)
		if got := n.count("WATCHDOG=1"); got != 0 {
			t.Errorf("fed %d times", got)
		}
		p.mu.Lock()
		if p.asked != 1 {
			t.Errorf("asked %d times, want once", p.asked)
		}
		p.mu.Unlock()
		close(release)
		time.Sleep(20 * time.Second)
		if n.count("WATCHDOG=1") == 0 {
			t.Error("not fed after the check came back")
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestReloadWithWrongConfigurationChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, reload, loads := &program{}, make(chan struct{}), 0
		var n told
		stop := running(t, daemon.Options{Notify: n.notify, Watchdog: time.Minute, Reload: reload, Load: func() (daemon.Setup, error) {
			if loads++; loads > 1 {
				return daemon.Setup{}, errors.New("line 3: unknown key")
			}
			return always(p)()
		}})
		synctest.Wait()
		reload <- struct{}{}
		synctest.Wait()
		p.is(t, "started")
		if loads != 2 || n.count("RELOADING=1") != 0 {
			t.Errorf("%d loads, told %q", loads, n.take())
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestReloadThatDoesNotStartPutsTheOldOneBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made, reload := []*program{{}, {start: errors.New("certificate: no such file")}, {}}, make(chan struct{})
		var n told
		next := 0
		// Every New makes the next program: the first, the one that fails, and the first anew.
		stop := running(t, daemon.Options{Notify: n.notify, Watchdog: time.Minute, Reload: reload, Load: func() (daemon.Setup, error) {
			return daemon.Setup{Log: quiet, New: func(map[string]net.Listener) (daemon.Program, error) {
				next++
				return made[next-1], nil
			}}, nil
		}})
		synctest.Wait()
		reload <- struct{}{}
		synctest.Wait()
		made[0].is(t, "stopped")
		made[2].is(t, "started")
		if n.count("RELOADING=1") != 1 || n.count("READY=1") != 2 {
			t.Errorf("told %q", n.take())
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		made[2].is(t, "stopped")
	})
}

// server is a program that answers with its name.
type server struct {
	program
	name string
	http http.Server
}

func (s *server) Start(ctx context.Context) error {
	s.http.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s.name) })
	go func() { _ = s.http.Serve(s.serve["http"]) }()
	return s.program.Start(ctx)
}

func (s *server) Stop(ctx context.Context) error {
	return errors.Join(s.http.Shutdown(ctx), s.program.Stop(ctx))
}

// A port that both configurations have is never closed: a client that comes between the two
// programs waits and is answered by the second.
func TestReloadKeepsThePort(t *testing.T) {
	reload := make(chan struct{})
	var addr string
	var early net.Conn // connects while no program runs
	started := make(chan string, 2)
	n := 0
	setup := func() (daemon.Setup, error) {
		return daemon.Setup{Log: quiet, Listen: map[string]string{"http": "127.0.0.1:0"}, New: func(l map[string]net.Listener) (daemon.Program, error) {
			n++
			s := &server{name: []string{"first", "second"}[n-1], program: program{serve: l}}
			if n == 1 {
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					return nil, err
				}
				addr, s.serve = ln.Addr().String(), map[string]net.Listener{"http": ln}
			} else {
				if l["http"] == nil {
					return nil, errors.New("the port was not handed on")
				}
				var err error
				if early, err = net.Dial("tcp", addr); err != nil {
					return nil, err
				}
			}
			started <- s.name
			return s, nil
		}}, nil
	}
	stop := running(t, daemon.Options{Load: setup, Reload: reload, Notify: func(string) error { return nil }, Watchdog: time.Hour})
	<-started
	reload <- struct{}{}
	<-started
	defer early.Close()
	if _, err := io.WriteString(early, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(early)
	if err != nil || !strings.HasSuffix(string(b), "second") {
		t.Errorf("got %q, %v; want the answer of the second program", b, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
