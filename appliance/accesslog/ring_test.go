package accesslog_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"tidegate/appliance/accesslog"
	"time"
)

func TestTheRingKeepsTheNewestWholeLines(t *testing.T) {
	r := accesslog.NewRing(100)
	buf := new(bytes.Buffer) // the log writes several lines from a buffer that it uses again
	for i := range 30 {
		fmt.Fprintf(buf, "call %02d\n", i)
		if i%3 == 2 {
			if n, err := r.Write(buf.Bytes()); n != buf.Len() || err != nil {
				t.Fatalf("got %d, %v", n, err)
			}
			buf.Reset()
		}
	}
	got := string(r.Lines())
	if len(got) > 100 || !strings.HasSuffix(got, "call 28\ncall 29\n") || !strings.HasPrefix(got, "call 18\n") {
		t.Errorf("%d bytes: %q", len(got), got)
	}
	if _, err := r.Write([]byte(strings.Repeat("x", 101) + "\n")); err != nil || len(r.Lines()) != 0 {
		t.Errorf("a line that does not fit at all: kept %q, %v", r.Lines(), err)
	}
}

func TestTheBudgetOfADayIsNotExceeded(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(1_800_000_000, 0)
	b := accesslog.NewBudget(&out, 25, func() time.Time { return now })
	write := func() error { _, err := b.Write([]byte("ten bytes\n")); return err }
	for i, want := range []bool{true, true, false, false} {
		if err := write(); (err == nil) != want {
			t.Errorf("line %d: %v", i, err)
		}
	}
	now = now.Add(24*time.Hour - 1)
	if write() == nil {
		t.Error("more within the day")
	}
	now = now.Add(1)
	if err := write(); err != nil {
		t.Errorf("the next day: %v", err)
	}
	if out.Len() != 30 {
		t.Errorf("%d bytes went out", out.Len())
	}
}
