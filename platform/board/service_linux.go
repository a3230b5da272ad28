package board

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	notifySocket = "/run/notify"
	patience     = 30 * time.Second // without a sign of life
	abortTime    = 10 * time.Second // between asking and killing
)

// children are the processes that somebody here waits for; the zero value has none.
type children struct {
	mu  sync.Mutex
	pid map[int]bool
}

func (c *children) has(pid int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pid[pid]
}

// run starts cmd, tells started, and waits.
func (c *children) run(cmd *exec.Cmd, started func(*os.Process)) error {
	c.mu.Lock() // the reaper must not see it before it is known
	err := cmd.Start()
	if err == nil {
		if c.pid == nil {
			c.pid = map[int]bool{}
		}
		c.pid[cmd.Process.Pid] = true
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if started != nil {
		started(cmd.Process)
	}
	err = cmd.Wait()
	c.mu.Lock()
	delete(c.pid, cmd.Process.Pid)
	c.mu.Unlock()
	return err
}

// siginfoPID reads si_pid, which follows three ints and, on 64 bit, their padding.
func siginfoPID(s *unix.Siginfo) int {
	b := (*[16 + 4]byte)(unsafe.Pointer(s))
	at := 12
	if ^uint(0)>>32 != 0 {
		at = 16
	}
	return int(int32(uint32(b[at]) | uint32(b[at+1])<<8 | uint32(b[at+2])<<16 | uint32(b[at+3])<<24))
}

// as runs a command as the gateway's user in a control group, nil for none.
func (f *first) as(group *os.File, args ...string) *exec.Cmd {
	cmd := exec.Command(f.Program, args...)
	cmd.Env = []string{"PATH=/usr/bin", "HOME=/", "TIDEGATE_DATA=" + f.home()}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: f.User, Gid: f.User}}
	if group != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	}
	return cmd
}

// command runs a command of the gateway's program to its end and returns what it said.
func (f *first) command(group *os.File, args ...string) (string, error) {
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	err := f.stream(ctx, group, &out, args...)
	return out.String(), err
}

