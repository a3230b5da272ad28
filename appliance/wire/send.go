package wire

import (
	"errors"
	"strconv"
)

// The faults of a Request.
var (
	errBadMethod = errors.New("method is not a token")
	errBadTarget = errors.New("target has a character that cannot be sent")
	errBadHost   = errors.New("host has a character that cannot be sent")
)

// check refuses what would change the meaning of the request on the wire.
func (r *Request) check() error {
	if r.Method == "" || !all(bytesOf(r.Method), isToken) {
		return errBadMethod
	}
	for _, s := range [...]string{r.Base, r.Path, r.Query} {
		for i := 0; i < len(s); i++ {
			if s[i] <= ' ' || s[i] == 0x7f {
				return errBadTarget
			}
		}
	}
	for i := 0; i < len(r.Host); i++ {
		if r.Host[i] <= ' ' || r.Host[i] == 0x7f {
			return errBadHost
		}
	}
	return nil
}

// send writes the request: the head with the beginning of the body in one system call.
func (cc *clientConn) send(r *Request) error {
	if err := cc.compose(r); err != nil {
		return err
	}
	if err := cc.flush(nil); err != nil {
		return cc.fault(StageWrite, err)
	}
	return nil
}

// compose buffers the request, and sends what does not fit the buffer.
func (cc *clientConn) compose(r *Request) error {
	cc.out = cc.client.pool.buffers.take(smallBlock)
	cc.puts(r.Method)
	cc.puts(" ")
	cc.puts(r.Base)
	cc.puts(r.Path)
	if r.Base == "" && r.Path == "" {
		cc.puts("/")
	}
	if r.Query != "" {
		cc.puts("?")
		cc.puts(r.Query)
	}
	cc.puts(" HTTP/1.1\r\nHost: ")
	if r.Host != "" {
		cc.puts(r.Host)
	} else {
		cc.puts(cc.client.target.Addr)
	}
	cc.puts("\r\n")
	for i := range r.Header {
		f := &r.Header[i]
		if f.Name == "" || hopByHop(bytesOf(f.Name)) || sameName(f.Name, "Host") {
			continue
		}
		cc.puts(oneLine(f.Name))
		cc.puts(": ")
		cc.puts(oneLine(f.Value))
		cc.puts("\r\n")
	}
	switch {
	case r.Upgrade != "":
		cc.puts("Upgrade: ")
		cc.puts(oneLine(r.Upgrade))
		cc.puts("\r\nConnection: Upgrade\r\n")
	case r.Trailers:
		cc.puts("TE: trailers\r\nConnection: TE\r\n")
	}
	switch {
	case r.Body == nil || r.Length == 0:
		if r.Body != nil || r.Method == "POST" || r.Method == "PUT" || r.Method == "PATCH" {
			cc.puts("Content-Length: 0\r\n")
		}
		cc.puts("\r\n")
	case r.Length > 0:
		cc.puts("Content-Length: ")
		if len(cc.out.b)-cc.outN < 20 {
			_ = cc.flush(nil)
		}
		cc.outN += len(strconv.AppendInt(cc.out.b[cc.outN:cc.outN], r.Length, 10))
		cc.puts("\r\n\r\n")
		if err := cc.sendLength(r); err != nil {
			return err
		}
	default:
		cc.puts("Transfer-Encoding: chunked\r\n")
		if r.Trailer != nil && r.Announced != "" {
			cc.puts("Trailer: ")
			cc.puts(oneLine(r.Announced))
			cc.puts("\r\n")
		}
		cc.puts("\r\n")
		if err := cc.sendChunked(r); err != nil {
			return err
		}
	}
	return nil
}

// puts buffers s, sending the buffer when it is full.
func (cc *clientConn) puts(s string) {
	for {
		n := copy(cc.out.b[cc.outN:], s)
		cc.outN += n
		if s = s[n:]; s == "" {
			return
		}
		if cc.flush(nil) != nil {
			return // the last flush meets the same error
		}
	}
}

// flush writes what is buffered, and p behind it.
func (cc *clientConn) flush(p []byte) (err error) {
	n := cc.outN
	if n == 0 && len(p) == 0 {
		return nil
	}
	cc.outN = 0
	cc.sent = true
	switch {
	case len(p) == 0:
		_, err = cc.nc.Write(cc.out.b[:n])
	case n == 0:
		_, err = cc.nc.Write(p)
	default:
		cc.vec[0], cc.vec[1] = cc.out.b[:n], p
		cc.bufs = cc.vec[:]
		_, err = cc.bufs.WriteTo(cc.nc)
		cc.vec[0], cc.vec[1] = nil, nil
	}
	return err
}
