package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"tidegate/cmd/cli"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/pipe"
	"tidegate/sync/mqttsync/ranges"
	"tidegate/sync/trust"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (a *app) fleetCommand() *cobra.Command {
	c := &cobra.Command{Use: "fleet", Short: "Publish to a fleet, collect from it, enrol its devices"}
	c.AddCommand(a.fleetEnrollCommand(), a.fleetPublishCommand(), a.fleetRolloutCommand(), a.fleetCollectCommand(),
		a.fleetStatusCommand(), a.fleetExportCommand(), a.fleetOrderCommand())
	return c
}

// linkFlags say where the broker is and who connects.
type linkFlags struct {
	brokers             []string
	fleet, id           string
	user, passwordFile  string
	ca, cert, key, name string
	proxy               string
	root, devices       string
	quiet               bool
}

func (l *linkFlags) add(f *pflag.FlagSet) {
	f.StringArrayVar(&l.brokers, "broker", nil, "URL of a broker: tls://host:8883, wss://host/mqtt, tcp://host:1883; several in order of preference")
	f.StringVar(&l.fleet, "fleet", "fleet", "name of the fleet in topics")
	f.StringVar(&l.id, "client-id", "", "MQTT client id, one of its own for each process; default: the name in --cert, or a random one")
	f.StringVar(&l.user, "username", "", "user name for the broker")
	f.StringVar(&l.passwordFile, "password-file", "", "file with the password for the broker")
	f.StringVar(&l.ca, "ca", "", "PEM certificates that the broker's must lead to; default: the system's")
	f.StringVar(&l.cert, "cert", "", "PEM client certificate")
	f.StringVar(&l.key, "cert-key", "", "PEM private key of --cert")
	f.StringVar(&l.name, "server-name", "", "name in the broker's certificate, if it is not that of the URL")
	f.StringVar(&l.proxy, "proxy", "", "outbound HTTP proxy, http://host:port")
	f.BoolVarP(&l.quiet, "quiet", "q", false, "say only what goes wrong")
	l.addTrust(f)
}

func (l *linkFlags) addTrust(f *pflag.FlagSet) {
	f.StringVar(&l.root, "root", "", "trust root file; default: a single *.tideroot in the current folder")
	f.StringVar(&l.devices, "devices", "devices", "folder of the .tidedevice files that fleet enroll wrote")
}

// believe reads the trust root.
func (l *linkFlags) believe() (trust.State, []byte, error) {
	name, err := findRoot(l.root, ".", nil)
	if err != nil {
		return trust.State{}, nil, err
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return trust.State{}, nil, err
	}
	s, err := fleet.Believe(b)
	return s, b, err
}

// registry reads the enrolled devices and names the files that are none.
func (l *linkFlags) registry(a *app, s trust.State) (*fleet.Registry, error) {
	r, err := fleet.OpenRegistry(l.devices, s)
	if err != nil {
		return nil, fmt.Errorf("--devices: %w", err)
	}
	for _, err := range r.Faults() {
		a.Say("tidectl: warning: %v", err)
	}
	return r, nil
}

// broker makes the connection's options.
func (l *linkFlags) broker(a *app, role string) (fleet.Broker, error) {
	b := fleet.Broker{ClientID: l.id, Username: l.user, Log: l.logger(a)}
	if len(l.brokers) == 0 {
		return b, cli.Usage("want --broker URL")
	}
	if err := message.Fleet(l.fleet).Check(); err != nil {
		return b, cli.Usage("--fleet: %w", err)
	}
	for _, s := range l.brokers {
		u, err := pipe.ParseURL(s)
		if err != nil {
			return b, cli.Usage("--broker: %w", err)
		}
		b.URLs = append(b.URLs, u)
	}
	if l.passwordFile != "" {
		p, err := os.ReadFile(l.passwordFile)
		if err != nil {
			return b, err
		}
		b.Password = strings.TrimRight(string(p), "\r\n")
	}
	if l.proxy != "" {
		u, err := url.Parse(l.proxy)
		if err != nil || u.Scheme != "http" || u.Host == "" {
			return b, cli.Usage("--proxy %q: want http://host:port", l.proxy)
		}
		b.Proxy = u
	}
	b.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: l.name}
	if l.ca != "" {
		b.TLS.RootCAs = x509.NewCertPool()
		if err := l.addAuthority(b.TLS.RootCAs); err != nil {
			return b, err
		}
	}
	if (l.cert == "") != (l.key == "") {
		return b, cli.Usage("--cert and --cert-key go together")
	}
	if l.cert != "" {
		pair, err := tls.LoadX509KeyPair(l.cert, l.key)
		if err != nil {
			return b, fmt.Errorf("--cert: %w", err)
		}
		b.TLS.Certificates = []tls.Certificate{pair}
		if leaf, err := x509.ParseCertificate(pair.Certificate[0]); err == nil && b.ClientID == "" {
			b.ClientID = leaf.Subject.CommonName
		}
	}
	if b.ClientID == "" {
		b.ClientID = role + "-" + message.NewToken().String()
	}
	return b, nil
}

