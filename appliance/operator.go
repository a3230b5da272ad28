package appliance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"tidegate/appliance/admin"
	"tidegate/policy/refusal"
	"tidegate/store/audit"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
)

// startAdmin serves the API on the unix socket and on the admin listener.
func (a *App) startAdmin() error {
	api := admin.New(admin.Device{
		Status: a.Status, Ready: a.ready.Load, Desk: a.desk, Gateway: a.gateway, Ledger: a.ledger, Events: a.events, EventsOpen: a.eventsOpen,
		State: a.dir.State(), Audit: a.note, Instant: a.time.instant, Enrol: a.enrolment, Log: a.log,
	})
	ln, err := a.socket()
	if err != nil {
		return err
	}
	a.httpServer("socket", ln, api)
	if a.listeners.admin != nil {
		a.httpServer("admin", a.listeners.admin, api.Page())
	}
	return nil
}

// httpServer serves h on ln until Stop.
func (a *App) httpServer(name string, ln net.Listener, h http.Handler) {
	// No deadline on whole requests: uploads are long and a verdict is waited for.
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, BaseContext: func(net.Listener) context.Context { return context.Background() }}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ln) }()
	a.down.push(name, func(ctx context.Context) error {
		short, cancel := context.WithTimeout(ctx, time.Second) // who waits for a verdict does not hold up the end
		defer cancel()
		if err := s.Shutdown(short); err != nil {
			_ = s.Close()
		}
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
}

// maxSocketPath is what the kernel takes, less the zero behind it.
const maxSocketPath = 107

// socket binds the unix socket. One that a dead process left is replaced: the lock on the
// data directory says that nobody else uses it.
func (a *App) socket() (net.Listener, error) {
	path := a.cfg.Socket()
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("admin.socket: %s has %d bytes; at most %d: set another admin.socket", path, len(path), maxSocketPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("admin.socket: %w", err)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("admin.socket: %s exists and is no socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("admin.socket: %w", err)
		}
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("admin.socket: %w", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(fmt.Errorf("admin.socket: %w", err), ln.Close())
	}
	if gid := a.cfg.Admin.SocketGID; gid >= 0 {
		if err := os.Chown(path, -1, int(gid)); err != nil {
			return nil, errors.Join(fmt.Errorf("admin.socket_gid: %w", err), ln.Close())
		}
	}
	return ln, nil
}

// note records what a person did, with the times of the device.
func (a *App) note(e audit.Entry) error {
	r := a.time.clock.Now()
	e.Boot, e.Uptime, e.Floor, e.Wall = r.BootID, r.Boot, r.Lower, r.Wall
	return a.audit.Record(a.dir.State(), e)
}

// enrolment returns a request for enrolment, signed by the report key.
func (a *App) enrolment() ([]byte, error) {
	if a.identity == nil {
		return nil, refusal.New(refusal.Key, "this device has no keys: %w", a.idErr)
	}
	st := a.desk.Trust()
	r := &trust.Request{
		Seq: 1, Issued: uint64(max(a.time.clock.Lower().Unix(), 0)), Hardware: []string{a.build.Platform},
		Version: versionNumbers(a.build.Version), Report: reporter{a.identity}.Public(),
	}
	if root := st.Root(); root != nil {
		r.Domain = root.Domain
	}
	if e := st.Enrolment(); e != nil {
		r.Seq = e.Seq + 1
	}
	r.Seal = sealingKeys(a.identity)
	payload, err := r.Marshal()
	if err != nil {
		return nil, err
	}
	env, err := envelope.Sign(envelope.Enroll, payload, reporter{a.identity})
	if err != nil {
		return nil, err
	}
	return envelope.File(envelope.Enroll, env), nil
}
