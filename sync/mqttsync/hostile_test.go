package mqttsync_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"tidegate/platform/clock"
	"tidegate/sync/mqttsync"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/trust"
	"time"
)

// say publishes as a broker that lies.
func (w *world) say(part message.Part, payload []byte) {
	w.t.Helper()
	check(w.t, w.broker.Publish(mqttsynctest.Name.Device(w.device.ID, part), payload))
}

func (w *world) encode(m any) []byte {
	w.t.Helper()
	b, err := message.Encode(m)
	check(w.t, err)
	return b
}

// dropped waits until something was thrown away for the reason.
func (w *world) dropped(reason string) {
	w.t.Helper()
	w.until("dropped as "+reason, time.Minute, func() bool { return w.device.Client.Link().Drops[reason] > 0 })
}

// connected starts a device that both ends answer, with a queue of its own.
func (w *world) connected() *mqttsynctest.Device {
	w.t.Helper()
	w.collect(nil)
	w.publish(nil)
	d := w.start(nil)
	w.until("connected", 5*time.Minute, func() bool { l := d.Client.Link(); return l.Publisher && l.Collector })
	return d
}

func TestHostileMessagesAreDroppedAndCounted(t *testing.T) {
	stranger := mqttsynctest.Key("stranger")
	unknown := message.Announcement{Offer: &message.Offer{Seq: 9, Epoch: 1, Head: 100, Digest: sha256.Sum256([]byte("nothing"))}}
	tests := []struct {
		name, reason string
		say          func(w *world)
	}{
		{"rubbish", "malformed", func(w *world) { w.say(message.AnnouncePart, []byte{0xff, 0, 1}) }},
		{"a kind that nobody knows", "malformed", func(w *world) { w.say(message.AnnouncePart, []byte{0xa2, 0, 1, 1, 0x18, 99}) }},
		{"a retained announcement of something old", "announcement-old", func(w *world) {
			m := unknown
			k := message.NewToken()
			m.Token = &k
			w.say(message.AnnouncePart, w.encode(&m))
		}},
		{"a piece that nobody asked for", "piece-unasked", func(w *world) {
			for range 12 { // nobody fetches, so the first few wait for one who does
				w.say(message.PiecePart, w.encode(&message.Piece{Data: []byte("x")}))
			}
		}},
		{"an ack signed by nobody", "ack", func(w *world) { w.say(message.AckPart, []byte{0xa0}) }},
		{"an ack by another key", "ack", func(w *world) {
			s := message.Signer{Domain: w.fleet.Domain, Epoch: 1, Key: stranger}
			b, err := s.Ack(&message.Ack{Device: w.device.ID, Marks: []message.Mark{}}, mqttsynctest.Issued)
			check(w.t, err)
			w.say(message.AckPart, b)
		}},
		{"an ack for another device", "ack", func(w *world) {
			s := w.fleet.Signer(trust.RoleCollector)
			b, err := s.Ack(&message.Ack{Device: trust.DeviceIDOf(stranger.Public()), Marks: []message.Mark{}}, mqttsynctest.Issued)
			check(w.t, err)
			w.say(message.AckPart, b)
		}},
		{"an ack by the time role", "ack", func(w *world) {
			s := w.fleet.Signer(trust.RoleTime)
			b, err := s.Ack(&message.Ack{Device: w.device.ID, Marks: []message.Mark{}}, mqttsynctest.Issued)
			check(w.t, err)
			w.say(message.AckPart, b)
		}},
		{"a time that nobody asked for", "time-replayed", func(w *world) {
			s := w.fleet.Signer(trust.RoleTime)
			b, err := s.Time(&message.Time{Device: w.device.ID, Nonce: message.NewNonce(), Milli: uint64(mqttsynctest.Now().UnixMilli())})
			check(w.t, err)
			w.say(message.TimePart, b)
		}},
		{"a time by the collector", "time", func(w *world) {
			s := w.fleet.Signer(trust.RoleCollector)
			b, err := s.Time(&message.Time{Device: w.device.ID, Milli: 1})
			check(w.t, err)
			w.say(message.TimePart, b)
		}},
		{"a command by another key", "command", func(w *world) {
			s := message.Signer{Domain: w.fleet.Domain, Epoch: 1, Key: stranger}
			b, err := s.Command(&message.Command{Device: w.device.ID, Order: message.Pause}, mqttsynctest.Issued, mqttsynctest.Issued+100_000)
			check(w.t, err)
			w.say(message.CommandPart, b)
		}},
		{"a command that has expired", "command", func(w *world) {
			s := w.fleet.Signer(trust.RoleTime)
			b, err := s.Command(&message.Command{Device: w.device.ID, Order: message.Pause}, mqttsynctest.Issued-100, mqttsynctest.Issued-50)
			check(w.t, err)
			w.say(message.CommandPart, b)
		}},
		{"an announcement that lies about its size", "malformed", func(w *world) {
			m := unknown
			m.Offer = &message.Offer{Seq: 9, Epoch: 1, Head: 1 << 40}
			w.say(message.AnnouncePart, w.encode(&m))
		}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in(t, func(w *world) {
				w.connected()
				w.record(100, 1)
				tc.say(w)
				w.dropped(tc.reason)
				w.until("events delivered all the same", 5*time.Minute, func() bool { return w.device.Queue.Status().Classes[0].Count == 0 })
				if s := w.device.Client.Link().State; s != mqttsync.Connected {
					t.Errorf("link is %s, want connected", s)
				}
			})
		})
	}
}

