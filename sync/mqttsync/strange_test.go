package mqttsync_test

import (
	"bytes"
	"crypto/sha256"
	"net"
	"sync"
	"testing"
	"tidegate/sync/mqttsync"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/trust"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

func TestMessagesOnOtherTopicsAreDropped(t *testing.T) {
	in(t, func(w *world) {
		other := trust.DeviceIDOf(mqttsynctest.Key("other").Public())
		topics := []string{
			mqttsynctest.Name.Device(other, message.AckPart), message.Fleet("elsewhere").Device(w.id(), message.CommandPart),
			mqttsynctest.Name.Device(w.id(), message.StatusPart), mqttsynctest.Name.Channel("gate", "other"),
			"$SYS/broker/uptime", "tidegate/v1/acme/d//dn/cm", "tidegate/v2/acme/d/x/dn/cm", "x", "tidegate/v1/acme/d/" + w.id().String() + "/dn/xx",
		}
		said := make(chan struct{})
		var once sync.Once
		p := &mqttsynctest.Puppet{Connected: func(c net.Conn) {
			once.Do(func() {
				defer close(said)
				for _, topic := range topics {
					if _, err := c.Write(mqttsynctest.Publication(topic, []byte{0xa0})); err != nil {
						t.Error(err)
					}
				}
			})
		}}
		w.start(func(o *mqttsynctest.DeviceOptions) {
			o.Dial = p.Dial
			o.Change = func(m *mqttsync.Options) { m.FirstAfter = 0 }
		})
		<-said
		w.until("all are counted", time.Minute, func() bool {
			return w.device.Client.Link().Drops["topic"] == uint64(len(topics))
		})
		w.stop()
		p.Close()
	})
}

// The broker reads what a device asks for, and answers with whatever it likes.
func TestPiecesThatWereNotAskedForChangeNothing(t *testing.T) {
	in(t, func(w *world) {
		b := w.bundle(1, 300_000)
		var mu sync.Mutex
		var asked *message.Get
		check(t, w.broker.Server.Subscribe(mqttsynctest.Name.All(message.RequestPart), 1, func(_ *mochi.Client, _ packets.Subscription, p packets.Packet) {
			if m, err := message.Decode(bytes.Clone(p.Payload)); err == nil {
				if g, ok := m.(*message.Get); ok && g.Part > 0 {
					mu.Lock()
					asked = g
					mu.Unlock()
				}
			}
		}))
		w.publish(nil, b)
		d := w.start(func(o *mqttsynctest.DeviceOptions) {
			o.Change = func(m *mqttsync.Options) { m.Down = 4000 }
		})
		w.until("a piece of a chunk was asked for", 10*time.Minute, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return asked != nil && d.Client.Link().Fetching != nil
		})
		mu.Lock()
		g := *asked
		mu.Unlock()
		off := g.Pieces[0] * g.Size
		good := message.Piece{Digest: g.Digest, Token: g.Token, Part: g.Part, Offset: off, Data: make([]byte, g.Size)}
		strange := []func(p *message.Piece){
			func(p *message.Piece) { p.Offset = 1 << 62 },
			func(p *message.Piece) { p.Offset = 512 << 10 },
			func(p *message.Piece) { p.Offset++ },
			func(p *message.Piece) { p.Part = 1 << 62 },
			func(p *message.Piece) { p.Part = 77 },
			func(p *message.Piece) { p.Part = 0 },
			func(p *message.Piece) { p.Token = message.NewToken() },
			func(p *message.Piece) { p.Digest = sha256.Sum256(nil) },
			func(p *message.Piece) { p.Data = make([]byte, g.Size+1) },
			func(p *message.Piece) { p.Data = make([]byte, 1) },
			func(p *message.Piece) { p.Data = nil },
		}
		before := d.Client.Link().Drops["piece-unasked"]
		for _, change := range strange {
			p := good
			change(&p)
			w.say(message.PiecePart, w.encode(&p))
			time.Sleep(10 * time.Second) // the line is slow, and what waits is bounded
		}
		w.until("each is counted", 10*time.Minute, func() bool {
			return d.Client.Link().Drops["piece-unasked"]-before >= uint64(len(strange))
		})
		w.until("confirmed all the same", time.Hour, func() bool { return w.seq() == 1 })
		if st := d.Desk.Status(); st.Last.Word != "" {
			t.Errorf("refused: %+v", st.Last)
		}
		if n := d.Client.Link().Drops["chunk-wrong"]; n != 0 {
			t.Errorf("%d chunks were spoilt by pieces that nobody asked for", n)
		}
	})
}

// An attestation that comes late says when it was made, not what time it is.
func TestATimeThatComesLateIsNotBelieved(t *testing.T) {
	in(t, func(w *world) {
		s := w.fleet.Signer(trust.RoleTime)
		began := time.Now()
		var late sync.WaitGroup
		check(t, w.broker.Server.Subscribe(mqttsynctest.Name.All(message.RequestPart), 1, func(_ *mochi.Client, _ packets.Subscription, p packets.Packet) {
			m, err := message.Decode(bytes.Clone(p.Payload))
			q, ok := m.(*message.TimeRequest)
			if err != nil || !ok {
				return
			}
			b, err := s.Time(&message.Time{Device: w.id(), Nonce: q.Nonce, Milli: uint64(mqttsynctest.Now().Add(time.Since(began)).UnixMilli())})
			check(t, err)
			late.Go(func() {
				time.Sleep(11 * time.Second)
				w.say(message.TimePart, b)
			})
		}))
		d := w.start(nil)
		w.dropped("time-late")
		if q := d.Clock.Now().Quality.String(); q != "UNSYNCED" {
			t.Errorf("clock is %s", q)
		}
		w.stop()
		late.Wait()
	})
}

// id is the device's, which need not run yet.
func (w *world) id() trust.DeviceID { return trust.DeviceIDOf(w.key.Public()) }
