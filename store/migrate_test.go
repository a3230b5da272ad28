package store_test

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/store"
	"tidegate/store/storetest"
)

// twoSteps brings schema 1 to 3: values get a prefix, then move to another bucket.
func twoSteps() []store.Migration {
	return []store.Migration{
		{To: 2, Do: func(tx *store.Tx) error {
			b := tx.Bucket("b")
			var keys, values [][]byte
			if err := b.Each(func(k, v []byte) error { keys, values = append(keys, k), append(values, v); return nil }); err != nil {
				return err
			}
			for i, k := range keys {
				if err := b.Put(k, append([]byte("2 "), values[i]...)); err != nil {
					return err
				}
			}
			return nil
		}},
		{To: 3, Do: func(tx *store.Tx) error { return tx.Bucket("c").Put([]byte("new"), []byte("in 3")) }},
	}
}

func TestMigration(t *testing.T) {
	for name, count := range map[string]int{"in place": 10, "on a copy": 150} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.db")
			o := small()
			o.Space = store.Reserved
			db := open(t, path, o)
			for i := range count {
				put(t, db, fmt.Sprintf("%04d", i), strings.Repeat("v", 4000))
			}
			half := db.Size() > o.MaxBytes/2
			if half != (name == "on a copy") {
				t.Fatalf("%d bytes are used of %d", db.Size(), o.MaxBytes)
			}
			db.Close()
			o.Schema, o.Migrations = 3, twoSteps()
			db = open(t, path, o)
			if got := get(t, db, fmt.Sprintf("%04d", count-1)); got != "2 "+strings.Repeat("v", 4000) {
				t.Errorf("got %.10q…", got)
			}
			put(t, db, "k", "v")
			if info, err := os.Stat(path); err != nil || info.Size() != o.MaxBytes {
				t.Errorf("the file has %d bytes, want the %d reserved", info.Size(), o.MaxBytes)
			}
			db.Close()
			if err := store.CheckFile(path); err != nil {
				t.Error(err)
			}
			open(t, path, o).Close() // and not once more
			o.Schema = 2
			var newer *store.NewerError
			if _, err := store.Open(path, o); !errors.As(err, &newer) || newer.Schema != 3 || newer.Ours != 2 {
				t.Errorf("an older program: got %v, want NewerError", err)
			}
		})
	}
}

func TestMigrationMeetsFaults(t *testing.T) {
	for n := 1; n <= 2; n++ {
		for _, fate := range storetest.Fates {
			path := filepath.Join(t.TempDir(), "x.db")
			first := open(t, path, small())
			put(t, first, "k", "v")
			first.Close()
			var faults storetest.Faults
			faults.At(n, fate)
			o := small()
			o.Schema, o.Migrations, o.Commit = 3, twoSteps(), faults.Commit
			if _, err := store.Open(path, o); !errors.Is(err, storetest.ErrInjected) {
				t.Fatalf("step %d %v: got %v", n, fate, err)
			}
			if err := store.CheckFile(path); err != nil {
				t.Fatalf("step %d %v: %v", n, fate, err)
			}
			db := open(t, path, o)
			if got := get(t, db, "k"); got != "2 v" {
				t.Errorf("step %d %v: got %q, want each step once", n, fate, got)
			}
		}
	}
}

func TestAMissingStepIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	open(t, path, small()).Close()
	o := small()
	o.Schema, o.Migrations = 3, twoSteps()[1:]
	if _, err := store.Open(path, o); err == nil || !strings.Contains(err.Error(), "from schema 1 to 2") {
		t.Errorf("got %v", err)
	}
}

// The file of each released schema goes on opening. To add one: write it with the
// release, cut it after its last page in use, gzip it.
func TestFrozenFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/state.v*.db.gz")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		path := filepath.Join(t.TempDir(), "x.db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := store.CheckFile(path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		db := open(t, path, small())
		if got := get(t, db, "key"); got != "value" {
			t.Errorf("%s: got %q", name, got)
		}
		if err := db.View(func(tx *store.Tx) error {
			n, err := tx.Generation()
			if n != 42 {
				t.Errorf("%s: generation %d, want 42", name, n)
			}
			return err
		}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
