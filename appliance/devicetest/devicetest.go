// Package devicetest runs a whole device in a test: a real data folder, real listeners on
// loopback, signed bundles. It serves tests of several packages and is linked by no
// program.
package devicetest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"tidegate/appliance"
	"tidegate/appliance/config"
	"tidegate/platform/clock"
	"tidegate/policy"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/write"
	"tidegate/sync/envelope"
	"tidegate/sync/intake"
	"tidegate/sync/keyfile"
	"tidegate/sync/trust"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Issuer is the issuer of the tokens that [Fleet.Token] makes.
const Issuer = "https://issuer.test"

// A Fleet is what signs for devices: a trust root with one key, and a token issuer.
type Fleet struct {
	Key    keyfile.Key
	Domain trust.Domain
	Issuer *ecdsa.PrivateKey
	seq    uint64
}

// NewFleet makes keys.
func NewFleet(t testing.TB) *Fleet {
	t.Helper()
	k, err := keyfile.Generate("test")
	check(t, err)
	f := &Fleet{Key: k}
	_, err = rand.Read(f.Domain[:])
	check(t, err)
	f.Issuer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	return f
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Root returns the trust root file and the fingerprint of its root.
func (f *Fleet) Root(t testing.TB) ([]byte, trust.Digest) {
	t.Helper()
	key := trust.Key{Name: "test", Public: f.Key.Private.Public()}
	role := trust.Role{Epoch: 1, Threshold: 1, Keys: []trust.Key{key}}
	r := &trust.Root{Domain: f.Domain, Version: 1, Issued: uint64(time.Now().Unix()), Roles: map[trust.RoleNumber]trust.Role{
		trust.RoleRoot: role, trust.RoleRelease: role, trust.RoleTime: role, trust.RoleCollector: role,
	}}
	payload, err := r.Marshal()
	check(t, err)
	env, err := envelope.Sign(envelope.Root, payload, f.Key.Private)
	check(t, err)
	fp, err := trust.Fingerprint(env)
	check(t, err)
	return envelope.File(envelope.Root, env), fp
}

// Bundle builds the next bundle of set. change, if not nil, edits the manifest.
func (f *Fleet) Bundle(t testing.TB, set *policy.Set, change func(*bundle.Manifest)) []byte {
	t.Helper()
	f.seq++
	b, err := policy.Encode(set)
	check(t, err)
	m := bundle.Manifest{
		Common:  trust.Common{Domain: f.Domain, Epoch: 1, Seq: f.seq, Issued: uint64(time.Now().Unix())},
		Product: "test", Channel: "stable", Name: "test", Hardware: []string{"any"}, Selectors: []trust.Selector{trust.EveryDevice()},
		Activation: &bundle.Activation{Mode: bundle.Automatic, Window: 1, Attempts: 3},
	}
	if change != nil {
		change(&m)
	}
	var out bytes.Buffer
	_, err = write.Build(&out, write.Spec{Manifest: m, Files: []write.File{write.Bytes("policy.cbor", b)}}, f.Key.Private)
	check(t, err)
	return out.Bytes()
}

// PolicyIssuer is the issuer as a set knows it.
func (f *Fleet) PolicyIssuer(t testing.TB) policy.Issuer {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(f.Issuer.Public())
	check(t, err)
	return policy.Issuer{Name: "test", Issuer: Issuer, Algorithms: []string{"ES256"}, Keys: []policy.Key{{PKIX: der}}, SingleKey: true}
}

// Token signs claims; iss, sub and exp are set unless they are given.
func (f *Fleet) Token(t testing.TB, claims map[string]any) string {
	t.Helper()
	all := jwt.MapClaims{"iss": Issuer, "sub": "tester", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(all, claims)
	s, err := jwt.NewWithClaims(jwt.SigningMethodES256, all).SignedString(f.Issuer)
	check(t, err)
	return s
}

// A Device is one device under test.
type Device struct {
	*appliance.App
	Fleet  *Fleet
	Config *config.Config

	stopped bool
	log     *lockedWriter
}

// Log returns what the device has logged so far.
func (d *Device) Log() string { return d.log.text() }

// Options say how a device is started. The zero value is usable.
type Options struct {
	Dir     string // data folder; "": a temporary one
	Fleet   *Fleet // nil: a new one
	Config  func(*config.Config)
	Machine clock.Machine
	NoRoot  bool // do not install the fleet's root
}

// Start runs a device on loopback ports of the system's choice until the test ends. Its log
// is printed if the test fails.
func Start(t testing.TB, o Options) *Device {
	t.Helper()
	d, err := start(t, &o)
	check(t, err)
	if !o.NoRoot && d.Desk().Status().Root == 0 {
		file, fp := o.Fleet.Root(t)
		_, err := d.Desk().InstallRoot(context.Background(), file, fp)
		check(t, err)
	}
	return d
}

// TryStart returns why a device does not start. One that does is stopped, and nil returned.
func TryStart(t testing.TB, o Options) error {
	t.Helper()
	_, err := start(t, &o)
	return err
}

func start(t testing.TB, o *Options) (*Device, error) {
	t.Helper()
	if o.Fleet == nil {
		o.Fleet = NewFleet(t)
	}
	cfg := config.Default()
	cfg.Data = o.Dir
	if cfg.Data == "" {
		cfg.Data = t.TempDir()
	}
	cfg.Listen.HTTP, cfg.Listen.HTTPS, cfg.Admin.Listen = "127.0.0.1:0", "", "127.0.0.1:0"
	cfg.Admin.Socket = socketPath(t)
	if o.Config != nil {
		o.Config(cfg)
	}
	log := &lockedWriter{w: &bytes.Buffer{}}
	app, err := appliance.New(appliance.Options{Config: cfg, Log: slog.New(slog.NewTextHandler(log, nil)), Machine: o.Machine})
	if err != nil {
		return nil, err
	}
	if err := app.Start(context.Background()); err != nil {
		return nil, err
	}
	d := &Device{App: app, Fleet: o.Fleet, Config: cfg, log: log}
	t.Cleanup(func() {
		d.Stop(t)
		if t.Failed() {
			t.Logf("log of the device:\n%s", log.text())
		}
	})
	return d, nil
}

// socketPath is short enough for a unix socket.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tg")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// Stop ends the device in order; the test's end does so too.
func (d *Device) Stop(t testing.TB) {
	t.Helper()
	if d.stopped {
		return
	}
	d.stopped = true
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := d.App.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// URL returns the address of the plain listener with path behind it.
func (d *Device) URL(path string) string { return "http://" + d.Addr("http") + path }

// Offer gives the device a file.
func (d *Device) Offer(t testing.TB, name string, b []byte) (intake.Report, error) {
	t.Helper()
	return d.Desk().Offer(context.Background(), intake.Candidate{Source: "test", Name: name, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b)), nil
	}})
}

