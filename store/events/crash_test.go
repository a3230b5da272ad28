package events_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"tidegate/store/events"
	"tidegate/store/events/batch"
	"tidegate/store/events/eventstest"
	"tidegate/store/storetest"
)

// A history is what the outside of a queue saw: calls by their number (in BytesIn).
type history struct {
	recorded uint64          // calls 1 to recorded were made
	cut      uint64          // calls up to here were made before the power cut
	durable  map[uint64]bool // Flush returned nil for the call
	released map[uint64]bool // Release returned nil for a batch with this call
	doubted  map[uint64]bool // Release returned an error for a batch with this call
}

// step records and flushes one call and, each fifth time, releases the two oldest batches
// and the loss records.
func (h *history) step(t *testing.T, l *events.Log) error {
	h.recorded++
	l.Record(&events.Event{Time: began, API: "meters", Status: 200, BytesIn: h.recorded})
	if err := l.Flush(t.Context()); err != nil {
		return err
	}
	h.flushed()
	if h.recorded%5 != 0 {
		return nil
	}
	bs, err := l.Read(events.Cursor{Class: batch.Detail}, 2)
	if err != nil || len(bs) == 0 {
		return err
	}
	err = l.Release(events.After(&bs[len(bs)-1]))
	for _, e := range decoded(t, bs) {
		if err != nil {
			h.doubted[e.BytesIn] = true
		} else {
			h.released[e.BytesIn] = true
		}
	}
	return err
}

// flushed notes that a Flush has succeeded.
func (h *history) flushed() {
	for call := h.cut + 1; call <= h.recorded; call++ {
		h.durable[call] = true
	}
}

// check wants each durable call in the queue exactly once, unless it was released; then
// it must not be there.
func (h *history) check(t *testing.T, l *events.Log) {
	t.Helper()
	seen := map[uint64]int{}
	for _, e := range decoded(t, read(t, l, batch.Detail)) {
		seen[e.BytesIn]++
	}
	for call := uint64(1); call <= h.recorded; call++ {
		switch n := seen[call]; {
		case n > 1:
			t.Errorf("call %d is in the queue %d times", call, n)
		case h.released[call] && n != 0:
			t.Errorf("call %d came back after its release", call)
		case !h.released[call] && !h.doubted[call] && h.durable[call] && n == 0:
			t.Errorf("call %d was flushed and is gone", call)
		}
	}
	if len(seen) > int(h.recorded) {
		t.Errorf("%d calls in the queue, %d were made", len(seen), h.recorded)
	}
}

func newHistory() *history {
	return &history{durable: map[uint64]bool{}, released: map[uint64]bool{}, doubted: map[uint64]bool{}}
}

const matrixSteps = 17

// matrixCommits is the number of commits of the workload, Attach included.
func matrixCommits(t *testing.T) int {
	var faults storetest.Faults
	l := open(t, openFile(t, filepath.Join(t.TempDir(), "events.db"), 16<<20, faults.Commit), options())
	h := newHistory()
	for range matrixSteps {
		if err := h.step(t, l); err != nil {
			t.Fatal(err)
		}
	}
	h.check(t, l)
	return faults.Commits()
}

// A powerCut lets one commit meet its fate and none after it do anything.
type powerCut struct {
	faults storetest.Faults
	at     int
}

func (c *powerCut) commit(path string, commit func() error) error {
	if c.at > 0 && c.faults.Commits() >= c.at {
		return storetest.ErrInjected
	}
	return c.faults.Commit(path, commit)
}

func TestPowerCutAtEveryCommit(t *testing.T) {
	for at := 1; at <= matrixCommits(t); at++ {
		for _, fate := range storetest.Fates {
			t.Run(fmt.Sprintf("%d-%s", at, fate), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "events.db")
				cut := powerCut{}
				db := openFile(t, path, 16<<20, cut.commit)
				cut.faults.At(at, fate)
				cut.at = at
				h := newHistory()
				var err error
				var l *events.Log
				for l, err = events.Open(db, options()); err == nil && h.recorded < matrixSteps; {
					err = h.step(t, l)
				}
				if !errors.Is(err, storetest.ErrInjected) {
					t.Fatalf("the cut was not felt: %v", err)
				}
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				l = open(t, openFile(t, path, 16<<20, nil), options())
				h.check(t, l)
				h.cut = h.recorded
				for range 3 {
					if err := h.step(t, l); err != nil {
						t.Fatalf("after the cut: %v", err)
					}
				}
				h.check(t, l)
			})
		}
	}
}

