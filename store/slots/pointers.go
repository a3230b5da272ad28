package slots

import (
	"fmt"
	"tidegate/store"

	"github.com/fxamacker/cbor/v2"
)

// Pointers say which bundles matter. They are kept in the state database.
type Pointers struct {
	Good     Digest `cbor:"1,keyasint"` // confirmed; what serves, or what serves again if the trial fails
	Older    Digest `cbor:"2,keyasint"` // confirmed before Good
	Trial    Digest `cbor:"3,keyasint"` // serves on trial
	Attempts uint8  `cbor:"4,keyasint"` // starts that the trial has left

	// Active is what serves when no trial runs: Good, or Older after Good did not load or
	// was not allowed any more.
	Active Digest `cbor:"5,keyasint"`

	// Since is the time floor when Good was confirmed, in seconds since 1970.
	Since uint64 `cbor:"6,keyasint,omitempty"`

	// System is the system bundle that is tried, Place where the machine keeps what was in it,
	// Starts how often this program was started by it. Starts counts up: the trial may have been
	// begun by a program that did not count.
	System Digest `cbor:"7,keyasint,omitzero"`
	Place  string `cbor:"8,keyasint,omitempty"`
	Starts uint8  `cbor:"9,keyasint,omitempty"`
}

// Serving returns the bundle that serves, zero for none.
func (p Pointers) Serving() Digest {
	if !p.Trial.IsZero() {
		return p.Trial
	}
	return p.Active
}

// Undecided returns the bundle that is on trial, a system bundle included, zero for none.
func (p Pointers) Undecided() Digest {
	if !p.Trial.IsZero() {
		return p.Trial
	}
	return p.System
}

// WithoutSystem returns p after the trial of a system.
func (p Pointers) WithoutSystem() Pointers {
	p.System, p.Place, p.Starts = Digest{}, "", 0
	return p
}

// Pinned returns the bundles that may not be dropped without a decision.
func (p Pointers) Pinned() []Digest {
	var all []Digest
	for _, d := range []Digest{p.Good, p.Older, p.Trial, p.Active, p.System} {
		if !d.IsZero() {
			all = append(all, d)
		}
	}
	return all
}

const pointersBucket = "slots"

var pointersKey = []byte("pointers")

// LoadPointers reads the pointers; zero before the first bundle.
func LoadPointers(tx *store.Tx) (Pointers, error) {
	var p Pointers
	b, err := tx.Bucket(pointersBucket).Get(pointersKey)
	if err != nil || b == nil {
		return p, err
	}
	if err := cbor.Unmarshal(b, &p); err != nil {
		return Pointers{}, fmt.Errorf("pointers: %w: %w", store.ErrCorrupt, err)
	}
	return p, nil
}

// Store writes the pointers in the caller's transaction.
func (p Pointers) Store(tx *store.Tx) error {
	b, err := cbor.Marshal(p)
	if err != nil {
		return fmt.Errorf("pointers: %w", err)
	}
	return tx.Bucket(pointersBucket).Put(pointersKey, b)
}
