package mqttsynctest

import (
	"context"
	"net"
	"sync"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// A Puppet is a broker without a mind of its own: it accepts every connection, confirms
// everything, and sends what a test tells it to, byte for byte.
type Puppet struct {
	// Connected is called with each connection that has subscribed; it may write to it.
	Connected func(c net.Conn)
	mu        sync.Mutex
	conns     []net.Conn
	done      sync.WaitGroup
}

// Dial connects to the puppet.
func (p *Puppet) Dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	p.mu.Lock()
	p.conns = append(p.conns, ours, theirs)
	p.mu.Unlock()
	p.done.Go(func() { p.serve(theirs) })
	return ours, nil
}

// Serve accepts connections from a listener until it is closed.
func (p *Puppet) Serve(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.conns = append(p.conns, c)
		p.mu.Unlock()
		p.done.Go(func() { p.serve(c) })
	}
}

// Close ends all connections and waits.
func (p *Puppet) Close() {
	p.mu.Lock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.done.Wait()
}

func (p *Puppet) serve(c net.Conn) {
	defer c.Close()
	var writing sync.Mutex
	write := func(cp packets.ControlPacket) {
		writing.Lock()
		defer writing.Unlock()
		_ = cp.Write(c)
	}
	for {
		in, err := packets.ReadPacket(c)
		if err != nil {
			return
		}
		switch in := in.(type) {
		case *packets.ConnectPacket:
			write(packets.NewControlPacket(packets.Connack))
		case *packets.SubscribePacket:
			ack := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
			ack.MessageID, ack.ReturnCodes = in.MessageID, make([]byte, len(in.Topics))
			write(ack)
			if p.Connected != nil {
				p.done.Go(func() { p.Connected(c) })
			}
		case *packets.PublishPacket:
			ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
			ack.MessageID = in.MessageID
			go write(ack)
		case *packets.PingreqPacket:
			go write(packets.NewControlPacket(packets.Pingresp))
		}
	}
}

// Publication returns the bytes of a QoS 0 publication.
func Publication(topic string, payload []byte) []byte {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload = topic, payload
	var b writer
	_ = p.Write(&b)
	return b
}

type writer []byte

func (w *writer) Write(b []byte) (int, error) { *w = append(*w, b...); return len(b), nil }
