package intake

import (
	"context"
	"errors"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
)

// A Look is a bundle whose head was read and judged, and whose content still waits in the
// open source: what lets one of several bundles be chosen without reading any of them twice.
// It must be ended by Take or Close. It is for one goroutine.
type Look struct {
	d    *Desk
	c    Candidate
	head *bundle.Head
	r    Report
	done func() // closes the source
	over bool
}

// Look runs steps 1 to 8 on the head of a bundle and keeps nothing: no root, no space. Only
// the alarm of an equivocation stays, for its evidence is signed. A bundle that is refused
// is closed and leaves its audit entry, as with [Desk.Offer]; so the Look is nil exactly when
// there is an error. The report of one that is not refused says verified, on trial, or confirmed
// and already so.
func (d *Desk) Look(ctx context.Context, c Candidate) (*Look, Report, error) {
	if err := d.take(); err != nil {
		return nil, d.turnedAway(c, err), err
	}
	defer d.leave()
	l, r, err := d.look(ctx, c)
	r.Roots = 0 // none was kept
	r = r.with(err)
	if err != nil {
		d.refused(ctx, r)
		d.tell(r)
		return nil, r, err
	}
	l.r = r
	return l, r, nil
}

func (d *Desk) look(ctx context.Context, c Candidate) (*Look, Report, error) {
	r := Report{Source: c.Source, Object: c.Name}
	in, kind, done, err := d.open(ctx, c)
	if err != nil {
		return nil, r, err
	}
	r.Kind = kind
	var h *bundle.Head
	var j judgement
	if kind != envelope.Manifest {
		err = refusal.New(refusal.Format, "magic: a %s file where a bundle is wanted", kind.FileWord())
	} else if h, err = bundle.Read(in); err == nil {
		j, err = d.judge(&r, h, c.Retry, func(trust.State) error { return nil })
	}
	if err != nil {
		done()
		return nil, r, about(c, err)
	}
	switch j.verdict {
	case trust.OnTrial:
		r.Already = true
		r = d.trialReport(r)
	case trust.AlreadyInstalled:
		r.Phase, r.Already = Confirmed, true
	}
	return &Look{d: d, c: c, head: h, done: done}, r, nil
}

// Report returns what Look found.
func (l *Look) Report() Report { return l.r }

// Take takes the bundle in from where Look stopped reading, as [Desk.Offer] does: it is judged
// again, for another candidate may have come in between. E_BUSY of a desk that is taken leaves
// it as it is; after any other outcome it has ended.
func (l *Look) Take(ctx context.Context) (Report, error) {
	d := l.d
	if l.over {
		return l.r, errors.New("this bundle was taken in or let go of before")
	}
	if err := d.take(); err != nil {
		return d.turnedAway(l.c, err), err
	}
	defer d.leave()
	defer l.Close()
	d.suspend(l.c.Source)
	r, err := d.offerBundle(ctx, Report{Kind: envelope.Manifest, Source: l.c.Source, Object: l.c.Name}, l.c, l.head)
	return d.ended(ctx, r, err)
}

// Close lets go of the bundle and closes its source. It may be called again.
func (l *Look) Close() {
	if !l.over {
		l.over = true
		l.head = nil
		l.done()
	}
}
