package events

import (
	"slices"
	"tidegate/store/events/batch"
	"time"
)

// A parcel is what goes into the file together: the events of some time and the roll-ups
// of the same events. Its number makes a second attempt harmless: the file tells the last
// number it took from this process.
type parcel struct {
	number  uint64
	batches []Batch // without epoch, seq, lost
	gone    [2]gone
	bytes   int
	doubt   bool // a commit was tried: it may be on disk, so it must not change any more
}

func (p *parcel) calls(c Class) (n int) {
	for i := range p.batches {
		if p.batches[i].Class == c {
			n += int(p.batches[i].Calls)
		}
	}
	return n
}

// gone counts calls that were lost in memory and when.
type gone struct {
	calls       uint64
	first, last time.Time
}

func (g *gone) add(calls uint64, first, last time.Time) {
	if calls == 0 {
		return
	}
	if g.calls == 0 || first.Before(g.first) {
		g.first = first
	}
	if last.After(g.last) {
		g.last = last
	}
	g.calls += calls
}

// maxWaiting bounds the packed batches in memory, maxTogether those of one transaction.
const (
	maxWaiting  = 1 << 20
	maxTogether = 256 << 10
)

// collect moves events from memory into columns, and with rest those of chunks that are
// not full as well.
func (l *Log) collect(rest bool) {
	l.fill.Lock()
	defer l.fill.Unlock()
	lost := l.memory.drain(rest, l.add)
	if lost == 0 {
		return
	}
	// They were refused since the last drain, a moment ago.
	now := l.o.Clock().Stamp.Unix
	l.fill.gone[rollUps].add(lost, now.Add(-settle), now)
	if l.o.Detail != KeepNone {
		l.fill.gone[detail].add(lost, now.Add(-settle), now)
	}
}

// add takes one event from memory. The caller holds fill.
func (l *Log) add(e *Event) {
	e.Client = l.o.Address.mask(e.Client)
	if l.o.Extras&WithRequestID == 0 {
		e.RequestID, e.TraceID = [16]byte{}, [16]byte{}
	}
	f := &l.fill
	if f.table.Rows() == 0 {
		f.rolls = l.o.Clock()
	}
	f.table.Add(e, f.rolls.Now, f.rolls.Stamp)
	if l.o.Detail == KeepAll || l.o.Detail == KeepErrors && e.Failed() {
		if f.builder.Len() == 0 {
			f.detail = l.o.Clock()
		}
		f.builder.Add(e, f.detail.Now, f.detail.Stamp)
	}
	if f.builder.Full() || f.table.Full() {
		l.pack()
	}
}

// cut packs what was collected so far.
func (l *Log) cut() {
	l.fill.Lock()
	defer l.fill.Unlock()
	l.pack()
}

// pack turns the columns into a parcel. The caller holds fill.
func (l *Log) pack() {
	f := &l.fill
	p := &parcel{gone: f.gone}
	lost := func(c place, calls int, err error) {
		if err != nil { // cannot happen with values of our own; if it does, it is declared
			now := l.o.Clock().Stamp.Unix
			p.gone[c].add(uint64(calls), f.detail.Stamp.Unix, now)
			l.log.Error("events not packed", "class", classes[c].String(), "calls", calls, "err", err)
		}
	}
	n := f.builder.Len()
	batches, err := f.builder.Pack()
	lost(detail, n, err)
	if err == nil {
		p.batches = batches
	}
	rolls, err := f.table.Pack()
	lost(rollUps, int(rolls.Calls), err)
	if err == nil && rolls.Count > 0 {
		p.batches = append(p.batches, rolls)
	}
	if len(p.batches) == 0 && p.gone == ([2]gone{}) {
		return
	}
	f.gone = [2]gone{}
	f.number++
	p.number = f.number
	for i := range p.batches {
		p.batches[i].BootID = l.o.BootID
		p.bytes += len(p.batches[i].Body)
	}
	f.waiting = append(f.waiting, p)
	l.trim()
	select {
	case l.ready <- struct{}{}:
	default:
	}
}

// trim keeps what waits within maxWaiting: the oldest detail goes first, then the oldest
// roll-ups, both into the account of the next parcel. The caller holds fill.
func (l *Log) trim() {
	f := &l.fill
	total := 0
	for _, p := range f.waiting {
		total += p.bytes
	}
	if total <= maxWaiting {
		return
	}
	for _, c := range classes {
		for _, p := range f.waiting {
			if p.doubt {
				continue
			}
			kept := p.batches[:0]
			for i := range p.batches {
				b := p.batches[i]
				if b.Class != c || total <= maxWaiting {
					kept = append(kept, b)
					continue
				}
				f.gone[at(c)].add(b.Calls, b.Start.Unix, b.Start.Unix.Add(b.Span))
				total -= len(b.Body)
				p.bytes -= len(b.Body)
			}
			clear(p.batches[len(kept):])
			p.batches = kept
		}
	}
	f.waiting = slices.DeleteFunc(f.waiting, func(p *parcel) bool {
		if p.doubt || len(p.batches) > 0 {
			return false
		}
		for c, g := range p.gone {
			f.gone[c].add(g.calls, g.first, g.last)
		}
		return true
	})
}

// next returns the oldest parcels, at least one and more up to a number of bytes, and marks
// them as in doubt.
func (l *Log) next(most int) []*parcel {
	l.fill.Lock()
	defer l.fill.Unlock()
	var some []*parcel
	bytes := 0
	for _, p := range l.fill.waiting {
		if bytes += p.bytes; len(some) > 0 && bytes > most {
			break
		}
		p.doubt = true
		some = append(some, p)
	}
	return some
}

// done forgets parcels that are on disk.
func (l *Log) done(number uint64) {
	l.fill.Lock()
	defer l.fill.Unlock()
	w := l.fill.waiting
	n := 0
	for n < len(w) && w[n].number <= number {
		n++
	}
	l.fill.waiting = append(w[:0], w[n:]...)
	clear(w[len(w)-n:])
}

// forfeit gives up a parcel that no file can hold. It is known not to be on disk.
func (l *Log) forfeit(p *parcel) {
	l.done(p.number)
	l.fill.Lock()
	defer l.fill.Unlock()
	for i, g := range p.gone {
		l.fill.gone[i].add(g.calls, g.first, g.last)
	}
	for i := range p.batches {
		b := &p.batches[i]
		l.fill.gone[at(b.Class)].add(b.Calls, b.Start.Unix, b.Start.Unix.Add(b.Span))
	}
}

// A place is the index of a class.
type place int

const (
	detail place = iota
	rollUps
)

var classes = [...]Class{detail: batch.Detail, rollUps: batch.RollUps}

func at(c Class) place {
	if c == batch.RollUps {
		return rollUps
	}
	return detail
}
