package accesslog

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"time"
)

// A Ring keeps the newest lines in memory, where they wear no flash. It is an io.Writer that takes
// whole lines; its methods are safe for concurrent use.
type Ring struct {
	max int

	mu    sync.Mutex
	lines [][]byte // oldest first
	bytes int
}

// NewRing returns a ring of at most max bytes of lines.
func NewRing(max int) *Ring { return &Ring{max: max} }

// Write keeps the lines of p and forgets the oldest for which there is no room.
func (r *Ring) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for line := range bytes.Lines(bytes.Clone(p)) {
		r.lines, r.bytes = append(r.lines, line), r.bytes+len(line)
	}
	drop := 0
	for ; r.bytes > r.max; drop++ {
		r.bytes -= len(r.lines[drop])
		r.lines[drop] = nil
	}
	r.lines = r.lines[drop:]
	return len(p), nil
}

// Lines returns what is kept, oldest first.
func (r *Ring) Lines() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Join(r.lines, nil)
}

// errSpent says that the budget of a day is spent.
var errSpent = errors.New("access log: the bytes of this day are spent")

// A Budget passes on so many bytes a day and refuses the rest, so that a log that lies on a flash wears
// it no further. Write is for one caller at a time.
type Budget struct {
	out    io.Writer
	perDay int
	now    func() time.Time

	left  int
	until time.Time
}

// NewBudget returns a budget of perDay bytes for each 24 hours from the first line on. now is a clock
// whose differences are true.
func NewBudget(out io.Writer, perDay int, now func() time.Time) *Budget {
	return &Budget{out: out, perDay: perDay, now: now}
}

// Write passes p on if it fits into what is left of the day.
func (b *Budget) Write(p []byte) (int, error) {
	if now := b.now(); !now.Before(b.until) {
		b.left, b.until = b.perDay, now.Add(24*time.Hour)
	}
	if len(p) > b.left {
		return 0, errSpent
	}
	b.left -= len(p)
	return b.out.Write(p)
}
