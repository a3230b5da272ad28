package mqttsync_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/trust"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// order tells the device to do something.
func (w *world) order(o message.Order) {
	w.t.Helper()
	s := w.fleet.Signer(trust.RoleTime)
	b, err := s.Command(&message.Command{Device: w.id(), Order: o, Token: message.NewToken()}, mqttsynctest.Issued, mqttsynctest.Issued+7*86400-1)
	check(w.t, err)
	w.say(message.CommandPart, b)
}

// row is what the fleet knows of the device.
func (w *world) row() (r fleet.DeviceRow) {
	w.t.Helper()
	for v, err := range w.store.Devices(context.Background()) {
		check(w.t, err)
		if v.Device == w.id().String() {
			return v
		}
	}
	return r
}

func TestEveryOrderIsObeyed(t *testing.T) {
	in(t, func(w *world) {
		var hellos, times, gets atomic.Int64
		check(t, w.broker.Server.Subscribe(mqttsynctest.Name.All(message.RequestPart), 1, func(_ *mochi.Client, _ packets.Subscription, p packets.Packet) {
			switch m, _ := message.Decode(bytes.Clone(p.Payload)); m.(type) {
			case *message.Hello:
				hellos.Add(1)
			case *message.TimeRequest:
				times.Add(1)
			case *message.Get:
				gets.Add(1)
			}
		}))
		text := new(lockedText)
		w.collect(func(o *fleet.CollectorOptions) { o.Log = slog.New(slog.NewTextHandler(text, nil)) })
		// A bundle that cannot be brought in: its chunks are those of another one.
		a, b := w.bundle(1, 50_000), w.bundle(2, 50_000)
		p, err := w.fleet.Publish(w.dir, a)
		check(t, err)
		n := int64(len(a)) - p.Manifest.Size(0)
		mixed := bytes.Clone(b)
		copy(mixed, a[:n])
		check(t, p.Close())
		w.lie(mixed, a)
		d := w.start(func(o *mqttsynctest.DeviceOptions) {
			o.Change = func(m *mqttsync.Options) {
				m.Lines = func(int) []string { return []string{"one line", "another line"} }
			}
		})
		w.until("refused", 30*time.Minute, func() bool { return d.Desk.Status().Last.Word != "" })
		time.Sleep(10 * time.Minute)
		for _, tc := range []struct {
			order message.Order
			what  string
			count func() int64
		}{
			{message.SendStatus, "a state is stored", func() int64 { return w.row().Heard.UnixMicro() }},
			{message.LookNow, "hello is said", hellos.Load},
			{message.AskTime, "the time is asked for", times.Load},
			{message.RetryNow, "the bundle is fetched again", gets.Load},
			{message.SendLogs, "lines of the log arrive", func() int64 { return text.count("another line") }},
		} {
			before := tc.count()
			time.Sleep(time.Minute)
			if tc.count() != before {
				t.Fatalf("%s: it happens without an order", tc.what)
			}
			w.order(tc.order)
			w.until(tc.what, 5*time.Minute, func() bool { return tc.count() > before })
			time.Sleep(10 * time.Minute)
		}
	})
}

func (l *lockedText) count(s string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(bytes.Count(l.b.Bytes(), []byte(s)))
}

func TestBrokersAreTriedInTheOrderOfPreference(t *testing.T) {
	for _, tc := range []struct {
		name  string
		first func(w *world) func(context.Context, string, string) (net.Conn, error)
	}{
		{"the first cannot be reached", func(*world) func(context.Context, string, string) (net.Conn, error) {
			return func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }
		}},
		{"at the first nobody answers", func(w *world) func(context.Context, string, string) (net.Conn, error) {
			b, err := mqttsynctest.NewBroker()
			check(w.t, err)
			w.stops = append(w.stops, func() { check(w.t, b.Close()) })
			return b.Dial
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in(t, func(w *world) {
				w.collect(nil)
				w.publish(nil)
				first := tc.first(w)
				var mu sync.Mutex
				var dialed []string
				d := w.start(func(o *mqttsynctest.DeviceOptions) {
					o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
						mu.Lock()
						dialed = append(dialed, address)
						mu.Unlock()
						if strings.HasPrefix(address, "first") {
							return first(ctx, network, address)
						}
						return w.link.Dial(ctx, network, address)
					}
					o.Change = func(m *mqttsync.Options) {
						m.Mode = mqttsync.Demand
						m.Brokers = []*url.URL{{Scheme: "tcp", Host: "first:1883"}, {Scheme: "tcp", Host: "second:1883"}}
					}
				})
				w.record(100, 1)
				_, err := w.sync()
				check(t, err)
				if n := d.Queue.Status().Classes[0].Count; n != 0 {
					t.Errorf("%d batches wait", n)
				}
				if got := strings.Join(dialed, " "); got != "first:1883 second:1883" {
					t.Errorf("dialed %s", got)
				}
			})
		})
	}
}

