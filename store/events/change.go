package events

import (
	"errors"
	"fmt"
	"maps"
	"tidegate/store"
	"tidegate/store/events/batch"
	"time"
)

// A change is one transaction's work, on copies of what the queue knows. When the commit
// fails they are thrown away.
type change struct {
	tx      *store.Tx
	state   *state
	tails   map[tail]Loss
	told    uint64
	removed [2]bool
}

// update runs fn in a transaction and makes what it changed known once it is on disk. The
// caller holds disk.
func (l *Log) update(fn func(*change) error) error {
	c := &change{state: l.known.Load().copy(), tails: maps.Clone(l.disk.tails), told: l.disk.told}
	err := l.disk.db.Update(func(tx *store.Tx) error {
		c.tx = tx
		if err := fn(c); err != nil {
			return err
		}
		return c.finish()
	})
	if err != nil {
		return err
	}
	l.disk.tails = c.tails
	l.known.Store(c.state)
	return nil
}

// finish brings the state in line with the batches and writes it.
func (c *change) finish() error {
	for p := range classes {
		if !c.removed[p] {
			continue
		}
		class := &c.state.Classes[p]
		seq, err := c.oldest(place(p))
		if err != nil {
			return err
		}
		if seq == 0 { // what a damaged header left in the sums ends here
			class.Low, class.Count, class.Calls, class.Bytes = class.Head, 0, 0, 0
			continue
		}
		class.Low = seq - 1
	}
	return c.state.put(c.tx)
}

// oldest returns the number of the oldest batch, 0 when there is none.
func (c *change) oldest(p place) (uint64, error) {
	names, err := c.tx.Bucket(batchBuckets[p]).Buckets(1)
	if err != nil || len(names) == 0 {
		return 0, err
	}
	return number(names[0])
}

// put adds parcels.
func (c *change) put(parcels []*parcel, now time.Time) error {
	for _, p := range parcels {
		for i, g := range p.gone {
			if g.calls == 0 {
				continue
			}
			if err := c.declare(Loss{
				Class: classes[i], Known: true, Calls: g.calls, First: g.first, Last: g.last,
				Reason: batch.ReasonBuffer,
			}); err != nil {
				return err
			}
		}
		for i := range p.batches {
			if err := c.add(p.batches[i]); err != nil {
				return err
			}
		}
		c.state.Parcel = p.number
		c.state.Wrote = now.UnixMicro()
	}
	return nil
}

// add writes one batch, after making room for it.
func (c *change) add(b Batch) error {
	p := at(b.Class)
	class := &c.state.Classes[p]
	need := pages(len(b.Body))
	for c.state.bytes()+int64(need) > c.state.soft {
		dropped, err := c.dropOldest()
		if err != nil {
			return err
		}
		if !dropped {
			break
		}
	}
	class.Head++
	b.Epoch, b.Seq, b.Lost = class.Epoch, class.Head, class.lost()
	h, err := encode(fromBatch(&b.Header, len(b.Body)))
	if err != nil {
		return err
	}
	bucket := c.tx.Bucket(batchBuckets[p], name(b.Seq))
	if err := errors.Join(bucket.Put(headerKey, h), bucket.Put(bodyKey, b.Body)); err != nil {
		return fmt.Errorf("put %s batch %d: %w", b.Class, b.Seq, err)
	}
	class.Count++
	class.Calls += b.Calls
	class.Bytes += need
	return nil
}

// dropOldest drops the oldest detail batch or, when there is none, the oldest roll-ups,
// and reports whether there was one.
func (c *change) dropOldest() (bool, error) {
	for p := range classes {
		seq, err := c.oldest(place(p))
		if err != nil {
			return false, err
		}
		if seq != 0 {
			return true, c.drop(place(p), seq, batch.ReasonCap)
		}
	}
	return false, nil
}

// remove deletes one batch and takes it out of the sums. The header is nil when the batch
// is absent. A header that cannot be read is an error that says damaged; the batch is
// deleted nevertheless.
func (c *change) remove(p place, seq uint64) (*header, error) {
	class := &c.state.Classes[p]
	b, err := c.tx.Bucket(batchBuckets[p], name(seq)).Get(headerKey)
	var h header
	if err == nil && b != nil {
		err = decode(b, &h)
	}
	if err != nil && !damaged(err) {
		return nil, err
	}
	if err := c.tx.Bucket(batchBuckets[p]).DeleteBucket(name(seq)); err != nil {
		return nil, err
	}
	c.removed[p] = true
	if err != nil {
		class.Count -= min(class.Count, 1)
		return nil, err
	}
	if b == nil {
		return nil, nil
	}
	class.Count -= min(class.Count, 1)
	class.Calls -= min(class.Calls, h.Calls)
	class.Bytes -= min(class.Bytes, pages(h.Size))
	return &h, nil
}

func damaged(err error) bool { return errors.Is(err, store.ErrCorrupt) }

// drop removes one batch and declares it lost. Of a batch whose header cannot be read the
// number of calls is not known.
func (c *change) drop(p place, seq uint64, reason Reason) error {
	h, err := c.remove(p, seq)
	loss := Loss{Class: classes[p], From: seq, To: seq, Reason: reason}
	if err != nil {
		if !damaged(err) {
			return err
		}
		now := time.UnixMicro(c.state.Wrote).UTC()
		loss.First, loss.Last, loss.Reason = now, now, batch.ReasonCorrupt
	} else if h == nil {
		return nil
	} else {
		b := h.batch()
		loss.Known, loss.Calls, loss.Bytes = true, h.Calls, uint64(h.Size)
		loss.First, loss.Last = b.Start.Unix, b.Start.Unix.Add(b.Span)
	}
	return c.declare(loss)
}
