package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"tidegate/platform/durable"
	"tidegate/policy/refusal"
)

// Names in the data directory that package store looks after.
const (
	StateFile  = "state.db"
	EventsFile = "events.db"
	TrustSlots = "trust/state"
	startsFile = "starts"
	crashFile  = "crash"      // what the Go runtime writes when this program dies by itself
	crashLast  = "crash.last" // the last one that was not empty
)

// DirOptions say how a data directory is opened.
type DirOptions struct {
	State  Options // of state.db
	Events Options // of events.db

	// Check is the program, with its leading arguments, that runs [CheckMain] in a child
	// process for each file: os.Executable and [CheckArg]. Empty: files are checked in this
	// process, which a badly damaged file can end; for tests.
	Check []string
}

// The steps out of a crash loop, in starts in a row of which none was healthy: each of them
// ended before it served, or crashed within a minute.
const (
	rungEvents   = 3 // events.db is set aside
	rungState    = 6 // state.db is set aside
	rungReadOnly = 9 // nothing is written
)

// A Mode says whether the device may write.
type Mode int

// The modes of a data directory.
const (
	Normal        Mode = iota
	DiskReadOnly       // the disk cannot be written
	CrashReadOnly      // nine starts in a row without a minute of health
)

// String says it in words.
func (m Mode) String() string {
	switch m {
	case DiskReadOnly:
		return "read-only: the disk cannot be written"
	case CrashReadOnly:
		return fmt.Sprintf("read-only: %d starts in a row without a minute of health", rungReadOnly)
	}
	return "normal"
}

// A Report says what OpenDir found.
type Report struct {
	Mode   Mode
	Starts int // in a row without a minute of health, this one included
	State  FileReport

	// Rollback: trust/state is newer than state.db, so an older database was put back
	// (E_STATE_ROLLBACK). The copy in trust/state counts.
	Rollback bool
	// TrustLost: neither state.db nor trust/state has the trust state (E_STATE): what the
	// slots hold is served, updates are refused until a person installs the root again.
	TrustLost bool

	Trouble []string // what else went wrong on the way, in words
}

// Refusal returns the alarm the report asks for, or nil.
func (r Report) Refusal() error {
	switch {
	case r.TrustLost:
		return refusal.New(refusal.State, "the trust state of this device cannot be read: updates are locked").
			WithHint("install the trust root again: tidegate trust install FILE.tideroot")
	case r.Rollback:
		return refusal.New(refusal.StateRollback, "%s is older than %s: an older database was put back", StateFile, TrustSlots)
	case r.Mode != Normal:
		return refusal.New(refusal.StoreRO, "%s", r.Mode).WithHint("look at the disk and the logs: tidegate doctor")
	}
	return nil
}

// Lines returns the report in words, one finding a line.
func (r Report) Lines() []string {
	lines := []string{r.State.String()}
	if r.Mode != Normal {
		lines = append(lines, r.Mode.String())
	}
	if r.Starts > 1 {
		lines = append(lines, fmt.Sprintf("%d starts in a row without a minute of health", r.Starts))
	}
	if err := r.Refusal(); err != nil && r.Mode == Normal {
		lines = append(lines, err.Error())
	}
	return append(lines, r.Trouble...)
}

// Dir is an open data directory. Its methods are safe to call together.
type Dir struct {
	path   string
	o      DirOptions
	check  checker
	lock   io.Closer
	mode   Mode
	before int // unhealthy starts before this one
	trust  *durable.Slots
	state  *DB

	mu     sync.Mutex
	starts int
	shadow shadows
}

// OpenDir opens the data directory at path, makes it when it is absent, and opens state.db
// in it. It takes the lock for this process, counts the start, has each file checked before use,
// sets aside what is damaged and goes on; the report says what was found. An error is
// returned only where nothing can be served: the directory is in use by another process, or
// cannot be entered.
func OpenDir(path string, o DirOptions) (*Dir, Report, error) {
	if err := durable.MkdirAll(path, 0o700); err != nil {
		return nil, Report{}, refusal.New(refusal.Store, "data directory: %w", err)
	}
	lock, err := durable.Lock(path)
	if err != nil {
		var locked *durable.LockedError
		if errors.As(err, &locked) {
			return nil, Report{}, refusal.New(refusal.Busy, "data directory: %w", err).
				WithHint("stop the other tidegate, or choose another directory with --data")
		}
		return nil, Report{}, refusal.New(refusal.Store, "data directory: %w", err)
	}
	d := &Dir{path: path, o: o, check: checker{command: o.Check}, lock: lock}
	r, err := d.open()
	if err != nil {
		return nil, r, errors.Join(err, lock.Close())
	}
	return d, r, nil
}