func TestAMeteredLinkRestsLonger(t *testing.T) {
	tries := func(metered bool) (n int64) {
		in(t, func(w *world) {
			var dials atomic.Int64
			w.start(func(o *mqttsynctest.DeviceOptions) {
				o.Dial = func(context.Context, string, string) (net.Conn, error) {
					dials.Add(1)
					return nil, net.ErrClosed
				}
				o.Change = func(m *mqttsync.Options) { m.Metered = metered }
			})
			time.Sleep(6 * time.Hour)
			n = dials.Load()
		})
		return n
	}
	often, seldom := tries(false), tries(true)
	// Pauses are random up to 15 minutes and up to an hour.
	if often < 30 || often > 90 || seldom < 10 || seldom > 40 || seldom >= often {
		t.Errorf("%d tries in six hours, %d on a metered link; want about 57 and 22", often, seldom)
	}
}

// registry is a folder with the enrolment of the device.
func (w *world) registry() *fleet.Registry {
	w.t.Helper()
	dir := filepath.Join(w.dir, "devices")
	check(w.t, os.MkdirAll(dir, 0o700))
	e := fleet.Enroll{Root: w.fleet.State, Product: "gate", Channel: "stable", Seq: 1, Issued: mqttsynctest.Issued}
	r := &trust.Request{Report: w.key.Public(), Seal: []trust.SealKey{{KEM: 0x20, Public: make([]byte, 32)}}}
	file, err := e.Sign(r, mqttsynctest.Key("release"))
	check(w.t, err)
	check(w.t, os.WriteFile(filepath.Join(dir, w.id().String()+".tidedevice"), file, 0o600))
	reg, err := fleet.OpenRegistry(dir, w.fleet.State)
	check(w.t, err)
	return reg
}

func TestTheFleetHearsWhatWasRefusedAndWhy(t *testing.T) {
	for _, tc := range []struct {
		word   refusal.Word
		change func(w *world, m *bundle.Manifest)
	}{
		{refusal.Target, func(_ *world, m *bundle.Manifest) {
			m.Selectors = []trust.Selector{trust.OneDevice(trust.DeviceIDOf(mqttsynctest.Key("other").Public()))}
		}},
		{refusal.Runtime, func(_ *world, m *bundle.Manifest) { m.Least = &[3]uint64{9, 0, 0} }},
	} {
		t.Run(string(tc.word), func(t *testing.T) {
			in(t, func(w *world) {
				w.collect(nil)
				b, err := w.fleet.Bundle(1, 1000, func(m *bundle.Manifest) { tc.change(w, m) })
				check(t, err)
				var mu sync.Mutex
				var heard []fleet.Progress
				w.publish(func(o *fleet.PublisherOptions) {
					o.Devices = w.registry()
					o.Event = func(p fleet.Progress) { mu.Lock(); heard = append(heard, p); mu.Unlock() }
				}, b)
				w.start(nil)
				w.until("the fleet shows the word", 30*time.Minute, func() bool { return w.row().Refused == string(tc.word) })
				if w.row().Why == "" {
					t.Error("no reason is shown")
				}
				w.until("the publisher hears it", 30*time.Minute, func() bool {
					mu.Lock()
					defer mu.Unlock()
					for _, p := range heard {
						if p.Phase == "rejected" && p.Word == string(tc.word) && p.Detail != "" {
							return true
						}
					}
					return false
				})
			})
		})
	}
}
