package mqttsync

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"tidegate/platform/clock"
	"tidegate/store/events"
	"tidegate/store/events/batch"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/pipe"
	"tidegate/sync/mqttsync/ranges"
	"tidegate/sync/report"
	"tidegate/sync/trust"
	"tidegate/sync/uplink"
	"time"
)

const (
	backlog     = 16 // messages that wait; a flood beyond it is dropped and counted
	answerIn    = 30 * time.Second
	helloCap    = 15 * time.Minute
	timeEvery   = 6 * time.Hour
	timeRetry   = time.Minute
	timeTrip    = 10 * time.Second // longest round trip of an attestation
	resultAgain = time.Minute
	quietEnd    = 10 * time.Second // a connection that drains ends after so long without news
	statusGap   = 5 * time.Second  // between two status messages
)

var (
	// errDone ends a connection that has done what it was for.
	errDone = errors.New("done")
	// errSilent says that nobody answered.
	errSilent = errors.New("nobody answers")
)

// A session is one connection.
type session struct {
	c     *Client
	why   purpose
	pipe  *pipe.Pipe
	nonce message.Token  // of the birth and the will
	began bool           // the birth was sent
	ask   uint64         // the newest that the round is for
	web   *ranges.Client // of the fetch; nil: no address was asked yet

	pieces chan *message.Piece // for the fetch
	offers chan struct{}       // a token: offer is new

	mu         sync.Mutex
	hello      message.Token
	askedAt    time.Time // of the newest hello; zero: none is open
	helloEvery time.Duration
	publisher  bool
	collector  bool
	offer      *message.Announcement // the newest that is wanted
	timeNonce  message.Nonce
	timeAsked  time.Time // zero: no request is open
	timeDue    time.Time
	retry      bool // the next fetch ignores an earlier failure
	news       time.Time
	round      time.Time     // when the asking began
	goal       events.Status // what the queue held then
	fetching   bool
	started    sync.Once
	collectors chan struct{} // closed when a collector has answered
}

func newSession(c *Client, why purpose) *session {
	return &session{
		c: c, why: why, nonce: message.NewToken(), ask: c.newestAsk(), pieces: make(chan *message.Piece, 8), offers: make(chan struct{}, 1),
		helloEvery: answerIn, collectors: make(chan struct{}),
	}
}

// answered reports whether a publisher or a collector has.
func (s *session) answered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.publisher || s.collector
}

// run speaks until the connection ends.
func (s *session) run(ctx context.Context, p *pipe.Pipe) error {
	s.pipe = p
	defer p.Close()
	defer func() {
		if s.web != nil {
			s.web.Close()
		}
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel(nil)
	part := func(fn func(context.Context) error) {
		parts.Go(func() {
			if err := fn(ctx); err != nil {
				cancel(err)
			}
		})
	}
	part(s.receive)
	if err := s.subscribe(ctx); err != nil {
		return err
	}
	s.ask = s.c.newestAsk()
	goal := s.c.o.Queue.Status()
	s.mu.Lock()
	s.news = time.Now()
	s.round, s.goal = s.news, goal
	s.mu.Unlock()
	if s.why != timeOnly {
		if err := s.sendStatus(ctx); err != nil {
			return fmt.Errorf("birth: %w", err)
		}
		s.began = true
		part(s.fetchOffers)
		part(s.drainWhenCollected)
	}
	part(s.keepHouse)
	<-ctx.Done()
	return context.Cause(ctx)
}

func (s *session) subscribe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	o := s.c.o
	filters := []string{o.Fleet.Down(o.Device)}
	if s.why == timeOnly {
		filters = []string{s.c.topic(message.TimePart)}
	} else if d := o.Desk.Status().Device; d.Product != "" && d.Channel != "" {
		filters = append(filters, o.Fleet.Channel(d.Product, d.Channel))
	}
	return s.pipe.Subscribe(ctx, filters...)
}

