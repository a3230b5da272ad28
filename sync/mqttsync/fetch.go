package mqttsync

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"tidegate/policy/refusal"
	"tidegate/sync/intake"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/trust"
)

const (
	leaveAlone = time.Hour        // a bundle that could not be brought in
	busyAgain  = 30 * time.Second // another candidate is at the desk
	wrongTimes = 3                // a chunk may be wrong before the bundle is given up
)

func sortStatus(m *message.Status) {
	slices.Sort(m.Alarms)
	slices.SortFunc(m.Drops, func(a, b message.Count) int { return cmp.Compare(a.Name, b.Name) })
}

// takeAnnouncement keeps an announcement if it could be wanted. A flood costs no more than
// looking at each.
func (s *session) takeAnnouncement(b []byte) string {
	v, err := message.Decode(b)
	a, ok := v.(*message.Announcement)
	if err != nil || !ok {
		return "malformed"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.Token != nil {
		if *a.Token != s.hello {
			return "announcement-old"
		}
		s.publisher = true
		s.news = time.Now()
		defer func() { go s.show() }()
	}
	if a.Offer == nil {
		return ""
	}
	if why := s.c.unwanted(a.Offer, s.retry); why != "" {
		return why
	}
	if s.offer != nil && s.offer.Offer.Digest == a.Offer.Digest {
		return "announcement-again"
	}
	s.offer = a
	select {
	case s.offers <- struct{}{}:
	default:
	}
	return ""
}

// unwanted returns why an offer is ignored, or "". It is a hint like the offer itself: what is
// fetched is judged by the desk.
func (c *Client) unwanted(o *message.Offer, retry bool) string {
	st := c.o.Desk.Trust()
	root := st.Root()
	if root == nil {
		return "announcement-no-root"
	}
	c.mu.Lock()
	until := c.blocked[o.Digest]
	c.mu.Unlock()
	if time.Now().Before(until) {
		return "announcement-blocked"
	}
	switch o.Object {
	case message.RootObject:
		if o.Seq <= root.Version {
			return "announcement-old"
		}
		return ""
	case message.EnrolmentObject:
		if e := st.Enrolment(); e != nil && o.Seq <= e.Seq {
			return "announcement-old"
		}
		return ""
	}
	ds := c.o.Desk.Status()
	if ds.Trial != nil && ds.Trial.Digest == o.Digest {
		return "announcement-old"
	}
	if l, ok := st.Confirmed(ds.Device.Product, ds.Device.Channel); ok && (o.Epoch < l.Epoch || o.Epoch == l.Epoch && o.Seq <= l.Seq) {
		if ds.Serving == nil || !ds.Serving.Damaged || ds.Serving.Digest != o.Digest {
			return "announcement-old"
		}
	}
	if _, failed := st.Failure(o.Digest); failed && !retry {
		return "announcement-failed"
	}
	return ""
}

// block leaves an object alone for a while.
func (c *Client) block(d trust.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for k, until := range c.blocked {
		if now.After(until) || len(c.blocked) > 256 {
			delete(c.blocked, k)
		}
	}
	c.blocked[d] = now.Add(leaveAlone)
}

func (c *Client) unblock() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.blocked)
}

// fetchOffers fetches what was announced, one object at a time, the newest first.
func (s *session) fetchOffers(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.offers:
		}
		s.mu.Lock()
		a, retry := s.offer, s.retry
		s.mu.Unlock()
		if a == nil {
			continue
		}
		err := s.fetchOne(ctx, a, retry)
		if ctx.Err() != nil {
			return nil
		}
		again := refusal.Is(err, refusal.Busy)
		if again && !sleep(ctx, busyAgain) {
			return nil
		}
		s.mu.Lock()
		again = again || s.offer != a // another came in between
		if s.offer == a && !again {
			s.offer = nil
		}
		s.news = time.Now()
		if s.retry && !again {
			s.retry = false
		}
		if again {
			select {
			case s.offers <- struct{}{}:
			default:
			}
		}
		if errors.Is(err, errStalled) || err == nil && a.Offer.Object != message.BundleObject {
			// A publisher that knows what we have now may offer more.
			s.askedAt, s.helloEvery, s.publisher, s.offer = time.Time{}, answerIn, false, nil
		}
		s.mu.Unlock()
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// fetchOne brings in one object.
func (s *session) fetchOne(ctx context.Context, a *message.Announcement, retry bool) error {
	o := a.Offer
	if a.Spread > 0 && !sleep(ctx, time.Duration(rand.Uint64N(a.Spread*1000))*time.Millisecond) { //nolint:gosec // at most a week
		return ctx.Err()
	}
	if why := s.c.unwanted(o, retry); why != "" { // it may have come another way meanwhile
		s.c.drop(why)
		return nil
	}
	s.busy(o)
	defer s.idle()
	g := newGetter(s, o.Digest)
	head, err := g.whole(ctx, int(o.Head)) //nolint:gosec // at most 2 MiB
	if err == nil {
		if o.Object == message.BundleObject {
			err = s.bringIn(ctx, g, o, head, retry)
		} else {
			err = s.offerFile(ctx, o, head)
		}
	}
	switch {
	case err == nil || ctx.Err() != nil || refusal.Is(err, refusal.Busy):
	case errors.Is(err, errStalled):
		s.c.log.Warn("transfer waits", "word", string(refusal.WarnStalled), "digest", o.Digest.String())
		s.c.drop("stalled")
	default:
		s.c.block(o.Digest)
		s.c.log.Warn("not taken in", "digest", o.Digest.String(), "err", err)
	}
	return err
}