func TestAcksForBatchesNeverSentDeleteNothing(t *testing.T) {
	in(t, func(w *world) {
		d := w.start(func(o *mqttsynctest.DeviceOptions) {
			o.Change = func(m *mqttsync.Options) { m.FirstAfter = 0 }
		})
		w.until("connected", time.Minute, func() bool {
			return d.Client.Link().State != mqttsync.Waiting && w.broker.Server.Info.ClientsConnected > 0
		})
		w.record(100, 1)
		st := d.Queue.Status().Classes[0]
		s := w.fleet.Signer(trust.RoleCollector)
		b, err := s.Ack(&message.Ack{Device: d.ID, Marks: []message.Mark{{Epoch: st.Epoch, UpTo: st.Head + 5, Also: []uint64{}}}}, mqttsynctest.Issued)
		check(t, err)
		time.Sleep(2 * time.Second)
		w.say(message.AckPart, b)
		w.dropped("ack")
		if got := d.Queue.Status().Classes[0].Count; got != st.Count || got == 0 {
			t.Errorf("queue has %d batches after a bad ack, want %d", got, st.Count)
		}
		if s := d.Client.Link().Uplink; s.BadAcks != 1 {
			t.Errorf("%d bad acks counted, want 1 (%s)", s.BadAcks, s.LastBad)
		}
	})
}

func TestAFloodOfAnnouncementsIsBounded(t *testing.T) {
	in(t, func(w *world) {
		var heap int64
		var goroutines int
		flooded := make(chan struct{})
		p := &mqttsynctest.Puppet{Connected: func(c net.Conn) {
			defer close(flooded)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			began := runtime.NumGoroutine()
			for i := range 20_000 {
				m := &message.Announcement{Offer: &message.Offer{Seq: 1, Epoch: 1, Head: 64, Digest: sha256.Sum256([]byte{byte(i), byte(i >> 8)})}}
				b, err := message.Encode(m)
				check(t, err)
				if _, err := c.Write(mqttsynctest.Publication(mqttsynctest.Name.Device(w.device.ID, message.AnnouncePart), b)); err != nil {
					return
				}
			}
			goroutines = runtime.NumGoroutine() - began
			runtime.GC()
			runtime.ReadMemStats(&after)
			heap = int64(after.HeapAlloc) - int64(before.HeapAlloc)
		}}
		began := time.Now()
		w.start(func(o *mqttsynctest.DeviceOptions) {
			o.Dial = p.Dial
			o.Change = func(m *mqttsync.Options) { m.FirstAfter = 0 }
		})
		<-flooded
		if took := time.Since(began); took < 5*time.Second {
			t.Errorf("20,000 messages were read within %s: nothing slows a flood down", took)
		}
		if goroutines > 20 || heap > 4<<20 {
			t.Errorf("%d more goroutines and %d more bytes after the flood", goroutines, heap)
		}
		w.stop()
		p.Close()
	})
}

func TestOversizedPacketEndsTheConnection(t *testing.T) {
	in(t, func(w *world) {
		w.collect(nil)
		w.publish(nil)
		// Why a connection ended is seen until the next one stands, which may be soon.
		var mu sync.Mutex
		var ends []string
		d := w.start(func(o *mqttsynctest.DeviceOptions) {
			dial := o.Dial
			o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				mu.Lock()
				ends = append(ends, w.device.Client.Link().Err)
				mu.Unlock()
				return dial(ctx, network, address)
			}
		})
		connected := func() bool { l := d.Client.Link(); return l.Publisher && l.Collector }
		w.until("connected", 5*time.Minute, connected)
		w.say(message.PiecePart, bytes.Repeat([]byte{1}, 100<<10))
		w.until("connected again", 10*time.Minute, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(ends) > 1 && connected()
		})
		if got := ends[1]; !strings.Contains(got, "larger than any that is expected") {
			t.Errorf("ended with %q", got)
		}
	})
}

