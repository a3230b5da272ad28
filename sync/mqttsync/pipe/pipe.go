// Package pipe is one MQTT 3.1.1 connection, used as a plain pipe: what Send returned nil for
// the broker has acknowledged, what was lost with the connection is an error, and nothing is
// kept from one connection to the next.
//
// The library below would reconnect, resend and store by itself, and each of these turns "sent"
// into "maybe". So all of it is switched off: a [Pipe] lives as long as its connection, and who
// wants another dials again. Around the library stands a guarded connection: its packets are
// bounded before they are read, its reads and writes have deadlines, and both directions can be
// slowed down and counted.
package pipe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// MaxPacket is the largest packet that is read, in bytes of its remaining length.
const MaxPacket = 68 << 10

// ErrClosed says that the connection has ended.
var ErrClosed = errors.New("connection to the broker is closed")

// A Message is one publication.
type Message struct {
	Topic   string
	Payload []byte
}

// A Full says what happens to a message that comes while nobody receives.
type Full uint8

// The choices.
const (
	Drop Full = iota // it is dropped and counted: who pulls asks again
	Wait             // the connection waits; for a receiver that is always there
)

// A Buffer says how much may lie between us and the line.
type Buffer uint8

// The choices.
const (
	Small Buffer = iota // 16 KiB: on a slow line, pings are not queued behind minutes of data
	Large               // the system's, for fast lines
)

// Options are what a pipe is made with. URL and ClientID must be set.
type Options struct {
	URL                *url.URL // tcp, mqtt, tls, mqtts, ssl, ws or wss
	ClientID           string
	Username, Password string
	TLS                *tls.Config // nil: the system's certificates; it is cloned
	Proxy              *url.URL    // outbound HTTP proxy; nil: none
	Will               *Message    // nil: none
	KeepAlive          time.Duration
	PingTimeout        time.Duration
	Up, Down           int64 // bytes a second; 0: no cap
	Meter              Meter // may be nil
	Backlog            int   // messages that wait to be received; 0: 16
	WhenFull           Full
	Buffer             Buffer
	// Dial replaces the dialer of the TCP connection, for tests; nil: the system's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Pace bounds incoming packets a second, so that a flood costs the device no more than
	// this; 0: 2,000.
	Pace int
}

// A Meter counts the bytes of a connection and may end it.
type Meter interface {
	// Spend takes n bytes, sent or received, from what may be used. An error ends the
	// connection.
	Spend(n int) error
}

// A Pipe is one connection. Its methods are safe to call together.
type Pipe struct {
	client  mqtt.Client
	in      chan Message
	lost    chan struct{}
	once    sync.Once
	err     error // why lost was closed
	conn    atomic.Pointer[guard]
	dropped atomic.Int64
	full    Full
	o       Options
}

// Dial connects. ctx bounds the dialing only.
func Dial(ctx context.Context, o Options) (*Pipe, error) {
	if o.Backlog == 0 {
		o.Backlog = 16
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = 300 * time.Second
	}
	if o.PingTimeout == 0 {
		o.PingTimeout = pingTimeout(o)
	}
	p := &Pipe{in: make(chan Message, o.Backlog), lost: make(chan struct{}), full: o.WhenFull, o: o}
	var dialErr error
	c := mqtt.NewClientOptions().AddBroker(o.URL.String()).SetClientID(o.ClientID).
		SetProtocolVersion(4). // 0 would try each CONNECT again as 3.1
		SetCleanSession(true).SetAutoReconnect(false).SetConnectRetry(false).SetResumeSubs(false).
		SetOrderMatters(true). // one goroutine for all messages; ours never blocks it for long
		SetStore(mqtt.NewMemoryStore()).SetMaxResumePubInFlight(1).SetMessageChannelDepth(4).
		SetKeepAlive(o.KeepAlive).SetPingTimeout(o.PingTimeout).
		SetConnectTimeout(dialWait).SetWriteTimeout(writeStall).
		SetDefaultPublishHandler(p.take).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { p.end(err) }).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
			conn, err := open(ctx, o)
			if err != nil {
				dialErr = err
				return nil, err
			}
			p.conn.Store(conn)
			return conn, nil
		})
	if o.Username != "" {
		c.SetUsername(o.Username).SetPassword(o.Password)
	}
	if o.Will != nil {
		c.SetBinaryWill(o.Will.Topic, o.Will.Payload, 1, false)
	}
	p.client = mqtt.NewClient(c)
	t := p.client.Connect()
	select {
	case <-t.Done():
	case <-ctx.Done():
		p.end(ctx.Err())
		p.closeConn()
		return nil, fmt.Errorf("connect to %s: %w", o.URL.Redacted(), ctx.Err())
	}
	if err := t.Error(); err != nil {
		p.end(err)
		p.closeConn()
		if dialErr != nil {
			err = dialErr
		}
		return nil, fmt.Errorf("connect to %s: %w", o.URL.Redacted(), err)
	}
	return p, nil
}

// pingTimeout leaves room for what may be on the way before the answer to a ping.
func pingTimeout(o Options) time.Duration {
	least := 20 * time.Second
	rate := o.Up
	if o.Down > 0 && (rate == 0 || o.Down < rate) {
		rate = o.Down
	}
	if rate > 0 {
		least = max(least, 3*time.Duration(float64(64<<10)/float64(rate)*float64(time.Second)))
	}
	return least
}

