package trust

import (
	"slices"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
)

// A State is all that a device believes, as a value: methods that change something
// return a new State and leave the old one as it was. The zero State believes
// nobody; [Pin] makes one with a root, [Load] one from storage. States may be used
// by many goroutines.
type State struct {
	generation uint64 // one more with each change
	build      uint64 // build time of the program, seconds since 1970
	roots      [][]byte
	lines      []Line // confirmed, one per product and channel, ascending
	trial      *Line
	failed     []Failure // oldest first
	lifts      []contribution
	enrolment  []byte // the signed message

	// Derived from the above.
	root     *Root // the newest
	keys     map[RoleNumber]envelope.Keys
	epochs   map[RoleNumber]uint64 // the highest of each role since the pin
	enrolled *Enrolment
}

// A Line is one bundle's place in the sequence of its product and channel.
type Line struct {
	_       struct{} `cbor:",toarray"`
	Product string
	Channel string
	Epoch   uint64
	Seq     uint64
	Digest  Digest
	Issued  uint64 // seconds since 1970
}

// sameNumber reports whether two lines claim the same place.
func (l Line) sameNumber(o Line) bool {
	return l.Product == o.Product && l.Channel == o.Channel && l.Epoch == o.Epoch && l.Seq == o.Seq
}

// MaxFailures is how many failed bundles a State remembers.
const MaxFailures = 32

// A Failure is a bundle that this device tried and gave up.
type Failure struct {
	_    struct{} `cbor:",toarray"`
	Line Line
	Word refusal.Word
}

// changed returns a copy of s that counts as one change.
func (s State) changed() State {
	s.generation++
	return s
}

// Generation counts the changes since the first root was pinned; of two stored
// states of a device the one with the higher generation is newer.
func (s State) Generation() uint64 { return s.generation }

// Root returns the newest root, nil if none is installed. It must not be modified.
func (s State) Root() *Root { return s.root }

// Roots returns the signed messages of all roots since the pin, oldest first.
func (s State) Roots() [][]byte { return slices.Clone(s.roots) }

// Confirmed returns the newest confirmed bundle of a product and channel.
func (s State) Confirmed(product, channel string) (Line, bool) {
	for _, l := range s.lines {
		if l.Product == product && l.Channel == channel {
			return l, true
		}
	}
	return Line{}, false
}

// OnTrial returns the bundle that waits for confirmation.
func (s State) OnTrial() (Line, bool) {
	if s.trial == nil {
		return Line{}, false
	}
	return *s.trial, true
}

// Failure returns the memory of a failed bundle.
func (s State) Failure(d Digest) (Failure, bool) {
	for _, f := range s.failed {
		if f.Line.Digest == d {
			return f, true
		}
	}
	return Failure{}, false
}

// Try returns the state with the bundle on trial, in place of any other.
func (s State) Try(o Offer) State {
	l := o.Line()
	s.trial = &l
	return s.changed()
}

// Confirm returns the state after the bundle's trial ended well: it is the confirmed
// one of its product and channel, its time lifts the floor, its trial and the memory
// of an earlier failure are over.
func (s State) Confirm(o Offer) State {
	l := o.Line()
	s.lines = slices.Clone(s.lines)
	s.lines = slices.DeleteFunc(s.lines, func(old Line) bool {
		return old.Product == l.Product && old.Channel == l.Channel
	})
	s.lines = append(s.lines, l)
	slices.SortFunc(s.lines, func(a, b Line) int {
		return compareNames(Minimum{Product: a.Product, Channel: a.Channel}, Minimum{Product: b.Product, Channel: b.Channel})
	})
	s.failed = s.withoutFailure(l.Digest)
	if s.trial != nil && s.trial.Digest == l.Digest {
		s.trial = nil
	}
	return s.lift(RoleRelease, o.Epoch, o.Issued).changed()
}

// Fail returns the state after the bundle was given up with the word: its trial is
// over and it is refused with this word from now on. Counters and floor stand as
// before its trial. Of more than 32 failures the oldest is forgotten.
func (s State) Fail(o Offer, w refusal.Word) State { return s.fail(o.Line(), w) }

