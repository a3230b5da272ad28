package trust

import (
	"bytes"
	"fmt"
	"slices"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
)

// An Offer is the head of a bundle whose manifest has been verified: all that the
// decision whether it is for this device, now, depends on.
type Offer struct {
	Digest           Digest // SHA-256 of the manifest's payload
	Domain           Domain
	Product, Channel string
	Epoch, Seq       uint64
	Issued, Expires  uint64 // seconds since 1970; Expires 0: never
	Hardware         []string
	Selectors        []Selector
	Least            [3]uint64 // least version of tidegate
}

// Line returns the offer's place among the bundles of its product and channel.
func (o Offer) Line() Line {
	return Line{Product: o.Product, Channel: o.Channel, Epoch: o.Epoch, Seq: o.Seq, Digest: o.Digest, Issued: o.Issued}
}

// A Device is what a selector and the counters are compared with. Product and Channel
// are empty until the device is enrolled or has confirmed a bundle.
type Device struct {
	ID               DeviceID
	Product, Channel string
	Hardware         []string // its classes
	Labels           []string
	Version          [3]uint64 // of tidegate
}

// A Moment is what an offer is judged at.
type Moment struct {
	Floor   uint64 // time floor, fixed once for a run; seconds since 1970
	Wall    uint64 // wall clock, which only warns; 0 if there is none
	Serving Digest // the bundle that serves, zero if none
}

// A Verdict is the answer to an offer that is not refused.
type Verdict int

// The verdicts.
const (
	Refused          Verdict = iota // with the error beside it
	Install                         // new for this device
	Reinstall                       // confirmed before, but not what serves
	AlreadyInstalled                // serves and is confirmed: nothing to do
	OnTrial                         // waiting for confirmation: nothing to do
)

// String returns the verdict in words.
func (v Verdict) String() string {
	switch v {
	case Install:
		return "install"
	case Reinstall:
		return "install again"
	case AlreadyInstalled:
		return "already installed"
	case OnTrial:
		return "on trial"
	}
	return "refused"
}

// Selectors.
const (
	selectEvery  = 0
	selectDevice = 1
	selectLabels = 2
)

// A Selector names devices: every one, one by its id, or all that carry certain
// labels. Make one with [EveryDevice], [OneDevice] or [DevicesWith]; the zero value
// selects every device.
type Selector struct {
	kind   uint64
	device DeviceID
	labels []string
}

// EveryDevice selects every device.
func EveryDevice() Selector { return Selector{kind: selectEvery} }

// OneDevice selects the device with the id.
func OneDevice(id DeviceID) Selector { return Selector{kind: selectDevice, device: id} }

// DevicesWith selects the devices that carry all of labels.
func DevicesWith(labels ...string) Selector {
	l := slices.Clone(labels)
	slices.SortFunc(l, func(a, b string) int { return compareText(a, b) })
	return Selector{kind: selectLabels, labels: slices.Compact(l)}
}

// compareText orders text as its canonical encoding: shorter first.
func compareText(a, b string) int {
	return bytes.Compare(canon.AppendText(nil, a), canon.AppendText(nil, b))
}

// Selects reports whether the selector names d.
func (s Selector) Selects(d Device) bool {
	switch s.kind {
	case selectEvery:
		return true
	case selectDevice:
		return s.device == d.ID
	}
	for _, l := range s.labels {
		if !slices.Contains(d.Labels, l) {
			return false
		}
	}
	return len(s.labels) > 0
}

// String returns "every device", "device <id>" or "label a + b".
func (s Selector) String() string {
	switch s.kind {
	case selectEvery:
		return "every device"
	case selectDevice:
		return "device " + s.device.String()
	}
	text := "label"
	for i, l := range s.labels {
		if i > 0 {
			text += " +"
		}
		text += " " + l
	}
	return text
}

// MarshalCBOR writes [0], [1, id] or [2, label, …].
func (s Selector) MarshalCBOR() ([]byte, error) {
	switch s.kind {
	case selectEvery:
		return canon.AppendUint(canon.AppendArray(nil, 1), selectEvery), nil
	case selectDevice:
		return canon.AppendBytes(canon.AppendUint(canon.AppendArray(nil, 2), selectDevice), s.device[:]), nil
	}
	b := canon.AppendUint(canon.AppendArray(nil, 1+len(s.labels)), selectLabels)
	for _, l := range s.labels {
		b = canon.AppendText(b, l)
	}
	return b, nil
}

