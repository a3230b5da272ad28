package throttle

import (
	"errors"
	"fmt"
	"math/bits"
	"time"
)

// A Form is how windows follow each other.
type Form uint8

// The forms.
const (
	Fixed    Form = iota // multiples of Length since 1970-01-01T00:00Z, as WSO2 2.6 aligns them
	Sliding              // as Fixed, with the share of the window before that still counts
	Calendar             // days, weeks or months of a time zone
)

var formNames = [...]string{"fixed", "sliding", "calendar"}

// String returns the word of f, for example "fixed".
func (f Form) String() string {
	if int(f) < len(formNames) {
		return formNames[f]
	}
	return fmt.Sprintf("form(%d)", uint8(f))
}

// A Unit is a stretch of the calendar.
type Unit uint8

// The units. A week begins on Monday (ISO 8601).
const (
	Day Unit = 1 + iota
	Week
	Month
)

// MaxWindow is the longest window.
const MaxWindow = 10 * 366 * 24 * time.Hour

// A Window says when a count begins anew.
type Window struct {
	Form   Form
	Length time.Duration  // Fixed, Sliding: whole seconds
	Unit   Unit           // Calendar
	Zone   *time.Location // Calendar; nil is UTC
}

func (w Window) check() error {
	if w.Form == Calendar {
		switch {
		case w.Unit < Day || w.Unit > Month:
			return errors.New("a calendar window is a day, a week or a month")
		case w.Length != 0:
			return errors.New("a calendar window has no length of its own")
		}
		return nil
	}
	switch {
	case w.Form > Calendar:
		return fmt.Errorf("unknown window form %d", w.Form)
	case w.Unit != 0 || w.Zone != nil:
		return fmt.Errorf("a %s window has no unit and no zone", w.Form)
	case w.Length < time.Second || w.Length%time.Second != 0:
		return fmt.Errorf("window of %v: want a whole number of seconds, at least one", w.Length)
	case w.Length > MaxWindow:
		return fmt.Errorf("window of %v is longer than %v", w.Length, MaxWindow)
	}
	return nil
}

// A Span is one window: from Start, inclusive, to End, in seconds since 1970. Start is
// the window's id.
type Span struct{ Start, End int64 }

// Length returns the length of s.
func (s Span) Length() time.Duration { return time.Duration(s.End-s.Start) * time.Second }

// At returns the window that holds the second sec (since 1970).
func (w Window) At(sec int64) Span {
	if w.Form != Calendar {
		n := int64(w.Length / time.Second)
		q := sec / n
		if sec%n < 0 {
			q--
		}
		return Span{q * n, q*n + n}
	}
	zone := w.Zone
	if zone == nil {
		zone = time.UTC
	}
	y, m, d := time.Unix(sec, 0).In(zone).Date()
	switch w.Unit {
	case Week:
		// The weekday of the local date, Monday first.
		d -= (int(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Weekday()) + 6) % 7
	case Month:
		d = 1
	}
	for {
		// Where a clock turned back over midnight shows a date twice, the window of
		// the second showing has not begun yet.
		s := Span{midnight(y, m, d, zone), 0}
		ny, nm, nd := w.step(y, m, d, 1)
		if s.Start > sec {
			y, m, d = w.step(y, m, d, -1)
			continue
		}
		s.End = midnight(ny, nm, nd, zone)
		if s.End <= sec {
			// A zone that skipped the day altogether (Samoa, 30 December 2011).
			y, m, d = ny, nm, nd
			continue
		}
		return s
	}
}

// After returns the window after s.
func (w Window) After(s Span) Span { return w.At(s.End) }

func (w Window) step(y int, m time.Month, d, by int) (int, time.Month, int) {
	switch w.Unit {
	case Week:
		d += 7 * by
	case Month:
		m += time.Month(by)
	default:
		d += by
	}
	return time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Date()
}

// midnight returns the first second from which the local date never again lies before
// the given one. time.Date alone does not say which it picks where midnight is skipped
// or comes twice.
func midnight(y int, m time.Month, d int, zone *time.Location) int64 {
	naive := time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix()
	before := time.Unix(naive-36*3600, 0).In(zone)
	_, o1 := before.Zone()
	_, o2 := time.Unix(naive+36*3600, 0).In(zone).Zone()
	m1, m2 := naive-int64(o1), naive-int64(o2)
	if o1 == o2 {
		return m1
	}
	_, end := before.ZoneBounds()
	turn := end.Unix()
	if m2 > turn {
		return m2
	}
	return min(m1, turn)
}

// Estimate returns the units that count at an instant of a sliding window: those of
// this window and the share of the previous one that still lies within one length of
// the instant, rounded up. into is the time since the window began.
func (r *Rule) Estimate(prev, used int64, into time.Duration) int64 {
	left := r.Window.Length - into
	if prev <= 0 || left <= 0 {
		return used
	}
	hi, lo := bits.Mul64(uint64(prev), uint64(min(left, r.Window.Length)))
	q, rem := bits.Div64(hi, lo, uint64(r.Window.Length))
	if rem > 0 {
		q++
	}
	return used + int64(q)
}

// EstimateWait returns how long n units must wait for room in a sliding window, if
// nothing else is taken meanwhile. n above the limit never has room, and gets the time
// until nothing counts any more.
func (r *Rule) EstimateWait(prev, used int64, into time.Duration, n int64) time.Duration {
	w := r.Window.Length
	n = min(n, r.Limit)
	if used+n <= r.Limit {
		return max(0, r.fade(prev, r.Limit-used-n)-into)
	}
	return w - into + r.fade(used, r.Limit-n)
}

// fade returns how far into a window the previous one's units must lie for their share
// to fall to room.
func (r *Rule) fade(prev, room int64) time.Duration {
	w := r.Window.Length
	if prev <= room {
		return 0
	}
	hi, lo := bits.Mul64(uint64(room), uint64(w))
	q, _ := bits.Div64(hi, lo, uint64(prev))
	return w - time.Duration(q)
}
