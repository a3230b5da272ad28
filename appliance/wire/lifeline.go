package wire

import (
	"context"
	"sync"
	"time"
)

// A lifeline is the context of a client's connection. It can cut the backend connection
// that works for the client without a goroutine or an allocation per call: [Client.Do]
// knows it by type. The zero lifeline is ready.
type lifeline struct {
	mu     sync.Mutex
	err    error
	done   chan struct{}
	cut    *clientConn // works for this client now
	after  map[int]func()
	nextID int
}

// Deadline returns none.
func (l *lifeline) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value returns nil.
func (l *lifeline) Value(any) any { return nil }

// Err returns context.Canceled after the end.
func (l *lifeline) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Done returns a channel that is closed at the end.
func (l *lifeline) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done = make(chan struct{})
		if l.err != nil {
			close(l.done)
		}
	}
	return l.done
}

// AfterFunc makes contexts derived from l cost no goroutine; see [context.AfterFunc].
func (l *lifeline) AfterFunc(f func()) func() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		go f()
		return func() bool { return false }
	}
	if l.after == nil {
		l.after = make(map[int]func())
	}
	id := l.nextID
	l.nextID++
	l.after[id] = f
	return func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		_, ok := l.after[id]
		delete(l.after, id)
		return ok
	}
}

// end cancels the context.
func (l *lifeline) end() {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err = context.Canceled
	if l.done != nil {
		close(l.done)
	}
	if l.cut != nil {
		l.cut.interrupt()
	}
	after := l.after
	l.after = nil
	l.mu.Unlock()
	for _, f := range after {
		go f()
	}
}

// hold makes the end interrupt c. It reports false when the end has come or another
// connection is held.
func (l *lifeline) hold(c *clientConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil || l.cut != nil {
		return false
	}
	l.cut = c
	return true
}

// let undoes hold. After it, the end does not touch c.
func (l *lifeline) let(c *clientConn) {
	l.mu.Lock()
	if l.cut == c {
		l.cut = nil
	}
	l.mu.Unlock()
}
