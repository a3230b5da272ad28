package wire

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
)

// The errors of an answer: faults of the handler or the end of the connection.
var (
	errStarted    = errors.New("answer has begun")
	errNotStarted = errors.New("answer has not begun")
	errOver       = errors.New("more body than announced")
	errAborted    = errors.New("call was aborted")
	errStatus     = errors.New("status cannot be sent")
	errNoUpgrade  = errors.New("request asks for no upgrade")
)

// reply is the state of a call's answer.
type reply struct {
	out      *block
	outN     int
	status   int
	started  bool
	aborted  bool
	tunneled bool
	lastCall bool // the connection ends after this call
	silent   bool // no body is sent, whatever is written
	chunks   bool
	unending bool  // the connection's end ends the body
	toCome   int64 // body bytes still announced
	bodyOut  int64
	trailer  Header
	werr     error
	vec      [2][]byte
	bufs     net.Buffers
}

func (k *call) Started() bool    { return k.started }
func (k *call) Trailer(h Header) { k.trailer = h.kept() }

func (k *call) Start(status int, h Header, length int64) error {
	if k.aborted {
		return errAborted
	}
	if k.started {
		return errStarted
	}
	if status < 200 || status > 999 {
		return errStatus
	}
	k.started, k.status = true, status
	k.out = k.c.srv.state.buffers.take(smallBlock)
	k.statusLine(status)
	dated := k.fields(h)
	if d := k.c.srv.state.date.Load(); !dated && d != nil {
		k.puts(*d)
	}
	noBody := status == 204 || status == 304
	k.silent = noBody || k.req.Method == "HEAD"
	switch {
	case noBody && length <= 0 || status == 204:
	case length >= 0:
		k.puts("Content-Length: ")
		k.outN = len(strconv.AppendInt(k.room(20), length, 10)) + k.outN
		k.puts("\r\n")
		k.toCome = length
	case k.silent:
	case !k.req.http10 && k.req.Proto != "":
		k.chunks = true
		k.puts("Transfer-Encoding: chunked\r\n")
	default:
		k.unending, k.lastCall = true, true
	}
	if k.silent {
		k.toCome = 0
	}
	k.lastCall = k.lastCall || k.req.close || k.req.http10 && !k.req.keepAlive ||
		k.req.expect && !k.body.done() || k.body.end == endLength && k.body.left > drainBytes+int64(k.body.buffered()) ||
		k.c.srv.state.draining.Load()
	if k.lastCall {
		k.puts("Connection: close\r\n")
	} else if k.req.http10 {
		k.puts("Connection: keep-alive\r\n")
	}
	k.puts("\r\n")
	return k.werr
}

// statusLine puts the status line.
func (k *call) statusLine(status int) {
	if status == 200 {
		k.puts("HTTP/1.1 200 OK\r\n")
		return
	}
	k.puts("HTTP/1.1 ")
	k.outN = len(strconv.AppendInt(k.room(3), int64(status), 10)) + k.outN
	k.puts(" ")
	k.puts(http.StatusText(status))
	k.puts("\r\n")
}

// fields puts h and reports whether it had a Date. Fields of the connection are left out,
// and line ends within a field become spaces: no handler can split an answer.
func (k *call) fields(h Header) (dated bool) {
	for i := range h {
		f := &h[i]
		if f.Name == "" || hopByHop(bytesOf(f.Name)) {
			continue
		}
		dated = dated || len(f.Name) == 4 && sameName(f.Name, "Date")
		k.puts(oneLine(f.Name))
		k.puts(": ")
		k.puts(oneLine(f.Value))
		k.puts("\r\n")
	}
	return dated
}

// oneLine returns s with each control character that could end a line made a space.
func oneLine(s string) string {
	if strings.IndexByte(s, '\n') < 0 && strings.IndexByte(s, '\r') < 0 && strings.IndexByte(s, 0) < 0 {
		return s
	}
	return strings.NewReplacer("\r", " ", "\n", " ", "\x00", " ").Replace(s)
}

// room returns an empty slice with space for n bytes at the end of the buffer.
func (k *call) room(n int) []byte {
	if len(k.out.b)-k.outN < n {
		k.send(nil)
	}
	return k.out.b[k.outN:k.outN:len(k.out.b)][:0]
}

// puts buffers s.
func (k *call) puts(s string) {
	for {
		n := copy(k.out.b[k.outN:], s)
		k.outN += n
		if s = s[n:]; s == "" {
			return
		}
		k.send(nil)
	}
}

// send writes what is buffered, and p behind it, in one system call where the connection
// offers that.
func (k *call) send(p []byte) {
	n := k.outN
	k.outN = 0
	if k.werr != nil || n == 0 && len(p) == 0 {
		return
	}
	c := k.c
	c.enter(phaseWrite, c.srv.state.writeTicks)
	switch {
	case len(p) == 0:
		_, k.werr = c.nc.Write(k.out.b[:n])
	case n == 0:
		_, k.werr = c.nc.Write(p)
	default:
		k.vec[0], k.vec[1] = k.out.b[:n], p
		k.bufs = k.vec[:]
		_, k.werr = k.bufs.WriteTo(c.nc)
		k.vec[0], k.vec[1] = nil, nil
	}
	c.enter(phaseWork, 1)
	if k.werr != nil {
		_ = k.failed(k.werr)
	}
}

