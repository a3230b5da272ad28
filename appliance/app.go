// Package appliance is the device as one value: [New] opens what is on disk and wires the
// parts, [App.Start] listens and serves, [App.Stop] ends everything in order.
//
// It promises that whatever can fail does so before anything live is touched, that a
// device with damaged files still serves what it can, and that Stop leaves nothing
// behind. It holds no rule and no format: those are in the packages that it wires.
package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"tidegate/appliance/config"
	"tidegate/appliance/gateway"
	"tidegate/appliance/wire"
	"tidegate/platform/buildinfo"
	"tidegate/platform/clock"
	"tidegate/platform/identity"
	"tidegate/platform/logs"
	"tidegate/store"
	"tidegate/store/audit"
	"tidegate/store/counters"
	"tidegate/store/events"
	"tidegate/store/slots"
	"tidegate/sync/intake"
	"tidegate/sync/mqttsync"
	"tidegate/sync/usbdrop"
	"time"
)

// Options are what a device is made with.
type Options struct {
	Config *config.Config
	Log    *slog.Logger
	Lines  *logs.Log // the last lines of Log, for the admin page; may be nil
	Access io.Writer // where the access log goes, if it is on; nil: nowhere
	// Check is the program with its arguments that checks database files in a child process;
	// empty checks them in this one, for tests.
	Check []string
	// Listeners replace listening by address, for socket activation: keys "http", "https",
	// "admin".
	Listeners map[string]net.Listener
	// Machine is the clocks of the machine; nil: this one's.
	Machine clock.Machine
	// Ready is called when the device serves; nil for none.
	Ready func()
	// System is the machine whose system bundles replace; nil: they are refused.
	System *System
}

// App is one device. Start and Stop are called once each; the other methods are safe for
// concurrent use after New.
type App struct {
	o     Options
	cfg   *config.Config
	log   *slog.Logger
	build buildinfo.Info
	began time.Time

	dir         *store.Dir
	report      store.Report
	identity    *identity.Identity // nil: identityErr says why
	idErr       error
	time        timekeeper
	ledger      *counters.Ledger
	events      *events.Log
	shelf       *slots.Shelf
	audit       *audit.Log
	desk        *intake.Desk
	link        *mqttsync.Client // nil: no broker is configured
	sticks      *usbdrop.Port
	volumes     *sticks
	gateway     *gateway.Gateway
	credentials credentials
	operator    operator

	down       teardown
	listeners  listeners
	servers    []*wire.Server
	ready      atomic.Bool
	answered   atomic.Uint64 // calls, when the device last asked itself how it is
	eventsOpen chan struct{} // closed when the queue has its file, or will not get one

	mu       sync.Mutex
	findings []string // what went wrong at start, for status
}

// New opens the data directory and wires the parts. It fails only where nothing could be
// served: the directory is in use or cannot be entered, or the configuration names files
// that cannot be read.
func New(o Options) (_ *App, err error) {
	if o.Machine == nil {
		o.Machine = clock.ThisMachine()
	}
	a := &App{o: o, cfg: o.Config, log: o.Log, build: buildinfo.Get(), began: time.Now(), eventsOpen: make(chan struct{})}
	a.down.log = o.Log
	defer func() {
		if err != nil {
			err = errors.Join(err, a.down.unwind(context.Background()))
		}
	}()
	if err := a.openStore(); err != nil {
		return nil, err
	}
	a.openIdentity()
	if err := a.openClock(); err != nil {
		return nil, err
	}
	if err := a.openLedger(); err != nil {
		return nil, err
	}
	a.openEvents()
	a.openCredentials()
	a.openGateway()
	if err := a.openDesk(); err != nil {
		return nil, err
	}
	if err := a.openLink(); err != nil {
		return nil, err
	}
	if err := a.openSticks(); err != nil {
		return nil, err
	}
	return a, nil
}

// openStore opens the data directory (STATE: open, migrate, fill up).
func (a *App) openStore() error {
	const mib = 1 << 20
	dir, report, err := store.OpenDir(a.cfg.Data, store.DirOptions{
		State:  store.Options{MaxBytes: 16 * mib, Space: store.Reserved, Schema: stateSchema},
		Events: store.Options{MaxBytes: int64(a.cfg.Events.MaxBytes), Schema: eventsSchema},
		Check:  a.o.Check,
	})
	if err != nil {
		return err
	}
	a.dir, a.report = dir, report
	a.down.push("store", func(context.Context) error { return dir.Close() })
	for _, line := range report.Lines() {
		if !report.State.Found.Whole() || report.Mode != store.Normal {
			a.log.Warn("store", "found", line)
		}
	}
	if err := report.Refusal(); err != nil {
		a.find("%v", err)
	}
	return nil
}

