package events

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"tidegate/store"
	"tidegate/store/events/batch"
	"time"
)

// ErrForeign says that a cursor names an epoch or a batch this queue never gave out.
var ErrForeign = errors.New("not of this queue")

// Read returns up to max batches behind after, oldest first, in copies. A batch that
// cannot be read back is deleted, declared lost and passed over.
func (l *Log) Read(after Cursor, max int) ([]Batch, error) {
	known := l.known.Load()
	if known == nil {
		return nil, ErrNoFile
	}
	p := at(after.Class)
	if classes[p] != after.Class {
		return nil, fmt.Errorf("read events of class %d: %w", after.Class, ErrForeign)
	}
	class := &known.Classes[p]
	seq := class.Low
	if after.Epoch == class.Epoch && after.Seq > seq {
		seq = after.Seq
	}
	db, err := l.file()
	if err != nil {
		return nil, err
	}
	var all []Batch
	for seq < class.Head && len(all) < max {
		var b *Batch
		// One short transaction per batch: what a reader holds cannot be used again.
		err := db.View(func(tx *store.Tx) (err error) {
			for range 256 {
				if seq++; seq > class.Head {
					return nil
				}
				if b, err = readBatch(tx, p, class.Epoch, seq); b != nil || err != nil {
					return err
				}
			}
			return nil
		})
		switch {
		case damaged(err):
			l.log.Error("batch set aside", "class", after.Class.String(), "seq", seq, "err", err)
			if err := l.setAside(p, class.Epoch, seq); err != nil {
				return all, fmt.Errorf("set batch %d aside: %w", seq, err)
			}
		case err != nil:
			return all, err
		case b != nil:
			all = append(all, *b)
		}
	}
	return all, nil
}

// Batches returns all batches of a class, oldest first, one at a time. An error is the last
// thing it yields.
func (l *Log) Batches(c Class) iter.Seq2[*Batch, error] {
	return func(yield func(*Batch, error) bool) {
		for at := (Cursor{Class: c}); ; {
			bs, err := l.Read(at, 1)
			if err != nil {
				yield(nil, err)
				return
			}
			if len(bs) == 0 || !yield(&bs[0], nil) {
				return
			}
			at = After(&bs[0])
		}
	}
}

// readBatch reads one batch, nil when it is not there.
func readBatch(tx *store.Tx, p place, epoch Epoch, seq uint64) (*Batch, error) {
	bucket := tx.Bucket(batchBuckets[p], name(seq))
	h, err := readHeader(bucket)
	if h == nil || err != nil {
		return nil, err
	}
	body, err := bucket.Get(bodyKey)
	if err != nil {
		return nil, err
	}
	b := &Batch{Header: h.batch(), Body: body}
	if b.Class != classes[p] || b.Epoch != epoch || b.Seq != seq || sha256.Sum256(body) != b.Sum {
		return nil, fmt.Errorf("%s batch %d: header and content do not fit: %w", classes[p], seq, store.ErrCorrupt)
	}
	return b, nil
}

func readHeader(bucket *store.Bucket) (*header, error) {
	v, err := bucket.Get(headerKey)
	if v == nil || err != nil {
		return nil, err
	}
	var h header
	if err := decode(v, &h); err != nil {
		return nil, err
	}
	return &h, nil
}

func (l *Log) file() (*store.DB, error) {
	l.disk.Lock()
	defer l.disk.Unlock()
	if l.disk.db == nil {
		return nil, ErrNoFile
	}
	return l.disk.db, nil
}

// setAside gives up one batch that was found damaged, unless it is gone by now.
func (l *Log) setAside(p place, epoch Epoch, seq uint64) error {
	l.disk.Lock()
	defer l.disk.Unlock()
	if l.known.Load().Classes[p].Epoch != epoch {
		return nil
	}
	return l.note(l.update(func(c *change) error { return c.drop(p, seq, batch.ReasonCorrupt) }))
}

// together is how many batches or records one transaction deletes.
const together = 64

