package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"tidegate/store/events/batch"
	"tidegate/store/events/eventstest"
	"tidegate/sync/bundle"
	"tidegate/sync/envelope"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/report"
	"tidegate/sync/trust"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// A light device has a key, a connection and no disk: it signs what it sends, counts what is
// acknowledged, and fetches a bundle piece by piece.
type light struct {
	s     *sim
	id    trust.DeviceID
	key   envelope.PrivateKey
	local net.Addr
	epoch batch.Epoch
	nonce message.Token

	writing sync.Mutex
	conn    net.Conn
	mid     uint16

	seq      atomic.Uint64 // of the newest batch
	stating  sync.Mutex
	answered atomic.Bool                   // on this connection
	have     atomic.Pointer[message.Offer] // the bundle that is complete

	// The rest belongs to the goroutine that reads.
	offer  *message.Offer
	head   []byte
	chunks []bundle.Chunk
	part   int
	got    int
}

const (
	pieceBytes = 16 << 10
	addresses  = 20 // 127.0.0.2 and on: one has 28,000 ports
)

func newLight(s *sim, i int) (*light, []byte, error) {
	d := &light{s: s, key: mqttsynctest.Key(fmt.Sprint("light ", i)), nonce: message.NewToken(), epoch: batch.Epoch(message.NewToken())}
	d.id = s.fleet.Know(d.key.Public())
	d.local = &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i%addresses))}
	e := fleet.Enroll{Root: s.fleet.State, Product: "gate", Channel: "stable", Seq: 1, Issued: mqttsynctest.Issued}
	r := &trust.Request{Report: d.key.Public(), Seal: []trust.SealKey{{KEM: 0x20, Public: make([]byte, 32)}}}
	file, err := e.Sign(r, mqttsynctest.Key("release"))
	return d, file, err
}

// run connects after a while and again, with jitter, whenever the connection ends.
func (d *light) run(ctx context.Context, after time.Duration) {
	for sleep(ctx, after) {
		if err := d.session(ctx); err != nil && ctx.Err() == nil {
			d.s.dropped.Add(1)
		}
		after = time.Duration(rand.Int64N(int64(d.s.back)))
	}
}

func sleep(ctx context.Context, t time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(t):
		return true
	}
}

func (d *light) session(ctx context.Context) error {
	dialer := net.Dialer{LocalAddr: d.local}
	c, err := dialer.DialContext(ctx, "tcp", d.s.addr)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // the device is light
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	d.conn = c
	con := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	con.ProtocolName, con.ProtocolVersion, con.CleanSession, con.ClientIdentifier = "MQTT", 4, true, d.id.String()
	con.Keepalive = 600
	sub := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	sub.MessageID, sub.Topics, sub.Qoss = 1, []string{mqttsynctest.Name.Down(d.id), mqttsynctest.Name.Channel("gate", "stable")}, []byte{1, 1}
	if err := d.write(con); err != nil {
		return err
	}
	if err := d.write(sub); err != nil {
		return err
	}
	d.status()
	d.answered.Store(false)
	sending, end := context.WithCancel(ctx)
	defer end()
	go d.hello(sending)
	go d.batches(sending)
	go d.report(sending)
	for {
		p, err := packets.ReadPacket(c)
		if err != nil {
			return err
		}
		if m, ok := p.(*packets.PublishPacket); ok {
			if m.Qos == 1 {
				ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
				ack.MessageID = m.MessageID
				if err := d.write(ack); err != nil {
					return err
				}
			}
			d.take(m)
		}
	}
}

func (d *light) write(p packets.ControlPacket) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	return p.Write(d.conn)
}

func (d *light) publish(part message.Part, b []byte) {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.Qos = mqttsynctest.Name.Device(d.id, part), b, 1
	d.writing.Lock()
	defer d.writing.Unlock()
	d.mid = d.mid%60000 + 1
	p.MessageID = d.mid
	_ = p.Write(d.conn) // the reader sees why
}

func (d *light) unsigned(m any) {
	if b, err := message.Encode(m); err == nil {
		d.publish(message.RequestPart, b)
	}
}

func (d *light) status() {
	d.stating.Lock() // an older state is not sent after a newer one
	defer d.stating.Unlock()
	m := &message.Status{State: "none", Nonce: d.nonce, Queues: []message.Queue{}, Alarms: []string{}, Drops: []message.Count{}, Product: "gate", Channel: "stable"}
	if o := d.have.Load(); o != nil {
		m.State, m.Bundle = "confirmed", &message.Bundle{Good: o.Digest, Seq: o.Seq, Trial: []byte{}}
	}
	if b, err := message.Report(m, d.s.fleet.Domain, 1, mqttsynctest.Issued, d.key); err == nil {
		d.publish(message.StatusPart, b)
	}
}

