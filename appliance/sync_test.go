package appliance_test

import (
	"context"
	"log/slog"
	"net/url"
	"path/filepath"
	"testing"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/platform/identity"
	"tidegate/sync/envelope"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync/message"
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

func TestADeviceReportsToItsFleet(t *testing.T) {
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
	defer broker.Close() //nolint:errcheck // the test is over

	dir, f := t.TempDir(), devicetest.NewFleet(t)
	keys, err := identity.Load(filepath.Join(dir, "identity"), identity.Options{}) // the fleet knows it before it starts
	check(err)
	report := envelope.PublicKey(keys.ReportKey())
	id := trust.DeviceIDOf(report)
	root, _ := f.Root(t)
	state, err := fleet.Believe(root)
	check(err)
	store, err := fleet.OpenStore(t.Context(), filepath.Join(t.TempDir(), "fleet.db"), fleet.CallRows)
	check(err)
	defer store.Close() //nolint:errcheck // the test is over
	u, err := url.Parse("tcp://" + l.Address())
	check(err)
	signer := message.Signer{Domain: f.Domain, Epoch: 1, Key: f.Key.Private}
	c := fleet.NewCollector(fleet.CollectorOptions{
		Broker: fleet.Broker{URLs: []*url.URL{u}, ClientID: "collector"}, Fleet: "acme", Root: state, Store: store, Signer: &signer,
		Devices: known{&trust.Enrolment{Device: id, Report: report}},
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go c.Run(ctx) //nolint:errcheck // ends with ctx
	for broker.Info.Clone().Subscriptions < 2 {
		time.Sleep(10 * time.Millisecond)
	}
	devicetest.Start(t, devicetest.Options{Dir: dir, Fleet: f}).Stop(t) // the root is installed
	d := devicetest.Start(t, devicetest.Options{Dir: dir, Fleet: f, Config: func(c *config.Config) {
		c.MQTT.Brokers, c.MQTT.Fleet, c.MQTT.FirstAfter = []string{"tcp://" + l.Address()}, "acme", 0
	}})
	for end := time.Now().Add(90 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		s := d.App.Status()
		if s.Link != nil && s.Link.Collector {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("nobody answered: %+v", s.Link)
		}
	}
	for r, err := range store.Devices(ctx) {
		check(err)
		if r.Device == id.String() {
			return
		}
	}
	t.Error("the fleet has no status of the device")
}
