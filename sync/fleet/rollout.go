package fleet

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"tidegate/platform/durable"
	"tidegate/sync/trust"
	"time"
)

// A Rollout says which devices are told of a bundle. It is a small file that publishers watch:
// whoever changes it changes all of them.
//
// It only paces what devices hear of. Whom a bundle is for stands in its signed selectors.
type Rollout struct {
	Percent int      `json:"percent"`          // of the devices, always the same ones first
	Paused  bool     `json:"paused"`           // nobody new is told
	Labels  []string `json:"labels,omitempty"` // only devices with all of these
	Reason  string   `json:"reason,omitempty"` // of a pause
}

// Whole is the rollout that tells everybody.
func Whole() Rollout { return Rollout{Percent: 100} }

// Check reports values out of range.
func (r Rollout) Check() error {
	if r.Percent < 0 || r.Percent > 100 {
		return fmt.Errorf("rollout of %d percent: want 0 to 100", r.Percent)
	}
	for _, l := range r.Labels {
		if !trust.ValidName(l) {
			return fmt.Errorf("rollout: %q is not a label", l)
		}
	}
	return nil
}

// ReadRollout reads a rollout file.
func ReadRollout(file string) (r Rollout, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("%s: %w", file, err)
	}
	return r, r.Check()
}

// Write replaces a rollout file.
func (r Rollout) Write(file string) error {
	if err := r.Check(); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(file, append(b, '\n'), 0o644)
}

// place100 is where a device stands in the order of a bundle's rollout, 0 to 99. Another bundle
// has another order: not always the same devices go first.
func place100(id trust.DeviceID, digest trust.Digest) int {
	sum := sha256.Sum256(append(append([]byte("rollout"), digest[:]...), id[:]...))
	return int(binary.BigEndian.Uint64(sum[:8]) % 100) //nolint:gosec // below 100
}

// tells reports whether a device may be told of a bundle. e is nil for a device that the
// registry does not know.
func (r Rollout) tells(id trust.DeviceID, e *trust.Enrolment, digest trust.Digest) bool {
	if r.Paused || place100(id, digest) >= r.Percent {
		return false
	}
	return len(r.Labels) == 0 || e != nil && labelled(e, r.Labels)
}

// A rolloutFile is a rollout that may change.
type rolloutFile struct {
	file string // "": it never changes
	mu   sync.Mutex
	now  Rollout
	at   time.Time // of the file
}

// look reads the file again if it changed and reports whether the rollout did.
func (f *rolloutFile) look() (changed bool, err error) {
	if f.file == "" {
		return false, nil
	}
	info, err := os.Stat(f.file)
	if err != nil {
		return false, err
	}
	f.mu.Lock()
	same := info.ModTime().Equal(f.at)
	f.mu.Unlock()
	if same {
		return false, nil
	}
	r, err := ReadRollout(f.file)
	if err != nil {
		return false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now, f.at = r, info.ModTime()
	return true, nil
}

func (f *rolloutFile) get() Rollout {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// pause stops the rollout with a reason.
func (f *rolloutFile) pause(reason string) error {
	f.mu.Lock()
	f.now.Paused, f.now.Reason = true, reason
	r := f.now
	f.mu.Unlock()
	if f.file == "" {
		return nil
	}
	return r.Write(f.file)
}
