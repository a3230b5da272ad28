package trust

import (
	"fmt"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
)

// MaxEnrolment is the largest request or enrolment, in bytes of its signed message.
const MaxEnrolment = 16 << 10

// A SealKey is a public key that secrets can be sealed for (RFC 9180 §4).
type SealKey struct {
	_      struct{} `cbor:",toarray"`
	KEM    uint64
	Public []byte
}

// A Request is what a device asks for: to be enrolled with its keys. It is signed by
// the report key that it names, so it proves nothing but that somebody holds it.
type Request struct {
	Domain   Domain // zero before a root is pinned
	Seq      uint64
	Issued   uint64   // seconds since 1970
	Hardware []string // classes, ascending by their encoding
	Version  [3]uint64
	Report   envelope.PublicKey
	Seal     []SealKey
}

type wireRequest struct {
	Common
	Hardware []string  `cbor:"11,keyasint"`
	Version  [3]uint64 `cbor:"20,keyasint"`
	Report   canon.Raw `cbor:"40,keyasint"`
	Seal     []SealKey `cbor:"41,keyasint"`
}

// ID returns the id of the device that asks.
func (r *Request) ID() DeviceID { return DeviceIDOf(r.Report) }

// Marshal returns the payload of the request.
func (r *Request) Marshal() ([]byte, error) {
	w := wireRequest{
		Common:   Common{Type: string(envelope.Enroll), Domain: r.Domain, Seq: r.Seq, Issued: r.Issued},
		Hardware: r.Hardware, Version: r.Version, Seal: r.Seal,
		Report: Key{Public: r.Report}.encoding(),
	}
	b, err := canon.Marshal(w)
	if err != nil {
		return nil, err
	}
	if _, err := parseRequest(b); err != nil {
		return nil, err
	}
	return b, nil
}

// OpenRequest reads a signed request and verifies it with the key it names.
func OpenRequest(env []byte) (*Request, error) {
	if err := enrolmentSize(env); err != nil {
		return nil, err
	}
	m, err := envelope.Parse(env, envelope.Enroll)
	if err != nil {
		return nil, err
	}
	r, err := parseRequest(m.Payload)
	if err != nil {
		return nil, err
	}
	keys, err := envelope.NewKeys("report", 1, r.Report)
	if err != nil {
		return nil, refusal.New(refusal.Format, "field 40 (report key): %w", err)
	}
	if _, err := m.Verify(keys); err != nil {
		return nil, err
	}
	return r, nil
}

func parseRequest(payload []byte) (*Request, error) {
	var w wireRequest
	if err := canon.Unmarshal(payload, &w, canon.Within(MaxEnrolment)); err != nil {
		return nil, err
	}
	if err := w.CheckFor(envelope.Enroll, w.Domain); err != nil {
		return nil, err
	}
	report, err := reportKey(w.Report)
	if err != nil {
		return nil, err
	}
	if len(w.Hardware) == 0 {
		return nil, refusal.New(refusal.Format, "field 11 (hardware classes) is empty")
	}
	if err := nameSet("11 (hardware classes)", w.Hardware); err != nil {
		return nil, err
	}
	if err := sealKeys(w.Seal); err != nil {
		return nil, err
	}
	return &Request{
		Domain: w.Domain, Seq: w.Seq, Issued: w.Issued,
		Hardware: w.Hardware, Version: w.Version, Report: report, Seal: w.Seal,
	}, nil
}

// An Enrolment says what a device is: which bundles it follows and which labels it
// carries. It is signed by the release role.
type Enrolment struct {
	Domain           Domain
	Epoch, Seq       uint64
	Issued, Expires  uint64
	Product, Channel string
	Hardware         []string // classes beside the device's own; may be empty
	Report           envelope.PublicKey
	Seal             []SealKey
	Device           DeviceID
	Labels           []string
	Name             string // for people
	Extensions       map[uint64][]byte
}

type wireEnrolment struct {
	Common
	Product  string    `cbor:"10,keyasint"`
	Channel  string    `cbor:"22,keyasint"`
	Hardware []string  `cbor:"11,keyasint,omitempty"`
	Report   canon.Raw `cbor:"40,keyasint"`
	Seal     []SealKey `cbor:"41,keyasint"`
	Device   DeviceID  `cbor:"42,keyasint"`
	Labels   []string  `cbor:"43,keyasint,omitempty"`
	Name     string    `cbor:"44,keyasint,omitempty"`
}

