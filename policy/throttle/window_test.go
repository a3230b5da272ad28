package throttle

import (
	"math/rand/v2"
	"testing"
	"time"
	_ "time/tzdata" // the tests need the zones, whatever the machine has
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func second(t testing.TB, s string) int64 {
	t.Helper()
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return at.Unix()
}

func TestWindowsTurnWhereTheyShould(t *testing.T) {
	day := func(name string) Window { return Window{Form: Calendar, Unit: Day, Zone: zone(t, name)} }
	for _, tc := range []struct {
		name           string
		w              Window
		at, start, end string
	}{
		{"5 minutes", Window{Length: 5 * time.Minute}, "2026-03-01T10:07:30Z", "2026-03-01T10:05:00Z", "2026-03-01T10:10:00Z"},
		{"a week from Thursday", Window{Length: 7 * 24 * time.Hour}, "2026-03-01T10:00:00Z", "2026-02-26T00:00:00Z", "2026-03-05T00:00:00Z"},
		{"first second", Window{Length: time.Minute}, "2026-03-01T10:07:00Z", "2026-03-01T10:07:00Z", "2026-03-01T10:08:00Z"},
		{"before 1970", Window{Length: time.Hour}, "1969-12-31T23:30:00Z", "1969-12-31T23:00:00Z", "1970-01-01T00:00:00Z"},
		{"day without zone", Window{Form: Calendar, Unit: Day}, "2026-03-01T23:59:59Z", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"},
		{"month", Window{Form: Calendar, Unit: Month}, "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"},
		{"week, on a Sunday", Window{Form: Calendar, Unit: Week}, "2026-03-01T12:00:00Z", "2026-02-23T00:00:00Z", "2026-03-02T00:00:00Z"},
		{"week, on a Monday", Window{Form: Calendar, Unit: Week}, "2026-03-02T00:00:00Z", "2026-03-02T00:00:00Z", "2026-03-09T00:00:00Z"},
		{"month in Berlin", Window{Form: Calendar, Unit: Month, Zone: zone(t, "Europe/Berlin")}, "2026-03-15T00:00:00Z", "2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"},

		{"23 hours", day("Europe/Berlin"), "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"},
		{"25 hours", day("Europe/Berlin"), "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"},
		{"half-hour shift", day("Australia/Lord_Howe"), "2026-04-05T00:00:00Z", "2026-04-04T13:00:00Z", "2026-04-05T13:30:00Z"},
		{"midnight does not exist", day("America/Sao_Paulo"), "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"},
		{"midnight falls back to the day before", day("America/Sao_Paulo"), "2018-02-18T02:30:00Z", "2018-02-17T02:00:00Z", "2018-02-18T03:00:00Z"},
		{"midnight comes twice", day("America/Havana"), "2018-11-04T04:30:00Z", "2018-11-04T04:00:00Z", "2018-11-05T05:00:00Z"},
		{"a day that never was", day("Pacific/Apia"), "2011-12-30T12:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"},
		{"before the day that never was", day("Pacific/Apia"), "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := tc.w.At(second(t, tc.at))
			want := Span{second(t, tc.start), second(t, tc.end)}
			if got != want {
				t.Errorf("got %v to %v, want %s to %s", time.Unix(got.Start, 0).UTC(), time.Unix(got.End, 0).UTC(), tc.start, tc.end)
			}
		})
	}
}

// TestWindowsTile: every second lies in exactly one window, and windows follow each
// other without a gap, in zones with every kind of shift.
func TestWindowsTile(t *testing.T) {
	zones := []string{
		"UTC", "Europe/Berlin", "America/Sao_Paulo", "America/Havana", "Pacific/Apia", "Asia/Tehran",
		"Africa/Casablanca", "Australia/Lord_Howe", "Antarctica/Troll", "Asia/Gaza", "America/Nuuk", "Asia/Pyongyang",
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, name := range zones {
		for _, unit := range []Unit{Day, Week, Month} {
			w := Window{Form: Calendar, Unit: unit, Zone: zone(t, name)}
			s := w.At(second(t, "2005-01-01T00:00:00Z"))
			for s.Start < second(t, "2030-01-01T00:00:00Z") {
				if s.End <= s.Start {
					t.Fatalf("%s: window %+v is empty", name, s)
				}
				for _, sec := range []int64{s.Start, s.End - 1, s.Start + rng.Int64N(s.End-s.Start)} {
					if got := w.At(sec); got != s {
						t.Fatalf("%s: second %d lies in %+v, not in %+v", name, sec, got, s)
					}
				}
				next := w.After(s)
				if next.Start != s.End {
					t.Fatalf("%s: %+v is followed by %+v", name, s, next)
				}
				s = next
			}
		}
	}
}

func compile(t testing.TB, r Rule) *Rule {
	t.Helper()
	c, err := Compile(r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestEstimate(t *testing.T) {
	r := compile(t, Rule{Name: "p", Limit: 10, Window: Window{Form: Sliding, Length: time.Minute}})
	for _, tc := range []struct {
		prev, used int64
		into       time.Duration
		want       int64
	}{
		{10, 0, 0, 10},
		{10, 0, 30 * time.Second, 5},
		{10, 3, 30 * time.Second, 8},
		{10, 0, 59999 * time.Millisecond, 1},
		{10, 0, time.Minute, 0},
		{0, 4, 0, 4},
		{7, 0, -time.Second, 7},
		{MaxLimit, 1, 0, MaxLimit + 1},
	} {
		if got := r.Estimate(tc.prev, tc.used, tc.into); got != tc.want {
			t.Errorf("Estimate(%d, %d, %v) = %d, want %d", tc.prev, tc.used, tc.into, got, tc.want)
		}
	}
}

// TestEstimateWaitIsExact: one nanosecond earlier there is no room, at the time given
// there is.
func TestEstimateWaitIsExact(t *testing.T) {
	r := compile(t, Rule{Name: "p", Limit: 50, Window: Window{Form: Sliding, Length: time.Minute}})
	room := func(prev, used int64, into time.Duration, n int64) bool {
		for into >= time.Minute {
			prev, used, into = used, 0, into-time.Minute
		}
		return r.Estimate(prev, used, into)+n <= r.Limit
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		prev, used, n := rng.Int64N(51), rng.Int64N(51), 1+rng.Int64N(50)
		into := time.Duration(rng.Int64N(int64(time.Minute)))
		w := r.EstimateWait(prev, used, into, n)
		if !room(prev, used, into+w, n) {
			t.Fatalf("prev %d, used %d, %v in: no room for %d after %v", prev, used, into, n, w)
		}
		if w > 0 && room(prev, used, into+w-1, n) {
			t.Fatalf("prev %d, used %d, %v in: room for %d before %v", prev, used, into, n, w)
		}
	}
}

// TestBucketAgreesWithAContinuousOne compares GCRA with a bucket that holds fractions.
func TestBucketAgreesWithAContinuousOne(t *testing.T) {
	r := compile(t, Rule{Name: "p", Kind: Burst, Limit: 5, Window: Window{Length: time.Second}})
	rng := rand.New(rand.NewPCG(5, 6))
	tat, level, last := time.Duration(0), 5.0, time.Hour
	for range 50_000 {
		now := last + time.Duration(rng.Int64N(int64(400*time.Millisecond)))
		level = min(5, level+(now-last).Seconds()*5)
		last = now
		n := 1 + rng.Int64N(6)
		const rounding = 1e-6
		want := level >= float64(n)
		if d := level - float64(n); d > -rounding && d < rounding {
			want = r.BucketRoom(tat, now) >= n // too close to call
		}
		if got := r.BucketRoom(tat, now); got > int64(level+rounding) {
			t.Fatalf("room for %d with %.6f in the bucket", got, level)
		}
		wait := r.BucketWait(tat, now, n)
		next, ok := r.Bucket(tat, now, n)
		if ok != want {
			t.Fatalf("%d of %.9f: %v", n, level, ok)
		}
		if n <= 5 && ok != (wait == 0) {
			t.Fatalf("%d of %.9f: admitted %v, wait %v", n, level, ok, wait)
		}
		if !ok && n <= 5 {
			if _, ok := r.Bucket(tat, now+wait, n); !ok {
				t.Fatalf("no room after the wait of %v", wait)
			}
			if _, ok := r.Bucket(tat, now+wait-1, n); ok {
				t.Fatalf("room before the wait of %v", wait)
			}
		}
		if tat = next; ok {
			level -= float64(n)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	minute := Window{Length: time.Minute}
	for name, r := range map[string]Rule{
		"negative limit":      {Limit: -1, Window: minute},
		"limit beyond count":  {Limit: MaxLimit + 1, Window: minute},
		"no window":           {Limit: 1},
		"half a second":       {Limit: 1, Window: Window{Length: 1500 * time.Millisecond}},
		"endless window":      {Limit: 1, Window: Window{Length: MaxWindow + time.Second}},
		"zone on a minute":    {Limit: 1, Window: Window{Length: time.Minute, Zone: time.UTC}},
		"calendar hour":       {Limit: 1, Window: Window{Form: Calendar, Length: time.Hour, Unit: Day}},
		"no calendar unit":    {Limit: 1, Window: Window{Form: Calendar}},
		"unknown form":        {Limit: 1, Window: Window{Form: 9, Length: time.Hour}},
		"warning at 100 %":    {Limit: 1, Window: minute, WarnPercent: 100},
		"burst of a calendar": {Kind: Burst, Limit: 1, Window: Window{Form: Calendar, Unit: Day}},
		"burst in no time":    {Kind: Burst, Limit: 1},
		"burst too dense":     {Kind: Burst, Limit: 11, Window: Window{Length: 10}},
		"window in flight":    {Kind: InFlight, Limit: 1, Window: minute},
		"unknown kind":        {Kind: 9, Limit: 1, Window: minute},
	} {
		if _, err := Compile(r); err == nil {
			t.Errorf("%s: compiled", name)
		}
	}
}

func TestDefinitionLeavesOutLimitAndName(t *testing.T) {
	base := Rule{Name: "a", Limit: 1, Window: Window{Length: time.Hour}}
	same := base
	same.Name, same.Limit, same.WarnPercent, same.Quota = "b", 2, 50, Mark
	if compile(t, base).Def() != compile(t, same).Def() {
		t.Error("a changed limit or name changes the definition")
	}
	for name, change := range map[string]func(*Rule){
		"kind":      func(r *Rule) { r.Kind = Bytes },
		"length":    func(r *Rule) { r.Window.Length = 2 * time.Hour },
		"form":      func(r *Rule) { r.Window.Form = Sliding },
		"alignment": func(r *Rule) { r.Window = Window{Form: Calendar, Unit: Day} },
		"zone":      func(r *Rule) { r.Window = Window{Form: Calendar, Unit: Day, Zone: zone(t, "Asia/Tehran")} },
	} {
		other := base
		change(&other)
		if compile(t, base).Def() == compile(t, other).Def() {
			t.Errorf("another %s has the same definition", name)
		}
	}
}

func TestParseKey(t *testing.T) {
	want := KeyOf(4, "2:/meters/1.2.0:1.2.0")
	for _, s := range []string{"subscription:2:/meters/1.2.0:1.2.0", want.String()} {
		if got, err := ParseKey(s); err != nil || got != want {
			t.Errorf("ParseKey(%q) = %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "gold", "tier:2", "subscription:", "abcd", "block:x"} {
		if k, err := ParseKey(s); err == nil {
			t.Errorf("ParseKey(%q) = %v", s, k)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("subscription:2:/a:1")
	f.Add("00112233445566778899aabbccddeeff")
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseKey(s); err == nil {
			if again, err := ParseKey(k.String()); err != nil || again != k {
				t.Errorf("%q: %v does not read back: %v, %v", s, k, again, err)
			}
		}
	})
}
