package intake

import (
	"context"
	"errors"
	"fmt"
	"tidegate/policy/refusal"
	"tidegate/store/audit"
	"tidegate/store/slots"
	"tidegate/sync/bundle"
	"time"
)

// Resume makes what the device knows serve, at start: a bundle on trial loses an attempt and
// goes on trial again, else the bundle that served serves; what does not load gives way to
// the one before it. What was stored is not judged again: no signature, no expiry. It writes
// the audit entry of the start.
//
// An error is returned when ctx ends. Whatever else is wrong, the device serves what it can,
// in the end safe mode, and [Desk.Status] tells.
func (d *Desk) Resume(ctx context.Context) error {
	if err := d.take(); err != nil {
		return err
	}
	defer d.leave()
	if err := d.o.Audit.Record(d.o.State, d.entry(audit.Start, "", nil, "", "")); err != nil {
		d.log.Error("audit entry of the start", "err", err)
	}
	if err := d.resumeBundle(ctx); err != nil {
		return err
	}
	return d.resumeSystem(ctx)
}

// resumeBundle makes the stored bundle serve.
func (d *Desk) resumeBundle(ctx context.Context) error {
	ptr := d.cur.Load().ptr
	if !ptr.Trial.IsZero() && d.resumeTrial(ctx) || ctx.Err() != nil {
		return ctx.Err()
	}
	if d.locked() != nil && len(ptr.Pinned()) == 0 {
		return d.resumeBlind(ctx)
	}
	return d.resumeActive(ctx)
}

// resumeTrial puts the bundle on trial again and reports whether anything serves now. False
// leaves the trial as it is, not loaded, because its attempt could not be written down.
func (d *Desk) resumeTrial(ctx context.Context) bool {
	ptr := d.cur.Load().ptr
	d.charge()
	m := d.manifest(bundle.Digest(ptr.Trial))
	if m == nil {
		return d.abandon(ctx, refusal.Digest, "the stored bundle cannot be read")
	}
	if ptr.Attempts <= 1 {
		t := d.hold(m, crashed(m))
		d.end(ctx, t, refusal.Health, t.absent, "start")
		return d.decided(t)
	}
	// The attempt is gone before the bundle is loaded: it may take the process with it.
	d.deciding.Lock()
	next := d.next()
	next.ptr.Attempts--
	err := d.commit("attempt", next)
	d.deciding.Unlock()
	if err != nil {
		d.log.Error("attempt of a trial", "err", err)
		return false
	}
	e, m, err := d.load(ctx, ptr.Trial)
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		word, coded := refusal.Of(err)
		if !coded {
			word = refusal.Compile
		}
		t := d.hold(d.manifest(bundle.Digest(ptr.Trial)), err.Error())
		d.end(ctx, t, word, t.absent, "start")
		return d.decided(t)
	}
	d.deciding.Lock()
	defer d.deciding.Unlock()
	d.begin(m, "start")
	d.serve(e, m)
	d.log.Info("bundle on trial again", "seq", m.Seq, "attempts", int(next.ptr.Attempts))
	return true
}

// charge lets what is on trial, and not the files, answer for this start.
func (d *Desk) charge() {
	if d.o.Charge == nil {
		return
	}
	if err := d.o.Charge(); err != nil {
		d.log.Error("count of starts", "err", err)
	}
}

// crashed says why a trial ends whose starts are used up.
func crashed(m *bundle.Manifest) string {
	return fmt.Sprintf("crashed: %d starts without a verdict", attempts(m))
}

// newTrial returns the trial of a bundle that is found at a start.
func newTrial(m *bundle.Manifest) *trial {
	return &trial{m: m, source: "start", over: make(chan struct{})}
}

// hold makes a trial that is not begun again, to be ended, and says why.
func (d *Desk) hold(m *bundle.Manifest, why string) *trial {
	t := newTrial(m)
	t.absent = why
	d.mu.Lock()
	d.trial = t
	d.mu.Unlock()
	return t
}

// decided reports whether t has ended; one that could not be ended is let go of.
func (d *Desk) decided(t *trial) bool {
	select {
	case <-t.over:
		return true
	default:
		d.mu.Lock()
		d.trial = nil
		d.mu.Unlock()
		return false
	}
}

// abandon ends the trial of a bundle of which nothing can be read.
func (d *Desk) abandon(ctx context.Context, word refusal.Word, why string) bool {
	d.deciding.Lock()
	defer d.deciding.Unlock()
	next := d.next()
	g := next.ptr.Trial
	next.ptr.Trial, next.ptr.Attempts = slots.Digest{}, 0
	next.state = next.state.Abandon(word)
	if err := d.commit("roll back", next, d.entry(audit.RolledBack, "start", g[:], word, why)); err != nil {
		d.log.Error("roll back", "err", err)
	}
	d.log.Warn("bundle rolled back", "digest", g.String(), "word", string(word), "detail", why)
	return false
}

