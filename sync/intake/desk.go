package intake

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"tidegate/platform/clock"
	"tidegate/platform/durable"
	"tidegate/policy/refusal"
	"tidegate/store"
	"tidegate/store/audit"
	"tidegate/store/slots"
	"tidegate/sync/bundle"
	"tidegate/sync/envelope"
	"tidegate/sync/seal"
	"tidegate/sync/trust"
	"time"
)

// Options are what a desk works with. All fields without a default must be set.
type Options struct {
	Dir    string         // the data directory; trust/root and evidence/ lie in it
	State  *store.DB      // state.db
	Slots  *durable.Slots // trust/state
	Shelf  *slots.Shelf   // made with [Layout]
	Audit  *audit.Log
	Locked bool // the store found no trust state where one has been: updates are refused

	Activator Activator
	Prober    Prober
	Clock     Clock      // see [clock.ThisMachine]
	Time      Timekeeper // see [clock.Clock]; nil: only what is signed raises the floor

	Device   trust.DeviceID
	Hardware string    // class of the device, "linux-arm64"
	Version  [3]uint64 // of tidegate
	Build    uint64    // build time of the program, seconds since 1970
	BootID   [16]byte
	Identity seal.Opener   // that opens secrets; nil: none
	Groups   []seal.Opener // keys that the device shares with others

	MaxBytes int64 // of the file of one bundle; 0: what the format allows

	System System // that system bundles replace; nil: this device takes none
	Board  string // hardware class that a system bundle for this machine names
	Form   uint64 // highest form of the state that this program reads

	Log *slog.Logger // nil: silent

	// Charge is called at a start that puts a bundle on trial again, before it is loaded, and
	// at one of a system on trial: they are the suspects of a crash loop, not the files. May be
	// nil.
	Charge func() error

	// Step, when set, is called before each step that changes the disk, with its name. It
	// exists for tests that cut the power there.
	Step func(name string)
}

// A Desk is the only door. Its methods are safe to call together; one candidate is at the
// desk at a time, and another meets E_BUSY.
type Desk struct {
	o   Options
	log *slog.Logger

	// desk holds a token while no candidate is judged.
	desk chan struct{}
	// deciding is held from reading cur to writing what follows from it, by whoever changes
	// what the device believes or serves. It is taken after desk.
	deciding sync.Mutex
	cur      atomic.Pointer[memory]

	// mu guards what follows and is never held while waiting.
	mu       sync.Mutex
	trial    *trial // nil: no bundle is on trial
	transfer *Transfer
	alarms   map[refusal.Word]string
	failing  error        // why updates are refused as a whole, or nil
	serving  slots.Digest // the bundle whose edition was activated; zero: safe mode
	last     Report
	watchers map[chan Report]struct{}
	infos    map[bundle.Digest]*bundle.Manifest
	samples  samples

	wake chan struct{} // for Run: a trial began or ended
}

