package events

import (
	"context"
	"errors"
	"tidegate/policy/refusal"
	"tidegate/store"
	"tidegate/store/events/batch"
	"time"
)

// Found says how the owner found the file it attaches.
type Found uint8

// The cases of Found.
const (
	AsItLay  Found = iota // or new, where none was before
	SetAside              // new, since the one before it was damaged
)

// Attach gives the queue its file. It declares what the file shows to be lost: calls in
// memory when the power went, or all of a file that was set aside. It may be called again,
// with another handle. On an error the queue keeps db, tries again each interval, and
// serves what can be read.
func (l *Log) Attach(db *store.DB, found Found) error {
	l.disk.Lock()
	defer l.disk.Unlock()
	l.disk.db, l.disk.begun, l.disk.found = db, false, found
	l.known.Store(nil)
	return l.note(l.begin())
}

// begin reads what the file holds and marks it as ours. The caller holds disk.
func (l *Log) begin() error {
	db := l.disk.db
	var s *state
	tails := make(map[tail]Loss)
	err := db.View(func(tx *store.Tx) (err error) {
		if s, err = stored(tx); err != nil || s == nil {
			return err
		}
		return eachLoss(tx, 0, s.Loss, func(loss Loss) bool {
			tails[tail{loss.Class, loss.Reason}] = loss
			return true
		})
	})
	before := l.known.Load() // nil on Attach
	if damaged(err) {
		l.log.Error("event queue damaged, starting anew", "err", err)
		return l.replace(before)
	}
	if err != nil {
		return err
	}
	fresh := s == nil
	if fresh && before != nil {
		return l.replace(before) // the file went away under us
	}
	if fresh {
		s = newState()
	}
	s.soft = db.Stats().MaxBytes * softCap / 100
	l.known.Store(s)
	l.disk.tails, l.disk.told = tails, s.Loss
	now := l.o.Clock().Stamp.Unix
	err = l.update(func(c *change) error {
		switch {
		case fresh && l.disk.found == SetAside:
			if err := c.declareBoth(Loss{First: time.Unix(0, 0), Last: now, Reason: batch.ReasonQuarantine}, l.o.Detail); err != nil {
				return err
			}
		case !fresh && s.Open && s.Run != l.run:
			first := time.UnixMicro(s.Wrote)
			if err := c.declareBoth(Loss{First: first, Last: now, Reason: batch.ReasonUnclean}, l.o.Detail); err != nil {
				return err
			}
		}
		if c.state.Run != l.run {
			c.state.Run, c.state.Parcel = l.run, 0
		}
		c.state.Open = true
		return nil
	})
	if err != nil {
		return err
	}
	l.disk.begun = true
	l.done(l.known.Load().Parcel)
	return nil
}

// declareBoth declares calls that are missing in both classes, their number unknown.
func (c *change) declareBoth(loss Loss, keep Keep) error {
	for p, class := range classes {
		if place(p) == detail && keep == KeepNone {
			continue
		}
		loss.Class = class
		if err := c.declare(loss); err != nil {
			return err
		}
	}
	return nil
}

// maxTries bounds the attempts of one commit: each of them drops a batch of a full file.
const maxTries = 16

// commit writes all parcels that wait.
func (l *Log) commit(ctx context.Context) error {
	l.disk.Lock()
	defer l.disk.Unlock()
	return l.note(l.commitAll(ctx))
}

func (l *Log) commitAll(ctx context.Context) error {
	if l.disk.db == nil {
		return ErrNoFile
	}
	if !l.disk.begun {
		if err := l.revive(ctx); err != nil {
			return err
		}
	}
	most, replaced := maxTogether, false
	for try := 0; ; {
		some := l.next(most)
		if len(some) == 0 {
			return nil
		}
		now := l.o.Clock().Stamp.Unix
		err := l.update(func(c *change) error { return c.put(some, now) })
		if err == nil {
			l.done(some[len(some)-1].number)
			continue
		}
		try++
		most = 0 // one at a time, in case it is room that lacks
		switch {
		case try <= maxTries:
			err = l.mend(ctx, err)
		case !replaced:
			replaced, try = true, 0
			err = l.replace(l.known.Load())
		case errors.Is(err, store.ErrFull): // in an empty file, and nothing was written
			l.log.Error("events given up: the file is too small for them", "err", err)
			l.forfeit(some[0])
			err = nil
		}
		if err != nil {
			return err
		}
	}
}

// revive brings back a handle whose last attempt failed.
func (l *Log) revive(ctx context.Context) error {
	if l.disk.db.Err() != nil {
		if err := l.reopen(ctx); err != nil {
			return err
		}
	}
	return l.begin()
}