// Release deletes the batches up to a cursor, and of those above it the numbers in also.
// When it returns nil none of them is ever read again. A cursor of another epoch, or
// beyond the newest batch, is ErrForeign and deletes nothing.
func (l *Log) Release(upTo Cursor, also ...uint64) error {
	l.disk.Lock()
	defer l.disk.Unlock()
	known := l.known.Load()
	if known == nil || !l.disk.begun {
		return ErrNoFile
	}
	p := at(upTo.Class)
	class := &known.Classes[p]
	if classes[p] != upTo.Class || class.Epoch != upTo.Epoch || upTo.Seq > class.Head {
		return fmt.Errorf("release %s batches up to %d of epoch %x: %w", upTo.Class, upTo.Seq, upTo.Epoch, ErrForeign)
	}
	for _, seq := range also {
		if seq == 0 || seq > class.Head {
			return fmt.Errorf("release %s batch %d: %w", upTo.Class, seq, ErrForeign)
		}
	}
	n := together
	for left := true; left || len(also) > 0; {
		group := also[:min(n, len(also))]
		err := l.update(func(c *change) (err error) {
			for _, seq := range group {
				if _, err := c.remove(p, seq); err != nil && !damaged(err) {
					return err
				}
			}
			left, err = c.release(p, upTo.Seq, n-len(group))
			return err
		})
		if errors.Is(err, store.ErrFull) && n > 1 {
			n = 1 // a deletion takes pages before it gives some
			left = true
			continue
		}
		if err != nil {
			return l.note(err)
		}
		also = also[len(group):]
	}
	if err := l.compact(); err != nil {
		l.log.Warn("space of the event queue not given back", "err", err)
	}
	return nil
}

// release deletes up to n batches with numbers up to seq and reports whether there may be
// more.
func (c *change) release(p place, seq uint64, n int) (bool, error) {
	if n <= 0 {
		return true, nil
	}
	names, err := c.tx.Bucket(batchBuckets[p]).Buckets(n)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		this, err := number(name)
		if err != nil {
			return false, err
		}
		if this > seq {
			return false, nil
		}
		if _, err := c.remove(p, this); err != nil && !damaged(err) {
			return false, err
		}
	}
	return len(names) == n, nil
}

// Losses returns up to n loss records with numbers above after, oldest first. From then
// on those records do not change any more.
func (l *Log) Losses(after uint64, n int) ([]Loss, error) {
	l.disk.Lock()
	defer l.disk.Unlock()
	known := l.known.Load()
	if known == nil {
		return nil, ErrNoFile
	}
	var all []Loss
	err := l.disk.db.View(func(tx *store.Tx) error {
		return eachLoss(tx, after, known.Loss, func(loss Loss) bool {
			if len(all) == n {
				return false
			}
			all = append(all, loss)
			return true
		})
	})
	if len(all) > 0 {
		l.disk.told = max(l.disk.told, all[len(all)-1].Number)
	}
	return all, err
}

// ReleaseLosses deletes the loss records with numbers up to n.
func (l *Log) ReleaseLosses(n uint64) error {
	l.disk.Lock()
	defer l.disk.Unlock()
	if l.known.Load() == nil || !l.disk.begun {
		return ErrNoFile
	}
	for more := true; more; {
		err := l.update(func(c *change) error {
			var gone []uint64
			err := eachLoss(c.tx, 0, c.state.Loss, func(loss Loss) bool {
				if loss.Number <= n && len(gone) < together {
					gone = append(gone, loss.Number)
				}
				return loss.Number <= n && len(gone) < together
			})
			if err != nil {
				return err
			}
			for _, number := range gone {
				if err := c.tx.Bucket(lossBucket).Delete(lossKey(number)); err != nil {
					return err
				}
			}
			for key, last := range c.tails {
				if last.Number <= n {
					delete(c.tails, key)
				}
			}
			c.state.Losses -= min(c.state.Losses, uint64(len(gone)))
			more = len(gone) == together
			return nil
		})
		if err != nil {
			return l.note(err)
		}
	}
	return nil
}

// oldestStart returns when the oldest batch of a class began, zero when there is none.
func (l *Log) oldestStart(p place, class *classState) (t time.Time) {
	db, err := l.file()
	if err != nil || class.Count == 0 {
		return t
	}
	// Status goes on without it when the file cannot be read.
	_ = db.View(func(tx *store.Tx) error { //nolint:errcheck // see above
		h, err := readHeader(tx.Bucket(batchBuckets[p], name(class.Low+1)))
		if h != nil {
			t = h.batch().Start.Unix
		}
		return err
	})
	return t
}
