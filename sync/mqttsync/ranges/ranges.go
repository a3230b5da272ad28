// Package ranges reads parts of a file from a web server by range requests (RFC 9110 section
// 14), over HTTPS and nothing else. The server may be broken or hostile: every answer is held
// against what was asked, nothing is followed elsewhere, and no more is read or kept than was
// asked for. What the bytes are is the matter of the caller.
package ranges

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	bufferBytes = 16 << 10
	headerBytes = 8 << 10
	answerIn    = 60 * time.Second
	// A server that gives less than leastBytes of a file in each lookEvery is given up.
	leastBytes = 64 << 10
	lookEvery  = 5 * time.Minute
)

// A Reason says in one word why a server was given up.
type Reason string

// The reasons.
const (
	Status   Reason = "status"   // not what a range request is answered with
	Redirect Reason = "redirect" // somewhere else
	NoRange  Reason = "no-range" // the whole file, or another part of it
	Size     Reason = "size"     // the file has another length
	Encoding Reason = "encoding" // the bytes are not as they lie in the file
	Broken   Reason = "broken"   // the connection failed, or ended too early
	Slow     Reason = "slow"
)

// An Error is why a part could not be had.
type Error struct {
	Reason Reason
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func fault(r Reason, format string, args ...any) error {
	return &Error{r, fmt.Errorf(format, args...)}
}

// Options say how a server is reached. The zero value is a direct connection with the system's
// certificates.
type Options struct {
	TLS   *tls.Config // it is cloned
	Proxy *url.URL    // outbound HTTP proxy; nil: none
	// Dial makes the TCP connection, to the proxy if there is one; nil: the system's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Rate is how many bytes a second Dial lets through at most, so that a server is not blamed
	// for it; 0: no cap.
	Rate int64
}

// A Client reads from servers. Its methods are safe to call together.
type Client struct {
	http  *http.Client
	least int64 // bytes in each lookEvery
}

// NewClient returns a client. It keeps one idle connection for a minute, until Close.
func NewClient(o Options) *Client {
	t := &http.Transport{
		DialContext: o.Dial, TLSHandshakeTimeout: 30 * time.Second, ResponseHeaderTimeout: answerIn,
		MaxResponseHeaderBytes: headerBytes, DisableCompression: true, MaxIdleConns: 1, IdleConnTimeout: time.Minute,
		ReadBufferSize: bufferBytes, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1
	}
	if o.Proxy != nil {
		t.Proxy = http.ProxyURL(o.Proxy)
	}
	if o.Dial == nil {
		t.DialContext = (&net.Dialer{Timeout: 30 * time.Second}).DialContext
	}
	t.TLSClientConfig = &tls.Config{}
	if o.TLS != nil {
		t.TLSClientConfig = o.TLS.Clone()
	}
	if t.TLSClientConfig.MinVersion == 0 {
		t.TLSClientConfig.MinVersion = tls.VersionTLS12
	}
	c := &Client{
		http:  &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		least: leastBytes,
	}
	if o.Rate > 0 {
		c.least = min(c.least, o.Rate*int64(lookEvery/time.Second)/2)
	}
	return c
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// ParseURL reads the address of a file: https, with a host, and nothing that is a secret.
func ParseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, err
	case u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "":
		return nil, fmt.Errorf("%s: want https://host/path", u.Redacted())
	case u.User != nil || u.Fragment != "":
		return nil, fmt.Errorf("%s: an address has no user, password or fragment", u.Redacted())
	}
	return u, nil
}

// HostOf returns the host of an address in lower case, with its port.
func HostOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// ParseHost reads "host" or "host:port" and returns it as [HostOf] does.
func ParseHost(s string) (string, error) {
	u, err := ParseURL("https://" + s + "/")
	if err != nil || u.Path != "/" || u.RawQuery != "" || u.Host != s {
		return "", fmt.Errorf("%q is not host or host:port", s)
	}
	return HostOf(u), nil
}