func (s State) fail(l Line, w refusal.Word) State {
	s.failed = append(s.withoutFailure(l.Digest), Failure{Line: l, Word: w})
	if extra := len(s.failed) - MaxFailures; extra > 0 {
		s.failed = s.failed[extra:]
	}
	if s.trial != nil && s.trial.Digest == l.Digest {
		s.trial = nil
	}
	return s.changed()
}

// Forgive returns the state without the memory that the bundle failed: what --retry
// asks for.
func (s State) Forgive(d Digest) State {
	if _, ok := s.Failure(d); !ok {
		return s
	}
	s.failed = s.withoutFailure(d)
	return s.changed()
}

func (s State) withoutFailure(d Digest) []Failure {
	return slices.DeleteFunc(slices.Clone(s.failed), func(f Failure) bool { return f.Line.Digest == d })
}

// Verify wants a message of the kind, signed by the role, and returns its payload.
// The exact bytes are verified before the payload is looked at; then the payload
// must be canonical, name the same kind and belong to this trust domain. The words:
// those of [envelope.Parse], E_SIG_BAD, E_SIG_THRESHOLD, E_TRUST_DOMAIN,
// E_CBOR_CANON, E_FORMAT, E_ROOT_NONE.
//
// Epoch and expiry are the next question: [State.Judge] for bundles, [State.Current]
// for all others.
func (s State) Verify(role RoleNumber, kind envelope.Kind, env []byte) ([]byte, Warnings, error) {
	if s.root == nil {
		return nil, nil, noRoot()
	}
	m, err := envelope.Parse(env, kind)
	if err != nil {
		return nil, nil, err
	}
	keys, ok := s.keys[role]
	if !ok {
		return nil, nil, refusal.New(refusal.SigThreshold, "the trust root (version %d) has no role %s", s.root.Version, role)
	}
	count, err := m.Verify(keys)
	if err != nil {
		head, peekErr := peek(m.Payload)
		if peekErr == nil && head.Domain != s.root.Domain && !keys.Names(m) {
			return nil, nil, foreign(head.Domain, s.root.Domain)
		}
		_, err = m.Verify(keys.WithFormer(s.former(role)))
		return nil, nil, err
	}
	head, err := peek(m.Payload)
	if err != nil {
		return nil, nil, err
	}
	if err := head.CheckFor(kind, s.root.Domain); err != nil {
		return nil, nil, err
	}
	return m.Payload, count.Warnings(), nil
}

// Current wants the object of a role to be of the role's present epoch (E_ROLLBACK
// below, E_ROOT_CHAIN above), its time to be plausible (E_TIME_JUMP) and not over
// (E_EXPIRED).
func (s State) Current(role RoleNumber, c Common, floor uint64) error {
	if s.root == nil {
		return noRoot()
	}
	epoch := s.root.Roles[role].Epoch
	switch {
	case c.Epoch < epoch:
		return refusal.New(refusal.Rollback, "epoch %d of role %s is over, the trust root is at %d", c.Epoch, role, epoch)
	case c.Epoch > epoch:
		return refusal.New(refusal.RootChain, "epoch %d of role %s is not known yet, the trust root is at %d", c.Epoch, role, epoch).
			WithHint("carry the newer root along")
	}
	if err := s.plausible(c.Issued); err != nil {
		return err
	}
	if c.Expires != 0 && c.Expires < floor {
		return refusal.New(refusal.Expired, "expired %s, it is at least %s (%s)", utc(c.Expires), utc(floor), s.Floor().Source)
	}
	return nil
}