func (s *session) busy(o *message.Offer) {
	s.c.hold.Store(true)
	s.mu.Lock()
	s.fetching = true
	s.mu.Unlock()
	s.c.set(func(l *Link) { l.Fetching = &Fetch{Digest: o.Digest, Total: int64(min(o.Head+o.Total, 1<<40))} }) //nolint:gosec // bounded
}

func (s *session) idle() {
	s.c.hold.Store(false)
	s.c.drain.Wake()
	s.mu.Lock()
	s.fetching = false
	s.mu.Unlock()
	s.c.set(func(l *Link) { l.Fetching = nil })
}

// offerFile takes in a root or an enrolment.
func (s *session) offerFile(ctx context.Context, o *message.Offer, b []byte) error {
	if sha256.Sum256(b) != o.Digest {
		return refusal.New(refusal.Digest, "what came is not what was announced")
	}
	name := "root.tideroot"
	if o.Object == message.EnrolmentObject {
		name = "device.tidedevice"
	}
	_, err := s.c.o.Desk.Offer(ctx, intake.Candidate{Source: "mqtt", Name: name, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b)), nil
	}})
	return err
}

// bringIn fetches the content of a bundle whose head is here.
func (s *session) bringIn(ctx context.Context, g *getter, o *message.Offer, head []byte, retry bool) error {
	t, r, err := s.c.o.Desk.Begin(ctx, "mqtt", "", head, retry)
	if err != nil || t == nil {
		return err
	}
	defer func() {
		if err := t.Close(); err != nil {
			s.c.log.Error("staging", "err", err)
		}
	}()
	if r.Digest != o.Digest {
		return refusal.New(refusal.Digest, "bundle %s was announced, and the head is of %s", o.Digest, r.Digest)
	}
	chunks := t.Chunks()
	missing, err := t.Missing()
	if err != nil {
		return err
	}
	have := int64(len(head))
	for _, c := range chunks {
		have += int64(c.Size) //nolint:gosec // at most 1 MiB
	}
	for _, i := range missing {
		have -= int64(chunks[i].Size) //nolint:gosec // at most 1 MiB
		g.want(i+1, int(chunks[i].Size))
	}
	s.c.progress(have)
	wrong := map[int]int{}
	err = g.run(ctx, func(part, off int, data []byte) error {
		i := part - 1
		_, err := t.PutPiece(i, off, data)
		if refusal.Is(err, refusal.Digest) {
			if wrong[i]++; wrong[i] >= wrongTimes {
				t.Refuse(ctx, err)
				return err
			}
			s.c.drop("chunk-wrong")
			g.want(part, int(chunks[i].Size)) // all of it again
			have -= int64(chunks[i].Size) - int64(len(data))
			s.c.progress(have)
			return nil
		}
		if err == nil {
			have += int64(len(data))
			s.c.progress(have)
		}
		return err
	})
	if err != nil {
		return err
	}
	for {
		_, err := t.Finish(ctx)
		if !refusal.Is(err, refusal.Busy) {
			return err
		}
		if _, ended := t.Missing(); ended != nil || !sleep(ctx, busyAgain) {
			return err // it begins anew when the desk is free
		}
	}
}

func (c *Client) progress(have int64) {
	c.set(func(l *Link) {
		if l.Fetching != nil {
			l.Fetching.Have = have
		}
	})
}