func (s *session) send(ctx context.Context, p message.Part, b []byte) error {
	return s.pipe.Send(ctx, s.c.topic(p), b)
}

func (s *session) sendUnsigned(ctx context.Context, m any) error {
	b, err := message.Encode(m)
	if err != nil {
		return err
	}
	return s.send(ctx, message.RequestPart, b)
}

// receive hands incoming messages out. It never waits for who works with them.
func (s *session) receive(ctx context.Context) error {
	var dropped int64
	for {
		m, err := s.pipe.Receive(ctx)
		if n := s.pipe.Dropped(); n > dropped {
			for range min(n-dropped, 1000) {
				s.c.drop("flood")
			}
			dropped = n
		}
		if err != nil {
			return err
		}
		if why := s.take(ctx, m); why != "" {
			s.c.drop(why)
		}
	}
}

// take returns why a message was thrown away, or "".
func (s *session) take(ctx context.Context, m pipe.Message) string {
	id, part, ok := s.c.o.Fleet.Split(m.Topic)
	switch {
	case !ok:
		d := s.c.o.Desk.Status().Device
		if s.why == timeOnly || m.Topic != s.c.o.Fleet.Channel(d.Product, d.Channel) {
			return "topic"
		}
		part = message.AnnouncePart
	case id != s.c.o.Device:
		return "topic"
	}
	if s.why == timeOnly && part != message.TimePart {
		return "not-now"
	}
	switch part {
	case message.TimePart:
		return s.takeTime(m.Payload)
	case message.AckPart:
		return s.takeAck(m.Payload)
	case message.CommandPart:
		return s.takeCommand(ctx, m.Payload)
	case message.AnnouncePart:
		return s.takeAnnouncement(m.Payload)
	case message.PiecePart:
		v, err := message.Decode(m.Payload)
		p, ok := v.(*message.Piece)
		if err != nil || !ok {
			return "malformed"
		}
		select {
		case s.pieces <- p:
			return ""
		default:
			return "piece-unasked"
		}
	}
	return "topic"
}

func (s *session) takeAck(b []byte) string {
	a, err := s.c.drain.Acknowledge(b)
	if err != nil {
		s.c.log.Debug("ack ignored", "err", err)
		return "ack"
	}
	if err := s.c.results.acked(a.Results); err != nil {
		s.c.log.Error("results not stored", "err", err)
	}
	s.mu.Lock()
	s.news = time.Now()
	s.collector = true
	s.mu.Unlock()
	s.started.Do(func() { close(s.collectors) })
	s.show()
	return ""
}

// show tells status who answers.
func (s *session) show() {
	s.mu.Lock()
	p, k := s.publisher, s.collector
	s.mu.Unlock()
	s.c.set(func(l *Link) {
		l.Publisher, l.Collector = p, k
		if p || k {
			l.State, l.Err, l.Hint = Connected, "", ""
		}
	})
}

// drainWhenCollected sends events once somebody is there who stores them.
func (s *session) drainWhenCollected(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.collectors:
	}
	return s.c.drain.Run(ctx, sink{s})
}

// A sink sends parcels over the link.
type sink struct{ s *session }

// Send implements uplink.Sink.
func (k sink) Send(ctx context.Context, p uplink.Parcel) error {
	part := message.BatchPart
	if p.Kind == uplink.LossParcel {
		part = message.ReportPart
	}
	return k.s.send(ctx, part, p.Bytes)
}

// A sealer signs with the domain of the root that is believed now.
type sealer struct{ c *Client }

// Batch implements uplink.Sealer.
func (s sealer) Batch(b *batch.Batch, issued time.Time) ([]byte, error) {
	return (&report.Sealer{Domain: s.c.domain(), Key: s.c.o.Key}).Batch(b, issued)
}

// Loss implements uplink.Sealer.
func (s sealer) Loss(l *batch.Loss, issued time.Time) ([]byte, error) {
	return (&report.Sealer{Domain: s.c.domain(), Key: s.c.o.Key}).Loss(l, issued)
}

