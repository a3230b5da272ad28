package events_test

import (
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/store"
	"tidegate/store/events"
	"tidegate/store/events/batch"
	"tidegate/store/events/eventstest"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	bootID = [16]byte{1, 2, 3}
	began  = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
)

// fixed is a clock that stands still.
func fixed() events.Instant {
	return events.Instant{Now: began, Stamp: batch.Stamp{Boot: time.Hour, Unix: began, Quality: batch.Holdover}}
}

func options() events.Options {
	return events.Options{BootID: bootID, Clock: fixed, Address: events.AddressFull}
}

// openFile opens the queue file at path; commit is nil or stands in for each commit.
func openFile(t testing.TB, path string, maxBytes int64, commit func(string, func() error) error) *store.DB {
	t.Helper()
	db, err := store.Open(path, store.Options{MaxBytes: maxBytes, Schema: 1, Commit: commit})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func open(t testing.TB, db *store.DB, o events.Options) *events.Log {
	t.Helper()
	l, err := events.Open(db, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func record(l *events.Log, mix []events.Event) {
	for i := range mix {
		l.Record(&mix[i])
	}
}

func flush(t testing.TB, l *events.Log) {
	t.Helper()
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, l *events.Log, c events.Class) []events.Batch {
	t.Helper()
	bs, err := l.Read(events.Cursor{Class: c}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return bs
}

// decoded returns all events of the batches.
func decoded(t testing.TB, bs []events.Batch) []events.Event {
	t.Helper()
	var all []events.Event
	for i := range bs {
		n := 0
		for e, err := range bs[i].Events() {
			if err != nil {
				t.Fatalf("batch %d: %v", bs[i].Seq, err)
			}
			all = append(all, *e)
			n++
		}
		if n != bs[i].Count {
			t.Fatalf("batch %d yields %d events, its header says %d", bs[i].Seq, n, bs[i].Count)
		}
	}
	return all
}

var byValue = cmpopts.EquateComparable(netip.Addr{})

func TestFlushedEventsComeBackAsTheyWere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.db")
	db := openFile(t, path, 16<<20, nil)
	l := open(t, db, options())
	mix := eventstest.Mix(10_000, began, 7)
	for i := range mix {
		l.Record(&mix[i])
		if i%1000 == 999 {
			flush(t, l)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	l = open(t, openFile(t, path, 16<<20, nil), options())
	bs := read(t, l, batch.Detail)
	got := decoded(t, bs)
	slices.SortStableFunc(got, func(a, b events.Event) int { return a.Time.Compare(b.Time) })
	if len(got) != len(mix) {
		t.Fatalf("%d events came back of %d", len(got), len(mix))
	}
	for i := range mix {
		if !mix[i].Time.Equal(got[i].Time) {
			t.Fatalf("event %d: time %v, want %v", i, got[i].Time, mix[i].Time)
		}
		got[i].Time = mix[i].Time
		if got[i] != mix[i] {
			t.Fatalf("event %d differs (-recorded +read):\n%s", i, cmp.Diff(mix[i], got[i], byValue))
		}
	}
	for i := range bs {
		if bs[i].Seq != uint64(i)+1 || bs[i].Epoch != bs[0].Epoch || bs[i].BootID != bootID || bs[i].Start != fixed().Stamp {
			t.Errorf("batch %d has header %+v", i, bs[i].Header)
		}
	}
}

func TestRollUpsCountEveryCall(t *testing.T) {
	o := options()
	o.Detail = events.KeepNone
	l := open(t, openFile(t, filepath.Join(t.TempDir(), "events.db"), 16<<20, nil), o)
	mix := eventstest.Mix(5_000, began, 3)
	for i := range mix {
		l.Record(&mix[i])
		if i%1500 == 0 {
			flush(t, l)
		}
	}
	flush(t, l)
	type key struct {
		minute   time.Time
		api, app string
		class    uint8
		level    batch.Level
	}
	type sums struct {
		calls, in, out, retries, cached uint64
		total, backend                  time.Duration
	}
	want, got := map[key]sums{}, map[key]sums{}
	for i := range mix {
		e := &mix[i]
		k := key{e.Time.Truncate(time.Minute), e.API, e.ApplicationID, uint8(e.Status / 100), e.Level}
		s := want[k]
		s.calls++
		s.in += e.BytesIn
		s.out += e.BytesOut
		s.retries += uint64(e.Retries)
		s.total += e.Total
		s.backend += e.Backend
		if e.Flags&batch.TokenCached != 0 {
			s.cached++
		}
		want[k] = s
	}
	for _, b := range read(t, l, batch.RollUps) {
		for r, err := range b.RollUps() {
			if err != nil {
				t.Fatal(err)
			}
			k := key{r.Minute, r.API, r.ApplicationID, r.Class, r.Level}
			s := got[k]
			got[k] = sums{
				s.calls + r.Calls, s.in + r.BytesIn, s.out + r.BytesOut, s.retries + r.Retries,
				s.cached + r.TokenCached, s.total + r.Total, s.backend + r.Backend,
			}
		}
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(key{}, sums{})); diff != "" {
		t.Errorf("roll-ups differ (-counted +read):\n%s", diff)
	}
	if bs := read(t, l, batch.Detail); len(bs) != 0 {
		t.Errorf("detail is off, %d batches of it were kept", len(bs))
	}
}

func TestDetailOfErrorsOnly(t *testing.T) {
	o := options()
	o.Detail = events.KeepErrors
	l := open(t, openFile(t, filepath.Join(t.TempDir(), "events.db"), 16<<20, nil), o)
	mix := eventstest.Mix(2_000, began, 3)
	record(l, mix[:1000])
	flush(t, l)
	record(l, mix[1000:])
	flush(t, l)
	want := 0
	for i := range mix {
		if mix[i].Status >= 400 {
			want++
		}
	}
	got := decoded(t, read(t, l, batch.Detail))
	if len(got) != want || want == 0 {
		t.Errorf("%d events kept, want the %d that failed", len(got), want)
	}
	for i := range got {
		if got[i].Status < 400 {
			t.Errorf("kept a call with status %d", got[i].Status)
		}
	}
}

func TestWhatIsNotAskedForIsNotKept(t *testing.T) {
	call := events.Event{
		Time: began, Status: 200, UserAgent: "curl/8", RequestID: [16]byte{1}, TraceID: [16]byte{2},
		Client: netip.MustParseAddr("192.0.2.77"),
	}
	six := call
	six.Status, six.Client = 201, netip.MustParseAddr("2001:db8:1:2:3::4")
	for name, tc := range map[string]struct {
		form      events.AddressForm
		extras    events.Extra
		four, six string
	}{
		"defaults": {events.AddressPrefix, 0, "192.0.2.0", "2001:db8:1::"},
		"full":     {events.AddressFull, events.WithUserAgent | events.WithRequestID, "192.0.2.77", "2001:db8:1:2:3::4"},
		"none":     {events.AddressNone, events.WithUserAgent, "invalid IP", "invalid IP"},
	} {
		t.Run(name, func(t *testing.T) {
			o := options()
			o.Address, o.Extras = tc.form, tc.extras
			l := open(t, openFile(t, filepath.Join(t.TempDir(), "events.db"), 16<<20, nil), o)
			l.Record(&call)
			l.Record(&six)
			flush(t, l)
			got := decoded(t, read(t, l, batch.Detail))
			if len(got) != 2 {
				t.Fatalf("%d events, want 2", len(got))
			}
			slices.SortFunc(got, func(a, b events.Event) int { return int(a.Status) - int(b.Status) })
			if a := got[0].Client.String(); a != tc.four {
				t.Errorf("IPv4 client kept as %s, want %s", a, tc.four)
			}
			if a := got[1].Client.String(); a != tc.six {
				t.Errorf("IPv6 client kept as %s, want %s", a, tc.six)
			}
			if has := got[0].UserAgent != ""; has != (tc.extras&events.WithUserAgent != 0) {
				t.Errorf("user agent kept: %v", has)
			}
			if has := got[0].RequestID != [16]byte{}; has != (tc.extras&events.WithRequestID != 0) {
				t.Errorf("request id kept: %v", has)
			}
		})
	}
}

// TestRecordCopies reuses the buffer behind the strings of a call, as the engines do.
func TestRecordCopies(t *testing.T) {
	o := options()
	o.Extras = events.WithUserAgent
	l := open(t, openFile(t, filepath.Join(t.TempDir(), "events.db"), 16<<20, nil), o)
	buffer := make([]byte, 64)
	view := func(at int, s string) string {
		n := copy(buffer[at:], s)
		return unsafe.String(&buffer[at], n)
	}
	for range 100 { // several chunks, so that some are used again
		for range 100 {
			l.Record(&events.Event{
				Time: began, Status: 200, User: view(0, "ann"), ConsumerKey: view(8, "key"),
				KeyType: view(16, "SANDBOX"), Publisher: view(24, "admin"), UserAgent: view(32, "curl/8"),
			})
			clear(buffer)
		}
		events.Collect(l)
	}
	flush(t, l)
	got := decoded(t, read(t, l, batch.Detail))
	if len(got) != 10_000 {
		t.Fatalf("%d events, want 10000", len(got))
	}
	for i := range got {
		if e := &got[i]; e.User != "ann" || e.ConsumerKey != "key" || e.KeyType != "SANDBOX" || e.Publisher != "admin" || e.UserAgent != "curl/8" {
			t.Fatalf("event %d: %+v", i, e)
		}
	}
}

func TestAReadOnlyFileIsServed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.db")
	db := openFile(t, path, 16<<20, nil)
	l := open(t, db, options())
	record(l, eventstest.Mix(10, began, 1))
	flush(t, l)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	ro, err := store.Open(path, store.Options{MaxBytes: 16 << 20, Schema: 1, Access: store.ReadOnly})
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	l = events.New(options())
	if err := l.Attach(ro, events.AsItLay); !refusal.Is(err, refusal.StoreRO) {
		t.Errorf("attach: %v, want %s", err, refusal.StoreRO)
	}
	if n := len(decoded(t, read(t, l, batch.Detail))); n != 10 {
		t.Errorf("%d events read, want 10", n)
	}
	record(l, eventstest.Mix(10, began, 1))
	if err := l.Flush(t.Context()); !refusal.Is(err, refusal.StoreRO) {
		t.Errorf("flush: %v, want %s", err, refusal.StoreRO)
	}
	if s := l.Status(); s.Err == nil || s.Waiting != 10 {
		t.Errorf("status: %d events wait, error %v; want 10 and a reason", s.Waiting, s.Err)
	}
}

func TestReleasedBatchesNeverComeBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.db")
	db := openFile(t, path, 16<<20, nil)
	l := open(t, db, options())
	mix := eventstest.Mix(300, began, 5)
	for i := range mix {
		l.Record(&mix[i])
		flush(t, l)
	}
	bs := read(t, l, batch.Detail)
	if err := l.Release(events.After(&bs[199]), 250, 252); err != nil {
		t.Fatal(err)
	}
	want := append(seqs(bs[200:249]), 251)
	want = append(want, seqs(bs[252:])...)
	check := func(when string) {
		t.Helper()
		if diff := cmp.Diff(want, seqs(read(t, l, batch.Detail))); diff != "" {
			t.Errorf("%s: batches differ (-want +got):\n%s", when, diff)
		}
		if s := l.Status().Classes[0]; s.Acked != 200 || s.Count != len(want) || s.Calls != uint64(len(want)) || s.Head != 300 {
			t.Errorf("%s: status %+v", when, s)
		}
	}
	check("after Release")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, openFile(t, path, 16<<20, nil), options())
	check("after a restart")

	foreign := events.After(&bs[0])
	foreign.Epoch[0]++
	if err := l.Release(foreign); !errors.Is(err, events.ErrForeign) {
		t.Errorf("release of another epoch: %v, want ErrForeign", err)
	}
	if err := l.Release(events.Cursor{Class: batch.Detail, Epoch: bs[0].Epoch, Seq: 301}); !errors.Is(err, events.ErrForeign) {
		t.Errorf("release beyond the newest batch: %v, want ErrForeign", err)
	}
	check("after foreign cursors")
}

func seqs(bs []events.Batch) (n []uint64) {
	for i := range bs {
		n = append(n, bs[i].Seq)
	}
	return n
}

func TestReadGoesOnBehindItsCursor(t *testing.T) {
	l := open(t, openFile(t, filepath.Join(t.TempDir(), "events.db"), 16<<20, nil), options())
	mix := eventstest.Mix(10, began, 5)
	for i := range mix {
		l.Record(&mix[i])
		flush(t, l)
	}
	c := events.Cursor{Class: batch.Detail}
	var got []uint64
	for {
		bs, err := l.Read(c, 3)
		if err != nil {
			t.Fatal(err)
		}
		if len(bs) == 0 {
			break
		}
		got = append(got, seqs(bs)...)
		c = events.After(&bs[len(bs)-1])
	}
	if diff := cmp.Diff([]uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, got); diff != "" {
		t.Errorf("batches differ (-want +got):\n%s", diff)
	}
	c.Epoch[0]++
	if bs, err := l.Read(c, 1); err != nil || len(bs) != 1 || bs[0].Seq != 1 {
		t.Errorf("a cursor of another epoch reads %v, %v; want the beginning", seqs(bs), err)
	}
}
