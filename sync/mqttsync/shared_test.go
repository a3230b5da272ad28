package mqttsync_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/trust"
	"time"
)

// dying stores until it is told not to, and then stores nothing and says nothing.
type dying struct {
	fleet.Store
	dead atomic.Bool
	puts atomic.Int64
}

// Put implements fleet.Store.
func (d *dying) Put(ctx context.Context, in fleet.Intake) ([]fleet.Mark, error) {
	if d.dead.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	d.puts.Add(1)
	return d.Store.Put(ctx, in)
}

// Collectors share the work. One of them takes messages and dies with them: the broker has had
// its acknowledgement for each, the fleet has none of them, and so they come again.
func TestACollectorThatDiesWithWhatItTookLosesNothing(t *testing.T) {
	in(t, func(w *world) {
		var stores [2]*dying
		var stops [2]func()
		for i := range stores {
			stores[i] = &dying{Store: w.store}
			s := w.fleet.Signer(trust.RoleCollector)
			c := fleet.NewCollector(fleet.CollectorOptions{
				Broker: w.brokerFor(fmt.Sprint("collector-", i)), Fleet: mqttsynctest.Name, Root: w.fleet.State, Devices: w.fleet,
				Store: stores[i], Signer: &s, Group: "collect",
			})
			stops[i] = w.run(c.Run)
		}
		w.publish(nil)
		d := w.start(nil)
		w.until("connected", 5*time.Minute, func() bool { return d.Client.Link().Collector })
		const rounds, calls = 20, 1000
		for i := range rounds {
			if i == rounds/2 {
				stores[0].dead.Store(true)
			}
			w.record(calls, uint64(i))
			time.Sleep(5 * time.Second)
		}
		before := d.Queue.Status().Classes[0].Count
		if before == 0 {
			t.Fatal("nothing waits: the one that died had taken nothing")
		}
		stops[0]()
		w.until("delivered by the other", 2*time.Hour, func() bool { return d.Queue.Status().Classes[0].Count == 0 })
		if got, _ := w.stored(); got != rounds*calls {
			t.Errorf("%d calls stored, want %d", got, rounds*calls)
		}
		if stores[0].puts.Load() == 0 || stores[1].puts.Load() == 0 {
			t.Errorf("%d and %d commits: the work was not shared", stores[0].puts.Load(), stores[1].puts.Load())
		}
	})
}
