package message

import (
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
)

// The kinds of signed messages that only this package knows.
const (
	Commands envelope.Kind = "command"
	LogLines envelope.Kind = "logs"
)

// A Status says how a device is. It is signed by the report key.
type Status struct {
	trust.Common
	Product string   `cbor:"10,keyasint,omitempty"`
	Channel string   `cbor:"22,keyasint,omitempty"`
	Labels  []string `cbor:"43,keyasint,omitempty"`
	Boot    [16]byte `cbor:"62,keyasint"`
	Nonce   Token    `cbor:"100,keyasint"`           // of the connection
	State   string   `cbor:"101,keyasint"`           // none, trial, confirmed, safe-mode
	Bundle  *Bundle  `cbor:"102,keyasint,omitempty"` // confirmed, and on trial
	Clock   Clock    `cbor:"103,keyasint"`
	Queues  []Queue  `cbor:"104,keyasint"`
	Alarms  []string `cbor:"105,keyasint"`
	Written uint64   `cbor:"106,keyasint"` // bytes over the link today
	Drops   []Count  `cbor:"107,keyasint"` // what was thrown away, by reason, since the start
	Version string   `cbor:"108,keyasint,omitempty"`
	Last    *Verdict `cbor:"109,keyasint,omitempty"` // newest refusal
	Root    uint64   `cbor:"132,keyasint,omitempty"` // version of the trust root
}

// A Clock is what a device knows of the time.
type Clock struct {
	_     struct{} `cbor:",toarray"`
	State uint64   // 0 unsynced, 1 holdover, 2 synced
	Floor uint64   // seconds since 1970
	Error uint64   // ms; 0: unknown
}

// A Queue is one class of a device's events.
type Queue struct {
	_     struct{} `cbor:",toarray"`
	Class uint64
	Epoch Epoch
	Head  uint64 // newest batch
	Acked uint64 // all up to here are delivered or declared lost
	Size  uint64 // bytes
	Lost  uint64 // calls
}

// A Count is one of several counters.
type Count struct {
	_    struct{} `cbor:",toarray"`
	Name string
	N    uint64
}

// A Verdict is why a bundle was refused.
type Verdict struct {
	_      struct{} `cbor:",toarray"`
	Digest []byte   // or empty
	Word   string
	Detail string
}

// A Result is what became of a bundle. It is signed by the report key, numbered from 1 per
// device, and sent until it is acknowledged.
type Result struct {
	trust.Common
	Product string       `cbor:"10,keyasint,omitempty"`
	Channel string       `cbor:"22,keyasint,omitempty"`
	Digest  trust.Digest `cbor:"110,keyasint"`
	Phase   string       `cbor:"111,keyasint"` // as in package intake
	Word    string       `cbor:"112,keyasint,omitempty"`
	Detail  string       `cbor:"113,keyasint,omitempty"`
	Number  uint64       `cbor:"114,keyasint"` // seq of the bundle
}

// Logs are the last lines of a device's log, sent when a command asks. It is signed by the
// report key.
type Logs struct {
	trust.Common
	Token Token    `cbor:"120,keyasint"` // of the command
	Lines []string `cbor:"140,keyasint"`
}

// Report signs a *Status, *Result or *Logs. issued is in seconds since 1970.
func Report(m any, domain trust.Domain, seq, issued uint64, key envelope.Signer) ([]byte, error) {
	var c *trust.Common
	var kind envelope.Kind
	limit := MaxReport
	switch m := m.(type) {
	case *Status:
		c, kind, limit = &m.Common, envelope.Status, MaxStatus
	case *Result:
		c, kind = &m.Common, envelope.Result
	case *Logs:
		c, kind = &m.Common, LogLines
	default:
		return nil, refusal.New(refusal.Format, "type: %T is no report", m)
	}
	*c = trust.Common{Type: string(kind), Domain: domain, Seq: seq, Issued: issued}
	return sign(kind, m, limit, key)
}

func sign(kind envelope.Kind, m any, limit int, key envelope.Signer) ([]byte, error) {
	b, err := canon.Marshal(m)
	if err != nil {
		return nil, err
	}
	env, err := envelope.Sign(kind, b, key)
	if err != nil {
		return nil, err
	}
	if len(env) > limit {
		return nil, refusal.New(refusal.Limit, "%s of %d bytes, at most %d are allowed", kind, len(env), limit)
	}
	return env, nil
}

// OpenReport verifies a *Status, *Result or *Logs with the report key of its device.
func OpenReport(env []byte, m any, domain trust.Domain, key envelope.PublicKey) error {
	kind, limit := envelope.Status, MaxStatus
	switch m.(type) {
	case *Status:
	case *Result:
		kind, limit = envelope.Result, MaxReport
	case *Logs:
		kind, limit = LogLines, MaxReport
	default:
		return refusal.New(refusal.Format, "type: %T is no report", m)
	}
	if len(env) > limit {
		return refusal.New(refusal.Limit, "%s of %d bytes, at most %d are allowed", kind, len(env), limit)
	}
	payload, err := trust.OpenReport(kind, env, key)
	if err != nil {
		return err
	}
	if err := canon.Unmarshal(payload, m, canon.Within(limit)); err != nil {
		return err
	}
	return common(m).CheckFor(kind, domain)
}

