package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/store"
	"tidegate/store/storetest"
	"time"

	bolt "go.etcd.io/bbolt"
)

// TestMain lets the test program be its own child: the check of a file, and the writer
// that is killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case store.CheckArg:
			os.Exit(store.CheckMain(os.Args[2:]))
		case writerArg:
			os.Exit(writerMain(os.Args[2]))
		case hangArg:
			for { //nolint:staticcheck // it goes in circles, as a check of a damaged file can
			}
		case sleepArg:
			time.Sleep(time.Hour)
		}
	}
	os.Exit(m.Run())
}

func small() store.Options { return store.Options{MaxBytes: 1 << 20, Schema: 1} }

func open(t *testing.T, path string, o store.Options) *store.DB {
	t.Helper()
	db, err := store.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func put(t *testing.T, db *store.DB, key, value string) {
	t.Helper()
	if err := update(db, key, value); err != nil {
		t.Fatal(err)
	}
}

func update(db *store.DB, key, value string) error {
	return db.Update(func(tx *store.Tx) error { return tx.Bucket("b").Put([]byte(key), []byte(value)) })
}

func get(t *testing.T, db *store.DB, key string) string {
	t.Helper()
	var v []byte
	if err := db.View(func(tx *store.Tx) error {
		var err error
		v, err = tx.Bucket("b").Get([]byte(key))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return string(v)
}

func TestValuesComeBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db := open(t, path, small())
	err := db.Update(func(tx *store.Tx) error {
		b := tx.Bucket("a", "b")
		return errors.Join(b.Put([]byte("k1"), []byte("v1")), b.Put([]byte("k2"), nil), b.Put([]byte("k3"), []byte("v3")),
			b.Bucket("k25").Put([]byte("x"), []byte("y")), b.Delete([]byte("absent")), b.DeleteBucket("absent"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, path, small())
	var kept []byte
	err = db.View(func(tx *store.Tx) error {
		b := tx.Bucket("a", "b")
		var got []string
		if err := b.Each(func(k, v []byte) error { got = append(got, string(k)+"="+string(v)); return nil }); err != nil {
			return err
		}
		if want := "[k1=v1 k2= k3=v3]"; fmt.Sprint(got) != want {
			t.Errorf("each: got %v, want %v", got, want)
		}
		if v, err := b.Get([]byte("k2")); v == nil || len(v) != 0 || err != nil {
			t.Errorf("empty value: got %v, %v, want one that is not nil", v, err)
		}
		if v, err := b.Get([]byte("k4")); v != nil || err != nil {
			t.Errorf("absent value: got %v, %v, want nil", v, err)
		}
		if v, err := tx.Bucket("no", "where").Get([]byte("k")); v != nil || err != nil {
			t.Errorf("absent bucket: got %v, %v, want nil", v, err)
		}
		if names, err := b.Buckets(-1); fmt.Sprint(names) != "[k25]" || err != nil {
			t.Errorf("buckets: got %v, %v", names, err)
		}
		c := b.Cursor()
		if !c.Last() || string(c.Key()) != "k3" || !c.Prev() || string(c.Key()) != "k2" || !c.Seek([]byte("k21")) || string(c.Key()) != "k3" || c.Next() {
			t.Errorf("cursor stands on %q, err %v", c.Key(), c.Err())
		}
		var err error
		kept, err = b.Get([]byte("k1"))
		return errors.Join(err, c.Err())
	})
	if err != nil {
		t.Fatal(err)
	}
	put(t, db, "other", "write")
	if string(kept) != "v1" {
		t.Errorf("a value kept after the view is %q", kept)
	}
}

func TestAViewCannotWrite(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "x.db"), small())
	put(t, db, "k", "v")
	err := db.View(func(tx *store.Tx) error { return tx.Bucket("b").Put([]byte("k"), []byte("w")) })
	if err == nil {
		t.Error("a put in a view was accepted")
	}
	if got := get(t, db, "k"); got != "v" {
		t.Errorf("got %q, want v", got)
	}
}

func TestAnUpdateThatReturnsAnErrorChangesNothing(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "x.db"), small())
	put(t, db, "k", "old")
	mine := errors.New("mine")
	err := db.Update(func(tx *store.Tx) error {
		return errors.Join(tx.Bucket("b").Put([]byte("k"), []byte("new")), mine)
	})
	if !errors.Is(err, mine) || db.Err() != nil {
		t.Errorf("got %v, handle %v; want my error and a handle that works", err, db.Err())
	}
	func() {
		defer func() { recover() }() //nolint:errcheck // the panic is the point
		_ = db.Update(func(tx *store.Tx) error {
			_ = tx.Bucket("b").Put([]byte("k"), []byte("new"))
			panic("mine")
		})
	}()
	if got := get(t, db, "k"); got != "old" {
		t.Errorf("got %q, want old", got)
	}
	put(t, db, "k", "next")
}

// What the settings promise: the size of a page, no growth above the cap, and an error that leaves the handle usable.
func TestAFullFileRefusesAndGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	o := small()
	db := open(t, path, o)
	var err error
	n := 0
	for ; err == nil && n < 10_000; n++ {
		err = update(db, fmt.Sprintf("%06d", n), string(make([]byte, 3000)))
	}
	if !errors.Is(err, store.ErrFull) || !refusal.Is(err, refusal.NoSpace) {
		t.Fatalf("after %d puts: got %v, want ErrFull with E_NO_SPACE", n, err)
	}
	if db.Err() != nil {
		t.Fatalf("the handle gave up: %v", db.Err())
	}
	if info, _ := os.Stat(path); info.Size() > o.MaxBytes {
		t.Errorf("file has %d bytes, cap is %d", info.Size(), o.MaxBytes)
	}
	for i := range 8 {
		if err := db.Update(func(tx *store.Tx) error { return tx.Bucket("b").Delete([]byte(fmt.Sprintf("%06d", i))) }); err != nil {
			t.Fatalf("delete %d: %v", i, err)
		}
	}
	put(t, db, "k", "fits again")
	if s := db.Stats(); s.UsedBytes > s.MaxBytes || s.UsedBytes < 64<<10 || s.Commits != int64(n-1+8+1) || s.WrittenBytes < s.Commits*4*4096 {
		t.Errorf("stats: %+v", s)
	}
}