// addAuthority adds the certificates of --ca.
func (l *linkFlags) addAuthority(pool *x509.CertPool) error {
	p, err := os.ReadFile(l.ca)
	if err != nil {
		return err
	}
	if !pool.AppendCertsFromPEM(p) {
		return fmt.Errorf("--ca: %s holds no PEM certificate", l.ca)
	}
	return nil
}

// serveFrom has a bundle announced with an address. Certificates lead to the system's
// authorities or to that of --ca.
func (l *linkFlags) serveFrom(ctx context.Context, p *fleet.Published, address, name string) error {
	o := ranges.Options{TLS: &tls.Config{MinVersion: tls.VersionTLS12}}
	if l.ca != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if err := l.addAuthority(pool); err != nil {
			return err
		}
		o.TLS.RootCAs = pool
	}
	if l.proxy != "" {
		u, err := url.Parse(l.proxy)
		if err != nil {
			return err
		}
		o.Proxy = u
	}
	c := ranges.NewClient(o)
	defer c.Close()
	return p.ServeFrom(ctx, c, address, name)
}

// logger writes what happens for people.
func (l *linkFlags) logger(a *app) *slog.Logger {
	level := slog.LevelInfo
	if l.quiet {
		level = slog.LevelWarn
	}
	return slog.New(slog.NewTextHandler(a.Err, &slog.HandlerOptions{Level: level}))
}

// roleSigner reads the key of an online role.
func (a *app) roleSigner(file string, s trust.State, role trust.RoleNumber) (*message.Signer, error) {
	if file == "" {
		return nil, nil
	}
	k, err := a.readKey(file)
	if err != nil {
		return nil, err
	}
	root := s.Root()
	r, ok := root.Roles[role]
	if !ok {
		return nil, fmt.Errorf("the trust root (version %d) has no role %s; add it with tidectl trust rotate", root.Version, role)
	}
	for _, known := range r.Keys {
		if known.Public == k.Private.Public() {
			return &message.Signer{Domain: root.Domain, Epoch: r.Epoch, Key: k.Private}, nil
		}
	}
	return nil, fmt.Errorf("%s is no key of role %s in the trust root (version %d)", file, role, root.Version)
}

func (a *app) fleetOrderCommand() *cobra.Command {
	var l linkFlags
	var key string
	var life time.Duration
	c := &cobra.Command{
		Use:   "order DEVICE status|send|look|pause|retry|logs|time",
		Short: "Ask a device for something; nothing that it serves or believes changes",
		Long: `Ask a device that is connected for its status, to send events now, to look for a bundle,
to send no events while the order lives, to fetch a bundle again that failed, for the last
lines of its log, or to ask for the time. The order is signed by the time role, the one online
key of a publisher.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := trust.ParseDeviceID(args[0])
			if err != nil {
				return err
			}
			o, ok := message.ParseOrder(args[1])
			if !ok {
				return cli.Usage("%q is not an order: want status, send, look, pause, retry, logs or time", args[1])
			}
			state, _, err := l.believe()
			if err != nil {
				return err
			}
			s, err := a.roleSigner(key, state, trust.RoleTime)
			if err != nil {
				return err
			}
			if s == nil {
				return cli.Usage("want --time-key FILE")
			}
			b, err := l.broker(a, "order")
			if err != nil {
				return err
			}
			return fleet.Order(cmd.Context(), b, message.Fleet(l.fleet), *s, id, o, life)
		},
	}
	l.add(c.Flags())
	c.Flags().StringVar(&key, "time-key", "", "key of the time role")
	c.Flags().DurationVar(&life, "for", 10*time.Minute, "how long the order lives, up to a week")
	return c
}
