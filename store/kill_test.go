package store_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"tidegate/store"
	"time"
)

const (
	writerArg = "write-until-killed"
	hangArg   = "hang"
	sleepArg  = "sleep"
)

// writerMain is the child of the kill test: it writes 1, 2, 3 … and says each number when
// Update has returned.
func writerMain(path string) int {
	exe, err := os.Executable()
	if err != nil {
		return 1
	}
	d, r, err := store.OpenDir(path, store.DirOptions{State: small(), Events: small(), Check: []string{exe, store.CheckArg}})
	if err != nil || !r.State.Found.Whole() {
		fmt.Println(err, r)
		return 1
	}
	if err := d.Healthy(); err != nil { // a killed child is no crash loop
		fmt.Println(err)
		return 1
	}
	key := []byte("n")
	for {
		var n uint64
		if err := d.State().Update(func(tx *store.Tx) error {
			v, err := tx.Bucket("b").Get(key)
			if v != nil {
				n = binary.BigEndian.Uint64(v)
			}
			n++
			return errors.Join(err, tx.Bucket("b").Put(key, binary.BigEndian.AppendUint64(nil, n)),
				tx.Bucket("b").Put(binary.BigEndian.AppendUint64(nil, n%50), make([]byte, 500)))
		}); err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("done", n)
	}
}

// A writer is killed at any moment, many times; no number it said is ever missing, and no
// start finds damage.
func TestKilledWriterLosesNothing(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir()
	var said uint64
	kills := 25
	if testing.Short() {
		kills = 5
	}
	for i := range kills {
		cmd := exec.Command(exe, writerArg, path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			var got uint64
			if _, err := fmt.Sscanf(lines.Text(), "done %d", &got); err != nil {
				t.Fatalf("start %d: %s", i, lines.Text())
			}
			if got <= said {
				t.Fatalf("start %d: number %d was said to be on disk, now it is %d", i, said, got)
			}
			said = got
			if n == 3+i {
				time.AfterFunc(time.Duration(i*137)*time.Microsecond, func() { cmd.Process.Kill() }) //nolint:errcheck // it may have ended
			}
		}
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait() // killed
	}
	if said == 0 {
		t.Fatal("nothing was written")
	}
	d, r := start(t, path, dirOptions(t))
	if r.State.Found != store.AsItLay {
		t.Errorf("%v", r.State)
	}
	_ = d
	t.Logf("%d transactions over %d kills", said, kills)
}
