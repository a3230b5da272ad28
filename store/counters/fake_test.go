package counters

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"tidegate/policy"
	"tidegate/policy/throttle"
	"time"
)

// fate is what becomes of a commit.
type fate int

const (
	done fate = iota // durable, and said so
	lost             // an error, and nothing was written
	kept             // an error, and it was written all the same
)

var errDisk = errors.New("input/output error")

// fakeDisk is a durable store in memory. What Commit applied survives a new ledger.
type fakeDisk struct {
	mu              sync.Mutex
	shards, touches map[string][]byte
	head            *Head
	next            func() fate // nil: done
	commits         int
}

func newDisk() *fakeDisk {
	return &fakeDisk{shards: map[string][]byte{}, touches: map[string][]byte{}}
}

func (d *fakeDisk) Load(shard, touch func(key, value []byte) error) (*Head, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, v := range d.shards {
		if err := shard([]byte(k), bytes.Clone(v)); err != nil {
			return nil, err
		}
	}
	for k, v := range d.touches {
		if err := touch([]byte(k), bytes.Clone(v)); err != nil {
			return nil, err
		}
	}
	return d.head, nil
}

func (d *fakeDisk) Commit(b Batch) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := done
	if d.next != nil {
		f = d.next()
	}
	if f != lost {
		d.apply(b)
	}
	if f != done {
		return errDisk
	}
	return nil
}

func (d *fakeDisk) apply(b Batch) {
	d.commits++
	for _, set := range []struct {
		to   map[string][]byte
		from []Change
	}{{d.shards, b.Shards}, {d.touches, b.Touches}} {
		for _, c := range set.from {
			if c.Value == nil {
				delete(set.to, string(c.Key))
			} else {
				set.to[string(c.Key)] = bytes.Clone(c.Value)
			}
		}
	}
	h := b.Head
	d.head = &h
}

// epoch is a Monday, midnight UTC, and a multiple of every window used in the tests.
var epoch = time.Date(2026, time.January, 5, 0, 0, 0, 0, time.UTC)

// at returns the instant d after epoch, on a device that has been up for a day.
func at(d time.Duration) throttle.Instant {
	return throttle.Instant{Lower: epoch.Add(d), Boot: 24*time.Hour + d}
}

func rule(t testing.TB, r throttle.Rule) *throttle.Rule {
	t.Helper()
	if r.Name == "" {
		r.Name = "plan"
	}
	if r.Level == 0 {
		r.Level = policy.LevelSubscription
	}
	c, err := throttle.Compile(r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func perMinute(t testing.TB, limit int64) *throttle.Rule {
	return rule(t, throttle.Rule{Limit: limit, Window: throttle.Window{Length: time.Minute}})
}

func key(s string) throttle.Key { return throttle.KeyOf(policy.LevelSubscription, s) }

func open(t testing.TB, d Disk, now throttle.Instant, o Options) *Ledger {
	t.Helper()
	l, err := Open(d, now, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// ended is a context for calls that must not wait.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// take makes one claim; a stall asks for a write and tries once more.
func take(t testing.TB, l *Ledger, now throttle.Instant, r *throttle.Rule, k throttle.Key, n int64) throttle.Verdict {
	t.Helper()
	v, err := tryTake(l, now, throttle.Claim{Rule: r, Key: k, N: n})
	if err != nil {
		t.Fatalf("take %d of %s: %v", n, k, err)
	}
	return v
}

func tryTake(l *Ledger, now throttle.Instant, claims ...throttle.Claim) (throttle.Verdict, error) {
	v, err := l.Take(ended, now, claims)
	if errors.Is(err, throttle.ErrStalled) {
		// Its error, if any, shows in the second try.
		_ = l.flush(urgentFlush)
		v, err = l.Take(ended, now, claims)
	}
	return v, err
}

// admit takes single calls until one is refused and returns how many were admitted.
func admit(t testing.TB, l *Ledger, now throttle.Instant, r *throttle.Rule, k throttle.Key) (n int64) {
	t.Helper()
	for take(t, l, now, r, k, 1).Admitted() {
		n++
	}
	return n
}

// running starts Run and returns the function that stops it cleanly.
func running(t testing.TB, l *Ledger) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	out := make(chan error, 1)
	go func() { out <- l.Run(ctx) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() { cancel(); err = <-out })
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}