// New returns a desk that knows what the device believes. It repairs the copy of the trust
// state that lags behind, and writes nothing else. A trust state that cannot be read is no
// error: [Status] tells, updates are refused with E_STATE, and what the slots hold serves.
func New(o Options) (*Desk, error) {
	switch {
	case o.State == nil, o.Slots == nil, o.Shelf == nil, o.Audit == nil, o.Activator == nil, o.Prober == nil, o.Clock == nil, o.Dir == "":
		return nil, errors.New("intake: an option is missing")
	}
	if o.Step == nil {
		o.Step = func(string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	d := &Desk{
		o: o, log: o.Log,
		desk:     make(chan struct{}, 1),
		wake:     make(chan struct{}, 1),
		alarms:   make(map[refusal.Word]string),
		watchers: make(map[chan Report]struct{}),
		infos:    make(map[bundle.Digest]*bundle.Manifest),
	}
	d.desk <- struct{}{}
	d.remember()
	d.contribute(d.cur.Load().state)
	return d, nil
}

// take takes the desk for one candidate.
func (d *Desk) take() error {
	select {
	case <-d.desk:
		return nil
	default:
		return refusal.New(refusal.Busy, "another bundle is being taken in").WithHint("try again when it is done: tidegate status")
	}
}

func (d *Desk) leave() { d.desk <- struct{}{} }

// Trust returns what the device believes, with the time that has passed counted in: what
// acks and time attestations are verified with.
func (d *Desk) Trust() trust.State { return d.cur.Load().now(d.o.Clock) }

// Floor returns the latest time that has passed for sure.
func (d *Desk) Floor() trust.Floor {
	f := d.Trust().Floor()
	if d.o.Time != nil {
		if t := unix(d.o.Time.Lower()); t > f.Unix {
			return trust.Floor{Unix: t, Source: "proof of the clock"}
		}
	}
	return f
}

// contribute hands the times that were signed to the clock.
func (d *Desk) contribute(s trust.State) {
	root := s.Root()
	if d.o.Time == nil || root == nil {
		return
	}
	for n, role := range root.Roles {
		d.o.Time.Drop(uint64(n), role.Epoch)
	}
	raise := func(o clock.Origin, role trust.RoleNumber, epoch, issued uint64) {
		if err := d.o.Time.Contribute(clock.Contribution{Origin: o, Role: uint64(role), Epoch: epoch, At: time.Unix(int64(min(issued, 1<<40)), 0)}); err != nil { //nolint:gosec // bounded
			d.log.Warn("time floor", "err", err)
		}
	}
	raise(clock.Root, trust.RoleRoot, root.Roles[trust.RoleRoot].Epoch, root.Issued)
	device := s.Device(d.o.Device, d.o.Hardware, d.o.Version)
	if l, ok := s.Confirmed(device.Product, device.Channel); ok && l.Epoch == root.Roles[trust.RoleRelease].Epoch {
		raise(clock.Manifest, trust.RoleRelease, l.Epoch, l.Issued)
	}
}

// A BundleInfo is what status shows of a stored bundle.
type BundleInfo struct {
	Digest                        bundle.Digest
	Product, Channel, Name, Label string
	Epoch, Seq                    uint64
	Expires                       uint64 // seconds since 1970; 0: never
	Damaged                       bool
}

// Status is the desk at one moment.
type Status struct {
	Serving  *BundleInfo // nil: safe mode, or nothing was ever installed
	Good     *BundleInfo
	Older    *BundleInfo
	Trial    *BundleInfo   // also of a system, which does not serve
	ByHand   bool          // the trial waits for a person
	Deadline time.Duration // of the trial, from now
	Attempts int           // starts that the trial has left

	Domain   trust.Domain
	Root     uint64 // version; 0: none installed
	Floor    trust.Floor
	Device   trust.Device
	Locked   error // why updates are refused as a whole, or nil
	Alarms   map[refusal.Word]string
	Age      time.Duration // of the last known good bundle on this device, by the time floor
	Last     Report        // the newest outcome, of a candidate or a trial
	Warnings trust.Warnings
}

// Status returns the desk as it is now.
func (d *Desk) Status() Status {
	m := d.cur.Load()
	st := m.now(d.o.Clock)
	s := Status{
		Good: d.info(m.ptr.Good), Older: d.info(m.ptr.Older), Trial: d.info(m.ptr.Undecided()),
		Attempts: d.attemptsLeft(m.ptr),
		Floor:    d.Floor(),
		Device:   st.Device(d.o.Device, d.o.Hardware, d.o.Version),
		Warnings: st.RootExpiry(st.Floor().Unix),
		Alarms:   make(map[refusal.Word]string),
	}
	if r := st.Root(); r != nil {
		s.Root, s.Domain = r.Version, r.Domain
	}
	if since := m.ptr.Since; since != 0 && s.Floor.Unix > since {
		s.Age = time.Duration(s.Floor.Unix-since) * time.Second //nolint:gosec // far below 292 years
		if s.Age > staleAfter {
			s.Warnings = append(s.Warnings, refusal.New(refusal.WarnStale, "no newer bundle was confirmed for %d days", s.Age/(24*time.Hour)))
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s.Serving = d.infoLocked(d.serving)
	if t := d.trial; t != nil {
		s.ByHand, s.Deadline = t.byHand, max(t.deadline-d.o.Clock.Boot(), 0)
	}
	for w, text := range d.alarms {
		s.Alarms[w] = text
	}
	s.Locked, s.Last = d.failing, d.last
	return s
}

// attemptsLeft returns how many starts the trial has left.
func (d *Desk) attemptsLeft(ptr slots.Pointers) int {
	if m := d.manifest(bundle.Digest(ptr.System)); m != nil {
		return max(int(attempts(m))-int(ptr.Starts), 0)
	}
	return int(ptr.Attempts)
}

func (d *Desk) servingDigest() slots.Digest {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.serving
}

func (d *Desk) info(g slots.Digest) *BundleInfo {
	d.manifest(bundle.Digest(g)) // a start loads only what it serves
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.infoLocked(g)
}

func (d *Desk) infoLocked(g slots.Digest) *BundleInfo {
	if g.IsZero() {
		return nil
	}
	i := &BundleInfo{Digest: bundle.Digest(g), Damaged: d.o.Shelf.Damaged(g)}
	if m := d.infos[i.Digest]; m != nil {
		i.Product, i.Channel, i.Name, i.Label = m.Product, m.Channel, m.Name, m.Version
		i.Epoch, i.Seq, i.Expires = m.Epoch, m.Seq, m.Expires
	}
	return i
}

// Watch returns the reports of everything that comes to an end, candidates and trials, from
// now on; stop ends it. A reader that falls more than 16 reports behind misses the oldest.
func (d *Desk) Watch() (reports <-chan Report, stop func()) {
	c := make(chan Report, 16)
	d.mu.Lock()
	d.watchers[c] = struct{}{}
	d.mu.Unlock()
	return c, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.watchers, c)
	}
}

// tell notes r as the newest outcome and hands it to who watches.
func (d *Desk) tell(r Report) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = r
	for c := range d.watchers {
		select {
		case c <- r:
			continue
		default:
		}
		select { // room for the newest
		case <-c:
		default:
		}
		select {
		case c <- r:
		default:
		}
	}
}

// Wait waits until the trial of a bundle has ended and returns its report. If there is no
// such trial it returns the newest outcome at once.
func (d *Desk) Wait(ctx context.Context, g bundle.Digest) (Report, error) {
	d.mu.Lock()
	t := d.trial
	last := d.last
	d.mu.Unlock()
	if t == nil || t.m.Digest() != g {
		return last, nil
	}
	select {
	case <-ctx.Done():
		return Report{}, ctx.Err()
	case <-t.over:
		return t.outcome, nil
	}
}

// alarm raises or, with an empty text, clears an alarm for status. It reports whether that
// is news.
func (d *Desk) alarm(w refusal.Word, text string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.alarms[w] == text {
		return false
	}
	if text == "" {
		delete(d.alarms, w)
		return true
	}
	d.alarms[w] = text
	d.log.Error("alarm", "word", string(w), "detail", text)
	return true
}

// Layout reads the layout of a stored bundle; it is the function that a shelf is made with.
// It trusts no signature: the name of the slot says which digest the manifest must have.
func Layout(r io.Reader) (*slots.Layout, error) {
	h, m, err := openHead(r)
	if err != nil {
		return nil, err
	}
	return layoutOf(h, m), nil
}

// openHead reads head and manifest of a bundle without verifying its signatures.
func openHead(r io.Reader) (*bundle.Head, *bundle.Manifest, error) {
	h, err := bundle.Read(r)
	if err != nil {
		return nil, nil, err
	}
	msg, err := envelope.Parse(h.Manifest, envelope.Manifest)
	if err != nil {
		return nil, nil, err
	}
	m, err := bundle.ParseManifest(msg.Payload)
	return h, m, err
}

func layoutOf(h *bundle.Head, m *bundle.Manifest) *slots.Layout {
	l := &slots.Layout{Bundle: slots.Digest(m.Digest()), Head: h.Bytes}
	for _, c := range m.Chunks() {
		l.Chunks = append(l.Chunks, slots.Chunk{Prefix: c.Head(), Size: int(c.Size), Digest: slots.Digest(c.Digest)}) //nolint:gosec // at most 1 MiB
	}
	return l
}
