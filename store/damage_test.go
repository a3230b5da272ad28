package store_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/store"
)

// Every page of a small state.db is damaged in turn, in three ways. Whatever the damage,
// the device starts; a file with damage in use is never opened as it lay; and what is read is never wrong.
func TestDamageInEveryPage(t *testing.T) {
	path := t.TempDir()
	o := dirOptions(t)
	o.State.MaxBytes = store.MinBytes * 4
	d, _ := start(t, path, o)
	for i := range 40 {
		put(t, d.State(), fmt.Sprintf("key %02d", i), strings.Repeat(fmt.Sprintf("value %02d ", i), 20))
	}
	mark(t, d, 1)
	mark(t, d, 2)
	for i := range 4 { // the last one may be lost with its pages
		if err := d.State().Update(func(tx *store.Tx) error { return tx.Bucket("c").Put([]byte("n"), []byte{byte(i)}) }); err != nil {
			t.Fatal(err)
		}
	}
	stop(t, d)
	file := filepath.Join(path, store.StateFile)
	sound, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	slot, err := os.ReadFile(filepath.Join(path, store.TrustSlots))
	if err != nil {
		t.Fatal(err)
	}
	damages := map[string]func(page []byte){
		"zeros": func(p []byte) { clear(p) },
		"bit": func(p []byte) {
			for i := 0; i < len(p); i += 64 {
				p[i+24%len(p)] ^= 0x10
			}
		},
		"head": func(p []byte) { p[8] ^= 0xff },
	}
	found := map[store.Found]int{}
	// One page beyond the last that was ever used; the rest of the file is empty.
	pages := int(max(binary.NativeEndian.Uint64(sound[56:]), binary.NativeEndian.Uint64(sound[4096+56:]))) + 1
	for page := range pages {
		for name, damage := range damages {
			b := append([]byte{}, sound...)
			damage(b[page*4096 : page*4096+4096])
			for _, err := range []error{
				os.WriteFile(file, b, 0o600), os.WriteFile(filepath.Join(path, store.TrustSlots), slot, 0o600),
				os.WriteFile(filepath.Join(path, "starts"), []byte("0"), 0o600),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			d, r, err := store.OpenDir(path, o)
			if err != nil {
				t.Fatalf("page %d, %s: no start: %v", page, name, err)
			}
			found[r.State.Found]++
			if page < 2 && r.State.Found == store.AsItLay && name != "head" {
				t.Errorf("page %d, %s: a meta page was damaged and nothing said", page, name)
			}
			err = d.State().View(func(tx *store.Tx) error {
				n := 0
				err := tx.Bucket("b").Each(func(k, v []byte) error {
					n++
					if want := strings.Repeat("value "+string(k[4:])+" ", 20); string(v) != want {
						return fmt.Errorf("wrong data at %s", k)
					}
					return nil
				})
				if r.State.Found != store.Replaced && n != 40 {
					return errors.Join(err, fmt.Errorf("%d keys of 40", n))
				}
				last, err2 := tx.Bucket("c").Get([]byte("n"))
				if r.State.Found == store.AsItLay && string(last) != "\x03" || r.State.Found == store.TurnedBack && string(last) != "\x02" && page > 1 {
					return fmt.Errorf("the last transaction is %x", last)
				}
				return errors.Join(err, err2)
			})
			if err != nil {
				t.Errorf("page %d, %s, %v: %v", page, name, r.State, err)
			}
			if r.TrustLost {
				t.Errorf("page %d, %s: the trust state is lost, though trust/state is whole", page, name)
			}
			put(t, d.State(), "new", "write")
			stop(t, d)
			if err := store.CheckFile(file); err != nil {
				t.Errorf("page %d, %s, %v: after a write: %v", page, name, r.State, err)
			}
		}
	}
	t.Logf("found: %v", found)
	if found[store.Replaced] == 0 || found[store.TurnedBack] < 6 || found[store.AsItLay] == 0 {
		t.Errorf("the damage has no teeth: %v", found)
	}
}

func TestACheckThatEndsMeansDamage(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir()
	o := dirOptions(t)
	d, _ := start(t, path, o)
	put(t, d.State(), "k", "v")
	stop(t, d)
	o.Check = []string{exe, "-test.run=NoSuchTest", "-no-such-flag"} // ends with 2, as a fault does
	_, r := start(t, path, o)
	if r.State.Found != store.Replaced || !strings.Contains(r.State.Detail, "ended with") {
		t.Errorf("a check that ended: %v", r.State)
	}
}

func TestBothCopiesLost(t *testing.T) {
	path := t.TempDir()
	o := dirOptions(t)
	d, _ := start(t, path, o)
	mark(t, d, 1)
	stop(t, d)
	for _, name := range []string{store.StateFile, store.TrustSlots} {
		if err := os.WriteFile(filepath.Join(path, name), make([]byte, 8192), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, r := start(t, path, o)
	if !r.TrustLost || !refusal.Is(r.Refusal(), refusal.State) {
		t.Errorf("%+v", r)
	}
	put(t, d.State(), "k", "the device goes on")
}

func TestMissingStateOnADeviceThatHadOne(t *testing.T) {
	path := t.TempDir()
	d, _ := start(t, path, dirOptions(t))
	mark(t, d, 1)
	stop(t, d)
	if err := os.Remove(filepath.Join(path, store.StateFile)); err != nil {
		t.Fatal(err)
	}
	if _, r := start(t, path, dirOptions(t)); r.State.Found != store.Replaced || r.State.Found.Whole() || r.TrustLost {
		t.Errorf("%+v", r)
	}
}

func TestAnOlderDatabasePutBackIsSeen(t *testing.T) {
	path := t.TempDir()
	file := filepath.Join(path, store.StateFile)
	d, _ := start(t, path, dirOptions(t))
	mark(t, d, 1)
	stop(t, d)
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d, r := start(t, path, dirOptions(t))
	if r.Rollback {
		t.Error("an alarm without cause")
	}
	mark(t, d, 2)
	stop(t, d)
	if err := os.WriteFile(file, old, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, r := start(t, path, dirOptions(t)); !r.Rollback || !refusal.Is(r.Refusal(), refusal.StateRollback) {
		t.Errorf("%+v", r)
	}
}

// A state from before the last transaction is used only if the trust state in it is not
// older than the copy in trust/state.
func TestTurningBackNeverGoesBehindTheTrustState(t *testing.T) {
	for slot, want := range map[uint64]store.Found{1: store.TurnedBack, 2: store.Replaced} {
		path := t.TempDir()
		d, _ := start(t, path, dirOptions(t))
		mark(t, d, 1)
		if err := d.State().Update(func(tx *store.Tx) error { return tx.SetGeneration(2) }); err != nil {
			t.Fatal(err)
		}
		if slot == 2 {
			if err := d.Trust().Store([]byte("trust"), 2); err != nil {
				t.Fatal(err)
			}
		}
		stop(t, d)
		file := filepath.Join(path, store.StateFile)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		meta := b[:4096]
		if binary.NativeEndian.Uint64(b[4096+64:]) > binary.NativeEndian.Uint64(b[64:]) {
			meta = b[4096:8192]
		}
		rootPage := binary.NativeEndian.Uint64(meta[32:]) * 4096
		clear(b[rootPage : rootPage+4096])
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		d, r := start(t, path, dirOptions(t))
		if r.State.Found != want || r.State.Aside != "state.db.bad" || r.Rollback || r.TrustLost {
			t.Errorf("trust/state at %d: %+v, want %v", slot, r, want)
		}
		put(t, d.State(), "k", "v")
		stop(t, d)
		if _, r := start(t, path, dirOptions(t)); r.State.Found != store.AsItLay {
			t.Errorf("trust/state at %d: the next start found %v", slot, r.State)
		}
	}
}