func common(m any) trust.Common {
	switch m := m.(type) {
	case *Status:
		return m.Common
	case *Result:
		return m.Common
	case *Logs:
		return m.Common
	}
	return trust.Common{}
}

// An Ack says what the fleet has stored for good. It is the only thing that deletes events.
// It is signed by the collector role.
type Ack struct {
	trust.Common
	Device  trust.DeviceID `cbor:"44,keyasint"`
	Marks   []Mark         `cbor:"80,keyasint"`
	Losses  []LossName     `cbor:"82,keyasint,omitempty"`
	Pause   uint64         `cbor:"83,keyasint,omitempty"` // seconds to send no batch
	Rate    uint64         `cbor:"84,keyasint,omitempty"` // bytes/s of batches at most
	Results []uint64       `cbor:"85,keyasint,omitempty"` // numbers of results
	Token   *Token         `cbor:"120,keyasint,omitempty"`
}

// A Mark names batches of one epoch.
type Mark struct {
	_     struct{} `cbor:",toarray"`
	Epoch Epoch
	UpTo  uint64   // all up to here are stored, or declared lost
	Also  []uint64 // and these above it
}

// A LossName names one loss record.
type LossName struct {
	_      struct{} `cbor:",toarray"`
	Epoch  Epoch
	Number uint64
}

// MaxMarks bounds an ack: marks, losses and numbers above a mark, each.
const MaxMarks = 64

// A Signer signs for a role.
type Signer struct {
	Domain trust.Domain
	Epoch  uint64 // of the role in the trust root
	Key    envelope.Signer
}

func (s Signer) common(kind envelope.Kind, issued, expires uint64) trust.Common {
	return trust.Common{Type: string(kind), Domain: s.Domain, Epoch: s.Epoch, Seq: 1, Issued: issued, Expires: expires}
}

// Ack signs an ack. issued is in seconds since 1970.
func (s Signer) Ack(a *Ack, issued uint64) ([]byte, error) {
	a.Common = s.common(envelope.Ack, issued, 0)
	return sign(envelope.Ack, a, MaxAck, s.Key)
}

// PlainAck returns an ack without a signature, for a fleet whose trust root has no collector.
func PlainAck(a *Ack, domain trust.Domain, issued uint64) ([]byte, error) {
	a.Common = trust.Common{Type: string(envelope.Ack), Domain: domain, Seq: 1, Issued: issued}
	return canon.Marshal(a)
}

// OpenAck verifies an ack for a device: its signature by the collector role of the present
// epoch, or, without a signature, that the root has no such role and plain acks are wanted.
func OpenAck(b []byte, s trust.State, device trust.DeviceID, floor uint64, plain PlainAcks) (*Ack, error) {
	if len(b) > MaxAck {
		return nil, refusal.New(refusal.Limit, "ack of %d bytes, at most %d are allowed", len(b), MaxAck)
	}
	root := s.Root()
	if root == nil {
		return nil, refusal.New(refusal.RootNone, "no trust root is installed")
	}
	payload := b
	if _, has := root.Roles[trust.RoleCollector]; has || Signed(b) || plain != AcceptPlainAcks {
		var err error
		if !Signed(b) {
			return nil, refusal.New(refusal.SigNone, "ack is not signed")
		}
		if payload, _, err = s.Verify(trust.RoleCollector, envelope.Ack, b); err != nil {
			return nil, err
		}
	}
	var a Ack
	if err := canon.Unmarshal(payload, &a, canon.Within(MaxAck)); err != nil {
		return nil, err
	}
	if err := a.CheckFor(envelope.Ack, root.Domain); err != nil {
		return nil, err
	}
	if Signed(b) {
		if err := s.Current(trust.RoleCollector, a.Common, floor); err != nil {
			return nil, err
		}
	}
	if a.Device != device {
		return nil, refusal.New(refusal.Target, "ack for device %s, this is %s", a.Device, device)
	}
	return &a, a.check()
}

// PlainAcks says whether acks without a signature count while the root has no collector.
type PlainAcks uint8

// The choices.
const (
	RefusePlainAcks PlainAcks = iota
	AcceptPlainAcks           // the broker's access control is all that protects the events
)

func (a *Ack) check() error {
	if len(a.Marks) > MaxMarks || len(a.Losses) > MaxMarks || len(a.Results) > MaxMarks {
		return refusal.New(refusal.Limit, "ack of more than %d entries", MaxMarks)
	}
	for _, m := range a.Marks {
		if len(m.Also) > MaxMarks {
			return refusal.New(refusal.Limit, "ack of more than %d single batches", MaxMarks)
		}
		for _, n := range m.Also {
			if n <= m.UpTo {
				return refusal.New(refusal.Format, "field 80: batch %d is not above %d", n, m.UpTo)
			}
		}
	}
	if a.Pause > 86400 {
		return refusal.New(refusal.Limit, "field 83: pause of %d s, at most a day is allowed", a.Pause)
	}
	return nil
}

