package events_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"tidegate/store"
	"tidegate/store/events"
	"tidegate/store/events/batch"
	"tidegate/store/events/eventstest"
	"time"

	"pgregory.net/rapid"
)

var both = []events.Class{batch.Detail, batch.RollUps}

// calls counts the calls that batches hold, by their content.
func calls(t testing.TB, bs []events.Batch) (n uint64) {
	t.Helper()
	for i := range bs {
		if bs[i].Class == batch.Detail {
			n += uint64(len(decoded(t, bs[i:i+1])))
			continue
		}
		for r, err := range bs[i].RollUps() {
			if err != nil {
				t.Fatal(err)
			}
			n += r.Calls
		}
	}
	return n
}

// declared adds up the loss records of each class.
func declared(t testing.TB, l *events.Log) map[events.Class]uint64 {
	t.Helper()
	losses, err := l.Losses(0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	n := map[events.Class]uint64{}
	for _, loss := range losses {
		if !loss.Known && loss.Reason != batch.ReasonUnclean {
			t.Errorf("loss of unknown size: %+v", loss)
		}
		n[loss.Class] += loss.Calls
	}
	return n
}

func TestCallsThatFindNoMemoryAreCounted(t *testing.T) {
	l := open(t, openFile(t, filepath.Join(t.TempDir(), "events.db"), 16<<20, nil), options())
	mix := eventstest.Mix(6_000, began, 1)
	record(l, mix) // nobody collects
	flush(t, l)
	lost := declared(t, l)
	for _, c := range both {
		if lost[c] == 0 {
			t.Errorf("%s: nothing lost, the memory is not bounded", c)
		}
		if kept := calls(t, read(t, l, c)); kept+lost[c] != 6_000 {
			t.Errorf("%s: %d kept and %d lost of 6000 calls", c, kept, lost[c])
		}
	}
}

func TestWithoutAFileMemoryIsBounded(t *testing.T) {
	l := events.New(options())
	mix := eventstest.Mix(1_000, began, 1)
	const rounds = 200
	for range rounds {
		record(l, mix)
		if err := l.Flush(t.Context()); err == nil {
			t.Fatal("flushed without a file")
		}
	}
	if n := l.Status().Waiting; n > 120_000 {
		t.Errorf("%d events wait in memory", n)
	}
	if err := l.Attach(openFile(t, filepath.Join(t.TempDir(), "events.db"), 64<<20, nil), events.AsItLay); err != nil {
		t.Fatal(err)
	}
	flush(t, l)
	flush(t, l) // what trimming dropped is declared with the parcel after it
	lost := declared(t, l)
	for _, c := range both {
		if kept := calls(t, read(t, l, c)); kept+lost[c] != rounds*1_000 {
			t.Errorf("%s: %d kept and %d lost of %d calls", c, kept, lost[c], rounds*1_000)
		}
	}
	if lost[batch.Detail] == 0 || lost[batch.RollUps] != 0 {
		t.Errorf("lost %v; detail goes before roll-ups", lost)
	}
}

// TestEveryCallIsKeptReleasedOrDeclared drives a small queue at random and counts.
func TestEveryCallIsKeptReleasedOrDeclared(t *testing.T) {
	dir := t.TempDir()
	files := 0
	rapid.Check(t, func(r *rapid.T) {
		files++
		path := filepath.Join(dir, fmt.Sprint(files))
		maxBytes := int64(rapid.IntRange(64, 96).Draw(r, "pages")) << 12
		detail := rapid.SampledFrom([]events.Keep{events.KeepAll, events.KeepAll, events.KeepNone}).Draw(r, "detail")
		o := options()
		o.Detail = detail
		openQueue := func() (*store.DB, *events.Log) {
			db, err := store.Open(path, store.Options{MaxBytes: maxBytes, Schema: 1})
			if err != nil {
				r.Fatal(err)
			}
			l, err := events.Open(db, o)
			if err != nil {
				r.Fatal(err)
			}
			return db, l
		}
		db, l := openQueue()
		defer func() { db.Close() }()
		made := uint64(0)
		released := map[events.Class]uint64{}
		acked := map[events.Class]uint64{} // of losses
		var seen []events.Loss
		seed := uint64(0)

		record := func(r *rapid.T) {
			n := rapid.IntRange(1, 1500).Draw(r, "calls")
			seed++
			mix := eventstest.Mix(n, began, seed)
			for i := range mix {
				mix[i].User = fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, seed, i))) // hard to pack
				l.Record(&mix[i])
			}
			made += uint64(n)
			if rapid.Bool().Draw(r, "flush") {
				if err := l.Flush(t.Context()); err != nil {
					r.Fatal(err)
				}
			}
		}

		r.Repeat(map[string]func(*rapid.T){
			"record": record, "record more": record, "record much": record, // else the cap is rarely met
			"flush": func(r *rapid.T) {
				if err := l.Flush(t.Context()); err != nil {
					r.Fatal(err)
				}
			},
			"release": func(r *rapid.T) {
				c := rapid.SampledFrom(both).Draw(r, "class")
				bs, err := l.Read(events.Cursor{Class: c}, rapid.IntRange(1, 5).Draw(r, "batches"))
				if err != nil {
					r.Fatal(err)
				}
				if len(bs) == 0 {
					return
				}
				if err := l.Release(events.After(&bs[len(bs)-1])); err != nil {
					r.Fatal(err)
				}
				released[c] += calls(t, bs)
			},
			"look at losses": func(r *rapid.T) {
				var err error
				if seen, err = l.Losses(0, rapid.IntRange(1, 3).Draw(r, "records")); err != nil {
					r.Fatal(err)
				}
			},
			"acknowledge losses": func(r *rapid.T) {
				if len(seen) == 0 {
					return
				}
				for _, loss := range seen { // as they were when they were seen
					acked[loss.Class] += loss.Calls
				}
				if err := l.ReleaseLosses(seen[len(seen)-1].Number); err != nil {
					r.Fatal(err)
				}
				seen = nil
			},
			"restart": func(r *rapid.T) {
				if err := l.Flush(t.Context()); err != nil {
					r.Fatal(err)
				}
				if err := db.Close(); err != nil {
					r.Fatal(err)
				}
				db, l = openQueue()
			},
			"": func(r *rapid.T) {
				s := l.Status()
				if s.Bytes > s.Cap {
					r.Fatalf("%d bytes in the queue, the cap is %d", s.Bytes, s.Cap)
				}
			},
		})
		if err := l.Flush(t.Context()); err != nil {
			r.Fatal(err)
		}
		lost := declared(t, l)
		for i, c := range both {
			want := made
			if c == batch.Detail && detail == events.KeepNone {
				want = 0
			}
			bs := read(t, l, c)
			kept := calls(t, bs)
			if kept+released[c]+lost[c]+acked[c] != want {
				r.Errorf("%s: %d kept + %d released + %d declared lost + %d of it acknowledged, want %d calls",
					c, kept, released[c], lost[c], acked[c], want)
			}
			s := l.Status().Classes[i]
			total := uint64(0)
			for _, n := range s.Lost {
				total += n
			}
			if total != lost[c]+acked[c] {
				r.Errorf("%s: status says %d lost, the records say %d", c, total, lost[c]+acked[c])
			}
			if s.Calls != kept || s.Count != len(bs) {
				r.Errorf("%s: status says %d calls in %d batches, %d in %d are there", c, s.Calls, s.Count, kept, len(bs))
			}
		}
	})
}

