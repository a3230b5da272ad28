package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
	"tidegate/appliance/gateway"
	"tidegate/appliance/upstream"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"tidegate/store/events"
	"time"
)

// healthyAfter is how long a device serves before its start counts as good.
const healthyAfter = time.Minute

// listeners are the bound addresses.
type listeners struct {
	http, https, admin net.Listener
}

// Start listens, lets the stored bundle serve, and returns when calls are answered. On an
// error nothing is left running. The device serves until Stop.
func (a *App) Start(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Stop(ctx))
		}
	}()
	if err := a.listen(); err != nil {
		return err
	}
	if err := a.desk.Resume(ctx); err != nil {
		a.find("%v", err)
	}
	if err := a.startAdmin(); err != nil {
		return err
	}
	if err := a.serve(); err != nil {
		return err
	}
	a.down.task("clock", a.runClock)
	a.down.task("events", a.runEvents)
	a.down.task("counters", a.ledger.Run)
	a.down.task("keys of issuers", a.credentials.keys.Run)
	a.down.task("introspections", func(ctx context.Context) error { return a.credentials.answers.Run(ctx, a.time.Now) })
	a.down.task("intake", a.desk.Run)
	a.down.task("link", a.runLink)
	a.down.task("sticks", a.runSticks)
	a.down.task("start count", a.noteHealth)
	a.ready.Store(true)
	a.log.Info("serving", "http", addr(a.listeners.http), "https", addr(a.listeners.https), "admin", addr(a.listeners.admin),
		"took", time.Since(a.began).Round(time.Millisecond))
	if a.o.Ready != nil {
		a.o.Ready()
	}
	return nil
}

// Rest lets the device answer commands on its socket without serving calls, until Stop.
func (a *App) Rest(ctx context.Context) error {
	if err := a.startAdmin(); err != nil {
		return errors.Join(err, a.Stop(ctx))
	}
	a.down.task("events", a.runEvents)
	return nil
}

// Stop ends everything that New and Start began, backwards, within ctx.
func (a *App) Stop(ctx context.Context) error {
	a.ready.Store(false)
	return a.down.unwind(ctx)
}

// listen binds every address before anything serves.
func (a *App) listen() error {
	for _, l := range []struct {
		key, addr string
		to        *net.Listener
	}{
		{"http", a.cfg.Listen.HTTP, &a.listeners.http},
		{"https", a.cfg.Listen.HTTPS, &a.listeners.https},
		{"admin", a.cfg.Admin.Listen, &a.listeners.admin},
	} {
		if given := a.o.Listeners[l.key]; given != nil {
			*l.to = given
		} else if l.addr != "" {
			ln, err := net.Listen("tcp", l.addr)
			if err != nil {
				return listenError(l.key, l.addr, err)
			}
			*l.to = ln
		}
		if ln := *l.to; ln != nil {
			a.down.push("listener "+l.key, func(context.Context) error {
				if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
					return err
				}
				return nil
			})
		}
	}
	return nil
}

// listenError says which key to change.
func listenError(key, addr string, err error) error {
	name := "listen." + key
	if key == "admin" {
		name = "admin.listen"
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s: %s is in use by another program; free the port or set another %s", name, addr, name)
	}
	return fmt.Errorf("%s: %s: %w", name, addr, err)
}

// serve starts the engines on the API listeners.
func (a *App) serve() error {
	limits := a.limits()
	for _, l := range []struct {
		name string
		ln   net.Listener
	}{{"http", a.listeners.http}, {"https", a.listeners.https}} {
		if l.ln == nil {
			continue
		}
		s := &wire.Server{Handler: a.gateway, Refuser: a.gateway, Limits: limits, Trusted: wire.Ranges(a.cfg.TrustedProxies()), ErrorLog: a.log}
		if l.name == "https" {
			c, err := a.serverTLS()
			if err != nil {
				return err
			}
			s.TLSConfig = c
		}
		a.servers = append(a.servers, s)
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(l.ln) }()
		a.down.push("calls on "+l.name, func(ctx context.Context) error {
			return errors.Join(s.Shutdown(ctx), <-ended)
		})
	}
	return nil
}

