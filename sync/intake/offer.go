package intake

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"path/filepath"
	"tidegate/platform/durable"
	"tidegate/policy/changes"
	"tidegate/policy/refusal"
	"tidegate/store/audit"
	"tidegate/store/slots"
	"tidegate/sync/bundle"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
)

// Offer takes a file in: a bundle is verified, staged, compiled and put on trial, a trust
// root or an enrolment put in force. The error is the refusal that the report tells too.
// When a bundle was put on trial Offer does not wait for the verdict: see [Desk.Wait].
//
// A refused candidate has changed nothing but for the roots in it, each of which stands on
// its own merit, and the memory that this content failed.
func (d *Desk) Offer(ctx context.Context, c Candidate) (Report, error) {
	if err := d.take(); err != nil {
		return d.turnedAway(c, err), err
	}
	defer d.leave()
	d.suspend(c.Source)
	r, err := d.offer(ctx, c)
	return d.ended(ctx, r, err)
}

// ended writes down and tells what became of a candidate. The desk is held.
func (d *Desk) ended(ctx context.Context, r Report, err error) (Report, error) {
	r = r.with(err)
	if err != nil {
		d.refused(ctx, r)
	}
	if r.Phase != OnTrial || r.Already {
		d.tell(r)
	}
	if r.Roots > 0 {
		d.rejudge(ctx)
	}
	return r, err
}

// Plan runs every step of [Desk.Offer] up to the activation and keeps nothing, not even
// roots. The report says what Offer would do.
func (d *Desk) Plan(ctx context.Context, c Candidate) (Report, error) {
	if err := d.take(); err != nil {
		return d.turnedAway(c, err), err
	}
	defer d.leave()
	d.suspend(c.Source)
	r, err := d.plan(ctx, c)
	return r.with(err), err
}

func (d *Desk) turnedAway(c Candidate, err error) Report {
	return Report{Source: c.Source, Object: c.Name}.with(err)
}

// with returns r with the refusal err in it.
func (r Report) with(err error) Report {
	if err == nil {
		return r
	}
	r.Phase = Rejected
	r.Word, _ = refusal.Of(err)
	r.Detail, r.Hint = err.Error(), refusal.Hint(err)
	return r
}

// refused writes the one audit entry of a refusal. Who gave up before a decision was made
// was not refused.
func (d *Desk) refused(ctx context.Context, r Report) {
	if r.Word == "" {
		if ctx.Err() == nil {
			d.log.Error("intake", "object", r.Object, "source", r.Source, "err", r.Detail)
		}
		return
	}
	d.log.Warn("refused", "word", string(r.Word), "object", r.Object, "source", r.Source, "detail", r.Detail)
	if r.noted {
		return
	}
	digest := r.seen
	if r.Digest != (bundle.Digest{}) {
		digest = r.Digest[:]
	}
	if err := d.o.Audit.Record(d.o.State, d.entry(audit.Refused, r.Source, digest, r.Word, r.Detail)); err != nil {
		d.log.Error("audit entry of a refusal", "word", string(r.Word), "err", err)
	}
}

// sniffBytes is more than any magic takes.
const sniffBytes = 64

// open opens the candidate and looks which file of ours it is.
func (d *Desk) open(ctx context.Context, c Candidate) (*bufio.Reader, envelope.Kind, func(), error) {
	in, err := c.Open()
	if err != nil {
		if _, coded := refusal.Of(err); !coded {
			err = refusal.New(refusal.MediaIO, "open: %w", err)
		}
		return nil, "", nil, refusal.About(c.Name, err)
	}
	p := newPatient(ctx, in)
	r := bufio.NewReaderSize(p, pieceBytes)
	head, err := r.Peek(sniffBytes)
	if err != nil && err != io.EOF {
		p.Close()
		return nil, "", nil, about(c, bundle.MediaError(err))
	}
	word, err := canon.NewReader(bytes.NewReader(head)).Word()
	if err != nil {
		p.Close()
		return nil, "", nil, about(c, err)
	}
	for _, k := range []envelope.Kind{envelope.Root, envelope.Device} {
		if word == k.FileWord() {
			return r, k, p.Close, nil
		}
	}
	if word != bundle.Word {
		p.Close()
		return nil, "", nil, about(c, refusal.New(refusal.Format, "magic: a %s file, which a device does not take in", word))
	}
	return r, envelope.Manifest, p.Close, nil
}

