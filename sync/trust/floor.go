package trust

import (
	"cmp"
	"math"
	"slices"
	"tidegate/policy/refusal"
	"time"
)

// A contribution is one proof that a time has passed: who vouched for it and how late
// it is now by that proof. Role 0 is the device itself.
type contribution struct {
	_     struct{} `cbor:",toarray"`
	Role  RoleNumber
	Epoch uint64 // of the role when it signed; of role 0: ownBuild or ownClock
	Milli uint64 // milliseconds since 1970, powered-on time since included
}

// What the device itself knows of the time.
const (
	own RoleNumber = 0

	ownBuild uint64 = 0 // the program was built then
	ownClock uint64 = 1 // an operator said so, or a clock that the site vouches for
)

// Floor is the latest time that has passed for sure.
type Floor struct {
	Unix   uint64 // seconds since 1970
	Source string // who vouches for it, in words
}

const (
	year = 365*24*3600 + 6*3600 // seconds

	// maxAhead bounds what a stolen key can do to the floor: no time is believed that
	// lies further ahead of what the program and the root know.
	maxAhead = 10 * year

	// maxAttested is how far the time role, whose keys are online, may go beyond what
	// offline keys have signed.
	maxAttested = 400 * 24 * 3600
)

// Floor returns the time floor, the highest contribution.
func (s State) Floor() Floor {
	f := Floor{Source: "nothing"}
	for _, c := range s.lifts {
		if t := c.Milli / 1000; t > f.Unix {
			f = Floor{Unix: t, Source: c.source()}
		}
	}
	return f
}

func (c contribution) source() string {
	switch c.Role {
	case own:
		if c.Epoch == ownBuild {
			return "build time of this program"
		}
		return "set on this device"
	case RoleRoot:
		return "trust root"
	case RoleRelease:
		return "confirmed bundle"
	case RoleTime:
		return "time attestation"
	}
	return "role " + c.Role.String()
}

// Built returns the state in the hands of a program that was built at the given time,
// in seconds since 1970, 0 if unknown. It is no change: each start of the program
// repeats it.
func (s State) Built(build uint64) State {
	s.build = build
	if build == 0 {
		return s
	}
	return s.liftMilli(own, ownBuild, saturatingMilli(build))
}

// Advance returns the state after the device was powered for d more, suspend
// included. Of d, 999/1000 counts, so that a fast oscillator cannot run ahead.
func (s State) Advance(d time.Duration) State {
	ms := uint64(max(d, 0).Milliseconds()) / 1000 * 999
	ms += uint64(max(d, 0).Milliseconds()) % 1000 * 999 / 1000
	if ms == 0 {
		return s
	}
	s.lifts = slices.Clone(s.lifts)
	for i := range s.lifts {
		s.lifts[i].Milli = saturatingAdd(s.lifts[i].Milli, ms)
	}
	return s.changed()
}

// Attest returns the state with a time that the time role vouches for under the given
// epoch, in milliseconds since 1970. It may lie at most 400 days beyond what root and
// release have signed, powered-on time included (E_TIME_JUMP).
func (s State) Attest(epoch, milli uint64) (State, error) {
	if s.root == nil {
		return s, noRoot()
	}
	if role, ok := s.root.Roles[RoleTime]; !ok || role.Epoch != epoch {
		return s, refusal.New(refusal.Rollback, "epoch %d of role %s is not the one of the trust root", epoch, RoleTime)
	}
	offline := s.build
	for _, c := range s.lifts {
		if c.Role == RoleRoot || c.Role == RoleRelease {
			offline = max(offline, c.Milli/1000)
		}
	}
	if milli/1000 > saturatingAdd(offline, maxAttested) {
		return s, refusal.New(refusal.TimeJump, "attested time %s is more than 400 days after %s, the newest that root or release signed", utc(milli/1000), utc(offline))
	}
	return s.liftMilli(RoleTime, epoch, milli).changed(), nil
}

// SetTime returns the state with a time that a person at the console, or a clock the
// site vouches for, has set; milliseconds since 1970.
func (s State) SetTime(milli uint64) State { return s.liftMilli(own, ownClock, milli).changed() }

// lift adds the signed time of an object, in seconds, unless the role has moved on to
// another epoch.
func (s State) lift(role RoleNumber, epoch, issued uint64) State {
	if s.root == nil || s.root.Roles[role].Epoch != epoch {
		return s
	}
	return s.liftMilli(role, epoch, saturatingMilli(issued))
}

// liftMilli keeps the highest contribution of each role and epoch: as all advance
// alike, the highest stays the highest.
func (s State) liftMilli(role RoleNumber, epoch, milli uint64) State {
	s.lifts = slices.Clone(s.lifts)
	for i, c := range s.lifts {
		if c.Role == role && c.Epoch == epoch {
			s.lifts[i].Milli = max(c.Milli, milli)
			return s
		}
	}
	s.lifts = append(s.lifts, contribution{Role: role, Epoch: epoch, Milli: milli})
	slices.SortFunc(s.lifts, func(a, b contribution) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Epoch, b.Epoch))
	})
	return s
}

// drop takes away what roles have contributed under epochs that are over.
func (s State) drop() State {
	s.lifts = slices.DeleteFunc(slices.Clone(s.lifts), func(c contribution) bool {
		return c.Role != own && c.Epoch < s.epochs[c.Role]
	})
	return s
}

// plausible refuses a signed time more than 10 years beyond the later of the build
// time and the newest root's: no key can push the floor further than that.
func (s State) plausible(issued uint64) error {
	known := s.build
	if s.root != nil {
		known = max(known, s.root.Issued)
	}
	if issued > saturatingAdd(known, maxAhead) {
		return refusal.New(refusal.TimeJump, "issued %s, more than 10 years after %s", utc(issued), utc(known)).
			WithHint("check the clock of the machine that signed it")
	}
	return nil
}

func saturatingAdd(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}

// saturatingMilli turns seconds into milliseconds.
func saturatingMilli(seconds uint64) uint64 {
	if seconds > math.MaxUint64/1000 {
		return math.MaxUint64
	}
	return seconds * 1000
}

// utc writes a time for people.
func utc(seconds uint64) string {
	if seconds > 253402300799 { // the end of the year 9999
		return "in a year after 9999"
	}
	return time.Unix(int64(seconds), 0).UTC().Format("2006-01-02 15:04:05 UTC")
}