func (d *Dir) open() (Report, error) {
	var r Report
	trouble := func(err error) {
		if err != nil {
			r.Trouble = append(r.Trouble, err.Error())
		}
	}
	crashed := d.keepCrash()
	if crashed {
		r.Trouble = append(r.Trouble, "the last run crashed: see "+crashLast+" in the data directory")
	}
	d.before = readStarts(d.path, crashed)
	if d.before >= rungReadOnly {
		d.mode = CrashReadOnly
	} else if err := d.putStarts(d.before + 1); err != nil {
		trouble(err)
		if durable.Classify(err) != durable.Full { // state.db has its room and works on a full disk
			d.mode = DiskReadOnly
		}
	}
	r.Starts = d.before + 1
	if d.mode == Normal {
		trouble(durable.MkdirAll(filepath.Join(d.path, filepath.Dir(TrustSlots)), 0o700))
		trouble(d.sweep())
	}
	slots, err := durable.OpenSlots(filepath.Join(d.path, TrustSlots))
	if err != nil {
		return r, refusal.New(refusal.Store, "%s: %w", TrustSlots, err)
	}
	d.trust = slots
	_, marked, slotErr := slots.Load()
	first := errors.Is(slotErr, os.ErrNotExist)
	d.shadow = loadShadows(d.path)

	_, statErr := os.Lstat(filepath.Join(d.path, StateFile))
	had := statErr == nil
	d.state, r.State, err = d.openFile(context.Background(), StateFile, d.o.State, d.before == rungState, marked)
	if err != nil {
		return r, err
	}
	if r.State.Found == Made && !first {
		r.State.Found, r.State.Detail = Replaced, "it was missing"
	}
	if r.State.Found == Unavailable && d.mode == Normal {
		d.mode = DiskReadOnly
	}
	r.Mode = d.mode
	var have uint64
	if err := d.state.View(func(t *Tx) error {
		var err error
		have, err = t.Generation()
		return err
	}); err != nil {
		trouble(err)
	}
	lost := r.State.Found == Replaced || r.State.Found == Newer || r.State.Found == Unavailable
	r.Rollback = have < marked && !lost
	r.TrustLost = lost && marked == 0 && (had || !first) // else there never was one
	return r, nil
}

// sweep removes what writes left that did not finish.
func (d *Dir) sweep() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case durable.TempSuffix, ".new", ".wide", ".turned":
			if e.Type().IsRegular() {
				errs = append(errs, durable.Remove(filepath.Join(d.path, e.Name())))
			}
		}
	}
	return errors.Join(errs...)
}

// Path returns the path of the directory.
func (d *Dir) Path() string { return d.path }

// Mode says whether the device may write.
func (d *Dir) Mode() Mode { return d.mode }

// State returns state.db. It is never nil: where the file cannot be used it reads as empty and
// refuses writes.
func (d *Dir) State() *DB { return d.state }

// Trust returns the two slots of trust/state. What they hold is the business of the trust
// package; their generation is that of [Tx.SetGeneration].
func (d *Dir) Trust() *durable.Slots { return d.trust }

// OpenEvents checks and opens events.db, which may take seconds: it is called in the
// background, while the device serves. What is damaged is set aside for a fresh file, which the
// report says. A nil error comes with a DB that can be used, if only to read as empty.
func (d *Dir) OpenEvents(ctx context.Context) (*DB, FileReport, error) {
	return d.openFile(ctx, EventsFile, d.o.Events, d.before == rungEvents, 0)
}

// Healthy says that the device has served for a minute: the count of starts goes back to
// zero. In read-only mode it goes back by one, so that the next start tries to write again.
func (d *Dir) Healthy() error {
	switch d.mode {
	case DiskReadOnly:
		return nil
	case CrashReadOnly:
		return d.putStarts(rungReadOnly - 1)
	}
	return d.putStarts(0)
}

// servedMark follows the count in the file of starts once the device has served.
const servedMark = " served"

// Served says that the device answers and that its files are open. From here on it may lose
// its power, or be killed, at any moment: such an end does not count against its files, only
// one that the program itself caused, which leaves a report in [Dir.CrashFile].
func (d *Dir) Served() error {
	if d.mode != Normal {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.starts == 0 {
		return nil
	}
	if err := durable.WriteFile(filepath.Join(d.path, startsFile), []byte(strconv.Itoa(d.starts)+servedMark+"\n"), 0o600); err != nil {
		return fail("count of starts", err)
	}
	return nil
}

// CrashFile is where the Go runtime should write the report of a crash of this program.
func (d *Dir) CrashFile() string { return filepath.Join(d.path, crashFile) }

// keepCrash reports whether the last run left the report of a crash, and keeps it.
func (d *Dir) keepCrash() bool {
	info, err := os.Lstat(d.CrashFile())
	if err != nil || info.Size() == 0 {
		return false
	}
	// Where the disk cannot be written, the same report is found again.
	_ = durable.Rename(d.CrashFile(), filepath.Join(d.path, crashLast))
	return true
}

// ChargeTrial takes this start off the count: a bundle on trial is the suspect, and uses up its
// own attempts before the files are set aside.
func (d *Dir) ChargeTrial() error {
	if d.mode != Normal {
		return nil
	}
	return d.putStarts(d.before)
}

func (d *Dir) putStarts(n int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n == d.starts && n != 0 {
		return nil
	}
	if err := durable.WriteFile(filepath.Join(d.path, startsFile), []byte(strconv.Itoa(n)+"\n"), 0o600); err != nil {
		return fail("count of starts", err)
	}
	d.starts = n
	return nil
}

// readStarts returns the count of starts, 0 where it cannot be read: it is a help, not a
// condition. A run that served and did not crash counts for nothing.
func readStarts(dir string, crashed bool) int {
	b, err := os.ReadFile(filepath.Join(dir, startsFile))
	if err != nil || len(b) > 32 {
		return 0
	}
	text, served := strings.CutSuffix(strings.TrimSpace(string(b)), servedMark)
	n, err := strconv.Atoi(text)
	if err != nil || served && !crashed {
		return 0
	}
	return max(n, 0)
}

// Close closes state.db and gives up the lock. events.db is closed by who opened it.
func (d *Dir) Close() error { return errors.Join(d.state.Close(), d.lock.Close()) }
