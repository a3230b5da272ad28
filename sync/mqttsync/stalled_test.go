package mqttsync_test

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/trust"
	"time"
)

// lockedText is a log that is read while it is written.
type lockedText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedText) has(word refusal.Word) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.b.Bytes(), []byte(word))
}

// H2: the last chunk never comes. The transfer waits and says so; what has arrived is not
// fetched again when somebody answers.
func TestH2ATransferThatStallsWaits(t *testing.T) {
	in(t, func(w *world) {
		p, err := w.fleet.Publish(w.dir, w.bundle(1, 400_000))
		check(t, err)
		w.stops = append(w.stops, func() { check(t, p.Close()) })
		publish := func() (stop func()) {
			s := w.fleet.Signer(trust.RoleTime)
			x, err := fleet.NewPublisher(fleet.PublisherOptions{
				Broker: w.brokerFor("publisher"), Fleet: mqttsynctest.Name, Root: w.fleet.State, Rollout: fleet.Whole(), Signer: &s,
				Clock: mqttsynctest.Now, Bundles: []*fleet.Published{p},
			})
			check(t, err)
			return w.run(x.Run)
		}
		stop := publish()
		log := new(lockedText)
		d := w.start(func(o *mqttsynctest.DeviceOptions) {
			o.Log = slog.New(slog.NewTextHandler(log, nil))
			o.Change = func(m *mqttsync.Options) { m.Down = 4000 }
		})
		have := func() int64 {
			if f := d.Client.Link().Fetching; f != nil {
				return f.Have
			}
			return 0
		}
		w.until("half of the bundle", time.Hour, func() bool { return have() > 200_000 })
		stop()
		w.until("the stall is told", time.Hour, func() bool { return log.has(refusal.WarnStalled) })
		if st := d.Desk.Status(); st.Last.Word != "" || st.Trial != nil {
			t.Errorf("a stall is a verdict: %+v", st.Last)
		}
		began := time.Now()
		publish()
		w.until("the bundle", 3*time.Hour, func() bool { return w.seq() == 1 })
		t.Logf("confirmed %s after somebody answered again", time.Since(began))
	})
}
