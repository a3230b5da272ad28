package policy

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestSetComesBackAsItWas(t *testing.T) {
	want := sound(t)
	b, err := Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.IgnoreTypes(Pos{}), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	again, err := Encode(got)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, again) {
		t.Error("the same set gives other bytes")
	}
}

func TestDecodeRefuses(t *testing.T) {
	encode := func(v any) []byte {
		b, err := cbor.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, tt := range []struct {
		name string
		in   []byte
		want string
	}{
		{"nothing", nil, "EOF"},
		{"no map", []byte{0x01}, "cannot unmarshal"},
		{"higher format", encode(map[int]any{1: 2}), "format 2, this program reads 1"},
		{"no format", encode(map[int]any{2: "x"}), "format 0"},
		{"unknown field", encode(map[int]any{1: 1, 99: "x"}), "unknown field"},
		{"duplicate field", []byte{0xa2, 0x01, 0x01, 0x01, 0x01}, "duplicate"},
		{"endless text", []byte{0xa2, 0x01, 0x01, 0x02, 0x7f, 0x61, 0x61, 0xff}, "indefinite"},
		{"tag", []byte{0xa2, 0x01, 0x01, 0x02, 0xc0, 0x61, 0x61}, "tag"},
		{"bad UTF-8", []byte{0xa2, 0x01, 0x01, 0x02, 0x61, 0xff}, "UTF-8"},
		{"trailing", append(encode(map[int]any{1: 1}), 0), "extraneous"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Decode(tt.in)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// A device decodes and validates what a signer was tricked into signing: neither may end
// the program, whatever the bytes.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{0xa1, 0x01, 0x01})
	f.Add([]byte{0xa2, 0x01, 0x01, 0x0a, 0x81, 0xa1, 0x01, 0x61, 0x61})
	f.Add([]byte{0xa2, 0x01, 0x01, 0x18, 0x1e, 0x81, 0xa1, 0x04, 0x81, 0xa1, 0x04, 0x41, 0x30})
	f.Add([]byte{0xa2, 0x01, 0x01, 0x14, 0x81, 0xa2, 0x01, 0x01, 0x03, 0xa2, 0x02, 0x01, 0x03, 0x1b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Decode(b)
		if err != nil {
			return
		}
		_ = s.Validate() // must return
		again, err := Encode(s)
		if err != nil {
			t.Fatalf("what was decoded does not encode: %v", err)
		}
		back, err := Decode(again)
		if err != nil {
			t.Fatalf("what was encoded does not decode: %v", err)
		}
		third, err := Encode(back)
		if err != nil || !bytes.Equal(again, third) {
			t.Errorf("the encoded form changes: %x, %x, %v", again, third, err)
		}
	})
}

func TestParseRange(t *testing.T) {
	for _, tt := range []struct{ in, from, to string }{
		{"10.99.3.7", "10.99.3.7", "10.99.3.7"},
		{" 10.0.0.1 - 10.0.0.9 ", "10.0.0.1", "10.0.0.9"},
		{"10.99.0.0/16", "10.99.0.0", "10.99.255.255"},
		{"10.99.7.7/16", "10.99.0.0", "10.99.255.255"},
		{"0.0.0.0/0", "0.0.0.0", "255.255.255.255"},
		{"10.0.0.1/32", "10.0.0.1", "10.0.0.1"},
		{"fd00::/120", "fd00::", "fd00::ff"},
		{"::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"::ffff:10.0.0.1", "10.0.0.1", "10.0.0.1"},
		{"::ffff:10.0.0.0/104", "10.0.0.0", "10.255.255.255"},
		{"::ffff:10.0.0.1-10.0.0.2", "10.0.0.1", "10.0.0.2"},
		{"fe80::1%eth0", "fe80::1", "fe80::1"},
	} {
		got, err := ParseRange(tt.in)
		if err != nil {
			t.Errorf("%q: %v", tt.in, err)
			continue
		}
		want := Range{netip.MustParseAddr(tt.from), netip.MustParseAddr(tt.to)}
		if got != want {
			t.Errorf("%q: got %s-%s, want %s-%s", tt.in, got.From, got.To, want.From, want.To)
		}
	}
	for _, in := range []string{"", "x", "10.0.0.9-10.0.0.1", "10.0.0.1-::1", "10.0.0.0/33", "10.0.0.1-", "-", "10.0.0.0/8-10.1.0.0"} {
		if r, err := ParseRange(in); err == nil {
			t.Errorf("%q was taken for %s-%s", in, r.From, r.To)
		}
	}
}

func TestRangeContains(t *testing.T) {
	r := mustRange("10.99.0.0-10.99.255.255")
	for in, want := range map[string]bool{
		"10.99.0.0": true, "10.99.255.255": true, "::ffff:10.99.3.7": true,
		"10.98.255.255": false, "10.100.0.0": false, "::1": false, "fd00::1": false,
	} {
		if got := r.Contains(netip.MustParseAddr(in)); got != want {
			t.Errorf("%s: got %v, want %v", in, got, want)
		}
	}
	if r.Contains(netip.Addr{}) {
		t.Error("an unknown address lies in a range")
	}
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"10.0.0.1", "10.0.0.0/8", "10.0.0.1-10.0.0.2", "fd00::/7", "::ffff:1.2.3.4/96", "fe80::1%a-fe80::2%b", "::ffff:0:0/90"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRange(s)
		if err != nil {
			return
		}
		if !r.Contains(r.From) || !r.Contains(r.To) {
			t.Errorf("%q: %s-%s does not contain its ends", s, r.From, r.To)
		}
		v := &validator{}
		if v.ranges(Pos{}, "", []Range{r}); len(v.faults) != 0 {
			t.Errorf("%q: %v", s, v.faults)
		}
	})
}

func BenchmarkValidate(b *testing.B) {
	s := &Set{Format: Format, Endpoints: []Endpoints{{Name: "e", Targets: []Target{{URL: "http://127.0.0.1:9080"}}}}}
	for range 200 {
		a := API{Name: "a", Version: strings.Repeat("1", len(s.APIs)+1), BasePath: "/" + strings.Repeat("a", len(s.APIs)+1), Production: 1}
		for i := range 25 {
			a.Operations = append(a.Operations, Operation{Method: "GET", Template: "/" + strings.Repeat("x", i+1) + "/{id}"})
		}
		s.APIs = append(s.APIs, a)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Validate(); err != nil {
			b.Fatal(err)
		}
	}
}