// The schema numbers of the two files.
const (
	stateSchema  = 1
	eventsSchema = 1
)

// Schema returns the number of the form in which this program keeps its state. A program
// with a lower number cannot read it.
func Schema() int { return max(stateSchema, eventsSchema) }

// find notes what status should say.
func (a *App) find(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	a.log.Warn("at start", "finding", text)
	a.mu.Lock()
	a.findings = append(a.findings, text)
	a.mu.Unlock()
}

// openIdentity reads or makes the keys of the device. Without them the device serves; it
// cannot report and cannot open secrets.
func (a *App) openIdentity() {
	id, err := identity.Load(filepath.Join(a.cfg.Data, "identity"), identity.Options{Credentials: os.Getenv("CREDENTIALS_DIRECTORY")})
	if err != nil {
		a.idErr = err
		a.find("identity: %v", err)
		return
	}
	a.identity = id
}

// openLedger opens the counters. Where they cannot be durable, limits start closed or
// open, as the configuration says.
func (a *App) openLedger() error {
	o := counters.Options{Keys: int(a.cfg.Throttle.Keys), Period: a.cfg.Throttle.FlushEvery.Std(), Log: a.log}
	var disk counters.Disk
	if a.report.Mode == store.Normal {
		disk = counters.In(a.dir.State())
	}
	if !a.report.State.Found.Whole() {
		o.Start = counters.StartShut
	}
	if a.cfg.Throttle.WithoutStore == "open" && (disk == nil || o.Start == counters.StartShut) {
		o.Start = counters.StartEmpty
	}
	l, err := counters.Open(disk, a.time.instant(), o)
	if err != nil {
		a.find("counters: %v; open windows count as full", err)
		if o.Start == counters.AsLeft {
			o.Start = counters.StartShut
		}
		if l, err = counters.Open(nil, a.time.instant(), o); err != nil {
			return err
		}
	}
	a.ledger = l
	return nil
}

// openEvents makes the queue. Its file is checked and attached while the device serves.
func (a *App) openEvents() {
	o := events.Options{
		Interval: a.cfg.Events.Interval.Std(),
		BootID:   a.o.Machine.BootID(), Clock: a.time.stamp, Log: a.log,
	}
	o.Detail = map[string]events.Keep{"all": events.KeepAll, "errors": events.KeepErrors, "none": events.KeepNone}[a.cfg.Events.Detail]
	o.Address = map[string]events.AddressForm{"full": events.AddressFull, "prefix": events.AddressPrefix, "none": events.AddressNone}[a.cfg.Events.ClientAddress]
	if a.cfg.Events.UserAgent {
		o.Extras |= events.WithUserAgent
	}
	if a.cfg.Events.RequestID {
		o.Extras |= events.WithRequestID
	}
	a.events = events.New(o)
}

// openDesk opens the shelf, the audit log and the desk.
func (a *App) openDesk() error {
	shelf, err := slots.Open(a.cfg.Data, slots.Options{Layout: intake.Layout, Quota: 3 * int64(a.cfg.Bundles.Quota)})
	if err != nil {
		return err
	}
	a.shelf = shelf
	var sealer audit.Sealer
	if a.identity != nil {
		sealer = checkpoints{a.identity}
	}
	if a.audit, err = audit.New(sealer); err != nil {
		return err
	}
	o := intake.Options{
		Dir: a.cfg.Data, State: a.dir.State(), Slots: a.dir.Trust(), Shelf: shelf, Audit: a.audit, Locked: a.report.TrustLost,
		Activator: a.gateway.Activator(), Prober: &prober{a}, Clock: a.o.Machine, Time: a.time.clock,
		Hardware: runtime.GOOS + "-" + runtime.GOARCH, Version: versionNumbers(a.build.Version), Build: uint64(a.build.Time.Unix()),
		BootID: a.o.Machine.BootID(), Log: a.log, Charge: a.dir.ChargeTrial, MaxBytes: int64(a.cfg.Bundles.Quota),
	}
	if a.identity != nil {
		o.Device = deviceID(a.identity)
		o.Identity = a.identity
	}
	if s := a.o.System; s != nil {
		if s.err != nil {
			a.find("system bundles are refused: %v", s.err)
		} else {
			o.System, o.Board, o.Form = s, s.board, uint64(Schema()) //nolint:gosec // small
		}
	}
	a.desk, err = intake.New(o)
	return err
}
