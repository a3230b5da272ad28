package batch_test

import (
	"bytes"
	"compress/flate"
	"crypto/rand"
	"encoding/hex"
	"io"
	"math"
	"net/netip"
	"os"
	"strings"
	"testing"
	"tidegate/store/events/batch"
	"tidegate/store/events/eventstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var start = batch.Stamp{Boot: 90 * time.Second, Unix: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC), Quality: batch.Holdover}

func pack(t testing.TB, events []batch.Event) []batch.Batch {
	t.Helper()
	var b batch.Builder
	for i := range events {
		b.Add(&events[i], start.Unix, start)
	}
	bs, err := b.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return bs
}

func unpack(t testing.TB, bs []batch.Batch) (all []batch.Event) {
	t.Helper()
	for i := range bs {
		for e, err := range bs[i].Events() {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, *e)
		}
	}
	return all
}

func TestEventsAtTheLimits(t *testing.T) {
	full := batch.Event{
		Time: start.Unix.Add(-time.Hour), API: "a", Version: "v", Context: "/c", Template: "/t/{x}", Method: "PROPFIND",
		Operation: "op", Upstream: "https://[2001:db8::1]:8443", Plan: "Unlimited", ApplicationID: "1", ApplicationName: "ä ö",
		ApplicationOwner: "o", ApplicationTier: "t", ConsumerKey: "k", KeyType: "SANDBOX", User: "u", Publisher: "p",
		UserAgent: "curl/8", Status: math.MaxUint16, Fault: math.MaxUint32, Level: batch.LevelOverload, Protocol: batch.WSS,
		Retries: math.MaxUint8, Flags: batch.TokenCached | batch.ResponseCached | batch.OverQuota | batch.Unsynced,
		Total: 30 * 24 * time.Hour, Backend: 29 * 24 * time.Hour, Security: time.Second, Throttling: time.Microsecond,
		BytesIn: math.MaxUint64, BytesOut: math.MaxUint64, Client: netip.MustParseAddr("2001:db8::7"),
		RequestID: [16]byte{1, 15: 2}, TraceID: [16]byte{3, 15: 4},
	}
	parts := full // latencies that overlap: the whole is less than its parts
	parts.Time, parts.Total = start.Unix.Add(time.Hour), time.Millisecond
	want := []batch.Event{full, {Time: start.Unix}, parts}
	bs := pack(t, want)
	if diff := cmp.Diff(want, unpack(t, bs), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("events differ (-packed +unpacked):\n%s", diff)
	}
	h := bs[0].Header
	if h.Start != start || h.Span != time.Hour || h.Count != 3 || h.Calls != 3 || h.Class != batch.Detail {
		t.Errorf("header %+v", h)
	}
}

func TestTextIsCutAndCleaned(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"long":           {strings.Repeat("x", 300), strings.Repeat("x", 256)},
		"cut in a rune":  {strings.Repeat("x", 255) + "ä", strings.Repeat("x", 255)},
		"rune that fits": {strings.Repeat("x", 254) + "äz", strings.Repeat("x", 254) + "ä"},
		"not UTF-8":      {"a\xffb", "a?b"},
	} {
		t.Run(name, func(t *testing.T) {
			got := unpack(t, pack(t, []batch.Event{{Time: start.Unix, User: tc.in}}))
			if got[0].User != tc.want {
				t.Errorf("got %q, want %q", got[0].User, tc.want)
			}
		})
	}
}

