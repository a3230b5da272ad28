package trust

import (
	"math"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/envelope"
	"time"
)

func wantFloor(t *testing.T, s State, unix uint64, source string) {
	t.Helper()
	if got := s.Floor(); got != (Floor{Unix: unix, Source: source}) {
		t.Errorf("floor is %d (%s), want %d (%s)", got.Unix, got.Source, unix, source)
	}
}

func TestFloorRises(t *testing.T) {
	wantFloor(t, State{}, 0, "nothing")
	s := State{}.Built(built)
	wantFloor(t, s, built, "build time of this program")

	s = pinned(t, root(1), 0)
	wantFloor(t, s, built+day, "trust root")
	s = follow(t, s, root(3).with(func(r *Root) { r.Version, r.Issued = 2, built }), 0)
	wantFloor(t, s, built+day, "trust root") // an earlier root does not lower it

	o := with(offer(1, 1), func(o *Offer) { o.Issued = built + 9*day })
	s = s.Try(o)
	wantFloor(t, s, built+day, "trust root") // moves at confirm, not at install
	wantFloor(t, s.Fail(o, refusal.Health), built+day, "trust root")
	s = s.Confirm(o)
	wantFloor(t, s, built+9*day, "confirmed bundle")

	s = s.SetTime((built + 20*day) * 1000)
	wantFloor(t, s, built+20*day, "set on this device")
	s = s.SetTime((built + 19*day) * 1000)
	wantFloor(t, s, built+20*day, "set on this device")

	wantFloor(t, s.Built(built+21*day), built+21*day, "build time of this program")
}

func TestFloorAdvances(t *testing.T) {
	s := pinned(t, root(1), 0)
	wantFloor(t, s.Advance(1000*time.Hour), built+day+999*3600, "trust root")
	wantFloor(t, s.Advance(-time.Hour), built+day, "trust root")
	wantFloor(t, s.Advance(time.Microsecond), built+day, "trust root")

	// In small steps never more than at once.
	step := s
	for range 1000 {
		step = step.Advance(1999 * time.Millisecond)
	}
	if got, most := step.Floor().Unix, s.Advance(1999*time.Second).Floor().Unix; got > most || got+2 < most {
		t.Errorf("1000 steps: %d, at once: %d", got, most)
	}

	// All proofs advance, so a raised epoch leaves the others where they belong.
	s = s.Confirm(with(offer(1, 1), func(o *Offer) { o.Issued = built + 9*day })).Advance(1000 * time.Second)
	s = follow(t, s, root(2).with(func(r *Root) { epoch(RoleRelease, 1)(r); r.Issued = built }), 0)
	wantFloor(t, s, built+day+999, "trust root")
}

// TestRaisedEpochDropsTime is the way out after a stolen key lifted the floor.
func TestRaisedEpochDropsTime(t *testing.T) {
	s := pinned(t, root(1), 0)
	s = s.Confirm(with(offer(1, 1), func(o *Offer) { o.Issued = built + 9*year }))
	s, err := s.Attest(0, (built+9*year+399*day)*1000)
	wantRefusal(t, err, "", "")
	wantFloor(t, s, built+9*year+399*day, "time attestation")

	// Only the time role's epoch: the release stays.
	wantFloor(t, follow(t, s, root(2).with(epoch(RoleTime, 1)), 0), built+9*year, "confirmed bundle")
	// Both.
	clean := follow(t, s, root(2).with(func(r *Root) { epoch(RoleTime, 1)(r); epoch(RoleRelease, 1)(r) }), 0)
	wantFloor(t, clean, built+2*day, "trust root")
	// What confirms now under the old epoch, a trial begun before the root, gives nothing.
	wantFloor(t, clean.Confirm(with(offer(2, 2), func(o *Offer) { o.Issued = built + 5*year })), built+2*day, "trust root")
	// The root's own epoch takes the time of the roots before it.
	late := follow(t, pinned(t, root(1), 0), root(2).with(func(r *Root) { r.Issued = built + 9*year }), 0)
	wantFloor(t, late, built+9*year, "trust root")
	wantFloor(t, follow(t, late, root(3).with(epoch(RoleRoot, 1)), 0), built+3*day, "trust root")
}

// What the device knows by itself hangs on no role, not even on one that a root numbers 0.
func TestOwnTimeIsNotDropped(t *testing.T) {
	s := pinned(t, root(1), 0).SetTime((built + 50*day) * 1000)
	s = follow(t, s, root(2).with(func(r *Root) { r.Roles[0] = keys(1, 1); epoch(0, 9)(r) }), 0)
	wantFloor(t, s, built+50*day, "set on this device")
}

// A person may pin a root from the end of time; nothing wraps around then.
func TestTheEndOfTime(t *testing.T) {
	late := root(1).with(func(r *Root) { r.Issued = math.MaxUint64 })
	s, _, err := Pin(envelope.File(envelope.Root, seal(t, late, 0)), 0)
	if err != nil {
		t.Fatal(err)
	}
	wantFloor(t, s.Advance(9999*time.Hour), math.MaxUint64/1000, "trust root")
	s = follow(t, s, late.with(func(r *Root) { r.Version = 2 }), 0)
	if v, _, err := s.Judge(offer(1, 1), device, Moment{}); v != Install {
		t.Errorf("got %v, %v", v, err)
	}
}

func TestAttest(t *testing.T) {
	s := pinned(t, root(1).with(epoch(RoleTime, 2)), 0)
	const offline = built + day
	for _, v := range []struct {
		name         string
		epoch, milli uint64
		word         refusal.Word
		floor        uint64
	}{
		{"a day later", 2, (offline + day) * 1000, "", offline + day},
		{"earlier", 2, 1000, "", offline},
		{"400 days", 2, (offline + maxAttested) * 1000, "", offline + maxAttested},
		{"a second more", 2, (offline + maxAttested + 1) * 1000, refusal.TimeJump, offline},
		{"the end of time", 2, math.MaxUint64, refusal.TimeJump, offline},
		{"old epoch", 1, (offline + day) * 1000, refusal.Rollback, offline},
		{"new epoch", 3, (offline + day) * 1000, refusal.Rollback, offline},
	} {
		t.Run(v.name, func(t *testing.T) {
			got, err := s.Attest(v.epoch, v.milli)
			wantRefusal(t, err, v.word, "")
			if got.Floor().Unix != v.floor {
				t.Errorf("floor %d, want %d", got.Floor().Unix, v.floor)
			}
		})
	}

	// One attestation must not carry the next: the bound hangs on offline keys alone.
	s, err := s.Attest(2, (offline+maxAttested)*1000)
	wantRefusal(t, err, "", "")
	_, err = s.Attest(2, (offline+maxAttested+day)*1000)
	wantRefusal(t, err, refusal.TimeJump, "400 days")
	// Powered-on time moves it, and so a device that is always on never runs out.
	_, err = s.Advance(2*day*time.Second).Attest(2, (offline+maxAttested+day)*1000)
	wantRefusal(t, err, "", "")
}

func TestNoTimeRole(t *testing.T) {
	s := pinned(t, root(1).with(func(r *Root) { delete(r.Roles, RoleTime) }), 0)
	_, err := s.Attest(0, built*1000)
	wantRefusal(t, err, refusal.Rollback, "role time")
}
