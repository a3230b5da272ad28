package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/store"
	"tidegate/store/storetest"
)

// The fault matrix: commit 1 succeeds and is there for ever; commit 2 meets its fate;
// whatever that is, the handle refuses a third, and after reopening the file holds commit
// 2 as a whole or not at all, and works.
func TestFaultMatrix(t *testing.T) {
	const keys = 200 // enough for several pages
	for _, fate := range storetest.Fates {
		t.Run(fate.String(), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.db")
			var faults storetest.Faults
			o := small()
			o.Commit = faults.Commit
			db := open(t, path, o)
			write := func(value string) error {
				return db.Update(func(tx *store.Tx) error {
					for i := range keys {
						if err := tx.Bucket("b").Put(binary.BigEndian.AppendUint32(nil, uint32(i)), bytes.Repeat([]byte(value), 100)); err != nil {
							return err
						}
					}
					return nil
				})
			}
			if err := write("1"); err != nil {
				t.Fatal(err)
			}
			faults.At(1, fate)
			err := write("2")
			if !errors.Is(err, storetest.ErrInjected) || !errors.Is(err, store.ErrFailed) || !refusal.Is(err, refusal.Store) {
				t.Fatalf("got %v, want the fault with ErrFailed and E_STORE", err)
			}
			if err := write("3"); !errors.Is(err, store.ErrFailed) {
				t.Errorf("a write after the fault: got %v, want ErrFailed", err)
			}
			if n := faults.Commits(); n != 1 {
				t.Errorf("%d commits were tried, want 1", n)
			}
			if err := db.View(func(tx *store.Tx) error { return tx.Bucket("b").Each(func(_, _ []byte) error { return nil }) }); err != nil {
				t.Errorf("a view after the fault: %v", err)
			}
			// As a power cut would: the next process opens what lies there.
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if err := store.CheckFile(path); err != nil {
				t.Fatalf("check: %v", err)
			}
			db = open(t, path, o)
			want := "1"
			if fate == storetest.Persists {
				want = "2"
			}
			n := 0
			if err := db.View(func(tx *store.Tx) error {
				return tx.Bucket("b").Each(func(k, v []byte) error {
					if n++; string(v) != string(bytes.Repeat([]byte(want), 100)) {
						return fmt.Errorf("key %x: got %.3q…, want %q", k, v, want)
					}
					return nil
				})
			}); err != nil || n != keys {
				t.Errorf("%d keys, %v", n, err)
			}
			if err := write("4"); err != nil {
				t.Errorf("write after reopening: %v", err)
			}
		})
	}
}
