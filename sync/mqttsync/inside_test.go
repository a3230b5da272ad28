package mqttsync

import (
	"errors"
	"testing"
	"time"
)

func TestWindows(t *testing.T) {
	monday := time.Date(2027, 1, 18, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		window string
		at     time.Duration // since Monday
		offset time.Duration
		left   time.Duration
	}{
		{"mon-fri 02:00 4m 10MiB", 2 * time.Hour, 0, 4 * time.Minute},
		{"mon-fri 02:00 4m", 2*time.Hour + 3*time.Minute, 0, time.Minute},
		{"mon-fri 02:00 4m", 2*time.Hour + 4*time.Minute, 0, 0},
		{"mon-fri 02:00 4m", 2 * time.Hour, time.Minute, 0},
		{"mon-fri 02:00 4m", 2*time.Hour + time.Minute, time.Minute, 4 * time.Minute},
		{"mon-fri 02:00 4m", 5*24*time.Hour + 2*time.Hour, 0, 0},
		{"fri-mon 02:00 4m", 5*24*time.Hour + 2*time.Hour, 0, 4 * time.Minute},
		{"sun 23:00 2h", 30 * time.Minute, 0, 30 * time.Minute}, // across midnight
		{"tue,thu 00:00 24h", 24*time.Hour + time.Hour, 0, 23 * time.Hour},
		{"daily 12:30 1h", 12*time.Hour + 45*time.Minute, 0, 45 * time.Minute},
	} {
		w, err := ParseWindow(tc.window)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.left(monday.Add(tc.at), tc.offset); got != tc.left {
			t.Errorf("%s at monday + %s: %s left, want %s", tc.window, tc.at, got, tc.left)
		}
	}
	if w, err := ParseWindow("daily 00:00 1m 10MiB"); err != nil || w.Bytes != 10<<20 {
		t.Errorf("%+v, %v", w, err)
	}
	for _, bad := range []string{"", "daily", "mon 25:00 4m", "mon 02:00 4", "mon 02:00 25h", "mon 02:00 1s", "mom 02:00 4m", "mon 02:00 4m 10MB", "mon 02:00 4m 9999999999GiB", "mon- 02:00 4m"} {
		if _, err := ParseWindow(bad); err == nil {
			t.Errorf("window %q is accepted", bad)
		}
	}
}

func FuzzParseWindow(f *testing.F) {
	f.Add("mon-fri 02:00 4m 10MiB")
	f.Add("sun,tue-mon 23:59 24h")
	f.Fuzz(func(t *testing.T, s string) {
		w, err := ParseWindow(s)
		if err != nil {
			return
		}
		if left := w.left(time.Unix(1_800_000_000, 0), 0); left < 0 || left > w.For {
			t.Errorf("%q: %s left of %s", s, left, w.For)
		}
	})
}

type memory map[string][]byte

func (m memory) Load(k string) ([]byte, error) { return m[k], nil }
func (m memory) Save(k string, v []byte) error { m[k] = v; return nil }

func TestBytesOfADayAreNeverSpentTwice(t *testing.T) {
	m, day := memory{}, int64(20000)
	open := func() *budget {
		b, err := newBudget(m, 1<<20, func() int64 { return day })
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	spent := 0
	for range 40 { // as many power cuts
		b := open()
		for range 30 {
			if b.Spend(1000) == nil {
				spent += 1000
			}
		}
	}
	if spent > 1<<20 {
		t.Errorf("%d bytes of %d spent over power cuts", spent, 1<<20)
	}
	b := open()
	if err := b.Spend(1 << 20); !errors.Is(err, errBudget) {
		t.Errorf("more than is left: %v", err)
	}
	day++
	if err := b.Spend(1000); err != nil {
		t.Errorf("on the next day: %v", err)
	}
	if err := b.close(); err != nil {
		t.Fatal(err)
	}
	if got := open().spent(); got != 1000 {
		t.Errorf("after a clean stop %d are spent, want 1000", got)
	}
	day--
	if got := open().spent(); got != 1000 {
		t.Errorf("a clock that went back gave bytes away: %d spent", got)
	}
}