func TestTheQueueGoesOnAfterAFailedCommit(t *testing.T) {
	for at := 1; at <= matrixCommits(t); at++ {
		for _, fate := range storetest.Fates {
			t.Run(fmt.Sprintf("%d-%s", at, fate), func(t *testing.T) {
				var faults storetest.Faults
				db := openFile(t, filepath.Join(t.TempDir(), "events.db"), 16<<20, faults.Commit)
				faults.At(at, fate)
				l := events.New(options())
				_ = l.Attach(db, events.AsItLay)
				h := newHistory()
				for range matrixSteps {
					if err := h.step(t, l); err != nil && !errors.Is(err, storetest.ErrInjected) {
						t.Logf("step %d: %v", h.recorded, err)
					}
				}
				if err := l.Flush(t.Context()); err != nil {
					t.Fatalf("the queue has not recovered: %v", err)
				}
				h.flushed()
				h.check(t, l)
				if s := l.Status(); s.Err != nil || s.Waiting != 0 {
					t.Errorf("after recovery: %d events wait, error %v", s.Waiting, s.Err)
				}
				if losses, err := l.Losses(0, 100); err != nil || len(losses) != 0 {
					t.Errorf("losses %+v, %v; nothing was lost", losses, err)
				}
			})
		}
	}
}

func TestUncleanStopIsDeclared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.db")
	db := openFile(t, path, 16<<20, nil)
	l := open(t, db, options())
	record(l, eventstest.Mix(10, began, 1))
	flush(t, l)
	record(l, eventstest.Mix(10, began, 1)) // never flushed
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, openFile(t, path, 16<<20, nil), options())
	losses, err := l.Losses(0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if len(losses) != 2 {
		t.Fatalf("%d loss records, want one per class: %+v", len(losses), losses)
	}
	for i, loss := range losses {
		if loss.Reason != batch.ReasonUnclean || loss.Known || loss.From != 0 || !loss.First.Equal(began) || loss.Number != uint64(i)+1 {
			t.Errorf("loss %+v", loss)
		}
	}
	if err := l.ReleaseLosses(losses[1].Number); err != nil {
		t.Fatal(err)
	}
	if losses, err := l.Losses(0, 10); err != nil || len(losses) != 0 {
		t.Errorf("after release: %+v, %v", losses, err)
	}
}

func TestAFileThatWasSetAsideIsDeclared(t *testing.T) {
	l := events.New(options())
	record(l, eventstest.Mix(10, began, 1)) // before the file is there
	if err := l.Flush(t.Context()); !errors.Is(err, events.ErrNoFile) {
		t.Fatalf("flush without a file: %v", err)
	}
	if err := l.Attach(openFile(t, filepath.Join(t.TempDir(), "events.db"), 16<<20, nil), events.SetAside); err != nil {
		t.Fatal(err)
	}
	flush(t, l)
	if got := len(decoded(t, read(t, l, batch.Detail))); got != 10 {
		t.Errorf("%d events, want the 10 that waited for the file", got)
	}
	losses, err := l.Losses(0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if len(losses) != 2 || losses[0].Reason != batch.ReasonQuarantine || losses[0].Known {
		t.Errorf("losses %+v, want a quarantine of unknown size per class", losses)
	}
}

func TestADamagedBatchIsSetAsideAlone(t *testing.T) {
	for name, part := range map[string]func(*events.Batch) []byte{
		"body":   func(b *events.Batch) []byte { return b.Body },
		"header": func(b *events.Batch) []byte { return b.Sum[:] },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "events.db")
			db := openFile(t, path, 16<<20, nil)
			l := open(t, db, options())
			for seed := range uint64(5) {
				record(l, eventstest.Mix(200, began, seed))
				flush(t, l)
			}
			bs := read(t, l, batch.Detail)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			damage(t, path, part(&bs[2]))

			l = open(t, openFile(t, path, 16<<20, nil), options())
			if diff := slices.Compare(seqs(read(t, l, batch.Detail)), []uint64{1, 2, 4, 5}); diff != 0 {
				t.Errorf("read batches %v, want 1 2 4 5", seqs(read(t, l, batch.Detail)))
			}
			losses, err := l.Losses(2, 10) // behind the two records of the unclean stop
			if err != nil {
				t.Fatal(err)
			}
			if len(losses) != 1 || losses[0].Reason != batch.ReasonCorrupt || losses[0].From != 3 || losses[0].To != 3 {
				t.Fatalf("losses %+v, want batch 3 as corrupt", losses)
			}
			if known := name == "body"; losses[0].Known != known || known && losses[0].Calls != 200 {
				t.Errorf("loss %+v: the calls are known only when the header is whole", losses[0])
			}
		})
	}
}