// A Time attests the time. It is signed by the time role.
type Time struct {
	trust.Common
	Device trust.DeviceID `cbor:"44,keyasint"`
	Nonce  Nonce          `cbor:"90,keyasint"`
	Milli  uint64         `cbor:"91,keyasint"` // since 1970
	Error  uint64         `cbor:"92,keyasint"` // ms either way
}

// Time signs an attestation.
func (s Signer) Time(t *Time) ([]byte, error) {
	t.Common = s.common(envelope.Time, t.Milli/1000, 0)
	return sign(envelope.Time, t, MaxTime, s.Key)
}

// OpenTime verifies an attestation for a device. Whether the nonce is open is the caller's
// question.
func OpenTime(b []byte, s trust.State, device trust.DeviceID, floor uint64) (*Time, error) {
	var t Time
	if err := open(b, s, trust.RoleTime, envelope.Time, MaxTime, floor, &t, &t.Common); err != nil {
		return nil, err
	}
	if t.Device != device {
		return nil, refusal.New(refusal.Target, "time attested to device %s, this is %s", t.Device, device)
	}
	if t.Error > 60_000 || t.Milli > 1<<47 {
		return nil, refusal.New(refusal.Limit, "attested time %d ms with an error of %d ms", t.Milli, t.Error)
	}
	return &t, nil
}

// An Order is what a command wants. None of them changes what a device serves or believes.
type Order uint64

// The orders. Their numbers are part of the format.
const (
	SendStatus Order = 1
	SendNow    Order = 2 // events, without waiting for a window
	LookNow    Order = 3 // for a bundle
	Pause      Order = 4 // no events for the time that the command lives
	RetryNow   Order = 5 // fetch the announced bundle even if it failed before
	SendLogs   Order = 6
	AskTime    Order = 7
)

// ParseOrder reads the word of an order.
func ParseOrder(s string) (Order, bool) {
	for o := SendStatus; o <= AskTime; o++ {
		if o.String() == s {
			return o, true
		}
	}
	return 0, false
}

// String returns the word of the order.
func (o Order) String() string {
	words := [...]string{SendStatus: "status", SendNow: "send", LookNow: "look", Pause: "pause", RetryNow: "retry", SendLogs: "logs", AskTime: "time"}
	if int(o) < len(words) && words[o] != "" {
		return words[o]
	}
	return "unknown"
}

// A Command asks a device for something. It is signed by the time role: the one online key of
// a publisher, for release keys stay offline and no order touches a bundle.
type Command struct {
	trust.Common
	Device trust.DeviceID `cbor:"44,keyasint"`
	Token  Token          `cbor:"120,keyasint"`
	Order  Order          `cbor:"129,keyasint"`
}

// Command signs a command that lives until expires, in seconds since 1970.
func (s Signer) Command(c *Command, issued, expires uint64) ([]byte, error) {
	c.Common = s.common(Commands, issued, expires)
	return sign(Commands, c, MaxCommand, s.Key)
}

// OpenCommand verifies a command for a device. Whether its token is new is the caller's
// question.
func OpenCommand(b []byte, s trust.State, device trust.DeviceID, floor uint64) (*Command, error) {
	var c Command
	if err := open(b, s, trust.RoleTime, Commands, MaxCommand, floor, &c, &c.Common); err != nil {
		return nil, err
	}
	switch {
	case c.Device != device:
		return nil, refusal.New(refusal.Target, "command for device %s, this is %s", c.Device, device)
	case c.Expires == 0 || c.Expires < c.Issued || c.Expires > c.Issued+7*86400:
		return nil, refusal.New(refusal.Format, "field 6: a command lives up to a week")
	case c.Order < SendStatus || c.Order > AskTime:
		return nil, refusal.New(refusal.FormatVersion, "field 129: order %d, which this program does not know", c.Order)
	}
	return &c, nil
}

func open(b []byte, s trust.State, role trust.RoleNumber, kind envelope.Kind, limit int, floor uint64, m any, c *trust.Common) error {
	if len(b) > limit {
		return refusal.New(refusal.Limit, "%s of %d bytes, at most %d are allowed", kind, len(b), limit)
	}
	payload, _, err := s.Verify(role, kind, b)
	if err != nil {
		return err
	}
	if err := canon.Unmarshal(payload, m, canon.Within(limit)); err != nil {
		return err
	}
	return s.Current(role, *c, floor)
}

// KindOf returns the kind that a signed message claims, "" if it is none.
func KindOf(env []byte) envelope.Kind {
	c := canon.Walk(env)
	c.Tag()
	if n, ok := c.Array(); !ok || n != 4 {
		return ""
	}
	protected, ok := c.Bytes()
	if !ok {
		return ""
	}
	c = canon.Walk(protected)
	c.Map()
	c.Uint()
	text, _ := c.Text()
	for _, k := range []envelope.Kind{envelope.Batch, envelope.Loss, envelope.Status, envelope.Result, LogLines, envelope.Enroll} {
		if text == k.ContentType() {
			return k
		}
	}
	return ""
}