// former tells, for every key that is not of the role now, what is known of it: that
// it has another role, or which root took it away.
func (s State) former(role RoleNumber) map[envelope.KeyID]string {
	why := make(map[envelope.KeyID]string)
	var before []envelope.PublicKey
	for _, env := range s.roots {
		r, err := openRoot(env)
		if err != nil {
			continue // stored roots were parsed when they were accepted
		}
		now := r.Roles[role].usable()
		for _, k := range before {
			if !slices.Contains(now, k) {
				why[k.ID()] = "revoked in root " + decimal(r.Version)
			}
		}
		before = now
	}
	for n, def := range s.root.Roles {
		for _, k := range def.usable() {
			if _, told := why[k.ID()]; !told && n != role {
				why[k.ID()] = "a key of role " + n.String()
			}
		}
	}
	return why
}

func noRoot() error {
	return refusal.New(refusal.RootNone, "no trust root is installed").
		WithHint("tidegate trust install FILE.tideroot")
}

// openRoot parses the root inside a signed message without verifying it.
func openRoot(env []byte) (*Root, error) {
	m, err := envelope.Parse(env, envelope.Root)
	if err != nil {
		return nil, err
	}
	return ParseRoot(m.Payload)
}

// stored is the state without its roots as it is kept.
type stored struct {
	Format     uint64         `cbor:"1,keyasint"` // 1
	Generation uint64         `cbor:"2,keyasint"`
	Chain      Digest         `cbor:"3,keyasint"` // of the roots
	Steps      uint64         `cbor:"4,keyasint"` // number of roots
	Lines      []Line         `cbor:"5,keyasint"`
	Trial      []Line         `cbor:"6,keyasint"` // none or one
	Failed     []Failure      `cbor:"7,keyasint"`
	Lifts      []contribution `cbor:"8,keyasint"`
	Enrolment  []byte         `cbor:"9,keyasint"` // empty: not enrolled
}

// MaxRecord is the largest record of a state, in bytes.
const MaxRecord = 1 << 20

// Marshal returns the record of the state: everything but the roots, which it names
// by digest. Two equal states have the same record.
func (s State) Marshal() ([]byte, error) {
	w := stored{
		Format: 1, Generation: s.generation, Chain: s.Chain(), Steps: uint64(len(s.roots)),
		Lines: s.lines, Failed: s.failed, Lifts: s.lifts, Enrolment: s.enrolment,
	}
	if s.trial != nil {
		w.Trial = []Line{*s.trial}
	}
	return canon.Marshal(w)
}

// Load returns the state that was stored as a record and roots, for a program built
// at the given time (seconds since 1970). What was stored is not judged again: no
// signature, no expiry. A record that does not parse or belongs to other roots is
// E_STATE.
func Load(record []byte, roots [][]byte, build uint64) (State, error) {
	var w stored
	if err := canon.Unmarshal(record, &w, canon.Within(MaxRecord)); err != nil {
		return State{}, unreadable(err)
	}
	if w.Format != 1 {
		return State{}, refusal.New(refusal.State, "trust state has format %d, this program reads 1", w.Format)
	}
	if len(w.Trial) > 1 {
		return State{}, refusal.New(refusal.State, "trust state has %d bundles on trial", len(w.Trial))
	}
	s := State{
		generation: w.Generation, roots: slices.Clone(roots),
		lines: w.Lines, failed: w.Failed, lifts: w.Lifts, enrolment: w.Enrolment,
	}
	if len(w.Trial) == 1 {
		s.trial = &w.Trial[0]
	}
	if s.Chain() != w.Chain {
		return State{}, refusal.New(refusal.State, "trust state belongs to other roots (%d of them) than the %d stored beside it", w.Steps, len(roots))
	}
	for _, env := range roots {
		r, err := openRoot(env)
		if err != nil {
			return State{}, unreadable(err)
		}
		s = s.under(r)
	}
	if len(w.Enrolment) > 0 {
		e, err := openEnrolment(w.Enrolment)
		if err != nil {
			return State{}, unreadable(err)
		}
		s.enrolled = e
	}
	return s.Built(build), nil
}

func unreadable(err error) error {
	return refusal.New(refusal.State, "trust state is unreadable: %w", err).
		WithHint("install the trust root again: tidegate trust install FILE.tideroot")
}
