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
	big := cc.client.pool.buffers.take(largeBlock)
	defer cc.client.pool.buffers.give(big)
	for left > 0 {
		n, err := r.Body.Read(big.b[:min(int64(len(big.b)), left)])
		left -= int64(n)
		if e := cc.forward(big.b[:n]); e != nil {
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
	big := cc.client.pool.buffers.take(largeBlock)
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
			if e := cc.forward(b[i:]); e != nil {
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

// forward sends one piece of a long body. If the backend has answered already, it stops:
// the answer is more likely to be read than the rest of the body.
func (cc *clientConn) forward(p []byte) error {
	if cc.sent && cc.plain && cc.sock.readable() {
		return cc.fault(StageWrite, errAnswered)
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
	t, ok := err.(*TryError)
	if !ok || t.Stage != StageWrite || !t.Sent || cc.interrupted.Load() {
		return false
	}
	if !cc.sock.readable() && t.Err != errAnswered {
		return false
	}
	cc.keep = false
	_ = cc.nc.SetReadDeadline(time.Now().Add(answerTime))
	cc.until = true
	if e := cc.receive(r); e != nil {
		if t.Err == errAnswered {
			t.Err = e
			t.Stage = StageResponse
		}
		t.Got = cc.n > 0
		return false
	}
	return true
}

// answerTime is how long an answer that has begun may take to come.
const answerTime = 2 * time.Second

var errAnswered = errors.New("answered before the request was whole")
