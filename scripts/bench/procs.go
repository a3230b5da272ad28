package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Where things run: what is measured has one core to itself, as far as the machine allows.
const (
	gatewayCore = "0"
	tick        = time.Second / 100 // of /proc/PID/stat
)

// A process is one program under measurement, with its children.
type process struct {
	cmd   *exec.Cmd
	name  string
	group string // control group under /sys/fs/cgroup/*/, "" for none
	out   *bytes.Buffer
	began time.Time
}

// limits are what a control group allows.
type limits struct {
	cpu    float64 // cores; 0: no quota
	memory int64   // bytes; 0: no limit
}

// startProcess starts a program on the gateway's core, within limits.
func startProcess(name string, l limits, env []string, argv ...string) (*process, error) {
	p := &process{name: name, out: &bytes.Buffer{}}
	var join string
	if l != (limits{}) {
		var err error
		if p.group, err = makeGroup(l); err != nil {
			return nil, err
		}
		for _, dir := range p.dirs() {
			join += "echo $$ > " + dir + "/cgroup.procs && "
		}
	}
	script := join + `exec taskset -c ` + gatewayCore + ` "$@"`
	p.cmd = exec.Command("sh", append([]string{"-c", script, name}, argv...)...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	return p, nil
}

// makeGroup makes a version 1 control group. It needs root.
func makeGroup(l limits) (string, error) {
	name := "tidegate-bench-" + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(time.Now().UnixNano()%1e9, 10)
	p := &process{group: name}
	for _, dir := range p.dirs() {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", fmt.Errorf("control group: %w", err)
		}
	}
	set := func(file string, n int64) error {
		return os.WriteFile(filepath.Join("/sys/fs/cgroup", file), []byte(strconv.FormatInt(n, 10)), 0o644)
	}
	var errs []error
	if l.cpu > 0 {
		errs = append(errs, set("cpu/"+name+"/cpu.cfs_period_us", 100_000), set("cpu/"+name+"/cpu.cfs_quota_us", int64(100_000*l.cpu)))
	}
	if l.memory > 0 {
		errs = append(errs, set("memory/"+name+"/memory.limit_in_bytes", l.memory))
	}
	return name, errors.Join(errs...)
}

func (p *process) dirs() []string {
	if p.group == "" {
		return nil
	}
	return []string{"/sys/fs/cgroup/cpu/" + p.group, "/sys/fs/cgroup/memory/" + p.group}
}

// stop ends p and its control group.
func (p *process) stop() {
	pid := p.cmd.Process.Pid
	_ = syscall.Kill(pid, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		_ = p.cmd.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		_ = syscall.Kill(pid, syscall.SIGKILL)
		<-done
	}
	for _, dir := range p.dirs() {
		for range 50 { // the kernel lets go of the last process a moment later
			if os.Remove(dir) == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// alive reports whether p still runs.
func (p *process) alive() bool {
	return p.cmd.ProcessState == nil && syscall.Kill(p.cmd.Process.Pid, 0) == nil && state(p.cmd.Process.Pid) != 'Z'
}

func state(pid int) byte {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if i := bytes.LastIndexByte(b, ')'); err == nil && len(b) > i+2 {
		return b[i+2]
	}
	return 'Z'
}

// pids returns p and its children.
func (p *process) pids() []int {
	pid := p.cmd.Process.Pid
	list := []int{pid}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, t := range tasks {
		b, _ := os.ReadFile(t)
		for f := range strings.FieldsSeq(string(b)) {
			if n, err := strconv.Atoi(f); err == nil {
				list = append(list, n)
			}
		}
	}
	return list
}

// cpu returns the processor time that p and its children have used.
func (p *process) cpu() time.Duration {
	var sum time.Duration
	for _, pid := range p.pids() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(f) > 12 {
			user, _ := strconv.ParseInt(f[11], 10, 64)
			system, _ := strconv.ParseInt(f[12], 10, 64)
			sum += time.Duration(user+system) * tick
		}
	}
	return sum
}

// rss returns the resident memory of p and its children in bytes; what several of them
// share counts once.
func (p *process) rss() int64 {
	if len(p.pids()) > 1 {
		return p.smaps("Pss:")
	}
	return p.smaps("Rss:")
}

// smaps sums one field of /proc/PID/smaps_rollup over p and its children.
func (p *process) smaps(field string) int64 {
	var sum int64
	pids := p.pids()
	for _, pid := range pids {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, field); ok {
				n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
				sum += n << 10
			}
		}
	}
	return sum
}

// waitFor polls addr with a request until it is answered 200, and returns how long that
// took since p was started.
func (p *process) waitFor(addr string, request []byte, most time.Duration) (time.Duration, error) {
	for time.Since(p.began) < most {
		if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			_ = c.SetDeadline(time.Now().Add(2 * time.Second))
			buf := make([]byte, 4096)
			_, _ = c.Write(request)
			n, _ := c.Read(buf)
			c.Close()
			if bytes.HasPrefix(buf[:n], []byte("HTTP/1.1 200 ")) {
				return time.Since(p.began), nil
			}
		}
		if !p.alive() {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return 0, fmt.Errorf("%s does not answer at %s: %s", p.name, addr, p.out.String())
}

// freePort returns a port of the loopback net that nobody uses now.
func freePort() int {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}
