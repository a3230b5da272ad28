package appliance

import (
	"context"
	"fmt"
	"sync"
	"tidegate/platform/media"
	"tidegate/policy/refusal"
	"tidegate/sync/usbdrop"
	"tidegate/sync/usbdrop/remote"
)

// sticks are the volumes that the port looks into: those under folders of the configuration, and
// those that helpers hold.
type sticks struct {
	watcher *media.Watcher // nil: no folders are configured
	arrived chan media.Volume

	mu    sync.Mutex
	held  map[string]*remote.Line // by the volume's Dir
	count int
}

func newSticks(w *media.Watcher) *sticks {
	return &sticks{watcher: w, arrived: make(chan media.Volume), held: map[string]*remote.Line{}}
}

// Hold brings a volume that a helper holds, and waits until it is let go or ctx ends.
func (s *sticks) Hold(ctx context.Context, name string, l *remote.Line) error {
	s.mu.Lock()
	s.count++
	v := media.Volume{Dir: fmt.Sprintf("usb:%s#%d", name, s.count)}
	s.held[v.Dir] = l
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.held, v.Dir)
		s.mu.Unlock()
	}()
	select {
	case s.arrived <- v:
	case <-l.Over():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-l.Over():
		return nil
	case <-ctx.Done():
		l.Bye(1)
		return ctx.Err()
	}
}

func (s *sticks) line(v media.Volume) *remote.Line {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[v.Dir]
}

// Run tells of volumes until ctx ends.
func (s *sticks) Run(ctx context.Context, appeared func(media.Volume)) error {
	ended := make(chan error, 1)
	if s.watcher != nil {
		go func() { ended <- s.watcher.Run(ctx, appeared) }()
	} else {
		ended <- nil
	}
	for {
		select {
		case v := <-s.arrived:
			appeared(v)
		case <-ctx.Done():
			if err := <-ended; err != nil {
				return err
			}
			return ctx.Err()
		}
	}
}

// Present reports whether a volume is still there.
func (s *sticks) Present(v media.Volume) bool {
	if l := s.line(v); l != nil {
		return l.Here()
	}
	return s.watcher != nil && s.watcher.Present(v)
}

// open opens a volume.
func (s *sticks) open(v media.Volume) (usbdrop.Folder, error) {
	if l := s.line(v); l != nil {
		return l.Folder(), nil
	}
	if err := media.CheckFileSystem(v); err != nil {
		return nil, err
	}
	return media.Open(v.Dir)
}

// tell hands a verdict to the helper that holds the stick, and lets it go when nothing follows.
func (s *sticks) tell(v usbdrop.Verdict) {
	l := s.line(media.Volume{Dir: v.Volume})
	if l == nil || v.Stage == usbdrop.Working {
		return
	}
	final := v.Stage == usbdrop.Refused || v.Stage == usbdrop.Accepted || v.Restarts()
	lines := v.Lines()
	for i, line := range lines {
		l.Tell(line, !final && i == len(lines)-1)
	}
	switch {
	case v.Stage == usbdrop.Refused:
		l.Bye(max(v.Word.Exit(), refusal.ExitOther))
	case final:
		l.Bye(refusal.ExitOK)
	}
}
