package upstream

import (
	"time"

	"github.com/sony/gobreaker/v2"
)

// A View is one target of a group as it is now, for status and metrics.
type View struct {
	Group, URL            string // URL without credentials and query
	State                 string // up; down by health check; open or half-open by breaker; ejected
	InFlight              int64
	Active, Idle, Waiting int // connections; calls that wait for one
	Dialed                int64
	Failures              uint32 // in a row, as breaker or ejection counts them
}

// View returns every target of every group, in the order of the bundle.
func (p *Pool) View() []View {
	now := time.Now()
	var out []View
	for _, g := range p.groups {
		for _, t := range g.members.Load().targets {
			out = append(out, t.view(now))
		}
	}
	return out
}

func (t *target) view(now time.Time) View {
	c := t.client.Stats()
	v := View{Group: t.group.name, URL: t.display, State: "up", InFlight: t.pending.Load(), Active: c.Active, Idle: c.Idle, Waiting: c.Waiting, Dialed: c.Dialed}
	t.mu.Lock()
	ejected := now.Before(t.ejected)
	v.Failures = t.failures
	t.mu.Unlock()
	if t.breaker != nil {
		v.Failures = max(v.Failures, t.breaker.Counts().ConsecutiveFailures)
		if s := t.breaker.State(); s != gobreaker.StateClosed {
			v.State = s.String()
		}
	}
	switch {
	case t.down.Load():
		v.State = "down"
	case ejected:
		v.State = "ejected"
	}
	return v
}
