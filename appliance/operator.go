package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"tidegate/appliance/accesslog"
	"tidegate/appliance/admin"
	"tidegate/appliance/gateway"
	"tidegate/appliance/wire"
	"tidegate/platform/host"
	"tidegate/platform/memory"
	"tidegate/policy/refusal"
	"tidegate/store/audit"
	"tidegate/store/events"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
	"time"

	"golang.org/x/net/netutil"
)

// An operator is what people see of a device: page, metrics, access log.
type operator struct {
	recent  *admin.Recent
	access  *accesslog.Log  // nil: log.access is off
	lines   *accesslog.Ring // nil: log.access_memory is 0
	machine host.Mount      // of the data folder
	kernel  string
}

// observers are told of every call.
type observers struct {
	recent *admin.Recent
	access *accesslog.Log
}

// Log implements gateway.AccessLog.
func (o observers) Log(x wire.Exchange, e *events.Event) {
	o.recent.Log(x, e)
	if o.access != nil {
		o.access.Log(x, e)
	}
}

// observe makes what is told of every call.
func (a *App) observe() gateway.AccessLog {
	a.operator.recent = admin.NewRecent(addressForm(a.cfg.Events.ClientAddress))
	if out := a.accessOut(); a.cfg.Log.Access != "off" && a.cfg.Log.Access != "" && out != nil {
		a.operator.access = accesslog.New(out, accesslog.Format(a.cfg.Log.Access), a.cfg.Log.Sample)
	}
	return observers{a.operator.recent, a.operator.access}
}

// accessOut is where the access log goes: out of the program, or into memory and out of the program
// only as far as the flash is to be worn.
func (a *App) accessOut() io.Writer {
	if a.cfg.Log.Memory == 0 {
		return a.o.Access
	}
	a.operator.lines = accesslog.NewRing(int(a.cfg.Log.Memory))
	if a.cfg.Log.PerDay == 0 || a.o.Access == nil {
		return a.operator.lines
	}
	return io.MultiWriter(a.operator.lines, accesslog.NewBudget(a.o.Access, int(a.cfg.Log.PerDay), time.Now))
}

// addressForm reads events.client_address, which the configuration has checked.
func addressForm(s string) events.AddressForm {
	switch s {
	case "full":
		return events.AddressFull
	case "none":
		return events.AddressNone
	}
	return events.AddressPrefix
}

// maxAdminConns bounds the connections of the page: a browser opens six.
const maxAdminConns = 256

// startAdmin serves the API on the unix socket and on the admin listener.
func (a *App) startAdmin() error {
	accounts, err := admin.OpenAccounts(filepath.Join(a.cfg.Data, admin.AccountsFile), a.credentials.logins)
	if err != nil {
		a.find("accounts: %v; nobody can sign in until a password is set: tidegate admin passwd", err)
	}
	data, err := filepath.Abs(a.cfg.Data)
	if err != nil {
		return err
	}
	a.operator.machine, a.operator.kernel = host.MountOf(os.DirFS("/"), data), host.Kernel()
	api := admin.New(admin.Device{
		Stick: a.volumes.Hold, Status: a.Status, Ready: a.ready.Load, Desk: a.desk, Gateway: a.gateway, Ledger: a.ledger, Events: a.events, EventsOpen: a.eventsOpen,
		State: a.dir.State(), Audit: a.note, Instant: a.time.instant, Enrol: a.enrolment, Log: a.log,
		Accounts: accounts, Revoker: a, Recent: a.operator.recent, Access: a.operator.lines, Sync: a.syncNow, Lines: a.o.Lines, Facts: a.facts,
	})
	if a.operator.access != nil {
		a.down.task("access log", a.operator.access.Run)
	}
	ln, err := a.socket()
	if err != nil {
		return err
	}
	a.httpServer("socket", ln, &http.Server{Handler: api, ConnContext: admin.ConnContext})
	a.down.task("series of the page", api.Run)
	if a.listeners.admin == nil {
		return nil
	}
	page := admin.PageOptions{Hosts: a.pageNames(), TLS: a.adminTLS()}
	ln = netutil.LimitListener(a.listeners.admin, maxAdminConns)
	if page.TLS {
		cert, err := a.certificate(a.cfg.Admin.CertFile, a.cfg.Admin.KeyFile)
		if err != nil {
			return fmt.Errorf("admin.cert_file: %w", err)
		}
		ln = tls.NewListener(ln, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, Time: a.time.clock.Best, NextProtos: []string{"http/1.1"}})
	}
	a.httpServer("admin", ln, &http.Server{Handler: api.Page(page)})
	return nil
}

// adminTLS reports whether the page speaks TLS: always off the device, and on it where a
// certificate is configured.
func (a *App) adminTLS() bool {
	return a.listeners.admin != nil && (a.cfg.Admin.CertFile != "" || !admin.Loopback(a.listeners.admin.Addr()))
}

// pageNames are the names of the device besides its addresses.
func (a *App) pageNames() []string {
	names := append([]string{a.deviceName()}, a.cfg.Admin.Hosts...)
	if h, err := os.Hostname(); err == nil {
		names = append(names, h, h+".local")
	}
	return names
}

// facts are what doctor looks at beside the status.
func (a *App) facts() admin.Facts {
	m := memory.Read(os.DirFS("/"))
	if n := int64(a.cfg.Memory.Limit); n > 0 {
		m.Bytes, m.Source = n, "memory.limit"
	}
	f := admin.Facts{
		Kernel: a.operator.kernel, Mount: a.operator.machine, Memory: m.Bytes, Source: m.Source, Warn: a.cfg.Warnings,
		Public: a.listeners.admin != nil && !admin.Loopback(a.listeners.admin.Addr()),
	}
	for _, l := range []struct {
		name, cert, key string
		on              bool
	}{
		{"listen.https", a.cfg.TLS.CertFile, a.cfg.TLS.KeyFile, a.listeners.https != nil},
		{"admin.listen", a.cfg.Admin.CertFile, a.cfg.Admin.KeyFile, a.adminTLS()},
	} {
		if !l.on {
			continue
		}
		c := admin.Cert{Listener: l.name, Own: l.cert == ""}
		if !c.Own {
			pair, err := tls.LoadX509KeyPair(l.cert, l.key)
			if err != nil || pair.Leaf == nil {
				continue // a file that was good at the start; the next start tells
			}
			c.NotAfter = pair.Leaf.NotAfter
		}
		f.Certs = append(f.Certs, c)
	}
	return f
}

// httpServer serves on ln until Stop.
func (a *App) httpServer(name string, ln net.Listener, s *http.Server) {
	// No deadline on whole requests: uploads are long and a verdict is waited for.
	s.ReadHeaderTimeout, s.IdleTimeout, s.MaxHeaderBytes = 5*time.Second, time.Minute, 16<<10
	s.ErrorLog = slog.NewLogLogger(a.log.Handler(), slog.LevelDebug) // failed handshakes of strangers
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
func (a *App) note(e audit.Entry) error { return a.audit.Record(a.dir.State(), a.stamped(e)) }

// stamped returns e with the times of the device.
func (a *App) stamped(e audit.Entry) audit.Entry {
	r := a.time.clock.Now()
	e.Boot, e.Uptime, e.Floor, e.Wall = r.BootID, r.Boot, r.Lower, r.Wall
	return e
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
