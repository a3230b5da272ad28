package appliance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"tidegate/appliance/admin"
	"tidegate/store"
	"tidegate/sync/mqttsync"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/pipe"
	"tidegate/sync/mqttsync/ranges"
	"tidegate/sync/uplink"
	"time"
)

// openLink makes the link to the fleet, where brokers are configured. Without keys of its own
// a device has nothing to say, and serves on.
func (a *App) openLink() error {
	c := a.cfg.MQTT
	if len(c.Brokers) == 0 {
		return nil
	}
	if a.identity == nil {
		a.find("link: no connection without the keys of this device")
		return nil
	}
	o := mqttsync.Options{
		Fleet: message.Fleet(c.Fleet), Username: c.Username, Password: c.Password, Spread: c.WindowSpread.Std(), Metered: c.Metered,
		Up: int64(c.BytesUp), Down: int64(c.BytesDown), PerDay: int64(c.BytesPerDay), KeepAlive: c.KeepAlive.Std(),
		FirstAfter: c.FirstAfter.Std(), RetryCap: c.RetryCap.Std(), StatusEvery: c.StatusEvery.Std(), PieceBytes: int(c.PieceBytes),
		Device: deviceID(a.identity), Key: reporter{a.identity}, BootID: a.o.Machine.BootID(), Version: a.build.Version,
		Queue: a.events, Desk: a.desk, Clock: a.time.clock, Memory: linkMemory{a.dir.State()}, Lines: a.lastLines, Log: a.log.With("part", "link"),
	}
	if c.NewestFirst {
		o.Order = uplink.NewestFirst
	}
	if c.UnsignedAcks {
		o.Plain = message.AcceptPlainAcks
	}
	var errs []error
	note := func(key string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("mqtt.%s: %w", key, err))
		}
	}
	note("fleet", o.Fleet.Check())
	note("mode", setMode(&o, c.Mode, c.Windows))
	if c.KeepAlive.Std() < time.Minute || c.KeepAlive.Std() > 1160*time.Second {
		note("keep_alive", fmt.Errorf("%v is not between 1m and 1160s", c.KeepAlive.Std()))
	}
	for _, s := range c.Brokers {
		u, err := pipe.ParseURL(s)
		note("brokers", err)
		o.Brokers = append(o.Brokers, u)
	}
	if c.Proxy != "" {
		u, err := url.Parse(c.Proxy)
		if err == nil && (u.Scheme != "http" || u.Host == "") {
			err = fmt.Errorf("%q is not http://host:port", u.Redacted())
		}
		note("proxy", err)
		o.Proxy = u
	}
	var err error
	o.TLS, err = a.brokerTLS()
	errs = append(errs, err)
	if len(c.HTTPSHosts) > 0 && err == nil {
		for _, h := range c.HTTPSHosts {
			full, err := ranges.ParseHost(h)
			note("https_hosts", err)
			o.Hosts = append(o.Hosts, full)
		}
		o.HostTLS, err = a.hostTLS(o.TLS)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	a.link, err = mqttsync.New(o)
	if err != nil {
		a.find("link: %v", err)
		a.link = nil
	}
	return nil
}

func setMode(o *mqttsync.Options, mode string, windows []string) error {
	o.Mode = map[string]mqttsync.Mode{"always": mqttsync.Always, "window": mqttsync.Windows, "demand": mqttsync.Demand}[mode]
	for _, s := range windows {
		w, err := mqttsync.ParseWindow(s)
		if err != nil {
			return err
		}
		o.Windows = append(o.Windows, w)
	}
	if o.Mode == mqttsync.Windows && len(windows) == 0 {
		return errors.New("window without mqtt.windows: the link would never open")
	}
	return nil
}