// takeTime judges an attestation.
func (s *session) takeTime(b []byte) string {
	s.mu.Lock()
	nonce, asked := s.timeNonce, s.timeAsked
	s.mu.Unlock()
	st := s.c.o.Desk.Trust()
	t, err := message.OpenTime(b, st, s.c.o.Device, s.c.floor())
	trip := time.Since(asked)
	switch {
	case err != nil:
		s.c.log.Warn("time attestation refused", "err", err)
		return "time"
	case asked.IsZero() || t.Nonce != nonce:
		return "time-replayed"
	case trip > timeTrip:
		return "time-late"
	}
	if _, err = st.Attest(t.Epoch, t.Milli); err == nil {
		err = s.c.o.Clock.Prove(clock.Proof{
			Contribution: clock.Contribution{
				Origin: clock.Attestation, Role: uint64(trust.RoleTime), Epoch: t.Epoch,
				At: time.UnixMilli(int64(t.Milli)).UTC(), //nolint:gosec // bounded by OpenTime
			},
			Err: time.Duration(t.Error) * time.Millisecond, RoundTrip: trip, //nolint:gosec // bounded by OpenTime
		})
	}
	if err != nil {
		s.c.log.Warn("time attestation refused", "err", err)
		return "time"
	}
	s.c.log.Info("time attested", "time", time.UnixMilli(int64(t.Milli)).UTC(), "round trip", trip.Round(time.Millisecond)) //nolint:gosec // bounded
	s.mu.Lock()
	s.timeAsked, s.timeDue = time.Time{}, time.Now().Add(timeEvery)
	s.mu.Unlock()
	s.c.statusChanged()
	return ""
}

// takeCommand obeys a command once.
func (s *session) takeCommand(ctx context.Context, b []byte) string {
	cmd, err := message.OpenCommand(b, s.c.o.Desk.Trust(), s.c.o.Device, s.c.floor())
	if err != nil {
		s.c.log.Warn("command refused", "err", err)
		return "command"
	}
	fresh, err := s.c.tokens.take(cmd.Token)
	if err != nil {
		s.c.log.Error("command not obeyed: its token cannot be stored", "err", err)
		return "command"
	}
	if !fresh {
		return "command-replayed"
	}
	s.c.log.Info("command", "order", cmd.Order.String())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.news = time.Now()
	switch cmd.Order {
	case message.SendStatus:
		s.c.statusChanged()
	case message.SendNow:
		s.c.drain.Hold(0)
		s.c.drain.Wake()
	case message.LookNow:
		s.askedAt, s.helloEvery = time.Time{}, answerIn
		s.publisher = false
	case message.RetryNow:
		s.retry = true
		s.c.unblock()
		s.askedAt, s.helloEvery = time.Time{}, answerIn
		s.publisher = false
	case message.Pause:
		s.c.drain.Hold(time.Duration(cmd.Expires-cmd.Issued) * time.Second) //nolint:gosec // at most a week
	case message.SendLogs:
		go s.sendLogs(ctx, cmd.Token)
	case message.AskTime:
		s.timeDue = time.Time{}
	}
	return ""
}

// sendLogs sends as many of the last lines as fit.
func (s *session) sendLogs(ctx context.Context, k message.Token) {
	lines := s.c.o.Lines(100)
	for {
		b, err := message.Report(&message.Logs{Token: k, Lines: lines}, s.c.domain(), 1, s.c.unix(), s.c.o.Key)
		if err == nil {
			if err = s.send(ctx, message.ReportPart, b); err != nil {
				s.c.log.Debug("log lines not sent", "err", err)
			}
			return
		}
		if len(lines) < 2 {
			s.c.log.Warn("log lines not sent", "err", err)
			return
		}
		lines = lines[(len(lines)+1)/2:]
	}
}
