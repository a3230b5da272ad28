package wire

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// An upload is the body of a request as net/http's transport reads it, in a goroutine of
// its own, possibly beyond the end of the call. It remembers why it could not be read.
type upload struct {
	body         io.Reader
	interrupt    func()
	after        func() Header // trailers
	trailer      http.Header
	conn, reused atomic.Bool
	err          atomic.Pointer[error]
	ended        atomic.Bool // by end: what a read that it interrupts meets is no fault of the body
	mu           sync.Mutex  // held while body is read
	over         bool
}

func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over {
		return 0, errAborted
	}
	n, err := u.body.Read(p)
	switch {
	case err == io.EOF && u.trailer != nil:
		for _, f := range u.after() {
			if !noTrailer(bytesOf(f.Name)) {
				u.trailer.Add(f.Name, f.Value)
			}
		}
		u.trailer = nil
	case err != nil && err != io.EOF && !u.ended.Load():
		u.err.Store(&err)
	}
	return n, err
}

// Close does nothing: the body is the caller's.
func (u *upload) Close() error { return nil }

// end makes sure that the body is not read any more.
func (u *upload) end() {
	u.ended.Store(true)
	if !u.mu.TryLock() {
		u.interrupt()
		u.mu.Lock()
	}
	u.over = true
	u.mu.Unlock()
}

// A feed lets the caller's goroutine push a body that only it may read to the goroutine
// that sends it.
type feed struct {
	pieces chan []byte
	taken  chan struct{}
	stop   chan struct{} // closed by halt: nobody pushes any more
	ended  chan struct{} // closed by finish: err is what comes after the last piece
	err    error
	once   sync.Once
	rest   []byte
}

func newFeed() *feed {
	return &feed{pieces: make(chan []byte), taken: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{})}
}

// Read is called by the sender.
func (f *feed) Read(p []byte) (int, error) {
	if len(f.rest) == 0 {
		select {
		case f.rest = <-f.pieces:
		case <-f.ended:
			return 0, f.err
		}
	}
	n := copy(p, f.rest)
	if f.rest = f.rest[n:]; len(f.rest) == 0 {
		f.taken <- struct{}{}
	}
	return n, nil
}

// interrupt lets a waiting Read return.
func (f *feed) interrupt() { f.finish(errAborted) }

func (f *feed) finish(err error) {
	f.once.Do(func() {
		f.err = err
		close(f.ended)
	})
}

// push reads body to its end and hands it over, unless stopped: an answer came that makes
// the rest needless. After a stop the sender waits until interrupt.
func (f *feed) push(body io.Reader) {
	buf := make([]byte, largeBlock) // not pooled: the sender may hold it beyond our end
	for {
		n, err := body.Read(buf)
		if n > 0 {
			select {
			case f.pieces <- buf[:n]:
			case <-f.stop:
				return
			}
			select {
			case <-f.taken:
			case <-f.stop:
				return
			}
		}
		if err != nil {
			f.finish(err)
			return
		}
	}
}