// limits are the engine's limits. The connections are shared out over the listeners.
func (a *App) limits() wire.Limits {
	l := a.cfg.Limits
	return wire.Limits{
		HeaderBytes: int(l.HeaderBytes), URIBytes: int(l.URIBytes), HeaderTime: l.HeaderTimeout.Std(),
		IdleTime: a.cfg.Listen.IdleTimeout.Std(), BodyBytes: int64(l.BodyBytes), BodyStall: l.BodyStall.Std(),
		WriteStall: l.WriteStall.Std(), Connections: int(l.Connections),
	}
}

// openGateway makes the gateway; nothing is active yet.
func (a *App) openGateway() {
	a.gateway = gateway.New(gateway.Options{
		Clock: a.time, Counter: a.ledger, Recorder: a.events, Log: a.log, Memory: a.credentials.logins,
		Revoked: a.credentials.revoked, Introspector: a.introspector, Keys: a.credentials.keys, Access: a.observe(),
		Overrides: a.overrides, TLSTime: a.time.clock.Best,
		MaxIdle: int(a.cfg.Upstream.MaxIdle), MaxActive: int(a.cfg.Upstream.MaxActive), MaxWait: int(a.cfg.Upstream.MaxWait),
		Tokens: int(a.cfg.Cache.Tokens), InFlight: a.cfg.Limits.RequestsFlight, ValidateBytes: int64(a.cfg.Limits.ValidateBytes),
		CompressMin: int64(a.cfg.Limits.CompressMin), Responses: int64(a.cfg.Cache.Responses),
	})
	a.down.push("gateway", func(context.Context) error {
		a.gateway.Close()
		return nil
	})
}

// overrides returns what the configuration says of the groups of a set.
func (a *App) overrides(set *policy.Set) map[string]upstream.Override {
	out := map[string]upstream.Override{}
	for i := range set.Endpoints {
		name := set.Endpoints[i].Name
		if e, ok := a.cfg.Override(name); ok {
			out[name] = upstream.Override{URLs: e.URL, Username: e.Username, Password: e.Password}
		}
	}
	return out
}

// runEvents opens the queue's file, which may take a while, and writes to it. Without a
// file the queue goes on collecting and counts what it cannot keep.
func (a *App) runEvents(ctx context.Context) error {
	// An early end waits for the file, so that what was recorded until then is not lost.
	db, report, err := a.dir.OpenEvents(context.WithoutCancel(ctx))
	if err != nil {
		close(a.eventsOpen)
		a.log.Error("events are kept in memory only", "error", err)
		return a.events.Run(ctx)
	}
	defer db.Close()
	found := events.AsItLay
	if !report.Found.Whole() {
		found = events.SetAside
		a.log.Warn("events", "found", report.String())
	}
	if err := a.events.Attach(db, found); err != nil {
		a.log.Error("events wait in memory", "error", err)
	}
	close(a.eventsOpen)
	if err := a.dir.Served(); err != nil {
		a.log.Error("start not noted as served", "error", err)
	}
	return a.events.Run(ctx)
}

// noteHealth notes that the start was a good one once the device has served for a while.
func (a *App) noteHealth(ctx context.Context) error {
	healthy := time.NewTimer(healthyAfter)
	defer healthy.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-healthy.C:
		return a.dir.Healthy()
	}
}

// addr returns the address of a listener, "" for none.
func addr(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

// Addr returns the bound address of a listener: "http", "https" or "admin"; "" for none.
func (a *App) Addr(name string) string {
	switch name {
	case "http":
		return addr(a.listeners.http)
	case "https":
		return addr(a.listeners.https)
	case "admin":
		return addr(a.listeners.admin)
	}
	return ""
}

// serverTLS is TLS towards clients: the configured certificate, or one that the device made.
func (a *App) serverTLS() (*tls.Config, error) {
	cert, err := a.certificate(a.cfg.TLS.CertFile, a.cfg.TLS.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, Time: a.time.clock.Best}
	switch a.cfg.TLS.ClientAuth {
	case "optional":
		c.ClientAuth = tls.RequestClientCert // what a certificate is worth is decided per API
	case "require":
		c.ClientAuth = tls.RequireAnyClientCert
	}
	return c, nil
}

// CrashFile is where the report of a crash of this program belongs.
func (a *App) CrashFile() string { return a.dir.CrashFile() }
