package fleet

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"tidegate/policy/refusal"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
	"time"
)

// A Registry is a folder of .tidedevice files, each verified. A file that appears, changes or
// goes is noticed within seconds; one that is written over in place within half a minute. It is
// safe for concurrent use.
type Registry struct {
	dir  string
	root trust.State

	mu      sync.Mutex
	devices map[trust.DeviceID]*entry
	entries map[string]*entry // by name of the file
	looked  time.Time         // at the folder
	checked time.Time         // every file
	stamp   time.Time         // of the folder when it was read
}

// An entry is one file.
type entry struct {
	at   time.Time // when it was changed
	size int64
	file []byte
	of   *trust.Enrolment
	err  error // why it is left out
}

const (
	lookEvery  = 2 * time.Second  // at the folder
	checkEvery = 30 * time.Second // at every file
)

// OpenRegistry reads a folder. Files that do not verify are left out and told by Faults.
func OpenRegistry(dir string, root trust.State) (*Registry, error) {
	r := &Registry{dir: dir, root: root}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r, r.read()
}

// look reads the folder again, if it is time. The caller holds mu. What cannot be read now
// leaves what is known.
func (r *Registry) look() {
	if time.Since(r.looked) > lookEvery {
		r.looked = time.Now()
		_ = r.read()
	}
}

// read reads what is new in the folder. The caller holds mu.
func (r *Registry) read() error {
	info, err := os.Stat(r.dir)
	if err != nil {
		return err
	}
	now := time.Now()
	if r.entries != nil && info.ModTime().Equal(r.stamp) && now.Sub(r.checked) < checkEvery {
		return nil
	}
	all, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	entries, devices := make(map[string]*entry, len(all)), make(map[trust.DeviceID]*entry, len(all))
	for _, d := range all {
		name := d.Name()
		if filepath.Ext(name) != ".tidedevice" {
			continue
		}
		e := r.entry(name)
		entries[name] = e
		if e.err != nil {
			continue
		}
		if old := devices[e.of.Device]; old == nil || old.of.Epoch < e.of.Epoch || old.of.Epoch == e.of.Epoch && old.of.Seq < e.of.Seq {
			devices[e.of.Device] = e
		}
	}
	r.entries, r.devices, r.stamp, r.looked, r.checked = entries, devices, info.ModTime(), now, now
	return nil
}

// entry reads a file, unless it is as it was.
func (r *Registry) entry(name string) *entry {
	file := filepath.Join(r.dir, name)
	info, err := os.Stat(file)
	if err != nil {
		return &entry{err: err}
	}
	if old := r.entries[name]; old != nil && old.size == info.Size() && old.at.Equal(info.ModTime()) {
		return old
	}
	e := &entry{at: info.ModTime(), size: info.Size()}
	if e.file, e.err = os.ReadFile(file); e.err != nil {
		return e
	}
	if e.of, e.err = OpenEnrolment(e.file, r.root); e.err != nil {
		e.err = refusal.About(name, e.err)
	}
	return e
}

// OpenEnrolment verifies a .tidedevice file and returns what it says.
func OpenEnrolment(file []byte, root trust.State) (*trust.Enrolment, error) {
	msgs, err := envelope.ReadFile(envelope.Device, bytes.NewReader(file))
	if err != nil {
		return nil, err
	}
	payload, _, err := root.Verify(trust.RoleRelease, envelope.Device, msgs[0])
	if err != nil {
		return nil, err
	}
	return trust.ParseEnrolment(payload)
}

// Device implements [Directory].
func (r *Registry) Device(id trust.DeviceID) (*trust.Enrolment, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look()
	e, ok := r.devices[id]
	if !ok {
		return nil, false
	}
	return e.of, true
}

// All implements [Directory].
func (r *Registry) All(yield func(*trust.Enrolment) bool) {
	r.mu.Lock()
	r.look()
	all := make([]*trust.Enrolment, 0, len(r.devices))
	for _, e := range r.devices {
		all = append(all, e.of)
	}
	r.mu.Unlock()
	for _, e := range all {
		if !yield(e) {
			return
		}
	}
}

// File returns the .tidedevice file of a device, nil if there is none.
func (r *Registry) File(id trust.DeviceID) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.devices[id]; e != nil {
		return e.file
	}
	return nil
}

// Faults returns why files were left out.
func (r *Registry) Faults() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []error
	for _, e := range r.entries {
		if e.err != nil {
			all = append(all, e.err)
		}
	}
	return all
}
