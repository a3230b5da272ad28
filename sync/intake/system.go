package intake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"tidegate/policy/refusal"
	"tidegate/store/audit"
	"tidegate/store/slots"
	"tidegate/sync/bundle"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
	"time"
)

// A System is the machine that the device runs on, where it has two places for a system and a
// boot loader that counts tries. What it says last counts: the desk follows it at each start.
type System interface {
	// Boot returns which place is what.
	Boot(ctx context.Context) (Boot, error)
	// Install writes a system to the place that is not in use, reads it back and returns the
	// place. What starts next does not change; what was given up before is forgotten.
	Install(ctx context.Context, i SystemImage) (place string, err error)
	// Decide makes a decision durable. After Try, and after GiveUp of the system that runs, the
	// machine starts anew soon after; until then the device goes on.
	Decide(ctx context.Context, c Choice) error
}

// A Boot says which place is what.
type Boot struct {
	Running string // the place of the system that runs
	Good    string // the last one that is known to work
	Next    string // what starts next
	Back    string // the one that was given up, "none"
}

// A SystemImage is the content of a system bundle.
type SystemImage struct {
	About        map[string]string // what it says of itself
	Root, Kernel SystemPart
}

// A SystemPart is one file of a system. Open is called once, for Root first.
type SystemPart struct {
	Size int64
	Open func() (io.Reader, error)
}

// A Choice is what is decided about a place.
type Choice struct {
	Verb  string // one of the below
	Place string
	Tries int // of Try: starts that it gets
}

// The verbs of a [Choice].
const (
	Try    = "try"     // the machine starts anew with the place
	Hold   = "hold"    // the device will decide on the system that runs
	Keep   = "keep"    // the place is good
	GiveUp = "give-up" // the place is not started any more
)

const (
	maxAbout     = 400 // bytes; the place has one sector for it
	restartLimit = 10 * time.Minute
	squashMagic  = "hsqs"
)

// system reports whether the bundle holds a system.
func (j *judgement) system() bool { return j.m.Product == trust.SystemProduct }

// systemDevice returns what a system bundle is judged for.
func (d *Desk) systemDevice(s trust.State, as trust.Device, m *bundle.Manifest) (trust.Device, error) {
	if d.o.System == nil {
		return as, refusal.New(refusal.Target, "product is %s: the system of this machine is not updated by bundles", m.Product).
			WithHint("update it as it was installed, with its package")
	}
	if len(m.Hardware) != 1 || m.Hardware[0] != d.o.Board {
		return as, refusal.New(refusal.Target, "hardware class: a system for %q, this machine is %q", m.Hardware, d.o.Board)
	}
	return s.SystemDevice(as, d.o.Board), nil
}

// runs returns the digest of the system bundle that was confirmed last.
func (d *Desk) runs(s trust.State, channel string) trust.Digest {
	l, _ := s.Confirmed(trust.SystemProduct, channel)
	if _, failed := s.Failure(l.Digest); failed {
		return trust.Digest{}
	}
	return l.Digest
}

// checkSystem wants exactly the files of a system for this machine that leaves the state in a
// form which this program can read if it has to come back. There is no edition.
func (d *Desk) checkSystem(b *bundle.Reader) (Edition, error) {
	i, err := systemImage(b)
	if err != nil {
		return nil, err
	}
	if got := "board-" + i.About["BOARD"]; got != d.o.Board {
		return nil, refusal.New(refusal.Target, "a system for %q, this machine is %q", got, d.o.Board)
	}
	form, err := strconv.ParseUint(i.About["STATE"], 10, 32)
	if err != nil {
		return nil, refusal.New(refusal.Compile, "path %q: STATE %q is not a number", bundle.SystemAbout, i.About["STATE"])
	}
	if form > d.o.Form {
		return nil, refusal.New(refusal.Runtime, "it keeps the state in form %d, and what runs here reads forms up to %d: there would be no way back", form, d.o.Form).
			WithHint("update to a version that reads form %d first", form)
	}
	return nil, nil
}

// systemImage describes what is in a system bundle.
func systemImage(b *bundle.Reader) (SystemImage, error) {
	m := b.Manifest()
	part := func(path string) (SystemPart, bool) {
		f, ok := m.File(path)
		if !ok || f.Codec == bundle.Sealed {
			return SystemPart{}, false
		}
		return SystemPart{Size: int64(f.Size), Open: func() (io.Reader, error) { return b.Open(path) }}, true //nolint:gosec // bounded by the format
	}
	root, ok1 := part(bundle.SystemRoot)
	kernel, ok2 := part(bundle.SystemKernel)
	_, ok3 := part(bundle.SystemAbout)
	if !ok1 || !ok2 || !ok3 || len(m.Files) != 3 {
		return SystemImage{}, refusal.New(refusal.Compile, "a system bundle holds %s, %s and %s, and nothing else", bundle.SystemRoot, bundle.SystemKernel, bundle.SystemAbout)
	}
	text, err := b.ReadFile(bundle.SystemAbout, maxAbout)
	if err != nil {
		return SystemImage{}, err
	}
	about := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !ok || about[name] != "" || strings.ContainsFunc(line, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }) {
			return SystemImage{}, refusal.New(refusal.Compile, "path %q: want lines NAME=VALUE, each name once", bundle.SystemAbout)
		}
		about[name] = value
	}
	in, err := b.Open(bundle.SystemRoot)
	if err != nil {
		return SystemImage{}, err
	}
	magic := make([]byte, len(squashMagic))
	if _, err := io.ReadFull(in, magic); err != nil || string(magic) != squashMagic {
		return SystemImage{}, refusal.New(refusal.Compile, "path %q: not a squashfs", bundle.SystemRoot)
	}
	return SystemImage{About: about, Root: root, Kernel: kernel}, nil
}