func TestABundleWithWrongChunksIsRefused(t *testing.T) {
	in(t, func(w *world) {
		// The head is of bundle 1, the chunks are those of bundle 2.
		a, b := w.bundle(1, 50_000), w.bundle(2, 50_000)
		mixed := append([]byte(nil), b...)
		p, err := w.fleet.Publish(w.dir, a)
		check(t, err)
		n := int64(len(a)) - p.Manifest.Size(0)
		copy(mixed, a[:n])
		check(t, p.Close())
		w.lie(mixed, a)
		d := w.start(nil)
		w.until("refused", 30*time.Minute, func() bool { return d.Desk.Status().Last.Word != "" })
		if got := d.Desk.Status().Last.Word; got != "E_DIGEST" {
			t.Errorf("word %s, want E_DIGEST", got)
		}
		w.dropped("chunk-wrong")
		if w.seq() != 0 {
			t.Errorf("confirmed %d", w.seq())
		}
	})
}

// lie publishes one file under the announcement of another.
func (w *world) lie(content, announced []byte) {
	p, err := w.fleet.Publish(w.dir, announced)
	check(w.t, err)
	w.stops = append(w.stops, func() { check(w.t, p.Close()) })
	check(w.t, overwrite(w.dir, announced, content))
	w.publishOpened(p)
}

func TestACommandIsObeyedOnce(t *testing.T) {
	in(t, func(w *world) {
		d := w.connected()
		s := w.fleet.Signer(trust.RoleTime)
		b, err := s.Command(&message.Command{Device: d.ID, Order: message.Pause, Token: message.NewToken()}, mqttsynctest.Issued, mqttsynctest.Issued+7*86400-1)
		check(t, err)
		w.say(message.CommandPart, b)
		time.Sleep(time.Second)
		w.record(100, 1)
		time.Sleep(20 * time.Minute)
		if d.Queue.Status().Classes[0].Count == 0 {
			t.Fatal("events went although the device was told to pause")
		}
		c, err := s.Command(&message.Command{Device: d.ID, Order: message.SendNow, Token: message.NewToken()}, mqttsynctest.Issued, mqttsynctest.Issued+7*86400-1)
		check(t, err)
		w.say(message.CommandPart, c)
		w.until("events after send", time.Minute, func() bool { return d.Queue.Status().Classes[0].Count == 0 })
		w.say(message.CommandPart, b)
		w.dropped("command-replayed")
	})
}

func TestTimeIsAttestedAndNotBelievedBeyond400Days(t *testing.T) {
	for _, tc := range []struct {
		name string
		at   time.Time
		want clock.Quality
	}{
		{"now", mqttsynctest.Now(), clock.Synced},
		{"401 days later", mqttsynctest.Now().Add(401 * 24 * time.Hour), clock.Unsynced},
		{"a year before", mqttsynctest.Now().Add(-365 * 24 * time.Hour), clock.Unsynced},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in(t, func(w *world) {
				s := w.fleet.Signer(trust.RoleTime)
				w.publishAt(tc.at, &s)
				d := w.start(nil)
				time.Sleep(5 * time.Minute)
				if got := d.Clock.Now().Quality; got != tc.want {
					t.Errorf("clock is %s, want %s (drops %v)", got, tc.want, d.Client.Link().Drops)
				}
			})
		})
	}
}

func TestNobodyAnswers(t *testing.T) {
	in(t, func(w *world) {
		d := w.start(nil)
		w.record(100, 1)
		w.until("unanswered", 5*time.Minute, func() bool { return d.Client.Link().State == mqttsync.Unanswered })
		if l := d.Client.Link(); l.Uplink.Batches != 0 || l.Hint == "" {
			t.Errorf("sent %d batches to nobody, hint %q", l.Uplink.Batches, l.Hint)
		}
		w.collect(nil)
		w.until("delivered when a collector comes", time.Hour, func() bool { return d.Queue.Status().Classes[0].Count == 0 })
	})
}

func TestALateWillDoesNotBuryANewerBirth(t *testing.T) {
	in(t, func(w *world) {
		d := w.connected()
		w.until("status stored", time.Minute, func() bool { return w.online(d.ID) })
		w.say(message.StatusPart, w.encode(&message.Will{Boot: d.Machine.BootID(), Nonce: message.NewToken()}))
		time.Sleep(10 * time.Second)
		if !w.online(d.ID) {
			t.Error("a will of another connection took the device away")
		}
		w.link.Down() // and it stays away
		w.until("the will of this connection", 10*time.Minute, func() bool { return !w.online(d.ID) })
		w.link.Up()
		w.until("the next birth", time.Hour, func() bool { return w.online(d.ID) })
	})
}

func (w *world) online(id trust.DeviceID) bool {
	for r, err := range w.store.Devices(context.Background()) {
		check(w.t, err)
		if r.Device == id.String() {
			return r.Online
		}
	}
	return false
}
