package usbdrop

import (
	"testing"
	"tidegate/store/events/batch"
	"unicode/utf8"
)

func TestNamesOfBatchFiles(t *testing.T) {
	e := batch.Epoch{1, 2, 3}
	for name, want := range map[string][2]uint64{
		"0102030000000000-4-9.tidebatch":                    {4, 9},
		"0102030000000000-loss-4-9.tidebatch":               {},
		"0102030000000000-4-9-1.tidebatch":                  {},
		"0102030000000001-4-9.tidebatch":                    {},
		"0102030000000000-4-9.tidebatch.part":               {},
		"0102030000000000--4-9.tidebatch":                   {},
		"0102030000000000-4-18446744073709551616.tidebatch": {},
	} {
		lo, hi, ok := batchesIn(name, e)
		if ok != (want != [2]uint64{}) || ok && (lo != want[0] || hi != want[1]) {
			t.Errorf("%s: %d to %d, %v; want %v", name, lo, hi, ok, want)
		}
	}
}

func FuzzNames(f *testing.F) {
	f.Add("a.tide", []byte("\xd9\xd9\xf7\x82\x6btide-bundle\x01"))
	f.Add("\x1b[31m\xff\u202e.tide", []byte("\xd9\xd9\xf7\x82\x61t\x01"))
	f.Fuzz(func(t *testing.T, name string, head []byte) {
		s := shown(name)
		if !utf8.ValidString(s) || len(s) > maxShown+4 {
			t.Errorf("%q is shown as %q", name, s)
		}
		for _, r := range s {
			if r < ' ' || r == 0x7f || r == '\u202e' {
				t.Errorf("%q is shown as %q", name, s)
			}
		}
		_ = kindOf(head)
		_, _, _ = batchesIn(name, batch.Epoch{})
	})
}
