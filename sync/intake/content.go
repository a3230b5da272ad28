package intake

import (
	"context"
	"errors"
	"tidegate/policy/refusal"
	"tidegate/store/audit"
	"tidegate/store/slots"
	"tidegate/sync/bundle"
	"tidegate/sync/seal"
	"tidegate/sync/trust"
	"time"
)

// compileStaged runs step 11 on the slot of the bundle. What is wrong with signed content
// stays wrong, so the device remembers it; the space is given back.
func (d *Desk) compileStaged(ctx context.Context, r *Report, j judgement) (Edition, error) {
	e, err := d.compileSlot(ctx, j.m, r)
	if err == nil {
		return e, nil
	}
	word, coded := refusal.Of(err)
	if !coded || ctx.Err() != nil || !ofContent(word) {
		return nil, errors.Join(err, d.release(j.m))
	}
	d.deciding.Lock()
	defer d.deciding.Unlock()
	next := d.next()
	next.state = next.state.Fail(j.m.Offer(), word)
	digest := j.m.Digest()
	if commit := d.commit("refuse content", next, d.entry(audit.Refused, r.Source, digest[:], word, err.Error())); commit == nil {
		r.noted = true
	} else {
		d.log.Error("memory of a refusal", "word", string(word), "err", commit)
	}
	return nil, errors.Join(err, d.release(j.m))
}

// ofContent reports whether a word says that the content itself is bad, whoever brings it.
func ofContent(w refusal.Word) bool {
	switch w {
	case refusal.Compile, refusal.Codec, refusal.Digest, refusal.SecretAuth, refusal.SecretRecipient, refusal.Format, refusal.Limit:
		return true
	}
	return false
}

// release drops the slot of a bundle that was staged and did not get further, unless a
// pointer has it.
func (d *Desk) release(m *bundle.Manifest) error {
	g := slots.Digest(m.Digest())
	for _, p := range d.cur.Load().ptr.Pinned() {
		if p == g {
			return nil
		}
	}
	return d.o.Shelf.Drop(g)
}

// compileSlot compiles a stored bundle.
func (d *Desk) compileSlot(ctx context.Context, m *bundle.Manifest, r *Report) (Edition, error) {
	slot, err := d.o.Shelf.Open(slots.Digest(m.Digest()))
	if err != nil {
		return nil, err
	}
	e, err := d.compile(ctx, m, slot, r)
	return e, errors.Join(err, slot.Close())
}

// compile checks every file, opens the secrets and compiles.
func (d *Desk) compile(ctx context.Context, m *bundle.Manifest, src bundle.Source, r *Report) (Edition, error) {
	b := bundle.NewReader(m, src)
	defer b.Close() //nolint:errcheck // only memory
	if err := b.Verify(ctx); err != nil {
		return nil, err
	}
	if m.Product == trust.SystemProduct {
		return d.checkSystem(b)
	}
	secrets, warnings, err := seal.Open(b, d.o.Identity, d.o.Groups...)
	if err != nil {
		return nil, err
	}
	r.Warnings = append(r.Warnings, warnings...)
	e, err := d.o.Activator.Compile(ctx, b, secrets)
	if err != nil {
		if _, coded := refusal.Of(err); !coded && ctx.Err() == nil {
			err = refusal.New(refusal.Compile, "%w", err)
		}
		return nil, err
	}
	return e, nil
}

// load compiles the stored bundle g, whose manifest it reads from the slot.
func (d *Desk) load(ctx context.Context, g slots.Digest) (Edition, *bundle.Manifest, error) {
	slot, err := d.o.Shelf.Open(g)
	if err != nil {
		return nil, nil, err
	}
	_, m, err := openHead(slot.Stored())
	if err == nil {
		var e Edition
		if e, err = d.compile(ctx, m, slot, new(Report)); err == nil {
			d.note(m)
			return e, m, slot.Close()
		}
	}
	return nil, nil, errors.Join(err, slot.Close())
}

// note keeps the manifest of a bundle that a pointer has, for status and comparisons, and
// forgets the others.
func (d *Desk) note(m *bundle.Manifest) {
	keep := make(map[bundle.Digest]bool)
	for _, p := range d.cur.Load().ptr.Pinned() {
		keep[bundle.Digest(p)] = true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for g := range d.infos {
		if !keep[g] {
			delete(d.infos, g)
		}
	}
	d.infos[m.Digest()] = m
}

// manifest returns the manifest of a stored bundle, nil if it cannot be read.
func (d *Desk) manifest(g bundle.Digest) *bundle.Manifest {
	if g == (bundle.Digest{}) {
		return nil
	}
	d.mu.Lock()
	m := d.infos[g]
	d.mu.Unlock()
	if m != nil {
		return m
	}
	slot, err := d.o.Shelf.Open(slots.Digest(g))
	if err != nil {
		return nil
	}
	defer slot.Close() //nolint:errcheck // only read
	_, m, err = openHead(slot.Stored())
	if err != nil {
		return nil
	}
	d.note(m)
	return m
}

func unix(t time.Time) uint64 {
	return uint64(max(t.Unix(), 0)) //nolint:gosec // not negative
}
