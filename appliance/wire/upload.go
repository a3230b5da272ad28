package wire

import (
	"errors"
	"io"
	"time"
)

// sendLength sends a body of known length behind the head that is buffered. A body that fits the
// buffer goes out with the head by the caller's flush.
func (cc *clientConn) sendLength(r *Request) error {
	left := r.Length
	for room := cc.out.b[cc.outN:]; left > 0 && len(room) > 0; room = cc.out.b[cc.outN:] {
		n, err := r.Body.Read(room[:min(int64(len(room)), left)])
		cc.outN += n
		if left -= int64(n); left > 0 && err != nil {
			return cc.bodyFault(err)
		}
	}
	if left == 0 {
		return nil
	}
	big := cc.client.pool.buffers.roomy()
	defer cc.client.pool.buffers.give(big)
	for left > 0 {
		n, err := r.Body.Read(big.b[:min(int64(len(big.b)), left)])
		left -= int64(n)
		if e := cc.forward(r, big.b[:n]); e != nil {
			return e
		}
		if left > 0 && err != nil {
			return cc.bodyFault(err)
		}
	}
	return nil
}

// sendChunked sends a body of unknown length, each piece as one chunk as soon as it is
// there, and the trailers.
func (cc *clientConn) sendChunked(r *Request) error {
	const before = 10 // hex digits of a length below 2^32, CR LF
	big := cc.client.pool.buffers.roomy()
	defer cc.client.pool.buffers.give(big)
	for {
		n, err := r.Body.Read(big.b[before : len(big.b)-2])
		if n > 0 {
			b := append(big.b[:before+n], '\r', '\n')
			i := before - 2
			b[i], b[i+1] = '\r', '\n'
			for v := n; v > 0; v >>= 4 {
				i--
				b[i] = "0123456789abcdef"[v&15]
			}
			if e := cc.forward(r, b[i:]); e != nil {
				return e
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return cc.bodyFault(err)
		}
	}
	cc.puts("0\r\n")
	if r.Trailer != nil {
		for _, f := range r.Trailer() {
			if f.Name == "" || noTrailer(bytesOf(f.Name)) {
				continue
			}
			cc.puts(oneLine(f.Name))
			cc.puts(": ")
			cc.puts(oneLine(f.Value))
			cc.puts("\r\n")
		}
	}
	cc.puts("\r\n")
	return nil
}

// forward sends one piece of a long body. If the backend has answered already and does
// not want the body, by its status or by closing, it stops.
func (cc *clientConn) forward(r *Request, p []byte) error {
	if cc.sent && cc.plain && !cc.ready && cc.sock.readable() {
		if cc.until {
			_ = cc.nc.SetReadDeadline(time.Time{})
			cc.until = false
		}
		err := cc.readMore()
		if err == nil {
			err = cc.readHead(r)
		}
		if err != nil {
			return cc.fault(StageResponse, err)
		}
		if cc.ready && (cc.head.status >= 300 || cc.head.close) {
			return cc.fault(StageWrite, errAnswered)
		}
	}
	_ = cc.nc.SetWriteDeadline(time.Now().Add(cc.client.target.WriteStall))
	if err := cc.flush(p); err != nil {
		return cc.fault(StageWrite, err)
	}
	return nil
}

// bodyFault is the error of a request body that could not be read.
func (cc *clientConn) bodyFault(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return cc.fault(StageBody, err)
}

// answered tries, after a failed write, to read an answer that the backend gave without
// reading the whole request, such as 413. The connection is not kept.
func (cc *clientConn) answered(r *Request, err error) bool {
	var t *TryError
	if !errors.As(err, &t) || t.Stage != StageWrite || !t.Sent || cc.interrupted.Load() {
		return false
	}
	cc.keep = false
	if cc.ready {
		return true
	}
	if !cc.sock.readable() {
		return false
	}
	_ = cc.nc.SetReadDeadline(time.Now().Add(answerTime))
	cc.until = true
	e := cc.receive(r)
	t.Got = cc.n > 0
	return e == nil
}

// answerTime is how long an answer that has begun may take to come.
const answerTime = 2 * time.Second

var errAnswered = errors.New("answered before the request was whole")
