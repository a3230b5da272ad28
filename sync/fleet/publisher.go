package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"tidegate/sync/bundle"
	"tidegate/sync/envelope"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/pipe"
	"tidegate/sync/trust"
	"time"
)

// PublisherOptions are what a publisher is made with.
type PublisherOptions struct {
	Broker   Broker
	Fleet    message.Fleet
	Root     trust.State
	RootFile []byte    // offered to devices with an older root; nil: none
	Devices  *Registry // nil: devices are told by channel only, and results are not read
	Bundles  []*Published
	Rollout  Rollout
	File     string          // of the rollout; "": it does not change
	Signer   *message.Signer // of the time role; nil: the time is not attested
	Spread   time.Duration   // devices wait up to this before they fetch
	Group    string          // of the shared subscription; "": this publisher answers alone
	Failures int             // devices that may fail before the rollout pauses; 0: no limit
	Clock    func() time.Time
	Log      *slog.Logger
	// Event is called with each result, and with what a device says it has; may be nil.
	Event func(Progress)
}

// A Progress is how far a device is with a bundle.
type Progress struct {
	Device trust.DeviceID
	Digest trust.Digest
	Phase  string // as a device says it
	Word   string
	Detail string
}

// A Publisher announces bundles and answers who asks. It keeps nothing that a second
// publisher beside it would have to know.
type Publisher struct {
	o       PublisherOptions
	log     *slog.Logger
	rollout rolloutFile
	objects map[trust.Digest]*Published

	mu     sync.Mutex
	failed map[trust.Digest]map[trust.DeviceID]bool
	files  map[trust.Digest]*Published // enrolments, as they were offered
}

// answering bounds the requests that are answered at the same time.
const answering = 32

// NewPublisher returns a publisher.
func NewPublisher(o PublisherOptions) (*Publisher, error) {
	if err := errors.Join(o.Fleet.Check(), o.Rollout.Check()); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	p := &Publisher{
		o: o, log: o.Log, rollout: rolloutFile{file: o.File, now: o.Rollout}, objects: map[trust.Digest]*Published{},
		failed: map[trust.Digest]map[trust.DeviceID]bool{}, files: map[trust.Digest]*Published{},
	}
	for _, b := range o.Bundles {
		p.objects[b.Digest] = b
	}
	if o.RootFile != nil {
		r := fileObject(message.RootObject, o.RootFile)
		p.objects[r.Digest] = r
	}
	if _, err := p.rollout.look(); err != nil {
		return nil, err
	}
	return p, nil
}

// Run announces and answers until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	return p.o.Broker.keep(ctx, p.session)
}

func (p *Publisher) session(ctx context.Context, c *pipe.Pipe) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	filters := []string{p.o.Fleet.All(message.RequestPart), p.o.Fleet.All(message.ReportPart), p.o.Fleet.All(message.StatusPart)}
	if p.o.Group != "" { // everybody sees results and states; one answers
		filters[0] = message.Shared(p.o.Group, filters[0])
	}
	if err := c.Subscribe(ctx, filters...); err != nil {
		return err
	}
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel(nil)
	parts.Go(func() {
		if err := p.announce(ctx, c); err != nil {
			cancel(err)
		}
	})
	room := make(chan struct{}, answering)
	for {
		m, err := c.Receive(ctx)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return err
		}
		id, part, ok := p.o.Fleet.Split(m.Topic)
		if !ok {
			continue
		}
		if part != message.RequestPart {
			p.listen(id, part, m.Payload)
			continue
		}
		room <- struct{}{}
		parts.Go(func() {
			defer func() { <-room }()
			if err := p.answer(c, id, m.Payload); err != nil && ctx.Err() == nil {
				p.log.Warn("not answered", "device", id.String(), "err", err)
			}
		})
	}
}

// announceGap spreads announcements to single devices: 200 a second.
const announceGap = 5 * time.Millisecond

// announce tells channels or devices at the start and when the rollout changes.
func (p *Publisher) announce(ctx context.Context, c *pipe.Pipe) error {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		for _, b := range p.o.Bundles {
			if err := p.announceOne(ctx, c, b); err != nil {
				return err
			}
		}
		for changed := false; !changed; {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			var err error
			if changed, err = p.rollout.look(); err != nil {
				p.log.Warn("rollout file", "err", err)
			}
		}
		r := p.rollout.get()
		p.log.Info("rollout", "percent", r.Percent, "paused", r.Paused, "labels", r.Labels)
	}
}

