package board

import (
	"testing"
	"time"
)

// A system on trial is looked at each second; lives says how long its gateway serves each time,
// starts how long it takes to serve, 0: it never does.
func TestASystemOnTrialProvesItself(t *testing.T) {
	for name, c := range map[string]struct {
		starts, lives int // s; the gateway dies after both; lives 0: it ends where it would serve
		held          bool
		want          finding
		after         int // s
	}{
		"it serves":                             {20, 1000, false, works, 80},
		"it serves, and another decides":        {20, 1000, true, open, 0},
		"it hangs before it serves":             {1000, 0, false, fails, 301},
		"it hangs before it serves, held":       {1000, 0, true, fails, 301},
		"it dies before it serves":              {10, 0, false, fails, 50},
		"it dies before it serves, held":        {10, 0, true, fails, 50},
		"it dies soon after it serves":          {10, 30, false, fails, 200},
		"it dies soon after it serves, held":    {10, 30, true, open, 0},
		"it dies and is back before it is seen": {0, 30, false, fails, 150},
		"it serves long enough before it dies":  {10, 61, false, works, 70},
	} {
		began := time.Unix(1_000_000_000, 0)
		p := proof{o: Default(), began: began}
		var s sight
		got, after := open, 0
		for at, age := 1, 1; at <= 900 && got == open; at, age = at+1, age+1 {
			if age >= c.starts+c.lives {
				s.ends, s.serves, age = s.ends+1, false, 0
				s.failed++
			}
			if age >= c.starts && c.lives > 0 {
				s.serves, s.failed = true, 0
			}
			if got = p.look(began.Add(time.Duration(at)*time.Second), s, c.held); got != open {
				after = at
			}
		}
		if got != c.want || after != c.after {
			t.Errorf("%s: finding %d after %d s, want %d after %d s", name, got, after, c.want, c.after)
		}
	}
}
