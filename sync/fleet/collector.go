package fleet

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"runtime"
	"sync"
	"sync/atomic"
	"tidegate/policy/refusal"
	"tidegate/sync/envelope"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/pipe"
	"tidegate/sync/report"
	"tidegate/sync/trust"
	"time"
)

// CollectorOptions are what a collector is made with.
type CollectorOptions struct {
	Broker  Broker
	Fleet   message.Fleet
	Root    trust.State
	Devices Directory
	Store   Store
	Signer  *message.Signer // of the collector role; nil: acks are not signed
	// TimeSigner is of the time role: sticks take the time along; nil: they do not.
	TimeSigner *message.Signer
	Group      string        // of the shared subscription; "": this collector takes everything
	Pause      time.Duration // asked of devices; 0: none
	Rate       uint64        // bytes/s asked of each device; 0: no cap
	Log        *slog.Logger
}

// A Collector receives what devices hand up: size, signature, enrolled? → seen before? →
// commit → ack.
type Collector struct {
	o      CollectorOptions
	log    *slog.Logger
	counts struct{ received, refused, batches, commits, acks atomic.Int64 }

	mu      sync.Mutex
	refused map[refusal.Word]int64
}

// Limits of one commit.
const (
	commitEvery = 100 * time.Millisecond
	commitBytes = 1 << 20
	commitItems = 2000
)

// NewCollector returns a collector.
func NewCollector(o CollectorOptions) *Collector {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Collector{o: o, log: o.Log, refused: map[refusal.Word]int64{}}
}

// CollectorStats count messages since the start.
type CollectorStats struct {
	Received, Refused, Batches, Commits, Acks int64
	ByWord                                    map[refusal.Word]int64
}

// Stats returns what was done.
func (c *Collector) Stats() CollectorStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return CollectorStats{
		c.counts.received.Load(), c.counts.refused.Load(), c.counts.batches.Load(), c.counts.commits.Load(), c.counts.acks.Load(),
		maps.Clone(c.refused),
	}
}

// Run collects until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	return c.o.Broker.keep(ctx, c.session)
}

// An item is one verified message on its way to the store.
type item struct {
	device trust.DeviceID
	in     Intake         // exactly one entry, or none
	hello  *message.Token // answer it
	bytes  int
}

// session works on one connection. What is lost with it was not acknowledged and comes again.
func (c *Collector) session(ctx context.Context, p *pipe.Pipe) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	raw := make(chan arrival, 64)
	verified := make(chan *item, 256)
	acks := make(chan pipe.Message, 1024)
	var readers, writers sync.WaitGroup
	for range max(runtime.GOMAXPROCS(0), 2) {
		readers.Go(func() {
			for m := range raw {
				if it := c.open(m.Message, m.at); it != nil {
					select {
					case verified <- it:
					case <-ctx.Done():
					}
				}
			}
		})
	}
	writers.Go(func() {
		for a := range acks {
			if err := p.Post(a.Topic, a.Payload); err != nil && ctx.Err() == nil {
				cancel(err)
			}
			c.counts.acks.Add(1)
		}
	})
	committed := make(chan struct{})
	go func() {
		defer close(committed)
		if err := c.commitAll(ctx, verified, acks); err != nil {
			cancel(err)
		}
	}()
	err := c.receive(ctx, p, raw)
	cancel(err)
	close(raw)
	readers.Wait()
	close(verified)
	<-committed
	close(acks)
	writers.Wait()
	return context.Cause(ctx)
}

// An arrival is a message and when it came.
type arrival struct {
	pipe.Message
	at time.Time
}

