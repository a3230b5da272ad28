package main

import (
	"bytes"
	"errors"
	"net"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// upstreamMain answers every request on addr with the same JSON, 1 KiB or, where the target has
// "64k" in it, 64 KiB. It is one thread around epoll: the less it costs, the sooner the
// gateway is what limits.
func upstreamMain(addr string) error {
	runtime.LockOSThread()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	lfd := int(f.Fd())
	if err := unix.SetNonblock(lfd, true); err != nil {
		return err
	}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	if err := watch(ep, lfd); err != nil {
		return err
	}
	small, large := answer(1<<10), answer(64<<10)
	owed := map[int][]byte{} // bytes of an answer that the socket had no room for
	buf := make([]byte, 64<<10)
	events := make([]unix.EpollEvent, 1024)
	for {
		n, err := unix.EpollWait(ep, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			fd := int(e.Fd)
			if fd == lfd {
				acceptAll(ep, lfd)
				continue
			}
			if e.Events&unix.EPOLLOUT != 0 {
				owe(ep, fd, owed, owed[fd])
				continue
			}
			n, err := unix.Read(fd, buf)
			if n <= 0 {
				if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
					delete(owed, fd)
					unix.Close(fd)
				}
				continue
			}
			// A request of the generator is one piece without a body: its end tells that it is whole.
			if !bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
				continue
			}
			out := small
			if line, _, _ := bytes.Cut(buf[:n], []byte{'\n'}); bytes.Contains(line, []byte("64k")) {
				out = large
			}
			owe(ep, fd, owed, out)
		}
	}
}

// owe writes out as far as the socket takes it and notes the rest.
func owe(ep, fd int, owed map[int][]byte, out []byte) {
	n, err := unix.Write(fd, out)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		return // the read that follows sees the end
	}
	rest := out[max(n, 0):]
	if len(rest) == 0 {
		if owed[fd] != nil {
			delete(owed, fd)
			_ = unix.EpollCtl(ep, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
		}
		return
	}
	if owed[fd] == nil {
		_ = unix.EpollCtl(ep, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: unix.EPOLLOUT, Fd: int32(fd)})
	}
	owed[fd] = rest
}

func acceptAll(ep, lfd int) {
	for {
		fd, _, err := unix.Accept4(lfd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if err := watch(ep, fd); err != nil {
			unix.Close(fd)
		}
	}
}

func watch(ep, fd int) error {
	return unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

// answer returns a whole response with a JSON body of n bytes.
func answer(n int) []byte {
	body := append([]byte(`{"id":17,"name":"`), bytes.Repeat([]byte("x"), n-19)...)
	body = append(body, `"}`...)
	head := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: fixed\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
	return append([]byte(head), body...)
}
