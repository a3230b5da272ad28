package mqttsync_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"tidegate/platform/clock"
	"tidegate/sync/mqttsync"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/trust"
	"time"
)

// secured puts TLS before the broker: a certificate for broker.test, valid between two times.
func (w *world) secured(from, to time.Time) (dial func(context.Context, string, string) (net.Conn, error), pool *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(w.t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: to, DNSNames: []string{"broker.test"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	check(w.t, err)
	leaf, err := x509.ParseCertificate(der)
	check(w.t, err)
	pool = x509.NewCertPool()
	pool.AddCert(leaf)
	conf := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		up, err := w.broker.Dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		ours, theirs := net.Pipe()
		go func() {
			s := tls.Server(theirs, conf)
			go func() { _, _ = io.Copy(up, s); _ = up.Close() }()
			_, _ = io.Copy(s, up)
			_ = s.Close()
		}()
		return ours, nil
	}, pool
}

func TestADeviceWithoutTheTimeAsksForItBeforeItJudgesACertificate(t *testing.T) {
	later := mqttsynctest.Now().Add(30 * 24 * time.Hour)
	for _, tc := range []struct {
		name, server string
		at           time.Time // by the publisher
		want         bool
	}{
		{"issued while the device was off", "broker.test", later.Add(24 * time.Hour), true},
		{"for another name as well", "other.test", later.Add(24 * time.Hour), false},
		{"and still not valid at the attested time", "broker.test", later.Add(-24 * time.Hour), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in(t, func(w *world) {
				s := w.fleet.Signer(trust.RoleTime)
				w.publishAt(tc.at, &s)
				w.collect(nil)
				dial, pool := w.secured(later, later.Add(365*24*time.Hour))
				var d *mqttsynctest.Device
				w.startWith(func(o *mqttsynctest.DeviceOptions) {
					o.Dial, o.Broker = dial, "tls://broker.test:8883"
					o.Change = func(m *mqttsync.Options) {
						m.TLS = &tls.Config{RootCAs: pool, ServerName: tc.server, Time: func() time.Time { return d.Clock.Now().Estimate }}
						m.RetryCap = 10 * time.Second
					}
				}, func(v *mqttsynctest.Device) { d = v })
				time.Sleep(10 * time.Minute)
				l := d.Client.Link()
				if got := l.State == mqttsync.Connected; got != tc.want {
					t.Errorf("connected: %v, want %v (clock %s, link %+v)", got, tc.want, d.Clock.Now().Quality, l)
				}
				if tc.server == "other.test" && (d.Clock.Now().Quality != clock.Unsynced || !strings.Contains(l.Hint, "another name")) {
					t.Errorf("clock %s, hint %q: a broker with another name was asked for the time", d.Clock.Now().Quality, l.Hint)
				}
			})
		})
	}
}

// A window may be four minutes: the connection for the time is followed by the one that counts.
func TestWhoAsksADeviceWithoutTheTimeDoesNotWaitForAnotherRound(t *testing.T) {
	in(t, func(w *world) {
		later := mqttsynctest.Now().Add(30 * 24 * time.Hour)
		s := w.fleet.Signer(trust.RoleTime)
		w.publishAt(later.Add(24*time.Hour), &s)
		w.collect(nil)
		dial, pool := w.secured(later, later.Add(365*24*time.Hour))
		var d *mqttsynctest.Device
		w.startWith(func(o *mqttsynctest.DeviceOptions) {
			o.Dial, o.Broker = dial, "tls://broker.test:8883"
			o.Change = func(m *mqttsync.Options) {
				m.TLS = &tls.Config{RootCAs: pool, ServerName: "broker.test", Time: func() time.Time { return d.Clock.Now().Estimate }}
				m.Mode = mqttsync.Demand
			}
		}, func(v *mqttsynctest.Device) { d = v })
		w.record(100, 1)
		took, err := w.sync()
		check(t, err)
		if n := d.Queue.Status().Classes[0].Count; n != 0 || took > 2*time.Minute {
			t.Errorf("%d batches wait after %s", n, took)
		}
	})
}

// startWith runs the device after it was handed out: its clock is needed to make it.
func (w *world) startWith(change func(*mqttsynctest.DeviceOptions), got func(*mqttsynctest.Device)) {
	w.t.Helper()
	o := mqttsynctest.DeviceOptions{Dir: w.dir + "/device", Key: w.key, Fleet: w.fleet}
	change(&o)
	d, err := mqttsynctest.OpenDevice(o)
	check(w.t, err)
	got(d)
	check(w.t, d.Start(context.Background()))
	w.device = d
}
