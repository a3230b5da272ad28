package daemon

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Hangups turns the hang-up signal into requests for a reload, until ctx ends. Where whoever
// started the program had the signal ignored (nohup(1)) it stays so, and the channel is nil.
func Hangups(ctx context.Context) <-chan struct{} {
	if signal.Ignored(syscall.SIGHUP) {
		return nil
	}
	got := make(chan os.Signal, 1)
	signal.Notify(got, syscall.SIGHUP)
	out := make(chan struct{}, 1)
	go func() {
		defer signal.Stop(got)
		for {
			select {
			case <-ctx.Done():
				return
			case <-got:
				select {
				case out <- struct{}{}:
				default: // one is waiting already
				}
			}
		}
	}()
	return out
}
