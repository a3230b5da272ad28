package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"tidegate/store"
)

// A page that the disk cannot read is a fault in mapped memory, which ends a Go program. Here the file is
// cut under the map, which gives the same fault.
func TestAPageThatCannotBeReadIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db := open(t, path, small())
	for i := range 100 {
		put(t, db, fmt.Sprintf("%03d", i), string(make([]byte, 2000)))
	}
	if err := os.Truncate(path, 2*4096); err != nil {
		t.Fatal(err)
	}
	err := db.View(func(tx *store.Tx) error { return tx.Bucket("b").Each(func(_, _ []byte) error { return nil }) })
	if !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("view: got %v, want ErrCorrupt", err)
	}
	if err := update(db, "000", "v"); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("update: got %v, want ErrCorrupt", err)
	}
	if s := db.Stats(); s.OpenViews != 0 {
		t.Errorf("%d views are still open", s.OpenViews)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func TestAPanicOfTheCallerGoesOn(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "x.db"), small())
	put(t, db, "k", "v")
	for name, run := range map[string]func(func(*store.Tx) error) error{"view": db.View, "update": db.Update} {
		func() {
			defer func() {
				if p := recover(); p != "mine" {
					t.Errorf("%s: recovered %v", name, p)
				}
			}()
			_ = run(func(tx *store.Tx) error {
				_, _ = tx.Bucket("b").Get([]byte("k"))
				panic("mine")
			})
		}()
	}
	put(t, db, "k", "w")
}
