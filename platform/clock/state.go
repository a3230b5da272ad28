package clock

import (
	"cmp"
	"slices"
	"time"
)

// State is what has to survive a restart: the contributions as of Boot in the boot named
// by BootID. It has a fixed form for CBOR and only gains fields.
type State struct {
	BootID [16]byte      `cbor:"1,keyasint"`
	Boot   time.Duration `cbor:"2,keyasint"`
	Line   uint32        `cbor:"3,keyasint"`
	Marks  []Mark        `cbor:"4,keyasint"`
	Proof  *Held         `cbor:"5,keyasint,omitempty"`
}

// A Mark is one contribution with the powered-on time since it was made.
type Mark struct {
	_      struct{} `cbor:",toarray"`
	Origin Origin
	Role   uint64
	Epoch  uint64
	At     int64 // milliseconds since 1970, UTC
	Signed int64 // as it was contributed, without powered-on time
}

// Held is the proof that gives the upper bound, in the same boot only.
type Held struct {
	_         struct{} `cbor:",toarray"`
	At        int64    // milliseconds since 1970, UTC
	Err       time.Duration
	RoundTrip time.Duration
	Boot      time.Duration // time since boot when it came
}

func (h *Held) at() time.Time { return time.UnixMilli(h.At).UTC() }

// Floor returns the floor as of the moment the state was taken.
func (s State) Floor() time.Time { return s.floor() }

func (s *State) floor() time.Time {
	top := int64(0)
	for _, m := range s.Marks {
		top = max(top, m.At)
	}
	return time.UnixMilli(top).UTC()
}

func (s *State) source() Origin {
	if len(s.Marks) == 0 {
		return Build
	}
	return slices.MaxFunc(s.Marks, func(a, b Mark) int { return cmp.Compare(a.At, b.At) }).Origin
}

// newest returns the latest time that one of the origins stated, as it was stated.
func (s *State) newest(of ...Origin) time.Time {
	top := int64(0)
	for _, m := range s.Marks {
		if slices.Contains(of, m.Origin) {
			top = max(top, m.Signed)
		}
	}
	return time.UnixMilli(top).UTC()
}

// moved returns the state as of boot in the boot id. Within one boot the time between
// counts; after a restart the whole time since boot does, for the state was stored before.
func (s State) moved(boot time.Duration, id [16]byte) State {
	d := boot
	if id == s.BootID {
		d = boot - s.Boot
		if d < 0 { // a copy from this boot cannot be from later; count nothing
			d = 0
		}
	}
	next := State{BootID: id, Boot: boot, Line: s.Line, Marks: slices.Clone(s.Marks)}
	for i := range next.Marks {
		next.Marks[i].At += credit(d).Milliseconds()
	}
	if id == s.BootID {
		next.Proof = s.Proof
	}
	return next
}

// add raises the mark of the same origin, role and epoch, or makes it.
func (s *State) add(k Contribution) {
	at := k.At.UnixMilli()
	s.put(Mark{Origin: k.Origin, Role: k.Role, Epoch: k.Epoch, At: at, Signed: at})
}

func (s *State) put(m Mark) {
	for i := range s.Marks {
		if h := &s.Marks[i]; h.Origin == m.Origin && h.Role == m.Role && h.Epoch == m.Epoch {
			h.At, h.Signed = max(h.At, m.At), max(h.Signed, m.Signed)
			return
		}
	}
	s.Marks = append(s.Marks, m)
	slices.SortFunc(s.Marks, func(a, b Mark) int {
		return cmp.Or(cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.Role, b.Role), cmp.Compare(a.Epoch, b.Epoch))
	})
	if len(s.Marks) > maxKept { // the lowest says nothing the others do not
		i := slices.IndexFunc(s.Marks, func(m Mark) bool {
			return m.At == slices.MinFunc(s.Marks, func(a, b Mark) int { return cmp.Compare(a.At, b.At) }).At
		})
		s.Marks = slices.Delete(s.Marks, i, i+1)
	}
}

// merge takes the maximum of both; they are of the same moment.
func (s *State) merge(o State) {
	for _, m := range o.Marks {
		s.put(m)
	}
	s.Line = max(s.Line, o.Line)
	if o.Proof != nil && (s.Proof == nil || o.Proof.Boot > s.Proof.Boot) {
		s.Proof = o.Proof
	}
}

func (s *State) drop(role, epoch uint64) {
	if role == 0 {
		return
	}
	s.Marks = slices.DeleteFunc(s.Marks, func(m Mark) bool { return m.Role == role && m.Epoch < epoch })
}
