package appliance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"tidegate/platform/durable"
	"tidegate/platform/identity"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
	"time"
)

// reporter signs with the report key of the device (envelope.Signer).
type reporter struct{ id *identity.Identity }

// Public returns the report key.
func (r reporter) Public() envelope.PublicKey { return envelope.PublicKey(r.id.ReportKey()) }

// Sign signs tbs.
func (r reporter) Sign(tbs []byte) ([]byte, error) { return r.id.Sign(tbs), nil }

// checkpoints signs the state of the audit log (audit.Sealer).
type checkpoints struct{ id *identity.Identity }

// SealCheckpoint signs that entry n of the log has the hash h.
func (c checkpoints) SealCheckpoint(n uint64, h [32]byte) ([]byte, error) {
	cp := &trust.Checkpoint{N: n, Head: h}
	cp.Seq, cp.Issued = max(n, 1), 0
	payload, err := cp.Marshal()
	if err != nil {
		return nil, err
	}
	return envelope.Sign(envelope.Checkpoint, payload, reporter(c))
}

// deviceID is the id of the device as trust knows it.
func deviceID(id *identity.Identity) trust.DeviceID {
	return trust.DeviceIDOf(reporter{id}.Public())
}

// sealingKeys are the keys that secrets can be sealed for.
func sealingKeys(id *identity.Identity) []trust.SealKey {
	var keys []trust.SealKey
	for _, k := range id.SealingKeys() {
		keys = append(keys, trust.SealKey{KEM: uint64(k.KEM), Public: k.Public})
	}
	return keys
}

// versionNumbers reads "1.2.3" or "v1.2.3-4-gabc"; anything else is 0.0.0.
func versionNumbers(s string) (v [3]uint64) {
	parts := strings.SplitN(strings.TrimPrefix(s, "v"), ".", 3)
	for i, p := range parts {
		end := 0
		for end < len(p) && p[end] >= '0' && p[end] <= '9' {
			end++
		}
		n, err := strconv.ParseUint(p[:end], 10, 32)
		if err != nil {
			return [3]uint64{}
		}
		v[i] = n
	}
	return v
}

// certificate loads the configured certificate, or the one that the device made for
// itself; it is made at the first start.
func (a *App) certificate(certFile, keyFile string) (tls.Certificate, error) {
	if certFile != "" {
		return tls.LoadX509KeyPair(certFile, keyFile)
	}
	name := filepath.Join(a.cfg.Data, "tls.pem")
	b, err := os.ReadFile(name)
	if err == nil {
		return tls.X509KeyPair(b, b)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return tls.Certificate{}, err
	}
	if b, err = selfSigned(a.deviceName()); err != nil {
		return tls.Certificate{}, err
	}
	if err := durable.WriteFile(name, b, 0o600); err != nil {
		a.log.Warn("the certificate that was made lives until the next start only", "error", err)
	}
	return tls.X509KeyPair(b, b)
}

// deviceName is the id of the device, or a stand-in while it has none.
func (a *App) deviceName() string {
	if a.identity == nil {
		return "device"
	}
	return a.identity.ID().String()
}

// selfSigned makes a certificate for the names a device is reached by at its own site. It
// is valid for any time: the device's clock may be anything.
func selfSigned(name string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	hosts := []string{"localhost", name}
	if h, err := os.Hostname(); err == nil {
		hosts = append(hosts, h, h+".local")
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Tidegate " + name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: hosts, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	out := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return append(out, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...), nil
}