// failed notes that the client cannot be written to any more.
func (k *call) failed(err error) error {
	k.werr, k.lastCall = err, true
	k.c.life.end()
	return err
}

// maxWrite is the most that one system call gets, so that a slow client that reads at all
// makes progress within Limits.WriteStall.
const maxWrite = 64 << 10

// put buffers p or, if it is too long, sends it with what is buffered.
func (k *call) put(p []byte) {
	for len(p) > maxWrite && k.werr == nil {
		k.send(p[:maxWrite])
		p = p[maxWrite:]
	}
	if len(p) <= len(k.out.b)-k.outN {
		k.outN += copy(k.out.b[k.outN:], p)
		return
	}
	k.send(p)
}

func (k *call) Write(p []byte) (int, error) {
	switch {
	case k.aborted:
		return 0, errAborted
	case !k.started:
		return 0, errNotStarted
	case k.werr != nil:
		return 0, k.werr
	case k.silent || len(p) == 0:
		return len(p), nil
	case k.chunks:
		b := strconv.AppendInt(k.room(18), int64(len(p)), 16)
		k.outN += len(append(b, '\r', '\n'))
		k.put(p)
		k.puts("\r\n")
	case k.unending:
		k.put(p)
	case int64(len(p)) > k.toCome:
		return 0, errOver
	default:
		k.toCome -= int64(len(p))
		k.put(p)
	}
	if k.werr != nil {
		return 0, k.werr
	}
	k.bodyOut += int64(len(p))
	return len(p), nil
}

func (k *call) Flush() error {
	if k.aborted {
		return errAborted
	}
	if k.started {
		k.send(nil)
	}
	return k.werr
}

func (k *call) Abort() { k.aborted = true }

// finish completes the answer and decides what becomes of the connection.
func (k *call) finish() fate {
	if k.tunneled {
		return fateTunnel
	}
	if k.aborted || !k.started || k.toCome > 0 {
		k.cut()
		return fateClose
	}
	if k.chunks {
		k.puts("0\r\n")
		k.fields(k.trailer)
		k.puts("\r\n")
	}
	k.send(nil)
	if k.werr != nil {
		return fateClose
	}
	if k.lastCall || k.c.srv.state.draining.Load() {
		if !k.body.done() {
			k.c.linger(k)
		}
		return fateClose
	}
	return k.drain()
}

// drain reads the rest of a request body that the handler left, if it is short.
func (k *call) drain() fate {
	if k.body.done() {
		return fateKeep
	}
	for left := drainBytes; left > 0; {
		p, err := k.body.piece(left)
		if err == io.EOF {
			return fateKeep
		}
		if err != nil {
			return fateClose
		}
		left -= len(p)
	}
	k.c.linger(k)
	return fateClose
}

// cut makes sure that the client sees an incomplete answer as such: a body that only the
// connection's end ends is reset.
func (k *call) cut() {
	k.c.life.end()
	nc := k.c.nc
	if n, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = n.NetConn() // without close_notify, TLS tells truncation
	}
	if h, ok := nc.(*hookedConn); ok {
		nc = h.Conn
	}
	if t, ok := nc.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
		_ = t.Close()
	}
}

func (k *call) Tunnel(h Header) (io.ReadWriteCloser, error) {
	switch {
	case k.aborted:
		return nil, errAborted
	case k.started:
		return nil, errStarted
	case k.req.Upgrade == "":
		return nil, errNoUpgrade
	}
	k.started, k.status = true, 101
	k.out = k.c.srv.state.buffers.take(smallBlock)
	k.puts("HTTP/1.1 101 Switching Protocols\r\nUpgrade: ")
	k.puts(k.req.Upgrade)
	k.puts("\r\nConnection: Upgrade\r\n")
	k.fields(h)
	k.puts("\r\n")
	k.send(nil)
	if k.werr != nil {
		return nil, k.werr
	}
	k.tunneled = true
	t := &tunnel{c: k.c, early: append([]byte(nil), k.body.area[k.body.r:k.body.w]...)}
	k.c.enter(phaseTunnel, 0)
	return t, nil
}

// A tunnel is a connection that was upgraded.
type tunnel struct {
	c      *conn
	early  []byte
	closed atomic.Bool
}

func (t *tunnel) Read(p []byte) (int, error) {
	if len(t.early) > 0 {
		n := copy(p, t.early)
		t.early = t.early[n:]
		return n, nil
	}
	return t.c.nc.Read(p)
}

func (t *tunnel) Write(p []byte) (int, error) { return t.c.nc.Write(p) }

// Close closes the connection; it may be called more than once.
func (t *tunnel) Close() error {
	err := t.c.nc.Close()
	if t.closed.CompareAndSwap(false, true) {
		t.c.part()
	}
	return err
}