// reopen asks the store for a new start of the file, and for a new file when that one is
// damaged.
func (l *Log) reopen(ctx context.Context) error {
	err := l.disk.db.Reopen(ctx)
	if damaged(err) {
		l.log.Error("event queue damaged, starting anew", "err", err)
		return l.replace(l.known.Load())
	}
	return err
}

// mend makes a second attempt possible after a transaction failed with err, or returns why
// there is none now.
func (l *Log) mend(ctx context.Context, err error) error {
	l.log.Warn("events not written", "err", err)
	switch {
	case l.disk.db.Err() != nil:
		// Nobody knows whether the commit is on disk: read what is there. done forgets the
		// parcels that are.
		l.disk.begun = false
		if err := l.revive(ctx); err != nil {
			return err
		}
		if !refusal.Is(err, refusal.NoSpace) {
			return nil
		}
	case damaged(err):
		return l.replace(l.known.Load())
	case !errors.Is(err, store.ErrFull):
		return err
	}
	// One at a time: a deletion takes pages before it gives some.
	err = l.update(func(c *change) error {
		_, err := c.dropOldest()
		return err
	})
	if errors.Is(err, store.ErrFull) {
		return l.replace(l.known.Load()) // jammed: not even that fits
	}
	return err
}

// replace starts anew with an empty file. old is what was known of the one before it, nil
// when nothing is; all of it is declared lost, under the old epochs, and its loss records
// are kept where they can be read, and so is how much was lost. Parcels in memory stay and go into
// the new file.
func (l *Log) replace(old *state) error {
	l.disk.begun = false
	var losses []Loss
	if old != nil {
		err := l.disk.db.View(func(tx *store.Tx) error {
			return eachLoss(tx, 0, old.Loss, func(loss Loss) bool { losses = append(losses, loss); return true })
		})
		if err != nil {
			l.log.Warn("loss records not kept", "err", err)
		}
	}
	now := l.o.Clock().Stamp.Unix
	fresh := newState()
	fresh.Run, fresh.Open, fresh.soft = l.run, true, l.disk.db.Stats().MaxBytes*softCap/100
	c := &change{state: fresh, tails: make(map[tail]Loss)}
	fill := func(tx *store.Tx) error {
		c.tx = tx
		if old == nil {
			if err := c.declareBoth(Loss{First: time.Unix(0, 0), Last: now, Reason: batch.ReasonQuarantine}, l.o.Detail); err != nil {
				return err
			}
			return c.finish()
		}
		fresh.Loss, fresh.Losses, fresh.Wrote = old.Loss, uint64(len(losses)), old.Wrote
		for p, class := range old.Classes { // what was lost goes on being counted
			fresh.Classes[p].Lost = class.Lost
		}
		for i := range losses {
			if err := putLoss(tx, &losses[i]); err != nil {
				return err
			}
		}
		for p, class := range old.Classes {
			if class.Count == 0 {
				continue
			}
			if err := c.declare(Loss{
				Class: classes[p], Epoch: class.Epoch, From: class.Low + 1, To: class.Head, Known: true,
				Calls: class.Calls, Bytes: class.Bytes, First: time.Unix(0, 0), Last: now, Reason: batch.ReasonQuarantine,
			}); err != nil {
				return err
			}
		}
		return c.finish()
	}
	if err := l.disk.db.Recreate(fill); err != nil {
		return err
	}
	l.disk.begun, l.disk.tails, l.disk.told = true, c.tails, fresh.Loss
	l.known.Store(fresh)
	return nil
}

// compact gives the space of an empty file back to the file system. Epochs, numbers and
// loss records stay. The caller holds disk.
func (l *Log) compact() error {
	s := l.known.Load()
	stats := l.disk.db.Stats()
	if s.Classes[detail].Count+s.Classes[rollUps].Count > 0 || stats.FileBytes <= stats.MaxBytes/2 {
		return nil
	}
	var losses []Loss
	err := l.disk.db.View(func(tx *store.Tx) error {
		return eachLoss(tx, 0, s.Loss, func(loss Loss) bool { losses = append(losses, loss); return true })
	})
	if err != nil {
		return err
	}
	return l.disk.db.Recreate(func(tx *store.Tx) error {
		for i := range losses {
			if err := putLoss(tx, &losses[i]); err != nil {
				return err
			}
		}
		return s.put(tx)
	})
}

// close notes that nothing is left in memory.
func (l *Log) close() error {
	l.disk.Lock()
	defer l.disk.Unlock()
	if !l.disk.begun {
		return l.note(ErrNoFile)
	}
	return l.note(l.update(func(c *change) error {
		c.state.Open = false
		return nil
	}))
}

// note keeps err for Status and returns it.
func (l *Log) note(err error) error {
	if err == nil {
		l.fault.Store(nil)
		return nil
	}
	l.fault.Store(&err)
	return err
}
