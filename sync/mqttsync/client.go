// Package mqttsync is the device's end of the link to its fleet over MQTT: bundles, roots and
// enrolments in, by pull; batches, losses, results and status out; the time, attested. The
// broker is a pipe that may withhold, delay, repeat and reorder, and can forge nothing: what
// changes or deletes anything here is signed by a role of the trust root.
//
// It promises: serving never waits for the link; everything resumes after a cut at any moment;
// what comes in is bounded before it is kept, and counted when it is thrown away. It judges no
// bundle: that is package intake, whose transfers it fills.
package mqttsync

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"tidegate/platform/clock"
	"tidegate/store/events/batch"
	"tidegate/sync/envelope"
	"tidegate/sync/intake"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/trust"
	"tidegate/sync/uplink"
	"time"
)

// A Desk takes in what is fetched; [intake.Desk] is one.
type Desk interface {
	Trust() trust.State
	Floor() trust.Floor
	Status() intake.Status
	Begin(ctx context.Context, source, name string, head []byte, retry bool) (*intake.Transfer, intake.Report, error)
	Offer(ctx context.Context, c intake.Candidate) (intake.Report, error)
	Watch() (reports <-chan intake.Report, stop func())
}

// A Clock is trusted time; [clock.Clock] is one.
type Clock interface {
	Now() clock.Reading
	Prove(p clock.Proof) error
}

// A Memory keeps a few small values through power cuts. Save returns when they are on disk.
type Memory interface {
	Load(key string) ([]byte, error) // nil: none
	Save(key string, value []byte) error
}

// A Mode says when the link may be used.
type Mode uint8

// The modes.
const (
	Always  Mode = iota
	Windows      // in the windows of Options
	Demand       // after Wake or Sync
)

// Options are what a client is made with. Fields without a default must be set.
type Options struct {
	Fleet              message.Fleet
	Brokers            []*url.URL // in order of preference
	Username, Password string
	TLS                *tls.Config // its Time should be that of the trusted clock
	Proxy              *url.URL    // nil: none

	// Hosts may be asked for bundles by https, when an announcement names an address there;
	// each as [ranges.ParseHost] returns it; nil: none.
	Hosts   []string
	HostTLS *tls.Config // towards them; its Time should be that of the trusted clock

	Mode        Mode
	Windows     []Window
	Spread      time.Duration // windows open later by up to this
	Metered     bool          // longer pauses between tries
	Up, Down    int64         // bytes a second; 0: no cap
	PerDay      int64         // bytes both ways; 0: no cap
	KeepAlive   time.Duration // 60 to 1,160 s; default 300
	FirstAfter  time.Duration // the first try comes within this
	RetryCap    time.Duration // default 15 min
	StatusEvery time.Duration // default 6 h
	PieceBytes  int           // 4 to 64 KiB; default 16
	Order       uplink.Order
	Plain       message.PlainAcks

	Device  trust.DeviceID
	Key     envelope.Signer // the report key
	BootID  [16]byte
	Version string // of this program

	Queue  uplink.Queue
	Desk   Desk
	Clock  Clock
	Memory Memory
	Lines  func(n int) []string // the last lines of the log; nil: none
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Log    *slog.Logger // nil: silent
}

// A Client keeps the link. Run is called once; the other methods are safe to call together.
type Client struct {
	o       Options
	log     *slog.Logger
	drain   *uplink.Drain
	budget  *budget
	results *results
	tokens  *tokens
	wake    chan struct{}
	change  chan struct{} // status should be sent
	reports <-chan intake.Report
	unwatch func()
	hold    atomic.Bool // a bundle comes in: detail waits
	fetch   *fetch      // what a cut has interrupted; it belongs to the connection that lives

	mu      sync.Mutex
	link    Link
	drops   map[string]uint64
	blocked map[trust.Digest]time.Time // not fetched again before
	asks    uint64                     // how often somebody asked for a connection
	waiting []waiter                   // who waits for how it goes

	answered uint64 // the newest ask that is over
}

// State is where the link is.
type State string

// The states.
const (
	Waiting    State = "waiting"    // for the next try, a window or somebody who asks
	Connecting State = "connecting" //
	Connected  State = "connected"  // and somebody answers
	Unanswered State = "unanswered" // connected, and nobody answers: access control?
	Stopped    State = "stopped"
)

// A Link is what status shows.
type Link struct {
	State     State
	Broker    string        // of the connection, or of the last try
	Since     time.Time     // of State, by the system clock
	Contact   time.Time     // when somebody answered last, by the system clock; zero: not since the start
	Next      time.Duration // until the next try, from Since
	Err       string        // why the last connection ended or did not come about
	Hint      string
	Publisher bool // answers
	Collector bool
	Fetching  *Fetch
	Drops     map[string]uint64 // thrown away, by reason
	Uplink    uplink.Stats
	Today     int64 // bytes, both ways; with a cap the reserved ones
}

