package appliance

import (
	"context"
	"tidegate/platform/clock"
	"tidegate/policy"
	"tidegate/policy/throttle"
	"tidegate/store"
	"tidegate/store/events"
	"tidegate/store/events/batch"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// timekeeper is the trusted clock as the other packages see it.
type timekeeper struct {
	clock   *clock.Clock
	machine clock.Machine
}

// Now implements gateway.Clock.
func (t timekeeper) Now() policy.Now {
	r := t.clock.Now()
	n := policy.Now{Lower: r.Lower, Boot: r.Boot}
	if r.Quality != clock.Unsynced {
		n.Upper = r.Upper
	}
	return n
}

// Line implements gateway.Clock.
func (t timekeeper) Line() uint32 { return t.clock.Line() }

// instant is the time of limits.
func (t timekeeper) instant() throttle.Instant {
	i := t.clock.Instant()
	return throttle.Instant{Lower: i.Lower, Boot: i.Boot, Line: i.Line}
}

// stamp is the time of events.
func (t timekeeper) stamp() events.Instant {
	r := t.clock.Now()
	q := batch.Unproven
	switch r.Quality {
	case clock.Synced:
		q = batch.Synced
	case clock.Holdover:
		q = batch.Holdover
	}
	return events.Instant{Now: time.Now(), Stamp: batch.Stamp{Boot: r.Boot, Unix: t.clock.Best(), Quality: q}}
}

// clockBucket holds the state of the clock in state.db.
const (
	clockBucket = "clock"
	clockKey    = "state"
)

// openClock makes the trusted clock from what is stored of it.
func (a *App) openClock() error {
	var copies []clock.State
	err := a.dir.State().View(func(tx *store.Tx) error {
		b, err := tx.Bucket(clockBucket).Get([]byte(clockKey))
		if err != nil || b == nil {
			return err
		}
		var s clock.State
		if err := cbor.Unmarshal(b, &s); err != nil {
			return err
		}
		copies = append(copies, s)
		return nil
	})
	if err != nil {
		a.find("clock: %v; time goes on from the build time and the trust root", err)
	}
	a.time = timekeeper{clock: clock.New(a.o.Machine, a.build.Time, nil, copies...), machine: a.o.Machine}
	return nil
}

// runClock watches the system clock and stores the floor.
func (a *App) runClock(ctx context.Context) error {
	return a.time.clock.Run(ctx, clock.Options{
		TrustSystem: a.cfg.Clock.Trust == "system", SystemErr: time.Second, Log: a.log,
		Save: func(s clock.State) error {
			b, err := cbor.Marshal(s)
			if err != nil {
				return err
			}
			return a.dir.State().Update(func(tx *store.Tx) error { return tx.Bucket(clockBucket).Put([]byte(clockKey), b) })
		},
	})
}
