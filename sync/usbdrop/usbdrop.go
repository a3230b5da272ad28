// Package usbdrop is the door for sticks: what is on one comes in, and, where somebody made the
// folder for it, what the device has to say goes out on it.
//
// It promises: a stick is looked into when it is put in and not at a start; every byte of it is
// read once; of all that is on it only regular files are opened, a bounded number of them, and
// each is told of with its word or its reason; of several bundles the newest that applies is
// taken. What goes out is whole, signed and read back before it is told as written, and being on
// a stick deletes nothing unless the site chose so. A stick that stalls or is pulled costs one
// goroutine at most, and holds no lock.
//
// It judges nothing: that is package intake. It mounts nothing: that is the system's matter, and
// package media tells when it has happened.
package usbdrop

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"tidegate/platform/clock"
	"tidegate/platform/media"
	"tidegate/policy/refusal"
	"tidegate/store/events"
	"tidegate/sync/envelope"
	"tidegate/sync/intake"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/trust"
	"tidegate/sync/uplink"
	"time"
)

// A Desk takes in what is on a stick; [intake.Desk] is one.
type Desk interface {
	Look(ctx context.Context, c intake.Candidate) (*intake.Look, intake.Report, error)
	Offer(ctx context.Context, c intake.Candidate) (intake.Report, error)
	Trust() trust.State
	Floor() trust.Floor
	Status() intake.Status
	Watch() (reports <-chan intake.Report, stop func())
}

// A Clock hears of times that have passed; [clock.Clock] is one.
type Clock interface {
	Lower() time.Time
	Contribute(k clock.Contribution) error
}

// Volumes tells of sticks; [media.Watcher] does.
type Volumes interface {
	Run(ctx context.Context, appeared func(media.Volume)) error
	Present(v media.Volume) bool
}

// A Folder is what is on a stick; [media.Folder] is one, and says what its methods promise.
type Folder interface {
	List(dir string) (all []media.Entry, more bool, err error)
	HasFolder(dir string) (bool, error)
	Read(name string) (io.ReadCloser, error)
	MakeFolder(dir string) error
	Write(dir string, fill func(io.Writer) (name string, err error)) (int64, error)
	Remove(name string) error
	Free() int64
	Close() error
}

// A Release says when an event that went out on a stick is deleted here.
type Release uint8

// The choices of usb.release.
const (
	WhenAcknowledged Release = iota // by an ack, on a stick or over the link
	WhenWritten                     // when it is on the stick and was read back
)

// Options are what a port is made with. Fields without a default must be set.
type Options struct {
	Volumes Volumes
	Desk    Desk
	Device  trust.DeviceID
	Key     envelope.Signer // the report key; nil: nothing goes out
	Queue   uplink.Queue
	Plain   message.PlainAcks
	Release Release
	Now     func() time.Time // the device's estimate
	Clock   Clock            // nil: the time is not taken from sticks

	// Open opens a volume, or refuses its file system; nil: [media.CheckFileSystem] and [media.Open].
	Open func(v media.Volume) (Folder, error)
	// Status returns the signed status of the device, Enrol its request as a file; nil: none.
	Status func() ([]byte, error)
	Enrol  func() ([]byte, error)
	// WentOut is called when batches up to a cursor are on a stick: the fleet may acknowledge them
	// another way. May be nil.
	WentOut func(events.Cursor)
	// Lines returns the last lines of the log; nil: none.
	Lines func(n int) []string
	// Tell is called with what is known, more than once per stick: for a LED, a console. It
	// must not block. May be nil.
	Tell func(Verdict)

	Log *slog.Logger // nil: silent
}

// A Port takes sticks one at a time. Run is called once.
type Port struct {
	o     Options
	log   *slog.Logger
	again time.Duration // between tries of what met a desk that was taken
}

// retryEvery is how often a stick that waits for its turn is offered again, besides whenever
// something comes to an end at the desk.
const retryEvery = 10 * time.Second

