package mqttsynctest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
)

// A Broker is an MQTT broker in this process that is reached without a network, so that
// everything on both sides runs by the clock of the test.
type Broker struct {
	Server *mochi.Server
	ln     *memoryListener
}

// NewBroker starts a broker that lets everybody do everything.
func NewBroker() (*Broker, error) {
	c := mochi.NewDefaultServerCapabilities()
	c.MaximumInflight, c.ReceiveMaximum, c.MaximumPacketSize = 8192, 1024, 1<<20
	s := mochi.New(&mochi.Options{Capabilities: c, InlineClient: true, Logger: slog.New(slog.DiscardHandler)})
	if err := s.AddHook(new(auth.AllowHook), nil); err != nil {
		return nil, err
	}
	b := &Broker{Server: s, ln: &memoryListener{conns: make(chan net.Conn), closed: make(chan struct{})}}
	if err := s.AddListener(listeners.NewNet("memory", b.ln)); err != nil {
		return nil, err
	}
	return b, s.Serve()
}

// Dial connects to the broker.
func (b *Broker) Dial(ctx context.Context, _, _ string) (net.Conn, error) { return b.ln.dial(ctx) }

// Publish sends a message as the broker itself could.
func (b *Broker) Publish(topic string, payload []byte) error {
	return b.Server.Publish(topic, payload, false, 1)
}

// Close ends the broker and its connections.
func (b *Broker) Close() error { return b.Server.Close() }

type memoryListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *memoryListener) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return buffered(ours), nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return buffered(c), nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *memoryListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1883} }

// buffered gives one end of a pipe a buffer for what it sends, as the kernel gives one to a
// socket: two ends that both write before they read would wait for each other for ever.
func buffered(c net.Conn) net.Conn {
	b := &bufferedConn{Conn: c, out: make(chan []byte, 64), done: make(chan struct{})}
	go b.pump()
	return b
}

type bufferedConn struct {
	net.Conn
	out  chan []byte
	done chan struct{}
	once sync.Once
}

func (b *bufferedConn) pump() {
	for {
		select {
		case p := <-b.out:
			if _, err := b.Conn.Write(p); err != nil {
				_ = b.Close()
				return
			}
		case <-b.done:
			return
		}
	}
}

// Write implements net.Conn.
func (b *bufferedConn) Write(p []byte) (int, error) {
	select {
	case <-b.done:
		return 0, io.ErrClosedPipe
	default:
	}
	select {
	case b.out <- append([]byte(nil), p...):
		return len(p), nil
	case <-b.done:
		return 0, io.ErrClosedPipe
	}
}

// Close implements net.Conn. What is buffered is lost.
func (b *bufferedConn) Close() error {
	b.once.Do(func() { close(b.done) })
	return b.Conn.Close()
}
