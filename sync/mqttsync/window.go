package mqttsync

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Window is a time at which the link may be used.
type Window struct {
	Days  [7]bool       // by time.Weekday
	At    time.Duration // since midnight, UTC
	For   time.Duration // up to 24 h
	Bytes int64         // both ways; 0: no cap
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// ParseWindow reads "mon-fri 02:00 4m 10MiB": days or "daily", begin in UTC, length, and
// perhaps a number of bytes with B, KiB, MiB or GiB.
func ParseWindow(s string) (w Window, err error) {
	bad := func(what string) (Window, error) {
		return Window{}, fmt.Errorf("window %q: %s; want for example \"mon-fri 02:00 4m 10MiB\"", s, what)
	}
	f := strings.Fields(s)
	if len(f) != 3 && len(f) != 4 {
		return bad("not days, begin, length and perhaps bytes")
	}
	if !w.days(f[0]) {
		return bad("days are daily, mon, mon-fri or mon,thu")
	}
	at, err := time.Parse("15:04", f[1])
	if err != nil {
		return bad("the begin is hh:mm")
	}
	w.At = time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute
	if w.For, err = time.ParseDuration(f[2]); err != nil || w.For < time.Minute || w.For > 24*time.Hour {
		return bad("the length is 1m to 24h")
	}
	if len(f) == 4 {
		if w.Bytes = parseBytes(f[3]); w.Bytes <= 0 {
			return bad("bytes are a number with B, KiB, MiB or GiB")
		}
	}
	return w, nil
}

func (w *Window) days(s string) bool {
	if s == "daily" {
		w.Days = [7]bool{true, true, true, true, true, true, true}
		return true
	}
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(part, "-")
		i, j := slices.Index(weekdays, from), slices.Index(weekdays, to)
		if !isRange {
			j = i
		}
		if i < 0 || j < 0 {
			return false
		}
		for d := i; ; d = (d + 1) % 7 {
			w.Days[d] = true
			if d == j {
				break
			}
		}
	}
	return true
}

func parseBytes(s string) int64 {
	for i, unit := range []string{"GiB", "MiB", "KiB", "B"} {
		if num, ok := strings.CutSuffix(s, unit); ok {
			n, err := strconv.ParseInt(num, 10, 64)
			shift := uint(10 * (3 - i))
			if err != nil || n < 0 || n > math.MaxInt64>>shift {
				return -1
			}
			return n << shift
		}
	}
	return -1
}

// left returns how much of the window is left at t when it opens offset later, 0 outside.
func (w *Window) left(t time.Time, offset time.Duration) time.Duration {
	t = t.UTC().Add(-offset)
	midnight := t.Truncate(24 * time.Hour)
	for _, day := range []time.Time{midnight, midnight.Add(-24 * time.Hour)} { // it may cross midnight
		begin := day.Add(w.At)
		if w.Days[day.Weekday()] && !t.Before(begin) && t.Before(begin.Add(w.For)) {
			return begin.Add(w.For).Sub(t)
		}
	}
	return 0
}

// inWindow returns the window that is open at t and how much of it is left.
func (c *Client) inWindow(t time.Time) (*Window, time.Duration) {
	var offset time.Duration
	if c.o.Spread > 0 {
		offset = time.Duration(binary.BigEndian.Uint64(c.o.Device[:8]) % uint64(c.o.Spread))
	}
	for i := range c.o.Windows {
		if left := c.o.Windows[i].left(t, offset); left > 0 {
			return &c.o.Windows[i], left
		}
	}
	return nil, 0
}
