package counters

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"tidegate/policy"
	"tidegate/policy/throttle"
	"tidegate/store"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// TestOnARealFile: what a ledger counted is there after the file was closed, after a
// commit that failed with an unknown fate, and after the handle was reopened.
func TestOnARealFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	fail := false
	openDB := func() *store.DB {
		db, err := store.Open(path, store.Options{MaxBytes: 4 << 20, Schema: 1, Commit: func(_ string, commit func() error) error {
			if fail {
				return errors.Join(commit(), errDisk) // written all the same
			}
			return commit()
		}})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	db := openDB()
	r := rule(t, throttle.Rule{Limit: 500, Window: throttle.Window{Length: time.Hour}})
	l := open(t, In(db), at(0), Options{})
	for range 100 {
		if v := take(t, l, at(0), r, key("k"), 1); !v.Admitted() {
			t.Fatalf("refused: %+v", v)
		}
	}
	if err := l.flush(stopFlush); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openDB()
	l = open(t, In(db), at(time.Minute), Options{})
	var rows []Row
	for row := range l.Rows {
		rows = append(rows, row)
	}
	if len(rows) != 1 || rows[0].Used != 100 || rows[0].Key != key("k") || !rows[0].Start.Equal(epoch) {
		t.Errorf("after a clean stop: %+v, want one row of 100", rows)
	}
	fail = true
	var n int64 = 100
	for {
		v, err := tryTake(l, at(time.Minute), throttle.Claim{Rule: r, Key: key("k"), N: 1})
		if errors.Is(err, throttle.ErrStalled) {
			break
		}
		if err != nil || !v.Admitted() {
			t.Fatal(v, err)
		}
		n++
	}
	if l.Err() == nil {
		t.Error("a failed commit does not show")
	}
	fail = false
	if err := l.flush(urgentFlush); err == nil {
		t.Error("the handle still refuses, but the ledger says it wrote")
	}
	if err := db.Reopen(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := n + admit(t, l, at(time.Minute), r, key("k")); got != 500 || l.Err() != nil {
		t.Errorf("after the file was reopened: %d of 500, %v", got, l.Err())
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestShardsStaySmall: a shard is a page, and shards of ended windows are deleted.
func TestShardsStaySmall(t *testing.T) {
	disk := newDisk()
	l := open(t, disk, at(0), Options{})
	l.fixed = fixed{reserve: 3, allow: 1}
	r := rule(t, throttle.Rule{Limit: throttle.MaxLimit, Window: throttle.Window{Length: time.Minute}})
	const keys = 3000
	claims := make([]throttle.Claim, 30)
	for round := range 2 {
		for i := range keys / 30 {
			for j := range claims {
				claims[j] = throttle.Claim{Rule: r, Key: throttle.KeyOf(policy.LevelAPI, string(rune(i*30+j))), N: 2}
			}
			if v, err := tryTake(l, at(0), claims...); err != nil || !v.Admitted() {
				t.Fatal(round, v, err)
			}
		}
	}
	if err := l.flush(tickFlush); err != nil {
		t.Fatal(err)
	}
	records := 0
	for k, v := range disk.shards {
		if len(v) > 3<<10 {
			t.Errorf("shard %x has %d bytes", k, len(v))
		}
		var rs []record
		if err := cbor.Unmarshal(v, &rs); err != nil {
			t.Fatal(err)
		}
		records += len(rs)
	}
	if records != keys || len(disk.shards) > keys/shardCells+2 {
		t.Errorf("%d records in %d shards, want %d in about %d", records, len(disk.shards), keys, keys/shardCells)
	}
	take(t, l, at(time.Hour), r, key("later"), 1)
	if err := l.flush(tickFlush); err != nil {
		t.Fatal(err)
	}
	if len(disk.shards) > 1 || l.Stats().Keys != 1 {
		t.Errorf("an hour later: %d shards and %d keys, want those of one key", len(disk.shards), l.Stats().Keys)
	}
}

func FuzzLoad(f *testing.F) {
	good, err := cbor.Marshal([]record{{Key: make([]byte, 16), Start: 60, Span: 60, Resv: 1}})
	if err != nil {
		f.Fatal(err)
	}
	saved, err := cbor.Marshal([]allowance{{Start: 60, End: 120, Calls: 3}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{0, 1}, good)
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 4}, saved)
	f.Add([]byte{0, 0}, []byte{0x9f})
	f.Fuzz(func(t *testing.T, k, v []byte) {
		d := newDisk()
		d.head = &Head{}
		if len(k) == 2 {
			d.shards[string(k)] = v
		} else {
			d.touches[string(k)] = v
		}
		l, err := Open(d, at(0), Options{})
		if err != nil {
			return
		}
		// What was read is written again, and reads back.
		if err := l.flush(stopFlush); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(d, at(0), Options{}); err != nil {
			t.Fatalf("wrote what it cannot read: %v", err)
		}
	})
}