func about(c Candidate, err error) error { return refusal.About(c.Name, err) }

func (d *Desk) offer(ctx context.Context, c Candidate) (Report, error) {
	return d.each(ctx, c, d.offerRoots, d.offerEnrolment, func(r Report, h *bundle.Head) (Report, error) {
		return d.offerBundle(ctx, r, c, h)
	})
}

// each opens a candidate and hands it to the function for its kind.
func (d *Desk) each(ctx context.Context, c Candidate, roots, enrolment func(Report, io.Reader) (Report, error), content func(Report, *bundle.Head) (Report, error)) (Report, error) {
	r := Report{Source: c.Source, Object: c.Name}
	in, kind, done, err := d.open(ctx, c)
	if err != nil {
		return r, err
	}
	defer done()
	r.Kind = kind
	switch kind {
	case envelope.Root:
		return roots(r, in)
	case envelope.Device:
		return enrolment(r, in)
	}
	h, err := bundle.Read(in)
	if err != nil {
		return r, about(c, err)
	}
	return content(r, h)
}

// offerBundle goes on from the head of a bundle, whose content comes from the stream behind it.
func (d *Desk) offerBundle(ctx context.Context, r Report, c Candidate, h *bundle.Head) (Report, error) {
	j, err := d.judge(&r, h, c.Retry, d.keepRoots(c.Source))
	if err != nil {
		return r, about(c, err)
	}
	switch j.verdict {
	case trust.OnTrial:
		r.Already = true
		return d.trialReport(r), nil
	case trust.AlreadyInstalled:
		r.Phase, r.Already = Confirmed, true
		return r, about(c, d.mend(ctx, &r, j, h))
	}
	if d.onTrial() != nil {
		return r, about(c, busyTrial())
	}
	if err := d.stage(ctx, j, h); err != nil {
		return r, about(c, err)
	}
	r.Phase = Staged
	err = d.bringIn(ctx, &r, j)
	return r, about(c, err)
}

// bringIn compiles a bundle that is staged and puts it on trial. The desk is held.
func (d *Desk) bringIn(ctx context.Context, r *Report, j judgement) error {
	e, err := d.compileStaged(ctx, r, j)
	if err != nil {
		return err
	}
	r.Phase = Compiled
	activate := d.activate
	if j.system() {
		activate = d.trySystem
	}
	if err := activate(ctx, r, j, e); err != nil {
		return errors.Join(err, d.release(j.m))
	}
	return nil
}

func busyTrial() error {
	return refusal.New(refusal.Busy, "another bundle is on trial").
		WithHint("wait for its verdict, or decide it: tidegate confirm, tidegate rollback")
}

// A judgement is what steps 4 to 8 found about a bundle.
type judgement struct {
	head    *bundle.Head
	m       *bundle.Manifest
	state   trust.State // with the roots of the file; not stored where roots are not kept
	verdict trust.Verdict
	source  string
	retry   bool
}