// A File is a file on a server, read by one goroutine without long pauses: a server that gives
// less than 64 KiB in 5 minutes, over all reads together, is given up. With a Rate, half of what
// that lets through is enough.
type File struct {
	c     *Client
	u     *url.URL
	size  int64
	got   atomic.Int64
	seen  int64 // of got, when it was looked at
	since time.Time
}

// File returns the file of size bytes at u.
func (c *Client) File(u *url.URL, size int64) *File {
	return &File{c: c, u: u, size: size, since: time.Now()}
}

// Read reads the n bytes from off, and hands them to put in order, in pieces of up to 16 KiB that
// are valid until put returns. An error of put ends it and is returned as it is; any other is an
// [*Error], or that of ctx. 0 <= off, 0 < n, off+n <= size.
func (f *File) Read(ctx context.Context, off, n int64, put func([]byte) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer f.watch(cancel)()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.u.String(), nil)
	if err != nil {
		return err
	}
	r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	r.Header.Set("Accept-Encoding", "identity")
	r.Header.Set("User-Agent", "tidegate")
	resp, err := f.c.http.Do(r)
	if err != nil {
		return broken(ctx, err)
	}
	defer resp.Body.Close() // of what was not read nothing is: the connection ends
	if err := check(resp, f.size, off, n); err != nil {
		return err
	}
	body := &counted{resp.Body, &f.got}
	buf := make([]byte, min(n, bufferBytes))
	for left := n; left > 0; {
		k, err := io.ReadFull(body, buf[:min(left, bufferBytes)])
		left -= int64(k)
		if k > 0 {
			if e := put(buf[:k]); e != nil {
				return e
			}
		}
		if err != nil {
			return broken(ctx, err)
		}
	}
	return nil
}

// counted counts what is read.
type counted struct {
	io.Reader
	got *atomic.Int64
}

// Read implements io.Reader.
func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.got.Add(int64(n))
	return n, err
}

// watch cancels when too little has come for a while, until stop.
func (f *File) watch(cancel context.CancelCauseFunc) (stop func()) {
	done := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		for {
			timer := time.NewTimer(time.Until(f.since.Add(lookEvery)))
			select {
			case <-done:
				timer.Stop()
				return
			case <-timer.C:
			}
			got := f.got.Load()
			if got-f.seen < f.c.least {
				cancel(errSlow)
				return
			}
			f.seen, f.since = got, time.Now()
		}
	})
	return func() { close(done); looking.Wait() }
}

var errSlow = errors.New("the server sends next to nothing")

// broken says why nothing comes any more.
func broken(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errSlow):
		return &Error{Slow, errSlow}
	case cause != nil:
		return cause
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	var u *url.Error
	if errors.As(err, &u) { // it names the address once more
		err = u.Err
	}
	return &Error{Broken, err}
}

// check holds an answer against what was asked.
func check(r *http.Response, size, off, n int64) error {
	switch {
	case r.StatusCode/100 == 3:
		return fault(Redirect, "answers %s: not followed", r.Status)
	case r.StatusCode == http.StatusOK:
		return fault(NoRange, "answers with the whole file: the server knows no ranges")
	case r.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return fault(Size, "answers %s: the file is shorter than the bundle", r.Status)
	case r.StatusCode != http.StatusPartialContent:
		return fault(Status, "answers %s", r.Status)
	}
	if e := r.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return fault(Encoding, "answers with the encoding %.20q", e)
	}
	got := r.Header.Get("Content-Range")
	part, of, found := strings.Cut(got, "/")
	switch {
	case !found || part != fmt.Sprintf("bytes %d-%d", off, off+n-1):
		return fault(NoRange, "asked for bytes %d to %d, and the answer has %.60q", off, off+n-1, got)
	case of != fmt.Sprint(size):
		return fault(Size, "the file has %.20s bytes, and the bundle %d", of, size)
	case r.ContentLength >= 0 && r.ContentLength != n:
		return fault(NoRange, "asked for %d bytes, and the answer has %d", n, r.ContentLength)
	}
	return nil
}
