package trust

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
)

// MaxRoot is the largest root, in bytes of its signed message.
const MaxRoot = envelope.MaxRoot

// A RoleNumber names a role.
type RoleNumber uint64

// The roles that this program knows. Others may stand in a root; they are checked
// for their form and not used.
const (
	RoleRoot      RoleNumber = 1 // sets the keys, thresholds and epochs of all roles
	RoleRelease   RoleNumber = 2 // signs manifests and enrolments
	RoleTime      RoleNumber = 6 // attests the time
	RoleCollector RoleNumber = 7 // acknowledges batches
)

// String returns the role's name.
func (r RoleNumber) String() string {
	switch r {
	case RoleRoot:
		return "root"
	case RoleRelease:
		return "release"
	case RoleTime:
		return "time"
	case RoleCollector:
		return "collector"
	}
	return fmt.Sprintf("number %d", uint64(r))
}

// known reports whether this program uses the role.
func (r RoleNumber) known() bool {
	switch r {
	case RoleRoot, RoleRelease, RoleTime, RoleCollector:
		return true
	}
	return false
}

// A Root is one version of the trust root: who may sign what.
type Root struct {
	Domain       Domain
	Version      uint64
	Issued       uint64 // seconds since 1970
	Expires      uint64 // the same; 0: never. It only warns
	Roles        map[RoleNumber]Role
	Minimums     []Minimum // strictly ascending by product and channel
	Revoked      []Digest  // strictly ascending
	Requirements []uint64  // what a device must understand; this program understands none
	Extensions   map[uint64][]byte
}

// A Role is a number of keys, of which Threshold must sign. A root that raises Epoch
// takes away the force of all that the role signed under a lower one.
type Role struct {
	Epoch     uint64
	Threshold int
	Keys      []Key // 1 to 16
}

// A Key is a public key with a name for people. A key of a type that this program
// cannot use is carried along and never counted.
type Key struct {
	Name   string
	Public envelope.PublicKey // the zero value if Other is set
	Other  []byte             // the COSE_Key as it stands, nil for an Ed25519 key
}

// A Minimum is the lowest (epoch, seq) of a product and channel that may be installed
// or served again after a failure.
type Minimum struct {
	_       struct{} `cbor:",toarray"`
	Product string
	Channel string
	Epoch   uint64
	Seq     uint64
}

// wireRoot and wireRole are the root as it is encoded.
type wireRoot struct {
	Common
	Roles        map[uint64]wireRole `cbor:"30,keyasint"`
	Minimums     []Minimum           `cbor:"31,keyasint,omitempty"`
	Revoked      []Digest            `cbor:"32,keyasint,omitempty"`
	Requirements []uint64            `cbor:"33,keyasint,omitempty"`
}

type wireRole struct {
	Epoch     uint64    `cbor:"1,keyasint"`
	Threshold int64     `cbor:"2,keyasint"`
	Keys      []wireKey `cbor:"3,keyasint"`
}

type wireKey struct {
	_    struct{} `cbor:",toarray"`
	Key  canon.Raw
	Name string
}