func TestReservedFileNeedsNoMoreRoom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	o := small()
	o.Space = store.Reserved
	db := open(t, path, o)
	if info, err := os.Stat(path); err != nil || info.Size() != o.MaxBytes {
		t.Fatalf("got %v, %v, want %d bytes", info.Size(), err, o.MaxBytes)
	}
	put(t, db, "k", "v")
	if info, err := os.Stat(path); err != nil || info.Size() != o.MaxBytes {
		t.Errorf("after a write: got %v, %v, want %d bytes", info.Size(), err, o.MaxBytes)
	}
	if err := errors.Join(db.Close(), store.CheckFile(path)); err != nil {
		t.Error(err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []store.Options{{}, {MaxBytes: 1 << 20}, {MaxBytes: 1 << 30, Schema: 1}, {MaxBytes: 1<<20 + 1, Schema: 1}} {
		if db, err := store.Open(filepath.Join(t.TempDir(), "x.db"), o); err == nil {
			db.Close()
			t.Errorf("%+v was accepted", o)
		}
	}
}

func TestReopenMakesAFailedHandleWork(t *testing.T) {
	var faults storetest.Faults
	o := small()
	o.Commit = faults.Commit
	db := open(t, filepath.Join(t.TempDir(), "x.db"), o)
	put(t, db, "k", "1")
	faults.At(1, storetest.Persists)
	if err := update(db, "k", "2"); err == nil || db.Err() == nil {
		t.Fatal("no fault")
	}
	if err := db.Reopen(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := get(t, db, "k"); got != "2" {
		t.Errorf("got %q, want 2", got)
	}
	put(t, db, "k", "3")
}

func TestReopenOfADamagedFileGoesOnRefusing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db := open(t, path, small())
	put(t, db, "key", "a value to look for")
	flip(t, path, []byte("a value to look for"))
	err := db.Reopen(t.Context())
	if !errors.Is(err, store.ErrCorrupt) {
		t.Fatalf("got %v, want ErrCorrupt", err)
	}
	if err := update(db, "k", "v"); err == nil {
		t.Error("an update was accepted")
	}
	if err := db.View(func(*store.Tx) error { return nil }); err == nil {
		t.Error("a closed file read as an empty one")
	}
}

func flip(t *testing.T, path string, what []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(b, what)
	if i < 0 {
		t.Fatalf("%q is not in %s", what, path)
	}
	for ; i >= 0 && i < len(b); i++ {
		b[i] ^= 1
		next := bytes.Index(b[i:], what)
		if next < 0 {
			break
		}
		i += next - 1
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestADamagedValueIsNotReturned(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db := open(t, path, small())
	put(t, db, "key", "a value to look for")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	flip(t, path, []byte("a value to look for"))
	db = open(t, path, small())
	err := db.View(func(tx *store.Tx) error {
		_, err := tx.Bucket("b").Get([]byte("key"))
		return err
	})
	if !errors.Is(err, store.ErrCorrupt) || !refusal.Is(err, refusal.Store) {
		t.Errorf("get: got %v, want ErrCorrupt with E_STORE", err)
	}
	err = db.View(func(tx *store.Tx) error { return tx.Bucket("b").Each(func(_, _ []byte) error { return nil }) })
	if !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("each: got %v, want ErrCorrupt", err)
	}
}

func TestRecreateReplacesInOneStep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	var faults storetest.Faults
	o := small()
	o.Commit = faults.Commit
	db := open(t, path, o)
	for i := range 200 {
		put(t, db, fmt.Sprint(i), string(make([]byte, 2000)))
	}
	faults.At(1, storetest.Fails)
	if err := db.Recreate(func(tx *store.Tx) error { return tx.Bucket("b").Put([]byte("k"), []byte("new")) }); err == nil {
		t.Fatal("no fault")
	}
	if got := get(t, db, "99"); len(got) != 2000 {
		t.Errorf("after a fault the old file has %d bytes at key 99", len(got))
	}
	put(t, db, "still", "works")
	before := db.Stats().FileBytes
	if err := db.Recreate(func(tx *store.Tx) error { return tx.Bucket("b").Put([]byte("k"), []byte("new")) }); err != nil {
		t.Fatal(err)
	}
	if get(t, db, "99") != "" || get(t, db, "k") != "new" {
		t.Error("the fresh file does not hold what fill wrote, and only that")
	}
	if after := db.Stats().FileBytes; after >= before {
		t.Errorf("the file has %d bytes, before %d", after, before)
	}
	put(t, db, "k", "next")
}

func TestReadOnlyFileIsNotTouched(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	o := small()
	put(t, open(t, path, o), "k", "v")
	copied := filepath.Join(dir, "y.db")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, b, 0o400); err != nil {
		t.Fatal(err)
	}
	o.Access = store.ReadOnly
	db := open(t, copied, o)
	if get(t, db, "k") != "v" {
		t.Error("a read-only file cannot be read")
	}
	for what, err := range map[string]error{"update": update(db, "k", "w"), "recreate": db.Recreate(func(*store.Tx) error { return nil }), "err": db.Err()} {
		if !refusal.Is(err, refusal.StoreRO) {
			t.Errorf("%s: got %v, want E_STORE_RO", what, err)
		}
	}
	none := open(t, filepath.Join(dir, "none.db"), o)
	if got := get(t, none, "k"); got != "" {
		t.Errorf("an absent file reads as %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "none.db")); err == nil {
		t.Error("a read-only open made a file")
	}
}

func TestReadersAndAWriterTogether(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "x.db"), small())
	put(t, db, "k", "0")
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := db.View(func(tx *store.Tx) error {
					a, err := tx.Bucket("b").Get([]byte("k"))
					b, err2 := tx.Bucket("b").Get([]byte("k"))
					if !bytes.Equal(a, b) {
						return fmt.Errorf("one view saw %q and %q", a, b)
					}
					return errors.Join(err, err2)
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 50 {
		put(t, db, "k", fmt.Sprint(i))
		if i%20 == 10 {
			if err := db.Recreate(func(tx *store.Tx) error { return tx.Bucket("b").Put([]byte("k"), []byte("r")) }); err != nil {
				t.Error(err)
			}
		}
	}
	close(stop)
	wg.Wait()
	if s := db.Stats(); s.OpenViews != 0 || s.PendingBytes > 1<<20 {
		t.Errorf("after all readers: %+v", s)
	}
}

func TestClosedFile(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "x.db"), small())
	if err := errors.Join(db.Close(), db.Close()); err != nil {
		t.Error(err)
	}
	if err := update(db, "k", "v"); !refusal.Is(err, refusal.Store) {
		t.Errorf("update: got %v, want E_STORE", err)
	}
	if err := db.View(func(*store.Tx) error { return nil }); !refusal.Is(err, refusal.Store) {
		t.Errorf("view: got %v, want E_STORE", err)
	}
}

// The bytes on disk are those of the library with 4 KiB pages and a synced freelist.
func TestFileHasTheSettingsOfTheDesign(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db := open(t, path, small())
	put(t, db, "k", "v")
	db.Close()
	b, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if b.Info().PageSize != 4096 {
		t.Errorf("page size %d", b.Info().PageSize)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for page := range 2 {
		if list := binary.NativeEndian.Uint64(raw[page*4096+48:]); list == ^uint64(0) {
			t.Errorf("meta page %d has no freelist on disk", page)
		}
	}
}
