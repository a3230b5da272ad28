package mqttsynctest

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Link is a way to a broker that is slow, ends connections, or is down.
type Link struct {
	next func(ctx context.Context, network, address string) (net.Conn, error)

	mu    sync.Mutex
	conns map[*linkConn]struct{}
	down  bool
	rate  int64 // bytes a second each way; 0: no limit
	life  func() time.Duration
	dead  int

	up, fromBroker atomic.Int64
}

// NewLink returns a link without faults over another way to dial.
func NewLink(next func(ctx context.Context, network, address string) (net.Conn, error)) *Link {
	return &Link{next: next, conns: map[*linkConn]struct{}{}}
}

// Rate bounds connections that are made from now on, in bytes a second each way.
func (l *Link) Rate(n int64) { l.mu.Lock(); l.rate = n; l.mu.Unlock() }

// Life makes connections from now on end after what fn returns; nil: never.
func (l *Link) Life(fn func() time.Duration) { l.mu.Lock(); l.life = fn; l.mu.Unlock() }

// Between returns a function for Life: random, from lo to hi.
func Between(lo, hi time.Duration) func() time.Duration {
	return func() time.Duration { return lo + time.Duration(rand.Int64N(int64(hi-lo))) }
}

// Cut ends all connections at once, without a word.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		_ = c.Conn.Close()
	}
	l.dead += len(l.conns)
	clear(l.conns)
}

// Down cuts, and refuses new connections until Up.
func (l *Link) Down() {
	l.mu.Lock()
	l.down = true
	l.mu.Unlock()
	l.Cut()
}

// Up lets connections through again.
func (l *Link) Up() { l.mu.Lock(); l.down = false; l.mu.Unlock() }

// Bytes returns what passed to the broker and from it.
func (l *Link) Bytes() (up, down int64) { return l.up.Load(), l.fromBroker.Load() }

// Cuts returns how many connections were ended.
func (l *Link) Cuts() int { l.mu.Lock(); defer l.mu.Unlock(); return l.dead }

// Dial connects through the link.
func (l *Link) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.mu.Lock()
	down, rate, life := l.down, l.rate, l.life
	l.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: network, Err: net.ErrClosed}
	}
	c, err := l.next(ctx, network, address)
	if err != nil {
		return nil, err
	}
	lc := &linkConn{Conn: c, l: l, rate: rate}
	l.mu.Lock()
	l.conns[lc] = struct{}{}
	l.mu.Unlock()
	if life != nil {
		lc.timer = time.AfterFunc(life(), func() {
			l.mu.Lock()
			if _, open := l.conns[lc]; open {
				l.dead++
				delete(l.conns, lc)
			}
			l.mu.Unlock()
			_ = c.Close()
		})
	}
	return lc, nil
}

// atOnce is a wait that the caller does not notice.
const atOnce = 20 * time.Millisecond

type linkConn struct {
	net.Conn
	l        *Link
	rate     int64
	timer    *time.Timer
	rmu, wmu sync.Mutex
	rfree    time.Time // when the line is free again
	wfree    time.Time
}

// hold occupies the line for n bytes.
func (c *linkConn) hold(mu *sync.Mutex, free *time.Time, n int) {
	if c.rate == 0 {
		return
	}
	mu.Lock()
	now := time.Now()
	if free.Before(now) {
		*free = now
	}
	*free = free.Add(time.Duration(float64(n) / float64(c.rate) * float64(time.Second)))
	wait := free.Sub(now)
	mu.Unlock()
	if wait > atOnce { // a few bytes leave at once, as into the buffer of a socket
		time.Sleep(wait)
	}
}

// Read implements net.Conn.
func (c *linkConn) Read(b []byte) (int, error) {
	if c.rate > 0 && len(b) > 1024 {
		b = b[:1024]
	}
	n, err := c.Conn.Read(b)
	c.l.fromBroker.Add(int64(n))
	c.hold(&c.rmu, &c.rfree, n)
	return n, err
}

// Write implements net.Conn.
func (c *linkConn) Write(b []byte) (int, error) {
	sent := 0
	for sent < len(b) {
		part := b[sent:]
		if c.rate > 0 && len(part) > 1024 {
			part = part[:1024]
		}
		n, err := c.Conn.Write(part)
		c.l.up.Add(int64(n))
		sent += n
		if err != nil {
			return sent, err
		}
		c.hold(&c.wmu, &c.wfree, n)
	}
	return sent, nil
}

// Close implements net.Conn.
func (c *linkConn) Close() error {
	if c.timer != nil {
		c.timer.Stop()
	}
	c.l.mu.Lock()
	delete(c.l.conns, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}
