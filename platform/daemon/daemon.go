// Package daemon runs a program as a service of the system: it says when the program is
// ready, feeds the watchdog from what the program finds out about itself, takes sockets
// over from the service manager, and starts the program anew on a reload without closing
// its ports. [Manager] installs and controls the service.
//
// A program that hangs is not fed and is killed by its service manager; a reload with a
// wrong configuration changes nothing. The package decides neither what healthy means nor
// what a configuration is.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// A Program is one run of what is served, from one configuration. Start and Stop are called
// once each; Health and Listener are called between them, together with anything else.
type Program interface {
	// Start returns when calls are answered. On an error nothing is left running.
	Start(ctx context.Context) error
	// Stop ends the program within ctx.
	Stop(ctx context.Context) error
	// Health returns why the program does not do its work, or nil.
	Health(ctx context.Context) error
	// Listener returns the bound listener of a name, nil for none.
	Listener(name string) net.Listener
}

// A Setup is a configuration that was read and found good.
type Setup struct {
	// Listen is the configured address of each listener by its name. A listener whose
	// address is unchanged survives a reload with its queue of connections.
	Listen map[string]string
	// Log gets what happens while this setup is in force; it may not be nil.
	Log *slog.Logger
	// New makes the program. The listeners, some or none, belong to it.
	New func(listeners map[string]net.Listener) (Program, error)
}

// Options are what [Run] works with.
type Options struct {
	// Load reads the configuration: at the start, and at each reload.
	Load func() (Setup, error)
	// Sockets are the sockets that the service manager gave, by name; see [Activated].
	Sockets Sockets
	// Reload asks for a reload with each value; nil for never.
	Reload <-chan struct{}
	// StopTime bounds one stop; 0: 10 s.
	StopTime time.Duration
	// Notify tells the service manager; nil: over the socket that it named in the environment.
	Notify func(state string) error
	// Watchdog is how long the service manager waits for a sign of life; 0: as the
	// environment says, which may be that there is no watchdog.
	Watchdog time.Duration
}

// Run loads, starts and serves until ctx ends, then stops. It returns the error of the first
// start, or of a stop that was not clean. After a reload whose program does not start, the
// program before it is started again; if that fails too, Run returns both errors.
func Run(ctx context.Context, o Options) error {
	if o.StopTime == 0 {
		o.StopTime = 10 * time.Second
	}
	if o.Notify == nil {
		o.Notify = func(state string) error {
			_, err := systemd.SdNotify(false, state)
			return err
		}
	}
	if o.Watchdog == 0 {
		d, err := systemd.SdWatchdogEnabled(false)
		if err != nil {
			return fmt.Errorf("watchdog of the service manager: %w", err)
		}
		o.Watchdog = d
	}
	defer o.Sockets.close()
	now, err := o.Load()
	if err != nil {
		return err
	}
	p, err := start(ctx, now, o.Sockets)
	if err != nil {
		return err
	}
	r := &runner{Options: o, log: now.Log}
	r.notify("READY=1\nSTATUS=serving")
	for {
		if again := r.serve(ctx, p); !again {
			break
		}
		next, err := o.Load()
		if err != nil {
			r.log.Error("reload refused: the configuration before it stays in force", "error", err)
			continue
		}
		if p, now, err = r.replace(ctx, p, now, next); err != nil {
			return err
		}
	}
	r.notify("STOPPING=1")
	r.log.Info("stopping")
	return r.stop(p)
}

// runner is one call of Run.
type runner struct {
	Options
	log *slog.Logger
}

// start makes a program and starts it.
func start(ctx context.Context, s Setup, sockets Sockets) (Program, error) {
	listeners, err := sockets.listeners()
	if err != nil {
		return nil, err
	}
	p, err := s.New(listeners)
	if err != nil {
		for _, l := range listeners {
			err = errors.Join(err, ignoreClosed(l.Close()))
		}
		return nil, err
	}
	if err := p.Start(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

func (r *runner) stop(p Program) error {
	ctx, cancel := context.WithTimeout(context.Background(), r.StopTime)
	defer cancel()
	if err := p.Stop(ctx); err != nil {
		return errors.Join(errors.New("stop was not clean"), err)
	}
	return nil
}

// serve watches over p until a reload is asked for, or false: until ctx ends.
func (r *runner) serve(ctx context.Context, p Program) bool {
	watch, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.watch(watch, p)
	}()
	defer func() {
		cancel()
		<-ended
	}()
	select {
	case <-ctx.Done():
		return false
	case <-r.Reload:
		return true
	}
}

// replace stops p, which runs with now, and starts the program of next in its place. Ports
// that both have stay open between the two.
func (r *runner) replace(ctx context.Context, p Program, now, next Setup) (Program, Setup, error) {
	r.notify("RELOADING=1\nSTATUS=reloading")
	defer r.notify("READY=1\nSTATUS=serving")
	kept, err := r.Sockets.with(p, now, next)
	if err != nil {
		r.log.Error("reload: a port closes for a moment", "error", err)
	}
	defer kept.closeExcept(r.Sockets)
	if err := r.stop(p); err != nil {
		r.log.Error("reload", "error", err)
	}
	fresh, err := start(ctx, next, kept)
	if err == nil {
		r.log = next.Log
		r.log.Info("configuration reloaded")
		return fresh, next, nil
	}
	r.log.Error("reload refused: the configuration before it is put back", "error", err)
	old, oldErr := start(ctx, now, kept)
	if oldErr != nil {
		return nil, Setup{}, errors.Join(err, fmt.Errorf("the configuration before it: %w", oldErr))
	}
	return old, now, nil
}

// notify tells the service manager. Where that fails there is nobody to tell but the log.
func (r *runner) notify(state string) {
	if err := r.Notify(state); err != nil {
		r.log.Warn("service manager not told", "state", state, "error", err)
	}
}
