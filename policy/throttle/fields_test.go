package throttle

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestFields(t *testing.T) {
	gold := compile(t, Rule{Name: "gold", Limit: 5000, Window: Window{Length: time.Minute}})
	burst := compile(t, Rule{Name: "gold-burst", Kind: Burst, Limit: 20, Window: Window{Length: time.Second}})
	api := compile(t, Rule{Name: "internal", Limit: 9, Window: Window{Length: time.Minute}, Shared: true})
	traffic := compile(t, Rule{Name: `a "quoted" \ plan`, Kind: Bytes, Limit: 1 << 20, Window: Window{Form: Calendar, Unit: Day}})
	flying := compile(t, Rule{Name: "Überlast", Kind: InFlight, Limit: 8})
	claims := func(rules ...*Rule) (c []Claim) {
		for _, r := range rules {
			c = append(c, Claim{Rule: r, N: 1})
		}
		return c
	}
	for _, tc := range []struct {
		name          string
		claims        []Claim
		v             Verdict
		policy, limit string
	}{
		{"none", nil, Verdict{Tightest: -1}, ``, ``},
		{"only shared counters", claims(api), Verdict{Tightest: -1}, ``, ``},
		{"one", claims(gold), Verdict{Remaining: 50, Reset: 29*time.Second + 1}, `"gold";q=5000;w=60`, `"gold";r=50;t=30`},
		{
			"a shared one is left out", claims(api, gold, burst),
			Verdict{Tightest: 2, Remaining: 3, Reset: time.Millisecond},
			`"gold";q=5000;w=60, "gold-burst";q=20;w=1`, `"gold-burst";r=3;t=1`,
		},
		{
			"bytes and quotes", claims(traffic),
			Verdict{Remaining: 7},
			`"a \"quoted\" \\ plan";q=1048576;qu="content-bytes";w=86400`, `"a \"quoted\" \\ plan";r=7;t=0`,
		},
		{"in flight, not ASCII", claims(flying), Verdict{Remaining: -1}, `"%C3%9Cberlast";q=8;qu="concurrent-requests"`, `"%C3%9Cberlast";r=0`},
		{"one rule, two claims", claims(gold, gold), Verdict{Remaining: 1, Reset: time.Minute}, `"gold";q=5000;w=60`, `"gold";r=1;t=60`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := string(AppendPolicy([]byte("x"), tc.claims)); got != "x"+tc.policy {
				t.Errorf("RateLimit-Policy: %s\nwant %s", got[1:], tc.policy)
			}
			if got := string(AppendLimit([]byte("x"), tc.claims, tc.v)); got != "x"+tc.limit {
				t.Errorf("RateLimit: %s\nwant %s", got[1:], tc.limit)
			}
		})
	}
}

func TestRetryAfterRoundsUp(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "1", 1: "1", time.Second: "1", time.Second + 1: "2", 90 * time.Minute: "5400", 1<<63 - 1: "9223372036"} {
		if got := string(AppendRetryAfter(nil, d)); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

// FuzzFieldString: any plan name becomes one string of a structured field, and no two
// names become the same one.
func FuzzFieldString(f *testing.F) {
	f.Add("gold", "Gold")
	f.Add(`"`, `\"`)
	f.Add("a\r\nb: c", "a%0D%0Ab: c")
	f.Add("\x80", "%80")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := string(appendString(nil, a)), string(appendString(nil, b))
		body := strings.TrimSuffix(strings.TrimPrefix(x, `"`), `"`)
		for i := 0; i < len(body); i++ {
			if body[i] < ' ' || body[i] > '~' {
				t.Fatalf("%s: byte %#x", strconv.Quote(a), body[i])
			}
			if body[i] == '"' {
				t.Fatalf("%s: ends early", x)
			}
			if body[i] == '\\' {
				i++
				if i == len(body) || body[i] != '"' && body[i] != '\\' {
					t.Fatalf("%s: bad escape", x)
				}
			}
		}
		if (x == y) != (a == b) {
			t.Fatalf("%q and %q both become %s", a, b, x)
		}
	})
}
