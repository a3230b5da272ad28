package upstream

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"tidegate/policy"
)

// applyProfile sets what profile says on c.
func applyProfile(c *tls.Config, profile *policy.TLS, secret func(policy.Secret) []byte) error {
	if profile.ServerName != "" {
		c.ServerName = profile.ServerName
	}
	if profile.MinVersion != 0 {
		c.MinVersion = max(profile.MinVersion, tls.VersionTLS12)
	}
	if len(profile.CAs) > 0 {
		c.RootCAs = x509.NewCertPool()
		for _, der := range profile.CAs {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return fmt.Errorf("backend TLS profile %q: CA: %w", profile.Name, err)
			}
			c.RootCAs.AddCert(cert)
		}
	}
	if len(profile.ClientCert) > 0 {
		key := secret(profile.ClientKey)
		if key == nil {
			return fmt.Errorf("backend TLS profile %q: secret %q is not in the bundle", profile.Name, profile.ClientKey)
		}
		block, _ := pem.Decode(key)
		if block == nil {
			return fmt.Errorf("backend TLS profile %q: the client key is not PEM", profile.Name)
		}
		k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return fmt.Errorf("backend TLS profile %q: client key: %w", profile.Name, err)
		}
		c.Certificates = []tls.Certificate{{Certificate: profile.ClientCert, PrivateKey: k}}
	}
	if profile.AnyName {
		// The chain is still verified, only the name is not.
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(cs tls.ConnectionState) error { return verifyChain(c, cs) }
	}
	if len(profile.Pins) > 0 {
		inner := c.VerifyConnection
		c.VerifyConnection = func(cs tls.ConnectionState) error {
			if inner != nil {
				if err := inner(cs); err != nil {
					return err
				}
			}
			return verifyPin(profile.Pins, cs)
		}
	}
	return nil
}

func verifyChain(c *tls.Config, cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("the backend showed no certificate")
	}
	o := x509.VerifyOptions{Roots: c.RootCAs, Intermediates: x509.NewCertPool()}
	if c.Time != nil {
		o.CurrentTime = c.Time()
	}
	for _, cert := range cs.PeerCertificates[1:] {
		o.Intermediates.AddCert(cert)
	}
	_, err := cs.PeerCertificates[0].Verify(o)
	return err
}

func verifyPin(pins [][]byte, cs tls.ConnectionState) error {
	for _, cert := range cs.PeerCertificates {
		sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
		for _, p := range pins {
			if subtle.ConstantTimeCompare(sum[:], p) == 1 {
				return nil
			}
		}
	}
	return errors.New("no certificate of the backend has a pinned key")
}