func (c *Collector) receive(ctx context.Context, p *pipe.Pipe, raw chan<- arrival) error {
	up, status := c.o.Fleet.AllUp(), c.o.Fleet.All(message.StatusPart)
	if c.o.Group != "" {
		up, status = message.Shared(c.o.Group, up), message.Shared(c.o.Group, status)
	}
	if err := p.Subscribe(ctx, up, status); err != nil {
		return err
	}
	c.log.Info("collecting", "fleet", string(c.o.Fleet), "group", c.o.Group)
	for {
		m, err := p.Receive(ctx)
		if err != nil {
			return err
		}
		c.counts.received.Add(1)
		select {
		case raw <- arrival{m, time.Now()}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// open verifies one message, nil if it is not for the store.
func (c *Collector) open(m pipe.Message, at time.Time) *item {
	id, part, ok := c.o.Fleet.Split(m.Topic)
	if !ok {
		c.refuse(m.Topic, refusal.New(refusal.Format, "not a topic of this fleet"))
		return nil
	}
	it, err := c.judge(id, part, m.Payload, at)
	if err != nil {
		c.refuse(id.String(), err)
		return nil
	}
	return it
}

func (c *Collector) refuse(object string, err error) {
	c.counts.refused.Add(1)
	word, _ := refusal.Of(err)
	c.mu.Lock()
	n := c.refused[word]
	c.refused[word] = n + 1
	c.mu.Unlock()
	if n < 10 || n%1000 == 0 { // a flood is not written down line by line
		c.log.Warn("refused", "from", object, "word", string(word), "err", err)
	}
}

// judge reads a message of a device.
func (c *Collector) judge(id trust.DeviceID, part message.Part, b []byte, at time.Time) (*item, error) {
	e, known := c.o.Devices.Device(id)
	if !known {
		return nil, errUnknown
	}
	it := &item{device: id, bytes: len(b)}
	switch part {
	case message.RequestPart:
		v, err := message.Decode(b)
		if err != nil {
			return nil, err
		}
		h, ok := v.(*message.Hello)
		if !ok {
			return nil, nil // for publishers
		}
		it.hello = &h.Token
		return it, nil
	case message.StatusPart:
		if !message.Signed(b) {
			v, err := message.Decode(b)
			if err != nil {
				return nil, err
			}
			w, ok := v.(*message.Will)
			if !ok {
				return nil, refusal.New(refusal.Format, "type: not a status and not a will")
			}
			it.in.Wills = []Will{{Device: id, Received: at, Will: w}}
			return it, nil
		}
		in, err := c.openSigned(id, e.Report, envelope.Status, b, at)
		it.in = in
		return it, err
	case message.BatchPart:
		in, err := c.openSigned(id, e.Report, envelope.Batch, b, at)
		it.in = in
		return it, err
	case message.ReportPart:
		in, err := c.openSigned(id, e.Report, message.KindOf(b), b, at)
		it.in = in
		return it, err
	}
	return nil, refusal.New(refusal.Format, "a device does not write %s", part)
}

// openSigned verifies what the report key signed.
func (c *Collector) openSigned(id trust.DeviceID, key envelope.PublicKey, kind envelope.Kind, b []byte, now time.Time) (in Intake, err error) {
	domain := c.o.Root.Root().Domain
	opener, err := report.NewOpener(domain, key)
	if err != nil {
		return in, err
	}
	switch kind {
	case envelope.Batch:
		v, err := opener.Batch(b)
		if err != nil {
			return in, err
		}
		in.Batches = []Batch{{Device: id, Key: key, Sealed: b, Received: now, Batch: v}}
	case envelope.Loss:
		v, err := opener.Loss(b)
		if err != nil {
			return in, err
		}
		in.Losses = []Loss{{Device: id, Received: now, Loss: v}}
	case envelope.Status:
		v := new(message.Status)
		if err := message.OpenReport(b, v, domain, key); err != nil {
			return in, err
		}
		in.Statuses = []Status{{Device: id, Received: now, Status: v}}
	case envelope.Result:
		v := new(message.Result)
		if err := message.OpenReport(b, v, domain, key); err != nil {
			return in, err
		}
		in.Results = []Result{{Device: id, Received: now, Result: v}}
	case message.LogLines:
		v := new(message.Logs)
		if err := message.OpenReport(b, v, domain, key); err != nil {
			return in, err
		}
		for _, line := range v.Lines {
			c.log.Info("log of a device", "device", id.String(), "line", line)
		}
	default:
		return in, refusal.New(refusal.Format, "type: not a message that a device signs")
	}
	return in, nil
}

// commitAll stores what is verified, many at a time, and acknowledges after the commit.
func (c *Collector) commitAll(ctx context.Context, verified <-chan *item, acks chan<- pipe.Message) error {
	for {
		first, ok := <-verified
		if !ok || ctx.Err() != nil {
			return nil //nolint:nilerr // an end in order
		}
		group, size := []*item{first}, first.bytes
		timer := time.NewTimer(commitEvery)
	gather:
		for size < commitBytes && len(group) < commitItems {
			select {
			case it, more := <-verified:
				if !more {
					break gather
				}
				group = append(group, it)
				size += it.bytes
			case <-timer.C:
				break gather
			}
		}
		timer.Stop()
		out, err := c.commit(ctx, group)
		if err != nil {
			return err // nothing of it was acknowledged; it comes again
		}
		for _, a := range out {
			select {
			case acks <- a:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// commit stores a group and returns the acks for it.
func (c *Collector) commit(ctx context.Context, group []*item) ([]pipe.Message, error) {
	var in Intake
	for _, it := range group {
		in.Batches = append(in.Batches, it.in.Batches...)
		in.Losses = append(in.Losses, it.in.Losses...)
		in.Statuses = append(in.Statuses, it.in.Statuses...)
		in.Wills = append(in.Wills, it.in.Wills...)
		in.Results = append(in.Results, it.in.Results...)
	}
	var marks []Mark
	if !in.Empty() {
		var err error
		if marks, err = c.o.Store.Put(ctx, in); err != nil {
			return nil, err
		}
		c.counts.commits.Add(1)
		c.counts.batches.Add(int64(len(in.Batches)))
	}
	w := newAckWriter(marks)
	w.stored(&in)
	for _, it := range group {
		if it.hello == nil {
			continue
		}
		known, err := c.o.Store.Marks(ctx, it.device, 4)
		if err != nil {
			return nil, err
		}
		w.answer(it.device, *it.hello, known)
	}
	return c.write(w)
}

func (c *Collector) write(w *ackWriter) ([]pipe.Message, error) {
	var out []pipe.Message
	var errs []error
	for id, all := range w.acks() {
		for _, a := range all {
			a.Pause, a.Rate = uint64(c.o.Pause/time.Second), c.o.Rate //nolint:gosec // not negative
			b, err := c.Seal(a)
			if err != nil {
				errs = append(errs, about(id, err))
				continue
			}
			out = append(out, pipe.Message{Topic: c.o.Fleet.Device(id, message.AckPart), Payload: b})
		}
	}
	return out, errors.Join(errs...)
}

// Seal signs an ack, or leaves it plain where there is no key.
func (c *Collector) Seal(a *message.Ack) ([]byte, error) {
	if c.o.Signer == nil {
		return message.PlainAck(a, c.o.Root.Root().Domain, unix(time.Now()))
	}
	return c.o.Signer.Ack(a, unix(time.Now()))
}
