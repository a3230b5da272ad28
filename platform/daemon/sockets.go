package daemon

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
)

// Sockets are open listening sockets by the name of the listener that they serve.
type Sockets map[string]*os.File

// Activated takes over the sockets that the service manager opened for this process
// (sd_listen_fds(3)). Each must bear one of names (FileDescriptorName=), each name once.
// It is called once, before anything else opens files.
func Activated(names ...string) (Sockets, error) {
	s := Sockets{}
	var errs []error
	for _, f := range activation.Files(true) {
		name := f.Name()
		switch {
		case !slices.Contains(names, name):
			errs = append(errs, fmt.Errorf("socket %q from the service manager: want FileDescriptorName= one of %s", name, strings.Join(names, ", ")))
		case s[name] != nil:
			errs = append(errs, fmt.Errorf("socket %q from the service manager: there are two; give each .socket unit one ListenStream=", name))
		default:
			s[name] = f
			continue
		}
		errs = append(errs, f.Close())
	}
	if err := errors.Join(errs...); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// listeners returns a new listener on each socket; the sockets stay open.
func (s Sockets) listeners() (map[string]net.Listener, error) {
	out := make(map[string]net.Listener, len(s))
	for name, f := range s {
		l, err := net.FileListener(f)
		if err != nil {
			for _, l := range out {
				err = errors.Join(err, l.Close())
			}
			return nil, fmt.Errorf("socket %q: %w", name, err)
		}
		out[name] = l
	}
	return out, nil
}

// with returns s and those sockets of p that now and next configure alike. What could not be
// kept is in the error.
func (s Sockets) with(p Program, now, next Setup) (Sockets, error) {
	out := maps.Clone(s)
	if out == nil {
		out = Sockets{}
	}
	var errs []error
	for name, addr := range next.Listen {
		if out[name] != nil || addr == "" || now.Listen[name] != addr {
			continue
		}
		l, ok := p.Listener(name).(interface{ File() (*os.File, error) })
		if !ok {
			continue
		}
		f, err := l.File()
		if err != nil {
			errs = append(errs, fmt.Errorf("socket %q: %w", name, err))
			continue
		}
		out[name] = f
	}
	return out, errors.Join(errs...)
}

// closeExcept closes the sockets that are not in keep.
func (s Sockets) closeExcept(keep Sockets) {
	for name, f := range s {
		if keep[name] == nil {
			_ = f.Close() // a copy; the listener has its own
		}
	}
}

func (s Sockets) close() { s.closeExcept(nil) }

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
