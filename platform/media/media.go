// Package media tells which removable volumes appear and go, and reads and writes what is on
// them as if whoever made them wanted harm.
//
// It promises: a volume is told once for each time that it is mounted, after a moment of quiet
// and not at the start; [Folder] opens regular files only, whatever links, pipes and devices a
// volume holds, and never maps one into memory; a file that [Folder.Write] returned from is on
// the volume, whole, and was read back. It does not mount anything, and it does not bound how
// long a dying device keeps a system call: callers do that.
package media

import (
	"context"
	"slices"
	"sync"
	"time"
)

// A Volume is one mounting of a file system.
type Volume struct {
	Dir      string // where it is mounted
	Device   string // "8:17", major and minor number; may be empty
	Type     string // as the mount table has it
	ReadOnly bool

	id string // of this mounting
}

// Options are what a watcher works with.
type Options struct {
	// Dirs are the folders that volumes are mounted on, or in: of /media also /media/stick.
	Dirs []string
	// Mounts is the mount table, oldest first; nil: this machine's.
	Mounts func() ([]Mount, error)
	// Events brings what the kernel tells of devices until ctx ends; nil: what this machine's
	// kernel tells, where this program may listen. They make the watcher look at once, and see
	// a stick that was swapped for another between two looks.
	Events func(ctx context.Context) <-chan Event
	Every  time.Duration // between looks at the mount table; 0: a second
	Quiet  time.Duration // that a volume has to be there first; 0: two seconds
}

// A Watcher knows which volumes are there. Run is called once; Present may be called together
// with it.
type Watcher struct {
	o Options

	mu   sync.Mutex
	here map[string]*state // by id of the mounting
}

// state is what is known of a volume that is there.
type state struct {
	v     Volume
	since time.Time // when it came, or something last happened to its device
	told  bool
}

// NewWatcher returns a watcher that has looked once. The volumes that are there now are left
// alone: a stick that stays in is not taken for a new one at every start. An error says that the
// mount table cannot be read.
func NewWatcher(o Options) (*Watcher, error) {
	if o.Mounts == nil {
		o.Mounts = mounts
	}
	if o.Events == nil {
		o.Events = kernelEvents
	}
	if o.Every == 0 {
		o.Every = time.Second
	}
	if o.Quiet == 0 {
		o.Quiet = 2 * time.Second
	}
	w := &Watcher{o: o, here: map[string]*state{}}
	return w, w.look(time.Now(), true)
}

// Run calls appeared for every volume that was mounted since the watcher was made, one at a
// time, until ctx ends.
func (w *Watcher) Run(ctx context.Context, appeared func(Volume)) error {
	events := w.o.Events(ctx)
	tick := time.NewTicker(w.o.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case e, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			w.note(e)
		}
		now := time.Now()
		if err := w.look(now, false); err != nil {
			continue // the next look tells
		}
		for _, v := range w.due(now) {
			appeared(v)
		}
	}
}

// look brings what is known in line with the mount table.
func (w *Watcher) look(now time.Time, first bool) error {
	table, err := w.o.Mounts()
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	there := map[string]bool{}
	for _, v := range volumes(table, w.o.Dirs) {
		there[v.id] = true
		if w.here[v.id] == nil {
			w.here[v.id] = &state{v: v, since: now, told: first}
		}
	}
	for id := range w.here {
		if !there[id] {
			delete(w.here, id)
		}
	}
	return nil
}

// note takes a kernel event. A device that went, or whose medium was changed, and is in the
// mount table still, is another volume: what was known of it is forgotten.
func (w *Watcher) note(e Event) {
	if e.Subsystem != "block" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, s := range w.here {
		if s.v.Device != e.Device || e.Device == "" {
			continue
		}
		if e.Action == "remove" || e.MediaChange {
			delete(w.here, id)
		} else if !s.told {
			s.since = time.Now()
		}
	}
}

// due returns the volumes to be told now, by their folder.
func (w *Watcher) due(now time.Time) []Volume {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []Volume
	for _, s := range w.here {
		if !s.told && now.Sub(s.since) >= w.o.Quiet {
			s.told = true
			all = append(all, s.v)
		}
	}
	slices.SortFunc(all, func(a, b Volume) int { return compare(a.Dir, b.Dir) })
	return all
}

// Present reports whether a volume is still mounted and its device still there.
func (w *Watcher) Present(v Volume) bool {
	table, err := w.o.Mounts()
	if err != nil {
		return true // nobody can say
	}
	for _, now := range volumes(table, w.o.Dirs) {
		if now.id == v.id {
			return deviceThere(v.Device)
		}
	}
	return false
}
