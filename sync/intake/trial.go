package intake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"tidegate/policy/refusal"
	"tidegate/store/audit"
	"tidegate/store/slots"
	"tidegate/sync/bundle"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
	"time"
)

// How a trial runs unless the manifest says otherwise.
const (
	autoWindow   = 120 * time.Second
	handWindow   = 900 * time.Second
	autoAttempts = 3
	roundEvery   = 10 * time.Second
	roundsToPass = 3

	keepEvery  = 10 * time.Minute      // the time floor is stored
	cacheUntil = 7 * 24 * time.Hour    // of running, for what was staged and not activated
	scrubFirst = time.Hour             // of running; a device that is off every night scrubs too
	scrubEvery = 7 * 24 * time.Hour    // of running
	staleAfter = 90 * 24 * time.Hour   // without a newer bundle, before a warning
	scrubPace  = 20 * time.Millisecond // between two chunks: 1 GiB takes 20 s
)

// A trial is a bundle that serves and is not confirmed. Its rounds belong to Run; what ends
// it holds deciding.
type trial struct {
	m        *bundle.Manifest
	source   string
	byHand   bool
	deadline time.Duration // boot time
	absent   string        // why it was not begun again at a start, so that it can only end badly; "": it was
	restarts bool          // it is a system whose machine has yet to start with it
	before   float64       // share of failed answers before the swap
	rounds   [][]error     // the last rounds of the probes, one error or nil for each
	over     chan struct{}
	outcome  Report // set before over is closed
}

func (d *Desk) onTrial() *trial {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.trial
}

// trialReport says that r's bundle waits for its verdict.
func (d *Desk) trialReport(r Report) Report {
	r.Phase = OnTrial
	if t := d.onTrial(); t != nil {
		r.ByHand, r.Deadline = t.byHand, max(t.deadline-d.o.Clock.Boot(), 0)
	}
	return r
}

// attempts returns how many starts a trial of m gets.
func attempts(m *bundle.Manifest) uint8 {
	if m.Activation != nil {
		return uint8(m.Activation.Attempts) //nolint:gosec // 1 to 9
	}
	return autoAttempts
}

// activate commits the trial and lets the edition serve: the commit point is here.
func (d *Desk) activate(_ context.Context, r *Report, j judgement, e Edition) error {
	d.deciding.Lock()
	defer d.deciding.Unlock()
	next, err := d.nextOnTrial(j)
	if err != nil {
		return err
	}
	g := slots.Digest(j.m.Digest())
	next.ptr.Trial, next.ptr.Attempts = g, attempts(j.m)
	if err := d.commit("trial", next, d.entry(audit.Trial, r.Source, g[:], "", fmt.Sprintf("bundle %d", j.m.Seq))); err != nil {
		return err
	}
	d.begin(j.m, r.Source)
	d.serve(e, j.m)
	*r = d.trialReport(*r)
	d.log.Info("bundle on trial", "seq", j.m.Seq, "source", r.Source)
	d.tell(*r)
	return nil
}

// nextOnTrial returns the memory of a device that has the candidate on trial; the caller adds
// where it is kept. deciding is held.
func (d *Desk) nextOnTrial(j judgement) (memory, error) {
	if d.onTrial() != nil {
		return memory{}, busyTrial()
	}
	next := d.next()
	if j.retry {
		next.state = next.state.Forgive(j.m.Digest())
	}
	// The root may have moved while the content came in.
	if err := next.state.Allowed(j.m.Offer().Line()); err != nil {
		return memory{}, err
	}
	next.state = next.state.Try(j.m.Offer())
	return next, nil
}

// system reports whether what is tried is the machine's system and not what serves.
func (t *trial) system() bool { return t.m.Product == trust.SystemProduct }

// begin starts the window of a trial. deciding is held.
func (d *Desk) begin(m *bundle.Manifest, source string) {
	now := d.o.Clock.Boot()
	t := &trial{m: m, source: source, over: make(chan struct{})}
	window := autoWindow
	if a := m.Activation; a != nil {
		t.byHand = a.Mode == bundle.ByHand
		window = time.Duration(a.Window) * time.Second //nolint:gosec // at most a week
	}
	t.deadline = now + window
	all, failed := d.o.Prober.Answers()
	d.mu.Lock()
	d.samples.add(now, all, failed)
	t.before = d.samples.share(now, errorsBefore)
	d.samples.restart(now, all, failed)
	d.trial = t
	d.mu.Unlock()
	d.poke()
}

// poke tells Run that a trial began or ended.
func (d *Desk) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// serve lets an edition serve.
func (d *Desk) serve(e Edition, m *bundle.Manifest) {
	d.o.Step("swap")
	d.o.Activator.Activate(e)
	var g slots.Digest
	if m != nil {
		d.note(m)
		g = slots.Digest(m.Digest())
	}
	d.mu.Lock()
	d.serving = g
	d.mu.Unlock()
}