// ParseRoot reads the payload of a root. It returns E_CBOR_CANON, E_FORMAT for a
// payload of another type, E_FORMAT_VERSION for a requirement this program does not
// know, and E_ROOT for everything else that is wrong with the content.
func ParseRoot(payload []byte) (*Root, error) {
	head, err := peek(payload)
	if err != nil {
		return nil, err
	}
	if head.Type != string(envelope.Root) {
		return nil, refusal.New(refusal.Format, "type: payload is a %q, want %q", head.Type, envelope.Root)
	}
	var w wireRoot
	if err := canon.Unmarshal(payload, &w, canon.Within(MaxRoot)); err != nil {
		if refusal.Is(err, refusal.Format) {
			err = refusal.New(refusal.Root, "root %d: %w", head.Seq, err)
		}
		return nil, err
	}
	r := &Root{
		Domain: w.Domain, Version: w.Seq, Issued: w.Issued, Expires: w.Expires,
		Roles:    make(map[RoleNumber]Role, len(w.Roles)),
		Minimums: w.Minimums, Revoked: w.Revoked, Requirements: w.Requirements, Extensions: w.Extensions,
	}
	if w.Epoch != 0 {
		return nil, r.invalid("epoch %d of its own, want 0", w.Epoch)
	}
	for n, wr := range w.Roles {
		role, err := wr.role()
		if err != nil {
			return nil, r.invalid("role %s: %w", RoleNumber(n), err)
		}
		r.Roles[RoleNumber(n)] = role
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	return r, nil
}

// Marshal returns the payload of r after the same checks as [ParseRoot].
func (r *Root) Marshal() ([]byte, error) {
	b, err := canon.Marshal(r.wire())
	if err != nil {
		return nil, err
	}
	if _, err := ParseRoot(b); err != nil {
		return nil, err
	}
	return b, nil
}

// wire returns r as it is encoded.
func (r *Root) wire() wireRoot {
	w := wireRoot{
		Common: Common{
			Type: string(envelope.Root), Domain: r.Domain, Seq: r.Version,
			Issued: r.Issued, Expires: r.Expires, Extensions: r.Extensions,
		},
		Roles:    make(map[uint64]wireRole, len(r.Roles)),
		Minimums: r.Minimums, Revoked: r.Revoked, Requirements: r.Requirements,
	}
	for n, role := range r.Roles {
		wr := wireRole{Epoch: role.Epoch, Threshold: int64(role.Threshold)}
		for _, k := range role.Keys {
			wr.Keys = append(wr.Keys, wireKey{Key: k.encoding(), Name: k.Name})
		}
		w.Roles[uint64(n)] = wr
	}
	return w
}

// Keys returns the keys of a role that this program can use, and false if the root
// has no such role.
func (r *Root) Keys(role RoleNumber) (envelope.Keys, bool) {
	def, ok := r.Roles[role]
	if !ok {
		return envelope.Keys{}, false
	}
	keys, err := envelope.NewKeys(role.String(), def.Threshold, def.usable()...)
	return keys, err == nil
}

// Minimum returns the minimum of a product and channel, (0, 0) if there is none.
func (r *Root) Minimum(product, channel string) Minimum {
	for _, m := range r.Minimums {
		if m.Product == product && m.Channel == channel {
			return m
		}
	}
	return Minimum{Product: product, Channel: channel}
}

// comparePair orders two (epoch, seq).
func comparePair(epochA, seqA, epochB, seqB uint64) int {
	return cmp.Or(cmp.Compare(epochA, epochB), cmp.Compare(seqA, seqB))
}

func (r *Root) invalid(format string, args ...any) error {
	return refusal.New(refusal.Root, "root %d: %w", r.Version, fmt.Errorf(format, args...))
}

// check holds what the grammar cannot say of a root by itself.
func (r *Root) check() error {
	if r.Version == 0 {
		return r.invalid("versions count from 1")
	}
	if len(r.Requirements) > 0 {
		return refusal.New(refusal.FormatVersion, "root %d requires %d, which this program does not know", r.Version, r.Requirements).
			WithHint("update this program")
	}
	for _, n := range []RoleNumber{RoleRoot, RoleRelease} {
		if _, ok := r.Roles[n]; !ok {
			return r.invalid("role %s is missing", n)
		}
	}
	for n, role := range r.Roles {
		if err := role.check(n); err != nil {
			return r.invalid("role %s: %w", n, err)
		}
	}
	return r.checkSets()
}

// checkSets wants the lists that are sets in strictly ascending order of their
// encoded bytes, and no minimum above what the release role can sign.
func (r *Root) checkSets() error {
	for i, m := range r.Minimums {
		if !ValidName(m.Product) || !ValidName(m.Channel) {
			return r.invalid("minimum of %q, %q: not a name", m.Product, m.Channel)
		}
		if release := r.Roles[RoleRelease].Epoch; m.Epoch > release {
			return r.invalid("minimum of %s, %s: epoch %d is above the release epoch %d", m.Product, m.Channel, m.Epoch, release)
		}
		if i > 0 && compareNames(r.Minimums[i-1], m) >= 0 {
			return r.invalid("minimum of %s, %s: not in ascending order", m.Product, m.Channel)
		}
	}
	for i, d := range r.Revoked {
		if i > 0 && bytes.Compare(r.Revoked[i-1][:], d[:]) >= 0 {
			return r.invalid("revoked digests are not in ascending order")
		}
	}
	return nil
}

// compareNames orders minimums as their encodings: shorter names first.
func compareNames(a, b Minimum) int {
	return cmp.Or(
		cmp.Compare(len(a.Product), len(b.Product)), cmp.Compare(a.Product, b.Product),
		cmp.Compare(len(a.Channel), len(b.Channel)), cmp.Compare(a.Channel, b.Channel),
	)
}

// SortSets brings minimums and revoked digests into the order that a root wants.
func (r *Root) SortSets() {
	slices.SortFunc(r.Minimums, compareNames)
	slices.SortFunc(r.Revoked, func(a, b Digest) int { return bytes.Compare(a[:], b[:]) })
}

// check wants 1 to 16 different keys and a threshold that can be met. Of a role that
// this program knows, the keys that it can use must be able to meet it.
func (role Role) check(n RoleNumber) error {
	if len(role.Keys) < 1 || len(role.Keys) > envelope.MaxKeys {
		return fmt.Errorf("%d keys, want 1 to %d", len(role.Keys), envelope.MaxKeys)
	}
	for i, k := range role.Keys {
		for _, other := range role.Keys[:i] {
			if bytes.Equal(k.encoding(), other.encoding()) {
				return fmt.Errorf("key %q stands twice", k.Name)
			}
		}
		if k.Other == nil {
			if err := k.Public.Valid(); err != nil {
				return err
			}
		}
	}
	most := len(role.Keys)
	if n.known() {
		most = len(role.usable())
	}
	if role.Threshold < 1 || role.Threshold > most {
		return fmt.Errorf("threshold %d with %d usable keys", role.Threshold, most)
	}
	return nil
}

// usable returns the keys that can count.
func (role Role) usable() []envelope.PublicKey {
	var keys []envelope.PublicKey
	for _, k := range role.Keys {
		if k.Other == nil {
			keys = append(keys, k.Public)
		}
	}
	return keys
}

func (w wireRole) role() (Role, error) {
	role := Role{Epoch: w.Epoch, Threshold: int(w.Threshold)}
	if int64(role.Threshold) != w.Threshold {
		return role, fmt.Errorf("threshold %d", w.Threshold)
	}
	for _, wk := range w.Keys {
		k, err := parseKey(wk)
		if err != nil {
			return role, fmt.Errorf("key %q: %w", wk.Name, err)
		}
		role.Keys = append(role.Keys, k)
	}
	return role, nil
}

// The labels and values of a COSE_Key that matter here (RFC 9053 §7.2).
const (
	keyType, keyTypeOKP   = 1, 1
	keyCurve, keyCurve255 = -1, 6
	keyX                  = -2
)

// parseKey reads a COSE_Key: an Ed25519 key, or a map of integers to integers and
// byte strings whose type stands under 1.
func parseKey(w wireKey) (Key, error) {
	c := canon.Walk(w.Key)
	n, ok := c.Map()
	if !ok {
		return Key{}, fmt.Errorf("not a map")
	}
	ints := make(map[int64]int64)
	var x []byte
	for range n {
		label, ok := c.Int()
		if !ok {
			return Key{}, fmt.Errorf("a label is not an integer")
		}
		if v, ok := c.Int(); ok {
			ints[label] = v
		} else if v, ok := c.Bytes(); !ok {
			return Key{}, fmt.Errorf("%d is neither an integer nor bytes", label)
		} else if label == keyX {
			x = v
		}
	}
	kind, ok := ints[keyType]
	if !ok {
		return Key{}, fmt.Errorf("no key type")
	}
	if kind != keyTypeOKP || ints[keyCurve] != keyCurve255 {
		return Key{Name: w.Name, Other: slices.Clone(w.Key)}, nil
	}
	if n != 3 || len(x) != len(envelope.PublicKey{}) {
		return Key{}, fmt.Errorf("an Ed25519 key of %d bytes and %d fields, want 32 and 3", len(x), n)
	}
	return Key{Name: w.Name, Public: envelope.PublicKey(x)}, nil
}

// encoding returns the key as COSE_Key.
func (k Key) encoding() []byte {
	if k.Other != nil {
		return k.Other
	}
	b := canon.AppendMap(nil, 3)
	b = canon.AppendInt(canon.AppendInt(b, keyType), keyTypeOKP)
	b = canon.AppendInt(canon.AppendInt(b, keyCurve), keyCurve255)
	return canon.AppendBytes(canon.AppendInt(b, keyX), k.Public[:])
}
