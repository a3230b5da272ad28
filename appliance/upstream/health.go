package upstream

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"tidegate/appliance/wire"
	"time"
)

// stagger is the time between the first checks of the targets of a group: an activation
// does not ask all of them in one moment.
const stagger = 50 * time.Millisecond

// watch checks t, the n-th of its group, at the group's interval until ctx ends. It also
// closes the connections that nobody has used for long.
func (t *target) watch(ctx context.Context, n int, log *slog.Logger) {
	h := t.group.spec.Health
	interval := max(h.Interval, time.Second)
	if !sleep(ctx, min(time.Duration(n)*stagger, interval)) {
		return
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		healthy, err := t.probe(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil && t.judge(healthy) {
			log.Warn("backend health changed", "target", t.display, "healthy", healthy)
		}
		t.client.CloseExpired()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// judge counts one check and reports whether the target went up or down by it.
func (t *target) judge(healthy bool) bool {
	h := t.group.spec.Health
	t.mu.Lock()
	defer t.mu.Unlock()
	if healthy {
		t.fails = 0
		t.passes = min(t.passes+1, 250)
		return t.passes >= max(h.Healthy, 1) && t.down.CompareAndSwap(true, false)
	}
	t.passes = 0
	t.fails = min(t.fails+1, 250)
	return t.fails >= max(h.Unhealthy, 1) && t.down.CompareAndSwap(false, true)
}

// probe asks the target once. An error means that it could not be asked, for want of a
// connection: that says nothing about its health.
func (t *target) probe(ctx context.Context) (healthy bool, err error) {
	h := t.group.spec.Health
	timeout := h.Timeout
	if timeout == 0 {
		timeout = min(max(h.Interval, time.Second), 5*time.Second)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r := &wire.Request{Method: "GET", Base: t.base, Path: h.Path, Host: t.host, Timeout: timeout, Stall: timeout}
	resp, err := t.client.Do(ctx, r)
	if wire.Stale(err) {
		resp, err = t.client.Do(ctx, r)
	}
	switch {
	case errors.Is(err, wire.ErrBusy), errors.Is(err, wire.ErrClosed):
		return false, err
	case err != nil:
		return false, nil
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)); err != nil {
		return false, nil
	}
	if len(h.Statuses) > 0 {
		return slices.Contains(h.Statuses, uint16(resp.Status)), nil
	}
	return resp.Status >= 200 && resp.Status < 400, nil
}