// Run watches trials, keeps the time floor and looks after what is stored, until ctx ends.
// It is the one goroutine of the desk.
func (d *Desk) Run(ctx context.Context) error {
	round := time.NewTicker(roundEvery)
	defer round.Stop()
	keep := time.NewTicker(keepEvery)
	defer keep.Stop()
	scrub := time.NewTimer(scrubFirst)
	defer scrub.Stop()
	cache := time.NewTicker(cacheUntil)
	defer cache.Stop()
	var scrubbing sync.WaitGroup
	defer scrubbing.Wait()
	deadline := time.NewTimer(0)
	defer deadline.Stop()
	for {
		t := d.onTrial()
		if t != nil {
			deadline.Reset(max(d.left(t), 0))
		} else {
			deadline.Stop()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.wake:
			round.Reset(roundEvery)
		case <-round.C:
			d.round(ctx)
		case <-deadline.C:
			if t != nil && d.left(t) <= 0 {
				d.verdict(ctx, t)
			}
		case <-keep.C:
			d.keepTime()
		case <-scrub.C:
			scrub.Reset(scrubEvery)
			scrubbing.Go(func() { d.scrub(ctx) })
		case <-cache.C:
			d.dropCache()
		}
	}
}

// left returns the time until the deadline of t.
func (d *Desk) left(t *trial) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return t.deadline - d.o.Clock.Boot()
}

// round takes a sample of the answers and, on trial, sends the probes and asks the guard.
func (d *Desk) round(ctx context.Context) {
	now := d.o.Clock.Boot()
	all, failed := d.o.Prober.Answers()
	d.mu.Lock()
	d.samples.add(now, all, failed)
	t := d.trial
	count, share := d.samples.recent(now)
	d.mu.Unlock()
	if t == nil || t.restarts || t.absent != "" {
		return
	}
	if count >= guardAnswers && share > t.before+guardMargin {
		d.end(ctx, t, refusal.Health, fmt.Sprintf("errors: %.0f %% of %d answers failed, before the swap it was %.0f %%", share*100, count, t.before*100), "guard")
		return
	}
	if ctx.Err() == nil {
		d.probe(ctx, t)
	}
}

// probe runs one round of the probes, all at once.
func (d *Desk) probe(ctx context.Context, t *trial) {
	results := make([]error, len(t.m.Probes))
	var wg sync.WaitGroup
	for i, p := range t.m.Probes {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, p.Timeout())
			defer cancel()
			status, err := d.o.Prober.Probe(ctx, p)
			if err == nil && !slices.Contains(p.Status, uint64(max(status, 0))) { //nolint:gosec // not negative
				err = fmt.Errorf("answered %d", status)
			}
			if err == nil {
				err = ctx.Err() // it came too late
			}
			if err != nil {
				results[i] = fmt.Errorf("probe: %s %s: %w", p.Method, p.Target, err)
			}
		})
	}
	wg.Wait()
	t.rounds = append(t.rounds, results)
	if extra := len(t.rounds) - roundsToPass; extra > 0 {
		t.rounds = t.rounds[extra:]
	}
}

// verdict ends a trial whose window is over.
func (d *Desk) verdict(ctx context.Context, t *trial) {
	if t.restarts {
		d.end(ctx, t, refusal.Health, "the machine did not start anew", "deadline")
		return
	}
	if t.absent != "" { // its end could not be written down at the start
		d.end(ctx, t, refusal.Health, t.absent, "deadline")
		return
	}
	if t.byHand {
		d.end(ctx, t, refusal.Health, "deadline: nobody confirmed", "deadline")
		return
	}
	if len(t.rounds) == 0 {
		d.probe(ctx, t)
	}
	var faults []error
	if err := d.o.Prober.Health(ctx); err != nil {
		faults = append(faults, err)
	}
	for _, round := range t.rounds {
		for _, err := range round {
			if err != nil && !containsText(faults, err) {
				faults = append(faults, err)
			}
		}
	}
	if ctx.Err() != nil {
		return // stopping says nothing about the bundle
	}
	if len(faults) > 0 {
		d.end(ctx, t, refusal.Health, errors.Join(faults...).Error(), "window")
		return
	}
	if err := d.confirm(t, "window"); err != nil {
		// The disk cannot say that this bundle is confirmed, so the window begins again.
		d.log.Error("confirm", "err", err)
		d.alarm(refusal.Store, "a trial could not be confirmed: "+err.Error())
		d.mu.Lock()
		t.deadline = d.o.Clock.Boot() + autoWindow
		d.mu.Unlock()
	}
}

func containsText(all []error, err error) bool {
	return slices.ContainsFunc(all, func(e error) bool { return e.Error() == err.Error() })
}

