package wire

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// pool holds the HTTP/1.1 connections of one Client. The connection used last is used
// first, so that a lull lets the others grow old and go.
type pool struct {
	buffers buffers

	mu      sync.Mutex
	idle    []*clientConn // by age of rest, oldest first
	active  int           // in use or being dialed
	waiting []chan *clientConn
	closed  bool
	dialed  int64
}

func newClient(t Target) *Client {
	orDefault(&t.MaxActive, 1024)
	orDefault(&t.MaxIdle, 64)
	orDefault(&t.DialTimeout, 5*time.Second)
	orDefault(&t.WaitTime, t.DialTimeout)
	orDefault(&t.IdleTime, 30*time.Second)
	orDefault(&t.HeaderBytes, 64<<10)
	orDefault(&t.WriteStall, 30*time.Second)
	if t.TLS != nil {
		t.TLS = t.TLS.Clone()
		if t.TLS.ServerName == "" {
			t.TLS.ServerName, _, _ = net.SplitHostPort(t.Addr)
		}
		if t.Protocol == HTTP1 && t.TLS.NextProtos == nil {
			t.TLS.NextProtos = []string{"http/1.1"}
		}
	}
	if p := t.Proxy; p != nil && p.TLS != nil && p.TLS.ServerName == "" {
		q := *p
		q.TLS = p.TLS.Clone()
		q.TLS.ServerName, _, _ = net.SplitHostPort(p.Addr)
		t.Proxy = &q
	}
	c := &Client{target: t}
	if t.Protocol == HTTP2 {
		c.h2 = newH2Client(c)
	}
	return c
}

// get returns a connection that is fit for use: a kept one or a new one. With quick, a kept plain
// one is returned without asking the kernel about it: [Client.exchange] does.
func (c *Client) get(ctx context.Context, quick bool) (*clientConn, error) {
	p := &c.pool
	p.mu.Lock()
	for len(p.idle) > 0 && !p.closed {
		n := len(p.idle) - 1
		cc := p.idle[n]
		p.idle[n] = nil
		p.idle = p.idle[:n]
		p.active++
		p.mu.Unlock()
		if quick && cc.quick() && time.Since(cc.since) <= c.target.IdleTime || cc.fresh(c.target.IdleTime) {
			return cc, nil
		}
		cc.nc.Close()
		p.mu.Lock()
		p.active--
	}
	switch {
	case p.closed:
		p.mu.Unlock()
		return nil, &TryError{Stage: StageWait, Err: ErrClosed}
	case p.active < c.target.MaxActive:
		p.active++
		p.mu.Unlock()
	case len(p.waiting) >= c.target.MaxWaiting:
		p.mu.Unlock()
		return nil, &TryError{Stage: StageWait, Err: ErrBusy}
	default:
		ch := make(chan *clientConn, 1)
		p.waiting = append(p.waiting, ch)
		p.mu.Unlock()
		cc, err := c.wait(ctx, ch)
		if err != nil {
			return nil, &TryError{Stage: StageWait, Err: err}
		}
		if cc != nil {
			if cc.fresh(c.target.IdleTime) {
				return cc, nil
			}
			cc.nc.Close()
		}
	}
	// One of the active is ours.
	nc, err := c.dial(ctx)
	if err != nil {
		c.free()
		return nil, &TryError{Stage: StageDial, Err: err}
	}
	p.mu.Lock()
	p.dialed++
	p.mu.Unlock()
	return newClientConn(c, nc), nil
}

// wait waits for a connection or, when it gets nil, the right to dial one.
func (c *Client) wait(ctx context.Context, ch chan *clientConn) (*clientConn, error) {
	t := time.NewTimer(c.target.WaitTime)
	defer t.Stop()
	var err error
	select {
	case cc, ok := <-ch:
		if !ok {
			return nil, ErrClosed
		}
		return cc, nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-t.C:
		err = ErrBusy
	}
	p := &c.pool
	p.mu.Lock()
	for i, w := range p.waiting {
		if w == ch {
			p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
			p.mu.Unlock()
			return nil, err
		}
	}
	p.mu.Unlock()
	// It came at the same moment: pass it on.
	if cc, ok := <-ch; !ok {
		return nil, ErrClosed
	} else if cc != nil {
		c.put(cc)
	} else {
		c.free()
	}
	return nil, err
}