func TestABodyNeverExceedsItsLimit(t *testing.T) {
	easy := eventstest.Mix(4096, start.Unix, 1)
	hard := eventstest.Mix(9000, start.Unix, 1)
	for i := range hard {
		var id [24]byte
		rand.Read(id[:])
		hard[i].User = hex.EncodeToString(id[:])
	}
	var b batch.Builder
	var all []batch.Batch
	n := 0
	add := func(events []batch.Event) {
		for i := range events {
			b.Add(&events[i], start.Unix, start)
			if n++; b.Full() || i == len(events)-1 {
				bs, err := b.Pack()
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, bs...)
			}
		}
	}
	add(easy) // teaches the builder a ratio that is wrong for the next
	add(hard)
	got := 0
	for i := range all {
		if len(all[i].Body) > batch.MaxBody {
			t.Errorf("batch %d of %d events has %d bytes", i, all[i].Count, len(all[i].Body))
		}
		got += all[i].Count
	}
	if events := unpack(t, all); got != n || len(events) != n {
		t.Errorf("%d events in headers, %d unpacked, %d were added", got, len(events), n)
	}
}

func TestDamagedBodiesAreRefused(t *testing.T) {
	good := pack(t, eventstest.Mix(50, start.Unix, 1))[0]
	raw, err := io.ReadAll(flate.NewReader(bytes.NewReader(good.Body)))
	if err != nil {
		t.Fatal(err)
	}
	bomb := func() []byte {
		var b bytes.Buffer
		w, err := flate.NewWriter(&b, 9)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, 8<<20)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}()
	for name, tc := range map[string]struct {
		change func(*batch.Batch)
		want   string
	}{
		"other class":     {func(b *batch.Batch) { b.Class = batch.RollUps }, "holds roll-up"},
		"more events":     {func(b *batch.Batch) { b.Count++ }, "ends early"},
		"fewer events":    {func(b *batch.Batch) { b.Count-- }, "holds more"},
		"too many events": {func(b *batch.Batch) { b.Count = batch.MaxEvents + 1 }, "at most"},
		"negative":        {func(b *batch.Batch) { b.Count = -1 }, "at most"},
		"codec":           {func(b *batch.Batch) { b.Codec = 9 }, "codec 9"},
		"not deflate":     {func(b *batch.Batch) { b.Body = []byte("\xff\xff\xff") }, "flate"},
		"bomb":            {func(b *batch.Batch) { b.Body = bomb }, "more than"},
		"too long":        {func(b *batch.Batch) { b.Body = make([]byte, batch.MaxBody+1) }, "at most"},
		"newer version": {func(b *batch.Batch) {
			b.Codec, b.Body = batch.Raw, bytes.Clone(raw)
			b.Body[1] = 2
		}, "version 2"},
		"cut short": {func(b *batch.Batch) { b.Codec, b.Body = batch.Raw, raw[:len(raw)-1] }, "EOF"},
		"trailing":  {func(b *batch.Batch) { b.Codec, b.Body = batch.Raw, append(bytes.Clone(raw), 0) }, "extraneous"},
	} {
		t.Run(name, func(t *testing.T) {
			b := good
			tc.change(&b)
			var got error
			for _, err := range b.Events() {
				if err != nil {
					got = err
				}
			}
			if got == nil || !strings.Contains(got.Error(), tc.want) {
				t.Errorf("error %v, want one that says %q", got, tc.want)
			}
		})
	}
}

// TestTheFormatStays reads a batch as the first version wrote it.
func TestTheFormatStays(t *testing.T) {
	for _, class := range []string{"detail", "rollup"} {
		body, err := os.ReadFile("testdata/v1." + class)
		if err != nil {
			t.Fatal(err)
		}
		mix := eventstest.Mix(40, start.Unix, 9)
		b := batch.Batch{Header: batch.Header{Class: batch.Detail, Start: start, Count: 40, Codec: batch.Deflate}, Body: body}
		if class == "detail" {
			if diff := cmp.Diff(mix, unpack(t, []batch.Batch{b}), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("events differ (-recorded +read):\n%s", diff)
			}
			continue
		}
		var table batch.Table
		for i := range mix {
			table.Add(&mix[i], start.Unix, start)
		}
		now, err := table.Pack()
		if err != nil {
			t.Fatal(err)
		}
		b.Class, b.Count = batch.RollUps, now.Count
		if diff := cmp.Diff(rollUps(t, &now), rollUps(t, &b)); diff != "" {
			t.Errorf("roll-ups differ (-now +then):\n%s", diff)
		}
	}
}

