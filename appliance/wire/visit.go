package wire

import (
	"errors"
	"io"
	"syscall"
)

// quick reports whether visit may use the connection, which get then need not look at.
func (cc *clientConn) quick() bool { return cc.reused && cc.plain && cc.sock.raw != nil }

var errNotFresh = errors.New("kept connection has ended")

// visit sends a request without a body over a kept connection and reads the beginning of the
// answer, in one visit to the poller: the look whether the connection is fresh is the read
// that fails before any wait, and the request is written between the two. Of the six
// system calls of a try two are saved, and no buffer is held while the backend thinks.
// fresh is false when the connection had ended or spoke unasked: nothing was sent then.
func (cc *clientConn) visit(r *Request) (fresh bool, err error) {
	if err := cc.compose(r); err != nil {
		return true, err
	}
	if cc.sent { // a head longer than the buffer is on its way
		if err := cc.flush(nil); err != nil {
			return true, cc.fault(StageWrite, err)
		}
		return true, nil
	}
	cc.limit(r)
	if cc.turn == nil {
		cc.turn = cc.take
	}
	cc.turned = nil
	err = cc.sock.raw.Read(cc.turn)
	switch {
	case err == nil && cc.turned == nil:
		return true, nil
	case cc.turned == errNotFresh, err != nil && !cc.sent && !cc.interrupted.Load():
		return false, nil
	case err == nil:
		err = cc.turned
	}
	stage := StageResponse
	if cc.out != nil {
		stage = StageWrite
	}
	return true, cc.fault(stage, err)
}

// take is what visit does whenever the socket may have something to read. It returns true
// to end the visit.
func (cc *clientConn) take(fd uintptr) bool {
	pool := &cc.client.pool.buffers
	if !cc.sent {
		if _, err := readNow(fd, cc.one[:]); err != syscall.EAGAIN {
			cc.turned = errNotFresh
			return true
		}
		if cc.turned = cc.flush(nil); cc.turned != nil {
			return true
		}
		pool.give(cc.out)
		cc.out = nil
		return false
	}
	in := pool.take(smallBlock)
	n, err := readNow(fd, in.b)
	if err == syscall.EAGAIN {
		pool.give(in)
		return false
	}
	cc.in, cc.n = in, max(n, 0)
	if n == 0 && err == nil {
		err = io.EOF
	}
	if cc.n == 0 {
		cc.turned = err
	}
	return true
}

// readNow reads what is there.
func readNow(fd uintptr, p []byte) (n int, err error) {
	for {
		if n, err = syscall.Read(int(fd), p); err != syscall.EINTR {
			return n, err
		}
	}
}
