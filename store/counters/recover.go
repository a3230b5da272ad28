package counters

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"tidegate/policy"
	"tidegate/policy/throttle"

	"github.com/fxamacker/cbor/v2"
)

// loadShard takes the records of one shard into the table: every durable unit counts as
// used (R3).
func (l *Ledger) loadShard(key, value []byte) error {
	if len(key) != 2 || binary.BigEndian.Uint16(key) == 0 {
		return fmt.Errorf("shard %x: not a shard's key", key)
	}
	id := binary.BigEndian.Uint16(key)
	var records []record
	if err := cbor.Unmarshal(value, &records); err != nil {
		return fmt.Errorf("shard %d: %w", id, err)
	}
	for i := range records {
		if err := l.load(id, &records[i]); err != nil {
			return fmt.Errorf("shard %d: record %d: %w", id, i, err)
		}
	}
	l.shard(id).dirty = false
	return nil
}

func (l *Ledger) load(id uint16, r *record) error {
	if len(r.Key) != len(throttle.Key{}) {
		return errors.New("not a key")
	}
	if r.Start < 0 || r.Start > math.MaxUint32 || r.Next < 0 || r.Next > math.MaxUint32 || r.Resv < 0 || r.Aux < 0 || r.Span == 0 {
		return errors.New("a number is out of range")
	}
	k := throttle.Key(r.Key)
	s := &l.stripes[stripeOf(&k)]
	if c, _ := l.find(s, &k, r.Def); c != nil {
		return errors.New("a key is there twice")
	}
	c, pos := l.insert(s, &k, r.Def)
	c.start, c.span = uint32(r.Start), r.Span
	c.used, c.resv, c.aux, c.next = r.Resv, r.Resv, r.Aux, uint32(r.Next)
	c.flags |= owned
	if r.Next > 0 {
		c.flags |= oldNext
	}
	if r.Form&formSliding != 0 {
		c.flags |= sliding
	}
	if r.Form&formOverflow != 0 {
		c.flags |= overflow | bare
		s.shared++
	}
	c.shard = id
	sh := l.shard(id)
	sh.cells = append(sh.cells, place(&k, pos))
	return nil
}

func (l *Ledger) loadTouch(key, value []byte) error {
	if len(key) != 9 {
		return fmt.Errorf("allowance %x: not its key", key)
	}
	var saved []allowance
	if err := cbor.Unmarshal(value, &saved); err != nil {
		return fmt.Errorf("allowance %x: %w", key, err)
	}
	t := l.newTouch(touchKey{binary.BigEndian.Uint64(key), policy.Level(key[8])})
	for _, a := range saved {
		if a.Calls < 0 || a.End <= a.Start {
			return fmt.Errorf("allowance %x: a number is out of range", key)
		}
		t.proposed = append(t.proposed, grant{a.Start, a.End, a.Calls, true})
	}
	t.publish()
	return nil
}

// reline begins a new time line: the floor was lowered, so the windows counted so far
// may come again. What is open on the new line counts as full, once.
func (l *Ledger) reline(now throttle.Instant) {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	if now.Line == l.line.Load() {
		return
	}
	for i := range l.stripes {
		l.stripes[i].mu.Lock()
	}
	l.forget()
	sec := max(firstSecond, now.Lower.Unix())
	l.floor.Store(sec)
	l.through.Store(sec)
	l.line.Store(now.Line)
	for i := range l.stripes {
		l.stripes[i].latest = moment{sec: sec, boot: now.Boot}
		l.stripes[i].mu.Unlock()
	}
	l.urge()
}

// forget drops every window and marks its record for deletion.
func (l *Ledger) forget() {
	for i := range l.stripes {
		s := &l.stripes[i]
		s.wants = s.wants[:0]
		for b, block := range s.blocks {
			for j := range block {
				if c := &block[j]; c.flags&live != 0 && c.flags&(burst|inflight) == 0 {
					l.remove(s, uint32(b*blockSize+j))
				}
			}
		}
	}
	for i := range l.shards {
		if sh := &l.shards[i]; len(sh.cells) > 0 {
			sh.cells, sh.dirty = sh.cells[:0], true
		}
	}
	for _, t := range *l.touches.Load() {
		t.proposed = nil
		t.publish()
		t.changed = true
		t.least.Store(nobody)
	}
}