// stream runs a command of the gateway's program until ctx ends it; out gets what it says.
func (f *first) stream(ctx context.Context, group *os.File, out io.Writer, args ...string) error {
	cmd := f.as(group, args...)
	cmd.Stdout, cmd.Stderr = out, out
	var stop func() bool
	err := f.kids.run(cmd, func(p *os.Process) { stop = context.AfterFunc(ctx, func() { _ = p.Kill() }) })
	if stop != nil {
		stop()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 75 { // on trial, which it has said
		err = nil
	}
	return err
}

// lines hands on what is written to it line by line.
type lines struct {
	say  func(string)
	part []byte
}

// Write keeps what is not a whole line yet.
func (l *lines) Write(b []byte) (int, error) {
	l.part = append(l.part, b...)
	for {
		line, rest, ok := bytes.Cut(l.part, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		l.part = rest
		if text := strings.TrimSpace(string(line)); text != "" {
			l.say(text)
		}
	}
}

// service is the gateway under supervision.
type service struct {
	f     *first
	log   tail
	ready chan struct{} // closed at the first readiness

	mu      sync.Mutex
	process *os.Process
	up      bool      // it said READY=1
	life    time.Time // last sign of it
	starts  int       // that ended before it served, in a row
	ends    int       // of all starts
	ended   bool      // it is not started again
	gone    chan struct{}
}

func newService(f *first) *service {
	return &service{f: f, ready: make(chan struct{}), gone: make(chan struct{})}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// run starts the gateway again and again until end.
func (s *service) run() {
	group, err := Group("tidegate", s.f.Memory, s.f.Tasks)
	s.f.note("memory of the gateway is not bounded", err)
	s.f.note("signs of life", s.listen())
	args := []string{"run", "--provision", s.f.Boot}
	if s.f.systems != nil {
		args = append(args, "--system", ControlSocket)
	}
	if c := s.f.Boot + "/tidegate.toml"; exists(c) {
		args = append(args, "--config", c)
	}
	wait := time.Duration(0)
	for {
		cmd := s.f.as(group, args...)
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+notifySocket, fmt.Sprintf("WATCHDOG_USEC=%d", patience.Microseconds()))
		cmd.Stdout, cmd.Stderr = &s.log, &s.log
		began := time.Now()
		err := s.f.kids.run(cmd, func(p *os.Process) {
			s.mu.Lock()
			s.process, s.up, s.life = p, false, time.Now()
			if s.ended {
				_ = p.Signal(syscall.SIGTERM)
			}
			s.mu.Unlock()
		})
		s.mu.Lock()
		s.process, s.up = nil, false
		s.starts++
		s.ends++
		ended := s.ended
		s.mu.Unlock()
		if ended {
			close(s.gone)
			return
		}
		wait = pause(wait, time.Since(began))
		s.f.say("gateway ended (%v); its last line: %s; starting it again in %v", err, s.log.last(), wait)
		time.Sleep(wait)
	}
}

// listen takes the gateway's notifications (sd_notify(3)) and kills a gateway that gives none.
func (s *service) listen() error {
	_ = os.Remove(notifySocket)
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notifySocket, Net: "unixgram"})
	if err != nil {
		return err
	}
	if err := os.Chown(notifySocket, int(s.f.User), int(s.f.User)); err != nil {
		return errors.Join(err, c.Close())
	}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil {
				s.f.note("signs of life", err)
				return
			}
			for line := range strings.SplitSeq(string(b[:n]), "\n") {
				s.told(line)
			}
		}
	}()
	go func() {
		for ; ; time.Sleep(time.Second) {
			s.mu.Lock()
			late := s.up && time.Since(s.life) > patience
			s.mu.Unlock()
			if late {
				s.kill("no sign of life", syscall.SIGABRT)
			}
		}
	}()
	return nil
}

// told takes one line of a notification.
func (s *service) told(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case line == "READY=1" && s.process != nil:
		s.up, s.life, s.starts = true, time.Now(), 0
		select {
		case <-s.ready:
		default:
			close(s.ready)
		}
	case line == "WATCHDOG=1":
		s.life = time.Now()
	case strings.HasPrefix(line, "STATUS=self-check failed"):
		s.f.say("%s", line)
	}
}

// sight returns how the gateway is.
func (s *service) sight() sight {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sight{serves: s.up, failed: s.starts, ends: s.ends}
}

// kill ends the running gateway: with a signal, and for good if that does not help.
func (s *service) kill(why string, sig syscall.Signal) {
	s.mu.Lock()
	p := s.process
	s.up = false
	s.mu.Unlock()
	if p == nil {
		return
	}
	s.f.say("gateway: %s: ending it", why)
	_ = p.Signal(sig)
	time.AfterFunc(abortTime, func() { _ = p.Kill() }) // of a process that has ended: nothing
}

// end ends the gateway and does not start it again.
func (s *service) end() {
	s.mu.Lock()
	s.ended = true
	idle := s.process == nil
	s.mu.Unlock()
	if idle {
		return
	}
	s.kill("the machine stops", syscall.SIGTERM)
	<-s.gone
}

// tail keeps the last lines of what is written to it, in memory: flash is not for logs. What
// is new also goes to the console.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 64 << 10

// Write keeps b.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if cut := len(t.buf) - tailBytes; cut > 0 {
		if nl := bytes.IndexByte(t.buf[cut:], '\n'); nl >= 0 {
			cut += nl + 1
		}
		t.buf = append(t.buf[:0], t.buf[cut:]...)
	}
	_, _ = os.Stdout.Write(bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")))
	return len(b), nil
}

// String returns what is kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}

func (t *tail) last() string {
	lines := strings.Split(strings.TrimSpace(t.String()), "\n")
	return lines[len(lines)-1]
}