// New returns a port.
func New(o Options) (*Port, error) {
	switch {
	case o.Volumes == nil, o.Desk == nil, o.Queue == nil, o.Now == nil:
		return nil, errors.New("usbdrop: an option is missing")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Tell == nil {
		o.Tell = func(Verdict) {}
	}
	if o.WentOut == nil {
		o.WentOut = func(events.Cursor) {}
	}
	if o.Open == nil {
		o.Open = openVolume
	}
	return &Port{o: o, log: o.Log, again: retryEvery}, nil
}

// acks returns what believes acks. It is made for each: any batch that the queue holds now may
// have been on a stick, whoever wrote it and in whichever life of this program.
func (p *Port) acks() *uplink.Drain {
	return uplink.New(uplink.Options{
		Queue: p.o.Queue, Device: p.o.Device, Trust: p.o.Desk.Trust, Floor: func() uint64 { return p.o.Desk.Floor().Unix },
		Now: p.o.Now, Plain: p.o.Plain, Log: p.o.Log,
	})
}

func openVolume(v media.Volume) (Folder, error) {
	if err := media.CheckFileSystem(v); err != nil {
		return nil, err
	}
	return media.Open(v.Dir)
}

// Run looks into every stick that is put in, until ctx ends. A stick whose files met E_BUSY is
// offered again, in the order in which sticks came.
func (p *Port) Run(ctx context.Context) error {
	reports, stop := p.o.Desk.Watch()
	defer stop()
	arrived := make(chan media.Volume)
	ended := make(chan error, 1)
	go func() {
		ended <- p.o.Volumes.Run(ctx, func(v media.Volume) {
			select {
			case arrived <- v:
			case <-ctx.Done():
			}
		})
	}()
	tick := time.NewTicker(p.again)
	defer tick.Stop()
	var waiting []media.Volume // met a desk that was taken
	trials := map[trust.Digest]origin{}
	for {
		select {
		case err := <-ended:
			return err
		case v := <-arrived:
			verdict := p.visit(ctx, v, inAndOut)
			if verdict.Stage == Waiting {
				waiting = append(waiting, v)
			}
			verdict.follow(trials, v)
			continue
		case r := <-reports:
			p.follow(ctx, r, trials)
		case <-tick.C:
		}
		for len(waiting) > 0 && p.o.Desk.Status().Trial == nil {
			v := waiting[0]
			if !p.o.Volumes.Present(v) {
				waiting = waiting[1:]
				p.tell(Verdict{Volume: v.Dir, Stage: Refused, Word: refusal.MediaGone, Detail: "the stick was pulled before its turn came", Hint: "put it in again"})
				continue
			}
			verdict := p.visit(ctx, v, onlyIn)
			if verdict.Stage == Waiting {
				break
			}
			waiting = waiting[1:]
			verdict.follow(trials, v)
		}
	}
}

// An origin is where a bundle that is on trial came from.
type origin struct {
	v    media.Volume
	file string
}

// follow notes the bundle of a stick that is on trial.
func (v *Verdict) follow(trials map[trust.Digest]origin, from media.Volume) {
	if i := v.taken(envelope.Manifest); i != nil && i.Report.Phase == intake.OnTrial {
		trials[i.Report.Digest] = origin{from, i.File}
	}
}

// follow tells how a trial of a bundle from a stick ended, also on the stick if it is still in.
func (p *Port) follow(ctx context.Context, r intake.Report, trials map[trust.Digest]origin) {
	from, ours := trials[r.Digest]
	if !ours || r.Phase != intake.Confirmed && r.Phase != intake.RolledBack {
		return
	}
	delete(trials, r.Digest)
	r.Object = from.file
	verdict := Verdict{Volume: from.v.Dir}
	verdict.add(Item{File: from.file, Report: r})
	verdict.decide()
	if p.o.Volumes.Present(from.v) {
		verdict.Wrote = p.receipts(ctx, from.v, &verdict)
	}
	p.tell(verdict)
}

func (p *Port) tell(v Verdict) {
	p.log.Log(context.Background(), v.level(), "stick", "stage", v.Stage.String(), "word", string(v.Word), "detail", v.Detail, "hint", v.Hint, "dir", v.Volume, "wrote", len(v.Wrote))
	p.o.Tell(v)
}