// judge runs steps 4 to 8: time floor, roots, signatures, form, for us and now. keep is
// called for each new root.
func (d *Desk) judge(r *Report, h *bundle.Head, retry bool, keep func(trust.State) error) (judgement, error) {
	j := judgement{head: h, source: r.Source, retry: retry}
	seen := sha256.Sum256(h.Manifest)
	r.seen = seen[:]
	if err := d.locked(); err != nil {
		return j, err
	}
	state := d.Trust()
	floor := d.Floor().Unix // T, the same for the whole run
	state, warnings, err := state.AddRoots(h.Roots, floor, func(s trust.State) error {
		if err := keep(s); err != nil {
			return err
		}
		r.Roots++
		return nil
	})
	r.Warnings = append(r.Warnings, warnings...)
	if err != nil {
		d.alarmFor(err, h.Roots...)
		return j, err
	}
	payload, warnings, err := state.Verify(trust.RoleRelease, envelope.Manifest, h.Manifest)
	r.Warnings = append(r.Warnings, warnings...)
	if err != nil {
		return j, err
	}
	m, err := bundle.ParseManifest(payload)
	if err != nil {
		return j, err
	}
	j.m = m
	r.describe(m)
	serving := trust.Digest(d.servingDigest())
	if _, failed := state.Failure(m.Digest()); failed {
		// It failed its trial and serves, if it does, for want of another: that is not installed.
		serving = trust.Digest{}
	}
	if retry {
		state = state.Forgive(m.Digest())
	}
	device := state.Device(d.o.Device, d.o.Hardware, d.o.Version)
	if j.system() {
		if device, err = d.systemDevice(state, device, m); err != nil {
			return j, err
		}
		serving = d.runs(state, device.Channel)
	}
	verdict, warnings, err := state.Judge(m.Offer(), device, trust.Moment{
		Floor: floor, Wall: max(unix(d.o.Clock.Wall()), 1), Serving: serving,
	})
	r.Warnings = append(r.Warnings, warnings...)
	if err != nil {
		d.alarmFor(err, h.Manifest)
		return j, err
	}
	if size := m.Size(int64(len(h.Bytes))); d.o.MaxBytes > 0 && size > d.o.MaxBytes {
		return j, refusal.New(refusal.NoSpace, "the bundle has %d bytes, at most %d are allowed on this device", size, d.o.MaxBytes).
			WithHint("make it smaller, or raise the quota for bundles")
	}
	j.state, j.verdict = state, verdict
	r.Phase = Verified
	if !j.system() {
		r.Changes = bundle.Compare(d.manifest(bundle.Digest(d.base())), m)
	}
	return j, nil
}

// base is the bundle that changes are held against: the one that serves, or where none was
// loaded, as at rest, the one that the next start serves.
func (d *Desk) base() slots.Digest {
	if g := d.servingDigest(); !g.IsZero() {
		return g
	}
	ptr := d.cur.Load().ptr
	if !ptr.Trial.IsZero() {
		return ptr.Trial
	}
	return ptr.Active
}

// damaged reports whether the stored copy of a bundle that is installed is not whole. Of a
// system bundle none is kept.
func (d *Desk) damaged(j judgement) bool {
	return !j.system() && d.o.Shelf.Damaged(slots.Digest(j.m.Digest()))
}

// describe fills in what the manifest says.
func (r *Report) describe(m *bundle.Manifest) {
	r.Digest, r.Product, r.Channel, r.Name, r.Label = m.Digest(), m.Product, m.Channel, m.Name, m.Version
	r.Epoch, r.Seq = m.Epoch, m.Seq
}

// alarmFor raises an alarm for a refusal that says somebody signs two histories, and keeps
// the evidence.
func (d *Desk) alarmFor(err error, evidence ...[]byte) {
	if !refusal.Is(err, refusal.Equivocation) || !d.alarm(refusal.Equivocation, err.Error()) {
		return
	}
	dir := filepath.Join(d.o.Dir, "evidence")
	b := bytes.Join(evidence, nil)
	if err := errors.Join(durable.MkdirAll(dir, 0o700), durable.WriteFile(filepath.Join(dir, "equivocation.cbor"), b, 0o600)); err != nil {
		d.log.Error("evidence of an equivocation", "err", err)
	}
}

// stage runs step 10: the content comes in, chunk by chunk, and becomes a slot.
func (d *Desk) stage(ctx context.Context, j judgement, h *bundle.Head) error {
	g, err := d.beginStaging(j)
	if err != nil {
		return err
	}
	if err := d.receive(ctx, g, j, h); err != nil {
		return errors.Join(err, g.Discard())
	}
	return g.Finish()
}

func (d *Desk) receive(ctx context.Context, g *slots.Staging, j judgement, h *bundle.Head) error {
	return h.Chunks(j.m, func(i int, data []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return g.Put(i, data)
	})
}

