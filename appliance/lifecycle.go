package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// teardown is a stack of steps that undo a start, run backwards, once.
type teardown struct {
	log   *slog.Logger
	steps []step
}

type step struct {
	name string
	run  func(context.Context) error
}

// push adds a step to be run before all that were added earlier.
func (t *teardown) push(name string, run func(context.Context) error) {
	t.steps = append(t.steps, step{name, run})
}

// unwind runs every step within ctx and returns their errors joined.
func (t *teardown) unwind(ctx context.Context) error {
	var errs []error
	for _, s := range slices.Backward(t.steps) {
		begin := time.Now()
		if err := s.run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			errs = append(errs, fmt.Errorf("stop %s: %w", s.name, err))
		}
		t.log.Debug("stopped", "what", s.name, "took", time.Since(begin))
	}
	t.steps = nil
	return errors.Join(errs...)
}

// task runs fn in a goroutine that a step of t ends and waits for.
func (t *teardown) task(name string, fn func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	t.push(name, func(stop context.Context) error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-stop.Done():
			return fmt.Errorf("did not end: %w", stop.Err())
		}
	})
}
