package upstream

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"time"

	"tidegate/appliance/wire"
)

// watch checks t at its group's interval until ctx ends.
func (t *target) watch(ctx context.Context, log *slog.Logger) {
	h := t.group.spec.Health
	tick := time.NewTicker(max(h.Interval, time.Second))
	defer tick.Stop()
	for {
		healthy := t.probe(ctx)
		if ctx.Err() != nil {
			return
		}
		if changed := t.judge(healthy); changed {
			log.Warn("backend health changed", "target", t.display, "healthy", healthy)
		}
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

// probe asks the target once.
func (t *target) probe(ctx context.Context) bool {
	h := t.group.spec.Health
	timeout := h.Timeout
	if timeout == 0 {
		timeout = min(max(h.Interval, time.Second), 5*time.Second)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	resp, err := t.client.Do(ctx, &wire.Request{Method: "GET", Base: t.base, Path: h.Path, Host: t.host, Timeout: timeout})
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)); err != nil {
		return false
	}
	if len(h.Statuses) > 0 {
		return slices.Contains(h.Statuses, uint16(resp.Status))
	}
	return resp.Status >= 200 && resp.Status < 400
}
