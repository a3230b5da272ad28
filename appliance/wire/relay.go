package wire

import (
	"io"
	"sync"
)

// Relay answers x with resp: status, then header in place of resp.Header (the caller has
// edited it; nil means resp.Header as it is), body and trailers. What has come is sent on before
// more is waited for, so that server-sent events and slow bodies arrive as they are written. A 101 becomes a tunnel that ends when
// one side does. If the backend breaks off inside the body, the client's connection is aborted
// and the backend's error is returned as a [*BackendError]; any other error is the client's.
// Relay closes resp.Body.
func Relay(x Exchange, resp *Response, header Header) error {
	defer resp.Body.Close()
	if header == nil {
		header = resp.Header
	}
	if resp.Upgraded != nil {
		t, err := x.Tunnel(header)
		if err != nil {
			resp.Upgraded.Close()
			return err
		}
		Pipe(t, resp.Upgraded)
		return nil
	}
	if err := x.Start(resp.Status, header, resp.Length); err != nil {
		return err
	}
	if resp.own.cc != nil {
		return relayOwn(x, resp)
	}
	return relayAny(x, resp)
}

// relayOwn passes the pieces of our own engine's buffer on without a copy of them, and what is
// left of a long body inside the kernel.
func relayOwn(x Exchange, resp *Response) error {
	b := &resp.own.cc.body
	if resp.Length < 0 && b.waits() {
		if err := x.Flush(); err != nil {
			return err
		}
	}
	k, own := x.(*call)
	for {
		if own {
			if err := k.spliceBody(resp.own.cc); err != nil {
				return err
			}
		}
		p, err := b.piece(largeBlock)
		if err == io.EOF {
			return endRelay(x, resp)
		}
		if err != nil {
			x.Abort()
			return &BackendError{err}
		}
		if _, err := x.Write(p); err != nil {
			return err
		}
		// Nothing waits with us while we wait for the backend.
		if b.waits() {
			if err := x.Flush(); err != nil {
				return err
			}
		}
	}
}

// relayAny copies a body of net/http.
func relayAny(x Exchange, resp *Response) error {
	block := resp.pool.roomy()
	defer resp.pool.give(block)
	buf := block.b
	if resp.Length < 0 {
		if err := x.Flush(); err != nil {
			return err
		}
	}
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if _, err := x.Write(buf[:n]); err != nil {
				return err
			}
			if resp.Length < 0 {
				if err := x.Flush(); err != nil {
					return err
				}
			}
		}
		if err == io.EOF {
			return endRelay(x, resp)
		}
		if err != nil {
			x.Abort()
			return &BackendError{err}
		}
	}
}

func endRelay(x Exchange, resp *Response) error {
	if t := resp.Trailer(); len(t) > 0 {
		x.Trailer(t)
	}
	return nil
}

// A BackendError is a response body that broke off.
type BackendError struct{ Err error }

// Error returns the reason.
func (e *BackendError) Error() string { return "response body broke off: " + e.Err.Error() }

// Unwrap returns the reason.
func (e *BackendError) Unwrap() error { return e.Err }

// Pipe copies between a and b until one side ends or breaks, closes both, and returns the
// bytes copied from a to b and from b to a.
func Pipe(a, b io.ReadWriteCloser) (ab, ba int64) {
	var once sync.Once
	end := func() {
		once.Do(func() {
			a.Close()
			b.Close()
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		ba, _ = io.Copy(a, b)
		end()
	}()
	ab, _ = io.Copy(b, a)
	end()
	<-done
	return ab, ba
}
