package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/trust"
	"time"
)

// deviceKeys are the devices of the runs.
func deviceID(name string) trust.DeviceID { return trust.DeviceIDOf(mqttsynctest.Key(name).Public()) }

// certificates makes an authority, and a certificate for the broker and for everybody.
func certificates(o options) error {
	dir := o.dir
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: mqttsynctest.Now().Add(20 * 365 * 24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	errs := []error{put(dir, "ca.pem", "CERTIFICATE", der)}
	names := []string{"broker", "fleet-collector-1", "fleet-collector-2", "fleet-publisher-1", deviceID("device-1").String(), deviceID("device-2").String()}
	if o.name != "" {
		names = append(names, o.name)
	}
	for i, cn := range names {
		errs = append(errs, leaf(dir, cn, int64(i+2), ca, caKey))
	}
	return errors.Join(errs...)
}

func leaf(dir, cn string, serial int64, ca *x509.Certificate, caKey *ecdsa.PrivateKey) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: cn}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(put(dir, cn+".pem", "CERTIFICATE", der), put(dir, cn+".key", "PRIVATE KEY", pkcs8))
}

func put(dir, name, kind string, b []byte) error {
	// The broker drops its rights before it reads them, and all of it is thrown away.
	return os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o644) //nolint:gosec // see above
}

// as returns the TLS configuration of somebody.
func as(dir, cn string) (*tls.Config, error) {
	b, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, err
	}
	c := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	c.RootCAs.AppendCertsFromPEM(b)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, cn+".pem"), filepath.Join(dir, cn+".key"))
	c.Certificates = []tls.Certificate{pair}
	return c, err
}