// Apply builds the next bundle of set, gives it to the device, and fails the test unless it
// serves afterwards. It does not wait for the end of the trial; a trial that is under way
// is confirmed first.
func (d *Device) Apply(t testing.TB, set *policy.Set) {
	t.Helper()
	if d.Desk().Status().Trial != nil {
		_, err := d.Desk().Confirm(context.Background(), "test")
		check(t, err)
	}
	r, err := d.Offer(t, "test.tide", d.Fleet.Bundle(t, set, nil))
	check(t, err)
	if r.Phase != intake.OnTrial {
		t.Fatalf("bundle is %s, want trial", r.Phase)
	}
}

// API returns a set with one API "echo" 1.0 below /echo/1.0 that leads to backend, with a
// JWT scheme on every operation whose template does not begin with "/open".
func (f *Fleet) API(t testing.TB, backend string, templates ...string) *policy.Set {
	t.Helper()
	set := &policy.Set{
		Format: policy.Format, Name: "test",
		Endpoints: []policy.Endpoints{{Name: "echo-1.0-production", Targets: []policy.Target{{URL: backend}}}},
		Issuers:   []policy.Issuer{f.PolicyIssuer(t)},
	}
	api := policy.API{Name: "echo", Version: "1.0", BasePath: "/echo/1.0", Production: 1, Schemes: []policy.Scheme{{Kind: policy.OAuth2}}}
	for i, tpl := range templates {
		op := policy.Operation{ID: fmt.Sprintf("op%d", i), Method: "GET", Template: tpl}
		if len(tpl) < 5 || tpl[:5] != "/open" {
			op.Security = []policy.Alternative{{{Scheme: 0}}}
		}
		api.Operations = append(api.Operations, op)
	}
	set.APIs = []policy.API{api}
	return set
}
