package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/store"
	"tidegate/store/storetest"
	"time"
)

// signer is the report key, with the plainest form of checkpoint.
type signer struct {
	key  ed25519.PrivateKey
	lost bool
}

func newSigner() *signer { return &signer{key: ed25519.NewKeyFromSeed(make([]byte, 32))} }

func (s *signer) SealCheckpoint(n uint64, h [32]byte) ([]byte, error) {
	if s.lost {
		return nil, errors.New("key lost")
	}
	b := append(binary.BigEndian.AppendUint64(nil, n), h[:]...)
	return append(b, ed25519.Sign(s.key, b)...), nil
}

func (s *signer) OpenCheckpoint(b []byte) (n uint64, h [32]byte, err error) {
	if len(b) != 40+ed25519.SignatureSize || !ed25519.Verify(s.key.Public().(ed25519.PublicKey), b[:40], b[40:]) {
		return 0, h, errors.New("bad signature")
	}
	return binary.BigEndian.Uint64(b), [32]byte(b[8:40]), nil
}

func newLog(t testing.TB, s Sealer, keep int) (*Log, *store.DB, *storetest.Faults) {
	t.Helper()
	var faults storetest.Faults
	db, err := store.Open(filepath.Join(t.TempDir(), "state.db"), store.Options{MaxBytes: 16 << 20, Schema: 1, Commit: faults.Commit})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	l, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	if keep > 0 {
		l.keep = keep
	}
	return l, db, &faults
}

var day = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func entry(i int, ev Event) Entry {
	d := sha256.Sum256([]byte(fmt.Sprint(i)))
	return Entry{Boot: [16]byte{1}, Uptime: time.Duration(i) * time.Second, Floor: day.Add(time.Duration(i) * time.Second), Event: ev, Digest: d[:], Source: "usb", Detail: fmt.Sprint("entry ", i)}
}

