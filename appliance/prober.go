package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"tidegate/store"
	"tidegate/sync/bundle"
	"time"
)

// prober asks the device about itself, through its own listeners (intake.Prober).
type prober struct{ a *App }

// healthTimeout bounds the device's request to itself.
const healthTimeout = 5 * time.Second

// Health returns why the device does not work, or nil.
func (p *prober) Health(ctx context.Context) error {
	if err := p.storeReads(); err != nil {
		return err
	}
	return p.answersItself(ctx)
}

// storeReads returns why the store cannot be read, where it should be.
func (p *prober) storeReads() error {
	if p.a.dir.Mode() != store.Normal {
		return nil
	}
	if err := p.a.dir.State().View(func(*store.Tx) error { return nil }); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// answersItself returns why the device does not answer its own request.
func (p *prober) answersItself(ctx context.Context) error {
	status, err := p.get(ctx, http.MethodGet, "/health", healthTimeout)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("own health request: status %d", status)
	}
	return nil
}

// Probe sends one request of a manifest to the device itself.
func (p *prober) Probe(ctx context.Context, r bundle.Probe) (int, error) {
	return p.get(ctx, r.Method, r.Target, r.Timeout())
}

// Answers returns how many requests were answered since the start, and the 5xx among them.
func (p *prober) Answers() (all, failed uint64) { return p.a.gateway.Stats().Answers() }

// get sends a request to the first listener that is up.
func (p *prober) get(ctx context.Context, method, target string, timeout time.Duration) (int, error) {
	scheme, ln := "http", p.a.listeners.http
	if ln == nil {
		scheme, ln = "https", p.a.listeners.https
	}
	if ln == nil {
		return 0, errors.New("no listener is up")
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, scheme+"://device.invalid"+target, nil)
	if err != nil {
		return 0, err
	}
	t := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
			var d net.Dialer
			for _, addr := range reachable(ln.Addr()) {
				if conn, err = d.DialContext(ctx, "tcp", addr); err == nil {
					break
				}
			}
			return conn, err
		},
		// The request goes to ourselves over loopback; what the certificate says does not matter.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	defer t.CloseIdleConnections()
	resp, err := t.RoundTrip(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)); err != nil {
		return 0, err
	}
	return resp.StatusCode, nil
}

// reachable turns a bound address into those to dial, in order. No name is looked up: a
// device may have no hosts file, and its name server may be days away.
func reachable(a net.Addr) []string {
	t, ok := a.(*net.TCPAddr)
	if !ok || !t.IP.IsUnspecified() {
		return []string{a.String()}
	}
	port := fmt.Sprint(t.Port)
	return []string{net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("::1", port)}
}
