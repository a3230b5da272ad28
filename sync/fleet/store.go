package fleet

import (
	"context"
	"iter"
	"tidegate/store/events/batch"
	"tidegate/sync/envelope"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/trust"
	"time"
)

// A Store keeps what devices hand up. Its methods are safe to call together; several
// processes may share one if the database behind it allows that.
type Store interface {
	// Put stores all of in, in one transaction, and returns after the commit. What was stored
	// before is passed over. The marks are those of every epoch that in touches.
	Put(ctx context.Context, in Intake) ([]Mark, error)
	// Marks returns the marks of a device, those of its newest epochs first, at most n.
	Marks(ctx context.Context, id trust.DeviceID, n int) ([]Mark, error)
	// Devices calls yield with the last known status of every device.
	Devices(ctx context.Context) iter.Seq2[DeviceRow, error]
	// Batches returns detail batches in order of device, epoch and number.
	Batches(ctx context.Context, f Filter) iter.Seq2[*batch.Batch, error]
	// Losses returns loss records.
	Losses(ctx context.Context, f Filter) ([]batch.Loss, error)
	// Prune deletes batches that were received before t, and what was read out of them.
	// Their numbers stay known through the marks. It returns how many batches went.
	Prune(ctx context.Context, t time.Time) (int64, error)
	Close() error
}

// An Intake is what one transaction stores. All of it was verified.
type Intake struct {
	Batches  []Batch
	Losses   []Loss
	Statuses []Status
	Wills    []Will
	Results  []Result
}

// Empty reports whether there is nothing to store.
func (in *Intake) Empty() bool {
	return len(in.Batches)+len(in.Losses)+len(in.Statuses)+len(in.Wills)+len(in.Results) == 0
}

// A Batch is one batch of a device, as it came and opened.
type Batch struct {
	Device   trust.DeviceID
	Key      envelope.PublicKey // that sealed it
	Sealed   []byte
	Received time.Time
	*batch.Batch
}

// A Loss is one loss record of a device.
type Loss struct {
	Device   trust.DeviceID
	Received time.Time
	*batch.Loss
}

// A Status is one status message of a device.
type Status struct {
	Device   trust.DeviceID
	Received time.Time
	*message.Status
}

// A Will says that a connection of a device has ended.
type Will struct {
	Device   trust.DeviceID
	Received time.Time
	*message.Will
}

// A Result is the outcome of a bundle on a device.
type Result struct {
	Device   trust.DeviceID
	Received time.Time
	*message.Result
}

// A Mark says what of an epoch is stored: all batches up to UpTo are stored, or declared lost.
type Mark struct {
	Device trust.DeviceID
	Epoch  batch.Epoch
	UpTo   uint64
}

// A Filter chooses batches and losses. Zero fields choose all.
type Filter struct {
	Device trust.DeviceID
	Since  time.Time // received
}

// A DeviceRow is what status shows of a device. Its JSON form is interface.
type DeviceRow struct {
	Device   string    `json:"device"`
	Name     string    `json:"name,omitempty"`
	Product  string    `json:"product,omitempty"`
	Channel  string    `json:"channel,omitempty"`
	Labels   []string  `json:"labels,omitempty"`
	Heard    time.Time `json:"last_heard"`
	Online   bool      `json:"online"`
	State    string    `json:"state"` // none, trial, confirmed, safe-mode
	Bundle   string    `json:"bundle,omitempty"`
	Seq      uint64    `json:"seq,omitempty"`
	Trial    string    `json:"trial,omitempty"`
	Since    time.Time `json:"since"` // the confirmed bundle was first seen
	Clock    string    `json:"clock"` // UNSYNCED, HOLDOVER, SYNCED
	Floor    time.Time `json:"floor"`
	Queued   uint64    `json:"queued_batches"`
	Lost     uint64    `json:"lost_calls"`
	Alarms   []string  `json:"alarms,omitempty"`
	Version  string    `json:"version,omitempty"`
	Root     uint64    `json:"root_version,omitempty"`
	Refused  string    `json:"refused,omitempty"` // word of the newest refusal
	Why      string    `json:"refused_because,omitempty"`
	Dropped  uint64    `json:"dropped_messages"`
	Batches  int64     `json:"batches_stored"`
	LastCall time.Time `json:"newest_batch"`
}
