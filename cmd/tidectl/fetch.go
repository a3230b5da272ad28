package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"tidegate/policy"
	"tidegate/policy/project"
	"time"
)

// fetchTime bounds one fetch of a build.
const fetchTime = 20 * time.Second

// fetcher fetches what a build puts into a bundle. The environment's proxy is used: this is
// somebody's workstation, or a CI job behind one.
func fetcher(ctx context.Context) project.Fetcher {
	return func(url string, profile *policy.TLS, limit int64) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, fetchTime)
		defer cancel()
		c, err := fetchTLS(profile)
		if err != nil {
			return nil, err
		}
		t := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: c, ForceAttemptHTTP2: true, DisableKeepAlives: true}
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, err
		}
		resp, err := t.RoundTrip(r) // no redirects: a device would not follow them either
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s: %s", url, resp.Status)
		}
		b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
		if err != nil {
			return nil, err
		}
		if int64(len(b)) > limit {
			return nil, fmt.Errorf("%s: more than %d bytes", url, limit)
		}
		return b, nil
	}
}

// fetchTLS is what a profile says of authorities, name and version. The workstation has no
// client key to show.
func fetchTLS(profile *policy.TLS) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if profile == nil {
		return c, nil
	}
	if profile.AnyName {
		return nil, errors.New("a profile with verify_hostname: false is not used for keys that go into a bundle")
	}
	c.MinVersion, c.ServerName = max(c.MinVersion, profile.MinVersion), profile.ServerName
	if len(profile.Pins) > 0 {
		c.VerifyConnection = func(cs tls.ConnectionState) error { return pinned(profile.Pins, cs.VerifiedChains) }
	}
	for _, der := range profile.CAs {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		if c.RootCAs == nil {
			c.RootCAs = x509.NewCertPool()
		}
		c.RootCAs.AddCert(cert)
	}
	return c, nil
}

// pinned looks for a pinned key in the chains that were verified.
func pinned(pins [][]byte, chains [][]*x509.Certificate) error {
	for _, chain := range chains {
		for _, cert := range chain {
			sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
			if slices.ContainsFunc(pins, func(p []byte) bool { return bytes.Equal(p, sum[:]) }) {
				return nil
			}
		}
	}
	return errors.New("no certificate of the server has a pinned key")
}
