// Package apim speaks to WSO2 API Manager: the calls that micro-gw setup made of 2.6, and
// those of 3.x and 4.x, in their order. It gives a [wso2.Export] of everything one label,
// or one API, needs, and hands usage files in ([Uploader]).
//
// It promises that an export is whole: a call that fails, a page that is missing or a reply
// of another shape ends it with an error that names the call. It speaks HTTPS only, follows
// no redirect, reads at most [MaxReply] bytes of a reply, and gives up after 30 s without a
// byte. It keeps no password and no token, and writes no file.
package apim

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"tidegate/policy/refusal"
	"time"
)

// MaxReply is the largest reply that is read, in bytes.
const MaxReply = 64 << 20

// silence is how long a server may say nothing.
const silence = 30 * time.Second

// An HTTPClient is a [http.Client] that was made by [NewHTTPClient].
type HTTPClient = http.Client

// NewHTTPClient returns a client that trusts the system's authorities and those in PEM, and
// follows no redirect. With insecure it checks neither certificate nor host name.
func NewHTTPClient(ca []byte, insecure bool) (*HTTPClient, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: insecure} //nolint:gosec // asked for by --insecure, which warns
	if ca != nil {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(ca) {
			return nil, errors.New("no certificate in PEM form")
		}
		c.RootCAs = pool
	}
	return &HTTPClient{
		Transport: &http.Transport{
			TLSClientConfig: c, Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true,
			DialContext:         (&net.Dialer{Timeout: silence}).DialContext,
			TLSHandshakeTimeout: silence, ResponseHeaderTimeout: silence, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 4,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// A StatusError is an answer with a status that was not expected.
type StatusError struct {
	Call   string
	Status int
	Body   string // its beginning
}

// Error returns "call: status N".
func (e *StatusError) Error() string { return fmt.Sprintf("%s: status %d", e.Call, e.Status) }

// statusOf returns the status of a StatusError, 0 for any other error.
func statusOf(err error) int {
	var s *StatusError
	if errors.As(err, &s) {
		return s.Status
	}
	return 0
}

// CheckURL reads the address of a server: https, a host, no path.
func CheckURL(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "", fmt.Errorf("%q is not a URL", s)
	case u.Scheme != "https":
		return "", fmt.Errorf("%q: want https://host:port: a password must not travel in the clear", s)
	case u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("%q: want https://host:port", s)
	}
	return "https://" + u.Host + strings.TrimRight(u.EscapedPath(), "/"), nil
}

// exchange sends one request and returns the body of a 200. call names it in errors.
func exchange(ctx context.Context, client *http.Client, server, call string, req *http.Request) ([]byte, http.Header, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(2*silence, func() { cancel(errSilent) })
	defer watch.Stop()
	resp, err := client.Do(req.WithContext(ctx))
	if err != nil {
		return nil, nil, connectError(ctx, server, err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	_, err = io.Copy(&b, io.LimitReader(&watched{resp.Body, watch}, MaxReply+1))
	switch {
	case err != nil:
		if context.Cause(ctx) != nil {
			err = context.Cause(ctx)
		}
		return nil, nil, fmt.Errorf("%s: %s: the reply broke off: %w", server, call, err)
	case b.Len() > MaxReply:
		return nil, nil, refusal.New(refusal.Limit, "%s: a reply of more than %d MiB", call, MaxReply>>20)
	case resp.StatusCode != http.StatusOK:
		return nil, nil, &StatusError{Call: call, Status: resp.StatusCode, Body: clip(b.String())}
	}
	return b.Bytes(), resp.Header, nil
}

func clip(s string) string {
	if len(s) > 400 {
		s = strings.ToValidUTF8(s[:400], "")
	}
	return s
}

var errSilent = fmt.Errorf("no byte for %s", silence)

// watched pushes a deadline on with every byte.
type watched struct {
	io.Reader
	t *time.Timer
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if n > 0 {
		w.t.Reset(silence)
	}
	return n, err
}

// connectError says why a server could not be reached, and what to do about it.
func connectError(ctx context.Context, server string, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	e := refusal.New("", "%s: cannot connect: %w", server, err)
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case errors.As(err, &authority):
		return e.WithHint("give the certificate of its authority with --ca FILE")
	case errors.As(err, &name):
		return e.WithHint("call it by a name in its certificate, or use --insecure, which checks nothing")
	case errors.Is(err, context.Canceled):
		return err
	}
	return e.WithHint("is API Manager running there? The address is that of its console, often port 9443")
}
