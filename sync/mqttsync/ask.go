package mqttsync

import (
	"context"
	"errors"
	"slices"
	"tidegate/store/events"
	"time"
)

// longestRound ends a round that is not done.
const longestRound = time.Hour

// errUnfinished says that a round did not get done.
var errUnfinished = errors.New("an hour was not enough to fetch and deliver all; the rest follows when the link allows")

// Wake asks for a connection now, whatever the mode and the windows say: a person did, or there
// is something that should not wait. On a link that is open, both ends are asked again.
func (c *Client) Wake() { c.ask(nil) }

// ask begins a round. Who waits for it gives a channel with room for one.
func (c *Client) ask(done chan round) {
	c.mu.Lock()
	c.asks++
	if done != nil {
		c.waiting = append(c.waiting, waiter{c.asks, done})
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
	c.drain.Wake()
}

// Sync does what [Client.Wake] does and waits until it is done: who answers has been heard,
// what was announced is fetched, and what the queue held is acknowledged. Without a publisher
// that answers, nothing is looked for; without a collector, the queue stays as it is. It takes an
// hour at most on a connection that lives. It returns how the link was then: which ends have
// answered. A [*LinkError] says why a connection could not be
// had, and the client goes on trying, or what a connection did not get done.
func (c *Client) Sync(ctx context.Context) (Link, error) {
	if c.budget.empty() {
		return c.Link(), withHint(errBudget)
	}
	done := make(chan round, 1)
	c.ask(done)
	select {
	case r := <-done:
		return r.link, withHint(r.err)
	case <-ctx.Done():
		c.mu.Lock()
		c.waiting = slices.DeleteFunc(c.waiting, func(w waiter) bool { return w.done == done })
		c.mu.Unlock()
		return c.Link(), ctx.Err()
	}
}

// A round is what became of what somebody asked for.
type round struct {
	link Link
	err  error
}

// A waiter waits for the round that its ask has begun.
type waiter struct {
	ask  uint64
	done chan round
}

// A LinkError is why a connection could not be had, and what a person can do about it.
type LinkError struct {
	Err  error
	Hint string // may be empty
}

func (e *LinkError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *LinkError) Unwrap() error { return e.Err }

func withHint(err error) error {
	if err == nil {
		return nil
	}
	return &LinkError{err, hint(err)}
}

// asked reports whether somebody asked for a connection.
func (c *Client) asked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asks > c.answered
}

// newestAsk numbers who asked last.
func (c *Client) newestAsk() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asks
}

// tell tells who waits for a round how it went, up to the ask that it began with. When a round
// was had, what was asked for is over, however it went; without one it is tried again.
func (c *Client) tell(ask uint64, err error) {
	r := round{c.Link(), err}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = slices.DeleteFunc(c.waiting, func(w waiter) bool {
		if w.ask > ask {
			return false
		}
		w.done <- r // there is room for one
		return true
	})
	if err == nil || errors.Is(err, errSilent) || errors.Is(err, errUnfinished) {
		c.answered = max(c.answered, ask)
	}
}

// askAgain begins a round on a connection that is open.
func (s *session) askAgain() {
	s.c.statusChanged()
	s.ask = s.c.newestAsk()
	goal := s.c.o.Queue.Status()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.round, s.goal = time.Now(), goal
	s.askedAt, s.helloEvery = time.Time{}, answerIn
	s.publisher, s.collector = false, false
	s.news = time.Now()
}

// over returns why a connection ends now, nil if it goes on: it does not stay and has done its
// work, or its window has ended. Who waits for a round is told when it is done.
func (s *session) over(now time.Time) error {
	if s.c.newestAsk() != s.ask {
		return nil // a new round begins
	}
	asked := s.c.asked()
	if s.why == drainAll && !asked && s.c.o.Mode == Windows && s.windowEnded() {
		return errDone
	}
	if s.why != drainAll && !asked {
		return nil
	}
	done, err := s.settled(now)
	switch {
	case !done:
		return nil
	case s.why == drainAll && errors.Is(err, errSilent): // perhaps at the next broker
		return err
	}
	s.c.tell(s.ask, err)
	if s.why != drainAll || s.active(now) {
		return nil
	}
	return errDone
}

func (s *session) windowEnded() bool {
	w, left := s.c.inWindow(s.c.o.Clock.Now().Lower)
	if left <= 0 {
		return true
	}
	up, down := s.pipe.Bytes()
	return w.Bytes > 0 && up+down >= w.Bytes
}

// active reports whether something comes in, or there was news of late.
func (s *session) active(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetching || s.offer != nil || now.Sub(s.news) < quietEnd
}

// settled reports whether the round is done: the connection is not active, and if a collector
// has answered, what the queue held at its beginning is delivered; or there is no use in waiting
// any longer. The error says what is not done.
func (s *session) settled(now time.Time) (bool, error) {
	active, queue := s.active(now), s.c.o.Queue.Status()
	s.mu.Lock()
	defer s.mu.Unlock()
	took := now.Sub(s.round)
	switch {
	case active:
		return took >= longestRound, errUnfinished
	case !s.publisher && !s.collector:
		return took >= 2*answerIn, errSilent
	case (!s.publisher || !s.collector) && took < 2*answerIn: // who is missing may answer yet
		return false, nil
	case !s.collector || delivered(s.goal, queue):
		return true, nil
	}
	return took >= longestRound, errUnfinished
}

// delivered reports whether everything that a queue held before is acknowledged or lost.
func delivered(before, now events.Status) bool {
	if now.Losses > 0 || now.Err != nil {
		return false
	}
	for i, k := range now.Classes {
		if b := before.Classes[i]; k.Count > 0 && k.Epoch == b.Epoch && k.Acked < b.Head {
			return false
		}
	}
	return true
}