func rollUps(t testing.TB, b *batch.Batch) (all []batch.RollUp) {
	t.Helper()
	for r, err := range b.RollUps() {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, *r)
	}
	return all
}

func TestRollUpsStayWithinABatch(t *testing.T) {
	var table batch.Table
	calls, rows := 0, 0
	for i := 0; rows < 3; i++ {
		var id [120]byte
		rand.Read(id[:])
		table.Add(&batch.Event{Time: start.Unix, Status: 200, API: hex.EncodeToString(id[:]), BytesIn: math.MaxUint64}, start.Unix, start)
		calls++
		if !table.Full() {
			continue
		}
		b, err := table.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Body) > batch.MaxBody {
			t.Errorf("roll-ups of %d rows have %d bytes", b.Count, len(b.Body))
		}
		if b.Calls != uint64(calls) || len(rollUps(t, &b)) != b.Count {
			t.Errorf("header says %d calls of %d", b.Calls, calls)
		}
		calls, rows = 0, rows+1
	}
}

func FuzzEvents(f *testing.F) {
	good := pack(f, eventstest.Mix(30, start.Unix, 1))[0]
	raw, err := io.ReadAll(flate.NewReader(bytes.NewReader(good.Body)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, uint8(0), 30)
	f.Add(good.Body, uint8(1), 30)
	f.Add([]byte{0x84, 1, 0x80, 0x82, 0x40, 0x40, 0x80}, uint8(0), 1)
	f.Fuzz(func(t *testing.T, body []byte, codec uint8, count int) {
		b := batch.Batch{Header: batch.Header{Class: batch.Detail, Start: start, Count: count, Codec: batch.Codec(codec)}, Body: body}
		var events []batch.Event
		var fault error
		for e, err := range b.Events() {
			if fault != nil {
				t.Fatal("something came after an error")
			}
			if fault = err; err == nil {
				events = append(events, *e)
			}
		}
		if fault != nil {
			return
		}
		if len(events) != count {
			t.Fatalf("%d events, the header says %d", len(events), count)
		}
		// What can be read can be written, and reads the same.
		var again []batch.Event
		var builder batch.Builder
		for i := range events {
			builder.Add(&events[i], start.Unix, start)
		}
		bs, err := builder.Pack()
		if err != nil {
			t.Fatal(err)
		}
		again = unpack(t, bs)
		if len(again) != len(events) {
			t.Fatalf("%d events after a second trip, %d before", len(again), len(events))
		}
	})
}

func FuzzRollUps(f *testing.F) {
	mix := eventstest.Mix(100, start.Unix, 1)
	var table batch.Table
	for i := range mix {
		table.Add(&mix[i], start.Unix, start)
	}
	good, err := table.Pack()
	if err != nil {
		f.Fatal(err)
	}
	raw, err := io.ReadAll(flate.NewReader(bytes.NewReader(good.Body)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, uint8(0), good.Count)
	f.Add(good.Body, uint8(1), good.Count)
	f.Fuzz(func(t *testing.T, body []byte, codec uint8, count int) {
		b := batch.Batch{Header: batch.Header{Class: batch.RollUps, Start: start, Count: count, Codec: batch.Codec(codec)}, Body: body}
		n := 0
		var fault error
		for r, err := range b.RollUps() {
			if fault != nil {
				t.Fatal("something came after an error")
			}
			if fault = err; err == nil {
				n++
				if r.Total < 0 || r.Slowest < 0 || r.Backend < 0 {
					t.Fatalf("negative time in %+v", r)
				}
			}
		}
		if fault == nil && n != count {
			t.Fatalf("%d rows, the header says %d", n, count)
		}
	})
}