// take puts an incoming message where Receive finds it.
func (p *Pipe) take(_ mqtt.Client, m mqtt.Message) {
	msg := Message{Topic: m.Topic(), Payload: m.Payload()}
	select {
	case p.in <- msg:
		return
	default:
	}
	if p.full == Drop {
		p.dropped.Add(1)
		return
	}
	select {
	case p.in <- msg:
	case <-p.lost:
	}
}

// end notes that the connection has ended.
func (p *Pipe) end(err error) {
	p.once.Do(func() {
		if err == nil {
			err = ErrClosed
		}
		p.err = err
		close(p.lost)
	})
}

func (p *Pipe) closeConn() {
	if c := p.conn.Load(); c != nil {
		_ = c.Close()
	}
}

// Lost is closed when the connection has ended.
func (p *Pipe) Lost() <-chan struct{} { return p.lost }

// Err returns why the connection has ended, nil while it lives.
func (p *Pipe) Err() error {
	select {
	case <-p.lost:
		if c := p.conn.Load(); c != nil {
			if why := c.line.why.Load(); why != nil {
				return *why
			}
		}
		return fmt.Errorf("%w: %w", ErrClosed, p.err)
	default:
		return nil
	}
}

// Dropped returns how many messages were dropped because nobody received them.
func (p *Pipe) Dropped() int64 { return p.dropped.Load() }

// Bytes returns how many bytes went up and down.
func (p *Pipe) Bytes() (up, down int64) {
	if c := p.conn.Load(); c != nil {
		return c.line.up.Load(), c.line.down.Load()
	}
	return 0, 0
}

// DialBeside connects to another server as the broker was connected to: by the same dialer and
// proxy, within the same caps, and paid from the same meter, in 30 s at most. What passes is in
// Bytes.
func (p *Pipe) DialBeside(ctx context.Context, _, address string) (net.Conn, error) {
	g := p.conn.Load()
	if g == nil {
		return nil, ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	c, err := dialTCP(ctx, p.o, address)
	if err != nil {
		return nil, err
	}
	return &paced{Conn: c, allowance: g.line.allowance, idle: writeStall}, nil
}

// Subscribe subscribes to filters in one packet. A broker that grants a filter has promised
// nothing: whether messages come is seen when they come.
func (p *Pipe) Subscribe(ctx context.Context, filters ...string) error {
	all := make(map[string]byte, len(filters))
	for _, f := range filters {
		all[f] = 1
	}
	t, err := p.hand(ctx, func() mqtt.Token { return p.client.SubscribeMultiple(all, nil) })
	if err == nil {
		err = p.wait(ctx, t)
	}
	if err != nil {
		return fmt.Errorf("subscribe: %w", ended(err))
	}
	for f, qos := range t.(*mqtt.SubscribeToken).Result() {
		if qos > 2 {
			return fmt.Errorf("subscribe: the broker refused %s", f)
		}
	}
	return nil
}

// Send publishes with QoS 1 and returns when the broker has acknowledged. Any error means
// that it may or may not have.
func (p *Pipe) Send(ctx context.Context, topic string, payload []byte) error {
	select {
	case <-p.lost:
		return p.Err()
	default:
	}
	t, err := p.hand(ctx, func() mqtt.Token { return p.client.Publish(topic, 1, false, payload) })
	if err == nil {
		err = p.wait(ctx, t)
	}
	return ended(err)
}

// hand gives a packet to the client. The client takes one at a time and goes on waiting for a
// minute when the connection is gone: who waits here does not.
func (p *Pipe) hand(ctx context.Context, give func() mqtt.Token) (mqtt.Token, error) {
	given := make(chan mqtt.Token, 1)
	go func() { given <- give() }()
	select {
	case t := <-given:
		return t, nil
	case <-p.lost:
		return nil, p.Err()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Post publishes with QoS 1 and does not wait for the broker. It is for answers to what was
// received: who waits for an acknowledgement while messages wait to be received waits for
// ever, since both come on one line. An error means that the connection has ended.
func (p *Pipe) Post(topic string, payload []byte) error {
	select {
	case <-p.lost:
		return p.Err()
	default:
	}
	t, err := p.hand(context.Background(), func() mqtt.Token { return p.client.Publish(topic, 1, false, payload) })
	if err != nil {
		return ended(err)
	}
	select {
	case <-t.Done():
		return ended(t.Error())
	default:
		return nil
	}
}

// ended marks why a publication failed: the client gives its own words, and may give them before
// lost is closed.
func ended(err error) error {
	if err == nil || errors.Is(err, ErrClosed) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrClosed, err)
}

func (p *Pipe) wait(ctx context.Context, t mqtt.Token) error {
	select {
	case <-t.Done():
		if err := t.Error(); err != nil {
			return err
		}
		select {
		case <-p.lost: // a token is completed without an answer when the connection ends
			return p.Err()
		default:
			return nil
		}
	case <-p.lost:
		return p.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Receive returns the next message.
func (p *Pipe) Receive(ctx context.Context) (Message, error) {
	select {
	case m := <-p.in:
		return m, nil
	default:
	}
	select {
	case m := <-p.in:
		return m, nil
	case <-p.lost:
		return Message{}, p.Err()
	case <-ctx.Done():
		return Message{}, ctx.Err()
	}
}

// Close ends the connection in order, so that the broker sends no will; what is still on its
// way may be lost.
func (p *Pipe) Close() {
	if p.Err() == nil {
		p.client.Disconnect(uint(disconnectWait.Milliseconds()))
	}
	p.end(ErrClosed)
	p.closeConn()
}

// Cut ends the connection as a failure of the link does: the broker sends the will.
func (p *Pipe) Cut() {
	p.end(ErrClosed)
	p.closeConn()
}

const disconnectWait = 250 * time.Millisecond