// trySystem writes the system to its place, commits the trial, and lets the machine start with
// it. If the power goes before the boot loader knows, nothing was tried, and the next start
// takes the trial back.
func (d *Desk) trySystem(ctx context.Context, r *Report, j judgement, _ Edition) error {
	place, err := d.installSystem(ctx, j)
	if err != nil {
		return err
	}
	d.deciding.Lock()
	defer d.deciding.Unlock()
	next, err := d.nextOnTrial(j)
	if err != nil {
		return err
	}
	g := slots.Digest(j.m.Digest())
	next.ptr.System, next.ptr.Place = g, place
	if err := d.commit("system trial", next, d.entry(audit.Trial, r.Source, g[:], "", fmt.Sprintf("system %d in place %s", j.m.Seq, place))); err != nil {
		return err
	}
	if err := d.tryPlace(context.WithoutCancel(ctx), place, attempts(j.m)); err != nil {
		return errors.Join(refusal.New(refusal.Store, "the boot loader was not told: %w", err), d.withdraw(r.Source, "the boot loader was not told"))
	}
	t := &trial{m: j.m, source: r.Source, restarts: true, over: make(chan struct{}), deadline: d.o.Clock.Boot() + restartLimit}
	d.mu.Lock()
	d.trial = t
	d.mu.Unlock()
	d.note(j.m)
	d.poke()
	*r = d.trialReport(*r)
	d.log.Info("system on trial: the machine starts anew", "seq", j.m.Seq, "version", j.m.Version, "place", place, "source", r.Source)
	d.tell(*r)
	return nil
}

// tryPlace has the machine start anew with a place. An error says that it will not: an answer
// that got lost is none, for a system that starts and is not on trial would be decided on by
// nobody who knows its bundle. ctx must not end with who offered the system, for the same reason.
func (d *Desk) tryPlace(ctx context.Context, place string, tries uint8) error {
	err := d.o.System.Decide(ctx, Choice{Verb: Try, Place: place, Tries: int(tries)})
	if err == nil {
		return nil
	}
	if boot, unread := d.o.System.Boot(ctx); unread == nil && boot.Next != place {
		return err
	}
	d.log.Warn("the boot loader was told, as far as is known", "place", place, "err", err)
	return nil
}

// installSystem writes what is in the stored bundle to the machine.
func (d *Desk) installSystem(ctx context.Context, j judgement) (place string, err error) {
	boot, err := d.o.System.Boot(ctx)
	if err != nil {
		return "", refusal.New(refusal.Store, "state of the boot loader: %w", err)
	}
	if boot.Running != boot.Good || boot.Next != boot.Running {
		return "", refusal.New(refusal.Busy, "system %s runs, %s is the one that is known to work, %s starts next", boot.Running, boot.Good, boot.Next).
			WithHint("wait until that is decided")
	}
	slot, err := d.o.Shelf.Open(slots.Digest(j.m.Digest()))
	if err != nil {
		return "", err
	}
	b := bundle.NewReader(j.m, slot)
	defer func() { err = errors.Join(err, b.Close(), slot.Close()) }()
	i, err := systemImage(b)
	if err != nil {
		return "", err
	}
	d.o.Step("system: install")
	if place, err = d.o.System.Install(ctx, i); err != nil {
		return "", refusal.New(refusal.Store, "write the system: %w", err)
	}
	return place, nil
}

// withdraw takes a system trial back that nobody tried. deciding is held.
func (d *Desk) withdraw(source, why string) error {
	next := d.next()
	g := next.ptr.System
	next.state = next.state.Withdraw()
	next.ptr = next.ptr.WithoutSystem()
	return d.commit("withdraw", next, d.entry(audit.RolledBack, source, g[:], "", why))
}

// confirmSystem makes the system on trial the good one: first in the boot state, which counts
// if the power goes in between. deciding is held.
func (d *Desk) confirmSystem(t *trial, source string) error {
	if t.restarts {
		return refusal.New(refusal.Busy, "the machine has yet to start with the system")
	}
	ptr := d.cur.Load().ptr
	d.o.Step("system: keep")
	if err := d.o.System.Decide(context.Background(), Choice{Verb: Keep, Place: ptr.Place}); err != nil {
		return refusal.New(refusal.Store, "the boot loader was not told: %w", err)
	}
	return d.keptSystem(t, source)
}

