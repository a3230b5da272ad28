package trust

import (
	"bytes"
	"crypto/sha256"
	"maps"
	"slices"
	"strconv"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
)

// MaxSteps is how many roots may follow the pinned one.
const MaxSteps = 1024

// Pin returns a state that begins with the first root of a .tideroot file. The root
// may have any version; it must meet its own threshold (E_ROOT_CHAIN), and its time
// must be plausible for a program built at the given time, in seconds since 1970, 0
// if unknown (E_TIME_JUMP). Further roots of the file follow by [State.AddRoots].
//
// A pin is a person's decision: whoever calls Pin has shown the root to somebody or
// compared its fingerprint.
func Pin(tideroot []byte, build uint64) (State, *Root, error) {
	envs, err := envelope.ReadFile(envelope.Root, bytes.NewReader(tideroot))
	if err != nil {
		return State{}, nil, err
	}
	m, err := parseStep(envs[0])
	if err != nil {
		return State{}, nil, err
	}
	r, err := ParseRoot(m.Payload)
	if err != nil {
		return State{}, nil, err
	}
	keys, _ := r.Keys(RoleRoot)
	if own := m.Count(keys); !own.Met() {
		return State{}, nil, refusal.New(refusal.RootChain, "root %d does not meet its own threshold: %s", r.Version, own)
	}
	s := State{}.Built(build)
	if build != 0 {
		if err := s.plausible(r.Issued); err != nil {
			return State{}, nil, err
		}
	}
	return s.follow(envs[0], r), r, nil
}

// Fingerprint returns the SHA-256 of the payload of a signed root, which people
// compare before they pin it.
func Fingerprint(env []byte) (Digest, error) {
	m, err := envelope.Parse(env, envelope.Root)
	if err != nil {
		return Digest{}, err
	}
	return sha256.Sum256(m.Payload), nil
}

// AddRoots walks the roots of one file or bundle, oldest first. Their versions must
// rise by exactly one (E_ROOT_CHAIN), 32 at most (E_LIMIT). After each accepted root
// keep is called with the state, which must be on disk when it returns: no later
// failure takes an accepted root back, so the State returned beside an error is the
// one after the last accepted root.
func (s State) AddRoots(envs [][]byte, floor uint64, keep func(State) error) (State, Warnings, error) {
	if len(envs) > envelope.MaxFileMessages {
		return s, nil, refusal.New(refusal.Limit, "%d roots, at most %d are allowed", len(envs), envelope.MaxFileMessages)
	}
	var warnings Warnings
	var last uint64
	for i, env := range envs {
		m, err := parseStep(env)
		if err != nil {
			return s, warnings, err
		}
		head, err := peek(m.Payload)
		if err != nil {
			return s, warnings, err
		}
		if i > 0 && head.Seq != last+1 {
			return s, warnings, refusal.New(refusal.RootChain, "root %d follows root %d in the file, want %d", head.Seq, last, last+1)
		}
		last = head.Seq
		next, w, err := s.AddRoot(env)
		warnings = append(warnings, w...)
		if err != nil {
			return s, warnings, err
		}
		if next.generation == s.generation {
			continue
		}
		if err := keep(next); err != nil {
			return s, warnings, err
		}
		s = next
	}
	return s, append(warnings, s.RootExpiry(floor)...), nil
}

// AddRoot takes one step: from root N to N+1. A root that the device has is accepted
// again without a change, and so is one from before its pin, of which it knows
// nothing. All else is refused, in this order:
//
//	E_FORMAT …       no COSE_Sign of a root
//	E_LIMIT          above 16 KiB, or step 1,025 since the pin
//	E_TRUST_DOMAIN   of another domain, and no key of root N is named
//	E_EQUIVOCATION   another payload under a version the device has, signed by the
//	                 threshold of the root before; E_ROOT_CHAIN if it is not
//	E_ROOT_CHAIN     not version N+1, or not signed by threshold(N) and threshold(N+1)
//	E_TRUST_DOMAIN   of another domain
//	E_ROOT           content, an epoch or minimum that falls, a minimum that is gone
//	E_TIME_JUMP      issued implausibly late
func (s State) AddRoot(env []byte) (State, Warnings, error) {
	if s.root == nil {
		return s, nil, noRoot()
	}
	m, err := parseStep(env)
	if err != nil {
		return s, nil, err
	}
	head, err := peek(m.Payload)
	if err != nil {
		return s, nil, err
	}
	old := s.keys[RoleRoot]
	n := s.root.Version
	switch {
	case head.Domain != s.root.Domain && !old.Names(m):
		return s, nil, foreign(head.Domain, s.root.Domain)
	case head.Seq <= n:
		return s, nil, s.again(m, head.Seq)
	case head.Seq != n+1:
		return s, nil, refusal.New(refusal.RootChain, "root %d does not follow root %d", head.Seq, n).
			WithHint("carry the roots from %d along", n+1)
	case len(s.roots) > MaxSteps:
		return s, nil, refusal.New(refusal.Limit, "root %d is more than %d steps from the pinned one", head.Seq, MaxSteps).
			WithHint("reset the device and install root %d", head.Seq)
	}

	// The old keys vouch for the bytes before anything reads what they say.
	byOld := m.Count(old)
	if !byOld.Met() {
		return s, nil, refusal.New(refusal.RootChain, "root %d is not signed by root %d: old keys: %s", n+1, n, byOld)
	}
	next, err := ParseRoot(m.Payload)
	if err != nil {
		return s, nil, err
	}
	own, _ := next.Keys(RoleRoot)
	byNew := m.Count(own)
	if !byNew.Met() {
		return s, nil, refusal.New(refusal.RootChain, "root %d does not meet its own threshold: old keys: %s; new keys: %s", n+1, byOld, byNew)
	}
	if err := s.mayFollow(next); err != nil {
		return s, nil, err
	}
	return s.follow(env, next), byNew.Warnings(), nil
}

