package wire

import (
	"context"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/semaphore"
)

// lanes are connections of HTTP/2 with a bound of calls on each. net/http has none: it puts as many on a
// connection as the backend allows.
type lanes struct {
	each int // calls on a connection
	room *semaphore.Weighted
	open []*lane // under the client's mu
}

// A lane is one connection: a transport of its own, that opens no second one.
type lane struct {
	t     *http.Transport
	born  time.Time
	calls int
}

func newLanes(t *Target) *lanes {
	if t.Streams <= 0 {
		return nil
	}
	return &lanes{each: t.Streams, room: semaphore.NewWeighted(int64(t.Streams) * int64(t.MaxActive))}
}

// enter returns what a call goes through, and what to call at its end. It waits for room as long as
// the target says.
func (h *h2client) enter(ctx context.Context) (*http.Transport, func(), error) {
	if h.lanes == nil {
		return h.transport(), func() {}, nil
	}
	wait, stop := context.WithTimeout(ctx, h.c.target.WaitTime)
	err := h.lanes.room.Acquire(wait, 1)
	stop()
	switch {
	case ctx.Err() != nil:
		if err == nil {
			h.lanes.room.Release(1)
		}
		return nil, nil, &TryError{Stage: StageWait, Err: context.Cause(ctx)}
	case err != nil:
		return nil, nil, &TryError{Stage: StageWait, Err: ErrBusy}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.lanes.open, func(l *lane) bool { return l.calls < h.lanes.each && !h.old(l.born) })
	if i < 0 {
		l := &lane{t: h.newTransport(), born: time.Now()}
		l.t.MaxConnsPerHost = 1
		i, h.lanes.open = len(h.lanes.open), append(h.lanes.open, l)
	}
	l := h.lanes.open[i]
	l.calls++
	return l.t, func() { h.leave(l) }, nil
}

// leave ends a call. A connection without calls is kept if it is young and one of those that may be.
func (h *h2client) leave(l *lane) {
	h.mu.Lock()
	l.calls--
	if l.calls == 0 && (h.old(l.born) || len(h.lanes.open) > h.c.target.MaxIdle) {
		h.lanes.open = slices.DeleteFunc(h.lanes.open, func(o *lane) bool { return o == l })
		l.t.CloseIdleConnections()
	}
	h.mu.Unlock()
	h.lanes.room.Release(1)
}

// old reports whether a connection has served long enough for its target to be resolved anew.
func (h *h2client) old(born time.Time) bool {
	age := h.c.target.MaxAge
	return age > 0 && time.Since(born) > age
}
