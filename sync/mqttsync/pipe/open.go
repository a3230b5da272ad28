package pipe

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/gorilla/websocket"
)

// sendBuffer bounds what lies between us and a slow link, so that pings are not queued behind
// minutes of data.
const sendBuffer = 16 << 10

// dialWait is how long it may take until a connection can be used.
const dialWait = 30 * time.Second

// ports are the schemes that a broker can have.
var ports = map[string]string{
	"tcp": "1883", "mqtt": "1883", "tls": "8883", "mqtts": "8883", "ssl": "8883", "ws": "80", "wss": "443",
}

// ParseURL reads the address of a broker.
func ParseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, err
	}
	if ports[u.Scheme] == "" {
		return nil, fmt.Errorf("%s: scheme %q is not one of tls, wss, tcp, ws", u.Redacted(), u.Scheme)
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("%s: no host", u.Redacted())
	}
	return u, nil
}

// Secure reports whether u is reached over TLS.
func Secure(u *url.URL) bool {
	switch u.Scheme {
	case "tls", "mqtts", "ssl", "wss":
		return true
	}
	return false
}

// open makes the guarded connection: TCP, through a proxy perhaps, TLS, websocket, guard.
func open(ctx context.Context, o Options) (*guard, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	port := o.URL.Port()
	if port == "" {
		port = ports[o.URL.Scheme]
	}
	if port == "" {
		return nil, fmt.Errorf("scheme %q of a broker is not known", o.URL.Scheme)
	}
	raw, err := dialTCP(ctx, o, net.JoinHostPort(o.URL.Hostname(), port))
	if err != nil {
		return nil, err
	}
	line := &paced{Conn: raw, allowance: newAllowance(o), idle: o.KeepAlive*3/2 + 5*time.Second}
	var conn net.Conn = line
	ended := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer ended()
	if Secure(o.URL) {
		if conn, err = handshake(ctx, conn, o); err != nil {
			return nil, err
		}
	}
	if o.URL.Scheme == "ws" || o.URL.Scheme == "wss" {
		if conn, err = upgrade(ctx, conn, o.URL); err != nil {
			return nil, err
		}
	}
	if !ended() {
		return nil, ctx.Err()
	}
	return newGuard(conn, line, o), nil
}

func dialTCP(ctx context.Context, o Options, addr string) (net.Conn, error) {
	dial := o.Dial
	if dial == nil {
		d := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 60 * time.Second, Interval: 20 * time.Second, Count: 6}}
		dial = d.DialContext
	}
	to := addr
	if o.Proxy != nil {
		to = o.Proxy.Host
		if o.Proxy.Port() == "" {
			to = net.JoinHostPort(o.Proxy.Hostname(), "3128")
		}
	}
	conn, err := dial(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	if t, ok := conn.(*net.TCPConn); ok && o.Buffer == Small {
		_ = t.SetWriteBuffer(sendBuffer)
	}
	if o.Proxy == nil {
		return conn, nil
	}
	ended := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err = connect(conn, o.Proxy, addr)
	if !ended() {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("proxy %s: %w", o.Proxy.Redacted(), err)
	}
	return conn, nil
}

// connect asks an HTTP proxy for a tunnel (RFC 9110 section 9.3.6). Closing conn ends it.
func connect(conn net.Conn, proxy *url.URL, addr string) error {
	head := "CONNECT " + addr + " HTTP/1.1\r\nHost: " + addr + "\r\n"
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		head += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		return err
	}
	r := bufio.NewReader(io.LimitReader(conn, 16<<10))
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %s", resp.Status)
	}
	if r.Buffered() > 0 {
		return errors.New("sent more than an answer")
	}
	return nil
}

func handshake(ctx context.Context, conn net.Conn, o Options) (net.Conn, error) {
	c := &tls.Config{}
	if o.TLS != nil {
		c = o.TLS.Clone()
	}
	if c.ServerName == "" {
		c.ServerName = o.URL.Hostname()
	}
	if c.MinVersion == 0 {
		c.MinVersion = tls.VersionTLS12
	}
	t := tls.Client(conn, c)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return t, nil
}

// upgrade makes a websocket of a connection (RFC 6455), subprotocol mqtt.
func upgrade(ctx context.Context, conn net.Conn, u *url.URL) (net.Conn, error) {
	to := *u
	to.User = nil
	given := func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	d := websocket.Dialer{
		NetDialContext: given, NetDialTLSContext: given, Subprotocols: []string{"mqtt"},
		HandshakeTimeout: dialWait, ReadBufferSize: 4 << 10, WriteBufferSize: 4 << 10,
	}
	ws, resp, err := d.DialContext(ctx, to.String(), nil)
	if err != nil {
		_ = conn.Close()
		if resp != nil {
			err = fmt.Errorf("%w: %s", err, resp.Status)
		}
		return nil, err
	}
	ws.SetReadLimit(MaxPacket + 16)
	return &socket{Conn: ws}, nil
}

// A socket is a websocket as a stream of bytes.
type socket struct {
	*websocket.Conn
	rest io.Reader
}

// Read reads from binary messages, one after the other.
func (s *socket) Read(b []byte) (int, error) {
	for {
		if s.rest == nil {
			kind, r, err := s.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, errors.New("websocket: text from a broker")
			}
			s.rest = r
		}
		n, err := s.rest.Read(b)
		if err == io.EOF {
			s.rest, err = nil, nil
			if n == 0 {
				continue
			}
		}
		return n, err
	}
}

// Write sends b as one binary message.
func (s *socket) Write(b []byte) (int, error) {
	if err := s.WriteMessage(websocket.BinaryMessage, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// SetDeadline sets both deadlines.
func (s *socket) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}
