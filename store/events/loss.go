package events

import (
	"encoding/binary"
	"fmt"
	"tidegate/store"
	"tidegate/store/events/batch"
	"time"
)

// tail names the loss record that a further loss may widen: one per class and reason.
type tail struct {
	class  Class
	reason Reason
}

// maxLosses is where records stop being added and the last of their kind is widened
// instead. It is beyond what a queue that is read meets.
const maxLosses = 512

// lossRecord is a loss as it lies in the file.
type lossRecord struct {
	_           struct{} `cbor:",toarray"`
	Class       Class
	Epoch       Epoch
	From, To    uint64
	Known       bool
	Calls       uint64
	Bytes       uint64
	First, Last int64 // Unix µs
	Reason      Reason
}

func (r *lossRecord) loss(n uint64) Loss {
	return Loss{
		Number: n, Class: r.Class, Epoch: r.Epoch, From: r.From, To: r.To, Known: r.Known, Calls: r.Calls, Bytes: r.Bytes,
		First: time.UnixMicro(r.First).UTC(), Last: time.UnixMicro(r.Last).UTC(), Reason: r.Reason,
	}
}

func putLoss(tx *store.Tx, l *Loss) error {
	b, err := encode(&lossRecord{
		Class: l.Class, Epoch: l.Epoch, From: l.From, To: l.To, Known: l.Known, Calls: l.Calls,
		Bytes: l.Bytes, First: l.First.UnixMicro(), Last: l.Last.UnixMicro(), Reason: l.Reason,
	})
	if err != nil {
		return err
	}
	return tx.Bucket(lossBucket).Put(lossKey(l.Number), b)
}

// eachLoss calls fn for the records with numbers above after and up to last, oldest first,
// until it returns false. A record that cannot be read back is one of unknown calls.
func eachLoss(tx *store.Tx, after, last uint64, fn func(Loss) bool) error {
	bucket := tx.Bucket(lossBucket)
	for {
		c := bucket.Cursor()
		for ok := c.Seek(lossKey(after + 1)); ok; ok = c.Next() {
			if len(c.Key()) != 8 {
				return fmt.Errorf("loss record with key %x: %w", c.Key(), store.ErrCorrupt)
			}
			after = binary.BigEndian.Uint64(c.Key())
			var r lossRecord
			if err := decode(c.Value(), &r); err != nil {
				return fmt.Errorf("loss record %d: %w", after, err)
			}
			if !fn(r.loss(after)) {
				return nil
			}
		}
		if !damaged(c.Err()) {
			return c.Err()
		}
		// The cursor does not tell which one it was.
		bad := after + 1
		for ; bad <= last; bad++ {
			if _, err := bucket.Get(lossKey(bad)); damaged(err) {
				break
			}
		}
		if bad > last {
			return c.Err()
		}
		if !fn(Loss{Number: bad, Class: batch.Detail, First: time.Unix(0, 0), Last: time.Unix(0, 0), Reason: batch.ReasonCorrupt}) {
			return nil
		}
		after = bad
	}
}

// declare writes a loss, or widens the record before it when nobody has seen that one yet
// and both together cover no batch that is not lost.
func (c *change) declare(l Loss) error {
	class := &c.state.Classes[at(l.Class)]
	if l.Epoch == (Epoch{}) {
		l.Epoch = class.Epoch
	}
	class.Lost[reasonIndex(l.Reason)] += l.Calls
	key := tail{l.Class, l.Reason}
	last, ok := c.tails[key]
	ranged := l.From != 0
	joins := ok && last.Epoch == l.Epoch && last.Known == l.Known && (last.From != 0) == ranged &&
		(!ranged || last.To+1 == l.From)
	crowded := ok && last.Epoch == l.Epoch && c.state.Losses >= maxLosses && l.Reason != batch.ReasonCorrupt
	switch {
	case joins && last.Number > c.told:
		l = widened(last, l)
	case crowded:
		// Somebody may have seen the record: what it grows to gets a number of its own, so
		// that an acknowledgement of the smaller one does not delete it.
		if err := c.tx.Bucket(lossBucket).Delete(lossKey(last.Number)); err != nil {
			return err
		}
		l = widened(last, l)
		c.state.Loss++
		l.Number = c.state.Loss
	default:
		c.state.Loss++
		c.state.Losses++
		l.Number = c.state.Loss
	}
	c.tails[key] = l
	return putLoss(c.tx, &l)
}

func widened(a, b Loss) Loss {
	a.From, a.To = min(a.From, b.From), max(a.To, b.To)
	a.Known = a.Known && b.Known
	a.Calls += b.Calls
	a.Bytes += b.Bytes
	if b.First.Before(a.First) {
		a.First = b.First
	}
	if b.Last.After(a.Last) {
		a.Last = b.Last
	}
	return a
}
