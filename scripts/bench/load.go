package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A load is what the generator does.
type load struct {
	addr     netip.AddrPort
	requests [][]byte // sent in turn
	first    int      // which of them is sent first
	conns    int
	rate     float64 // calls per second at fixed times; 0: each connection calls again at once
	warm     time.Duration
	time     time.Duration
	atStart  func() // after the warm-up
}

// measured is what the generator saw after the warm-up.
type measured struct {
	calls, failed uint64
	other         map[int]uint64 // answers that were not 200, by status
	took          time.Duration
	latency       hist
	late          uint64 // calls at a fixed rate that no connection was free for at their time
}

// A stream is one connection of the generator.
type stream struct {
	fd   int
	from time.Time // when the call was due: waiting for a connection counts
	left int       // bytes of the answer's body to come; -1: the head is not whole
	head []byte    // of a head that came in pieces
	bad  bool
}

// generate runs l in one thread around epoll, over plain kept connections.
func generate(l load) (*measured, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(ep)
	g := &generator{load: l, turn: l.first, ep: ep, byFD: map[int]*stream{}, m: &measured{other: map[int]uint64{}}, buf: make([]byte, 256<<10)}
	defer g.close()
	for i := range l.conns {
		if err := g.open(i); err != nil {
			return nil, fmt.Errorf("connection %d to %s: %w", i, l.addr, err)
		}
	}
	return g.run()
}

type generator struct {
	load
	ep    int
	byFD  map[int]*stream
	free  []*stream // at a fixed rate
	turn  int
	m     *measured
	buf   []byte
	begun time.Time // end of the warm-up
}

// open connects. Addresses of the loopback net keep local ports from running out.
func (g *generator) open(i int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if i >= 20_000 {
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, byte(1 + i/20_000), 1}}); err != nil {
			return err
		}
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: g.addr.Addr().As4(), Port: int(g.addr.Port())}); err != nil {
		unix.Close(fd)
		return err
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	s := &stream{fd: fd, left: -1}
	g.byFD[fd] = s
	g.free = append(g.free, s)
	return watch(g.ep, fd)
}

func (g *generator) close() {
	for fd := range g.byFD {
		unix.Close(fd)
	}
}

func (g *generator) run() (*measured, error) {
	now := time.Now()
	warm, end := now.Add(g.warm), now.Add(g.warm+g.time)
	due := now
	var gap time.Duration
	timer := -1
	if g.rate > 0 {
		gap = time.Duration(float64(time.Second) / g.rate)
		var err error
		if timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
			return nil, err
		}
		defer unix.Close(timer)
		if err := watch(g.ep, timer); err != nil {
			return nil, err
		}
	} else {
		for _, s := range g.free {
			if err := g.call(s, now); err != nil {
				return nil, err
			}
		}
		g.free = nil
	}
	events := make([]unix.EpollEvent, 512)
	for {
		if now = time.Now(); !now.Before(end) {
			break
		}
		if g.begun.IsZero() && !now.Before(warm) {
			other := g.m.other
			*g.m = measured{other: other}
			clear(other)
			g.begun = now
			if g.atStart != nil {
				g.atStart()
			}
		}
		if g.rate > 0 {
			for !due.After(now) && len(g.free) > 0 {
				s := g.free[len(g.free)-1]
				g.free = g.free[:len(g.free)-1]
				if err := g.call(s, due); err != nil {
					return nil, err
				}
				due = due.Add(gap)
			}
			if due.After(now) {
				wait := unix.NsecToTimespec(int64(due.Sub(now)))
				if err := unix.TimerfdSettime(timer, 0, &unix.ItimerSpec{Value: wait}, nil); err != nil {
					return nil, err
				}
			} else {
				g.m.late++
			}
		}
		n, err := unix.EpollWait(g.ep, events, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, err
		}
		for _, e := range events[:max(n, 0)] {
			if int(e.Fd) == timer {
				var b [8]byte
				_, _ = unix.Read(timer, b[:])
				continue
			}
			if err := g.hear(g.byFD[int(e.Fd)]); err != nil {
				return nil, err
			}
		}
	}
	g.m.took = now.Sub(g.begun)
	return g.m, nil
}

// call sends the next request.
func (g *generator) call(s *stream, due time.Time) error {
	r := g.requests[g.turn%len(g.requests)]
	g.turn++
	s.from, s.left, s.bad = due, -1, false
	n, err := unix.Write(s.fd, r)
	if err == nil && n < len(r) {
		err = errors.New("request was not written at once")
	}
	return err
}

// hear reads what came of an answer.
func (g *generator) hear(s *stream) error {
	n, err := unix.Read(s.fd, g.buf)
	if n <= 0 {
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			return nil
		}
		return g.again(s)
	}
	b := g.buf[:n]
	if s.left < 0 {
		if len(s.head) > 0 {
			s.head = append(s.head, b...)
			b = s.head
		}
		end := bytes.Index(b, []byte("\r\n\r\n"))
		if end < 0 {
			s.head = append(s.head[:0], b...)
			return nil
		}
		status, length := readAnswer(b[:end+2])
		if length < 0 {
			return fmt.Errorf("answer without a length: %q", b[:end])
		}
		if status != 200 {
			s.bad = true
			g.m.other[status]++
		}
		s.left = length
		b = b[end+4:]
		defer func() { s.head = s.head[:0] }()
	}
	if s.left -= len(b); s.left > 0 {
		return nil
	}
	if s.left < 0 {
		return errors.New("more bytes than the answer has")
	}
	now := time.Now()
	if s.bad {
		g.m.failed++
	} else {
		g.m.calls++
		g.m.latency.add(now.Sub(s.from))
	}
	if g.rate > 0 {
		g.free = append(g.free, s)
		return nil
	}
	return g.call(s, now)
}

// again opens a new connection in place of one that the server ended, as after a 503.
func (g *generator) again(s *stream) error {
	g.m.failed++
	g.m.other[0]++
	delete(g.byFD, s.fd)
	unix.Close(s.fd)
	if err := g.open(0); err != nil {
		return err
	}
	s = g.free[len(g.free)-1]
	if g.rate > 0 {
		return nil
	}
	g.free = g.free[:len(g.free)-1]
	return g.call(s, time.Now())
}

// readAnswer returns status and length of a response head; -1 where there is none.
func readAnswer(head []byte) (status, length int) {
	status, length = -1, -1
	if len(head) > 12 {
		status, _ = strconv.Atoi(string(head[9:12]))
	}
	for len(head) > 0 {
		line, rest, _ := bytes.Cut(head, []byte("\r\n"))
		if len(line) > 15 && bytes.EqualFold(line[:15], []byte("content-length:")) {
			if n, err := strconv.Atoi(string(bytes.TrimSpace(line[15:]))); err == nil {
				length = n
			}
		}
		head = rest
	}
	return status, length
}