// beginStaging makes room and begins. The bundle before the last known good gives way.
func (d *Desk) beginStaging(j judgement) (*slots.Staging, error) {
	l := layoutOf(j.head, j.m)
	short, err := d.o.Shelf.Short(l)
	if err != nil {
		return nil, err
	}
	if short > 0 {
		if err := d.makeRoom(l); err != nil {
			return nil, err
		}
	}
	return d.o.Shelf.Stage(l)
}

// makeRoom drops what is only a cache and, if that is enough then, the older bundle.
func (d *Desk) makeRoom(l *slots.Layout) error {
	d.deciding.Lock()
	defer d.deciding.Unlock()
	if err := errors.Join(d.o.Shelf.Sweep(append(d.cur.Load().ptr.Pinned(), l.Bundle)...), d.o.Shelf.DropParts(l.Bundle)); err != nil {
		return err
	}
	short, err := d.o.Shelf.Short(l)
	if err != nil || short == 0 {
		return err
	}
	next := d.next()
	older := next.ptr.Older
	if older.IsZero() || older == next.ptr.Active || older == l.Bundle || d.o.Shelf.Size(older) < short {
		return nil // Stage says what is missing
	}
	next.ptr.Older = slots.Digest{}
	if err := d.commit("older gives way", next, d.entry(audit.Staged, "", older[:], "", "the bundle before the last known good was dropped: no space")); err != nil {
		return err
	}
	d.log.Warn("older bundle dropped to make room", "digest", older.String())
	return d.o.Shelf.Drop(older)
}

// mend brings a slot that is damaged or gone back from a file with the same digest.
func (d *Desk) mend(ctx context.Context, r *Report, j judgement, h *bundle.Head) error {
	g := slots.Digest(j.m.Digest())
	if !d.damaged(j) {
		return nil
	}
	if err := d.stage(ctx, j, h); err != nil {
		return err
	}
	d.alarm(refusal.Digest, "")
	r.Already, r.Detail = false, "the stored copy was damaged and is repaired"
	d.log.Info("slot repaired", "digest", g.String(), "source", r.Source)
	return d.o.Audit.Record(d.o.State, d.entry(audit.Staged, r.Source, g[:], "", r.Detail))
}

// plan runs steps 1 to 11 on staging that it throws away.
func (d *Desk) plan(ctx context.Context, c Candidate) (Report, error) {
	return d.each(ctx, c, d.planRoots, d.planEnrolment, func(r Report, h *bundle.Head) (Report, error) {
		return d.planBundle(ctx, r, c, h)
	})
}

func (d *Desk) planBundle(ctx context.Context, r Report, c Candidate, h *bundle.Head) (Report, error) {
	j, err := d.judge(&r, h, c.Retry, func(trust.State) error { return nil })
	if err != nil {
		return r, about(c, err)
	}
	switch j.verdict {
	case trust.OnTrial:
		r.Already = true
		return d.trialReport(r), nil
	case trust.AlreadyInstalled:
		r.Phase, r.Already = Confirmed, true
		return r, nil
	}
	g, err := d.o.Shelf.Stage(layoutOf(h, j.m))
	if err != nil {
		return r, about(c, err)
	}
	err = d.receive(ctx, g, j, h)
	if err == nil {
		var e Edition
		if e, err = d.compile(ctx, j.m, g, &r); err == nil {
			r.Phase = Compiled
		}
		if err == nil && !j.system() {
			r.Rules = d.rules(ctx, e)
		}
	}
	return r, about(c, errors.Join(err, g.Discard()))
}

// rules says what an edition would change in what serves, or at rest will serve.
func (d *Desk) rules(ctx context.Context, e Edition) []changes.Change {
	var from Edition
	if g := d.base(); d.servingDigest().IsZero() && !g.IsZero() {
		var err error
		if from, _, err = d.load(ctx, g); err != nil {
			d.log.Warn("the stored bundle does not load; a plan is held against nothing", "digest", g.String(), "err", err)
		}
	}
	return d.o.Activator.Changes(from, e)
}
