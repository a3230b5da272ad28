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
	"tidegate/policy/refusal"
	"tidegate/sync/intake"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/pipe"
	"tidegate/sync/trust"
	"time"
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
			return nil //nolint:nilerr // an end in order
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

// A fetch is an object on its way in. It outlives the connection, so that a cut costs what was
// in flight and nothing else; what a restart costs is one chunk.
type fetch struct {
	offer    message.Offer
	getter   *getter
	head     []byte // of part 0, as it comes
	whole    bool   // head is complete
	transfer *intake.Transfer
	have     int64
	wrong    map[int]int // chunks that were not what was signed

	address    string      // where the content can be had by https; "": nowhere
	direct     map[int]int // bytes from there of chunks, from their begin
	overBroker bool        // the rest comes over the broker
	wanted     bool        // the getter knows the rest
}

// end gives up what cannot be used and keeps what has been staged.
func (f *fetch) end() error {
	if f.transfer == nil {
		return nil
	}
	return f.transfer.Close()
}

// fetchOf returns the fetch of an object: the one that a cut has interrupted, or a new one.
func (s *session) fetchOf(a *message.Announcement) *fetch {
	f, o := s.c.fetch, a.Offer
	if f == nil || f.offer != *o {
		s.dropFetch()
		f = &fetch{offer: *o, getter: newGetter(s.c.o.PieceBytes, o.Digest), wrong: map[int]int{}, direct: map[int]int{}}
		f.getter.want(0, int(o.Head)) //nolint:gosec // at most 2 MiB
		s.c.fetch = f
	}
	f.address = a.URL
	f.getter.resume(s)
	return f
}

func (s *session) dropFetch() {
	f := s.c.fetch
	s.c.fetch = nil
	if f == nil {
		return
	}
	if err := f.end(); err != nil {
		s.c.log.Error("staging", "err", err)
	}
}

// fetchOne brings in one object.
func (s *session) fetchOne(ctx context.Context, a *message.Announcement, retry bool) error {
	o := a.Offer
	if a.Spread > 0 && (s.c.fetch == nil || s.c.fetch.offer != *o) &&
		!sleep(ctx, time.Duration(rand.Uint64N(a.Spread*1000))*time.Millisecond) { //nolint:gosec // at most a week
		return ctx.Err()
	}
	if why := s.c.unwanted(o, retry); why != "" { // it may have come another way meanwhile
		s.c.drop(why)
		return nil
	}
	s.busy(o)
	defer s.idle()
	f := s.fetchOf(a)
	err := s.fetchHead(ctx, f)
	if err == nil {
		if o.Object == message.BundleObject {
			err = s.bringIn(ctx, f, retry)
		} else {
			err = s.offerFile(ctx, o, f.head)
		}
	}
	if ctx.Err() != nil || s.pipe.Err() != nil || errors.Is(err, pipe.ErrClosed) {
		return err // it goes on with the next connection
	}
	s.dropFetch()
	switch {
	case err == nil || refusal.Is(err, refusal.Busy):
	case errors.Is(err, errStalled):
		s.c.log.Warn("transfer waits", "word", string(refusal.WarnStalled), "digest", o.Digest.String())
		s.c.drop("stalled")
	default:
		s.c.block(o.Digest)
		s.c.log.Warn("not taken in", "digest", o.Digest.String(), "err", err)
	}
	return err
}

// fetchHead fetches part 0 into memory, which grows as it comes.
func (s *session) fetchHead(ctx context.Context, f *fetch) error {
	if f.whole {
		return nil
	}
	err := f.getter.run(ctx, func(_, off int, data []byte) error {
		if n := off + len(data); n > len(f.head) {
			f.head = append(f.head, make([]byte, n-len(f.head))...)
		}
		copy(f.head[off:], data)
		s.c.progress(int64(len(f.head)))
		return nil
	})
	f.whole = err == nil
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
func (s *session) bringIn(ctx context.Context, f *fetch, retry bool) error {
	if f.transfer == nil {
		t, r, err := s.c.o.Desk.Begin(ctx, "mqtt", "", f.head, retry)
		if err != nil || t == nil {
			return err
		}
		f.transfer = t
		if r.Digest != f.offer.Digest {
			return refusal.New(refusal.Digest, "bundle %s was announced, and the head is of %s", f.offer.Digest, r.Digest)
		}
		if _, err := f.count(); err != nil {
			return err
		}
	}
	s.c.progress(f.have)
	if !f.wanted {
		if err := s.fetchDirect(ctx, f); err != nil {
			return err
		}
		if err := f.wantRest(); err != nil {
			return err
		}
	}
	s.c.progress(f.have)
	t := f.transfer
	if err := f.getter.run(ctx, func(part, off int, data []byte) error { return s.put(ctx, f, part-1, off, data) }); err != nil {
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

// put hands a piece of chunk i to the desk. A chunk that is not what was signed is asked for
// again, and after three times the bundle is refused.
func (s *session) put(ctx context.Context, f *fetch, i, off int, data []byte) error {
	_, err := f.transfer.PutPiece(i, off, data)
	switch {
	case err == nil:
		f.have += int64(len(data))
	case !refusal.Is(err, refusal.Digest):
		return err
	default:
		if f.wrong[i]++; f.wrong[i] >= wrongTimes {
			f.transfer.Refuse(ctx, err)
			return err
		}
		s.c.drop("chunk-wrong")
		size := int(f.transfer.Chunks()[i].Size) //nolint:gosec // at most 1 MiB
		f.getter.want(i+1, size)
		f.have -= int64(size - len(data))
	}
	s.c.progress(f.have)
	return nil
}

func (c *Client) progress(have int64) {
	c.set(func(l *Link) {
		if l.Fetching != nil {
			l.Fetching.Have = have
		}
	})
}
