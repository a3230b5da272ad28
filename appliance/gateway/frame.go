package gateway

import (
	"io"
	"sync"
	"time"
)

// A frameWriter is one end of a tunnel. Whole frames are written under mu, so that a close
// frame never lands inside another one.
type frameWriter struct {
	mu     sync.Mutex
	w      io.Writer
	masked bool // frames to a backend are those of a client
	closed bool
}

// closeTime is how long a close frame may take to be written.
const closeTime = time.Second

// close sends a close frame (RFC 6455 §5.5.1), unless a frame is under way.
func (f *frameWriter) close(code uint16, reason string) {
	if !f.mu.TryLock() {
		return
	}
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.closed = true
	if d, ok := f.w.(interface{ SetWriteDeadline(time.Time) error }); ok {
		_ = d.SetWriteDeadline(time.Now().Add(closeTime)) // without a deadline the write fits a socket's buffer all the same
	}
	b := make([]byte, 0, 64)
	b = append(b, 0x88, byte(2+len(reason)))
	if f.masked {
		b[1] |= 0x80
		b = append(b, 0, 0, 0, 0) // nothing here is to be hidden
	}
	b = append(b, byte(code>>8), byte(code))
	b = append(b, reason...)
	_, _ = f.w.Write(b) // the connection is closed next
}