// brokerTLS is TLS towards brokers.
func (a *App) brokerTLS() (*tls.Config, error) {
	m := a.cfg.MQTT
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: m.ServerName, Time: a.time.clock.Best}
	if m.CAFile != "" {
		pem, err := os.ReadFile(m.CAFile)
		if err != nil {
			return nil, fmt.Errorf("mqtt.ca_file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("mqtt.ca_file: %s holds no PEM certificate", m.CAFile)
		}
	}
	if (m.CertFile == "") != (m.KeyFile == "") {
		return nil, errors.New("mqtt: cert_file and key_file go together")
	}
	if m.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(m.CertFile, m.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("mqtt.cert_file: %w", err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}

// hostTLS is TLS towards web servers of bundles: as towards brokers, and the system's
// authorities count beside that of mqtt.ca_file.
func (a *App) hostTLS(broker *tls.Config) (*tls.Config, error) {
	c := broker.Clone()
	c.ServerName = ""
	if c.RootCAs == nil {
		return c, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil { // none on this device
		return c, nil //nolint:nilerr // that of the file is left
	}
	pem, err := os.ReadFile(a.cfg.MQTT.CAFile)
	if err != nil {
		return nil, fmt.Errorf("mqtt.ca_file: %w", err)
	}
	pool.AppendCertsFromPEM(pem)
	c.RootCAs = pool
	return c, nil
}

// lastLines are the last lines of the log.
func (a *App) lastLines(n int) []string {
	if a.o.Lines == nil {
		return nil
	}
	var all []string
	for _, l := range a.o.Lines.Tail(n) {
		all = append(all, l.Text)
	}
	return all
}

// runLink keeps the link, if there is one.
func (a *App) runLink(ctx context.Context) error {
	if a.link == nil {
		return nil
	}
	return a.link.Run(ctx)
}

// syncNow opens the link now. What was recorded before goes with it.
func (a *App) syncNow(ctx context.Context, wait bool) (*admin.Link, error) {
	if err := a.events.Flush(ctx); err != nil {
		a.log.Warn("sync: what is in memory waits", "error", err)
	}
	if !wait {
		a.link.Wake()
		return a.linkStatus(), nil
	}
	l, err := a.link.Sync(ctx)
	return linkView(l), err
}

// linkStatus is what status shows of the link, nil without one.
func (a *App) linkStatus() *admin.Link {
	if a.link == nil {
		return nil
	}
	return linkView(a.link.Link())
}

func linkView(l mqttsync.Link) *admin.Link {
	s := &admin.Link{
		State: string(l.State), Broker: l.Broker, Since: l.Since.UTC(), Error: l.Err, Hint: l.Hint,
		Publisher: l.Publisher, Collector: l.Collector, Dropped: l.Drops, Today: l.Today,
		Sent: l.Uplink.Batches, Repeated: l.Uplink.Repeated, Acked: l.Uplink.Acked, Unacked: l.Uplink.Unacked, BadAcks: l.Uplink.BadAcks,
	}
	if !l.Contact.IsZero() {
		at := l.Contact.UTC()
		s.Contact = &at
	}
	if l.State == mqttsync.Waiting {
		s.Next = max(l.Next-time.Since(l.Since), 0).Seconds()
	}
	if f := l.Fetching; f != nil {
		s.Fetching = &admin.Fetching{Digest: f.Digest.String(), Have: f.Have, Total: f.Total, From: f.From}
	}
	return s
}

// linkMemory keeps the few values of the link in state.db.
type linkMemory struct{ db *store.DB }

const linkBucket = "link"

// Load implements mqttsync.Memory.
func (m linkMemory) Load(key string) (v []byte, err error) {
	err = m.db.View(func(tx *store.Tx) (err error) {
		v, err = tx.Bucket(linkBucket).Get([]byte(key))
		return err
	})
	return v, err
}

// Save implements mqttsync.Memory.
func (m linkMemory) Save(key string, v []byte) error {
	return m.db.Update(func(tx *store.Tx) error { return tx.Bucket(linkBucket).Put([]byte(key), v) })
}