// parseStep judges the form and the size of a signed root.
func parseStep(env []byte) (*envelope.Message, error) {
	if len(env) > MaxRoot {
		return nil, refusal.New(refusal.Limit, "root of %d bytes, at most %d are allowed", len(env), MaxRoot)
	}
	return envelope.Parse(env, envelope.Root)
}

// again judges a root whose version the device has passed.
func (s State) again(m *envelope.Message, version uint64) error {
	first := s.root.Version - uint64(len(s.roots)-1)
	if version < first {
		return nil
	}
	have, err := envelope.Parse(s.roots[version-first], envelope.Root)
	if err != nil {
		return unreadable(err)
	}
	if bytes.Equal(have.Payload, m.Payload) {
		return nil
	}
	if version > first {
		before, err := openRoot(s.roots[version-first-1])
		if err != nil {
			return unreadable(err)
		}
		if keys, _ := before.Keys(RoleRoot); m.Count(keys).Met() {
			return refusal.New(refusal.Equivocation, "another root %d was signed by root %d: two histories exist", version, version-1).
				WithHint("find out who signed it; the root keys may be stolen")
		}
	}
	return refusal.New(refusal.RootChain, "another root %d than the one this device has", version)
}

// mayFollow holds what root N+1 owes to all roots before it.
func (s State) mayFollow(next *Root) error {
	if next.Domain != s.root.Domain {
		return foreign(next.Domain, s.root.Domain)
	}
	for n, role := range next.Roles {
		if role.Epoch < s.epochs[n] {
			return next.invalid("epoch %d of role %s is lower than %d", role.Epoch, n, s.epochs[n])
		}
	}
	for _, m := range s.root.Minimums {
		// A minimum that is gone reads as (0, 0).
		now := next.Minimum(m.Product, m.Channel)
		if comparePair(now.Epoch, now.Seq, m.Epoch, m.Seq) < 0 || !slices.ContainsFunc(next.Minimums, func(o Minimum) bool {
			return compareNames(o, m) == 0
		}) {
			return next.invalid("minimum of %s, %s is lower than (%d, %d) or gone", m.Product, m.Channel, m.Epoch, m.Seq)
		}
	}
	return s.plausible(next.Issued)
}

// follow returns the state with r, which env holds, as its newest root. Raised epochs
// take what the old epochs gave to the floor; the root's own time is added.
func (s State) follow(env []byte, r *Root) State {
	s.roots = append(slices.Clip(s.roots), bytes.Clone(env))
	s = s.under(r).drop()
	return s.lift(RoleRoot, r.Roles[RoleRoot].Epoch, r.Issued).changed()
}

// under returns the state with what derives from r, its newest root.
func (s State) under(r *Root) State {
	s.root = r
	s.keys = make(map[RoleNumber]envelope.Keys, len(r.Roles))
	s.epochs = maps.Clone(s.epochs)
	if s.epochs == nil {
		s.epochs = make(map[RoleNumber]uint64)
	}
	for n, role := range r.Roles {
		s.epochs[n] = role.Epoch // never lower, see mayFollow
		if keys, ok := r.Keys(n); ok {
			s.keys[n] = keys
		}
	}
	return s
}

// RootExpiry returns W_ROOT_EXPIRED if the newest root is past its time. Roots are
// not refused for their age: a device may lie in a drawer for years.
func (s State) RootExpiry(floor uint64) Warnings {
	if s.root == nil || s.root.Expires == 0 || s.root.Expires >= floor {
		return nil
	}
	return Warnings{refusal.New(refusal.WarnRootExpired, "root %d expired %s", s.root.Version, utc(s.root.Expires))}
}

// Chain returns the digest of all roots since the pin: SHA-256 over their messages
// as a CBOR sequence of byte strings.
func (s State) Chain() Digest {
	h := sha256.New()
	for _, env := range s.roots {
		h.Write(canon.AppendBytesHead(nil, uint64(len(env))))
		h.Write(env)
	}
	return Digest(h.Sum(nil))
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }
