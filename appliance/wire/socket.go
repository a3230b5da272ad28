package wire

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// A socket asks the kernel about a connection without reading from it, so that idle
// connections need no buffer and ended ones are seen before use.
type socket struct {
	raw  syscall.RawConn // nil: not a socket
	poll [1]unix.PollFd
	ask  func(fd uintptr) // made once: asking allocates nothing
	is   int16
}

// open makes s ask about nc, if that is a socket.
func (s *socket) open(nc net.Conn) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	s.raw = raw
	s.ask = func(fd uintptr) {
		s.poll[0].Fd = int32(fd)
		s.poll[0].Revents = 0
		_, err := unix.Poll(s.poll[:], 0)
		for err == unix.EINTR {
			_, err = unix.Poll(s.poll[:], 0)
		}
		s.is = s.poll[0].Revents
	}
}

// gone reports whether the other end has closed or half-closed. It is for one goroutine
// at a time, like readable.
func (s *socket) gone() bool {
	if s.raw == nil {
		return false
	}
	s.poll[0].Events = unix.POLLRDHUP
	return s.raw.Control(s.ask) != nil || s.is&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
}

// readable reports whether bytes or an end are there to be read.
func (s *socket) readable() bool {
	if s.raw == nil {
		return false
	}
	s.poll[0].Events = unix.POLLIN | unix.POLLRDHUP
	return s.raw.Control(s.ask) != nil || s.is != 0
}