// UnmarshalCBOR reads what [Selector.MarshalCBOR] writes and nothing else.
func (s *Selector) UnmarshalCBOR(b []byte) error {
	c := canon.Walk(b)
	n, _ := c.Array()
	kind, ok := c.Uint()
	switch {
	case ok && kind == selectEvery && n == 1:
		*s = EveryDevice()
		return nil
	case ok && kind == selectDevice && n == 2:
		if id, ok := c.Bytes(); ok && len(id) == len(DeviceID{}) {
			*s = OneDevice(DeviceID(id))
			return nil
		}
		return fmt.Errorf("selector: device id is not 16 bytes")
	case !ok || kind != selectLabels || n < 2:
		return fmt.Errorf("selector: want [0], [1, device id] or [2, label, …]")
	}
	labels := make([]string, 0, n-1)
	for range n - 1 {
		l, ok := c.Text()
		if !ok || !ValidName(l) {
			return fmt.Errorf("selector: label %q is not a name", l)
		}
		if len(labels) > 0 && compareText(labels[len(labels)-1], l) >= 0 {
			return fmt.Errorf("selector: labels are not in ascending order")
		}
		labels = append(labels, l)
	}
	*s = Selector{kind: selectLabels, labels: labels}
	return nil
}

// maxSeqJump bounds how far one bundle may lift the counter, so that a stolen key
// cannot use it up.
const maxSeqJump = 1 << 20

// Judge answers whether the offer is for device d, now. It compares in the order of
// the table that it implements and refuses with the first word that fits:
//
//	trust domain          E_TRUST_DOMAIN
//	product, channel      E_TARGET
//	counters              E_ROLLBACK E_ROOT_CHAIN E_EQUIVOCATION E_REVOKED E_LIMIT
//	issued, expires       E_TIME_JUMP E_EXPIRED
//	hardware, selectors   E_TARGET
//	least version         E_RUNTIME
//	failed before         the word it failed with; see [State.Forgive]
//
// The state does not move: counters and floor move at [State.Confirm].
func (s State) Judge(o Offer, d Device, at Moment) (Verdict, Warnings, error) {
	if s.root == nil {
		return Refused, nil, noRoot()
	}
	if o.Domain != s.root.Domain {
		return Refused, nil, foreign(o.Domain, s.root.Domain)
	}
	if err := forProduct(o, d); err != nil {
		return Refused, nil, err
	}
	verdict, err := s.count(o, at)
	if err != nil || verdict == AlreadyInstalled || verdict == OnTrial {
		return verdict, nil, err
	}
	warnings, err := s.timely(o, at)
	if err != nil {
		return Refused, warnings, err
	}
	for _, rule := range []func() error{
		func() error { return forHardware(o, d) },
		func() error { return forDevice(o, d) },
		func() error { return runsOn(o, d) },
		func() error { return s.failedBefore(o) },
	} {
		if err := rule(); err != nil {
			return Refused, warnings, err
		}
	}
	return verdict, warnings, nil
}

// forProduct comes first because the counters belong to a product and channel.
func forProduct(o Offer, d Device) error {
	if d.Product != "" && o.Product != d.Product {
		return refusal.New(refusal.Target, "product is %s, this device has %s", o.Product, d.Product)
	}
	if d.Channel != "" && o.Channel != d.Channel {
		return refusal.New(refusal.Target, "channel is %s, this device follows %s", o.Channel, d.Channel)
	}
	return nil
}

// count compares the offer with the counters, row by row.
func (s State) count(o Offer, at Moment) (Verdict, error) {
	if trial, ok := s.OnTrial(); ok && o.Digest == trial.Digest {
		return OnTrial, nil
	}
	// What serves and is not on trial was confirmed, unless it failed and serves for
	// want of anything better.
	if _, failed := s.Failure(o.Digest); o.Digest == at.Serving && !failed {
		return AlreadyInstalled, nil
	}
	switch epoch := s.root.Roles[RoleRelease].Epoch; {
	case o.Epoch < epoch:
		return Refused, refusal.New(refusal.Rollback, "epoch %d is over, the trust root is at %d", o.Epoch, epoch).
			WithHint("build and sign again under the newest trust root")
	case o.Epoch > epoch:
		return Refused, refusal.New(refusal.RootChain, "epoch %d is not known yet, the trust root is at %d", o.Epoch, epoch).
			WithHint("carry the newer root along: build with --roots-since %d", s.root.Version)
	}
	confirmed, ok := s.Confirmed(o.Product, o.Channel)
	sameEpoch := ok && o.Epoch == confirmed.Epoch
	if sameEpoch && o.Seq < confirmed.Seq {
		return Refused, refusal.New(refusal.Rollback, "bundle %d is older than the active one (%d)", o.Seq, confirmed.Seq).
			WithHint("build again with --seq %d or higher", confirmed.Seq+1)
	}
	verdict := Install
	if sameEpoch && o.Seq == confirmed.Seq && o.Digest == confirmed.Digest {
		verdict = Reinstall
	}
	if err := s.unequivocal(o); err != nil {
		return Refused, err
	}
	if err := s.Allowed(o.Line()); err != nil {
		return Refused, err
	}
	var base uint64
	if sameEpoch {
		base = confirmed.Seq
	}
	if m := s.root.Minimum(o.Product, o.Channel); m.Epoch == o.Epoch {
		base = max(base, m.Seq)
	}
	if o.Seq > base && o.Seq-base > maxSeqJump {
		return Refused, refusal.New(refusal.Limit, "seq jump: from %d to %d, at most %d are allowed", base, o.Seq, maxSeqJump).
			WithHint("build again with --seq %d", base+1)
	}
	return verdict, nil
}