func TestADamagedLossRecordIsALossOfUnknownSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.db")
	db := openFile(t, path, 16<<20, nil)
	l := events.New(options())
	if err := l.Attach(db, events.SetAside); err != nil {
		t.Fatal(err)
	}
	record(l, eventstest.Mix(10, began, 1))
	flush(t, l)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	damage(t, path, []byte(batch.ReasonQuarantine)) // both records

	l = open(t, openFile(t, path, 16<<20, nil), options())
	if n := len(decoded(t, read(t, l, batch.Detail))); n != 10 {
		t.Errorf("%d events, want the 10 that are whole", n)
	}
	losses, err := l.Losses(0, 10)
	if err != nil {
		t.Fatal(err)
	}
	var got []batch.Reason
	for _, loss := range losses {
		got = append(got, loss.Reason)
	}
	want := []batch.Reason{batch.ReasonCorrupt, batch.ReasonCorrupt, batch.ReasonUnclean, batch.ReasonUnclean}
	if !slices.Equal(got, want) {
		t.Errorf("losses for %v, want %v", got, want)
	}
	if err := l.ReleaseLosses(losses[len(losses)-1].Number); err != nil {
		t.Fatal(err)
	}
	if losses, err := l.Losses(0, 10); err != nil || len(losses) != 0 {
		t.Errorf("after release: %+v, %v", losses, err)
	}
}

// damage flips a bit in the middle of each copy of part in a file.
func damage(t *testing.T, path string, part []byte) {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for from := 0; ; found++ {
		i := bytes.Index(file[from:], part)
		if i < 0 {
			break
		}
		file[from+i+len(part)/2] ^= 0x10
		from += i + len(part)
	}
	if found == 0 {
		t.Fatal("the part to damage is not in the file")
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestKilledProcess lets a child record and flush, kills it at any moment, and looks for
// what it had reported as durable.
func TestKilledProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.db")
	reported := uint64(0)
	for round := range 8 {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChildRecordsUntilKilled$")
		child.Env = append(os.Environ(), childFile+"="+path, childFirst+"="+strconv.FormatUint(reported, 10))
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; n < 5+7*round && lines.Scan(); n++ {
			if reported, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
				t.Fatalf("child said %q", lines.Text())
			}
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // what it said before it died
			if n, err := strconv.ParseUint(lines.Text(), 10, 64); err == nil {
				reported = n
			}
		}
		_ = child.Wait() // killed
		if reported == 0 {
			t.Fatal("the child recorded nothing")
		}

		db := openFile(t, path, 16<<20, nil)
		l := open(t, db, options())
		seen := map[uint64]int{}
		for _, e := range decoded(t, read(t, l, batch.Detail)) {
			seen[e.BytesIn]++
		}
		for call := uint64(1); call <= reported; call++ {
			if seen[call] != 1 {
				t.Errorf("round %d: call %d of %d is in the queue %d times", round, call, reported, seen[call])
			}
		}
		reported = uint64(len(seen)) // one more may have reached the disk than was said
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	childFile  = "TIDEGATE_TEST_EVENTS_FILE"
	childFirst = "TIDEGATE_TEST_EVENTS_FIRST"
)

// TestChildRecordsUntilKilled is the child of TestKilledProcess and nothing by itself.
func TestChildRecordsUntilKilled(t *testing.T) {
	path := os.Getenv(childFile)
	if path == "" {
		return
	}
	call, err := strconv.ParseUint(os.Getenv(childFirst), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, openFile(t, path, 16<<20, nil), options())
	for {
		call++
		l.Record(&events.Event{Time: began, API: "meters", Status: 200, BytesIn: call})
		flush(t, l)
		fmt.Println(call)
	}
}
