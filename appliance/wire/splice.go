package wire

import (
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// spliceFrom is the least rest of a body that is passed on inside the kernel. Below it a copy
// costs as few system calls.
const spliceFrom = 16 << 10

// mostTubes bounds the tubes that are lent at a time, two files each. Beyond it bodies are copied.
const mostTubes = 128

// A tube is a pipe of the kernel: bytes go through it from one socket to another and never
// into this process (splice(2)). One call owns it at a time.
type tube struct {
	r, w    int
	want, n int // bytes asked for, and in the pipe
	err     error
	in, out func(fd uintptr) bool // made once: passing on allocates nothing
	unused  runtime.Cleanup       // closes it when the collector finds it
}

// tubes lends tubes. One that the collector finds unused is closed.
type tubes struct {
	idle sync.Pool
	lent atomic.Int32
	none atomic.Bool  // the kernel does not do it here
	took atomic.Int64 // so far
}

// take returns an empty tube, or nil when many are lent or there are no files left.
func (p *tubes) take() *tube {
	if p.none.Load() {
		return nil
	}
	if p.lent.Add(1) > mostTubes {
		p.lent.Add(-1)
		return nil
	}
	p.took.Add(1)
	if t, ok := p.idle.Get().(*tube); ok {
		return t
	}
	var fd [2]int
	if unix.Pipe2(fd[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		p.lent.Add(-1)
		return nil
	}
	t := &tube{r: fd[0], w: fd[1]}
	t.in, t.out = t.fill, t.drain
	t.unused = runtime.AddCleanup(t, closeBoth, fd)
	return t
}

func closeBoth(fd [2]int) {
	_ = unix.Close(fd[0])
	_ = unix.Close(fd[1])
}

// give takes t back; nil is allowed. A tube in which something is left, or may be, is closed: its
// files must not wait for the collector.
func (p *tubes) give(t *tube) {
	if t == nil {
		return
	}
	if t.n == 0 && t.err == nil {
		p.idle.Put(t)
	} else {
		t.unused.Stop()
		closeBoth([2]int{t.r, t.w})
	}
	p.lent.Add(-1)
}

// fill takes up to want bytes out of a socket. It returns false when there is nothing yet.
func (t *tube) fill(fd uintptr) bool {
	for {
		n, err := unix.Splice(int(fd), nil, t.w, nil, t.want, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch err {
		case nil:
			if t.n = int(n); n == 0 {
				t.err = io.EOF
			}
			return true
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			t.err = err
			return true
		}
	}
}

// drain gives all that is in the tube to a socket. It returns false when that has no room.
func (t *tube) drain(fd uintptr) bool {
	for t.n > 0 {
		n, err := unix.Splice(t.r, nil, int(fd), nil, t.n, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch err {
		case nil:
			t.n -= int(n)
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			t.err = err
			return true
		}
	}
	return true
}

// rawTCP returns a plain TCP connection for splice(2), or nil.
func rawTCP(nc net.Conn, s *socket) syscall.RawConn {
	if _, ok := nc.(*net.TCPConn); !ok {
		return nil
	}
	return s.raw
}

// spliceBody passes on what is left of a body, if that is long, nothing of it has been read
// yet, its length is known, and both ends are plain TCP. It does nothing otherwise. A client's error is
// the call's; a backend's is the body's, as if it had been read.
func (k *call) spliceBody(cc *clientConn) error {
	b := &cc.body
	if b.end != endLength || b.buffered() > 0 || b.err != nil || b.left < spliceFrom || !k.counted() || k.toCome < b.left {
		return nil
	}
	from, to := rawTCP(cc.nc, &cc.sock), rawTCP(k.c.nc, &k.c.sock)
	if from == nil || to == nil {
		return nil
	}
	state := &k.c.srv.state
	t := state.tubes.take()
	if t == nil {
		return nil
	}
	defer state.tubes.give(t)
	if k.send(nil); k.werr != nil {
		return k.werr
	}
	for b.left > 0 {
		t.want = int(min(b.left, maxWrite))
		if err := cc.fillTube(from, t); err != nil {
			if err == unix.EINVAL || err == unix.ENOSYS || err == unix.EPERM {
				state.tubes.none.Store(true) // copied from here on
			} else {
				b.err = b.broken(err)
			}
			return nil
		}
		n := int64(t.n)
		k.c.enter(phaseWrite, state.writeTicks)
		err := to.Write(t.out)
		k.c.enter(phaseWork, 1)
		if err == nil {
			err = t.err
		}
		if err != nil {
			return k.failed(err)
		}
		k.toCome -= n
		k.bodyOut += n
		b.took(int(n))
	}
	return nil
}

// counted reports whether the answer is a body of a known length that the client gets.
func (k *call) counted() bool {
	return k.started && !k.aborted && !k.silent && !k.chunks && !k.unending && k.werr == nil
}