// Marshal returns the payload of the enrolment.
func (e *Enrolment) Marshal() ([]byte, error) {
	w := wireEnrolment{
		Common: Common{
			Type: string(envelope.Device), Domain: e.Domain, Epoch: e.Epoch, Seq: e.Seq,
			Issued: e.Issued, Expires: e.Expires, Extensions: e.Extensions,
		},
		Product: e.Product, Channel: e.Channel, Hardware: e.Hardware, Seal: e.Seal,
		Report: Key{Public: e.Report}.encoding(), Device: e.Device, Labels: e.Labels, Name: e.Name,
	}
	b, err := canon.Marshal(w)
	if err != nil {
		return nil, err
	}
	if _, err := ParseEnrolment(b); err != nil {
		return nil, err
	}
	return b, nil
}

// ParseEnrolment reads the payload of an enrolment, which [State.Verify] returned or
// which is about to be signed.
func ParseEnrolment(payload []byte) (*Enrolment, error) {
	var w wireEnrolment
	if err := canon.Unmarshal(payload, &w, canon.Within(MaxEnrolment)); err != nil {
		return nil, err
	}
	if err := w.CheckFor(envelope.Device, w.Domain); err != nil {
		return nil, err
	}
	report, err := reportKey(w.Report)
	if err != nil {
		return nil, err
	}
	for field, name := range map[string]string{"10 (product)": w.Product, "22 (channel)": w.Channel} {
		if !ValidName(name) {
			return nil, refusal.New(refusal.Format, "field %s: %q is not a name", field, name)
		}
	}
	if err := nameSet("11 (hardware classes)", w.Hardware); err != nil {
		return nil, err
	}
	if err := nameSet("43 (labels)", w.Labels); err != nil {
		return nil, err
	}
	if err := sealKeys(w.Seal); err != nil {
		return nil, err
	}
	if w.Device != DeviceIDOf(report) {
		return nil, refusal.New(refusal.Format, "field 42: device %s does not hold the report key of field 40", w.Device)
	}
	return &Enrolment{
		Domain: w.Domain, Epoch: w.Epoch, Seq: w.Seq, Issued: w.Issued, Expires: w.Expires,
		Product: w.Product, Channel: w.Channel, Hardware: w.Hardware, Report: report, Seal: w.Seal,
		Device: w.Device, Labels: w.Labels, Name: w.Name, Extensions: w.Extensions,
	}, nil
}

// openEnrolment reads the stored enrolment without verifying it again.
func openEnrolment(env []byte) (*Enrolment, error) {
	m, err := envelope.Parse(env, envelope.Device)
	if err != nil {
		return nil, err
	}
	return ParseEnrolment(m.Payload)
}

// Enrol returns the state with the signed enrolment env, made for device id. Its
// (epoch, seq) must be above the last one's; the same enrolment again changes
// nothing. The words: those of [State.Verify] and [State.Current], E_TARGET for
// another device, E_ROLLBACK, E_EQUIVOCATION.
func (s State) Enrol(env []byte, id DeviceID, floor uint64) (State, Warnings, error) {
	if err := enrolmentSize(env); err != nil {
		return s, nil, err
	}
	payload, w, err := s.Verify(RoleRelease, envelope.Device, env)
	if err != nil {
		return s, nil, err
	}
	e, err := ParseEnrolment(payload)
	if err != nil {
		return s, w, err
	}
	if e.Device != id {
		return s, w, refusal.New(refusal.Target, "enrols device %s, this is %s", e.Device, id)
	}
	if old := s.enrolled; old != nil {
		switch order := comparePair(e.Epoch, e.Seq, old.Epoch, old.Seq); {
		case order == 0 && samePayload(env, s.enrolment):
			return s, w, nil
		case order == 0:
			return s, w, refusal.New(refusal.Equivocation, "another enrolment %d than the one this device has", e.Seq)
		case order < 0:
			return s, w, refusal.New(refusal.Rollback, "enrolment %d is older than the one in force (%d)", e.Seq, old.Seq).
				WithHint("enrol again with --seq %d or higher", old.Seq+1)
		}
	}
	if err := s.Current(RoleRelease, Common{Epoch: e.Epoch, Issued: e.Issued, Expires: e.Expires}, floor); err != nil {
		return s, w, err
	}
	s.enrolment, s.enrolled = append([]byte(nil), env...), e
	return s.changed(), w, nil
}

// samePayload reports whether two signed enrolments say the same.
func samePayload(a, b []byte) bool {
	x, errX := envelope.Parse(a, envelope.Device)
	y, errY := envelope.Parse(b, envelope.Device)
	return errX == nil && errY == nil && string(x.Payload) == string(y.Payload)
}

// Enrolment returns the enrolment in force, nil if there is none. It must not be
// modified.
func (s State) Enrolment() *Enrolment { return s.enrolled }

