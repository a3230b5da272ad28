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
	}
	if profile.AnyName || len(profile.Pins) > 0 {
		c.VerifyConnection = func(cs tls.ConnectionState) error {
			chains := cs.VerifiedChains
			if profile.AnyName {
				var err error
				if chains, err = verifyChain(c, cs); err != nil {
					return err
				}
			}
			if len(profile.Pins) == 0 {
				return nil
			}
			return verifyPin(profile.Pins, chains)
		}
	}
	return nil
}

func verifyChain(c *tls.Config, cs tls.ConnectionState) ([][]*x509.Certificate, error) {
	if len(cs.PeerCertificates) == 0 {
		return nil, errors.New("the backend showed no certificate")
	}
	o := x509.VerifyOptions{Roots: c.RootCAs, Intermediates: x509.NewCertPool()}
	if c.Time != nil {
		o.CurrentTime = c.Time()
	}
	for _, cert := range cs.PeerCertificates[1:] {
		o.Intermediates.AddCert(cert)
	}
	return cs.PeerCertificates[0].Verify(o)
}

// verifyPin looks for a pinned key in the chains that were verified. What a peer sends
// beside them proves nothing: certificates are public, and anybody can send them along.
func verifyPin(pins [][]byte, chains [][]*x509.Certificate) error {
	for _, chain := range chains {
		for _, cert := range chain {
			sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
			for _, p := range pins {
				if subtle.ConstantTimeCompare(sum[:], p) == 1 {
					return nil
				}
			}
		}
	}
	return errors.New("no certificate of the backend has a pinned key")
}
