package trust

import (
	"bytes"
	"fmt"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
)

// Mark returns a record of at most limit bytes with what must never go down: the digest
// of the roots, the confirmed bundles and the proofs of time. It is for a second copy in
// a place that holds no more. Failures, the trial and the enrolment are not in it, and of
// several products only those that fit; that of the enrolment comes first.
func (s State) Mark(limit int) ([]byte, error) {
	w := stored{Format: 1, Generation: s.generation, Chain: s.Chain(), Steps: uint64(len(s.roots)), Lifts: s.lifts}
	own := s.Device(DeviceID{}, "", [3]uint64{})
	b, err := canon.Marshal(w)
	if err != nil {
		return nil, err
	}
	for _, first := range []bool{true, false} {
		for _, l := range s.lines {
			if (l.Product == own.Product && l.Channel == own.Channel) != first {
				continue
			}
			w.Lines = append(w.Lines, l)
			more, err := canon.Marshal(w)
			if err != nil {
				return nil, err
			}
			if len(more) > limit {
				w.Lines = w.Lines[:len(w.Lines)-1]
				continue
			}
			b = more
		}
	}
	if len(b) > limit {
		return nil, fmt.Errorf("mark of the trust state takes %d bytes, at most %d are there", len(b), limit)
	}
	return b, nil
}

// Restore returns the state that a mark, the roots and the signed enrolment, nil if there
// is none, were kept of. Like [Load] it judges nothing again; an enrolment that cannot be
// read is left out.
func Restore(mark []byte, roots [][]byte, enrolment []byte, build uint64) (State, error) {
	var w stored
	if err := canon.Unmarshal(mark, &w, canon.Within(MaxRecord)); err != nil {
		return State{}, unreadable(err)
	}
	if _, err := openEnrolment(enrolment); err == nil {
		w.Enrolment = enrolment
	}
	record, err := canon.Marshal(w)
	if err != nil {
		return State{}, unreadable(err)
	}
	return Load(record, roots, build)
}

// EnrolmentMessage returns the signed enrolment in force, nil if there is none.
func (s State) EnrolmentMessage() []byte {
	if len(s.enrolment) == 0 {
		return nil
	}
	return bytes.Clone(s.enrolment)
}

// Withdraw returns the state after the bundle on trial was taken back before it was tried:
// nothing is held against it.
func (s State) Withdraw() State {
	if s.trial == nil {
		return s
	}
	s.trial = nil
	return s.changed()
}

// Abandon returns the state after the bundle on trial was given up with the word, when
// nothing of it can be read any more.
func (s State) Abandon(w refusal.Word) State {
	if s.trial == nil {
		return s
	}
	return s.fail(*s.trial, w)
}