// A Fetch is a bundle that is coming in.
type Fetch struct {
	Digest      trust.Digest
	Have, Total int64  // bytes
	From        string // host that is asked directly; "": it comes over the broker
}

// New returns a client that watches the desk from now on.
func New(o Options) (*Client, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	c := &Client{
		o: o, log: o.Log, wake: make(chan struct{}, 1), change: make(chan struct{}, 1),
		drops: map[string]uint64{}, blocked: map[trust.Digest]time.Time{},
	}
	c.link = Link{State: Waiting, Since: time.Now()}
	var err error
	if c.budget, err = newBudget(o.Memory, o.PerDay, c.day); err != nil {
		return nil, fmt.Errorf("bytes per day: %w", err)
	}
	if c.results, err = loadResults(o.Memory); err != nil {
		return nil, fmt.Errorf("results: %w", err)
	}
	if c.tokens, err = loadTokens(o.Memory); err != nil {
		return nil, fmt.Errorf("command tokens: %w", err)
	}
	c.drain = uplink.New(uplink.Options{
		Queue: o.Queue, Sealer: sealer{c}, Device: o.Device, Trust: o.Desk.Trust, Floor: c.floor,
		Now: c.now, Plain: o.Plain, Order: o.Order, Log: o.Log,
		Gate: func(k batch.Class) bool { return k != batch.Detail || !c.hold.Load() },
	})
	c.reports, c.unwatch = o.Desk.Watch()
	return c, nil
}

func (o *Options) defaults() error {
	switch {
	case len(o.Brokers) == 0, o.Key == nil, o.Queue == nil, o.Desk == nil, o.Clock == nil, o.Memory == nil:
		return errors.New("mqttsync: an option is missing")
	}
	if err := o.Fleet.Check(); err != nil {
		return err
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = 300 * time.Second
	}
	if o.RetryCap == 0 {
		o.RetryCap = 15 * time.Minute
	}
	if o.StatusEvery == 0 {
		o.StatusEvery = 6 * time.Hour
	}
	if o.PieceBytes == 0 {
		o.PieceBytes = 16 << 10
	}
	if o.Lines == nil {
		o.Lines = func(int) []string { return nil }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Link returns how the link is.
func (c *Client) Link() Link {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.link
	l.Drops = make(map[string]uint64, len(c.drops))
	for k, n := range c.drops {
		l.Drops[k] = n
	}
	if l.Fetching != nil {
		f := *l.Fetching
		l.Fetching = &f
	}
	if l.State == Connected {
		l.Contact = time.Now()
	}
	l.Uplink = c.drain.Stats()
	l.Today = c.budget.spent()
	return l
}

// Acknowledge takes an ack that came by another way, such as a stick.
func (c *Client) Acknowledge(b []byte) error {
	_, err := c.drain.Acknowledge(b)
	return err
}

func (c *Client) set(change func(*Link)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.link.State
	change(&c.link)
	if c.link.State != before {
		c.link.Since = time.Now()
		if before == Connected {
			c.link.Contact = c.link.Since
		}
	}
}

// drop counts something that was thrown away.
func (c *Client) drop(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drops[why]++
}

// now is the estimate of the time.
func (c *Client) now() time.Time { return c.o.Clock.Now().Estimate }

// floor is what has passed for sure.
func (c *Client) floor() uint64 { return c.o.Desk.Floor().Unix }

// day numbers days by the lower bound of time.
func (c *Client) day() int64 { return c.o.Clock.Now().Lower.Unix() / 86400 }

func (c *Client) unix() uint64 { return uint64(max(c.now().Unix(), 0)) }

// domain is the trust domain, zero without a root.
func (c *Client) domain() (d trust.Domain) {
	if r := c.o.Desk.Trust().Root(); r != nil {
		d = r.Domain
	}
	return d
}

// Run keeps the link until ctx ends. What goes wrong is in [Link] and in the log.
func (c *Client) Run(ctx context.Context) error {
	defer c.unwatch()
	defer c.set(func(l *Link) { l.State = Stopped })
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watching.Go(func() { c.watch(ctx) })
	c.keep(ctx)
	var ended error
	if c.fetch != nil {
		ended = c.fetch.end()
	}
	return errors.Join(context.Cause(ctx), ended, c.budget.close())
}

// watch turns outcomes of the desk into results.
func (c *Client) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-c.reports:
			if r.Kind == envelope.Manifest && r.Digest != (trust.Digest{}) {
				if err := c.results.add(r); err != nil {
					c.log.Error("result not stored", "err", err)
				}
			}
			c.statusChanged()
		}
	}
}

func (c *Client) statusChanged() {
	select {
	case c.change <- struct{}{}:
	default:
	}
}
