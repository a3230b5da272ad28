package intake

import (
	"context"
	"fmt"
	"slices"
	"tidegate/policy/refusal"
	"tidegate/store/audit"
	"tidegate/store/slots"
	"tidegate/sync/bundle"
	"tidegate/sync/envelope"
)

// Rollback goes back by a person's will: from a trial to what served before it, else from
// the bundle that serves to the one confirmed before it. A bundle that is revoked or below
// the minimum is not gone back to: E_REVOKED, E_ROLLBACK. Counters stay, so that a bundle
// that was left can only come again under a higher number, or as itself.
func (d *Desk) Rollback(ctx context.Context, source string) (Report, error) {
	if t := d.onTrial(); t != nil {
		d.end(ctx, t, refusal.Health, "rolled back by an operator", source)
		select {
		case <-t.over:
			r := t.outcome
			r.Word, r.Hint = "", "" // it is what was asked for
			return r, nil
		default:
			err := refusal.New(refusal.Store, "the trial could not be ended").WithHint("look at the logs and the disk: tidegate doctor")
			return Report{Source: source}.with(err), err
		}
	}
	r, err := d.goBack(ctx, source)
	return r.with(err), err
}

func (d *Desk) goBack(ctx context.Context, source string) (Report, error) {
	d.deciding.Lock()
	defer d.deciding.Unlock()
	r := Report{Kind: envelope.Manifest, Source: source}
	ptr := d.cur.Load().ptr
	to := ptr.Older
	if to.IsZero() || to == ptr.Active {
		return r, refusal.New(refusal.Rollback, "there is no bundle to go back to")
	}
	if err := d.allowed(to); err != nil {
		return r, err
	}
	e, m, err := d.load(ctx, to)
	if err != nil {
		return r, err
	}
	next := d.next()
	next.ptr.Active = to
	if err := d.commit("go back", next, d.entry(audit.RolledBack, source, to[:], "", fmt.Sprintf("bundle %d by an operator", m.Seq))); err != nil {
		return r, err
	}
	d.serve(e, m)
	r.describe(m)
	r.Phase = Confirmed
	d.log.Info("rolled back", "seq", m.Seq, "by", source)
	d.tell(r)
	return r, nil
}

// fallback loads the newest bundle that may serve, but not the one given.
func (d *Desk) fallback(ctx context.Context, not slots.Digest) (Edition, *bundle.Manifest, slots.Digest) {
	ptr := d.cur.Load().ptr
	var tried []slots.Digest
	for _, g := range []slots.Digest{ptr.Active, ptr.Good, ptr.Older} {
		if g.IsZero() || g == not || slices.Contains(tried, g) {
			continue
		}
		tried = append(tried, g)
		if err := d.allowed(g); err != nil {
			d.log.Warn("not gone back to", "digest", g.String(), "err", err)
			continue
		}
		e, m, err := d.load(ctx, g)
		if err != nil {
			d.log.Error("stored bundle does not load", "digest", g.String(), "err", err)
			continue
		}
		return e, m, g
	}
	return nil, nil, slots.Digest{}
}
