package mqttsynctest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"time"
)

// A Web is a web server in this process that is reached without a network.
type Web struct {
	Roots  *x509.CertPool // that its certificate leads to
	server *http.Server
	ln     *memoryListener
}

// NewWeb starts a web server whose certificate is for name.
func NewWeb(name string, h http.Handler) (*Web, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: Now().Add(-time.Hour), NotAfter: Now().Add(365 * 24 * time.Hour), DNSNames: []string{name},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	w := &Web{Roots: x509.NewCertPool(), ln: &memoryListener{conns: make(chan net.Conn), closed: make(chan struct{})}}
	w.Roots.AddCert(leaf)
	conf := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	w.server = &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)} //nolint:gosec // a test's
	go func() { _ = w.server.Serve(tls.NewListener(w.ln, conf)) }()
	return w, nil
}

// Dial connects to the server.
func (w *Web) Dial(ctx context.Context, _, _ string) (net.Conn, error) { return w.ln.dial(ctx) }

// Close ends the server and its connections.
func (w *Web) Close() error { return w.server.Close() }