// TestAFileWithoutRoomIsWorkedAround fills the file behind the queue's back, so that its own
// count of bytes is wrong and the store says no.
func TestAFileWithoutRoomIsWorkedAround(t *testing.T) {
	for _, taken := range []int{20, 40, 48} {
		t.Run(fmt.Sprintf("%d KiB taken", taken*4), func(t *testing.T) {
			db := openFile(t, filepath.Join(t.TempDir(), "events.db"), 256<<10, nil)
			l := open(t, db, options())
			for i := range taken {
				err := db.Update(func(tx *store.Tx) error {
					return tx.Bucket("other").Put([]byte{byte(i)}, make([]byte, 3900))
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			const rounds = 40
			for seed := range uint64(rounds) {
				record(l, eventstest.Mix(300, began, seed))
				if err := l.Flush(t.Context()); err != nil {
					t.Logf("flush %d: %v", seed, err)
				}
			}
			flush(t, l)
			lost := declared(t, l)
			for _, c := range both {
				if kept := calls(t, read(t, l, c)); kept+lost[c] != rounds*300 {
					t.Errorf("%s: %d kept and %d lost of %d calls", c, kept, lost[c], rounds*300)
				}
			}
			if lost[batch.Detail] == 0 {
				t.Error("nothing was lost, the file had room")
			}
		})
	}
}

func TestLossRecordsStayFew(t *testing.T) {
	l := open(t, openFile(t, filepath.Join(t.TempDir(), "events.db"), 1<<20, nil), options())
	made := uint64(0)
	for seed := range uint64(800) {
		record(l, eventstest.Mix(20, began, seed))
		made += 20
		flush(t, l)
		if _, err := l.Losses(0, 1<<20); err != nil { // each record is seen, none acknowledged
			t.Fatal(err)
		}
	}
	if n := l.Status().Losses; n > 600 {
		t.Errorf("%d loss records", n)
	}
	lost := declared(t, l)
	for _, c := range both {
		if kept := calls(t, read(t, l, c)); kept+lost[c] != made {
			t.Errorf("%s: %d kept and %d lost of %d calls", c, kept, lost[c], made)
		}
	}
}

func TestAnEmptyQueueGivesItsSpaceBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.db")
	db := openFile(t, path, 4<<20, nil)
	l := open(t, db, options())
	for seed := range uint64(120) {
		record(l, eventstest.Mix(1_500, began, seed))
		flush(t, l)
	}
	before := db.Stats().FileBytes
	if before < 2<<20 {
		t.Fatalf("the file has only %d bytes", before)
	}
	epochs := map[events.Class]events.Epoch{}
	for _, c := range both {
		bs := read(t, l, c)
		epochs[c] = bs[0].Epoch
		if err := l.Release(events.After(&bs[len(bs)-1])); err != nil {
			t.Fatal(err)
		}
	}
	if after := db.Stats().FileBytes; after > before/4 {
		t.Errorf("file has %d bytes after release of all, %d before", after, before)
	}
	head := l.Status().Classes[0].Head
	record(l, eventstest.Mix(10, began, 1))
	flush(t, l)
	bs := read(t, l, batch.Detail)
	if len(bs) != 1 || bs[0].Seq != head+1 || bs[0].Epoch != epochs[batch.Detail] {
		t.Errorf("after compaction: batches %v; numbers and epoch must go on from %d", seqs(bs), head)
	}
	if len(declared(t, l)) == 0 {
		t.Error("the loss records of the cap did not survive the compaction")
	}
}

func TestRunWritesEachIntervalAndAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "events.db")
		db := openFile(t, path, 16<<20, nil)
		o := options()
		o.Clock = nil
		l := open(t, db, o)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- l.Run(ctx) }()

		l.Record(&events.Event{Time: time.Now(), Status: 200})
		time.Sleep(29 * time.Second)
		synctest.Wait()
		commits := db.Stats().Commits
		if n := l.Status().Classes[0].Calls; n != 0 {
			t.Errorf("%d events on disk before the interval", n)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := l.Status().Classes[0].Calls; n != 1 {
			t.Errorf("%d events on disk after the interval, want 1", n)
		}
		if n := db.Stats().Commits - commits; n == 0 {
			t.Error("no commit was made")
		}
		commits = db.Stats().Commits
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := db.Stats().Commits - commits; n != 0 {
			t.Errorf("%d pages written in an hour without calls", n)
		}

		l.Record(&events.Event{Time: time.Now(), Status: 200})
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if n := l.Status().Classes[0].Calls; n != 2 {
			t.Errorf("%d events on disk after the end, want 2", n)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		l = open(t, openFile(t, path, 16<<20, nil), o)
		if losses, err := l.Losses(0, 10); err != nil || len(losses) != 0 {
			t.Errorf("losses %+v, %v after a clean stop", losses, err)
		}
	})
}

func TestManyRecordersWhileRunning(t *testing.T) {
	db := openFile(t, filepath.Join(t.TempDir(), "events.db"), 64<<20, nil)
	l := open(t, db, options())
	ctx, stop := context.WithCancel(t.Context())
	var running, recorders sync.WaitGroup
	running.Go(func() {
		if err := l.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	const workers, each = 8, 3_000
	for w := range uint64(workers) {
		recorders.Go(func() {
			mix := eventstest.Mix(each, began, w)
			for i := range mix {
				l.Record(&mix[i])
			}
		})
	}
	recorders.Wait()
	stop()
	running.Wait()
	lost := declared(t, l)
	for _, c := range both {
		if kept := calls(t, read(t, l, c)); kept+lost[c] != workers*each {
			t.Errorf("%s: %d kept and %d lost of %d calls", c, kept, lost[c], workers*each)
		}
	}
}