// hello asks who is there until somebody answers.
func (d *light) hello(ctx context.Context) {
	for !d.answered.Load() {
		d.unsigned(&message.Hello{Token: d.nonce, Product: "gate", Channel: "stable", Enrol: 1, Root: 1})
		if !sleep(ctx, 30*time.Second) {
			return
		}
	}
}

// report says how the device is, again and again.
func (d *light) report(ctx context.Context) {
	for sleep(ctx, d.s.states/2+time.Duration(rand.Int64N(int64(d.s.states)))) {
		d.status()
	}
}

// batches sends one sealed batch in each interval.
func (d *light) batches(ctx context.Context) {
	seal := report.Sealer{Domain: d.s.fleet.Domain, Key: d.key}
	if !sleep(ctx, time.Duration(rand.Int64N(int64(d.s.every)))) {
		return
	}
	for {
		seq := d.seq.Add(1)
		var b batch.Builder
		at := time.Now()
		for _, e := range eventstest.Mix(d.s.calls, at, rand.Uint64()) {
			b.Add(&e, at, batch.Stamp{Unix: at, Quality: batch.Unproven})
		}
		packed, err := b.Pack()
		if err != nil {
			return
		}
		packed[0].Class, packed[0].Epoch, packed[0].Seq = batch.Detail, d.epoch, seq
		if sealed, err := seal.Batch(&packed[0], at); err == nil {
			d.publish(message.BatchPart, sealed)
			d.s.sent.Add(1)
		}
		if !sleep(ctx, d.s.every) {
			return
		}
	}
}

func (d *light) take(m *packets.PublishPacket) {
	if _, part, ok := mqttsynctest.Name.Split(m.TopicName); ok && part == message.AckPart {
		if a, err := message.OpenAck(m.Payload, d.s.fleet.State, d.id, 0, message.RefusePlainAcks); err == nil && a.Token == nil {
			d.s.acked.Add(1)
		}
		return
	}
	v, err := message.Decode(m.Payload)
	if err != nil {
		return
	}
	switch v := v.(type) {
	case *message.Announcement:
		if v.Token != nil && d.answered.CompareAndSwap(false, true) {
			d.s.answered.Add(1)
		}
		if v.Offer != nil && d.offer == nil {
			d.offer, d.part, d.got = v.Offer, 0, 0
			d.ask(int(v.Offer.Head)) //nolint:gosec // small
		}
	case *message.Piece:
		d.piece(v)
	}
}

// ask asks for the rest of the part.
func (d *light) ask(size int) {
	if d.got < size {
		d.unsigned(&message.Get{Digest: d.offer.Digest, Token: d.nonce, Part: uint64(d.part), Size: pieceBytes, Pieces: []uint64{uint64(d.got / pieceBytes)}}) //nolint:gosec // not negative
	}
}

func (d *light) piece(p *message.Piece) {
	if d.have.Load() != nil || d.offer == nil || p.Part != uint64(d.part) || p.Offset != uint64(d.got) { //nolint:gosec // not negative
		return
	}
	d.got += len(p.Data)
	size := int(d.offer.Head) //nolint:gosec // small
	if d.part == 0 {
		d.head = append(d.head, p.Data...)
	} else {
		size = int(d.chunks[d.part-1].Size) //nolint:gosec // at most 1 MiB
	}
	if d.got < size {
		d.ask(size)
		return
	}
	if d.part == 0 && !d.open() {
		return
	}
	if d.part == len(d.chunks) {
		d.have.Store(d.offer)
		d.s.confirmed.Add(1)
		d.status()
		return
	}
	d.part, d.got = d.part+1, 0
	d.ask(int(d.chunks[d.part-1].Size)) //nolint:gosec // at most 1 MiB
}

// open verifies the head, as a device does.
func (d *light) open() bool {
	h, err := bundle.ParseHead(d.head)
	if err != nil {
		return false
	}
	payload, _, err := d.s.fleet.State.Verify(trust.RoleRelease, envelope.Manifest, h.Manifest)
	if err != nil {
		return false
	}
	m, err := bundle.ParseManifest(payload)
	if err != nil {
		return false
	}
	d.chunks, d.head = m.Chunks(), nil
	return true
}