func (p *Publisher) announceOne(ctx context.Context, c *pipe.Pipe, b *Published) error {
	r, m := p.rollout.get(), b.Manifest
	payload, err := message.Encode(p.announcement(b, m.Epoch, m.Seq, nil))
	if err != nil {
		return err
	}
	switch {
	case r.Paused:
		return nil
	case r.Percent == 100 && len(r.Labels) == 0:
		p.log.Info("announced", "digest", b.Digest.String(), "product", m.Product, "channel", m.Channel, "seq", m.Seq)
		return c.Send(ctx, p.o.Fleet.Channel(m.Product, m.Channel), payload)
	case p.o.Devices == nil:
		return nil // devices hear of it when they say hello
	}
	n := 0
	for e := range p.o.Devices.All {
		if e.Product != m.Product || e.Channel != m.Channel || !r.tells(e.Device, e, b.Digest) {
			continue
		}
		if err := c.Send(ctx, p.o.Fleet.Device(e.Device, message.AnnouncePart), payload); err != nil {
			return err
		}
		n++
		time.Sleep(announceGap)
	}
	p.log.Info("announced", "digest", b.Digest.String(), "product", m.Product, "channel", m.Channel, "seq", m.Seq, "devices", n, "percent", r.Percent)
	return nil
}

func (p *Publisher) announcement(b *Published, epoch, seq uint64, k *message.Token) *message.Announcement {
	return &message.Announcement{Token: k, Offer: b.offer(epoch, seq), URL: b.address, Spread: uint64(p.o.Spread / time.Second)} //nolint:gosec // not negative
}

// answer answers one request. A device that is not known gets answers too: it decides itself
// what it takes, and bundles are for whoever they are signed for.
func (p *Publisher) answer(c *pipe.Pipe, id trust.DeviceID, b []byte) error {
	v, err := message.Decode(b)
	if err != nil {
		return err
	}
	switch m := v.(type) {
	case *message.Hello:
		out, err := message.Encode(p.best(id, m))
		if err != nil {
			return err
		}
		return c.Post(p.o.Fleet.Device(id, message.AnnouncePart), out)
	case *message.Get:
		return p.serve(c, id, m)
	case *message.TimeRequest:
		if p.o.Signer == nil {
			return nil
		}
		out, err := p.o.Signer.Time(&message.Time{Device: id, Nonce: m.Nonce, Milli: uint64(p.o.Clock().UnixMilli()), Error: clockError}) //nolint:gosec // not negative
		if err != nil {
			return err
		}
		return c.Post(p.o.Fleet.Device(id, message.TimePart), out)
	}
	return nil
}

// clockError is what a publisher's clock may be wrong by, in ms: it is kept by NTP.
const clockError = 500

// best returns what a device should fetch next: a root first, then its enrolment, then the
// newest bundle of its channel.
func (p *Publisher) best(id trust.DeviceID, h *message.Hello) *message.Announcement {
	nothing := &message.Announcement{Token: &h.Token}
	if root := p.o.Root.Root(); root != nil && p.o.RootFile != nil && h.Root < root.Version {
		return p.announcement(fileObject(message.RootObject, p.o.RootFile), 0, root.Version, &h.Token)
	}
	var e *trust.Enrolment
	product, channel := h.Product, h.Channel
	if p.o.Devices != nil {
		if e, _ = p.o.Devices.Device(id); e != nil {
			if e.Seq > h.Enrol {
				f := fileObject(message.EnrolmentObject, p.o.Devices.File(id))
				p.mu.Lock()
				if len(p.files) > 1024 {
					clear(p.files)
				}
				p.files[f.Digest] = f
				p.mu.Unlock()
				return p.announcement(f, e.Epoch, e.Seq, &h.Token)
			}
			product, channel = e.Product, e.Channel
		}
	}
	var newest *Published
	r := p.rollout.get()
	for _, b := range p.o.Bundles {
		m := b.Manifest
		if product != "" && (m.Product != product || m.Channel != channel) || !r.tells(id, e, b.Digest) {
			continue
		}
		if newest == nil || m.Epoch > newest.Manifest.Epoch || m.Epoch == newest.Manifest.Epoch && m.Seq > newest.Manifest.Seq {
			newest = b
		}
	}
	if newest == nil || h.Bundle != nil && (h.Bundle.Good == newest.Digest || string(h.Bundle.Trial) == string(newest.Digest[:])) {
		return nothing
	}
	return p.announcement(newest, newest.Manifest.Epoch, newest.Manifest.Seq, &h.Token)
}