// resumeActive serves the bundle that served, or the next that loads.
func (d *Desk) resumeActive(ctx context.Context) error {
	d.deciding.Lock()
	defer d.deciding.Unlock()
	active := d.cur.Load().ptr.Active
	if active.IsZero() {
		active = d.cur.Load().ptr.Good
	}
	if active.IsZero() {
		d.serve(nil, nil)
		return nil
	}
	e, m, err := d.load(ctx, active)
	if err == nil {
		d.serve(e, m)
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	word, coded := refusal.Of(err)
	if !coded {
		word = refusal.Compile
	}
	d.alarm(word, "the bundle that served does not load: "+err.Error())
	e, m, other := d.fallback(ctx, active)
	if m == nil {
		d.alarm(refusal.Health, "safe mode: no bundle can be served")
		d.serve(nil, nil)
		return ctx.Err()
	}
	next := d.next()
	next.ptr.Active = other
	if err := d.commit("give way", next, d.entry(audit.Alarm, "start", active[:], word, err.Error())); err != nil {
		d.log.Error("note which bundle serves", "err", err)
	}
	d.serve(e, m)
	return nil
}

// resumeBlind serves the newest whole bundle on the shelf, on a device that has lost what it
// knew. It writes nothing.
func (d *Desk) resumeBlind(ctx context.Context) error {
	var newest *bundle.Manifest
	all, err := d.o.Shelf.Digests()
	if err != nil {
		d.log.Error("shelf", "err", err)
	}
	for _, g := range all {
		m := d.manifest(bundle.Digest(g))
		if m != nil && (newest == nil || m.Epoch > newest.Epoch || m.Epoch == newest.Epoch && m.Seq > newest.Seq) && d.whole(ctx, g) {
			newest = m
		}
	}
	if newest == nil {
		d.serve(nil, nil)
		return ctx.Err()
	}
	e, m, err := d.load(ctx, slots.Digest(newest.Digest()))
	if err != nil {
		d.log.Error("stored bundle does not load", "err", err)
		d.serve(nil, nil)
		return ctx.Err()
	}
	d.serve(e, m)
	return nil
}

func (d *Desk) whole(ctx context.Context, g slots.Digest) bool {
	b, err := d.o.Shelf.Open(g)
	if err != nil {
		return false
	}
	return errors.Join(b.Verify(ctx, nil), b.Close()) == nil
}

// keepTime stores the time floor.
func (d *Desk) keepTime() {
	d.deciding.Lock()
	defer d.deciding.Unlock()
	if d.cur.Load().state.Root() == nil {
		return
	}
	if err := d.commit("time", d.next()); err != nil {
		d.log.Error("time floor", "err", err)
	}
}

// SetTime raises the time floor by what a person at the console, or a clock that the site
// vouches for, says. A floor never goes back, so a time in the past changes nothing.
func (d *Desk) SetTime(t time.Time, source string) error {
	d.deciding.Lock()
	defer d.deciding.Unlock()
	next := d.next()
	next.state = next.state.SetTime(uint64(max(t.UnixMilli(), 0))) //nolint:gosec // not negative
	return d.commit("time", next, d.entry(audit.Clock, source, nil, "", t.UTC().Format(time.RFC3339)))
}

// Attest raises the time floor by a time attestation that was verified with [Desk.Trust]: a
// time of the time role under epoch, in milliseconds since 1970.
func (d *Desk) Attest(epoch, milli uint64) error {
	d.deciding.Lock()
	defer d.deciding.Unlock()
	next := d.next()
	state, err := next.state.Attest(epoch, milli)
	if err != nil {
		return err
	}
	next.state = state
	return d.commit("time", next)
}

// scrub reads all stored bundles and raises an alarm for damage.
func (d *Desk) scrub(ctx context.Context) {
	damaged, err := d.o.Shelf.Scrub(ctx, scrubPace, d.cur.Load().ptr.Pinned()...)
	if err != nil {
		return // only ctx ends it
	}
	if len(damaged) == 0 {
		d.alarm(refusal.Digest, "")
		return
	}
	for _, g := range damaged {
		text := fmt.Sprintf("the stored copy of bundle %s is damaged; any file of it repairs it", g)
		if !d.alarm(refusal.Digest, text) {
			continue
		}
		if err := d.o.Audit.Record(d.o.State, d.entry(audit.Alarm, "scrub", g[:], refusal.Digest, text)); err != nil {
			d.log.Error("audit entry of an alarm", "err", err)
		}
	}
}

// dropCache gives back the space of what was received, wholly or in part, and never
// activated. A transfer that is under way is left alone.
func (d *Desk) dropCache() {
	if d.take() != nil {
		return
	}
	defer d.leave()
	d.sweep()
	d.mu.Lock()
	t := d.transfer
	d.mu.Unlock()
	var keep []slots.Digest
	if t != nil {
		keep = append(keep, slots.Digest(t.j.m.Digest()))
	}
	if err := d.o.Shelf.DropParts(keep...); err != nil {
		d.log.Error("sweep", "err", err)
	}
}
