package mqttsync

import (
	"context"
	"tidegate/platform/clock"
	"tidegate/store/events"
	"tidegate/sync/intake"
	"tidegate/sync/mqttsync/message"
	"time"
)

// keepHouse asks for the time and who is there, repeats what is not answered, and ends a
// connection that has done its work.
func (s *session) keepHouse(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	began := time.Now()
	var statusAt, resultsAt time.Time
	if s.began {
		statusAt = began
	}
	changed := false
	wake := s.c.wake
	if s.why == timeOnly {
		wake = nil // whoever asks wants another connection than this
	}
	for {
		now := time.Now()
		if err := s.askTime(ctx, now); err != nil {
			return err
		}
		if s.why == timeOnly {
			if s.c.o.Clock.Now().Quality != clock.Unsynced {
				return errDone
			}
			if now.Sub(began) > 3*answerIn {
				return errSilent
			}
		} else {
			if s.c.newestAsk() != s.ask {
				s.askAgain()
			}
			if err := s.sayHello(ctx, now); err != nil {
				return err
			}
			if now.Sub(resultsAt) >= resultAgain || changed {
				resultsAt = now
				if err := s.sendResults(ctx); err != nil {
					return err
				}
			}
			if changed && now.Sub(statusAt) >= statusGap || now.Sub(statusAt) >= s.c.o.StatusEvery {
				changed, statusAt = false, now
				if err := s.sendStatus(ctx); err != nil {
					return err
				}
			}
			if err := s.over(now); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.c.change:
			changed = true
		case <-wake:
		case <-tick.C:
		}
	}
}

func (s *session) askTime(ctx context.Context, now time.Time) error {
	s.mu.Lock()
	due := !now.Before(s.timeDue)
	var n message.Nonce
	if due {
		n = message.NewNonce()
		s.timeNonce, s.timeAsked, s.timeDue = n, now, now.Add(timeRetry)
	}
	s.mu.Unlock()
	root := s.c.o.Desk.Trust().Root()
	if !due || root == nil {
		return nil
	}
	return s.sendUnsigned(ctx, &message.TimeRequest{Nonce: n})
}

// sayHello asks who is there, and again with growing pauses while somebody is missing.
func (s *session) sayHello(ctx context.Context, now time.Time) error {
	s.mu.Lock()
	wait := !s.askedAt.IsZero() && (now.Sub(s.askedAt) < s.helloEvery || s.publisher && s.collector)
	silent := !s.askedAt.IsZero() && !s.publisher && !s.collector && now.Sub(s.askedAt) >= answerIn
	if !wait {
		if !s.askedAt.IsZero() {
			s.helloEvery = min(2*s.helloEvery, helloCap)
		}
		s.hello, s.askedAt = message.NewToken(), now
	}
	h := s.hello
	s.mu.Unlock()
	if silent {
		s.c.set(func(l *Link) { l.State, l.Err, l.Hint = Unanswered, errSilent.Error(), hint(errSilent) })
	}
	if wait {
		return nil
	}
	st := s.c.o.Desk.Status()
	m := &message.Hello{Token: h, Product: st.Device.Product, Channel: st.Device.Channel, Bundle: bundleOf(st), Root: st.Root}
	if e := s.c.o.Desk.Trust().Enrolment(); e != nil {
		m.Enrol = e.Seq
	}
	return s.sendUnsigned(ctx, m)
}

// stateOf is the state of a device's bundles in one word.
func stateOf(st intake.Status) string {
	switch {
	case st.Trial != nil:
		return "trial"
	case st.Serving != nil:
		return "confirmed"
	case st.Good != nil:
		return "safe-mode"
	}
	return "none"
}

func bundleOf(st intake.Status) *message.Bundle {
	if st.Good == nil && st.Trial == nil {
		return nil
	}
	b := &message.Bundle{Trial: []byte{}}
	if st.Good != nil {
		b.Good, b.Seq = st.Good.Digest, st.Good.Seq
	}
	if st.Trial != nil {
		b.Trial = st.Trial.Digest[:]
	}
	return b
}

func (s *session) sendResults(ctx context.Context) error {
	for _, k := range s.c.results.pending() {
		m := &message.Result{Product: k.Product, Channel: k.Channel, Digest: k.Digest, Phase: k.Phase, Word: k.Word, Detail: k.Detail, Number: k.Seq}
		b, err := message.Report(m, s.c.domain(), k.Number, s.c.unix(), s.c.o.Key)
		if err != nil {
			return err
		}
		if err := s.send(ctx, message.ReportPart, b); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) sendStatus(ctx context.Context) error {
	b, err := s.c.statusMessage(s.nonce)
	if err != nil {
		return err
	}
	return s.send(ctx, message.StatusPart, b)
}

// Status returns the signed status of the device as a message that a stick can carry too.
func (c *Client) Status() ([]byte, error) { return c.statusMessage(message.Token{}) }

// WentOut notes that batches up to cur left the device on a stick, so that an ack of them counts.
func (c *Client) WentOut(cur events.Cursor) { c.drain.WentOut(cur) }

func (c *Client) statusMessage(nonce message.Token) ([]byte, error) {
	m := Describe(c.o.Desk.Status(), c.o.Clock.Now(), c.o.Queue.Status())
	m.Boot, m.Nonce, m.Version = c.o.BootID, nonce, cut(c.o.Version, 64)
	m.Written = uint64(c.budget.spent()) //nolint:gosec // not negative
	c.mu.Lock()
	for name, n := range c.drops {
		m.Drops = append(m.Drops, message.Count{Name: name, N: n})
	}
	c.mu.Unlock()
	sortStatus(m)
	return message.Report(m, c.domain(), 1, c.unix(), c.o.Key)
}

// Describe returns what a device says of itself, unsigned: the same for the link and for a stick.
func Describe(st intake.Status, r clock.Reading, q events.Status) *message.Status {
	m := &message.Status{
		Product: st.Device.Product, Channel: st.Device.Channel, Labels: st.Device.Labels,
		State: stateOf(st), Bundle: bundleOf(st), Root: st.Root,
		Clock: message.Clock{State: uint64(r.Quality), Floor: uint64(max(r.Lower.Unix(), 0))}, //nolint:gosec // 0 to 2; not negative
	}
	if r.Quality != clock.Unsynced {
		m.Clock.Error = uint64(max(r.Upper.Sub(r.Lower).Milliseconds(), 0)) //nolint:gosec // not negative
	}
	for _, k := range q.Classes {
		v := message.Queue{Class: uint64(k.Class), Epoch: k.Epoch, Head: k.Head, Acked: k.Acked, Size: uint64(max(k.Bytes, 0))} //nolint:gosec // not negative
		for _, n := range k.Lost {
			v.Lost += n
		}
		if k.Epoch != (message.Epoch{}) {
			m.Queues = append(m.Queues, v)
		}
	}
	for w := range st.Alarms {
		m.Alarms = append(m.Alarms, string(w))
	}
	if w := st.Last.Word; w != "" {
		m.Last = &message.Verdict{Digest: []byte{}, Word: string(w), Detail: cut(st.Last.Detail, 300)}
		if st.Last.Digest != (intake.Report{}).Digest {
			m.Last.Digest = st.Last.Digest[:]
		}
	}
	sortStatus(m)
	return m
}