// put keeps a connection for the next call.
func (c *Client) put(cc *clientConn) {
	p := &c.pool
	now := time.Now()
	cc.since, cc.reused = now, true
	var old *clientConn
	aged := c.target.MaxAge > 0 && now.Sub(cc.born) > c.target.MaxAge
	p.mu.Lock()
	switch {
	case p.closed, aged && len(p.waiting) == 0:
		p.active--
		old = cc
	case aged:
		ch := p.waiting[0]
		p.waiting = p.waiting[1:]
		old = cc
		ch <- nil
	case len(p.waiting) > 0:
		ch := p.waiting[0]
		p.waiting = p.waiting[1:]
		ch <- cc
	case len(p.idle) >= c.target.MaxIdle:
		p.active--
		old = cc
	default:
		p.active--
		if len(p.idle) > 0 && now.Sub(p.idle[0].since) > c.target.IdleTime {
			old = p.idle[0]
			copy(p.idle, p.idle[1:])
			p.idle = p.idle[:len(p.idle)-1]
		}
		p.idle = append(p.idle, cc)
	}
	p.mu.Unlock()
	if old != nil {
		old.nc.Close()
	}
}

// free gives up the right to one connection.
func (c *Client) free() {
	p := &c.pool
	p.mu.Lock()
	if len(p.waiting) > 0 {
		ch := p.waiting[0]
		p.waiting = p.waiting[1:]
		ch <- nil
	} else {
		p.active--
	}
	p.mu.Unlock()
}

func (c *Client) close() {
	p := &c.pool
	p.mu.Lock()
	idle, waiting := p.idle, p.waiting
	p.idle, p.waiting, p.closed = nil, nil, true
	p.mu.Unlock()
	for _, cc := range idle {
		cc.nc.Close()
	}
	for _, ch := range waiting {
		close(ch)
	}
	if c.h2 != nil {
		c.h2.closeIdle()
	}
}

// CloseExpired closes kept connections that were not used for Target.IdleTime or that the
// backend has ended. Whoever checks the backend's health calls it now and then.
func (c *Client) CloseExpired() {
	p := &c.pool
	var old []*clientConn
	p.mu.Lock()
	kept := p.idle[:0]
	for _, cc := range p.idle {
		if cc.fresh(c.target.IdleTime) {
			kept = append(kept, cc)
		} else {
			old = append(old, cc)
		}
	}
	clear(p.idle[len(kept):])
	p.idle = kept
	p.mu.Unlock()
	for _, cc := range old {
		cc.nc.Close()
	}
}

func (c *Client) stats() ClientStats {
	p := &c.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	return ClientStats{Active: p.active, Idle: len(p.idle), Waiting: len(p.waiting), Dialed: p.dialed}
}

// dial connects: resolve, connect, CONNECT through the proxy, TLS, all within DialTimeout.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.target.DialTimeout)
	defer cancel()
	nc, err := c.dialPlain(ctx)
	if err != nil || c.target.TLS == nil {
		return nc, err
	}
	t := tls.Client(nc, c.target.TLS)
	if err := t.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, fmt.Errorf("tls handshake with %s: %w", c.target.Addr, err)
	}
	return t, nil
}

func (c *Client) dialPlain(ctx context.Context) (net.Conn, error) {
	dial := c.target.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	if c.target.Proxy == nil {
		return dial(ctx, "tcp", c.target.Addr)
	}
	nc, err := dial(ctx, "tcp", c.target.Proxy.Addr)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	if p := c.target.Proxy; p.TLS != nil {
		t := tls.Client(nc, p.TLS)
		if err := t.HandshakeContext(ctx); err != nil {
			nc.Close()
			return nil, fmt.Errorf("tls handshake with proxy %s: %w", p.Addr, err)
		}
		nc = t
	}
	if err := c.connect(ctx, nc); err != nil {
		nc.Close()
		return nil, fmt.Errorf("proxy %s: %w", c.target.Proxy.Addr, err)
	}
	return nc, nil
}

// connect asks a proxy for a tunnel (RFC 9110 §9.3.6).
func (c *Client) connect(ctx context.Context, nc net.Conn) error {
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(past) })
	defer stop()
	q := &http.Request{Method: "CONNECT", URL: &url.URL{Opaque: c.target.Addr}, Host: c.target.Addr, Header: http.Header{}}
	if a := c.target.Proxy.Authorization; a != "" {
		q.Header.Set("Proxy-Authorization", a)
	}
	if err := q.Write(nc); err != nil {
		return err
	}
	br := bufio.NewReader(io.LimitReader(nc, int64(c.target.HeaderBytes)))
	resp, err := http.ReadResponse(br, q)
	if err != nil {
		return err
	}
	if resp.StatusCode != 200 {
		return fmt.Errorf("CONNECT answered %s", resp.Status)
	}
	if br.Buffered() > 0 {
		return errors.New("bytes before the tunnel is used")
	}
	if !stop() {
		return ctx.Err()
	}
	return nil
}