// unequivocal refuses a second content under a number that this device has seen:
// confirmed, on trial or failed.
func (s State) unequivocal(o Offer) error {
	seen := slices.Clone(s.lines)
	if trial, ok := s.OnTrial(); ok {
		seen = append(seen, trial)
	}
	for _, f := range s.failed {
		seen = append(seen, f.Line)
	}
	for _, l := range seen {
		if l.sameNumber(o.Line()) && l.Digest != o.Digest {
			return refusal.New(refusal.Equivocation, "bundle %d has digest %s, another bundle %d had %s", o.Seq, o.Digest, l.Seq, l.Digest).
				WithHint("two contents were signed under one number: find out who signed, then build with --seq %d", o.Seq+1)
		}
	}
	return nil
}

// Allowed refuses a bundle that is below the root's minimum (E_ROLLBACK) or revoked
// (E_REVOKED). It guards installing and falling back alike.
func (s State) Allowed(l Line) error {
	if s.root == nil {
		return noRoot()
	}
	if m := s.root.Minimum(l.Product, l.Channel); comparePair(l.Epoch, l.Seq, m.Epoch, m.Seq) < 0 {
		return refusal.New(refusal.Rollback, "bundle %d (epoch %d) is below the minimum %d (epoch %d) of the trust root", l.Seq, l.Epoch, m.Seq, m.Epoch)
	}
	if s.Revoked(l.Digest) {
		return refusal.New(refusal.Revoked, "bundle %d was revoked by the trust root", l.Seq)
	}
	return nil
}

// Revoked reports whether the trust root revokes the digest.
func (s State) Revoked(d Digest) bool { return s.root != nil && slices.Contains(s.root.Revoked, d) }

// timely compares the offer's times with the floor. There is no not-before: a device
// whose clock is behind must take what was signed after.
func (s State) timely(o Offer, at Moment) (Warnings, error) {
	var w Warnings
	if at.Wall != 0 && at.Wall < at.Floor {
		w = append(w, refusal.New(refusal.WarnClock, "wall clock %s is behind the time floor %s", utc(at.Wall), utc(at.Floor)))
	}
	w = append(w, s.RootExpiry(at.Floor)...)
	if err := s.plausible(o.Issued); err != nil {
		return w, err
	}
	switch {
	case o.Expires == 0:
	case o.Expires < at.Floor:
		return w, refusal.New(refusal.Expired, "expired %s, it is at least %s (%s)", utc(o.Expires), utc(at.Floor), s.Floor().Source).
			WithHint("build again with a later expiry")
	case o.Expires < at.Wall:
		w = append(w, refusal.New(refusal.WarnMaybeExpired, "expired %s if the wall clock is right", utc(o.Expires)))
	}
	return w, nil
}

// anyHardware is the class that every device has.
const anyHardware = "any"

func forHardware(o Offer, d Device) error {
	for _, class := range o.Hardware {
		if class == anyHardware || slices.Contains(d.Hardware, class) {
			return nil
		}
	}
	return refusal.New(refusal.Target, "hardware class: for %q, this device is %q", o.Hardware, d.Hardware)
}

func forDevice(o Offer, d Device) error {
	for _, sel := range o.Selectors {
		if sel.Selects(d) {
			return nil
		}
	}
	return refusal.New(refusal.Target, "devices: for %v, this is device %s with labels %q", o.Selectors, d.ID, d.Labels)
}

func runsOn(o Offer, d Device) error {
	if slices.Compare(d.Version[:], o.Least[:]) < 0 {
		return refusal.New(refusal.Runtime, "needs tidegate %s, this is %s", dotted(o.Least), dotted(d.Version)).
			WithHint("update tidegate first")
	}
	return nil
}

func (s State) failedBefore(o Offer) error {
	if f, ok := s.Failure(o.Digest); ok {
		return refusal.New(f.Word, "bundle %d failed on this device before", o.Seq).
			WithHint("try again with --retry")
	}
	return nil
}

func dotted(v [3]uint64) string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }
