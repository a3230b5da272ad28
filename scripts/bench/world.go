package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A world is what all measurements of a run share.
type world struct {
	options
	dir       string // temporary
	upstream  string // host:port
	child     *exec.Cmd
	issuer    *rsa.PrivateKey
	issuerPEM string // file with its public half
	pem       string // file with the certificate and key of TLS
	tokens    [2]string
	signer    *signer
	report    report
}

// A gateway is a running program and where it listens.
type gateway struct {
	*process
	can           string // scenarios
	plain, secure map[string]int
	start         time.Duration // from exec to the first call
	dir           string        // of a device
	admin, socket string
}

// newWorld makes keys and starts the upstream.
func newWorld(o options) (_ *world, err error) {
	w := &world{options: o}
	if w.rounds == 0 {
		w.rounds = map[bool]int{false: 3, true: 5}[o.full]
	}
	if w.time == 0 {
		w.time = map[bool]time.Duration{false: 1500 * time.Millisecond, true: 5 * time.Second}[o.full]
	}
	if err := raiseFiles(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return nil, err
	}
	if w.tidegate, err = filepath.Abs(o.tidegate); err != nil {
		return nil, err
	}
	if w.dir, err = os.MkdirTemp("", "tidegate-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if err := os.Chmod(w.dir, 0o755); err != nil { // workers of nginx are another user
		return nil, err
	}
	if err := w.keys(); err != nil {
		return nil, err
	}
	if w.signer, err = newSigner(); err != nil {
		return nil, err
	}
	w.report.begin()
	return w, w.startUpstream()
}

func (w *world) close() {
	if w.child != nil {
		_ = w.child.Process.Kill()
		_ = w.child.Wait()
	}
	_ = os.RemoveAll(w.dir)
}

// say prints to standard output and keeps the text for the report.
func (w *world) say(format string, args ...any) {
	fmt.Printf(format, args...)
}

// raiseFiles lets this process and its children open as many files as the system allows.
func raiseFiles() error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: max(l.Max, 1<<17), Max: max(l.Max, 1<<17)}) == nil {
		return nil
	}
	l.Cur = l.Max // without the privilege to raise it
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
}

// keys makes the token issuer, two tokens, and the certificate of TLS.
func (w *world) keys() (err error) {
	if w.issuer, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(w.issuer.Public())
	if err != nil {
		return err
	}
	w.issuerPEM = filepath.Join(w.dir, "issuer.pem")
	if err := os.WriteFile(w.issuerPEM, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644); err != nil {
		return err
	}
	for i, key := range []string{"", "bench-app"} {
		if w.tokens[i], err = w.token("tester", key); err != nil {
			return err
		}
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "127.0.0.1"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return err
	}
	w.pem = filepath.Join(w.dir, "tls.pem")
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...)
	return os.WriteFile(w.pem, both, 0o600)
}

// token signs a token, with a consumer key if it is to have a subscription.
func (w *world) token(subject, consumer string) (string, error) {
	claims := jwt.MapClaims{"iss": issuerName, "sub": subject, "aud": "bench", "iat": time.Now().Unix(), "exp": time.Now().Add(24 * time.Hour).Unix(), "jti": subject + consumer}
	if consumer != "" {
		claims["consumerKey"] = consumer
	}
	return jwt.NewWithClaims(jwt.SigningMethodRS256, claims).SignedString(w.issuer)
}

// startUpstream runs this program once more as the upstream.
func (w *world) startUpstream() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	w.upstream = fmt.Sprintf("127.0.0.1:%d", freePort())
	w.child = exec.Command(self, "upstream", w.upstream)
	w.child.Stderr = os.Stderr
	w.child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := w.child.Start(); err != nil {
		return err
	}
	for range 1000 {
		c, err := net.Dial("tcp", w.upstream)
		if err == nil {
			return c.Close()
		}
		time.Sleep(time.Millisecond)
	}
	return errors.New("the upstream does not listen")
}

// request returns the call of a scenario. more is put behind the path.
func (w *world) request(scenario, more string) []byte {
	return w.requestTo("/"+strings.ToLower(scenario)+"/v1/pet/17"+more, scenario)
}

func (w *world) requestTo(path, scenario string, fields ...string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: gateway.example\r\nUser-Agent: bench/1.0\r\nAccept: application/json\r\n", path)
	if strings.Contains(scenario, "J") {
		t := w.tokens[0]
		if strings.Contains(scenario, "A") {
			t = w.tokens[1]
		}
		b.WriteString("Authorization: Bearer " + t + "\r\n")
	}
	for _, f := range fields {
		b.WriteString(f + "\r\n")
	}
	b.WriteString("\r\n")
	return []byte(b.String())
}

// clientTLS trusts anybody: what is measured is the cost of TLS.
func clientTLS() *tls.Config { return &tls.Config{InsecureSkipVerify: true} } //nolint:gosec // the peer is our own child on loopback

// local returns an address of the loopback net.
func local(port int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port)) //nolint:gosec // a port
}