// serve sends the pieces of a request.
func (p *Publisher) serve(c *pipe.Pipe, id trust.DeviceID, g *message.Get) error {
	p.mu.Lock()
	o := p.objects[g.Digest]
	if o == nil {
		o = p.files[g.Digest]
	}
	p.mu.Unlock()
	if o == nil {
		return nil // another publisher has it
	}
	for _, n := range g.Pieces {
		data, off, err := o.read(g.Part, g.Size, n)
		if err == io.EOF {
			continue // not a piece of it
		}
		if err != nil {
			return fmt.Errorf("part %d of %s: %w", g.Part, g.Digest, err)
		}
		out, err := message.Encode(&message.Piece{Digest: g.Digest, Token: g.Token, Part: g.Part, Offset: off, Data: data})
		if err != nil {
			return err
		}
		if err := c.Post(p.o.Fleet.Device(id, message.PiecePart), out); err != nil {
			return err
		}
	}
	return nil
}

// listen follows how far devices are. Only what an enrolled device signed counts.
func (p *Publisher) listen(id trust.DeviceID, part message.Part, b []byte) {
	if p.o.Devices == nil || !message.Signed(b) {
		return
	}
	e, ok := p.o.Devices.Device(id)
	if !ok {
		return
	}
	domain := p.o.Root.Root().Domain
	switch kind := message.KindOf(b); {
	case part == message.ReportPart && kind == envelope.Result:
		var r message.Result
		if message.OpenReport(b, &r, domain, e.Report) != nil {
			return
		}
		p.tell(Progress{Device: id, Digest: r.Digest, Phase: r.Phase, Word: r.Word, Detail: r.Detail})
		if r.Phase == "rolled-back" {
			p.count(id, &r)
		}
	case part == message.StatusPart && kind == envelope.Status:
		var s message.Status
		if message.OpenReport(b, &s, domain, e.Report) == nil && s.Bundle != nil && s.Bundle.Good != (trust.Digest{}) {
			p.tell(Progress{Device: id, Digest: s.Bundle.Good, Phase: "confirmed"})
		}
	}
}

func (p *Publisher) tell(e Progress) {
	if p.o.Event != nil {
		p.o.Event(e)
	}
}

// count pauses the rollout when too many devices went back.
func (p *Publisher) count(id trust.DeviceID, r *message.Result) {
	if p.o.Failures == 0 || p.objects[r.Digest] == nil {
		return
	}
	p.mu.Lock()
	of := p.failed[r.Digest]
	if of == nil {
		of = map[trust.DeviceID]bool{}
		p.failed[r.Digest] = of
	}
	of[id] = true
	n := len(of)
	p.mu.Unlock()
	if n < p.o.Failures || p.rollout.get().Paused {
		return
	}
	reason := fmt.Sprintf("%d devices went back from bundle %d, the last with %s", n, r.Number, r.Word)
	if err := p.rollout.pause(reason); err != nil {
		p.log.Error("rollout not paused", "err", err)
		return
	}
	p.log.Error("rollout paused", "reason", reason)
}

// Targets returns the enrolled devices that a bundle is for, under a rollout.
func Targets(devices *Registry, m *bundle.Manifest, r Rollout) []trust.DeviceID {
	var all []trust.DeviceID
	for e := range devices.All {
		if e.Product == m.Product && e.Channel == m.Channel && r.tells(e.Device, e, m.Digest()) && selected(m, e) {
			all = append(all, e.Device)
		}
	}
	return all
}

func selected(m *bundle.Manifest, e *trust.Enrolment) bool {
	d := trust.Device{ID: e.Device, Product: e.Product, Channel: e.Channel, Labels: e.Labels, Hardware: e.Hardware}
	for _, s := range m.Selectors {
		if s.Selects(d) {
			return true
		}
	}
	return false
}

// Order sends one command to a device, over a connection of its own.
func Order(ctx context.Context, b Broker, f message.Fleet, s message.Signer, id trust.DeviceID, o message.Order, life time.Duration) error {
	now := time.Now()
	cmd, err := s.Command(&message.Command{Device: id, Token: message.NewToken(), Order: o}, unix(now), unix(now.Add(life)))
	if err != nil {
		return err
	}
	return b.keep(ctx, func(ctx context.Context, p *pipe.Pipe) error {
		if err := p.Send(ctx, f.Device(id, message.CommandPart), cmd); err != nil {
			return err
		}
		return errDone
	})
}