// Confirm ends the trial well, by a person. Without a trial it does nothing and says so in the
// report.
func (d *Desk) Confirm(_ context.Context, source string) (Report, error) {
	t := d.onTrial()
	if t == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		r := d.last
		r.Already = true
		return r, nil
	}
	if err := d.confirm(t, source); err != nil {
		return Report{Source: source}.with(err), err
	}
	<-t.over
	return t.outcome, nil
}

// confirm makes the bundle on trial the last known good one, in one transaction with the
// counters and the time floor.
func (d *Desk) confirm(t *trial, source string) error {
	d.deciding.Lock()
	defer d.deciding.Unlock()
	if d.onTrial() != t {
		return nil // decided meanwhile
	}
	if t.system() {
		return d.confirmSystem(t, source)
	}
	g := slots.Digest(t.m.Digest())
	next := d.next()
	next.state = next.state.Confirm(t.m.Offer())
	if before := next.ptr.Active; before != g {
		next.ptr.Older = before
	}
	next.ptr.Good, next.ptr.Active = g, g
	next.ptr.Trial, next.ptr.Attempts = slots.Digest{}, 0
	next.ptr.Since = next.state.Floor().Unix
	if err := d.commit("confirm", next, d.entry(audit.Confirmed, source, g[:], "", fmt.Sprintf("bundle %d", t.m.Seq))); err != nil {
		return err
	}
	d.log.Info("bundle confirmed", "seq", t.m.Seq, "by", source)
	r := Report{Kind: envelope.Manifest, Source: t.source, Phase: Confirmed}
	r.describe(t.m)
	d.over(t, r)
	// What was wrong with the bundles before this one is over. Damage on the shelf is found
	// again by the next scrub.
	for _, w := range []refusal.Word{refusal.Health, refusal.Revoked, refusal.Digest, refusal.Codec, refusal.Compile, refusal.SecretRecipient, refusal.SecretAuth} {
		d.alarm(w, "")
	}
	d.sweep()
	return nil
}

// over closes a trial that was decided.
func (d *Desk) over(t *trial, r Report) {
	d.mu.Lock()
	d.trial = nil
	t.outcome = r
	d.mu.Unlock()
	close(t.over)
	d.tell(r)
	d.poke()
}

// sweep gives back the space of slots that no pointer has.
func (d *Desk) sweep() {
	if err := d.o.Shelf.Sweep(d.cur.Load().ptr.Pinned()...); err != nil {
		d.log.Error("sweep", "err", err)
	}
}

// end ends a trial badly: what served before serves again, unless it is not allowed any
// more or does not load.
func (d *Desk) end(ctx context.Context, t *trial, word refusal.Word, why, source string) {
	d.deciding.Lock()
	defer d.deciding.Unlock()
	if d.onTrial() != t {
		return
	}
	if t.system() {
		d.endSystem(ctx, t, word, why, source)
		return
	}
	g := slots.Digest(t.m.Digest())
	// Loaded before anything is written: what cannot be loaded is not gone back to.
	e, m, back := d.fallback(context.WithoutCancel(ctx), g)
	next := d.next()
	next.state = next.state.Fail(t.m.Offer(), word)
	next.ptr.Trial, next.ptr.Attempts = slots.Digest{}, 0
	stays := m == nil && t.absent == "" && d.o.Prober.Health(ctx) == nil
	switch {
	case m != nil:
		next.ptr.Active = back
	case stays:
		next.ptr.Active = g
	default:
		next.ptr.Active = slots.Digest{}
	}
	if err := d.commit("roll back", next, d.entry(audit.RolledBack, source, g[:], word, why)); err != nil {
		// Nothing is decided. The start after this one takes an attempt, so it ends.
		d.undecided(t, err)
		return
	}
	r := Report{Kind: envelope.Manifest, Source: t.source}.with(refusal.New(word, "%s", why))
	r.Phase = RolledBack
	r.describe(t.m)
	switch {
	case m != nil:
		d.serve(e, m)
	case stays:
		d.alarm(refusal.Health, "the bundle that failed its trial serves on: there is no other")
		d.note(t.m)
	default:
		d.alarm(refusal.Health, "safe mode: no bundle can be served")
		d.serve(nil, nil)
	}
	d.log.Warn("bundle rolled back", "seq", t.m.Seq, "word", string(word), "detail", why)
	d.over(t, r)
	d.sweep()
}

// undecided lets a trial go on whose end could not be written down.
func (d *Desk) undecided(t *trial, err error) {
	d.log.Error("roll back", "err", err)
	d.alarm(refusal.Store, "a trial could not be ended: "+err.Error())
	d.mu.Lock()
	t.deadline = d.o.Clock.Boot() + roundEvery
	d.mu.Unlock()
}