func fill(t testing.TB, l *Log, db *store.DB, from, to int) {
	t.Helper()
	if err := db.Update(func(tx *store.Tx) error {
		for i := from; i <= to; i++ {
			if _, err := l.Append(tx, entry(i, Staged)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func export(t testing.TB, db *store.DB) ([]byte, Mark) {
	t.Helper()
	var b bytes.Buffer
	m, err := Export(db, &b)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), m
}

// write makes an export of the lines, as somebody with a text editor of CBOR could.
func write(lines []line, last Mark) ([]byte, error) {
	code, err := newCodec()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	put := code.enc.NewEncoder(&b)
	err = put.Encode(exportHead{Word: exportWord, Version: exportVersion})
	for _, l := range append(lines, line{Kind: lineEnd, N: last.N, Bytes: last.Hash[:]}) {
		err = errors.Join(err, put.Encode(l))
	}
	return b.Bytes(), err
}

func TestEntriesComeBack(t *testing.T) {
	s := newSigner()
	l, db, _ := newLog(t, s, 0)
	want := Entry{
		Boot: [16]byte{1, 2}, Uptime: 90 * time.Second, Floor: day, Wall: day.Add(time.Hour), Event: Refused, Word: refusal.Rollback,
		Digest: bytes.Repeat([]byte{7}, 32), Source: "mqtt", Detail: "bundle 41 is older than the active one (42)",
	}
	if err := l.Record(db, want); err != nil {
		t.Fatal(err)
	}
	list, err := Tail(db, 10)
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	if got := fmt.Sprintf("%+v", list[0].Entry); got != fmt.Sprintf("%+v", want) {
		t.Errorf("got\n%s want\n%+v", got, want)
	}
	long := entry(2, Alarm)
	long.Detail = strings.Repeat("ä", 200) + "\xff"
	if err := l.Record(db, long); err != nil {
		t.Fatal(err)
	}
	list, err = Tail(db, 1)
	if err != nil || list[0].N != 2 || list[0].Detail != strings.Repeat("ä", 80) || list[0].Prev == [32]byte{} {
		t.Errorf("%+v, %v", list, err)
	}
	if err := l.Record(db, Entry{}); err == nil {
		t.Error("an entry without an event was accepted")
	}
}

func TestExportVerifies(t *testing.T) {
	s := newSigner()
	l, db, _ := newLog(t, s, 0)
	fill(t, l, db, 1, 300)
	if err := l.Record(db, entry(301, Confirmed)); err != nil {
		t.Fatal(err)
	}
	fill(t, l, db, 302, 310)
	b, m := export(t, db)
	sum, err := Verify(bytes.NewReader(b), s, Mark{})
	if err != nil || sum.First != 1 || sum.Last != m || m.N != 310 || sum.Checkpoints != 2 || sum.Signed != 301 {
		t.Errorf("%+v, %v; mark %d", sum, err, m.N)
	}
	fill(t, l, db, 311, 320)
	later, _ := export(t, db)
	if _, err := Verify(bytes.NewReader(later), s, m); err != nil {
		t.Errorf("against the earlier export: %v", err)
	}
	if h, err := Head(db); err != nil || h.N != 320 {
		t.Errorf("head %d, %v", h.N, err)
	}
}

func TestEmptyLogVerifies(t *testing.T) {
	_, db, _ := newLog(t, nil, 0)
	b, m := export(t, db)
	if sum, err := Verify(bytes.NewReader(b), nil, Mark{}); err != nil || sum.Last != m || m.N != 0 {
		t.Errorf("%+v, %v", sum, err)
	}
}

// Each way to tamper is found, and the entry it was done to is named.
func TestTamperingIsNamed(t *testing.T) {
	s := newSigner()
	l, db, _ := newLog(t, s, 0)
	fill(t, l, db, 1, 20)
	if err := l.Record(db, entry(21, Start)); err != nil {
		t.Fatal(err)
	}
	fill(t, l, db, 22, 30)
	mark, err := Head(db)
	if err != nil {
		t.Fatal(err)
	}
	change := func(fn func(tx *store.Tx, all *store.Bucket) error) []byte {
		t.Helper()
		var b []byte
		undo := errors.New("undo")
		err := db.Update(func(tx *store.Tx) error {
			if err := fn(tx, tx.Bucket(root, entries)); err != nil {
				return err
			}
			lines, _, err := pageOf(tx, Mark{}, true)
			if err != nil {
				return err
			}
			last, err := head(tx)
			if err != nil {
				return err
			}
			b, err = write(lines, last)
			return errors.Join(err, undo)
		})
		if err == nil || !errors.Is(err, undo) {
			t.Fatal(err)
		}
		return b
	}
	edit := func(n uint64, fix bool) func(*store.Tx, *store.Bucket) error {
		return func(_ *store.Tx, all *store.Bucket) error {
			prev := [32]byte{}
			for i := n; i <= 30; i++ {
				v, err := all.Get(key(i))
				if err != nil {
					return err
				}
				r, err := l.code.decode(v)
				if err != nil {
					return err
				}
				if i == n {
					r.Detail = "edited"
				} else if !fix {
					break
				} else {
					r.Prev = prev
				}
				w, err := l.code.enc.Marshal(r.wire(r.N, r.Prev))
				if err != nil {
					return err
				}
				prev = sha256.Sum256(w)
				if err := all.Put(key(i), w); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for _, c := range []struct {
		name    string
		b       []byte
		earlier Mark
		n       uint64
	}{
		{"edited", change(edit(10, false)), Mark{}, 10},
		{"edited, all hashes after it made again", change(edit(10, true)), Mark{}, 21},
		{"edited after the last checkpoint, hashes made again", change(edit(25, true)), mark, 30},
		{"removed", change(func(_ *store.Tx, all *store.Bucket) error { return all.Delete(key(12)) }), Mark{}, 12},
		{"first removed", change(func(_ *store.Tx, all *store.Bucket) error { return all.Delete(key(1)) }), Mark{}, 1},
		{"tail cut", change(func(_ *store.Tx, all *store.Bucket) error {
			return errors.Join(all.Delete(key(30)), all.Delete(key(29)))
		}), mark, 29},
		{"junk", change(func(_ *store.Tx, all *store.Bucket) error { return all.Put(key(5), []byte("junk")) }), Mark{}, 5},
		{"checkpoint of another key", change(func(tx *store.Tx, _ *store.Bucket) error {
			return tx.Bucket(root, checkpoints).Put(key(21), make([]byte, 104))
		}), Mark{}, 21},
	} {
		_, err := Verify(bytes.NewReader(c.b), s, c.earlier)
		var named *BadEntryError
		if !errors.As(err, &named) || named.N != c.n || !refusal.Is(err, refusal.Digest) {
			t.Errorf("%s: got %v, want entry %d", c.name, err, c.n)
		}
	}
	// Without an earlier export a cut tail of the store cannot be seen; that is what they are for.
	cut := change(func(_ *store.Tx, all *store.Bucket) error { return all.Delete(key(30)) })
	if _, err := Verify(bytes.NewReader(cut), s, Mark{}); err != nil {
		t.Errorf("cut tail without an earlier export: %v", err)
	}
}

func TestCutExportsAreTruncated(t *testing.T) {
	s := newSigner()
	l, db, _ := newLog(t, s, 0)
	fill(t, l, db, 1, 3)
	b, _ := export(t, db)
	for n := range b {
		_, err := Verify(bytes.NewReader(b[:n]), s, Mark{})
		if w, _ := refusal.Of(err); w != refusal.Truncated && w != refusal.Format {
			t.Fatalf("cut at %d of %d: got %v", n, len(b), err)
		}
	}
	if _, err := Verify(bytes.NewReader(append(b, b[len(b)-37:]...)), s, Mark{}); err == nil {
		t.Error("bytes after the end were accepted")
	}
}

func TestRingKeepsATombstone(t *testing.T) {
	s := newSigner()
	l, db, _ := newLog(t, s, 600)
	fill(t, l, db, 1, 500)
	_, early := export(t, db)
	fill(t, l, db, 501, 2000)
	b, _ := export(t, db)
	sum, err := Verify(bytes.NewReader(b), s, Mark{})
	if err != nil {
		t.Fatal(err)
	}
	if kept := sum.Last.N - sum.First + 1; kept > 600 || kept < 300 || sum.Last.N != 2000 || (sum.First-1)%checkpointEvery != 0 {
		t.Errorf("%+v: %d are kept", sum, kept)
	}
	if sum.Checkpoints < 2 {
		t.Errorf("the tombstone has no checkpoint: %+v", sum)
	}
	if _, err := Verify(bytes.NewReader(b), s, early); err != nil {
		t.Errorf("against an export from before the ring turned: %v", err)
	}
}

func TestARingThatTurnsDuringAnExportIsNoTampering(t *testing.T) {
	l, db, _ := newLog(t, newSigner(), 600)
	fill(t, l, db, 1, 600)
	_, at, err := page(db, Mark{}, true)
	if err != nil || at.N != pageEntries {
		t.Fatalf("%d, %v", at.N, err)
	}
	fill(t, l, db, 601, 2000)
	if _, _, err := page(db, at, false); !refusal.Is(err, refusal.Busy) {
		t.Errorf("got %v, want E_BUSY", err)
	}
}

// The largest entries, a full ring and more: the log stays in its share of state.db, which
// counters and trust state have to fit beside.
func TestAFullRingFitsInStateDB(t *testing.T) {
	l, db, _ := newLog(t, newSigner(), 0)
	const total, step = Keep + 3*checkpointEvery, 512
	for from := 0; from < total; from += step {
		if err := db.Update(func(tx *store.Tx) error {
			for i := from; i < from+step; i++ {
				e := entry(i, Alarm)
				e.Wall, e.Word, e.Source, e.Detail = day, refusal.StateRollback, strings.Repeat("s", maxSource), strings.Repeat("d", maxDetail)
				if _, err := l.Append(tx, e); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatalf("after %d: %v", from, err)
		}
	}
	s := db.Stats()
	t.Logf("%d entries: %d KiB of %d", Keep, s.UsedBytes>>10, s.MaxBytes>>10)
	if s.UsedBytes > s.MaxBytes*6/10 {
		t.Errorf("%d of %d bytes are used", s.UsedBytes, s.MaxBytes)
	}
}

func TestWithoutAKeyTheLogGoesOn(t *testing.T) {
	s := newSigner()
	s.lost = true
	l, db, _ := newLog(t, s, 300)
	if err := l.Record(db, entry(1, Start)); err != nil || l.Err() == nil {
		t.Errorf("%v, Err %v", err, l.Err())
	}
	fill(t, l, db, 2, 1000)
	b, _ := export(t, db)
	if sum, err := Verify(bytes.NewReader(b), s, Mark{}); err != nil || sum.Checkpoints != 0 || sum.Last.N != 1000 || sum.First < 600 {
		t.Errorf("%+v, %v", sum, err)
	}
}

func refused(object int, at time.Duration, source string) Entry {
	e := entry(object, Refused)
	e.Word, e.Floor, e.Source = refusal.SigThreshold, day.Add(at), source
	return e
}

func count(t *testing.T, db *store.DB) uint64 {
	t.Helper()
	m, err := Head(db)
	if err != nil {
		t.Fatal(err)
	}
	return m.N
}

func TestTheSameRefusalIsOnlyCounted(t *testing.T) {
	l, db, faults := newLog(t, nil, 0)
	record := func(e Entry) {
		t.Helper()
		if err := l.Record(db, e); err != nil {
			t.Fatal(err)
		}
	}
	record(refused(1, 0, "usb"))
	faults.At(0, storetest.Commits)
	for i := range 100 {
		record(refused(1, time.Duration(i)*time.Minute, "usb"))
	}
	if n := faults.Commits(); n != 0 || l.Counted() != 100 || count(t, db) != 1 {
		t.Errorf("%d commits, %d counted, %d entries; want 0, 100, 1", n, l.Counted(), count(t, db))
	}
	record(refused(2, time.Hour, "usb")) // another object
	other := refused(1, time.Hour, "usb")
	other.Word = refusal.Expired
	record(other)
	if got := count(t, db); got != 3 {
		t.Errorf("%d entries, want 3", got)
	}
	record(refused(1, 25*time.Hour, "usb"))
	list, err := Tail(db, 1)
	if err != nil || list[0].N != 4 || list[0].Count != 100 {
		t.Errorf("a day later: %+v, %v; want entry 4 with count 100", list, err)
	}
	// The rule is in the file, not in memory: a restart changes nothing.
	again, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Record(db, refused(1, 26*time.Hour, "usb")); err != nil || count(t, db) != 4 {
		t.Errorf("after a restart: %v, %d entries, want 4", err, count(t, db))
	}
}

func TestAFloodFromTheNetworkIsSummedUp(t *testing.T) {
	l, db, _ := newLog(t, nil, 0)
	for i := range 500 {
		if err := l.Record(db, refused(i, time.Duration(i)*time.Second, "mqtt")); err != nil {
			t.Fatal(err)
		}
	}
	if got := count(t, db); got != networkMost {
		t.Errorf("%d entries, want %d", got, networkMost)
	}
	if err := l.Record(db, refused(1000, 10*time.Minute, "usb")); err != nil || count(t, db) != networkMost+1 {
		t.Errorf("a stick during the flood: %v, %d entries", err, count(t, db))
	}
	if err := l.Record(db, refused(2000, 2*time.Hour, "mqtt")); err != nil {
		t.Fatal(err)
	}
	list, err := Tail(db, 2)
	if err != nil || list[0].Event != Flood || list[0].Count != 440 || list[1].Event != Refused {
		t.Errorf("%+v, %v; want a summary of 440 and the refusal", list, err)
	}
}

// The entry and the change it tells of are one: whatever becomes of the commit, both are there or neither, and the
// chain holds.
func TestFaultsLeaveAChain(t *testing.T) {
	for _, fate := range storetest.Fates {
		l, db, faults := newLog(t, newSigner(), 0)
		fill(t, l, db, 1, 5)
		faults.At(1, fate)
		change := func(tx *store.Tx) error {
			_, err := l.Append(tx, entry(6, Confirmed))
			return errors.Join(err, tx.Bucket("other").Put([]byte("k"), []byte("v")))
		}
		if err := db.Update(change); !errors.Is(err, storetest.ErrInjected) {
			t.Fatal(err)
		}
		if err := db.Reopen(t.Context()); err != nil {
			t.Fatal(err)
		}
		n := count(t, db)
		if err := db.View(func(tx *store.Tx) error {
			v, err := tx.Bucket("other").Get([]byte("k"))
			if (v != nil) != (n == 6) {
				t.Errorf("%v: change %q with %d entries", fate, v, n)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if err := db.Update(change); err != nil {
			t.Fatal(err)
		}
		b, _ := export(t, db)
		if _, err := Verify(bytes.NewReader(b), newSigner(), Mark{}); err != nil {
			t.Errorf("%v: %v", fate, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	s := newSigner()
	l, db, _ := newLog(f, s, 0)
	fill(f, l, db, 1, 3)
	if err := l.Record(db, entry(4, Start)); err != nil {
		f.Fatal(err)
	}
	b, _ := export(f, db)
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if sum, err := Verify(bytes.NewReader(b), s, Mark{}); err == nil && sum.Checkpoints > 0 && sum.Last.N < sum.Signed {
			t.Errorf("accepted %+v", sum)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	l, db, _ := newLog(b, newSigner(), 1000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := l.Record(db, entry(i, Staged)); err != nil {
			b.Fatal(err)
		}
	}
}
