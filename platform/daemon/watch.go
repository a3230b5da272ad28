package daemon

import (
	"context"
	"fmt"
	"time"
)

// checksPerWatchdog is how many self-checks fit into the watchdog's time: one that fails
// for a moment does not cost a restart.
const checksPerWatchdog = 3

// withoutWatchdog is the pause between self-checks where nobody waits for them.
const withoutWatchdog = 30 * time.Second

// watch asks p how it is and feeds the watchdog when the answer is good. A check that does
// not come back is not asked again: it and the watchdog's patience end together.
func (r *runner) watch(ctx context.Context, p Program) {
	every := withoutWatchdog
	if r.Watchdog > 0 {
		every = r.Watchdog / checksPerWatchdog
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var answer chan error // of the check under way
	failed := 0
	for {
		if answer == nil {
			answer = make(chan error, 1)
			go check(ctx, p, every/2, answer)
		}
		select {
		case <-ctx.Done():
			return
		case err := <-answer:
			answer = nil
			if ctx.Err() != nil {
				return
			}
			failed = r.judge(err, failed)
		case <-tick.C:
			failed = r.judge(fmt.Errorf("no answer within %v", every), failed)
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// check asks p once.
func check(ctx context.Context, p Program, within time.Duration, answer chan<- error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	answer <- p.Health(ctx)
}

// judge feeds the watchdog or says why not, and returns how often in a row it did not.
func (r *runner) judge(err error, failed int) int {
	switch {
	case err != nil:
		r.log.Warn("self-check failed", "error", err, "in_a_row", failed+1)
		r.notify("STATUS=self-check failed: " + oneLine(err.Error()))
		return failed + 1
	case failed > 0:
		r.log.Info("self-check passed again", "after", failed)
		r.notify("WATCHDOG=1\nSTATUS=serving")
	default:
		r.notify("WATCHDOG=1")
	}
	return 0
}

// oneLine makes text fit into one line of a notification.
func oneLine(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < ' ' {
			b[i] = ' '
		}
	}
	return string(b[:min(len(b), 200)])
}
