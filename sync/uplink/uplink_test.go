package uplink_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"tidegate/policy/refusal"
	"tidegate/store/events"
	"tidegate/store/events/batch"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/trust"
	"tidegate/sync/uplink"
	"time"
)

// queue is a queue in memory.
type queue struct {
	mu     sync.Mutex
	epoch  [2]batch.Epoch // detail, roll-ups
	head   [2]uint64
	low    [2]uint64
	have   [2]map[uint64]bool
	losses []events.Loss
}

func newQueue() *queue {
	q := &queue{}
	q.anew(1)
	return q
}

func (q *queue) anew(n byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range 2 {
		q.epoch[i], q.head[i], q.low[i], q.have[i] = batch.Epoch{n, byte(i)}, 0, 0, map[uint64]bool{}
	}
	q.losses = nil
}

func at(c batch.Class) int { return int(c) - 1 }

func (q *queue) add(c batch.Class, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for range n {
		q.head[at(c)]++
		q.have[at(c)][q.head[at(c)]] = true
	}
}

func (q *queue) Read(after events.Cursor, max int) ([]events.Batch, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := at(after.Class)
	var all []events.Batch
	for s := after.Seq + 1; s <= q.head[i] && len(all) < max; s++ {
		if q.have[i][s] {
			all = append(all, events.Batch{Header: batch.Header{Class: after.Class, Epoch: q.epoch[i], Seq: s}})
		}
	}
	return all, nil
}

func (q *queue) Release(upTo events.Cursor, also ...uint64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := at(upTo.Class)
	if upTo.Epoch != q.epoch[i] || upTo.Seq > q.head[i] {
		return events.ErrForeign
	}
	for s := range q.have[i] {
		if s <= upTo.Seq || slices.Contains(also, s) {
			delete(q.have[i], s)
		}
	}
	q.low[i] = q.head[i]
	for s := range q.have[i] {
		q.low[i] = min(q.low[i], s-1)
	}
	return nil
}

func (q *queue) Losses(after uint64, n int) ([]events.Loss, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var all []events.Loss
	for _, l := range q.losses {
		if l.Number > after && len(all) < n {
			all = append(all, l)
		}
	}
	return all, nil
}

func (q *queue) ReleaseLosses(n uint64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.losses = slices.DeleteFunc(q.losses, func(l events.Loss) bool { return l.Number <= n })
	return nil
}

func (q *queue) Status() events.Status {
	q.mu.Lock()
	defer q.mu.Unlock()
	var s events.Status
	for i := range 2 {
		s.Classes[i] = events.ClassStatus{Class: batch.Class(i + 1), Epoch: q.epoch[i], Head: q.head[i], Acked: q.low[i], Count: len(q.have[i])}
	}
	s.Losses = len(q.losses)
	return s
}

func (q *queue) left(c batch.Class) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.have[at(c)])
}

type sealer struct{}

func (sealer) Batch(b *batch.Batch, _ time.Time) ([]byte, error) {
	return fmt.Appendf(make([]byte, 0, 16<<10), "%-16384d", b.Seq), nil
}

func (sealer) Loss(l *batch.Loss, _ time.Time) ([]byte, error) {
	return fmt.Appendf(nil, "%d", l.Number), nil
}

// sink notes what it is given and, if told to, fails.
type sink struct {
	mu    sync.Mutex
	got   []uplink.Parcel
	fails error
	took  time.Duration
	now   int
	most  int
}

func (k *sink) Send(_ context.Context, p uplink.Parcel) error {
	k.mu.Lock()
	k.now++
	k.most = max(k.most, k.now)
	k.mu.Unlock()
	time.Sleep(k.took)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now--
	k.got = append(k.got, p)
	return k.fails
}

func (k *sink) numbers() (all []uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.got {
		all = append(all, p.Seq)
	}
	return all
}

type bench struct {
	t     *testing.T
	q     *queue
	fleet *mqttsynctest.Fleet
	id    trust.DeviceID
	d     *uplink.Drain
}

func newBench(t *testing.T, change func(*uplink.Options)) *bench {
	t.Helper()
	f, err := mqttsynctest.NewFleet()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, q: newQueue(), fleet: f, id: trust.DeviceIDOf(mqttsynctest.Key("device").Public())}
	o := uplink.Options{
		Queue: b.q, Sealer: sealer{}, Device: b.id, Trust: func() trust.State { return f.State },
		Floor: func() uint64 { return mqttsynctest.Issued }, Now: mqttsynctest.Now,
	}
	if change != nil {
		change(&o)
	}
	b.d = uplink.New(o)
	return b
}