// keptSystem notes that the boot loader has the system as the good one. deciding is held.
func (d *Desk) keptSystem(t *trial, source string) error {
	next := d.next()
	g := next.ptr.System
	next.state = next.state.Confirm(t.m.Offer())
	next.ptr = next.ptr.WithoutSystem()
	if err := d.commit("confirm system", next, d.entry(audit.Confirmed, source, g[:], "", fmt.Sprintf("system %d", t.m.Seq))); err != nil {
		return err
	}
	d.log.Info("system confirmed", "seq", t.m.Seq, "version", t.m.Version, "by", source)
	r := Report{Kind: envelope.Manifest, Source: t.source, Phase: Confirmed}
	r.describe(t.m)
	d.over(t, r)
	d.alarm(refusal.Health, "")
	d.sweep()
	return nil
}

// endSystem ends the trial of a system badly. The boot loader hears of it first: it must not
// start once more what is noted as failed. deciding is held.
func (d *Desk) endSystem(ctx context.Context, t *trial, word refusal.Word, why, source string) {
	d.o.Step("system: give up")
	if err := d.o.System.Decide(context.WithoutCancel(ctx), Choice{Verb: GiveUp, Place: d.cur.Load().ptr.Place}); err != nil {
		d.undecided(t, err)
		return
	}
	if err := d.failedSystem(t, word, why, source); err != nil {
		d.undecided(t, err)
	}
}

// failedSystem notes that the boot loader has gone back, or will. deciding is held.
func (d *Desk) failedSystem(t *trial, word refusal.Word, why, source string) error {
	next := d.next()
	g := next.ptr.System
	next.state = next.state.Fail(t.m.Offer(), word)
	next.ptr = next.ptr.WithoutSystem()
	if err := d.commit("give up system", next, d.entry(audit.RolledBack, source, g[:], word, why)); err != nil {
		return err
	}
	d.log.Warn("system rolled back", "seq", t.m.Seq, "version", t.m.Version, "word", string(word), "detail", why)
	r := Report{Kind: envelope.Manifest, Source: t.source}.with(refusal.New(word, "%s", why))
	r.Phase = RolledBack
	r.describe(t.m)
	d.over(t, r)
	d.sweep()
	return nil
}

// resumeSystem goes on, at start, with the trial of a system: the boot loader's word counts.
func (d *Desk) resumeSystem(ctx context.Context) error {
	ptr := d.cur.Load().ptr
	if ptr.System.IsZero() {
		return ctx.Err()
	}
	d.deciding.Lock()
	defer d.deciding.Unlock()
	m := d.manifest(bundle.Digest(ptr.System))
	if m == nil || d.o.System == nil {
		return errors.Join(ctx.Err(), d.withdraw("start", "the system bundle cannot be read, or the machine is another"))
	}
	boot, err := d.o.System.Boot(ctx)
	if err != nil {
		d.alarm(refusal.Store, "a system is on trial, and the state of the boot loader cannot be read: "+err.Error())
		return ctx.Err()
	}
	t := newTrial(m)
	switch {
	case boot.Running == ptr.Place && boot.Good == ptr.Place:
		err = d.keptSystem(t, "start")
	case boot.Running == ptr.Place:
		err = d.resumeTried(ctx, m)
	case boot.Next == ptr.Place:
		err = d.o.System.Decide(ctx, Choice{Verb: Try, Place: ptr.Place, Tries: int(attempts(m))})
	case boot.Back == ptr.Place:
		err = d.failedSystem(t, refusal.Health, "it did not come up: system "+boot.Running+" runs again", "start")
	default:
		err = d.withdraw("start", "the power went before it could be tried: offer it again")
	}
	if err != nil {
		d.alarm(refusal.Store, "the trial of a system: "+err.Error())
	}
	return ctx.Err()
}

// resumeTried goes on with the trial of the system that runs. Each start counts before anything
// else is done: a system whose program dies again and again is given up, no matter how long it
// served each time. deciding is held.
func (d *Desk) resumeTried(ctx context.Context, m *bundle.Manifest) error {
	d.charge()
	next, why := d.next(), ""
	if next.ptr.Starts >= attempts(m) {
		why = crashed(m)
	} else {
		next.ptr.Starts++
		if err := d.commit("start of a system", next); err != nil {
			why = "a start of it cannot be counted: " + err.Error() // it would have no end
		}
	}
	if why != "" {
		d.endSystem(ctx, d.hold(m, why), refusal.Health, why, "start")
		return nil
	}
	if err := d.o.System.Decide(ctx, Choice{Verb: Hold, Place: next.ptr.Place}); err != nil {
		return err
	}
	d.begin(m, "start")
	d.log.Info("system on trial", "seq", m.Seq, "version", m.Version, "place", next.ptr.Place, "start", next.ptr.Starts)
	return nil
}