// Device returns what selectors and counters compare with, for the device with this
// id, hardware class and version of the program. Product, channel, labels and further
// classes come from the enrolment; without one, product and channel are those of the
// first bundle that the device confirmed.
func (s State) Device(id DeviceID, hardware string, version [3]uint64) Device {
	d := Device{ID: id, Hardware: []string{hardware}, Version: version}
	switch e := s.enrolled; {
	case e != nil:
		d.Product, d.Channel, d.Labels = e.Product, e.Channel, e.Labels
		d.Hardware = append(d.Hardware, e.Hardware...)
	default:
		for _, l := range s.lines {
			if l.Product != SystemProduct {
				d.Product, d.Channel = l.Product, l.Channel
				break
			}
		}
	}
	return d
}

// SystemProduct is the product of bundles that hold the system of a machine and no APIs. They
// have counters and a minimum of their own.
const SystemProduct = "system"

// SystemDevice returns what selectors and counters of system bundles compare d with: the
// class of its machine in place of its other classes, and as channel that of the enrolment or
// else the one of the first system bundle that was confirmed.
func (s State) SystemDevice(d Device, board string) Device {
	d.Product, d.Channel, d.Hardware = SystemProduct, "", []string{board}
	switch e := s.enrolled; {
	case e != nil:
		d.Channel = e.Channel
	default:
		for _, l := range s.lines {
			if l.Product == SystemProduct {
				d.Channel = l.Channel
				break
			}
		}
	}
	return d
}

// A Checkpoint is the state of a device's audit log, signed by its report key.
type Checkpoint struct {
	Common
	N    uint64 `cbor:"50,keyasint"` // number of the last entry
	Head Digest `cbor:"51,keyasint"` // its hash
}

// Marshal returns the payload of the checkpoint.
func (c *Checkpoint) Marshal() ([]byte, error) {
	c.Type = string(envelope.Checkpoint)
	return canon.Marshal(c)
}

// OpenCheckpoint reads a checkpoint signed by the report key of a device.
func OpenCheckpoint(env []byte, report envelope.PublicKey) (*Checkpoint, error) {
	payload, err := OpenReport(envelope.Checkpoint, env, report)
	if err != nil {
		return nil, err
	}
	var c Checkpoint
	if err := canon.Unmarshal(payload, &c, canon.Within(MaxEnrolment)); err != nil {
		return nil, err
	}
	return &c, c.CheckFor(envelope.Checkpoint, c.Domain)
}

// OpenReport verifies a message of the kind with the report key of a device and
// returns its payload, of which the type is checked.
func OpenReport(kind envelope.Kind, env []byte, report envelope.PublicKey) ([]byte, error) {
	m, err := envelope.Parse(env, kind)
	if err != nil {
		return nil, err
	}
	keys, err := envelope.NewKeys("report", 1, report)
	if err != nil {
		return nil, err
	}
	if _, err := m.Verify(keys); err != nil {
		return nil, err
	}
	head, err := peek(m.Payload)
	if err != nil {
		return nil, err
	}
	return m.Payload, head.CheckFor(kind, head.Domain)
}

func enrolmentSize(env []byte) error {
	if len(env) > MaxEnrolment {
		return refusal.New(refusal.Limit, "enrolment of %d bytes, at most %d are allowed", len(env), MaxEnrolment)
	}
	return nil
}

func reportKey(raw canon.Raw) (envelope.PublicKey, error) {
	k, err := parseKey(wireKey{Key: raw})
	if err == nil && k.Other != nil {
		err = fmt.Errorf("not an Ed25519 key")
	}
	if err == nil {
		err = k.Public.Valid()
	}
	if err != nil {
		return envelope.PublicKey{}, refusal.New(refusal.Format, "field 40 (report key): %w", err)
	}
	return k.Public, nil
}

// nameSet wants names in strictly ascending order of their encoding.
func nameSet(field string, names []string) error {
	for i, n := range names {
		if !ValidName(n) {
			return refusal.New(refusal.Format, "field %s: %q is not a name", field, n)
		}
		if i > 0 && compareText(names[i-1], n) >= 0 {
			return refusal.New(refusal.Format, "field %s: %q is not in ascending order", field, n)
		}
	}
	return nil
}

func sealKeys(keys []SealKey) error {
	if len(keys) == 0 {
		return refusal.New(refusal.Format, "field 41 (sealing keys) is empty")
	}
	for _, k := range keys {
		if len(k.Public) == 0 {
			return refusal.New(refusal.Format, "field 41 (sealing keys): an empty key")
		}
	}
	return nil
}