// ack signs an ack and gives it to the drain.
func (b *bench) ack(a message.Ack) error {
	b.t.Helper()
	a.Device = b.id
	if a.Marks == nil {
		a.Marks = []message.Mark{}
	}
	for i := range a.Marks {
		a.Marks[i].Also = append([]uint64{}, a.Marks[i].Also...)
	}
	s := b.fleet.Signer(trust.RoleCollector)
	env, err := s.Ack(&a, mqttsynctest.Issued)
	if err != nil {
		b.t.Fatal(err)
	}
	_, err = b.d.Acknowledge(env)
	return err
}

// run runs the drain into a sink for a while.
func (b *bench) run(k *sink, d time.Duration) error {
	ctx, cancel := context.WithTimeout(b.t.Context(), d)
	defer cancel()
	return b.d.Run(ctx, k)
}

func TestNothingIsDeletedWithoutAnAck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.q.add(batch.Detail, 3)
		k := &sink{}
		if err := b.run(k, 10*time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if got := k.numbers(); !slices.Equal(slices.Sorted(slices.Values(got)), []uint64{1, 2, 3}) {
			t.Errorf("sent %d", got)
		}
		if b.q.left(batch.Detail) != 3 {
			t.Error("the sink took them, and they are gone")
		}
		if err := b.ack(message.Ack{Marks: []message.Mark{{Epoch: b.q.epoch[0], UpTo: 1, Also: []uint64{3}}}}); err != nil {
			t.Fatal(err)
		}
		if got := b.q.left(batch.Detail); got != 1 {
			t.Errorf("%d left, want batch 2", got)
		}
	})
}

func TestUnackedBatchesGoAgainEverMoreSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.q.add(batch.Detail, 1)
		k := &sink{}
		_ = b.run(k, 10*time.Minute) // at 0, 60, 180 and 420 s
		if got := len(k.numbers()); got != 4 {
			t.Errorf("sent %d times in ten minutes, want 4", got)
		}
		_ = b.run(k, time.Second) // a new run starts at once
		if got := len(k.numbers()); got != 5 {
			t.Errorf("sent %d times after a new run, want 5", got)
		}
	})
}

func TestWhatIsOnItsWayIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.q.add(batch.Detail, 500)
		k := &sink{took: time.Second}
		_ = b.run(k, 59*time.Second)
		if k.most > 4 { // 16 KiB each, 64 KiB in flight
			t.Errorf("%d parcels of 16 KiB in flight", k.most)
		}
		if got := len(k.numbers()); got != uplink.Unacked {
			t.Errorf("%d sent without an ack, want %d", got, uplink.Unacked)
		}
	})
}

// ordered is a sealer that notes the order in which it is asked.
type ordered struct {
	sealer
	all []uint64
}

func (o *ordered) Batch(b *batch.Batch, at time.Time) ([]byte, error) {
	o.all = append(o.all, uint64(b.Class)*100+b.Seq)
	return o.sealer.Batch(b, at)
}

func TestOrders(t *testing.T) {
	for _, tc := range []struct {
		order uplink.Order
		want  []uint64
	}{
		{uplink.OldestFirst, []uint64{201, 202, 203, 101, 102, 103, 104, 105}},
		{uplink.NewestFirst, []uint64{203, 202, 201, 105, 104, 103, 102, 101}},
	} {
		synctest.Test(t, func(t *testing.T) {
			seal := &ordered{}
			b := newBench(t, func(o *uplink.Options) { o.Order, o.Sealer = tc.order, seal })
			b.q.add(batch.RollUps, 3)
			b.q.add(batch.Detail, 5)
			_ = b.run(&sink{}, 10*time.Second)
			if !slices.Equal(seal.all, tc.want) {
				t.Errorf("order %d: %d, want %d", tc.order, seal.all, tc.want)
			}
		})
	}
}

func TestLossesGoFirstAndEndOnlyInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		e := b.q.epoch[0]
		for n := uint64(1); n <= 3; n++ {
			b.q.losses = append(b.q.losses, events.Loss{Number: n, Class: batch.Detail, Epoch: e, From: n, To: n, Reason: batch.ReasonCap})
		}
		b.q.add(batch.Detail, 5)
		k := &sink{}
		_ = b.run(k, 5*time.Second)
		for i, p := range k.got[:3] {
			if p.Kind != uplink.LossParcel {
				t.Errorf("parcel %d is a batch, before the losses are declared", i)
			}
		}
		if err := b.ack(message.Ack{Losses: []message.LossName{{Epoch: e, Number: 3}}}); err != nil {
			t.Fatal(err)
		}
		if n := len(b.q.losses); n != 3 {
			t.Fatalf("%d losses left: a later ack has deleted what was not stored", n)
		}
		if err := b.ack(message.Ack{Losses: []message.LossName{{Epoch: e, Number: 1}, {Epoch: e, Number: 2}, {Epoch: batch.Epoch{9}, Number: 1}}}); err != nil {
			t.Fatal(err)
		}
		if n := len(b.q.losses); n != 0 {
			t.Errorf("%d losses left after all were stored", n)
		}
	})
}

func TestAnAckOfALossThatWasNotSentIsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		e := b.q.epoch[0]
		b.q.losses = []events.Loss{{Number: 1, Class: batch.Detail, Epoch: e, Reason: batch.ReasonCap}}
		if err := b.ack(message.Ack{Losses: []message.LossName{{Epoch: e, Number: 1}}}); err != nil {
			t.Fatal(err)
		}
		if len(b.q.losses) != 1 {
			t.Error("a loss went that was never declared")
		}
	})
}

func TestBadAcks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		_ = b.run(&sink{}, time.Second) // the queue is known, and empty
		b.q.add(batch.Detail, 2)
		e := b.q.epoch[0]
		if err := b.ack(message.Ack{Marks: []message.Mark{{Epoch: e, UpTo: 2}}}); !refusal.Is(err, refusal.Limit) {
			t.Errorf("ack of what was never sent: %v, want E_LIMIT", err)
		}
		_ = b.run(&sink{}, time.Second)
		for _, m := range []message.Mark{{Epoch: e, UpTo: 3}, {Epoch: e, UpTo: 0, Also: []uint64{3}}} {
			if err := b.ack(message.Ack{Marks: []message.Mark{m}}); !refusal.Is(err, refusal.Limit) {
				t.Errorf("ack of %+v: %v, want E_LIMIT", m, err)
			}
		}
		if err := b.ack(message.Ack{Marks: []message.Mark{{Epoch: batch.Epoch{7}, UpTo: 1 << 40}}}); err != nil {
			t.Errorf("ack of a queue that is gone: %v", err)
		}
		plain, err := message.PlainAck(&message.Ack{Device: b.id, Marks: []message.Mark{{Epoch: e, UpTo: 2, Also: []uint64{}}}}, b.fleet.Domain, 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.d.Acknowledge(plain); !refusal.Is(err, refusal.SigNone) {
			t.Errorf("plain ack: %v, want E_SIG_NONE", err)
		}
		if n := b.q.left(batch.Detail); n != 2 {
			t.Errorf("%d batches left, want 2", n)
		}
		if s := b.d.Stats(); s.BadAcks != 4 {
			t.Errorf("%d bad acks counted, want 4", s.BadAcks)
		}
	})
}

func TestPlainAcksCountOnlyWithoutACollectorAndWhenWanted(t *testing.T) {
	for _, tc := range []struct {
		plain message.PlainAcks
		roles []trust.RoleNumber
		ok    bool
	}{
		{message.AcceptPlainAcks, []trust.RoleNumber{trust.RoleRoot, trust.RoleRelease}, true},
		{message.RefusePlainAcks, []trust.RoleNumber{trust.RoleRoot, trust.RoleRelease}, false},
		{message.AcceptPlainAcks, nil, false},
	} {
		f, err := mqttsynctest.NewFleet(tc.roles...)
		if err != nil {
			t.Fatal(err)
		}
		id := trust.DeviceIDOf(mqttsynctest.Key("device").Public())
		b, err := message.PlainAck(&message.Ack{Device: id, Marks: []message.Mark{}}, f.Domain, 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := message.OpenAck(b, f.State, id, 0, tc.plain); (err == nil) != tc.ok {
			t.Errorf("plain ack under %+v: %v", tc, err)
		}
	}
}

func TestTheCollectorSlowsADeviceDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		if err := b.ack(message.Ack{Pause: 60, Rate: 16 << 10}); err != nil {
			t.Fatal(err)
		}
		b.q.add(batch.Detail, 100)
		k := &sink{}
		_ = b.run(k, 59*time.Second)
		if n := len(k.numbers()); n != 0 {
			t.Errorf("%d sent during the pause", n)
		}
		_ = b.run(k, 20*time.Second)
		if n := len(k.numbers()); n < 10 || n > 21 {
			t.Errorf("%d parcels of 16 KiB in 20 s at 16 KiB/s", n)
		}
	})
}

func TestANewQueueIsANewStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.q.add(batch.Detail, 5)
		_ = b.run(&sink{}, time.Second)
		old := b.q.epoch[0]
		b.q.anew(2)
		b.q.add(batch.Detail, 5)
		k := &sink{}
		_ = b.run(k, 5*time.Second)
		if n := len(k.numbers()); n != 5 {
			t.Errorf("%d batches of the new queue sent, want 5", n)
		}
		if err := b.ack(message.Ack{Marks: []message.Mark{{Epoch: old, UpTo: 5}}}); err != nil {
			t.Fatal(err)
		}
		if n := b.q.left(batch.Detail); n != 5 {
			t.Errorf("%d left: an ack of the old queue deleted batches of the new one", n)
		}
	})
}

func TestASinkThatFailsEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.q.add(batch.Detail, 1)
		gone := errors.New("gone")
		if err := b.run(&sink{fails: gone}, time.Minute); !errors.Is(err, gone) {
			t.Errorf("run ended with %v, want the sink's error", err)
		}
	})
}
