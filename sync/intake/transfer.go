package intake

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"tidegate/policy/refusal"
	"tidegate/store/slots"
	"tidegate/sync/bundle"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
)

// A Transfer is a bundle that comes in pieces, in any order and from any mix of sources. It
// does not hold the desk: another candidate may come in between, which ends the transfer
// with E_BUSY; what has arrived is found again by the next Begin. Its methods are safe to
// call together.
type Transfer struct {
	d    *Desk
	head []byte
	j    judgement

	mu   sync.Mutex
	r    Report
	g    *slots.Staging
	over error // why the transfer has ended
}

// Begin runs steps 1 to 8 on the head of a bundle, magic and metaset, and returns the
// transfer of its content. It returns no transfer and no error when there is nothing to
// fetch: the report tells. A transfer that was under way is ended.
func (d *Desk) Begin(ctx context.Context, source, name string, head []byte, retry bool) (*Transfer, Report, error) {
	r := Report{Kind: envelope.Manifest, Source: source, Object: name}
	if err := d.take(); err != nil {
		return nil, r.with(err), err
	}
	defer d.leave()
	d.suspend(source)
	t, r, err := d.beginTransfer(ctx, r, head, retry)
	r = r.with(err)
	if err != nil {
		d.refused(ctx, r)
		d.tell(r)
	}
	if r.Roots > 0 {
		d.rejudge(ctx)
	}
	return t, r, err
}

func (d *Desk) beginTransfer(ctx context.Context, r Report, head []byte, retry bool) (*Transfer, Report, error) {
	h, err := bundle.ParseHead(head)
	if err != nil {
		return nil, r, err
	}
	j, err := d.judge(&r, h, retry, d.keepRoots(r.Source))
	if err != nil {
		return nil, r, err
	}
	switch {
	case j.verdict == trust.OnTrial:
		r.Already = true
		return nil, d.trialReport(r), nil
	case j.verdict == trust.AlreadyInstalled && !d.damaged(j):
		r.Phase, r.Already = Confirmed, true
		return nil, r, nil
	case j.verdict != trust.AlreadyInstalled && d.onTrial() != nil:
		return nil, r, busyTrial()
	}
	g, err := d.beginStaging(j)
	if err != nil {
		return nil, r, err
	}
	t := &Transfer{d: d, head: bytes.Clone(head), j: j, r: r, g: g}
	d.mu.Lock()
	d.transfer = t
	d.mu.Unlock()
	return t, r, ctx.Err()
}

// suspend ends the transfer that is under way and keeps what has arrived.
func (d *Desk) suspend(source string) {
	d.mu.Lock()
	t := d.transfer
	d.transfer = nil
	d.mu.Unlock()
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over == nil {
		t.over = refusal.New(refusal.Busy, "another bundle came in (%s)", source)
		if err := t.g.Close(); err != nil {
			d.log.Error("staging", "err", err)
		}
	}
}

// Report returns what is known of the bundle.
func (t *Transfer) Report() Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.r
}

// Chunks returns the distinct chunks of the bundle in the order of the file.
func (t *Transfer) Chunks() []bundle.Chunk { return t.j.m.Chunks() }

// Offsets returns where the bytes of each chunk begin in the file of the bundle, and how many
// bytes the file has.
func (t *Transfer) Offsets() (at []int64, size int64) {
	n := int64(len(t.head))
	return t.j.m.Offsets(n), t.j.m.Size(n)
}

// Missing returns the numbers of the chunks that are still wanted, from 0, ascending.
func (t *Transfer) Missing() ([]int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over != nil {
		return nil, t.over
	}
	return t.g.Missing(), nil
}

// Put stores a whole chunk: E_DIGEST if it is not what was signed, and it is wanted still.
func (t *Transfer) Put(i int, data []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over != nil {
		return t.over
	}
	return t.g.Put(i, data)
}

// PutPiece stores a part of chunk i, from offset off of it, and reports whether the chunk is
// complete now. E_FORMAT: out of range; E_DIGEST: complete, but not what was signed, and
// wanted again as a whole.
func (t *Transfer) PutPiece(i, off int, data []byte) (complete bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over != nil {
		return false, t.over
	}
	return t.g.PutPiece(i, off, data)
}

// Finish goes on as [Desk.Offer] does when no chunk is missing any more. E_BUSY leaves the
// transfer as it is, if the desk is taken; after any other outcome it has ended.
func (t *Transfer) Finish(ctx context.Context) (Report, error) {
	d := t.d
	if err := d.take(); err != nil {
		return t.Report().with(err), err
	}
	defer d.leave()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over != nil {
		return t.r.with(t.over), t.over
	}
	t.over = errors.New("the transfer is over")
	d.mu.Lock()
	d.transfer = nil
	d.mu.Unlock()
	r, err := t.finish(ctx)
	r = r.with(err)
	if err != nil {
		d.refused(ctx, r)
	}
	if r.Phase != OnTrial {
		d.tell(r)
	}
	t.r = r
	return r, err
}

func (t *Transfer) finish(ctx context.Context) (Report, error) {
	d, r := t.d, t.r
	h, err := bundle.ParseHead(t.head)
	if err != nil { // cannot be: it was parsed before
		return r, errors.Join(err, t.g.Discard())
	}
	// Weeks may have passed since Begin: what was right then may be refused now.
	r.Warnings = nil
	j, err := d.judge(&r, h, t.j.retry, d.keepRoots(r.Source))
	if err == nil && j.verdict != trust.AlreadyInstalled && d.onTrial() != nil {
		err = busyTrial()
	}
	if err != nil {
		return r, errors.Join(err, t.g.Discard())
	}
	if err := t.g.Finish(); err != nil {
		return r, err
	}
	if j.verdict == trust.AlreadyInstalled {
		d.alarm(refusal.Digest, "")
		r.Phase, r.Detail = Confirmed, "the stored copy was damaged and is repaired"
		return r, nil
	}
	r.Phase = Staged
	err = d.bringIn(ctx, &r, j)
	return r, err
}

// Refuse ends the transfer with a refusal, gives its space back and writes the audit entry:
// for a transport that met what Finish never sees, such as a chunk that stays wrong.
func (t *Transfer) Refuse(ctx context.Context, err error) Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.r = t.r.with(err)
	if t.over != nil {
		return t.r
	}
	t.over = err
	t.d.forget(t)
	if err := t.g.Discard(); err != nil {
		t.d.log.Error("staging", "err", err)
	}
	t.d.refused(ctx, t.r)
	t.d.tell(t.r)
	return t.r
}

// Close ends the transfer and keeps what has arrived for the next Begin.
func (t *Transfer) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over != nil {
		return nil
	}
	t.over = errors.New("the transfer was closed")
	t.d.forget(t)
	return t.g.Close()
}

func (d *Desk) forget(t *Transfer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.transfer == t {
		d.transfer = nil
	}
}

// newBytes returns b as a source.
func newBytes(b []byte) io.Reader { return bytes.NewReader(b) }
