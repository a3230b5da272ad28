package appliance_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"tidegate/appliance/admin"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/platform/identity"
	"tidegate/sync/envelope"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/trust"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
)

// known is a fleet with one device.
type known struct{ e *trust.Enrolment }

func (k known) Device(id trust.DeviceID) (*trust.Enrolment, bool) { return k.e, id == k.e.Device }
func (k known) All(yield func(*trust.Enrolment) bool)             { yield(k.e) }

// A hub is a broker with a collector and a publisher, for one device whose keys lie in dir.
type hub struct {
	broker string // URL
	id     trust.DeviceID
	store  fleet.Store
	fleet  *devicetest.Fleet
	dir    string
}

// meet starts a hub.
func meet(t *testing.T) *hub {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	broker := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	check(broker.AddHook(new(auth.AllowHook), nil))
	l := listeners.NewTCP(listeners.Config{ID: "l", Address: "127.0.0.1:0"})
	check(broker.AddListener(l))
	check(broker.Serve())
	t.Cleanup(func() { _ = broker.Close() })

	h := &hub{broker: "tcp://" + l.Address(), dir: t.TempDir(), fleet: devicetest.NewFleet(t)}
	report := envelope.PublicKey(deviceKey(t, h.dir)) // the fleet knows it before it starts
	h.id = trust.DeviceIDOf(report)
	root, _ := h.fleet.Root(t)
	state, err := fleet.Believe(root)
	check(err)
	h.store, err = fleet.OpenStore(t.Context(), filepath.Join(t.TempDir(), "fleet.db"), fleet.CallRows)
	check(err)
	t.Cleanup(func() { check(h.store.Close()) })
	u, err := url.Parse(h.broker)
	check(err)
	signer := message.Signer{Domain: h.fleet.Domain, Epoch: 1, Key: h.fleet.Key.Private}
	c := fleet.NewCollector(fleet.CollectorOptions{
		Broker: fleet.Broker{URLs: []*url.URL{u}, ClientID: "collector"}, Fleet: "acme", Root: state, Store: h.store, Signer: &signer,
		Devices: known{&trust.Enrolment{Device: h.id, Report: report}},
	})
	p, err := fleet.NewPublisher(fleet.PublisherOptions{
		Broker: fleet.Broker{URLs: []*url.URL{u}, ClientID: "publisher"}, Fleet: "acme", Root: state, Rollout: fleet.Whole(),
	})
	check(err)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait() })
	all.Go(func() { _ = c.Run(ctx) }) // ends with ctx
	all.Go(func() { _ = p.Run(ctx) })
	for broker.Info.Clone().Subscriptions < 5 {
		time.Sleep(10 * time.Millisecond)
	}
	devicetest.Start(t, devicetest.Options{Dir: h.dir, Fleet: h.fleet}).Stop(t) // the root is installed
	return h
}

// start starts the device of the hub.
func (h *hub) start(t *testing.T, mode string) *devicetest.Device {
	t.Helper()
	return devicetest.Start(t, devicetest.Options{Dir: h.dir, Fleet: h.fleet, Config: func(c *config.Config) {
		c.MQTT.Brokers, c.MQTT.Fleet, c.MQTT.FirstAfter, c.MQTT.Mode = []string{h.broker}, "acme", 0, mode
	}})
}

// knows reports whether the fleet has a status of the device.
func (h *hub) knows(t *testing.T) bool {
	t.Helper()
	for r, err := range h.store.Devices(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Device == h.id.String() {
			return true
		}
	}
	return false
}

func TestADeviceReportsToItsFleet(t *testing.T) {
	h := meet(t)
	d := h.start(t, "always")
	for end := time.Now().Add(90 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		s := d.App.Status()
		if s.Link != nil && s.Link.Collector {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("nobody answered: %+v", s.Link)
		}
	}
	if !h.knows(t) {
		t.Error("the fleet has no status of the device")
	}
}

func TestADeviceOnDemandSpeaksWhenAPersonAsks(t *testing.T) {
	h := meet(t)
	d := h.start(t, "demand")
	if l := d.App.Status().Link; l == nil || l.State != "waiting" || l.Broker != "" || h.knows(t) {
		t.Fatalf("before anybody asked: %+v", l)
	}
	status, body := d.Socket(t, "POST", "/v1/sync?wait=true", "")
	var l admin.Link
	if err := json.Unmarshal([]byte(body), &l); err != nil || status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if !l.Publisher || !l.Collector || !h.knows(t) {
		t.Errorf("done, and the link is %+v", l)
	}
}

// A broker that sends 10,000 announcements a second costs the link, and not a call.
func TestAFloodOfTheBrokerCostsNoCall(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	defer backend.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hub{dir: t.TempDir(), fleet: devicetest.NewFleet(t), broker: "tcp://" + ln.Addr().String()}
	devicetest.Start(t, devicetest.Options{Dir: h.dir, Fleet: h.fleet}).Stop(t) // the root is installed
	id, over := make(chan trust.DeviceID, 1), make(chan struct{})
	var flood sync.Once
	p := &mqttsynctest.Puppet{Connected: func(c net.Conn) {
		flood.Do(func() {
			topic := message.Fleet("acme").Device(<-id, message.AnnouncePart)
			for i := 0; ; i++ {
				select {
				case <-over:
					return
				default:
				}
				m := &message.Announcement{Offer: &message.Offer{Seq: 1, Epoch: 1, Head: 64, Digest: sha256.Sum256([]byte(strconv.Itoa(i)))}}
				b, err := message.Encode(m)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := c.Write(mqttsynctest.Publication(topic, b)); err != nil {
					return
				}
			}
		})
	}}
	defer p.Close()
	defer ln.Close() //nolint:errcheck // the test is over
	go p.Serve(ln)
	d := h.start(t, "always")
	id <- trust.DeviceIDOf(envelope.PublicKey(deviceKey(t, h.dir)))
	d.Apply(t, h.fleet.API(t, backend.URL, "/open"))
	flooded := func() (n uint64) {
		for _, k := range d.App.Status().Link.Dropped {
			n += k
		}
		return n
	}
	for end := time.Now().Add(time.Minute); flooded() < 1000; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("nothing of the flood is counted: %+v", d.App.Status().Link)
		}
	}
	before := flooded()
	for range 1000 {
		resp, err := http.Get(d.URL("/echo/1.0/open"))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("status %d during the flood", resp.StatusCode)
		}
	}
	if flooded() == before {
		t.Error("the flood was over: the test shows nothing")
	}
	close(over)
}

// deviceKey is the public half of the report key of a device that lies in dir.
func deviceKey(t *testing.T, dir string) ed25519.PublicKey {
	t.Helper()
	keys, err := identity.Load(filepath.Join(dir, "identity"), identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return keys.ReportKey()
}
