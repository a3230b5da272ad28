package gateway

import (
	"errors"
	"tidegate/policy"
	"tidegate/policy/fault"
	"tidegate/policy/throttle"
	"tidegate/store/events"
	"tidegate/store/events/batch"
	"time"
)

// stallRetry is when a call may come again whose limit could not be made durable in time.
const stallRetry = time.Second

// take asks every limit of the call: all count it, or none.
func (c *call) take() error {
	op := c.ed.limiter.Operation(c.match.APIIndex, c.match.OpIndex)
	if op.Blocked(c.x, c.who) {
		c.level = policy.LevelBlock
		return fault.New(fault.Blocked, nil)
	}
	claims, err := op.Claims(c.claims, c.x, c.who)
	if err != nil {
		return fault.New(fault.PolicyError, err)
	}
	if len(claims) == 0 {
		return nil
	}
	length := max(c.x.Head().Length, 0)
	for i := range claims {
		if claims[i].Rule.Kind == throttle.Bytes {
			claims[i].N = length
		}
	}
	c.claims = claims
	c.verdict, err = c.ed.gw.o.Counter.Take(c.context(), c.instant(), claims)
	if err != nil {
		c.claims = claims[:0]
		return uncounted(err)
	}
	if !c.verdict.Admitted() {
		c.level = c.verdict.Level
		return &fault.Error{Fault: throttled(c.verdict.Level), RetryAfter: max(c.verdict.Retry, time.Second)}
	}
	c.taken = true
	for i := range claims {
		if claims[i].Rule.Kind == throttle.Bytes {
			c.charge = append(c.charge, claims[i])
		}
	}
	return nil
}

// uncounted is what a client is told when a limit could not be counted.
func uncounted(err error) error {
	if errors.Is(err, throttle.ErrStalled) {
		return &fault.Error{Fault: fault.Stalled, Err: err, RetryAfter: stallRetry}
	}
	return fault.New(fault.PolicyError, err)
}

// giveBack releases what counts calls in flight.
func (c *call) giveBack() {
	if !c.taken {
		return
	}
	c.taken = false
	for i := range c.claims {
		if c.claims[i].Rule.Kind == throttle.InFlight {
			c.ed.gw.o.Counter.Release(c.claims)
			return
		}
	}
}

// throttled is what a client is told at a level.
func throttled(l policy.Level) *fault.Fault {
	switch l {
	case policy.LevelAPI:
		return fault.ThrottledAPI
	case policy.LevelOperation:
		return fault.ThrottledOperation
	case policy.LevelApplication:
		return fault.ThrottledApplication
	case policy.LevelCustom:
		return fault.ThrottledCustom
	default:
		return fault.ThrottledSubscription
	}
}

// noteFlags copies what the limits noted into the event.
func (c *call) noteFlags(e *events.Event) {
	if c.over.Load() || c.verdict.Notes.Has(throttle.Over) && len(c.claims) > 0 {
		e.Flags |= batch.OverQuota
	}
	if c.now.Upper.IsZero() {
		e.Flags |= batch.Unsynced
	}
}
