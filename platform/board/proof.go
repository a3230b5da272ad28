package board

import (
	"cmp"
	"time"
)

// A proof is what was seen of a system on trial since its machine started. One that serves for a
// while is good, if nobody else decides on it.
type proof struct {
	o      Options // Prove and GiveUp
	began  time.Time
	served time.Time // when it was last seen to serve
	since  time.Time // when it began to, zero while it does not
	ends   int
}

// A sight is how the gateway is.
type sight struct {
	serves bool
	failed int // starts in a row that ended before it served
	ends   int // starts that ended
}

// hopeless is after how many starts of the gateway that ended a system on trial fails: in a row
// and before it served; any of them, where it is not held.
const hopeless = 5

// A finding says what became of a system on trial.
type finding int

const (
	open finding = iota
	works
	fails // the machine starts anew, which uses up one of the boot loader's tries
)

// look takes in what is seen now. Of a system that is held it only says that it fails, and counts
// no start that served: who holds it counts those.
func (p *proof) look(now time.Time, s sight, held bool) finding {
	if !s.serves || s.ends != p.ends {
		p.since = time.Time{}
	}
	p.ends = s.ends
	if s.failed >= hopeless || !held && s.ends >= hopeless {
		return fails
	}
	if !s.serves {
		if now.Sub(cmp.Or(p.served, p.began)) > p.o.GiveUp {
			return fails
		}
		return open
	}
	p.served = now
	if p.since.IsZero() {
		p.since = now
	}
	if held || now.Sub(p.since) < p.o.Prove {
		return open
	}
	return works
}
