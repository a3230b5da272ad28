package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/store"

	"golang.org/x/sys/unix"
)

// mount gives the test a real file system of the size, in memory.
func mount(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("needs root privilege to mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// On a disk that is really full a commit does not succeed, the handle refuses, and once
// there is room the file goes on with all that was acknowledged.
func TestARealFullDisk(t *testing.T) {
	dir := mount(t, "1m")
	db := open(t, filepath.Join(dir, "x.db"), store.Options{MaxBytes: 4 << 20, Schema: 1})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 512<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	n := 0
	var err error
	for ; err == nil && n < 1000; n++ {
		err = update(db, fmt.Sprintf("%04d", n), strings.Repeat("v", 3000))
	}
	if !refusal.Is(err, refusal.NoSpace) || !errors.Is(err, unix.ENOSPC) && !strings.Contains(err.Error(), unix.ENOSPC.Error()) {
		t.Fatalf("after %d: got %v, want E_NO_SPACE of the disk", n, err)
	}
	if err := update(db, "k", "v"); !errors.Is(err, store.ErrFailed) {
		t.Errorf("the next update: got %v, want ErrFailed", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := db.Reopen(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range n - 1 {
		if got := get(t, db, fmt.Sprintf("%04d", i)); len(got) != 3000 {
			t.Fatalf("key %d of %d acknowledged has %d bytes", i, n-1, len(got))
		}
	}
	put(t, db, "k", "v")
}

func TestAReservedFileMeetsNoFullDisk(t *testing.T) {
	dir := mount(t, "2m")
	o := small()
	o.Space = store.Reserved
	db := open(t, filepath.Join(dir, "x.db"), o)
	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer ballast.Close()
	for err == nil {
		_, err = ballast.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	for i := range 100 {
		put(t, db, fmt.Sprintf("%04d", i), strings.Repeat("v", 3000))
	}
}

func TestARealReadOnlyDisk(t *testing.T) {
	dir := mount(t, "8m")
	path := filepath.Join(dir, "data")
	d, _ := start(t, path, dirOptions(t))
	put(t, d.State(), "k", "v")
	mark(t, d, 1)
	stop(t, d)
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	d, r := start(t, path, dirOptions(t))
	if r.Mode != store.DiskReadOnly || !refusal.Is(r.Refusal(), refusal.StoreRO) || get(t, d.State(), "k") != "v" || r.TrustLost || r.Rollback {
		t.Errorf("%+v", r)
	}
	ev, er, err := d.OpenEvents(t.Context())
	if err != nil || er.Found != store.Unavailable || !refusal.Is(update(ev, "k", "v"), refusal.StoreRO) {
		t.Errorf("events: %v, %v", er, err)
	}
	stop(t, d)
}

// A first start on a disk that has no room for state.db serves without, and says so.
func TestNoRoomForTheStateFile(t *testing.T) {
	dir := mount(t, "128k")
	o := dirOptions(t)
	o.State.Space = store.Reserved
	d, r := start(t, filepath.Join(dir, "data"), o)
	if r.State.Found != store.Unavailable || r.Mode == store.Normal || r.TrustLost {
		t.Errorf("%+v", r)
	}
	if get(t, d.State(), "k") != "" || update(d.State(), "k", "v") == nil {
		t.Error("the state that is not there can be written")
	}
	if left := listing(t, dir); strings.Contains(left, ".tmp") {
		t.Errorf("left:\n%s", left)
	}
	stop(t, d)
}
